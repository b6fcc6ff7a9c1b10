"""Metrics by the number of instances in the image, and the confusion of categories.

Paper, Figures 5 and A1. Both start from the queries of a run, matched to the ground truth by
`match_queries`. Matching and precision equal COCOeval's.
"""

import dataclasses
import itertools
import logging
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pycocotools.mask as coco_mask
from pycocotools.coco import COCO
from tqdm import tqdm

from ..data.annotations import annotation_rle
from ..io.errors import InputError
from ..ops.boxes import match_greedily
from .coco_scores import IOU_TYPES, Result, checked_detection, known_ids
from .intervals import mean_and_ci

logger = logging.getLogger(__name__)

Bin = tuple[int, int | None]  # first and last number of instances, None: no upper end
Table = dict[str, list]

ANALYSIS_FILE = "analysis.json"
BINS: tuple[Bin, ...] = ((1, 1), (2, 2), (3, 3), (4, 5), (6, 10), (11, None))
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)  # COCOeval's
FALSE_POSITIVE, TRUE_POSITIVE, IGNORED = range(3)  # a detection in a crowd is ignored

_RECALLS = np.linspace(0, 1, 101)  # at which precision is read, COCOeval's
_MAX_DETECTIONS = 100  # of an image and category, COCOeval's
_METRICS = ("AP", "AP50")
_SCARCE = {  # number of instances of a category -> what it means
    0: "no instance in the images, so no score",
    1: "one instance, so the score says little",
}


@dataclasses.dataclass(frozen=True)
class QueryMatches:
    """Detections of one query, in descending order of score, matched to the ground truth.

    Attributes:
        image_id, category_id: COCO ids; the category is in the image.
        scores: [d].
        matches: int8 [10 IoU thresholds from 0.5 to 0.95, d], FALSE_POSITIVE, TRUE_POSITIVE or IGNORED.
        num_instances: of the category in the image, without crowds.
        others: category id -> (int8 [d], number of instances): the matches at IoU 0.5 with the instances of each
            category in the image, the queried one included.
    """

    image_id: int
    category_id: int
    scores: np.ndarray
    matches: np.ndarray
    num_instances: int
    others: dict[int, tuple[np.ndarray, int]]


# ---- one evaluation --------------------------------------------------------------------------------------------------


def analyse(
    coco: COCO,
    runs: Iterable[Sequence[Result]],
    *,
    image_ids: Iterable[int],
    category_ids: Iterable[int],
    iou_types: Sequence[str] = IOU_TYPES,
    bins: Sequence[Bin] = BINS,
    progress: bool = True,
) -> dict[str, Any]:
    """Both analyses of all runs of an evaluation, with means and intervals, as plain values for a JSON file.

    Args:
        coco: of the annotation file.
        runs: the COCO results of each run; only one run is in memory at a time.
        image_ids, category_ids: COCO ids that were evaluated.
        iou_types: of "bbox" and "segm".
        bins: as for `by_number`.

    Returns:
        dict of
        category_names: category id (as text, for JSON) -> name.
        num_instances: category id (as text) -> its instances in the images, without crowds.
        by_number: bins [b] ("1", "4-5", "11+"), num_queries [b], num_instances [b]; runs: for each iou type -> "AP" and
            "AP50" -> [b]; mean and interval likewise.
        confusion: category_ids [c]; for each iou type: matrix [c searched, c found] and histogram [c] of AP50, means
            over the runs, and histogram_interval [c].
        Scores are in 0..1, None where there is nothing to score.

    Raises:
        ValueError: no runs, an id that is not in `coco`, no instance in the images, or an invalid result.
    """
    image_ids, category_ids = known_ids(image_ids, coco.imgs, "image"), known_ids(category_ids, coco.cats, "category")
    counts = _count_instances(coco, image_ids, category_ids)
    by_numbers: list[dict[str, Table]] = []
    confusions: list[dict[str, np.ndarray]] = []
    chosen: dict[str, Any] = {"image_ids": image_ids, "category_ids": category_ids}
    for results in tqdm(runs, desc="analyse", unit=" runs", disable=not progress):
        queries = {kind: match_queries(coco, results, kind, **chosen) for kind in iou_types}
        by_numbers.append({kind: by_number(found, bins) for kind, found in queries.items()})
        confusions.append({kind: confusion(found, category_ids) for kind, found in queries.items()})
    if not by_numbers:
        raise InputError("runs: expected the results of one run or more, got none")
    return {
        "category_names": {str(category): coco.cats[category]["name"] for category in category_ids},
        "num_instances": {str(category): counts[category] for category in category_ids},
        "by_number": _join_numbers(by_numbers),
        "confusion": {"category_ids": category_ids, **_join_confusions(confusions)},
    }


def match_queries(
    coco: COCO, results: Sequence[Result], iou_type: str, *, image_ids: Iterable[int], category_ids: Iterable[int]
) -> list[QueryMatches]:
    """The queries of one run, in order of image and category: every category in every image that has it.

    Args:
        coco: of the annotation file.
        results: of COCO; other images or categories, and categories that are not in the image, are left out.
        iou_type: "bbox" or "segm".
        image_ids, category_ids: COCO ids [n].

    Raises:
        ValueError: an id that is not in `coco`, or an invalid result.
    """
    if iou_type not in IOU_TYPES:
        raise InputError(f"iou_type = {iou_type!r}: expected one of {', '.join(IOU_TYPES)}")
    image_ids, category_ids = known_ids(image_ids, coco.imgs, "image"), known_ids(category_ids, coco.cats, "category")
    shape, wanted = "bbox" if iou_type == "bbox" else "segmentation", set(category_ids)
    detections = defaultdict(list)  # (image id, category id) -> [(score, box or mask)]
    for index, result in enumerate(results):
        found = checked_detection(result, index, coco, iou_type)
        detections[found["image_id"], found["category_id"]].append((found["score"], found[shape]))
    queries: list[QueryMatches] = []
    for image_id in image_ids:
        truth = [entry for entry in coco.imgToAnns.get(image_id, ()) if entry["category_id"] in wanted]
        present = sorted({entry["category_id"] for entry in truth if not entry.get("iscrowd")})
        if present:
            of_image = ImageTruth(truth, coco.imgs[image_id], iou_type)
            queries += [_matched(of_image, image_id, category, detections[image_id, category]) for category in present]
    return queries


def by_number(queries: Sequence[QueryMatches], bins: Sequence[Bin] = BINS) -> Table:
    """AP and AP50 of the queries of each bin, by the number of instances of the searched category in the image.

    Each bin is scored alone: its (image, category) pairs, averaged over the categories that occur in it.

    Args:
        queries: of `match_queries`.
        bins: (first, last) numbers of instances, both included; None as the last: no upper end.

    Returns:
        dict bins [b] (their names), num_queries [b], num_instances [b], AP [b], AP50 [b]; None for an empty bin.
    """
    table: Table = {name: [] for name in ("bins", "num_queries", "num_instances", *_METRICS)}
    for first, last in bins:
        of_bin = [query for query in queries if first <= query.num_instances <= (last or np.inf)]
        precisions = [_precision(part) for part in _by_category(of_bin).values()]  # of [10] each
        table["bins"].append(bin_name((first, last)))
        table["num_queries"].append(len(of_bin))
        table["num_instances"].append(sum(query.num_instances for query in of_bin))
        table["AP"].append(float(np.mean(precisions)) if precisions else None)
        table["AP50"].append(float(np.mean(precisions, axis=0)[0]) if precisions else None)
    return table


def bin_name(limits: Bin) -> str:
    """The name of a bin (first, last), such as 1, 4-5 or 11+."""
    first, last = limits
    return f"{first}+" if last is None else str(first) if first == last else f"{first}-{last}"


def confusion(queries: Sequence[QueryMatches], category_ids: Sequence[int]) -> np.ndarray:
    """Confusion (i, j): AP50 of the detections for references of i, scored as detections of j, on the images with i.

    Args:
        queries: of `match_queries`.
        category_ids: COCO ids [c] of rows and columns.

    Returns:
        [c, c], row i searched, column j found; NaN where no image with i has an instance of j.
    """
    column = {category: index for index, category in enumerate(category_ids)}
    by_category = _by_category(queries)
    matrix = np.full((len(column), len(column)), np.nan)
    for category in set(by_category) & set(column):
        for other, precision in _confused_with(by_category[category]).items():
            if other in column:
                matrix[column[category], column[other]] = precision
    return matrix


def column_histogram(matrix: npt.ArrayLike) -> np.ndarray:
    """How often a category is found when others are searched: mean of each column without the diagonal.

    From a matrix [c, c] of `confusion`, whose NaNs are left out, to [c], NaN for a category never beside another.
    """
    others = np.array(matrix, float)
    np.fill_diagonal(others, np.nan)
    return np.asarray(np.ma.masked_invalid(others).mean(axis=0).filled(np.nan))


def _by_category(queries: Iterable[QueryMatches]) -> dict[int, list[QueryMatches]]:
    grouped: defaultdict[int, list[QueryMatches]] = defaultdict(list)
    for query in queries:
        grouped[query.category_id].append(query)
    return grouped


class ImageTruth:
    """Annotations of an image for matching: `categories` int [g], `crowds` bool [g]."""

    def __init__(self, annotations: list[dict[str, Any]], image: dict[str, Any], iou_type: str) -> None:
        height, width = image["height"], image["width"]
        is_box = iou_type == "bbox"
        self._shapes = [entry["bbox"] if is_box else annotation_rle(entry, height, width) for entry in annotations]
        self.categories = np.array([entry["category_id"] for entry in annotations])
        self.crowds = np.array([bool(entry.get("iscrowd")) for entry in annotations])

    def overlaps(self, shapes: list) -> np.ndarray:
        """IoU [d, g] of detections; of a crowd, the share of the detection inside it."""
        if not shapes:
            return np.zeros((0, len(self._shapes)))
        return np.asarray(coco_mask.iou(shapes, self._shapes, self.crowds.astype(np.uint8).tolist()))


def _matched(truth: ImageTruth, image_id: int, category_id: int, detections: list[tuple[float, Any]]) -> QueryMatches:
    """The QueryMatches of an image and category from its detections [(score, shape)]."""
    scores = np.array([score for score, _ in detections], float)
    order = np.argsort(-scores, kind="mergesort")[:_MAX_DETECTIONS]
    overlaps = truth.overlaps([detections[index][1] for index in order])
    own = truth.categories == category_id
    matches = [match_outcomes(overlaps[:, own], truth.crowds[own], threshold) for threshold in IOU_THRESHOLDS]
    others = {}
    for other in set(truth.categories.tolist()):
        of_other = truth.categories == other
        matched = match_outcomes(overlaps[:, of_other], truth.crowds[of_other], IOU_THRESHOLDS[0])
        others[other] = (matched, int((of_other & ~truth.crowds).sum()))
    table = np.array(matches, np.int8).reshape(len(IOU_THRESHOLDS), len(order))
    return QueryMatches(image_id, category_id, scores[order], table, others[category_id][1], others)


def match_outcomes(overlaps: np.ndarray, crowds: np.ndarray, threshold: float) -> np.ndarray:
    """FALSE_POSITIVE, TRUE_POSITIVE or IGNORED, int8 [d], of detections from their IoU [d, g], the best first.

    Each takes the instance that it overlaps most and that is left; a crowd takes any number of the others.
    """
    threshold = min(threshold, 1 - 1e-10)
    is_true = match_greedily(overlaps[:, ~crowds], threshold) >= 0
    in_crowd = (overlaps[:, crowds] >= threshold).any(axis=1)
    return np.where(is_true, TRUE_POSITIVE, np.where(in_crowd, IGNORED, FALSE_POSITIVE)).astype(np.int8)


def _precision(queries: Sequence[QueryMatches]) -> np.ndarray:
    """Average precision [10] at each IoU threshold, of queries of one category."""
    scores = np.concatenate([query.scores for query in queries])
    matches = np.concatenate([query.matches for query in queries], axis=1)
    order = np.argsort(-scores, kind="mergesort")
    count = sum(query.num_instances for query in queries)
    return np.array([_average_precision(row[order], count) for row in matches])


def _confused_with(queries: Sequence[QueryMatches]) -> dict[int, float]:
    """Category id -> AP50 of the queries of one category, scored as searches for that one."""
    scores = np.concatenate([query.scores for query in queries])
    order = np.argsort(-scores, kind="mergesort")
    starts = np.cumsum([0, *(len(query.scores) for query in queries)])
    matches: dict[int, np.ndarray] = {}
    counts: defaultdict[int, int] = defaultdict(int)
    for query, start in zip(queries, starts[:-1], strict=True):
        for other, (matched, count) in query.others.items():
            row = matches.setdefault(other, np.full(len(scores), FALSE_POSITIVE, np.int8))
            row[start : start + len(matched)] = matched
            counts[other] += count
    return {other: _average_precision(row[order], counts[other]) for other, row in matches.items() if counts[other]}


def _average_precision(matches: np.ndarray, count: int) -> float:
    """Mean of the precision at 101 recalls, from matches [d], best first, and the number of instances."""
    counted = matches[matches != IGNORED] == TRUE_POSITIVE
    hits = np.cumsum(counted)
    precision = hits / (np.arange(1, len(hits) + 1) + np.spacing(1))  # as COCOeval has it
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    reached = np.searchsorted(hits / count, _RECALLS, side="left")
    return float(np.append(precision, 0.0)[reached].mean())


def _join_numbers(runs: list[dict[str, Table]]) -> dict[str, Any]:
    """by_number tables of runs, [{iou type: table}], with mean and interval."""
    first = next(iter(runs[0].values()))
    joined: dict[str, Any] = {key: first[key] for key in ("bins", "num_queries", "num_instances")}
    joined["runs"] = [{kind: {name: table[name] for name in _METRICS} for kind, table in run.items()} for run in runs]
    joined |= {"mean": {kind: {} for kind in runs[0]}, "interval": {kind: {} for kind in runs[0]}}
    for kind, name in itertools.product(runs[0], _METRICS):
        means, intervals = _means_and_intervals(run[kind][name] for run in runs)
        joined["mean"][kind][name], joined["interval"][kind][name] = means, intervals
    return joined


def _join_confusions(runs: list[dict[str, np.ndarray]]) -> dict[str, Any]:
    """Matrices of runs, [{iou type: [c, c]}], as their mean and its histogram."""
    joined = {}
    for kind in runs[0]:
        means, intervals = _means_and_intervals(column_histogram(run[kind]) for run in runs)
        rows = np.mean([run[kind] for run in runs], axis=0).tolist()
        matrix = [[None if np.isnan(value) else value for value in row] for row in rows]
        joined[kind] = {"matrix": matrix, "histogram": means, "histogram_interval": intervals}
    return joined


def _means_and_intervals(runs: Iterable[Any]) -> tuple[list[float | None], list[float | None]]:
    """Mean and interval of each place of rows [runs][n]."""
    pairs = [mean_and_ci(values) for values in zip(*runs, strict=True)]
    return [mean for mean, _ in pairs], [interval for _, interval in pairs]


def _count_instances(coco: COCO, image_ids: Collection[int], category_ids: Iterable[int]) -> dict[int, int]:
    """Category id -> its instances in the images, without crowds; warns of categories with none or one."""
    counts = dict.fromkeys(category_ids, 0)
    for image_id in image_ids:
        for annotation in coco.imgToAnns.get(image_id, ()):
            if annotation["category_id"] in counts and not annotation.get("iscrowd"):
                counts[annotation["category_id"]] += 1
    if not any(counts.values()):
        raise InputError(f"no ground truth: none of {len(image_ids)} images has an instance of these categories")
    for text in scarce_categories([(coco.cats[category]["name"], count) for category, count in counts.items()]):
        logger.warning("%s", text)
    return counts


def scarce_categories(counts: Sequence[tuple[str, int]]) -> list[str]:
    """Texts that name the categories with no instance and with one, from (name, number of instances) of each."""
    texts = []
    for number, what in _SCARCE.items():
        names = [name for name, count in counts if count == number]
        if names:
            texts.append(f"{what}: {len(names)} of {len(counts)} categories ({', '.join(names)})")
    return texts
