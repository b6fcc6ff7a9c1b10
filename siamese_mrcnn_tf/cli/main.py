"""Command line of Siamese Mask R-CNN: train and evaluate on COCO-format data, search pictures, inspect weights."""

import argparse
import logging
import os
import sys
from pathlib import Path

_FOLDER = Path(__file__).resolve().parent
_OTHERS = _FOLDER.parent / "shapes", _FOLDER.parents[1]
sys.path[:0] = map(str, (_FOLDER, *_OTHERS))  # runs from a checkout that is not installed

from command_options import (  # noqa: E402
    SPLIT_HELP,
    add_common_arguments,
    add_config_arguments,
    add_dataset_arguments,
    add_model_arguments,
    choose_config,
    open_dataset,
    open_predictor,
)
from convert_command import add_convert  # noqa: E402
from evaluate_command import add_evaluate  # noqa: E402
from train_command import add_train  # noqa: E402

from siamese_mrcnn_tf.arguments import at_least, exit_code  # noqa: E402
from siamese_mrcnn_tf.config import load_config, parse_settings  # noqa: E402  (light: --help stays fast)

_REFERENCE_HELP = (
    "a crop, or a box in pixels cut from a picture; several make one K-shot query; repeat the option for more "
    "categories"
)


def main(arguments=None):
    """Run one command; returns the exit code: 0, or 2 with a message for what the user can mend."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    options = parse(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING, format="%(message)s")
    return exit_code("coco.py", lambda: options.command(options), debug=options.debug)


def parse(arguments):
    """The options that `arguments`, a list of str, stand for; with them, and this function, among them."""
    options = build_parser().parse_args(arguments)
    options.arguments, options.parse = arguments, parse
    return options


def build_parser():
    """The argument parser of all commands."""
    parser = argparse.ArgumentParser(prog="coco.py", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_train(commands)
    add_check(commands)
    add_evaluate(commands)
    add_predict(commands)
    add_weights(commands)
    add_convert(commands)
    return parser


def add_check(commands):
    text = "Look a data set over: counts per class, what is broken in it, and pictures of training samples."
    parser = commands.add_parser("check", help=text, description=text)
    parser.set_defaults(command=check)
    add_dataset_arguments(parser)
    parser.add_argument("--subset", default="train", help="'train' or 'val' (default train)")
    parser.add_argument("--split", type=int, choices=range(5), default=0, help=SPLIT_HELP)
    parser.add_argument("--shots", type=at_least(1), default=1, metavar="K", help="references of a query (default 1)")
    parser.add_argument("--seed", type=at_least(0), default=0, help="of the samples (default 0)")
    parser.add_argument("--augment", choices=("none", "fliplr"), default="none", help="of the samples (default none)")
    parser.add_argument("--samples", type=at_least(0), default=10, metavar="N", help="pictures of them (default 10)")
    parser.add_argument("--skip-pictures", action="store_true", help="do not open every picture of the data set")
    parser.add_argument("--out", default="check", metavar="DIR", help="where the pictures go (default check)")
    add_config_arguments(parser, "small")
    add_common_arguments(parser)


def add_predict(commands):
    text = "Find and segment what looks like a reference in pictures."
    parser = commands.add_parser("predict", help=text, description=text)
    parser.set_defaults(command=predict)
    parser.add_argument(
        "--image", required=True, nargs="+", action="extend", metavar="FILE|DIR|GLOB", help="pictures to search"
    )
    parser.add_argument(
        "--reference",
        required=True,
        nargs="+",
        action="append",
        metavar="FILE[:y1,x1,y2,x2]",
        help=_REFERENCE_HELP,
    )
    parser.add_argument("--out", default="predictions", metavar="DIR", help="where results go (default predictions)")
    add_model_arguments(parser)


def add_weights(commands):
    text = "Say what is in a weight file, which configuration it fits and what would be left out."
    parser = commands.add_parser("weights", help=text, description=text)
    parser.set_defaults(command=weights)
    parser.add_argument("file", metavar="FILE", help="an .h5 file, or a known file by name")
    parser.add_argument(
        "--checkpoints", default="checkpoints", metavar="DIR", help="where known files are looked for and downloaded to"
    )
    add_common_arguments(parser)


def check(options):
    """Report what is in a data set; 1 if something in it is broken."""
    from siamese_mrcnn_tf.augmentation import parse_augmentation
    from siamese_mrcnn_tf.data_generator import SampleMaker
    from siamese_mrcnn_tf.files import writable_folder
    from siamese_mrcnn_tf.inspection import check_dataset, draw_samples

    out = writable_folder(options.out)
    config = load_config(options.config or "small").replace(NUM_TARGETS=options.shots, **parse_settings(options.set))
    config.validate()
    dataset, _ = open_dataset(options, options.subset, split=options.split)
    report = check_dataset(dataset, config=config, split=options.split, read_images=not options.skip_pictures)
    print(report.text())
    if options.samples:
        augmentation = parse_augmentation(options.augment)
        maker = SampleMaker(dataset, config, seed=options.seed, augmentation=augmentation)
        paths = draw_samples(maker, config, out, count=options.samples)
        print(f"\n{len(paths)} training samples are drawn in {out}")
    return 0 if report.ok else 1


def predict(options):
    from siamese_mrcnn_tf import prediction
    from siamese_mrcnn_tf.files import writable_folder

    writable_folder(options.out)
    paths = prediction.find_pictures(options.image)
    config, path = choose_config(options)
    queries = [prediction.read_query(sources, config) for sources in options.reference]
    predictor = open_predictor(config, path)
    results = prediction.predict_files(predictor, paths, queries, options.out)
    print(
        f"{len(results)} detections in {len(paths)} pictures for {len(queries)} queries. Results are in {options.out}"
    )


def weights(options):
    from siamese_mrcnn_tf.known_weights import find_weights
    from siamese_mrcnn_tf.weights import describe_weights

    print(describe_weights(find_weights(options.file, options.checkpoints)))


if __name__ == "__main__":
    sys.exit(main())
