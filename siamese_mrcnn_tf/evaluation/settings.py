"""The settings of an evaluation, and settings.json, which holds them with the model, the data and the versions."""

import contextlib
import dataclasses
import hashlib
import json
import logging
import numbers
import os
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from ..config import Config, without_new_defaults
from ..io import files, schemas
from ..io.errors import InputError
from .coco_scores import AREAS
from .record_files import SettingsFile
from .references import CONTROLS

logger = logging.getLogger(__name__)

FORMAT = 1  # of settings.json and of the records
SETTINGS_FILE = "settings.json"
_PACKAGES = ("siamese_mrcnn_tf", "tensorflow", "keras", "numpy", "pycocotools")
DEFAULT_THRESHOLD = Config.DETECTION_MIN_CONFIDENCE  # minimum score of a detection, the published one
# may differ between parts of one evaluation; those of an earlier version have neither dataset nor coco
_UNBOUND = ("versions", "fingerprint", "weights_file", "dataset", "coco")


@dataclasses.dataclass(frozen=True)
class EvaluationSettings:
    """What an evaluation asks for.

    Attributes:
        shots: references of a query.
        runs: repeats of each query with fresh references.
        seed: of the reference draws; the key of a draw is (seed, run, image, class, shot).
        class_ids: [n] to evaluate, the others count as background; None: the data set's ACTIVE_CLASSES.
        limit: evaluate only the first `limit` images that have one of the classes, and with `absent` those without any
            that come before them; None: all.
        area: "mask" or "box", the area of results (`coco_scores.results_of`).
        exclude_query_image: draw references from other images than the query's only.
        control: "present" or "absent": use references of the wrong category (`references.MismatchedReferenceSampler`)
            and skip images that leave no choice.
        absent: also search each image for N of the classes that are not in it, not even as a crowd, or for "all" of
            them; not together with `control`. Metrics of presence come with it (`presence`).
        threshold: minimum score of a detection for the metrics of presence.
        about: further keys of settings.json with plain values: protocol, split, category_set, subset, year, ...

    Raises:
        ValueError: names the setting.
    """

    shots: int = 1
    runs: int = 5
    seed: int = 0
    class_ids: Sequence[int] | None = None
    limit: int | None = None
    area: str = "mask"
    exclude_query_image: bool = False
    control: str | None = None
    absent: int | str | None = None
    threshold: float = DEFAULT_THRESHOLD
    about: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        require_counts(shots=self.shots, runs=self.runs, limit=self.limit)
        if self.area not in AREAS:
            raise InputError(f"area = {self.area!r}: expected one of {', '.join(AREAS)}")
        if self.control is not None and self.control not in CONTROLS:
            raise InputError(f"control = {self.control!r}: expected one of {', '.join(CONTROLS)}")
        if self.control is not None and self.exclude_query_image:
            raise InputError(f"control = {self.control!r}: draws its own references, expected no exclude_query_image")
        if isinstance(self.absent, str) and self.absent != "all":
            raise InputError(f"absent = {self.absent!r}: expected 'all' or a whole number of 1 or more")
        if not isinstance(self.absent, str):
            require_counts(absent=self.absent)
        if self.absent is not None and self.control is not None:
            raise InputError(f"absent = {self.absent!r}: does not go with control = {self.control!r}")
        require_threshold(self.threshold)

    def to_dict(self) -> dict[str, Any]:
        """The keys of settings.json; `class_ids` become its `categories`.

        `control` is left out where it is None; so are `absent` and `threshold` without absent categories.
        """
        names = ("seed", "runs", "shots", "limit", "area", "exclude_query_image")
        content = (self.about or {}) | {name: getattr(self, name) for name in names}
        content |= {} if self.control is None else {"control": self.control}
        return content | ({} if self.absent is None else {"absent": self.absent, "threshold": self.threshold})


def require_counts(**values: int | None) -> None:
    """Raise ValueError unless all values are whole numbers of 1 or more, or None."""
    for name, value in values.items():
        if value is not None and (not isinstance(value, int) or value < 1):
            raise InputError(f"{name} = {value!r}: expected a whole number of 1 or more")


def require_threshold(value: float) -> None:
    """Raise ValueError unless a threshold of scores is above 0 and at most 1: no query has a score of 0 or less."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 < value <= 1:
        raise InputError(f"threshold = {value!r}: expected a number above 0 and at most 1")


def complete_settings(settings: dict[str, Any], *, weights: str | os.PathLike | None = None) -> dict[str, Any]:
    """Add format, versions, the checksum of the weight file, and the fingerprint.

    `settings` has at least images: [COCO ids in order] and runs; `weights` is the path of the weight file.

    Raises:
        ValueError: a value that settings.json cannot have; names the key.
    """
    settings = {"format": FORMAT} | settings | {"versions": versions(), "weights_file": None, "weights_sha256": None}
    if weights is not None:
        settings |= {"weights_file": Path(weights).name, "weights_sha256": files.checksum(weights)}
    settings = json.loads(files.json_text(SETTINGS_FILE, settings))  # tuples become lists, as they will be when read
    settings |= {"fingerprint": fingerprint(settings)}
    schemas.convert(settings, SettingsFile, SETTINGS_FILE)
    return settings


def fingerprint(settings: dict[str, Any]) -> str:
    """Checksum of all settings but versions and the name of the weight file."""
    return hashlib.sha256(json.dumps(_bound(settings), sort_keys=True).encode()).hexdigest()


def _bound(settings: dict[str, Any]) -> dict[str, Any]:
    """What parts of one evaluation have in common; settings of the configuration that are new count where they are
    changed only."""
    bound = {key: value for key, value in settings.items() if key not in _UNBOUND}
    return bound | ({"config": without_new_defaults(bound["config"])} if "config" in bound else {})


def versions() -> dict[str, str | None]:
    """Versions of this package and of those that the metrics depend on, None where not installed."""
    found: dict[str, str | None] = dict.fromkeys(_PACKAGES)
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def read_settings(folder: str | os.PathLike) -> dict[str, Any]:
    """The content of settings.json in `folder`; ValueError if there is none, or it was changed."""
    path = Path(folder) / SETTINGS_FILE
    if not path.is_file():
        raise InputError(f"{folder}: no evaluation there, expected {SETTINGS_FILE} and its records")
    settings: dict[str, Any] = schemas.read_plain(path, SettingsFile)
    if settings.get("fingerprint") != fingerprint(settings):
        raise InputError(f"{path}: was changed after the evaluation, its fingerprint does not match")
    return settings


def require_same(settings: dict[str, Any], other: dict[str, Any], folder: str | os.PathLike) -> None:
    """Raise ValueError unless `other`, the settings in `folder`, are of the same evaluation; warn of other versions."""
    here, there = _bound(settings), _bound(other)
    names = [name for name in here | there if here.get(name) != there.get(name)]
    if names:
        changes = [_difference(name, there.get(name), here.get(name)) for name in names]
        raise InputError(f"{folder}: holds an evaluation with other settings: {'; '.join(changes)}")
    if settings["versions"] != other["versions"]:
        logger.warning("%s: was made with other versions, digits may differ: %s", folder, other["versions"])


def _difference(name: str, there: Any, here: Any) -> str:
    if isinstance(there, dict) and isinstance(here, dict):
        keys = [key for key in there | here if there.get(key) != here.get(key)]
        return ", ".join(_difference(f"{name}.{key}", there.get(key), here.get(key)) for key in keys)
    there, here = (f"{len(value)} entries" if isinstance(value, list) else repr(value) for value in (there, here))
    return f"{name} = {there} there and {here} here"
