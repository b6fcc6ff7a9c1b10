"""Fit the score threshold of a model, and the verification of its finds, on annotated images.

Images are searched for the categories that are in them and for categories that are not. A find is cut from the image,
encoded as a reference and compared with the reference of the query; score and similarity are weighed by a logistic
regression. The result is written beside the weights as NAME.threshold.json, where predict and evaluate find it.

Half of the images are for fitting; the metrics of the other half are held out.
"""

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from ..io.errors import InputError
from ..weights.runs import read_state, run_of
from .evaluate import count_or_all
from .inputs import choose_config, open_dataset, open_keras_predictor, picked, tell
from .options import (
    Commands,
    add_command,
    add_dataset_arguments,
    add_model_arguments,
    at_least,
    seed,
    share,
    whole_number,
)

if TYPE_CHECKING:
    from ..config import Config
    from ..data.dataset import IndexedCocoDataset
    from ..weights.thresholds import Calibration

_SPLIT_HELP = "category split: 1 to 4, 0 for none (default 0)"
_CATEGORIES_HELP = "search for the train categories of the split, its novel categories, or all (default all)"
_ABSENT_HELP = "categories that are not in an image to search it for: a number, or all (default all)"
_ALARMS_HELP = (
    "choose the threshold at which at most this share of the searches for absent categories shows a detection "
    "(default: the threshold with the best F1)"
)
_SUBSET_HELP = "'val', 'train', or 'set-aside': the training images that train sets aside for validation (default val)"
_VAL_IMAGES_HELP = "number of images that train set aside (default: as the run of --model, or a tenth, at most 3000)"
_VIEWS_HELP = (
    "views to average of a reference: 1 (as it is), 2 (and mirrored) or 8 (both in quarter turns, for objects that may "
    "be turned any way); of a find there are 2 at most (default 2)"
)
_OUT_HELP = "file to write (default: NAME.threshold.json beside the weights, where the other commands look for it)"
_COLUMNS = {"fitted": "fitted", "held_out": "held out", "published": "held out, unverified at 0.7"}


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "calibrate", run, __doc__)
    add = parser.add_argument
    add_dataset_arguments(parser)
    add("--subset", choices=("val", "train", "set-aside"), default="val", help=_SUBSET_HELP)
    add("--val-images", type=at_least(1), metavar="N", help=_VAL_IMAGES_HELP)
    add("--split", type=whole_number, choices=range(5), default=0, help=_SPLIT_HELP)
    add("--categories", choices=("train", "novel", "all"), default="all", help=_CATEGORIES_HELP)
    add("--limit", type=at_least(2), metavar="N", help="use only the first N images (default: all)")
    add("--absent", type=count_or_all, default="all", metavar="N|all", help=_ABSENT_HELP)
    runs = "searches for a category in an image, each with a reference of its own (default 1)"
    add("--runs", type=at_least(1, 10_000), default=1, metavar="N", help=runs)
    add("--seed", type=seed, default=0, help="seed of the draws (default 0)")
    add("--false-alarms", type=share, metavar="R", help=_ALARMS_HELP)
    add("--no-verification", dest="verify", action="store_false", help="fit a threshold for the network's own scores")
    add("--views", type=whole_number, choices=(1, 2, 8), default=2, help=_VIEWS_HELP)
    add("--out", metavar="FILE", help=_OUT_HELP)
    add_model_arguments(parser, chooses_threshold=False, runtimes=True)


def run(options: argparse.Namespace) -> None:
    from .. import shapes
    from ..io.files import remove_temporaries, writable_file
    from ..io.locks import exclusive
    from ..weights.thresholds import threshold_path

    if options.split == 0 and options.categories != "all":
        raise InputError(f"--categories {options.categories}: --split 0 has no novel categories, expected a split")
    if options.val_images and options.subset != "set-aside":
        raise InputError(f"--val-images {options.val_images}: goes with --subset set-aside")
    config, weights = choose_config(options)
    if weights is None:
        raise InputError(f"--model {options.model}: there is no weight file to calibrate")
    if not options.out and weights.parent == Path(shapes.__file__).parent:
        raise InputError(f"--model {options.model}: bundled weights; name the file to write with --out")
    path = writable_file(options.out or threshold_path(weights))
    with exclusive(path):
        remove_temporaries(path)
        _calibrate(options, config, weights, path)


def _calibrate(options: argparse.Namespace, config: "Config", weights: Path, path: Path) -> None:
    """Calibrate and write `path`, which is locked."""
    from ..data.dataset import split_classes
    from ..io.files import checksum
    from ..weights.thresholds import save_thresholds

    predictor = open_keras_predictor(options, config, weights)
    from ..evaluation.calibration import CalibrationSettings, calibrate, doubts

    dataset = open_images(options, weights)
    train, novel = split_classes(dataset.num_classes - 1, options.split)
    settings = CalibrationSettings(
        class_ids={"train": train.tolist(), "novel": novel.tolist(), "all": None}[options.categories],
        **picked(options, "limit", "absent", "runs", "seed", "false_alarms", "verify", "views"),
    )
    calibration = calibrate(predictor, dataset, settings, weights_sha256=checksum(weights))
    calibration.about["dataset"] = f"{Path(options.dataset or options.annotations).name} ({dataset.set_name})"
    save_thresholds(calibration, path)
    print(f"{calibration.summary()}\n\n{table(calibration)}\n\nIt is in {path}")
    for doubt in doubts(calibration):
        tell(options, f"warning: {doubt}; calibrate on more images")
    _tell_use(options, calibration, weights, path)


def _tell_use(options: argparse.Namespace, calibration: "Calibration", weights: Path, path: Path) -> None:
    """Say how the file is used, and how not, if it is where the other commands look for it."""
    from ..evaluation.settings import DEFAULT_THRESHOLD
    from ..weights.thresholds import threshold_path

    if path != threshold_path(weights):
        return
    words = [*options.launcher, "predict", "--model", str(weights)]
    words += ["--config", options.config] if options.config else []
    words += ["--image", "FILE", "--reference", "FILE"]
    without = f"{'--no-verify ' if calibration.verification else ''}--min-confidence {DEFAULT_THRESHOLD:g}"
    print(f"It is used from now on: {shlex.join(words)}")
    print(f"To undo this, delete {path}. A command with {without} does not use it")


def images_set_aside(options: argparse.Namespace, weights: Path | None) -> int | None:
    """Number of training images that the run of the weights set aside: --val-images, or as the run; None: a tenth.

    Raises:
        ValueError: the run set none aside.
    """
    run = run_of(weights) if weights else None
    state = read_state(run) if run else None
    settings = state.settings if state else {}
    validation = "on the subset val" if settings.get("validation") == "val" else ""
    validation = validation or ("not at all" if settings.get("val_images") == 0 else "")
    if validation:
        raise InputError(f"--subset set-aside: {run} was validated {validation}, no training images were set aside")
    found: int | None = options.val_images or settings.get("val_images")
    return found


def open_images(options: argparse.Namespace, weights: Path | None = None) -> "IndexedCocoDataset":
    """The images to calibrate on; `weights` tell which images their run set aside."""
    if options.subset == "set-aside":
        val_images = images_set_aside(options, weights)
        return open_dataset(options, "train", subsubset="val", val_images=val_images)[0]
    return open_dataset(options, options.subset)[0]


def table(calibration: "Calibration") -> str:
    """The metrics of a calibration as lines of text."""
    from ..evaluation.calibration import METRICS

    rows = [("from 0 to 1", *_COLUMNS.values())]
    for name, text in METRICS.items():
        values = [calibration.metrics[column][name] for column in _COLUMNS]
        rows.append((text, *("-" if value is None else f"{value:.3f}" for value in values)))
    counts = [calibration.metrics[column] for column in _COLUMNS]
    rows.append(("queries, present and absent", *(f"{one['num_present']} + {one['num_absent']}" for one in counts)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    is_empty = any("-" in row[1:] for row in rows)
    return "\n".join([*lines, *(["-: nothing to count"] if is_empty else [])])
