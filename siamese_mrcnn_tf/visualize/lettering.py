"""Text in overlays: fonts that have its characters, texts that fit, and places for labels that do not overlap.

DejaVu Sans, which comes with matplotlib, draws what it has. Other characters (Chinese, Japanese, Korean, emoji) are
drawn with the first installed font that has all of a text; if there is none, a warning says so once.
"""

import functools
import logging
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ImageDraw, ImageFont

logger = logging.getLogger(__name__)

Rect = tuple[int, int, int, int]  # (x1, y1, x2, y2) in pixels, x2 and y2 exclusive

_FONTS = {False: "DejaVuSans.ttf", True: "DejaVuSans-Bold.ttf"}  # bold -> file
NAME_LETTERS, PLOT_LETTERS = 32, 160  # maximum numbers of letters of names, and of lines, in plots
_ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"
_HIDDEN_KINDS = ("Cc", "Cf", "Cs", "Co", "Cn")  # control, format (such as right-to-left marks), none
_FAR_STEPS = 32  # of the grid in which a free place is looked for, along each side
_FAR_SHARE = 0.2  # of the long side, the largest distance of a label from its box


# ---- texts -------------------------------------------------------------------------------------------------------
def shown_text(text: str) -> str:
    """A text in one line, without characters that are not drawn."""
    visible = "".join(letter if unicodedata.category(letter) not in _HIDDEN_KINDS else " " for letter in text)
    return " ".join(visible.split())


def fitting_text(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """A text, or as much of its beginning as fits into `width` pixels with an ellipsis."""
    if font.getlength(text) <= width:
        return text
    low, high = 0, len(text)  # the longest beginning that fits is in low..high
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if font.getlength(text[:middle] + _ELLIPSIS) <= width else (low, middle - 1)
    return text[:low].rstrip() + _ELLIPSIS


def text_size(text: str, font: ImageFont.FreeTypeFont) -> tuple[int, int]:
    """(width, height) in pixels of a line of text; all texts of a font have the same height."""
    ascent, descent = font.getmetrics()
    return int(np.ceil(font.getlength(text))), ascent + descent


def plot_text(text: object, letters: int = PLOT_LETTERS) -> str:
    """A text for matplotlib, which draws it as it is: no formula, and each line with so many letters at most."""
    lines = (shown_text(line) for line in str(text).split("\n"))
    short = (line if len(line) <= letters else line[: letters - 1].rstrip() + _ELLIPSIS for line in lines)
    return re.sub(r"(?<!\\)\$", r"\$", "\n".join(short))


def plot_name(name: object, letters: int = NAME_LETTERS) -> str:
    """A name, such as that of a category, for matplotlib: `plot_text` in one line."""
    return plot_text(shown_text(str(name)), letters)


# ---- fonts -------------------------------------------------------------------------------------------------------
def font_for(text: str, pixels: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """A font with the characters of a text, `pixels` high."""
    return _font(font_path(frozenset(text), bold), pixels)


@functools.lru_cache(maxsize=256)
def _font(path: str, pixels: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, pixels, layout_engine=ImageFont.Layout.BASIC)


@functools.lru_cache(maxsize=1024)
def font_path(letters: frozenset[str], bold: bool) -> str:
    """The file of DejaVu Sans, or of the first installed font that has all letters where DejaVu Sans lacks one."""
    usual = str(_own_fonts() / _FONTS[bold])
    missing = _missing(letters, usual)
    if not missing:
        return usual
    for path in _installed_fonts():
        if not _missing(letters, path):
            return path
    _warn_once("".join(sorted(missing)))
    return usual


@functools.cache
def _warn_once(missing: str) -> None:
    shown = missing if len(missing) <= 20 else missing[:20] + _ELLIPSIS
    logger.warning(
        "no installed font has the characters %s; drawings show boxes in their place (fonts such as Noto have them)",
        shown,
    )


def _missing(letters: Iterable[str], path: str) -> set[str]:
    known = _characters(path)
    return {letter for letter in letters if ord(letter) not in known and not letter.isspace()}


@functools.lru_cache(maxsize=4096)
def _characters(path: str) -> frozenset[int]:
    """Code points that a font file has; none for a file that cannot be read or drawn with."""
    from matplotlib.ft2font import FT2Font

    try:
        ImageFont.truetype(path, 10)
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError, ValueError):
        return frozenset()


def _own_fonts() -> Path:
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf"


@functools.cache
def _installed_fonts() -> tuple[str, ...]:
    """Font files of the system and of matplotlib, regular ones first, without those that have a box for everything."""
    from matplotlib.font_manager import findSystemFonts

    every = {str(path) for path in _own_fonts().glob("*.ttf")} | set(findSystemFonts())
    found = (path for path in every if "lastresort" not in Path(path).name.lower())
    return tuple(sorted(found, key=lambda path: ("regular" not in path.lower(), Path(path).name.lower(), path)))


# ---- plates ------------------------------------------------------------------------------------------------------
class Plate(NamedTuple):
    """A label on a plate of its color."""

    text: str
    font: ImageFont.FreeTypeFont
    fill: tuple[int, int, int]
    ink: tuple[int, int, int]

    @property
    def padding(self) -> tuple[int, int]:
        """Pixels (left and right, above and below) between the text and the edge of the plate."""
        return max(round(self.font.size / 3), 2), max(round(self.font.size / 10), 1)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        (width, height), (x, y) = text_size(self.text, self.font), self.padding
        return width + 2 * x, height + 2 * y


def draw_plate(draw: ImageDraw.ImageDraw, plate: Plate, corner: tuple[int, int]) -> None:
    """Draw a plate with its upper left corner at (x, y)."""
    (x, y), (width, height), padding = corner, plate.size, plate.padding
    edge = (20, 22, 26) if plate.ink == (0, 0, 0) else (250, 250, 250)
    radius = max(height // 6, 1)
    draw.rounded_rectangle((x, y, x + width - 1, y + height - 1), radius, fill=plate.fill, outline=edge)
    draw.text((x + padding[0], y + padding[1]), plate.text, fill=plate.ink, font=plate.font)


def place_plates(
    sizes: Sequence[tuple[int, int]],
    boxes: np.ndarray,
    area: tuple[int, int],
    *,
    gap: int,
    avoid: np.ndarray | None = None,
) -> list[tuple[int, int] | None]:
    """Places of labels in an image, none of which overlaps another; the first ones choose first.

    A label is at its box, or else at the nearest free place that is not too far away.

    Args:
        sizes: (width, height) of each label, in pixels.
        boxes: int [n, (y1, x1, y2, x2)] in pixels, of the objects that they belong to.
        area: (width, height) of the image.
        gap: pixels between labels, and between a label and its box.
        avoid: float [height, width], the cost of covering a pixel; None for none.

    Returns:
        For each label (x, y) of its upper left corner, or None where no room is left.
    """
    width, height = area
    costs = np.zeros((height + 1, width + 1)) if avoid is None else np.pad(avoid, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    taken, places = np.zeros((0, 4), int), list[tuple[int, int] | None]()
    for size, box in zip(sizes, boxes.astype(int), strict=True):
        place = None
        if size[0] <= width and size[1] <= height:
            for corners in (_near(box, size, gap), _far(box, size, area)):
                place = _best(corners, size, area, taken, costs)
                if place:
                    break
        if place:
            x, y = place
            taken = np.vstack([taken, [x - gap, y - gap, x + size[0] + gap, y + size[1] + gap]])
        places.append(place)
    return places


def _best(
    corners: np.ndarray, size: tuple[int, int], area: tuple[int, int], taken: np.ndarray, costs: np.ndarray
) -> tuple[int, int] | None:
    """Of corners [n, (x, y)] in descending order of preference a free one that covers little; None if none is free."""
    if not len(corners):
        return None
    inside = np.clip(corners, 0, np.subtract(area, size))
    ends = inside + size
    free = ~((inside[:, None] < taken[None, :, 2:]).all(axis=2) & (ends[:, None] > taken[None, :, :2]).all(axis=2)).any(
        axis=1
    )
    if not free.any():
        return None
    inside, ends = inside[free], ends[free]
    (x1, y1), (x2, y2) = inside.T, ends.T
    covered = (costs[y2, x2] - costs[y1, x2] - costs[y2, x1] + costs[y1, x1]) / (size[0] * size[1])
    moved = np.abs(corners[free] - inside).sum(axis=1) / sum(size)
    best = (covered + moved + np.linspace(0, 0.3, len(free))[free]).argmin()
    return int(inside[best, 0]), int(inside[best, 1])


def _near(box: np.ndarray, size: tuple[int, int], gap: int) -> np.ndarray:
    """Corners [n, (x, y)] around a box: above, below, beside it, and inside."""
    (y1, x1, y2, x2), (width, height) = box, size
    above, below, middle = y1 - height - gap, y2 + gap, (y1 + y2 - height) // 2
    across = (x1, x2 - width, (x1 + x2 - width) // 2)
    places = [(x, above) for x in across] + [(x, below) for x in across]
    places += [(x2 + gap, y) for y in (y1, middle, y2 - height)]
    places += [(x1 - width - gap, y) for y in (y1, middle, y2 - height)]
    places += [(x1 + gap, y1 + gap), (x1 + gap, y2 - height - gap), (x2 - width - gap, y1 + gap)]
    return np.array(places)


def _far(box: np.ndarray, size: tuple[int, int], area: tuple[int, int]) -> np.ndarray:
    """Corners [n, (x, y)] on a grid over the image, the nearest to the box first; none that are too far away."""
    x, y = (np.linspace(0, side - length, _FAR_STEPS).astype(int) for side, length in zip(area, size, strict=True))
    corners = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    center = np.array([box[1] + box[3], box[0] + box[2]]) / 2
    distances = np.linalg.norm(corners + np.divide(size, 2) - center, axis=1)
    nearest = np.argsort(distances, kind="stable")
    return corners[nearest[distances[nearest] <= max(_FAR_SHARE * max(area), sum(size))]]
