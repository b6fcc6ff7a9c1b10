"""Files that the program writes and reads back: one type for each format, which the writer and all readers share.

The types are msgspec Structs (or other types that msgspec knows) beside what they describe. Files without the key
"format" are of version 1. Modules that the command line imports at start import this one where they use it.
"""

import contextlib
import math
import re
import reprlib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from . import files
from .errors import InputError
from .files import StrPath
from .json_text import parse_json

T = TypeVar("T")

_LARGEST = 1.7976931348623157e308
Number = Annotated[float, Meta(ge=-_LARGEST, le=_LARGEST)]  # neither NaN nor infinite
Probability = Annotated[float, Meta(ge=0, le=1)]
Score = Annotated[float, Meta(ge=0, le=1.001)]  # of a detection; the softmax of some devices rounds up
Count = Annotated[int, Meta(ge=0, le=10**12)]
Positive = Annotated[int, Meta(ge=1, le=10**9)]
Id = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Side = Annotated[int, Meta(ge=0, le=2**31 - 1)]  # of an image, in pixels
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Values = dict[str, int | Number | None]  # by name

_KINDS = {"str": str, "array": list, "object": dict, "bool": bool, "null": type(None), "int": int, "float": float}
_ANY = "[...]"  # an item of a table
_STEP = re.compile(r"\.(\w+)|\[(\d+)\]")
_MISSING = re.compile(r"Object missing required field `(.+)`")
_UNKNOWN = re.compile(r"Object contains unknown field `(.+)`")


class OwnFile(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A JSON file of the program, with its version; other keys than those of the type are refused."""

    format: Literal[1] = 1


class Rle(msgspec.Struct):
    """A mask as a compressed RLE of COCO."""

    size: tuple[Side, Side]
    counts: str


def read(path: StrPath, kind: type[T]) -> T:
    """The content of a JSON file, as a type.

    Raises:
        ValueError: the file cannot be read, is of a newer version of the program, or does not fit the type; names the
            file, the place and the value.
    """
    return convert(_content(path), kind, path)


def read_plain(path: StrPath, kind: Any) -> Any:
    """As `read`, but the content as it is, with keys that the type does not name."""
    content = _content(path)
    convert(content, kind, path)
    return content


def write(path: StrPath, value: Any, *, indent: int | None = 1) -> None:
    """Write a Struct as JSON, whole or not at all; numpy numbers and arrays, and paths become plain ones.

    Raises:
        ValueError: a value that `read` would refuse, or that has no JSON form.
    """
    try:
        content = msgspec.to_builtins(value, enc_hook=files.plain_value)
    except TypeError as error:
        raise InputError(f"{path}: cannot be written as JSON ({error})") from error
    write_plain(path, content, type(value), indent=indent)


def write_plain(path: StrPath, content: Any, kind: Any, *, indent: int | None = 1) -> None:
    """As `write`, but values of JSON as they are, with keys that the type does not name; numpy's become plain ones."""
    text = files.json_text(path, content, indent=indent)
    try:
        written = parse_json(text)
    except InputError as error:
        raise InputError(f"{path}: cannot be written, {error}") from error
    convert(written, kind, path)
    files.write_text(path, text)


def convert(value: Any, kind: type[T], where: StrPath) -> T:
    """A plain value as a type; `where` begins the message of the ValueError for one that does not fit."""
    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, RecursionError, OverflowError) as error:
        raise InputError(f"{where}: {_problem(str(error), value)}") from error


def refuse_newer(content: Any, path: StrPath, *, version: int = 1) -> None:
    """Raise ValueError for the content of a file that a newer version of the program has written."""
    found = content.get("format", 1) if isinstance(content, dict) else 1
    if isinstance(found, int) and found > version:
        newer = f"format = {reprlib.repr(found)}: written by a newer version of the program"
        raise InputError(f"{path}: {newer}, this one reads format {version}; upgrade siamese-mrcnn-tf")


def _content(path: StrPath) -> Any:
    content = files.read_json(path)
    refuse_newer(content, path)
    return content


def _problem(message: str, value: Any) -> str:
    """The message of msgspec with the place and the value first."""
    text, _, place = message.partition(" - at `")
    is_key = place.startswith("key` in `")  # a key of a table, in place of its value
    place = place.removeprefix("key` in `").removesuffix("`").removeprefix("$").removeprefix(".")
    text = _MISSING.sub(r"the key '\1' is missing", _UNKNOWN.sub(r"unknown key '\1'", text))
    text = text.replace("`", "").replace("Expected", "expected", 1).replace("Invalid", "invalid", 1)
    if not place:
        return text
    if is_key or text.startswith(("the key", "unknown key")):
        return f"{place}: {text}"
    reason, _, kind = text.partition(", got ")
    with contextlib.suppress(LookupError, TypeError, ValueError):
        place, found = _wrong_item(value, place, kind) if place.endswith(_ANY) else (place, _at(value, place))
        return f"{place} = {_shown(found)}: {reason}"
    return f"{place}: {text}"


def _wrong_item(value: Any, place: str, kind: str) -> tuple[str, Any]:
    """(place, value) of the first item of a table that is of a kind that msgspec refused, or that is not finite.

    msgspec names the table alone, as "history[3][...]". LookupError where no item, or another one, may be meant.
    """
    table = place.removesuffix(_ANY)
    for key, item in (_at(value, table) if table else value).items():
        is_number = type(item) is float and item.is_integer()  # taken as an int
        if type(item) is _KINDS[kind] and not is_number if kind else type(item) is float and not math.isfinite(item):
            return f"{table}.{key}" if table else key, item
    raise LookupError(place)


def _at(value: Any, place: str) -> Any:
    """The value at a place such as "history[3].epoch"; LookupError where the place is not exact."""
    if _ANY in place:
        raise LookupError(place)
    for key, index in _STEP.findall(f".{place}" if not place.startswith("[") else place):
        value = value[key] if key else value[int(index)]
    return value


def _shown(value: Any) -> str:
    shown = reprlib.Repr()
    shown.maxstring = shown.maxother = 60
    return shown.repr(value)


def is_file_name(name: str) -> bool:
    """Whether a text is the name of a file without any folder."""
    return bool(name) and name not in (".", "..") and not set(name) & {"/", "\\", "\0"} and Path(name).name == name
