"""Pre-train, train and evaluate a small model on synthetic scenes, offline and within minutes.

Makes the Shapes data set, pre-trains backbone and FPN on crops of three quarters of its categories, trains the tiny
configuration on these, fits threshold and verification on scenes set aside, and evaluates on all categories: those in a
scene with one reference, with five, and with references of the wrong category, and those that are not in it. Writes a
page with the metrics, the loss curves and examples. A demo that is stopped resumes when it is started again.
"""

import argparse
import logging
from pathlib import Path

from .inputs import picked, start_keras
from .options import Commands, add_command, at_least, seed, whole_number

_STAGES_HELP = "recipe (default shapes); shapes-long takes about three times as long: docs/shapes.md"


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "demo", run, __doc__)
    parser.add_argument("--out", default="demo", metavar="DIR", help="folder of everything it writes (default demo)")
    parser.add_argument("--seed", type=seed, default=0, help="seed of weights and samples (default 0)")
    parser.add_argument("--split", type=whole_number, choices=range(1, 5), default=1, help="category split (default 1)")
    parser.add_argument("--stages", choices=("shapes", "shapes-long"), default="shapes", help=_STAGES_HELP)
    parser.add_argument("--images", type=at_least(1), metavar="N", help="validation scenes to search (default: all)")
    runs = "runs, each with its own draw of references (default 3)"
    parser.add_argument("--runs", type=at_least(1, 10_000), default=3, metavar="N", help=runs)


def run(options: argparse.Namespace) -> int:
    from ..io.files import writable_folder
    from ..io.locks import exclusive

    with exclusive(writable_folder(options.out)):
        return _run(options)


def _run(options: argparse.Namespace) -> int:
    from ..io.files import remove_temporaries

    remove_temporaries(options.out, below=False)
    start_keras(options)
    from ..shapes.demo import DemoSettings, run_demo
    from ..shapes.demo_page import PAGE_FILE

    logging.getLogger("siamese_mrcnn_tf").setLevel(logging.INFO)  # a demo takes minutes: show its steps
    settings = DemoSettings(**picked(options, "out", "seed", "split", "stages", "images", "runs"))
    code = run_demo(settings, options.run_command)
    if not code:
        print(f"\nThe metrics, loss curves and examples are in {Path(settings.out) / PAGE_FILE}")
    return code
