"""What the options stand for: data set, configuration, weights, predictor, the run to resume."""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import CONFIGS, Config, load_config, parse_settings

if TYPE_CHECKING:
    from pycocotools.coco import COCO

    from ..data.dataset import IndexedCocoDataset
    from ..predictor import SiamesePredictor
    from ..weights.thresholds import Calibration

# TensorFlow's libraries log these while they are loaded, before they read TF_CPP_MIN_LOG_LEVEL.
_START_UP_LINE = rb"[IW]\d{4} \d\d:|WARNING: All log messages before absl::|To enable the following instructions:"


def picked(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    """The options with these names."""
    return {name: getattr(options, name) for name in names}


def open_dataset(
    options: argparse.Namespace, subset: str, *, split: int = 0, **chosen: Any
) -> tuple["IndexedCocoDataset", "COCO"]:
    """(data set that the options name, with indices and the classes that a split trains; its pycocotools COCO)."""
    from ..data.dataset import IndexedCocoDataset, split_classes
    from ..data.reading import ReadingRules
    from ..shapes.dataset import find_dataset

    image_dir, image_ids = _chosen_images(options)
    if options.annotations is None and options.dataset is None:
        raise ValueError("--dataset: expected the folder of a COCO-format data set, or 'shapes'")
    if options.annotations is not None and options.dataset is not None:
        raise ValueError(f"--annotations {options.annotations}: expected without --dataset, or --dataset alone")
    folder = "" if options.dataset is None else find_dataset(options.dataset)
    rules = ReadingRules(**picked(options, "orientation", "box_only", "crowds"))
    chosen |= {"year": options.year, "annotations": options.annotations, "images": image_dir, "rules": rules}
    dataset = IndexedCocoDataset()
    coco = dataset.load_coco(folder, subset, image_ids=image_ids, return_coco=True, **chosen)
    dataset.prepare()
    dataset.build_indices()
    dataset.ACTIVE_CLASSES, _ = split_classes(dataset.num_classes - 1, split)
    return dataset, coco


def _chosen_images(options: argparse.Namespace) -> tuple[str | None, list[int] | None]:
    """(image folder of --annotations or None, COCO ids of the images to use or None for all)."""
    given: list[str] = options.images or []
    if options.annotations is not None:
        if len(given) != 1:
            raise ValueError(f"--images {' '.join(given)}: expected the folder of the images of {options.annotations}")
        return given[0], options.image_ids
    if not given:
        return None, options.image_ids
    if options.image_ids is not None or not all(map(str.isdecimal, given)):
        raise ValueError(f"--images {' '.join(given)}: an image folder needs its annotation file (--annotations)")
    return None, [int(number) for number in given]


def choose_config(options: argparse.Namespace, changes: dict[str, Any] | None = None) -> tuple[Config, Path | None]:
    """(configuration, weight file or None for initial weights) that the options name.

    The threshold file beside the weights gives DETECTION_MIN_CONFIDENCE and VERIFY_DETECTIONS, which options replace.
    """
    from ..weights.loading import fitting_config, has_presence
    from ..weights.pretrained import find_weights

    path = None
    if options.model != "untrained":
        path = find_weights(options.model, options.checkpoints, last=lambda: find_last(options))
    name = options.config or (fitting_config(path) if path else "tiny")
    if name is None:
        raise ValueError(f"{path}: fits none of {', '.join(CONFIGS)}; name its configuration with --config")
    config, settings = load_config(name), calibrated_settings(options, path)
    if config.DETECTION_MIN_CONFIDENCE != Config.DETECTION_MIN_CONFIDENCE:  # a configuration's own
        settings.pop("DETECTION_MIN_CONFIDENCE", None)
    settings |= parse_settings(options.set) | (changes or {})
    if path and not options.config and has_presence(path):
        settings = {"USE_PRESENCE": True} | settings
    if getattr(options, "min_confidence", None) is not None:
        settings["DETECTION_MIN_CONFIDENCE"] = options.min_confidence
    config = config.replace(**settings)
    config.validate()
    return config, path


def find_calibration(options: argparse.Namespace, path: Path | None) -> "Calibration | None":
    """The threshold file beside the weights, for a command that uses it; the paper's protocol does not."""
    from ..weights.thresholds import find_thresholds

    if path is None or not hasattr(options, "min_confidence") or getattr(options, "protocol", "") == "paper":
        return None
    return find_thresholds(path)


def calibrated_settings(options: argparse.Namespace, path: Path | None) -> dict[str, Any]:
    """The settings that the threshold file beside the weights gives; none without verification where it needs one."""
    calibration = find_calibration(options, path)
    if calibration is None:
        return {}
    if calibration.verification is None:
        return {"DETECTION_MIN_CONFIDENCE": calibration.threshold}
    if not options.verify or not parse_settings(options.set).get("VERIFY_DETECTIONS", True):
        return {}  # a threshold of verified scores means nothing for others
    return {"DETECTION_MIN_CONFIDENCE": calibration.threshold, "VERIFY_DETECTIONS": True}


def find_last(options: argparse.Namespace) -> str:
    """Path of the last checkpoint of the run that --config, --set and --logs name."""
    from ..training.checkpoints import find_last_checkpoint, log_dir_of

    config = load_config(options.config or "small").replace(**parse_settings(options.set))
    return find_last_checkpoint(log_dir_of(config, options.logs))


def open_predictor(options: argparse.Namespace, config: Config, path: Path | None) -> "SiamesePredictor":
    """The predictor with the weights of a file, or with initial ones and a warning; says which threshold it uses."""
    start_keras(options)
    import keras

    from ..predictor import SiamesePredictor

    keras.utils.set_random_seed(0)
    if path is None:
        print("untrained weights: detections mean nothing, this only shows that everything runs", file=sys.stderr)
    calibration = find_calibration(options, path)
    verification = calibration.verification if calibration and config.VERIFY_DETECTIONS else None
    predictor = SiamesePredictor(config, weights=path, verification=verification, calibrated=False)
    if calibration is not None:
        print(_used(config, calibration, predictor.verifies), file=sys.stderr)
    return predictor


def _used(config: Config, calibration: "Calibration", verifies: bool) -> str:
    """What of a threshold file is used, in one line."""
    if config.DETECTION_MIN_CONFIDENCE == calibration.threshold and verifies == bool(calibration.verification):
        return calibration.summary()
    kind = "verified scores" if verifies else "scores"
    return f"threshold {config.DETECTION_MIN_CONFIDENCE:.4g} of {kind}; calibrated was: {calibration.summary()}"


def start_keras(options: argparse.Namespace) -> None:
    """Import Keras and its backend, without the start-up lines of TensorFlow's libraries unless --debug is given.

    Another process filters the error stream meanwhile: the last words of a crash are not lost.
    """
    if options.debug or "keras" in sys.modules:
        return
    kept = f"line for line in sys.stdin.buffer if not re.match({_START_UP_LINE!r}, line)"
    words = [sys.executable, "-c", f"import re, sys; sys.stderr.buffer.writelines({kept})"]
    with os.fdopen(os.dup(2)) as stderr, subprocess.Popen(words, stdin=subprocess.PIPE) as filtering:
        os.dup2(filtering.stdin.fileno(), 2)  # type: ignore[union-attr]  # PIPE gives one
        try:
            import keras  # noqa: F401
        finally:
            os.dup2(stderr.fileno(), 2)


def resumed_arguments(folder: str | Path, given: list[str]) -> list[str]:
    """The arguments that a run was begun with, followed by those given now but for --resume.

    Raises:
        ValueError: no run was begun in `folder`.
    """
    from ..training.checkpoints import read_arguments

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--resume", nargs="?")
    return [*read_arguments(folder), *parser.parse_known_args(given)[1]]
