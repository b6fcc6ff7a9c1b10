"""Plots of an evaluation: AP50 by category and by number of instances, confusion of categories, presence.

Each function returns a new matplotlib Figure and leaves pyplot alone. Scores are in percent, None where there is none.
"""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..io.files import atomic_path
from ..visualize.lettering import plot_name
from ..visualize.style import DPI, FONT_SIZE, INK, SERIES_COLORS, SOFT, new_figure, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Scores = Sequence[float | None]

COLORS = {"bbox": "#3c6fb0", "segm": "#e08214"}  # distinct for color-blind readers too
KINDS = {"bbox": "boxes", "segm": "masks"}

_EMPTY, _DARK = "#efefef", "#1d3d66"
_STYLES = {"bbox": {"linestyle": "-", "marker": "o"}, "segm": {"linestyle": "--", "marker": "s"}}
_INCHES_PER_CLASS, _MIN_WIDTH = 0.2, 6.4
_NUMBERED_CELLS = 24  # maximum number of categories of a heat map with numbers
_MIN_PERCENT, _MAX_PERCENT = 1, 104  # minimum and maximum of an axis' upper limit
_ASIDE = 0.14  # between the bar of a category and its two intervals, in categories
_SMALL_RATE = 0.01  # false detections per absent query below which their axis is linear
_SPREAD = 0.08  # between the points of neighboring series, in bins


def save_plot(figure: "Figure", path: str | os.PathLike) -> None:
    """Write a figure as PNG, whole or not at all."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI)


def plot_classes(names: Sequence[str], scores: Mapping[str, Sequence[Scores]], *, title: str) -> "Figure":
    """Bars of boxes and points of masks for every category, in descending order.

    Args:
        names: [c].
        scores: "bbox" and, if there are masks, "segm" -> ([c] means, [c] intervals).
    """
    means = {kind: _as_floats(values[0]) for kind, values in scores.items()}
    leading = next(iter(means.values()))
    order = np.argsort(-np.nan_to_num(leading, nan=-1), kind="stable")
    places = np.arange(len(names))
    figure = new_figure((max(_MIN_WIDTH, 1.2 + _INCHES_PER_CLASS * len(names)), 4.6))
    axes = figure.add_subplot()
    for kind, (_, intervals) in scores.items():
        mean = "unknown" if np.isnan(means[kind]).all() else f"{np.nanmean(means[kind]):.1f}"
        label = f"{KINDS[kind]} (mean {mean})"
        errors = np.nan_to_num(_as_floats(intervals)[order])
        if kind == "bbox":
            axes.bar(places, means[kind][order], 0.78, label=label, color=COLORS[kind], alpha=0.75)
            axes.errorbar(places - _ASIDE, means[kind][order], errors, fmt="none", ecolor=_DARK, elinewidth=1)
        else:
            style: dict[str, Any] = {"color": COLORS[kind], "fmt": "s", "markersize": 3.5, "markeredgecolor": "white"}
            style |= {"elinewidth": 1, "markeredgewidth": 0.5}
            axes.errorbar(places + _ASIDE, means[kind][order], errors, label=label, **style)
    where: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "ha": "center", "va": "bottom"}
    for place in places[np.isnan(leading[order])]:
        axes.text(place, 0.01, "no instance", rotation=90, color=SOFT, fontsize=7, **where)
    axes.set_xticks(
        places, [plot_name(names[index]) for index in order], rotation=60, ha="right", rotation_mode="anchor"
    )
    axes.set_xlim(-0.7, len(names) - 0.3)
    _finish(axes, title, ylabel="AP50 (%)")
    axes.set_ylim(0, min(max(axes.get_ylim()[1], _MIN_PERCENT), _MAX_PERCENT))
    axes.legend(frameon=False, loc="upper right")
    return figure


def plot_by_number(
    bins: Sequence[str],
    series: Sequence[tuple[str, str, Scores, Scores]],
    *,
    counts: Mapping[str, Sequence[int]],
    title: str,
) -> "Figure":
    """Scores by the number of instances of the searched category in the image, with intervals.

    Args:
        bins: [b], names.
        series: (label, iou type, [b] means, [b] intervals); a label has one color.
        counts: label -> [b] number of queries.
    """
    figure = new_figure((7.2, 4.6))
    axes = figure.add_subplot()
    labels = list(dict.fromkeys(label for label, *_ in series))
    for index, (label, kind, means, intervals) in enumerate(series):
        places = np.arange(len(bins)) + (index - (len(series) - 1) / 2) * _SPREAD
        color = SERIES_COLORS[labels.index(label) % len(SERIES_COLORS)]
        style: dict[str, Any] = {"capsize": 3, "markersize": 5, "linewidth": 1.6, "elinewidth": 1.2, **_STYLES[kind]}
        style |= {
            "label": f"{plot_name(label)}, {KINDS[kind]}",
            "markerfacecolor": color if kind == "bbox" else "white",
        }
        axes.errorbar(places, _as_floats(means), np.nan_to_num(_as_floats(intervals)), color=color, **style)
    queries = [", ".join(f"{number:,}" for number in of_bin) for of_bin in zip(*counts.values(), strict=True)]
    ticks = [f"{name}\n({numbers})" for name, numbers in zip(bins, queries, strict=True)]
    axes.set_xticks(np.arange(len(bins)), ticks)
    axes.set_xlabel(
        f"instances of the category in the image\n(in brackets: queries, {' and '.join(map(plot_name, counts))})"
    )
    _finish(axes, title, ylabel="AP50 (%)")
    axes.legend(frameon=False, ncols=max(1, len(labels)))
    axes.set_ylim(0, max(axes.get_ylim()[1], _MIN_PERCENT) * 1.12)  # room for the legend
    return figure


def plot_confusion(
    names: Sequence[str], matrix: Sequence[Scores] | np.ndarray, histogram: Scores, intervals: Scores, *, title: str
) -> "Figure":
    """Heat map of a confusion matrix below the histogram of its columns.

    Args:
        names: [c].
        matrix: [c searched, c found]; None where the two are never in one image.
        histogram: [c], mean of a column over the other rows.
        intervals: [c], of the histogram.
    """
    import matplotlib  # slow to import

    values, count = np.array([_as_floats(row) for row in matrix]), len(names)
    shown = list(map(plot_name, names))
    side = max(5.2, 2.0 + 0.18 * count)  # inches of the heat map with its names
    figure = new_figure((side + 0.9, side + 1.7))
    top, axes = figure.subplots(2, 1, height_ratios=(1.2, side - 0.6), sharex=True)
    heat = matplotlib.colormaps["YlGnBu"].with_extremes(bad=_EMPTY)
    image = axes.imshow(values, cmap=heat, vmin=0, vmax=max(np.nanmax(values, initial=0), 1), aspect="auto")
    size = FONT_SIZE if count <= _NUMBERED_CELLS else FONT_SIZE - 1.5
    axes.set_xticks(np.arange(count), shown, rotation=90, fontsize=size)
    axes.set_yticks(np.arange(count), shown, fontsize=size)
    axes.set_xlabel("ground truth that the detections are scored against\n(grey: never in one image with the other)")
    axes.set_ylabel("category of the references")
    axes.tick_params(length=0)
    dark = 0.55 * max(np.nanmax(values, initial=0), 1)
    for (row, column), value in np.ndenumerate(values):
        if count <= _NUMBERED_CELLS and not np.isnan(value):
            color = "white" if value > dark else INK
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=size - 1, color=color)
    heights, errors = np.nan_to_num(_as_floats(histogram)), np.nan_to_num(_as_floats(intervals))
    top.bar(np.arange(count), heights, 0.75, color=COLORS["bbox"], alpha=0.75)
    top.errorbar(np.arange(count), heights, errors, fmt="none", ecolor=_DARK)
    top.tick_params(axis="x", length=0, labelbottom=False)
    _finish(top, title, ylabel="found instead\nof others")
    figure.colorbar(image, ax=axes, label="AP50 (%)", fraction=0.04, pad=0.015, aspect=40)
    return figure


def plot_presence(found: Mapping[str, Mapping[str, Any]], *, title: str) -> "Figure":
    """Recall against false detections per absent query, and the best scores of present and absent queries.

    Args:
        found: label -> metrics of `evaluation.presence.presence`; a label has one color, the dots are at the threshold.
    """
    figure = new_figure((9.6, 4.6))
    left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
    for index, (label, one) in enumerate(found.items()):
        color, curve = SERIES_COLORS[index % len(SERIES_COLORS)], one["curve"]
        for kind in (kind for kind in KINDS if kind in curve):
            fill = color if kind == "bbox" else "white"
            line = {"color": color, "linestyle": _STYLES[kind]["linestyle"], "linewidth": 1.6}
            rates, recalls = _as_floats(curve["false_detections"] or ()), 100 * _as_floats(curve[kind] or ())
            size = min(rates.size, recalls.size)  # there is no curve without absent queries or instances
            left.plot(rates[:size], recalls[:size], label=f"{plot_name(label)}, {KINDS[kind]}", **line)
            rate, recall = one["mean"]["queries"]["false_detections"], one["mean"][kind]["recall"]
            if rate is not None and recall is not None:
                left.plot(rate, 100 * recall, "o", color=color, markerfacecolor=fill, markersize=6)
        edges = one["histogram"]["edges"]
        for name, style in (("present", "-"), ("absent", ":")):
            shares = 100 * np.asarray(one["histogram"][name])
            right.stairs(
                shares, edges, color=color, linestyle=style, linewidth=1.6, label=f"{plot_name(label)}, {name}"
            )
    left.set_xscale("symlog", linthresh=_SMALL_RATE)
    left.set_xlim(left=0)
    left.set_xlabel("false detections per absent query")
    _finish(left, title, ylabel="recall of instances (%)")
    left.set_ylim(0, _MAX_PERCENT)
    right.set_xlim(0, 1)
    right.set_xlabel("best score of a query (0: nothing found)")
    _finish(right, "Scores of present and absent queries", ylabel="queries (%)")
    for axes in (left, right):
        axes.legend(frameon=False)
    return figure


def _finish(axes: "Axes", title: str, *, ylabel: str) -> None:
    style_axes(axes, title)
    axes.set_ylabel(ylabel)
    axes.set_ylim(bottom=0)


def _as_floats(values: Scores | np.ndarray) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], float)
