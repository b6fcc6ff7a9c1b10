"""The margin of an overlay: what was searched for, beside the image and never over it.

Its size depends on the categories and the size of the image alone, so that the overlays of a video have one size.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from . import style
from .lettering import fitting_text, font_for, shown_text
from .overlays import Bytes3, Drawing, Legend, as_bytes, font_pixels

_PAGE: Bytes3 = (27, 30, 35)
_INK: Bytes3 = (232, 234, 237)
_SOFT: Bytes3 = (150, 157, 166)
_TALL, _SMALL = 4.2, 2.5  # sides of references in one column and in several, in heights of the font
_TEXT_WIDTH = 6, 12  # of a column, minimum and maximum, in heights of the font
_MOST_CROPS = 4  # of one category


class _Layout(NamedTuple):
    """Measures of a margin in pixels."""

    font: int
    thumb: int  # side of the square for references
    gap: int
    text: int  # width of the names
    rows: int
    columns: int

    @property
    def cell(self) -> tuple[int, int]:
        """(width, height) of a category, gaps included."""
        return self.thumb + self.text + 2 * self.gap, self.thumb + self.gap

    @property
    def header(self) -> int:
        return round(1.4 * self.font) + 2 * self.gap

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) that the margin needs."""
        width, height = self.cell
        return self.columns * width + self.gap, self.header + self.rows * height + self.gap


def add_margin(drawing: Drawing, categories: Sequence[Legend]) -> np.ndarray:
    """A drawing with a margin on its right: each category's references, name, threshold and number of finds.

    An image that is lower than a margin of one row gets a strip below it.

    Returns:
        uint8 [height, width, RGB].

    Raises:
        ValueError: another number of categories than the drawing has.
    """
    style.checked_count(categories, len(drawing.counts), "categories")
    height, width = drawing.pixels.shape[:2]
    layout = _layout(drawing.pixels, categories)
    sheet = Image.new("RGB", (width + layout.size[0], max(height, layout.size[1])), _PAGE)
    sheet.paste(Image.fromarray(drawing.pixels))
    draw = ImageDraw.Draw(sheet)
    left = width + layout.gap
    _draw_header(draw, (left, layout.gap), drawing, layout)
    for index, (category, count) in enumerate(zip(categories, drawing.counts, strict=True)):
        column, row = divmod(index, layout.rows)
        corner = left + column * layout.cell[0], layout.header + row * layout.cell[1]
        _draw_category(sheet, draw, corner, category, count, layout)
    return np.array(sheet)


def _layout(canvas: np.ndarray, categories: Sequence[Legend]) -> _Layout:
    """One column with large references if they fit, else several with small ones."""
    font, count = font_pixels(canvas), len(categories)
    names = [shown_text(category.name) for category in categories]
    longest = max((font_for(name, font, bold=True).getlength(name) for name in names), default=0)
    text = round(min(max(longest, _TEXT_WIDTH[0] * font), _TEXT_WIDTH[1] * font)) + 1
    gap = max(round(font * 0.7), 4)
    for share in (_TALL, _SMALL):
        thumb = round(share * font)
        room = canvas.shape[0] - (round(1.4 * font) + 3 * gap)
        fitting = max(room // (thumb + gap), 1)
        columns = max(math.ceil(count / fitting), 1)
        layout = _Layout(font, thumb, gap, text, min(fitting, max(math.ceil(count / columns), 1)), columns)
        if columns == 1:
            break
    return layout


def _draw_header(draw: ImageDraw.ImageDraw, corner: tuple[int, int], drawing: Drawing, layout: _Layout) -> None:
    total = sum(drawing.counts)
    text = "nothing found" if not total else f"{total} {'find' if total == 1 else 'finds'}"
    if drawing.num_unlabeled:
        text += f", {drawing.num_unlabeled} without label"
    pixels, room = 1.15 * layout.font, layout.size[0] - 2 * layout.gap
    pixels *= min(room / font_for(text, round(pixels), bold=True).getlength(text), 1)
    font = font_for(text, int(pixels) or 1, bold=True)
    draw.text(corner, text, fill=_INK if total else _SOFT, font=font)


def _draw_category(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    category: Legend,
    count: int,
    layout: _Layout,
) -> None:
    (x, y), thumb, color = corner, layout.thumb, as_bytes(category.color)
    _paste_crops(sheet, category.crops, corner, thumb)
    line = max(layout.font // 8, 2)
    draw.rectangle((x, y, x + thumb - 1, y + thumb - 1), outline=color, width=line)
    name = shown_text(category.name)
    bold = font_for(name, layout.font, bold=True)
    left, top = x + thumb + layout.gap, y + (thumb - round(2.5 * layout.font)) // 2
    draw.text((left, top), fitting_text(name, bold, layout.text), fill=color, font=bold)
    about = f"\N{GREATER-THAN OR EQUAL TO} {category.threshold:.2f} \N{MIDDLE DOT} {count or 'none'}"
    plain = font_for(about, round(0.9 * layout.font))
    draw.text((left, top + round(1.3 * layout.font)), about, fill=_INK if count else _SOFT, font=plain)


def _paste_crops(sheet: Image.Image, crops: Sequence[np.ndarray], corner: tuple[int, int], side: int) -> None:
    """Paste up to four references into a square of `side` pixels; they keep their proportions."""
    shown = [Image.fromarray(np.asarray(crop, np.uint8)) for crop in crops[:_MOST_CROPS]]
    grid = 1 if len(shown) <= 1 else 2
    cell = side // grid
    for index, crop in enumerate(shown):
        row, column = divmod(index, grid)
        share = cell / max(crop.size)
        size = max(round(crop.width * share), 1), max(round(crop.height * share), 1)
        top = row * cell + (side - cell) // 2 * (len(shown) == 2)  # two of them are in the middle
        place = corner[0] + column * cell + (cell - size[0]) // 2, corner[1] + top + (cell - size[1]) // 2
        sheet.paste(crop.resize(size, Image.Resampling.LANCZOS), place)
