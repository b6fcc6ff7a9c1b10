"""What one browser tab works on: images, categories with their references, raw finds, thresholds.

A reference is a box in an image. The find on it is its example: it is shown and exported, with a score of 1, but not
counted as found.
"""

import contextlib
import dataclasses
import threading
from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np

from ..data.embeddings import ReferenceEmbedding
from ..io.errors import InputError
from ..io.locks import temporary_folder
from ..ops.boxes import compute_overlaps
from ..search.names import file_stems
from ..search.results import Category, Finds, ImageResult
from .images import Limits, StoredImage, read_header, shown_name, unique_name
from .searcher import MIN_SCORE, RawFinds, Searcher

MAX_CATEGORIES, MAX_REFERENCES = 20, 50  # of a session, of a category
MAX_CATEGORY_NAME = 60  # characters
EXAMPLE_IOU = 0.5  # minimum overlap of a find with a reference's box to be its example

Box = tuple[int, int, int, int]  # (y1, x1, y2, x2) in pixels of the image


class NotOpen(LookupError):
    """A session, image, category or reference is not there any more."""


@dataclasses.dataclass(frozen=True, eq=False)
class Reference:
    """An object that the user drew a box around."""

    id: int
    image_id: int
    box: Box
    crop: np.ndarray  # uint8 [h, w, RGB]
    embedding: ReferenceEmbedding


@dataclasses.dataclass(eq=False)
class SearchedCategory:
    """A category with its references; its finds are those of its `version`, which changes with the references."""

    id: int
    name: str
    threshold: float
    references: list[Reference] = dataclasses.field(default_factory=list)
    version: int = 0
    finds: dict[int, RawFinds] = dataclasses.field(default_factory=dict)  # by image id

    @property
    def embedding(self) -> ReferenceEmbedding:
        """The embedding of all references."""
        if not self.references:
            raise InputError(f"{self.name}: no reference yet; draw a box around an object")
        return ReferenceEmbedding.join([one.embedding for one in self.references])

    def boxes_in(self, image_id: int) -> np.ndarray:
        """The boxes of the references in an image: [n, (y1, x1, y2, x2)]."""
        return np.array([one.box for one in self.references if one.image_id == image_id], np.int32).reshape(-1, 4)

    def change_references(self, references: Sequence[Reference]) -> None:
        """Take these references, and drop the finds of the former ones."""
        self.references, self.version, self.finds = list(references), self.version + 1, {}


class Session:
    """The state behind one page; safe for several threads.

    Args:
        searcher: the network, shared with other sessions.
        threshold: that new categories start with.
        images: files that the session starts with; those stay where they are.
    """

    def __init__(
        self, searcher: Searcher, *, threshold: float, limits: Limits, images: Sequence[StoredImage] = ()
    ) -> None:
        self.searcher, self.threshold, self.limits = searcher, threshold, limits
        self.images: dict[int, StoredImage] = dict(enumerate(images, 1))
        self.categories: dict[int, SearchedCategory] = {}
        self._held = contextlib.ExitStack()
        self._folder = self._held.enter_context(temporary_folder())
        self._last_id = len(images)
        self._lock = threading.RLock()

    def close(self) -> None:
        """Remove the uploads."""
        with self._lock:
            for image in self.images.values():
                self._drop(image)
            self.images, self.categories = {}, {}
            self._held.close()

    def state(self) -> dict[str, Any]:
        """Images, categories and limits as plain values."""
        with self._lock:
            limits = dataclasses.asdict(self.limits) | {"upload_bytes": self.limits.upload_bytes}
            return {
                "images": [image_record(number, image) for number, image in self.images.items()],
                "categories": [category_record(category) for category in self.categories.values()],
                "limits": limits,
                "minimum": MIN_SCORE,
            }

    # ---- images --------------------------------------------------------------------------------------------------
    def add_image(self, content: bytes, name: str) -> dict[str, Any]:
        """Keep an uploaded image file; its record for the page.

        Raises:
            ValueError: the file is too large, no image of a format that is allowed, broken, or one image too many.
        """
        name = shown_name(name)
        self.limits.check_bytes(len(content), name)
        with self._lock:
            self._check_room(name)
            number = self._new_id()
        path = self._folder / f"{number}.upload"
        path.write_bytes(content)
        try:
            _, kind = read_header(path, name, self.limits)
            path = path.rename(path.with_suffix(f".{kind.lower()}"))
            image = StoredImage.open(path, name, self.limits)
            _ = image.thumbnail  # decodes all of it: a broken file is refused now
            with self._lock:
                self._check_room(name)
                taken = [other.name for other in self.images.values()]
                image = dataclasses.replace(image, name=unique_name(name, taken))
                self.images[number] = image
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return image_record(number, image)

    def image(self, image_id: int) -> StoredImage:
        """The image with this number; NotOpen without one."""
        with self._lock:
            if image_id not in self.images:
                raise NotOpen(f"image {image_id} is not open any more")
            return self.images[image_id]

    def remove_image(self, image_id: int) -> None:
        """Close an image; references in it are removed, too."""
        with self._lock:
            self._drop(self.image(image_id))
            del self.images[image_id]
            for category in self.categories.values():
                category.finds.pop(image_id, None)
                kept = [one for one in category.references if one.image_id != image_id]
                if len(kept) < len(category.references):
                    category.change_references(kept)

    # ---- categories ----------------------------------------------------------------------------------------------
    def add_category(self, name: str = "") -> dict[str, Any]:
        """Add a category without references; its record for the page.

        Raises:
            ValueError: one category too many, or a name that is too long or taken.
        """
        with self._lock:
            if len(self.categories) >= MAX_CATEGORIES:
                raise InputError(f"{MAX_CATEGORIES} categories are the most that a session can have")
            number = max(self.categories, default=0) + 1
            category = SearchedCategory(number, "", self.threshold)
            category.name = self._checked_name(name, category) if name else self._free_name(number)
            self.categories[number] = category
            return category_record(category)

    def category(self, category_id: int) -> SearchedCategory:
        """The category with this number; NotOpen without one."""
        with self._lock:
            if category_id not in self.categories:
                raise NotOpen(f"category {category_id} is not there any more")
            return self.categories[category_id]

    def change_category(
        self, category_id: int, *, name: str | None = None, threshold: float | None = None
    ) -> dict[str, Any]:
        """Rename a category or move its threshold, which needs no search; its record for the page."""
        with self._lock:
            category = self.category(category_id)
            if name is not None:
                category.name = self._checked_name(name, category)
            if threshold is not None:
                if not 0 <= threshold <= 1:
                    raise InputError(f"threshold = {threshold}: expected 0 to 1")
                category.threshold = threshold
            return category_record(category)

    def remove_category(self, category_id: int) -> None:
        """Remove a category with its references and finds."""
        with self._lock:
            del self.categories[self.category(category_id).id]

    def add_reference(self, category_id: int, image_id: int, box: Sequence[float]) -> dict[str, Any]:
        """Add a box (y1, x1, y2, x2) in pixels of an image to the references of a category; the category's record.

        Raises:
            ValueError: the box is too small or leaves the image, or there is one reference too many.
        """
        category, image = self.category(category_id), self.image(image_id)
        if len(category.references) >= MAX_REFERENCES:
            raise InputError(f"{category.name}: {MAX_REFERENCES} references are the most that a category can have")
        y1, x1, y2, x2 = (int(round(edge)) for edge in box)
        pixels = image.pixels()
        embedding = self.searcher.encode_reference(pixels, (y1, x1, y2, x2))
        crop = np.ascontiguousarray(pixels[y1:y2, x1:x2])
        with self._lock:
            self.category(category_id), self.image(image_id)  # another request may have removed them
            reference = Reference(self._new_id(), image_id, (y1, x1, y2, x2), crop, embedding)
            category.change_references([*category.references, reference])
            return category_record(category)

    def reference(self, category_id: int, reference_id: int) -> Reference:
        """The reference with this number; NotOpen without one."""
        for one in self.category(category_id).references:
            if one.id == reference_id:
                return one
        raise NotOpen(f"reference {reference_id} is not there any more")

    def remove_reference(self, category_id: int, reference_id: int) -> dict[str, Any]:
        """Remove a reference; the record of its category."""
        with self._lock:
            category, gone = self.category(category_id), self.reference(category_id, reference_id)
            category.change_references([one for one in category.references if one is not gone])
            return category_record(category)

    # ---- finds ---------------------------------------------------------------------------------------------------
    def raw_finds(self, category_id: int, image_id: int) -> tuple[RawFinds, int]:
        """(all finds of a category in an image, the version of the references), searched for unless they are kept."""
        with self._lock:
            category, image = self.category(category_id), self.image(image_id)
            version, kept, embedding = category.version, category.finds.get(image_id), category.embedding
        if kept is not None:
            return kept, version
        found = self.searcher.search(image, embedding)
        with self._lock:
            if category.version == version and image_id in self.images:
                category.finds[image_id] = found
        return found, version

    def finds_record(self, category_id: int, image_id: int) -> dict[str, Any]:
        """All finds of a category in an image as plain values for the page, which filters by the threshold itself."""
        raw, version = self.raw_finds(category_id, image_id)
        examples = overlaps_of(raw, self.category(category_id).boxes_in(image_id)).max(axis=1, initial=0)
        return {
            "version": version,
            "boxes": raw.boxes.tolist(),
            "scores": raw.scores.tolist(),
            "outlines": raw.outlines,
            "examples": (examples >= EXAMPLE_IOU).tolist(),
        }

    def used_categories(self) -> list[SearchedCategory]:
        """The categories that have references; ValueError if none has."""
        with self._lock:
            used = [category for category in self.categories.values() if category.references]
        if not used:
            raise InputError("nothing to download yet: draw a box around an object first")
        return used

    def results(self) -> tuple[list[Category], Iterator[ImageResult]]:
        """(categories, what was found in each image from the thresholds on, with the examples), one after another."""
        used = self.used_categories()
        categories = [self._described(number, category) for number, category in enumerate(used, 1)]
        return categories, self._image_results(used)

    def _image_results(self, used: Sequence[SearchedCategory]) -> Iterator[ImageResult]:
        with self._lock:
            images = list(self.images.items())
        stems = file_stems(PurePath(image.name).stem for _, image in images)
        for number, ((image_id, image), stem) in enumerate(zip(images, stems, strict=True), 1):
            finds = tuple(self._shown(category, image_id) for category in used)
            yield ImageResult(number, stem, image.name, image.height, image.width, finds)

    def _shown(self, category: SearchedCategory, image_id: int) -> Finds:
        """The examples of a category in an image, then its finds from the threshold on."""
        raw, _ = self.raw_finds(category.id, image_id)
        references = category.boxes_in(image_id)
        overlaps = overlaps_of(raw, references)
        above = raw.scores.astype(float) >= category.threshold  # in the precision of the page
        others = np.flatnonzero(above & (overlaps.max(axis=1, initial=0) < EXAMPLE_IOU))
        found = raw.chosen(others)
        for box, overlap in zip(references[::-1], overlaps.T[::-1], strict=True):
            found = _with_example(found, raw, box, overlap)
        return found

    def _described(self, number: int, category: SearchedCategory) -> Category:
        with self._lock:
            boxes = [(self.images[one.image_id].name, one.box) for one in category.references]
            sources = [f"{name}:{','.join(map(str, box))}" for name, box in boxes]
            crops = [one.crop for one in category.references]
            return Category(number, category.name, category.threshold, crops, sources)

    # ---- names and numbers ---------------------------------------------------------------------------------------
    def _new_id(self) -> int:
        self._last_id += 1
        return self._last_id

    def _check_room(self, name: str) -> None:
        if len(self.images) >= self.limits.images:
            raise InputError(f"{name}: {self.limits.images} images are the most that can be open; close some first")

    def _drop(self, image: StoredImage) -> None:
        if image.path.parent == self._folder:
            self.searcher.forget(image)
            image.path.unlink(missing_ok=True)

    def _free_name(self, number: int) -> str:
        taken = {other.name.casefold() for other in self.categories.values()}
        while f"category {number}" in taken:
            number += 1
        return f"Category {number}"

    def _checked_name(self, name: str, category: SearchedCategory) -> str:
        name = " ".join(name.split())
        if not 0 < len(name) <= MAX_CATEGORY_NAME:
            raise InputError(f"name of a category: expected 1 to {MAX_CATEGORY_NAME} characters, got {len(name)}")
        if any(other.name.casefold() == name.casefold() for other in self.categories.values() if other is not category):
            raise InputError(f"name of a category: there is a category {name!r} already")
        return name


def overlaps_of(raw: RawFinds, boxes: np.ndarray) -> np.ndarray:
    """Intersection over union of the finds and boxes [n, (y1, x1, y2, x2)]: float [finds, n]."""
    if not len(raw.boxes) or not len(boxes):
        return np.zeros((len(raw.boxes), len(boxes)))
    return np.asarray(compute_overlaps(raw.boxes, boxes))


def _with_example(found: Finds, raw: RawFinds, box: np.ndarray, overlap: np.ndarray) -> Finds:
    """Finds preceded by an example: the find that overlaps its box the most, or the box; its score is 1."""
    if overlap.max(initial=0) >= EXAMPLE_IOU:
        example = raw.chosen([int(overlap.argmax())])
    else:
        example = Finds(box[None], np.ones(1, np.float32), None if raw.rles is None else _box_mask(box, raw.shape))
    masks = None
    if found.masks is not None and example.masks is not None:
        masks = np.concatenate([example.masks, found.masks], axis=-1)
    scores = np.concatenate([np.ones(1, np.float32), found.scores])
    return Finds(np.concatenate([example.boxes, found.boxes]), scores, masks)


def _box_mask(box: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A mask bool [height, width, 1] of a box (y1, x1, y2, x2)."""
    mask = np.zeros((*shape, 1), bool)
    y1, x1, y2, x2 = box.tolist()
    mask[y1:y2, x1:x2] = True
    return mask


def image_record(number: int, image: StoredImage) -> dict[str, Any]:
    """An image as plain values for the page."""
    return {"id": number, "name": image.name, "height": image.height, "width": image.width}


def category_record(category: SearchedCategory) -> dict[str, Any]:
    """A category as plain values for the page."""
    references = [{"id": one.id, "image": one.image_id, "box": list(one.box)} for one in category.references]
    record = {"id": category.id, "name": category.name, "threshold": category.threshold, "version": category.version}
    return record | {"references": references}
