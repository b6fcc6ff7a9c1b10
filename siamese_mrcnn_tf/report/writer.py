"""The report of one evaluation or several: tables beside the published results, examples, plots, CSV and JSON.

`write_report` takes the folders of finished evaluations (category splits, train and novel categories, numbers of shots)
and writes the paper's Table 1, Tables A2 to A6, Figures 5 and A1. Scores are in percent.
"""

import csv
import io
import itertools
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.custom import indexed_dataset
from ..data.dataset import CocoDataset, Dataset
from ..evaluation.coco_scores import METRICS
from ..evaluation.intervals import MeanAndInterval
from ..evaluation.presence import INSTANCE_METRICS, QUERIES, QUERY_METRICS
from ..io import files
from ..visualize import pages
from . import gallery, plots, tables
from .about import about
from .experiments import PAPER, Evaluated, Experiment, Line, read_experiments
from .published import MEAN

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = dict[str, Any]

logger = logging.getLogger(__name__)

REPORT_FILE, PAGE_FILE = "report.md", "report.html"

_INSTANCE_NAMES = (f"{PAPER}AP50", f"{PAPER}AP", *dict.fromkeys((*METRICS, *INSTANCE_METRICS)))
_EXAMPLES, _THRESHOLD = 12, 0.5  # number of examples, and minimum score of their detections
_EXAMPLES_TEXT = """\
From left to right: the references, the detections in the first run with a score of {threshold:g} or more, the ground
truth. Blue: found, the boxes overlap by half or more. Orange: a false detection, or a missed instance. Grey: a crowd.
Of each category shown, the queries are the best and the worst by the F-measure of this matching.
"""


def write_report(
    folders: Iterable[str | os.PathLike],
    out: str | os.PathLike,
    dataset: Dataset | None = None,
    *,
    limit: int = _EXAMPLES,
    threshold: float = _THRESHOLD,
) -> list[Path]:
    """Write tables and plots of evaluations, and a page with all of them and examples as images.

    Args:
        folders: of finished evaluations: splits, train and novel categories, shots, in any order.
        out: folder to write to; replaces files of the same names.
        dataset: of the evaluations, also of your own class (`data.custom`), for the examples; None leaves them out. The
            page names missing images or records.
        limit: number of examples, of all evaluations together.
        threshold: minimum score of the detections in examples.

    Returns:
        the paths written: report.html, report.md, metrics.csv, per_class.csv, with an analysis by_number.csv and
        confusion_*.csv, and with the open protocol presence.csv; report.json; then the plots (PNG).

    Raises:
        ValueError: as `experiments.read_experiments`, or `out` is no folder to write to.
    """
    experiments = read_experiments(folders)
    out = files.writable_folder(out)
    sections = tables.contents(experiments)
    texts = {
        REPORT_FILE: tables.as_markdown(sections),
        "metrics.csv": _csv(metric_rows(experiments)),
        "per_class.csv": _csv(class_rows(experiments)),
        "by_number.csv": _csv(number_rows(experiments)),
        "presence.csv": _csv(presence_rows(experiments)),
    }
    for experiment, split, kind in _confusions(experiments):
        part = experiment.evaluations[split]
        texts[f"confusion_{tables.full_name(experiment, split)}_{kind}.csv"] = _confusion_csv(part, kind)
    paths = [out / name for name, text in texts.items() if text] + [out / "report.json"]
    for path in paths[:-1]:
        files.write_text(path, texts[path.name])
    files.write_json(paths[-1], _as_json(experiments), indent=1)
    paths += _write_plots(experiments, out)
    shown = [] if dataset is None else [_examples(experiments, indexed_dataset(dataset), limit, threshold)]
    pages.write_page(out / PAGE_FILE, tables.page_title(experiments), tables.as_html(sections, out, shown))
    return [out / PAGE_FILE, *paths]


# ---- rows ------------------------------------------------------------------------------------------------------------


def metric_rows(experiments: Iterable[Experiment]) -> list[Row]:
    """Every metric as a dict: model, shots, categories, split, kind, metric, mean, interval, published,
    published_interval, run_0, run_1, ...; None where there is none."""
    return [
        _metric_row(experiment, *place)
        for experiment in experiments
        for place in itertools.product(experiment.lines, experiment.kinds, METRICS)
    ]


def _metric_row(experiment: Experiment, line: Line, kind: str, name: str) -> Row:
    mean, interval = experiment.metric(line, kind, name)
    row = _keys(experiment) | {"split": line, "kind": kind, "metric": name, "mean": mean, "interval": interval}
    row["published"], row["published_interval"] = experiment.published(line, kind).get(name, (None, None))
    return row | _run_columns(experiment.values(line, kind, name), line)


def class_rows(experiments: Iterable[Experiment]) -> list[Row]:
    """Every category of every experiment as a dict: its AP and AP50 with intervals, boxes and masks."""
    rows = []
    for experiment in experiments:
        for entry in experiment.classes():
            row = _keys(experiment) | {"splits": " ".join(map(str, entry["splits"]))}
            row |= {key: entry[key] for key in ("category_id", "name", "num_instances")}
            for kind, name in tables.CLASS_COLUMNS:
                row |= _columns(kind, name, entry[kind][name] if kind in entry else (None, None))
            rows.append(row)
    return rows


def number_rows(experiments: Iterable[Experiment]) -> list[Row]:
    """Every bin of instance numbers of every analysed experiment as a dict."""
    rows = []
    for experiment in experiments:
        table = experiment.by_number()
        for index, name in enumerate(table.get("bins", ())):
            row = _keys(experiment) | {"instances": name, "num_queries": table["num_queries"][index]}
            for kind, metric in itertools.product(experiment.kinds, ("AP50", "AP")):
                row |= _columns(kind, metric, table[kind][metric][index])
            rows.append(row)
    return rows


def presence_rows(experiments: Iterable[Experiment]) -> list[Row]:
    """Every metric of presence as a dict: model, shots, categories, split, group, kind, metric, mean, interval, run_0,
    run_1, ...; in the units of `Experiment.presence_values`, None where there is none."""
    rows = []
    for one in experiments:
        for line, group in itertools.product(one.lines, one.presence_groups):
            for kind, names in {QUERIES: QUERY_METRICS, **dict.fromkeys(one.kinds, _INSTANCE_NAMES)}.items():
                rows += [_presence_row(one, line, group, kind, name) for name in names]
    return rows


def _presence_row(experiment: Experiment, line: Line, group: str, kind: str, name: str) -> Row:
    mean, interval = experiment.presence_metric(line, group, kind, name)
    row = _keys(experiment) | {"split": line, "group": group or experiment.categories, "kind": kind, "metric": name}
    runs = experiment.presence_values(line, group, kind, name)
    return row | {"mean": mean, "interval": interval} | _run_columns(runs, line)


def _run_columns(runs: list, line: Line) -> Row:
    """run_0, run_1, ...: values [runs] of a split, or the means of [splits][runs] of MEAN."""
    if line == MEAN:
        runs = [None if None in values else float(np.mean(values)) for values in zip(*runs, strict=True)]
    return {f"run_{number}": value for number, value in enumerate(runs)}


def _keys(experiment: Experiment) -> Row:
    return {"model": experiment.model, "shots": experiment.shots, "categories": experiment.categories}


def _columns(kind: str, name: str, metric: MeanAndInterval) -> Row:
    return {f"{kind}_{name}": metric[0], f"{kind}_{name}_interval": metric[1]}


# ---- examples --------------------------------------------------------------------------------------------------------


def _examples(experiments: Sequence[Experiment], dataset: CocoDataset, limit: int, threshold: float) -> pages.Html:
    """The section of examples, `limit` of all evaluations together."""
    evaluations = [(e, split, part) for e in experiments for split, part in e.evaluations.items()]
    parts = [" ".join(_EXAMPLES_TEXT.format(threshold=threshold).split())]
    for experiment, split, part in evaluations:
        heading = tables.place_name(experiment, split)
        try:
            found = gallery.examples(part.folder, dataset, limit=-(-limit // len(evaluations)), threshold=threshold)
            shown = [pages.section(one.title, pages.image_grid([one.cells]), level=4) for one in found]
        except ValueError as error:
            logger.warning("no examples: %s", error)
            shown = [pages.note(f"No examples: {error}")]
        parts.append(pages.section(heading, *shown, level=3))
    return pages.section("Examples", *parts)


# ---- CSV and JSON ----------------------------------------------------------------------------------------------------


def _csv(rows: list[Row]) -> str:
    """Rows as CSV text with a header; "" without rows."""
    text, heads = io.StringIO(), list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(text, heads, lineterminator="\n")
    if rows:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _confusion_csv(part: Evaluated, kind: str) -> str:
    """The matrix with its histogram as last row."""
    text, names, confusion = io.StringIO(), tables.confusion_names(part), part.analysis["confusion"][kind]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["searched \\ found", *names])
    rows = zip([*names, "mean of others"], [*confusion["matrix"], confusion["histogram"]], strict=True)
    writer.writerows([name, *_in_percent(row)] for name, row in rows)
    return text.getvalue()


def _as_json(experiments: Sequence[Experiment]) -> dict[str, Any]:
    evaluations = [part for experiment in experiments for part in experiment.evaluations.values()]
    return {
        "format": 1,
        "about": about(tables.settings_of(experiments)),
        "evaluations": [{"folder": part.folder, "settings": part.settings, **part.counts} for part in evaluations],
        "metrics": metric_rows(experiments),
        "per_class": class_rows(experiments),
        "by_number": number_rows(experiments),
        "presence": presence_rows(experiments),
    }


# ---- plots -----------------------------------------------------------------------------------------------------------


def _write_plots(experiments: Sequence[Experiment], out: Path) -> list[Path]:
    figures = {f"per_class_{experiment.slug}.png": _class_plot(experiment) for experiment in experiments}
    for name, of_plot in tables.plotted_together(experiments).items():
        figures[f"by_number_{name}.png"] = _number_plot(of_plot)
    for one, split, kind in _confusions(experiments):
        figures[f"confusion_{tables.full_name(one, split)}_{kind}.png"] = _confusion_plot(one, split, kind)
    for one in experiments:
        figures |= {name: _presence_plot(one, part) for name, part in tables.presence_plots(one).items()}
    for name, figure in figures.items():
        plots.save_plot(figure, out / name)
    return [out / name for name in figures]


def _class_plot(experiment: Experiment) -> "Figure":
    entries = experiment.classes()
    names = [entry["name"] for entry in entries]
    scores = {kind: list(zip(*(entry[kind]["AP50"] for entry in entries), strict=True)) for kind in experiment.kinds}
    return plots.plot_classes(names, scores, title=f"AP50 by category: {experiment.title}")


def _number_plot(experiments: Sequence[Experiment]) -> "Figure":
    series: list[tuple] = []
    counts, bins = {}, tables.used_bins(experiments)
    for experiment in experiments:
        table, label = experiment.by_number(), experiment.categories_text
        counts[label] = table["num_queries"][: len(bins)]
        scores = {kind: table[kind]["AP50"][: len(bins)] for kind in experiment.kinds}
        series += [(label, kind, *zip(*of_kind, strict=True)) for kind, of_kind in scores.items()]
    what = experiments[0].title.partition(",")[0]
    return plots.plot_by_number(bins, series, counts=counts, title=f"AP50 by number of instances: {what}")


def _confusions(experiments: Iterable[Experiment]) -> list[tuple[Experiment, int, str]]:
    """(Experiment, split, iou type) of every confusion matrix."""
    return [
        (experiment, split, kind)
        for experiment in experiments
        for split, part in experiment.evaluations.items()
        if tables.has_confusion(part)
        for kind in experiment.kinds
    ]


def _confusion_plot(experiment: Experiment, split: int, kind: str) -> "Figure":
    part = experiment.evaluations[split]
    confusion = part.analysis["confusion"][kind]
    where = f", split {split}" if split else ""
    columns = _in_percent(confusion["histogram"]), _in_percent(confusion["histogram_interval"])
    names, matrix = tables.confusion_names(part), tables.confusion_matrix(part, kind)
    title = f"Confusion, {experiment.title}{where}: {plots.KINDS[kind]}"
    return plots.plot_confusion(names, matrix, *columns, title=title)


def _presence_plot(experiment: Experiment, part: Evaluated) -> "Figure":
    groups = [group for group in experiment.presence_groups if group] or [""]
    found = {f"{group or experiment.categories} categories": part.presence_of(group) for group in groups}
    where = f", split {part.split}" if part.split else ""
    return plots.plot_presence(found, title=f"{tables.heading_of(experiment)}{where}")


def _in_percent(values: Iterable[float | None]) -> list[float | None]:
    return [None if value is None else 100 * value for value in values]
