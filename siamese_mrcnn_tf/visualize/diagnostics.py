"""Plots and tables of numbers: losses of a run, precision and recall, overlaps, statistics of weights.

The functions draw on the axes they are given or on those of a new figure, and never show anything.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from tqdm import tqdm

from ..io.errors import InputError
from .lettering import plot_name, plot_text
from .style import FONT_SIZE, INK, SERIES_COLORS, SOFT, Values, add_grid, new_figure, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NUMBERS = ("min", "max", "mean", "std")  # of the values of a weight, numpy's methods
_HUGE = 1000  # larger weights hint at an overflow
_VALIDATION = "val_"
_PANEL = (3.4, 2.6)  # inches
_COLUMNS = 4
_MAX_MARKED = 30  # epochs up to which each is marked on the line
_MAX_RATES = 8  # learning rates up to which each has its tick, and lines where they change
_MAX_NUMBERED = 400  # overlaps up to which they are written into their cells


# ---- losses ----------------------------------------------------------------------------------------------------------
def plot_losses(history: Iterable[Mapping[str, Any]], *, title: str = "") -> "Figure":
    """Curves of a run: a panel for each loss with training and validation, the last one for the learning rate.

    Args:
        history: rows of epochs in order, dicts of numbers (or of texts that are numbers, as in history.csv): "epoch",
            "loss", "rpn_class_loss", ..., the same with "val_" before it, "learning_rate". Values that are not finite
            leave gaps in the curves.
        title: above the panels.

    Returns:
        matplotlib Figure. The first panel marks the best epoch by validation loss; dotted lines in all panels stand
        where the learning rate changes.

    Raises:
        ValueError: no row, or one without "epoch".
    """
    columns = _columns(history)
    epochs, rates = columns.pop("epoch"), columns.get("learning_rate")
    losses = dict.fromkeys(name.removeprefix(_VALIDATION) for name in columns if name != "learning_rate")
    names = sorted(losses, key=lambda name: name != "loss") + ["learning_rate"] * (rates is not None)
    count = max(min(len(names), _COLUMNS), 1)
    figure = new_figure((_PANEL[0] * count, _PANEL[1] * max(-(-len(names) // count), 1)))
    figure.suptitle(plot_text(title))
    for axes, name in zip(add_grid(figure, len(names), count), names, strict=True):
        _draw_curves(axes, epochs, name, columns)
        for epoch in _changes(epochs, rates):
            axes.axvline(epoch, color=SOFT, linestyle="dotted", linewidth=1, zorder=0)
    if "loss" in losses and "val_loss" in columns:
        best, color = int(np.nanargmin(columns["val_loss"])), SERIES_COLORS[1]
        epoch, loss = epochs[best], columns["val_loss"][best]
        figure.axes[0].plot(epoch, loss, "o", markersize=9, fillstyle="none", color=color, label="best")
        text = f"best: epoch {epoch:.0f}, {loss:.3g}"
        figure.axes[0].set_title(text, loc="right", fontsize=FONT_SIZE - 1, color=color)
    return figure


def _columns(history: Iterable[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Name -> float [epochs], NaN where a row has no finite number."""
    rows = list(history)
    if not rows:
        raise InputError("history: expected a row for each epoch, got none")
    names = dict.fromkeys(str(name) for row in rows for name in row)
    columns = {name: np.array([_number(row.get(name)) for row in rows]) for name in names}
    if "epoch" not in columns or not np.isfinite(columns["epoch"]).all():
        raise InputError(f"history: expected rows with a number under 'epoch', got the keys {', '.join(names)}")
    return {name: values for name, values in columns.items() if np.isfinite(values).any()}


def _number(value: Any) -> float:
    try:
        return float(value) if math.isfinite(float(value)) else math.nan
    except (TypeError, ValueError):
        return math.nan


def _draw_curves(axes: "Axes", epochs: np.ndarray, name: str, columns: dict[str, np.ndarray]) -> None:
    from matplotlib.ticker import MaxNLocator, NullFormatter

    marker = "o" if len(epochs) <= _MAX_MARKED else None
    pairs = (("training", name, "-"), ("validation", _VALIDATION + name, "--"))
    for (label, column, line), color in zip(pairs, SERIES_COLORS, strict=False):
        if column in columns:
            style: dict[str, Any] = {"label": label, "color": color, "marker": marker, "markersize": 3}
            axes.plot(epochs, columns[column], line, linewidth=1.5, **style)
    style_axes(axes, name.replace("_", " "), font_size=FONT_SIZE - 1)
    axes.set_xlabel("epoch", fontsize=FONT_SIZE)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
    if name != "learning_rate":
        axes.legend(frameon=False, fontsize=FONT_SIZE - 1)
        return
    rates = np.unique(columns[name][columns[name] > 0])
    axes.set_yscale("log")
    axes.yaxis.set_minor_formatter(NullFormatter())
    if 0 < len(rates) <= _MAX_RATES:
        axes.set_yticks(rates, [f"{rate:g}" for rate in rates])
    axes.lines[0].set_drawstyle("steps-mid")


def _changes(epochs: np.ndarray, rates: np.ndarray | None) -> list[float]:
    """Places between epochs where the learning rate changes; none if it changes all the time."""
    if rates is None:
        return []
    places = [(epochs[i] + epochs[i + 1]) / 2 for i in range(len(rates) - 1) if rates[i] != rates[i + 1]]
    return places if len(places) < _MAX_RATES else []


# ---- scores ----------------------------------------------------------------------------------------------------------
def plot_precision_recall(AP: float, precisions: ArrayLike, recalls: ArrayLike, *, ax: "Axes | None" = None) -> "Axes":
    """Draw precision over recall.

    Args:
        AP: average precision at an overlap of 0.5, for the title.
        precisions, recalls: [n] each, 0..1.
        ax: matplotlib axes to draw on; None makes a new figure.
    """
    precisions, recalls = np.asarray(precisions, float).reshape(-1), np.asarray(recalls, float).reshape(-1)
    if len(precisions) != len(recalls):
        raise InputError(f"recalls: expected {len(precisions)} like precisions, got {len(recalls)}")
    ax = new_figure((5, 4.5)).add_subplot() if ax is None else ax
    ax.plot(recalls, precisions, color=SERIES_COLORS[0], linewidth=1.8)
    ax.set(xlim=(0, 1.02), ylim=(0, 1.05), xlabel="recall", ylabel="precision")
    style_axes(ax, f"Precision and recall, AP50 = {AP:.3f}", grid="both")
    return ax


def plot_overlaps(
    gt_class_ids: ArrayLike,
    pred_class_ids: ArrayLike,
    pred_scores: Values,
    overlaps: ArrayLike,
    class_names: Sequence[str],
    threshold: float = 0.5,
    *,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw the overlaps of detections with ground truth, and which classes agree.

    Args:
        gt_class_ids: int [g], a column for each instance; zeros at the end are padding.
        pred_class_ids, pred_scores: int [p] and [p], a row for each detection.
        overlaps: [p, g], intersection over union.
        class_names: name of every class id.
        threshold: overlap above which a cell is marked "match" (same class) or "wrong".
        ax: matplotlib axes to draw on; None makes a new figure.
    """
    truth, found = (np.asarray(ids, int)[np.asarray(ids, int) != 0] for ids in (gt_class_ids, pred_class_ids))
    table = np.asarray(overlaps, float)
    if table.ndim != 2 or len(table) < len(found) or table.shape[1] < len(truth):
        raise InputError(f"overlaps: expected [{len(found)} detections, {len(truth)} instances], got {table.shape}")
    if len(pred_scores) < len(found):
        raise InputError(f"pred_scores: expected one for each of {len(found)} detections, got {len(pred_scores)}")
    table = table[: len(found), : len(truth)]
    rows, columns = max(len(found), 1), max(len(truth), 1)
    ax = new_figure((3 + 0.75 * columns, 2 + 0.5 * rows)).add_subplot() if ax is None else ax
    extent = (-0.5, columns - 0.5, rows - 0.5, -0.5)
    shown = table if table.size else np.full((rows, columns), np.nan)
    ax.imshow(shown, interpolation="nearest", cmap="Blues", vmin=0, vmax=1, extent=extent, aspect="auto")
    labels = [f"{plot_name(class_names[class_id])} ({pred_scores[row]:.2f})" for row, class_id in enumerate(found)]
    ax.set_yticks(np.arange(len(found)), labels)
    ax.set_xticks(np.arange(len(truth)), [plot_name(class_names[class_id]) for class_id in truth], rotation=90)
    ax.set(xlabel="ground truth", ylabel="detections")
    for (row, column), overlap in np.ndenumerate(table) if table.size <= _MAX_NUMBERED else ():
        mark = "" if overlap <= threshold else "\nmatch" if found[row] == truth[column] else "\nwrong"
        color = "white" if overlap > 0.6 else INK if overlap > 0 else SOFT
        ax.text(column, row, f"{overlap:.2f}{mark}", color=color, fontsize=FONT_SIZE, ha="center", va="center")
    return ax


# ---- weights ---------------------------------------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True)
class WeightStats:
    """Statistics of weights; a notebook displays it as a table.

    Attributes:
        rows: a dict for each weight: name, shape, min, max, mean, std, and remark: "dead?" where all values are equal
            (except in biases), "overflow?" where one is beyond 1000, "not finite", or "".
    """

    rows: list[dict[str, Any]]

    def __str__(self) -> str:
        heads, rows = self._cells()
        widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
        lines = [[text.ljust(width) for text, width in zip(row, widths, strict=True)] for row in (heads, *rows)]
        return "\n".join("  ".join(line).rstrip() for line in lines)

    def _repr_html_(self) -> str:
        from . import pages

        heads, rows = self._cells()
        return pages.table(heads, [[*row[:-1], pages.emphasis(row[-1]) if row[-1] else None] for row in rows])

    def _cells(self) -> tuple[list[str], list[list[str]]]:
        heads = ["weight", "shape", *_NUMBERS, "remark"]
        shown = [row | {key: f"{row[key]:+.4f}" for key in _NUMBERS} | {"weight": row["name"]} for row in self.rows]
        return heads, [[str(row[head]) for head in heads] for row in shown]


def display_weight_stats(model: Any) -> WeightStats:
    """Statistics of all weights of a Keras model or a `SiameseMaskRCNN`; dead or too large ones are marked."""
    weights = getattr(model, "keras_model", model).weights
    return WeightStats([_statistics(weight.path, np.asarray(weight, np.float64)) for weight in weights])


def _statistics(name: str, values: np.ndarray) -> dict[str, Any]:
    numbers = {key: float(getattr(values, key)()) for key in _NUMBERS}
    if not np.isfinite(values).all():
        remark = "not finite"
    elif max(abs(numbers["min"]), abs(numbers["max"])) > _HUGE:
        remark = "overflow?"
    else:
        is_bias = name.rsplit("/", 1)[-1] in ("bias", "beta")
        remark = "dead?" if numbers["min"] == numbers["max"] and values.size > 1 and not is_bias else ""
    return {"name": name, "shape": values.shape, **numbers, "remark": remark}


# ---- arrays and tables -----------------------------------------------------------------------------------------------
def log(text: str, array: ArrayLike | None = None) -> None:
    """Write a text and, of an array, its shape, type and range to standard output: what Matterport's notebooks call."""
    if array is not None:
        values = np.asarray(array)
        span = f"min {values.min():10.5f}  max {values.max():10.5f}" if values.size else "empty"
        text = f"{text:<25} {str(values.shape):<24} {str(values.dtype):<8} {span}"
    tqdm.write(text)


@dataclasses.dataclass(frozen=True)
class RowTable:
    """Rows of cells; a notebook displays them as a table. The first row is the head."""

    rows: list[list[Any]]

    def __str__(self) -> str:
        return "\n".join("  ".join(map(str, row)) for row in self.rows)

    def _repr_html_(self) -> str:
        from . import pages

        return pages.table(self.rows[0], self.rows[1:]) if self.rows else ""


def display_table(table: Iterable[Iterable[Any]]) -> RowTable:
    """Rows of cells as a table, the first row as its head: the last expression of a notebook's cell is displayed."""
    return RowTable([list(row) for row in table])
