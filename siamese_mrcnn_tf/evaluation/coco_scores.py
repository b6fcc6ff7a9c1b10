"""COCOeval's metrics of detections, and their mean and 95% confidence interval over runs.

Boxes of the network are (y1, x1, y2, x2) in pixels; COCO's are [x, y, width, height].
"""

import contextlib
import dataclasses
import io
import itertools
import logging
import math
import numbers
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
import numpy.typing as npt
import pycocotools.mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ..data.annotations import annotation_rle, coco_object, is_rle
from ..io.errors import InputError
from .intervals import mean_and_ci, mean_text

if TYPE_CHECKING:
    from .records import Records

logger = logging.getLogger(__name__)

Result = dict[str, Any]  # COCO result: image_id, category_id, bbox, score, area, segmentation
PerClass = dict[int, dict[str, float]]  # category id -> {"AP": ..., "AP50": ...}

SCORES_FILE = "scores.json"
AREAS = ("mask", "box")
IOU_TYPES = ("bbox", "segm")

_BOX_DIGITS = 2  # hundredths of a pixel
_COCO_METRICS = (  # name, is it a precision, IoU, area, detections an image; in the order of COCOeval.stats
    ("AP", True, "0.50:0.95", "all", 100),
    ("AP50", True, "0.50", "all", 100),
    ("AP75", True, "0.75", "all", 100),
    ("AP_small", True, "0.50:0.95", "small", 100),
    ("AP_medium", True, "0.50:0.95", "medium", 100),
    ("AP_large", True, "0.50:0.95", "large", 100),
    ("AR1", False, "0.50:0.95", "all", 1),
    ("AR10", False, "0.50:0.95", "all", 10),
    ("AR100", False, "0.50:0.95", "all", 100),
    ("AR_small", False, "0.50:0.95", "small", 100),
    ("AR_medium", False, "0.50:0.95", "medium", 100),
    ("AR_large", False, "0.50:0.95", "large", 100),
)
METRICS = tuple(name for name, *_ in _COCO_METRICS)


# ---- several runs ----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class EvaluationScores:
    """Metrics over several runs.

    Attributes:
        runs: for each run "bbox" and, for a model with masks, "segm" -> CocoScores.
        mean: iou type -> metric -> mean over runs; -1 without ground truth.
        interval: likewise half the width of the 95% interval of the mean; None for one run and without ground truth.
        num_images: of those that were searched for a category in them.
        num_queries, num_results: of all runs together, without those of absent categories.
        seconds: spent on the images, reading included.
    """

    runs: list[dict[str, "CocoScores"]]
    mean: dict[str, dict[str, float]]
    interval: dict[str, dict[str, float | None]]
    num_images: int
    num_queries: int
    num_results: int
    seconds: float

    @property
    def is_empty(self) -> bool:
        """No run has a detection, so that precision and recall are 0."""
        return not self.num_results

    def table(self, iou_type: str) -> str:
        """Means and intervals of "bbox" or "segm" in the layout of COCOeval.summarize."""
        means, intervals = self.mean[iou_type], self.interval[iou_type]
        return table({name: mean_text(means[name], intervals[name], digits=(3, 3), sign="+-") for name in means})

    def to_dict(self) -> dict[str, Any]:
        """The content of scores.json: `runs` hold metrics by iou type, and per_class."""
        runs = []
        for scores in self.runs:
            metrics: dict[str, Any] = {iou_type: dict(one.stats) for iou_type, one in scores.items()}
            runs.append(metrics | {"per_class": {iou_type: one.per_class for iou_type, one in scores.items()}})
        names = ("mean", "interval", "num_images", "num_queries", "num_results", "seconds")
        return {"runs": runs} | {name: getattr(self, name) for name in names}


def score_records(
    coco: COCO, records: "Records", *, has_masks: bool = True, image_ids: Iterable[int] | None = None
) -> EvaluationScores:
    """Score the records of a whole evaluation, masks too with `has_masks`; queries of absent categories do not count.

    `image_ids` are the COCO ids of the images to score; None: all. Errors as of `score`.
    """
    settings = records.settings
    wanted = None if image_ids is None else set(image_ids)  # None keeps results of other images, which `score` refuses
    images = settings["images"] if wanted is None else sorted(wanted)
    categories = [category["id"] for category in settings["categories"]]
    iou_types = IOU_TYPES if has_masks else IOU_TYPES[:1]
    chosen: dict[str, Any] = {"image_ids": images, "category_ids": categories}
    runs: list[dict[str, CocoScores]] = []
    num_results = 0
    for run in range(settings["runs"]):
        results = [one for one in records.results(run) if wanted is None or one["image_id"] in wanted]
        num_results += len(results)
        runs.append({iou_type: score(coco, results, iou_type=iou_type, **chosen) for iou_type in iou_types})
    scored = [record for record in records if wanted is None or record["image_id"] in wanted]
    mean: dict[str, dict[str, float]] = {kind: {} for kind in iou_types}
    interval: dict[str, dict[str, float | None]] = {kind: {} for kind in iou_types}
    for kind, name in itertools.product(iou_types, METRICS):
        value, interval[kind][name] = mean_and_ci([run[kind].stats[name] for run in runs])
        mean[kind][name] = -1.0 if value is None else value
    present = [sum(not query.get("absent") for query in one["queries"]) for one in scored]
    num_images, seconds = len(images) - present.count(0), sum(one["seconds"] for one in scored)
    return EvaluationScores(runs, mean, interval, num_images, sum(present), num_results, seconds)


def over_categories(
    per_class: Sequence[dict[Any, dict[str, float]]], category_ids: Iterable[Any], metric: str = "AP50"
) -> tuple[float, float | None]:
    """(mean, interval) of some categories over runs, as of `mean_and_ci`; 0 where no category has ground truth.

    Args:
        per_class: of each run's scores, {category id: {"AP", "AP50"}}.
        category_ids: keys of `per_class`; categories without ground truth are left out.
        metric: "AP" or "AP50".
    """
    values = [[run[category_id][metric] for category_id in category_ids] for run in per_class]
    mean, interval = mean_and_ci([float(np.mean([value for value in row if value >= 0] or [0.0])) for row in values])
    return mean or 0.0, interval


# ---- one run ---------------------------------------------------------------------------------------------------------


class ResultError(InputError):
    """A detection that is none of the annotation file; its message begins with its number."""


@dataclasses.dataclass(frozen=True)
class CocoScores:
    """COCOeval's metrics of one set of results; a metric without ground truth is -1."""

    iou_type: str  # "bbox" or "segm"
    stats: dict[str, float]  # the 12 METRICS by name
    per_class: PerClass
    num_images: int
    num_results: int  # of the scored images and categories
    # COCOeval's arrays, -1 without ground truth: [IoU, recall, category, area, detections], and recall without recall
    precision: np.ndarray | None = dataclasses.field(default=None, compare=False, repr=False)
    recall: np.ndarray | None = dataclasses.field(default=None, compare=False, repr=False)

    @property
    def is_empty(self) -> bool:
        """There are no detections, so that precision and recall are 0."""
        return not self.num_results

    def table(self) -> str:
        """The metrics in the layout of COCOeval.summarize."""
        return table({name: f"{value:0.3f}" for name, value in self.stats.items()})


def table(metrics: dict[str, str]) -> str:
    """Metrics as texts by name, in the layout of COCOeval.summarize."""
    lines = []
    for name, is_precision, iou, area, detections in _COCO_METRICS:
        title, kind = ("Average Precision", "(AP)") if is_precision else ("Average Recall", "(AR)")
        metric = f"@[ IoU={iou:<9} | area={area:>6s} | maxDets={detections:>3d} ] = {metrics[name]}"
        lines.append(f" {title:<18} {kind} {metric}")
    return "\n".join(lines)


def results_of(
    coco_image_id: int,
    category_id: int,
    rois: npt.ArrayLike,
    scores: npt.ArrayLike,
    masks: np.ndarray | None,
    *,
    area: str = "mask",
) -> list[Result]:
    """Detections of one category in one image as COCO results.

    Args:
        coco_image_id, category_id: the numbers of the annotation file.
        rois: [n, (y1, x1, y2, x2)] in pixels of the image.
        scores: [n].
        masks: [height, width, n], 0 or False outside; None for a model without masks.
        area: "mask" or "box": the area by which `score` sorts segm results into sizes.

    Returns:
        dicts of image_id, category_id, bbox, score, area, and with masks segmentation (compressed RLE).
    """
    rois, scores = np.asarray(rois, float).reshape(-1, 4), np.asarray(scores, float).reshape(-1)
    if area not in AREAS:
        raise InputError(f"area = {area!r}: expected one of {', '.join(AREAS)}")
    counts = [len(rois), len(scores)] + ([] if masks is None else [masks.shape[-1]])
    if len(set(counts)) > 1:
        raise InputError(f"image {coco_image_id}: rois, scores and masks differ in number: {counts}")
    rles = [None] * len(rois) if masks is None else coco_mask.encode(np.asfortranarray(masks, np.uint8))
    results = []
    for (y1, x1, y2, x2), confidence, rle in zip(rois.tolist(), scores.tolist(), rles, strict=True):
        box = [round(value, _BOX_DIGITS) for value in (x1, y1, x2 - x1, y2 - y1)]
        result = {"image_id": int(coco_image_id), "category_id": int(category_id), "bbox": box, "score": confidence}
        result["area"] = box[2] * box[3]
        if rle is not None:
            result["segmentation"] = {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")}
            result["area"] = float(coco_mask.area(rle)) if area == "mask" else result["area"]
        results.append(result)
    return results


def score(
    coco: COCO, results: Sequence[Result], *, iou_type: str, image_ids: Iterable[int], category_ids: Iterable[int]
) -> CocoScores:
    """COCOeval's metrics of results on some images and categories.

    Neither `coco` nor `results` is changed. The size of a box is its own area; that of a mask is the `area` of its
    result, or else the mask's.

    Args:
        coco: of the annotation file.
        results: as of `results_of`; other images or categories do not count.
        iou_type: "bbox" or "segm".
        image_ids, category_ids: COCO ids [n].

    Raises:
        ValueError: an id that is not in `coco`, a result with a missing key, or no ground truth at all.
    """
    image_ids, category_ids = known_ids(image_ids, coco.imgs, "image"), known_ids(category_ids, coco.cats, "category")
    evaluation = coco_evaluation(coco, results, iou_type=iou_type, image_ids=image_ids, category_ids=category_ids)
    stats = dict(zip(METRICS, coco_stats(evaluation).tolist(), strict=True))
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
    per_class, num_results = _per_class(precision, category_ids), len(evaluation.cocoDt.anns)
    return CocoScores(iou_type, stats, per_class, len(image_ids), num_results, precision, recall)


def coco_evaluation(
    coco: COCO, results: Sequence[Result], *, iou_type: str, image_ids: Iterable[int], category_ids: Iterable[int]
) -> COCOeval:
    """An accumulated COCOeval of results, categories in order of id; arguments and errors as of `score`."""
    if iou_type not in IOU_TYPES:
        raise InputError(f"iou_type = {iou_type!r}: expected one of {', '.join(IOU_TYPES)}")
    image_ids, category_ids = known_ids(image_ids, coco.imgs, "image"), known_ids(category_ids, coco.cats, "category")
    images, categories = set(image_ids), set(category_ids)
    detections = [checked_detection(result, index, coco, iou_type) for index, result in enumerate(results)]
    detections = [entry for entry in detections if entry["image_id"] in images and entry["category_id"] in categories]
    if not detections:
        logger.warning("%s: there are no detections to score; every metric with ground truth is 0", iou_type)
    truth = _ground_truth(coco, images, categories, iou_type)
    evaluation = _Evaluation(_coco_of(truth, coco), _coco_of(detections, coco), iou_type)
    evaluation.pairs = {(entry["image_id"], entry["category_id"]) for entry in truth + detections}
    evaluation.params.imgIds, evaluation.params.catIds = image_ids, category_ids
    with contextlib.redirect_stdout(io.StringIO()):  # COCOeval prints at every step
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def coco_stats(
    evaluation: COCOeval, *, class_index: npt.ArrayLike | None = None, out: TextIO | None = None
) -> np.ndarray:
    """The 12 metrics float64 [12] of a `coco_evaluation`, also in its `stats`.

    Args:
        evaluation: an accumulated COCOeval.
        class_index: indices [n] of the categories to average over, from 0 in order of id; None: all.
        out: text stream for COCOeval's table.
    """
    arrays = evaluation.eval
    if class_index is not None:
        precision, recall = arrays["precision"][:, :, class_index], arrays["recall"][:, class_index]
        evaluation.eval = arrays | {"precision": precision, "recall": recall}
    with contextlib.redirect_stdout(io.StringIO() if out is None else out):
        evaluation.summarize()
    evaluation.eval = arrays
    return np.asarray(evaluation.stats)


class _Evaluation(COCOeval):
    """COCOeval that is quick about (image, category) pairs without ground truth.

    An image of COCO has 3 of 80 categories on average, so that COCOeval spends most of its time on empty pairs, and
    under the open protocol on detections of categories that are not in the image.
    """

    pairs: Collection[tuple[int, int]] = frozenset()

    def computeIoU(self, imgId: int, catId: int) -> Any:
        return super().computeIoU(imgId, catId) if self._has_any(imgId, catId) else []

    def evaluateImg(self, imgId: int, catId: int, aRng: list[float], maxDet: int) -> Any:
        if not self._has_any(imgId, catId):
            return None
        if self.params.useCats and not self._gts[imgId, catId]:
            return self._unmatched(imgId, catId, aRng, maxDet)
        return super().evaluateImg(imgId, catId, aRng, maxDet)

    def _unmatched(self, image_id: int, category_id: int, area_range: list[float], max_detections: int) -> Any:
        """What `evaluateImg` accumulates of a pair without ground truth: detections outside the area are ignored."""
        found = sorted(self._dts[image_id, category_id], key=lambda one: -one["score"])[:max_detections]
        ignored = [not area_range[0] <= one["area"] <= area_range[1] for one in found]
        shape = len(self.params.iouThrs), len(found)
        is_ignored = np.zeros(shape, bool)
        is_ignored[:] = ignored
        evaluated: dict[str, Any] = {"image_id": image_id, "category_id": category_id, "aRng": area_range}
        evaluated |= {"maxDet": max_detections, "dtIds": [one["id"] for one in found], "gtIds": []}
        evaluated |= {"dtMatches": np.zeros(shape), "gtMatches": np.zeros((shape[0], 0)), "gtIgnore": np.zeros(0)}
        return evaluated | {"dtScores": [one["score"] for one in found], "dtIgnore": is_ignored}

    def _has_any(self, image_id: int, category_id: int) -> bool:
        return (image_id, category_id) in self.pairs or not self.params.useCats


def known_ids(ids: Iterable[int], known: Collection[int], what: str) -> list[int]:
    """Sorted unique ids as plain ints; raises ValueError for an id that is not in `known`."""
    ids = sorted({int(i) for i in ids})
    unknown = [i for i in ids if i not in known]
    if unknown:
        raise InputError(f"{what} ids {unknown[:5]} are not in the annotation file")
    return ids


def _ground_truth(coco: COCO, image_ids: set[int], category_ids: set[int], iou_type: str) -> list[dict[str, Any]]:
    """Copies of the annotations to score against, since COCOeval changes its input."""
    truth: list[dict[str, Any]] = []
    for image_id in sorted(image_ids):
        image = coco.imgs[image_id]
        for annotation in coco.imgToAnns.get(image_id, ()):
            if annotation["category_id"] in category_ids:
                truth.append(dict(annotation))
                if iou_type == "segm":
                    truth[-1]["segmentation"] = annotation_rle(annotation, image["height"], image["width"])
    if all(annotation.get("iscrowd") for annotation in truth):
        what = f"none of {len(image_ids)} images has an instance of the categories {sorted(category_ids)}"
        raise InputError(f"no ground truth: {what}")
    return truth


def checked_detection(result: Result, index: int, coco: COCO, iou_type: str) -> dict[str, Any]:
    """The keys of a result that COCOeval needs, checked; a ResultError names the result and the key."""
    needed = ("image_id", "category_id", "score", "segmentation" if iou_type == "segm" else "bbox")
    missing = [key for key in needed if key not in result]
    if missing:
        raise ResultError(f"result {index}: the key {missing[0]!r} is missing")
    image = coco.imgs.get(result["image_id"])
    if image is None:
        what = f"image_id = {result['image_id']!r} is not in the annotation file"
        raise ResultError(f"result {index}: {what}; are these the results of another set?")
    if not _are_numbers([result["score"]]):
        raise ResultError(f"result {index}: score = {result['score']!r}, expected a number")
    detection = {key: result[key] for key in needed} | {"iscrowd": 0}
    if iou_type == "bbox":
        box = result["bbox"]
        if len(box) != 4 or not _are_numbers(box):
            raise ResultError(f"result {index}: bbox = {box!r}, expected [x, y, width, height] in pixels")
        return detection | {"area": box[2] * box[3]}
    rle = result["segmentation"]
    if not isinstance(rle, dict) or not is_rle(rle, (image["height"], image["width"])):
        size = f"{image['height']} x {image['width']}"
        raise ResultError(f"result {index}: segmentation is no RLE of the size of image {image['id']} ({size})")
    if isinstance(rle["counts"], list):
        detection["segmentation"] = rle = coco_mask.frPyObjects(rle, image["height"], image["width"])
    return detection | {"area": result.get("area", float(coco_mask.area(rle)))}


def _are_numbers(values: Iterable[Any]) -> bool:
    return all(isinstance(value, numbers.Real) and math.isfinite(value) for value in values)


def _coco_of(annotations: list[dict[str, Any]], coco: COCO) -> COCO:
    """COCO object of annotations on the images of `coco`, numbered from 1, since COCOeval takes id 0 for "no match"."""
    for number, annotation in enumerate(annotations, 1):
        annotation["id"] = number
    return coco_object(coco.dataset | {"annotations": annotations})


def _per_class(precision: np.ndarray, category_ids: list[int]) -> PerClass:
    """AP and AP50 by category from precision [IoU, recall, category, area, detections]; -1 without ground truth."""
    by_category = np.moveaxis(precision[:, :, :, 0, -1], -1, 0)  # [category, IoU, recall]
    pairs = zip(category_ids, by_category, strict=True)
    return {category_id: {"AP": _mean(one), "AP50": _mean(one[0])} for category_id, one in pairs}


def _mean(precision: np.ndarray) -> float:
    valid = precision[precision > -1]
    return float(valid.mean()) if valid.size else -1.0
