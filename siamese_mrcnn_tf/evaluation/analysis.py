"""Analyses of the paper's protocol: scores by the number of instances in the image, confusion of categories, intervals.

Paper, Figures 5 and A1; design section 7. Everything starts from the queries of a run, which `match_queries` makes: for
an image and a category that is in it, how the detections match the instances there, of this category and of the others.
Matching and precision are COCOeval's, without its loops over what cannot match.
"""

import dataclasses
import logging
import numbers
from collections import defaultdict

import numpy as np
import pycocotools.mask as coco_mask
from tqdm import tqdm

from ..data.annotations import annotation_rle, is_rle

logger = logging.getLogger(__name__)

BINS = ((1, 1), (2, 2), (3, 3), (4, 5), (6, 10), (11, None))  # first and last number of instances, None: no end
IOU_TYPES = ("bbox", "segm")
Z_95 = 1.96  # standard errors to either side that hold 95% of a normal distribution

_THRESHOLDS = np.linspace(0.5, 0.95, 10)  # of IoU, COCOeval's
_RECALLS = np.linspace(0, 1, 101)  # at which precision is read, COCOeval's
_MAX_DETECTIONS = 100  # of an image and category, COCOeval's
FALSE_POSITIVE, TRUE_POSITIVE, IGNORED = range(3)  # what became of a detection; one in a crowd counts as neither right nor wrong


@dataclasses.dataclass(frozen=True)
class QueryMatches:
    """What one search brought, the detections by falling score.

    Attributes:
        image_id, category_id: COCO ids; the category is in the image.
        scores: [d].
        matches: int8 [10 IoU thresholds from 0.5 to 0.95, d], FALSE_POSITIVE, TRUE_POSITIVE or IGNORED.
        num_instances: of the category in the image, crowds not counted.
        others: category id -> (int8 [d], its number of instances): the matches at IoU 0.5 if the detections are taken
            for this category, for each that is in the image, the queried one among them.
    """

    image_id: int
    category_id: int
    scores: np.ndarray
    matches: np.ndarray
    num_instances: int
    others: dict


# ---- one evaluation --------------------------------------------------------------------------------------------------


def analyse(coco, runs, *, image_ids, category_ids, iou_types=IOU_TYPES, bins=BINS, progress=True):
    """Both analyses of all runs of an evaluation, with means and intervals, as plain values for a JSON file.

    Args:
        coco: `pycocotools.coco.COCO` of the annotation file.
        runs: lists of COCO results, one a run; an iterable, of which one is held at a time.
        image_ids, category_ids: COCO ids that were evaluated.
        iou_types: of "bbox" and "segm".
        bins: as for `by_number`.
        progress: show a progress bar.

    Returns:
        dict of
        category_names: category id (as text, as JSON wants it) -> name.
        num_instances: category id (as text) -> its instances in the images, crowds not counted.
        by_number: bins [b] ("1", "4-5", "11+"), num_queries [b], num_instances [b]; runs: for each iou type -> "AP" and
            "AP50" -> [b]; mean and interval likewise.
        confusion: category_ids [c]; for each iou type: matrix [c searched, c found] and histogram [c] of AP50, means
            over the runs, and histogram_interval [c].
        Scores are in 0..1, None where there is nothing to score.

    Raises:
        ValueError: no runs, an id that is not in `coco`, no instance in the images, or a result that is no result.
    """
    image_ids, category_ids = _known(image_ids, coco.imgs, "image"), _known(category_ids, coco.cats, "category")
    counts = _count_instances(coco, image_ids, category_ids)
    by_numbers, confusions = [], []
    for results in tqdm(runs, desc="analyse", unit="run", disable=not progress):
        by_numbers.append({})
        confusions.append({})
        for iou_type in iou_types:
            queries = match_queries(coco, results, iou_type, image_ids=image_ids, category_ids=category_ids)
            by_numbers[-1][iou_type] = by_number(queries, bins)
            confusions[-1][iou_type] = confusion(queries, category_ids)
    if not by_numbers:
        raise ValueError("runs: expected the results of one run or more, got none")
    return {
        "category_names": {str(category): coco.cats[category]["name"] for category in category_ids},
        "num_instances": {str(category): counts[category] for category in category_ids},
        "by_number": _join_numbers(by_numbers),
        "confusion": {"category_ids": category_ids, **_join_confusions(confusions)},
    }


def match_queries(coco, results, iou_type, *, image_ids, category_ids):
    """The queries of one run, in order of image and category: every category in every image that has it.

    Args:
        coco: `pycocotools.coco.COCO` of the annotation file.
        results: list of COCO results; those of other images, of other categories, or of a category that is not in the
            image belong to no query.
        iou_type: "bbox" or "segm".
        image_ids, category_ids: COCO ids [n].

    Returns:
        list of QueryMatches

    Raises:
        ValueError: an id that is not in `coco`, or a result that is no result of this set.
    """
    if iou_type not in IOU_TYPES:
        raise ValueError(f"iou_type = {iou_type!r}: expected one of {', '.join(IOU_TYPES)}")
    image_ids, category_ids = _known(image_ids, coco.imgs, "image"), _known(category_ids, coco.cats, "category")
    detections, wanted, queries = _detections(results, coco, iou_type), set(category_ids), []
    for image_id in image_ids:
        truth = [entry for entry in coco.imgToAnns.get(image_id, ()) if entry["category_id"] in wanted]
        present = sorted({entry["category_id"] for entry in truth if not entry.get("iscrowd")})
        if present:
            of_image = _Truth(truth, coco.imgs[image_id], iou_type)
            queries += [_query(of_image, image_id, category, detections[image_id, category]) for category in present]
    return queries


def by_number(queries, bins=BINS):
    """AP and AP50 of the queries of each bin, by the number of instances of the searched category in the image.

    Each bin is scored for itself: its (image, category) pairs, the mean over the categories that occur in it.

    Args:
        queries: of `match_queries`.
        bins: sequence of (first, last) numbers of instances, both included; None as the last: no end.

    Returns:
        dict bins [b] (their names), num_queries [b], num_instances [b], AP [b], AP50 [b]; None for an empty bin.
    """
    table = {"bins": [bin_name(part) for part in bins], "num_queries": [], "num_instances": [], "AP": [], "AP50": []}
    for first, last in bins:
        of_bin = [query for query in queries if first <= query.num_instances <= (last or np.inf)]
        by_category = defaultdict(list)
        for query in of_bin:
            by_category[query.category_id].append(query)
        precisions = [_precision(part) for part in by_category.values()]  # of [10] each
        table["num_queries"].append(len(of_bin))
        table["num_instances"].append(sum(query.num_instances for query in of_bin))
        table["AP"].append(float(np.mean(precisions)) if precisions else None)
        table["AP50"].append(float(np.mean(precisions, axis=0)[0]) if precisions else None)
    return table


def bin_name(part):
    """The name of a bin (first, last), such as 1, 4-5 or 11+."""
    first, last = part
    return f"{first}+" if last is None else str(first) if first == last else f"{first}-{last}"


def confusion(queries, category_ids):
    """Confusion (i, j): AP50 of what was found for references of i on the images with i, as detections of j there.

    Args:
        queries: of `match_queries`.
        category_ids: COCO ids [c] of rows and columns.

    Returns:
        [c, c], row i searched, column j found; NaN where no image with i has an instance of j.
    """
    column = {category: index for index, category in enumerate(category_ids)}
    by_category = defaultdict(list)
    for query in queries:
        by_category[query.category_id].append(query)
    matrix = np.full((len(column), len(column)), np.nan)
    for category in set(by_category) & set(column):
        for other, precision in _confused_with(by_category[category]).items():
            if other in column:
                matrix[column[category], column[other]] = precision
    return matrix


def column_histogram(matrix):
    """How often a category is found when others are searched: mean of each column without the diagonal.

    Args:
        matrix: [c, c] of `confusion`; NaN does not count.

    Returns:
        [c], NaN for a category that never stands beside another.
    """
    others = np.array(matrix, float)
    np.fill_diagonal(others, np.nan)
    valid = ~np.isnan(others)
    counts = valid.sum(axis=0)
    sums = np.where(valid, others, 0).sum(axis=0)
    return np.divide(sums, counts, out=np.full(len(others), np.nan), where=counts > 0)


# ---- intervals -------------------------------------------------------------------------------------------------------


def mean_and_interval(values):
    """Mean over runs, and half the width of its 95% confidence interval: 1.96 * std / sqrt(runs), std with ddof 0.

    Args:
        values: [runs]; None, NaN or negative (COCOeval's -1) where there was nothing to score.

    Returns:
        (mean, interval); (mean, None) of a single run, (None, None) if a run has no value.
    """
    values = np.array([np.nan if value is None else value for value in values], float)
    if not values.size or not (values >= 0).all():
        return None, None
    interval = float(Z_95 * values.std() / np.sqrt(values.size)) if values.size > 1 else None
    return float(values.mean()), interval


def mean_over_splits(values):
    """Mean and interval over category splits: of the means over the splits of each run.

    Args:
        values: [splits][runs].

    Returns:
        (mean, interval) as of `mean_and_interval`.

    Raises:
        ValueError: the splits differ in their number of runs.
    """
    if len({len(runs) for runs in values}) > 1:
        raise ValueError(f"the splits differ in their number of runs: {[len(runs) for runs in values]}")
    return mean_and_interval([mean_and_interval(run)[0] for run in zip(*values, strict=True)])


# ---- helpers: matching -----------------------------------------------------------------------------------------------


class _Truth:
    """The annotations of an image as they are matched against.

    Attributes:
        categories: int [g].
        crowds: bool [g].
    """

    def __init__(self, annotations, image, iou_type):
        height, width = image["height"], image["width"]
        is_box = iou_type == "bbox"
        self._shapes = [entry["bbox"] if is_box else annotation_rle(entry, height, width) for entry in annotations]
        self.categories = np.array([entry["category_id"] for entry in annotations])
        self.crowds = np.array([bool(entry.get("iscrowd")) for entry in annotations])

    def overlaps(self, shapes):
        """IoU [d, g] of detections; with a crowd, the share of the detection inside it."""
        if not shapes:
            return np.zeros((0, len(self._shapes)))
        return np.asarray(coco_mask.iou(shapes, self._shapes, self.crowds.astype(np.uint8).tolist()))


def _query(truth, image_id, category_id, detections):
    """The QueryMatches of an image and category from its detections [(score, shape)]."""
    scores = np.array([score for score, _ in detections], float)
    order = np.argsort(-scores, kind="mergesort")[:_MAX_DETECTIONS]
    overlaps = truth.overlaps([detections[index][1] for index in order])
    own = truth.categories == category_id
    matches = [_match(overlaps[:, own], truth.crowds[own], threshold) for threshold in _THRESHOLDS]
    others = {category_id: (matches[0], int((own & ~truth.crowds).sum()))}
    for other in set(truth.categories.tolist()) - {category_id}:
        of_other = truth.categories == other
        matched = _match(overlaps[:, of_other], truth.crowds[of_other], _THRESHOLDS[0])
        others[other] = (matched, int((of_other & ~truth.crowds).sum()))
    matches = np.array(matches, np.int8).reshape(len(_THRESHOLDS), len(order))
    return QueryMatches(image_id, category_id, scores[order], matches, others[category_id][1], others)


def _match(overlaps, crowds, threshold):
    """What becomes of detections: each takes the instance that it overlaps most, of those that are left.

    Args:
        overlaps: IoU [d, g], detections by falling score.
        crowds: bool [g]; a crowd takes any number of detections, if no instance does.
        threshold: of IoU.

    Returns:
        int8 [d]
    """
    threshold = min(threshold, 1 - 1e-10)
    matches = np.full(len(overlaps), FALSE_POSITIVE, np.int8)
    free = ~crowds
    for index in np.flatnonzero((overlaps >= threshold).any(axis=1)):
        row = np.where(free, overlaps[index], -1)
        best = len(row) - 1 - np.argmax(row[::-1])  # of equals the last, as COCOeval has it
        if row[best] >= threshold:
            matches[index], free[best] = TRUE_POSITIVE, False
        elif (overlaps[index, crowds] >= threshold).any():
            matches[index] = IGNORED
    return matches


# ---- helpers: precision ----------------------------------------------------------------------------------------------


def _precision(queries):
    """Average precision [10] at each IoU threshold, of queries of one category."""
    scores = np.concatenate([query.scores for query in queries])
    matches = np.concatenate([query.matches for query in queries], axis=1)
    order = np.argsort(-scores, kind="mergesort")
    count = sum(query.num_instances for query in queries)
    return np.array([_average_precision(row[order], count) for row in matches])


def _confused_with(queries):
    """Category id -> AP50 of the queries of one category, taken for searches of that one."""
    scores = np.concatenate([query.scores for query in queries])
    order = np.argsort(-scores, kind="mergesort")
    starts = np.cumsum([0, *(len(query.scores) for query in queries)])
    matches, counts = {}, defaultdict(int)
    for query, start in zip(queries, starts[:-1], strict=True):
        for other, (matched, count) in query.others.items():
            row = matches.setdefault(other, np.full(len(scores), FALSE_POSITIVE, np.int8))
            row[start : start + len(matched)] = matched
            counts[other] += count
    return {other: _average_precision(row[order], counts[other]) for other, row in matches.items() if counts[other]}


def _average_precision(matches, count):
    """Mean of the precision at 101 recalls.

    Args:
        matches: int8 [d] by falling score.
        count: instances that there were to find, at least one.
    """
    counted = matches[matches != IGNORED] == TRUE_POSITIVE
    hits = np.cumsum(counted)
    precision = hits / (np.arange(1, len(hits) + 1) + np.spacing(1))  # as COCOeval has it
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    reached = np.searchsorted(hits / count, _RECALLS, side="left")
    return float(np.append(precision, 0.0)[reached].mean())


# ---- helpers: joining runs -------------------------------------------------------------------------------------------


def _join_numbers(runs):
    """by_number tables of runs, [{iou type: table}], with mean and interval."""
    first = next(iter(runs[0].values()))
    joined = {key: first[key] for key in ("bins", "num_queries", "num_instances")}
    metrics = ("AP", "AP50")
    joined["runs"] = [{kind: {name: table[name] for name in metrics} for kind, table in run.items()} for run in runs]
    joined["mean"], joined["interval"] = {}, {}
    for kind in runs[0]:
        for name in metrics:
            pairs = [mean_and_interval(values) for values in zip(*(run[kind][name] for run in runs), strict=True)]
            joined["mean"].setdefault(kind, {})[name] = [mean for mean, _ in pairs]
            joined["interval"].setdefault(kind, {})[name] = [interval for _, interval in pairs]
    return joined


def _join_confusions(runs):
    """Matrices of runs, [{iou type: [c, c]}], as their mean and its histogram."""
    joined = {}
    for kind in runs[0]:
        histograms = [column_histogram(run[kind]) for run in runs]
        pairs = [mean_and_interval(values) for values in zip(*histograms, strict=True)]
        joined[kind] = {
            "matrix": [_plain(row) for row in np.mean([run[kind] for run in runs], axis=0)],
            "histogram": [mean for mean, _ in pairs],
            "histogram_interval": [interval for _, interval in pairs],
        }
    return joined


def _plain(values):
    return [None if np.isnan(value) else float(value) for value in values]


# ---- helpers: checks -------------------------------------------------------------------------------------------------


def _known(ids, known, what):
    ids = sorted({int(i) for i in ids})
    unknown = [i for i in ids if i not in known]
    if unknown:
        raise ValueError(f"{what} ids {unknown[:5]} are not in the annotation file")
    return ids


def _count_instances(coco, image_ids, category_ids):
    """Category id -> its instances in the images, crowds not counted; says which categories have none or one."""
    counts = dict.fromkeys(category_ids, 0)
    for image_id in image_ids:
        for annotation in coco.imgToAnns.get(image_id, ()):
            if annotation["category_id"] in counts and not annotation.get("iscrowd"):
                counts[annotation["category_id"]] += 1
    if not any(counts.values()):
        raise ValueError(f"no ground truth: none of {len(image_ids)} images has an instance of these categories")
    for number, what in ((0, "not in the images, and have no score"), (1, "there once: what is found of them is luck")):
        names = [coco.cats[category]["name"] for category, count in counts.items() if count == number]
        if names:
            logger.warning("%d of %d categories are %s: %s", len(names), len(counts), what, ", ".join(names))
    return counts


def _detections(results, coco, iou_type):
    """(image id, category id) -> [(score, box or mask)]."""
    detections = defaultdict(list)
    shape = "bbox" if iou_type == "bbox" else "segmentation"
    for index, result in enumerate(results):
        missing = [key for key in ("image_id", "category_id", "score", shape) if key not in result]
        if missing:
            raise ValueError(f"result {index}: the key {missing[0]!r} is missing")
        image = coco.imgs.get(result["image_id"])
        if image is None:
            raise ValueError(
                f"result {index}: image_id = {result['image_id']!r} is not in the annotation file; are these the "
                "results of another set?"
            )
        if not isinstance(result["score"], numbers.Real) or not np.isfinite(result["score"]):
            raise ValueError(f"result {index}: score = {result['score']!r}, expected a number")
        found = result[shape]
        if iou_type == "segm":
            found = _checked_rle(found, image, index)
        detections[result["image_id"], result["category_id"]].append((result["score"], found))
    return detections


def _checked_rle(rle, image, index):
    size = (image["height"], image["width"])
    if not isinstance(rle, dict) or not is_rle(rle, size):
        raise ValueError(f"result {index}: segmentation is no RLE of the size of image {image['id']} {size}")
    return coco_mask.frPyObjects(rle, *size) if isinstance(rle["counts"], list) else rle
