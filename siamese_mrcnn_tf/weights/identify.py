"""What a set of weights is: siamese, Matterport's or a backbone, and which configurations it fits.

Infers configuration settings from weight names and shapes alone; looks neither at models nor at values.
"""

import dataclasses
import json
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from ..config import CONFIGS, RESNET_BLOCKS, Config
from ..io.files import StrPath
from .legacy_h5 import Shape, block_of, is_backbone_layer, layer_of

_BACKBONE_TITLES = {"resnet50": "ResNet-50", "resnet101": "ResNet-101"}
_CHANNELS = {  # setting -> kernel whose last axis shows it
    "BACKBONE_STEM_WIDTH": "conv1/kernel",
    "FPN_FEATUREMAPS": "fpn_p2/kernel",
    "RPN_CONV_CHANNELS": "rpn_conv_shared/kernel",
    "FPN_CLASSIF_FC_LAYERS_SIZE": "mrcnn_class_conv1/kernel",
    "MASK_HEAD_CHANNELS": "mrcnn_mask_conv1/kernel",
    "NUM_CLASSES": "mrcnn_class_logits/kernel",
}
_PRESENCE = "presence_logit/kernel"
_BLOCK_SETTINGS = ("BACKBONE", "BACKBONE_BLOCKS")
_VARIANT_SETTINGS = {"BACKBONE", "MODEL", "USE_PRESENCE"}  # with other values a configuration still counts as that one


@dataclasses.dataclass(frozen=True)
class WeightsInfo:
    """What a set of weights is.

    Attributes:
        kind: "siamese", "matterport", "backbone" or "unknown".
        settings: {setting: value} inferred from shapes; without BACKBONE if the blocks fit no known ResNet.
        blocks: number of residual blocks in stages 2 to 5; zeros without a ResNet.
        num_classes: classes of the class head, with background; None without one.
        has_masks: whether there is a mask head.
        has_presence: whether there is a presence output.
        has_biases: whether the convolutions of the backbone have biases.
        has_pyramid: whether there is a feature pyramid.
        fits: {configuration name: {setting to change: value}}.
    """

    kind: str
    settings: dict[str, Any]
    blocks: tuple[int, ...]
    num_classes: int | None
    has_masks: bool
    has_presence: bool
    has_biases: bool
    has_pyramid: bool
    fits: dict[str, dict[str, Any]]

    @property
    def config(self) -> str | None:
        """Name of the configuration that siamese weights fit; None for other weights and sizes."""
        return next(iter(self.fits), None) if self.kind == "siamese" else None

    @property
    def text(self) -> str:
        """What the weights are, in words."""
        backbone = _BACKBONE_TITLES.get(self.settings.get("BACKBONE", ""))
        backbone = (
            backbone or f"ResNet with {'+'.join(map(str, self.blocks))} blocks" if any(self.blocks) else "no ResNet"
        )
        if self.kind == "siamese":
            size = f"{self.config} configuration" if self.config else "of no named configuration"
            heads = f"{'with' if self.has_masks else 'without'} mask head"
            heads += ", with presence output" if self.has_presence else ""
            return f"siamese weights, {size}, {backbone}, {heads}"
        if self.kind == "matterport":
            classes = f", {self.num_classes} classes" if self.num_classes else ""
            return f"Matterport Mask R-CNN weights, {backbone}{classes} (backbone and FPN can be used)"
        if self.kind == "backbone":
            parts = "backbone and FPN" if self.has_pyramid else "backbone"
            return f"{parts} weights, {backbone}, {'with' if self.has_biases else 'without'} conv biases"
        return "weights of an unknown network"

    @property
    def fits_text(self) -> str:
        """The configurations that the weights fit, in words."""
        if self.kind == "unknown":
            return "no configuration"
        if self.fits:
            return " or ".join(f"config {name}{_with(needed)}" for name, needed in self.fits.items())
        return f"no named configuration; config small{_with(_changes(self.settings, CONFIGS['small']()))} would do"

    @property
    def advice(self) -> str:
        """What to do if the weights do not fit a model, in words."""
        if not self.config:
            return f"It fits {self.fits_text}"
        return f"This is a {self.config} file, use config {self.config}{_with(self.fits[self.config])}"

    def use(self, path: StrPath) -> str:
        """The command that uses a file of these weights, or what to do where there is none."""
        if self.kind == "unknown":
            return "no part of the network; start from a backbone instead, leave --model out of train"
        if self.config:
            given = _options({"config": self.config}, self.fits[self.config])
            return f"siamese-mrcnn predict --model {shlex.quote(str(path))}{given} --image FILE --reference FILE"
        if self.kind == "siamese":
            return f"the --config it was trained with; {self.fits_text}"
        name = next(iter(self.fits), "small")
        needed = self.fits[name] if self.fits else _changes(self.settings, CONFIGS[name]())
        given = _options({"config": name}, needed)
        what = "train from it" if self.has_pyramid else "train from this backbone"
        return f"{what}: siamese-mrcnn train --dataset DIR --model {shlex.quote(str(path))}{given}"

    def is_foreign_head(self, key: str) -> bool:
        """Whether a weight belongs to Matterport's RPN or heads, whose inputs differ from the siamese network's."""
        return self.kind == "matterport" and _is_head(key)


def identify_weights(shapes: Mapping[str, Shape]) -> WeightsInfo:
    """Identify weights by their shapes: {"conv1/kernel": shape}, with canonical names."""
    kind = _kind(shapes)
    usable = {key: shape for key, shape in shapes.items() if kind != "matterport" or not _is_head(key)}
    settings = _settings(usable, kind) if kind != "unknown" else {}
    changes = {name: _changes(settings, config()) for name, config in CONFIGS.items() if settings}
    return WeightsInfo(
        kind=kind,
        settings=settings,
        blocks=_count_blocks(shapes),
        num_classes=_axis(shapes, "mrcnn_class_logits/kernel"),
        has_masks="mrcnn_mask/kernel" in shapes,
        has_presence=_PRESENCE in shapes,
        has_biases=any(is_backbone_layer(layer_of(key)) and key.endswith("/bias") for key in shapes),
        has_pyramid="fpn_p2/kernel" in shapes,
        fits={name: needed for name, needed in changes.items() if set(needed) <= _VARIANT_SETTINGS},
    )


def residual_blocks(keys: Iterable[str]) -> set[tuple[int, str]]:
    """Residual blocks among weight names: {(stage, letter)}."""
    blocks = (block_of(layer_of(key)) for key in keys)
    return {block for block in blocks if block is not None}


def _kind(shapes: Mapping[str, Shape]) -> str:
    layers = {layer_of(key) for key in shapes}
    if "fpn_distance_P2" in layers:
        return "siamese"
    if "fpn_p2" in layers and "rpn_conv_shared" in layers:
        # Matterport's RPN reads P2..P6 themselves, the siamese RPN reads matched maps of another width
        pyramid, read = _axis(shapes, "fpn_p2/kernel"), _axis(shapes, "rpn_conv_shared/kernel", -2)
        return "matterport" if pyramid and pyramid == read else "unknown"
    has_heads = any(layer.startswith(("rpn_", "mrcnn_")) for layer in layers)
    return "backbone" if "conv1" in layers and residual_blocks(shapes) and not has_heads else "unknown"


def _settings(shapes: Mapping[str, Shape], kind: str) -> dict[str, Any]:
    """Configuration settings inferred from shapes: {name: value}."""
    settings: dict[str, Any] = {name: _axis(shapes, key) for name, key in _CHANNELS.items() if key in shapes}
    ends = (_axis(shapes, f"res{stage}a_branch2c/kernel") for stage in range(2, 6))
    widths, inner = tuple(width for width in ends if width), _axis(shapes, "res2a_branch2a/kernel")
    if len(widths) == 4 and inner:
        settings["BACKBONE_WIDTHS"], settings["BACKBONE_BOTTLENECK"] = widths, widths[0] // inner
        blocks = _count_blocks(shapes)
        named = [name for name, counts in RESNET_BLOCKS.items() if counts == blocks]
        settings.update({"BACKBONE": named[0]} if named else {"BACKBONE_BLOCKS": blocks})
    if kind == "siamese":
        settings["MODEL"] = "mrcnn" if "mrcnn_mask/kernel" in shapes else "frcnn"
        settings |= {"USE_PRESENCE": True} if _PRESENCE in shapes else {}
    return settings


def _changes(settings: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """Settings in which a configuration must change: {name: value}."""
    others = {name: value for name, value in settings.items() if name not in _BLOCK_SETTINGS}
    changed = {name: value for name, value in others.items() if getattr(config, name) != value}
    blocks = config.BACKBONE_BLOCKS or RESNET_BLOCKS.get(str(config.BACKBONE))  # a callable is in no table
    wanted = settings.get("BACKBONE_BLOCKS") or RESNET_BLOCKS.get(settings.get("BACKBONE", ""))
    if wanted and blocks != wanted:
        by_name = "BACKBONE" in settings and config.BACKBONE_BLOCKS is None
        changed.update({"BACKBONE": settings["BACKBONE"]} if by_name else {"BACKBONE_BLOCKS": wanted})
    return changed


def _with(settings: Mapping[str, Any]) -> str:
    values = (f"{name} = {value!r}".replace("'", '"') for name, value in settings.items())
    return f" with {', '.join(values)}" if settings else ""


def _options(values: Mapping[str, str], settings: Mapping[str, Any]) -> str:
    """Options of the command line: --name value, and --set with the settings in JSON."""
    words = [f"--{name} {value}" for name, value in values.items()]
    changed = [f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in settings.items()]
    words += [f"--set {shlex.join(changed)}"] if changed else []
    return "".join(f" {word}" for word in words)


def _is_head(key: str) -> bool:
    return layer_of(key).startswith(("rpn_", "mrcnn_"))


def _count_blocks(keys: Iterable[str]) -> tuple[int, ...]:
    stages = [stage for stage, _ in residual_blocks(keys)]
    return tuple(stages.count(stage) for stage in range(2, 6))


def _axis(shapes: Mapping[str, Shape], key: str, axis: int = -1) -> int | None:
    """Length of an axis of a weight; None without such a weight or axis."""
    shape = shapes.get(key, ())
    return shape[axis] if len(shape) >= abs(axis) else None
