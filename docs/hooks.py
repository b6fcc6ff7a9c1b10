"""Changes of the pages of the site while MkDocs builds them."""

import re
from typing import Any


def on_page_content(html: str, **_: Any) -> str:
    """Let names in tables break after a dot or an underscore, where a table is too wide."""
    cells = re.compile(r"<td.*?</td>", re.DOTALL)
    return cells.sub(lambda cell: re.sub(r"<code>[^<]*</code>", _breakable, cell[0]), html)


def _breakable(code: re.Match[str]) -> str:
    return re.sub(r"(?<=\w)([._])(?=\w)", r"\1<wbr>", code[0])
