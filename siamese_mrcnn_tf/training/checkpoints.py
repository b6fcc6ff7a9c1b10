"""The folder of a training run: its checkpoints and state, from which it resumes after a stop at any moment.

    run.json, config.json               the command and the resolved configuration
    state.json                          the TrainerState: progress, and the weights that belong to it
    resume_{epoch:04d}_{step:06d}.weights.h5   weights and optimizer state within an epoch
    siamese_mrcnn_{epoch:04d}.weights.h5  the same at the end of an epoch
    siamese_mrcnn_{epoch:04d}.h5          its weights alone in the legacy layout, which the original reads too
    history.csv, tensorboard/           losses of every epoch

state.json is written after the weights that it names, and weights are removed only when it names others: a killed run
leaves a state and its weights.

run.json and state.json have a version (`weights.run_files`). config.json has none: it is a configuration file as users
write them, and `load_config` checks its settings.
"""

import contextlib
import csv
import io
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import FORMER_NAMES, Config
from ..io import files, schemas
from ..io.errors import InputError, StateError
from ..io.files import StrPath
from ..io.locks import exclusive
from ..weights import loading, runs
from ..weights.keras_files import write_state
from ..weights.run_files import Command, TrainerState, read_trainer_state
from ..weights.runs import CONFIG_FILE, EPOCH_NAME, RUN_FILE, STATE_FILE, best_epoch
from .restore import load_checkpoint, not_finite

if TYPE_CHECKING:
    import keras

_FORMER_SETTINGS = FORMER_NAMES | {"pictures": "images"}  # in states that version 0.1 wrote


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
        name: str = EPOCH_NAME,
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
        state = read_trainer_state(path)
        state.settings = {_FORMER_SETTINGS.get(name, name): value for name, value in state.settings.items()}
        if state.weights and not self.weights_path(state).is_file():
            raise InputError(f"{self.weights_path(state)}: no such file, though {STATE_FILE} names it")
        return state

    def weights_path(self, state: TrainerState) -> Path:
        """Path of the weights of a state that has been saved."""
        return files.inside(self.path, state.weights or "")

    def load_weights(self, model: "keras.Model", state: TrainerState, *, optimizer: bool) -> None:
        """Load the weights of a saved state; with `optimizer` the state of the model's optimizer must be there.

        Raises:
            ValueError: the file is damaged, of another model, or lacks something; names it.
        """
        load_checkpoint(model, self.weights_path(state), optimizer=optimizer)

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
        schemas.write(self.path / STATE_FILE, state)
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
        if broken := not_finite(model.variables):
            raise StateError(
                f"epoch {state.epoch + 1}, step {state.step}: {len(broken)} weights hold NaN or infinity, the first is "
                f"{broken[0]}. They are not saved; the last good checkpoint: {self.last_good(state)}"
            )


# ---- folders of runs ---------------------------------------------------------------------------------------------


def save_command(path: StrPath, program: str, arguments: list[str], config: Config) -> None:
    """Save the command line of a run, program and arguments, and its resolved configuration in the run's folder."""
    command = shlex.join([program, *arguments])
    schemas.write(Path(path) / RUN_FILE, Command(command=command, arguments=arguments))
    files.write_json(Path(path) / CONFIG_FILE, config.to_dict(), indent=1)


def read_arguments(path: StrPath) -> list[str]:
    """The arguments of the command that began the run in a folder; raises ValueError without one."""
    return runs.read_arguments(resolve_run(path))


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
