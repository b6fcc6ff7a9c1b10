"""The formats of scores.json, analysis.json and presence.json."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from ..io.schemas import Count, Id, Number, Positive, Values
from .record_files import CategoryEntry

_Numbers = list[Number | None]
_Runs = Annotated[list["RunScores"], Meta(min_length=1)]


class ReportedSettings(msgspec.Struct):
    """settings.json, also of older versions, which lack keys: what a report shows of it."""

    runs: Positive | None = None
    seed: int | None = None
    limit: Positive | None = None
    model: str | None = None
    control: str | None = None
    set: str | None = None
    dataset: str | None = None
    coco: str | None = None
    categories: list[CategoryEntry] = []
    images: list[Id] = []
    config: dict[str, Any] | None = None
    versions: dict[str, str | None] | None = None
    weights_file: str | None = None
    weights_sha256: str | None = None


class RunScores(msgspec.Struct):
    """Metrics of a run by iou type, and those of each category."""

    per_class: dict[str, dict[Annotated[str, Meta(pattern=r"^-?\d{1,19}$")], Values]]
    bbox: Values | UnsetType = UNSET
    segm: Values | UnsetType = UNSET


class ScoresFile(msgspec.Struct, kw_only=True):
    """scores.json."""

    format: Literal[1] = 1
    runs: _Runs
    num_images: Count | None = None
    num_queries: Count | None = None
    num_results: Count | None = None


class NumberTable(msgspec.Struct):
    """Metrics by number of instances, of one iou type."""

    AP: _Numbers
    AP50: _Numbers


class ByNumber(msgspec.Struct):
    """Metrics by number of instances in the image."""

    bins: list[str]
    num_queries: list[Number]
    runs: list[dict[str, NumberTable]]


class AnalysisFile(msgspec.Struct, kw_only=True):
    """analysis.json."""

    format: Literal[1] = 1
    by_number: ByNumber
    confusion: dict[str, Any]
    category_names: dict[str, str] = {}
    num_instances: dict[str, Count] = {}


class ConfusionOfKind(msgspec.Struct):
    """The confusion of categories, of one iou type."""

    matrix: list[_Numbers]
    histogram: _Numbers
    histogram_interval: _Numbers = []


class PresenceGroup(msgspec.Struct, kw_only=True):
    """Metrics of presence of a group of categories."""

    category_ids: list[Id]
    runs: list[dict[str, Values]]
    mean: dict[str, Values]
    interval: dict[str, Values]
    curve: dict[str, _Numbers | None]
    histogram: dict[str, _Numbers]
    num_images: Count = 0
    num_present: Count = 0
    num_absent: Count = 0


class PresenceFile(PresenceGroup, kw_only=True):
    """presence.json: of all categories and of each group."""

    format: Literal[1] = 1
    groups: dict[str, PresenceGroup]
    absent: Positive | str
    threshold: Number
