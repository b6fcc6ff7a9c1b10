"""The whole of the method within minutes, without COCO: on scenes that this repository draws itself.

    python samples/shapes/demo.py [--out demo] [--seed 0]

Makes the Shapes data set, pre-trains backbone and FPN on crops of three quarters of its categories, trains the tiny
configuration on these, and searches for all categories, those never trained on too: with one reference and with five,
and, to see that the reference matters, with references of the wrong category. Writes a page with the figures, the loss
curves and examples. A run that is stopped goes on when it is started again.
"""

import argparse
import logging
import os
import shlex
import sys
import time
from pathlib import Path

_SAMPLES = Path(__file__).resolve().parents[1]
_FOLDERS = _SAMPLES / "shapes", _SAMPLES / "coco", _SAMPLES / "imagenet", _SAMPLES.parent
sys.path[:0] = map(str, _FOLDERS)  # runs from a checkout that is not installed

import coco  # noqa: E402
import pretrain  # noqa: E402
from demo_page import write_demo_page  # noqa: E402
from standard import SHAPES, find_dataset  # noqa: E402

from siamese_mrcnn_tf.arguments import at_least, exit_code  # noqa: E402
from siamese_mrcnn_tf.config import TinyConfig  # noqa: E402  (light: --help stays fast)

SEARCHES = {  # name -> how `evaluation.evaluate` searches
    "random-boxes": {},
    "1-shot": {},
    "5-shot": {"shots": 5},
    "control-present": {"control": "present"},
    "control-absent": {"control": "absent"},
}
MIN_CONFIDENCE = 0.05  # average precision counts all scores; the default cut of 0.7 is for pictures

_RECIPES = {"shapes": [], "shapes-long": ["--epochs", "40"]}  # stages -> further arguments of pretrain.py
_STAGES_HELP = "recipe (default shapes); shapes-long takes six to seven times as long: docs/shapes.md"
_VAL_IMAGES = "300"  # of the training scenes, to follow the losses on
# Queries matched and scenes searched at once. In turns, medians of 3: batches of 8 took 0.65 of the time of one by one
# (60 scenes), 12 with two workers 0.83 of that of 8 with one (150 scenes).
_BATCH, _WORKERS = 12, 2


def main(arguments=None):
    """Run the demo; the exit code."""
    options = build_parser().parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    return exit_code("demo.py", lambda: run(options), debug=options.debug)


def build_parser():
    parser = argparse.ArgumentParser(prog="demo.py", description=__doc__.partition("\n\n")[0])
    parser.add_argument("--out", default="demo", metavar="DIR", help="where all of it goes (default demo)")
    parser.add_argument("--seed", type=at_least(0), default=0, help="of weights and samples (default 0)")
    parser.add_argument("--split", type=int, choices=range(1, 5), default=1, help="category split (default 1)")
    parser.add_argument("--stages", choices=tuple(_RECIPES), default="shapes", help=_STAGES_HELP)
    parser.add_argument("--images", type=at_least(1), metavar="N", help="validation scenes to search (default: all)")
    parser.add_argument("--runs", type=at_least(1), default=3, metavar="N", help="draws of references (default 3)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def run(options):
    """All steps; the exit code of one that was stopped or failed."""
    from siamese_mrcnn_tf.model import log_dir_of

    out, seconds = Path(options.out), {}
    folder = timed(seconds, "data set", lambda: find_dataset(SHAPES))
    pretrained = out / "pretraining" / f"{SHAPES}_s{options.split}.h5"
    log_dir = Path(log_dir_of(TinyConfig(), str(out / "logs")))
    steps = {
        "pre-training": (pretrain.main, pretrain_command(options, pretrained.parent), pretrained.parent),
        "training": (coco.main, train_command(options, pretrained, out / "logs"), log_dir),
    }
    for _, command, of_run in steps.values():
        refuse_another_run(command, of_run)
    for name, (program, command, of_run) in steps.items():
        code = timed(seconds, name, lambda work=(program, command, of_run): step(*work))
        if code:
            print("demo.py: the same command goes on", file=sys.stderr)
            return code
    data = open_scenes(folder)
    timed(seconds, "evaluation", lambda: search(options, *data, log_dir, out))
    commands = [shlex.join(command) for _, command, _ in steps.values()]
    histories = {name: of_run / "history.csv" for name, (_, _, of_run) in steps.items()}
    page = write_demo_page(out, *data, commands=commands, histories=histories, seconds=seconds, split=options.split)
    print(f"\nThe figures, loss curves and examples are in {page}")


def pretrain_command(options, folder):
    """["samples/imagenet/pretrain.py", argument, ...]"""
    command = ["samples/imagenet/pretrain.py", "--dataset", SHAPES, "--split", str(options.split), "--config", "tiny"]
    command += ["--val-images", _VAL_IMAGES, "--seed", str(options.seed)]
    return [*command, *_RECIPES[options.stages], "--out", str(folder)]


def train_command(options, pretrained, logs):
    """["samples/coco/coco.py", "train", argument, ...]"""
    command = ["samples/coco/coco.py", "train", "--dataset", SHAPES, "--split", str(options.split), "--config", "tiny"]
    command += ["--stages", options.stages, "--model", str(pretrained)]
    command += ["--val-images", _VAL_IMAGES, "--seed", str(options.seed)]
    return [*command, "--logs", str(logs)]


def refuse_another_run(command, folder):
    """Make sure that a run in `folder` is of this command: another seed or recipe would be taken for it.

    Raises:
        ValueError: it is of another one.
    """
    from siamese_mrcnn_tf.checkpoints import RUN_FILE
    from siamese_mrcnn_tf.files import read_json

    if (folder / RUN_FILE).is_file():
        begun = read_json(folder / RUN_FILE)["arguments"]
        if begun != command[1:]:
            raise ValueError(f"{folder}: holds a run of {shlex.join(begun)}; choose another folder (--out)")


def step(program, command, folder):
    """Run a command in this process, or go on with it where its folder holds a run; its exit code."""
    from siamese_mrcnn_tf.checkpoints import STATE_FILE

    if (folder / STATE_FILE).is_file():
        command = [*command[: 1 + (command[1] == "train")], "--resume", str(folder)]
    print(f"\n$ {shlex.join(command)}", file=sys.stderr)
    return program(command[1:])


def open_scenes(folder):
    """(IndexedCocoDataset of the validation scenes, its pycocotools COCO)."""
    from siamese_mrcnn_tf.dataset import IndexedCocoDataset

    dataset = IndexedCocoDataset()
    annotations = dataset.load_coco(folder, "val", return_coco=True)
    dataset.prepare()
    dataset.build_indices()
    return dataset, annotations


def search(options, dataset, annotations, log_dir, out):
    """Evaluate all that SEARCHES names, as far as it is not done."""
    from siamese_mrcnn_tf import evaluation
    from siamese_mrcnn_tf.baselines import RandomBoxes
    from siamese_mrcnn_tf.evaluation_queries import ReferenceSearch
    from siamese_mrcnn_tf.model import find_last_checkpoint
    from siamese_mrcnn_tf.predictor import SiamesePredictor

    weights = find_last_checkpoint(log_dir)
    config = TinyConfig().replace(DETECTION_MIN_CONFIDENCE=MIN_CONFIDENCE)
    searcher = ReferenceSearch(SiamesePredictor(config, weights=weights), batch=_BATCH)
    for name, how in SEARCHES.items():
        print(f"\n{name}: {out / 'evaluation' / name}", file=sys.stderr)
        evaluation.evaluate(
            RandomBoxes() if name == "random-boxes" else searcher,
            dataset,
            annotations,
            runs=options.runs,
            limit=options.images,
            folder=out / "evaluation" / name,
            resume=True,
            workers=_WORKERS,
            weights=None if name == "random-boxes" else weights,
            about={
                "split": options.split,
                "category_set": "all",
                "protocol": "default",
                "subset": "val",
                "year": "2017",
            },
            **how,
        )


def timed(seconds, name, work):
    """The result of `work`; how long it took goes into the dict `seconds`."""
    start = time.perf_counter()
    result = work()
    seconds[name] = time.perf_counter() - start
    return result


if __name__ == "__main__":
    sys.exit(main())
