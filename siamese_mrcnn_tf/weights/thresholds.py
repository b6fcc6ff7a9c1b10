"""The threshold file of a weight file: NAME.threshold.json beside NAME.h5, as `siamese-mrcnn calibrate` writes it.

It holds the score threshold that was fitted on a data set, the verification of finds (`ops.similarity`), and how well
both do. Nothing here needs Keras.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np

from ..io.errors import InputError
from ..io.files import StrPath, checksum, read_json, write_json
from ..ops.similarity import Verification

FORMAT = 1
SUFFIX = ".threshold.json"
_DIGITS = 6  # significant ones of the verification's numbers
_ARRAYS = ("mean", "deviation")
_NUMBERS = ("scale", "weight", "offset")


@dataclasses.dataclass(frozen=True, eq=False)
class Calibration:
    """What was fitted for a weight file.

    Attributes:
        weights_sha256: checksum of the weight file.
        threshold: minimum score of a detection, of the verified score where there is a verification.
        rule: how the threshold was chosen, such as "best F1" or "false alarms 0.05".
        verification: how finds are verified; None: they are not.
        about: data set, categories, number of images, seed, runs and versions, as plain values.
        metrics: "fitted" and "held_out" -> metric -> value at the threshold; None where there was nothing to count.

    Raises:
        ValueError: a threshold outside 0..1.
    """

    weights_sha256: str
    threshold: float
    rule: str
    verification: Verification | None = None
    about: dict[str, Any] = dataclasses.field(default_factory=dict)
    metrics: dict[str, dict[str, float | None]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise InputError(f"threshold = {self.threshold}: expected 0 to 1")

    def summary(self) -> str:
        """Threshold, rule and data in one line."""
        kind = "verified scores" if self.verification else "scores"
        data = f" on {self.about['dataset']}" if "dataset" in self.about else ""
        return f"threshold {self.threshold:.4g} of {kind}, fitted for {self.rule}{data}"


def threshold_path(weights: StrPath) -> Path:
    """NAME.threshold.json beside NAME.h5."""
    return Path(weights).with_suffix(SUFFIX)


def find_thresholds(weights: StrPath) -> Calibration | None:
    """The content of the threshold file beside a weight file; None without one.

    Raises:
        ValueError: the file cannot be read, or was fitted for other weights.
    """
    path = threshold_path(weights)
    if not path.is_file():
        return None
    calibration = read_thresholds(path)
    if calibration.weights_sha256 != checksum(weights):
        fix = "run siamese-mrcnn calibrate again, or remove it"
        raise InputError(f"{path}: was fitted for other weights than {Path(weights).name} beside it; {fix}")
    return calibration


def find_verification(weights: StrPath) -> Verification:
    """The verification in the threshold file beside a weight file; ValueError without one, or as `find_thresholds`."""
    calibration = find_thresholds(weights)
    if calibration is None or calibration.verification is None:
        lacking = f"{threshold_path(weights)}: no verification there, which VERIFY_DETECTIONS = True needs"
        raise InputError(f"{lacking}; run siamese-mrcnn calibrate, or leave the setting out")
    return calibration.verification


def read_thresholds(path: StrPath) -> Calibration:
    """The content of a threshold file; ValueError names the file and the key that is wrong."""
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path}: not a threshold file that this version of the program writes")
    fields = {field.name for field in dataclasses.fields(Calibration)} - {"verification"}
    try:
        found = content["verification"]
        verification = None if found is None else _verification(found)
        return Calibration(**{name: content[name] for name in fields}, verification=verification)
    except KeyError as error:
        raise InputError(f"{path}: the key {error} is missing") from error
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: {error}") from error


def save_thresholds(calibration: Calibration, path: StrPath) -> None:
    """Write a threshold file, atomically; numbers of the verification are rounded to 6 significant digits."""
    content = {field.name: getattr(calibration, field.name) for field in dataclasses.fields(Calibration)}
    verification = calibration.verification
    if verification is not None:
        content["verification"] = {"views": verification.views} | {
            name: _rounded(getattr(verification, name)) for name in (*_NUMBERS, *_ARRAYS)
        }
    write_json(path, {"format": FORMAT, **content})


def _verification(content: dict[str, Any]) -> Verification:
    fields: dict[str, Any] = {name: np.asarray(content[name], np.float32) for name in _ARRAYS}
    fields |= {name: float(content[name]) for name in _NUMBERS}
    return Verification(**fields, views=content["views"])


def _rounded(values: Any) -> Any:
    """A number or an array of any depth as plain numbers of a few significant digits."""
    values = np.asarray(values, np.float64)
    if values.ndim:
        return [_rounded(value) for value in values]
    value = float(values)
    return round(value, _DIGITS - 1 - math.floor(math.log10(abs(value)))) if value else 0.0
