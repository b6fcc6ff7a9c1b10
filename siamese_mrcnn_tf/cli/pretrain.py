"""Pre-train the backbone on the ImageNet classes that are not in COCO and write imagenet_687.h5.
With --dataset, or --annotations and --images, pre-train backbone and FPN on crops of the instances of a COCO-format
data set, without the novel categories of the split.
"""

import argparse
import dataclasses
import functools
import logging
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ..config import CONFIGS, Config, load_config
from ..io.errors import InputError
from ..memory import check_memory
from ..pretraining import CLASS_SETS
from .inputs import open_dataset, parse_resumed, picked, start_keras
from .options import (
    Commands,
    above_zero,
    add_command,
    add_dataset_arguments,
    add_run_arguments,
    at_least,
    seed,
    whole_number,
)

if TYPE_CHECKING:
    from ..pretraining.classifier import Recipe
    from ..pretraining.imagenet import ImageFolder
    from ..pretraining.instance_crops import InstanceCrops

    Images: TypeAlias = ImageFolder | InstanceCrops

_ADAM_BATCH = 32
# options of one kind of images alone
_OF_DATA, _OF_DATASET = ("classes", "partial"), ("split", "val_images", "year", "images", "image_ids")
_DEFAULTS = {"classes": 687, "partial": False, "split": 0, "year": "2017"}
_DATA_HELP = (
    "folder with train/ and val/, each with a folder of images for every class, named by its WordNet id (n01440764); "
    "folders of other classes are ignored"
)
_VAL_IMAGES_HELP = (
    "of a COCO-format data set: images set aside for validation, the last by id (default a tenth, at most 3000)"
)
_CLASSES_HELP = (
    "687: those that correspond to none in COCO, as in the paper; 771: a milder cut; 1000: all (default 687)"
)
_PARTIAL_HELP = "train although classes are missing (a small tree of your own); labels stay those of the whole set"
_CONFIG_HELP = f"{', '.join(CONFIGS)} or a JSON file: its backbone is trained (default small, a ResNet-50)"
_BATCH_HELP = (
    "images per step, over all devices (default 256, with Adam 32); the learning rate is scaled in proportion to 256"
)
_RATE_HELP = (
    "for a batch of 256; divided by 10 after 1/3, 2/3 and 8/9 of the epochs (default 0.1). With a configuration whose "
    "OPTIMIZER is Adam: the maximum for any batch, with a cosine decay (default 0.004)"
)


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "pretrain", run, __doc__)
    add = parser.add_argument
    add("--data", metavar="DIR", help=_DATA_HELP)
    add_dataset_arguments(parser, split=True)
    add("--val-images", type=at_least(1), metavar="N", help=_VAL_IMAGES_HELP)
    add("--classes", type=whole_number, choices=tuple(CLASS_SETS), default=687, help=_CLASSES_HELP)
    add("--partial", action="store_true", help=_PARTIAL_HELP)
    add("--no-validation", action="store_true", help="train only, without val/")
    add("--out", metavar="DIR", help="folder of the run (default logs/NAME of the weights)")
    add("--config", default="small", metavar="NAME|FILE", help=_CONFIG_HELP)
    add("--batch", type=at_least(1, 1_000_000), metavar="N", help=_BATCH_HELP)
    add("--epochs", type=at_least(1), metavar="N", help="default 90, with Adam 20")
    text = "steps per epoch (default: once through the images, with Adam 100)"
    add("--steps", type=at_least(1), metavar="N", help=text)
    add("--learning-rate", type=above_zero, metavar="R", help=_RATE_HELP)
    text = "side of a crop (default 224, of a COCO-format data set that of the references)"
    add("--size", type=at_least(32, 8192), metavar="N", help=text)
    add("--seed", type=seed, default=0, metavar="N", help="seed of weights and samples (default 0)")
    add_run_arguments(parser, "that of --out")
    parser.set_defaults(devices=1)


def run(options: argparse.Namespace) -> int:
    """Start a run, or resume one."""
    from ..io.files import writable_folder
    from ..io.locks import exclusive

    folder = Path(options.resume or options.out or f"logs/{name_of(options)}")
    with exclusive(writable_folder(folder)):
        return train(chosen_run(options, folder), folder)


def train(options: argparse.Namespace, folder: Path) -> int:
    """Train in the folder of the run, which is locked."""
    config, recipe = chosen_recipe(options)
    images, val = find_images(options, masks=recipe.mask_weight > 0)
    from ..ops.devices import warn_of_precision
    from ..pretraining.classifier import build_classifier, pretrain
    from ..training import callbacks, distribution
    from ..training.checkpoints import save_command
    from ..training.machines import several_machines

    if several_machines():
        raise InputError("TF_CONFIG names several machines: pre-training runs on one, with --devices of it")
    logging.getLogger("siamese_mrcnn_tf").setLevel(logging.INFO)  # a run takes hours or days: show its progress
    distribution.prepare_backend(seed=options.seed, devices=options.devices)
    warn_of_precision(config.PRECISION)
    with distribution.device_scope(options.devices), callbacks.stopping_on_signals() as stop:
        how: dict[str, Any] = {
            "weight_decay": recipe.weight_decay,
            "mask_weight": recipe.mask_weight,
            "cosine": recipe.cosine,
        }
        how |= {"pyramid": uses_instances(options), "seed": options.seed}
        classifier = build_classifier(config, images.num_classes, **how)
        chosen = picked(options, "workers", "processes", "keep", "save_every")
        chosen |= {"resume": options.resume is not None, "stop": stop}
        chosen["on_begin"] = functools.partial(save_command, folder, "siamese-mrcnn", options.arguments, config)
        try:
            path, history = pretrain(classifier, config, recipe, images, val, folder, **chosen)
        except callbacks.TrainingStopped as reason:
            print(f"{reason}. To resume: {shlex.join([*options.program, '--resume', str(folder)])}", file=sys.stderr)
            return 130
    accuracy = f", validation accuracy {history[-1]['val_top1']:.1%}" if val else ""
    print(f"trained to epoch {len(history)}{accuracy}. The backbone is in {path}, for train --model {path}")
    return 0


def chosen_run(options: argparse.Namespace, folder: Path) -> argparse.Namespace:
    """The options, with those of the run to resume in `folder`."""
    start_keras(options)
    from ..training.checkpoints import refuse_run

    if options.resume is None:
        refuse_run(folder)
        return options
    options = parse_resumed(options, folder)
    options.resume = str(folder)
    return options


def name_of(options: argparse.Namespace) -> str:
    """Name of the weights: imagenet_687, or that of a data set or its annotation file, and of its split."""
    if not uses_instances(options):
        return CLASS_SETS[options.classes]
    name = Path(options.dataset).resolve().name if options.annotations is None else Path(options.annotations).stem
    return name + (f"_s{options.split}" if options.split else "")


def uses_instances(options: argparse.Namespace) -> bool:
    """Whether the images are crops of the instances of a COCO-format data set."""
    return options.dataset is not None or options.annotations is not None


def find_images(options: argparse.Namespace, *, masks: bool) -> "tuple[Images, Images | None]":
    """(images to train on, images to validate on or None); prints a summary of each."""
    if (options.data is None) != uses_instances(options):
        coco = "--dataset, or --annotations and --images (COCO format)"
        raise InputError(f"expected --data (folder of ImageNet, with train/ and val/) or {coco}")
    given = "--dataset" if options.annotations is None else "--annotations"
    kind, foreign = (given, _OF_DATA) if uses_instances(options) else ("--data", _OF_DATASET)
    for name in foreign:  # they would have no effect
        if getattr(options, name) != _DEFAULTS.get(name):
            raise InputError(f"--{name.replace('_', '-')}: does not go with {kind}")
    if options.no_validation and options.val_images is not None:
        raise InputError(f"--val-images {options.val_images}: --no-validation sets no images aside")
    subsets = ("train",) if options.no_validation else ("train", "val")
    found = [find_subset(options, subset, masks) for subset in subsets]
    for images in found:
        print(images.summary(), file=sys.stderr)
    return found[0], None if options.no_validation else found[1]


def find_subset(options: argparse.Namespace, subset: str, masks: bool) -> "Images":
    """The images of --data that belong to the classes, or the instances of a data set, perhaps with their masks."""
    from ..pretraining import imagenet, instance_crops

    if not uses_instances(options):
        return imagenet.find_images(options.data, subset, options.classes, **picked(options, "partial", "orientation"))
    part = None if options.no_validation else subset  # of the training images, the last by id are for validation
    dataset, _ = open_dataset(options, "train", subsubset=part, **picked(options, "split", "val_images"))
    return instance_crops.InstanceCrops(dataset, name_of(options), masks=masks)


def chosen_recipe(options: argparse.Namespace) -> "tuple[Config, Recipe]":
    """(the configuration whose backbone is trained, with the batch and devices; the Recipe)."""
    from ..pretraining.classifier import REFERENCE_BATCH, pretraining_config, recipe_of

    config = load_config(options.config).replace(**({"PRECISION": "bfloat16"} if options.mixed_precision else {}))
    size = options.size or (config.TARGET_MAX_DIM if uses_instances(options) else None)
    given = picked(options, "epochs", "learning_rate", "seed") | {"steps_per_epoch": options.steps, "size": size}
    given = {name: value for name, value in given.items() if value is not None}
    batch = options.batch or (_ADAM_BATCH if config.OPTIMIZER == "adam" else REFERENCE_BATCH)
    config = pretraining_config(config, batch=batch, devices=options.devices)
    recipe = dataclasses.replace(recipe_of(config, instances=uses_instances(options)), **given)
    check_memory(config, "pretraining", side=recipe.size)
    return config, recipe
