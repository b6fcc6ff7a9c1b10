"""Options that several commands share, and argument types."""

import argparse
import re
from collections.abc import Callable
from typing import TypeAlias

from ..config import CONFIGS, RUNTIME_PRECISIONS
from ..data.reading import BOX_ONLY, CROWDS, ORIENTATIONS
from ..settings import shown

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

EXPORT_FORMATS = ("onnx", "openvino", "savedmodel", "keras")
RUNTIMES = ("tensorflow", "onnx", "openvino")

_SPLIT_HELP = "category split: 1 to 4 exclude a quarter of the categories from training, 0 excludes none (default 0)"
_DATASET_HELP = (
    "folder of a data set in COCO format. The annotation file of a subset is, in this order: "
    "annotations/instances_SUBSETYEAR.json, then without a year or with the only other one; the only JSON file with "
    "the subset as a word of its name; SUBSET/_annotations.coco.json (Roboflow). A file of all images "
    "(annotations/instances_default.json of CVAT, result.json of Label Studio, or the only COCO file) is the subset "
    "train; convert --val-share splits it. Images are in SUBSETYEAR/, SUBSET/, images/SUBSET/, images/ or beside the "
    "file. Or 'shapes', scenes that this program draws itself (datasets/shapes, made where it is missing; a folder of "
    "that name is ./shapes)"
)
_IMAGES_HELP = "image folder of --annotations (numbers without --annotations are taken as --image-ids)"
_ORIENTATION_HELP = (
    "EXIF orientation of images: auto (the annotated size decides; where it leaves it open, obey), obey or ignore "
    "(default auto)"
)
_BOX_ONLY_HELP = (
    "an object with a box but no mask: the box is its mask (rectangle), or it is neutral like a crowd "
    "(default rectangle)"
)
_CROWDS_HELP = "annotations with iscrowd 1: neutral as in COCO, or instances (default neutral)"
_PIXELS_HELP = "read images of up to N pixels, height times width (default 178956970, or SIAMESE_MRCNN_MAX_PIXELS)"
_MIN_CONFIDENCE_HELP = (
    "minimum score of a detection (default: the threshold that calibrate stored beside the weights, or else 0.7)"
)
_NO_VERIFY_HELP = "do not verify finds, even if calibrate stored a verification beside the weights"
_CONFIG_DEFAULT = "that of the training run of the weights, or the one that fits them"
FILE_HELP = (
    "a Keras weight file (.h5, .weights.h5, .keras), 'shapes' (bundled weights) or a known file by name such as "
    "'large' or small_siamese_mrcnn_0160, downloaded on first use (the command weights lists them)"
)
RUNS_HELP = (
    "the folder of a training run, or of several for the newest (its best weights by validation loss, else the last); "
    "or 'last' or 'best' of the run of --config under --logs, without --config of the newest run there"
)
_RUNTIME_HELP = "what computes the dense parts of the network: tensorflow, or openvino on CPUs (default tensorflow)"
_EXPORTS_HELP = (
    "what computes the network: tensorflow, or openvino on CPUs (default tensorflow). For the folder that export wrote "
    "onnx or openvino, which need no TensorFlow, or tensorflow (default: the first that it has and that is installed)"
)
_PRECISION_HELP = (
    "precision of the dense parts: float32, bfloat16, or int8 with --runtime openvino, for weights that quantize has "
    "prepared (default: PRECISION of the configuration)"
)
LOGS_HELP = "folder of training runs and their checkpoints (default logs)"
CHECKPOINTS_HELP = "folder where known weight files are looked for before that of downloads (default checkpoints)"


_WHOLE = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_DIGITS = 20  # of a whole number that is read: more than any bound has
_LONGEST_PART = 60  # characters
MOST = 10**9  # maximum of counts without a bound of their own
MAX_SEED = 2**32 - 1  # NumPy's


def whole_number(text: str) -> int:
    """Argument type: a whole number in ASCII digits."""
    if _WHOLE.fullmatch(text) and len(text) <= _DIGITS:
        return int(text)
    raise argparse.ArgumentTypeError(f"expected a whole number, got {shown(text)}")


def number(accepts: Callable[[float], bool], expected: str) -> Callable[[str], float]:
    """Argument type: a number in ASCII digits for which `accepts` is true; `expected` describes it."""

    def parse(text: str) -> float:
        if _NUMBER.fullmatch(text) and accepts(value := float(text)):
            return value
        raise argparse.ArgumentTypeError(f"expected {expected}, got {shown(text)}")

    return parse


def at_least(bound: int, most: int = MOST) -> Callable[[str], int]:
    """Argument type: a whole number from `bound` to `most`."""

    def parse(text: str) -> int:
        is_whole = _WHOLE.fullmatch(text) is not None
        if is_whole and len(text) <= _DIGITS and bound <= int(text) <= most:
            return int(text)
        is_large = is_whole and not text.startswith("-") and (len(text) > _DIGITS or int(text) > most)
        expected = f"a whole number from {bound} to {most}" if is_large else f"a whole number of {bound} or more"
        raise argparse.ArgumentTypeError(f"expected {expected}, got {shown(text)}")

    return parse


def name_part(text: str) -> str:
    """Argument type: a part of a file name, such as a year or a subset."""
    if len(text) <= _LONGEST_PART and text.isprintable() and not set("/\\") & set(text):
        return text
    expected = f"a part of a file name, of {_LONGEST_PART} characters at most, without / and \\"
    raise argparse.ArgumentTypeError(f"expected {expected}, got {shown(text)}")


seed = at_least(0, MAX_SEED)
num_shots = at_least(1, 10_000)
num_workers = at_least(1, 1024)
above_zero = number(lambda value: 0 < value <= 1000, "a number above 0, at most 1000")
share = number(lambda value: 0 <= value < 1, "a share from 0 to below 1")
score = number(lambda value: 0 <= value <= 1, "a score from 0 to 1")


def add_command(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], int | None], doc: str | None
) -> argparse.ArgumentParser:
    """Add a command with the options that all have.

    `doc` is its module's docstring: first line the help, first paragraph the description, rest the epilog.
    """
    text, _, notes = (doc or "").partition("\n\n")
    parser = commands.add_parser(name, help=text.partition("\n")[0], description=text, epilog=notes)
    parser.set_defaults(command=run)
    parser.add_argument("--verbose", action="store_true", help="show more messages")
    parser.add_argument("--debug", action="store_true", help="show TensorFlow's log, and the traceback of an error")
    return parser


def add_dataset_arguments(parser: argparse.ArgumentParser, *, split: bool = False) -> None:
    """Add the options that choose images, and with `split` the categories to train on."""
    add = parser.add_argument
    add("--dataset", metavar="DIR", help=_DATASET_HELP)
    add("--year", type=name_part, default="2017", help="year in the name of the annotation file (default 2017)")
    add("--annotations", metavar="FILE", help="annotation file in COCO format, with --images in place of --dataset")
    add("--images", nargs="+", metavar="DIR", help=_IMAGES_HELP)
    add("--image-ids", type=whole_number, nargs="+", metavar="ID", help="use only the images with these COCO ids")
    add_reading_arguments(parser)
    if split:
        parser.add_argument("--split", type=whole_number, choices=range(5), default=0, help=_SPLIT_HELP)


def add_reading_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how images and annotations are read (`ReadingRules`)."""
    add = parser.add_argument
    add("--orientation", choices=ORIENTATIONS, default="auto", help=_ORIENTATION_HELP)
    add("--box-only", choices=BOX_ONLY, default="rectangle", help=_BOX_ONLY_HELP)
    add("--crowds", choices=CROWDS, default="neutral", help=_CROWDS_HELP)
    add_pixels_argument(parser)


def add_pixels_argument(parser: argparse.ArgumentParser) -> None:
    """Add --max-pixels; `main.parse` sets it."""
    parser.add_argument("--max-pixels", type=at_least(1, 2**31 - 1), metavar="N", help=_PIXELS_HELP)


def add_model_arguments(
    parser: argparse.ArgumentParser,
    *,
    more: str = "",
    detects: bool = True,
    chooses_threshold: bool = True,
    required: bool = True,
    runtimes: bool = False,
    names_threshold: bool = False,
) -> None:
    """Add the options that choose configuration and weights (initial without `detects`); `more` ends --model's help.

    With `chooses_threshold` there are those that replace what the threshold file of the weights says (with
    `names_threshold` also under the name --threshold), with `runtimes` those of `add_runtime_arguments`.
    """
    add = parser.add_argument
    names = f"{FILE_HELP}; {RUNS_HELP}; or 'untrained'{more}"
    add("--model", required=required, metavar="FILE|NAME", help=names)
    add_config_arguments(parser, _CONFIG_DEFAULT if detects else f"{_CONFIG_DEFAULT}; small without --model")
    if detects and chooses_threshold:
        either = parser.add_mutually_exclusive_group()
        either.add_argument("--min-confidence", type=score, metavar="P", help=_MIN_CONFIDENCE_HELP)
        if names_threshold:
            same = "the same as --min-confidence"
            either.add_argument("--threshold", dest="min_confidence", type=score, metavar="P", help=same)
        add("--no-verify", dest="verify", action="store_false", help=_NO_VERIFY_HELP)
    add("--checkpoints", default="checkpoints", metavar="DIR", help=CHECKPOINTS_HELP)
    add("--logs", default="logs", metavar="DIR", help=LOGS_HELP)
    if runtimes:
        add_runtime_arguments(parser)


def add_runtime_arguments(parser: argparse.ArgumentParser, *, exports: bool = False) -> None:
    """Add --runtime and --precision; `exports`: the command takes an exported folder as --model, too."""
    runtimes = RUNTIMES if exports else tuple(RUNTIME_PRECISIONS)
    parser.add_argument("--runtime", choices=runtimes, help=_EXPORTS_HELP if exports else _RUNTIME_HELP)
    parser.add_argument("--precision", choices=RUNTIME_PRECISIONS["openvino"], help=_PRECISION_HELP)
    parser.set_defaults(takes_exports=exports)


def add_config_arguments(parser: argparse.ArgumentParser, default: str) -> None:
    names = f"{', '.join(CONFIGS)} or a JSON file (default: {default})"
    parser.add_argument("--config", metavar="NAME|FILE", help=names)
    text = "change settings of the configuration; values are in JSON (the command settings lists them)"
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help=text)


def add_run_arguments(parser: argparse.ArgumentParser, default: str) -> None:
    """Add the options of a training run: checkpoints, precision and workers; `default` describes the folder."""
    add, positive, switch = parser.add_argument, at_least(1), argparse.BooleanOptionalAction
    resume = f"resume the run in DIR (default: {default}) from its last checkpoint with its options"
    add("--resume", nargs="?", const="", metavar="DIR", help=f"{resume}; options given here are added")
    add("--save-every", type=positive, default=250, metavar="N", help="save a checkpoint every N steps (default 250)")
    keep = "keep the weights of the last N epochs and of the best by validation loss (default 3)"
    add("--keep", type=positive, default=3, metavar="N", help=keep)
    add("--mixed-precision", action=switch, help="compute in bfloat16 (PRECISION=bfloat16)")
    devices = "GPUs of this machine, or parts of its CPU where it has none (default 1)"
    add("--devices", type=at_least(1, 1024), metavar="N", help=devices)
    add(
        "--workers", type=num_workers, default=2, metavar="N", help="threads or processes that make samples (default 2)"
    )
    add("--processes", action=switch, help="use worker processes instead of threads")
