"""The demo: pre-training, training and evaluation on the Shapes data set, and a page with the results."""

import dataclasses
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ..config import TinyConfig
from ..data.dataset import IndexedCocoDataset
from ..evaluation import protocol
from ..evaluation.queries import OneShotDetector, RandomBoxes
from ..io.files import read_json
from ..predictor import SiamesePredictor
from ..training.checkpoints import RUN_FILE, STATE_FILE, find_last_checkpoint, log_dir_of
from .dataset import SHAPES, find_dataset
from .demo_page import write_demo_page

SEARCHES = {  # name -> how `protocol.evaluate` searches
    "random-boxes": {},
    "1-shot": {},
    "5-shot": {"shots": 5},
    "control-present": {"control": "present"},
    "control-absent": {"control": "absent"},
}
MIN_CONFIDENCE = 0.05  # average precision counts all scores; the default cut of 0.7 is for pictures

_RECIPES = {"shapes": [], "shapes-long": ["--epochs", "40"]}  # stages -> further arguments of pretrain
_VAL_IMAGES = "300"  # of the training scenes, to follow the losses on
# Queries matched and scenes searched at once. In turns, medians of 3: batches of 8 took 0.65 of the time of one by one
# (60 scenes), 12 with two workers 0.83 of that of 8 with one (150 scenes).
_BATCH, _WORKERS = 12, 2


@dataclasses.dataclass(frozen=True)
class DemoSettings:
    """What the demo does.

    Attributes:
        out: folder of all it writes.
        seed: of weights and samples.
        split: category split, 1..4.
        stages: recipe, "shapes" or "shapes-long".
        images: validation scenes to search; None for all.
        runs: draws of references.
    """

    out: str | Path = "demo"
    seed: int = 0
    split: int = 1
    stages: str = "shapes"
    images: int | None = None
    runs: int = 3


def run_demo(settings: DemoSettings, run_command: Callable[[list[str]], int]) -> int:
    """Run all steps; a step that is done is not repeated.

    Args:
        settings: DemoSettings.
        run_command: runs a command line, such as ["train", "--dataset", "shapes"]; returns its exit code.

    Returns:
        0, or the exit code of a step that was stopped or failed.
    """
    out, seconds = Path(settings.out), {}
    folder = timed(seconds, "data set", lambda: find_dataset(SHAPES))
    pretrained = out / "pretraining" / f"{SHAPES}_s{settings.split}.h5"
    log_dir = Path(log_dir_of(TinyConfig(), str(out / "logs")))
    steps = {
        "pre-training": (pretrain_command(settings, pretrained.parent), pretrained.parent),
        "training": (train_command(settings, pretrained, out / "logs"), log_dir),
    }
    for command, of_run in steps.values():
        refuse_another_run(command, of_run)
    for name, work in steps.items():
        code = timed(seconds, name, lambda work=work: step(run_command, *work))
        if code:
            print("the same command resumes the demo", file=sys.stderr)
            return code
    data = open_scenes(folder)
    timed(seconds, "evaluation", lambda: search(settings, *data, log_dir, out))
    commands = [shlex.join(["siamese-mrcnn", *command]) for command, _ in steps.values()]
    histories = {name: of_run / "history.csv" for name, (_, of_run) in steps.items()}
    page = write_demo_page(out, *data, commands=commands, histories=histories, seconds=seconds, split=settings.split)
    print(f"\nThe metrics, loss curves and examples are in {page}")
    return 0


def pretrain_command(settings: DemoSettings, folder: Path) -> list[str]:
    """["pretrain", argument, ...]"""
    command = ["pretrain", "--dataset", SHAPES, "--split", str(settings.split), "--config", "tiny"]
    command += ["--val-images", _VAL_IMAGES, "--seed", str(settings.seed)]
    return [*command, *_RECIPES[settings.stages], "--out", str(folder)]


def train_command(settings: DemoSettings, pretrained: Path, logs: Path) -> list[str]:
    """["train", argument, ...]"""
    command = ["train", "--dataset", SHAPES, "--split", str(settings.split), "--config", "tiny"]
    command += ["--stages", settings.stages, "--model", str(pretrained)]
    command += ["--val-images", _VAL_IMAGES, "--seed", str(settings.seed)]
    return [*command, "--logs", str(logs)]


def refuse_another_run(command, folder):
    """Make sure that a run in `folder` is of this command: another seed or recipe would be taken for it.

    Raises:
        ValueError: it is of another one.
    """
    if (folder / RUN_FILE).is_file():
        begun = read_json(folder / RUN_FILE)["arguments"]
        if begun != command:
            raise ValueError(f"{folder}: holds a run of {shlex.join(begun)}; choose another folder (--out)")


def step(run_command, command, folder):
    """Run a command, or resume it where its folder holds a run; its exit code."""
    if (folder / STATE_FILE).is_file():
        command = [command[0], "--resume", str(folder)]
    print(f"\n$ {shlex.join(['siamese-mrcnn', *command])}", file=sys.stderr)
    return run_command(command)


def open_scenes(folder):
    """(IndexedCocoDataset of the validation scenes, its pycocotools COCO)."""

    dataset = IndexedCocoDataset()
    annotations = dataset.load_coco(folder, "val", return_coco=True)
    dataset.prepare()
    dataset.build_indices()
    return dataset, annotations


def search(settings, dataset, annotations, log_dir, out):
    """Evaluate all that SEARCHES names, as far as it is not done."""

    weights = find_last_checkpoint(log_dir)
    config = TinyConfig().replace(DETECTION_MIN_CONFIDENCE=MIN_CONFIDENCE)
    searcher = OneShotDetector(SiamesePredictor(config, weights=weights), batch=_BATCH)
    for name, how in SEARCHES.items():
        print(f"\n{name}: {out / 'evaluation' / name}", file=sys.stderr)
        protocol.evaluate(
            RandomBoxes() if name == "random-boxes" else searcher,
            dataset,
            annotations,
            runs=settings.runs,
            limit=settings.images,
            folder=out / "evaluation" / name,
            resume=True,
            workers=_WORKERS,
            weights=None if name == "random-boxes" else weights,
            about={
                "split": settings.split,
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
