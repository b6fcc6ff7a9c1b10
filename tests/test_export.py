"""Exported networks: all formats find what the network finds, in scenes that the export did not see."""

import dataclasses
import json
import subprocess
import sys

import conftest
import numpy as np
import pytest
import seeded
import test_parity

pytestmark = pytest.mark.slow

RUNTIMES = ("onnx", "openvino", "tensorflow")
SHALLOW = {"BACKBONE_BLOCKS": (1, 1, 1, 1), "DETECTION_MIN_CONFIDENCE": 0.3}
NO_FRAMEWORK = """
import sys
import numpy as np
from siamese_mrcnn_tf.runtime import open_predictor
predictor = open_predictor(sys.argv[1], sys.argv[2])
case = np.load(sys.argv[3])
predictor.set_image(case["scene"])
found = predictor.detect([case["crop"]])
packages = {name.partition(".")[0] for name, module in sys.modules.items() if getattr(module, "__file__", None)}
print(len(found["rois"]), *sorted(packages - sys.stdlib_module_names))
"""


def packages_of(formats):
    for name in {"onnx": ("onnxruntime", "tf2onnx"), "openvino": ("openvino",)}.get(formats, ()):
        pytest.importorskip(name)


@pytest.fixture(scope="module")
def network(micro_config):
    """(configuration, predictor with seeded weights that find something, anything)."""
    from siamese_mrcnn_tf import SiamesePredictor

    config = micro_config.replace(**SHALLOW, TRAIN_BN=False)
    predictor = SiamesePredictor(config)
    conftest.set_seeded_weights(predictor.layers.layers)
    predictor.layers.classifier["mrcnn_class_logits"].bias.assign(np.zeros(2))
    return config, predictor


@pytest.fixture(scope="module")
def case():
    """(scene, crop of an object in it) of the comparison."""
    image, masks, _ = seeded.make_scene(60, 64, seed=5)
    y1, x1, y2, x2 = seeded.boxes_of(masks)[0]
    return image, np.ascontiguousarray(image[y1:y2, x1:x2])


@pytest.fixture(scope="module")
def exported(network, case, tmp_path_factory):
    """(folder with all formats, its manifest)."""
    for name in ("onnx", "openvino"):
        packages_of(name)
    from siamese_mrcnn_tf.export import export_network

    folder, (config, predictor), (image, crop) = tmp_path_factory.mktemp("export") / "network", network, case
    formats = ("onnx", "openvino", "savedmodel", "keras")
    return folder, export_network(
        folder, formats, config, layers=predictor.layers, image=image, references=[crop, crop[:, ::-1]]
    )


def assert_same_finds(found, expected):
    """Boxes within 1 pixel, scores within 1e-3, the same masks but for a few pixels."""
    assert found["rois"].shape == expected["rois"].shape
    assert len(found["rois"]) >= 3
    order, expected_order = (np.lexsort(one["rois"].T[::-1]) for one in (found, expected))
    assert np.abs(found["rois"][order] - expected["rois"][expected_order]).max() <= 1
    assert np.abs(found["scores"][order] - expected["scores"][expected_order]).max() < 1e-3
    masks, others = found["masks"][..., order], expected["masks"][..., expected_order]
    assert (masks != others).mean() < 1e-3


def assert_nearly_the_same_finds(found, expected):
    """As `assert_same_finds`, but on each side one find may be close to a threshold and be without a partner."""
    distances = np.abs(found["rois"][:, None].astype(float) - expected["rois"][None]).max(axis=-1)
    scores = np.abs(found["scores"][:, None] - expected["scores"][None])
    same = (distances <= 1) & (scores < 1e-3)
    assert same.sum() >= 3
    assert (~same.any(axis=1)).sum() <= 1 and (~same.any(axis=0)).sum() <= 1
    for one, other in zip(*np.nonzero(same), strict=True):
        assert (found["masks"][..., one] != expected["masks"][..., other]).mean() < 1e-3


def test_the_folder_says_what_it_holds(exported, network):
    from siamese_mrcnn_tf.runtime import read_export
    from siamese_mrcnn_tf.runtime.manifest import checksums

    folder, manifest = exported
    read = read_export(folder)
    assert dataclasses.replace(read, config=manifest.config) == manifest
    assert read.config.to_dict() == network[0].to_dict()
    assert manifest.files == {name: one for name, one in checksums(folder).items() if name != "export.json"}
    assert set(manifest.about["differences"]) == {"onnx", "openvino", "savedmodel", "keras"}
    for found in manifest.about["differences"].values():
        assert found["finds"] >= 3
        assert found["boxes"] < 0.1
        assert found["scores"] < 1e-4
    assert manifest.interfaces["network"].inputs["input_references"] == [1, 2, 32, 32, 3]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_another_scene(exported, network, runtime, scene, crop):
    from siamese_mrcnn_tf.runtime import open_predictor

    predictor = open_predictor(exported[0], runtime)
    for one in (predictor, network[1]):
        one.set_image(scene)
    assert_same_finds(predictor.detect([crop]), network[1].detect([crop]))


def test_a_batch_of_scenes(exported, network, scene, crop, case):
    from siamese_mrcnn_tf.runtime import open_predictor

    predictor, queries = open_predictor(exported[0], "onnx"), [[crop], [case[1], crop]]
    found, expected = (one.detect_in(one.encode_scenes([scene, case[0]]), queries) for one in (predictor, network[1]))
    for mine, theirs in zip(found, expected, strict=True):
        assert_same_finds(mine, theirs)


def test_the_threshold_is_free(exported, network, scene, crop):
    from siamese_mrcnn_tf.runtime import open_predictor

    config = network[0]
    opened = open_predictor(exported[0], "onnx", config=config.replace(DETECTION_MIN_CONFIDENCE=0.0))
    opened.set_image(scene)
    scores = opened.detect([crop])["scores"]
    middle = float(np.median(scores))
    higher = open_predictor(exported[0], "onnx", config=config.replace(DETECTION_MIN_CONFIDENCE=middle))
    higher.set_image(scene)
    np.testing.assert_array_equal(higher.detect([crop])["scores"], scores[scores >= np.float32(middle)])
    with pytest.raises(ValueError, match=r"DETECTION_NMS_THRESHOLD = 0\.1: the exported network has 0\.5"):
        open_predictor(exported[0], "onnx", config=config.replace(DETECTION_NMS_THRESHOLD=0.1))


def test_verified_finds(exported, network, scene, crop):
    from siamese_mrcnn_tf import SiamesePredictor
    from siamese_mrcnn_tf.ops.similarity import fit_statistics
    from siamese_mrcnn_tf.runtime import open_predictor

    config = network[0].replace(VERIFY_DETECTIONS=True)
    vectors = network[1].encode_references([seeded.reference_crop(seed, kind=2) for seed in range(101, 105)]).vectors
    verification = dataclasses.replace(fit_statistics(vectors, views=2), weight=2.0)
    expected = SiamesePredictor(config, layers=network[1].layers, verification=verification)
    predictor = open_predictor(exported[0], "onnx", config=config)
    predictor.verification = verification
    for one in (predictor, expected):
        one.set_image(scene)
    assert_same_finds(predictor.detect([crop]), expected.detect([crop]))


@pytest.mark.parametrize("runtime", ("onnx", "openvino"))
def test_neither_keras_nor_tensorflow_is_imported(exported, runtime, scene, crop, tmp_path):
    np.savez(tmp_path / "case.npz", scene=scene, crop=crop)
    words = [sys.executable, "-c", NO_FRAMEWORK, exported[0], runtime, tmp_path / "case.npz"]
    printed = subprocess.run([str(word) for word in words], check=True, capture_output=True, text=True).stdout
    count, *packages = printed.split()
    assert int(count) >= 3
    allowed = {"siamese_mrcnn_tf", "numpy", "PIL", {"onnx": "onnxruntime"}.get(runtime, runtime)}
    assert {"keras", "tensorflow", "scipy", "h5py", "matplotlib"}.isdisjoint(packages)
    assert allowed - {"PIL"} <= set(packages)


def test_the_network_runs_without_this_package(exported, case, network):
    import onnxruntime

    folder, manifest = exported
    session = onnxruntime.InferenceSession(folder / "onnx" / "network.onnx")
    interface = manifest.interfaces["network"]
    assert [one.name for one in session.get_inputs()] == list(interface.inputs)
    assert {one.name for one in session.get_outputs()} == {"mrcnn_detection", "mrcnn_mask"}
    assert {one.name: one.shape for one in session.get_outputs()} == interface.outputs


def test_keras_files_load_again(exported, network, scene, crop):
    from siamese_mrcnn_tf import SiamesePredictor

    network[1].set_image(scene)
    expected = network[1].detect([crop])
    predictor = SiamesePredictor(network[0], weights=exported[0] / "keras" / "network.weights.h5")
    predictor.set_image(scene)
    assert_same_finds(predictor.detect([crop]), expected)


def test_a_folder_in_use_is_refused(exported, network, case, tmp_path):
    from siamese_mrcnn_tf.export import export_network

    (tmp_path / "notes.txt").write_text("mine")
    given = {"layers": network[1].layers, "image": case[0], "references": [case[1]]}
    with pytest.raises(ValueError, match="has an exported network; name another folder, or --force"):
        export_network(exported[0], ["savedmodel"], network[0], **given)
    with pytest.raises(ValueError, match="exists and is no exported folder"):
        export_network(tmp_path, ["savedmodel"], network[0], replace=True, **given)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_format_that_finds_something_else_is_not_kept(network, case, tmp_path, monkeypatch):
    from siamese_mrcnn_tf.export import export_network, formats

    def write_shifted(graph, path):
        def shifted(*inputs):
            outputs = graph.function(*inputs)
            if "mrcnn_detection" in outputs:
                outputs["mrcnn_detection"] += [0.0, 0.0, 0.0, 0.0, 0.0, -0.01]
            return outputs

        formats.write_saved_model(dataclasses.replace(graph, function=shifted), path)

    monkeypatch.setitem(formats.FORMATS, "savedmodel", write_shifted)
    given = {"layers": network[1].layers, "image": case[0], "references": [case[1]]}
    with pytest.raises(ValueError, match=r"savedmodel: finds something else than the network: .* scores 1\.0e-02"):
        export_network(tmp_path / "network", ["savedmodel"], network[0], **given)
    assert list(tmp_path.iterdir()) == []


def test_a_scene_without_finds_proves_nothing(network, case, tmp_path):
    from siamese_mrcnn_tf.export import export_network

    logits = network[1].layers.classifier["mrcnn_class_logits"]
    before = logits.bias.numpy() if hasattr(logits.bias, "numpy") else np.asarray(logits.bias)
    logits.bias.assign([20.0, -20.0])
    given = {"layers": network[1].layers, "image": case[0], "references": [case[1]]}
    try:
        with pytest.raises(ValueError, match="nothing is found in the scene .* name an --image and a --reference"):
            export_network(tmp_path / "network", ["savedmodel"], network[0], **given)
    finally:
        logits.bias.assign(before)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("formats", "changes", "message"),
    [
        (["tflite"], {}, "format 'tflite': expected one of onnx, openvino, savedmodel, keras"),
        ([], {}, "formats: expected at least one"),
        (["keras"], {"IMAGE_RESIZE_MODE": "pad64"}, "IMAGE_RESIZE_MODE = 'pad64': an exported network takes"),
        (["keras"], {"BACKBONE": lambda *arguments: None}, "a callable cannot be stored in export.json"),
    ],
)
def test_what_cannot_be_exported(network, case, tmp_path, formats, changes, message):
    from siamese_mrcnn_tf.export import export_network

    given = {"image": case[0], "references": [case[1]]}
    with pytest.raises(ValueError, match=message):
        export_network(tmp_path / "network", formats, network[0].replace(**changes), **given)


def test_predict_takes_an_exported_folder(exported, case, run, tmp_path):
    from PIL import Image

    for name, pixels in zip(("scene.png", "crop.png"), case, strict=True):
        Image.fromarray(pixels).save(tmp_path / name)
    search = ("--image", tmp_path / "scene.png", "--reference", tmp_path / "crop.png")
    found = {}
    for runtime in ("onnx", "openvino"):
        out = tmp_path / runtime
        code, _, error = run("predict", "--model", exported[0], "--runtime", runtime, *search, "--out", out)
        assert code == 0, error
        found[runtime] = json.loads((out / "results.json").read_text())
    assert len(found["onnx"]) >= 3
    for one, other in zip(*found.values(), strict=True):
        assert one["score"] == pytest.approx(other["score"], abs=1e-3)
        assert np.abs(np.subtract(one["bbox"], other["bbox"])).max() <= 1
    code, _, error = run("predict", "--model", "shapes", "--runtime", "onnx", *search, "--out", tmp_path / "none")
    assert code == 2
    assert "siamese-mrcnn export --model shapes --format onnx --out exported" in error


def test_the_command(run, tmp_path):
    code, printed, error = run("export", "--model", "shapes", "--format", "savedmodel", "--out", tmp_path / "network")
    assert code == 0, error
    assert "savedmodel: " in printed and "finds, largest differences: boxes " in printed
    content = json.loads((tmp_path / "network" / "export.json").read_text())
    assert content["weights"] == "siamese_mrcnn_shapes_s1.h5"
    assert (tmp_path / "network" / "threshold.json").is_file()
    code, _, error = run(
        "export", "--model", "shapes", "--format", "savedmodel", "--out", tmp_path / "x", "--image", "scene.png"
    )
    assert code == 2
    assert "--image and --reference: expected both" in error


def test_the_options_name_all_formats_and_runtimes():
    from siamese_mrcnn_tf.cli import options
    from siamese_mrcnn_tf.export.exporter import CHOICES
    from siamese_mrcnn_tf.runtime.manifest import RUNTIMES as KNOWN

    assert set(options.EXPORT_FORMATS) == set(CHOICES)
    assert set(options.RUNTIMES) == set(KNOWN)


@pytest.mark.parametrize("format_name", ("onnx", "openvino"))
def test_the_recorded_case(small_model, format_name, tmp_path):
    """The detections that the original implementation was recorded with, from exported parts."""
    packages_of(format_name)
    from siamese_mrcnn_tf.export import formats, graphs
    from siamese_mrcnn_tf.runtime import RuntimePredictor
    from siamese_mrcnn_tf.runtime.manifest import PARTS, model_path
    from siamese_mrcnn_tf.runtime.sessions import Session, open_session

    image, reference = seeded.make_scene(375, 500, seed=7)[0], seeded.reference_crop(101, kind=2)
    models, parts = graphs.build_graphs(small_model.config, small_model.predictor.layers), {}
    (tmp_path / format_name).mkdir()
    for name in PARTS:
        path = model_path(tmp_path, format_name, name)
        formats.FORMATS[format_name](models[name], path)
        parts[name] = open_session(format_name, path, models[name].interface)
    by_tensorflow = {name: Session(models[name].run, models[name].interface) for name in PARTS}
    predictors = [RuntimePredictor(small_model.config, one) for one in (parts, by_tensorflow)]
    for predictor in predictors:
        predictor.set_image(image)
    found, expected = (predictor.detect([reference]) for predictor in predictors)
    assert_nearly_the_same_finds(found, expected)
    with np.load(conftest.DATA / "small_1shot.npz", allow_pickle=False) as record:
        test_parity.assert_recorded_detections(found, record)


def test_openvino_samples_the_places_that_tensorflow_samples(tmp_path):
    """Samples of boxes clipped to the edge are inside or outside by their last binary digit."""
    packages_of("openvino")
    import tensorflow as tf

    from siamese_mrcnn_tf.export import formats
    from siamese_mrcnn_tf.export.graphs import Graph
    from siamese_mrcnn_tf.ops import kernels
    from siamese_mrcnn_tf.runtime.sessions import open_session

    rng = np.random.default_rng(0)
    boxes = rng.uniform(0, 0.9, (1000, 4)).astype(np.float32)
    boxes[:, 2:] = np.where(rng.random((1000, 2)) < 0.5, 1.0, np.maximum(boxes[:, 2:], boxes[:, :2]))
    maps = [np.ones((1, side, side, 1), np.float32) for side in (64, 32, 16, 8)]
    levels, owners = tf.constant(rng.integers(0, 4, 1000), tf.int32), tf.zeros(1000, tf.int32)

    def crop(boxes, *maps):
        return {"crops": kernels.pyramid_crop_and_resize(list(maps), boxes, owners, levels, (7, 7))}

    arrays = {"boxes": boxes, **{f"map_{index}": one for index, one in enumerate(maps)}}
    graph = Graph("crops", {name: list(value.shape) for name, value in arrays.items()}, crop, [])
    formats.write_openvino(graph, tmp_path / "crops.xml")
    found = open_session("openvino", tmp_path / "crops.xml", graph.interface)(*arrays.values())["crops"]
    expected = graph.run(arrays)["crops"]
    assert 0.002 < (expected == 0).mean() < 0.5
    np.testing.assert_array_equal(found == 0, expected == 0)
