"""Configuration: a class of upper-case attributes, as in Matterport's Mask R-CNN.

`Config` holds the defaults of the original Siamese Mask R-CNN (its small model). `SmallConfig` and `LargeConfig` are
the configurations of the released weights; `TinyConfig` is a narrow, shallow version of the network for tests and CPUs.
Subclass and override attributes, or make a modified copy with `config.replace(IMAGES_PER_GPU=2)`; the library never
modifies a configuration. Derived values (`BATCH_SIZE`, `IMAGE_SHAPE`, ...) are properties.
"""

import contextlib
import copy
import difflib
import os
import re
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self

from .io.errors import InputError
from .io.files import read_json
from .settings import FURTHER_LOSSES, LOSSES, SETTINGS, check_value, same_kind, shown
from .settings import RESIZE_MODES as RESIZE_MODES  # former names of this module
from .settings import parse_settings as parse_settings

RESNET_BLOCKS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}  # residual blocks of stages 2 to 5
MIN_TRAINED_CHANNELS = 16  # inside the blocks of a backbone that trains
RUNTIME_PRECISIONS = {  # what computes the dense parts of the network, and their precisions
    "tensorflow": ("float32", "bfloat16"),
    "openvino": ("float32", "bfloat16", "int8"),
}
FORMER_NAMES = {"WITH_OTHER_CLASSES": "USE_HARD_NEGATIVES", "JITTERED_ROIS": "NUM_JITTERED_GT_ROIS"}  # still accepted
# added after the first evaluations and runs were stored: where these lack a setting, it had its default
NEW_SETTINGS = tuple(
    """
    USE_PRESENCE VERIFY_DETECTIONS VERIFY_MIN_CONFIDENCE ABSENT_REFERENCE_RATIO REFERENCE_CLASSES
    DETECTION_REFINEMENTS TRAIN_MASK_ROIS_PER_IMAGE USE_XLA
    """.split()
)


class Config:
    """Settings of model, training and detection; the defaults are those of the original's small model."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Keep functions (BACKBONE) from becoming methods, and take settings by their former names."""
        super().__init_subclass__(**kwargs)
        for name, value in list(vars(cls).items()):
            if name.isupper() and isinstance(value, types.FunctionType):
                setattr(cls, name, staticmethod(value))
            if name in FORMER_NAMES:
                setattr(cls, FORMER_NAMES[name], value)
                delattr(cls, name)

    _sources: Mapping[str, str] = {}  # setting -> the file that it is from, for messages

    # ---- names -------------------------------------------------------------------------------------------------
    NAME = "siamese"  # with EXPERIMENT, names the log directory
    EXPERIMENT = "default"
    CHECKPOINT_DIR = "checkpoints/"  # of the pretrained weight files

    # ---- network -----------------------------------------------------------------------------------------------
    MODEL = "mrcnn"  # "mrcnn", or "frcnn" for boxes without masks
    BACKBONE: str | Callable = "resnet50"  # or "resnet101", or a callable (image, stage5, train_bn) -> [C1, ..., C5]
    COMPUTE_BACKBONE_SHAPE: Callable | None = None  # for a callable backbone: image shape -> [[h, w] of P2..P6]
    BACKBONE_STRIDES = (4, 8, 16, 32, 64)  # of P2..P6, in pixels
    BACKBONE_BLOCKS: Sequence[int] | None = None  # residual blocks of stages 2 to 5; None: those of BACKBONE
    BACKBONE_STEM_WIDTH = 64  # channels of C1
    BACKBONE_WIDTHS = (256, 512, 1024, 2048)  # channels of C2..C5
    BACKBONE_BOTTLENECK = 4  # channels of C2..C5 divided by those inside a residual block
    TRAIN_BN: bool | None = False  # False: moving statistics; None: statistics of the batch in training
    FPN_FEATUREMAPS = 256  # channels of P2..P6; the matched maps have 3/2 of these
    TOP_DOWN_PYRAMID_SIZE = 256  # unused, kept from the original, which reads FPN_FEATUREMAPS
    RPN_CONV_CHANNELS = 512
    FPN_CLASSIF_FC_LAYERS_SIZE = 512
    MASK_HEAD_CHANNELS = 256
    NUM_CLASSES = 2  # background, match
    USE_PRESENCE = False  # True: an output for whether the category is in the scene at all; it multiplies the scores
    NUM_TARGETS = 1  # references of a query (K-shot)
    PRECISION = "float32"  # "bfloat16" in the layers; weights, boxes, losses and outputs stay float32
    USE_XLA = False  # compile with XLA on TensorFlow; on JAX it is always used

    # ---- images and references ---------------------------------------------------------------------------------
    IMAGE_RESIZE_MODE = "square"  # "square", "pad64", "crop" or "none"
    IMAGE_MIN_DIM = 400
    IMAGE_MAX_DIM = 512
    IMAGE_MIN_SCALE = 0.0
    TARGET_MIN_DIM = 75
    TARGET_MAX_DIM = 96
    TARGET_PADDING = True  # unused, kept from the original: references are always padded to a square
    MEAN_PIXEL = (123.7, 116.8, 103.9)  # RGB
    MOLD_TARGETS_AT_INFERENCE = True  # subtract MEAN_PIXEL from references; False: as the original's evaluation did

    # ---- anchors and proposals ---------------------------------------------------------------------------------
    RPN_ANCHOR_SCALES = (32, 64, 128, 256, 512)  # pixels, one per level P2..P6
    RPN_ANCHOR_RATIOS = (0.5, 1, 2)  # width / height
    RPN_ANCHOR_STRIDE = 1  # in cells of the map
    RPN_BBOX_STD_DEV = (0.1, 0.1, 0.2, 0.2)
    RPN_NMS_THRESHOLD = 0.7
    PRE_NMS_LIMIT = 6000  # best anchors that enter non-maximum suppression
    POST_NMS_ROIS_TRAINING = 500
    POST_NMS_ROIS_INFERENCE = 500
    RPN_TRAIN_ANCHORS_PER_IMAGE = 64
    RPN_POSITIVE_IOU = 0.7  # minimum overlap of positive anchors with a ground truth box

    # ---- heads -------------------------------------------------------------------------------------------------
    POOL_SIZE = 7
    MASK_POOL_SIZE = 14
    MASK_SHAPE = (28, 28)
    ROI_CANONICAL_SIZE = 224  # pixels; a roi with this side is pooled from P4
    BBOX_STD_DEV = (0.1, 0.1, 0.2, 0.2)

    # ---- detection ---------------------------------------------------------------------------------------------
    DETECTION_MAX_INSTANCES = 30
    DETECTION_MIN_CONFIDENCE = 0.7
    DETECTION_ARGMAX = True  # a match must score above background; False: only above DETECTION_MIN_CONFIDENCE
    DETECTION_NMS_THRESHOLD = 0.5
    DETECTION_REFINEMENTS = 0  # further passes of the box head, over the detections, which make their boxes tighter
    VERIFY_DETECTIONS = False  # True: finds are cut out, encoded and compared with the reference (`ops.similarity`)
    VERIFY_MIN_CONFIDENCE = 0.05  # minimum score of a find to verify; DETECTION_MIN_CONFIDENCE is for verified scores

    # ---- training ----------------------------------------------------------------------------------------------
    GPU_COUNT = 1
    IMAGES_PER_GPU = 1
    STEPS_PER_EPOCH = 1000
    VALIDATION_STEPS = 50
    USE_MINI_MASK = True
    MINI_MASK_SHAPE = (56, 56)
    MAX_GT_INSTANCES = 30
    USE_RPN_ROIS = True
    TRAIN_ROIS_PER_IMAGE = 100
    ROI_POSITIVE_RATIO = 0.33
    TRAIN_MASK_ROIS_PER_IMAGE = 0  # maximum number of positive rois that train the mask head; 0: all
    SHUFFLE_ROIS = True  # False: the first positives and negatives in proposal order, deterministic
    FILL_NEGATIVE_ROIS = False  # True: negatives fill all rows; False: at most 2 per positive
    NUM_JITTERED_GT_ROIS = 0  # additional proposals: ground truth boxes, moved and stretched at random
    USE_HARD_NEGATIVES = False  # True: jitter boxes of the image's other train categories too, as background
    ABSENT_REFERENCE_RATIO = 0.0  # share of samples whose reference shows a category that is not in the scene
    QUERIES_PER_IMAGE = 1  # consecutive samples that share an image, which is encoded once; divides IMAGES_PER_GPU
    LEARNING_RATE = 0.02
    OPTIMIZER = "sgd"  # "sgd", or "adam" with ADAM_BETA_2
    LEARNING_MOMENTUM = 0.9  # beta 1 of Adam
    ADAM_BETA_2 = 0.999
    WARM_UP_STEPS = 0  # linear rise of the learning rate at the start of a stage with decay
    WEIGHT_DECAY = 0.0001
    GRADIENT_CLIP_NORM = 5.0
    REFERENCE_CLASSES = 0  # above 0: references are classified, too; more than the highest class id
    LOSS_WEIGHTS = {  # optionally "presence_loss" (USE_PRESENCE) and "reference_loss" (REFERENCE_CLASSES), default 1.0
        "rpn_class_loss": 2.0,
        "rpn_bbox_loss": 0.1,
        "mrcnn_class_loss": 2.0,
        "mrcnn_bbox_loss": 0.5,
        "mrcnn_mask_loss": 1.0,
    }

    # ---- derived -----------------------------------------------------------------------------------------------
    @property
    def BATCH_SIZE(self) -> int:
        return self.IMAGES_PER_GPU * self.GPU_COUNT

    @property
    def IMAGE_SHAPE(self) -> tuple[int, int, int]:
        """(height, width, channels) of a molded scene."""
        side = self.IMAGE_MIN_DIM if self.IMAGE_RESIZE_MODE == "crop" else self.IMAGE_MAX_DIM
        return (side, side, 3)

    @property
    def TARGET_SHAPE(self) -> tuple[int, int, int]:
        """(height, width, channels) of a molded reference."""
        return (self.TARGET_MAX_DIM, self.TARGET_MAX_DIM, 3)

    @property
    def IMAGE_META_SIZE(self) -> int:
        """id 1, original shape 3, molded shape 3, window 4, scale 1, active classes NUM_CLASSES."""
        return 12 + self.NUM_CLASSES

    @property
    def MATCHED_FEATUREMAPS(self) -> int:
        """Channels of the matched maps, the input of RPN and heads."""
        return 3 * self.FPN_FEATUREMAPS // 2

    # ---- copies and files --------------------------------------------------------------------------------------
    def names(self) -> list[str]:
        """Names of all settings, in order of declaration."""
        scopes = (*reversed(type(self).__mro__), self)
        found = dict.fromkeys(name for scope in scopes for name in vars(scope) if name.isupper())
        return [name for name in found if not isinstance(getattr(type(self), name, None), property)]

    def to_dict(self) -> dict[str, Any]:
        """All settings by name, as plain Python values."""
        return {name: _plain(getattr(self, name)) for name in self.names()}

    def replace(self, /, **changes: Any) -> Self:
        """A copy of this configuration with `changes` applied.

        Raises:
            ValueError: unknown setting, or a value of the wrong type.
        """
        changed = copy.copy(self)
        for name, value in changes.items():
            name = FORMER_NAMES.get(name, name)
            self._check(name, value)
            setattr(changed, name, value)
        changed._sources = {name: path for name, path in self._sources.items() if name not in changes}
        return changed

    @contextlib.contextmanager
    def _naming_file(self) -> Iterator[None]:
        """Context whose ValueErrors name the file that the setting is from."""
        try:
            yield
        except InputError as error:
            name = re.match("[A-Z_0-9]+", str(error))
            if name is None or name[0] not in self._sources:
                raise
            raise InputError(f"configuration {self._sources[name[0]]}: {error}") from error

    def _check(self, name: str, value: Any) -> None:
        names = self.names()
        if name not in names:
            derived = isinstance(getattr(type(self), name, None), property)
            guess = "".join(f"; did you mean {close}?" for close in difflib.get_close_matches(name, names, 1))
            raise InputError(f"{name} is {'derived from other settings' if derived else f'not a setting{guess}'}")
        if name in SETTINGS:
            return check_value(name, value)
        default = getattr(self, name)
        if not (default is None if value is None else same_kind(default, value)):
            raise InputError(f"{name} = {shown(value)}: expected a value like {shown(default)}")

    def validate(self) -> None:
        """Check the values of all settings of the table (`settings`), and that they go together.

        Raises:
            ValueError: names the setting, its value and what is possible, and the file that it is from.
        """
        with self._naming_file():
            self._check_all()

    def _check_all(self) -> None:
        for name in SETTINGS:
            check_value(name, getattr(self, name))
        if not callable(self.BACKBONE) and self.BACKBONE not in RESNET_BLOCKS:
            raise InputError(f"BACKBONE = {shown(self.BACKBONE)}: expected {SETTINGS['BACKBONE'].meaning}")
        if isinstance(self.COMPUTE_BACKBONE_SHAPE, str):  # of a function its name is stored
            raise InputError(f"COMPUTE_BACKBONE_SHAPE = {shown(self.COMPUTE_BACKBONE_SHAPE)}: expected a function")
        self._check_sides()
        self._check_losses()
        if tuple(self.MASK_SHAPE) != (2 * self.MASK_POOL_SIZE,) * 2:
            raise InputError(f"MASK_SHAPE = {self.MASK_SHAPE}: expected twice MASK_POOL_SIZE = {self.MASK_POOL_SIZE}")
        if not callable(self.BACKBONE) and tuple(self.BACKBONE_STRIDES) != (4, 8, 16, 32, 64):
            raise InputError(f"BACKBONE_STRIDES = {self.BACKBONE_STRIDES}: expected (4, 8, 16, 32, 64) for a ResNet")
        if not callable(self.BACKBONE) and min(self.BACKBONE_WIDTHS) < self.BACKBONE_BOTTLENECK:
            bound = f"BACKBONE_BOTTLENECK = {self.BACKBONE_BOTTLENECK} or more each"
            raise InputError(f"BACKBONE_WIDTHS = {self.BACKBONE_WIDTHS}: expected {bound}")
        scales, levels = self.RPN_ANCHOR_SCALES, len(self.BACKBONE_STRIDES)
        if len(scales) != levels:
            raise InputError(f"RPN_ANCHOR_SCALES = {scales}: expected {levels} scales, one per level P2..P6")

    def validate_training(self) -> None:
        """Check that the network can be built and trained; raises ValueError as `validate`."""
        self.validate_backbone_training()
        with self._naming_file():
            self._check_training()

    def _check_training(self) -> None:
        if self.IMAGE_RESIZE_MODE not in ("square", "crop"):
            raise InputError(
                f"IMAGE_RESIZE_MODE = {self.IMAGE_RESIZE_MODE!r}: expected 'square' or 'crop' for training"
            )
        if not self.USE_RPN_ROIS:
            raise InputError("USE_RPN_ROIS = False: training on given rois is not supported")
        if self.IMAGES_PER_GPU % self.QUERIES_PER_IMAGE:
            expected = f"a multiple of QUERIES_PER_IMAGE = {self.QUERIES_PER_IMAGE}"
            raise InputError(f"IMAGES_PER_GPU = {self.IMAGES_PER_GPU}: expected {expected}")
        if self.REFERENCE_CLASSES and self.IMAGES_PER_GPU < 2:
            raise InputError(
                f"REFERENCE_CLASSES = {self.REFERENCE_CLASSES}: expected IMAGES_PER_GPU of 2 or more, got 1"
            )
        if self.ABSENT_REFERENCE_RATIO and not self.FILL_NEGATIVE_ROIS:
            text = "expected FILL_NEGATIVE_ROIS = True, else samples without positive rois have no negative ones either"
            raise InputError(f"ABSENT_REFERENCE_RATIO = {self.ABSENT_REFERENCE_RATIO}: {text}")

    def validate_backbone_training(self) -> None:
        """As `validate_training`, for the backbone alone.

        oneDNN's gradient of a strided 1x1 convolution writes past its memory where there are fewer than 16 channels.
        """
        self.validate()
        narrowest = MIN_TRAINED_CHANNELS * self.BACKBONE_BOTTLENECK
        with self._naming_file():
            if min(self.BACKBONE_WIDTHS) < narrowest and not callable(self.BACKBONE):
                expected = f"expected {narrowest} or more each for training"
                raise InputError(f"BACKBONE_WIDTHS = {self.BACKBONE_WIDTHS}: {expected}")

    def _check_sides(self) -> None:
        """Check the sides of scenes and references."""
        side = "IMAGE_MIN_DIM" if self.IMAGE_RESIZE_MODE in ("crop", "pad64") else "IMAGE_MAX_DIM"
        for name, factor in ((side, 0 if self.IMAGE_RESIZE_MODE == "none" else 64), ("TARGET_MAX_DIM", 32)):
            value = getattr(self, name)
            if factor and (value < factor or value % factor):
                below = max(value // factor, 1) * factor
                raise InputError(f"{name} = {value} is not a multiple of {factor}: use {below} or {below + factor}")

    def _check_losses(self) -> None:
        """Check the names of LOSS_WEIGHTS."""
        weights = self.LOSS_WEIGHTS
        unused = {
            name: setting for name, setting in FURTHER_LOSSES.items() if name in weights and not getattr(self, setting)
        }
        if set(weights) - (set(FURTHER_LOSSES) - set(unused)) != set(LOSSES):
            more = "".join(f"; {name} needs {setting}" for name, setting in unused.items())
            raise InputError(
                f"LOSS_WEIGHTS = {shown(weights)}: expected a number for each of {', '.join(LOSSES)}{more}"
            )

    def display(self) -> None:
        """Print all settings, the derived ones included."""
        print("\nConfigurations:")
        for name in sorted([*self.names(), "BATCH_SIZE", "IMAGE_SHAPE", "TARGET_SHAPE", "IMAGE_META_SIZE"]):
            print(f"{name:30} {getattr(self, name)}")


class SmallConfig(Config):
    """The original's small model: released weights `small_siamese_mrcnn_0160.h5`."""

    NAME = "small_coco"


class LargeConfig(Config):
    """The original's large model, the one for use: released weights `large_siamese_mrcnn_coco_full_0320.h5`."""

    NAME = "large_coco"
    IMAGE_MIN_DIM = 800
    IMAGE_MAX_DIM = 1024
    TARGET_MIN_DIM = 150
    TARGET_MAX_DIM = 192
    FPN_CLASSIF_FC_LAYERS_SIZE = 1024
    POST_NMS_ROIS_TRAINING = 2000
    POST_NMS_ROIS_INFERENCE = 1000
    RPN_TRAIN_ANCHORS_PER_IMAGE = 256
    TRAIN_ROIS_PER_IMAGE = 200
    MAX_GT_INSTANCES = 100
    DETECTION_MAX_INSTANCES = 100


class TinyConfig(Config):
    """The same network with one narrow block per stage, for 128-pixel scenes: runs and trains on a CPU.

    `make demo` (seed 0): box AP50 70.7 for train categories, 65.6 for novel ones (docs/shapes.md).
    """

    NAME = "tiny"
    IMAGE_MIN_DIM = 128
    IMAGE_MAX_DIM = 128
    TARGET_MIN_DIM = 64
    TARGET_MAX_DIM = 64
    BACKBONE_BLOCKS = (1, 1, 1, 1)
    BACKBONE_STEM_WIDTH = 32
    BACKBONE_WIDTHS = (48, 64, 96, 128)
    BACKBONE_BOTTLENECK = 1
    FPN_FEATUREMAPS = 64
    TOP_DOWN_PYRAMID_SIZE = 64
    RPN_CONV_CHANNELS = 96
    FPN_CLASSIF_FC_LAYERS_SIZE = 128
    MASK_HEAD_CHANNELS = 48
    RPN_ANCHOR_SCALES = (12, 24, 40, 60, 90)
    POST_NMS_ROIS_TRAINING = 100
    POST_NMS_ROIS_INFERENCE = 100
    TRAIN_ROIS_PER_IMAGE = 32
    TRAIN_MASK_ROIS_PER_IMAGE = 4
    RPN_POSITIVE_IOU = 0.6
    FILL_NEGATIVE_ROIS = True
    NUM_JITTERED_GT_ROIS = 96
    USE_HARD_NEGATIVES = True
    MAX_GT_INSTANCES = 10
    DETECTION_MAX_INSTANCES = 12
    DETECTION_ARGMAX = False
    DETECTION_REFINEMENTS = 1
    IMAGES_PER_GPU = 16
    QUERIES_PER_IMAGE = 2
    STEPS_PER_EPOCH = 50
    VALIDATION_STEPS = 5
    LEARNING_RATE = 0.0014
    OPTIMIZER = "adam"
    ADAM_BETA_2 = 0.99
    WARM_UP_STEPS = 100


CONFIGS = {"small": SmallConfig, "large": LargeConfig, "tiny": TinyConfig}


def load_config(name_or_path: str | os.PathLike) -> Config:
    """A configuration by name ("small", "large", "tiny") or from a JSON file.

    The file holds an object of settings, which change the configuration that its key "BASE" names (default "small").

    Raises:
        ValueError: no such name or file, not JSON, an unknown setting or a value of the wrong type.
    """
    if str(name_or_path) in CONFIGS:
        return CONFIGS[str(name_or_path)]()
    if not os.path.exists(name_or_path):
        raise InputError(f"configuration {name_or_path!r}: neither one of {', '.join(CONFIGS)} nor a file")
    settings = read_json(name_or_path)
    if not isinstance(settings, dict):
        raise InputError(f"configuration {name_or_path}: expected an object of settings, got {type(settings).__name__}")
    base = settings.pop("BASE", "small")
    if not isinstance(base, str) or base not in CONFIGS:
        raise InputError(f"configuration {name_or_path}: BASE = {base!r} is none of {', '.join(CONFIGS)}")
    try:
        config = CONFIGS[base]().replace(**settings)
    except ValueError as error:
        raise InputError(f"configuration {name_or_path}: {error}") from error
    config._sources = dict.fromkeys(map(_present_name, settings), str(name_or_path))
    return config


def without_new_defaults(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by name without those of NEW_SETTINGS that have their default, to compare with stored ones."""
    return {
        name: value for name, value in settings.items() if name not in NEW_SETTINGS or value != getattr(Config, name)
    }


def _present_name(name: str) -> str:
    return FORMER_NAMES.get(name, name)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return value.tolist()
    if callable(value):
        return getattr(value, "__qualname__", repr(value))
    return value
