"""The dense parts in OpenVINO: the same finds as TensorFlow's, the cache of models, int8, and messages."""

import importlib.util
import shutil
import sys

import conftest
import keras
import numpy as np
import pytest
from PIL import Image
from scipy.optimize import linear_sum_assignment

from siamese_mrcnn_tf import SiamesePredictor, TinyConfig
from siamese_mrcnn_tf.compute import openvino_parts, quantization, steps
from siamese_mrcnn_tf.compute.model_files import find_part
from siamese_mrcnn_tf.compute.quantization import find_quantized
from siamese_mrcnn_tf.io import cache, files, processor
from siamese_mrcnn_tf.io.errors import InputError
from siamese_mrcnn_tf.modeling import network
from siamese_mrcnn_tf.ops import devices
from siamese_mrcnn_tf.weights import loading

needs_openvino = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is not installed")
needs_nncf = pytest.mark.skipif(importlib.util.find_spec("nncf") is None, reason="nncf is not installed")
CONFIG = TinyConfig().replace(**conftest.MICRO, DETECTION_MIN_CONFIDENCE=0.0, USE_PRESENCE=True)


@pytest.fixture(scope="module")
def expected():
    """A predictor in TensorFlow whose scores differ and are not near 0 or 1."""
    keras.utils.set_random_seed(0)
    predictor, rng = SiamesePredictor(CONFIG), np.random.default_rng(5)
    for layer in (predictor.layers.classifier["mrcnn_class_logits"], predictor.layers.presence["presence_logit"]):
        layer.kernel.assign(rng.normal(0, 0.01, layer.kernel.shape))
    return predictor


@pytest.fixture(scope="module")
def weights(expected, tmp_path_factory):
    path = tmp_path_factory.mktemp("openvino") / "micro.h5"
    loading.save_weights(expected.layers, path)
    return path


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory):
    """A folder of caches for this module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(cache.VARIABLE, str(tmp_path_factory.mktemp("openvino_cache")))
        yield


@pytest.fixture(scope="module")
def predictor(weights, own_cache):
    return SiamesePredictor(CONFIG, weights=weights, runtime="openvino")


def assert_same(found, expected, *, pixels=1, scores=1e-4):
    assert len(found["rois"]) == len(expected["rois"]) > 3
    # finds of nearly the same score may change places
    distances = np.abs(found["rois"][:, None] - expected["rois"][None]).max(axis=-1)
    rows, same = linear_sum_assignment(distances + np.abs(found["scores"][:, None] - expected["scores"][None]))
    close = distances[rows, same] <= pixels
    assert close.sum() >= len(close) - 2  # rounding decides on near-duplicates, of which random weights have many
    np.testing.assert_allclose(found["scores"][close], expected["scores"][same][close], atol=scores)
    assert (found["masks"][..., close] == expected["masks"][..., same][..., close]).mean() > 0.99


@needs_openvino
def test_finds_are_those_of_tensorflow(predictor, expected, scene, crop):
    for one in (predictor, expected):
        one.set_image(scene)
    assert_same(predictor.detect(crop), expected.detect(crop))


@needs_openvino
def test_references_of_a_scene_share_its_terms(predictor, expected, scene, crop):
    crops = [crop, scene[10:50, 20:60], scene[30:80, 5:90]]
    found = predictor.detect_all(predictor.encode_scenes([scene]), crops, batch=2)
    for one, reference in zip(found, crops, strict=True):
        assert_same(one, expected.detect_in(expected.encode_scenes([scene]), [reference])[0])


@needs_openvino
def test_scenes_of_a_batch(predictor, expected, scene, crop):
    images, crops = [scene, scene[:, ::-1]], [crop, scene[30:80, 5:90]]
    found, others = (one.detect_in(one.encode_scenes(images), crops) for one in (predictor, expected))
    for one, other in zip(found, others, strict=True):
        assert_same(one, other)


@needs_openvino
def test_tensorflow_reads_maps_where_openvino_wrote_them(predictor, scene, crop):
    scenes, queries = predictor.encode_scenes([scene]), predictor.encode_queries([crop])
    matched = predictor.parts("matcher", *scenes.pyramid, queries[0].mean[None])
    for array in matched.values():
        assert array.ctypes.data % openvino_parts.ALIGNMENT == 0
        read = steps._tensor(array)
        array += 1  # seen there
        np.testing.assert_array_equal(read, array)
    array = np.arange(17, dtype=np.float32)
    array = array[1:] if array.ctypes.data % openvino_parts.ALIGNMENT == 0 else array
    np.testing.assert_array_equal(steps._tensor(array), array)


@needs_openvino
def test_outputs_outlive_the_next_use_of_their_part(predictor, scene):
    first, other = predictor.encode_scenes([scene]).pyramid, predictor.encode_scenes([scene[::-1]]).pyramid
    kept = [level_map.copy() for level_map in first]
    predictor.encode_scenes([scene[:, ::-1]])
    for level_map, copy, of_other in zip(first, kept, other, strict=True):
        np.testing.assert_array_equal(level_map, copy)
        assert not np.shares_memory(level_map, of_other)


@needs_openvino
def test_bfloat16_is_close(predictor, weights, scene, crop):
    rounded = SiamesePredictor(CONFIG, weights=weights, runtime="openvino", precision="bfloat16")
    maps, others = (one.encode_scenes([scene]).pyramid[0] for one in (rounded, predictor))
    difference = np.abs(maps - others).max() / np.abs(others).max()
    assert difference < 0.05
    if processor.multiplies("bfloat16"):
        assert difference > 1e-6


@needs_openvino
def test_a_filled_cache_needs_no_layers(predictor, weights, scene, crop, monkeypatch):
    predictor.set_image(scene)
    first = predictor.detect(crop)
    monkeypatch.setattr(network, "build_layers", lambda config: pytest.fail("layers were built"))
    half = len(first["scores"]) // 2
    threshold = float(first["scores"][half - 1 : half + 1].mean())
    again = SiamesePredictor(CONFIG.replace(DETECTION_MIN_CONFIDENCE=threshold), weights=weights, runtime="openvino")
    again.set_image(scene)
    np.testing.assert_array_equal(again.detect(crop)["rois"], first["rois"][:half])


@needs_openvino
@pytest.mark.parametrize("damage", ["truncated", "changed", "missing"])
def test_damaged_files_are_made_anew(predictor, weights, scene, crop, damage):
    predictor.encode_references(crop)
    broken = predictor.parts.folder / "reference_encoder" / "model.bin"
    content = bytearray(broken.read_bytes())
    content[len(content) // 2] ^= 255
    broken.unlink()
    if damage != "missing":
        broken.write_bytes(content[: len(content) // 3] if damage == "truncated" else content)
    again = SiamesePredictor(CONFIG, weights=weights, runtime="openvino")
    np.testing.assert_array_equal(again.encode_references(crop).vectors, predictor.encode_references(crop).vectors)
    assert openvino_parts.find_or_save_part(broken.parent, lambda: pytest.fail("not mended")).is_file()


@needs_openvino
def test_weights_and_settings_have_caches_of_their_own(predictor, weights, expected, crop, tmp_path):
    other = SiamesePredictor(CONFIG, runtime="openvino")
    before = other.encode_references(crop).vectors
    other.load_weights(weights)
    after = other.encode_references(crop).vectors
    assert np.abs(after - before).max() > 0.01
    np.testing.assert_allclose(after, expected.encode_references(crop).vectors, atol=1e-4)
    folders = {openvino_parts.fingerprint(sha256, CONFIG) for sha256 in ("one", "other")}
    folders |= {openvino_parts.fingerprint("one", CONFIG.replace(RPN_ANCHOR_STRIDE=2))}
    assert len(folders) == 3
    threshold = CONFIG.replace(DETECTION_MIN_CONFIDENCE=0.5, VERIFY_DETECTIONS=True)
    assert openvino_parts.fingerprint("one", threshold) in folders


# ---- int8 -----------------------------------------------------------------------------------------------------------


@needs_openvino
@needs_nncf
@pytest.mark.slow
def test_int8(run, weights, own_cache, scene, crop, tmp_path):
    path = tmp_path / "micro.h5"
    shutil.copy(weights, path)
    for name, pixels in (("scene", scene), ("crop", crop)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    files.write_json(tmp_path / "config.json", {"BASE": "tiny", **CONFIG.to_dict()})
    given = ["--model", path, "--image", tmp_path / "scene.png", "--reference", tmp_path / "crop.png"]
    given += ["--config", tmp_path / "config.json"]
    search = ["predict", *given, "--out", tmp_path / "found", "--runtime", "openvino", "--precision", "int8"]
    code, _, err = run(*search)
    assert code == 2 and "precision int8 needs quantized weights; siamese-mrcnn quantize --model" in err

    code, out, err = run("quantize", *given)
    assert code == 0, err
    assert "int8 of scene_encoder, matcher, scene_terms, shared_matcher is in" in out
    models = {name: _model(path, name) for name in quantization.PARTS}
    assert len(quantization.kept(models["scene_encoder"])) == 1  # the first convolution
    assert {name for name, model in models.items() if _has_rounded_sums(model)} == {"scene_encoder"}
    code, out, err = run(*search)
    assert code == 0 and "images: 1, categories: 1" in out, err

    quantized, exact = (
        SiamesePredictor(CONFIG, weights=path, runtime="openvino", precision=precision)
        for precision in ("int8", "float32")
    )
    maps, others = (one.encode_scenes([scene]).pyramid[0] for one in (quantized, exact))
    assert 1e-4 < np.abs(maps - others).max() / np.abs(others).max() < 0.3

    with pytest.raises(ValueError, match="of other settings of the network; siamese-mrcnn quantize"):
        SiamesePredictor(CONFIG.replace(POOL_SIZE=5), weights=path, runtime="openvino", precision="int8")
    _xml(path, "matcher").with_suffix(".bin").write_bytes(b"")
    with pytest.raises(ValueError, match="matcher: missing or damaged"):
        SiamesePredictor(CONFIG, weights=path, runtime="openvino", precision="int8")
    loading.save_weights(SiamesePredictor(CONFIG).layers, path)
    with pytest.raises(ValueError, match="of other weights; siamese-mrcnn quantize"):
        SiamesePredictor(CONFIG, weights=path, runtime="openvino", precision="int8")


def _xml(weights, part):
    return quantization.quantized_folder(weights) / part / "model.xml"


def _model(weights, part):
    return openvino_parts.require_openvino().Core().read_model(_xml(weights, part))


def _has_rounded_sums(model):
    """Whether a sum of two maps has an input in int8."""
    sums = [one for one in model.get_ordered_ops() if one.get_type_name() == "Add"]
    inputs = [[port.get_source_output().get_node().get_type_name() for port in one.inputs()] for one in sums]
    return any("FakeQuantize" in names for names in inputs)


# ---- messages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"runtime": "tensorrt"}, "runtime 'tensorrt': expected one of tensorflow, openvino"),
        ({"precision": "int8"}, "precision 'int8': with runtime tensorflow .*; runtime openvino has int8"),
        ({"precision": "float16", "runtime": "openvino"}, "precision 'float16': with runtime openvino expected"),
    ],
)
def test_runtimes_and_precisions_are_checked(chosen, message):
    with pytest.raises(ValueError, match=message):
        SiamesePredictor(CONFIG, **chosen)


def test_without_openvino_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ValueError, match=r"which detects faster on CPUs.*siamese-mrcnn-tf\[openvino\]"):
        SiamesePredictor(CONFIG, runtime="openvino")


def test_without_nncf_the_extra_is_named(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "nncf", None)
    code, _, err = run("quantize", "--model", "shapes", "--image", "a.png", "--reference", "b.png")
    assert code == 2 and "siamese-mrcnn-tf[quantize]" in err


def test_quantize_needs_scenes(run):
    code, _, err = run("quantize", "--model", "shapes", "--image", "a.png")
    assert code == 2 and "--image and --reference: expected both" in err


@pytest.mark.parametrize(
    ("flags", "slow"),
    [
        ("avx2", ["bfloat16", "int8"]),
        ("avx512_vnni", ["bfloat16"]),
        ("avx512_bf16 avx512_vnni", []),
        ("avx512_bf16 avx512_fp16 avx512_vnni", ["bfloat16"]),
        ("amx_int8", ["bfloat16"]),
    ],
)
def test_precisions_without_instructions_for_them(monkeypatch, tmp_path, caplog, flags, slow):
    (tmp_path / "cpuinfo").write_text(f"flags\t\t: fpu {flags}\n")
    monkeypatch.setattr(processor, "_CPU_INFO", tmp_path / "cpuinfo")
    for precision in ("float32", "bfloat16", "int8"):
        devices.warn_of_precision(precision)
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [f"precision {one}" for one in slow]
    if "avx512_fp16" in flags:
        assert "(amx_bf16)" in caplog.text


def test_a_predictor_warns_once_of_its_precision(monkeypatch, tmp_path, caplog):
    (tmp_path / "cpuinfo").write_text("flags\t\t: avx2\n")
    monkeypatch.setattr(processor, "_CPU_INFO", tmp_path / "cpuinfo")
    predictor = SiamesePredictor(CONFIG, precision="bfloat16")
    predictor.without_masks(CONFIG.replace(PRECISION="bfloat16"), None)
    assert [record.getMessage()[:18] for record in caplog.records] == ["precision bfloat16"]
    SiamesePredictor(CONFIG)
    assert len(caplog.records) == 1


@needs_openvino
def test_layers_in_bfloat16_are_refused():
    layers = network.build_layers(CONFIG.replace(PRECISION="bfloat16"))
    with pytest.raises(ValueError, match="layers: compute in bfloat16"):
        SiamesePredictor(CONFIG, layers=layers, runtime="openvino")


def test_a_part_has_the_files_of_its_checksums_and_no_others(tmp_path):
    for name in ("model.xml", "model.bin"):
        (tmp_path / name).write_text(name)
    sums = {name: files.checksum(tmp_path / name) for name in ("model.xml", "model.bin")}
    wrong = ({"model.xml": sums["model.xml"]}, {**sums, "../a": "0" * 64}, {**sums, "model.bin": 5}, [])
    versioned = {"format": 1, "files": sums}
    wrong += ({**versioned, "format": 2}, {"format": 1}, {**versioned, "more": 1}, {"files": wrong[0]})
    for content, found in ((sums, True), (versioned, True), *((one, False) for one in wrong)):
        files.write_json(tmp_path / "sums.json", content)
        assert (find_part(tmp_path) is not None) == found


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "format = 2: written by a newer version"),
        ({"weights_sha256": None}, "weights_sha256 = None: expected str"),
        ({"parts": {"../../elsewhere": 3}}, "parts.*invalid enum value"),
        ({"parts": []}, r"parts = \[\]: expected object"),
        ({"network": {}}, "of other settings of the network"),
    ],
)
def test_a_wrong_manifest_of_quantized_parts_is_named(tmp_path, changes, message):
    content = {"format": 1, "weights_sha256": "0" * 64, "network": {"A": 1}, "parts": {}, "about": {}, "versions": {}}
    files.write_json(tmp_path / "quantized.json", content | changes)
    with pytest.raises(InputError, match=rf"quantized\.json: .*{message}.* makes it anew"):
        find_quantized(tmp_path, "0" * 64, CONFIG, "quantize")
