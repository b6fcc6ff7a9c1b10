"""JSON texts, read by the standard library: slower than orjson, but it takes more and says where it stops."""

import json
import math
import re
from typing import Any

from .errors import InputError

_DIGITS = 20  # of a whole number from which on it may have more than 64 bits
_ESCAPES = re.compile(r"((?:\\u[dD][89a-fA-F][0-9a-fA-F]{2})+)|\\.")  # of surrogates, and any other
# a text, with its end and a colon if it is a key, or a bracket; a text that is open at the end of the search has no end
_TOKEN = re.compile(r'"((?:[^"\\]|\\.)*+)(?:("\s*:)|"|\Z)|[\[\]{}]')
_KEYS, _KEY_LENGTH = 3, 60  # innermost keys in a message, and characters of each
_BLANKS = 100  # characters between a key and its value in which the colon is looked for


def parse_json(text: str) -> Any:
    """The content of a JSON text; takes more than orjson, such as NaN, and is slower.

    Raises:
        ValueError: it is not JSON (JSONDecodeError), nested too deeply, or has numbers or characters that are none.
    """
    try:
        value = json.loads(text, parse_int=_parsed_int)
    except OverflowError as error:
        digits = str(error)
        place = _place(text, text.index(digits))
        number = f"the number {digits[:_DIGITS]}... of {len(digits)} digits is too large"
        raise InputError(f"{place}: {number}") from error
    except RecursionError as error:
        raise InputError("JSON nested too deeply") from error
    except MemoryError as error:
        raise InputError("JSON too large for the memory that is left") from error
    for found in filter(lambda escape: escape[1], _ESCAPES.finditer(text)):
        try:
            json.loads(f'"{found[0]}"').encode()
        except UnicodeEncodeError as error:
            place = _place(text, found.start())
            raise InputError(f"{place}: {found[0]} is no character (half of a surrogate pair)") from error
    return value


def _place(text: str, start: int) -> str:
    """Line of a value in a JSON text, and the keys that lead to it: "line 3, annotations.segmentation"."""
    key, keys = "", list[str]()  # key of the value that comes next, and of the containers that are open
    for token in _TOKEN.finditer(text, 0, start):
        if token[0] in ("[", "{"):
            keys.append(key)
            key = ""
        elif token[0] in ("]", "}"):
            keys.pop()
            key = ""
        elif token[2]:
            key = token[1][:_KEY_LENGTH]
        elif token.end() == start and not _is_value(text, token.start()):
            key = ""  # the place is in a key
    path = ".".join(list(filter(None, [*keys, key]))[-_KEYS:])
    return f"line {text.count(chr(10), 0, start) + 1}{f', {path}' if path else ''}"


def _is_value(text: str, start: int) -> bool:
    """Whether a text in an object follows its key."""
    return text[max(start - _BLANKS, 0) : start].rstrip().endswith(":")


def _parsed_int(text: str) -> float:
    """A whole number of a JSON file; as a float if it may have more than 64 bits, as orjson reads it."""
    if len(text) < _DIGITS:
        return int(text)
    value = float(text)
    if math.isinf(value):
        raise OverflowError(text)
    return value
