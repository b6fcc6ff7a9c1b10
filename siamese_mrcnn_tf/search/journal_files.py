"""The formats of search.json and of the lines of journal.jsonl (see `journal`)."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from ..data.annotations import is_rle
from ..io.schemas import Count, Number, Positive, Probability, Rle, Score, Sha256, Side

_Pixel = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]


class SearchedCategory(msgspec.Struct):
    """What a category was searched with: its threshold, and the checksums of its references."""

    threshold: Probability
    references: list[str]


class SearchFile(msgspec.Struct, kw_only=True):
    """search.json: what a search depends on; there may be other keys."""

    format: Literal[1]
    weights: str | UnsetType = UNSET
    verification: Sha256 | None | UnsetType = UNSET
    names: list[str] | UnsetType = msgspec.field(name="category names", default=UNSET)
    categories: dict[str, SearchedCategory] | UnsetType = UNSET
    options: dict[str, Any] | UnsetType = UNSET
    config: dict[str, Any] | UnsetType = UNSET
    images: list[str] | UnsetType = UNSET


class FindsEntry(msgspec.Struct):
    """`results.Finds` of a category."""

    boxes: list[tuple[_Pixel, _Pixel, _Pixel, _Pixel]]
    scores: list[Score]
    masks: list[Rle] | None
    shape: tuple[Side, Side] | None


class ResultEntry(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """`results.ImageResult` of an image."""

    image_id: Positive
    name: str
    source: str
    height: Side
    width: Side
    finds: list[FindsEntry]
    frame: Count | None
    seconds: Number | None
    error: str | None


class Line(msgspec.Struct, kw_only=True):
    """A line: the result of an image, and the size of its file in bytes; or, the last one, the number of images."""

    result: ResultEntry | None = None
    size: Count | None = None
    finished: Count | None = None


DECODER = msgspec.json.Decoder(Line)


def is_consistent(result: ResultEntry, num_categories: int | None = None) -> bool:
    """Whether scores, boxes and masks of a result go together; masks that are cut short crash pycocotools.

    An image that could be read has finds, perhaps none, of each category.
    """
    if num_categories is not None and result.error is None and len(result.finds) != num_categories:
        return False
    size = (result.height, result.width)
    for finds in result.finds:
        if len(finds.boxes) != len(finds.scores):
            return False
        if finds.masks is None:
            continue
        masks = [{"size": list(one.size), "counts": one.counts} for one in finds.masks]
        fits = len(masks) == len(finds.scores) and finds.shape == size
        if not fits or not all(is_rle(one, size) for one in masks):
            return False
    return True
