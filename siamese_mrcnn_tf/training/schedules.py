"""Training schedules: which layers train until which epoch, at which learning rate.

The layer selections are the original's, and "no-bn"; they also hold for layers inside nested models.
"""

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..io.errors import InputError
from ..io.files import StrPath, read_json
from ..settings import is_number, shown

_MAX_EPOCHS, _MAX_RATE = 10**6, 1000
_HEADS = r"(mrcnn_.*)|(rpn_.*)|(fpn_.*)|(presence_.*)"
_STAGES = {stage: rf"(res{stage}.*)|(bn{stage}.*)" for stage in range(2, 6)}

LAYER_SELECTIONS = {
    "heads": _HEADS,
    "rpn": r"(rpn_.*)|(fpn_.*)",
    **{f"{first}+": "|".join([*(_STAGES[stage] for stage in range(first, 6)), _HEADS]) for first in _STAGES},
    "all": ".*",
    "no-bn": r"(?!bn|mrcnn_(class|mask)_bn).*",  # all but batch normalization, which then uses its moving statistics
}


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of a schedule.

    Attributes:
        epochs: its last epoch, counted from the start of training.
        layers: a key of LAYER_SELECTIONS, or a regular expression for whole layer names.
        learning_rate: the learning rate; with `decay_to` the highest.
        decay_to: the epoch at whose end the learning rate reaches 0: half a cosine, after a linear warm-up of the
            configuration's WARM_UP_STEPS. None keeps the learning rate constant.
    """

    epochs: int
    layers: str
    learning_rate: float
    decay_to: int | None = None


Schedules = Mapping[str, Sequence[Stage]]
SCHEDULES: Schedules = {
    "paper": (Stage(1, "heads", 0.02), Stage(120, "all", 0.02), Stage(160, "all", 0.002)),  # the category splits
    "paper-full": (Stage(1, "heads", 0.02), Stage(240, "all", 0.02), Stage(320, "all", 0.002)),  # all 80 classes
    "small": (Stage(1, "heads", 0.02), Stage(10, "all", 0.02), Stage(12, "all", 0.002)),  # to see that it learns
}


def layer_pattern(layers: str) -> re.Pattern[str]:
    """The compiled pattern of a layer selection; ValueError if it is neither known nor a regular expression."""
    try:
        return re.compile(LAYER_SELECTIONS.get(layers, layers))
    except (re.error, TypeError, OverflowError, RecursionError) as error:
        known = ", ".join(LAYER_SELECTIONS)
        raise InputError(
            f"layers {shown(layers)}: expected one of {known}, or a regular expression ({error})"
        ) from error


def load_schedule(name_or_path: StrPath, known: Schedules = SCHEDULES) -> Sequence[Stage]:
    """A schedule by name, or from a JSON file: a list of {"epochs": 1, "layers": "heads", "learning_rate": 0.02}.

    Entries may have "decay_to" too (see `Stage`). A ValueError names the file, the entry, the key and the value.
    """
    if str(name_or_path) in known:
        return known[str(name_or_path)]
    try:
        entries = read_json(name_or_path)
    except ValueError as error:
        raise InputError(f"schedule {str(name_or_path)!r}: none of {', '.join(known)}; {error}") from error
    if not isinstance(entries, list) or not entries:
        raise InputError(f"schedule {name_or_path}: expected a list of stages that is not empty")
    stages = tuple(_stage(entry, f"schedule {name_or_path}: [{index}]") for index, entry in enumerate(entries))
    for index, (before, stage) in enumerate(itertools.pairwise(stages), start=1):
        if stage.epochs <= before.epochs:
            text = f"epochs = {stage.epochs}, expected an epoch after {before.epochs}"
            raise InputError(f"schedule {name_or_path}: [{index}]: {text}")
    return stages


def shortened(stages: Sequence[Stage], epochs: int) -> tuple[Stage, ...]:
    """The schedule up to the end of epoch `epochs`."""
    kept = [dataclasses.replace(stage, epochs=min(stage.epochs, epochs)) for stage in stages]
    starts = [0, *(stage.epochs for stage in kept[:-1])]
    return tuple(stage for stage, start in zip(kept, starts, strict=True) if stage.epochs > start)


def _stage(entry: Any, where: str) -> Stage:
    """The Stage of an entry of a JSON file; `where` begins the messages of errors."""
    keys = {"epochs", "layers", "learning_rate"}
    if not isinstance(entry, dict) or entry.keys() | {"decay_to"} != keys | {"decay_to"}:
        raise InputError(f"{where}: expected an object with the keys {', '.join(sorted(keys))}, got {shown(entry)}")
    epochs, rate, end = entry["epochs"], entry["learning_rate"], entry.get("decay_to")
    if type(epochs) is not int or epochs < 1:  # True is not a number here
        raise InputError(f"{where}: epochs = {shown(epochs)}, expected a whole number of 1 or more")
    if epochs > _MAX_EPOCHS:
        raise InputError(f"{where}: epochs = {shown(epochs)}, expected at most {_MAX_EPOCHS}")
    if not is_number(rate) or not 0 < rate <= _MAX_RATE:
        raise InputError(f"{where}: learning_rate = {shown(rate)}, expected a number above 0, at most {_MAX_RATE}")
    if end is not None and (type(end) is not int or not epochs <= end <= _MAX_EPOCHS):
        raise InputError(f"{where}: decay_to = {shown(end)}, expected an epoch from {epochs} on")
    if not isinstance(entry["layers"], str):
        raise InputError(f"{where}: layers = {shown(entry['layers'])}, expected a selection or a regular expression")
    try:
        layer_pattern(entry["layers"])
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error
    return Stage(**entry)
