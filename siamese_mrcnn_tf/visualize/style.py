"""Style of all plots and drawings: colors, fonts, figures, axes, and the marks that drawings share.

Boxes are (y1, x1, y2, x2) in pixels, y2 and x2 exclusive; colors are (red, green, blue) in 0..1. Matplotlib is imported
on first use, because it is slow to import and overlays do without it.
"""

import functools
import warnings
from collections.abc import Sequence, Sized
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from ..io.errors import InputError
from .lettering import font_path, plot_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Color = tuple[float, float, float]
Values = Sequence[Any] | np.ndarray  # one for each instance, image, ...
_Sized = TypeVar("_Sized", bound=Sized)

SERIES_COLORS = ("#3c6fb0", "#c9512b", "#4a9a5b", "#8061a5", "#8a6d3b", "#5a5a5a")
INK, SOFT, FAINT = "#333333", "#8a8a8a", "#d9d9d9"  # of text, of remarks and lines of reference, of grid lines
SHADOW = (0, 0, 0, 0.6)  # around light lines: one of the two is visible on every image
FONT_SIZE = 9
DPI = 150  # of plots in files and pages


def new_figure(figsize: tuple[float, float]) -> "Figure":
    """An empty matplotlib Figure of (width, height) inches, unknown to pyplot."""
    return _figure_class()(figsize=figsize, layout="constrained")


@functools.cache
def _figure_class() -> "type[Figure]":
    from matplotlib.figure import Figure

    class FigureWithFonts(Figure):
        """A figure whose texts are drawn with installed fonts that have their characters."""

        def draw(self, renderer: Any) -> None:
            _choose_fonts(self)
            with warnings.catch_warnings():  # `lettering` has said that there is no font
                warnings.filterwarnings("ignore", "Glyph .* missing from font")
                super().draw(renderer)

    return FigureWithFonts


def _choose_fonts(figure: "Figure") -> None:
    """Give texts with characters that DejaVu Sans lacks another font for these."""
    from matplotlib import font_manager
    from matplotlib.text import Text

    usual = font_path(frozenset(), False)
    for text in figure.findobj(Text):
        letters = frozenset(text.get_text())
        path = usual if all(map(str.isascii, letters)) else font_path(letters, False)
        if path != usual:
            font_manager.fontManager.addfont(path)
            name = font_manager.get_font(path).family_name
            text.set_fontfamily(["DejaVu Sans", name])


def add_grid(figure: "Figure", count: int, columns: int) -> "list[Axes]":
    """Add `count` axes to a figure, `columns` in a row."""
    cells = figure.add_gridspec(max(-(-count // columns), 1), columns)
    return [figure.add_subplot(cells[divmod(index, columns)]) for index in range(count)]


def style_axes(ax: "Axes", title: str, *, font_size: float = FONT_SIZE, grid: Literal["x", "y", "both"] = "y") -> None:
    """Give a plot its title and the common style: no frame at the top and right, faint grid lines behind the data."""
    ax.set_title(plot_text(title), loc="left", fontsize=font_size + 2, color=INK)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis=grid, color=FAINT, linewidth=0.7)
    ax.set_axisbelow(True)
    ax.tick_params(labelsize=font_size, colors=INK)


def draw_image(ax: "Axes", image: np.ndarray, title: str, *, margin: float) -> None:
    """Draw an image [height, width, RGB] without ticks, row 0 at the top, with `margin` pixels around it."""
    height, width = image.shape[:2]
    ax.imshow(image.astype(np.uint8))
    ax.set(
        xlim=(-0.5 - margin, width - 0.5 + margin), ylim=(height - 0.5 + margin, -0.5 - margin), title=plot_text(title)
    )
    ax.axis("off")


def draw_box(ax: "Axes", box: Values, color: Color | str, **style: Any) -> None:
    """Draw the frame of a box; `style` has further settings of a matplotlib Rectangle."""
    from matplotlib.patches import Rectangle

    y1, x1, y2, x2 = (float(edge) - 0.5 for edge in box)  # pixel 0 spans -0.5 to 0.5 on axes
    ax.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, edgecolor=color, facecolor="none", **style))


def draw_outline(ax: "Axes", mask: np.ndarray, color: Color) -> None:
    """Draw the outlines of a mask [height, width]; a dark line around them stands off light images."""
    from matplotlib.collections import LineCollection
    from matplotlib.patheffects import withStroke
    from skimage.measure import find_contours

    contours = find_contours(np.pad(np.asarray(mask, bool), 1).astype(float), 0.5)  # closed at the border
    lines = [contour[:, ::-1] - 1 for contour in contours]  # (row, column) of the padded mask to (x, y)
    casing = [withStroke(linewidth=2.5, foreground=SHADOW)]
    ax.add_collection(LineCollection(lines, colors=[color], linewidths=1, path_effects=casing), autolim=False)


def checked_image(image: ArrayLike, what: str) -> np.ndarray:
    """The image as an array; ValueError names `what` unless it is [height, width, 3] and not empty."""
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise InputError(f"{what}: expected uint8 [height, width, 3] that is not empty, got shape {image.shape}")
    return image


def checked_boxes(values: ArrayLike, what: str) -> np.ndarray:
    """Boxes as float [n, (y1, x1, y2, x2)]; ValueError names `what` if the shape is another."""
    boxes = np.asarray(values, float)
    if boxes.size and (boxes.ndim != 2 or boxes.shape[1] != 4):
        raise InputError(f"{what}: expected [n, (y1, x1, y2, x2)], got shape {boxes.shape}")
    return boxes.reshape(-1, 4)


def checked_color(value: Any) -> Color:
    """A color of matplotlib, such as "red" or (red, green, blue, alpha), as (red, green, blue) in 0..1."""
    from matplotlib.colors import to_rgb

    try:
        return to_rgb(value)
    except ValueError as error:
        raise InputError(f"colors: {value!r}, expected a name or (red, green, blue) in 0..1") from error


def checked_shape(values: ArrayLike, shape: tuple[int, ...], what: str) -> np.ndarray:
    """The values as an array; ValueError names `what` if the shape is another."""
    if np.shape(values) != shape:
        raise InputError(f"{what}: expected shape {shape}, got {np.shape(values)}")
    return np.asarray(values)


def checked_count(values: _Sized, count: int, what: str) -> _Sized:
    """The values; ValueError names `what` if their number is another."""
    if len(values) != count:
        raise InputError(f"{what}: expected {count}, one for each, got {len(values)}")
    return values
