"""Configurations: the original's defaults, changed copies, files, checks and printing."""

import copy
import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from siamese_mrcnn_tf.config import (
    CONFIGS,
    FORMER_NAMES,
    NEW_SETTINGS,
    Config,
    LargeConfig,
    SmallConfig,
    TinyConfig,
    load_config,
    parse_settings,
    without_new_defaults,
)
from siamese_mrcnn_tf.settings import PARTS, SETTINGS, shown

ROOT = pathlib.Path(__file__).resolve().parents[1]
ORIGINAL = {  # names and defaults of the original's configuration
    "BACKBONE": "resnet50",
    "BACKBONE_STRIDES": [4, 8, 16, 32, 64],
    "BBOX_STD_DEV": [0.1, 0.1, 0.2, 0.2],
    "CHECKPOINT_DIR": "checkpoints/",
    "COMPUTE_BACKBONE_SHAPE": None,
    "DETECTION_MAX_INSTANCES": 30,
    "DETECTION_MIN_CONFIDENCE": 0.7,
    "DETECTION_NMS_THRESHOLD": 0.5,
    "VERIFY_DETECTIONS": False,
    "VERIFY_MIN_CONFIDENCE": 0.05,
    "FPN_CLASSIF_FC_LAYERS_SIZE": 512,
    "FPN_FEATUREMAPS": 256,
    "GPU_COUNT": 1,
    "GRADIENT_CLIP_NORM": 5.0,
    "IMAGES_PER_GPU": 1,
    "IMAGE_MAX_DIM": 512,
    "IMAGE_MIN_DIM": 400,
    "IMAGE_MIN_SCALE": 0,
    "IMAGE_RESIZE_MODE": "square",
    "LEARNING_MOMENTUM": 0.9,
    "LEARNING_RATE": 0.02,
    "LOSS_WEIGHTS": {
        "rpn_class_loss": 2.0,
        "rpn_bbox_loss": 0.1,
        "mrcnn_class_loss": 2.0,
        "mrcnn_bbox_loss": 0.5,
        "mrcnn_mask_loss": 1.0,
    },
    "MASK_POOL_SIZE": 14,
    "MASK_SHAPE": [28, 28],
    "MAX_GT_INSTANCES": 30,
    "MEAN_PIXEL": [123.7, 116.8, 103.9],
    "MINI_MASK_SHAPE": [56, 56],
    "MODEL": "mrcnn",
    "NUM_CLASSES": 2,
    "NUM_TARGETS": 1,
    "POOL_SIZE": 7,
    "POST_NMS_ROIS_INFERENCE": 500,
    "POST_NMS_ROIS_TRAINING": 500,
    "ROI_POSITIVE_RATIO": 0.33,
    "RPN_ANCHOR_RATIOS": [0.5, 1, 2],
    "RPN_ANCHOR_SCALES": [32, 64, 128, 256, 512],
    "RPN_ANCHOR_STRIDE": 1,
    "RPN_BBOX_STD_DEV": [0.1, 0.1, 0.2, 0.2],
    "RPN_NMS_THRESHOLD": 0.7,
    "RPN_TRAIN_ANCHORS_PER_IMAGE": 64,
    "STEPS_PER_EPOCH": 1000,
    "TARGET_MAX_DIM": 96,
    "TARGET_MIN_DIM": 75,
    "TARGET_PADDING": True,
    "TOP_DOWN_PYRAMID_SIZE": 256,
    "TRAIN_BN": False,
    "TRAIN_ROIS_PER_IMAGE": 100,
    "USE_MINI_MASK": True,
    "USE_RPN_ROIS": True,
    "VALIDATION_STEPS": 50,
    "WEIGHT_DECAY": 0.0001,
}
ORIGINAL_LARGE = {
    "DETECTION_MAX_INSTANCES": 100,
    "FPN_CLASSIF_FC_LAYERS_SIZE": 1024,
    "IMAGE_MAX_DIM": 1024,
    "IMAGE_MIN_DIM": 800,
    "MAX_GT_INSTANCES": 100,
    "POST_NMS_ROIS_INFERENCE": 1000,
    "POST_NMS_ROIS_TRAINING": 2000,
    "RPN_TRAIN_ANCHORS_PER_IMAGE": 256,
    "TARGET_MAX_DIM": 192,
    "TARGET_MIN_DIM": 150,
    "TRAIN_ROIS_PER_IMAGE": 200,
}
OWN = {  # what this package adds, with the value at which it behaves as the original
    "NAME": "siamese",
    "EXPERIMENT": "default",
    "MOLD_TARGETS_AT_INFERENCE": True,
    "SHUFFLE_ROIS": True,
    "TRAIN_MASK_ROIS_PER_IMAGE": 0,
    "PRE_NMS_LIMIT": 6000,
    "ROI_CANONICAL_SIZE": 224,
    "BACKBONE_BLOCKS": None,
    "BACKBONE_STEM_WIDTH": 64,
    "BACKBONE_WIDTHS": [256, 512, 1024, 2048],
    "BACKBONE_BOTTLENECK": 4,
    "PRECISION": "float32",
    "USE_XLA": False,
    "USE_PRESENCE": False,
    "REFERENCE_CLASSES": 0,
    "DETECTION_REFINEMENTS": 0,
    "RPN_CONV_CHANNELS": 512,
    "MASK_HEAD_CHANNELS": 256,
    "DETECTION_ARGMAX": True,
    "USE_HARD_NEGATIVES": False,
    "RPN_POSITIVE_IOU": 0.7,
    "FILL_NEGATIVE_ROIS": False,
    "NUM_JITTERED_GT_ROIS": 0,
    "QUERIES_PER_IMAGE": 1,
    "ABSENT_REFERENCE_RATIO": 0.0,
    "OPTIMIZER": "sgd",
    "ADAM_BETA_2": 0.999,
    "WARM_UP_STEPS": 0,
}
WITH_PRESENCE = ORIGINAL["LOSS_WEIGHTS"] | {"presence_loss": 0.5}


def backbone(image, stage5, train_bn):
    return [image] * 5


class Derived(Config):
    NAME = "derived"
    IMAGE_MAX_DIM = 640
    CLASS_LIST = ("cat", "dog")  # an attribute that Config does not know
    MEAN_PIXEL = np.array([1.0, 2.0, 3.0])  # as in code for Matterport

    @property
    def TWICE(self):
        return 2 * self.IMAGE_MAX_DIM


# ---- defaults ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (Config(), {**ORIGINAL, **OWN}),
        (SmallConfig(), {**ORIGINAL, **OWN, "NAME": "small_coco"}),
        (LargeConfig(), {**ORIGINAL, **OWN, "NAME": "large_coco", **ORIGINAL_LARGE}),
    ],
    ids=["base", "small", "large"],
)
def test_defaults_are_the_originals(config, expected):
    assert config.to_dict() == expected


def test_derived_values():
    config = LargeConfig().replace(IMAGES_PER_GPU=3, GPU_COUNT=4)
    assert config.BATCH_SIZE == 12
    assert config.IMAGE_SHAPE == (1024, 1024, 3)
    assert config.TARGET_SHAPE == (192, 192, 3)
    assert config.IMAGE_META_SIZE == 14
    assert config.MATCHED_FEATUREMAPS == 384
    assert config.replace(IMAGE_RESIZE_MODE="crop").IMAGE_SHAPE == (800, 800, 3)


@pytest.mark.parametrize("config_class", CONFIGS.values())
def test_named_configurations_are_valid(config_class):
    config_class().validate()


# ---- copies ------------------------------------------------------------------------------------------------------
def test_replace_changes_a_copy_only():
    config = TinyConfig()
    before = copy.deepcopy(config.to_dict())
    changed = config.replace(NUM_TARGETS=5, MODEL="frcnn", WEIGHT_DECAY=0)
    assert (changed.NUM_TARGETS, changed.MODEL, changed.WEIGHT_DECAY) == (5, "frcnn", 0)
    assert type(changed) is TinyConfig
    assert config.to_dict() == before == TinyConfig().to_dict()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("IMAGE_MAX_DIMM", "IMAGE_MAX_DIMM is not a setting; did you mean IMAGE_MAX_DIM?"),
        ("QQQQ", "QQQQ is not a setting$"),
        ("validate", "validate is not a setting"),
        ("self", "self is not a setting"),
        ("IMAGE_SHAPE", "IMAGE_SHAPE is derived from other settings"),
    ],
)
def test_replace_refuses_unknown_names(name, message):
    with pytest.raises(ValueError, match=message):
        Config().replace(**{name: 1})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("IMAGE_MAX_DIM", "512"),
        ("IMAGE_MAX_DIM", 512.0),
        ("IMAGE_MAX_DIM", 3e9),
        ("IMAGE_MAX_DIM", np.float64(512)),
        ("IMAGE_MAX_DIM", 10**400),
        ("LEARNING_RATE", 10**400),
        ("LEARNING_RATE", float("inf")),
        ("LEARNING_RATE", True),
        ("IMAGE_MAX_DIM", True),
        ("IMAGE_MAX_DIM", None),
        ("IMAGE_MAX_DIM", len),
        ("LEARNING_RATE", "fast"),
        ("LEARNING_RATE", float("nan")),
        ("LEARNING_RATE", None),
        ("USE_MINI_MASK", 1),
        ("TRAIN_BN", 0),
        ("MEAN_PIXEL", 3.0),
        ("MEAN_PIXEL", np.float32(3)),
        ("MEAN_PIXEL", "123"),
        ("MEAN_PIXEL", ["a", "b", "c"]),
        ("LOSS_WEIGHTS", [1, 2, 3]),
        ("BACKBONE", 50),
        ("NAME", 3),
        ("FILL_NEGATIVE_ROIS", 1),
        ("QUERIES_PER_IMAGE", 1.5),
        ("OPTIMIZER", None),
    ],
)
def test_replace_refuses_another_kind_of_value(name, value):
    with pytest.raises(ValueError, match=f"^{name} = .*expected "):
        Config().replace(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LEARNING_RATE", 1),
        ("IMAGE_MAX_DIM", np.int64(256)),
        ("RPN_ANCHOR_SCALES", [12.5, 25, 50, 100, 200]),
        ("RPN_ANCHOR_RATIOS", (1.0,)),
        ("MEAN_PIXEL", np.zeros(3)),
        ("TRAIN_BN", None),
        ("BACKBONE", backbone),
        ("COMPUTE_BACKBONE_SHAPE", backbone),
        ("BACKBONE_BLOCKS", (1, 1, 1, 1)),
    ],
)
def test_replace_takes_values_of_the_same_kind(name, value):
    assert getattr(Config().replace(**{name: value}), name) is value


def test_tiny_blocks_can_be_those_of_the_architecture():
    assert TinyConfig().replace(BACKBONE_BLOCKS=None).BACKBONE_BLOCKS is None


def test_former_names_of_settings_are_accepted(write):
    """config.json of a run that was begun before the settings were renamed."""
    settings = TinyConfig().replace(USE_HARD_NEGATIVES=False, NUM_JITTERED_GT_ROIS=7).to_dict()
    before = {name: value for name, value in settings.items() if name not in FORMER_NAMES.values()}
    before |= {"WITH_OTHER_CLASSES": False, "JITTERED_ROIS": 7}
    assert load_config(write(json.dumps({"BASE": "tiny", **before}))).to_dict() == settings
    assert TinyConfig().replace(WITH_OTHER_CLASSES=False, JITTERED_ROIS=7).to_dict() == settings
    assert Config().replace(**parse_settings(["JITTERED_ROIS=7"])).NUM_JITTERED_GT_ROIS == 7
    with pytest.raises(ValueError, match="NUM_JITTERED_GT_ROIS = 'a'"):
        Config().replace(JITTERED_ROIS="a")

    class Former(Config):
        JITTERED_ROIS = 5

    assert Former().NUM_JITTERED_GT_ROIS == 5 and "JITTERED_ROIS" not in Former().names()


def test_subclasses_may_add_attributes():
    config = Derived()
    assert "CLASS_LIST" in config.names() and "TWICE" not in config.names()
    assert config.replace(CLASS_LIST=["bird"], IMAGE_MAX_DIM=128).to_dict()["CLASS_LIST"] == ["bird"]
    assert config.replace(IMAGE_MAX_DIM=128).TWICE == 256
    with pytest.raises(ValueError, match="CLASS_LIST is not a setting"):
        Config().replace(CLASS_LIST=["bird"])
    with pytest.raises(ValueError, match="TWICE is derived"):
        config.replace(TWICE=1)


def test_attributes_of_an_instance_count():
    config = Config()
    config.EXTRA = 3
    assert config.to_dict()["EXTRA"] == 3
    assert config.replace(EXTRA=4).EXTRA == 4
    assert config.EXTRA == 3


def test_to_dict_is_plain():
    config = Derived().replace(BACKBONE=backbone)
    values = json.loads(json.dumps(config.to_dict()))
    assert values == config.to_dict()
    assert values["MEAN_PIXEL"] == [1.0, 2.0, 3.0]
    assert values["BACKBONE"] == "backbone"
    assert len(values) == len(ORIGINAL) + len(OWN) + 1


# ---- checks ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"IMAGE_MAX_DIM": 500}, "IMAGE_MAX_DIM = 500 is not a multiple of 64: use 448 or 512"),
        ({"IMAGE_MAX_DIM": 50}, "IMAGE_MAX_DIM = 50 is not a multiple of 64: use 64 or 128"),
        ({"IMAGE_MAX_DIM": 0}, "IMAGE_MAX_DIM = 0: expected a whole number from 1 to 65536"),
        ({"IMAGE_RESIZE_MODE": "crop"}, "IMAGE_MIN_DIM = 400 is not a multiple of 64: use 384 or 448"),
        ({"TARGET_MAX_DIM": 75}, "TARGET_MAX_DIM = 75 is not a multiple of 32: use 64 or 96"),
        ({"IMAGE_RESIZE_MODE": "stretch"}, "IMAGE_RESIZE_MODE = 'stretch': expected one of square, pad64, crop, none"),
        ({"MODEL": "yolo"}, "MODEL = 'yolo': expected one of mrcnn, frcnn"),
        ({"OPTIMIZER": "adamw"}, "OPTIMIZER = 'adamw': expected one of sgd, adam"),
        ({"ADAM_BETA_2": 1.5}, "ADAM_BETA_2 = 1.5: expected a number from 0 to 0.999999"),
        ({"RPN_POSITIVE_IOU": -0.1}, "RPN_POSITIVE_IOU = -0.1: expected a number from 0 to 1"),
        ({"QUERIES_PER_IMAGE": 0}, "QUERIES_PER_IMAGE = 0: expected a whole number from 1 to"),
        ({"NUM_JITTERED_GT_ROIS": -1}, "NUM_JITTERED_GT_ROIS = -1: expected a whole number from 0 to"),
        ({"WARM_UP_STEPS": -1}, "WARM_UP_STEPS = -1: expected a whole number from 0 to"),
        ({"TRAIN_BN": True}, "TRAIN_BN = True: expected one of False, None"),
        ({"RPN_ANCHOR_SCALES": (32, 64)}, r"RPN_ANCHOR_SCALES = \(32, 64\): expected 5 scales"),
        ({"MEAN_PIXEL": (1.0, 2.0)}, r"MEAN_PIXEL = \(1.0, 2.0\): expected 3 numbers from 0 to 255, got 2"),
        (
            {"BACKBONE_BLOCKS": [1, 1]},
            r"BACKBONE_BLOCKS = \[1, 1\]: expected 4 whole numbers from 1 to 1000, or None, got 2",
        ),
        ({"LOSS_WEIGHTS": {"rpn_class_loss": 1.0}}, "LOSS_WEIGHTS = .*expected a number for each of rpn_class_loss, "),
        (
            {"LOSS_WEIGHTS": dict.fromkeys(ORIGINAL["LOSS_WEIGHTS"], "1")},
            "expected for each loss a number .*, got rpn_class_loss = '1'",
        ),
        (
            {"LOSS_WEIGHTS": ORIGINAL["LOSS_WEIGHTS"] | {"rpn_bbox_loss": -1}},
            "from 0 to 1000000, got rpn_bbox_loss = -1",
        ),
        ({"LOSS_WEIGHTS": WITH_PRESENCE}, "mrcnn_mask_loss; presence_loss needs USE_PRESENCE$"),
        ({"LOSS_WEIGHTS": {"presence_loss": 1}, "USE_PRESENCE": True}, "a number for each of .*mrcnn_mask_loss$"),
        ({"LOSS_WEIGHTS": WITH_PRESENCE | {"reference_loss": 1.0}, "USE_PRESENCE": True}, "; reference_loss needs REF"),
        ({"REFERENCE_CLASSES": -1}, "REFERENCE_CLASSES = -1: expected a whole number from 0 to"),
        ({"ABSENT_REFERENCE_RATIO": 1.1}, "ABSENT_REFERENCE_RATIO = 1.1: expected a number from 0 to 1"),
        ({"BACKBONE_BLOCKS": [-1, 1, 1, 1]}, r"BACKBONE_BLOCKS = .*: expected 4 whole .*, got \[0\] = -1"),
        ({"BACKBONE_WIDTHS": [2, 64, 64, 64]}, r"BACKBONE_WIDTHS = .*: expected BACKBONE_BOTTLENECK = 4 or more each"),
        ({"RPN_ANCHOR_SCALES": (0, 8, 8, 8, 8)}, r"RPN_ANCHOR_SCALES = .*: expected a list of .*, got \[0\] = 0"),
        ({"RPN_ANCHOR_RATIOS": []}, r"RPN_ANCHOR_RATIOS = \[\]: expected a list of numbers from 0.001 to 1000"),
        ({"BBOX_STD_DEV": (0.1, 0.1, 0.0, 0.2)}, r"BBOX_STD_DEV = .*, got \[2\] = 0.0"),
        ({"MEAN_PIXEL": (1e308, 0, 0)}, r"MEAN_PIXEL = .*: expected 3 numbers from 0 to 255, got \[0\] = 1e\+308"),
        ({"GRADIENT_CLIP_NORM": -1}, "GRADIENT_CLIP_NORM = -1: expected a number from 1e-09 to"),
        ({"MINI_MASK_SHAPE": [0, 0]}, r"MINI_MASK_SHAPE = \[0, 0\]: expected 2 whole numbers from 1 to 4096"),
        ({"MINI_MASK_SHAPE": [56.0, 56]}, r"MINI_MASK_SHAPE = .*, got \[0\] = 56.0"),
        ({"GPU_COUNT": 0}, "GPU_COUNT = 0: expected a whole number from 1 to 1024"),
        ({"EXPERIMENT": "../mine"}, "EXPERIMENT = '../mine': expected a printable text of 1 to 80 "),
        ({"EXPERIMENT": "a" * 81}, "EXPERIMENT = 'aaa"),
        ({"CHECKPOINT_DIR": "\ud800"}, "CHECKPOINT_DIR = .*: expected a text"),
        ({"CHECKPOINT_DIR": "a\0b"}, "CHECKPOINT_DIR = .*: expected a text"),
        ({"NUM_TARGETS": 0}, "NUM_TARGETS = 0: expected a whole number from 1 to"),
        ({"DETECTION_MAX_INSTANCES": -1}, "DETECTION_MAX_INSTANCES = -1: expected a whole number from 1 to"),
    ],
)
def test_validate_names_the_setting(changes, message):
    with pytest.raises(ValueError, match=message):
        Config().replace(**changes).validate()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"IMAGE_RESIZE_MODE": "none"}, "IMAGE_RESIZE_MODE = 'none': expected 'square' or 'crop' for training"),
        ({"QUERIES_PER_IMAGE": 2}, "IMAGES_PER_GPU = 1: expected a multiple of QUERIES_PER_IMAGE = 2"),
        (
            {"BACKBONE_WIDTHS": (32, 64, 64, 64)},
            r"BACKBONE_WIDTHS = .*: expected 64 or more each for training",
        ),
        ({"USE_RPN_ROIS": False}, "USE_RPN_ROIS = False: training on given rois is not supported"),
        ({"NUM_TARGETS": 0}, "NUM_TARGETS = 0: expected"),
    ],
)
def test_validate_training_names_the_setting(changes, message):
    with pytest.raises(ValueError, match=message):
        Config().replace(**changes).validate_training()


def test_values_of_subclasses_are_validated():
    class Wrong(Config):
        GPU_COUNT = 0

    with pytest.raises(ValueError, match="GPU_COUNT = 0: expected"):
        Wrong().validate()


def test_every_setting_has_a_row_in_the_table():
    assert set(SETTINGS) == set(Config().names())
    for name, setting in SETTINGS.items():
        assert setting.part in PARTS and setting.meaning and "\n" not in setting.meaning, name


def test_a_long_value_is_cut_in_messages():
    with pytest.raises(ValueError, match=r"NAME = '/+\.\.\. \(100,?002 characters\): expected a printable text"):
        Config().replace(NAME="/" * 100_000)
    assert shown([10**5000]) == "a number of thousands of digits"


@pytest.mark.parametrize(
    "changes",
    [
        {"TRAIN_BN": None},
        {"IMAGE_RESIZE_MODE": "crop", "IMAGE_MIN_DIM": 384},
        {"USE_PRESENCE": True},
        {"USE_PRESENCE": True, "LOSS_WEIGHTS": WITH_PRESENCE},
        {"REFERENCE_CLASSES": 9, "LOSS_WEIGHTS": ORIGINAL["LOSS_WEIGHTS"] | {"reference_loss": 2.0}},
        {"ABSENT_REFERENCE_RATIO": 1},
        {"IMAGE_MAX_DIM": 256, "TARGET_MAX_DIM": 64},  # below the minima of the short sides
    ],
)
def test_validate_lets_the_possible_pass(changes):
    Config().replace(**changes).validate()


def test_new_settings_are_known_and_left_out_at_their_defaults():
    assert set(NEW_SETTINGS) <= set(Config().names())
    settings = Config().to_dict()
    assert without_new_defaults(settings) == {name: settings[name] for name in settings if name not in NEW_SETTINGS}
    changed = Config().replace(REFERENCE_CLASSES=9).to_dict()
    assert without_new_defaults(changed) == without_new_defaults(settings) | {"REFERENCE_CLASSES": 9}


# ---- files and command line --------------------------------------------------------------------------------------
@pytest.fixture
def write(tmp_path):
    def write_file(text):
        path = tmp_path / "config.json"
        path.write_bytes(text.encode("latin-1"))
        return path

    return write_file


@pytest.mark.parametrize("name", ["small", "large", "tiny"])
def test_load_config_by_name(name):
    assert type(load_config(name)) is CONFIGS[name]


def test_load_config_from_a_file(write):
    config = load_config(write('{"BASE": "tiny", "NUM_TARGETS": 3, "MEAN_PIXEL": [1, 2, 3], "TRAIN_BN": null}'))
    expected = {**TinyConfig().to_dict(), "NUM_TARGETS": 3, "MEAN_PIXEL": [1, 2, 3], "TRAIN_BN": None}
    assert config.to_dict() == expected
    assert load_config(write("{}")).to_dict() == SmallConfig().to_dict()


def test_load_config_accepts_a_byte_order_mark(write):
    assert load_config(write('\xef\xbb\xbf{"NUM_TARGETS": 3}')).NUM_TARGETS == 3


@pytest.mark.parametrize("config", [SmallConfig(), LargeConfig(), TinyConfig()])
def test_load_config_reads_what_to_dict_gives(write, config):
    assert load_config(write(json.dumps({"BASE": "small", **config.to_dict()}))).to_dict() == config.to_dict()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"config\.json: not JSON"),
        ("\xff\xfe", r"config\.json: .*not UTF-8 text at byte 0"),
        ("[1]", r"config\.json: expected an object of settings, got list"),
        ('{"BASE": "huge"}', r"config\.json: BASE = 'huge' is none of small, large, tiny"),
        ('{"BASE": ["tiny"]}', r"config\.json: BASE = \['tiny'\] is none of"),
        ('{"IMAGE_MAXDIM": 512}', r"config\.json: IMAGE_MAXDIM is not a setting; did you mean IMAGE_MAX_DIM\?"),
        ('{"IMAGE_MAX_DIM": "512"}', r"config\.json: IMAGE_MAX_DIM = '512': expected a whole number from 1 to 65536"),
        ('{"IMAGE_MAX_DIM": null}', r"config\.json: IMAGE_MAX_DIM = None: expected a whole number"),
        ('{"LEARNING_RATE": NaN}', r"config\.json: LEARNING_RATE = nan"),
        ('{"self": 1}', r"config\.json: self is not a setting"),
    ],
)
def test_load_config_names_file_and_fault(write, text, message):
    with pytest.raises(ValueError, match=message):
        load_config(write(text))


@pytest.mark.parametrize(
    ("content", "changes", "names_file"),
    [
        ({"TARGET_MAX_DIM": 33}, {}, True),
        ({"IMAGES_PER_GPU": 3}, {"QUERIES_PER_IMAGE": 2}, True),
        ({"BACKBONE": "resnet18"}, {}, True),
        ({"COMPUTE_BACKBONE_SHAPE": "shapes"}, {}, True),
        ({"BACKBONE_WIDTHS": [8, 8, 8, 8]}, {}, True),
        ({"TARGET_MAX_DIM": 64}, {"TARGET_MAX_DIM": 33}, False),
    ],
)
def test_checks_of_the_whole_name_the_file_that_a_setting_is_from(write, content, changes, names_file):
    config = load_config(write(json.dumps({"BASE": "tiny", **content}))).replace(**changes)
    with pytest.raises(ValueError, match="expected|multiple") as caught:
        config.validate_training()
    [name] = content
    start = "configuration .*json: " if names_file else ""
    assert re.match(f"{start}{name} = ", str(caught.value))


def test_load_config_without_a_file(tmp_path):
    with pytest.raises(ValueError, match="'smal': neither one of small, large, tiny nor a file"):
        load_config("smal")
    with pytest.raises(ValueError, match="cannot be read"):
        load_config(tmp_path)


def test_parse_settings():
    assignments = [
        "NUM_TARGETS=5",
        "LEARNING_RATE=1e-3",
        "MODEL=frcnn",
        'NAME="a=b"',
        "EXPERIMENT=c=d",
        "MEAN_PIXEL=[1, 2, 3]",
        "TRAIN_BN=None",
        "USE_MINI_MASK=False",
        "SHUFFLE_ROIS=true",
        "CHECKPOINT_DIR=",
    ]
    assert parse_settings(assignments) == {
        "NUM_TARGETS": 5,
        "LEARNING_RATE": 0.001,
        "MODEL": "frcnn",
        "NAME": "a=b",
        "EXPERIMENT": "c=d",
        "MEAN_PIXEL": [1, 2, 3],
        "TRAIN_BN": None,
        "USE_MINI_MASK": False,
        "SHUFFLE_ROIS": True,
        "CHECKPOINT_DIR": "",
    }
    assert parse_settings([]) == {}


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["NUM_TARGETS"], "'NUM_TARGETS': expected KEY=VALUE"),
        (["NUM_TARGETS=2", "NAME=a", "NUM_TARGETS=3"], "NUM_TARGETS = 3: already given as 2"),
        (["MEAN_PIXEL=" + "[" * 100_000], "MEAN_PIXEL = .*nested too deep"),
    ],
)
def test_parse_settings_refuses(assignments, message):
    with pytest.raises(ValueError, match=message):
        parse_settings(assignments)


# ---- printing and importing --------------------------------------------------------------------------------------
def test_display_prints_every_setting(capsys):
    config = Derived()
    before = copy.deepcopy(config.to_dict())
    config.display()
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line and ":" not in line[:20]]
    printed = {line[0]: line[1].strip() if len(line) > 1 else "" for line in lines}
    derived = {"BATCH_SIZE", "IMAGE_SHAPE", "TARGET_SHAPE", "IMAGE_META_SIZE"}
    assert set(printed) == set(config.names()) | derived
    assert printed["IMAGE_MAX_DIM"] == "640"
    assert printed["IMAGE_SHAPE"] == "(640, 640, 3)"
    assert config.to_dict() == before


def test_import_brings_no_framework():
    code = """
import sys
from siamese_mrcnn_tf import config
from siamese_mrcnn_tf.ops import anchors, boxes, image_meta
print(sorted({"tensorflow", "keras"} & set(sys.modules)))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout.strip() == "[]"
