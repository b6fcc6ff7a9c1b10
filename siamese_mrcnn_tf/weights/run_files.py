"""The formats of run.json and state.json, the files of a training run (see `training.checkpoints`)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

from msgspec import Meta

from ..io.errors import InputError
from ..io.schemas import Number, OwnFile, Values, convert, is_file_name, read_plain

Epoch = Annotated[int, Meta(ge=0, le=10**6)]
Step = Annotated[int, Meta(ge=0, le=10**9)]
_WRITTEN = ("epoch", "step", "history", "settings")  # in every file; a new state in memory has defaults


class Command(OwnFile, kw_only=True):
    """run.json: the command that began a run.

    Attributes:
        command: as a line for a shell.
        arguments: of the program.
    """

    command: str = ""
    arguments: list[str]


class StageState(TypedDict):
    """The stage of a schedule that an optimizer state belongs to; `first_epoch` is the epoch before it."""

    index: Step
    layers: str
    learning_rate: Annotated[float, Meta(ge=0, le=1e20)]
    decay_to: NotRequired[Epoch]
    first_epoch: NotRequired[Epoch]


class TrainerState(OwnFile, kw_only=True):
    """state.json: progress of a run.

    Attributes:
        epoch: number of finished epochs.
        step: number of finished steps of the next one.
        stage: the schedule's stage that the optimizer state belongs to.
        metrics: name -> values of the metric's variables, within an epoch.
        history: for each finished epoch {"epoch", "learning_rate", "loss", ..., "val_loss", ...}.
        settings: what the samples of a run depend on; a run resumes only with the same.
        weights: name of the file with weights and optimizer state.
    """

    epoch: Epoch = 0
    step: Step = 0
    stage: StageState | None = None
    metrics: dict[str, list[Number]] = {}
    history: list[Values] = []
    settings: dict[str, Any] = {}
    weights: str | None = None


def read_trainer_state(path: Path) -> TrainerState:
    """The content of state.json.

    Raises:
        ValueError: names the file, the place and the value.
    """
    content = read_plain(path, TrainerState)
    state = convert(content, TrainerState, path)
    _check_history(state.history, state.epoch, path)
    if state.weights is not None:
        if not is_file_name(state.weights):
            raise InputError(f"{path}: weights = {state.weights!r}: expected the name of a file in the same folder")
        _check_name(state, path)
        for key in _WRITTEN:
            if key not in content:
                raise InputError(f"{path}: the key {key!r} is missing")
        _check_end(state, path)
    return state


def _check_history(history: Sequence[Values], epoch: int, path: Path) -> None:
    """Refuse a history whose epochs do not rise to that of the state."""
    before = 0
    for index, row in enumerate(history):
        number = row.get("epoch")
        if not isinstance(number, int) or not before < number <= epoch:
            expected = f"expected a whole number above {before}, at most epoch = {epoch}"
            raise InputError(f"{path}: history[{index}].epoch = {number!r}: {expected}")
        before = number


def _check_end(state: TrainerState, path: Path) -> None:
    """Refuse a history without the last epoch, where the weights are those at its end."""
    last = state.history[-1].get("epoch") if state.history else None
    is_whole = not (state.step or (state.weights or "").startswith("resume_"))
    if state.epoch and is_whole and last != state.epoch:
        expected = f"expected a row for each finished epoch, epoch = {state.epoch}"
        raise InputError(f"{path}: history: the last row is of epoch {last}, {expected}")


def _check_name(state: TrainerState, path: Path) -> None:
    """Refuse weights whose name is of another epoch or step than the state."""
    within, whole = f"resume_{state.epoch:04d}_{state.step:06d}.weights.h5", f"_{state.epoch:04d}.weights.h5"
    name = state.weights or ""
    if name != within and (state.step or not name.endswith(whole)):
        found = f"epoch = {state.epoch}, step = {state.step}"
        raise InputError(f"{path}: {found}: do not go with weights = {name!r}, which is of another place in the run")
