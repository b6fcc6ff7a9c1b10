"""The folder of a training run: its checkpoints and state, from which it resumes after a stop at any moment.

    run.json, config.json               the command and the resolved configuration
    state.json                          the TrainerState: progress, and the weights that belong to it
    resume_{epoch:04d}_{step:06d}.weights.h5   weights and optimizer state within an epoch
    siamese_mrcnn_{epoch:04d}.weights.h5  the same at the end of an epoch
    siamese_mrcnn_{epoch:04d}.h5          its weights alone in the legacy layout, which the original reads too
    history.csv, tensorboard/           losses of every epoch

state.json is written after the weights that it names, and weights are removed only when it names others: a killed run
leaves a state and its weights.
"""

import contextlib
import csv
import dataclasses
import io
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..config import FORMER_NAMES, Config
from ..io import files
from ..io.errors import InputError, StateError
from ..io.files import StrPath
from ..io.locks import exclusive
from ..weights import loading
from ..weights.keras_files import write_state
from ..weights.runs import CONFIG_FILE, RUN_FILE, STATE_FILE, best_epoch

if TYPE_CHECKING:
    import keras

_FORMER_SETTINGS = FORMER_NAMES | {"pictures": "images"}  # in states that version 0.1 wrote


@dataclasses.dataclass
class TrainerState:
    """Progress of a run.

    Attributes:
        epoch: number of finished epochs.
        step: number of finished steps of the next one.
        stage: the schedule's stage that the optimizer state belongs to, as a dict.
        metrics: name -> values of the metric's variables, within an epoch.
        history: for each finished epoch {"epoch", "learning_rate", "loss", ..., "val_loss", ...}.
        settings: what the samples of a run depend on; a run resumes only with the same.
        weights: name of the file with weights and optimizer state.
    """

    epoch: int = 0
    step: int = 0
    stage: dict[str, Any] | None = None
    metrics: dict[str, list[Any]] = dataclasses.field(default_factory=dict)
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    weights: str | None = None


class CheckpointManager:
    """Writes and reads the folder of a run.

    Args:
        path: the folder; made on the first write.
        layers: object with the `layers` whose weights go into legacy files.
        keep: number of last epochs to keep, beside the best by validation loss.
        save_legacy: callable (layers, path) that writes a legacy file.
        name: pattern for the names of finished epochs, without suffix.
        writes: False for machines that share the folder with the one that writes.
    """

    def __init__(
        self,
        path: StrPath,
        layers: Any,
        *,
        keep: int,
        save_legacy: Callable[[Any, Path], None] = loading.save_weights,
        name: str = "siamese_mrcnn_{epoch:04d}",
        writes: bool = True,
    ) -> None:
        if keep < 1:
            raise InputError(f"keep = {keep}: expected 1 or more epochs")
        self.path, self.writes = files.writable_folder(path), writes
        self._layers, self._keep, self._save_legacy, self._name = layers, keep, save_legacy, name

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Context to write in, alone; what a killed run left half written is removed."""
        if not self.writes:
            yield
            return
        with exclusive(self.path):
            files.remove_temporaries(self.path, below=False)
            yield

    def load_state(self) -> TrainerState | None:
        """The saved state, None if the folder holds no run; ValueError if it is unreadable or lacks its weights."""
        path = self.path / STATE_FILE
        if not path.exists():
            return None
        try:
            state = TrainerState(**files.read_json(path))
        except TypeError as error:
            raise InputError(f"{path}: not the state of a run ({error})") from error
        state.settings = {_FORMER_SETTINGS.get(name, name): value for name, value in state.settings.items()}
        if state.weights and not self.weights_path(state).is_file():
            raise InputError(f"{self.weights_path(state)}: no such file, though {STATE_FILE} names it")
        return state

    def weights_path(self, state: TrainerState) -> Path:
        """Path of the weights of a state that has been saved."""
        return files.inside(self.path, state.weights or "")

    def save_within_epoch(self, model: "keras.Model", state: TrainerState) -> None:
        """Save a state within an epoch; sets `state.weights`. RuntimeError if weights are not finite."""
        if self.writes:
            self._check_finite(model, state)
            self._save(model, state, f"resume_{state.epoch:04d}_{state.step:06d}.weights.h5")

    def save_epoch(self, model: "keras.Model", state: TrainerState) -> None:
        """As `save_within_epoch`, at the end of an epoch, with a legacy file and the history; removes old epochs."""
        if self.writes:
            self._check_finite(model, state)
            name = self._name.format(epoch=state.epoch)
            self._save_legacy(self._layers, self.path / f"{name}.h5")
            self._save(model, state, f"{name}.weights.h5")
            self.write_history(state)

    def write_history(self, state: TrainerState) -> None:
        """Write history.csv."""
        columns = list(dict.fromkeys(name for row in state.history for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(state.history)
        files.write_text(self.path / "history.csv", text.getvalue())

    def kept_epochs(self, state: TrainerState) -> set[int]:
        """Numbers of the epochs to keep: the last ones, and the best by validation loss."""
        kept = set(range(state.epoch - self._keep + 1, state.epoch + 1)) | {best_epoch(state.history) or 0}
        return {epoch for epoch in kept if epoch > 0}

    def last_good(self, state: TrainerState) -> Path | str:
        """The last checkpoint, for messages."""
        return self.weights_path(state) if state.weights else "none yet"

    def _save(self, model: "keras.Model", state: TrainerState, name: str) -> None:
        write_state(model, self.path / name)
        state.weights = name
        files.write_json(self.path / STATE_FILE, dataclasses.asdict(state), indent=1)
        self._clean_up(state)

    def _clean_up(self, state: TrainerState) -> None:
        """Remove files of this run that are no longer needed."""
        dropped = {row["epoch"] for row in state.history} - self.kept_epochs(state)
        stems = [self._name.format(epoch=epoch) for epoch in dropped]
        paths = [self.path / f"{stem}{suffix}" for stem in stems for suffix in (".h5", ".weights.h5")]
        for path in [*paths, *self.path.glob("resume_*.weights.h5")]:
            if path.name != state.weights:
                path.unlink(missing_ok=True)

    def _check_finite(self, model: "keras.Model", state: TrainerState) -> None:
        """Refuse to save weights that hold NaN or infinity."""
        arrays = ((variable.path, np.asarray(variable)) for variable in model.variables)
        broken = [path for path, values in arrays if values.dtype.kind == "f" and not np.isfinite(values).all()]
        if broken:
            raise StateError(
                f"epoch {state.epoch + 1}, step {state.step}: {len(broken)} weights hold NaN or infinity, the first is "
                f"{broken[0]}. They are not saved; the last good checkpoint: {self.last_good(state)}"
            )


# ---- folders of runs ---------------------------------------------------------------------------------------------


def save_command(path: StrPath, program: str, arguments: list[str], config: Config) -> None:
    """Save the command line of a run, program and arguments, and its resolved configuration in the run's folder."""
    command = shlex.join([program, *arguments])
    files.write_json(Path(path) / RUN_FILE, {"command": command, "arguments": arguments}, indent=1)
    files.write_json(Path(path) / CONFIG_FILE, config.to_dict(), indent=1)


def read_arguments(path: StrPath) -> list[str]:
    """The arguments of the command that began the run in a folder; raises ValueError without one."""
    content = files.read_json(resolve_run(path) / RUN_FILE)
    if not isinstance(content, dict) or not isinstance(content.get("arguments"), list):
        raise InputError(f"{Path(path) / RUN_FILE}: not the command of a run")
    return list(content["arguments"])


def refuse_run(path: StrPath) -> None:
    """Raise ValueError if a run was begun in a folder."""
    if (Path(path) / STATE_FILE).exists():
        other = "choose another folder (--logs, or --set EXPERIMENT=NAME)"
        raise InputError(f"{path}: holds a run already; resume it (--resume), or {other}")


def resolve_run(path: StrPath) -> Path:
    """The folder as a Path; raises ValueError if no run was begun there."""
    path = Path(path)
    if not (path / STATE_FILE).is_file():
        raise InputError(f"{path}: no run to resume there, it has no {STATE_FILE}")
    return path
