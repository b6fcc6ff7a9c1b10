"""Examples of an evaluation as pictures: references, what was found with them, and what there is.

The examples are always the same for the same records: categories spread over all of them, of each in turn the best and
the worst query. A query is the better the higher its F-measure (found instances beside missed ones and false
detections, boxes that overlap by half or more), then the better its boxes fit, then the fewer its false detections.
"""

import dataclasses
import itertools
import logging
import math
from collections import defaultdict

import numpy as np
import pycocotools.mask as coco_mask
from PIL import Image

from ..evaluation.records import read_records
from ..ops.boxes import compute_overlaps, extract_bboxes
from ..visualize.instances import draw_overlay
from ..visualize.pages import GridImage

logger = logging.getLogger(__name__)

_IOU = 0.5  # overlap from which on a detection counts as found
_SCENE_SIDE, _REFERENCE_SIDE = 480, 160  # longer sides in pixels
_RIGHT, _WRONG, _CROWD = (0.1, 0.45, 1.0), (1.0, 0.5, 0.0), (0.75, 0.75, 0.75)  # blue and orange, for all eyes


@dataclasses.dataclass(frozen=True)
class Example:
    """A query of an evaluation.

    Attributes:
        title: category, image and outcome.
        cells: GridImages of the references, of the scene with detections, of the scene with the ground truth; a text in
            place of one says why there is none.
    """

    title: str
    cells: list


@dataclasses.dataclass(frozen=True)
class _Graded:
    """A query and how well it went; `quality` is the higher the better."""

    image_id: int  # COCO's
    category_id: int
    quality: tuple


def examples(folder, dataset, *, run=0, limit=12, threshold=0.5, category_ids=None):
    """Examples of an evaluation.

    Args:
        folder: of the evaluation, with settings.json and its records.
        dataset: the CocoDataset that it was made on; its pictures may be missing.
        run: which of its runs.
        limit: number of examples at most.
        threshold: score from which on detections are drawn and counted.
        category_ids: COCO ids of those of the categories to show; None: all.

    Returns:
        list of Example, by category, in each the better ones first.

    Raises:
        ValueError: no records there, or they are of images or categories that the data set does not have.
    """
    records, graded, ranks = read_records(folder), defaultdict(list), {}
    for image_id, query in _queries(records, run):
        if category_ids is None or query["category_id"] in category_ids:
            graded[query["category_id"]].append(_grade(dataset, image_id, query, threshold))
    for entries in graded.values():
        entries.sort(key=lambda entry: entry.quality, reverse=True)
        ranks |= {entry: f"{rank} of {len(entries)}" for rank, entry in enumerate(entries, 1)}
    chosen = choose(graded, limit)
    shown = {(entry.image_id, entry.category_id): entry for entry in chosen}
    settings = records.settings | {"images": sorted({entry.image_id for entry in chosen})}
    found = {}
    for image_id, query in _queries(dataclasses.replace(records, settings=settings), run):
        entry = shown.get((image_id, query["category_id"]))
        if entry is not None:
            found[entry] = _example(dataset, image_id, query, threshold, ranks[entry])
    return [found[entry] for entry in chosen]


def choose(ranked, limit):
    """Choose from ranked entries of many categories.

    Args:
        ranked: category id -> its entries, the best first.
        limit: how many at most. Half as many categories, evenly spread by id, give the best, the worst, the second
            best, ... in turn; the other categories fill up what is left.

    Returns:
        list of entries, by category id, in each category the best first.
    """
    categories = sorted(ranked)
    count = min(len(categories), max(math.ceil(limit / 2), 1))
    spread = [categories[place] for place in np.linspace(0, len(categories) - 1, count).round().astype(int)]
    others = [category for category in categories if category not in spread]
    queue = [pair for group in (spread, others) for pair in _in_turn(ranked, group)]
    return [ranked[category][place] for category, place in sorted(queue[:limit])]


def _in_turn(ranked, categories):
    """(category, place in its ranking): the best of every category, then the worst, the second best, and so on."""
    columns = [[(category, place) for place in _from_both_ends(len(ranked[category]))] for category in categories]
    return [pair for turn in itertools.zip_longest(*columns) for pair in turn if pair is not None]


def _from_both_ends(count):
    return [index // 2 if index % 2 == 0 else count - 1 - index // 2 for index in range(count)]


# ---- queries ---------------------------------------------------------------------------------------------------------
def _queries(records, run):
    """(COCO image id, query) of a run."""
    for record in records:
        for query in record["queries"]:
            if query["run"] == run:
                yield record["image_id"], query


def _grade(dataset, image_id, query, threshold):
    boxes = _kept(query, threshold)[0]
    truth, _ = _annotations(dataset, image_id, query["category_id"])
    hits, overlaps = _matched(boxes, _xywh_boxes(truth))
    right = np.count_nonzero(hits)
    measure = 2 * right / (len(boxes) + len(truth)) if len(boxes) + len(truth) else 1.0
    fit = float(np.mean(overlaps)) if right else 0.0
    return _Graded(image_id, query["category_id"], (measure, fit, right - len(boxes), -image_id))


def _kept(query, threshold):
    """Boxes [n, (y1, x1, y2, x2)], scores [n] and COCO results above a score, the best first."""
    kept = [result for result in query["detections"] if result["score"] >= threshold]
    kept.sort(key=lambda result: -result["score"])
    return _xywh_boxes(kept), np.array([result["score"] for result in kept]), kept


def _xywh_boxes(entries):
    """COCO's boxes [x, y, width, height] as float [n, (y1, x1, y2, x2)] in pixels."""
    x, y, width, height = np.array([entry["bbox"] for entry in entries], float).reshape(-1, 4).T
    return np.stack([y, x, y + height, x + width], axis=1)


def _matched(boxes, truth):
    """Pair boxes, in their order, with the instances that they overlap most.

    Returns:
        instances: int [boxes], the index of each box's instance + 1, or 0 for none.
        overlaps: of the pairs.
    """
    found, overlaps = np.zeros(len(boxes), int), []
    table = compute_overlaps(boxes, truth)
    for index in range(len(boxes) if len(truth) else 0):
        best = table[index].argmax()
        if table[index, best] >= _IOU:
            found[index] = best + 1
            overlaps.append(table[index, best])
            table[:, best] = 0
    return found, overlaps


# ---- drawing ---------------------------------------------------------------------------------------------------------
def _example(dataset, image_id, query, threshold, rank):
    boxes, _, kept = _kept(query, threshold)
    truth, crowds = _annotations(dataset, image_id, query["category_id"])
    instances, _ = _matched(boxes, _xywh_boxes(truth))
    right, number, name = np.count_nonzero(instances), _image_number(dataset, image_id), _category_name(dataset, query)
    counts = f"{right} of {len(truth)} found, {len(boxes) - right} false"
    cells = [_reference(dataset, reference) for reference in query["references"]]
    try:
        image = dataset.load_image(number)
        cells.append(_detections_picture(image, boxes, kept, instances, threshold))
        cells.append(_truth_picture(image, dataset, number, truth, crowds, instances))
    except ValueError as error:
        logger.warning("no picture for the gallery: %s", error)
        cells.append(str(error))
    return Example(f"{name}, image {image_id}: {counts} (rank {rank})", cells)


def _detections_picture(image, boxes, kept, instances, threshold):
    masks = [coco_mask.decode(result["segmentation"]) for result in kept if "segmentation" in result]
    captions = [f"{result['score']:.2f}" for result in kept]
    colors = [_RIGHT if instance else _WRONG for instance in instances]
    right = np.count_nonzero(instances)
    caption = f"detections: {right} right, {len(boxes) - right} false (score {threshold:g} or more)"
    return GridImage(_painted(image, boxes, masks, captions, colors), caption)


def _truth_picture(image, dataset, number, truth, crowds, instances):
    places = {entry["id"]: place for place, entry in enumerate(dataset.image_info[number]["annotations"])}
    entries = truth + crowds
    masks = [dataset.instance_mask(number, places[entry["id"]]) for entry in entries]
    is_found = np.isin(np.arange(len(truth)) + 1, instances)
    colors = [_RIGHT if found else _WRONG for found in is_found] + [_CROWD] * len(crowds)
    captions = [""] * len(truth) + ["crowd"] * len(crowds)
    missed = np.count_nonzero(~is_found)
    return GridImage(
        _painted(image, _xywh_boxes(entries), masks, captions, colors),
        f"ground truth: {len(truth)}, {f'{missed} missed' if missed else 'none missed'}",
    )


def _painted(image, boxes, masks, captions, colors):
    """Instances painted into the picture in the size in which the page shows it, so that labels stay legible."""
    height, width = image.shape[:2]
    scale = min(_SCENE_SIDE / max(height, width), 1)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    boxes = np.rint(boxes * scale).astype(int)
    image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
    shrunk = [Image.fromarray(np.asarray(mask, np.uint8)).resize(size, Image.Resampling.NEAREST) for mask in masks]
    masks = np.stack(shrunk, axis=-1) if shrunk else None
    return draw_overlay(image, boxes, masks, None, captions=captions, colors=colors)


def _reference(dataset, reference):
    """The crop that a reference [COCO image id, COCO annotation id] stands for, or a text."""
    if reference is None:
        return "The reference was given as a crop; the records do not hold it."
    coco_id, annotation_id = reference
    try:
        number = _image_number(dataset, coco_id)
        annotations = dataset.image_info[number]["annotations"]
        places = [place for place, entry in enumerate(annotations) if entry["id"] == annotation_id]
        if not places:
            raise ValueError(f"image {coco_id} has no annotation {annotation_id} in {dataset.set_name}")
        name = _category_name(dataset, annotations[places[0]])
        y1, x1, y2, x2 = extract_bboxes(dataset.instance_mask(number, places[0])[..., None])[0]
        if y2 == y1:
            raise ValueError(f"annotation {annotation_id} of image {coco_id} has a mask without a pixel")
        crop = Image.fromarray(dataset.load_image(number)[y1:y2, x1:x2])
    except ValueError as error:
        logger.warning("no reference for the gallery: %s", error)
        return str(error)
    scale = _REFERENCE_SIDE / max(crop.size)
    size = [max(round(side * scale), 1) for side in crop.size]
    return GridImage(np.asarray(crop.resize(size, Image.Resampling.BICUBIC)), f"reference: {name}, image {coco_id}")


# ---- the data set ----------------------------------------------------------------------------------------------------
def _image_number(dataset, coco_id):
    """The data set's own number of an image."""
    number = dataset.image_from_source_map.get(f"coco.{coco_id}")
    if number is None:
        raise ValueError(f"image {coco_id} is not in {dataset.set_name}: the records are of another data set")
    return number


def _annotations(dataset, coco_id, category_id):
    """Annotations of a category in an image: (instances, crowds)."""
    annotations = dataset.image_info[_image_number(dataset, coco_id)]["annotations"]
    mine = [entry for entry in annotations if entry["category_id"] == category_id]
    return [entry for entry in mine if not entry["iscrowd"]], [entry for entry in mine if entry["iscrowd"]]


def _category_name(dataset, entry):
    """Name of the category of a query or an annotation."""
    number = dataset.class_from_source_map.get(f"coco.{entry['category_id']}")
    if number is None:
        raise ValueError(f"category {entry['category_id']} is not in {dataset.set_name}: records of another data set")
    return dataset.class_names[number]
