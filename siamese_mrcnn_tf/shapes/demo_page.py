"""The page that the demo writes: metrics, loss curves, examples."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
from pycocotools.coco import COCO

from ..data.dataset import IndexedCocoDataset, split_classes
from ..evaluation.coco_scores import over_categories, score_records
from ..evaluation.intervals import mean_text
from ..evaluation.presence import PRESENCE_FILE
from ..evaluation.protocol import SCORES_FILE
from ..evaluation.records import read_records
from ..evaluation.score_files import PresenceFile, ScoresFile
from ..io import schemas
from ..io.errors import InputError
from ..io.schemas import Number, Probability, Values
from ..report.gallery import examples
from ..report.plots import plot_presence
from ..visualize.diagnostics import plot_losses
from ..visualize.pages import Html, code, figure, image_grid, section, table, write_page

PAGE_FILE, METRICS_FILE = "index.html", "metrics.json"
OPEN = "open"  # the evaluation that asks for absent categories, too
KINDS = {"bbox": "boxes", "segm": "masks"}
PARTS = ("train", "novel")  # categories

_ROWS = {  # evaluation -> its name in the table
    "random-boxes": "random boxes: the right number of outlines of the right sizes, at random places",
    "1-shot": "one reference",
    "1-shot-unverified": "one reference, by the network's own scores, without verification",
    "5-shot": "five references",
    "1-shot, two categories": "one reference, in scenes of two categories or more",
    "control-present": "control: one reference, of another category that is in the scene",
}
_PRESENCE_ROWS = {  # (kind, metric of `evaluation.presence`) -> its name in the table, factor
    ("queries", "AUROC"): ("does the best score tell present from absent (AUROC)", 1),
    ("queries", "absent_firing"): ("absent queries that show a detection (%)", 100),
    ("bbox", "found"): ("present queries with a right detection (%)", 100),
    ("queries", "false_detections"): ("false detections per absent query", 1),
    ("bbox", "precision"): ("precision of boxes (%)", 100),
    ("bbox", "recall"): ("recall of boxes (%)", 100),
    ("bbox", "AP50"): ("AP50 of boxes, absent categories asked too (%)", 100),
    ("segm", "AP50"): ("AP50 of masks, absent categories asked too (%)", 100),
    ("segm", "cgF1"): ("cgF1 of masks (0 to 100)", 1),
}
_SAME_SCENES = "1-shot, two categories"  # the right reference where control-present has a wrong one
_EXAMPLES = 12  # of the train categories, and of the novel ones
_ABSENT_EXAMPLES = 6

_INTRODUCTION = """\
Siamese Mask R-CNN takes an image of an object, and finds and segments every object of that category in a scene, also
for categories that it was never trained on. This demo shows that on scenes drawn by a program. The {train} train
categories were searched for in training. The {novel} novel categories were part of the background in the training
scenes and never a reference.
"""
_PRESENCE_TEXT = """\
Each of {images} validation scenes was searched for the categories in it and for {absent} that are not in it. A
detection counts from the threshold {threshold:.2f}, which siamese-mrcnn calibrate fitted on other scenes with train
categories alone. Dots in the plot are at this threshold.
"""
_ABSENT_TEXT = """\
From left to right: a reference of a category that is not in the scene, the scene with the detections (none is right),
the ground truth (nothing). Each of these categories has its best and its worst query.
"""
_METRICS_TEXT = """\
COCO's average precision at an overlap of 0.5 (AP50), in percent, on {images} validation scenes, which are searched for
the categories in them. With one reference the mean of {runs} draws of references and its 95% interval; the rows without
an interval are one draw, on fewer scenes. The control uses a wrong reference: a network that ignores its reference
scores as high with it as with the right one.
"""
_EXAMPLES_TEXT = """\
From left to right: the references, the detections with a score of {threshold:.3g} or more, the ground truth. Blue:
found. Orange: a false detection, or an instance that was missed. Each of these categories has its best and its worst
query.
"""

RunScores = dict[str, dict[str, dict[str, float]]]  # iou type -> category id as text -> {"AP50": ...}
Scores = dict[str, list[RunScores]]  # evaluation -> runs
Metrics = dict[str, dict[str, dict[str, tuple[float, float | None]]]]  # evaluation -> part -> "boxes" -> mean, interval


class MetricsFile(msgspec.Struct, kw_only=True):
    """metrics.json; it has a key for each evaluation, too, with its `Metrics`.

    Attributes:
        presence: part -> iou type or "queries" -> metric of `evaluation.presence`, mean over the runs.
        threshold: minimum score of a detection for these.
        seconds: of each step, in the run that wrote the file.
    """

    format: Literal[1]
    presence: dict[str, dict[str, Values]]
    threshold: Probability
    seconds: dict[str, Number]


def write_demo_page(
    out: Path,
    dataset: IndexedCocoDataset,
    annotations: COCO,
    *,
    commands: Iterable[str],
    histories: Mapping[str, Path],
    seconds: Mapping[str, float],
    split: int,
) -> Path:
    """Write the page, and its metrics as JSON.

    Args:
        out: folder of the demo, with evaluation/.
        dataset, annotations: of the evaluations.
        commands: that were run.
        histories, seconds: name of a run -> its history.csv; name of a step -> its duration in this run.
        split: category split.

    Returns:
        Path of the page.
    """
    classes = dict(zip(PARTS, split_classes(dataset.num_classes - 1, split), strict=True))
    categories = {part: [dataset.class_info[class_id]["id"] for class_id in ids] for part, ids in classes.items()}
    scores = read_scores(out, annotations)
    metrics = metrics_of(scores, categories)
    images = schemas.read(out / "evaluation" / "1-shot" / SCORES_FILE, ScoresFile).num_images
    about = _METRICS_TEXT.format(images=images, runs=len(scores["1-shot"]))
    found = read_presence(out)
    threshold = found["threshold"]
    presence = {part: found["groups"][part]["mean"] for part in PARTS}
    write_metrics(out / METRICS_FILE, metrics, presence=presence, threshold=threshold, seconds=dict(seconds))
    times = table(["step", "seconds"], [[name, f"{value:.0f}"] for name, value in seconds.items()])
    sections = [
        _INTRODUCTION.format(**{part: len(ids) for part, ids in classes.items()}),
        section("Is it there at all?", *presence_parts(found)),
        *(
            section(f"Absent {part} categories", _ABSENT_TEXT, *gallery(out, dataset, ids, threshold, absent=True))
            for part, ids in categories.items()
        ),
        section("Metrics", about, metrics_table(metrics), *category_tables(scores["1-shot"], dataset, categories)),
        *(
            section(
                f"Examples: {part} categories",
                _EXAMPLES_TEXT.format(threshold=threshold),
                *gallery(out, dataset, ids, threshold),
            )
            for part, ids in categories.items()
        ),
        section("Losses", *map(loss_curves, histories, histories.values())),
        section("How this was made", code("\n".join(commands)), times),
    ]
    write_page(out / PAGE_FILE, "Siamese Mask R-CNN on Shapes", sections)
    return out / PAGE_FILE


def write_metrics(path: Path, metrics: Metrics, **more: Any) -> None:
    """Write metrics.json: the metrics of the evaluations, and the further keys of a `MetricsFile`."""
    schemas.convert(metrics, Metrics, path)
    schemas.write_plain(path, {"format": 1} | metrics | more, MetricsFile)


def read_scores(out: Path, annotations: COCO) -> Scores:
    """The scores of each category, of the evaluations in `out`."""
    folders = {name: out / "evaluation" / name for name in _ROWS if name != _SAME_SCENES}
    files = {name: schemas.read(folder / SCORES_FILE, ScoresFile) for name, folder in folders.items()}
    runs = {name: msgspec.to_builtins(file.runs) for name, file in files.items()}
    images = read_records(folders["control-present"]).settings["images"]
    runs[_SAME_SCENES] = score_records(annotations, read_records(folders["1-shot"]), image_ids=images).to_dict()["runs"]
    return {
        name: [
            {kind: {str(id_): ap for id_, ap in run["per_class"][kind].items()} for kind in KINDS} for run in runs[name]
        ]
        for name in _ROWS
    }


def read_presence(out: Path) -> dict[str, Any]:
    """The metrics of presence of the evaluation in `out`; ValueError where those of a part are missing."""
    path = out / "evaluation" / OPEN / PRESENCE_FILE
    found: dict[str, Any] = schemas.read_plain(path, PresenceFile)
    if lacking := [part for part in PARTS if part not in found["groups"]]:
        raise InputError(f"{path}: groups: the key {lacking[0]!r} is missing")
    return found


def metrics_of(scores: Scores, categories: Mapping[str, Sequence[int]]) -> Metrics:
    """AP50 in percent, {evaluation: {part: {"boxes": [mean, interval], "masks": [...]}}}, the mean over a part."""
    return {
        name: {part: {what: _ap50(runs, kind, ids) for kind, what in KINDS.items()} for part, ids in categories.items()}
        for name, runs in scores.items()
    }


def metrics_table(metrics: Metrics) -> Html:
    """The table of all evaluations."""
    heads = ["searched with", *(f"{part}, {kind}" for part in PARTS for kind in KINDS.values())]
    rows = [
        [_ROWS[name], *(mean_text(*pair, digits=(1, 1)) for part in PARTS for pair in parts[part].values())]
        for name, parts in metrics.items()
    ]
    return table(heads, rows)


def category_tables(
    runs: list[RunScores], dataset: IndexedCocoDataset, categories: Mapping[str, Sequence[int]]
) -> list[Html]:
    """For each part a table with the AP50 of its categories with one reference, the mean of all draws."""
    names = {info["id"]: info["name"] for info in dataset.class_info}
    tables = []
    for part, ids in categories.items():
        rows = [[names[one], *(f"{_ap50(runs, kind, [one])[0]:.1f}" for kind in KINDS)] for one in ids]
        rows.sort(key=lambda row: float(row[1]), reverse=True)
        caption = f"AP50 of the {part} categories, one reference"
        tables.append(table(["category", *KINDS.values()], rows, caption=caption))
    return tables


def _ap50(runs: list[RunScores], kind: str, category_ids: Iterable[int]) -> tuple[float, float | None]:
    """Mean and 95% interval over runs of the mean over categories with instances, in percent."""
    mean, interval = over_categories([run[kind] for run in runs], list(map(str, category_ids)))
    return 100 * mean, None if interval is None else 100 * interval


def loss_curves(name: str, path: Path) -> Html:
    """The curves of a run, from its history.csv."""
    with open(path, encoding="utf-8", newline="") as file:
        return figure(plot_losses(csv.DictReader(file), title=name.capitalize()), caption=name.capitalize())


def presence_parts(found: dict[str, Any]) -> list[Html | str]:
    """Text, plot and table of the presence of train and novel categories."""
    groups = {part: found["groups"][part] for part in PARTS}
    rows = [
        [
            name,
            *(
                f"{factor * value:.3g}" if (value := one["mean"][kind][metric]) is not None else "-"
                for one in groups.values()
            ),
        ]
        for (kind, metric), (name, factor) in _PRESENCE_ROWS.items()
    ]
    plot = figure(plot_presence(groups, title="Found, and false alarms"), caption="Recall and false alarms")
    about = _PRESENCE_TEXT.format(images=found["num_images"], absent=found["absent"], threshold=found["threshold"])
    return [about, plot, table(["", *(f"{part} categories" for part in PARTS)], rows)]


def gallery(
    out: Path, dataset: IndexedCocoDataset, category_ids: Iterable[int], threshold: float, *, absent: bool = False
) -> list[str | Html]:
    """Images of some queries with their titles."""
    options: dict[str, Any] = {"threshold": threshold, "category_ids": set(category_ids), "absent": absent}
    limit, name = (_ABSENT_EXAMPLES, OPEN) if absent else (_EXAMPLES, "1-shot")
    chosen = examples(out / "evaluation" / name, dataset, limit=limit, **options)
    return [part for one in chosen for part in (one.title, image_grid([one.cells]))]
