"""The loop of a search: each image is read, searched for all categories, written and noted, one after the other."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.embeddings import ReferenceEmbedding
from ..io.errors import InputError
from ..io.files import StrPath
from .frames import Frame
from .journal import Journal, JournalResults
from .names import file_stems
from .outputs import Outputs
from .queries import Query
from .results import Category, Finds, ImageResult
from .sources import WEBCAM

if TYPE_CHECKING:
    from ..base_predictor import BasePredictor

Detect = Callable[[np.ndarray], tuple[Finds, ...]]  # uint8 [height, width, RGB] -> finds of each category


class Detector:
    """Finds of all categories in an image.

    Args:
        open_predictor: called for the first image; its DETECTION_MIN_CONFIDENCE is the lowest of the thresholds.
        queries, categories: of the same length.
    """

    def __init__(
        self, open_predictor: Callable[[], "BasePredictor"], queries: Sequence[Query], categories: Sequence[Category]
    ) -> None:
        self._open, self._queries, self.categories = open_predictor, queries, tuple(categories)

    @functools.cached_property
    def predictor(self) -> "BasePredictor":
        return self._open()

    @functools.cached_property
    def embeddings(self) -> list[ReferenceEmbedding]:
        """The embedding of each category; each reference is encoded once."""
        return [query.encode(self.predictor) for query in self._queries]

    def __call__(self, pixels: np.ndarray) -> tuple[Finds, ...]:
        """The finds of each category in an image, uint8 [height, width, RGB]; the image is encoded once."""
        scene, has_masks = self.predictor.encode_scenes([pixels]), self.predictor.config.MODEL == "mrcnn"
        found = []
        for category, one in zip(self.categories, self.predictor.detect_all(scene, self.embeddings), strict=True):
            finds = Finds(one["rois"], one["scores"], one["masks"] if has_masks else None)
            found.append(finds.above(category.threshold))
        return tuple(found)

    def save_embeddings(self, folder: StrPath, weights_sha256: str | None) -> list[str]:
        """Write the embedding of each category to CATEGORY.npz; returns the paths."""
        names = file_stems(category.name for category in self.categories)
        paths = []
        for name, category, embedding in zip(names, self.categories, self.embeddings, strict=True):
            about: dict[str, Any] = {"name": category.name, "weights_sha256": weights_sha256}
            path = Path(folder) / f"{name}.npz"
            dataclasses.replace(embedding, threshold=category.threshold, **about).save(path)
            paths.append(str(path))
        return paths


@dataclasses.dataclass(frozen=True)
class Summary:
    """How a search ended."""

    results: JournalResults
    is_complete: bool  # all images were searched or skipped; not after Ctrl-C or, with `strict`, a broken image
    is_interrupted: bool = False

    @property
    def skipped(self) -> list[str]:
        """Why images could not be read, in their order."""
        return [entry.error for entry in self.results.entries if entry.error is not None]

    @property
    def num_images(self) -> int:
        return len(self.results) - len(self.skipped)

    @property
    def num_finds(self) -> int:
        return sum(entry.num_finds for entry in self.results.entries)


def search(
    frames: Iterable[Frame],
    detect: Detect,
    journal: Journal,
    outputs: Outputs,
    *,
    strict: bool = False,
    on_image: Callable[[Frame, ImageResult | None], None] = lambda frame, result: None,
) -> Summary:
    """Search images, write what is found, and keep the journal; images that the journal has are not read again.

    Ctrl-C ends the search after the files of the images so far are written. That is how the frames of a webcam end.

    Args:
        strict: an image that cannot be read ends the search.
        on_image: called after each image with its result, or None for an image that the journal has.

    Raises:
        ValueError: no image could be read; nothing is written.
    """
    whole = journal.whole_results()
    if whole is not None:
        outputs.finish(whole)
        return Summary(whole, is_complete=True)
    done, is_interrupted, is_stopped, source = list[int](), False, False, ""
    try:
        for frame in frames:
            source = frame.source
            result = None if journal.has(frame) else _search_image(frame, detect, journal, outputs)
            done.append(frame.image_id)
            on_image(frame, result)
            if strict and result is not None and result.error is not None:
                is_stopped = True
                break
    except KeyboardInterrupt:
        is_interrupted = not source.startswith(WEBCAM)
    if not journal.has_results:
        summary = Summary(journal.results(), is_complete=False, is_interrupted=is_interrupted)
        journal.discard()
        if not is_interrupted:
            raise InputError("; ".join(summary.skipped) or "no image to search")
        return summary
    if is_interrupted or is_stopped:
        summary = Summary(journal.results(), is_complete=False, is_interrupted=is_interrupted)
        if all(result.frame is None for result in summary.results):  # frames are joined when all are there
            outputs.finish(summary.results)
        return summary
    summary = Summary(journal.sort(done), is_complete=True)
    outputs.finish(summary.results)
    journal.finish()
    return summary


def _search_image(frame: Frame, detect: Detect, journal: Journal, outputs: Outputs) -> ImageResult:
    """Search an image, write its files and note it in the journal."""
    about: dict[str, Any] = {"frame": frame.frame, "seconds": frame.seconds}
    try:
        pixels = frame.read()
    except (ValueError, OSError) as error:
        result = ImageResult(frame.image_id, frame.name, frame.source, 0, 0, error=str(error), **about)
    else:
        height, width = pixels.shape[:2]
        result = ImageResult(frame.image_id, frame.name, frame.source, height, width, detect(pixels), **about)
        outputs.add(result, pixels)
    journal.append(result, frame.size)
    return result
