"""Weight files in the legacy .h5 layout of Keras 1 and 2: names, naming styles, reading and writing.

A weight is known by its canonical name "layer/weight" ("conv1/kernel", "bn_conv1/moving_variance"), the layer named as
in Matterport's Mask R-CNN. In a file the weights lie in groups, one per top-level layer or nested model; the attributes
`layer_names` (root) and `weight_names` (group) give names and order. Nothing here knows models or configurations.
"""

import dataclasses
import itertools
import pathlib
import re
import zipfile

import h5py
import numpy as np

from ..io.files import atomic_path

ACCEPTED = "legacy Keras .h5 weights (Keras 1 and 2, Matterport, files written by this package)"

_BLOCK_LAYER = re.compile(r"(res|bn)([2-5])([a-z])_branch(1|2[abc])")
_NETWORK_LAYER = re.compile(
    r"fpn_c[2-5]p[2-5]|fpn_p[2-6]|fpn_distance_P[2-6]|rpn_(?:conv_shared|class_raw|bbox_pred)"
    r"|mrcnn_(?:class|mask)_(?:conv|bn)[1-4]|mrcnn_(?:class_logits|bbox_fc|mask_deconv|mask)"
)
_WEIGHTS = ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")  # the order inside a layer
_SUFFIX = re.compile(r"_\d+$")  # Keras 2 appends it to names of a model built second in a session

# keras-applications: "conv2_block1_0_conv" is the shortcut of the first block, parts 1 to 3 its convolutions.
_APPLICATIONS_LAYER = re.compile(r"conv([2-5])_block(\d+)_([0-3])_(conv|bn)")
_APPLICATIONS_STEM = {"conv1_conv": "conv1", "conv1_bn": "bn_conv1"}
_APPLICATIONS_PARTS = ("1", "2a", "2b", "2c")
# Keras 1: "conv1_W:0" without a slash. Its running_std holds the variance, whatever the name says.
_KERAS1_NAME = re.compile(r"(.+)_(W|b|gamma|beta|running_mean|running_std)(?:_\d+)?")
_KERAS1_WEIGHTS = {"W": "kernel", "b": "bias", "running_mean": "moving_mean", "running_std": "moving_variance"}

_ATTRIBUTE_BYTES = (
    64512  # the most that Keras puts into one HDF5 attribute; longer lists are cut into name0, name1, ...
)
# What h5py raises on damaged files, depending on the place; a wrong size can ask for more memory than there is.
_DAMAGE = (OSError, RuntimeError, LookupError, TypeError, ValueError, OverflowError, MemoryError)
_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_FOREIGN = (  # how a file that is not HDF5 begins, what it is
    (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19", "a PyTorch file"),
    (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"(dp", b"(lp", b"ccopy_reg", "a Python pickle"),
    (b"\x1f\x8b", "a gzip archive: unpack it first"),
    (b"\x93NUMPY", "a numpy array"),
    (b"\xff\xd8\xff", b"\x89PNG", "a picture"),
    (b"version https://git-lfs", "a Git LFS pointer: the file itself was not fetched"),
    (b"<!doctype html", b"<html", "an HTML page: the download did not give the file itself"),
)

# What the original writes for its network, in its order; layers without weights leave an empty group.
_MATCHING_LAYERS = tuple(f"fpn_distance_P{level}" for level in range(2, 7))
_CLASS_LAYERS = ("mrcnn_class_conv1", "mrcnn_class_bn1", "mrcnn_class_conv2", "mrcnn_class_bn2")
_MASK_LAYERS = tuple(f"mrcnn_mask_{kind}{index}" for index in range(1, 5) for kind in ("conv", "bn"))


def _numbered(name, numbers):
    return [f"{name}_{number}" for number in numbers]


_FILE_LAYERS = (
    *("input_target", "input_image", "lambda_1", "resnet_model", "fpn_model"),
    *_numbered("lambda", range(2, 7)),
    *_numbered("global_average_pooling2d", range(1, 6)),
    *_numbered("lambda", range(7, 16, 2)),
    *_numbered("subtract", range(1, 6)),
    *_numbered("lambda", range(8, 17, 2)),
    *_numbered("concatenate", range(1, 6)),
    *_MATCHING_LAYERS,
    *("rpn_model", "rpn_class", "rpn_bbox", "input_anchors", "ROI", "input_image_meta", "roi_align_classifier"),
    *(*_CLASS_LAYERS[:2], "activation_34", *_CLASS_LAYERS[2:], "activation_35"),
    *("pool_squeeze", "mrcnn_bbox_fc", "mrcnn_class_logits", "mrcnn_bbox", "mrcnn_class", "concatenate_6"),
    "mrcnn_detection",
    *("lambda_19", "roi_align_mask"),  # the mask head begins here
    *(*_MASK_LAYERS[:2], "activation_37", *_MASK_LAYERS[2:4], "activation_38"),
    *(*_MASK_LAYERS[4:6], "activation_39", *_MASK_LAYERS[6:8], "activation_40"),
    *("mrcnn_mask_deconv", "mrcnn_mask", "concatenate_7"),
)
_NESTED_ORDER = (  # inside fpn_model and rpn_model
    *("fpn_c5p5", "fpn_c4p4", "fpn_c3p3", "fpn_c2p2", "fpn_p5", "fpn_p2", "fpn_p3", "fpn_p4"),
    *("rpn_conv_shared", "rpn_class_raw", "rpn_bbox_pred"),
)
_BLOCK_ORDER = ("res2a", "bn2a", "res2b", "bn2b", "res2c", "res1", "bn2c", "bn1")  # inside a residual block
WRITTEN_KERAS_VERSION = "2.1.6"  # the Keras whose layout is written; readers pick their conversions by it
WRITTEN_BACKEND = "tensorflow"


class WeightFileError(ValueError):
    """A file that cannot be read as weights; the message names it and says what it is."""


@dataclasses.dataclass
class WeightFile:
    """What a weight file holds, under canonical names.

    Attributes:
        path: the file.
        shapes: {"conv1/kernel": shape}, in file order.
        arrays: {"conv1/kernel": float32 array of that shape}; empty when only shapes were read.
        groups: {"conv1/kernel": the h5 group it lies in}.
        attributes: {"keras_version": ..., "backend": ...}, those that the file has.
        renamed: {stored name: canonical name} of the weights stored under another name.
        style: "keras 2", "keras 1" or "keras-applications", the way its layers and weights are named.
    """

    path: pathlib.Path
    shapes: dict = dataclasses.field(default_factory=dict)
    arrays: dict = dataclasses.field(default_factory=dict)
    groups: dict = dataclasses.field(default_factory=dict)
    attributes: dict = dataclasses.field(default_factory=dict)
    renamed: dict = dataclasses.field(default_factory=dict)
    style: str = "keras 2"


# ---- names -------------------------------------------------------------------------------------------------------


def block_of(layer):
    """(stage 2..5, block letter) of a layer of a residual block, None for every other layer."""
    match = _BLOCK_LAYER.fullmatch(layer)
    return (int(match[2]), match[3]) if match else None


def is_backbone_layer(layer):
    return layer in ("conv1", "bn_conv1") or block_of(layer) is not None


def is_network_layer(layer):
    """Whether a layer of this name, with weights, belongs to the network."""
    return is_backbone_layer(layer) or _NETWORK_LAYER.fullmatch(layer) is not None


def group_of(layer):
    """The h5 group (nested model or the layer itself) of a layer of the network, None for an unknown layer."""
    if is_backbone_layer(layer):
        return "resnet_model"
    if not is_network_layer(layer):
        return None
    if layer.startswith("fpn_") and layer not in _MATCHING_LAYERS:
        return "fpn_model"
    return "rpn_model" if layer.startswith("rpn_") else layer


# ---- reading -----------------------------------------------------------------------------------------------------


def read_weights(path, *, expected=(), values=True):
    """Read a legacy .h5 file: bare weights or a whole saved model, from a training or an inference model.

    Args:
        path: the file.
        expected: layer names to recognise besides those of the network.
        values: False reads shapes only.

    Returns:
        WeightFile.

    Raises:
        WeightFileError: missing, not HDF5, damaged, in the layout of Keras 3, or without weights.
    """
    path = pathlib.Path(path)
    _check_hdf5(path)
    try:
        with h5py.File(path, "r") as h5:
            return _read_groups(path, h5, frozenset(expected), values)
    except WeightFileError:
        raise
    except _DAMAGE as error:
        raise WeightFileError(f"{path}: a damaged or truncated HDF5 file ({error}); fetch or copy it again") from error


def _read_groups(path, h5, expected, values):
    root = h5["model_weights"] if "model_weights" in h5 and not _has_list(h5.attrs, "layer_names") else h5
    _check_layout(path, root)
    stored = list(_stored_weights(path, root))
    layers = {_split(name, group)[0] for group, name, _ in stored}
    file, datasets = WeightFile(path, attributes=_attributes(h5, root)), {}
    for group, name, dataset in stored:
        key, style = _canonical(name, group, layers, expected)
        if key in datasets:
            _check_twin(path, key, name, dataset, datasets[key])
            continue
        datasets[key] = dataset
        file.shapes[key], file.groups[key] = tuple(dataset.shape), group
        file.style = style or file.style
        if "/".join(name.split(":")[0].split("/")[-2:]) != key:
            file.renamed[name] = key
    if not datasets:
        raise WeightFileError(f"{path}: the file lists layers but holds no weights; expected {ACCEPTED}")
    if values:
        file.arrays = {key: np.asarray(dataset[()], np.float32) for key, dataset in datasets.items()}
    return file


def _stored_weights(path, root):
    """(group, stored name, dataset) of every weight, in file order."""
    for group in _string_list(root.attrs, "layer_names"):
        for name in _string_list(root[group].attrs, "weight_names"):
            dataset = root[group][name]
            if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind not in "fiu":
                raise WeightFileError(f"{path}: {group}/{name} is no array of numbers; expected {ACCEPTED}")
            yield group, name, dataset


def _check_twin(path, key, name, dataset, first):
    """The same weight listed twice is harmless, two different ones of one name are not."""
    if dataset.shape != first.shape or not np.array_equal(dataset[()], first[()]):
        raise WeightFileError(f"{path}: two different weights go by the name {key}: {first.name} and {name}")


def _canonical(name, group, layers, expected):
    """Stored weight name -> (canonical name, naming style or None where it is that of Keras 2).

    Args:
        name, group: as stored.
        layers: the layer parts of all stored names.
        expected: layer names to recognise besides those of the network.
    """
    layer, weight, style = _split(name, group)
    bare = _SUFFIX.sub("", layer)
    known = layer
    for candidate in (layer,) if bare in layers else (layer, bare, group):
        if candidate in expected or is_network_layer(candidate):
            known = candidate
            break
        if _applications_layer(candidate):
            known, style = _applications_layer(candidate), "keras-applications"
            break
    weight = _KERAS1_WEIGHTS.get(weight, weight)
    bare_weight = _SUFFIX.sub("", weight)
    return f"{known}/{bare_weight if bare_weight in _WEIGHTS else weight}", style


def _split(name, group):
    """Stored weight name -> (layer, weight, naming style or None). A name without a layer takes the group's."""
    parts = name.split(":")[0].split("/")
    old = _KERAS1_NAME.fullmatch(parts[-1])
    if old and (len(parts) == 1 or parts[-2] == old[1]):
        return old[1], old[2], "keras 1"
    return (parts[-2] if len(parts) > 1 else group), parts[-1], None


def _applications_layer(name):
    """The network's name of a layer named as in keras-applications, None for other names."""
    match = _APPLICATIONS_LAYER.fullmatch(name)
    if not match or not 1 <= int(match[2]) <= 26:  # blocks are letters here
        return _APPLICATIONS_STEM.get(name)
    prefix = "res" if match[4] == "conv" else "bn"
    return f"{prefix}{match[1]}{chr(ord('a') + int(match[2]) - 1)}_branch{_APPLICATIONS_PARTS[int(match[3])]}"


# ---- what a file is ----------------------------------------------------------------------------------------------


def _check_hdf5(path):
    if not path.exists():
        raise WeightFileError(f"{path}: no such weight file")
    if not path.is_file():
        raise WeightFileError(f"{path}: not a file; expected {ACCEPTED}")
    try:
        with open(path, "rb") as file:
            head = file.read(2560)
    except OSError as error:
        raise WeightFileError(f"{path}: cannot be read ({error.strerror})") from error
    if not any(head.startswith(_HDF5_SIGNATURE, offset) for offset in (0, 512, 1024, 2048)):
        raise WeightFileError(f"{path}: not an HDF5 file, it looks like {_foreign(path, head)}; expected {ACCEPTED}")


def _foreign(path, head):
    """What a file is that is not HDF5, in words."""
    if not head:
        return "an empty file"
    if zipfile.is_zipfile(path):
        return _zip_content(path)
    for *beginnings, description in _FOREIGN:
        if head.lstrip()[:64].lower().startswith(tuple(beginning.lower() for beginning in beginnings)):
            return description
    if head.startswith(b"PK\x03\x04"):
        return "a truncated zip, .keras or PyTorch file"
    if not head.strip(b"\0"):
        return "an unfinished download (only zeros)"
    text = head.decode("utf-8", "ignore")
    return "text" if len(text) > 0.9 * len(head) and "\0" not in text else f"unknown data (it begins {head[:8]!r})"


def _zip_content(path):
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return "a damaged zip archive"
    if "model.weights.h5" in names:
        return "a .keras file of Keras 3 (its layout differs: load it with Keras and write it with save_weights)"
    if any(name.endswith("data.pkl") for name in names):
        return "a PyTorch file"
    if any(name.endswith(".npy") for name in names):
        return "a numpy archive"
    return "a zip archive: unpack it first"


def _check_layout(path, root):
    if _has_list(root.attrs, "layer_names"):
        return
    if "layers" in root or "vars" in root or "_layer_checkpoint_dependencies" in root:
        raise WeightFileError(
            f"{path}: a .weights.h5 file of Keras 3, whose layout differs; expected {ACCEPTED}. "
            "Load it with Keras and write it with save_weights"
        )
    content = ", ".join(list(root)[:6]) or "nothing"
    raise WeightFileError(f"{path}: an HDF5 file without layer_names (it holds {content}); expected {ACCEPTED}")


def _attributes(h5, root):
    found = {
        name: where.attrs[name] for where in (h5, root) for name in ("keras_version", "backend") if name in where.attrs
    }
    return {name: _string(value) for name, value in found.items()}


def _has_list(attributes, name):
    return name in attributes or f"{name}0" in attributes


def _string_list(attributes, name):
    """An attribute that is a list of strings, whole or cut into name0, name1, ...: [str], empty where there is none."""
    pieces = itertools.takewhile(attributes.__contains__, (f"{name}{index}" for index in itertools.count()))
    values = [attributes[piece] for piece in ([name] if name in attributes else pieces)]
    return [_string(item) for value in values if not isinstance(value, h5py.Empty) for item in np.ravel(value)]


def _string(value):
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


# ---- writing -----------------------------------------------------------------------------------------------------


def file_layout(homes):
    """Groups and order of a file: what the original writes for the same weights.

    Args:
        homes: {"conv1/kernel": group}, in the order of the model.

    Returns:
        {group: [canonical names]}, in file order; empty lists for layers without weights.
    """
    layers = sorted(dict.fromkeys(layer_of(key) for key in homes), key=_layer_rank)
    rank = {layer: index for index, layer in enumerate(layers)}
    groups = {name: [] for name in _layer_names(set(homes.values()))}
    for key in sorted(homes, key=lambda key: _weight_rank(key, rank)):
        groups.setdefault(homes[key], []).append(key)
    return groups


def write_weights(path, groups, values):
    """Write a file in the legacy layout, to a temporary name first.

    Args:
        path: the file.
        groups: {group: [canonical names]} as `file_layout` gives.
        values: callable, canonical name -> array.
    """
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as h5:
        _set_strings(h5.attrs, "layer_names", list(groups))
        h5.attrs["backend"] = np.bytes_(WRITTEN_BACKEND)
        h5.attrs["keras_version"] = np.bytes_(WRITTEN_KERAS_VERSION)
        for group, keys in groups.items():
            entry = h5.create_group(group)
            _set_strings(entry.attrs, "weight_names", [f"{key}:0" for key in keys])
            for key in keys:
                entry.create_dataset(f"{key}:0", data=np.asarray(values(key), np.float32), track_times=False)


def _set_strings(attributes, name, strings):
    """Fixed-length bytes: Keras 2 calls `decode` on each item. Cut where HDF5 cannot hold them in one attribute."""
    data = np.array([string.encode("utf-8") for string in strings], "S")
    if data.nbytes <= _ATTRIBUTE_BYTES:
        attributes[name] = data
        return
    count = _ATTRIBUTE_BYTES // data.itemsize
    for index, start in enumerate(range(0, len(data), count)):
        attributes[f"{name}{index}"] = data[start : start + count]


def _layer_names(groups):
    """The original's `layer_names` less what the model lacks: without its weights, or all of the mask head."""
    if not groups.intersection(_MATCHING_LAYERS):
        return [name for name in _FILE_LAYERS if name in groups]
    names = _FILE_LAYERS if "mrcnn_mask" in groups else _FILE_LAYERS[: _FILE_LAYERS.index("lambda_19")]
    return [name for name in names if name in groups or not (is_network_layer(name) or name.endswith("_model"))]


def _layer_rank(layer):
    """Where a layer stands in its group; unknown layers keep the order of the model, after the known ones."""
    match = _BLOCK_LAYER.fullmatch(layer)
    if match:
        return (0, match[2], match[3], _BLOCK_ORDER.index(match[1] + match[4]))
    if is_backbone_layer(layer):
        return (0, "1", "", ("conv1", "bn_conv1").index(layer))
    return (1, _NESTED_ORDER.index(layer)) if layer in _NESTED_ORDER else (2,)


def _weight_rank(key, layer_rank):
    weight = key.rpartition("/")[2]
    kind = _WEIGHTS.index(weight) if weight in _WEIGHTS else len(_WEIGHTS)
    return weight.startswith("moving_"), layer_rank[layer_of(key)], kind


def layer_of(key):
    return key.rpartition("/")[0]
