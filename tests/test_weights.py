"""Weight files: names, layouts, verdicts, reports and errors, over stand-ins for models (no Keras)."""

import gzip
import json
import pathlib
import pickle
import subprocess
import sys
import zipfile
import zlib

import h5py
import numpy as np
import pytest

from siamese_mrcnn_tf.config import Config, LargeConfig, SmallConfig, TinyConfig
from siamese_mrcnn_tf.weights import loading
from siamese_mrcnn_tf.weights.identify import judge
from siamese_mrcnn_tf.weights.legacy_h5 import _set_strings, file_layout, group_of, read_weights

HERE = pathlib.Path(__file__).resolve().parent
SHARED = HERE.parents[1] / "shared"
BLOCKS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}


class Variable:
    def __init__(self, name, array):
        self.name, self.array, self.assigned = name, array, False

    @property
    def shape(self):
        return self.array.shape

    def numpy(self):
        return self.array

    def assign(self, value):
        assert value.shape == self.shape
        self.array, self.assigned = np.array(value), True


class Layer:
    def __init__(self, name, variables=()):
        self.name, self.weights = name, list(variables)


class Model:
    def __init__(self, name, layers):
        self.name, self.layers = name, layers


def conv(name, *shape, bias=True):
    return {f"{name}/kernel": shape, **({f"{name}/bias": (shape[-1],)} if bias else {})}


def norm(name, width):
    return {f"{name}/{weight}": (width,) for weight in ("gamma", "beta", "moving_mean", "moving_variance")}


def backbone_shapes(config, bias=True):
    """{canonical name: shape} of a ResNet, in an order that is not the file's."""
    shapes = {**norm("bn_conv1", config.BACKBONE_STEM_WIDTH), **conv("conv1", 7, 7, 3, config.BACKBONE_STEM_WIDTH)}
    read = config.BACKBONE_STEM_WIDTH
    blocks = config.BACKBONE_BLOCKS or BLOCKS[config.BACKBONE]
    for stage, (count, width) in enumerate(zip(blocks, config.BACKBONE_WIDTHS, strict=True), start=2):
        inner = width // config.BACKBONE_BOTTLENECK
        for letter in "abcdefghijklmnopqrstuvwxyz"[:count]:
            parts = {"2a": (1, 1, read, inner), "2b": (3, 3, inner, inner), "2c": (1, 1, inner, width)}
            if letter == "a":
                parts["1"] = (1, 1, read, width)
            for part, shape in parts.items():
                shapes.update(conv(f"res{stage}{letter}_branch{part}", *shape, bias=bias))
                shapes.update(norm(f"bn{stage}{letter}_branch{part}", shape[-1]))
            read = width
    return {key: shape for key, shape in shapes.items() if bias or not key.endswith("/bias")}


def pyramid_shapes(config):
    shapes, width = {}, config.FPN_FEATUREMAPS
    for level in range(2, 6):
        shapes.update(conv(f"fpn_p{level}", 3, 3, width, width))
        shapes.update(conv(f"fpn_c{level}p{level}", 1, 1, config.BACKBONE_WIDTHS[level - 2], width))
    return shapes


def head_shapes(config, read, classes, boxes):
    shapes = conv("rpn_bbox_pred", 1, 1, config.RPN_CONV_CHANNELS, 12)
    shapes.update(conv("rpn_class_raw", 1, 1, config.RPN_CONV_CHANNELS, 6))
    shapes.update(conv("rpn_conv_shared", 3, 3, read, config.RPN_CONV_CHANNELS))
    full, mask = config.FPN_CLASSIF_FC_LAYERS_SIZE, config.MASK_HEAD_CHANNELS
    shapes.update({**conv("mrcnn_class_conv1", 7, 7, read, full), **norm("mrcnn_class_bn1", full)})
    shapes.update({**conv("mrcnn_class_conv2", 1, 1, full, full), **norm("mrcnn_class_bn2", full)})
    shapes.update({**conv("mrcnn_class_logits", full, classes), **conv("mrcnn_bbox_fc", full, boxes)})
    if config.MODEL == "frcnn":
        return shapes
    for index in range(1, 5):
        shapes.update(conv(f"mrcnn_mask_conv{index}", 3, 3, read if index == 1 else mask, mask))
        shapes.update(norm(f"mrcnn_mask_bn{index}", mask))
    shapes.update(
        {**conv("mrcnn_mask_deconv", 2, 2, mask, mask), **conv("mrcnn_mask", 1, 1, mask, max(classes - 1, 1))}
    )
    return shapes


def network_shapes(config):
    shapes = {**backbone_shapes(config), **pyramid_shapes(config)}
    matched = config.MATCHED_FEATUREMAPS
    for level in range(6, 1, -1):
        shapes.update(conv(f"fpn_distance_P{level}", 1, 1, 2 * config.FPN_FEATUREMAPS, matched))
    return {**shapes, **head_shapes(config, matched, 2, 4)}


def matterport_shapes(config):
    heads = head_shapes(config, config.FPN_FEATUREMAPS, 81, 4 * 81)
    return {**backbone_shapes(config), **pyramid_shapes(config), **heads}


def zeros(shapes):
    """Arrays of zeros that take no memory."""
    return {key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()}


def random_arrays(shapes):
    rngs = {key: np.random.default_rng(zlib.crc32(key.encode())) for key in shapes}
    return {key: rngs[key].standard_normal(shape, np.float32) for key, shape in shapes.items()}


def fake_model(arrays):
    """Nested models and layers as in the real network; the backbone is reached twice."""
    layers = {}
    for key, array in arrays.items():
        layer, weight = key.split("/")
        layers.setdefault(layer, Layer(layer)).weights.append(Variable(weight, array))
    nested = {}
    for name, layer in layers.items():
        nested.setdefault(group_of(name) if group_of(name) != name else None, []).append(layer)
    parts = [Model(name, content) for name, content in nested.items() if name]
    return Model("mask_rcnn", [Layer("input_image"), *nested.get(None, []), *parts, *parts[:1]])


def values(model):
    """{canonical name: variable} of a fake model."""
    found = {}
    for layer in model.layers:
        if hasattr(layer, "layers"):
            found.update(values(layer))
        else:
            found.update({f"{layer.name}/{variable.name}": variable for variable in layer.weights})
    return found


def assert_loaded(model, arrays):
    for key, array in arrays.items():
        np.testing.assert_array_equal(values(model)[key].array, array, err_msg=key)


def assert_untouched(model):
    assert not any(variable.assigned for variable in values(model).values())


def write_h5(path, stored, *, root="", text=False, attributes=None, empty=()):
    """Write [(group, stored name, array or shape)] by hand; a shape alone takes no room on disk."""
    groups = dict.fromkeys(empty, ())
    for group, *_ in stored:
        groups[group] = [name for other, name, _ in stored if other == group]
    with h5py.File(path, "w") as h5:
        where = h5.require_group(root) if root else h5
        for name, value in (attributes or {"keras_version": "2.1.6", "backend": "tensorflow"}).items():
            where.attrs[name] = value if text else np.bytes_(value)
        set_names(where.attrs, "layer_names", list(groups), text)
        for group, names in groups.items():
            set_names(where.create_group(group).attrs, "weight_names", list(names), text)
        for group, name, value in stored:
            shape = value if isinstance(value, tuple) else None
            where[group].create_dataset(name, shape, np.float32, None if shape is not None else value)
    return path


def set_names(attributes, name, names, text):
    attributes[name] = np.array(names, h5py.string_dtype()) if text else np.array([n.encode() for n in names], "S")


def nested(arrays, suffix=""):
    """[(group, stored name, array)] in the layout of nested models."""
    stored = []
    for key, array in arrays.items():
        layer, weight = key.split("/")
        stored.append((group_of(layer), f"{layer}{suffix}/{weight}:0", array))
    return stored


def flat(arrays):
    """[(group, stored name, array)] with a group per layer, as in Matterport's files."""
    return [(key.split("/")[0], f"{key}:0", array) for key, array in arrays.items()]


@pytest.fixture(scope="module")
def tiny_arrays():
    return random_arrays(network_shapes(TinyConfig()))


@pytest.fixture
def tiny_model():
    return fake_model(zeros(network_shapes(TinyConfig())))


@pytest.fixture
def tiny_file(tmp_path, tiny_arrays):
    return write_h5(tmp_path / "tiny.h5", nested(tiny_arrays))


# ---- writing -----------------------------------------------------------------------------------------------------


def inventory(path):
    """Attributes and weights of a file, as recorded of the original's."""
    with h5py.File(path) as h5:
        names = [name.decode() for name in h5.attrs["layer_names"]]
        listed = [(group, name.decode()) for group in names for name in h5[group].attrs["weight_names"]]
        assert h5.attrs["layer_names"].dtype.kind == "S"
        assert all(h5[group][name].dtype == np.float32 for group, name in listed)
        return {
            "file_attrs": {
                "layer_names": names,
                **{key: h5.attrs[key].decode() for key in ("backend", "keras_version")},
            },
            "weights": [[group, name, list(h5[group][name].shape)] for group, name in listed],
        }


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


def test_resnet101_order_goes_by_block():
    config = Config().replace(BACKBONE="resnet101")
    keys = file_layout({key: group_of(key.split("/")[0]) for key in network_shapes(config)})["resnet_model"]
    trainable = [key.split("/")[0] for key in keys if key.endswith("/kernel")]
    assert trainable[0] == "conv1" and trainable[-1] == "res5c_branch2c"
    assert trainable.index("res4b_branch2a") == trainable.index("res4a_branch1") + 1
    assert trainable.index("res5a_branch2a") == trainable.index("res4w_branch2c") + 1
    assert keys[-2:] == ["bn5c_branch2c/moving_mean", "bn5c_branch2c/moving_variance"]


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


# ---- reading: every layout gives the same network ----------------------------------------------------------------


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


def test_attributes_cut_in_pieces(tmp_path):
    names = [f"layer{index}_{'x' * 900}" for index in range(99)]  # more than one attribute of HDF5 holds
    with h5py.File(tmp_path / "w.h5", "w") as h5:
        _set_strings(h5.attrs, "layer_names", names)
        assert {"layer_names0", "layer_names1"} == set(h5.attrs)
        for name in names:
            _set_strings(h5.create_group(name).attrs, "weight_names", [f"{name}/kernel:0"])
            h5[name].create_dataset(f"{name}/kernel:0", data=np.float32([1]))
    assert list(read_weights(tmp_path / "w.h5").shapes) == [f"{name}/kernel" for name in names]


def test_suffix_stays_where_the_bare_name_is_there_or_unknown(tmp_path):
    one = np.ones(1, np.float32)
    stored = [("conv1", "conv1/kernel:0", one), ("conv1_1", "conv1_1/kernel:0", 2 * one), ("x_1", "x_1/kernel:0", one)]
    path = write_h5(tmp_path / "w.h5", stored)
    assert list(read_weights(path).shapes) == ["conv1/kernel", "conv1_1/kernel", "x_1/kernel"]
    assert read_weights(path).arrays["conv1/kernel"] == [1]
    assert read_weights(path, expected={"x"}).renamed == {"x_1/kernel:0": "x/kernel"}
    path = write_h5(tmp_path / "w.h5", stored[1:2])
    file = read_weights(path, values=False)
    assert (list(file.shapes), file.arrays, file.renamed) == (
        ["conv1/kernel"],
        {},
        {"conv1_1/kernel:0": "conv1/kernel"},
    )
    assert list(read_weights(path, expected={"conv1_1"}).shapes) == ["conv1_1/kernel"]


def test_one_name_for_two_weights(tmp_path):
    one = np.ones(1, np.float32)
    twins = [("a", "conv1_1/kernel:0", one), ("b", "conv1_2/kernel:0", one)]
    assert list(read_weights(write_h5(tmp_path / "same.h5", twins)).shapes) == ["conv1/kernel"]
    different = [twins[0], ("b", "conv1_2/kernel:0", 2 * one)]
    with pytest.raises(ValueError, match=r"two different weights go by the name conv1/kernel.*conv1_2/kernel:0"):
        read_weights(write_h5(tmp_path / "different.h5", different))


# ---- backbones ---------------------------------------------------------------------------------------------------


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
    assert_loaded(tiny_model, arrays)
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


def test_applications_blocks_get_their_letters(tmp_path):
    names = [
        "conv1_conv",
        "conv1_bn",
        "conv2_block1_0_conv",
        "conv3_block2_3_bn",
        "conv4_block23_1_conv",
        "conv4_block36_1_bn",
    ]
    stored = [(name, f"{name}/kernel:0", np.zeros(1)) for name in names]
    expected = ["conv1", "bn_conv1", "res2a_branch1", "bn3b_branch2c", "res4w_branch2a", "conv4_block36_1_bn"]
    assert list(read_weights(write_h5(tmp_path / "w.h5", stored)).shapes) == [f"{name}/kernel" for name in expected]


def test_released_resnets_fit_both_configurations():
    for name, needed in (("resnet50", {}), ("resnet101", {"BACKBONE": "resnet101"})):
        verdict = judge(backbone_shapes(Config().replace(BACKBONE=name)))
        assert verdict.kind == "backbone" and verdict.fits == {"small": needed, "large": needed}
        assert verdict.settings["BACKBONE"] == name and verdict.config is None


# ---- verdicts and partial files ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "name", "text"),
    [
        (SmallConfig(), "small", "siamese weights, small configuration, ResNet-50, with mask head"),
        (LargeConfig(), "large", "siamese weights, large configuration, ResNet-50, with mask head"),
        (TinyConfig(), "tiny", "siamese weights, tiny configuration, ResNet with 1+1+1+1 blocks, with mask head"),
        (LargeConfig().replace(BACKBONE="resnet101"), "large", "large configuration, ResNet-101, with mask head"),
        (SmallConfig().replace(MODEL="frcnn"), "small", "small configuration, ResNet-50, without mask head"),
        (SmallConfig().replace(RPN_CONV_CHANNELS=64), None, "of no named configuration, ResNet-50"),
    ],
)
def test_verdict_of_siamese_weights(config, name, text):
    verdict = judge(network_shapes(config))
    assert verdict.kind == "siamese" and verdict.config == name and text in verdict.text


def test_verdict_of_other_widths_names_the_settings():
    verdict = judge(network_shapes(SmallConfig().replace(RPN_CONV_CHANNELS=64, BACKBONE_BLOCKS=[1, 2, 1, 1])))
    assert verdict.fits == {}
    assert "config small with RPN_CONV_CHANNELS = 64, BACKBONE_BLOCKS = (1, 2, 1, 1) would do" in verdict.fits_text


@pytest.mark.parametrize("shapes", [{}, {"a/kernel": ()}, {"fpn_p2/kernel": (), "rpn_conv_shared/kernel": (3,)}])
def test_verdict_of_unknown_weights(shapes):
    assert judge(shapes).text == "weights of an unknown network" and judge(shapes).fits == {}


def test_matterport_gives_backbone_and_pyramid(tmp_path, tiny_model):
    arrays = random_arrays(matterport_shapes(TinyConfig()))
    path = write_h5(tmp_path / "mask_rcnn_coco.h5", flat(arrays))
    report = loading.load_weights(tiny_model, path)
    used = {key: array for key, array in arrays.items() if not key.startswith(("rpn_", "mrcnn_"))}
    assert_loaded(tiny_model, used)
    assert set(report.loaded) == set(used) and set(report.unused) == set(arrays) - set(used)
    assert "81 classes" in report.verdict and "backbone and FPN are used" in report.summary()
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


def test_missing_unused_and_nan_are_reported(tmp_path, tiny_arrays, tiny_model):
    arrays = {**tiny_arrays, "conv1/bias": np.full(32, np.nan, np.float32)}
    stored = [item for item in nested(arrays) if "rpn_class_raw" not in item[1]]
    path = write_h5(tmp_path / "w.h5", [*stored, ("extra", "extra/kernel:0", np.ones(3))])
    report = loading.load_weights(tiny_model, path)
    assert report.missing == ["rpn_class_raw/kernel", "rpn_class_raw/bias"] and report.unused == ["extra/kernel"]
    text = report.summary()
    assert "not in the file, values kept: 2 weights (rpn_class_raw)" in text
    assert "in the file, not used: 1 weights (extra)" in text and "1 weights hold NaN or infinity (conv1)" in text
    assert "left out: 1 weights (extra)" in loading.describe_weights(path)


def test_a_partial_load_is_a_warning(tmp_path, tiny_arrays, tiny_file, tiny_model, caplog):
    def levels(path, exclude=()):
        caplog.clear()
        loading.load_weights(tiny_model, path, exclude)
        return [(record.levelname, record.getMessage().splitlines()[0]) for record in caplog.records]

    caplog.set_level("INFO", loading.__name__)
    verdict = f"{tiny_file}: siamese weights, tiny configuration, ResNet with 1+1+1+1 blocks, with mask head"
    assert levels(tiny_file) == [("INFO", verdict)]
    assert levels(tiny_file, "rpn_model") == [("INFO", verdict)]  # asked for
    assert levels(tiny_file, "no_such_layer") == [("WARNING", verdict)]
    part = {key: array for key, array in tiny_arrays.items() if not key.startswith("rpn_class_raw")}
    [(level, _)] = levels(write_h5(tmp_path / "part.h5", nested(part)))
    assert level == "WARNING" and "not in the file, values kept: 2 weights (rpn_class_raw)" in caplog.text


def test_description_has_a_table(tiny_file):
    lines = loading.describe_weights(tiny_file).splitlines()
    assert lines[0] == f"{tiny_file}: siamese weights, tiny configuration, ResNet with 1+1+1+1 blocks, with mask head"
    assert "Keras 2.1.6" in lines[1]
    assert any(line.split() == ["mrcnn_bbox_fc", "2", "516", "[128,", "4]"] for line in lines)
    assert any(line.split() == ["fpn_model", "16", "169,472", "8", "layers"] for line in lines)
    assert lines[-2:] == ["fits: config tiny", "left out: nothing"]


# ---- exclude and shapes that do not fit --------------------------------------------------------------------------


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
    with pytest.raises(ValueError, match="nothing to load is left by exclude"):
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


# ---- files that are no weight files ------------------------------------------------------------------------------


def zip_of(path, *names):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return path.read_bytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an empty file"),
        (b"\0" * 4096, "an unfinished download"),
        (b"weights: none\n" * 40, "text"),
        (b"\n<!DOCTYPE html><html>", "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (pickle.dumps({"conv1": [1.0]}), "a Python pickle"),
        (pickle.dumps({"conv1": [1.0]}, protocol=0), "a Python pickle"),
        (bytes.fromhex("80028a0a6cfc9c46f9206aa850192e"), "a PyTorch file"),
        (gzip.compress(b"x"), "a gzip archive"),
        (b"\x93NUMPY\x01\x00", "a numpy array"),
        (b"\x89PNG\r\n\x1a\n", "a picture"),
        (bytes(range(256)), "unknown data"),
        (["archive/data.pkl", "archive/data/0"], "a PyTorch file"),
        (["config.json", "metadata.json", "model.weights.h5"], "a .keras file of Keras 3"),
        (["conv1.npy"], "a numpy archive"),
        (["small_siamese_mrcnn_0160.h5"], "a zip archive: unpack it"),
    ],
)
def test_foreign_files(tmp_path, tiny_model, content, message):
    path = tmp_path / "w.h5"
    path.write_bytes(content if isinstance(content, bytes) else zip_of(path, *content))
    with pytest.raises(ValueError, match=rf"w\.h5: not an HDF5 file, it looks like {message}"):
        loading.load_weights(tiny_model, path)
    assert_untouched(tiny_model)


def test_truncated_zip(tmp_path):
    path = tmp_path / "w.keras"
    path.write_bytes(zip_of(path, "model.weights.h5")[:40])
    with pytest.raises(ValueError, match="a truncated zip"):
        read_weights(path)


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
    with pytest.raises(ValueError, match="not a file"):
        loading.load_weights(tiny_model, tmp_path)


def test_hdf5_files_of_other_layouts(tmp_path):
    path = tmp_path / "w.weights.h5"
    with h5py.File(path, "w") as h5:
        h5.create_dataset("layers/conv2d/vars/0", data=np.zeros(3))
    with pytest.raises(ValueError, match=r"a \.weights\.h5 file of Keras 3.*expected legacy Keras \.h5"):
        read_weights(path)
    with h5py.File(path, "w") as h5:
        h5.create_dataset("images", data=np.zeros(3))
    with pytest.raises(ValueError, match=r"without layer_names \(it holds images\)"):
        read_weights(path)
    with pytest.raises(ValueError, match="holds no weights"):
        read_weights(write_h5(path, [], empty=["input_1"]))


def test_listed_weight_that_is_not_there(tmp_path):
    path = write_h5(tmp_path / "w.h5", [("conv1", "conv1/kernel:0", np.zeros(3))])
    with h5py.File(path, "a") as h5:
        del h5["conv1/conv1/kernel:0"]
    with pytest.raises(ValueError, match=r"w\.h5: a damaged"):
        read_weights(path)
    with h5py.File(path, "a") as h5:
        h5["conv1"].create_dataset("conv1/kernel:0", data=b"text")
    with pytest.raises(ValueError, match="conv1/conv1/kernel:0 is no array of numbers"):
        read_weights(path)


# ---- Keras itself ------------------------------------------------------------------------------------------------


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
    for name in ("w.weights.h5", "w.keras"):
        (model.save_weights if "weights" in name else model.save)(tmp_path / name)
        with pytest.raises(ValueError, match="of Keras 3"):
            loading.load_weights(half, tmp_path / name)


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
