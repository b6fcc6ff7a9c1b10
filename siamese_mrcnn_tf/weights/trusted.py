"""Checksums of known files: what came first is trusted, and what comes later must be the same.

They are in `checksums.json` in the folder of downloads. An entry is made when a file arrives, or is first used there.
"""

import datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec

from ..io import files, schemas
from ..io.cache import cache_folder
from ..io.errors import InputError
from ..io.locks import LOCKS, locked

FILE = "checksums.json"


class Trusted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is remembered of a known file.

    Attributes:
        sha256: checksum in hexadecimal.
        source: the address that it came from, or where else from, in words.
        verified: what its weights are, in words; empty if no file was looked at yet.
        date: day of the entry, YYYY-MM-DD.
        stamp: [size in bytes, time of the last change in ns] of the file when its checksum was computed.
    """

    sha256: schemas.Sha256
    source: str
    verified: str = ""
    date: str = msgspec.field(default_factory=lambda: datetime.date.today().isoformat())
    stamp: Annotated[tuple[schemas.Id, ...], msgspec.Meta(max_length=2)] = ()


def read_trusted(name: str) -> Trusted | None:
    """What is remembered of a known file; None for nothing.

    Raises:
        ValueError: checksums.json cannot be read; names the key.
    """
    content = _read(cache_folder() / FILE).get(name)
    if content is None:
        return None
    try:
        return schemas.convert(content, Trusted, f"{cache_folder() / FILE}: {name}")
    except InputError as error:
        raise InputError(f"{error}; correct or remove the entry") from error


def remember(name: str, entry: Trusted) -> None:
    """Put an entry into checksums.json."""
    folder = cache_folder()
    with locked(folder / LOCKS / f"{FILE}.lock", FILE):
        files.remove_temporaries(folder / FILE)
        content = _read(folder / FILE)
        content[name] = msgspec.to_builtins(entry)
        schemas.convert(content[name], Trusted, f"{folder / FILE}: {name}")
        files.write_json(folder / FILE, {"format": 1} | content, indent=1)


def accept(name: str, sha256: str) -> None:
    """Trust the known file of this checksum from now on, in place of another; raises ValueError if it is none."""
    if len(sha256) != 64 or set(sha256.lower()) - set("0123456789abcdef"):
        raise InputError(f"{sha256!r}: not a sha256 checksum, expected 64 hexadecimal digits")
    remember(name, Trusted(sha256.lower(), "accepted by checksum"))


def refuse_changed(name: str, found: str, what: str, otherwise: str = "") -> None:
    """Raise ValueError if a known file of checksum `found` is not the trusted one.

    Args:
        what: where it is from, in words.
        otherwise: what to do in place of accepting it, in words.
    """
    entry = read_trusted(name)
    if entry is not None and entry.sha256 != found:
        known = f"the one trusted since {entry.date} is {entry.sha256} ({entry.source})"
        way = f"if it was replaced on purpose, accept it: siamese-mrcnn weights {name.removesuffix('.h5')}"
        raise InputError(f"{what} has the sha256 checksum {found}, {known}; {way} --accept {found}{otherwise}")


def is_as_remembered(path: Path) -> bool:
    """Whether size and time of a file are those of when its checksum was computed: it is not computed again."""
    entry = read_trusted(path.name)
    return entry is not None and entry.stamp == stamp_of(path)


def stamp_of(path: Path) -> tuple[int, int]:
    """(size in bytes, time of the last change in ns) of a file."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _read(path: Path) -> dict[str, Any]:
    content = files.read_json(path) if path.is_file() else {}
    schemas.refuse_newer(content, path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: not the checksums of files; remove it")
    return content
