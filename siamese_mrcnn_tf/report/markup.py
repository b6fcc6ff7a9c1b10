"""Names in Markdown, and the little of Markdown that reports use, as HTML.

Reports use `*` and backticks. Names of categories, data sets and folders are texts: `escaped` puts a backslash before
what Markdown would take as markup.
"""

import html
import re

from markupsafe import Markup as Html

_MARKUP = re.compile(r"[\\`*_|<>\[\]#~$]")
_ESCAPE = re.compile(r"\\([!-/:-@\[-`{-~])")
_SHIFT = 0xE000  # of escaped characters, to private ones, while the others are markup
_SHIFTED = re.compile("[\ue021-\ue07e]")
_MAX_LETTERS = 200  # of a name


def escaped(name: object) -> str:
    """A name as Markdown that shows it as it is, in one line and cut if it is long."""
    text = " ".join(str(name).split())
    text = text if len(text) <= _MAX_LETTERS else text[: _MAX_LETTERS - 1] + "\N{HORIZONTAL ELLIPSIS}"
    return _MARKUP.sub(r"\\\g<0>", text)


def code(name: object) -> str:
    """A name as code in Markdown, where backslashes are none."""
    return f"`{' '.join(str(name).split()).replace('`', chr(39)).replace('|', '/')}`"


def plain(text: str) -> str:
    """Markdown as text to print."""
    return _ESCAPE.sub(r"\1", re.sub(r"(?<!\\)`", "", text))


def inline(text: str) -> Html:
    """Markdown in a line as HTML: `*`, backticks and escaped characters."""
    hidden = _ESCAPE.sub(lambda found: chr(ord(found[1]) + _SHIFT), text)
    marked = re.sub(r"\*(\S(?:[^*]*[^*\s])?)\*", r"<em>\1</em>", html.escape(hidden))
    marked = re.sub(r"`([^`]+)`", r"<code>\1</code>", marked)
    return Html(_SHIFTED.sub(lambda found: html.escape(chr(ord(found[0]) - _SHIFT)), marked))
