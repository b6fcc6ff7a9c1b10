"""JSON texts, read by the standard library: slower than orjson, but it takes more and says where it stops."""

import json
import math
import re
from typing import Any

from .errors import InputError

_DIGITS = 20  # of a whole number from which on it may have more than 64 bits
_ESCAPES = re.compile(r"((?:\\u[dD][89a-fA-F][0-9a-fA-F]{2})+)|\\.")  # of surrogates, and any other
_TOKEN = re.compile(r'"((?:[^"\\]|\\.)*)"(\s*:)?|[\[\]{}]')  # a text, with a colon if it is a key, or a bracket
_REACH = 100_000  # characters before a value in which its keys are looked for
_KEYS, _KEY_LENGTH = 3, 60  # innermost keys in a message, and characters of each


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
    keys: list[str] = []
    depth, is_next = 0, True  # closed containers before the value; whether a key here is that of the value
    for token in reversed(list(_TOKEN.finditer(text, max(start - _REACH, 0), start))):
        if token[0] in "]}":
            depth, is_next = depth + 1, False
        elif token[0] in "[{":
            is_next = not depth
            depth = max(depth - 1, 0)
        elif is_next:
            keys += [token[1][:_KEY_LENGTH]] if token[2] else []
            is_next = False
    path = ".".join(keys[:_KEYS][::-1])
    return f"line {text.count(chr(10), 0, start) + 1}{f', {path}' if path else ''}"


def _parsed_int(text: str) -> float:
    """A whole number of a JSON file; as a float if it may have more than 64 bits, as orjson reads it."""
    if len(text) < _DIGITS:
        return int(text)
    value = float(text)
    if math.isinf(value):
        raise OverflowError(text)
    return value
