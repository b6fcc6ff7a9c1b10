"""Every setting with values that it cannot have, by --set and in a file of --config."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from siamese_mrcnn_tf.config import Config

from ..case import ERROR, WORKS, Case

_CHECK = ("check", "--dataset", "{base}/set", "--subset", "val", "--samples", "0", "--skip-images", "--out", "drawn")
_HUGE = int("9" * 400)
_OF_KIND: dict[str, dict[str, Any]] = {
    "count": {"negative": -1, "text": "many", "fraction": 1.5, "null": None, "list": [1], "digits": _HUGE},
    "number": {"negative": -1, "text": "x", "null": None, "list": [0.1], "nan": float("nan"), "infinite": float("inf")},
    "switch": {"two": 2, "text": "maybe", "null": None, "list": []},
    "numbers": {"empty": [], "nulls": [None], "texts": ["a", "b"], "number": 3, "text": "x", "nan": [float("nan")] * 4},
    "text": {"number": 5, "null": None, "list": ["a"], "object": {}},
    "object": {"empty": {}, "text": "x", "list": [], "unknown": {"other_loss": 1.0}},
    "none": {"text": "x", "object": {"a": 1}, "negative": [-1, 1, 1, 1], "zeros": [0, 0, 0, 0], "number": 3},
}
_FURTHER: dict[str, list[Any]] = {
    "BACKBONE_BLOCKS": [[1, 1, 1], [1, 1, 1, 1e9], [10**9, 1, 1, 1], [1.5, 1, 1, 1]],
    "BACKBONE": ["resnet18", "", "resnet50 "],
    "BACKBONE_WIDTHS": [[0, 64, 96, 128], [-64, 64, 96, 128], [10**12, 64, 96, 128], [1.5, 2, 3, 4]],
    "BACKBONE_STRIDES": [[0, 8, 16, 32, 64], [4, 8, 16, 32], [64, 32, 16, 8, 4]],
    "RPN_ANCHOR_SCALES": [[0, 0, 0, 0, 0], [-8, 16, 24, 32, 48], [8, 16], [1e308] * 5],
    "RPN_ANCHOR_RATIOS": [[0, 1, 2], [-1], [1e308, 1]],
    "BBOX_STD_DEV": [[0, 0, 0, 0], [-0.1, 0.1, 0.2, 0.2], [0.1, 0.1, 0.2]],
    "RPN_BBOX_STD_DEV": [[0, 0, 0, 0], [-0.1, 0.1, 0.2, 0.2], [0.1]],
    "MEAN_PIXEL": [[1e308, 0, 0], [1, 2], [-1e9, 0, 0]],
    "MINI_MASK_SHAPE": [[0, 0], [56], [-56, 56], [1e9, 1e9], [56.5, 56]],
    "MASK_SHAPE": [[0, 0], [28, 29], [28.5, 28.5]],
    "GRADIENT_CLIP_NORM": [0],
    "GPU_COUNT": [0],
    "IMAGES_PER_GPU": [0, 3_000_000_000],
    "STEPS_PER_EPOCH": [0],
    "DETECTION_MAX_INSTANCES": [0, 3_000_000_000],
    "POST_NMS_ROIS_INFERENCE": [0, 3_000_000_000],
    "PRE_NMS_LIMIT": [0, 10**18],
    "IMAGE_MAX_DIM": [0, 100, 64_000_000],
    "TARGET_MAX_DIM": [0, 33, 32_000_000],
    "POOL_SIZE": [0, 10**6],
    "FPN_FEATUREMAPS": [0, 10**9],
    "RPN_CONV_CHANNELS": [0, 10**9],
    "FPN_CLASSIF_FC_LAYERS_SIZE": [0, 10**9],
    "MASK_HEAD_CHANNELS": [0, 10**9],
    "BACKBONE_STEM_WIDTH": [0, 10**9],
    "BACKBONE_BOTTLENECK": [0, 10**9],
    "NUM_CLASSES": [0, 1, 3, 81],
    "NUM_TARGETS": [0, 10**9],
    "MAX_GT_INSTANCES": [0, 10**12],
    "TRAIN_ROIS_PER_IMAGE": [0, 10**12],
    "ROI_POSITIVE_RATIO": [1.5],
    "DETECTION_MIN_CONFIDENCE": [1.01, 1e308],
    "DETECTION_NMS_THRESHOLD": [1.01],
    "RPN_NMS_THRESHOLD": [2],
    "RPN_POSITIVE_IOU": [1.5],
    "ADAM_BETA_2": [1.5],
    "LEARNING_MOMENTUM": [1.5],
    "PRECISION": ["float16", "int8", "double"],
    "OPTIMIZER": ["rmsprop", ""],
    "MODEL": ["yolo", ""],
    "IMAGE_RESIZE_MODE": ["stretch", ""],
    "TRAIN_BN": [True],
    "LOSS_WEIGHTS": [{"rpn_class_loss": "x"}, {"rpn_class_loss": 1}],
    "EXPERIMENT": ["../../up", "a/b", "", "nul\0byte", "n" * 300],
    "NAME": ["../../up", "a/b", "", "n" * 300],
}
_ANY_TEXT = ("CHECKPOINT_DIR",)


def kind_of(value: Any) -> str:
    """The kind of a setting by its default."""
    if value is None:
        return "none"
    for kinds, name in (((bool,), "switch"), ((int,), "count"), ((float,), "number"), ((str,), "text")):
        if isinstance(value, kinds):
            return name
    return "object" if isinstance(value, dict) else "numbers"


def values() -> Iterator[tuple[str, str, Any]]:
    """(setting, name of a value, value that it cannot have)."""
    config = Config()
    for name in config.names():
        default = getattr(config, name)
        own = dict(_OF_KIND[kind_of(default)])
        if name == "TRAIN_BN":
            del own["null"]
        for label, value in own.items():
            yield name, label, value
        for number, value in enumerate(_FURTHER.get(name, [])):
            yield name, f"own_{number}", value


def cases() -> Iterator[Case]:
    """Each value by --set; the first of each setting also in a file."""
    filed = set()
    for setting, label, value in values():
        words = (*_CHECK, "--set", f"{setting}={json.dumps(value)}")
        yield Case(f"settings/set/{setting}={label}", words, ERROR, (setting,), needs=("set",))
        if setting not in filed:
            filed.add(setting)
            make = _filed({setting: value})
            words = (*_CHECK, "--config", "own.json")
            mentions = ("own.json", setting)
            yield Case(f"settings/config/{setting}={label}", words, ERROR, mentions, make, needs=("set",))
    yield from _files()
    yield from _assignments()
    for base in ("small", "large", "tiny"):
        yield Case(f"settings/good/{base}", (*_CHECK, "--config", base), WORKS, needs=("set",))


def _filed(content: Any) -> Any:
    return lambda folder: (folder / "own.json").write_text(json.dumps(content))


def _files() -> Iterator[Case]:
    contents = {
        "empty": b"",
        "list": b"[]",
        "number": b"3",
        "null": b"null",
        "text": b"IMAGE_MAX_DIM = 3",
        "cut": b'{"BASE": "tiny", ',
        "not_utf8": b'{"NAME": "caf\xe9"}',
        "deep": b"[" * 200_000,
        "deep_setting": b'{"LOSS_WEIGHTS": ' + b'{"a":' * 100_000,
        "surrogate": b'{"NAME": "\\ud800"}',
        "digits": b'{"IMAGE_MAX_DIM": ' + b"9" * 5000 + b"}",
        "base_number": b'{"BASE": 3}',
        "base_unknown": b'{"BASE": "huge"}',
        "unknown_setting": b'{"IMAGE_MAX_DIMM": 128}',
        "derived_setting": b'{"BATCH_SIZE": 3}',
        "method": b'{"replace": 3}',
        "dunder": b'{"__class__": 3}',
        "twice": b'{"IMAGE_MAX_DIM": 128, "IMAGE_MAX_DIM": -1}',
    }
    for name, content in contents.items():
        make = lambda folder, content=content: (folder / "own.json").write_bytes(content)  # noqa: E731
        words = (*_CHECK, "--config", "own.json")
        yield Case(f"settings/file/{name}", words, ERROR, ("own.json",), make, needs=("set",))

    def folder_in_place(folder: Path) -> None:
        (folder / "own.json").mkdir()

    words = (*_CHECK, "--config", "own.json")
    yield Case("settings/file/folder", words, ERROR, ("own.json",), folder_in_place, needs=("set",))
    yield Case("settings/file/missing", words, ERROR, ("own.json",), needs=("set",))
    make = lambda folder: (folder / "own.json").write_bytes(b"\xef\xbb\xbf{}")  # noqa: E731
    yield Case("settings/file/byte_order_mark", words, WORKS, (), make, needs=("set",))


def _assignments() -> Iterator[Case]:
    for name, text in {
        "no_equals": "IMAGE_MAX_DIM",
        "no_key": "=3",
        "empty": "",
        "unknown": "IMAGE_MAXIMUM=3",
        "derived": "BATCH_SIZE=3",
        "deep": f"LOSS_WEIGHTS={'[' * 20_000}",
        "no_number": "IMAGE_MAX_DIM=0x80",
        "surrogate": 'NAME="\\ud800"',
    }.items():
        mention = text.partition("=")[0] or text or "KEY=VALUE"
        yield Case(f"settings/assignment/{name}", (*_CHECK, "--set", text), ERROR, (mention,), needs=("set",))
