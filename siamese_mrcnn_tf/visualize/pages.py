"""Self-contained HTML pages: one file that opens without a server, with its pictures and its style inside.

A page is made of sections, a section of parts, and each part is a string of markup (`Html`) that a function here makes.
Whatever is not `Html` is text, and is escaped:

    write_page("run.html", "Run 7", [
        section("Settings", "What was set before the run.", table(["name", "value"], [["learning rate", 0.02]])),
        section("Losses", figure(plot, caption="the five losses")),
    ])

Nothing is fetched from elsewhere and there are no scripts. The style follows the reader's choice of light or dark, and
wide tables scroll on narrow screens.
"""

import base64
import dataclasses
import html
import io
import os
import re
from pathlib import Path

import numpy as np
from PIL import Image

from ..io.files import write_text

JPEG_QUALITY = 85
FIGURE_DPI = 150

_CSS_DPI = 96  # of a page's pixels
_NARROWEST = "10rem"  # width of a caption in a row of pictures

_TAG = re.compile(r"<[^>]*>")
_NUMBER = r"[-+\u2212]?(\d{1,3}(,\d{3})+|\d+)(\.\d*)?(e[-+]?\d+)?"  # \u2212: the minus sign
_NUMERIC = re.compile(rf"{_NUMBER}( ?± ?{_NUMBER})?( ?(%|[a-zA-Zµ]{{1,4}}(/[a-zA-Z]{{1,5}})?))?|nan|-?inf")
_ABSENT = ("", "n/a", "-", "\N{EN DASH}", "\N{EM DASH}")  # cells that say nothing about the kind of their column

_STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --soft: #59636e; --line: #d1d9e0; --plate: #f6f8fa; --page: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --soft: #9aa4af; --line: #3a424c; --plate: #20262d; --page: #14181d; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem 1.25rem 4rem; max-width: 80rem; color: var(--ink); background: var(--page);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; overflow-wrap: break-word; }
h1, h2, h3, h4 { line-height: 1.25; margin: 2rem 0 .75rem; }
h1 { margin-top: .5rem; }
h2 { border-bottom: 1px solid var(--line); padding-bottom: .3rem; }
.text { max-width: 50rem; margin: .75rem 0; white-space: pre-line; }
.note { color: var(--soft); font-style: italic; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .9rem; }
caption, figcaption { color: var(--soft); font-size: .875rem; text-align: left; padding: .25rem 0; }
th, td { border: 1px solid var(--line); padding: .25rem .6rem; text-align: left; vertical-align: top; }
th { background: var(--plate); font-weight: 600; }
th.number, td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
figure { margin: 1rem 0; }
img { display: block; max-width: 100%; height: auto; }
.plot img { background: #fff; border-radius: 4px; }
.row { display: flex; flex-wrap: wrap; gap: .75rem; align-items: flex-start; margin: 1rem 0; }
.row > figure, .row > .note { margin: 0; flex: 0 1 auto; min-width: 0; }
.row > .note { align-self: center; max-width: 20rem; padding: 1rem; border: 1px dashed var(--line); }
.row img { max-width: min(100%, 30rem); }
pre { background: var(--plate); border: 1px solid var(--line); border-radius: 4px; padding: .75rem; overflow-x: auto; }
code { font: .875rem/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
:not(pre) > code { background: var(--plate); padding: .1rem .3rem; border-radius: 3px; }
details { margin: 1rem 0; }
summary { cursor: pointer; }
""".strip()

_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>
{style}
</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""


class Html(str):
    """Markup, as it is to stand in the page. Text of any other type is escaped where it is put in."""


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture of a grid.

    Attributes:
        pixels: uint8 [height, width, RGB].
        caption: text below it.
        alt: text in its place for those who do not see it; "" takes the caption.
        lossless: kept as PNG instead of JPEG: for masks and drawings.
    """

    pixels: np.ndarray
    caption: str = ""
    alt: str = ""
    lossless: bool = False


# ---- pages -----------------------------------------------------------------------------------------------------------
def write_page(path, title, sections):
    """Write a page, whole or not at all; missing folders are made.

    Args:
        path: file to write, such as report.html.
        title: of the page, as text.
        sections: sequence of Html (`section`) or of text, which becomes paragraphs.
    """
    write_text(path, page(title, sections))


def page(title, sections):
    """A whole page as Html; arguments as in `write_page`."""
    return Html(_PAGE.format(title=_escaped(title), style=_STYLE, body=_joined(sections)))


def section(heading, *parts, level=2):
    """A heading and what stands below it.

    Args:
        heading: text.
        parts: Html of the functions below, sections of a deeper level, or text, which becomes a paragraph.
        level: of the heading, 2 to 6; the page's title has 1.

    Raises:
        ValueError: another level.
    """
    if level not in range(2, 7):
        raise ValueError(f"level = {level!r}: expected 2 to 6")
    return Html(f"<section>\n<h{level}>{_escaped(heading)}</h{level}>\n{_joined(parts)}\n</section>")


# ---- parts -----------------------------------------------------------------------------------------------------------
def paragraph(text):
    """A paragraph of text; its line breaks are kept."""
    return Html(f'<p class="text">{_escaped(text)}</p>')


def note(text):
    """A remark, such as what is missing and why."""
    return Html(f'<p class="note">{_escaped(text)}</p>')


def emphasis(text):
    """Text in italics, for a cell or a sentence."""
    return Html(f"<em>{_escaped(text)}</em>")


def code(text):
    """A command line, a log or source text; keeps its spaces and line breaks."""
    return Html(f"<pre><code>{_escaped(text)}</code></pre>")


def folded(summary, *parts):
    """Parts that open when their summary, a text, is clicked."""
    return Html(f"<details>\n<summary>{_escaped(summary)}</summary>\n{_joined(parts)}\n</details>")


def table(heads, rows, *, caption=""):
    """A table; columns that hold nothing but numbers are aligned to the right.

    Args:
        heads: [c] texts.
        rows: sequence of [c] cells: text, Html, numbers, None for an empty one. "12.5 ± 0.3" and "3.1 ms" are numbers.
        caption: text above it.

    Raises:
        ValueError: a row with another number of cells than heads.
    """
    rows = [list(row) for row in rows]
    for index, row in enumerate(rows):
        if len(row) != len(heads):
            raise ValueError(f"row {index} of a table: expected {len(heads)} cells like its heads, got {len(row)}")
    numeric = [_is_numeric([row[column] for row in rows]) for column in range(len(heads))]
    lines = [f"<caption>{_escaped(caption)}</caption>"] if caption else []
    lines += ["<thead>", _table_row("th", heads, numeric), "</thead>", "<tbody>"]
    lines += [_table_row("td", row, numeric) for row in rows]
    return Html("\n".join(['<div class="wide"><table>', *lines, "</tbody>", "</table></div>"]))


def figure(plot, *, caption="", alt="", dpi=FIGURE_DPI):
    """A plot as a picture.

    Args:
        plot: a matplotlib Figure, or the path of a PNG file.
        caption: text below it.
        alt: text in its place for those who do not see it; "" takes the caption.
        dpi: pixels per inch, of a Figure.

    The page shows it in the size that it has in inches, or shrunk to the window.
    """
    if isinstance(plot, (str, os.PathLike)):
        content = Path(plot).read_bytes()
    else:
        buffer = io.BytesIO()
        plot.savefig(buffer, format="png", dpi=dpi)
        content = buffer.getvalue()
    with Image.open(io.BytesIO(content)) as image:
        width = round(image.width * _CSS_DPI / image.info.get("dpi", (_CSS_DPI,))[0])
    uri = data_uri(content, "image/png")
    return Html(_figure(f'<img src="{uri}" width="{width}"', caption, alt, 'class="plot"'))


def picture_grid(rows, *, max_side=None):
    """Rows of pictures, such as reference, detections and ground truth.

    Args:
        rows: sequence of sequences of Picture; a text in place of one is a note that says why there is none.
        max_side: pixels; larger pictures are shrunk to it. None keeps all sizes.

    Raises:
        ValueError: a picture that is not uint8 [height, width, 3].
    """
    lines = []
    for row in rows:
        cells = [_grid_cell(cell, max_side) for cell in row]
        lines += ['<div class="row">', *cells, "</div>"]
    return Html("\n".join(lines))


# ---- pictures --------------------------------------------------------------------------------------------------------
def picture_uri(pixels, *, lossless=False, max_side=None):
    """A picture as a data URI: JPEG, or PNG if `lossless`.

    Args:
        pixels: uint8 [height, width, RGB].
        max_side: pixels; a larger picture is shrunk to it. None keeps the size.

    Raises:
        ValueError: something else than uint8 [height, width, 3], or empty.
    """
    pixels = np.asarray(pixels)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size or pixels.dtype != np.uint8:
        raise ValueError(f"picture: expected uint8 [height, width, 3], got {pixels.dtype} of shape {pixels.shape}")
    image = Image.fromarray(pixels)
    if max_side is not None:
        image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    image.save(content, **({"format": "PNG"} if lossless else {"format": "JPEG", "quality": JPEG_QUALITY}))
    return data_uri(content.getvalue(), "image/png" if lossless else "image/jpeg")


def data_uri(content, media_type):
    """The bytes of a file as a data URI, for example of the type "image/png"."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


# ---- helpers ---------------------------------------------------------------------------------------------------------
def _escaped(text):
    return text if isinstance(text, Html) else html.escape(str(text))


def _joined(parts):
    if isinstance(parts, str):
        parts = [parts]
    return "\n".join(part if isinstance(part, Html) else paragraph(part) for part in parts)


def _figure(image, caption, alt, attributes):
    """Markup of a figure; `image`: an img element but for its alternative text."""
    below = f"<figcaption>{_escaped(caption)}</figcaption>" if caption else ""
    return f'<figure {attributes}>{image} alt="{html.escape(_plain(alt or caption))}">{below}</figure>'


def _grid_cell(cell, max_side):
    if not isinstance(cell, Picture):
        return note(cell)
    uri = picture_uri(cell.pixels, lossless=cell.lossless, max_side=max_side)
    height, width = np.shape(cell.pixels)[:2]
    if max_side is not None:
        width = round(width * min(max_side / max(height, width), 1))
    # a caption that is longer than its picture breaks, so that pictures stay beside each other
    return _figure(f'<img src="{uri}"', cell.caption, cell.alt, f'style="max-width: max({_NARROWEST}, {width}px)"')


def _table_row(tag, cells, numeric):
    texts = ("" if cell is None else _escaped(cell) for cell in cells)
    marks = (' class="number"' if is_number else "" for is_number in numeric)
    return f"<tr>{''.join(f'<{tag}{mark}>{text}</{tag}>' for mark, text in zip(marks, texts, strict=True))}</tr>"


def _is_numeric(cells):
    """Whether a column holds numbers and nothing else, but for cells without content."""
    texts = [_plain(cell).strip() for cell in cells if cell is not None]
    texts = [text for text in texts if text not in _ABSENT]
    return bool(texts) and all(_NUMERIC.fullmatch(text) for text in texts)


def _plain(value):
    """The text of a value, that of markup without its tags."""
    return html.unescape(_TAG.sub("", value)) if isinstance(value, Html) else str(value)
