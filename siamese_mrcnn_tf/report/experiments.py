"""Finished evaluations as a report takes them: read from their folders, checked, and put together as experiments.

A folder holds settings.json and scores.json of one category split, and analysis.json (`analysis.analyse`) if the
analyses were made. An experiment is one line of the paper's tables: one model, so many shots, the trained or the
held-out categories, on one split or several.
"""

import dataclasses
import math
from collections import defaultdict
from pathlib import Path

from ..evaluation.coco_scores import IOU_TYPES
from ..evaluation.intervals import mean_and_ci, mean_over_splits
from ..io import files
from .published import MEAN, METRICS, RANDOM_BOXES, published

SETTINGS_FILE, SCORES_FILE, ANALYSIS_FILE = "settings.json", "scores.json", "analysis.json"
SPLITS = (1, 2, 3, 4)

_CATEGORIES = ("train", "novel", "all")
# what evaluations must agree in to stand in one table, and those of networks in their configuration too
_SHARED_SETTINGS = ("protocol", "set", "subset", "year", "runs", "limit", "area", "exclude_query_image")
_SHARED_CONFIG = (
    "DETECTION_MIN_CONFIDENCE",
    "DETECTION_ARGMAX",
    "DETECTION_NMS_THRESHOLD",
    "MOLD_TARGETS_AT_INFERENCE",
)
_PERCENT = 100
_CONTROL = "control-"


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """A finished evaluation of one category split; scores in percent, None where there is no ground truth.

    Attributes:
        folder: where it is.
        settings: content of settings.json.
        runs: a dict a run: iou type -> metric -> percent.
        per_class: a dict a run: iou type -> category id -> "AP" and "AP50" -> percent.
        counts: num_images, num_queries, num_results, as far as they are known.
        analysis: content of analysis.json, scores in 0..1; None without.
    """

    folder: Path
    settings: dict
    runs: list
    per_class: list
    counts: dict
    analysis: dict | None

    @property
    def split(self):
        return self.settings["split"]

    @property
    def kinds(self):
        return [kind for kind in IOU_TYPES if kind in self.runs[0]]

    @property
    def experiment(self):
        """(model or None, shots, categories): evaluations with the same of it differ in their split alone."""
        model, control = self.settings.get("model"), self.settings.get("control")
        model = f"{_CONTROL}{control}" if control else model if model == RANDOM_BOXES else None
        return model, self.settings["shots"], "all" if self.split == 0 else _category_set(self.settings)

    def class_name(self, category_id):
        """The name of a category, by its id as text."""
        entries = self.settings.get("categories")
        named = {str(entry["id"]): entry["name"] for entry in entries} if isinstance(entries, list) else {}
        named |= (self.analysis or {}).get("category_names", {})
        return named.get(category_id, f"category {category_id}")


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One line of the paper's tables.

    Attributes:
        model: RANDOM_BOXES, "control-present" or "control-absent" for a network that was given references of the wrong
            category (`references.MismatchedReferenceSampler`), or None for a network.
        shots: references of a query.
        categories: "train", "novel" or "all".
        evaluations: split -> Evaluated, in order of split.
    """

    model: str | None
    shots: int
    categories: str
    evaluations: dict

    @property
    def title(self):
        """Such as "1-shot, novel categories"."""
        what = f"{self.shots}-shot" if self.model is None else self.model.replace("-", " ")
        if self.is_control:
            what = f"{self.shots}-shot, reference of a category that is {self.model.removeprefix(_CONTROL)}"
        return f"{what}, {'all' if self.categories == 'all' else self.categories} categories"

    @property
    def is_control(self):
        """Whether the references were of the wrong category."""
        return self.model is not None and self.model.startswith(_CONTROL)

    @property
    def slug(self):
        """The same for file names."""
        what = f"{self.shots}shot" if self.model is None else self.model
        if self.is_control:
            what = f"{self.shots}shot-{self.model}"
        return f"{what}_{self.categories}"

    @property
    def kinds(self):
        return next(iter(self.evaluations.values())).kinds

    @property
    def lines(self):
        """What there are metrics of: the splits, and MEAN if there are several."""
        splits = list(self.evaluations)
        return [*splits, MEAN] if len(splits) > 1 else splits

    def values(self, line, kind, name):
        """A metric in each run, [runs] of a split or [splits][runs] of MEAN."""
        runs = {split: [run[kind][name] for run in evaluation.runs] for split, evaluation in self.evaluations.items()}
        return list(runs.values()) if line == MEAN else runs[line]

    def metric(self, line, kind, name):
        """(mean, interval) of a metric in percent, of a split or of MEAN."""
        return (mean_over_splits if line == MEAN else mean_and_ci)(self.values(line, kind, name))

    def published(self, line, kind):
        """What the authors report: metric -> (mean, interval) in percent; of MEAN only if all splits are here."""
        if self.is_control or (line == MEAN and tuple(self.evaluations) != SPLITS):
            return {}
        return published(self.shots, line, self.categories, kind, model=self.model)

    def classes(self):
        """Per category, over the splits that it is in.

        Returns:
            list of dicts category_id, name, splits, num_instances (None without analysis), and iou type -> AP and AP50
            -> (mean, interval) in percent.
        """
        ids = {key for evaluation in self.evaluations.values() for run in evaluation.per_class for key in run["bbox"]}
        return [self._class(category_id) for category_id in sorted(ids, key=int)]

    def _class(self, category_id):
        having = [part for part in self.evaluations.values() if category_id in part.per_class[0]["bbox"]]
        row = {"category_id": int(category_id), "name": having[0].class_name(category_id)}
        row["splits"] = [part.split for part in having]
        row["num_instances"] = (having[0].analysis or {}).get("num_instances", {}).get(category_id)
        for kind in self.kinds:
            row[kind] = {
                name: mean_over_splits([[run[kind][category_id][name] for run in part.per_class] for part in having])
                for name in ("AP", "AP50")
            }
        return row

    def by_number(self):
        """By number of instances, over the splits.

        Returns:
            dict bins [b], num_queries [b], and iou type -> AP and AP50 -> [b] of (mean, interval) in percent; None
            unless all evaluations were analysed.
        """
        tables = [part.analysis and part.analysis["by_number"] for part in self.evaluations.values()]
        if not all(tables):
            return None
        bins = tables[0]["bins"]
        joined = {
            "bins": bins,
            "num_queries": [sum(numbers) for numbers in zip(*(t["num_queries"] for t in tables), strict=True)],
        }
        for kind in self.kinds:
            joined[kind] = {
                name: [_over_tables(tables, kind, name, b) for b in range(len(bins))] for name in ("AP", "AP50")
            }
        return joined


# ---- reading ---------------------------------------------------------------------------------------------------------


def read_experiments(folders):
    """The experiments that evaluations make up, in the order of the paper's tables.

    Args:
        folders: of evaluations, in any order.

    Returns:
        list of Experiment

    Raises:
        ValueError: no folder, a file that is missing, cut short or of another layout, evaluations that differ in what
            they must agree in, or two of the same experiment and split.
    """
    evaluations = [read_evaluation(folder) for folder in folders]
    if not evaluations:
        raise ValueError("folders: expected the folder of an evaluation or several, got none")
    groups, first_of_model = defaultdict(dict), {}
    for evaluation in evaluations:
        _require_together(evaluations[0], evaluation)
        _require_together(first_of_model.setdefault(evaluation.experiment[0], evaluation), evaluation)
        there = groups[evaluation.experiment].setdefault(evaluation.split, evaluation)
        if there is not evaluation:
            model, shots, categories = evaluation.experiment
            what = f"{model or f'{shots}-shot'}, {categories} categories, split {evaluation.split}"
            raise ValueError(f"{evaluation.folder}: is of {what}, and so is {there.folder}; a report takes one of each")
    order = sorted(groups, key=lambda key: (key[0] or "", key[1], ("all", "train", "novel").index(key[2])))
    return [Experiment(*key, dict(sorted(groups[key].items()))) for key in order]


def read_evaluation(folder):
    """The evaluation in a folder: Evaluated.

    Raises:
        ValueError: names the file and what is wrong with it.
    """
    folder = Path(folder)
    for name in (SETTINGS_FILE, SCORES_FILE):
        if not (folder / name).is_file():
            raise ValueError(f"{folder}: no finished evaluation there, {name} is missing")
    settings = _checked_settings(folder / SETTINGS_FILE)
    scores = _checked_scores(folder / SCORES_FILE, settings)
    counts = {key: scores.get(key) for key in ("num_images", "num_queries", "num_results")}
    return Evaluated(
        folder=folder,
        settings=settings,
        runs=[{kind: _percents(run[kind]) for kind in IOU_TYPES if kind in run} for run in scores["runs"]],
        per_class=[
            {
                kind: {key: _percents(row) for key, row in run["per_class"][kind].items()}
                for kind in IOU_TYPES
                if kind in run
            }
            for run in scores["runs"]
        ],
        counts=counts,
        analysis=_checked_analysis(folder / ANALYSIS_FILE, scores),
    )


def _checked_settings(path):
    settings = files.read_json(path)
    if not isinstance(settings, dict):
        raise ValueError(f"{path}: not the settings of an evaluation")
    if settings.get("split") not in (0, *SPLITS):
        raise ValueError(f"{path}: split = {settings.get('split')!r}, expected one of 0, 1, 2, 3, 4")
    if settings["split"] and _category_set(settings) not in _CATEGORIES:
        raise ValueError(
            f"{path}: category_set = {_category_set(settings)!r}, expected one of {', '.join(_CATEGORIES)}"
        )
    if type(settings.get("shots")) is not int or settings["shots"] < 1:
        raise ValueError(f"{path}: shots = {settings.get('shots')!r}, expected the number of references of a query")
    return settings


def _category_set(settings):
    """Which categories, train, novel or all: under a name of its own where `categories` are the list of them."""
    named = settings.get("categories")
    return named if isinstance(named, str) else settings.get("category_set")


def _checked_scores(path, settings):
    scores = files.read_json(path)
    if not isinstance(scores, dict) or not isinstance(scores.get("runs"), list) or not scores["runs"]:
        raise ValueError(f"{path}: not the scores of an evaluation, or of another version: expected a list 'runs'")
    wanted = settings.get("runs", len(scores["runs"]))
    if isinstance(wanted, int) and wanted != len(scores["runs"]):
        raise ValueError(f"{path}: holds {len(scores['runs'])} of {wanted} runs")
    kinds = [kind for kind in IOU_TYPES if isinstance(scores["runs"][0], dict) and kind in scores["runs"][0]]
    for number, run in enumerate(scores["runs"]):
        _check_run(run, kinds or ["bbox"], f"{path}: run {number}")
    return scores


def _check_run(run, kinds, where):
    for kind in kinds:
        try:
            missing = [name for name in METRICS if not _is_score(run[kind][name])]
            rows = run["per_class"][kind].values()
            fine = all(_is_score(row[name]) for row in rows for name in ("AP", "AP50"))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{where}: has not the layout of scores ({kind}: {error!r})") from error
        if missing or not fine:
            raise ValueError(f"{where}: has not the layout of scores ({kind}: no number for {missing or 'a category'})")


def _checked_analysis(path, scores):
    if not path.is_file():
        return None
    analysis = files.read_json(path)
    try:
        numbers = analysis["by_number"]
        kinds = [kind for kind in IOU_TYPES if kind in scores["runs"][0]]
        lengths = {len(run[kind][name]) for run in numbers["runs"] for kind in kinds for name in ("AP", "AP50")}
        fine = lengths == {len(numbers["bins"])} == {len(numbers["num_queries"])}
        count = len(analysis["confusion"]["category_ids"])
        fine &= all(len(analysis["confusion"][kind]["matrix"]) == count for kind in kinds)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: has not the layout of analyses ({error!r})") from error
    if not fine or len(numbers["runs"]) != len(scores["runs"]):
        raise ValueError(f"{path}: does not belong to the {SCORES_FILE} beside it")
    return analysis


def _require_together(first, other):
    pairs = [(key, first.settings.get(key), other.settings.get(key)) for key in _SHARED_SETTINGS]
    if first.experiment[0] == other.experiment[0]:
        configs = [part.settings.get("config") or {} for part in (first, other)]
        pairs += [(key, *(config.get(key) for config in configs)) for key in _SHARED_CONFIG]
    differing = [f"{key} = {theirs!r} there and {ours!r} here" for key, ours, theirs in pairs if ours != theirs]
    if first.kinds != other.kinds:
        differing.append("only one of them has masks")
    if differing:
        raise ValueError(f"{other.folder} does not belong to {first.folder}: {'; '.join(differing)}")


# ---- helpers ---------------------------------------------------------------------------------------------------------


def _over_tables(tables, kind, name, index):
    """(mean, interval) in percent of one bin over splits; a split without such queries does not count."""
    runs = [[_percent(run[kind][name][index]) for run in table["runs"]] for table in tables]
    runs = [values for values in runs if None not in values]
    return mean_over_splits(runs) if runs else (None, None)


def _is_score(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _percents(metrics):
    return {name: _percent(value) for name, value in metrics.items() if _is_score(value)}


def _percent(value):
    return None if value is None or value < 0 else _PERCENT * value
