"""What a search found in the formats of other programs: COCO annotations and LabelMe files."""

import base64
import io
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as mask_utils

from .results import Category, Finds, ImageResult

_LABELME_VERSION = "5.5.0"


def coco_annotations(results: Sequence[ImageResult], categories: Sequence[Category]) -> dict[str, Any]:
    """All finds as a COCO data set: images, categories, and annotations with their scores; masks as RLE."""
    images, annotations = [], list[dict[str, Any]]()
    for result in results:
        name = PurePath(result.source).name
        images.append({"id": result.image_id, "file_name": name, "height": result.height, "width": result.width})
        for category, finds in zip(categories, result.finds, strict=True):
            for number, (box, score) in enumerate(zip(finds.boxes.tolist(), finds.scores.tolist(), strict=True)):
                y1, x1, y2, x2 = map(float, box)
                record: dict[str, Any] = {"id": len(annotations) + 1, "image_id": result.image_id}
                record |= {"category_id": category.id, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
                annotations.append(record | {"iscrowd": 0} | _region(finds, number))
    records = [{"id": category.id, "name": category.name} for category in categories]
    return {"images": images, "categories": records, "annotations": annotations}


def labelme_json(
    result: ImageResult, categories: Sequence[Category], pixels: np.ndarray | None = None
) -> dict[str, Any]:
    """The finds in an image as the content of a LabelMe file; `pixels` uint8 RGB are embedded."""
    shapes = []
    for category, finds in zip(categories, result.finds, strict=True):
        for number, (y1, x1, y2, x2) in enumerate(finds.boxes.tolist()):
            shape: dict[str, Any] = {"label": category.name, "group_id": None, "flags": {}, "description": ""}
            shape |= {"shape_type": "rectangle", "points": [[x1, y1], [x2, y2]]}
            if finds.masks is not None:
                crop = Image.fromarray(finds.masks[y1:y2, x1:x2, number])
                shape |= {"shape_type": "mask", "points": [[x1, y1], [x2 - 1, y2 - 1]], "mask": _png(crop)}
            shapes.append(shape)
    content: dict[str, Any] = {
        "version": _LABELME_VERSION,
        "flags": {},
        "shapes": shapes,
        "imagePath": PurePath(result.source).name,
    }
    content["imageData"] = None if pixels is None else _png(Image.fromarray(pixels))
    return content | {"imageHeight": result.height, "imageWidth": result.width}


def _region(finds: Finds, number: int) -> dict[str, Any]:
    """Area and, where there are masks, segmentation of a find."""
    y1, x1, y2, x2 = finds.boxes[number].tolist()
    if finds.masks is None:
        return {"area": float((y2 - y1) * (x2 - x1))}
    rle = mask_utils.encode(np.asfortranarray(finds.masks[..., number], np.uint8))
    segmentation = {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")}
    return {"area": float(mask_utils.area(rle)), "segmentation": segmentation}


def _png(image: Image.Image) -> str:
    content = io.BytesIO()
    image.save(content, "PNG")
    return base64.b64encode(content.getvalue()).decode("ascii")
