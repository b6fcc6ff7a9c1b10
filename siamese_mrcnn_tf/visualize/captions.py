"""Captions of instances on matplotlib axes: plates in their colors, none of which overlaps another.

Texts have sizes in points and images in pixels, so that places are chosen when the figure is drawn.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.text import Text

from .lettering import place_plates, plot_text
from .palette import ink_on
from .style import Values

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PAD = 1.5  # points between a text and the edge of its plate
_OPACITY = 0.85  # of plates
_BEFORE_TEXTS = 2.9  # zorder below that of texts: they are moved before they are drawn
_CENTER_COST = 3.0  # of covering the center of a box, against 1 for the rest of it


def draw_captions(ax: "Axes", captions: Values, boxes: np.ndarray, colors: Values, *, size: float) -> None:
    """Add captions to axes, which they do not leave: the limits are those of the drawing.

    The first ones choose their places first, and those without room are not drawn.

    Args:
        captions: n texts; empty ones are left out.
        boxes: [n, (y1, x1, y2, x2)] in pixels, of the instances; rows of zeros are no boxes.
        colors: n of (red, green, blue) in 0..1, of the plates.
        size: of the texts, in points.
    """
    shown = [(plot_text(caption), index) for index, caption in enumerate(captions) if boxes[index].any()]
    texts, drawn = [], []
    for caption, index in shown:
        if caption:
            plate = {"facecolor": colors[index], "alpha": _OPACITY, "edgecolor": "none", "pad": _PAD}
            look: dict[str, Any] = {"color": ink_on(colors[index]), "size": size, "va": "bottom", "bbox": plate}
            texts.append(ax.text(boxes[index, 1], boxes[index, 0], caption, **look))
            texts[-1].set_in_layout(False)
            drawn.append(index)
    if drawn:
        ax.add_artist(_Placement(ax, texts, boxes[drawn], (*ax.get_xlim(), *ax.get_ylim())))


class _Placement(Artist):
    """Draws nothing, but moves the captions of axes."""

    def __init__(self, ax: "Axes", texts: list[Text], boxes: np.ndarray, extent: Sequence[float]) -> None:
        super().__init__()
        self.set_zorder(_BEFORE_TEXTS)
        self.set_in_layout(False)
        self._ax, self._texts, self._boxes, self._extent = ax, texts, boxes, extent

    def draw(self, renderer: Any) -> None:
        to_display = self._ax.transData
        left, right, bottom, top = self._extent
        (x1, y1), (x2, y2) = to_display.transform([(left, bottom), (right, top)])
        area = max(int(x2 - x1), 1), max(int(y2 - y1), 1)
        corners = to_display.transform((self._boxes[:, [1, 0, 3, 2]] - 0.5).reshape(-1, 2)).reshape(-1, 4)
        # from the lower left corner of a figure to the upper left one of the extent
        boxes = np.stack([y2 - corners[:, 1], corners[:, 0] - x1, y2 - corners[:, 3], corners[:, 2] - x1], axis=1)
        boxes = np.clip(np.rint(boxes), 0, [*area[::-1], *area[::-1]]).astype(int)
        pad = renderer.points_to_pixels(_PAD)
        for text in self._texts:
            text.set_visible(True)  # texts that are not visible have no extent
        extents = [text.get_window_extent(renderer) for text in self._texts]
        sizes = [(int(np.ceil(one.width + 2 * pad)), int(np.ceil(one.height + 2 * pad))) for one in extents]
        places = place_plates(sizes, boxes, area, gap=1, avoid=_costs(boxes, area))
        for text, size, place in zip(self._texts, sizes, places, strict=True):
            text.set_visible(place is not None)
            if place:
                corner = x1 + place[0] + pad, y2 - place[1] - size[1] + pad
                x, y = to_display.inverted().transform(corner)
                text.set_position((x, y))


def _costs(boxes: np.ndarray, area: tuple[int, int]) -> np.ndarray:
    """The cost [height, width] of covering pixels, by the boxes in them."""
    costs = np.zeros(area[::-1], np.float32)
    for y1, x1, y2, x2 in boxes:
        costs[y1:y2, x1:x2] = np.maximum(costs[y1:y2, x1:x2], 1)
    for y1, x1, y2, x2 in boxes:
        inset_y, inset_x = (y2 - y1) // 4, (x2 - x1) // 4
        costs[y1 + inset_y : y2 - inset_y, x1 + inset_x : x2 - inset_x] = _CENTER_COST
    return costs
