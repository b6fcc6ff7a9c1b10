"""The report of one evaluation or of many: tables beside the paper's figures, CSV and JSON of everything, plots.

`write_report` takes the folders of finished evaluations (category splits, trained and held-out categories, numbers of
shots) and makes of them what the paper shows: Table 1, Tables A2 to A6, Figures 5 and A1. Scores are in percent.
"""

import csv
import io

import numpy as np

from . import files, plots
from .analysis import IOU_TYPES
from .evaluation_results import SPLITS, read_experiments
from .published import FIGURES, MEAN

REPORT_FILE = "report.md"

_KIND_NAMES = {"bbox": "detection", "segm": "segmentation"}
_SHORT_NAMES = {name: name.replace("_small", "s").replace("_medium", "m").replace("_large", "l") for name in FIGURES}
_UNKNOWN, _NOTHING = "", "n/a"  # a figure that was not published, and one without ground truth
_CONFUSIONS = 10  # pairs of categories in the text
_CLASS_COLUMNS = tuple((kind, name) for kind in IOU_TYPES for name in ("AP50", "AP"))
_INTRODUCTION = """\
Scores are COCO's average precision (AP) and recall (AR) in percent: the mean of {runs} with fresh references and, from
two runs on, its 95% confidence interval (1.96 * std / sqrt(runs)); for a mean over splits, of the means over the splits
of each run. *Published*: the paper (arXiv 1811.11507), from the runs in its authors' repository, on COCO 2017's
validation images; they compare only with an evaluation of these, those of random boxes in kind alone
(a model's detections were shifted there, not the ground truth). `{nothing}`: the images hold nothing to score.
"""


def write_report(folders, out):
    """Write tables and plots of evaluations.

    Args:
        folders: of finished evaluations, each with settings.json, scores.json and perhaps analysis.json: splits,
            trained and held-out categories, shots, in any order.
        out: folder to write to; files of the same names are replaced.

    Returns:
        list of the paths written: report.md, report.json, figures.csv, per_class.csv, and where the evaluations were
        analysed by_number.csv, confusion_*.csv; then the plots (PNG).

    Raises:
        ValueError: the evaluations cannot be read or do not belong together (`evaluation_results.read_experiments`),
            or `out` is no folder to write to.
    """
    experiments = read_experiments(folders)
    out = files.writable_folder(out)
    texts = {
        REPORT_FILE: markdown(experiments),
        "figures.csv": _csv(figure_rows(experiments)),
        "per_class.csv": _csv(class_rows(experiments)),
        "by_number.csv": _csv(number_rows(experiments)),
    }
    texts |= {
        f"confusion_{slug}_{kind}.csv": _confusion_csv(part, kind) for slug, part, kind in _confusions(experiments)
    }
    paths = []
    for name, text in texts.items():
        if text:
            files.write_text(out / name, text)
            paths.append(out / name)
    paths.append(out / "report.json")
    files.write_json(paths[-1], _as_json(experiments), indent=1)
    return paths + _write_plots(experiments, out)


# ---- rows ------------------------------------------------------------------------------------------------------------


def figure_rows(experiments):
    """Every figure as a dict: model, shots, categories, split, kind, figure, mean, interval, published,
    published_interval, run_0, run_1, ...; None where there is none."""
    rows = []
    for experiment in experiments:
        for line in experiment.lines:
            for kind in experiment.kinds:
                known = experiment.published(line, kind)
                rows += [_figure_row(experiment, line, kind, name, known.get(name)) for name in FIGURES]
    return rows


def _figure_row(experiment, line, kind, name, known):
    mean, interval = experiment.figure(line, kind, name)
    row = _keys(experiment) | {"split": line, "kind": kind, "figure": name, "mean": mean, "interval": interval}
    row["published"], row["published_interval"] = known or (None, None)
    runs = experiment.values(line, kind, name)
    if line == MEAN:
        runs = [None if None in values else float(np.mean(values)) for values in zip(*runs, strict=True)]
    return row | {f"run_{number}": value for number, value in enumerate(runs)}


def class_rows(experiments):
    """Every category of every experiment as a dict: its AP and AP50 with intervals, boxes and masks."""
    rows = []
    for experiment in experiments:
        for entry in experiment.classes():
            row = _keys(experiment) | {"splits": " ".join(map(str, entry["splits"]))}
            row |= {key: entry[key] for key in ("category_id", "name", "num_instances")}
            for kind, name in _CLASS_COLUMNS:
                mean, interval = entry[kind][name] if kind in entry else (None, None)
                row |= {f"{kind}_{name}": mean, f"{kind}_{name}_interval": interval}
            rows.append(row)
    return rows


def number_rows(experiments):
    """Every bin of instance numbers of every analysed experiment as a dict."""
    rows = []
    for experiment in experiments:
        table = experiment.by_number()
        for index, name in enumerate(table["bins"] if table else ()):
            row = _keys(experiment) | {"instances": name, "num_queries": table["num_queries"][index]}
            for kind in experiment.kinds:
                for figure in ("AP50", "AP"):
                    mean, interval = table[kind][figure][index]
                    row |= {f"{kind}_{figure}": mean, f"{kind}_{figure}_interval": interval}
            rows.append(row)
    return rows


def _keys(experiment):
    return {"model": experiment.model, "shots": experiment.shots, "categories": experiment.categories}


# ---- Markdown --------------------------------------------------------------------------------------------------------


def markdown(experiments):
    """The tables as Markdown text."""
    first = next(iter(experiments[0].evaluations.values()))
    runs = f"{len(first.runs)} run{'s' if len(first.runs) > 1 else ''}"
    parts = ["# Evaluation", _INTRODUCTION.format(runs=runs, nothing=_NOTHING), _sources(experiments)]
    parts += ["## AP50, one-shot and few-shot (the paper's Table 1)"]
    for kind in experiments[0].kinds:
        parts += [f"### {_KIND_NAMES[kind].capitalize()}", _main_table(experiments, kind)]
    parts += ["## All figures (the paper's Tables A2 to A6)"]
    for experiment in experiments:
        parts += [f"### {_heading(experiment)}", _full_table(experiment)]
    if number_rows(experiments):
        parts += ["## AP50 by number of instances in the image (the paper's Figure 5)", _number_table(experiments)]
    parts += _confusion_parts(experiments)
    parts += ["## Categories"]
    for experiment in experiments:
        parts += [f"### {_heading(experiment)}", _class_table(experiment)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _sources(experiments):
    rows = []
    for experiment in experiments:
        for split, part in experiment.evaluations.items():
            counts = [_number(part.counts[key]) for key in ("num_images", "num_queries", "num_results")]
            protocol = part.settings.get("protocol") or _UNKNOWN
            rows.append([_heading(experiment), _split_name(split), protocol, *counts, f"`{part.folder.name}`"])
    return _table(["evaluation", "split", "protocol", "images", "queries", "detections", "folder"], rows)


def _main_table(experiments, kind):
    """Rows experiments, columns splits, each row beside the published one."""
    columns = [*SPLITS, MEAN, 0]
    columns = [line for line in columns if any(line in experiment.lines for experiment in experiments)]
    rows = []
    for experiment in experiments:
        here, there = [], []
        for line in columns:
            is_there = line in experiment.lines
            here.append(_cell(experiment.figure(line, kind, "AP50")) if is_there else _UNKNOWN)
            there.append(_published_cell(experiment, line, kind, "AP50") if is_there else _UNKNOWN)
        rows += [[_heading(experiment), "here", *here], ["", "*published*", *there]]
    return _table(["", "", *(_split_name(line) for line in columns)], rows)


def _full_table(experiment):
    """Rows splits and kinds, columns all 12 figures."""
    rows = []
    for kind in experiment.kinds:
        for line in experiment.lines:
            here = [_cell(experiment.figure(line, kind, name)) for name in FIGURES]
            there = [_published_cell(experiment, line, kind, name) for name in FIGURES]
            rows.append([_KIND_NAMES[kind], _split_name(line), "here", *here])
            if any(there):
                rows.append(["", "", "*published*", *there])
    return _table(["", "split", "", *_SHORT_NAMES.values()], rows)


def _number_table(experiments):
    rows, bins = [], None
    for experiment in experiments:
        table = experiment.by_number()
        if table:
            bins = table["bins"]
            rows.append([_heading(experiment), "queries", *map(_number, table["num_queries"])])
            rows += [["", _KIND_NAMES[kind], *map(_cell, table[kind]["AP50"])] for kind in experiment.kinds]
    return _table(["instances of the category", "", *bins], rows)


def _confusion_parts(experiments):
    parts = []
    for experiment in experiments:
        for split, part in experiment.evaluations.items():
            if part.analysis:
                parts += [f"### {_heading(experiment)}, {_split_name(split)}", _confusion_table(part)]
    text = (
        "The most confused pairs: AP50 of what was found for references of the first category, scored as detections of "
        "the second in the same images. All pairs are in confusion_*.csv and in the plots."
    )
    return ["## Confusion (the paper's Figure A1)", text, *parts] if parts else []


def _confusion_table(part):
    kind = part.kinds[0]
    matrix = _confusion_matrix(part, kind)
    np.fill_diagonal(matrix, np.nan)
    worst = np.argsort(-np.nan_to_num(matrix, nan=-1), axis=None, kind="stable")[:_CONFUSIONS]
    names, rows = _confusion_names(part), []
    for row, column in zip(*np.unravel_index(worst, matrix.shape), strict=True):
        if matrix[row, column] > 0:
            rows.append([names[row], names[column], f"{matrix[row, column]:.1f}"])
    heads = ["searched", "found instead", f"AP50 ({_KIND_NAMES[kind]})"]
    return _table(heads, rows) if rows else "No category was found in place of another."


def _class_table(experiment):
    columns = [(kind, name) for kind, name in _CLASS_COLUMNS if kind in experiment.kinds]
    rows, single = [], False
    for entry in experiment.classes():
        single |= entry["num_instances"] == 1
        splits = ", ".join(_split_name(split) for split in entry["splits"])
        cells = [_cell(entry[kind][name]) for kind, name in columns]
        rows.append([entry["name"], splits, _number(entry["num_instances"]), *cells])
    heads = [f"{name} {_KIND_NAMES[kind]}" for kind, name in columns]
    note = "\n\nOf a category with a single instance, the score says little." if single else ""
    return _table(["category", "splits", "instances", *heads], rows) + note


def _published_cell(experiment, line, kind, name):
    known = experiment.published(line, kind)
    return f"*{_cell(known[name])}*" if name in known else _UNKNOWN


def _cell(figure):
    mean, interval = figure
    if mean is None:
        return _NOTHING
    return f"{mean:.1f}" if interval is None else f"{mean:.1f} ± {interval:.2f}"


def _number(value):
    return _UNKNOWN if value is None else f"{value:,}"


def _heading(experiment):
    return experiment.title[0].upper() + experiment.title[1:]


def _split_name(line):
    return "mean" if line == MEAN else f"S{line}" if line else "all 80" if line == 0 else str(line)


def _table(heads, rows):
    """A Markdown table, columns of numbers to the right but for the first."""
    columns = list(zip(*rows, strict=True))[1:]
    rule = ["---:" if any(cell.lstrip("*")[:1].isdigit() for cell in column) else "---" for column in columns]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [heads, ["---", *rule], *rows])


# ---- CSV and JSON ----------------------------------------------------------------------------------------------------


def _csv(rows):
    """Rows as CSV text with a header; "" without rows."""
    if not rows:
        return ""
    text, heads = io.StringIO(), list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(text, heads, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _confusion_csv(part, kind):
    """The matrix with its histogram as last row."""
    text, names, confusion = io.StringIO(), _confusion_names(part), part.analysis["confusion"][kind]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["searched \\ found", *names])
    for name, row in zip(names, confusion["matrix"], strict=True):
        writer.writerow([name, *_in_percent(row)])
    writer.writerow(["mean of others", *_in_percent(confusion["histogram"])])
    return text.getvalue()


def _as_json(experiments):
    evaluations = [part for experiment in experiments for part in experiment.evaluations.values()]
    return {
        "evaluations": [{"folder": part.folder, "settings": part.settings, **part.counts} for part in evaluations],
        "figures": figure_rows(experiments),
        "per_class": class_rows(experiments),
        "by_number": number_rows(experiments),
    }


# ---- plots -----------------------------------------------------------------------------------------------------------


def _write_plots(experiments, out):
    figures = {}
    for experiment in experiments:
        figures[f"per_class_{experiment.slug}.png"] = _class_plot(experiment)
    for name, of_plot in _plotted_together(experiments).items():
        figures[f"by_number_{name}.png"] = _number_plot(of_plot)
    for slug, part, kind in _confusions(experiments):
        figures[f"confusion_{slug}_{kind}.png"] = _confusion_plot(part, kind)
    for name, figure in figures.items():
        plots.save_plot(figure, out / name)
    return [out / name for name in figures]


def _class_plot(experiment):
    entries = experiment.classes()
    scores = {kind: list(zip(*(entry[kind]["AP50"] for entry in entries), strict=True)) for kind in experiment.kinds}
    return plots.plot_classes(
        [entry["name"] for entry in entries], scores, title=f"AP50 by category: {experiment.title}"
    )


def _plotted_together(experiments):
    """Name -> the analysed experiments of one plot: trained and held-out categories with as many shots."""
    together = {}
    for experiment in experiments:
        if experiment.by_number():
            together.setdefault(experiment.model or f"{experiment.shots}shot", []).append(experiment)
    return together


def _number_plot(experiments):
    series, counts = [], {}
    for experiment in experiments:
        table, label = experiment.by_number(), f"{experiment.categories} categories"
        counts[label] = table["num_queries"]
        series += [(label, kind, *zip(*table[kind]["AP50"], strict=True)) for kind in experiment.kinds]
    what = experiments[0].title.partition(",")[0]
    return plots.plot_by_number(table["bins"], series, counts=counts, title=f"AP50 by number of instances: {what}")


def _confusions(experiments):
    """(slug, Evaluated, iou type) of every confusion matrix there is."""
    return [
        (f"{experiment.slug}_s{split}" if split else experiment.slug, part, kind)
        for experiment in experiments
        for split, part in experiment.evaluations.items()
        if part.analysis
        for kind in experiment.kinds
    ]


def _confusion_plot(part, kind):
    confusion = part.analysis["confusion"][kind]
    model, shots, categories = part.experiment
    where = f", split {part.split}" if part.split else ""
    title = f"Confusion, {model or f'{shots}-shot'}, {categories} categories{where}: {plots.KINDS[kind]}"
    histogram, intervals = _in_percent(confusion["histogram"]), _in_percent(confusion["histogram_interval"])
    return plots.plot_confusion(
        _confusion_names(part), _confusion_matrix(part, kind), histogram, intervals, title=title
    )


def _confusion_names(part):
    return [part.class_name(str(category)) for category in part.analysis["confusion"]["category_ids"]]


def _confusion_matrix(part, kind):
    """[c, c] in percent, NaN where nothing is known."""
    rows = part.analysis["confusion"][kind]["matrix"]
    return 100 * np.array([[np.nan if value is None else value for value in row] for row in rows], float)


def _in_percent(values):
    return [None if value is None else 100 * value for value in values]
