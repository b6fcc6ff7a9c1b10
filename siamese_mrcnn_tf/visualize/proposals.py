"""Plots of many boxes at once, such as anchors, proposals and training rois: places, deltas, recall.

The functions draw on the axes they are given or on those of a new figure, return them, and never show anything. Boxes
are (y1, x1, y2, x2) in pixels, y2 and x2 exclusive.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ..io.errors import InputError
from ..ops.boxes import compute_overlaps
from . import style
from .style import SERIES_COLORS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DELTAS = ("dy", "dx", "log(dh)", "log(dw)")
_BINS = 41
_TAIL = 0.005  # share of the values at each end of a histogram that its outermost bins stand for
_LINES = ("solid", "dashed", "dotted")  # of overlaps
_PLOT_SIZE = (2.6, 2.6)  # width and height of a plot in new figures, in inches


def plot_box_deltas(groups: Mapping[str, ArrayLike], *, ax: Any = None) -> "list[Axes]":
    """Draw histograms of box deltas, a plot for each of dy, dx, log(dh) and log(dw).

    Args:
        groups: name -> deltas [n, (dy, dx, log(dh), log(dw))]. Each group has an area of 1, whatever its number; the
            first is filled, the others are lines.
        ax: 4 axes, which are returned; None makes a new figure.
    """
    values = {name: np.asarray(deltas, float) for name, deltas in groups.items()}
    for name, deltas in values.items():
        if deltas.ndim != 2 or deltas.shape[1] != len(_DELTAS) or not len(deltas):
            raise InputError(f"groups[{name!r}]: expected [n, (dy, dx, log(dh), log(dw))], got shape {deltas.shape}")
    if not values:
        raise InputError("groups: expected deltas under a name or several, got none")
    axes = _axes_for(len(_DELTAS), ax)
    for column, (cell, delta) in enumerate(zip(axes, _DELTAS, strict=True)):
        parts = [deltas[:, column] for deltas in values.values()]
        low = min(np.quantile(part, _TAIL) for part in parts)
        high = max(np.quantile(part, 1 - _TAIL) for part in parts)
        limits = (low, high) if high > low else (low - 0.5, low + 0.5)
        for index, (name, part) in enumerate(zip(values, parts, strict=True)):
            shape: dict[str, Any] = (
                {"histtype": "step", "linewidth": 1.5} if index else {"histtype": "stepfilled", "alpha": 0.55}
            )
            color = SERIES_COLORS[index % len(SERIES_COLORS)]
            clipped = np.clip(part, *limits)
            cell.hist(clipped, bins=_BINS, range=limits, density=True, label=name, color=color, **shape)
        style.style_axes(cell, delta)
        cell.set_yticks([])
    axes[0].legend(fontsize=7, frameon=False)
    return axes


def plot_box_places(
    groups: Mapping[str, ArrayLike], shape: Sequence[int] | None = None, *, ax: Any = None
) -> "list[Axes]":
    """Draw where boxes are and how large: their centers on the left, their widths and heights on the right.

    Args:
        groups: name -> boxes [n, (y1, x1, y2, x2)]; rows of zeros are padding.
        shape: (height, width, ...) of the image, the limits of the plots; None fits them to the boxes.
        ax: 2 axes, which are returned; None makes a new figure.
    """
    boxes = {name: style.checked_boxes(values, f"groups[{name!r}]") for name, values in groups.items()}
    centers, sides = _axes_for(2, ax)
    for index, (name, each) in enumerate(boxes.items()):
        real = each[each.any(axis=1)]
        middle, size = (real[:, :2] + real[:, 2:]) / 2, real[:, 2:] - real[:, :2]
        look: dict[str, Any] = {"s": 14 + 20 * index, "color": SERIES_COLORS[index % len(SERIES_COLORS)], "label": name}
        for cell, points in ((centers, middle), (sides, size)):
            cell.scatter(points[:, 1], points[:, 0], alpha=0.7, linewidths=0, **look)
    for cell, title, labels in ((centers, "centers", ("x", "y")), (sides, "sides", ("width", "height"))):
        style.style_axes(cell, title, grid="both")
        cell.set(xlabel=labels[0], ylabel=labels[1], aspect="equal")
        if shape is not None:
            cell.set(xlim=(0, shape[1]), ylim=(0, shape[0]))
    centers.invert_yaxis()  # y = 0 is the top, as in images
    sides.legend(fontsize=7)
    return [centers, sides]


def plot_recall(
    groups: Mapping[str, Sequence[ArrayLike]],
    gt_boxes: Sequence[ArrayLike],
    ious: Sequence[float] = (0.5, 0.7),
    *,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw the share of the instances that the best 1, 2, ... boxes of a scene overlap enough.

    Args:
        groups: name -> for each scene boxes [n, (y1, x1, y2, x2)], the best first; n is the same for all scenes.
        gt_boxes: for each scene [instances, (y1, x1, y2, x2)], in the same unit.
        ious: minimum overlaps, a line each for every group. The legend has the recall of all boxes.
        ax: matplotlib axes to draw on; None makes a new figure.
    """
    truth = [style.checked_boxes(boxes, "gt_boxes") for boxes in gt_boxes]
    if not sum(map(len, truth)):
        raise InputError("gt_boxes: expected an instance or more, got none")
    ax = style.new_figure((7, 3.6)).add_subplot() if ax is None else ax
    for index, (name, scenes) in enumerate(groups.items()):
        style.checked_count(scenes, len(truth), f"groups[{name!r}]")
        overlaps = [compute_overlaps(*pair) for pair in zip(scenes, truth, strict=True)]
        best = np.maximum.accumulate(np.concatenate(overlaps, axis=1), axis=0)  # [n, instances of all scenes]
        for iou, line in zip(ious, itertools.cycle(_LINES)):
            recalls = (best >= iou).mean(axis=1)
            look: dict[str, Any] = {"linestyle": line, "color": SERIES_COLORS[index % len(SERIES_COLORS)]}
            label = f"{name}, IoU {iou:g}: {recalls[-1]:.3f} of {len(recalls)}"
            ax.plot(np.arange(1, len(recalls) + 1), recalls, label=label, **look)
    style.style_axes(ax, "recall of all instances", grid="both")
    ax.set(xscale="log", xlabel="boxes of a scene, best first", ylim=(0, 1.03))
    ax.legend(fontsize=7)
    return ax


def score_map(scores: ArrayLike, level_shapes: ArrayLike) -> np.ndarray:
    """The highest score of all anchors at each place of the finest level, [height, width].

    Args:
        scores: [anchors], those of a level after those of the level before, row by row, as in `rpn_class`.
        level_shapes: [levels, (height, width)], the finest first, as of `compute_backbone_shapes`.
    """
    shapes = np.asarray(level_shapes, int)
    sizes, flat = shapes.prod(axis=1), np.asarray(scores, float).reshape(-1)
    if not len(flat) or len(flat) % sizes.sum():
        raise InputError(f"scores: expected a multiple of {sizes.sum()} places, got {len(flat)}")
    per_place = flat.reshape(sizes.sum(), -1).max(axis=1)
    rows, columns = (np.arange(side) for side in shapes[0])
    finest = np.full(tuple(shapes[0]), -np.inf)
    for (height, width), part in zip(shapes, np.split(per_place, sizes.cumsum()[:-1]), strict=True):
        place = np.ix_(rows * height // len(rows), columns * width // len(columns))
        finest = np.maximum(finest, part.reshape(height, width)[place])
    return finest


def _axes_for(count: int, ax: Any) -> "list[Axes]":
    """`count` axes: the given ones, or new ones beside each other."""
    if ax is not None:
        return list(style.checked_count(np.ravel(ax), count, "ax"))
    return style.add_grid(style.new_figure((_PLOT_SIZE[0] * count, _PLOT_SIZE[1])), count, count)
