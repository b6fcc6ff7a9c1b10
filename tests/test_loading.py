"""Loading, reports, errors and saving, with stand-ins for models (no Keras) and with Keras itself."""

import gzip
import json
import pathlib
import re
import subprocess
import sys
import zipfile

import h5py
import numpy as np
import pytest
from weight_models import (
    Layer,
    Model,
    Variable,
    assert_loaded,
    assert_untouched,
    backbone_shapes,
    fake_model,
    flat,
    inventory,
    matterport_shapes,
    nested,
    network_shapes,
    random_arrays,
    values,
    write_h5,
    zeros,
)

from siamese_mrcnn_tf.config import LargeConfig, SmallConfig, TinyConfig
from siamese_mrcnn_tf.io.errors import InputError
from siamese_mrcnn_tf.weights import hdf5, legacy_h5, loading
from siamese_mrcnn_tf.weights.batch_norm import corrected_norms
from siamese_mrcnn_tf.weights.expected import missing_weights
from siamese_mrcnn_tf.weights.identify import identify_weights
from siamese_mrcnn_tf.weights.legacy_h5 import file_layout, group_of, read_weights

HERE = pathlib.Path(__file__).resolve().parent
SHARED = HERE.parents[1] / "shared"


@pytest.fixture(scope="module")
def tiny_arrays():
    return random_arrays(network_shapes(TinyConfig()))


@pytest.fixture
def tiny_model():
    return fake_model(zeros(network_shapes(TinyConfig())))


@pytest.fixture
def tiny_file(tmp_path, tiny_arrays):
    return write_h5(tmp_path / "tiny.h5", nested(tiny_arrays))


@pytest.mark.parametrize(("name", "config"), [("small", SmallConfig), ("large", LargeConfig)])
def test_written_file_equals_the_original_inventory(tmp_path, name, config):
    recorded = json.loads(gzip.decompress((HERE / "data" / "weight_inventory.json.gz").read_bytes()))[name]
    path = tmp_path / "written.h5"
    loading.save_weights(fake_model(zeros(network_shapes(config()))), path)
    written = inventory(path)
    assert loading.fitting_config(path) == name
    path.unlink()  # 200 MB
    assert written["file_attrs"] == {key: recorded["file_attrs"][key] for key in written["file_attrs"]}
    assert len(written["file_attrs"]["layer_names"]) == 77
    assert written["weights"] == recorded["weights"]
    assert len(written["weights"]) == 394


@pytest.mark.parametrize("name", ["small", "large"])
def test_recorded_inventory_is_the_shared_one(name):
    path = SHARED / "parity" / f"{name}_weights.json"
    if not path.exists():
        pytest.skip("no shared records here")
    recorded = json.loads(gzip.decompress((HERE / "data" / "weight_inventory.json.gz").read_bytes()))[name]
    shared = json.loads(path.read_text())
    assert recorded["file_attrs"] == shared["file_attrs"]
    assert recorded["weights"] == [[item["h5_group"], item["weight_name"], item["shape"]] for item in shared["weights"]]


def test_frcnn_file_lacks_the_mask_head(tmp_path):
    loading.save_weights(fake_model(zeros(network_shapes(TinyConfig().replace(MODEL="frcnn")))), tmp_path / "f.h5")
    written = inventory(tmp_path / "f.h5")
    assert written["file_attrs"]["layer_names"][-2:] == ["concatenate_6", "mrcnn_detection"]
    assert not any("mask" in group for group, *_ in written["weights"])
    assert loading.fitting_config(tmp_path / "f.h5") == "tiny"
    assert 'MODEL = "frcnn"' in loading.describe_weights(tmp_path / "f.h5")


def test_backbone_alone_and_unknown_layers(tmp_path):
    model = Model("resnet_model", [Layer("conv1", [Variable("kernel", np.ones((1, 1, 3, 2), np.float32))])])
    odd = Layer("my_layer", [Variable("kernel", np.ones((2,), np.float32))])
    loading.save_weights(Model("whole", [odd, model]), tmp_path / "w.h5")
    assert inventory(tmp_path / "w.h5")["weights"] == [
        ["resnet_model", "conv1/kernel:0", [1, 1, 3, 2]],
        ["my_layer", "my_layer/kernel:0", [2]],
    ]
    other = Model("whole", [Layer("my_layer", [Variable("kernel", np.zeros((2,), np.float32))])])
    assert loading.load_weights(other, tmp_path / "w.h5").loaded == ["my_layer/kernel"]


def test_same_weights_give_the_same_bytes(tmp_path, tiny_arrays):
    for name in ("a.h5", "b.h5"):
        loading.save_weights(fake_model(tiny_arrays), tmp_path / name)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_failed_save_leaves_the_old_file(tmp_path, tiny_arrays):
    path = tmp_path / "w.h5"
    path.write_bytes(b"old")
    model = fake_model(tiny_arrays)
    list(values(model).values())[-1].array = np.array("no number")
    with pytest.raises(ValueError, match="could not convert"):
        loading.save_weights(model, path)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_models_that_cannot_be_saved(tmp_path):
    with pytest.raises(ValueError, match="has no weights"):
        loading.save_weights(Model("m", []), tmp_path / "w.h5")
    twins = [Layer("conv1", [Variable("kernel", np.zeros(1))]), Layer("conv1", [Variable("kernel", np.zeros(1))])]
    with pytest.raises(ValueError, match="two weights named conv1/kernel"):
        loading.save_weights(Model("m", twins), tmp_path / "w.h5")


def order_of(trainable):
    """The order of Keras 2: trainable weights first, then the others layer by layer."""

    def stored(arrays):
        groups = file_layout({key: group_of(key.split("/")[0]) for key in arrays})
        keys = [key for group in groups.values() for key in group]
        first = [key for key in keys if key.startswith(trainable) and "/moving_" not in key]
        layers = dict.fromkeys(key.split("/")[0] for key in keys)
        rest = [key for layer in layers for key in keys if key.startswith(layer + "/") and key not in first]
        return nested({key: arrays[key] for key in [*first, *rest]})

    return stored


heads_order = order_of(("fpn_", "rpn_", "mrcnn_"))

stages_4_order = order_of(("fpn_", "rpn_", "mrcnn_", "res4", "bn4", "res5", "bn5"))


def training_order(arrays):
    """Heads before the backbone, layers without weights in between, the anchors as a variable."""
    return [("anchors", "Variable:0", np.zeros((1, 8, 4), np.float32)), *reversed(nested(arrays))]


@pytest.mark.parametrize(
    ("layout", "options"),
    [
        (nested, {}),
        (heads_order, {}),
        (stages_4_order, {}),
        (training_order, {"empty": ["input_rpn_match", "proposal_targets"]}),
        (flat, {}),
        (lambda arrays: nested(arrays, "_1"), {}),
        (lambda arrays: nested(arrays, "_12"), {"text": True}),
        (nested, {"text": True}),
        (nested, {"root": "model_weights"}),
        (nested, {"attributes": {"keras_version": "2.2.4-tf"}}),
        (lambda arrays: [(group, name[:-2], array) for group, name, array in nested(arrays)], {}),
        (lambda arrays: [(group, f"{group}_3/{name}", array) for group, name, array in nested(arrays)], {}),
    ],
    ids="plain heads 4+ training flat suffix suffix-str str whole-model no-backend no-number long-names".split(),
)
def test_every_layout_loads_the_same(tmp_path, tiny_arrays, tiny_model, layout, options):
    path = write_h5(tmp_path / "w.h5", layout(tiny_arrays), **options)
    report = loading.load_weights(tiny_model, path)
    assert_loaded(tiny_model, tiny_arrays)
    assert set(report.loaded) == set(tiny_arrays)
    assert report.missing == report.excluded == report.mismatched == report.zeroed == report.notes == []
    assert report.unused == (["anchors/Variable"] if layout is training_order else [])


def test_round_trip(tmp_path, tiny_arrays, tiny_model):
    loading.save_weights(fake_model(tiny_arrays), tmp_path / "deep" / "w.h5")
    loading.load_weights(tiny_model, tmp_path / "deep" / "w.h5")
    assert_loaded(tiny_model, tiny_arrays)


def keras1(arrays):
    """Keras 1 names, and the top layer of the whole ImageNet network."""
    short = {"kernel": "W", "bias": "b", "moving_mean": "running_mean", "moving_variance": "running_std"}
    stored = []
    for key, array in arrays.items():
        layer, weight = key.split("/")
        stored.append((layer, f"{layer}_{short.get(weight, weight)}{'_1' if weight == 'kernel' else ''}:0", array))
    return [*stored, ("fc1000", "fc1000_W:0", np.zeros((8, 10), np.float32))]


def applications(arrays):
    """Names of today's keras-applications."""
    stored = []
    for key, array in arrays.items():
        layer, weight = key.split("/")
        name = {"conv1": "conv1_conv", "bn_conv1": "conv1_bn"}.get(layer)
        if name is None:
            head, part = layer.split("_branch")
            kind, stage, block = ("conv" if head.startswith("res") else "bn"), head[-2], ord(head[-1]) - ord("a") + 1
            name = f"conv{stage}_block{block}_{['1', '2a', '2b', '2c'].index(part)}_{kind}"
        stored.append((name, f"{name}/{weight}:0", array))
    return [*stored, ("predictions", "predictions/kernel:0", np.zeros((8, 10), np.float32))]


@pytest.mark.parametrize(
    ("layout", "style"), [(keras1, "keras 1"), (applications, "keras-applications"), (flat, "keras 2")]
)
@pytest.mark.parametrize("bias", [True, False])
def test_backbone_files(tmp_path, tiny_model, layout, style, bias):
    arrays = random_arrays(backbone_shapes(TinyConfig(), bias=bias))
    path = write_h5(tmp_path / "w.h5", layout(arrays), attributes={"backend": "tensorflow"})
    for variable in values(tiny_model).values():
        variable.array = np.ones(variable.shape, np.float32)
    report = loading.load_weights(tiny_model, path)
    assert_loaded(tiny_model, arrays | (corrected_norms(arrays)[0] if style == "keras-applications" else {}))
    assert ("moving variances are corrected" in report.summary()) is (style == "keras-applications")
    assert set(report.loaded) == set(arrays)
    assert read_weights(path).style == style
    biases = [key for key in backbone_shapes(TinyConfig()) if key.endswith("/bias") and not bias]
    assert sorted(report.zeroed) == sorted(biases)
    assert_loaded(tiny_model, {key: np.zeros(values(tiny_model)[key].shape) for key in biases})
    assert ("no biases for 17 convolutions" in report.summary()) is not bias
    assert "fpn_p2/kernel" in report.missing and "conv1/bias" not in report.missing
    assert report.unused == {"keras 2": [], "keras 1": ["fc1000/kernel"]}.get(style, ["predictions/kernel"])
    text = loading.describe_weights(path)
    assert ("without conv biases" in text) is not bias
    assert "fits: config tiny" in text and "heads keep their initial values" in text
    assert loading.fitting_config(path) is None


def test_matterport_gives_backbone_and_pyramid(tmp_path, tiny_model):
    arrays = random_arrays(matterport_shapes(TinyConfig()))
    path = write_h5(tmp_path / "mask_rcnn_coco.h5", flat(arrays))
    report = loading.load_weights(tiny_model, path)
    used = {key: array for key, array in arrays.items() if not key.startswith(("rpn_", "mrcnn_"))}
    assert_loaded(tiny_model, used)
    assert set(report.loaded) == set(used) and set(report.unused) == set(arrays) - set(used)
    assert "81 classes" in report.description and "only backbone and FPN are used" in report.summary()
    assert not values(tiny_model)["mrcnn_mask_conv2/kernel"].assigned
    assert "left out: 50 weights (rpn_bbox_pred," in loading.describe_weights(path)


def test_matterport_needs_resnet101(tmp_path):
    stored = flat(matterport_shapes(LargeConfig().replace(BACKBONE="resnet101")))
    path = write_h5(tmp_path / "mask_rcnn_coco.h5", stored)
    assert 'fits: config small with BACKBONE = "resnet101" or config large' in loading.describe_weights(path)
    model = fake_model(zeros(network_shapes(SmallConfig())))
    with pytest.raises(
        ValueError, match=r'ResNet-101.*17 of its residual blocks.*res4g .. res4w.*BACKBONE = "resnet101"'
    ):
        loading.load_weights(model, path)
    assert_untouched(model)
    assert "fpn_p2/kernel" in loading.load_weights(model, path, exclude=["resnet_model"]).loaded


def test_frcnn_and_mask_files_load_into_each_other(tmp_path, tiny_arrays, tiny_file, tiny_model):
    frcnn = fake_model(zeros(network_shapes(TinyConfig().replace(MODEL="frcnn"))))
    report = loading.load_weights(frcnn, tiny_file)
    assert report.missing == [] and all("mrcnn_mask" in key for key in report.unused)
    loading.save_weights(frcnn, tmp_path / "frcnn.h5")
    report = loading.load_weights(tiny_model, tmp_path / "frcnn.h5")
    assert len(report.missing) == 28 and report.unused == [] and "no mask head" in report.summary()


def test_files_with_and_without_presence_load_into_each_other(tmp_path, tiny_file, tiny_arrays, tiny_model):
    shapes = network_shapes(TinyConfig().replace(USE_PRESENCE=True))
    gated = fake_model(random_arrays(shapes))
    initial = {key: array for key, array in values(gated).items() if key.startswith("presence_")}
    added = {"presence_fc/kernel", "presence_fc/bias", "presence_logit/kernel", "presence_logit/bias"}
    before = {key: initial[key].array for key in added}
    report = loading.load_weights(gated, tiny_file)
    assert set(report.missing) == added and report.unused == [] and len(report.loaded) == len(tiny_arrays)
    assert report.notes == ["the file has no presence output: all scores are halved until it is trained"]
    assert "values kept: 4 weights (presence_fc, presence_logit)" in report.summary()
    assert all(not initial[key].assigned and initial[key].array is before[key] for key in added)
    loading.save_weights(gated, tmp_path / "gated.h5")
    assert [group for group, *_ in inventory(tmp_path / "gated.h5")["weights"]][-4:] == [
        *2 * ["presence_fc"],
        *2 * ["presence_logit"],
    ]
    again = fake_model(zeros(shapes))
    assert loading.load_weights(again, tmp_path / "gated.h5").missing == []
    np.testing.assert_array_equal(values(again)["presence_fc/kernel"].array, before["presence_fc/kernel"])
    report = loading.load_weights(tiny_model, tmp_path / "gated.h5")
    assert report.missing == [] and set(report.unused) == added
    assert report.notes == ["the presence output of the file is not used; set USE_PRESENCE = True to use it"]
    assert_loaded(tiny_model, tiny_arrays)


def test_missing_and_unused_are_reported(tmp_path, tiny_arrays, tiny_model):
    stored = [item for item in nested(tiny_arrays) if "rpn_class_raw" not in item[1]]
    path = write_h5(tmp_path / "w.h5", [*stored, ("extra", "extra/kernel:0", np.ones(3))])
    report = loading.load_weights(tiny_model, path)
    assert report.missing == ["rpn_class_raw/kernel", "rpn_class_raw/bias"] and report.unused == ["extra/kernel"]
    text = report.summary()
    assert "not in the file, values kept: 2 weights (rpn_class_raw)" in text
    assert "in the file, not used: 1 weights (extra)" in text
    text = loading.describe_weights(path)
    assert "left out: 1 weights (extra)" in text and "missing: 2 weights (rpn_class_raw)" in text


@pytest.mark.parametrize(("dtype", "value"), [(np.float32, np.nan), (np.float32, -np.inf), (np.float64, 1e300)])
def test_weights_that_are_not_finite_are_refused(tmp_path, tiny_arrays, tiny_model, dtype, value):
    path = write_h5(tmp_path / "w.h5", nested(tiny_arrays))
    with h5py.File(path, "a") as h5:
        del h5["resnet_model/conv1/bias:0"]
        h5["resnet_model"].create_dataset("conv1/bias:0", data=np.full(32, value, dtype))
    with pytest.raises(InputError, match=r"w\.h5: 1 weights hold NaN or infinity, the first is conv1/bias"):
        loading.load_weights(tiny_model, path)
    assert_untouched(tiny_model)
    assert "not finite: 1 weights hold NaN or infinity" in loading.describe_weights(path)
    assert "conv1/bias" not in loading.load_weights(tiny_model, path, exclude="conv1").loaded


def test_what_a_file_lacks_is_named(tiny_arrays):
    def lacking(part):
        keys = [key for key in tiny_arrays if part not in key]
        return set(missing_weights(keys, identify_weights({key: tiny_arrays[key].shape for key in keys})))

    for part in ("mrcnn_mask_bn", "mrcnn_mask/", "fpn_distance_P4", "res2a_branch2c/", "bn_conv1", "fpn_c3p3/bias"):
        assert lacking(part) == {key for key in tiny_arrays if part in key} and lacking(part)
    assert lacking("mrcnn_mask") == set() == lacking("nothing")  # a network without masks is whole


def test_declared_sizes_are_compared_before_anything_is_read(tmp_path, tiny_arrays, tiny_model, monkeypatch):
    stored = [
        (*item[:2], (2**20, 2**14) if "mrcnn_bbox_fc/kernel" in item[1] else item[2]) for item in nested(tiny_arrays)
    ]
    path = write_h5(tmp_path / "w.h5", stored)
    monkeypatch.setattr(hdf5, "read_array", lambda dataset: pytest.fail(f"{dataset.name} was read"))
    with pytest.raises(InputError, match=r"w\.h5: shapes of mrcnn_bbox_fc/kernel differ"):
        loading.load_weights(tiny_model, path)
    with pytest.raises(InputError, match="declares 6[0-9]* bytes of weights"):
        legacy_h5.read_weights(path)


def test_what_is_declared_and_not_stored_is_described_unread(tmp_path):
    path = write_h5(tmp_path / "w.h5", [("conv1", "conv1/kernel:0", (2**20, 2**14))])
    assert "missing: nothing" in loading.describe_weights(path)


def test_a_partial_load_is_a_warning(tmp_path, tiny_arrays, tiny_file, tiny_model, caplog):
    def levels(path, exclude=()):
        caplog.clear()
        loading.load_weights(tiny_model, path, exclude)
        return [(record.levelname, record.getMessage().splitlines()[0]) for record in caplog.records]

    caplog.set_level("INFO", loading.__name__)
    first = f"{tiny_file}: siamese weights, tiny configuration, ResNet with 1+1+1+1 blocks, with mask head"
    assert levels(tiny_file) == [("INFO", first)]
    assert levels(tiny_file, "rpn_model") == [("INFO", first)]  # asked for
    assert levels(tiny_file, "no_such_layer") == [("WARNING", first)]
    part = {key: array for key, array in tiny_arrays.items() if not key.startswith("rpn_class_raw")}
    [(level, _)] = levels(write_h5(tmp_path / "part.h5", nested(part)))
    assert level == "WARNING" and "not in the file, values kept: 2 weights (rpn_class_raw)" in caplog.text


def test_description_has_a_table(tiny_file):
    lines = loading.describe_weights(tiny_file).splitlines()
    assert lines[0] == f"{tiny_file}: siamese weights, tiny configuration, ResNet with 1+1+1+1 blocks, with mask head"
    assert "Keras 2.1.6" in lines[1]
    assert any(line.split() == ["mrcnn_bbox_fc", "2", "516", "[128,", "4]"] for line in lines)
    assert any(line.split() == ["fpn_model", "16", "169,472", "8", "layers"] for line in lines)
    assert lines[-4:-1] == ["fits: config tiny", "left out: nothing", "missing: nothing"]
    assert lines[-1].startswith(f"use: siamese-mrcnn predict --model {tiny_file} --config tiny --image")


@pytest.mark.parametrize("exclude", [["mrcnn_class_logits", "mrcnn_bbox_fc"], ["mrcnn_(class_logits|bbox_fc)"]])
def test_exclude_by_name_or_expression(tmp_path, tiny_arrays, tiny_model, exclude):
    arrays = {**tiny_arrays, "mrcnn_bbox_fc/kernel": np.ones((128, 8), np.float32)}
    report = loading.load_weights(tiny_model, write_h5(tmp_path / "w.h5", nested(arrays)), exclude=exclude)
    assert sorted({key.split("/")[0] for key in report.excluded}) == ["mrcnn_bbox_fc", "mrcnn_class_logits"]
    assert report.mismatched == [("mrcnn_bbox_fc/kernel", (128, 8), (128, 4))]
    assert not values(tiny_model)["mrcnn_class_logits/kernel"].assigned and report.missing == []
    assert "mrcnn_class_conv1/kernel" in report.loaded  # an expression matches the whole name


def test_exclude_takes_a_nested_model_a_string_and_none(tiny_arrays, tiny_file, tiny_model):
    report = loading.load_weights(tiny_model, tiny_file, exclude="rpn_model")
    assert {key.split("/")[0] for key in report.excluded} == {"rpn_conv_shared", "rpn_class_raw", "rpn_bbox_pred"}
    assert loading.load_weights(tiny_model, tiny_file, exclude=None).excluded == []
    assert "'mrcnn_bbox' matches no layer" in loading.load_weights(tiny_model, tiny_file, ["mrcnn_bbox"]).notes[0]


@pytest.mark.parametrize("exclude", [["("], [3]])
def test_bad_exclude(tiny_file, tiny_model, exclude):
    with pytest.raises(ValueError, match="expected a layer name or a regular expression"):
        loading.load_weights(tiny_model, tiny_file, exclude=exclude)
    assert_untouched(tiny_model)


def test_exclude_that_leaves_nothing(tiny_file, tiny_model):
    with pytest.raises(ValueError, match=r"tiny\.h5: exclude leaves nothing to load, it matches fpn_distance_P6,"):
        loading.load_weights(tiny_model, tiny_file, exclude=[".*"])


def test_large_file_into_a_small_model(tmp_path):
    path = write_h5(tmp_path / "w.h5", nested(network_shapes(LargeConfig())))
    model = fake_model(zeros(network_shapes(SmallConfig())))
    with pytest.raises(ValueError) as caught:
        loading.load_weights(model, path)
    assert_untouched(model)
    message = str(caught.value)
    assert str(path) in message and "This is a large file, use config large" in message
    assert "mrcnn_class_conv1/kernel differ: [7, 7, 384, 1024] in the file, [7, 7, 384, 512] in the model" in message
    assert "13 more weights" in message


def test_one_wrong_shape_leaves_the_model_untouched(tmp_path, tiny_arrays, tiny_model):
    path = write_h5(tmp_path / "w.h5", nested({**tiny_arrays, "mrcnn_mask/bias": np.zeros(2, np.float32)}))
    with pytest.raises(ValueError, match=r"shapes of mrcnn_mask/bias differ: \[2\] in the file, \[1\] in the model\."):
        loading.load_weights(tiny_model, path)
    assert_untouched(tiny_model)


def test_backbone_with_fewer_blocks(tiny_file):
    model = fake_model(zeros(network_shapes(TinyConfig().replace(BACKBONE_BLOCKS=[1, 2, 1, 1]))))
    with pytest.raises(ValueError, match=r"1 of the model's residual blocks are not in it \(res3b\).*use config tiny"):
        loading.load_weights(model, tiny_file)
    assert_untouched(model)


def test_nothing_matched(tmp_path, tiny_model):
    path = write_h5(tmp_path / "vgg.h5", [("block1_conv1", "block1_conv1/kernel:0", np.zeros(3))])
    with pytest.raises(ValueError, match=r"vgg.h5: .*None of its weights is in the model: the file has block1_conv1"):
        loading.load_weights(tiny_model, path)
    assert_untouched(tiny_model)


def test_other_networks_and_backends(tmp_path, tiny_arrays, tiny_model):
    stored = [("conv2_block1_preact_bn", "conv2_block1_preact_bn/gamma:0", np.zeros(4)), *nested(tiny_arrays)]
    with pytest.raises(ValueError, match="pre-activation ResNet"):
        loading.load_weights(tiny_model, write_h5(tmp_path / "v2.h5", stored))
    path = write_h5(tmp_path / "theano.h5", nested(tiny_arrays), attributes={"backend": "theano"})
    with pytest.raises(ValueError, match="written with Theano"):
        loading.load_weights(tiny_model, path)
    assert_untouched(tiny_model)


ZIPS = {"pytorch.pth": "model/data.pkl", "zipped.zip": "mine/weights.h5", "other.zip": "notes.txt"}
FOREIGN = {  # file name -> (content or None for a zip archive, what the message says)
    "empty.h5": (b"", "an empty file"),
    "page.h5": (b"\n<!DOCTYPE html><html>", "a web page or XML, not weights: download the file again"),
    "pointer.h5": (b"version https://git-lfs.github.com/spec/v1", "a pointer of Git LFS"),
    "old.pkl": (bytes.fromhex("80028a0a6cfc9c46f9206aa850192e"), "a Python pickle, as of old PyTorch"),
    "pytorch.pth": (None, "a PyTorch checkpoint: its layers differ .* leave --model out of train"),
    "zipped.zip": (None, r"a zip archive that holds mine/weights\.h5: unpack it"),
    "other.zip": (None, r"a zip archive that holds no weights \(notes\.txt\)"),
    "cut.keras": (b"PK\x03\x04 and no end", "a damaged zip archive"),
    "model.ckpt-12.index": (b"\x00\x00\x01", "a part of a TensorFlow checkpoint"),
    "model.ckpt-12.data-00000-of-00001": (b"\x00\x00\x01", "a part of a TensorFlow checkpoint"),
    "checkpoint": (b'model_checkpoint_path: "model.ckpt-12"', "a part of a TensorFlow checkpoint"),
    "saved_model.pb": (b"\x08\x01\x12", "a TensorFlow graph or SavedModel"),
    "net.safetensors": (b'\x40\0\0\0\0\0\0\0{"a": {}}', "a safetensors file"),
    "mine.json": (b'{"BASE": "large", "POOL_SIZE": 7}', "a configuration, which goes to --config"),
    "coco.json": (b'{"images": [], "annotations": [], "categories": []}', "an annotation file .* --annotations"),
    "run.json": (b'{"command": "x", "arguments": []}', "a file of a training run: use its folder, --model"),
    "w.weights.json": (b'{"metadata": {}, "weight_map": {}}', "the index of weights in several files"),
    "list.json": (b"[1, 2]", "a JSON file, no weights"),
    "broken.json": (b"{1", "a text file that begins as JSON"),
    "crop.png": (b"\x89PNG\r\n\x1a\n", "a PNG image, which goes to --image or --reference"),
    "text.h5": (b"hello", r"not a weight file \(it begins b'hello'\)"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_files(tmp_path, tiny_model, name):
    path, (content, message) = tmp_path / name, FOREIGN[name]
    if content is None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(ZIPS[name], "x")
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{re.escape(name)}: {message}"):
        loading.load_weights(tiny_model, path)
    assert_untouched(tiny_model)


@pytest.mark.parametrize("share", [0.001, 0.3, 0.9, 0.9999])
def test_truncated_file(tiny_file, tiny_model, share):
    content = tiny_file.read_bytes()
    tiny_file.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ValueError, match=r"tiny\.h5: a damaged or truncated HDF5 file"):
        loading.load_weights(tiny_model, tiny_file)
    assert_untouched(tiny_model)


def test_missing_file_and_folder(tmp_path, tiny_model):
    with pytest.raises(ValueError, match=r"none\.h5: no such weight file"):
        loading.load_weights(tiny_model, tmp_path / "none.h5")
    with pytest.raises(ValueError, match="a folder; expected Keras weights"):
        loading.load_weights(tiny_model, tmp_path)


def test_import_needs_no_keras():
    code = (
        "import sys, siamese_mrcnn_tf.weights; sys.exit(any(name in sys.modules for name in ('keras', 'tensorflow')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=HERE.parent)


def keras_model(keras, dtype="float32"):
    """A nested model and a layer of its own, named as in the network."""
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 1, name="conv1", dtype=dtype)(image)
    x = keras.layers.BatchNormalization(name="bn_conv1", dtype=dtype)(x)
    backbone = keras.Model(image, x, name="resnet_model")
    scene = keras.Input((8, 8, 3))
    outputs = keras.layers.Conv2D(2, 1, name="mrcnn_mask", dtype=dtype)(backbone(scene))
    return keras.Model(scene, outputs)


def test_keras_models_and_files(tmp_path):
    keras = pytest.importorskip("keras")
    model = keras_model(keras)
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(size=weight.shape) for weight in model.get_weights()])
    loading.save_weights(model, tmp_path / "ours.h5")
    model.save(tmp_path / "whole.h5")
    for name in ("ours.h5", "whole.h5"):
        other = keras_model(keras, "mixed_float16")
        assert len(loading.load_weights(other, tmp_path / name).loaded) == 8
        for ours, theirs in zip(other.get_weights(), model.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    half = keras_model(keras, "float16")
    loading.load_weights(half, tmp_path / "ours.h5")
    np.testing.assert_allclose(half.get_weights()[0], model.get_weights()[0], rtol=1e-3)
    for save, name in ((model.save_weights, "w.weights.h5"), (model.save, "w.keras")):
        save(tmp_path / name)
        other = keras_model(keras)
        report = loading.load_weights(other, tmp_path / name)
        assert len(report.loaded) == 8 and not report.missing and not report.unused
        for ours, theirs in zip(other.get_weights(), model.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_keras_3_files_that_name_no_layers(tmp_path):
    """Of older versions; what the message says loads them."""
    keras = pytest.importorskip("keras")
    model = keras_model(keras)
    path = tmp_path / "old.weights.h5"
    model.save_weights(path)
    with h5py.File(path, "a") as h5:
        h5.visititems(lambda name, item: item.attrs.pop("name") if "name" in item.attrs else None)
    fresh = keras_model(keras)
    with pytest.raises(
        ValueError, match=r"load it with model\.keras_model\.load_weights, then .*save_weights\(NAME\.h5"
    ):
        loading.load_weights(fresh, path)
    fresh.load_weights(path)
    loading.save_weights(fresh, tmp_path / "new.h5")
    other = keras_model(keras)
    assert len(loading.load_weights(other, tmp_path / "new.h5").loaded) == 8
    for ours, theirs in zip(other.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "config"), [("small", SmallConfig), ("large", LargeConfig)])
def test_real_networks_write_the_original_inventory(tmp_path, name, config):
    from siamese_mrcnn_tf.modeling import network

    recorded = json.loads(gzip.decompress((HERE / "data" / "weight_inventory.json.gz").read_bytes()))[name]
    layers = network.build_layers(config())
    loading.save_weights(layers, tmp_path / "real.h5")
    written = inventory(tmp_path / "real.h5")
    report = loading.load_weights(layers, tmp_path / "real.h5")
    (tmp_path / "real.h5").unlink()  # 200 MB
    assert written["file_attrs"] == {key: recorded["file_attrs"][key] for key in written["file_attrs"]}
    assert written["weights"] == recorded["weights"]
    assert len(report.loaded) == 394 and not report.missing and not report.unused
