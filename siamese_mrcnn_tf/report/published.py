"""The results of the paper (arXiv 1811.11507), read from published.csv.

Source: the runs that its authors keep in their repository, github.com/bethgelab/siamese-mask-rcnn, in the notebooks
experiments/results_1-shot.ipynb, results_5-shot.ipynb and results_random.ipynb: five runs of each model, in percent
with one decimal. The table holds their means and 95% intervals; the means over the splits equal the AP50 of the paper.
"""

import csv
import functools
from importlib import resources

from ..evaluation.coco_scores import METRICS

RANDOM_BOXES = "random-boxes"  # name of the paper's baseline among the models
PUBLISHED_SUBSET = "val2017"  # the subset of COCO of which the results are
MEAN = "mean"  # split of the mean over the four category splits

Published = dict[str, tuple[float, float]]  # metric -> (mean, 95% interval) in percent


def published(shots: int, split: int | str, categories: str, iou_type: str, *, model: str | None = None) -> Published:
    """The published results of one experiment in percent, without unpublished metrics; {} if there are none.

    Args:
        shots: references of a query.
        split: 1..4, 0 for the model of all 80 classes, or MEAN.
        categories: "train", "novel" or "all"; for split 0 "train" is the same as "all".
        iou_type: "bbox" or "segm".
        model: RANDOM_BOXES for the baseline.
    """
    experiment = "random" if model == RANDOM_BOXES else f"{shots}-shot"
    categories = "all" if split == 0 and categories == "train" else categories
    return dict(_table().get((experiment, str(split), categories, iou_type), {}))


@functools.cache
def _table() -> dict[tuple[str, ...], Published]:
    rows: dict[tuple[str, ...], Published] = {}
    text = resources.files(__package__).joinpath("published.csv").read_text(encoding="utf-8")
    for row in csv.DictReader(text.splitlines()):
        cells = {name: row[name].partition("±") for name in METRICS if row[name]}
        key = tuple(row[name] for name in ("experiment", "split", "categories", "iou_type"))
        rows[key] = {name: (float(mean), float(interval)) for name, (mean, _, interval) in cells.items()}
    return rows
