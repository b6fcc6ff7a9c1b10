"""`siamese-mrcnn train`: training on a COCO-format data set."""

import argparse
import logging
import shlex
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import Config, load_config, parse_settings
from ..shapes.schedules import SHAPES_SCHEDULES
from ..training.schedules import SCHEDULES, load_schedule, shortened
from .options import (
    Commands,
    add_command,
    add_dataset_arguments,
    add_model_arguments,
    add_run_arguments,
    at_least,
    open_dataset,
    picked,
    resumed_arguments,
    start_keras,
)

if TYPE_CHECKING:
    from ..data.dataset import IndexedCocoDataset
    from ..model import SiameseMaskRCNN
    from ..training.trainer import Trainer

_SCHEDULES = {**SCHEDULES, **SHAPES_SCHEDULES}
_EPOCHS = {name: stages[-1].epochs for name, stages in _SCHEDULES.items()}
_STAGES_HELP = (
    "schedule: {paper} epochs (paper), {paper-full} (paper-full, for all 80 classes), {small} (small), "
    "{shapes} (shapes) or {shapes-long} (shapes-long; both for Shapes, after pre-training)".format(**_EPOCHS)
    + '; or a JSON file, a list of {"epochs": LAST, "layers": "heads", "learning_rate": 0.02}, optionally with '
    '"decay_to" (default paper)'
)
_BATCH_HELP = "images of a step, over all devices (default 12, the paper's)"
_VAL_IMAGES_HELP = (
    "training images to hold back, the last by id, for validation each epoch (default 3000 as in the original, at most "
    "a tenth); 0: no validation"
)
_RESUME_HELP = (
    "resume the run in this folder (default: that of --config under --logs) from its last checkpoint, with its "
    "options; you may add options"
)
_TRAIN_NOTES = (
    "Batch, devices and learning rate: --batch counts the images of a step over all devices, each takes an equal part. "
    "Losses are averaged on each device and then over devices, as in the original, and then the gradient is clipped. "
    "So the learning rates of a schedule belong to its batch (12 in the paper's) on any number of devices; scale them "
    "in proportion to another batch (in a schedule FILE). Several machines: set TF_CONFIG on each, as for "
    "tf.distribute.MultiWorkerMirroredStrategy, and run the same command with --logs on a file system that they share; "
    "--batch is over all of them."
)
_PAPER_BATCH = 12
_BACKBONE_SETTINGS = ("BACKBONE", "BACKBONE_BLOCKS", "BACKBONE_STEM_WIDTH", "BACKBONE_WIDTHS", "BACKBONE_BOTTLENECK")


def add_parser(commands: Commands) -> None:
    text = "Train a model on a COCO-format data set, by the paper's schedule."
    parser = add_command(commands, "train", run, text, epilog=_TRAIN_NOTES)
    add_dataset_arguments(parser, split=True)
    parser.add_argument("--shots", type=at_least(1), metavar="K", help="references of a query (default 1)")
    parser.add_argument("--stages", default="paper", metavar="NAME|FILE", help=_STAGES_HELP)
    parser.add_argument("--epochs", type=at_least(1), metavar="N", help="stop after epoch N of the schedule")
    parser.add_argument("--steps", type=at_least(1), metavar="N", help="steps of an epoch (default 1000)")
    parser.add_argument("--batch", type=at_least(1), metavar="N", help=_BATCH_HELP)
    parser.add_argument("--val-images", type=at_least(0), metavar="N", help=_VAL_IMAGES_HELP)
    parser.add_argument("--val-steps", type=at_least(0), metavar="N", help="validation batches an epoch (default 50)")
    parser.add_argument("--augment", choices=("none", "fliplr"), default="none", help="default none, as in the paper")
    parser.add_argument("--seed", type=at_least(0), default=0, help="of weights, samples and rois (default 0)")
    add_run_arguments(parser, resume_help=_RESUME_HELP)
    add_model_arguments(parser, detects=False, required=False)


def run(options: argparse.Namespace) -> int:
    """Start a run, or resume one."""
    options, folder = resumed_options(options)
    stages = load_schedule(options.stages, _SCHEDULES)
    stages = stages if options.epochs is None else shortened(stages, options.epochs)
    config = training_config(options)
    start_keras(options)
    from ..training import callbacks, distribution
    from ..training.checkpoints import save_command
    from ..training.trainer import train_on_dataset

    logging.getLogger("siamese_mrcnn_tf").setLevel(logging.INFO)  # a run takes hours: show its progress
    distribution.prepare_backend(seed=options.seed, devices=config.GPU_COUNT)
    datasets = training_datasets(options)
    with callbacks.stopping_on_signals() as stop:
        model, trainer = open_trainer(options, config, stop, folder)
        if distribution.is_chief():
            save_command(model.log_dir, "siamese-mrcnn", options.arguments, config)
        try:
            making = picked(options, "workers", "processes")
            train_on_dataset(trainer, stages, *datasets, augmentation=options.augment, **making)
        except callbacks.TrainingStopped as reason:
            command = shlex.join([*options.program, "--resume", model.log_dir])
            print(f"{reason}. To resume: {command}", file=sys.stderr)
            return 130
    print(f"trained to epoch {trainer.state.epoch}. Weights and losses are in {model.log_dir}")
    return 0


def resumed_options(options: argparse.Namespace) -> tuple[argparse.Namespace, Path | None]:
    """(the options of the run to resume, with those given now; its folder or None)."""
    if options.resume is None:
        return options, None
    if options.model is not None:
        raise ValueError(f"--model {options.model}: a run that is resumed has its own weights")
    start_keras(options)
    from ..training.checkpoints import log_dir_of

    folder = Path(options.resume or log_dir_of(training_config(options), options.logs))
    arguments = resumed_arguments(folder, options.arguments[1:])
    return options.parse(arguments), folder


def training_config(options: argparse.Namespace) -> Config:
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
    if config.IMAGES_PER_GPU % config.QUERIES_PER_IMAGE:
        raise ValueError(
            f"--batch {batch}: expected a multiple of QUERIES_PER_IMAGE = {config.QUERIES_PER_IMAGE} for each of "
            f"{config.GPU_COUNT} devices, got {config.IMAGES_PER_GPU}"
        )
    if options.mixed_precision is not None:
        config = config.replace(PRECISION="bfloat16" if options.mixed_precision else "float32")
    config.validate()
    return config


def open_trainer(
    options: argparse.Namespace, config: Config, stop: threading.Event, folder: Path | None
) -> "tuple[SiameseMaskRCNN, Trainer]":
    """(model, trainer) with initial weights, or those of the run to resume in `folder`."""
    from ..model import SiameseMaskRCNN
    from ..training.checkpoints import log_dir_of, refuse_run
    from ..weights.pretrained import find_weights

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
    data = picked(options, "year", "images", "split", "val_images", "augment")
    chosen = picked(options, "seed", "keep", "save_every")
    return model, model.trainer(**chosen, stop=stop, resume=folder is not None, fixed=data)


def training_datasets(options: argparse.Namespace) -> "list[IndexedCocoDataset]":
    """[training data, validation data unless --val-images is 0], with the classes of the split."""
    parts = ("train", "val") if options.val_images != 0 else ("train",)
    return [
        open_dataset(options, "train", subsubset=part, **picked(options, "split", "val_images"))[0] for part in parts
    ]
