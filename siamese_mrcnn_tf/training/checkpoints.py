"""`SiameseMaskRCNN`: Matterport's facade over network, weights, training and predictor.

Code written for the original Siamese Mask R-CNN changes its imports only (design section 11).
"""

import csv
import dataclasses
import io
import math
import re
import shlex
from pathlib import Path

import numpy as np

from ..io import files
from ..weights import loading

# MERGED DOC: """The folder of a training run: what is needed to go on after a stop at any moment, and the epochs that are kept.
#
#     run.json, config.json               the command and the resolved configuration
#     state.json                          where training stands, and which weights belong to that
#     resume_{epoch:04d}_{step:06d}.weights.h5   these weights, in the middle of an epoch, with the optimizer's state
#     siamese_mrcnn_{epoch:04d}.weights.h5  the same of a finished epoch
#     siamese_mrcnn_{epoch:04d}.h5          its weights alone in the legacy layout, which the original reads too
#     history.csv, tensorboard/           losses of every epoch
#
# state.json is written after the weights that it names, and files are removed only when it names others: a run that is
# killed finds a state and its weights.
# """
_CHECKPOINT = re.compile(r"siamese_mrcnn_(\d{4})\.h5")


def log_dir_of(config, model_dir):
    """The log directory of a configuration: model_dir / siamese_{MODEL}_{NAME}_{EXPERIMENT}, in lower case."""
    return Path(model_dir) / f"siamese_{config.MODEL}_{config.NAME}_{config.EXPERIMENT}".lower()


def find_last_checkpoint(log_dir):
    """Path of the `siamese_mrcnn_{epoch:04d}.h5` of the last epoch in `log_dir`.

    Raises:
        ValueError: there is none.
    """
    folder = Path(log_dir)
    found = sorted(path for path in folder.glob("*.h5") if _CHECKPOINT.fullmatch(path.name))
    if not found:
        raise ValueError(f"{folder}: no checkpoint siamese_mrcnn_####.h5 in it")
    return str(found[-1])


STATE_FILE, RUN_FILE = "state.json", "run.json"
_VALIDATED = "val_loss"


@dataclasses.dataclass
class TrainerState:
    """Where a run stands.

    Attributes:
        epoch: epochs that are finished.
        step: steps of the next one that are done.
        stage: the schedule's stage that the weights' optimizer belongs to, as a dict.
        metrics: name -> values of the metric's variables, within an epoch.
        history: for each finished epoch {"epoch", "learning_rate", "loss", ..., "val_loss", ...}.
        settings: what the samples of a run depend on; a run is resumed with the same.
        weights: name of the file with weights and optimizer state.
    """

    epoch: int = 0
    step: int = 0
    stage: dict | None = None
    metrics: dict = dataclasses.field(default_factory=dict)
    history: list = dataclasses.field(default_factory=list)
    settings: dict = dataclasses.field(default_factory=dict)
    weights: str | None = None


class CheckpointManager:
    """Writes and reads the folder of a run.

    Args:
        path: the folder; made when something is written.
        layers: object with the `layers` whose weights go into legacy files.
        keep: of the finished epochs the last so many are kept, and the best by validation loss.
        save_legacy: callable (layers, path) that writes a legacy file.
        name: pattern of the names of finished epochs, without suffix.
        writes: False only reads, on machines that share the folder with the one that writes.
    """

    def __init__(
        self, path, layers, *, keep, save_legacy=loading.save_weights, name="siamese_mrcnn_{epoch:04d}", writes=True
    ):
        if keep < 1:
            raise ValueError(f"keep = {keep}: expected 1 or more epochs")
        self.path = files.writable_folder(path)
        self.writes = writes
        self._layers, self._keep, self._save_legacy, self._name = layers, keep, save_legacy, name

    def load_state(self):
        """The TrainerState of this folder, or None where no run was begun.

        Raises:
            ValueError: the state cannot be read, or the weights that it names are missing.
        """
        path = self.path / STATE_FILE
        if not path.exists():
            return None
        content, known = files.read_json(path), {field.name for field in dataclasses.fields(TrainerState)}
        if not isinstance(content, dict) or set(content) != known:
            raise ValueError(f"{path}: expected an object with the keys {', '.join(sorted(known))}")
        state = TrainerState(**content)
        if state.weights and not self.weights_path(state).is_file():
            raise ValueError(f"{self.weights_path(state)}: no such file, though {STATE_FILE} names it")
        return state

    def weights_path(self, state):
        """Path of the weights that belong to a state."""
        return files.inside(self.path, state.weights)

    def save_within_epoch(self, model, state):
        """Save a state in the middle of an epoch; `state.weights` is set.

        Raises:
            RuntimeError: weights that are not finite; nothing is saved then.
        """
        if self.writes:
            _check_finite(model, self, state)
            self._save(model, state, f"resume_{state.epoch:04d}_{state.step:06d}.weights.h5")

    def save_epoch(self, model, state):
        """Save a state at the end of an epoch, its weights as a legacy file too, and the history.

        Epochs that are not to be kept are removed.

        Raises:
            RuntimeError: weights that are not finite; nothing is saved then.
        """
        if not self.writes:
            return
        _check_finite(model, self, state)
        name = self._name.format(epoch=state.epoch)
        self._save_legacy(self._layers, self.path / f"{name}.h5")
        self._save(model, state, f"{name}.weights.h5")
        self.write_history(state)

    def write_history(self, state):
        """Write history.csv."""
        columns = list(dict.fromkeys(name for row in state.history for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(state.history)
        files.write_text(self.path / "history.csv", text.getvalue())

    def kept_epochs(self, state):
        """Numbers of the epochs to keep: the last ones, and the best by validation loss."""
        kept = set(range(state.epoch - self._keep + 1, state.epoch + 1))
        return {epoch for epoch in (*kept, best_epoch(state.history) or 0) if epoch > 0}

    def last_good(self, state):
        """What to go back to, for messages."""
        return self.weights_path(state) if state.weights else "none yet"

    def _save(self, model, state, name):
        with files.atomic_path(self.path / name) as temporary:
            model.save_weights(temporary)
        state.weights = name
        files.write_json(self.path / STATE_FILE, dataclasses.asdict(state), indent=1)
        self._clean_up(state)

    def _clean_up(self, state):
        """Remove what this run wrote and needs no more."""
        dropped = {row["epoch"] for row in state.history} - self.kept_epochs(state)
        stems = [self._name.format(epoch=epoch) for epoch in dropped]
        paths = [self.path / f"{stem}{suffix}" for stem in stems for suffix in (".h5", ".weights.h5")]
        left_over = self.path.glob(".????????-*.h5")  # of a run that was killed while it saved
        for path in [*paths, *left_over, *self.path.glob("resume_*.weights.h5")]:
            if path.name != state.weights:
                path.unlink(missing_ok=True)


def _check_finite(model, folder, state):
    """Refuse to save weights that hold NaN or infinity."""
    broken = [variable.path for variable in model.variables if not _is_finite(variable)]
    if broken:
        raise RuntimeError(
            f"epoch {state.epoch + 1}, step {state.step}: {len(broken)} weights hold NaN or infinity, the first is "
            f"{broken[0]}. They are not saved; the last good checkpoint: {folder.last_good(state)}"
        )


def _is_finite(variable):
    values = np.asarray(variable)
    return values.dtype.kind != "f" or bool(np.isfinite(values).all())


def best_epoch(history):
    """Number of the epoch with the lowest validation loss; None where none was validated."""
    validated = [row for row in history if math.isfinite(row.get(_VALIDATED, math.nan))]
    return min(validated, key=lambda row: row[_VALIDATED])["epoch"] if validated else None


def save_command(path, program, arguments, config):
    """Keep the command of a run and its resolved configuration in the run's folder.

    Args:
        path: the folder.
        program: name of the program.
        arguments: list of str, what the program was called with.
        config: a Config.
    """
    command = shlex.join([program, *arguments])
    files.write_json(Path(path) / RUN_FILE, {"command": command, "arguments": arguments}, indent=1)
    files.write_json(Path(path) / "config.json", config.to_dict(), indent=1)


def read_arguments(path):
    """The arguments that the run in a folder was begun with: list of str.

    Raises:
        ValueError: no run was begun there.
    """
    content = files.read_json(resolve_run(path) / RUN_FILE)
    if not isinstance(content, dict) or not isinstance(content.get("arguments"), list):
        raise ValueError(f"{Path(path) / RUN_FILE}: expected an object with the key 'arguments'")
    return content["arguments"]


def refuse_run(path):
    """Make sure that no run was begun in a folder.

    Raises:
        ValueError: one was.
    """
    if (Path(path) / STATE_FILE).exists():
        raise ValueError(
            f"{path}: holds a run already; go on with it (--resume), or choose another folder (--logs, or --set "
            "EXPERIMENT=NAME)"
        )


def resolve_run(path):
    """The folder of a run that was begun.

    Raises:
        ValueError: there is none.
    """
    path = Path(path)
    if not (path / STATE_FILE).is_file():
        raise ValueError(f"{path}: no run to resume there, it has no {STATE_FILE}")
    return path
