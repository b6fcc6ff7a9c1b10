"""The demo: pre-training, training, calibration and evaluation on the Shapes data set, and a page with the results."""

import contextlib
import dataclasses
import logging
import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pycocotools.coco import COCO

from ..config import TinyConfig
from ..data.dataset import IndexedCocoDataset
from ..evaluation import protocol
from ..evaluation.queries import OneShotDetector, RandomBoxes
from ..evaluation.settings import EvaluationSettings
from ..io.errors import InputError
from ..io.files import writable_file, writable_folder
from ..io.processor import multiplies
from ..predictor import SiamesePredictor
from ..weights.runs import RUN_FILE, STATE_FILE, find_last_checkpoint, log_dir_of, read_arguments
from ..weights.thresholds import read_thresholds, threshold_path
from .dataset import SHAPES, STANDARD, find_dataset
from .demo_page import METRICS_FILE, OPEN, PAGE_FILE, write_demo_page

logger = logging.getLogger(__name__)

UNVERIFIED = "1-shot-unverified"  # by the network's own scores
EVALUATIONS: dict[str, dict[str, Any]] = {  # name -> settings of `protocol.evaluate`, other than DemoSettings'
    "random-boxes": {},
    "1-shot": {},
    UNVERIFIED: {"runs": 1, "limit": 100},
    "5-shot": {"shots": 5, "runs": 1, "limit": 100},
    "control-present": {"control": "present", "runs": 1, "limit": 100},
    OPEN: {"absent": 17, "runs": 1, "limit": 100},
}
MIN_CONFIDENCE = 0.05  # average precision counts all scores; the threshold is for use

_PRETRAINING = {  # stages -> options of pre-training
    "shapes": ["--batch", "32", "--epochs", "20", "--steps", "200"],
    "shapes-long": ["--batch", "64", "--epochs", "60"],
}
_TRAINING = ["ABSENT_REFERENCE_RATIO=0.3", f"REFERENCE_CLASSES={STANDARD['categories'] + 1}"]  # --set of train
_CALIBRATION = ["--limit", "60", "--absent", "8", "--views", "8"]
_VAL_IMAGES = "300"  # training scenes for the validation losses
# Queries of a batch, and worker threads. Measured in turns, medians of 3: batches of 8 take 0.65 of the time of single
# queries (60 scenes), 12 with two workers 0.83 of that of 8 with one (150 scenes).
_BATCH, _WORKERS = 12, 2
_MIXED = "--mixed-precision"


@dataclasses.dataclass(frozen=True)
class DemoSettings:
    """Settings of the demo."""

    out: str | Path = "demo"  # folder for everything that it writes
    seed: int = 0  # of weights and samples
    split: int = 1  # category split, 1..4
    stages: str = "shapes"  # recipe, "shapes" or "shapes-long"
    images: int | None = None  # number of validation scenes; None for all
    runs: int = 3  # draws of references
    mixed_precision: bool | None = None  # compute in bfloat16; None: as the run in `out`, else if the CPU has it


def run_demo(settings: DemoSettings, run_command: Callable[[list[str]], int]) -> int:
    """Run all steps but those that are finished; returns 0, or the exit code of a step that was stopped or failed.

    `run_command` runs a command line, such as ["train", "--dataset", "shapes"], and returns its exit code.
    """
    out, seconds = writable_folder(settings.out), dict[str, float]()
    for part in ("pretraining", "logs", "evaluation"):
        writable_folder(out / part)
    for file in (PAGE_FILE, METRICS_FILE):
        writable_file(out / file)
    pretrained = out / "pretraining" / f"{SHAPES}_s{settings.split}.h5"
    log_dir = Path(log_dir_of(TinyConfig(), str(out / "logs")))
    settings = with_precision(settings, pretrained.parent)
    steps = {
        "pre-training": (pretrain_command(settings, pretrained.parent), pretrained.parent),
        "training": (train_command(settings, pretrained, out / "logs"), log_dir),
    }
    for command, run_folder in steps.values():
        refuse_another_run(command, run_folder)
    with timed(seconds, "data set"):
        folder = find_dataset(SHAPES)
    logger.info("computing in %s", "bfloat16" if settings.mixed_precision else "float32")
    for name, (command, run_folder) in steps.items():
        with timed(seconds, name):
            if (run_folder / STATE_FILE).is_file():
                command = [command[0], "--resume", str(run_folder)]
            logger.info("\n$ %s", shlex.join(["siamese-mrcnn", *command]))
            code = run_command(command)
        if code:
            logger.info("the same command resumes the demo")
            return code
    weights = find_last_checkpoint(log_dir)
    calibrate = calibrate_command(settings, weights)
    with timed(seconds, "calibration"):
        if not threshold_path(weights).is_file() and (code := run_command(calibrate)):
            return code
    data = open_scenes(folder)
    with timed(seconds, "evaluation"):
        evaluate_all(settings, *data, weights, out)
    run = [*(command for command, _ in steps.values()), calibrate]
    commands = [shlex.join(["siamese-mrcnn", *command]) for command in run]
    histories = {name: run_folder / "history.csv" for name, (_, run_folder) in steps.items()}
    write_demo_page(out, *data, commands=commands, histories=histories, seconds=seconds, split=settings.split)
    return 0


def with_precision(settings: DemoSettings, folder: Path) -> DemoSettings:
    """`settings` with `mixed_precision` decided; `folder` is that of pre-training."""
    if settings.mixed_precision is not None:
        return settings
    run = folder / RUN_FILE
    mixed = _MIXED in read_arguments(folder) if run.is_file() else multiplies("bfloat16")
    return dataclasses.replace(settings, mixed_precision=mixed)


def pretrain_command(settings: DemoSettings, folder: Path) -> list[str]:
    """The command line of pre-training, without the program."""
    command = ["pretrain", "--dataset", SHAPES, "--split", str(settings.split), "--config", "tiny", "--val-images"]
    command += [_VAL_IMAGES, "--seed", str(settings.seed), *_PRETRAINING[settings.stages], "--out", str(folder)]
    return [*command, *([_MIXED] if settings.mixed_precision else [])]


def train_command(settings: DemoSettings, pretrained: Path, logs: Path) -> list[str]:
    """The command line of training, without the program."""
    command = ["train", "--dataset", SHAPES, "--split", str(settings.split), "--config", "tiny", "--stages"]
    command += [settings.stages, "--model", str(pretrained), "--val-images", _VAL_IMAGES]
    command += [_MIXED] if settings.mixed_precision else []
    return [*command, "--seed", str(settings.seed), "--set", *_TRAINING, "--logs", str(logs)]


def calibrate_command(settings: DemoSettings, weights: str | Path) -> list[str]:
    """The command line that fits verification and threshold, on images that training set aside."""
    command = ["calibrate", "--dataset", SHAPES, "--subset", "set-aside", "--val-images", _VAL_IMAGES, "--split"]
    command += [str(settings.split), "--categories", "train", *_CALIBRATION, "--config", "tiny"]
    command += ["--set", "PRECISION=bfloat16"] if settings.mixed_precision else []
    return [*command, "--seed", str(settings.seed), "--model", str(weights)]


def refuse_another_run(command: list[str], folder: Path) -> None:
    """Raise ValueError if `folder` holds a run of another command, such as one with another seed or recipe."""
    if (folder / RUN_FILE).is_file():
        begun = read_arguments(folder)
        if begun not in (command, command[1:]):  # version 0.1 did not write "pretrain"
            raise InputError(f"{folder}: holds a run of {shlex.join(begun)}; choose another folder (--out)")


def open_scenes(folder: str | Path) -> tuple[IndexedCocoDataset, COCO]:
    """The validation scenes and their annotations."""
    dataset = IndexedCocoDataset()
    annotations = dataset.load_coco(folder, "val", return_coco=True)
    dataset.prepare()
    dataset.build_indices()
    return dataset, annotations


def evaluate_all(settings: DemoSettings, dataset: IndexedCocoDataset, coco: COCO, weights: str, out: Path) -> None:
    """Run EVALUATIONS, or what is missing of them."""
    precision = "bfloat16" if settings.mixed_precision else "float32"
    config = TinyConfig().replace(DETECTION_MIN_CONFIDENCE=MIN_CONFIDENCE, PRECISION=precision)
    predictor = SiamesePredictor(config, weights=weights)
    plain = SiamesePredictor(config, layers=predictor.layers)
    threshold = read_thresholds(threshold_path(weights)).threshold
    detectors = {True: OneShotDetector(predictor, batch=_BATCH), False: OneShotDetector(plain, batch=_BATCH)}
    about = {"split": settings.split, "category_set": "all", "protocol": "default", "subset": "val", "year": "2017"}
    for name, special in EVALUATIONS.items():
        folder, is_random = out / "evaluation" / name, name == "random-boxes"
        logger.info("\n%s: %s", name, folder)
        chosen: dict[str, Any] = {"runs": settings.runs, "limit": settings.images, "about": about} | special
        if settings.images is not None and "limit" in special:
            chosen["limit"] = min(settings.images, special["limit"])
        asked, found = (RandomBoxes(), None) if is_random else (detectors[name != UNVERIFIED], weights)
        options: dict[str, Any] = {"folder": folder, "resume": True, "workers": _WORKERS, "weights": found}
        chosen |= {"threshold": threshold} if "absent" in chosen else {}
        protocol.evaluate(asked, dataset, coco, EvaluationSettings(**chosen), **options)


@contextlib.contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Store the duration of the body under `name` in `seconds`."""
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start
