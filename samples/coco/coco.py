"""Command line of Siamese Mask R-CNN: evaluate on COCO-format data, search pictures, look into weight files."""

import argparse
import logging
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # runs from a checkout that is not installed

from siamese_mrcnn_tf.config import CONFIGS, load_config, parse_settings  # noqa: E402  (light: --help stays fast)

_WEIGHTS_HELP = (
    "a legacy .h5 file, a known file by name such as small_siamese_mrcnn_0160, 'last' (the last checkpoint of --config "
    "under --logs), or 'untrained'"
)
_REFERENCE_HELP = (
    "a crop, or a box in pixels cut from a picture; several make one K-shot query; repeat the option for more "
    "categories"
)
_PROTOCOL_HELP = (
    "'paper' feeds references without subtracting the mean and sorts masks into sizes by their box, as the original did"
)


def main(arguments=None):
    """Run one command; returns the exit code: 0, or 2 with a message for what the user can mend."""
    options = build_parser().parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING, format="%(message)s")
    try:
        options.command(options)
    except (ImportError, ValueError, RuntimeError, OSError) as error:
        if options.debug:
            raise
        print(f"coco.py: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("coco.py: stopped", file=sys.stderr)
        return 130
    return 0


def build_parser():
    """The argument parser of all commands."""
    parser = argparse.ArgumentParser(prog="coco.py", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_evaluate(commands)
    add_predict(commands)
    add_weights(commands)
    return parser


def add_evaluate(commands):
    text = "Score a model on a COCO-format data set by the paper's one-shot protocol (one run of it)."
    parser = commands.add_parser("evaluate", help=text, description=text)
    parser.set_defaults(command=evaluate)
    parser.add_argument(
        "--dataset", required=True, metavar="DIR", help="folder with annotations/ and the picture folders"
    )
    parser.add_argument("--year", default="2017", help="of the annotation file (default 2017)")
    parser.add_argument("--subset", default="val", help="'val' or 'train' (default val)")
    parser.add_argument("--shots", type=at_least(1), default=1, metavar="K", help="references of a query (default 1)")
    parser.add_argument("--seed", type=at_least(0), default=0, help="of the reference draws (default 0)")
    parser.add_argument("--limit", type=at_least(1), metavar="N", help="only the first N images that have a category")
    parser.add_argument(
        "--protocol",
        choices=("default", "paper"),
        default="default",
        help=_PROTOCOL_HELP,
    )
    parser.add_argument("--out", default="evaluation", metavar="DIR", help="where results go (default evaluation)")
    add_model_arguments(parser)


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


def add_model_arguments(parser):
    """Options that choose configuration and weights."""
    parser.add_argument("--model", required=True, metavar="FILE|NAME", help=_WEIGHTS_HELP)
    names = ", ".join(CONFIGS)
    parser.add_argument(
        "--config", metavar="NAME|FILE", help=f"{names} or a JSON file (default: the one that fits the weights)"
    )
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="settings to change, values in JSON",
    )
    parser.add_argument("--min-confidence", type=float, metavar="P", help="least score of a detection (default 0.7)")
    parser.add_argument(
        "--checkpoints", default="checkpoints", metavar="DIR", help="where known files are looked for and downloaded to"
    )
    parser.add_argument(
        "--logs", default="logs", metavar="DIR", help="where checkpoints of training runs are (default logs)"
    )
    add_common_arguments(parser)


def add_common_arguments(parser):
    parser.add_argument("--verbose", action="store_true", help="say more")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def evaluate(options):
    from siamese_mrcnn_tf.dataset import IndexedCocoDataset
    from siamese_mrcnn_tf.evaluation import evaluate as run_protocol
    from siamese_mrcnn_tf.files import writable_folder, write_json

    out = writable_folder(options.out)
    paper = options.protocol == "paper"
    config, path = choose_config(options, {"MOLD_TARGETS_AT_INFERENCE": False} if paper else {})
    dataset = IndexedCocoDataset()
    coco = dataset.load_coco(options.dataset, options.subset, year=options.year, return_coco=True)
    dataset.prepare()
    dataset.build_indices()
    predictor = open_predictor(config, path)
    area = "box" if paper else "mask"
    outcome = run_protocol(
        predictor, dataset, coco, shots=options.shots, seed=options.seed, limit=options.limit, area=area
    )
    write_json(out / "results.json", outcome.results)
    write_json(out / "references.json", outcome.references)
    write_json(out / "config.json", predictor.config.to_dict(), indent=1)
    write_json(out / "scores.json", {name: scores.stats for name, scores in outcome.scores.items()}, indent=1)
    for name, scores in outcome.scores.items():
        print(f"\n{name}: {scores.num_images} images, {outcome.num_queries} queries, {scores.num_results} detections")
        print(scores.table())
    per_query = outcome.seconds / outcome.num_queries
    print(f"\n{outcome.seconds:.1f} s in the network, {per_query:.2f} s a query. Results are in {out}")


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


def choose_config(options, changes=None):
    """(configuration, weight file or None for initial weights) that the options name."""
    from siamese_mrcnn_tf.known_weights import find_weights
    from siamese_mrcnn_tf.weights import fitting_config

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
    from siamese_mrcnn_tf.model import find_last_checkpoint, log_dir_of

    config = load_config(options.config or "small").replace(**parse_settings(options.set))
    return find_last_checkpoint(log_dir_of(config, options.logs))


def open_predictor(config, path):
    """The predictor with the weights of a file, or with initial ones, of which it warns."""
    import keras

    from siamese_mrcnn_tf.predictor import SiamesePredictor

    keras.utils.set_random_seed(0)
    if path is None:
        print("untrained weights: what they find means nothing, this only shows that everything runs", file=sys.stderr)
    return SiamesePredictor(config, weights=path)


def at_least(bound):
    """Argument type: a whole number from `bound` on."""

    def number(text):
        if not text.isdecimal() or int(text) < bound:
            raise argparse.ArgumentTypeError(f"expected a whole number of {bound} or more, got {text!r}")
        return int(text)

    return number


if __name__ == "__main__":
    sys.exit(main())
