"""The figures of an evaluation: COCOeval's of each run, their mean and 95% confidence interval."""

import dataclasses

import numpy as np

from .analysis import INTERVAL
from .scoring import IOU_TYPES, score, table


@dataclasses.dataclass(frozen=True)
class EvaluationScores:
    """Figures over several runs.

    Attributes:
        runs: for each run a dict "bbox" and, for a model with masks, "segm" -> scoring.CocoScores.
        mean: iou type -> figure name -> mean over runs; -1 without ground truth.
        interval: iou type -> figure name -> half the width of the 95% confidence interval of that mean.
        num_images: evaluated.
        num_queries, num_results: of all runs together.
        seconds: spent on the images, reading included.
    """

    runs: list
    mean: dict
    interval: dict
    num_images: int
    num_queries: int
    num_results: int
    seconds: float

    @property
    def is_empty(self):
        """No run has a detection: precision and recall are 0 for want of them."""
        return not self.num_results

    def table(self, iou_type):
        """Means and intervals of "bbox" or "segm" in the layout of COCOeval.summarize."""
        mean, interval = self.mean[iou_type], self.interval[iou_type]
        return table({name: f"{mean[name]:0.3f} +- {interval[name]:0.3f}" for name in mean})

    def to_dict(self):
        """Plain values, as they stand in scores.json: `runs` hold figures by iou type, and per_class."""
        runs = []
        for scores in self.runs:
            figures = {iou_type: dict(one.stats) for iou_type, one in scores.items()}
            runs.append(figures | {"per_class": {iou_type: one.per_class for iou_type, one in scores.items()}})
        names = ("mean", "interval", "num_images", "num_queries", "num_results", "seconds")
        return {"runs": runs} | {name: getattr(self, name) for name in names}


def score_records(coco, records, *, has_masks=True, image_ids=None):
    """Score the records of a whole evaluation.

    Args:
        coco: `pycocotools.coco.COCO` of the annotation file.
        records: evaluation_records.Records.
        has_masks: score masks too.
        image_ids: COCO ids of those of the images to score; None: all.

    Returns:
        EvaluationScores.

    Raises:
        ValueError: as `scoring.score`.
    """
    settings = records.settings
    chosen = {
        "image_ids": settings["images"] if image_ids is None else list(image_ids),
        "category_ids": [category["id"] for category in settings["categories"]],
    }
    wanted = None if image_ids is None else set(image_ids)  # None: of foreign images too, which `score` refuses
    iou_types = IOU_TYPES if has_masks else IOU_TYPES[:1]
    runs, num_results = [], 0
    for run in range(settings["runs"]):
        results = [one for one in records.results(run) if wanted is None or one["image_id"] in wanted]
        num_results += len(results)
        runs.append({iou_type: score(coco, results, iou_type=iou_type, **chosen) for iou_type in iou_types})
    figures = {iou_type: [scores[iou_type].stats for scores in runs] for iou_type in iou_types}
    scored = [record for record in records if wanted is None or record["image_id"] in wanted]
    statistics = {iou_type: over_runs(stats) for iou_type, stats in figures.items()}
    return EvaluationScores(
        runs=runs,
        mean={iou_type: mean for iou_type, (mean, _) in statistics.items()},
        interval={iou_type: interval for iou_type, (_, interval) in statistics.items()},
        num_images=len(chosen["image_ids"]),
        num_queries=sum(len(record["queries"]) for record in scored),
        num_results=num_results,
        seconds=sum(record["seconds"] for record in scored),
    )


def over_categories(per_class, category_ids, figure="AP50"):
    """The mean of some categories over runs.

    Args:
        per_class: list with the `per_class` of each run's scores: {category id: {"AP", "AP50"}}.
        category_ids: those to take; of them, such without ground truth do not count.
        figure: "AP" or "AP50".

    Returns:
        mean, interval: floats as of `over_runs`; 0 where no category has ground truth.
    """
    values = [[run[category_id][figure] for category_id in category_ids] for run in per_class]
    means = [np.mean([value for value in row if value >= 0] or [0.0]) for row in values]
    mean, interval = over_runs([{figure: value} for value in means])
    return mean[figure], interval[figure]


def over_runs(figures):
    """Mean and half the 95% confidence interval of figures over runs: 1.96 * std (ddof 0) / sqrt(runs).

    Args:
        figures: list with a dict name -> figure for each run.

    Returns:
        mean, interval: dicts by name.
    """
    values = {name: np.array([one[name] for one in figures]) for name in figures[0]}
    mean = {name: float(value.mean()) for name, value in values.items()}
    interval = {name: float(INTERVAL * value.std() / np.sqrt(len(value))) for name, value in values.items()}
    return mean, interval
