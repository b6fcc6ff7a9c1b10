"""Training schedules: which layers train until which epoch, at which learning rate.

The table of layer selections is the original's, and "no-bn"; all of them hold for layers inside nested models too.
"""

import dataclasses
import re

from ..config import TinyConfig
from ..io.files import read_json

_HEADS = r"(mrcnn_.*)|(rpn_.*)|(fpn_.*)"


def _from_stage(first):
    """Pattern of the backbone's stages from `first` to 5, and of what comes after the backbone."""
    return "|".join(rf"(res{stage}.*)|(bn{stage}.*)" for stage in range(first, 6)) + "|" + _HEADS


LAYER_SELECTIONS = {
    "heads": _HEADS,
    "rpn": r"(rpn_.*)|(fpn_.*)",
    **{f"{stage}+": _from_stage(stage) for stage in range(2, 6)},
    "all": ".*",
    "no-bn": r"(?!bn|mrcnn_(class|mask)_bn).*",  # all but batch normalization, which then uses its moving statistics
}


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of a schedule.

    Attributes:
        epochs: the epoch it lasts to, counted from the start of training.
        layers: a key of LAYER_SELECTIONS, or a regular expression for whole layer names.
        learning_rate: of all of it, or the highest.
        decay_to: the epoch by whose end the learning rate falls to 0, as half a cosine, after a rise over the
            configuration's WARM_UP_STEPS; None keeps it.
    """

    epochs: int
    layers: str
    learning_rate: float
    decay_to: int | None = None


SCHEDULES = {
    "paper": (Stage(1, "heads", 0.02), Stage(120, "all", 0.02), Stage(160, "all", 0.002)),  # the category splits
    "paper-full": (Stage(1, "heads", 0.02), Stage(240, "all", 0.02), Stage(320, "all", 0.002)),  # all 80 classes
    "small": (Stage(1, "heads", 0.02), Stage(10, "all", 0.02), Stage(12, "all", 0.002)),  # to see that it learns
    "shapes": (Stage(24, "all", TinyConfig.LEARNING_RATE, decay_to=24),),  # of samples/shapes, after pre-training
    "shapes-long": (Stage(200, "all", TinyConfig.LEARNING_RATE, decay_to=200),),
}


def layer_pattern(layers):
    """The compiled regular expression of a layer selection.

    Raises:
        ValueError: neither a known selection nor a regular expression.
    """
    try:
        return re.compile(LAYER_SELECTIONS.get(layers, layers))
    except (re.error, TypeError) as error:
        known = ", ".join(LAYER_SELECTIONS)
        raise ValueError(f"layers {layers!r}: expected one of {known}, or a regular expression ({error})") from error


def load_schedule(name_or_path):
    """A schedule by name, or from a JSON file: a list of {"epochs": 1, "layers": "heads", "learning_rate": 0.02}.

    An entry may have "decay_to" too (see `Stage`).

    Returns:
        tuple of Stage.

    Raises:
        ValueError: names the file, the entry, the key and the value.
    """
    if str(name_or_path) in SCHEDULES:
        return SCHEDULES[str(name_or_path)]
    try:
        entries = read_json(name_or_path)
    except ValueError as error:
        raise ValueError(f"schedule {str(name_or_path)!r}: none of {', '.join(SCHEDULES)}; {error}") from error
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"schedule {name_or_path}: expected a list of stages that is not empty")
    stages = tuple(_stage(entry, f"schedule {name_or_path}: [{index}]") for index, entry in enumerate(entries))
    for index in range(1, len(stages)):
        if stages[index].epochs <= stages[index - 1].epochs:
            raise ValueError(
                f"schedule {name_or_path}: [{index}]: epochs = {stages[index].epochs}, expected the epoch that the "
                f"stage ends with, after {stages[index - 1].epochs}"
            )
    return stages


def shortened(stages, epochs):
    """The schedule up to the end of epoch `epochs`."""
    kept = [dataclasses.replace(stage, epochs=min(stage.epochs, epochs)) for stage in stages]
    starts = [0, *(stage.epochs for stage in kept[:-1])]
    return tuple(stage for stage, start in zip(kept, starts, strict=True) if stage.epochs > start)


def _stage(entry, where):
    names = [field.name for field in dataclasses.fields(Stage)]
    if not isinstance(entry, dict) or set(entry) | {"decay_to"} != set(names):
        needed = [name for name in names if name != "decay_to"]
        raise ValueError(f"{where}: expected an object with the keys {', '.join(needed)}, got {entry!r}")
    if not isinstance(entry["epochs"], int) or isinstance(entry["epochs"], bool) or entry["epochs"] < 1:
        raise ValueError(f"{where}: epochs = {entry['epochs']!r}, expected a whole number of 1 or more")
    rate = entry["learning_rate"]
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate < float("inf"):
        raise ValueError(f"{where}: learning_rate = {rate!r}, expected a number above 0")
    end = entry.get("decay_to")
    if end is not None and (not isinstance(end, int) or isinstance(end, bool) or end < entry["epochs"]):
        raise ValueError(f"{where}: decay_to = {end!r}, expected an epoch from {entry['epochs']} on")
    if not isinstance(entry["layers"], str):
        raise ValueError(f"{where}: layers = {entry['layers']!r}, expected a selection or a regular expression")
    try:
        layer_pattern(entry["layers"])
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return Stage(**entry)
