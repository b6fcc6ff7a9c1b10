"""Stand-ins for models and weight files written by hand (no Keras), for the tests of `siamese_mrcnn_tf.weights`."""

import zlib

import h5py
import numpy as np

from siamese_mrcnn_tf.weights.legacy_h5 import group_of

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
    shapes.update(head_shapes(config, matched, 2, 4))
    if config.USE_PRESENCE:
        full = config.FPN_CLASSIF_FC_LAYERS_SIZE
        shapes.update({**conv("presence_fc", 8 * matched, full), **conv("presence_logit", full, 1)})
    return shapes


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


def inventory(path):
    """Attributes and weights of a file, as recorded from the original."""
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
