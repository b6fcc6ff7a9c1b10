"""The contents of a report: sections of texts and tables, as Markdown and as parts of an HTML page.

Scores are in percent.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from ..evaluation.coco_scores import IOU_TYPES, METRICS
from ..evaluation.intervals import INTERVALS_COVER, MeanAndInterval, mean_text
from ..evaluation.presence import QUERIES
from ..visualize import pages
from .about import Settings, about, about_text, data_name, weights_name
from .experiments import PAPER, SPLITS, Evaluated, Experiment, Line
from .markup import code, escaped, inline
from .published import MEAN, RANDOM_BOXES

CLASS_COLUMNS = tuple((kind, name) for kind in IOU_TYPES for name in ("AP50", "AP"))

_PERCENT = "in percent"  # head of tables all of whose scores are
_KIND_NAMES = {"bbox": "detection", "segm": "segmentation"}
_SHORT_NAMES = {name: name.replace("_small", "s").replace("_medium", "m").replace("_large", "l") for name in METRICS}
_UNKNOWN, _NOTHING = "", "n/a"  # not published; no ground truth
_CONFUSIONS = 10  # number of confused pairs in the text
_PRESENCE_TEXT = """\
Each image was searched for the categories in it (*present*), and for others that are not in it (*absent*). A query
*fires* where it shows a detection with a score of the threshold or more; *false detections* are those per absent query.
*AUROC*: the best scores of present against absent queries. *IL_MCC*: Matthews' correlation of presence and firing.
*cgF1* is SAM 3's (arXiv 2511.16719), from 0 to 100: the F1 of instances over IoU 0.50:0.95 of the present queries,
times IL_MCC. *At 5%*: at the score where 5% of the absent queries fire. AUROC, IL_MCC and false detections are not in
percent.
"""
_PRESENCE_COLUMNS = {
    "AUROC": "AUROC (0 to 1)",
    "IL_MCC": "IL_MCC (-1 to 1)",
    "present_firing": "present that fire (%)",
    "absent_firing": "absent that fire (%)",
    "false_detections": "false detections (number)",
    "present_at_5": "present at 5% (in %)",
    "present_at_10": "present at 10% (in %)",
}
_INSTANCE_COLUMNS = {
    f"{PAPER}AP50": "AP50, present only",
    "AP50": "AP50, absent too",
    f"{PAPER}AP": "AP, present only",
    "AP": "AP, absent too",
    "precision": "precision",
    "recall": "recall",
    "F1": "F1",
    "cgF1": "cgF1 (0 to 100)",
    "found": "present found",
    "recall_at_5": "recall at 5%",
    "recall_at_10": "recall at 10%",
}
_PRESENCE_DIGITS = {"AUROC": (3, 3), "IL_MCC": (3, 3), "false_detections": (2, 2)}
_GROUP_LEVEL = 2  # level of headings that begin a group of sections
_LONG = 30  # the page folds tables with more rows
_METRICS_TEXT = {
    False: "Scores are COCO's average precision (AP) and recall (AR) in percent, of one run.",
    True: (
        "Scores are COCO's average precision (AP) and recall (AR) in percent: the mean of {runs} runs with fresh "
        "references and its 95% confidence interval (1.96 * std / sqrt(runs))"
    ),
}
_SPLITS_TEXT = "; for a mean over splits, of the means over the splits of each run."
_PUBLISHED_TEXT = (
    "*Published*: the paper (arXiv 1811.11507), from the runs in its authors' repository, on all of COCO val2017; "
    "it compares with an evaluation of all these images only."
)
_RANDOM_TEXT = "Those of random boxes compare in kind only: they are shifted detections of a model, not ground truth."
_NOTHING_TEXT = f"`{_NOTHING}`: the images have no such instances."


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of texts: heads [c] and rows [r][c]; `*text*` is emphasized and `text` between backticks is code."""

    heads: list[str]
    rows: list[list[str]]


Block = str | Table


@dataclasses.dataclass(frozen=True)
class Section:
    """A heading, below it texts and Tables, then the plots with these file names."""

    heading: str
    blocks: Sequence[Block]
    level: int = 2
    plots: tuple[str, ...] = ()


# ---- contents --------------------------------------------------------------------------------------------------------


def contents(experiments: Sequence[Experiment]) -> list[Section]:
    """The sections of report.md and report.html."""
    texts = [about_text(settings_of(experiments)), _introduction(experiments)]
    sections = [Section(page_title(experiments), [*texts, sources_table(experiments)], 1)]
    sections += [*_main_sections(experiments), *_presence_sections(experiments)]
    sections += [Section(_heading("All metrics", "Tables A2 to A6", experiments), [])]
    sections += [Section(heading_of(experiment), [_full_table(experiment)], 3) for experiment in experiments]
    plotted = tuple(f"by_number_{name}.png" for name in plotted_together(experiments))
    if plotted:
        heading = _heading("AP50 by number of instances in the image", "Figure 5", experiments)
        sections += [Section(heading, [_number_table(experiments)], plots=plotted)]
    sections += [*_confusion_sections(experiments), Section("Categories", [])]
    for one in experiments:
        sections += [Section(heading_of(one), _class_blocks(one), 3, (f"per_class_{one.slug}.png",))]
    return sections


def page_title(experiments: Sequence[Experiment]) -> str:
    """The title of a report, with the name of the data set."""
    return f"Evaluation on {data_name(settings_of(experiments)[0])}"


def settings_of(experiments: Sequence[Experiment]) -> list[Settings]:
    """The settings of all evaluations."""
    return [part.settings for experiment in experiments for part in experiment.evaluations.values()]


def has_published(experiments: Iterable[Experiment]) -> bool:
    """Whether published results stand beside those of an evaluation."""
    return any(one.published(line, kind) for one in experiments for line in one.lines for kind in one.kinds)


def _heading(text: str, place: str, experiments: Sequence[Experiment]) -> str:
    """A heading with its place in the paper, whose results stand beside."""
    return f"{text} (the paper's {place})" if has_published(experiments) else text


def _introduction(experiments: Sequence[Experiment]) -> str:
    """How to read the scores; names only what the report has."""
    runs = about(settings_of(experiments))["runs"] or len(next(iter(experiments[0].evaluations.values())).runs)
    text = _METRICS_TEXT[runs > 1].format(runs=runs)
    texts = [text]
    if runs > 1:
        ending = _SPLITS_TEXT if any(MEAN in one.lines for one in experiments) else "."
        texts = [f"{text}{ending}", INTERVALS_COVER]
    if has_published(experiments):
        texts += [_PUBLISHED_TEXT]
        texts += [_RANDOM_TEXT] if any(one.model == RANDOM_BOXES for one in experiments) else []
    return " ".join([*texts, _NOTHING_TEXT])


def sources_table(experiments: Sequence[Experiment]) -> Table:
    """What each evaluation is of: split, weights where they differ, numbers of images, queries and detections."""
    rows = []
    several = len(about(settings_of(experiments))["weights"]) > 1
    for experiment in experiments:
        for split, part in experiment.evaluations.items():
            counts = [_number(part.counts[key]) for key in ("num_images", "num_queries", "num_results")]
            protocol = part.settings.get("protocol") or _UNKNOWN
            about_it = [split_name(split), escaped(weights_name(part.settings)) if several else _UNKNOWN]
            about_it += [_UNKNOWN if protocol == "default" else protocol, *counts, code(part.folder.name)]
            rows.append([heading_of(experiment), *about_it])
    heads = ["evaluation", "split", "weights", "protocol", "images", "queries", "detections", "folder"]
    return _without_empty(heads, rows)


def _main_sections(experiments: Sequence[Experiment]) -> list[Section]:
    """AP50: a table for each iou type with the splits as columns; without splits, one table of all iou types."""
    heading = _heading("AP50", "Table 1", experiments)
    kinds = experiments[0].kinds
    if all(one.lines == [0] for one in experiments):
        cells = [(0, kind) for kind in kinds]
        return [Section(heading, [_main_table(experiments, cells, [_KIND_NAMES[kind] for kind in kinds])])]
    every: list[Line] = [*SPLITS, MEAN, 0]
    lines = [line for line in every if any(line in experiment.lines for experiment in experiments)]
    names = [split_name(line) or "all" for line in lines]
    tables = {kind: _main_table(experiments, [(line, kind) for line in lines], names) for kind in kinds}
    summary = [summary_table(experiments)] if MEAN in lines and len(experiments) > 1 else []
    return [Section(heading, summary), *(Section(_KIND_NAMES[kind].capitalize(), [tables[kind]], 3) for kind in kinds)]


def summary_table(experiments: Sequence[Experiment]) -> Table:
    """The form of the paper's Table 1: AP50 of the mean over the splits, of a single split its own.

    Rows are models and numbers of shots, columns iou types and sets of categories. Values name their splits if these
    are not the same for all.
    """
    sets = list(dict.fromkeys(one.categories for one in experiments))
    columns = list(itertools.product(experiments[0].kinds, sets))
    names_splits = len({tuple(one.lines) for one in experiments}) > 1
    by_name: dict[str, dict[str, Experiment]] = {}
    for one in experiments:
        by_name.setdefault(one.name, {})[one.categories] = one
    rows = []
    for name, found in by_name.items():
        cells = {place: found[place[1]] for place in columns if place[1] in found}
        here = {place: _cell(one.metric(one.lines[-1], place[0], "AP50")) for place, one in cells.items()}
        there = {place: _published_cell(one, one.lines[-1], place[0], "AP50") for place, one in cells.items()}
        if names_splits:
            here = {place: f"{text} ({_splits_text(cells[place])})" for place, text in here.items()}
        name = name[0].upper() + name[1:]
        rows.append([name, *(here.get(place, _UNKNOWN) for place in columns)])
        if any(there.values()):
            rows.append(["*published*", *(there.get(place, _UNKNOWN) for place in columns)])
    return Table([f"AP50 {_PERCENT}", *(f"{_KIND_NAMES[kind]}, {categories}" for kind, categories in columns)], rows)


def _splits_text(experiment: Experiment) -> str:
    return ", ".join(split_name(split) or "all" for split in experiment.evaluations)


def _main_table(experiments: Sequence[Experiment], columns: Sequence[tuple[Line, str]], names: list[str]) -> Table:
    """Rows experiments, columns (split, iou type), each row beside the published one."""
    rows = []
    for experiment in experiments:
        known = [(line, kind) if line in experiment.lines else None for line, kind in columns]
        here = [_cell(experiment.metric(*place, "AP50")) if place else _UNKNOWN for place in known]
        there = [_published_cell(experiment, *place, "AP50") if place else _UNKNOWN for place in known]
        rows.append([heading_of(experiment), "here", *here])
        rows += [["", "*published*", *there]] if any(there) else []
    if not has_published(experiments):
        return Table([f"AP50 {_PERCENT}", *names], [[row[0], *row[2:]] for row in rows])
    return Table([f"AP50 {_PERCENT}", "", *names], rows)


def _full_table(experiment: Experiment) -> Table:
    """Rows splits and kinds, columns all 12 metrics."""
    rows = []
    for kind in experiment.kinds:
        for line in experiment.lines:
            here = [_cell(experiment.metric(line, kind, name)) for name in METRICS]
            there = [_published_cell(experiment, line, kind, name) for name in METRICS]
            is_published = has_published([experiment])
            rows.append([_KIND_NAMES[kind], split_name(line), "here" if is_published else _UNKNOWN, *here])
            if any(there):
                rows.append(["", "", "*published*", *there])
    return _without_empty([_PERCENT, "split", "", *_SHORT_NAMES.values()], rows)


def _without_empty(heads: list[str], rows: list[list[str]]) -> Table:
    """A table without the columns that are empty in all rows."""
    kept = [index for index in range(len(heads)) if any(row[index] for row in rows)]
    return Table([heads[index] for index in kept], [[row[index] for index in kept] for row in rows])


def _presence_sections(experiments: Sequence[Experiment]) -> list[Section]:
    """The open protocol: of queries and of instances, the paper's metrics beside; [] without any."""
    measured = [one for one in experiments if one.presence_groups]
    if not measured:
        return []
    plotted = tuple(name for one in measured for name in presence_plots(one))
    of_queries = _presence_table(measured, QUERIES, "evaluation", _PRESENCE_COLUMNS)
    sections = [Section("Presence (the open protocol)", [_PRESENCE_TEXT, of_queries], plots=plotted)]
    for kind in measured[0].kinds:
        of_instances = _presence_table(measured, kind, f"evaluation ({_PERCENT})", _INSTANCE_COLUMNS)
        sections.append(Section(_KIND_NAMES[kind].capitalize(), [of_instances], 3))
    return sections


def _presence_table(experiments: Sequence[Experiment], kind: str, head: str, columns: dict[str, str]) -> Table:
    """Rows evaluations, splits and groups of categories; `head` is that of the evaluations."""
    rows = []
    for one in experiments:
        asked = {f"{part.presence['absent']}" for part in one.evaluations.values()}
        thresholds = {f"{part.presence['threshold']:.3g}" for part in one.evaluations.values()}
        for line, group in itertools.product(one.lines, one.presence_groups):
            groups = group or (one.categories if one.presence_groups[1:] else _UNKNOWN)
            about_it = [heading_of(one), split_name(line), groups]
            about_it += [", ".join(sorted(values)) for values in (asked, thresholds)]
            metrics = {name: one.presence_metric(line, group, kind, name) for name in columns}
            rows.append([*about_it, *(_cell(value, _PRESENCE_DIGITS.get(name)) for name, value in metrics.items())])
    heads = [head, "split", "categories", "absent asked", "threshold", *columns.values()]
    return _without_empty(heads, rows)


def _number_table(experiments: Sequence[Experiment]) -> Table:
    rows: list[list[str]] = []
    bins = used_bins(experiments)
    for experiment in experiments:
        table = experiment.by_number()
        if table:
            rows.append([heading_of(experiment), "queries", *map(_number, table["num_queries"][: len(bins)])])
            scores = {kind: table[kind]["AP50"][: len(bins)] for kind in experiment.kinds}
            rows += [["", _KIND_NAMES[kind], *map(_cell, of_kind)] for kind, of_kind in scores.items()]
    return Table(["instances of the category", f"AP50 {_PERCENT}", *bins], rows)


def used_bins(experiments: Iterable[Experiment]) -> list[str]:
    """The bins of instance numbers up to the last one with a query, of all experiments together."""
    found = [table for experiment in experiments if (table := experiment.by_number())]
    last = [max((place for place, count in enumerate(one["num_queries"]) if count), default=0) for one in found]
    return list(found[0]["bins"][: max(last) + 1]) if found else []


def _confusion_sections(experiments: Sequence[Experiment]) -> list[Section]:
    text = (
        "The most confused pairs: AP50 of the detections for references of the first category, scored as detections of "
        "the second in the same images. All pairs are in confusion_*.csv and in the plots."
    )
    sections = []
    for experiment in experiments:
        for split, part in experiment.evaluations.items():
            if has_confusion(part):
                plotted = tuple(f"confusion_{full_name(experiment, split)}_{kind}.png" for kind in experiment.kinds)
                heading = place_name(experiment, split)
                sections.append(Section(heading, [_confusion_table(part)], 3, plotted))
    heading = _heading("Confusion", "Figure A1", experiments)
    return [Section(heading, [text]), *sections] if sections else []


def _confusion_table(part: Evaluated) -> Block:
    kind = part.kinds[0]
    matrix = confusion_matrix(part, kind)
    np.fill_diagonal(matrix, np.nan)
    worst = np.argsort(-np.nan_to_num(matrix, nan=-1), axis=None, kind="stable")[:_CONFUSIONS]
    names, places = confusion_names(part), zip(*np.unravel_index(worst, matrix.shape), strict=True)
    rows = [[escaped(names[i]), escaped(names[j]), f"{matrix[i, j]:.1f}"] for i, j in places if matrix[i, j] > 0]
    heads = ["searched", "found instead", f"AP50 ({_KIND_NAMES[kind]}, %)"]
    return Table(heads, rows) if rows else "No category was found in place of another."


def _class_blocks(experiment: Experiment) -> list[Block]:
    columns = [(kind, name) for kind, name in CLASS_COLUMNS if kind in experiment.kinds]
    rows, classes = [], experiment.classes()
    for entry in classes:
        splits = ", ".join(split_name(split) for split in entry["splits"])
        cells = [_cell(entry[kind][name]) for kind, name in columns]
        rows.append([escaped(entry["name"]), splits, _number(entry["num_instances"]), *cells])
    heads = [f"{name} {_KIND_NAMES[kind]} (%)" for kind, name in columns]
    is_single = any(entry["num_instances"] == 1 for entry in classes)
    note = ["Of a category with a single instance, the score says little."] if is_single else []
    return [_without_empty(["category", "splits", "instances", *heads], rows), *note]


def _published_cell(experiment: Experiment, line: Line, kind: str, name: str) -> str:
    known = experiment.published(line, kind)
    return f"*{_cell(known[name])}*" if name in known else _UNKNOWN


def _cell(metric: MeanAndInterval, digits: tuple[int, int] | None = None) -> str:
    mean, interval = metric
    return _NOTHING if mean is None else mean_text(mean, interval, digits=digits or (1, 2))


def _number(value: int | None) -> str:
    return _UNKNOWN if value is None else f"{value:,}"


def heading_of(experiment: Experiment) -> str:
    """Its title with a capital letter."""
    return experiment.title[0].upper() + experiment.title[1:]


def split_name(line: Line) -> str:
    """The name of a split, or of the mean of several, in tables; "" of all categories."""
    return "mean" if line == MEAN else f"S{line}" if line else ""


def place_name(experiment: Experiment, split: int) -> str:
    """The heading of an evaluation, with its split if it has one."""
    return ", ".join(name for name in (heading_of(experiment), split_name(split)) if name)


def has_confusion(part: Evaluated) -> bool:
    """Whether there is a confusion matrix of two categories or more."""
    return bool(part.analysis) and len(part.analysis["confusion"]["category_ids"]) > 1


# ---- Markdown and HTML -----------------------------------------------------------------------------------------------


def as_markdown(sections: Iterable[Section]) -> str:
    """Sections as Markdown text."""
    parts = []
    for section in sections:
        parts += [f"{'#' * section.level} {escaped(section.heading)}", *map(_markdown_block, section.blocks)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _markdown_block(block: Block) -> str:
    """A text unchanged, or a table with columns of numbers aligned right, except the first."""
    if not isinstance(block, Table):
        return block
    columns = list(zip(*block.rows, strict=True))[1:]
    rule = ["---:" if any(cell.lstrip("*")[:1].isdigit() for cell in column) else "---" for column in columns]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [block.heads, ["---", *rule], *block.rows])


def as_html(sections: Sequence[Section], folder: Path, examples: Iterable[pages.Html] = ()) -> list[pages.Html]:
    """The parts of a page: the sections of `contents`, the plots in `folder`, the examples after the main tables."""
    parts, groups = [_html_block(block) for block in sections[0].blocks], 0
    for section in sections[1:]:
        groups += section.level == _GROUP_LEVEL
        if groups == 2 and section.level == _GROUP_LEVEL:
            parts += examples
        blocks = [_html_block(block) for block in section.blocks]
        shown = [pages.figure(folder / name, alt=f"plot {name}") for name in section.plots]
        parts.append(pages.section(section.heading, *blocks, *shown, level=section.level))
    return parts


def _html_block(block: Block) -> pages.Html:
    if not isinstance(block, Table):
        return pages.paragraph(inline(" ".join(block.split())))
    made = pages.table(block.heads, [[inline(cell) for cell in row] for row in block.rows])
    return pages.folded(f"{len(block.rows)} rows", made) if len(block.rows) > _LONG else made


def full_name(experiment: Experiment, split: int) -> str:
    """Name of an evaluation in file names."""
    return f"{experiment.slug}_s{split}" if split else experiment.slug


def plotted_together(experiments: Iterable[Experiment]) -> dict[str, list[Experiment]]:
    """Name -> the analysed experiments of one plot: train and novel categories with the same number of shots."""
    together: dict[str, list[Experiment]] = {}
    for experiment in experiments:
        if experiment.by_number():
            together.setdefault(experiment.model or f"{experiment.shots}shot", []).append(experiment)
    return together


def presence_plots(experiment: Experiment) -> dict[str, Evaluated]:
    """File name -> the evaluation with metrics of presence in that plot."""
    parts = experiment.evaluations.items() if experiment.presence_groups else ()
    return {f"presence_{full_name(experiment, split)}.png": part for split, part in parts}


def confusion_names(part: Evaluated) -> list[str]:
    """Categories in the order of the confusion matrix."""
    return [part.class_name(str(category)) for category in part.analysis["confusion"]["category_ids"]]


def confusion_matrix(part: Evaluated, kind: str) -> np.ndarray:
    """[c, c] in percent, NaN where two categories are never in one image."""
    rows = part.analysis["confusion"][kind]["matrix"]
    return 100 * np.array([[np.nan if value is None else value for value in row] for row in rows], float)
