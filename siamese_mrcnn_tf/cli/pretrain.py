"""`siamese-mrcnn pretrain`."""

import argparse
import dataclasses
import logging
import shlex
import sys
from pathlib import Path

from ..config import CONFIGS, load_config
from ..pretraining import CLASS_SETS
from .options import above_zero, add_common_arguments, at_least, resumed_arguments

_HELP = "Pre-train the backbone on ImageNet, or on a COCO-format data set."
_TEXT = (
    "Pre-train the backbone on ImageNet without the classes that COCO has too; writes imagenet_687.h5. Or, with "
    "--dataset, backbone and FPN on the instances of a COCO-format data set, those of held-out classes left out."
)
_ADAM_BATCH = 32
_OF_DATA, _OF_DATASET = ("classes", "partial"), ("split", "val_images", "year")  # options of one kind of pictures alone
_DEFAULTS = {"classes": 687, "partial": False, "split": 0, "year": "2017"}
_DATA_HELP = (
    "folder with train/ and val/, in each a folder of pictures for every class, named by its WordNet id (n01440764); "
    "folders of classes that are not trained may be there too"
)
_DATASET_HELP = (
    "in place of --data: folder of a COCO-format data set, or 'shapes' (datasets/shapes, made where it is missing); "
    "its instances are the pictures, and the FPN is trained too"
)
_SPLIT_HELP = "category split of --dataset: 1 to 4 leave a quarter of the classes out, 0 none (default 0)"
_VAL_IMAGES_HELP = (
    "of --dataset: training images to set aside for validation, the last by id (default: a tenth, at most 3000)"
)
_CLASSES_HELP = (
    "687: those without a correspondence in COCO, as in the paper; 771: a milder cut; 1000: all (default 687)"
)
_PARTIAL_HELP = "train although classes are missing (a small tree of your own); labels stay those of the whole set"
_CONFIG_HELP = f"{', '.join(CONFIGS)} or a JSON file: whose backbone (default small, a ResNet-50)"
_BATCH_HELP = (
    "pictures of a step, over all devices (default 256, with Adam 32); the learning rate is scaled in proportion to 256"
)
_STEPS_HELP = "of an epoch (default: once through the pictures, with Adam 100)"
_SIZE_HELP = "side of a crop (default 224, with --dataset that of the references)"
_RATE_HELP = (
    "for a batch of 256; falls to a tenth after 1/3, 2/3 and 8/9 of the epochs (default 0.1). With a configuration "
    "whose OPTIMIZER is Adam: the highest for any batch, falls as half a cosine (default 0.004)"
)
_RESUME_HELP = (
    "go on with the run in this folder (default: that of --out) from its last checkpoint, with its options; those "
    "given here are added"
)
_KEEP_HELP = "epochs whose weights are kept, beside the best by validation loss (default 3)"
_DEVICES_HELP = "GPUs of this machine, or parts of its CPU where it has none (default 1)"


def add_parser(commands):
    parser = commands.add_parser("pretrain", help=_HELP, description=_TEXT)
    parser.set_defaults(command=run)
    parser.add_argument("--data", metavar="DIR", help=_DATA_HELP)
    parser.add_argument("--dataset", metavar="DIR", help=_DATASET_HELP)
    parser.add_argument("--year", default="2017", help="of the annotation file of --dataset (default 2017)")
    parser.add_argument("--split", type=int, choices=range(5), default=0, help=_SPLIT_HELP)
    parser.add_argument("--val-images", type=at_least(1), metavar="N", help=_VAL_IMAGES_HELP)
    parser.add_argument("--classes", type=int, choices=tuple(CLASS_SETS), default=687, help=_CLASSES_HELP)
    parser.add_argument("--partial", action="store_true", help=_PARTIAL_HELP)
    parser.add_argument("--no-validation", action="store_true", help="do not look for val/, train only")
    parser.add_argument("--out", metavar="DIR", help="folder of the run (default logs/NAME of what it writes)")
    parser.add_argument("--resume", nargs="?", const="", metavar="DIR", help=_RESUME_HELP)
    parser.add_argument("--config", default="small", metavar="NAME|FILE", help=_CONFIG_HELP)
    parser.add_argument(
        "--mixed-precision", action=argparse.BooleanOptionalAction, help="compute in bfloat16 (PRECISION=bfloat16)"
    )
    parser.add_argument("--batch", type=at_least(1), metavar="N", help=_BATCH_HELP)
    parser.add_argument("--epochs", type=at_least(1), metavar="N", help="default 90, with Adam 20")
    parser.add_argument("--steps", type=at_least(1), metavar="N", help=_STEPS_HELP)
    parser.add_argument("--learning-rate", type=above_zero, metavar="R", help=_RATE_HELP)
    parser.add_argument("--size", type=at_least(32), metavar="N", help=_SIZE_HELP)
    parser.add_argument("--seed", type=at_least(0), default=0, metavar="N", help="of weights and samples (default 0)")
    parser.add_argument("--save-every", type=at_least(1), default=250, metavar="N", help="steps (default 250)")
    parser.add_argument("--keep", type=at_least(1), default=3, metavar="N", help=_KEEP_HELP)
    parser.add_argument("--devices", type=at_least(1), default=1, metavar="N", help=_DEVICES_HELP)
    parser.add_argument("--workers", type=at_least(1), default=2, metavar="N", help="makers of samples (default 2)")
    parser.add_argument(
        "--processes", action=argparse.BooleanOptionalAction, help="make samples in processes instead of threads"
    )
    add_common_arguments(parser)


def run(options):
    """Start a run, or go on with one; returns the exit code."""
    from ..pretraining.classifier import build_classifier, pretrain, pretraining_config
    from ..training import callbacks, distribution
    from ..training.checkpoints import save_command

    if distribution.several_machines():
        raise ValueError("TF_CONFIG names several machines: pre-training runs on one, with --devices of it")
    options, folder = chosen_run(options)
    pictures = find_pictures(options)
    config, recipe = chosen_recipe(options)
    config = pretraining_config(config, batch=chosen_batch(options, config), devices=options.devices)
    logging.getLogger("siamese_mrcnn_tf").setLevel(logging.INFO)  # of days of work, what happens is of interest
    distribution.prepare_backend(seed=options.seed, devices=options.devices)
    with distribution.device_scope(options.devices), callbacks.stopping_on_signals() as stop:
        classifier = build_classifier(
            config,
            pictures[0].num_classes,
            pyramid=options.dataset is not None,
            weight_decay=recipe.weight_decay,
            seed=options.seed,
        )
        save_command(folder, "siamese-mrcnn", options.arguments, config)
        try:
            path, history = pretrain(
                classifier,
                config,
                recipe,
                *pictures,
                folder,
                resume=options.resume is not None,
                workers=options.workers,
                processes=options.processes,
                keep=options.keep,
                save_every=options.save_every,
                stop=stop,
            )
        except callbacks.TrainingStopped as reason:
            print(
                f"{reason}. To go on: {shlex.join([*options.program, 'pretrain', '--resume', str(folder)])}",
                file=sys.stderr,
            )
            return 130
    right = f", {history[-1]['val_top1']:.1%} of the validation pictures right" if pictures[1] else ""
    print(f"trained to epoch {len(history)}{right}. The backbone is in {path}, for train --model {path}")
    return 0


def chosen_run(options):
    """(the options, with those of the run to resume; the folder of the run)."""
    from ..training.checkpoints import refuse_run

    folder = Path(options.resume or options.out or f"logs/{name_of(options)}")
    if options.resume is None:
        refuse_run(folder)
        return options, folder
    arguments = resumed_arguments(folder, options.arguments[1:])
    if arguments[:1] != ["pretrain"]:  # version 0.1 did not write the command's name
        arguments = ["pretrain", *arguments]
    options = options.parse(arguments)
    options.resume = str(folder)
    return options, folder


def name_of(options):
    """What the weights are called: imagenet_687, or after a data set and its split."""
    if options.dataset is None:
        return CLASS_SETS[options.classes]
    return Path(options.dataset).resolve().name + (f"_s{options.split}" if options.split else "")


def find_pictures(options):
    """The pictures of training and of validation, None where there is to be none; says what there is."""
    if (options.data is None) == (options.dataset is None):
        raise ValueError("expected --data (folder of ImageNet, with train/ and val/) or --dataset (COCO-format)")
    refuse_options(options)
    find = find_imagenet if options.dataset is None else find_instances
    found = []
    for subset in ("train",) if options.no_validation else ("train", "val"):
        found.append(find(options, subset))
        print(found[-1].summary(), file=sys.stderr)
    return found[0], None if options.no_validation else found[1]


def refuse_options(options):
    """Refuse options that belong to the other kind of pictures: they would do nothing."""
    kind, foreign = ("--data", _OF_DATASET) if options.dataset is None else ("--dataset", _OF_DATA)
    for name in foreign:
        if getattr(options, name) != _DEFAULTS.get(name):
            raise ValueError(f"--{name.replace('_', '-')}: does not go with {kind}")


def find_imagenet(options, subset):
    """The pictures of --data that belong to the classes."""
    from ..pretraining import imagenet

    return imagenet.find_pictures(options.data, subset, options.classes, partial=options.partial)


def find_instances(options, subset):
    """The instances of --dataset: of its training images, the last of which are for validation."""
    from ..data.dataset import IndexedCocoDataset, split_classes
    from ..pretraining.instance_crops import InstanceCrops
    from ..shapes.dataset import find_dataset

    dataset = IndexedCocoDataset()
    part = None if options.no_validation else subset
    dataset.load_coco(
        find_dataset(options.dataset), "train", year=options.year, subsubset=part, val_images=options.val_images
    )
    dataset.prepare()
    dataset.build_indices()
    dataset.ACTIVE_CLASSES, _ = split_classes(dataset.num_classes - 1, options.split)
    return InstanceCrops(dataset, name_of(options))


def chosen_recipe(options):
    """(the configuration whose backbone is trained, the Recipe)."""
    from ..pretraining.classifier import recipe_of

    config = load_config(options.config)
    if options.mixed_precision:
        config = config.replace(PRECISION="bfloat16")
    given = {
        "epochs": options.epochs,
        "steps_per_epoch": options.steps,
        "learning_rate": options.learning_rate,
        "size": options.size or (config.TARGET_MAX_DIM if options.dataset is not None else None),
    }
    given = {name: value for name, value in given.items() if value is not None}
    return config, dataclasses.replace(recipe_of(config), **given, seed=options.seed)


def chosen_batch(options, config):
    """ImageFolder of a step."""
    from ..pretraining.classifier import REFERENCE_BATCH

    return options.batch or (_ADAM_BATCH if config.OPTIMIZER == "adam" else REFERENCE_BATCH)
