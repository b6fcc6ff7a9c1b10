"""Weight files in the legacy .h5 layout of Keras 1 and 2, read and written; those of Keras 3, read.

A weight has a canonical name "layer/weight" ("conv1/kernel", "bn_conv1/moving_variance"), with the layer named as in
Matterport's Mask R-CNN. A file holds weights in groups, one per top-level layer or nested model; the attributes
`layer_names` (root) and `weight_names` (group) give names and order. Nothing here knows models or configurations.
"""

import dataclasses
import io
import itertools
import pathlib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from ..io.archives import member_names, read_member
from ..io.errors import InputError
from ..io.files import StrPath, open_regular, require_regular, write_bytes
from . import hdf5
from .foreign import describe_foreign
from .hdf5 import WeightFileError

ACCEPTED = "Keras weights: .h5 (Keras 1 and 2, Matterport, this package), .weights.h5 or .keras (Keras 3)"
Shape = tuple[int, ...]

_BLOCK_LAYER = re.compile(r"(res|bn)([2-5])([a-z])_branch(1|2[abc])")
_NETWORK_LAYER = re.compile(
    r"fpn_c[2-5]p[2-5]|fpn_p[2-6]|fpn_distance_P[2-6]|rpn_(?:conv_shared|class_raw|bbox_pred)"
    r"|mrcnn_(?:class|mask)_(?:conv|bn)[1-4]|mrcnn_(?:class_logits|bbox_fc|mask_deconv|mask)|presence_(?:fc|logit)"
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

_ATTRIBUTE_BYTES = 64512  # Keras' limit for one HDF5 attribute; longer lists are split into name0, name1, ...
_KERAS3_ARCHIVE, _KERAS3_MEMBER = b"PK\x03\x04", "model.weights.h5"  # a .keras file, and the weights in it
_KERAS3_UNPACKED, _KERAS3_RATIO = 2**26, 10  # bytes, and times those in the archive, that they may have
_KERAS3_GROUPS = ("layers", "_layer_checkpoint_dependencies")
_MAX_BYTES = 2**31  # of the values that are read; the original's large network has 2**28
_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_HDF5_OFFSETS = (0, 512, 1024, 2048)  # where the signature may be

# What the original writes for its network, in its order; layers without weights have an empty group.
_FILE_LAYERS = """
    input_target input_image lambda_1 resnet_model fpn_model lambda_2 lambda_3 lambda_4 lambda_5 lambda_6
    global_average_pooling2d_1 global_average_pooling2d_2 global_average_pooling2d_3 global_average_pooling2d_4
    global_average_pooling2d_5 lambda_7 lambda_9 lambda_11 lambda_13 lambda_15 subtract_1 subtract_2 subtract_3
    subtract_4 subtract_5 lambda_8 lambda_10 lambda_12 lambda_14 lambda_16 concatenate_1 concatenate_2
    concatenate_3 concatenate_4 concatenate_5 fpn_distance_P2 fpn_distance_P3 fpn_distance_P4 fpn_distance_P5
    fpn_distance_P6 rpn_model rpn_class rpn_bbox input_anchors ROI input_image_meta roi_align_classifier
    mrcnn_class_conv1 mrcnn_class_bn1 activation_34 mrcnn_class_conv2 mrcnn_class_bn2 activation_35 pool_squeeze
    mrcnn_bbox_fc mrcnn_class_logits mrcnn_bbox mrcnn_class concatenate_6 mrcnn_detection lambda_19
    roi_align_mask mrcnn_mask_conv1 mrcnn_mask_bn1 activation_37 mrcnn_mask_conv2 mrcnn_mask_bn2 activation_38
    mrcnn_mask_conv3 mrcnn_mask_bn3 activation_39 mrcnn_mask_conv4 mrcnn_mask_bn4 activation_40
    mrcnn_mask_deconv mrcnn_mask concatenate_7
""".split()
_MATCHING_LAYERS = [f"fpn_distance_P{level}" for level in range(2, 7)]
_MASK_LAYERS = _FILE_LAYERS[_FILE_LAYERS.index("lambda_19") :]
_FPN_ORDER = "fpn_c5p5 fpn_c4p4 fpn_c3p3 fpn_c2p2 fpn_p5 fpn_p2 fpn_p3 fpn_p4".split()  # inside fpn_model
_NESTED_ORDER = [*_FPN_ORDER, "rpn_conv_shared", "rpn_class_raw", "rpn_bbox_pred"]
_BLOCK_ORDER = ("res2a", "bn2a", "res2b", "bn2b", "res2c", "res1", "bn2c", "bn1")  # inside a residual block
WRITTEN_KERAS_VERSION = "2.1.6"  # the Keras whose layout is written; readers choose their conversions by it
WRITTEN_BACKEND = "tensorflow"


@dataclasses.dataclass
class WeightFile:
    """The content of a weight file, under canonical names.

    Attributes:
        path: the file.
        shapes: {"conv1/kernel": shape}, in file order.
        arrays: {"conv1/kernel": float32 array of that shape}; empty when only shapes were read.
        places: {"conv1/kernel": where it is in the HDF5 file, several places where it is listed more than once}.
        groups: {"conv1/kernel": its h5 group}.
        attributes: {"keras_version": ..., "backend": ...}, as far as the file has them.
        renamed: {stored name: canonical name} of weights stored under another name.
        style: naming style of layers and weights, "keras 3", "keras 2", "keras 1" or "keras-applications".
    """

    path: pathlib.Path
    shapes: dict[str, Shape] = dataclasses.field(default_factory=dict)
    arrays: dict[str, npt.NDArray[np.float32]] = dataclasses.field(default_factory=dict)
    places: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    groups: dict[str, str] = dataclasses.field(default_factory=dict)
    attributes: dict[str, str] = dataclasses.field(default_factory=dict)
    renamed: dict[str, str] = dataclasses.field(default_factory=dict)
    style: str = "keras 2"


# ---- names -------------------------------------------------------------------------------------------------------


def layer_of(key: str) -> str:
    """Layer name of a canonical weight name."""
    return key.rpartition("/")[0]


def block_of(layer: str) -> tuple[int, str] | None:
    """(stage 2..5, block letter) of a layer in a residual block; None for other layers."""
    match = _BLOCK_LAYER.fullmatch(layer)
    return (int(match[2]), match[3]) if match else None


def is_backbone_layer(layer: str) -> bool:
    """Whether a layer of this name belongs to the backbone."""
    return layer in ("conv1", "bn_conv1") or block_of(layer) is not None


def is_network_layer(layer: str) -> bool:
    """Whether a layer of this name is a layer of the network with weights."""
    return is_backbone_layer(layer) or _NETWORK_LAYER.fullmatch(layer) is not None


def group_of(layer: str) -> str | None:
    """The h5 group of a layer of the network (nested model or the layer itself); None for unknown layers."""
    if is_backbone_layer(layer):
        return "resnet_model"
    if not is_network_layer(layer):
        return None
    if layer.startswith("fpn_") and layer not in _MATCHING_LAYERS:
        return "fpn_model"
    return "rpn_model" if layer.startswith("rpn_") else layer


# ---- reading -----------------------------------------------------------------------------------------------------


def read_weights(path: StrPath, *, expected: Iterable[str] = (), values: bool = True) -> WeightFile:
    """Read a legacy .h5 file (bare weights or a whole saved model), or .weights.h5 or .keras of Keras 3.

    Without `values` only shapes are read, and `read_arrays` reads what fits them.

    `expected` are layer names to recognise besides those of the network.

    Raises:
        WeightFileError: missing, no weights of Keras, damaged, without weights, with links to elsewhere, or with values
            of more than 2 GiB; says what the file is.
    """
    path = pathlib.Path(path)
    content = _hdf5_of(path)
    with hdf5.opened(path, content) as h5:
        size = path.stat().st_size if isinstance(content, pathlib.Path) else content.getbuffer().nbytes
        file = _read_groups(path, h5, frozenset(expected), size)
        if values:
            _read_arrays(h5, file, file.shapes)
    return file


def read_arrays(file: WeightFile, keys: Iterable[str], *, distinct: bool = False) -> None:
    """Read the values of these weights into `file.arrays`; their shapes are known from `read_weights`.

    With `distinct` a weight that the file declares but does not store is [1], the value that all its numbers have.

    Raises:
        WeightFileError: they take more than 2 GiB, or two different weights have one name.
    """
    with hdf5.opened(file.path, _hdf5_of(file.path)) as h5:
        _read_arrays(h5, file, keys, distinct)


def _read_arrays(h5: h5py.File, file: WeightFile, keys: Iterable[str], distinct: bool = False) -> None:
    found = {key: [h5[place] for place in file.places[key]] for key in keys}
    if distinct:
        unstored = {key for key, (first, *_) in found.items() if not first.id.get_storage_size()}
        file.arrays |= {key: np.asarray([found.pop(key)[0].fillvalue], np.float32) for key in unstored}
    for key, datasets in found.items():
        if any(not hdf5.is_numeric(one) or one.shape != file.shapes[key] for one in datasets):
            raise WeightFileError(f"{file.path}: {key} has changed while the file was read")
    total = sum(hdf5.declared_bytes(one) for datasets in found.values() for one in datasets)
    if total > _MAX_BYTES:
        raise WeightFileError(f"{file.path}: declares {total} bytes of weights, expected at most {_MAX_BYTES}")
    for key, (first, *others) in found.items():
        array = file.arrays[key] = hdf5.read_array(first)
        for other in others:  # the same weight may be listed twice
            if not np.array_equal(hdf5.read_array(other), array):
                names = f"{first.name} and {other.name}"
                raise WeightFileError(f"{file.path}: two different weights have the name {key}: {names}")


def _read_groups(path: pathlib.Path, h5: h5py.File, expected: frozenset[str], size: int) -> WeightFile:
    names = {"layer_names", "layer_names0"}
    root = h5["model_weights"] if "model_weights" in h5 and names.isdisjoint(h5.attrs) else h5
    for part in (h5, root):
        hdf5.require_attributes(part.attrs, path, size)
    own = any(isinstance(root.get(name), h5py.Group) for name in _KERAS3_GROUPS)
    is_keras3 = names.isdisjoint(root.attrs) and own
    if names.isdisjoint(root.attrs) and not is_keras3:
        content = f"HDF5 without layer_names that holds {', '.join(list(root)[:6]) or 'nothing'}"
        raise WeightFileError(f"{path}: not a Keras weight file ({content}); expected {ACCEPTED}")
    stored = list(_keras3_weights(path, root, size) if is_keras3 else _stored_weights(path, root, size))
    layers = {_split(name, group)[0] for group, name, _ in stored}
    about = itertools.product(("keras_version", "backend"), (h5, root))
    file = WeightFile(path, attributes={name: _string(at.attrs[name]) for name, at in about if name in at.attrs})
    if is_keras3:
        file.style, file.attributes["keras_version"] = "keras 3", "3"
    for group, name, dataset in stored:
        key, style = _canonical(name, group, layers, expected)
        if key in file.shapes:
            if dataset.shape != file.shapes[key]:
                both = f"{file.places[key][0]} and {name}"
                raise WeightFileError(f"{path}: two different weights have the name {key}: {both}")
            if dataset.name not in file.places[key]:
                file.places[key].append(dataset.name)
            continue
        file.places[key] = [dataset.name]
        file.shapes[key], file.groups[key] = tuple(dataset.shape), group
        file.style = style or file.style
        if "/".join(name.split(":")[0].split("/")[-2:]) != key:
            file.renamed[name] = key
    if not file.shapes:
        raise WeightFileError(f"{path}: the file lists layers but holds no weights; expected {ACCEPTED}")
    return file


def _stored_weights(path: pathlib.Path, root: h5py.Group, size: int) -> Iterator[tuple[str, str, h5py.Dataset]]:
    """(group, stored name, dataset) of every weight, in file order."""
    for group in _string_list(root.attrs, "layer_names"):
        hdf5.require_attributes(root[group].attrs, path, size)
        for name in _string_list(root[group].attrs, "weight_names"):
            dataset = root[group][name]
            if not hdf5.is_numeric(dataset):
                raise WeightFileError(f"{path}: {group}/{name} is not an array of numbers; expected {ACCEPTED}")
            yield group, name, dataset


def _keras3_weights(path: pathlib.Path, root: h5py.Group, size: int) -> Iterator[tuple[str, str, h5py.Dataset]]:
    """(group, name, dataset) of every weight of a Keras 3 file, whose arrays 0, 1, ... of a layer have no names.

    The layer's own name is an attribute; a normalization has four arrays, other layers a kernel and mostly a bias.
    """
    found: list[tuple[h5py.Group, list[str]]] = []

    def visit(name: str, item: Any) -> None:
        if name.rpartition("/")[2] == "vars" and (numbers := sorted(filter(str.isdecimal, item), key=int)):
            found.append((item, numbers))

    root[next(name for name in _KERAS3_GROUPS if name in root)].visititems(visit)
    for group, numbers in found:
        hdf5.require_attributes(group.attrs, path, size)
        if "name" not in group.attrs:
            way = "load it with model.keras_model.load_weights, then write it with model.save_weights(NAME.h5)"
            raise WeightFileError(f"{path}: from an older Keras 3, it does not name its layers; {way}")
        layer = _string(group.attrs["name"])
        names = _WEIGHTS[:2] if len(numbers) < len(_WEIGHTS[2:]) else _WEIGHTS[2:]
        for index in numbers:
            dataset = group[index]
            if not hdf5.is_numeric(dataset):
                raise WeightFileError(f"{path}: {dataset.name} is not an array of numbers; expected {ACCEPTED}")
            weight = names[int(index)] if int(index) < len(names) else f"weight_{index}"
            yield group_of(layer) or layer, f"{layer}/{weight}", dataset


def _canonical(name: str, group: str, layers: set[str], expected: frozenset[str]) -> tuple[str, str | None]:
    """Stored weight name -> (canonical name, naming style or None for Keras 2); `layers` are those of all names."""
    layer, weight, style = _split(name, group)
    bare = _SUFFIX.sub("", layer)
    for candidate in (layer,) if bare in layers else (layer, bare, group):
        if candidate in expected or is_network_layer(candidate):
            layer = candidate
            break
        if translated := _applications_layer(candidate):
            layer, style = translated, "keras-applications"
            break
    weight = _KERAS1_WEIGHTS.get(weight, weight)
    bare_weight = _SUFFIX.sub("", weight)
    return f"{layer}/{bare_weight if bare_weight in _WEIGHTS else weight}", style


def _split(name: str, group: str) -> tuple[str, str, str | None]:
    """Stored weight name -> (layer, weight, naming style or None). A name without a layer takes the group's."""
    parts = name.split(":")[0].split("/")
    old = _KERAS1_NAME.fullmatch(parts[-1])
    if old and (len(parts) == 1 or parts[-2] == old[1]):
        return old[1], old[2], "keras 1"
    return (parts[-2] if len(parts) > 1 else group), parts[-1], None


def _applications_layer(name: str) -> str | None:
    """The network's name of a layer named as in keras-applications; None for other names."""
    match = _APPLICATIONS_LAYER.fullmatch(name)
    if not match or not 1 <= int(match[2]) <= 26:  # blocks are letters here
        return _APPLICATIONS_STEM.get(name)
    prefix = "res" if match[4] == "conv" else "bn"
    return f"{prefix}{match[1]}{chr(ord('a') + int(match[2]) - 1)}_branch{_APPLICATIONS_PARTS[int(match[3])]}"


# ---- what a file is ----------------------------------------------------------------------------------------------


def _hdf5_of(path: pathlib.Path) -> pathlib.Path | io.BytesIO:
    """The HDF5 content of a weight file: the file itself, or the weights inside a .keras archive."""
    require_regular(path, ACCEPTED)
    if not path.is_file():
        what = "a folder" if path.is_dir() else "no such weight file"
        raise WeightFileError(f"{path}: {what}; expected {ACCEPTED}")
    try:
        with open_regular(path) as file:
            head = file.read(_HDF5_OFFSETS[-1] + len(_HDF5_SIGNATURE))
    except OSError as error:
        raise WeightFileError(f"{path}: cannot be read ({error.strerror or error})") from error
    if any(head.startswith(_HDF5_SIGNATURE, offset) for offset in _HDF5_OFFSETS):
        return path
    if head.startswith(_KERAS3_ARCHIVE):
        try:
            if _KERAS3_MEMBER in member_names(path):
                return io.BytesIO(read_member(path, _KERAS3_MEMBER, limit=_KERAS3_UNPACKED, ratio=_KERAS3_RATIO))
        except InputError as error:
            raise WeightFileError(str(error)) from error
    raise WeightFileError(f"{path}: {describe_foreign(path, head)}; expected {ACCEPTED}")


def _string_list(attributes: h5py.AttributeManager, name: str) -> list[str]:
    """An attribute that lists strings, whole or split into name0, name1, ...; an empty list without one."""
    pieces = itertools.takewhile(attributes.__contains__, (f"{name}{index}" for index in itertools.count()))
    values = [attributes[piece] for piece in ([name] if name in attributes else pieces)]
    return [_string(item) for value in values if not isinstance(value, h5py.Empty) for item in np.ravel(value)]


def _string(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


# ---- writing -----------------------------------------------------------------------------------------------------


def file_layout(homes: Mapping[str, str]) -> dict[str, list[str]]:
    """{group: [canonical names]} in the original's order, from {"conv1/kernel": group} in the order of the model."""
    layers = sorted(dict.fromkeys(layer_of(key) for key in homes), key=_layer_rank)
    groups: dict[str, list[str]] = {name: [] for name in _layer_names(set(homes.values()))}

    def rank(key: str) -> tuple[bool, int, int]:
        layer, _, weight = key.rpartition("/")
        place = _WEIGHTS.index(weight) if weight in _WEIGHTS else len(_WEIGHTS)
        return weight.startswith("moving_"), layers.index(layer), place

    for key in sorted(homes, key=rank):
        groups.setdefault(homes[key], []).append(key)
    return groups


def write_weights(path: StrPath, groups: Mapping[str, Collection[str]], values: Callable[[str], Any]) -> None:
    """Write a file in the legacy layout, atomically: `groups` as from `file_layout`, `values` gives arrays by name."""
    memory = io.BytesIO()  # see `keras_files`
    with h5py.File(memory, "w") as h5:
        set_strings(h5.attrs, "layer_names", list(groups))
        h5.attrs["backend"] = np.bytes_(WRITTEN_BACKEND)
        h5.attrs["keras_version"] = np.bytes_(WRITTEN_KERAS_VERSION)
        for group, keys in groups.items():
            entry = h5.create_group(group)
            set_strings(entry.attrs, "weight_names", [f"{key}:0" for key in keys])
            for key in keys:
                entry.create_dataset(f"{key}:0", data=np.asarray(values(key), np.float32), track_times=False)
    write_bytes(path, memory.getbuffer())


def set_strings(attributes: h5py.AttributeManager, name: str, strings: Collection[str]) -> None:
    """Fixed-length bytes, as Keras 2 calls `decode` on each item; split if one HDF5 attribute cannot hold them."""
    data = np.array([string.encode("utf-8") for string in strings], "S")
    count = _ATTRIBUTE_BYTES // data.itemsize
    for index, start in enumerate(range(0, max(len(data), 1), count)):
        attributes[f"{name}{index}" if len(data) > count else name] = data[start : start + count]


def _layer_names(groups: set[str]) -> list[str]:
    """The original's `layer_names` without layers that the model lacks: those with weights, or the whole mask head."""
    if not groups.intersection(_MATCHING_LAYERS):
        return [name for name in _FILE_LAYERS if name in groups]
    lacking = () if "mrcnn_mask" in groups else _MASK_LAYERS
    left = [name for name in _FILE_LAYERS if name not in lacking]
    return [name for name in left if name in groups or not (is_network_layer(name) or name.endswith("_model"))]


def _layer_rank(layer: str) -> tuple[Any, ...]:
    """Sort key of a layer in its group; unknown layers come last, in the order of the model."""
    if match := _BLOCK_LAYER.fullmatch(layer):
        return (0, match[2], match[3], _BLOCK_ORDER.index(match[1] + match[4]))
    if is_backbone_layer(layer):
        return (0, "1", "", ("conv1", "bn_conv1").index(layer))
    return (1, _NESTED_ORDER.index(layer)) if layer in _NESTED_ORDER else (2,)
