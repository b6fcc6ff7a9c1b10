"""Examples of an evaluation as images: references, detections, ground truth.

The examples depend on the records only: categories spread over all of them, of each in turn the best and the worst
query. Queries are ranked by F-measure (boxes that overlap by half or more match), then by mean overlap, then by the
number of false detections.
"""

import dataclasses
import itertools
import logging
import math
import os
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as coco_mask
from PIL import Image

from ..data.dataset import CocoDataset
from ..evaluation.records import Records, read_records
from ..io.errors import InputError
from ..ops.boxes import compute_overlaps, extract_bboxes, match_greedily
from ..visualize.instances import draw_overlay
from ..visualize.pages import GridImage
from ..visualize.style import Color

Query = dict[str, Any]  # of a record, with its image_id
Annotations = list[dict[str, Any]]

logger = logging.getLogger(__name__)

_IOU = 0.5  # minimum overlap of a match
_SCENE_SIDE, _REFERENCE_SIDE = 500, 200  # longer sides in pixels; a reference and two scenes fill a row of the page
# blue and orange, distinct for color-blind readers too
_RIGHT, _WRONG, _CROWD = (0.1, 0.45, 1.0), (1.0, 0.5, 0.0), (0.75, 0.75, 0.75)


@dataclasses.dataclass(frozen=True)
class Example:
    """A query of an evaluation.

    Attributes:
        title: category, image, counts and rank.
        cells: the references, the scene with detections, the scene with the ground truth; a text says why one is
            missing.
    """

    title: str
    cells: list[GridImage | str]


def examples(
    folder: str | os.PathLike,
    dataset: CocoDataset,
    *,
    run: int = 0,
    limit: int = 12,
    threshold: float = 0.5,
    category_ids: Collection[int] | None = None,
    absent: bool = False,
) -> list[Example]:
    """Examples of an evaluation.

    Args:
        folder: of the evaluation, with settings.json and its records.
        dataset: of the evaluation; its image files may be missing.
        run: run to show.
        limit: maximum number of examples.
        threshold: minimum score of detections.
        category_ids: COCO ids of the categories to show; None: all.
        absent: show queries for categories that are not in their image, in place of those that are.

    Returns:
        by category, in each in descending order of quality.

    Raises:
        ValueError: no records there, or the data set lacks their images or categories.
    """
    records, graded = read_records(folder), defaultdict(list)
    for query in _queries(records, run, absent):
        if category_ids is None or query["category_id"] in category_ids:
            graded[query["category_id"]].append((_quality(dataset, query, threshold), _key(query)))
    ranked = {category: [key for _, key in sorted(entries, reverse=True)] for category, entries in graded.items()}
    ranks = {key: f"{rank} of {len(keys)}" for keys in ranked.values() for rank, key in enumerate(keys, 1)}
    chosen = choose(ranked, limit)
    found = {}
    images = sorted({image_id for image_id, _ in chosen})
    for query in _queries(dataclasses.replace(records, settings=records.settings | {"images": images}), run, absent):
        if _key(query) in chosen:
            found[_key(query)] = _example(dataset, query, threshold, ranks[_key(query)])
    return [found[key] for key in chosen]


def choose(ranked: Mapping[int, Sequence[Any]], limit: int) -> list[Any]:
    """Choose from ranked entries of many categories.

    Args:
        ranked: category id -> its entries, the best first.
        limit: maximum number. Half as many categories, evenly spread by id, give the best, the worst, the second best,
            ... in turn; the other categories fill the rest.

    Returns:
        by category id, in each category the best first.
    """
    categories = sorted(ranked)
    count = min(len(categories), max(math.ceil(limit / 2), 1))
    spread = [categories[place] for place in np.linspace(0, len(categories) - 1, count).round().astype(int)]
    others = [category for category in categories if category not in spread]
    queue = [pair for group in (spread, others) for pair in _in_turn(ranked, group)]
    return [ranked[category][place] for category, place in sorted(queue[:limit])]


def _in_turn(ranked: Mapping[int, Sequence[Any]], categories: Sequence[int]) -> list[tuple[int, int]]:
    """(category, place in its ranking): the best of every category, then the worst, the second best, and so on."""
    columns = []
    for category in categories:
        last = len(ranked[category]) - 1
        columns.append([(category, last - turn // 2 if turn % 2 else turn // 2) for turn in range(last + 1)])
    return [pair for turn in itertools.zip_longest(*columns) for pair in turn if pair is not None]


# ---- queries ---------------------------------------------------------------------------------------------------------


def _queries(records: Records, run: int, absent: bool) -> Iterator[Query]:
    return (query for query in records.queries(run, absent=absent) if query.get("absent", False) == absent)


def _key(query: Query) -> tuple[int, int]:
    return query["image_id"], query["category_id"]


def _quality(dataset: CocoDataset, query: Query, threshold: float) -> tuple[float, ...]:
    """Higher is better; ends with the image id, so that no two queries of a category are equal."""
    boxes, _ = _kept(query, threshold)
    truth, _ = _annotations(dataset, query)
    overlaps = compute_overlaps(boxes, _xywh_boxes(truth))
    pairs = [(index, match) for index, match in enumerate(match_greedily(overlaps, _IOU)) if match >= 0]
    measure = 2 * len(pairs) / (len(boxes) + len(truth)) if len(boxes) + len(truth) else 1.0
    fit = float(np.mean([overlaps[pair] for pair in pairs])) if pairs else 0.0
    return measure, fit, len(pairs) - len(boxes), -query["image_id"]


def _kept(query: Query, threshold: float) -> tuple[np.ndarray, Annotations]:
    """Boxes [n, (y1, x1, y2, x2)] and COCO results above a score, in descending order."""
    kept = [result for result in query["detections"] if result["score"] >= threshold]
    kept.sort(key=lambda result: -result["score"])
    return _xywh_boxes(kept), kept


def _xywh_boxes(entries: Annotations) -> np.ndarray:
    """COCO's boxes [x, y, width, height] as float [n, (y1, x1, y2, x2)] in pixels."""
    x, y, width, height = np.array([entry["bbox"] for entry in entries], float).reshape(-1, 4).T
    return np.stack([y, x, y + height, x + width], axis=1)


# ---- drawing ---------------------------------------------------------------------------------------------------------


def _example(dataset: CocoDataset, query: Query, threshold: float, rank: str) -> Example:
    boxes, kept = _kept(query, threshold)
    truth, crowds = _annotations(dataset, query)
    matches = match_greedily(compute_overlaps(boxes, _xywh_boxes(truth)), _IOU)
    right, number = np.count_nonzero(matches >= 0), _image_number(dataset, query["image_id"])
    counts = f"{right} of {len(truth)} found, {len(boxes) - right} false"
    if query.get("absent"):
        counts = f"not there, {len(boxes)} false" if boxes.size else "not there, nothing found"
    cells = [_reference(dataset, reference) for reference in query["references"]]
    try:
        image = dataset.load_image(number)
        masks = [coco_mask.decode(result["segmentation"]) for result in kept if "segmentation" in result]
        colors = [_RIGHT if match >= 0 else _WRONG for match in matches]
        pixels = _painted(image, boxes, masks, [f"{result['score']:.2f}" for result in kept], colors)
        caption = f"detections: {right} right, {len(boxes) - right} false (score {threshold:.3g} or more)"
        cells.append(GridImage(pixels, caption))
        cells.append(_truth_image(image, dataset, number, truth, crowds, matches))
    except ValueError as error:
        logger.warning("no image for the gallery: %s", error)
        cells.append(str(error))
    title = f"{_category_name(dataset, query)}, {_image_name(dataset, number)}: {counts} (rank {rank})"
    return Example(title, cells)


def _truth_image(
    image: np.ndarray, dataset: CocoDataset, number: int, truth: Annotations, crowds: Annotations, matches: np.ndarray
) -> GridImage:
    places = {entry["id"]: place for place, entry in enumerate(dataset.image_info[number]["annotations"])}
    entries = truth + crowds
    masks = [dataset.instance_mask(number, places[entry["id"]]) for entry in entries]
    colors = [_RIGHT if index in matches else _WRONG for index in range(len(truth))]
    missed = colors.count(_WRONG)
    captions = [""] * len(truth) + ["crowd"] * len(crowds)
    pixels = _painted(image, _xywh_boxes(entries), masks, captions, colors + [_CROWD] * len(crowds))
    return GridImage(pixels, f"ground truth: {len(truth)}, {f'{missed} missed' if missed else 'none missed'}")


def _painted(
    image: np.ndarray, boxes: np.ndarray, masks: list[np.ndarray], captions: list[str], colors: list[Color]
) -> np.ndarray:
    """Instances drawn at the size of the page, so that labels stay legible."""
    height, width = image.shape[:2]
    scale = _SCENE_SIDE / max(height, width)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    boxes = np.rint(boxes * scale).astype(int)
    image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
    scaled = [Image.fromarray(np.asarray(mask, np.uint8)).resize(size, Image.Resampling.NEAREST) for mask in masks]
    stacked = np.stack([np.asarray(mask) for mask in scaled], axis=-1) if scaled else None
    return draw_overlay(image, boxes, stacked, None, captions=captions, colors=colors)


def _reference(dataset: CocoDataset, reference: list[int] | None) -> GridImage | str:
    """The crop of a reference [COCO image id, COCO annotation id], or a text that says why there is none."""
    if reference is None:
        return "The reference was given as a crop; the records do not hold it."
    coco_id, annotation_id = reference
    try:
        number = _image_number(dataset, coco_id)
        annotations = dataset.image_info[number]["annotations"]
        places = [place for place, entry in enumerate(annotations) if entry["id"] == annotation_id]
        if not places:
            raise InputError(f"image {coco_id} has no annotation {annotation_id} in {dataset.set_name}")
        name = _category_name(dataset, annotations[places[0]])
        y1, x1, y2, x2 = extract_bboxes(dataset.instance_mask(number, places[0])[..., None])[0]
        if y2 == y1:
            raise InputError(f"annotation {annotation_id} of image {coco_id} has a mask without a pixel")
        crop = Image.fromarray(dataset.load_image(number)[y1:y2, x1:x2])
    except ValueError as error:
        logger.warning("no reference for the gallery: %s", error)
        return str(error)
    scale = _REFERENCE_SIDE / max(crop.size)
    size = [max(round(side * scale), 1) for side in crop.size]
    return GridImage(
        np.asarray(crop.resize(size, Image.Resampling.BICUBIC)), f"reference: {name}, {_image_name(dataset, number)}"
    )


# ---- the data set ----------------------------------------------------------------------------------------------------


def _image_number(dataset: CocoDataset, coco_id: int) -> int:
    """The data set's image id of a COCO image id."""
    number = dataset.image_from_source_map.get(f"coco.{coco_id}")
    if number is None:
        raise InputError(f"image {coco_id} is not in {dataset.set_name}: the records are of another data set")
    return number


def _image_name(dataset: CocoDataset, number: int) -> str:
    """The file name of an image, or "image" and its COCO id if it has no file."""
    info = dataset.image_info[number]
    return Path(info["path"]).name if info["path"] else f"image {info['id']}"


def _annotations(dataset: CocoDataset, query: Query) -> tuple[Annotations, Annotations]:
    """Annotations of the category of a query in its image: (instances, crowds)."""
    annotations = dataset.image_info[_image_number(dataset, query["image_id"])]["annotations"]
    mine = [entry for entry in annotations if entry["category_id"] == query["category_id"]]
    return [entry for entry in mine if not entry["iscrowd"]], [entry for entry in mine if entry["iscrowd"]]


def _category_name(dataset: CocoDataset, entry: dict[str, Any]) -> str:
    """Name of the category of a query or an annotation."""
    number = dataset.class_from_source_map.get(f"coco.{entry['category_id']}")
    if number is None:
        raise InputError(f"category {entry['category_id']} is not in {dataset.set_name}: records of another data set")
    return dataset.class_names[number]
