"""Loading Keras weight files into models by name, with a report; saving them; describing what a file holds.

A model is any object with `layers`, searched through nested models. Weights are matched by canonical name
("conv1/kernel", see `legacy_h5`), never by position. `load_weights` checks everything before it assigns the first
weight: an error leaves the model unchanged.
"""

import dataclasses
import logging
import math
import pathlib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from ..io.errors import InputError
from ..io.files import StrPath
from . import legacy_h5
from .batch_norm import EPSILON, corrected_norms, has_other_epsilon
from .expected import misshapen, missing_weights
from .identify import WeightsInfo, identify_weights, residual_blocks
from .legacy_h5 import Shape, WeightFile, group_of, is_backbone_layer, is_network_layer, layer_of

logger = logging.getLogger(__name__)

Exclude = str | Iterable[str] | None  # names of layers or nested models, or regular expressions that match them whole
_Excluded = Callable[[str], bool]  # of a weight's name
_NAMES_SHOWN = 6  # names in a message before "and 12 more"


@dataclasses.dataclass
class LoadReport:
    """What `load_weights` did, in canonical weight names.

    Every weight of the model is in `loaded`, `zeroed`, `excluded` or `missing`; every weight of the file in `loaded`,
    `excluded` or `unused`.

    Attributes:
        path: the file.
        description: what the file is, in words.
        loaded: taken from the file.
        zeroed: biases set to zero because the file's backbone has none.
        missing: not in the file; they keep their values.
        unused: in the file, but not in the model or not fit for it.
        excluded: left out by `exclude`, in the model or in the file.
        mismatched: [(name, shape in the file, shape in the model)] of excluded weights whose shapes differ.
        notes: remarks in words.
    """

    path: pathlib.Path
    description: str
    loaded: list[str]
    zeroed: list[str]
    missing: list[str]
    unused: list[str]
    excluded: list[str]
    mismatched: list[tuple[str, Shape, Shape]]
    notes: list[str]

    def summary(self) -> str:
        """The report in a few lines."""
        lines = [f"{self.path}: {self.description}", f"  loaded: {len(self.loaded)} weights"]
        kept, left_out = ("not in the file, values kept", self.missing), ("left out by exclude", self.excluded)
        for title, keys in (kept, ("in the file, not used", self.unused), left_out):
            if keys:
                lines.append(f"  {title}: {len(keys)} weights ({_layer_list(keys)})")
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


# ---- loading and saving ------------------------------------------------------------------------------------------


def load_weights(model: Any, path: StrPath, exclude: Exclude = ()) -> LoadReport:
    """Load a weight file into a model, by name.

    Args:
        model: object with `layers`.
        path: a file for `legacy_h5.read_weights`: siamese, Matterport's (backbone and FPN are used), or a backbone.
        exclude: names of layers or nested models to leave out, or regular expressions that match them whole.

    Raises:
        ValueError: unreadable file, nothing matched, a shape or a backbone that does not fit, or NaN or infinity among
            the weights. The model is unchanged.
    """
    variables, homes = model_weights(model)
    file = legacy_h5.read_weights(path, expected={layer_of(key) for key in variables}, values=False)
    info = identify_weights(file.shapes)
    is_excluded = _exclusion(exclude, homes)
    offered = {key for key in file.shapes if not is_excluded(key) and not info.is_foreign_head(key)}
    wanted = {key: tuple(variable.shape) for key, variable in variables.items() if not is_excluded(key)}
    if any("_preact_" in key for key in file.shapes):
        raise InputError(f"{file.path}: a pre-activation ResNet (V2); expected a ResNet-50 or ResNet-101")
    if file.attributes.get("backend") == "theano":
        raise InputError(f"{file.path}: written with Theano, which flips kernels; expected TensorFlow's layout")
    _check_blocks(file, info, offered, wanted)
    _check_shapes(file, info, offered, wanted)
    report = _report(file, info, offered, variables, is_excluded)
    if not report.loaded and report.excluded:
        raise InputError(f"{file.path}: exclude leaves nothing to load, it matches {_layer_list(report.excluded)}")
    if not report.loaded:
        held = f"the file has {_layer_list(file.shapes)}, the model {_layer_list(variables)}"
        raise InputError(f"{file.path}: {info.text}. None of its weights is in the model: {held}")
    legacy_h5.read_arrays(file, report.loaded)
    if broken := not_finite(file):
        raise InputError(_not_finite_text(file, broken))
    report.notes += _notes(file, info, report, exclude, homes)
    if has_other_epsilon(file):
        report.notes.append(_correct_norms(file))
    for key in report.loaded:
        variables[key].assign(file.arrays[key])
    for key in report.zeroed:
        variables[key].assign(np.zeros(wanted[key], np.float32))
    logger.log(logging.WARNING if report.missing or report.notes else logging.INFO, "%s", report.summary())
    return report


def _correct_norms(file: WeightFile) -> str:
    """Change the arrays of a file of keras-applications to this network's epsilon; returns a remark in words."""
    changed, num_folded = corrected_norms(file.arrays)
    file.arrays |= changed
    by_gamma = f", {num_folded} channels by their gamma" if num_folded else ""
    done = f"moving variances are corrected for the epsilon {EPSILON} of this network{by_gamma}"
    return f"the file is of keras-applications: {done}; its ImageNet weights are for BGR images and other padding"


def save_weights(model: Any, path: StrPath) -> None:
    """Write the weights of a model (object with `layers`) in the legacy layout that the original reads, atomically."""
    variables, homes = model_weights(model)
    legacy_h5.write_weights(path, legacy_h5.file_layout(homes), lambda key: variables[key].numpy())


# ---- what a file holds -------------------------------------------------------------------------------------------


def fitting_config(path: StrPath) -> str | None:
    """Name of the configuration ("small", "large", "tiny") that a siamese file fits; None for every other file."""
    return identify_file(path).config


def identify_file(path: StrPath) -> WeightsInfo:
    """What a weight file is; ValueError if it cannot be read."""
    return identify_weights(legacy_h5.read_weights(path, values=False).shapes)


def describe_weights(path: StrPath) -> str:
    """What a weight file holds, which configurations it fits and what is left out, as text of several lines.

    Raises:
        ValueError: it cannot be read, or a weight has a shape that none can have.
    """
    file = legacy_h5.read_weights(path, values=False)
    info = identify_weights(file.shapes)
    if file.attributes.get("backend") != "theano" and (problem := misshapen(file.shapes)):
        raise InputError(f"{file.path}: {problem}: the file is damaged, or of another network")
    legacy_h5.read_arrays(file, file.shapes, distinct=True)
    missing, broken = missing_weights(file.shapes, info), not_finite(file)
    origin = f"Keras {file.attributes.get('keras_version', 'of unknown version')}, names in the style of {file.style}"
    if file.renamed:
        origin += f" ({len(file.renamed)} of them translated)"
    left_out = [key for key in file.shapes if not is_network_layer(layer_of(key)) or info.is_foreign_head(key)]
    lines = [f"{file.path}: {info.text}", origin, "", *_table(file), "", f"fits: {info.fits_text}"]
    lines.append(f"left out: {len(left_out)} weights ({_layer_list(left_out)})" if left_out else "left out: nothing")
    lines.append(f"missing: {len(missing)} weights ({_layer_list(missing)})" if missing else "missing: nothing")
    lines += [f"not finite: {_not_finite_text(file, broken).removeprefix(f'{file.path}: ')}"] if broken else []
    if info.kind in ("matterport", "backbone"):
        kept = "matching layers, RPN and heads" if info.has_pyramid else "FPN, matching layers, RPN and heads"
        lines.append(f"not in the file: {kept} keep their initial values")
    lines += [f"use: {info.use(file.path)}"]
    return "\n".join(lines)


def not_finite(file: WeightFile) -> list[str]:
    """The weights of a file, of those whose values were read, that hold NaN or infinity."""
    return [key for key, array in file.arrays.items() if not np.isfinite(array).all()]


def _not_finite_text(file: WeightFile, broken: list[str]) -> str:
    numbers = f"{len(broken)} weights hold NaN or infinity, the first is {broken[0]}"
    return f"{file.path}: {numbers} (layers {_layer_list(broken)}): their training has diverged, or the file is damaged"


# ---- models ------------------------------------------------------------------------------------------------------


def model_weights(model: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """({canonical name: variable}, {canonical name: h5 group}) of a model, in its order."""
    variables, homes = {}, {}
    for layer, outermost in _leaf_layers(model, None, set()):
        for variable in layer.weights:
            key = f"{layer.name}/{variable.name.split('/')[-1].split(':')[0]}"
            if key in variables:
                raise InputError(f"the model has two weights named {key}: layers need distinct names to share a file")
            variables[key] = variable
            homes[key] = group_of(layer.name) or outermost or layer.name
    if not variables:
        raise InputError(f"{type(model).__name__} {getattr(model, 'name', '')!r} has no weights; build the model first")
    return variables, homes


def _leaf_layers(model: Any, outermost: str | None, seen: set[int]) -> Iterator[tuple[Any, str | None]]:
    """(layer, name of the outermost nested model around it or None), each layer once."""
    for layer in model.layers:
        if id(layer) in seen:
            continue
        seen.add(id(layer))
        if hasattr(layer, "layers"):
            yield from _leaf_layers(layer, outermost or layer.name, seen)
        else:
            yield layer, outermost


def _exclusion(exclude: Exclude, homes: Mapping[str, str]) -> _Excluded:
    """Callable that tells whether a weight's layer, or the nested model around it, is excluded."""
    try:
        patterns = [re.compile(item) for item in _items(exclude)]
    except (re.error, TypeError) as error:
        raise InputError(f"exclude {exclude!r}: expected a layer name or a regular expression ({error})") from error

    def is_excluded(key: str) -> bool:
        names = (layer_of(key), homes.get(key) or group_of(layer_of(key)) or "")
        return any(pattern.fullmatch(name) for pattern in patterns for name in names)

    return is_excluded


def _items(exclude: Exclude) -> list[str]:
    return [exclude] if isinstance(exclude, str) else list(exclude or ())


# ---- checks before the first assignment --------------------------------------------------------------------------


def _check_blocks(file: WeightFile, info: WeightsInfo, offered: Iterable[str], wanted: Iterable[str]) -> None:
    in_file, in_model = residual_blocks(offered), residual_blocks(wanted)
    if not in_file or in_file == in_model:
        return
    counts = []
    if extra := in_file - in_model:
        counts.append(f"{len(extra)} of its residual blocks are not in the model ({_block_list(extra)})")
    if lacking := in_model - in_file:
        counts.append(f"{len(lacking)} of the model's residual blocks are not in it ({_block_list(lacking)})")
    way = f'{info.advice}; to load the other weights exclude "resnet_model"'
    raise InputError(f"{file.path}: {info.text}. {' and '.join(counts)}. {way}")


def _check_shapes(file: WeightFile, info: WeightsInfo, offered: Collection[str], wanted: Mapping[str, Shape]) -> None:
    differing = [key for key in wanted if key in offered and file.shapes[key] != wanted[key]]
    if not differing:
        return
    first, *others = differing
    more = f"; so do {len(others)} more weights ({_layer_list(others)})" if others else ""
    shapes = f"{_shape(file.shapes[first])} in the file, {_shape(wanted[first])} in the model{more}"
    raise InputError(f"{file.path}: shapes of {first} differ: {shapes}. {info.advice}; or exclude these layers by name")


def _report(
    file: WeightFile, info: WeightsInfo, offered: Collection[str], model: dict[str, Any], is_excluded: _Excluded
) -> LoadReport:
    loaded = [key for key in model if key in offered]
    convolutions = {layer_of(key) for key in offered if key.endswith("/kernel") and is_backbone_layer(layer_of(key))}
    biases = {f"{layer}/bias" for layer in convolutions} if not info.has_biases else set()
    zeroed = [key for key in model if key in biases and not is_excluded(key)]
    excluded = [key for key in dict.fromkeys([*model, *file.shapes]) if is_excluded(key)]
    shapes = {key: tuple(model[key].shape) for key in excluded if key in model and key in file.shapes}
    mismatched = [(key, file.shapes[key], shape) for key, shape in shapes.items() if file.shapes[key] != shape]
    done = {*loaded, *zeroed, *excluded}
    missing, unused = ([key for key in keys if key not in done] for keys in (model, file.shapes))
    return LoadReport(file.path, info.text, loaded, zeroed, missing, unused, excluded, mismatched, [])


def _notes(
    file: WeightFile, info: WeightsInfo, report: LoadReport, exclude: Exclude, homes: dict[str, str]
) -> list[str]:
    notes = []
    if info.kind == "matterport":
        notes.append("heads and RPN of Matterport's Mask R-CNN read other maps: only backbone and FPN are used")
    if report.zeroed:
        notes.append(f"the file has no biases for {len(report.zeroed)} convolutions of the backbone: they are set to 0")
    if any(layer_of(key) == "mrcnn_mask" for key in report.missing) and info.kind == "siamese":
        notes.append("the file has no mask head: masks are meaningless until it is trained")
    if any(layer_of(key) == "presence_logit" for key in report.missing) and info.kind == "siamese":
        notes.append("the file has no presence output: all scores are halved until it is trained")
    if any(layer_of(key) == "presence_logit" for key in report.unused):
        notes.append("the presence output of the file is not used; set USE_PRESENCE = True to use it")
    names = {layer_of(key) for key in (*homes, *file.shapes)} | set(homes.values())
    idle = [item for item in _items(exclude) if not any(re.fullmatch(item, name) for name in names)]
    return notes + [f"exclude {item!r} matches no layer with weights" for item in idle]


# ---- text --------------------------------------------------------------------------------------------------------


def _table(file: WeightFile) -> list[str]:
    """Lines of a table: part, weights, parameters, layers or the shape of the kernel."""
    parts: dict[str, list[str]] = {}
    for key in file.shapes:
        parts.setdefault(group_of(layer_of(key)) or file.groups[key], []).append(key)
    rows = [("part", "weights", "parameters", "")]
    for part, keys in (*parts.items(), ("all", list(file.shapes))):
        layers = {layer_of(key) for key in keys}
        content = f"{len(layers)} layers" if len(layers) > 1 else _shape(file.shapes[keys[0]])
        size = sum(math.prod(file.shapes[key]) for key in keys)
        rows.append((part, str(len(keys)), f"{size:,}", content))
    rows[-1] = (*rows[-1][:3], "")
    width = max(len(row[0]) for row in rows)
    return [f"{name:{width}}  {count:>7}  {size:>10}  {content}".rstrip() for name, count, size, content in rows]


def _shape(shape: Shape) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _layer_list(keys: Iterable[str]) -> str:
    """Layers of weights, the first few by name."""
    layers = list(dict.fromkeys(layer_of(key) for key in keys))
    more = f" and {len(layers) - _NAMES_SHOWN} more" if len(layers) > _NAMES_SHOWN else ""
    return ", ".join(layers[:_NAMES_SHOWN]) + more


def _block_list(blocks: Iterable[tuple[int, str]]) -> str:
    names = [f"res{stage}{letter}" for stage, letter in sorted(blocks)]
    return f"{names[0]} .. {names[-1]}" if len(names) > _NAMES_SHOWN else ", ".join(names)
