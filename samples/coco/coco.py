"""Command line of Siamese Mask R-CNN: train and evaluate on COCO-format data, search pictures, inspect weights."""

import argparse
import logging
import os
import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # runs from a checkout that is not installed

from siamese_mrcnn_tf.arguments import at_least  # noqa: E402
from siamese_mrcnn_tf.config import CONFIGS, Config, load_config, parse_settings  # noqa: E402  (light: --help stays fast)

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

_SPLIT_HELP = (
    "category split of the paper: 1 to 4 hold a quarter of the classes out, 0 trains on all of them (default 0)"
)
_STAGES_HELP = (
    "schedule: paper (160 epochs), paper-full (320, for all 80 classes), small (12), tiny (10, from random weights), "
    'or a JSON file, a list of {"epochs": LAST, "layers": "heads", "learning_rate": 0.02} (default paper)'
)
_VAL_IMAGES_HELP = (
    "training images to set aside, the last by id, for validation each epoch (default 3000, the original's, but at "
    "most a tenth); 0: no validation"
)
_RESUME_HELP = (
    "go on with the run in this folder (default: that of --config under --logs) from its last checkpoint, with its "
    "options; those given here are added"
)
_KEEP_HELP = "epochs whose weights are kept, beside the best by validation loss (default 3)"
_DEVICES_HELP = "GPUs of this machine, or parts of its CPU where it has none (default 1)"
_TRAIN_NOTES = (
    "Batch, devices and learning rate: --batch counts the images of a step over all devices, each takes an equal part. "
    "Losses are averaged on each device and then over devices, as in the original, and the gradient is clipped after "
    "that; so the learning rates of a schedule belong to its batch (12 in the paper's), however many devices share it, "
    "and want to be scaled in proportion to another batch (put them in a schedule FILE). Several machines: set "
    "TF_CONFIG on each, as for tf.distribute.MultiWorkerMirroredStrategy, and run the same command with --logs on a "
    "file system that they share; --batch is over all of them."
)
_PAPER_BATCH = 12
_BACKBONE_SETTINGS = ("BACKBONE", "BACKBONE_BLOCKS", "BACKBONE_STEM_WIDTH", "BACKBONE_WIDTHS", "BACKBONE_BOTTLENECK")


def main(arguments=None):
    """Run one command; returns the exit code: 0, or 2 with a message for what the user can mend."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    options = build_parser().parse_args(arguments)
    options.arguments = arguments
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING, format="%(message)s")
    try:
        return options.command(options) or 0
    except (ImportError, ValueError, RuntimeError, OSError) as error:
        if options.debug:
            raise
        print(f"coco.py: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("coco.py: stopped", file=sys.stderr)
        return 130


def build_parser():
    """The argument parser of all commands."""
    parser = argparse.ArgumentParser(prog="coco.py", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_train(commands)
    add_check(commands)
    add_evaluate(commands)
    add_predict(commands)
    add_weights(commands)
    return parser


def add_train(commands):
    text = "Train a model on a COCO-format data set, by the paper's schedule."
    parser = commands.add_parser("train", help=text, description=text, epilog=_TRAIN_NOTES)
    parser.set_defaults(command=train)
    add_dataset_arguments(parser)
    parser.add_argument("--split", type=int, choices=range(5), default=0, help=_SPLIT_HELP)
    parser.add_argument("--shots", type=at_least(1), metavar="K", help="references of a query (default 1)")
    parser.add_argument("--stages", default="paper", metavar="NAME|FILE", help=_STAGES_HELP)
    parser.add_argument("--epochs", type=at_least(1), metavar="N", help="stop after epoch N of the schedule")
    parser.add_argument("--steps", type=at_least(1), metavar="N", help="steps of an epoch (default 1000)")
    parser.add_argument(
        "--batch", type=at_least(1), metavar="N", help="images of a step, over all devices (default 12, the paper's)"
    )
    parser.add_argument("--val-images", type=at_least(0), metavar="N", help=_VAL_IMAGES_HELP)
    parser.add_argument("--val-steps", type=at_least(0), metavar="N", help="validation batches an epoch (default 50)")
    parser.add_argument("--augment", choices=("none", "fliplr"), default="none", help="default none, as in the paper")
    parser.add_argument("--seed", type=at_least(0), default=0, help="of weights, samples and rois (default 0)")
    parser.add_argument("--resume", nargs="?", const="", metavar="DIR", help=_RESUME_HELP)
    parser.add_argument("--save-every", type=at_least(1), default=250, metavar="N", help="steps (default 250)")
    parser.add_argument("--keep", type=at_least(1), default=3, metavar="N", help=_KEEP_HELP)
    parser.add_argument(
        "--mixed-precision", action=argparse.BooleanOptionalAction, help="compute in bfloat16 (PRECISION=bfloat16)"
    )
    parser.add_argument("--devices", type=at_least(1), metavar="N", help=_DEVICES_HELP)
    parser.add_argument("--workers", type=at_least(1), default=2, metavar="N", help="makers of samples (default 2)")
    parser.add_argument(
        "--processes", action=argparse.BooleanOptionalAction, help="make samples in processes instead of threads"
    )
    add_model_arguments(parser, needs_model=False)


def add_check(commands):
    text = "Look a data set over: counts per class, what is broken in it, and pictures of training samples."
    parser = commands.add_parser("check", help=text, description=text)
    parser.set_defaults(command=check)
    add_dataset_arguments(parser)
    parser.add_argument("--subset", default="train", help="'train' or 'val' (default train)")
    parser.add_argument("--split", type=int, choices=range(5), default=0, help=_SPLIT_HELP)
    parser.add_argument("--shots", type=at_least(1), default=1, metavar="K", help="references of a query (default 1)")
    parser.add_argument("--seed", type=at_least(0), default=0, help="of the samples (default 0)")
    parser.add_argument("--augment", choices=("none", "fliplr"), default="none", help="of the samples (default none)")
    parser.add_argument("--samples", type=at_least(0), default=10, metavar="N", help="pictures of them (default 10)")
    parser.add_argument("--skip-pictures", action="store_true", help="do not open every picture of the data set")
    parser.add_argument("--out", default="check", metavar="DIR", help="where the pictures go (default check)")
    add_config_arguments(parser, "small")
    add_common_arguments(parser)


def add_dataset_arguments(parser):
    """Options that choose images."""
    parser.add_argument("--dataset", metavar="DIR", help="folder with annotations/ and the picture folders")
    parser.add_argument("--year", default="2017", help="of the annotation file (default 2017)")
    parser.add_argument("--images", type=int, nargs="+", metavar="ID", help="only the images with these COCO ids")


def add_evaluate(commands):
    text = "Score a model on a COCO-format data set by the paper's one-shot protocol (one run of it)."
    parser = commands.add_parser("evaluate", help=text, description=text)
    parser.set_defaults(command=evaluate)
    add_dataset_arguments(parser)
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


def add_model_arguments(parser, *, needs_model=True):
    """Options that choose configuration and weights."""
    start = "" if needs_model else " (default: imagenet-1k, with a --split imagenet-687, with --config tiny untrained)"
    parser.add_argument("--model", required=needs_model, metavar="FILE|NAME", help=_WEIGHTS_HELP + start)
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


def train(options):
    """Start a run, or go on with one."""
    from siamese_mrcnn_tf import devices, training
    from siamese_mrcnn_tf.checkpoints import save_command
    from siamese_mrcnn_tf.schedules import load_schedule, shortened

    options, folder = resumed_options(options)
    stages = load_schedule(options.stages)
    stages = stages if options.epochs is None else shortened(stages, options.epochs)
    config = training_config(options)
    logging.getLogger("siamese_mrcnn_tf").setLevel(logging.INFO)  # of hours of work, what happens is of interest
    devices.prepare_backend(seed=options.seed, devices=config.GPU_COUNT)
    datasets = training_datasets(options)
    with training.stopping_on_signals() as stop:
        model, trainer = open_trainer(options, config, stop, folder)
        if devices.is_chief():
            save_command(model.log_dir, "coco.py", options.arguments, config)
        try:
            training.train_on_dataset(
                trainer,
                stages,
                *datasets,
                augmentation=options.augment,
                workers=options.workers,
                processes=options.processes,
            )
        except training.TrainingStopped as reason:
            command = shlex.join([sys.executable, sys.argv[0], "train", "--resume", model.log_dir])
            print(f"{reason}. To go on: {command}", file=sys.stderr)
            return 130
    print(f"trained to epoch {trainer.state.epoch}. Weights and losses are in {model.log_dir}")


def resumed_options(options):
    """(the options of the run to resume, with those given now; its folder or None)."""
    from siamese_mrcnn_tf.checkpoints import resumed_arguments
    from siamese_mrcnn_tf.model import log_dir_of

    if options.resume is None:
        return options, None
    if options.model is not None:
        raise ValueError(f"--model {options.model}: a run that is resumed goes on with its own weights")
    folder = Path(options.resume or log_dir_of(training_config(options), options.logs))
    arguments = resumed_arguments(folder, options.arguments[1:])
    options = build_parser().parse_args(arguments)
    options.arguments = arguments
    return options, folder


def training_config(options):
    """The configuration that the options of `train` name."""
    config = load_config(options.config or "small").replace(**parse_settings(options.set))
    settings = {"GPU_COUNT": options.devices, "NUM_TARGETS": options.shots, "STEPS_PER_EPOCH": options.steps}
    settings["VALIDATION_STEPS"] = options.val_steps
    config = config.replace(**{name: value for name, value in settings.items() if value is not None})
    is_batch_set = config.IMAGES_PER_GPU != Config.IMAGES_PER_GPU or "IMAGES_PER_GPU" in parse_settings(options.set)
    batch = options.batch or (config.BATCH_SIZE if is_batch_set else _PAPER_BATCH)
    if batch % config.GPU_COUNT:
        raise ValueError(f"--batch {batch}: cannot be shared evenly by {config.GPU_COUNT} devices")
    config = config.replace(IMAGES_PER_GPU=batch // config.GPU_COUNT)
    if options.mixed_precision is not None:
        config = config.replace(PRECISION="bfloat16" if options.mixed_precision else "float32")
    config.validate()
    return config


def open_trainer(options, config, stop, folder):
    """(model, trainer) with the weights to start from, or those of the run to resume in `folder`."""
    from siamese_mrcnn_tf.checkpoints import refuse_run
    from siamese_mrcnn_tf.known_weights import find_weights
    from siamese_mrcnn_tf.model import SiameseMaskRCNN, log_dir_of

    is_paper_backbone = all(getattr(config, name) == getattr(Config, name) for name in _BACKBONE_SETTINGS)
    default = ("imagenet-687" if options.split else "imagenet-1k") if is_paper_backbone else "untrained"
    name = options.model or default
    path = None
    if folder is None and name != "last":
        refuse_run(log_dir_of(config, options.logs))
        path = find_weights(name, options.checkpoints) if name != "untrained" else None
    model = SiameseMaskRCNN("training", config, options.logs, seed=options.seed)
    if folder is not None:
        model.log_dir = str(folder)  # it may have been moved since
    elif name == "last":
        model.load_latest_checkpoint()
    elif path is not None:
        model.load_weights(path)
    data = ("year", "images", "split", "val_images", "augment")
    return model, model.trainer(
        seed=options.seed,
        keep=options.keep,
        save_every=options.save_every,
        stop=stop,
        resume=folder is not None,
        fixed={name: getattr(options, name) for name in data},
    )


def training_datasets(options):
    """[training data, validation data unless there is to be none], with the classes of the split."""
    parts = ("train", "val") if options.val_images != 0 else ("train",)
    chosen = {"split": options.split, "val_images": options.val_images}
    return [open_dataset(options, "train", subsubset=part, **chosen)[0] for part in parts]


def open_dataset(options, subset, *, split=0, **chosen):
    """(data set that the options name, with indices and the classes that a split trains; its pycocotools COCO)."""
    from siamese_mrcnn_tf.dataset import IndexedCocoDataset, split_classes

    if options.dataset is None:
        raise ValueError("--dataset: expected the folder of a COCO-format data set")
    dataset = IndexedCocoDataset()
    coco = dataset.load_coco(
        options.dataset, subset, year=options.year, image_ids=options.images, return_coco=True, **chosen
    )
    dataset.prepare()
    dataset.build_indices()
    dataset.ACTIVE_CLASSES, _ = split_classes(dataset.num_classes - 1, split)
    return dataset, coco


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


def evaluate(options):
    from siamese_mrcnn_tf.evaluation import evaluate as run_protocol
    from siamese_mrcnn_tf.files import writable_folder, write_json

    out = writable_folder(options.out)
    paper = options.protocol == "paper"
    config, path = choose_config(options, {"MOLD_TARGETS_AT_INFERENCE": False} if paper else {})
    dataset, coco = open_dataset(options, options.subset)
    predictor = open_predictor(config, path)
    area = "box" if paper else "mask"
    outcome = run_protocol(
        predictor, dataset, coco, shots=options.shots, seed=options.seed, runs=1, limit=options.limit, area=area
    )
    write_json(out / "results.json", outcome.records.results(0))
    write_json(out / "references.json", outcome.records.references(0))
    write_json(out / "config.json", predictor.config.to_dict(), indent=1)
    write_json(out / "scores.json", outcome.scores.mean, indent=1)
    queries = outcome.scores.num_queries
    for name, scores in outcome.scores.runs[0].items():
        print(f"\n{name}: {scores.num_images} images, {queries} queries, {scores.num_results} detections")
        print(scores.table())
    seconds = outcome.scores.seconds
    print(f"\n{seconds:.1f} s for the images, {seconds / queries:.2f} s a query. Results are in {out}")


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


if __name__ == "__main__":
    sys.exit(main())
