"""What commands share: groups of options, argument types, and what the options name."""

import argparse
import sys

from ..config import CONFIGS, load_config, parse_settings


def at_least(bound):
    """Argument type: a whole number from `bound` on."""

    def number(text):
        if not text.isdecimal() or int(text) < bound:
            raise argparse.ArgumentTypeError(f"expected a whole number of {bound} or more, got {text!r}")
        return int(text)

    return number


def above_zero(text):
    """Argument type: a number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return number


SPLIT_HELP = (
    "category split of the paper: 1 to 4 hold a quarter of the classes out, 0 trains on all of them (default 0)"
)
_DATASET_HELP = (
    "folder with annotations/ and the picture folders; or 'shapes', pictures that this repository draws itself "
    "(datasets/shapes, made where it is missing; a folder of that name is ./shapes)"
)
_WEIGHTS_HELP = (
    "a legacy .h5 file, a known file by name such as small_siamese_mrcnn_0160, 'last' (the last checkpoint of --config "
    "under --logs), or 'untrained'"
)


def add_dataset_arguments(parser):
    """Options that choose images."""
    parser.add_argument("--dataset", metavar="DIR", help=_DATASET_HELP)
    parser.add_argument("--year", default="2017", help="of the annotation file (default 2017)")
    parser.add_argument("--images", type=int, nargs="+", metavar="ID", help="only the images with these COCO ids")


def add_model_arguments(parser, *, needs_model=True, model_required=True):
    """Options that choose configuration and weights.

    Args:
        needs_model: False for training, where --model is what to start from.
        model_required: False where the command can do without.
    """
    start = "" if needs_model else " (default: imagenet-1k, with a --split imagenet-687, with --config tiny untrained)"
    parser.add_argument(
        "--model", required=needs_model and model_required, metavar="FILE|NAME", help=_WEIGHTS_HELP + start
    )
    add_config_arguments(parser, "the one that fits the weights" if needs_model else "small")
    if needs_model:
        parser.add_argument("--min-confidence", type=float, metavar="P", help="least score (default 0.7)")
    parser.add_argument(
        "--checkpoints", default="checkpoints", metavar="DIR", help="where known files are looked for and downloaded to"
    )
    parser.add_argument(
        "--logs", default="logs", metavar="DIR", help="where training runs and their checkpoints are (default logs)"
    )
    add_common_arguments(parser)


def add_config_arguments(parser, default):
    names = ", ".join(CONFIGS)
    parser.add_argument("--config", metavar="NAME|FILE", help=f"{names} or a JSON file (default: {default})")
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="settings to change, values in JSON",
    )


def add_common_arguments(parser):
    parser.add_argument("--verbose", action="store_true", help="say more")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def open_dataset(options, subset, *, split=0, **chosen):
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


def choose_config(options, changes=None):
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


def find_last(options):
    from ..training.checkpoints import find_last_checkpoint, log_dir_of

    config = load_config(options.config or "small").replace(**parse_settings(options.set))
    return find_last_checkpoint(log_dir_of(config, options.logs))


def open_predictor(config, path):
    """The predictor with the weights of a file, or with initial ones, of which it warns."""
    import keras

    from ..predictor import SiamesePredictor

    keras.utils.set_random_seed(0)
    if path is None:
        print("untrained weights: what they find means nothing, this only shows that everything runs", file=sys.stderr)
    return SiamesePredictor(config, weights=path)


def resumed_arguments(folder, given):
    """The arguments that a run was begun with, and after them those given now but for --resume.

    Args:
        folder: of the run.
        given: list of str.

    Raises:
        ValueError: no run was begun there.
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
