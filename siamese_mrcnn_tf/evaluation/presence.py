"""The open protocol's metrics: does a search say whether the category is in the image, and is it silent otherwise?

The queries for categories that are in their image and for those that are not are counted together. A query shows
something where a detection scores at least the threshold; its score is that of its best detection, 0 without any.

cgF1, its positive micro F1 and IL_MCC are those of SAM 3 (arXiv 2511.16719), as computed by `sam3/eval/cgf1_eval.py` in
github.com/facebookresearch/sam3, commit 99d02f2, without the small constants that it adds to its divisors.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy.optimize import linear_sum_assignment

from .analysis import IGNORED, IOU_THRESHOLDS, TRUE_POSITIVE, ImageTruth, match_outcomes
from .coco_scores import IOU_TYPES, METRICS, coco_evaluation, coco_stats, known_ids
from .intervals import mean_and_ci, mean_text
from .records import Records
from .settings import DEFAULT_THRESHOLD, require_threshold

PRESENCE_FILE = "presence.json"
QUERIES = "queries"  # beside the iou types: the metrics that need no ground truth boxes or masks
QUERY_METRICS = {
    "AUROC": "AUROC of presence",
    "IL_MCC": "IL_MCC (Matthews correlation of presence, -1 to 1)",
    "present_firing": "present queries that show a detection",
    "absent_firing": "absent queries that show a detection",
    "false_detections": "false detections per absent query (number)",
    "present_at_5": "present queries that show one, where 5% of the absent ones do",
    "present_at_10": "present queries that show one, where 10% of the absent ones do",
}
INSTANCE_METRICS = {
    "AP50": "AP50, absent categories asked too",
    "AP": "AP, absent categories asked too",
    "precision": "precision of instances",
    "recall": "recall of instances",
    "F1": "F1 of instances",
    "positive_F1": "positive micro F1 (IoU 0.50:0.95)",
    "cgF1": "cgF1 (0 to 100)",
    "found": "present queries with a right detection",
    "recall_at_5": "recall where 5% of the absent queries show one",
    "recall_at_10": "recall where 10% of the absent queries show one",
}
SIGNED = ("IL_MCC", "cgF1")  # may be negative
PERCENTS = ("cgF1",)  # in 0..100, the others in 0..1

_RATES = {"5": 0.05, "10": 0.1}  # shares of absent queries that show a detection
_CURVE_POINTS = 200  # at most
_BINS = 20  # of the histogram of scores
_LABEL, _COLUMN = 68, 17  # characters of a table's columns

Metrics = dict[str, float | None]


@dataclasses.dataclass(frozen=True)
class _Found:
    """The detections of the present queries of a run, of one iou type.

    Attributes:
        scores: [d].
        outcomes: int8 [d] at IoU 0.5, FALSE_POSITIVE, TRUE_POSITIVE or IGNORED.
        owners: [d], index of the query.
        counts: [p], instances of each query.
        true_counts: [10 IoU thresholds], instances found by the detections from the threshold on, one to one.
        num_shown: those detections.
    """

    scores: np.ndarray
    outcomes: np.ndarray
    owners: np.ndarray
    counts: np.ndarray
    true_counts: np.ndarray
    num_shown: int


@dataclasses.dataclass(frozen=True)
class _Run:
    """The scores of a run: best ones of present [p] and absent [a] queries, all of the absent ones ascending [f]."""

    num_images: int
    present: np.ndarray
    absent: np.ndarray
    false: np.ndarray
    found: dict[str, _Found]


def presence(
    coco: COCO,
    records: Records,
    *,
    category_ids: Iterable[int] | None = None,
    groups: Mapping[str, Iterable[int]] | None = None,
    threshold: float | None = None,
) -> dict[str, Any]:
    """The metrics of presence of a whole evaluation with `EvaluationSettings.absent`.

    Args:
        coco: of the annotation file.
        records: of the evaluation.
        category_ids: COCO ids; only queries for these count. None: all that were evaluated.
        groups: name -> COCO ids among them, to measure apart, such as train and novel categories.
        threshold: minimum score of a detection; None: that of the settings, 0.7 if they have none.

    Returns:
        plain values for a JSON file:
        threshold; minimum, the score below which the detector keeps nothing, so that curves end there; absent, of the
            settings; category_ids; num_images; num_present and num_absent, the queries of a run.
        runs: for each run QUERIES -> QUERY_METRICS, and for each iou type the 12 COCO metrics with the detections of
            absent queries counted, and INSTANCE_METRICS. In 0..1, cgF1 in -100..100. None where there is nothing to
            measure; the precision without detections is 0.
        mean, interval: of the runs, in the same layout, as of `intervals.mean_and_ci`.
        curve: thresholds [t <= 200], descending; at each the false_detections per absent query, the share of absent
            queries that show any (absent_firing), and for each iou type the recall; means over the runs.
        histogram: edges [21] of scores; present and absent [20], shares of the queries of all runs.
        groups: name -> the same keys, but for groups, of its queries.

    Raises:
        ValueError: a threshold that is none, ids that were not evaluated, no ground truth, or an invalid result.
    """
    settings = records.settings
    threshold = settings.get("threshold", DEFAULT_THRESHOLD) if threshold is None else threshold
    require_threshold(threshold)
    evaluated = [category["id"] for category in settings["categories"]]
    chosen = known_ids(evaluated if category_ids is None else category_ids, evaluated, "category")
    parts = {"": chosen} | {name: known_ids(ids, chosen, "category") for name, ids in (groups or {}).items()}
    kinds = IOU_TYPES if settings["config"]["MODEL"] == "mrcnn" else IOU_TYPES[:1]
    truths, runs = _Truths(coco, kinds), []
    for number in range(settings["runs"]):
        queries = [query for query in records.queries(number, absent=True) if query["category_id"] in chosen]
        scored = _score(coco, queries, chosen, kinds)
        runs.append({name: _measure(queries, truths, scored, ids, threshold) for name, ids in parts.items()})
    about = {"threshold": threshold, "minimum": settings["config"]["DETECTION_MIN_CONFIDENCE"]}
    about["absent"] = settings.get("absent")
    joined = {name: about | _over_runs([run[name] for run in runs], ids) for name, ids in parts.items()}
    return joined.pop("") | {"groups": joined}


def auroc(present: npt.ArrayLike, absent: npt.ArrayLike) -> float | None:
    """Probability that a present query scores above an absent one, ties half; of scores [p] and [a], None without."""
    present, absent = np.asarray(present, float), np.sort(np.asarray(absent, float))
    if not present.size or not absent.size:
        return None
    below, not_above = (np.searchsorted(absent, present, side=side) for side in ("left", "right"))
    return float((below + not_above).sum() / (2 * present.size * absent.size))


def matthews(true_positives: int, false_positives: int, false_negatives: int, true_negatives: int) -> float:
    """Matthews correlation coefficient, -1..1; 0 where a row or a column of the table is empty."""
    tp, fp, fn, tn = map(float, (true_positives, false_positives, false_negatives, true_negatives))
    product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    return (tp * tn - fp * fn) / product**0.5 if product else 0.0


def silent_above(absent: npt.ArrayLike, rate: float) -> float | None:
    """The score above which at most a share `rate` of the absent queries, with best scores [a], shows a detection."""
    ordered = -np.sort(-np.asarray(absent, float))
    allowed = int(rate * ordered.size + 1e-9)
    return float(ordered[allowed]) if allowed < ordered.size else 0.0 if ordered.size else None


def ratio(part: Any, whole: Any) -> float | None:
    """A part of a whole; None without one."""
    return float(part) / float(whole) if whole else None


# ---- the queries of a run --------------------------------------------------------------------------------------------


class _Truths:
    """The ground truth of (image, category) pairs for each iou type, made once for all runs."""

    def __init__(self, coco: COCO, kinds: Sequence[str]) -> None:
        self.kinds, self._coco = kinds, coco
        self._made: dict[tuple[int, int], dict[str, ImageTruth]] = {}

    def of(self, query: dict[str, Any]) -> dict[str, ImageTruth]:
        key = query["image_id"], query["category_id"]
        if key not in self._made:
            image, entries = self._coco.imgs[key[0]], self._coco.imgToAnns.get(key[0], ())
            mine = [entry for entry in entries if entry["category_id"] == key[1]]
            self._made[key] = {kind: ImageTruth(mine, image, kind) for kind in self.kinds}
        return self._made[key]


def _read_run(queries: list[dict[str, Any]], truths: _Truths, threshold: float) -> _Run:
    queries = [query | {"detections": sorted(query["detections"], key=_descending)} for query in queries]
    present = [query for query in queries if not query.get("absent")]
    absent = [query for query in queries if query.get("absent")]
    false = np.sort([result["score"] for query in absent for result in query["detections"]])
    found = {kind: _found(present, truths, kind, threshold) for kind in truths.kinds}
    num_images = len({query["image_id"] for query in queries})
    return _Run(num_images, _best(present), _best(absent), false, found)


def _descending(result: dict[str, Any]) -> float:
    return -float(result["score"])


def _best(queries: list[dict[str, Any]]) -> np.ndarray:
    return np.array([query["detections"][0]["score"] if query["detections"] else 0.0 for query in queries], float)


def _found(queries: list[dict[str, Any]], truths: _Truths, kind: str, threshold: float) -> _Found:
    shape = "bbox" if kind == "bbox" else "segmentation"
    scores, outcomes, counts, num_shown = [], [], [], 0
    true_counts = np.zeros(len(IOU_THRESHOLDS), int)
    for query in queries:
        truth, detections = truths.of(query)[kind], query["detections"]
        scores.append(np.array([result["score"] for result in detections], float))
        overlaps = truth.overlaps([result[shape] for result in detections])
        outcomes.append(match_outcomes(overlaps, truth.crowds, IOU_THRESHOLDS[0]))
        counts.append(int((~truth.crowds).sum()))
        shown = overlaps[scores[-1] >= threshold][:, ~truth.crowds]
        num_shown += len(shown)
        matched = shown[linear_sum_assignment(-shown)]  # the assignment with the highest sum of overlaps, as in SAM 3
        true_counts += (matched >= IOU_THRESHOLDS[:, None]).sum(axis=1)
    owners = np.repeat(np.arange(len(queries)), [len(one) for one in scores])
    joined = (np.concatenate([np.zeros(0), *scores]), np.concatenate([np.zeros(0, np.int8), *outcomes]))
    return _Found(*joined, owners, np.array(counts, int), true_counts, num_shown)


# ---- metrics ---------------------------------------------------------------------------------------------------------


def _score(
    coco: COCO, queries: list[dict[str, Any]], category_ids: list[int], kinds: Sequence[str]
) -> dict[str, COCOeval]:
    results = [result for query in queries for result in query["detections"]]
    chosen: dict[str, Any] = {"image_ids": {query["image_id"] for query in queries}, "category_ids": category_ids}
    return {kind: coco_evaluation(coco, results, iou_type=kind, **chosen) for kind in kinds}


def _measure(
    queries: list[dict[str, Any]],
    truths: _Truths,
    scored: dict[str, COCOeval],
    category_ids: list[int],
    threshold: float,
) -> tuple[_Run, dict[str, Metrics]]:
    """A run and its metrics, of the queries for some of the scored categories."""
    run = _read_run([query for query in queries if query["category_id"] in category_ids], truths, threshold)
    of_queries = _query_metrics(run, threshold)
    metrics: dict[str, Metrics] = {QUERIES: of_queries}
    for kind, found in run.found.items():
        places = [index for index, one in enumerate(scored[kind].params.catIds) if one in category_ids]
        stats = coco_stats(scored[kind], class_index=places).tolist()
        metrics[kind] = {name: value if value >= 0 else None for name, value in zip(METRICS, stats, strict=True)}
        metrics[kind] |= _instance_metrics(run, found, threshold, of_queries["IL_MCC"])
    return run, metrics


def _query_metrics(run: _Run, threshold: float) -> Metrics:
    present, absent = run.present >= threshold, run.absent >= threshold
    metrics: Metrics = {"AUROC": auroc(run.present, run.absent), "IL_MCC": None}
    if present.size and absent.size:
        metrics["IL_MCC"] = matthews(present.sum(), absent.sum(), (~present).sum(), (~absent).sum())
    metrics |= {"present_firing": _mean(present), "absent_firing": _mean(absent)}
    metrics["false_detections"] = ratio((run.false >= threshold).sum(), len(absent))
    for name, rate in _RATES.items():
        above = silent_above(run.absent, rate)
        metrics[f"present_at_{name}"] = None if above is None else _mean(run.present > above)
    return metrics


def _instance_metrics(run: _Run, found: _Found, threshold: float, correlation: float | None) -> Metrics:
    total, is_true = found.counts.sum(), found.outcomes == TRUE_POSITIVE
    shown = (found.scores >= threshold) & (found.outcomes != IGNORED)
    right = int((shown & is_true).sum())
    detected = int(shown.sum() + (run.false >= threshold).sum())
    metrics: Metrics = {"precision": ratio(right, detected) or 0.0, "recall": ratio(right, total)}
    metrics["F1"] = ratio(2 * right, detected + total)
    # micro F1 over the present queries, 2 TP / (2 TP + FP + FN), the mean over IoU thresholds
    positive = _mean(2 * found.true_counts / (found.num_shown + total)) if total else None
    metrics["positive_F1"] = positive
    metrics["cgF1"] = None if positive is None or correlation is None else 100 * positive * correlation
    metrics["found"] = ratio(len(np.unique(found.owners[shown & is_true])), len(found.counts))
    for name, rate in _RATES.items():
        above = silent_above(run.absent, rate)
        reached = None if above is None else (is_true & (found.scores > above)).sum()
        metrics[f"recall_at_{name}"] = None if reached is None else ratio(reached, total)
    return metrics


def _over_runs(measured: list[tuple[_Run, dict[str, Metrics]]], category_ids: list[int]) -> dict[str, Any]:
    """The keys of `presence` that follow from all runs."""
    runs, metrics = [run for run, _ in measured], [one for _, one in measured]
    means: dict[str, Metrics] = {kind: {} for kind in metrics[0]}
    intervals: dict[str, Metrics] = {kind: {} for kind in metrics[0]}
    for kind, names in metrics[0].items():
        for name in names:
            values = [one[kind][name] for one in metrics]
            means[kind][name], intervals[kind][name] = mean_and_ci(values, signed=name in SIGNED)
    counts = {"num_images": runs[0].num_images, "num_present": len(runs[0].present), "num_absent": len(runs[0].absent)}
    found = {"category_ids": category_ids} | counts | {"runs": metrics, "mean": means, "interval": intervals}
    return found | {"curve": _curve(runs), "histogram": _histogram(runs)}


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if values.size else None


# ---- curves ----------------------------------------------------------------------------------------------------------


def _curve(runs: list[_Run]) -> dict[str, Any]:
    """Recall against false alarms at up to 200 scores, dense where few absent queries show a detection."""
    hits = [one.scores[one.outcomes == TRUE_POSITIVE] for run in runs for one in run.found.values()]
    true, false = (-np.sort(-np.concatenate(parts)) for parts in (hits, [run.false for run in runs]))
    half = _CURVE_POINTS // 2
    even = true[np.linspace(0, true.size - 1, half).astype(int)] if true.size else true
    dense = false[np.geomspace(1, false.size, half).astype(int) - 1] if false.size else false
    thresholds = np.unique(np.concatenate([even, dense]))[::-1]
    curve: dict[str, Any] = {"thresholds": thresholds.tolist()}
    num_absent, rows = len(runs[0].absent), {"false_detections": [run.false for run in runs]}
    rows["absent_firing"] = [np.sort(run.absent) for run in runs]
    for name, scores in rows.items():
        curve[name] = _shares(scores, thresholds, [num_absent] * len(runs))
    for kind in runs[0].found:
        parts = [run.found[kind] for run in runs]
        scores = [np.sort(one.scores[one.outcomes == TRUE_POSITIVE]) for one in parts]
        curve[kind] = _shares(scores, thresholds, [int(one.counts.sum()) for one in parts])
    return curve


def _shares(scores: list[np.ndarray], thresholds: np.ndarray, totals: list[int]) -> list[float] | None:
    """Mean over runs of the number of scores (ascending) from each threshold on, divided by the totals."""
    if not all(totals):
        return None
    runs = [(one.size - np.searchsorted(one, thresholds)) / total for one, total in zip(scores, totals, strict=True)]
    return [float(value) for value in np.mean(runs, axis=0)]


def _histogram(runs: list[_Run]) -> dict[str, Any]:
    edges = np.linspace(0, 1, _BINS + 1)
    histogram: dict[str, Any] = {"edges": edges.round(4).tolist()}
    for name, parts in (("present", [run.present for run in runs]), ("absent", [run.absent for run in runs])):
        scores = np.concatenate(parts).clip(0, 1)
        counts = np.histogram(scores, edges)[0]
        histogram[name] = (counts / max(scores.size, 1)).tolist()
    return histogram


# ---- text ------------------------------------------------------------------------------------------------------------


def table(found: dict[str, Any]) -> str:
    """`presence` as text: a line for each metric, its mean and interval of all categories and of each group."""
    columns = {"all": found} | found["groups"]
    counts = f"{found['num_present']} present and {found['num_absent']} absent queries a run"
    heads = "".join(f"{name if len(columns) > 1 else '':>{_COLUMN}}" for name in columns)
    unit = "metrics from 0 to 1 unless a range is named"
    lines = [f"open protocol, threshold {found['threshold']:g}: {counts}; {unit}", f"{'':<{_LABEL}}{heads}".rstrip()]
    for kind, name, label in _labels(found):
        cells = (_cell(column["mean"][kind][name], column["interval"][kind][name], name) for column in columns.values())
        lines.append(f" {label:<{_LABEL - 1}}{''.join(f'{cell:>{_COLUMN}}' for cell in cells)}")
    return "\n".join(line for line in lines if line)


def _labels(found: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(QUERIES or iou type, name, label) of the metrics in a table."""
    names = {"bbox": "boxes", "segm": "masks"}
    of_queries = ((QUERIES, name, label) for name, label in QUERY_METRICS.items())
    kinds = [kind for kind in IOU_TYPES if kind in found["mean"]]
    of_kinds = ((kind, name, f"{INSTANCE_METRICS[name]}, {names[kind]}") for kind in kinds for name in INSTANCE_METRICS)
    return itertools.chain(of_queries, of_kinds)


def _cell(mean: float | None, interval: float | None, name: str) -> str:
    digits = (1, 2) if name in PERCENTS else (3, 3)
    return "n/a" if mean is None else mean_text(mean, interval, digits=digits, sign="+-")
