"""Annotations of the VGG Image Annotator (VIA) as imported images, and their conversion to a COCO-format tree."""

import dataclasses
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...io import files
from ..annotations import Content
from . import via, via3
from .common import ImportedImage, ImportedObject
from .tree import SUBSETS, TreeOptions, number_categories, write_tree

__all__ = ["SUBSETS", "convert_via", "read_via_images"]

logger = logging.getLogger(__name__)


def convert_via(
    paths: Iterable[files.StrPath],
    image_dir: files.StrPath,
    out: files.StrPath,
    *,
    attribute: str | None = None,
    category: str | None = None,
    categories: Iterable[str] | None = None,
    **options: Any,
) -> dict[str, Content]:
    """Write a COCO-format tree of VIA annotations; if anything is wrong with them, nothing is written.

    Regions that are points have no area: they are left out, and the log names them.

    Args:
        paths: annotation files.
        image_dir: folder of the images.
        out: folder of the tree: `annotations/instances_{subset}{year}.json` and `{subset}{year}/`.
        attribute, category, categories: as in `via.region_categories`.
        options: fields of `tree.TreeOptions`.

    Returns the contents of the annotation files by set name ("train2017"). Raises ValueError as `tree.write_tree`.
    """
    order = None if categories is None else list(categories)
    images = read_via_images(map(Path, paths), attribute=attribute, category=category, categories=order)
    description = "converted from annotations of the VGG Image Annotator"
    chosen = TreeOptions(**options)
    return write_tree(images, number_categories(images, order), image_dir, out, chosen, description=description)


def read_via_images(
    paths: Iterable[Path],
    *,
    attribute: str | None = None,
    category: str | None = None,
    categories: Iterable[str] | None = None,
) -> list[ImportedImage]:
    """The images in files of VIA 1, 2 and 3, with the categories that `via.region_categories` finds."""
    annotated = _with_area(_read(paths))
    regions = [region for image in annotated for region in image.regions]
    names, _ = via.region_categories(regions, attribute, category, categories)
    outlines = iter(zip([via.region_outline(region) for region in regions], names, strict=True))
    found = []
    for image in annotated:
        objects = []
        for region in image.regions:
            outline, name = next(outlines)
            objects.append(ImportedObject(region.place, name, outlines=(outline,)))
        found.append(ImportedImage(image.name, image.place, tuple(objects)))
    return found


def _read(paths: Iterable[Path]) -> list[via.AnnotatedImage]:
    found, read = list[via.AnnotatedImage](), list(paths)
    for path in read:
        content: Any = files.read_json(path) if path.suffix.lower() != ".csv" else None
        found += via3.read_project(path, content) if via3.is_via3(content) else via.read_via([path])
    return via.named_once(found, read)


def _with_area(images: list[via.AnnotatedImage]) -> list[via.AnnotatedImage]:
    """The images without regions that are points; the log names these, and polylines."""
    regions = [region for image in images for region in image.regions]
    for shape, words in (("point", "left out, points have no area"), ("polyline", "closed, and taken as polygons")):
        places = [region.place for region in regions if region.shape.get("name") == shape]
        if places:
            logger.warning("%s: %s", words, "; ".join(places))
    kept = [[region for region in image.regions if region.shape.get("name") != "point"] for image in images]
    return [dataclasses.replace(image, regions=tuple(found)) for image, found in zip(images, kept, strict=True)]
