"""What the options stand for: data set, configuration, weights, predictor, the run to resume."""

import argparse
import contextlib
import functools
import io
import os
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import Config, load_config
from ..io.errors import InputError
from ..memory import check_memory
from ..settings import parse_settings, shown
from .effects import say_unused_in_detection, say_unused_options
from .parser import error_in

if TYPE_CHECKING:
    from pycocotools.coco import COCO

    from ..base_predictor import BasePredictor
    from ..data.dataset import IndexedCocoDataset
    from ..predictor import SiamesePredictor
    from ..weights.thresholds import Calibration

# Keras imports these where they are installed, for data frames, its own plots and its interface to scikit-learn;
# TensorFlow imports jax.
_UNUSED_BY_KERAS = ("IPython", "matplotlib", "pandas", "sklearn")
# TensorFlow's libraries log these while they are loaded, before they read TF_CPP_MIN_LOG_LEVEL.
_START_UP_LINE = rb"[IW]\d{4} \d\d:|WARNING: All log messages before absl::|To enable the following instructions:"


def picked(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    """The options with these names."""
    return {name: getattr(options, name) for name in names}


def tell(options: argparse.Namespace, text: str) -> None:
    """Print a message beside the results, unless it is empty or the command has --quiet."""
    if text and not getattr(options, "quiet", False):
        print(text, file=sys.stderr)


def open_dataset(
    options: argparse.Namespace, subset: str, *, split: int = 0, **chosen: Any
) -> tuple["IndexedCocoDataset", "COCO"]:
    """(data set that the options name, with indices and the classes that a split trains; its pycocotools COCO)."""
    from ..data.dataset import IndexedCocoDataset, split_classes
    from ..data.reading import ReadingRules
    from ..shapes.dataset import find_dataset

    if options.annotations is not None:
        say_unused_options(options, ["year"], "with --annotations, which is the file itself")
    image_dir, image_ids = _chosen_images(options)
    if options.annotations is None and options.dataset is None:
        raise InputError("--dataset: expected the folder of a COCO-format data set, or 'shapes'")
    if options.annotations is not None and options.dataset is not None:
        raise InputError(f"--annotations {options.annotations}: expected without --dataset, or --dataset alone")
    folder = "" if options.dataset is None else find_dataset(options.dataset)
    rules = ReadingRules(**picked(options, "orientation", "box_only", "crowds"))
    chosen |= {"year": options.year, "annotations": options.annotations, "images": image_dir, "rules": rules}
    dataset = IndexedCocoDataset()
    coco = dataset.load_coco(folder, subset, image_ids=image_ids, return_coco=True, **chosen)
    dataset.prepare()
    dataset.build_indices()
    dataset.ACTIVE_CLASSES, _ = split_classes(dataset.num_classes - 1, split)
    return dataset, coco


def _chosen_images(options: argparse.Namespace) -> tuple[str | None, list[int] | None]:
    """(image folder of --annotations or None, COCO ids of the images to use or None for all)."""
    given: list[str] = options.images or []
    if options.annotations is not None:
        if len(given) != 1:
            raise InputError(f"--images {' '.join(given)}: expected the folder of the images of {options.annotations}")
        return given[0], options.image_ids
    if not given:
        return None, options.image_ids
    if options.image_ids is not None or not all(number.isascii() and number.isdecimal() for number in given):
        raise InputError(f"--images {' '.join(given)}: an image folder needs its annotation file (--annotations)")
    return None, [int(number) for number in given]


def choose_config(options: argparse.Namespace, changes: dict[str, Any] | None = None) -> tuple[Config, Path | None]:
    """(configuration, weight file or None for initial weights) that the options name, to detect with.

    Without --config it is that of the run that the weights are of, or else the one that they fit. The threshold file
    beside the weights gives DETECTION_MIN_CONFIDENCE and VERIFY_DETECTIONS, which options replace.
    """
    from ..runtime.manifest import is_export, read_export
    from ..weights.choice import config_of, with_settings

    path = None if options.model == "untrained" else find_export(options) or find_model(options)
    if path is None:
        config = load_config(options.config or "tiny")
    elif not is_export(path):
        config = config_of(path, options.config)
    elif options.config:
        raise InputError(f"--config {options.config}: the exported network in {path} has its own; leave it out")
    else:
        config = read_export(path).config
    say_unused_in_detection(options)
    changed = parse_settings(options.set) | (changes or {})
    if getattr(options, "min_confidence", None) is not None:
        changed["DETECTION_MIN_CONFIDENCE"] = options.min_confidence
    config = with_settings(config, calibrated_settings(options, path), changed)
    if path is None or not is_export(path):
        check_memory(config, "detection")
    return config, path


def find_export(options: argparse.Namespace) -> Path | None:
    """The exported folder that --model names, in a command that takes one; None for other models.

    Raises:
        ValueError: --runtime needs an exported folder, and --model is none.
    """
    from ..runtime.manifest import is_export

    if not getattr(options, "takes_exports", False):
        return None
    if is_export(options.model):
        if options.precision:
            raise InputError(f"--precision {options.precision}: is for weights; {options.model} is an exported network")
        return Path(options.model)
    if options.runtime != "onnx":
        return None
    command = [*options.launcher, "export", "--model", options.model, "--format", options.runtime, "--out", "exported"]
    how = f"{shlex.join(command)}; then use --model exported"
    raise InputError(f"--runtime {options.runtime}: needs an exported network, --model {options.model} is none: {how}")


def find_model(options: argparse.Namespace, *, begins_run: bool = False) -> Path:
    """The weight file that --model names; says which it is where a run has several.

    `begins_run` is for the initial weights of a new run, which --config and EXPERIMENT name then.
    """
    from ..weights.pretrained import find_weights

    def find_in_runs(name: str) -> Path:
        return _find_in_runs(options, name, begins_run=begins_run)

    return find_weights(options.model, options.checkpoints, runs=find_in_runs, tell=functools.partial(tell, options))


def _find_in_runs(options: argparse.Namespace, name: str, *, begins_run: bool) -> Path:
    """The checkpoint that "last", "best" or a folder (of a run, or of several) stands for; says which it is.

    The run of "last" and "best" is that of --config and --set; without --config it is the newest under --logs (of the
    EXPERIMENT that --set names). Where they name another run, that begins with these weights, it is the newest of all.
    """
    from ..weights.runs import find_newest_run, find_run_weights, log_dir_of, run_in

    settings = parse_settings(getattr(options, "set", []))
    if name not in ("last", "best"):
        folder = run_in(name)
    elif begins_run:
        folder = find_newest_run(options.logs)
    elif getattr(options, "config", None):
        folder = log_dir_of(load_config(options.config).replace(**settings), options.logs)
    else:
        folder = find_newest_run(options.logs, settings.get("EXPERIMENT"))
    found = find_run_weights(folder, "last" if name == "last" else "best")
    tell(options, f"weights: {found.path} ({found.text})")
    return found.path


def find_calibration(options: argparse.Namespace, path: Path | None) -> "Calibration | None":
    """The threshold file beside the weights, for a command that uses it; the paper's protocol does not."""
    from ..runtime.manifest import is_export, read_calibration
    from ..weights.thresholds import find_thresholds

    if path is None or not hasattr(options, "min_confidence") or getattr(options, "protocol", "") == "paper":
        return None
    return read_calibration(path) if is_export(path) else find_thresholds(path)


def weights_checksum(path: Path | None) -> str | None:
    """SHA-256 of a weight file, or of the one that an exported folder is of; None for initial weights."""
    from ..io.files import checksum
    from ..runtime.manifest import is_export, read_export

    if path is None:
        return None
    return read_export(path).weights_sha256 if is_export(path) else checksum(path)


def calibration_path(path: Path) -> Path:
    """Where the threshold file of a weight file or of an exported folder is, if there is one."""
    from ..runtime.manifest import THRESHOLD_NAME, is_export
    from ..weights.thresholds import threshold_path

    return path / THRESHOLD_NAME if is_export(path) else threshold_path(path)


def calibrated_settings(options: argparse.Namespace, path: Path | None) -> dict[str, Any]:
    """The settings that the threshold file beside the weights gives; none without verification where it needs one."""
    from ..weights import choice

    calibration = find_calibration(options, path)
    verify = calibration is not None and options.verify and parse_settings(options.set).get("VERIFY_DETECTIONS", True)
    return choice.calibrated_settings(calibration, verify=verify)


def open_predictor(options: argparse.Namespace, config: Config, path: Path | None) -> "BasePredictor":
    """The predictor over an exported folder, or as `open_keras_predictor`; says which threshold it uses."""
    from ..runtime.manifest import is_export

    if path is None or not is_export(path):
        return open_keras_predictor(options, config, path)
    from ..runtime import predictor as exported

    runtime = exported.choose_runtime(path, options.runtime)
    if runtime == "tensorflow":
        start_keras(options)
    predictor = exported.open_predictor(path, runtime, config=config, calibrated=False)
    _tell_threshold(options, config, find_calibration(options, path), predictor.verifies)
    return predictor


def open_keras_predictor(options: argparse.Namespace, config: Config, path: Path | None) -> "SiamesePredictor":
    """The predictor with the weights of a file, or with initial ones and a warning; says which threshold it uses."""
    start_keras(options)
    import keras

    from ..predictor import SiamesePredictor

    keras.utils.set_random_seed(0)
    if path is None:
        tell(options, "untrained weights: detections mean nothing, this only shows that everything runs")
    calibration = find_calibration(options, path)
    verification = calibration.verification if calibration and config.VERIFY_DETECTIONS else None
    predictor = SiamesePredictor(
        config,
        weights=path,
        verification=verification,
        calibrated=False,
        runtime=getattr(options, "runtime", None) or "tensorflow",
        precision=getattr(options, "precision", None),
    )
    _tell_threshold(options, config, calibration, predictor.verifies)
    return predictor


def _tell_threshold(
    options: argparse.Namespace, config: Config, calibration: "Calibration | None", verifies: bool
) -> None:
    if calibration is not None:
        tell(options, _used(config, calibration, verifies))


def _used(config: Config, calibration: "Calibration", verifies: bool) -> str:
    """What of a threshold file is used, in one line."""
    if config.DETECTION_MIN_CONFIDENCE == calibration.threshold and verifies == bool(calibration.verification):
        return calibration.summary()
    kind = "verified scores" if verifies else "scores"
    return f"threshold {config.DETECTION_MIN_CONFIDENCE:.4g} of {kind}; calibrated was: {calibration.summary()}"


def start_keras(options: argparse.Namespace) -> None:
    """Import Keras and its backend, without the start-up lines of TensorFlow's libraries unless --debug is given.

    Another process filters the error stream meanwhile: the last words of a crash are not lost. JAX keeps what it
    compiles in the folder of downloads.
    """
    if "keras" not in sys.modules:
        if options.debug:
            _import_keras()
        else:
            _import_keras_quietly()
    if _keras_backend() == "jax":
        from ..io.cache import cache_folder
        from ..ops.devices import keep_compiled

        keep_compiled(cache_folder() / "jax")


def _import_keras_quietly() -> None:
    kept = f"line for line in sys.stdin.buffer if not re.match({_START_UP_LINE!r}, line)"
    words = [sys.executable, "-c", f"import re, sys; sys.stderr.buffer.writelines({kept})"]
    with os.fdopen(os.dup(2)) as stderr, subprocess.Popen(words, stdin=subprocess.PIPE) as filtering:
        os.dup2(filtering.stdin.fileno(), 2)  # type: ignore[union-attr]  # PIPE gives one
        try:
            _import_keras()
        finally:
            os.dup2(stderr.fileno(), 2)


def _import_keras() -> None:
    """Import Keras without the packages that it and TensorFlow support and no command needs."""
    from ..io.files import collector_paused

    hidden = [*_UNUSED_BY_KERAS, *(["jax"] if _keras_backend() == "tensorflow" else [])]
    with _hidden_modules(hidden), collector_paused():
        import keras  # noqa: F401


def _keras_backend() -> str:
    """The backend that Keras is going to choose."""
    from ..io.files import read_json

    path = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser() / "keras.json"
    stored: Any = {}
    with contextlib.suppress(ValueError):  # Keras, too, passes over a file that is no JSON
        stored = read_json(path) if path.is_file() else {}
    chosen = stored.get("backend") if isinstance(stored, dict) else None
    return os.environ.get("KERAS_BACKEND") or (chosen if isinstance(chosen, str) else "tensorflow")


@contextlib.contextmanager
def _hidden_modules(names: Iterable[str]) -> Iterator[None]:
    """Context in which modules that are not imported yet seem not to be installed."""
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: Python then finds no module
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


def resumed_arguments(folder: str | Path, given: list[str]) -> list[str]:
    """The arguments that a run was begun with, followed by those given now but for --resume.

    Raises:
        ValueError: no run was begun in `folder`.
    """
    from ..training.checkpoints import read_arguments

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--resume", nargs="?")
    return [*read_arguments(folder), *parser.parse_known_args(given)[1]]


def parse_resumed(options: argparse.Namespace, folder: Path) -> argparse.Namespace:
    """The options of the run to resume in `folder`, with those given now.

    Raises:
        ValueError: no run was begun there, or its run.json has other arguments than this command's.
    """
    from ..weights.runs import RUN_FILE

    command, path, said = options.command_name, folder / RUN_FILE, io.StringIO()
    arguments = resumed_arguments(folder, options.arguments[1:])
    if command == "pretrain" and arguments[:1] != [command]:  # version 0.1 did not write its name
        arguments = [command, *arguments]
    if arguments[:1] != [command]:
        raise InputError(f"{path}: arguments = {shown(arguments)}: expected those of {command}")
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            resumed: argparse.Namespace = options.parse(arguments)
    except SystemExit as error:
        text = error_in(said.getvalue()) or "no arguments of a run"
        raise InputError(f"{path}: arguments = {shown(arguments)}: {text}") from error
    if resumed.resume is not None:
        raise InputError(f"{path}: arguments = {shown(arguments)}: has --resume, expected those that began the run")
    return resumed
