"""What a search finds, as plain data: the categories, and the detections of each in each image."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from pycocotools import mask as mask_utils


@dataclasses.dataclass(frozen=True)
class Category:
    """A category that is searched for."""

    id: int  # from 1 on, in the order given
    name: str  # unique, as shown
    threshold: float  # minimum score of its detections
    references: Sequence[np.ndarray] = ()  # uint8 crops [h, w, RGB] to show; none for a saved embedding
    sources: Sequence[str] = ()  # what they were read from, as the user named it


@dataclasses.dataclass(frozen=True)
class Finds:
    """Detections of one category in one image, in descending order of score."""

    boxes: np.ndarray  # int32 [n, (y1, x1, y2, x2)] in pixels of the image
    scores: np.ndarray  # float32 [n]
    masks: np.ndarray | None = None  # bool [height, width, n]; None for models without masks

    def above(self, threshold: float) -> Self:
        """Those with a score of `threshold` or more."""
        kept = self.scores >= threshold
        return type(self)(self.boxes[kept], self.scores[kept], None if self.masks is None else self.masks[..., kept])

    def __len__(self) -> int:
        return len(self.scores)


@dataclasses.dataclass(frozen=True)
class ImageResult:
    """What was found in one image, or why it could not be read."""

    image_id: int  # from 1 on, in the order of the search
    name: str  # unique among the images, for names of files: without folder, suffix and dots
    source: str  # the file, as the user named it
    height: int
    width: int
    finds: tuple[Finds, ...] = ()  # of each category, in their order
    frame: int | None = None  # number of the frame in a video, from 0 on
    seconds: float | None = None  # time of the frame in the video
    error: str | None = None  # why the image was skipped; it has no size and no finds then

    def to_record(self) -> dict[str, Any]:
        """As plain values for JSON; masks as compressed RLE."""
        record = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return record | {"finds": [_finds_record(finds) for finds in self.finds]}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """The inverse of `to_record`."""
        return cls(**{**record, "finds": tuple(_finds_of(finds) for finds in record["finds"])})


def _finds_record(finds: Finds) -> dict[str, Any]:
    masks = None
    if finds.masks is not None:
        encoded = mask_utils.encode(np.asfortranarray(finds.masks, np.uint8)) if len(finds) else []
        masks = [{"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")} for rle in encoded]
    shape = None if finds.masks is None else list(finds.masks.shape[:2])
    return {"boxes": finds.boxes.tolist(), "scores": finds.scores.tolist(), "masks": masks, "shape": shape}


def _finds_of(record: Mapping[str, Any]) -> Finds:
    boxes = np.asarray(record["boxes"], np.int32).reshape(-1, 4)
    scores = np.asarray(record["scores"], np.float32)
    if record["masks"] is None:
        return Finds(boxes, scores)
    if not record["masks"]:
        return Finds(boxes, scores, np.zeros((*record["shape"], 0), bool))
    encoded = [{"size": rle["size"], "counts": rle["counts"].encode("ascii")} for rle in record["masks"]]
    return Finds(boxes, scores, mask_utils.decode(encoded).astype(bool))
