"""The threshold file of a weight file: NAME.threshold.json beside NAME.h5, as `siamese-mrcnn calibrate` writes it.

It holds the score threshold that was fitted on a data set, the verification of finds (`ops.similarity`), and how well
both do. Nothing here needs Keras.
"""

import dataclasses
import math
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from ..io import schemas
from ..io.errors import InputError
from ..io.files import StrPath, checksum
from ..io.schemas import Number, OwnFile, Positive, Probability, Sha256, Values
from ..ops.similarity import Verification

SUFFIX = ".threshold.json"
_DIGITS = 6  # significant ones of the verification's numbers
_ARRAYS = ("mean", "deviation")
_NUMBERS = ("scale", "weight", "offset")


_Coefficient = Annotated[float, Meta(ge=-1e9, le=1e9)]


class VerificationFields(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A `Verification` in a threshold file."""

    views: Positive
    scale: _Coefficient
    weight: _Coefficient
    offset: _Coefficient
    mean: list[list[Number]]
    deviation: list[list[Number]]


class ThresholdFile(OwnFile, kw_only=True):
    """The format of a threshold file, see `Calibration`."""

    weights_sha256: Sha256
    threshold: Probability
    rule: str
    verification: VerificationFields | None
    about: dict[str, Any]
    metrics: dict[str, Values]


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
    if not path.exists():
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
    content = schemas.read(path, ThresholdFile)
    try:
        verification = None if content.verification is None else _verification(content.verification)
    except ValueError as error:
        raise InputError(f"{path}: verification: {error}") from error
    rest = content.rule, verification, content.about, content.metrics
    return Calibration(content.weights_sha256, content.threshold, *rest)


def save_thresholds(calibration: Calibration, path: StrPath) -> None:
    """Write a threshold file, atomically; numbers of the verification are rounded to 6 significant digits."""
    content = {field.name: getattr(calibration, field.name) for field in dataclasses.fields(Calibration)}
    verification = calibration.verification
    if verification is not None:
        content["verification"] = {"views": verification.views} | {
            name: _rounded(getattr(verification, name)) for name in (*_NUMBERS, *_ARRAYS)
        }
    schemas.write_plain(path, content, ThresholdFile, indent=None)


def _verification(content: VerificationFields) -> Verification:
    arrays: dict[str, Any] = {name: np.asarray(getattr(content, name), np.float32) for name in _ARRAYS}
    return Verification(**arrays, **{name: getattr(content, name) for name in _NUMBERS}, views=content.views)


def _rounded(values: Any) -> Any:
    """A number or an array of any depth as plain numbers of a few significant digits."""
    values = np.asarray(values, np.float64)
    if values.ndim:
        return [_rounded(value) for value in values]
    value = float(values)
    return round(value, _DIGITS - 1 - math.floor(math.log10(abs(value)))) if value else 0.0
