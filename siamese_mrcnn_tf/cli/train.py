"""Train a model on a COCO-format data set, by the paper's schedule.

Batch, devices and learning rate: --batch counts the images of a step over all devices, each takes an equal part.
Losses are averaged on each device and then over devices, as in the original, and then the gradient is clipped. So the
learning rates of a schedule belong to its batch (12 in the paper's) on any number of devices; scale them in proportion
to another batch (in a schedule FILE). Several machines: set TF_CONFIG on each, as for
tf.distribute.MultiWorkerMirroredStrategy, and run the same command with --logs on a file system that they share;
--batch is over all of them.

Validation: after each epoch, on the subset val of a --dataset that has one; else on the last training images by id,
which are not trained on then (a tenth, at most 3000). These are set aside as well with --val-images N, with chosen
images, and for a training set of 30,000 images or more, such as COCO's: that is the original's rule.

Weights and configuration: without --config a run has that of --model: of the run that the weights are of, or the one
that they fit.
"""

import argparse
import contextlib
import dataclasses
import functools
import logging
import shlex
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import CONFIGS, Config, load_config
from ..data.reading import ReadingRules
from ..io.errors import InputError
from ..memory import check_memory
from ..settings import parse_settings
from ..shapes.schedules import SHAPES_SCHEDULES
from ..training.machines import is_chief
from ..training.schedules import SCHEDULES, Stage, load_schedule, shortened
from ..weights.runs import (
    CONFIG_FILE,
    best_epoch,
    checkpoint_name,
    has_risen,
    log_dir_of,
    read_run_config,
    read_state,
    run_of,
)
from .effects import given, say_once, say_unused_in_training, say_unused_options
from .inputs import find_model, open_dataset, parse_resumed, picked, start_keras, tell
from .options import (
    Commands,
    add_command,
    add_dataset_arguments,
    add_model_arguments,
    add_run_arguments,
    at_least,
    num_shots,
    seed,
)

if TYPE_CHECKING:
    from ..data.dataset import IndexedCocoDataset
    from ..model import SiameseMaskRCNN
    from ..training.trainer import Trainer

logger = logging.getLogger(__name__)

_SCHEDULES = {**SCHEDULES, **SHAPES_SCHEDULES}
_EPOCHS = {name: stages[-1].epochs for name, stages in _SCHEDULES.items()}
_STAGES_HELP = (
    "schedule: {paper} epochs (paper), {paper-full} (paper-full, for all 80 classes), {small} (small), "
    "{shapes} (shapes) or {shapes-long} (shapes-long; both for Shapes, after pre-training)".format(**_EPOCHS)
    + '; or a JSON file, a list of {"epochs": LAST, "layers": "heads", "learning_rate": 0.02}, optionally with '
    '"decay_to" (default paper)'
)
_VAL_IMAGES_HELP = (
    "set the last N training images by id aside for validation (default: validate on the subset val; where there is "
    "none, or for 30000 training images or more, set a tenth aside, at most 3000); 0 turns validation off"
)
_MODEL_HELP = (
    "; 'last' continues its run, all others begin one: 'best' from the newest run, whatever --config and EXPERIMENT "
    "(default: imagenet-1k, with a --split imagenet-687, with --config tiny untrained)"
)
_PAPER_BATCH = 12
_LARGE_SET = 30_000  # images; larger training sets keep the original's validation images
_BACKBONE_SETTINGS = ("BACKBONE", "BACKBONE_BLOCKS", "BACKBONE_STEM_WIDTH", "BACKBONE_WIDTHS", "BACKBONE_BOTTLENECK")


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "train", run, __doc__)
    add = parser.add_argument
    add_dataset_arguments(parser, split=True)
    add("--shots", type=num_shots, metavar="K", help="references per query (K-shot) (default 1)")
    add("--stages", default="paper", metavar="NAME|FILE", help=_STAGES_HELP)
    add("--epochs", type=at_least(1), metavar="N", help="stop after epoch N of the schedule")
    add("--steps", type=at_least(1), metavar="N", help="steps per epoch (default 1000)")
    add(
        "--batch",
        type=at_least(1, 1_000_000),
        metavar="N",
        help="images per step, over all devices (default 12, the paper's)",
    )
    add("--val-images", type=at_least(0), metavar="N", help=_VAL_IMAGES_HELP)
    add("--val-steps", type=at_least(0), metavar="N", help="validation batches per epoch (default 50)")
    add("--augment", choices=("none", "fliplr"), default="none", help="default none, as in the paper")
    add("--seed", type=seed, default=0, help="seed of weights, samples and rois (default 0)")
    add_run_arguments(parser, "that of --config under --logs")
    add_model_arguments(parser, more=_MODEL_HELP, detects=False, required=False)


def run(options: argparse.Namespace) -> int:
    """Start a run, or resume one."""
    folder = folder_to_resume(options)
    with contextlib.nullcontext() if folder is None else run_lock(folder):
        typed = given(options)
        options = options if folder is None else resumed_options(options, folder)
        stages = load_schedule(options.stages, _SCHEDULES)
        if options.epochs is not None:
            last = stages[-1].epochs
            if options.epochs > last and "epochs" in typed:  # runs of version 0.1 may have been begun with more
                raise InputError(f"--epochs {options.epochs}: --stages {options.stages} ends at epoch {last}")
            stages = shortened(stages, options.epochs)
        has_no_file = folder is not None or options.model in (None, "untrained")
        weights = None if has_no_file else find_model(options, begins_run=options.model != "last")
        config = training_config(options, weights)
        check_memory(config, "training")
        say_unused_in_training(options, config, decays=any(stage.decay_to is not None for stage in stages))
        if options.val_images == 0:
            say_unused_options(options, ["val_steps"], "without validation (--val-images 0)")
        own = weights.parent if weights is not None and options.model == "last" else log_dir_of(config, options.logs)
        with run_lock(folder or own):
            return train(options, config, stages, folder=folder, weights=weights)


def run_lock(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Context in which no other process writes the folder of a run; of several machines one writes it."""
    from ..io.files import writable_folder
    from ..io.locks import exclusive

    return exclusive(writable_folder(folder)) if is_chief() else contextlib.nullcontext()


def train(
    options: argparse.Namespace, config: Config, stages: Sequence[Stage], *, folder: Path | None, weights: Path | None
) -> int:
    """Train in the folder of the run, which is locked; arguments as of `open_trainer`."""
    start_keras(options)
    from ..data.single_category import one_category_note
    from ..ops.devices import warn_of_precision
    from ..training import callbacks, distribution
    from ..training.checkpoints import save_command
    from ..training.trainer import train_on_dataset

    logging.getLogger("siamese_mrcnn_tf").setLevel(logging.INFO)  # a run takes hours: show its progress
    distribution.prepare_backend(seed=options.seed, devices=config.GPU_COUNT)
    warn_of_precision(config.PRECISION)
    datasets, fixed = open_datasets(options, folder)
    if folder is None:
        say_once(options, one_category_note(datasets[0], config))
    with callbacks.stopping_on_signals() as stop:
        model, trainer = open_trainer(options, config, stop, folder=folder, weights=weights, fixed=fixed)
        begin = functools.partial(save_command, model.log_dir, "siamese-mrcnn", options.arguments, config)
        try:
            chosen: dict[str, Any] = picked(options, "workers", "processes") | {"augmentation": options.augment}
            train_on_dataset(trainer, stages, *datasets, on_begin=begin if is_chief() else None, **chosen)
        except callbacks.TrainingStopped as reason:
            print(f"{reason}. To resume: {shlex.join([*options.program, '--resume', model.log_dir])}", file=sys.stderr)
            return 130
    print(f"trained to epoch {trainer.state.epoch}. Weights and losses are in {model.log_dir}")
    say_weights(options, Path(model.log_dir), trainer.state.history)
    print(f"To evaluate{trained_on(options)}: {shlex.join(evaluate_command(options, model.log_dir))}")
    return 0


def say_weights(options: argparse.Namespace, folder: Path, history: Sequence[dict[str, Any]]) -> None:
    """Print how to name the last epoch and the best of a run, and note a best one whose loss has risen since."""
    if not history:  # nothing was left to train
        return
    last, best = history[-1]["epoch"], best_epoch(history)
    run, last_file = (shlex.quote(str(path)) for path in (folder, folder / checkpoint_name(last)))
    if best is None:
        print(f"last epoch, {last}: --model {run} (without validation there is no best one)")
    elif best == last:
        print(f"last epoch, {last}, also the best by validation loss: --model {run}")
    else:
        print(f"last epoch, {last}: --model {last_file}")
        print(f"best epoch by validation loss, {best}: --model {run} (it stands for {checkpoint_name(best)})")
        if has_risen(history):
            lowest = f"the validation loss was lowest after epoch {best} of {last}"
            say_once(options, f"{lowest}: later epochs may fit the training images alone; evaluate both")


def folder_to_resume(options: argparse.Namespace) -> Path | None:
    """The folder of the run to resume; None for a new run."""
    if options.resume is None:
        return None
    if options.model is not None:
        raise InputError(f"--model {options.model}: a run that is resumed has its own weights")
    return Path(options.resume or log_dir_of(training_config(options), options.logs))


def resumed_options(options: argparse.Namespace, folder: Path) -> argparse.Namespace:
    """The options of the run to resume, with those given now."""
    start_keras(options)
    options = parse_resumed(options, folder)
    options.set = list({text.partition("=")[0].strip(): text for text in options.set}.values())  # the latest counts
    config = load_config(folder / CONFIG_FILE) if (folder / CONFIG_FILE).exists() else None  # a damaged one is told
    if options.config is None and config is not None:  # --model, which chose it, may be gone
        options.config, options.batch = str(folder / CONFIG_FILE), options.batch or config.BATCH_SIZE
        options.devices = options.devices or config.GPU_COUNT
    return options


def initial_config(options: argparse.Namespace, weights: Path | None) -> Config:
    """The configuration to train, before --set: --config, or that of the initial weights, or small without any.

    Raises:
        ValueError: the weights fit no named configuration.
    """
    if options.config or weights is None:
        return load_config(options.config or "small")
    from ..weights.loading import identify_file

    if run := run_of(weights):
        print(f"configuration: that of the run in {run}", file=sys.stderr)
        return read_run_config(run)
    info = identify_file(weights)
    if info.kind == "unknown":
        raise InputError(f"{weights}: {info.text}; {info.use(weights)}")
    if not info.fits:
        raise InputError(f"{weights}: {info.text}, fits none of {', '.join(CONFIGS)}. Name its --config; {info.advice}")
    name, changes = next(iter(info.fits.items()))
    changed = "".join(f", {key} = {value!r}" for key, value in changes.items())
    print(f"configuration: {name}{changed}, which fits {weights}", file=sys.stderr)
    return load_config(name).replace(**changes)


def training_config(options: argparse.Namespace, weights: Path | None = None) -> Config:
    """The configuration that the options of `train` name, with initial weights from a file or without."""
    config = initial_config(options, weights).replace(**parse_settings(options.set))
    settings = {"GPU_COUNT": options.devices, "NUM_TARGETS": options.shots}
    settings |= {"STEPS_PER_EPOCH": options.steps, "VALIDATION_STEPS": options.val_steps}
    config = config.replace(**{name: value for name, value in settings.items() if value is not None})
    is_batch_set = config.IMAGES_PER_GPU != Config.IMAGES_PER_GPU or "IMAGES_PER_GPU" in parse_settings(options.set)
    batch = options.batch or (config.BATCH_SIZE if is_batch_set else _PAPER_BATCH)
    if batch % config.GPU_COUNT:
        raise InputError(f"--batch {batch}: cannot be shared evenly by {config.GPU_COUNT} devices")
    config = config.replace(IMAGES_PER_GPU=batch // config.GPU_COUNT)
    if config.IMAGES_PER_GPU % config.QUERIES_PER_IMAGE:
        unit = f"a multiple of QUERIES_PER_IMAGE = {config.QUERIES_PER_IMAGE} for each of {config.GPU_COUNT} devices"
        raise InputError(f"--batch {batch}: expected {unit}, got {config.IMAGES_PER_GPU}")
    if options.mixed_precision is not None:
        config = config.replace(PRECISION="bfloat16" if options.mixed_precision else "float32")
    config.validate_training()
    return config


def open_datasets(
    options: argparse.Namespace, folder: Path | None
) -> "tuple[list[IndexedCocoDataset], dict[str, str]]":
    """([training data, validation data where there is validation], what a resumed run must have alike).

    `folder` is that of a run to resume, which keeps its validation images.
    """
    split = picked(options, "split")
    state = None if folder is None else read_state(folder)
    begun_on_val = folder is None or (state is not None and state.settings.get("validation") == "val")
    if options.val_images is None and begun_on_val and has_val_subset(options):
        train = open_dataset(options, "train", subsubset="train", val_images=0, **split)[0]
        val = open_dataset(options, "val", **split)[0]
        is_searched = any(len(val.images_of(class_id)) for class_id in val.ACTIVE_CLASSES)
        if train.num_images < _LARGE_SET and is_searched:
            logger.info("validation: the %d images of the subset val", val.num_images)
            return [train, val], {"validation": "val"}
    parts = ("train",) if options.val_images == 0 else ("train", "val")
    chosen = split | picked(options, "val_images")
    datasets = [open_dataset(options, "train", subsubset=part, **chosen)[0] for part in parts]
    if len(datasets) > 1:
        logger.info("validation: the last %d training images, set aside", datasets[1].num_images)
    return datasets, {}


def has_val_subset(options: argparse.Namespace) -> bool:
    """Whether the options name a data set, without a choice of images, that has a subset val."""
    from ..data.layouts import LayoutError, find_layout
    from ..shapes.dataset import find_dataset

    if options.dataset is None or options.images or options.image_ids:
        return False
    try:
        find_layout(find_dataset(options.dataset), "val", options.year)
    except LayoutError:
        return False
    return True


def trained_on(options: argparse.Namespace) -> str:
    """What to know of the images that `evaluate_command` names: those without a subset val were trained on."""
    return "" if has_val_subset(options) else " (on images that were trained on: scores of others will be lower)"


def evaluate_command(options: argparse.Namespace, log_dir: str) -> list[str]:
    """The words of the command that evaluates a run: on the subset val, or on the training images without one."""
    words = [*options.launcher, "evaluate", "--model", log_dir, "--out", str(Path(log_dir) / "evaluation")]
    if options.annotations is not None:
        words += ["--annotations", options.annotations, "--images", *options.images]
    else:
        words += ["--dataset", options.dataset]
        words += ["--year", options.year] if options.year != "2017" else []
        words += [] if has_val_subset(options) else ["--subset", "train"]
        words += ["--images", *options.images] if options.images else []
    words += ["--image-ids", *map(str, options.image_ids)] if options.image_ids else []
    for field in dataclasses.fields(ReadingRules):
        value = getattr(options, field.name)
        words += [f"--{field.name.replace('_', '-')}", value] if value != field.default else []
    words += ["--split", str(options.split), "--categories", "novel"] if options.split else []
    return words + (["--shots", str(options.shots)] if options.shots else [])


def open_trainer(
    options: argparse.Namespace,
    config: Config,
    stop: threading.Event,
    *,
    folder: Path | None,
    weights: Path | None,
    fixed: dict[str, str],
) -> "tuple[SiameseMaskRCNN, Trainer]":
    """(model, trainer) with initial weights, or those of the run to resume in `folder`.

    `weights` is the file of --model, `fixed` what the run must have alike when it is resumed.
    """
    from ..model import SiameseMaskRCNN
    from ..training.checkpoints import refuse_run
    from ..weights.pretrained import find_weights

    is_paper_backbone = all(getattr(config, name) == getattr(Config, name) for name in _BACKBONE_SETTINGS)
    default = ("imagenet-687" if options.split else "imagenet-1k") if is_paper_backbone else "untrained"
    if folder is None and options.model != "last":
        refuse_run(log_dir_of(config, options.logs))
        if options.model is None and default != "untrained":
            weights = find_weights(default, options.checkpoints, tell=functools.partial(tell, options))
    model = SiameseMaskRCNN("training", config, options.logs, seed=options.seed)
    if folder is not None:
        model.log_dir = str(folder)  # it may have been moved since
    elif weights is not None and options.model == "last":  # that run continues
        model.log_dir = str(weights.parent)
        model.load_checkpoint(weights)
    elif weights is not None:
        model.load_weights(weights)
    data = picked(options, "year", "images", "image_ids", "split", "val_images", "augment")
    data |= picked(options, "orientation", "box_only", "crowds")
    chosen = picked(options, "seed", "keep", "save_every")
    return model, model.trainer(**chosen, stop=stop, resume=folder is not None, fixed=data | fixed)
