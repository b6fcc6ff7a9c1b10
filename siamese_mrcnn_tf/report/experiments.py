"""Reads finished evaluations from their folders and groups them into the experiments of a report.

A folder holds settings.json and scores.json of one category split, mostly analysis.json, and presence.json of the open
protocol. An experiment is one line of the paper's tables: a model, a number of shots, the train or the novel
categories, on one split or several.
"""

import dataclasses
import logging
import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from ..data.coco import split_category_ids
from ..evaluation.analysis import ANALYSIS_FILE
from ..evaluation.coco_scores import IOU_TYPES, METRICS, SCORES_FILE
from ..evaluation.intervals import MeanAndInterval, mean_and_ci, mean_over_splits
from ..evaluation.presence import PRESENCE_FILE, QUERIES, SIGNED
from ..evaluation.score_files import AnalysisFile, ConfusionOfKind, PresenceFile, ReportedSettings, ScoresFile
from ..evaluation.settings import SETTINGS_FILE
from ..io import files, schemas
from ..io.errors import InputError
from .about import counted
from .published import MEAN, PUBLISHED_SUBSET, RANDOM_BOXES, Published, published

logger = logging.getLogger(__name__)

Percents = dict[str, float | None]  # metric -> percent, None without ground truth
Key = tuple[str | None, int, str]  # model or None, shots, categories
Line = int | str  # a split, or MEAN

SPLITS = (1, 2, 3, 4)
_CATEGORIES = ("all", "train", "novel")
# settings that all evaluations of a report share, and those of the configuration that all of a model share
_SAME_SETTINGS = ("protocol", "set", "subset", "year", "runs", "limit", "area", "exclude_query_image")
_SAME_CONFIG = ("DETECTION_MIN_CONFIDENCE", "DETECTION_ARGMAX", "DETECTION_NMS_THRESHOLD", "MOLD_TARGETS_AT_INFERENCE")
_CONTROL = "control-"
PAPER = "paper_"  # before the names of metrics of the present categories alone
_CLASS_METRICS = ("AP", "AP50")
_SHOWN = 5  # folders in a message
_NOT_IN_PERCENT = ("AUROC", "IL_MCC", "false_detections", "cgF1")  # as they are in presence.json


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """A finished evaluation of one category split; scores in percent.

    Attributes:
        settings: content of settings.json.
        runs: for each run: iou type -> metric -> percent.
        per_class: for each run: iou type -> category id as text -> "AP" and "AP50" -> percent.
        counts: num_images, num_queries, num_results, None if unknown.
        analysis: content of analysis.json, scores in 0..1; {} without.
        presence: content of presence.json, scores in 0..1; {} without.
    """

    folder: Path
    settings: dict[str, Any]
    runs: list[dict[str, Percents]]
    per_class: list[dict[str, dict[str, Percents]]]
    counts: dict[str, int | None]
    analysis: dict[str, Any]
    presence: dict[str, Any]

    @property
    def split(self) -> int:
        """1..4; 0 for all categories, also where the settings name none."""
        return int(self.settings.get("split", 0))

    @property
    def kinds(self) -> list[str]:
        """Iou types."""
        return list(self.runs[0])

    @property
    def category_set(self) -> str:
        """ "train", "novel" or "all"."""
        return str(self.settings["category_set"]) if self.split else "all"

    @property
    def experiment(self) -> Key:
        """(model or None, shots, categories): evaluations of one experiment differ in their split only."""
        model, control = self.settings.get("model"), self.settings.get("control")
        model = f"{_CONTROL}{control}" if control else model if model == RANDOM_BOXES else None
        return model, self.settings["shots"], self.category_set

    @property
    def is_of_published_set(self) -> bool:
        """Whether images and categories are those of the published results, or a part of the images."""
        ids = [entry["id"] for entry in self.settings.get("categories", ())]
        is_coco = self.settings.get("coco") == PUBLISHED_SUBSET
        return is_coco and ids == split_category_ids(self.split, self.category_set)

    def presence_of(self, group: str) -> dict[str, Any]:
        """The metrics of presence of a group of categories, "" for all that were evaluated."""
        return self.presence["groups"][group] if group else self.presence

    def class_name(self, category_id: str) -> str:
        """The name of a category, by its id as text."""
        named = {str(entry["id"]): entry["name"] for entry in self.settings.get("categories", ())}
        named |= self.analysis.get("category_names", {})
        return str(named.get(category_id, f"category {category_id}"))


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One line of the paper's tables.

    Attributes:
        model: None for a network; RANDOM_BOXES; "control-present" or "control-absent" for a network with references of
            the wrong category (`references.MismatchedReferenceSampler`).
        shots: references of a query.
        categories: "train", "novel" or "all".
        evaluations: split -> Evaluated, in order of split.
    """

    model: str | None
    shots: int
    categories: str
    evaluations: dict[int, Evaluated]

    @property
    def title(self) -> str:
        """Such as "1-shot, novel categories" and "1-shot, all 8 categories"."""
        return f"{self.name}, {self.categories_text}"

    @property
    def name(self) -> str:
        """The title without the categories."""
        what = f"{self.shots}-shot" if self.model is None else self.model.replace("-", " ")
        if self.model is not None and self.is_control:
            what = f"{self.shots}-shot, reference of a category that is {self.model.removeprefix(_CONTROL)}"
        return what

    @property
    def categories_text(self) -> str:
        """Such as "novel categories", "all 8 categories", "both categories"."""
        numbers = {len(part.settings.get("categories", ())) for part in self.evaluations.values()}
        if self.categories != "all" or len(numbers) > 1 or not any(numbers):
            return f"{self.categories} categories"
        number = numbers.pop()
        return {1: "one category", 2: "both categories"}.get(number, f"all {counted(number, 'category')}")

    @property
    def is_control(self) -> bool:
        """Whether the references were of the wrong category."""
        return self.model is not None and self.model.startswith(_CONTROL)

    @property
    def slug(self) -> str:
        """The title for file names."""
        what = f"{self.shots}shot" if self.model is None else self.model
        return f"{self.shots}shot-{what}_{self.categories}" if self.is_control else f"{what}_{self.categories}"

    @property
    def kinds(self) -> list[str]:
        """Iou types."""
        return next(iter(self.evaluations.values())).kinds

    @property
    def lines(self) -> list[Line]:
        """The splits, and MEAN if there are several."""
        splits = list(self.evaluations)
        return [*splits, MEAN] if len(splits) > 1 else [*splits]

    def values(self, line: Line, kind: str, name: str) -> list:
        """A metric in each run, [runs] of a split or [splits][runs] of MEAN."""
        runs = {split: [run[kind][name] for run in part.runs] for split, part in self.evaluations.items()}
        return list(runs.values()) if line == MEAN else runs[int(line)]

    def metric(self, line: Line, kind: str, name: str) -> MeanAndInterval:
        """(mean, interval) of a metric in percent, of a split or of MEAN."""
        return (mean_over_splits if line == MEAN else mean_and_ci)(self.values(line, kind, name))

    def published(self, line: Line, kind: str) -> Published:
        """Published results: metric -> (mean, interval) in percent; {} for other images or categories.

        Of MEAN only if all splits are here.
        """
        parts = self.evaluations.values() if line == MEAN else [self.evaluations[int(line)]]
        if self.is_control or not all(part.is_of_published_set for part in parts):
            return {}
        if line == MEAN and tuple(self.evaluations) != SPLITS:
            return {}
        return published(self.shots, line, self.categories, kind, model=self.model)

    def classes(self) -> list[dict[str, Any]]:
        """Results by category, over the splits that have it.

        Dicts of category_id, name, splits, num_instances (None without analysis), and iou type -> AP and AP50 ->
        (mean, interval) in percent.
        """
        ids = {key for part in self.evaluations.values() for run in part.per_class for key in run["bbox"]}
        return [self._class(category_id) for category_id in sorted(ids, key=int)]

    def _class(self, category_id: str) -> dict[str, Any]:
        having = [part for part in self.evaluations.values() if category_id in part.per_class[0]["bbox"]]
        row: dict[str, Any] = {"category_id": int(category_id), "name": having[0].class_name(category_id)}
        row["splits"] = [part.split for part in having]
        row["num_instances"] = having[0].analysis.get("num_instances", {}).get(category_id)
        for kind in self.kinds:
            row[kind] = {
                name: mean_over_splits([[run[kind][category_id][name] for run in part.per_class] for part in having])
                for name in _CLASS_METRICS
            }
        return row

    @property
    def presence_groups(self) -> list[str]:
        """The groups of categories with metrics of presence, "" for all; [] unless all evaluations have them."""
        if not all(part.presence for part in self.evaluations.values()):
            return []
        parts = [part.presence["groups"] for part in self.evaluations.values()]
        return ["", *(name for name in parts[0] if all(name in groups for groups in parts))]

    def presence_values(self, line: Line, group: str, kind: str, name: str) -> list:
        """A metric of presence in each run, as of `values`: in percent, but for AUROC, IL_MCC and false_detections.

        Args:
            line: a split or MEAN.
            group: of `presence_groups`.
            kind: `evaluation.presence.QUERIES` or an iou type.
            name: a metric of this kind, in `evaluation.presence`; or for an iou type "paper_" and AP or AP50, that of
                the present categories alone.
        """
        runs = {split: _presence_runs(part, group, kind, name) for split, part in self.evaluations.items()}
        return list(runs.values()) if line == MEAN else runs[int(line)]

    def presence_metric(self, line: Line, group: str, kind: str, name: str) -> MeanAndInterval:
        """(mean, interval) of `presence_values`."""
        values = self.presence_values(line, group, kind, name)
        return (mean_over_splits if line == MEAN else mean_and_ci)(values, signed=name in SIGNED)

    def by_number(self) -> dict[str, Any]:
        """Results by number of instances, over the splits; {} unless all evaluations have an analysis.

        A dict of bins [b], num_queries [b], and iou type -> AP and AP50 -> [b] of (mean, interval) in percent.
        """
        tables = [part.analysis["by_number"] for part in self.evaluations.values() if part.analysis]
        if len(tables) < len(self.evaluations):
            return {}
        bins = tables[0]["bins"]
        counts = [sum(numbers) for numbers in zip(*(table["num_queries"] for table in tables), strict=True)]
        scores = {
            kind: {name: [_over_tables(tables, kind, name, b) for b in range(len(bins))] for name in _CLASS_METRICS}
            for kind in self.kinds
        }
        return {"bins": bins, "num_queries": counts, **scores}


def _over_tables(tables: list[dict[str, Any]], kind: str, name: str, index: int) -> MeanAndInterval:
    """(mean, interval) in percent of one bin over splits; splits without such queries are left out."""
    runs = [[_percent(run[kind][name][index]) for run in table["runs"]] for table in tables]
    return mean_over_splits([values for values in runs if None not in values])


def _presence_runs(part: Evaluated, group: str, kind: str, name: str) -> list[float | None]:
    found = part.presence_of(group)
    if name.startswith(PAPER):
        keys = [str(category_id) for category_id in found["category_ids"]]
        rows = [[run[kind][key][name.removeprefix(PAPER)] for key in keys] for run in part.per_class]
        known = [[value for value in row if value is not None] for row in rows]
        return [sum(row) / len(row) if row else None for row in known]
    values = [run[kind][name] for run in found["runs"]]
    return values if name in _NOT_IN_PERCENT else [None if value is None else 100 * value for value in values]


# ---- reading ---------------------------------------------------------------------------------------------------------


def read_experiments(folders: Iterable[str | os.PathLike]) -> list[Experiment]:
    """The experiments of evaluations in `folders`, in the order of the paper's tables.

    Raises:
        ValueError: no folder, a missing or foreign file, evaluations that do not belong together, or two of the same
            experiment and split.
    """
    evaluations = [read_evaluation(folder) for folder in folders]
    if not evaluations:
        raise InputError("folders: expected the folder of an evaluation or several, got none")
    groups: defaultdict[Key, dict[int, Evaluated]] = defaultdict(dict)
    first_of_model: dict[str | None, Evaluated] = {}
    for evaluation in evaluations:
        _require_together(evaluations[0], evaluation)
        _require_together(first_of_model.setdefault(evaluation.experiment[0], evaluation), evaluation)
        there = groups[evaluation.experiment].setdefault(evaluation.split, evaluation)
        if there is not evaluation:
            model, shots, categories = evaluation.experiment
            what = f"{model or f'{shots}-shot'}, {categories} categories, split {evaluation.split}"
            raise InputError(f"{evaluation.folder}: is of {what}, and so is {there.folder}; a report takes one of each")
    order = sorted(groups, key=lambda key: (key[0] or "", key[1], _CATEGORIES.index(key[2])))
    return [Experiment(*key, dict(sorted(groups[key].items()))) for key in order]


def evaluations_in(folders: Iterable[str | os.PathLike]) -> list[Path]:
    """The folders of finished evaluations in folders, at any depth, each once; a warning names unfinished ones.

    A folder without any stands for itself, so that `read_evaluation` says what it lacks.
    """
    found, unfinished = list[Path](), list[Path]()
    for folder in map(Path, folders):
        begun = sorted(path.parent for path in folder.rglob(SETTINGS_FILE))
        finished = [path for path in begun if (path / SCORES_FILE).is_file()]
        unfinished += [path for path in begun if path not in finished] if finished else []
        found += finished or [folder]
    if unfinished:
        shown = ", ".join(map(str, unfinished[:_SHOWN])) + (", ..." if unfinished[_SHOWN:] else "")
        logger.warning("left out, without %s: %s", SCORES_FILE, shown)
    return list({path.resolve(): path for path in reversed(found)}.values())[::-1]


def read_evaluation(folder: str | os.PathLike) -> Evaluated:
    """The evaluation in a folder; a ValueError names the file and the problem."""
    folder = Path(folder)
    for name in (SETTINGS_FILE, SCORES_FILE):
        if not (folder / name).is_file():
            raise InputError(f"{folder}: no finished evaluation there, {name} is missing")
    settings = _read_settings(folder / SETTINGS_FILE)
    path = folder / SCORES_FILE
    scores = schemas.read(path, ScoresFile)
    content = [msgspec.to_builtins(run) for run in scores.runs]
    kinds = [kind for kind in IOU_TYPES if kind in content[0]]
    for index, run in enumerate(content):
        _require_metrics(run, kinds, f"{path}: runs[{index}]")
    runs = [{kind: _percents(run[kind], METRICS) for kind in kinds} for run in content]
    per_class = [
        {
            kind: {key: _percents(row, _CLASS_METRICS) for key, row in rows.items()}
            for kind, rows in run["per_class"].items()
        }
        for run in content
    ]
    counts = {"num_images": scores.num_images, "num_queries": scores.num_queries, "num_results": scores.num_results}
    if len(runs) != settings.get("runs", len(runs)):
        raise InputError(f"{folder / SCORES_FILE}: holds {len(runs)} of {settings['runs']} runs")
    analysis = _read_analysis(folder / ANALYSIS_FILE, len(runs))
    presence = _read_presence(folder / PRESENCE_FILE, len(runs), kinds)
    return Evaluated(folder, settings, runs, per_class, counts, analysis, presence)


def _read_settings(path: Path) -> dict[str, Any]:
    settings = files.read_json(path)
    if not isinstance(settings, dict):
        raise InputError(f"{path}: not the settings of an evaluation")
    if isinstance(settings.get("categories"), str):
        settings = {**settings, "category_set": settings["categories"], "categories": []}
    if settings.get("split", 0) not in (0, *SPLITS):
        raise InputError(f"{path}: split = {settings['split']!r}, expected one of 0, 1, 2, 3, 4")
    chosen = settings.get("category_set")
    if settings.get("split") and chosen not in _CATEGORIES:
        raise InputError(f"{path}: category_set = {chosen!r}, expected one of {', '.join(_CATEGORIES)}")
    if type(settings.get("shots")) is not int or settings["shots"] < 1:
        raise InputError(f"{path}: shots = {settings.get('shots')!r}, expected the number of references of a query")
    schemas.refuse_newer(settings, path)
    schemas.convert(settings, ReportedSettings, path)
    return settings


def _read_analysis(path: Path, num_runs: int) -> dict[str, Any]:
    if not path.is_file():
        return {}
    content: dict[str, Any] = schemas.read_plain(path, AnalysisFile)
    analysis = schemas.convert(content, AnalysisFile, path)
    ids = schemas.convert(analysis.confusion.get("category_ids"), list[schemas.Id], f"{path}: confusion.category_ids")
    confusions = {kind: one for kind, one in analysis.confusion.items() if kind != "category_ids"}
    for kind, one in confusions.items():
        found = schemas.convert(one, ConfusionOfKind, f"{path}: confusion.{kind}")
        if [len(row) for row in found.matrix] != [len(ids)] * len(ids):
            raise InputError(f"{path}: confusion.{kind}.matrix: expected {len(ids)} rows of {len(ids)} numbers")
    lengths = {len(table.AP) for run in analysis.by_number.runs for table in run.values()}
    if len(analysis.by_number.runs) != num_runs:
        raise InputError(f"{path}: does not belong to the {SCORES_FILE} beside it")
    if not lengths <= {len(analysis.by_number.bins)} or len(analysis.by_number.num_queries) not in lengths:
        raise InputError(f"{path}: by_number: expected as many numbers as bins, {len(analysis.by_number.bins)}")
    return content


def _read_presence(path: Path, num_runs: int, kinds: list[str]) -> dict[str, Any]:
    if not path.is_file():
        return {}
    content: dict[str, Any] = schemas.read_plain(path, PresenceFile)
    presence = schemas.convert(content, PresenceFile, path)
    wanted = [{QUERIES, *kinds}] * num_runs
    is_of_scores = [set(run) for run in presence.runs] == wanted and presence.curve.keys() >= set(kinds)
    if not is_of_scores or any([set(run) for run in group.runs] != wanted for group in presence.groups.values()):
        raise InputError(f"{path}: does not belong to the {SCORES_FILE} beside it")
    return content


def _require_metrics(run: dict[str, Any], kinds: list[str], where: str) -> None:
    """Refuse the scores of a run that lacks a metric."""
    for kind in kinds:
        if kind not in run["per_class"]:
            raise InputError(f"{where}.per_class: the key {kind!r} is missing")
        tables = {kind: (run.get(kind, {}), METRICS)}
        tables |= {f"per_class.{kind}.{key}": (row, _CLASS_METRICS) for key, row in run["per_class"][kind].items()}
        for place, (row, names) in tables.items():
            if lacking := [name for name in names if name not in row]:
                raise InputError(f"{where}.{place}: the key {lacking[0]!r} is missing")


def _require_together(first: Evaluated, other: Evaluated) -> None:
    pairs = [(key, first.settings.get(key), other.settings.get(key)) for key in _SAME_SETTINGS]
    if first.experiment[0] == other.experiment[0]:
        ours, theirs = (part.settings.get("config") or {} for part in (first, other))
        pairs += [(key, ours.get(key), theirs.get(key)) for key in _SAME_CONFIG]
    differing = [f"{key} = {theirs!r} there and {ours!r} here" for key, ours, theirs in pairs if ours != theirs]
    if first.kinds != other.kinds:
        differing.append("only one of them has masks")
    if differing:
        raise InputError(f"{other.folder} does not belong to {first.folder}: {'; '.join(differing)}")


def _percents(metrics: dict[str, float], names: Iterable[str]) -> Percents:
    return {name: _percent(metrics[name]) for name in names}


def _percent(value: float | None) -> float | None:
    return None if value is None or value < 0 else 100 * value
