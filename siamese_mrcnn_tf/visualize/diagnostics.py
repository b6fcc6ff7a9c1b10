"""Plots and tables of numbers: losses of a run, precision and recall, overlaps, statistics of weights.

The functions draw on the axes they are given or on those of a new figure, and never show anything.
"""

import dataclasses
import math

import numpy as np

from . import pages
from .style import SERIES_COLORS, new_figure

_HUGE = 1000  # weights beyond it hint at an overflow
_VALIDATION = "val_"
_FONT_SIZE = 9
_INK, _FAINT, _SOFT = "#333333", "#d9d9d9", "#8a8a8a"
_PANEL = (3.4, 2.6)  # inches
_COLUMNS = 4
_MOST_MARKED = 30  # epochs up to which each is marked on the line
_MOST_RATES = 8  # learning rates up to which each has its tick, and lines where they change
_NUMBERED_CELLS = 400  # overlaps up to which they are written into their cells


# ---- losses ----------------------------------------------------------------------------------------------------------
def plot_losses(history, *, title=""):
    """Curves of a run: a panel for each loss with training and validation, the last one for the learning rate.

    Args:
        history: rows of epochs in order, dicts of numbers (or of texts that are numbers, as in history.csv): "epoch",
            "loss", "rpn_class_loss", ..., the same with "val_" before it, "learning_rate". What is not finite is left
            out of the curves.
        title: above the panels.

    Returns:
        matplotlib Figure. The first panel marks the best epoch by validation loss; dotted lines in all panels stand
        where the learning rate changes.

    Raises:
        ValueError: no row, or one without "epoch".
    """
    columns = _columns(history)
    epochs = columns.pop("epoch")
    names = dict.fromkeys(name.removeprefix(_VALIDATION) for name in columns if name != "learning_rate")
    names = sorted(names, key=lambda name: name != "loss")
    panels = names + (["learning_rate"] if "learning_rate" in columns else [])
    count = max(min(len(panels), _COLUMNS), 1)
    rows = max(-(-len(panels) // count), 1)
    figure = new_figure((_PANEL[0] * count, _PANEL[1] * rows))
    figure.suptitle(title)
    changes = _changes(epochs, columns.get("learning_rate"))
    for place, name in enumerate(panels):
        axes = figure.add_subplot(rows, count, place + 1)
        _draw_curves(axes, epochs, name, columns)
        for epoch in changes:
            axes.axvline(epoch, color=_SOFT, linestyle="dotted", linewidth=1, zorder=0)
    if names and names[0] == "loss" and "val_loss" in columns:
        _mark_best(figure.axes[0], epochs, columns["val_loss"])
    return figure


def _columns(history):
    """Name -> float [epochs], NaN where a row lacks it or holds no number."""
    rows = list(history)
    if not rows:
        raise ValueError("history: expected a row for each epoch, got none")
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: np.array([_number(row.get(name)) for row in rows]) for name in names}
    if "epoch" not in columns or not np.isfinite(columns["epoch"]).all():
        raise ValueError(
            f"history: expected rows with a number under 'epoch', got the keys {', '.join(map(str, names))}"
        )
    return {name: values for name, values in columns.items() if np.isfinite(values).any()}


def _number(value):
    try:
        number = float(value)
    except (TypeError, ValueError):
        return math.nan
    return number if math.isfinite(number) else math.nan


def _draw_curves(axes, epochs, name, columns):
    from matplotlib.ticker import MaxNLocator, NullFormatter

    marker = "o" if len(epochs) <= _MOST_MARKED else None
    style = {"linewidth": 1.5, "marker": marker, "markersize": 3}
    pairs = (("training", name, "-", SERIES_COLORS[0]), ("validation", _VALIDATION + name, "--", SERIES_COLORS[1]))
    for label, column, line, color in pairs:
        if column in columns:
            axes.plot(epochs, columns[column], line, label=label, color=color, **style)
    axes.set_title(name.replace("_", " "), loc="left", fontsize=_FONT_SIZE + 1, color=_INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=_FAINT, linewidth=0.7)
    axes.tick_params(labelsize=_FONT_SIZE - 1, colors=_INK)
    axes.set_xlabel("epoch", fontsize=_FONT_SIZE)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
    if name == "learning_rate":
        rates = np.unique(columns[name][columns[name] > 0])
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(NullFormatter())
        if 0 < len(rates) <= _MOST_RATES:
            axes.set_yticks(rates, [f"{rate:g}" for rate in rates])
        axes.lines[0].set_drawstyle("steps-mid")
    else:
        axes.legend(frameon=False, fontsize=_FONT_SIZE - 1)


def _mark_best(axes, epochs, losses):
    best = int(np.nanargmin(losses))
    axes.plot(epochs[best], losses[best], "o", markersize=9, fillstyle="none", color=SERIES_COLORS[1], label="best")
    text = f"best: epoch {epochs[best]:.0f}, {losses[best]:.3g}"
    axes.set_title(text, loc="right", fontsize=_FONT_SIZE - 1, color=SERIES_COLORS[1])


def _changes(epochs, rates):
    """Places between epochs where the learning rate changes; none if it changes all the time."""
    if rates is None:
        return []
    places = [(epochs[i] + epochs[i + 1]) / 2 for i in range(len(rates) - 1) if rates[i] != rates[i + 1]]
    return places if len(places) < _MOST_RATES else []


# ---- scores ----------------------------------------------------------------------------------------------------------
def plot_precision_recall(AP, precisions, recalls, *, ax=None):
    """Draw precision over recall.

    Args:
        AP: average precision at an overlap of 0.5, for the title.
        precisions, recalls: [n] each, 0..1.
        ax: matplotlib axes to draw on; None makes a new figure.

    Returns:
        The axes.
    """
    precisions, recalls = np.asarray(precisions, float).reshape(-1), np.asarray(recalls, float).reshape(-1)
    if len(precisions) != len(recalls):
        raise ValueError(f"recalls: expected {len(precisions)} like precisions, got {len(recalls)}")
    ax = new_figure((5, 4.5)).add_subplot() if ax is None else ax
    ax.plot(recalls, precisions, color=SERIES_COLORS[0], linewidth=1.8)
    ax.set(xlim=(0, 1.02), ylim=(0, 1.05), xlabel="recall", ylabel="precision")
    ax.set_title(f"Precision and recall, AP50 = {AP:.3f}", loc="left", fontsize=_FONT_SIZE + 2, color=_INK)
    ax.grid(color=_FAINT, linewidth=0.7)
    return ax


def plot_overlaps(gt_class_ids, pred_class_ids, pred_scores, overlaps, class_names, threshold=0.5, *, ax=None):
    """Draw how much detections and ground truth overlap, and which agree.

    Args:
        gt_class_ids: int [g]; zeros at the end are padding.
        pred_class_ids, pred_scores: int [p] and [p].
        overlaps: [p, g], intersection over union.
        class_names: name of every class id.
        threshold: overlap above which a cell says "match" (same class) or "wrong".
        ax: matplotlib axes to draw on; None makes a new figure.

    Returns:
        The axes: a row for each detection, a column for each instance.
    """
    truth, found = (np.asarray(ids, int)[np.asarray(ids, int) != 0] for ids in (gt_class_ids, pred_class_ids))
    overlaps = np.asarray(overlaps, float)
    if overlaps.ndim != 2 or len(overlaps) < len(found) or overlaps.shape[1] < len(truth):
        raise ValueError(f"overlaps: expected [{len(found)} detections, {len(truth)} instances], got {overlaps.shape}")
    if len(pred_scores) < len(found):
        raise ValueError(f"pred_scores: expected one for each of {len(found)} detections, got {len(pred_scores)}")
    overlaps = overlaps[: len(found), : len(truth)]
    if ax is None:
        ax = new_figure((3 + 0.75 * max(len(truth), 1), 2 + 0.5 * max(len(found), 1))).add_subplot()
    extent = (-0.5, max(len(truth), 1) - 0.5, max(len(found), 1) - 0.5, -0.5)
    shown = overlaps if overlaps.size else np.full((max(len(found), 1), max(len(truth), 1)), np.nan)
    ax.imshow(shown, interpolation="nearest", cmap="Blues", vmin=0, vmax=1, extent=extent, aspect="auto")
    labels = [f"{class_names[class_id]} ({pred_scores[row]:.2f})" for row, class_id in enumerate(found)]
    ax.set_yticks(np.arange(len(found)), labels)
    ax.set_xticks(np.arange(len(truth)), [str(class_names[class_id]) for class_id in truth], rotation=90)
    ax.set(xlabel="ground truth", ylabel="detections")
    for row, column in np.ndindex(overlaps.shape if overlaps.size <= _NUMBERED_CELLS else (0, 0)):
        _write_overlap(ax, row, column, overlaps[row, column], threshold, is_same=found[row] == truth[column])
    return ax


def _write_overlap(ax, row, column, overlap, threshold, *, is_same):
    verdict = ("match" if is_same else "wrong") if overlap > threshold else ""
    text = f"{overlap:.2f}\n{verdict}".strip()
    color = "white" if overlap > 0.6 else _INK if overlap > 0 else _SOFT
    ax.text(column, row, text, ha="center", va="center", fontsize=_FONT_SIZE, color=color)


# ---- weights ---------------------------------------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True)
class WeightStats:
    """Statistics of weights; a notebook displays it as a table.

    Attributes:
        rows: a dict a weight: name, shape, min, max, mean, std, and remark: "dead?" where all values are the same
            (biases apart), "overflow?" where one is beyond 1000, "not finite", or "".
    """

    rows: list

    def __str__(self):
        heads, rows = self._cells()
        widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
        lines = [[text.ljust(width) for text, width in zip(row, widths, strict=True)] for row in (heads, *rows)]
        return "\n".join("  ".join(line).rstrip() for line in lines)

    def _repr_html_(self):
        heads, rows = self._cells()
        return str(pages.table(heads, [[*row[:-1], pages.emphasis(row[-1]) if row[-1] else None] for row in rows]))

    def _cells(self):
        numbers = ("min", "max", "mean", "std")
        rows = [
            [row["name"], str(row["shape"]), *(f"{row[key]:+.4f}" for key in numbers), row["remark"]]
            for row in self.rows
        ]
        return ["weight", "shape", *numbers, "remark"], rows


def display_weight_stats(model):
    """Statistics of all weights of a model, those that look dead or too large marked.

    Args:
        model: a Keras model, or a `SiameseMaskRCNN`.

    Returns:
        WeightStats; `print` shows it as text.
    """
    weights = getattr(model, "keras_model", model).weights
    return WeightStats([_statistics(weight.path, np.asarray(weight)) for weight in weights])


def _statistics(name, values):
    values = values.astype(np.float64)
    low, high, is_bias = float(values.min()), float(values.max()), name.rsplit("/", 1)[-1] in ("bias", "beta")
    remark = "dead?" if low == high and values.size > 1 and not is_bias else ""
    remark = "overflow?" if max(abs(low), abs(high)) > _HUGE else remark
    remark = remark if np.isfinite(values).all() else "not finite"
    return {
        "name": name,
        "shape": values.shape,
        "min": low,
        "max": high,
        "mean": float(values.mean()),
        "std": float(values.std()),
        "remark": remark,
    }
