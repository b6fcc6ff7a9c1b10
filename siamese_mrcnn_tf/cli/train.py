"""Train a model on a COCO-format data set, by the paper's schedule.

Batch, devices and learning rate: --batch counts the images of a step over all devices, each takes an equal part.
Losses are averaged on each device and then over devices, as in the original, and then the gradient is clipped. So the
learning rates of a schedule belong to its batch (12 in the paper's) on any number of devices; scale them in proportion
to another batch (in a schedule FILE). Several machines: set TF_CONFIG on each, as for
tf.distribute.MultiWorkerMirroredStrategy, and run the same command with --logs on a file system that they share;
--batch is over all of them.
"""

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
from .inputs import open_dataset, picked, resumed_arguments, start_keras
from .options import Commands, add_command, add_dataset_arguments, add_model_arguments, add_run_arguments, at_least

if TYPE_CHECKING:
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
_VAL_IMAGES_HELP = (
    "number of training images set aside for validation, the last by id (default 3000 as in the original, but at most "
    "a tenth); 0 turns validation off"
)
_MODEL_HELP = " (default: imagenet-1k, with a --split imagenet-687, with --config tiny untrained)"
_PAPER_BATCH = 12
_BACKBONE_SETTINGS = ("BACKBONE", "BACKBONE_BLOCKS", "BACKBONE_STEM_WIDTH", "BACKBONE_WIDTHS", "BACKBONE_BOTTLENECK")


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "train", run, __doc__)
    add = parser.add_argument
    add_dataset_arguments(parser, split=True)
    add("--shots", type=at_least(1), metavar="K", help="references per query (K-shot) (default 1)")
    add("--stages", default="paper", metavar="NAME|FILE", help=_STAGES_HELP)
    add("--epochs", type=at_least(1), metavar="N", help="stop after epoch N of the schedule")
    add("--steps", type=at_least(1), metavar="N", help="steps per epoch (default 1000)")
    add("--batch", type=at_least(1), metavar="N", help="images per step, over all devices (default 12, the paper's)")
    add("--val-images", type=at_least(0), metavar="N", help=_VAL_IMAGES_HELP)
    add("--val-steps", type=at_least(0), metavar="N", help="validation batches per epoch (default 50)")
    add("--augment", choices=("none", "fliplr"), default="none", help="default none, as in the paper")
    add("--seed", type=at_least(0), default=0, help="seed of weights, samples and rois (default 0)")
    add_run_arguments(parser, "that of --config under --logs")
    add_model_arguments(parser, more=_MODEL_HELP, detects=False, required=False)


def run(options: argparse.Namespace) -> int:
    """Start a run, or resume one."""
    options, folder = resumed_options(options)
    stages = load_schedule(options.stages, _SCHEDULES)
    if options.epochs is not None:
        stages = shortened(stages, options.epochs)
    config = training_config(options)
    start_keras(options)
    from ..training import callbacks, distribution
    from ..training.checkpoints import save_command
    from ..training.trainer import train_on_dataset

    logging.getLogger("siamese_mrcnn_tf").setLevel(logging.INFO)  # a run takes hours: show its progress
    distribution.prepare_backend(seed=options.seed, devices=config.GPU_COUNT)
    parts = ("train",) if options.val_images == 0 else ("train", "val")
    chosen = picked(options, "split", "val_images")
    datasets = [open_dataset(options, "train", subsubset=part, **chosen)[0] for part in parts]
    with callbacks.stopping_on_signals() as stop:
        model, trainer = open_trainer(options, config, stop, folder)
        if distribution.is_chief():
            save_command(model.log_dir, "siamese-mrcnn", options.arguments, config)
        try:
            chosen = picked(options, "workers", "processes")
            train_on_dataset(trainer, stages, *datasets, augmentation=options.augment, **chosen)
        except callbacks.TrainingStopped as reason:
            print(f"{reason}. To resume: {shlex.join([*options.program, '--resume', model.log_dir])}", file=sys.stderr)
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
    from ..training.runs import log_dir_of

    folder = Path(options.resume or log_dir_of(training_config(options), options.logs))
    return options.parse(resumed_arguments(folder, options.arguments[1:])), folder


def training_config(options: argparse.Namespace) -> Config:
    """The configuration that the options of `train` name."""
    config = load_config(options.config or "small").replace(**parse_settings(options.set))
    settings = {"GPU_COUNT": options.devices, "NUM_TARGETS": options.shots}
    settings |= {"STEPS_PER_EPOCH": options.steps, "VALIDATION_STEPS": options.val_steps}
    config = config.replace(**{name: value for name, value in settings.items() if value is not None})
    is_batch_set = config.IMAGES_PER_GPU != Config.IMAGES_PER_GPU or "IMAGES_PER_GPU" in parse_settings(options.set)
    batch = options.batch or (config.BATCH_SIZE if is_batch_set else _PAPER_BATCH)
    if batch % config.GPU_COUNT:
        raise ValueError(f"--batch {batch}: cannot be shared evenly by {config.GPU_COUNT} devices")
    config = config.replace(IMAGES_PER_GPU=batch // config.GPU_COUNT)
    if config.IMAGES_PER_GPU % config.QUERIES_PER_IMAGE:
        unit = f"a multiple of QUERIES_PER_IMAGE = {config.QUERIES_PER_IMAGE} for each of {config.GPU_COUNT} devices"
        raise ValueError(f"--batch {batch}: expected {unit}, got {config.IMAGES_PER_GPU}")
    if options.mixed_precision is not None:
        config = config.replace(PRECISION="bfloat16" if options.mixed_precision else "float32")
    config.validate()
    return config


def open_trainer(
    options: argparse.Namespace, config: Config, stop: threading.Event, folder: Path | None
) -> "tuple[SiameseMaskRCNN, Trainer]":
    """(model, trainer) with initial weights, or those of the run to resume in `folder`."""
    from ..model import SiameseMaskRCNN
    from ..training.checkpoints import refuse_run
    from ..training.runs import log_dir_of
    from ..weights.pretrained import find_weights

    is_paper_backbone = all(getattr(config, name) == getattr(Config, name) for name in _BACKBONE_SETTINGS)
    default = ("imagenet-687" if options.split else "imagenet-1k") if is_paper_backbone else "untrained"
    name, path = options.model or default, None
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
    data = picked(options, "year", "images", "image_ids", "split", "val_images", "augment")
    data |= picked(options, "orientation", "box_only", "crowds")
    chosen = picked(options, "seed", "keep", "save_every")
    return model, model.trainer(**chosen, stop=stop, resume=folder is not None, fixed=data)
