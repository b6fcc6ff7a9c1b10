"""The formats of settings.json and of the records of an evaluation (see `settings` and `records`)."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from ..io.schemas import Id, Number, Positive, Probability, Rle, Score, Sha256

Place = tuple[Id, Id]  # of a reference: COCO image id, COCO annotation id


class CategoryEntry(msgspec.Struct):
    """A category of an evaluation."""

    id: Id
    name: str


class SettingsFile(msgspec.Struct, kw_only=True):
    """The keys of settings.json that the program reads; there may be others."""

    format: Literal[1]
    fingerprint: Sha256
    images: list[Id]
    runs: Positive
    versions: dict[str, str | None]
    shots: Positive | UnsetType = UNSET
    seed: Annotated[int, Meta(ge=0)] | UnsetType = UNSET
    limit: Positive | None | UnsetType = UNSET
    area: Literal["mask", "box"] | UnsetType = UNSET
    absent: Positive | Literal["all"] | UnsetType = UNSET
    threshold: Probability | UnsetType = UNSET
    split: Literal[0, 1, 2, 3, 4] | UnsetType = UNSET
    category_set: str | UnsetType = UNSET
    categories: list[CategoryEntry] | UnsetType = UNSET
    config: dict[str, Any] | UnsetType = UNSET
    set: str | UnsetType = UNSET
    weights_file: str | None = None
    weights_sha256: Sha256 | None = None


class DetectionEntry(msgspec.Struct, kw_only=True):
    """A COCO result."""

    image_id: Id
    category_id: Id
    bbox: tuple[Number, Number, Number, Number]
    score: Score
    area: Number = 0.0
    segmentation: Rle | None = None


class QueryEntry(msgspec.Struct, kw_only=True):
    """A query of a record."""

    run: Annotated[int, Meta(ge=0)]
    category_id: Id
    references: list[Place | None]
    detections: list[DetectionEntry]
    absent: bool = False


class RecordEntry(msgspec.Struct, kw_only=True):
    """The record of an image, a line of a records file."""

    image_id: Id
    queries: list[QueryEntry]
    seconds: Annotated[float, Meta(ge=0, le=1e12)] = 0.0


class HeaderEntry(msgspec.Struct, kw_only=True):
    """The first line of a records file."""

    fingerprint: str
    shard: tuple[Positive, Positive]


def foreign_detection(record: RecordEntry) -> str | None:
    """What is wrong with the first detection that is not of its query's image and category; None if all are."""
    for index, query in enumerate(record.queries):
        for place, one in enumerate(query.detections):
            if (one.image_id, one.category_id) != (record.image_id, query.category_id):
                found = f"image_id = {one.image_id}, category_id = {one.category_id}"
                expected = f"{record.image_id} and {query.category_id}"
                return f"queries[{index}].detections[{place}]: {found}: expected those of its query, {expected}"
    return None
