"""Exported folders and sessions, without an export: a manifest written by hand, a small ONNX model, counted calls."""

import dataclasses

import numpy as np
import pytest

from siamese_mrcnn_tf.config import TinyConfig
from siamese_mrcnn_tf.export.comparison import compare
from siamese_mrcnn_tf.io.errors import InputError
from siamese_mrcnn_tf.runtime import manifest as manifests
from siamese_mrcnn_tf.runtime import predictor as predictors
from siamese_mrcnn_tf.runtime import sessions

SUM = manifests.Interface({"a": [1, 2], "b": [1, 2]}, {"sum": [1, 2]})


def rows(*finds):
    """mrcnn_detection [1, 4, 6] with (y1, score) of each find, and masks of one value each."""
    detections, masks = np.zeros((1, 4, 6), np.float32), np.zeros((1, 4, 2, 2), np.float32)
    for index, (y1, score) in enumerate(finds):
        detections[0, index] = (y1, 0.2, 0.8, 0.9, 1, score)
        masks[0, index] = score
    return {"mrcnn_detection": detections, "mrcnn_mask": masks}


@pytest.fixture
def folder(tmp_path):
    """An exported folder whose models are no models."""
    (tmp_path / "onnx").mkdir()
    for name in manifests.PARTS:
        manifests.model_path(tmp_path, "onnx", name).write_bytes(name.encode())
    interfaces = dict.fromkeys((*manifests.PARTS, manifests.NETWORK), SUM)
    config = TinyConfig().replace(DETECTION_MAX_INSTANCES=4)
    made = manifests.Manifest(config, interfaces, ["onnx"], manifests.checksums(tmp_path))
    manifests.write_manifest(made, tmp_path)
    return tmp_path


def test_a_manifest_is_read_as_it_was_written(folder):
    read = manifests.read_export(folder)
    assert read.config.DETECTION_MAX_INSTANCES == 4
    assert read.interfaces["detector"] == SUM
    assert manifests.is_export(folder)
    assert not manifests.is_export(folder / "onnx")


def test_a_folder_without_manifest(tmp_path):
    with pytest.raises(ValueError, match=r"no exported network, export\.json is missing"):
        manifests.read_export(tmp_path)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('"format": 1', '"format": 9', "format = 9: written by a newer version"),
        ('"files"', '"fils"', "unknown key 'fils'"),
        (
            '"DETECTION_MAX_INSTANCES": 4',
            '"DETECTION_MAX_INSTANCES": "four"',
            "config: DETECTION_MAX_INSTANCES = 'f",
        ),
        ('"DETECTION_MAX_INSTANCES": 4', '"OTHER": 4', "config: the key 'DETECTION_MAX_INSTANCES' is missing"),
        ('"onnx"', '"onyx"', r"formats\[0\] = 'onyx'"),
        ('"about": {}', '"about": []', r"about = \[\]: expected object"),
        ('"detector": {', '"another": {', "interfaces: the key 'detector' is missing"),
    ],
)
def test_a_manifest_that_is_wrong(folder, before, after, message):
    path = folder / "export.json"
    assert before in path.read_text()
    path.write_text(path.read_text().replace(before, after))
    with pytest.raises(ValueError, match=rf"export\.json: {message}"):
        manifests.read_export(folder)


@pytest.mark.parametrize("name", ["onnx/detector.onnx.data", "threshold.json"])
def test_files_that_the_manifest_lacks_are_refused(folder, name):
    (folder / "onnx" / ".DS_Store").touch()  # of macOS
    manifests.check_files(folder, manifests.read_export(folder), "onnx")
    (folder / name).write_text("weights from elsewhere")
    with pytest.raises(InputError, match=rf"{name}: is not among the files of export\.json"):
        manifests.check_files(folder, manifests.read_export(folder), "onnx")


def test_files_that_are_missing_or_changed(folder):
    path = manifests.model_path(folder, "onnx", "detector")
    path.write_bytes(b"another")
    with pytest.raises(ValueError, match=r"detector\.onnx: the file has changed since it was exported"):
        predictors.open_predictor(folder, "onnx")
    path.unlink()
    with pytest.raises(ValueError, match=r"detector\.onnx: the file is missing"):
        predictors.open_predictor(folder, "onnx")


def test_the_choice_of_a_runtime(folder, monkeypatch):
    monkeypatch.setattr(predictors, "is_installed", lambda runtime: True)
    assert predictors.choose_runtime(folder) == "onnx"
    monkeypatch.setattr(predictors, "is_installed", lambda runtime: False)
    with pytest.raises(ValueError, match="runtimes for them: onnx, not installed"):
        predictors.choose_runtime(folder)
    assert predictors.choose_runtime(folder, "onnx") == "onnx"  # its own error says what to install
    with pytest.raises(ValueError, match="nothing for openvino; export it with --format openvino"):
        predictors.choose_runtime(folder, "openvino")
    with pytest.raises(ValueError, match="runtime 'tflite': expected one of"):
        predictors.choose_runtime(folder, "tflite")


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sessions._PACKAGES, "onnx", ("no_such_package", "onnx"))
    assert not sessions.is_installed("onnx")
    with pytest.raises(ValueError, match=r'no_such_package is not installed: pip install "siamese-mrcnn-tf\[onnx\]"'):
        sessions.require("onnx")


def test_settings_of_the_network_cannot_be_changed(folder):
    manifest = manifests.read_export(folder)
    free = manifest.config.replace(DETECTION_MIN_CONFIDENCE=0.1, VERIFY_DETECTIONS=True)
    assert predictors.check_config(folder, manifest, free) is free
    with pytest.raises(ValueError, match="DETECTION_MAX_INSTANCES = 9: the exported network has 4"):
        predictors.check_config(folder, manifest, free.replace(DETECTION_MAX_INSTANCES=9))


@pytest.fixture(scope="module")
def sum_model(tmp_path_factory):
    """An .onnx file that adds two vectors."""
    onnx = pytest.importorskip("onnx")
    path, kind = tmp_path_factory.mktemp("onnx") / "sum.onnx", onnx.TensorProto.FLOAT
    values = [onnx.helper.make_tensor_value_info(name, kind, [1, 2]) for name in ("a", "b", "sum")]
    node = onnx.helper.make_node("Add", ["a", "b"], ["sum"])
    graph = onnx.helper.make_graph([node], "sum", values[:2], values[2:])
    opset = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    return path


@pytest.mark.parametrize(("runtime", "package"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_sessions(sum_model, tmp_path, runtime, package):
    pytest.importorskip(package)
    session = sessions.open_session(runtime, sum_model, SUM)
    first = session(np.array([[1, 2]]), np.array([[3.0, 4.0]]))["sum"]
    second = session(np.array([[5, 6]]), np.array([[7.0, 8.0]]))["sum"]
    np.testing.assert_array_equal([first, second], [[[4, 6]], [[12, 14]]])  # results are not overwritten
    with pytest.raises(ValueError, match=r"b: expected shape \[1, 2\], got \[1, 3\]"):
        session(np.zeros((1, 2)), np.zeros((1, 3)))
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(ValueError, match=rf"broken\.onnx: cannot be opened by {runtime}"):
        sessions.open_session(runtime, tmp_path / "broken.onnx", SUM)
    with pytest.raises(ValueError, match=r"absent\.onnx: no such file"):
        sessions.open_session(runtime, tmp_path / "absent.onnx", SUM)


@pytest.mark.parametrize(
    ("minimum", "argmax", "kept"), [(0.0, False, 3), (0.0, True, 2), (0.6, False, 2), (0.7, True, 1), (0.9, True, 0)]
)
def test_the_threshold_is_applied_to_the_outputs(minimum, argmax, kept):
    interface = manifests.Interface({"input": [1]}, {})
    found = rows((0.1, 0.8), (0.3, 0.6), (0.5, 0.4))
    parts = {name: sessions.Session(lambda inputs: dict(found), interface) for name in manifests.PARTS}
    config = TinyConfig().replace(DETECTION_MIN_CONFIDENCE=minimum, DETECTION_ARGMAX=argmax)
    outputs = predictors.RuntimePredictor(config, parts)._detect(np.zeros((1,)))
    assert np.count_nonzero(outputs["mrcnn_detection"][0, :, 4]) == kept
    assert np.count_nonzero(outputs["mrcnn_mask"][0].any(axis=(1, 2))) == kept
    np.testing.assert_array_equal(outputs["mrcnn_detection"][0, :kept, 5], np.float32([0.8, 0.6, 0.4])[:kept])


def test_differences_of_finds():
    one = rows((0.1, 0.8), (0.3, 0.6))
    swapped = {name: values[:, [1, 0, 2, 3]] for name, values in one.items()}
    same = compare(one, swapped, threshold=0.5, side=101)
    assert (same.finds, same.boxes, same.scores, same.masks) == (2, 0, 0, 0)
    assert same.are_small
    moved = compare(one, rows((0.12, 0.8), (0.3, 0.5995)), threshold=0.5, side=101)
    assert moved.boxes == pytest.approx(2, rel=1e-4)
    assert moved.scores == pytest.approx(5e-4, rel=1e-2)
    assert not moved.are_small
    assert dataclasses.replace(moved, boxes=0.9).are_small


def test_a_find_without_partner_counts():
    one, other = rows((0.1, 0.8), (0.3, 0.6)), rows((0.1, 0.8))
    for pair in ((one, other), (other, one)):
        assert not compare(*pair, threshold=0.5, side=101).are_small
    assert compare(one, other, threshold=0.7, side=101).are_small
    assert compare(one, rows(), threshold=0.5, side=101).boxes == np.inf
    at_the_edge = compare(rows((0.1, 0.8), (0.3, 0.5005)), rows((0.1, 0.8), (0.3, 0.4998)), threshold=0.5, side=101)
    assert at_the_edge.are_small
