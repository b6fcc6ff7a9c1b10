"""HTML pages that open without a server and load nothing from other sites, with their style inside.

A page has sections, a section has parts, and each part is markup (`Html`) that a function here returns. Everything that
is not `Html` is text and is escaped:

    write_page("run.html", "Run 7", [
        section("Settings", "What was set before the run.", table(["name", "value"], [["learning rate", 0.02]])),
        section("Losses", figure(plot, caption="the five losses")),
    ])

Images are inside the page, too, unless a part links to files beside it (`template_macro`). A page has a script only if
`write_page` is given one, and can be read without it. Markup and style are in page.html.
"""

import base64
import dataclasses
import functools
import io
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, PackageLoader
from markupsafe import Markup as Html
from PIL import Image

from ..io.decoding import open_image
from ..io.errors import InputError
from ..io.files import write_text
from .style import DPI

if TYPE_CHECKING:
    from matplotlib.figure import Figure

JPEG_QUALITY = 85

_CSS_DPI = 96  # of a page's pixels
_NUMBER = r"[-+\u2212]?(\d{1,3}(,\d{3})+|\d+)(\.\d*)?(e[-+]?\d+)?"  # \u2212: the minus sign
_NUMERIC = re.compile(rf"{_NUMBER}( ?± ?{_NUMBER})?( ?(%|[a-zA-Zµ]{{1,4}}(/[a-zA-Z]{{1,5}})?))?|nan|-?inf")
_ABSENT = ("", "n/a", "-", "\N{EN DASH}", "\N{EM DASH}")  # cells without content; they do not make a column text


@dataclasses.dataclass(frozen=True)
class GridImage:
    """An image of a grid."""

    pixels: np.ndarray  # uint8 [height, width, RGB]
    caption: str = ""  # text below it
    alt: str = ""  # alternative text; "" takes the caption
    lossless: bool = False  # stored as PNG instead of JPEG, for masks and drawings


# ---- pages -----------------------------------------------------------------------------------------------------------
def write_page(
    path: str | os.PathLike, title: str, sections: Iterable[object], *, style: Html | str = "", script: Html | str = ""
) -> None:
    """Write a page; missing folders are made.

    Args:
        sections: Html (`section`) or text, which becomes paragraphs.
        style: CSS of this page, after that of all pages.
        script: JavaScript that runs when the page is loaded.
    """
    write_text(path, page(title, sections, style=style, script=script))


def page(title: str, sections: Iterable[object], *, style: Html | str = "", script: Html | str = "") -> Html:
    """A whole page; arguments as in `write_page`."""
    return _macro("page")(title, list(sections), Html(style), Html(script)).lstrip()


def section(heading: str, *parts: object, level: int = 2) -> Html:
    """A heading and the parts below it; ValueError unless its level is 2 to 6.

    Args:
        parts: Html of the functions below, sections of a deeper level, or text, which becomes a paragraph.
    """
    if level not in range(2, 7):
        raise InputError(f"level = {level!r}: expected 2 to 6")
    return _macro("section")(heading, parts, level)


# ---- parts -----------------------------------------------------------------------------------------------------------
def paragraph(text: object) -> Html:
    """A paragraph of text; line breaks in it are spaces."""
    return _macro("paragraph")(text)


def note(text: object) -> Html:
    """A remark, such as what is missing and why."""
    return _macro("note")(text)


def emphasis(text: object) -> Html:
    """Text in italics, for a cell or a sentence."""
    return _macro("emphasis")(text)


def code(text: object) -> Html:
    """A command line, a log or source text; keeps its spaces and line breaks."""
    return _macro("code")(text)


def folded(summary: str, *parts: object) -> Html:
    """Parts that open when their summary, a text, is clicked."""
    return _macro("folded")(summary, parts)


def table(heads: Sequence[object], rows: Iterable[Iterable[object]], *, caption: str = "") -> Html:
    """A table; columns that hold nothing but numbers are aligned to the right.

    Args:
        heads: [c] texts.
        rows: of [c] cells: text, Html, numbers, None for an empty one. "12.5 ± 0.3" and "3.1 ms" are numbers.
        caption: text above it.

    Raises:
        ValueError: a row with another number of cells than heads.
    """
    cells = [list(row) for row in rows]
    for index, row in enumerate(cells):
        if len(row) != len(heads):
            raise InputError(f"row {index} of a table: expected {len(heads)} cells like its heads, got {len(row)}")
    numeric = [_is_numeric([row[column] for row in cells]) for column in range(len(heads))]
    return _macro("table")(heads, cells, numeric, caption)


def figure(plot: "Figure | str | os.PathLike", *, caption: str = "", alt: str = "", dpi: float = DPI) -> Html:
    """A plot as an image, in the size that it has in inches, or shrunk to the window.

    Args:
        plot: a matplotlib Figure, or the path of a PNG file.
        caption: text below it.
        alt: alternative text; "" takes the caption.
        dpi: pixels per inch, of a Figure.
    """
    if isinstance(plot, (str, os.PathLike)):
        content = Path(plot).read_bytes()
    else:
        buffer = io.BytesIO()
        plot.savefig(buffer, format="png", dpi=dpi)
        content = buffer.getvalue()
    with open_image(io.BytesIO(content), ("PNG",), "a plot") as image:
        width = round(image.width * _CSS_DPI / image.info.get("dpi", (_CSS_DPI,))[0])
    return _macro("plot")(_data_uri(content, "png"), width, caption, _plain(alt or caption))


def image_grid(rows: Iterable[Iterable[GridImage | str]], *, max_side: int | None = None) -> Html:
    """Rows of images, such as reference, detections and ground truth.

    Args:
        rows: of GridImage; a text in place of one is a note that says why there is none.
        max_side: pixels; larger images are shrunk to it. None keeps all sizes.

    Raises:
        ValueError: an image that is not uint8 [height, width, 3].
    """
    return _macro("grid")([[_grid_cell(cell, max_side) for cell in row] for row in rows])


def image_uri(pixels: np.ndarray, *, lossless: bool = False, max_side: int | None = None) -> str:
    """An image as a data URI: JPEG, or PNG if `lossless`.

    Args:
        pixels: uint8 [height, width, RGB].
        max_side: pixels; a larger image is shrunk to it. None keeps the size.

    Raises:
        ValueError: something else than uint8 [height, width, 3], or empty.
    """
    pixels = np.asarray(pixels)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size or pixels.dtype != np.uint8:
        raise InputError(f"image: expected uint8 [height, width, 3], got {pixels.dtype} of shape {pixels.shape}")
    image, kind, content = Image.fromarray(pixels), "png" if lossless else "jpeg", io.BytesIO()
    if max_side is not None:
        image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    image.save(content, format=kind, quality=JPEG_QUALITY)
    return _data_uri(content.getvalue(), kind)


def template_macro(package: str, template: str, name: str) -> Callable[..., Html]:
    """A macro of a template that is part of a package; it escapes text, and a value of None becomes no text."""
    return getattr(_template_module(package, template), name)


@functools.cache
def _template_module(package: str, template: str) -> Any:
    environment = Environment(loader=PackageLoader(package, "."), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.finalize = lambda value: "" if value is None else value
    return environment.get_template(template).module


def _macro(name: str) -> Callable[..., Html]:
    return template_macro(__name__.rpartition(".")[0], "page.html", name)


def _grid_cell(cell: GridImage | str, max_side: int | None) -> Html | str:
    if not isinstance(cell, GridImage):
        return cell
    uri = image_uri(cell.pixels, lossless=cell.lossless, max_side=max_side)
    height, width = cell.pixels.shape[:2]
    if max_side is not None:
        width = round(width * min(max_side / max(height, width), 1))
    return _macro("image")(uri, width, cell.caption, _plain(cell.alt or cell.caption))


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _is_numeric(cells: Iterable[object]) -> bool:
    """Whether a column holds numbers alone, apart from cells without content."""
    texts = [text for cell in cells if cell is not None and (text := _plain(cell).strip()) not in _ABSENT]
    return bool(texts) and all(_NUMERIC.fullmatch(text) for text in texts)


def _plain(value: object) -> str:
    """The text of a value, that of markup without its tags."""
    return value.striptags() if isinstance(value, Html) else str(value)
