"""Check a data set: count instances per category, list errors and draw training samples.

Samples are drawn with --config (default small), which sets the size of scenes and the anchors: name the configuration
of the model to train, such as large or tiny.

A drawing has four panels: ground truth, references, anchors, and targets. Anchors are the boxes of fixed sizes and
shapes from which the network begins: those that overlap an object of the category well are positive, those that overlap
none are negative, and the others are neutral, which training ignores. A dashed box is a positive anchor moved to where
the training target sends it; it meets the object.
"""

import argparse
import contextlib
from pathlib import Path

from ..config import load_config
from ..memory import check_memory
from ..settings import parse_settings
from .effects import say_once
from .inputs import open_dataset
from .options import (
    Commands,
    add_command,
    add_config_arguments,
    add_dataset_arguments,
    at_least,
    name_part,
    num_shots,
    seed,
)

_CONFIG_ADVICE = "; --config draws them as another one does, such as that of the model to train"


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "check", run, __doc__)
    add = parser.add_argument
    add_dataset_arguments(parser, split=True)
    add("--subset", type=name_part, default="train", help="'train' or 'val' (default train)")
    add("--shots", type=num_shots, default=1, metavar="K", help="references per query (K-shot) (default 1)")
    add("--seed", type=seed, default=0, help="seed of the samples (default 0)")
    add("--augment", choices=("none", "fliplr"), default="none", help="of the samples (default none)")
    add("--samples", type=at_least(0), default=10, metavar="N", help="number of samples to draw (default 10)")
    add("--skip-images", action="store_true", help="do not check the image files")
    add("--skip-pictures", dest="skip_images", action="store_true", help=argparse.SUPPRESS)  # as in 0.1
    add("--out", default="check", metavar="DIR", help="folder of the drawn samples (default check)")
    add_config_arguments(parser, "small")


def run(options: argparse.Namespace) -> int:
    """Report what is in a data set; 1 if something in it is broken, or a sample cannot be drawn."""
    from ..io.files import writable_folder
    from ..io.locks import exclusive

    with exclusive(writable_folder(options.out)) if options.samples else contextlib.nullcontext():
        return _check(options, Path(options.out))


def _check(options: argparse.Namespace, out: Path) -> int:
    """Check the data set and draw samples into a folder, which is locked."""
    from ..data.annotations import FaultsError
    from ..data.augmentation import parse_augmentation
    from ..data.checks import check_dataset, faults_text
    from ..data.data_generator import TrainingSamples
    from ..data.single_category import one_category_note
    from ..io.files import remove_temporaries
    from ..visualize.samples import draw_samples

    config = load_config(options.config or "small").replace(**parse_settings(options.set))
    config = config.replace(NUM_TARGETS=options.shots)
    config.validate()
    if "NUM_TARGETS" in parse_settings(options.set):
        say_once(options, f"--set NUM_TARGETS has no effect: --shots {options.shots} counts")
    if options.samples:
        check_memory(config, "samples")
    try:
        dataset, _ = open_dataset(options, options.subset, split=options.split)
    except FaultsError as error:
        print(faults_text(error.faults))
        return 1
    report = check_dataset(dataset, config=config, split=options.split, read_images=not options.skip_images)
    print(report.text())
    if options.subset == "train":
        say_once(options, one_category_note(dataset, config))
    if options.samples:
        samples = TrainingSamples(dataset, config, seed=options.seed, augmentation=parse_augmentation(options.augment))
        remove_temporaries(out, below=False)
        paths = draw_samples(samples, config, out, count=options.samples)
        of_all = "" if len(paths) == options.samples else f" of {options.samples}"
        side, advice = f"{config.IMAGE_SHAPE[0]} x {config.IMAGE_SHAPE[1]}", "" if options.config else _CONFIG_ADVICE
        print(f"\n{len(paths)}{of_all} training samples are drawn in {out}")
        print(f"They are drawn as the configuration {options.config or 'small'} sees them, {side} pixels{advice}")
        return 0 if report.ok and len(paths) == options.samples else 1
    return 0 if report.ok else 1
