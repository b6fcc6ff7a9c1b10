"""Options that several commands share, argument types, and what the options stand for."""

import argparse
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ..config import CONFIGS, Config, load_config, parse_settings

if TYPE_CHECKING:
    from pycocotools.coco import COCO

    from ..data.dataset import IndexedCocoDataset
    from ..predictor import SiamesePredictor

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

_SPLIT_HELP = "category split of the paper: 1 to 4 leave a quarter of the categories out, 0 trains on all (default 0)"
_DATASET_HELP = (
    "folder with annotations/ and the image folders; or 'shapes', scenes that this program draws itself "
    "(datasets/shapes, made where it is missing; a folder of that name is ./shapes)"
)
_WEIGHTS_HELP = (
    "an .h5 file, a known file by name such as shapes (bundled) or small_siamese_mrcnn_0160, 'last' (last checkpoint "
    "of --config under --logs), or 'untrained'"
)
_TRAINING_WEIGHTS = " (default: imagenet-1k, with a --split imagenet-687, with --config tiny untrained)"
_CHECKPOINTS_HELP = "folder in which known files are looked for, and to which they are downloaded (default checkpoints)"
_LOGS_HELP = "folder of training runs and their checkpoints (default logs)"
# TensorFlow's libraries log these while they are loaded, before they read TF_CPP_MIN_LOG_LEVEL.
_START_UP_LINE = rb"[IW]\d{4} \d\d:|WARNING: All log messages before absl::|To enable the following instructions:"


# ---- argument types ----------------------------------------------------------------------------------------------
def number(kind: Callable[[str], float], accepts: Callable[[float], bool], expected: str) -> Callable[[str], float]:
    """Argument type: a number of a kind, `int` or `float`, for which `accepts` is true; `expected` describes it."""

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not accepts(value):
            raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
        return value

    return parse


def at_least(bound: int) -> Callable[[str], float]:
    """Argument type: a whole number from `bound` on."""
    return number(int, lambda value: value >= bound, f"a whole number of {bound} or more")


above_zero = number(float, lambda value: 0 < value < math.inf, "a number above 0")
share = number(float, lambda value: 0 <= value < 1, "a share from 0 to below 1")


# ---- options -----------------------------------------------------------------------------------------------------
def add_command(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], int | None], text: str, **parts: Any
) -> argparse.ArgumentParser:
    """Add a command with the options that all have; `parts` are further texts of argparse: `help`, `epilog`."""
    parser = commands.add_parser(name, **({"help": text, "description": text} | parts))
    parser.set_defaults(command=run)
    parser.add_argument("--verbose", action="store_true", help="say more")
    parser.add_argument("--debug", action="store_true", help="show TensorFlow's log, and the traceback of an error")
    return parser


def add_dataset_arguments(parser: argparse.ArgumentParser, *, split: bool = False) -> None:
    """Add the options that choose images, and with `split` the categories to train on."""
    parser.add_argument("--dataset", metavar="DIR", help=_DATASET_HELP)
    parser.add_argument("--year", default="2017", help="of the annotation file (default 2017)")
    parser.add_argument("--images", type=int, nargs="+", metavar="ID", help="only the images with these COCO ids")
    if split:
        parser.add_argument("--split", type=int, choices=range(5), default=0, help=_SPLIT_HELP)


def add_model_arguments(parser: argparse.ArgumentParser, *, detects: bool = True, required: bool = True) -> None:
    """Add the options that choose configuration and weights; for training (not `detects`) these are initial weights."""
    help = _WEIGHTS_HELP if detects else _WEIGHTS_HELP + _TRAINING_WEIGHTS
    parser.add_argument("--model", required=required, metavar="FILE|NAME", help=help)
    add_config_arguments(parser, "the one that fits the weights" if detects else "small")
    if detects:
        parser.add_argument("--min-confidence", type=float, metavar="P", help="minimum score (default 0.7)")
    add_checkpoints_argument(parser)
    parser.add_argument("--logs", default="logs", metavar="DIR", help=_LOGS_HELP)


def add_checkpoints_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoints", default="checkpoints", metavar="DIR", help=_CHECKPOINTS_HELP)


def add_config_arguments(parser: argparse.ArgumentParser, default: str) -> None:
    names = ", ".join(CONFIGS)
    parser.add_argument("--config", metavar="NAME|FILE", help=f"{names} or a JSON file (default: {default})")
    text = "settings to change, values in JSON"
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help=text)


def add_run_arguments(parser: argparse.ArgumentParser, *, resume_help: str) -> None:
    """Add the options of a training run: checkpoints, precision and workers."""
    parser.add_argument("--resume", nargs="?", const="", metavar="DIR", help=resume_help)
    parser.add_argument("--save-every", type=at_least(1), default=250, metavar="N", help="steps (default 250)")
    keep = "number of last epochs whose weights are kept, beside the best by validation loss (default 3)"
    parser.add_argument("--keep", type=at_least(1), default=3, metavar="N", help=keep)
    bfloat16 = "compute in bfloat16 (PRECISION=bfloat16)"
    parser.add_argument("--mixed-precision", action=argparse.BooleanOptionalAction, help=bfloat16)
    devices = "GPUs of this machine, or parts of its CPU where it has none (default 1)"
    parser.add_argument("--devices", type=at_least(1), metavar="N", help=devices)
    parser.add_argument("--workers", type=at_least(1), default=2, metavar="N", help="that make samples (default 2)")
    processes = "make samples in processes instead of threads"
    parser.add_argument("--processes", action=argparse.BooleanOptionalAction, help=processes)


# ---- what options stand for --------------------------------------------------------------------------------------
def picked(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    """The options with these names."""
    return {name: getattr(options, name) for name in names}


def open_dataset(
    options: argparse.Namespace, subset: str, *, split: int = 0, **chosen: Any
) -> tuple["IndexedCocoDataset", "COCO"]:
    """(data set that the options name, with indices and the classes that a split trains; its pycocotools COCO)."""
    from ..data.dataset import IndexedCocoDataset, split_classes
    from ..shapes.dataset import find_dataset

    if options.dataset is None:
        raise ValueError("--dataset: expected the folder of a COCO-format data set, or 'shapes'")
    dataset = IndexedCocoDataset()
    coco = dataset.load_coco(
        find_dataset(options.dataset), subset, year=options.year, image_ids=options.images, return_coco=True, **chosen
    )
    dataset.prepare()
    dataset.build_indices()
    dataset.ACTIVE_CLASSES, _ = split_classes(dataset.num_classes - 1, split)
    return dataset, coco


def choose_config(options: argparse.Namespace, changes: dict[str, Any] | None = None) -> tuple[Config, Path | None]:
    """(configuration, weight file or None for initial weights) that the options name."""
    from ..weights.loading import fitting_config
    from ..weights.pretrained import find_weights

    path = None
    if options.model != "untrained":
        path = find_weights(options.model, options.checkpoints, last=lambda: find_last(options))
    name = options.config or (fitting_config(path) if path else "tiny")
    if name is None:
        raise ValueError(f"{path}: fits none of {', '.join(CONFIGS)}; name its configuration with --config")
    settings = parse_settings(options.set) | (changes or {})
    if options.min_confidence is not None:
        settings["DETECTION_MIN_CONFIDENCE"] = options.min_confidence
    config = load_config(name).replace(**settings)
    config.validate()
    return config, path


def find_last(options: argparse.Namespace) -> str:
    """Path of the last checkpoint of the run that --config, --set and --logs name."""
    from ..training.checkpoints import find_last_checkpoint, log_dir_of

    config = load_config(options.config or "small").replace(**parse_settings(options.set))
    return find_last_checkpoint(log_dir_of(config, options.logs))


def open_predictor(options: argparse.Namespace, config: Config, path: Path | None) -> "SiamesePredictor":
    """The predictor with the weights of a file, or with initial ones and a warning."""
    start_keras(options)
    import keras

    from ..predictor import SiamesePredictor

    keras.utils.set_random_seed(0)
    if path is None:
        print("untrained weights: detections mean nothing, this only shows that everything runs", file=sys.stderr)
    return SiamesePredictor(config, weights=path)


def start_keras(options: argparse.Namespace) -> None:
    """Import Keras and its backend, without the start-up lines of TensorFlow's libraries unless --debug is given.

    Another process passes on the error stream meanwhile: what a crash writes last is not lost.
    """
    if options.debug or "keras" in sys.modules:
        return
    keep = f"re.match({_START_UP_LINE!r}, line) is None"
    code = f"import re, sys; [sys.stderr.buffer.write(line) for line in sys.stdin.buffer if {keep}]"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as filtered:
        stderr = os.dup(2)
        os.dup2(filtered.stdin.fileno(), 2)  # type: ignore[union-attr]  # PIPE gives one
        try:
            import keras  # noqa: F401
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def resumed_arguments(folder: str | Path, given: list[str]) -> list[str]:
    """The arguments that a run was begun with, followed by those given now but for --resume.

    Raises:
        ValueError: no run was begun in `folder`.
    """
    from ..training.checkpoints import read_arguments

    added, given = [], list(given)
    while given:
        argument = given.pop(0)
        if argument == "--resume" and given and not given[0].startswith("-"):
            given.pop(0)
        elif argument.partition("=")[0] != "--resume":
            added.append(argument)
    return [*read_arguments(folder), *added]
