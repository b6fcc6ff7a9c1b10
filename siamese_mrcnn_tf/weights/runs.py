"""Folders of training runs: the weights that each stands for, and the configuration it was trained with.

Nothing here needs Keras.
"""

import dataclasses
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import Config, load_config
from ..io.errors import InputError
from ..io.files import StrPath
from .foreign import describe_folder

if TYPE_CHECKING:
    from .run_files import TrainerState

RUN_FILE, CONFIG_FILE, STATE_FILE = "run.json", "config.json", "state.json"  # command, configuration, progress
EPOCH_NAME = "siamese_mrcnn_{epoch:04d}"  # of the files of a finished epoch, without suffix
CHECKPOINT = re.compile(r"siamese_mrcnn_(\d{4})\.h5")
_VALIDATED = "val_loss"


@dataclasses.dataclass(frozen=True)
class RunWeights:
    """The weights of a run.

    Attributes:
        path: a checkpoint siamese_mrcnn_####.h5.
        text: which it is, in words.
    """

    path: Path
    text: str


def log_dir_of(config: Config, model_dir: StrPath) -> Path:
    """The log directory of a configuration: model_dir / siamese_{MODEL}_{NAME}_{EXPERIMENT}, in lower case."""
    return Path(model_dir) / f"siamese_{config.MODEL}_{config.NAME}_{config.EXPERIMENT}".lower()


def best_epoch(history: Sequence[dict[str, Any]]) -> int | None:
    """Number of the epoch with the lowest validation loss; None without validation."""
    finite = {epoch: loss for epoch, loss in _losses(history).items() if loss is not None and math.isfinite(loss)}
    return min(finite, key=finite.__getitem__) if finite else None


def has_risen(history: Sequence[dict[str, Any]]) -> bool:
    """Whether the validation loss of the last epoch is above the lowest, or not a number; False without either."""
    losses, best = _losses(history), best_epoch(history)
    last, lowest = (None, None) if best is None else (losses[history[-1]["epoch"]], losses[best])
    return last is not None and lowest is not None and not last <= lowest


def _losses(history: Sequence[dict[str, Any]]) -> dict[int, float | None]:
    """Validation loss by epoch; None in epochs without validation."""
    return {row["epoch"]: row.get(_VALIDATED) for row in history}


def checkpoint_name(epoch: int) -> str:
    """The name of the weight file of a finished epoch."""
    return f"{EPOCH_NAME.format(epoch=epoch)}.h5"


def find_last_checkpoint(log_dir: StrPath) -> str:
    """Path of the `siamese_mrcnn_{epoch:04d}.h5` of the last epoch in `log_dir`; raises ValueError without one."""
    found = _checkpoints(Path(log_dir))
    if not found:
        raise InputError(f"{log_dir}: no checkpoint siamese_mrcnn_####.h5 in it; {describe_folder(Path(log_dir))}")
    return str(found[-1])


def find_run_weights(log_dir: StrPath, which: str = "best") -> RunWeights:
    """The weights of a run: those of its "best" epoch by validation loss, or of its "last" one.

    Without validation, or where the file of the best epoch is gone, the best is the last.

    Raises:
        ValueError: no checkpoint there.
    """
    last = Path(find_last_checkpoint(log_dir))
    state = read_state(log_dir)
    history = state.history if state else []
    best = best_epoch(history) if which == "best" else None
    if best is not None and (path := Path(log_dir) / checkpoint_name(best)).is_file():
        return RunWeights(path, f"epoch {best}, the best of {len(history)} by validation loss")
    lacking = " (no validation, so no best one)" if which == "best" else ""
    return RunWeights(last, f"epoch {_epoch_of(last)}, the last{lacking}")


def find_newest_run(model_dir: StrPath, experiment: str | None = None) -> Path:
    """The folder in `model_dir` with the newest checkpoint, or `model_dir` if it is a run itself.

    Args:
        experiment: only runs of this EXPERIMENT, in any case.

    Raises:
        ValueError: no run with a checkpoint.
    """
    folder = Path(model_dir)
    below = sorted(path for path in folder.glob("*") if path.is_dir())
    runs = [path for path in (folder, *below) if _checkpoints(path)]
    if experiment is not None:
        runs = [path for path in runs if path.name.endswith(f"_{experiment}".lower())]
    if not runs:
        wanted = f" of EXPERIMENT {experiment}" if experiment else ""
        raise InputError(f"{folder}: no checkpoint siamese_mrcnn_####.h5{wanted} in it or in a folder below it")
    return max(runs, key=lambda path: max(one.stat().st_mtime_ns for one in _checkpoints(path)))


def run_in(folder: StrPath) -> Path:
    """The run that a folder stands for: it itself, or the newest of the runs in it; itself if there are none."""
    folder = Path(folder)
    holds_runs = any(map(_checkpoints, folder.glob("*"))) and not _checkpoints(folder)
    return find_newest_run(folder) if holds_runs else folder


def run_of(weights: Path) -> Path | None:
    """The run folder that a checkpoint belongs to; None for other weight files."""
    is_checkpoint = re.fullmatch(r"(siamese_mrcnn|resume)_\d{4}(_\d{6})?(\.weights)?\.h5", weights.name)
    return weights.parent if is_checkpoint and (weights.parent / CONFIG_FILE).is_file() else None


def read_run_config(log_dir: StrPath) -> Config:
    """The configuration that a run was trained with, on one device and in full precision.

    Raises:
        ValueError: names config.json, and the setting that is wrong.
    """
    config = load_config(Path(log_dir) / CONFIG_FILE)
    return config.replace(GPU_COUNT=1, IMAGES_PER_GPU=config.BATCH_SIZE, PRECISION=Config.PRECISION)


def read_state(log_dir: StrPath) -> "TrainerState | None":
    """The content of a run's state.json; None without one. A ValueError names the file, the place and the value."""
    from .run_files import read_trainer_state  # the command line imports this module at start

    path = Path(log_dir) / STATE_FILE
    return read_trainer_state(path) if path.is_file() else None


def read_arguments(log_dir: StrPath) -> list[str]:
    """The arguments of the command that began a run.

    Raises:
        ValueError: no run.json, or one that is damaged.
    """
    from ..io.schemas import read
    from .run_files import Command

    return list(read(Path(log_dir) / RUN_FILE, Command).arguments)


def _checkpoints(folder: Path) -> list[Path]:
    """Legacy weight files of finished epochs, in order of epoch."""
    found = folder.glob("*.h5") if folder.is_dir() else ()
    return sorted(path for path in found if CHECKPOINT.fullmatch(path.name))


def _epoch_of(path: Path) -> int:
    found = CHECKPOINT.fullmatch(path.name)
    return int(found[1]) if found else 0
