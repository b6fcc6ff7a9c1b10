"""Weights of models in legacy .h5 files: what a file is, loading by name with a report, saving.

A model is any object with `layers`; those that have `layers` themselves are searched too. Weights are matched by
canonical name ("conv1/kernel", see weight_files), never by position. `load_weights` checks everything before it assigns
the first weight, so an error leaves the model as it was.
"""

import dataclasses
import logging
import math
import pathlib
import re

import numpy as np

from .identify import judge, residual_blocks
from .legacy_h5 import file_layout, group_of, is_backbone_layer, is_network_layer, layer_of, read_weights, write_weights

logger = logging.getLogger(__name__)

_NAMES_SHOWN = 6  # names in a message before "and 12 more"


@dataclasses.dataclass
class LoadReport:
    """What `load_weights` did, in canonical weight names.

    Every weight of the model is in `loaded`, `zeroed`, `excluded` or `missing`; every weight of the file in `loaded`,
    `excluded` or `unused`.

    Attributes:
        path: the file.
        verdict: what the file is, in words.
        loaded: taken from the file.
        zeroed: biases set to zero because the file's backbone has none.
        missing: not in the file; they keep their values.
        unused: in the file, not in the model or not fit for it.
        excluded: left out by `exclude`, in the model or in the file.
        mismatched: [(name, shape in the file, shape in the model)] of excluded weights whose shapes differ.
        notes: remarks in words.
    """

    path: pathlib.Path
    verdict: str
    loaded: list
    zeroed: list
    missing: list
    unused: list
    excluded: list
    mismatched: list
    notes: list

    def summary(self):
        """The report in a few lines."""
        lines = [f"{self.path}: {self.verdict}", f"  loaded: {len(self.loaded)} weights"]
        for title, keys in (
            ("not in the file, values kept", self.missing),
            ("in the file, not used", self.unused),
            ("left out by exclude", self.excluded),
        ):
            if keys:
                lines.append(f"  {title}: {len(keys)} weights ({_layer_list(keys)})")
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


# ---- loading and saving ------------------------------------------------------------------------------------------


def load_weights(model, path, exclude=()):
    """Load a weight file into a model, by name.

    Args:
        model: object with `layers`.
        path: a legacy .h5 file: siamese, Matterport's (backbone and FPN are used), or a backbone.
        exclude: names of layers or nested models to leave out, or regular expressions that match them whole.

    Returns:
        LoadReport.

    Raises:
        ValueError: unreadable file, nothing matched, a shape or a backbone that does not fit. The model is unchanged.
    """
    variables, homes = _model_weights(model)
    file = read_weights(path, expected={layer_of(key) for key in variables})
    verdict = judge(file.shapes)
    left_out = _exclusion(exclude, homes)
    offered = {key for key in file.shapes if not left_out(key) and not verdict.is_foreign_head(key)}
    wanted = {key: tuple(variable.shape) for key, variable in variables.items() if not left_out(key)}
    _check_family(file)
    _check_blocks(file, verdict, offered, wanted)
    _check_shapes(file, verdict, offered, wanted)
    report = _report(file, verdict, offered, variables, left_out)
    _check_matched(file, report, variables)
    report.notes += _notes(file, verdict, report, exclude, homes)
    for key in report.loaded:
        variables[key].assign(file.arrays[key])
    for key in report.zeroed:
        variables[key].assign(np.zeros(wanted[key], np.float32))
    is_partial = bool(report.missing or report.notes)
    logger.log(logging.WARNING if is_partial else logging.INFO, "%s", report.summary())
    return report


def save_weights(model, path):
    """Write a model's weights in the legacy layout that the original reads.

    Args:
        model: object with `layers`.
        path: the file; written to a temporary name and renamed.
    """
    variables, homes = _model_weights(model)
    write_weights(path, file_layout(homes), lambda key: variables[key].numpy())


# ---- looking into files ------------------------------------------------------------------------------------------


def fitting_config(path):
    """Name of the configuration ("small", "large", "tiny") a siamese file belongs to; None for every other file."""
    return judge(read_weights(path, values=False).shapes).config


def describe_weights(path):
    """What a weight file holds, which configurations it fits and what would be left out, as text of several lines."""
    file = read_weights(path, values=False)
    verdict = judge(file.shapes)
    origin = f"Keras {file.attributes.get('keras_version', 'of unknown version')}, names in the style of {file.style}"
    if file.renamed:
        origin += f" ({len(file.renamed)} of them translated)"
    left_out = [key for key in file.shapes if not is_network_layer(layer_of(key)) or verdict.is_foreign_head(key)]
    lines = [f"{file.path}: {verdict.text}", origin, "", *_table(file), "", f"fits: {verdict.fits_text}"]
    lines.append(f"left out: {len(left_out)} weights ({_layer_list(left_out)})" if left_out else "left out: nothing")
    if verdict.kind in ("matterport", "backbone"):
        kept = "matching layers, RPN and heads" if verdict.has_pyramid else "FPN, matching layers, RPN and heads"
        lines.append(f"not in the file: {kept} keep their initial values")
    return "\n".join(lines)


# ---- models ------------------------------------------------------------------------------------------------------


def _model_weights(model):
    """({canonical name: variable}, {canonical name: h5 group}) of a model, in its order."""
    variables, homes = {}, {}
    for layer, outermost in _leaf_layers(model, None, set()):
        for variable in layer.weights:
            key = f"{layer.name}/{variable.name.split('/')[-1].split(':')[0]}"
            if key in variables:
                raise ValueError(
                    f"the model has two weights named {key}: layers that share a file need names of their own"
                )
            variables[key] = variable
            homes[key] = group_of(layer.name) or outermost or layer.name
    if not variables:
        raise ValueError(f"{type(model).__name__} {getattr(model, 'name', '')!r} has no weights; build the model first")
    return variables, homes


def _leaf_layers(model, outermost, seen):
    """(layer, name of the outermost nested model it lies in or None), each layer once."""
    for layer in model.layers:
        if id(layer) in seen:
            continue
        seen.add(id(layer))
        if hasattr(layer, "layers"):
            yield from _leaf_layers(layer, outermost or layer.name, seen)
        else:
            yield layer, outermost


def _exclusion(exclude, homes):
    """Callable that tells whether a weight's layer, or the nested model it lies in, is excluded."""
    patterns = [_pattern(item) for item in _items(exclude)]

    def left_out(key):
        names = (layer_of(key), homes.get(key) or group_of(layer_of(key)) or "")
        return any(pattern.fullmatch(name) for pattern in patterns for name in names)

    return left_out


def _items(exclude):
    return [exclude] if isinstance(exclude, str) else list(exclude or ())


def _pattern(item):
    try:
        return re.compile(item)
    except (re.error, TypeError) as error:
        raise ValueError(f"exclude {item!r}: expected a layer name or a regular expression ({error})") from error


# ---- checks before the first assignment --------------------------------------------------------------------------


def _check_family(file):
    """Files that look like the network's backbone and are not."""
    if any("_preact_" in key for key in file.shapes):
        raise ValueError(
            f"{file.path}: a pre-activation ResNet (V2), another network; expected a ResNet-50 or ResNet-101"
        )
    if file.attributes.get("backend") == "theano":
        raise ValueError(
            f"{file.path}: written with Theano, which stores kernels flipped; expected a file of TensorFlow"
        )


def _check_blocks(file, verdict, offered, wanted):
    in_file, in_model = residual_blocks(offered), residual_blocks(wanted)
    if not in_file or in_file == in_model:
        return
    extra, lacking = sorted(in_file - in_model), sorted(in_model - in_file)
    counts = []
    if extra:
        counts.append(f"{len(extra)} of its residual blocks are not in the model ({_block_list(extra)})")
    if lacking:
        counts.append(f"{len(lacking)} of the model's residual blocks are not in it ({_block_list(lacking)})")
    raise ValueError(
        f"{file.path}: {verdict.text}. {' and '.join(counts)}. {verdict.advice}; "
        'to load the rest alone exclude "resnet_model"'
    )


def _check_shapes(file, verdict, offered, wanted):
    differing = [key for key in wanted if key in offered and file.shapes[key] != wanted[key]]
    if not differing:
        return
    first, *others = differing
    more = f"; so do {len(others)} more weights ({_layer_list(others)})" if others else ""
    raise ValueError(
        f"{file.path}: shapes of {first} differ: {_shape(file.shapes[first])} in the file, {_shape(wanted[first])} in "
        f"the model{more}. {verdict.advice}; or exclude these layers by name"
    )


def _check_matched(file, report, variables):
    if report.loaded:
        return
    if report.excluded:
        raise ValueError(
            f"{file.path}: nothing to load is left by exclude, which matches {_layer_list(report.excluded)}"
        )
    raise ValueError(
        f"{file.path}: {report.verdict}. None of its weights is in the model: the file has {_layer_list(file.shapes)}, "
        f"the model {_layer_list(variables)}"
    )


def _report(file, verdict, offered, variables, left_out):
    loaded = [key for key in variables if key in offered]
    zeroed = [key for key in variables if not left_out(key) and _lacks_bias(key, offered, verdict)]
    excluded = [key for key in dict.fromkeys([*variables, *file.shapes]) if left_out(key)]
    shapes = {key: tuple(variables[key].shape) for key in excluded if key in variables and key in file.shapes}
    done = {*loaded, *zeroed, *excluded}
    return LoadReport(
        path=file.path,
        verdict=verdict.text,
        loaded=loaded,
        zeroed=zeroed,
        missing=[key for key in variables if key not in done],
        unused=[key for key in file.shapes if key not in done],
        excluded=excluded,
        mismatched=[(key, file.shapes[key], shape) for key, shape in shapes.items() if file.shapes[key] != shape],
        notes=[],
    )


def _lacks_bias(key, offered, verdict):
    """Whether this is the bias of a backbone convolution, and the file a backbone without biases."""
    layer, _, weight = key.rpartition("/")
    return weight == "bias" and not verdict.has_biases and is_backbone_layer(layer) and f"{layer}/kernel" in offered


def _notes(file, verdict, report, exclude, homes):
    notes = []
    if verdict.kind == "matterport":
        notes.append("heads and RPN of Matterport's Mask R-CNN read other maps than these: backbone and FPN are used")
    if report.zeroed:
        notes.append(f"the file has no biases for {len(report.zeroed)} convolutions of the backbone: they are set to 0")
    if any(layer_of(key) == "mrcnn_mask" for key in report.missing) and verdict.kind == "siamese":
        notes.append("the file has no mask head: masks will be meaningless until it is trained")
    broken = [key for key in report.loaded if not np.isfinite(file.arrays[key]).all()]
    if broken:
        notes.append(f"{len(broken)} weights hold NaN or infinity ({_layer_list(broken)}): their training has diverged")
    names = {layer_of(key) for key in (*homes, *file.shapes)} | set(homes.values())
    for item in _items(exclude):
        if not any(re.fullmatch(item, name) for name in names):
            notes.append(f"exclude {item!r} matches no layer with weights")
    return notes


# ---- text --------------------------------------------------------------------------------------------------------


def _table(file):
    """Lines of a table: part, weights, parameters, layers or the shape of the kernel."""
    parts = {}
    for key in file.shapes:
        parts.setdefault(group_of(layer_of(key)) or file.groups[key], []).append(key)
    rows = [("part", "weights", "parameters", "")]
    rows += [(part, len(keys), _parameters(file, keys), _content(file, keys)) for part, keys in parts.items()]
    rows.append(("all", len(file.shapes), _parameters(file, file.shapes), ""))
    width = max(len(row[0]) for row in rows)
    return [f"{name:{width}}  {count:>7}  {size:>10}  {content}".rstrip() for name, count, size, content in rows]


def _parameters(file, keys):
    return f"{sum(math.prod(file.shapes[key]) for key in keys):,}"


def _content(file, keys):
    layers = dict.fromkeys(layer_of(key) for key in keys)
    return f"{len(layers)} layers" if len(layers) > 1 else _shape(file.shapes[keys[0]])


def _shape(shape):
    return f"[{', '.join(map(str, shape))}]"


def _layer_list(keys):
    """Layers of weights, the first few by name."""
    layers = list(dict.fromkeys(layer_of(key) for key in keys))
    more = f" and {len(layers) - _NAMES_SHOWN} more" if len(layers) > _NAMES_SHOWN else ""
    return ", ".join(layers[:_NAMES_SHOWN]) + more


def _block_list(blocks):
    names = [f"res{stage}{letter}" for stage, letter in blocks]
    return f"{names[0]} .. {names[-1]}" if len(names) > _NAMES_SHOWN else ", ".join(names)
