"""Writes what a search found: overlays, masks and COCO results."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ..evaluation.coco_scores import results_of
from ..io.files import atomic_path, write_json
from ..visualize import draw_overlay
from .results import Category, ImageResult

KINDS = ("overlays", "masks", "coco")
DEFAULT_KINDS = KINDS


class Outputs:
    """Writes the files of a search into a folder."""

    def __init__(
        self, out: Path, kinds: Collection[str], categories: Sequence[Category], about: Mapping[str, str]
    ) -> None:
        self.out, self.kinds, self.categories = out, kinds, categories

    def add(self, result: ImageResult, pixels: np.ndarray) -> None:
        """Write the files of one image; `pixels` are uint8 [height, width, RGB]."""
        for category, finds in zip(self.categories, result.finds, strict=True):
            name = f"{result.name}.{category.name}"
            if "overlays" in self.kinds:
                drawn = draw_overlay(pixels, finds.boxes, finds.masks, finds.scores)
                _write_png(self.out / "overlays" / f"{name}.png", drawn)
            if "masks" in self.kinds and finds.masks is not None:
                for number in range(len(finds)):
                    mask = finds.masks[..., number].astype(np.uint8) * 255
                    _write_png(self.out / "masks" / f"{name}.{number + 1:03d}.png", mask)

    def finish(self, results: Sequence[ImageResult]) -> None:
        """Write the files of all results."""
        images, found = [], []
        for one in results:
            if one.error is None:
                size = {"height": one.height, "width": one.width}
                images.append({"id": one.image_id, "file_name": one.source, **size})
            for category, finds in zip(self.categories, one.finds, strict=False):
                found.extend(results_of(one.image_id, category.id, finds.boxes, finds.scores, finds.masks))
        categories = [{"id": one.id, "name": one.name} for one in self.categories]
        write_json(self.out / "images.json", {"images": images, "categories": categories, "annotations": []}, indent=1)
        write_json(self.out / "results.json", found)


def _write_png(path: Path, pixels: np.ndarray) -> None:
    with atomic_path(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")
