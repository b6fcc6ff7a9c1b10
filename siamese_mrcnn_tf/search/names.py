"""Names of files that a search writes, made of names of any kind."""

import collections
from collections.abc import Callable, Iterable
from pathlib import PurePath

_REFUSED = '<>:"/\\|?*.'  # characters that some systems refuse in names of files, and dots, which separate the parts
_MAX_BYTES = 80


def file_stem(name: str) -> str:
    """A name as part of a file name: not too long, and "_" for what some systems refuse and for dots."""
    safe = "".join("_" if letter in _REFUSED or not letter.isprintable() else letter for letter in name)
    return safe.encode("utf-8", "replace")[:_MAX_BYTES].decode("utf-8", "ignore").strip() or "_"


def file_stems(names: Iterable[str]) -> list[str]:
    """`file_stem` of each name, repeated ones with a number."""
    return number_repeated(map(file_stem, names))


def number_repeated(names: Iterable[str], is_free: Callable[[str], bool] = lambda name: True) -> list[str]:
    """The names in order, repeated ones with a number: "a", "a-2".

    Names that differ in case only count as the same, as on many file systems. `is_free` says whether a name may be
    taken at all.
    """
    taken: set[str] = set()
    unique, following = [], collections.defaultdict[str, int](lambda: 2)
    for name in names:
        one = name
        while one.casefold() in taken or not is_free(one):
            one = f"{name}-{following[name.casefold()]}"
            following[name.casefold()] += 1
        taken.add(one.casefold())
        unique.append(one)
    return unique


def source_stem(source: str) -> str:
    """The name of a source without folders and suffix."""
    return PurePath(source.replace("\\", "/")).stem or source
