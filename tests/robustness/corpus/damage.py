"""Damage to files of the program's own: contents that none of them has, and values that no key has."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..case import ERROR, Case
from .formats import set_at

DIGITS = int("7" * 400)
VALUES: dict[str, Any] = {
    "null": None,
    "text": "x",
    "negative": -1,
    "huge": 1e30,
    "nan": float("nan"),
    "digits": DIGITS,
    "list": [],
    "object": {},
    "true": True,
}
FILES: dict[str, bytes] = {
    "empty": b"",
    "cut": b'{"format": 1, "epoch"',
    "list": b"[]",
    "null": b"null",
    "number": b"5",
    "object": b"{}",
    "text": b"text",
    "not_utf8": b'{"a": "caf\xe9"}',
    "deep": b"[" * 100_000,
    "later_version": b'{"format": 99, "version": 99}',
}


def copied(good: str, change: Callable[[Path], Any]) -> Callable[[Path], None]:
    """A copy of a good folder as "own", changed; the good one is beside the working folder's parent."""

    def make(folder: Path) -> None:
        source = folder.parents[1] / "base" / good
        if source.is_dir():
            shutil.copytree(source, folder / "own", symlinks=True)
        else:
            (folder / "own").mkdir()
            shutil.copy(source, folder / "own" / good)
        change(folder / "own")

    return make


def written(name: str, content: bytes) -> Callable[[Path], Any]:
    return lambda own: (own / name).write_bytes(content)


def json_changed(name: str, path: tuple, value: Any) -> Callable[[Path], Any]:
    def change(own: Path) -> None:
        content = json.loads((own / name).read_bytes())
        set_at(content, path, value)
        (own / name).write_text(json.dumps(content))

    return change


def key_removed(name: str, key: str) -> Callable[[Path], Any]:
    def change(own: Path) -> None:
        content = json.loads((own / name).read_bytes())
        del content[key]
        (own / name).write_text(json.dumps(content))

    return change


def files(
    family: str, good: str, name: str, words: tuple[str, ...], needs: tuple[str, ...], *, skip: tuple[str, ...] = ()
) -> Iterator[Case]:
    """A file with the contents that none of the program's files has."""
    for label, content in FILES.items():
        if label not in skip:
            make = copied(good, written(name, content))
            yield Case(f"own_files/{family}/{name}/{label}", words, ERROR, (name,), make, needs, touches=("own",))


def values(
    family: str, good: str, name: str, keys: dict[tuple, set[str]], words: tuple[str, ...], needs: tuple[str, ...]
) -> Iterator[Case]:
    """Keys of a JSON file with values that they cannot have; `keys` gives those that they may have."""
    for path, allowed in keys.items():
        key = ".".join(map(str, path))
        for label, value in VALUES.items():
            if label in allowed:
                continue
            make = copied(good, json_changed(name, path, value))
            said = next(str(part) for part in reversed(path) if not isinstance(part, int))
            yield Case(
                f"own_files/{family}/{name}/{key}={label}",
                words,
                ERROR,
                (f"{name}|own:", f"{said}|fingerprint|not a file|not the settings"),
                make,
                needs,
                touches=("own",),
            )
