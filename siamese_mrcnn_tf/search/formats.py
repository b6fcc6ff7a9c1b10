"""The finds of a search as COCO, LabelMe, tables and label maps. Pure functions; `outputs` writes their files.

Boxes are [y1, x1, y2, x2) in pixels of the image; COCO's are [x, y, width, height]. An image that was skipped
(`ImageResult.error`) is in the tables alone.
"""

import base64
import collections
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from ..evaluation.coco_scores import results_of
from ..io.errors import InputError
from ..ops.boxes import extract_bboxes
from ..ops.polygons import mask_polygons
from .results import Category, Finds, ImageResult

Record = dict[str, Any]

MAX_LOSSLESS = 2_000_000  # pixels; larger images are written as JPEG
_OPTIONS: dict[str, dict[str, Any]] = {  # of Pillow; PNG of a higher level is hardly smaller and takes far longer
    "jpg": {"format": "JPEG", "quality": 92, "subsampling": "4:4:4"},
    "png": {"format": "PNG", "compress_level": 3},
}
MAX_LABEL = np.iinfo(np.uint16).max

_LABELME_VERSION = "5.5.0"  # of the format: `mask` shapes and `description`
DETECTION_HEADS = (
    *("image", "source", "frame", "seconds", "category", "number", "score"),
    *("y1", "x1", "y2", "x2", "area"),
)
COUNT_HEADS = ("image", "source", "frame", "seconds", "total")  # then the categories, then the error


def images_of(results: Iterable[ImageResult]) -> Iterator[ImageResult]:
    """Those that were searched."""
    return (result for result in results if result.error is None)


def image_format(height: int, width: int) -> str:
    """Format in which an image is written: "png", or "jpg" above 2 megapixels."""
    return "jpg" if height * width > MAX_LOSSLESS else "png"


# ---- COCO --------------------------------------------------------------------------------------------------------
def coco_results(results: Iterable[ImageResult], categories: Sequence[Category]) -> list[Record]:
    """COCO results, image by image, category by category, in descending order of score."""
    return [
        record
        for result in images_of(results)
        for category, finds in zip(categories, result.finds, strict=True)
        for record in results_of(result.image_id, category.id, finds.boxes, finds.scores, finds.masks)
    ]


def coco_annotations(results: Iterable[ImageResult], categories: Sequence[Category]) -> Record:
    """The finds as an annotation file in COCO's format, which is valid without finds, too.

    An annotation also has its score. The segmentation is compressed RLE; a find without a mask has none, and the area
    of its box.
    """
    searched = list(images_of(results))
    return annotation_file(map(coco_image, searched), coco_results(searched, categories), categories)


def annotation_file(images: Iterable[Record], found: Iterable[Record], categories: Sequence[Category]) -> Record:
    """`coco_annotations` from the records of images and results."""
    annotations = []
    for number, record in enumerate(found, 1):
        annotation = {"id": number, "iscrowd": 0} | record
        if "segmentation" in record and not record["area"]:
            annotation["area"] = record["bbox"][2] * record["bbox"][3]
            del annotation["segmentation"]
        annotations.append(annotation)
    records = [{"id": category.id, "name": category.name} for category in categories]
    return {"images": list(images), "annotations": annotations, "categories": records}


def coco_image(result: ImageResult) -> Record:
    """An image of a COCO file. A frame of a video is named by its number."""
    record: Record = {"id": result.image_id, "file_name": result.source}
    record |= {"height": result.height, "width": result.width}
    if result.frame is not None:
        record |= {"file_name": f"{result.name}.png", "video": result.source, "frame": result.frame}
        record |= {"seconds": result.seconds}
    return record


# ---- tables ------------------------------------------------------------------------------------------------------
def detection_rows(
    result: ImageResult, found: Sequence[Record], categories: Sequence[Category]
) -> Iterator[list[object]]:
    """A row of DETECTION_HEADS for each of the `coco_results` of an image: box and area in pixels, 4 decimals."""
    names, numbers = {category.id: category.name for category in categories}, collections.Counter[int]()
    for record in found:
        category_id, (x, y, width, height) = record["category_id"], record["bbox"]
        numbers[category_id] += 1
        cells = names[category_id], numbers[category_id], f"{record['score']:.4f}"
        yield [*_image_cells(result), *cells, *map(round, (y, x, y + height, x + width, record["area"]))]


def count_row(result: ImageResult, categories: Sequence[Category]) -> list[object]:
    """Of COUNT_HEADS, each category and "error"; an image that was skipped has no counts."""
    if result.error is not None:
        return [*_image_cells(result), "", *[""] * len(categories), result.error]
    counts = [len(finds) for finds in result.finds]
    return [*_image_cells(result), sum(counts), *counts, ""]


def _image_cells(result: ImageResult) -> list[object]:
    seconds = "" if result.seconds is None else f"{result.seconds:.3f}"
    return [result.name, result.source, "" if result.frame is None else result.frame, seconds]


# ---- LabelMe -----------------------------------------------------------------------------------------------------
def labelme_json(
    result: ImageResult, categories: Sequence[Category], pixels: np.ndarray | None = None
) -> dict[str, Any]:
    """The finds as a file of LabelMe 5, to be corrected there.

    A mask without holes becomes polygons, which can be edited; several parts of one have a `group_id` together. A mask
    with holes becomes LabelMe's own kind of mask, which is exact. A find without a mask becomes a rectangle. Its score
    is in the description.

    Args:
        pixels: uint8 [height, width, RGB], the image to put into the file; None names the file of the image.
    """
    shapes, group = list[Record](), 0
    for category, finds in zip(categories, result.finds, strict=True):
        for index, score in enumerate(finds.scores):
            drawn = _labelme_shapes(finds, index)
            group += len(drawn) > 1
            about = {"label": category.name, "group_id": group if len(drawn) > 1 else None}
            shapes += [about | {"description": f"score {score:.4f}", "flags": {}} | shape for shape in drawn]
    path, data = result.source, None
    if pixels is not None:
        kind = image_format(*pixels.shape[:2])
        path, data = f"{result.name}.{kind}", _base64(encoded_image(pixels, kind))
    file: Record = {"version": _LABELME_VERSION, "flags": {}, "shapes": shapes, "imagePath": path, "imageData": data}
    return file | {"imageHeight": result.height, "imageWidth": result.width}


def _labelme_shapes(finds: Finds, index: int) -> list[Record]:
    """The shapes of one find."""
    mask = None if finds.masks is None else finds.masks[:, :, index]
    if mask is None or not mask.any():
        y1, x1, y2, x2 = map(float, finds.boxes[index])
        return [{"shape_type": "rectangle", "points": [[x1, y1], [x2, y2]], "mask": None}]
    polygons = mask_polygons(mask)
    if polygons is None:
        y1, x1, y2, x2 = map(int, extract_bboxes(mask[:, :, None])[0])
        inside = encoded_image(mask[y1:y2, x1:x2].astype(np.uint8), "png")
        points = [[float(x1), float(y1)], [float(x2 - 1), float(y2 - 1)]]
        return [{"shape_type": "mask", "points": points, "mask": _base64(inside)}]
    points_of = (np.reshape(polygon, (-1, 2)).tolist() for polygon in polygons)
    return [{"shape_type": "polygon", "points": points, "mask": None} for points in points_of]


def encoded_image(pixels: np.ndarray, kind: str) -> bytes:
    """An image as the content of a "png" or "jpg" file."""
    content = io.BytesIO()
    save_image(Image.fromarray(pixels), content, kind)
    return content.getvalue()


def save_image(image: Image.Image, target: Any, kind: str, **options: Any) -> None:
    """Write an image as "png" or "jpg" to a path or a file; `options` as of Pillow."""
    image.save(target, **(_OPTIONS[kind] | options))


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


# ---- label maps --------------------------------------------------------------------------------------------------
def label_map(result: ImageResult, categories: Sequence[Category]) -> tuple[np.ndarray, list[Record]]:
    """All finds of an image in one map; where they overlap, the higher score is on top.

    Returns:
        ids: uint16 [height, width], 0 where there is nothing.
        records: id, category, category_id, score and visible pixels of each find, by id, which is in ascending order
            of score.

    Raises:
        ValueError: more finds than 16 bits can number.
    """
    found = [
        (float(score), category, finds, index)
        for category, finds in zip(categories, result.finds, strict=True)
        for index, score in enumerate(finds.scores)
    ]
    if len(found) > MAX_LABEL:
        raise InputError(f"{result.source}: {len(found)} finds, a label map can hold {MAX_LABEL}")
    found.sort(key=lambda one: one[0])
    ids = np.zeros((result.height, result.width), np.uint16)
    for number, (_, _, finds, index) in enumerate(found, 1):
        if finds.masks is not None:
            ids[finds.masks[:, :, index]] = number
        else:
            y1, x1, y2, x2 = np.maximum(finds.boxes[index], 0)
            ids[y1:y2, x1:x2] = number
    visible = np.bincount(ids.ravel(), minlength=len(found) + 1)
    records = [
        {"id": number, "category": category.name, "category_id": category.id}
        | {"score": round(score, 4), "pixels": int(visible[number])}
        for number, (score, category, _, _) in enumerate(found, 1)
    ]
    return ids, records
