"""The table of settings: kind, range and meaning of each.

`Config` checks values with it, the command `settings` prints it, and docs/settings.md is made from it. Defaults are
those of `Config`.
"""

import dataclasses
import json
import math
import numbers
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .io.errors import InputError

RESIZE_MODES = ("square", "pad64", "crop", "none")
PARTS = {  # parts of the table, and what they are for
    "names": "names and folders",
    "network": "the network",
    "images": "images and references",
    "proposals": "anchors and proposals",
    "heads": "the heads",
    "detection": "detection alone",
    "training": "training alone",
    "unused": "without effect, kept from the original",
}
LOSSES = ("rpn_class_loss", "rpn_bbox_loss", "mrcnn_class_loss", "mrcnn_bbox_loss", "mrcnn_mask_loss")
FURTHER_LOSSES = {"presence_loss": "USE_PRESENCE", "reference_loss": "REFERENCE_CLASSES"}  # loss -> setting it needs

_SIDE, _CHANNELS, _MANY, _STEPS = 65_536, 65_536, 1_000_000, 10**9  # maxima of sides, channels, counts and steps
_LONGEST_NAME = 80
_SHOWN = 120  # characters of a value that a message shows


@dataclasses.dataclass(frozen=True)
class Setting:
    """A row of the table.

    Attributes:
        part: a key of PARTS.
        kind: a key of `_KINDS`.
        meaning: in one line.
        low, high: minimum and maximum of a number, or of each number of a list.
        length: of a list; None for any length of 1 or more.
        choices: all possible values.
        optional: whether None is possible.
    """

    part: str
    kind: str
    meaning: str
    low: float = -math.inf
    high: float = math.inf
    length: int | None = None
    choices: tuple[Any, ...] = ()
    optional: bool = False

    def accepts(self, value: Any) -> bool:
        """Whether `value` is of the kind and in the range."""
        return (value is None and self.optional) or bool(_KINDS[self.kind](self, value))

    @property
    def range(self) -> str:
        """The possible values in words."""
        if self.choices:
            return f"one of {', '.join(map(str, self.choices))}"
        words = _WORDS[self.kind]
        if self.kind in _LISTS:
            words = f"a list of {words}" if self.length is None else f"{self.length} {words}"
        text = words + (self._bounds() if self.low > -math.inf else "")
        return f"{text}, or None" if self.optional else text

    def _bounds(self) -> str:
        low, high = f"{self.low:.10g}", f"{self.high:.10g}"
        return f" that is {low}" if low == high else f" from {low} to {high}"


_LISTS = ("integers", "numbers")
_WORDS = {
    "integer": "a whole number",
    "number": "a number",
    "integers": "whole numbers",
    "numbers": "numbers",
    "switch": "True or False",
    "text": "a text",
    "name": f"a printable text of 1 to {_LONGEST_NAME} characters, without / and \\",
    "backbone": "the name of an architecture, or a function",
    "function": "a function",
    "losses": "for each loss a number",
}


def is_number(value: Any) -> bool:
    """Whether a value is a finite number that is no bool; numpy's are numbers, too."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond all floats
        return False


def is_sequence(value: Any) -> bool:
    """Whether a value is a list, a tuple or an array."""
    return isinstance(value, (list, tuple)) or getattr(value, "ndim", 0) > 0


def shown(value: Any) -> str:
    """A value for a message, cut if it is long."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no longer ones
        return "a number of thousands of digits"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"


def _is_integer(setting: Setting, value: Any) -> bool:
    return (
        isinstance(value, numbers.Integral)
        and not isinstance(value, bool)
        and setting.low <= int(value) <= setting.high
    )


def _is_number(setting: Setting, value: Any) -> bool:
    return is_number(value) and setting.low <= value <= setting.high


def _are(of_one: Callable[[Setting, Any], bool]) -> Callable[[Setting, Any], bool]:
    def are_all(setting: Setting, value: Any) -> bool:
        if not is_sequence(value) or len(value) != (setting.length or len(value) or 1):
            return False
        return all(of_one(setting, item) for item in value)

    return are_all


def _is_choice(setting: Setting, value: Any) -> bool:
    return any(type(value) is type(choice) and value == choice for choice in setting.choices)


def _is_text(setting: Setting, value: Any) -> bool:
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        value.encode("utf-8", "surrogateescape")  # as names of files are
    except UnicodeEncodeError:
        return False
    return True


def _is_name(setting: Setting, value: Any) -> bool:
    is_short = isinstance(value, str) and 1 <= len(value) <= _LONGEST_NAME
    return is_short and value.isprintable() and not set("/\\") & set(value)


def _are_losses(setting: Setting, value: Any) -> bool:
    return isinstance(value, dict) and all(_is_number(setting, weight) for weight in value.values())


_KINDS: dict[str, Callable[[Setting, Any], bool]] = {
    "integer": _is_integer,
    "number": _is_number,
    "integers": _are(_is_integer),
    "numbers": _are(_is_number),
    "switch": lambda setting, value: isinstance(value, bool),
    "choice": _is_choice,
    "text": _is_text,
    "name": _is_name,
    "backbone": lambda setting, value: isinstance(value, str) or callable(value),
    "function": lambda setting, value: isinstance(value, str) or callable(value),  # stored as its name
    "losses": _are_losses,
}


def _integer(part: str, low: int, high: int, meaning: str) -> Setting:
    return Setting(part, "integer", meaning, low, high)


def _integers(part: str, low: int, high: int, length: int | None, meaning: str, **more: Any) -> Setting:
    return Setting(part, "integers", meaning, low, high, length=length, **more)


def _number(part: str, low: float, high: float, meaning: str) -> Setting:
    return Setting(part, "number", meaning, low, high)


def _numbers(part: str, low: float, high: float, length: int | None, meaning: str) -> Setting:
    return Setting(part, "numbers", meaning, low, high, length)


def _choice(part: str, choices: tuple[Any, ...], meaning: str) -> Setting:
    return Setting(part, "choice", meaning, choices=choices)


def _switch(part: str, meaning: str) -> Setting:
    return Setting(part, "switch", meaning)


_NAMES = {
    "NAME": Setting("names", "name", "with EXPERIMENT, names the log directory"),
    "EXPERIMENT": Setting("names", "name", "with NAME, names the log directory"),
    "CHECKPOINT_DIR": Setting("names", "text", "folder of pretrained weight files; commands use --checkpoints"),
}
_NETWORK = {
    "MODEL": _choice("network", ("mrcnn", "frcnn"), "frcnn finds boxes without masks"),
    "BACKBONE": Setting("network", "backbone", "resnet50, resnet101 or (image, stage5, train_bn) -> [C1, ..., C5]"),
    "COMPUTE_BACKBONE_SHAPE": Setting(
        "network", "function", "for a callable backbone: image shape -> [[h, w] of P2..P6]", optional=True
    ),
    "BACKBONE_STRIDES": _integers("network", 1, _SIDE, None, "pixels per cell of P2..P6; 4, 8, 16, 32, 64 of a ResNet"),
    "BACKBONE_BLOCKS": _integers(
        "network", 1, 1000, 4, "residual blocks of stages 2 to 5; None: those of BACKBONE", optional=True
    ),
    "BACKBONE_STEM_WIDTH": _integer("network", 1, _CHANNELS, "channels of C1"),
    "BACKBONE_WIDTHS": _integers(
        "network", 1, _CHANNELS, 4, "channels of C2..C5; in training each 16 * BACKBONE_BOTTLENECK or more"
    ),
    "BACKBONE_BOTTLENECK": _integer("network", 1, _CHANNELS, "BACKBONE_WIDTHS divided by channels inside a block"),
    "TRAIN_BN": _choice("network", (False, None), "False: moving statistics; None: those of the batch in training"),
    "FPN_FEATUREMAPS": _integer("network", 1, _CHANNELS, "channels of P2..P6; the matched maps have 3/2 of these"),
    "RPN_CONV_CHANNELS": _integer("network", 1, _CHANNELS, "channels of the shared convolution of the RPN"),
    "FPN_CLASSIF_FC_LAYERS_SIZE": _integer("network", 1, _CHANNELS, "channels of the class and box head"),
    "MASK_HEAD_CHANNELS": _integer("network", 1, _CHANNELS, "channels of the mask head"),
    "NUM_CLASSES": _integer("network", 2, 2, "background and match"),
    "USE_PRESENCE": _switch("network", "an output for whether the category is in the scene; it multiplies the scores"),
    "NUM_TARGETS": _integer("network", 1, 10_000, "references of a query (K-shot)"),
    "PRECISION": _choice("network", ("float32", "bfloat16"), "of the layers; boxes, weights, losses stay float32"),
    "USE_XLA": _switch("network", "compile with XLA on TensorFlow; on JAX it is always used"),
}
_IMAGES = {
    "IMAGE_RESIZE_MODE": _choice("images", RESIZE_MODES, "how scenes are resized and padded; training: square, crop"),
    "IMAGE_MIN_DIM": _integer(
        "images", 0, _SIDE, "minimum of the short side in pixels; multiple of 64 for crop, pad64"
    ),
    "IMAGE_MAX_DIM": _integer("images", 1, _SIDE, "side of the padded square in pixels, a multiple of 64"),
    "IMAGE_MIN_SCALE": _number("images", 0, 1000, "minimum scale of an image"),
    "TARGET_MIN_DIM": _integer("images", 1, _SIDE, "minimum of the short side of a reference in pixels"),
    "TARGET_MAX_DIM": _integer("images", 1, _SIDE, "side of the padded reference in pixels, a multiple of 32"),
    "MEAN_PIXEL": _numbers("images", 0, 255, 3, "subtracted from images, RGB"),
    "MOLD_TARGETS_AT_INFERENCE": _switch("images", "subtract MEAN_PIXEL from references; False: as the original did"),
}
_PROPOSALS = {
    "RPN_ANCHOR_SCALES": _numbers("proposals", 1, _SIDE, None, "pixels, one per level P2..P6"),
    "RPN_ANCHOR_RATIOS": _numbers("proposals", 0.001, 1000, None, "width / height"),
    "RPN_ANCHOR_STRIDE": _integer("proposals", 1, 64, "cells between anchors"),
    "RPN_BBOX_STD_DEV": _numbers("proposals", 1e-6, 1000, 4, "by which the box deltas of the RPN are divided"),
    "RPN_NMS_THRESHOLD": _number("proposals", 0, 1, "overlap above which the lower of two proposals is dropped"),
    "PRE_NMS_LIMIT": _integer("proposals", 1, 10 * _MANY, "best anchors that enter non-maximum suppression"),
    "POST_NMS_ROIS_TRAINING": _integer("training", 1, _MANY, "maximum number of proposals in training"),
    "POST_NMS_ROIS_INFERENCE": _integer("detection", 1, _MANY, "maximum number of proposals in detection"),
    "RPN_TRAIN_ANCHORS_PER_IMAGE": _integer("training", 1, 10 * _MANY, "anchors of an image that train the RPN"),
    "RPN_POSITIVE_IOU": _number("training", 0, 1, "minimum overlap of positive anchors with a ground truth box"),
}
_HEADS = {
    "POOL_SIZE": _integer("heads", 1, 256, "side of pooled maps, class and box head"),
    "MASK_POOL_SIZE": _integer("heads", 1, 256, "side of pooled maps, mask head"),
    "MASK_SHAPE": _integers("heads", 2, 512, 2, "(height, width) of predicted masks, twice MASK_POOL_SIZE"),
    "ROI_CANONICAL_SIZE": _integer("heads", 1, _SIDE, "pixels; a roi with this side is pooled from P4"),
    "BBOX_STD_DEV": _numbers("heads", 1e-6, 1000, 4, "by which the box deltas of the head are divided"),
}
_DETECTION = {
    "DETECTION_MAX_INSTANCES": _integer("detection", 1, _MANY, "maximum number of detections of a query"),
    "DETECTION_MIN_CONFIDENCE": _number("detection", 0, 1, "minimum score of a detection"),
    "DETECTION_ARGMAX": _switch("detection", "a match must score above background, too"),
    "DETECTION_NMS_THRESHOLD": _number("detection", 0, 1, "overlap above which the lower of two detections is dropped"),
    "DETECTION_REFINEMENTS": _integer("detection", 0, 100, "further passes of the box head over the detections"),
    "VERIFY_DETECTIONS": _switch("detection", "cut finds out, encode them and compare them with the reference"),
    "VERIFY_MIN_CONFIDENCE": _number("detection", 0, 1, "minimum score of a find to verify"),
}
_TRAINING = {
    "GPU_COUNT": _integer("training", 1, 1024, "devices that share a batch"),
    "IMAGES_PER_GPU": _integer("training", 1, _MANY, "samples of a batch on each device"),
    "STEPS_PER_EPOCH": _integer("training", 1, _STEPS, "steps of an epoch"),
    "VALIDATION_STEPS": _integer("training", 0, _STEPS, "validation batches after each epoch"),
    "USE_MINI_MASK": _switch("training", "masks are cut to their boxes and resized to MINI_MASK_SHAPE"),
    "MINI_MASK_SHAPE": _integers("training", 1, 4096, 2, "(height, width) of mini masks"),
    "MAX_GT_INSTANCES": _integer("training", 1, 100_000, "maximum number of ground truth instances of a sample"),
    "USE_RPN_ROIS": _switch("training", "True: train on the proposals of the RPN; False is not supported"),
    "TRAIN_ROIS_PER_IMAGE": _integer("training", 1, 100_000, "rois of a sample that train the heads"),
    "ROI_POSITIVE_RATIO": _number("training", 0.001, 1, "maximum share of positive rois"),
    "TRAIN_MASK_ROIS_PER_IMAGE": _integer("training", 0, 100_000, "positive rois that train the mask head; 0: all"),
    "SHUFFLE_ROIS": _switch("training", "False: the first positives and negatives in proposal order, deterministic"),
    "FILL_NEGATIVE_ROIS": _switch("training", "negatives fill all rows; False: at most 2 per positive"),
    "NUM_JITTERED_GT_ROIS": _integer("training", 0, 100_000, "ground truth boxes, moved at random, as proposals"),
    "USE_HARD_NEGATIVES": _switch("training", "jitter boxes of the image's other train categories, as background"),
    "ABSENT_REFERENCE_RATIO": _number("training", 0, 1, "share of samples whose reference is not in the scene"),
    "QUERIES_PER_IMAGE": _integer(
        "training", 1, 10_000, "samples in a row that share an image; divides IMAGES_PER_GPU"
    ),
    "LEARNING_RATE": _number("training", 1e-12, 1000, "of SiameseMaskRCNN.train; the command uses its stages"),
    "OPTIMIZER": _choice("training", ("sgd", "adam"), "the optimizer; adam has ADAM_BETA_2"),
    "LEARNING_MOMENTUM": _number("training", 0, 0.999999, "momentum, beta 1 of Adam"),
    "ADAM_BETA_2": _number("training", 0, 0.999999, "beta 2 of Adam"),
    "WARM_UP_STEPS": _integer("training", 0, _STEPS, "linear rise of the rate at the start of a stage with decay"),
    "WEIGHT_DECAY": _number("training", 0, 1000, "factor of the squared weights in the loss"),
    "GRADIENT_CLIP_NORM": _number("training", 1e-9, 1e30, "maximum norm of the gradient of all weights"),
    "REFERENCE_CLASSES": _integer("training", 0, _MANY, "above 0, references are classified; above the highest id"),
    "LOSS_WEIGHTS": Setting("training", "losses", "factor of each loss", 0, _MANY),
}
_UNUSED = {
    "TOP_DOWN_PYRAMID_SIZE": _integer("unused", 1, _CHANNELS, "the original, too, reads FPN_FEATUREMAPS"),
    "TARGET_PADDING": _switch("unused", "references are always padded to a square"),
}
SETTINGS: Mapping[str, Setting] = {
    **{**_NAMES, **_NETWORK, **_IMAGES, **_PROPOSALS, **_HEADS},
    **{**_DETECTION, **_TRAINING, **_UNUSED},
}


def check_value(name: str, value: Any) -> None:
    """Check the value of a setting of the table.

    Raises:
        ValueError: names the setting, its value and what is possible.
    """
    setting = SETTINGS[name]
    if not setting.accepts(value):
        raise InputError(f"{name} = {shown(value)}: expected {setting.range}{_wrong_item(setting, value)}")


def _wrong_item(setting: Setting, value: Any) -> str:
    """Which number of a list, or which loss, is not possible; empty where it is the value as a whole."""
    if setting.kind == "losses" and isinstance(value, dict):
        wrong = [f"{key} = {shown(item)}" for key, item in value.items() if not _is_number(setting, item)]
        return f", got {wrong[0]}" if wrong else ""
    if setting.kind not in _LISTS or not is_sequence(value):
        return ""
    if len(value) != (setting.length or len(value)):
        return f", got {len(value)}"
    of_one = _is_integer if setting.kind == "integers" else _is_number
    wrong = [f"[{index}] = {shown(item)}" for index, item in enumerate(value) if not of_one(setting, item)]
    return f", got {wrong[0]}" if wrong else ""


def parse_settings(assignments: Iterable[str]) -> dict[str, Any]:
    """Settings from "KEY=VALUE" strings, with values in JSON or as bare words: {name: value}.

    Raises:
        ValueError: an assignment without "=", or two different values for one setting.
    """
    settings: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        name = name.strip()
        if not (equals and name):
            raise InputError(f"{shown(assignment)}: expected KEY=VALUE")
        try:
            value = json.loads(text)
        except ValueError:  # also an integer of thousands of digits
            value = {"True": True, "False": False, "None": None}.get(text, text)
        except RecursionError as error:
            raise InputError(f"{name} = {text[:20]}...: nested too deep") from error
        if name in settings and settings[name] != value:
            raise InputError(f"{name} = {shown(value)}: already given as {shown(settings[name])}")
        settings[name] = value
    return settings


def same_kind(default: Any, value: Any) -> bool:
    """Whether `value` may replace `default`: a number for a number, a sequence of numbers for one of numbers, ..."""
    if default is None:
        return True
    if callable(default) or callable(value):
        return all(callable(backbone) or isinstance(backbone, str) for backbone in (default, value))
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, numbers.Integral):
        return isinstance(value, numbers.Integral)
    if isinstance(default, numbers.Real):
        return is_number(value)
    if is_sequence(default):
        return is_sequence(value) and (all(map(is_number, value)) or not all(map(is_number, default)))
    return isinstance(value, dict if isinstance(default, dict) else type(default))
