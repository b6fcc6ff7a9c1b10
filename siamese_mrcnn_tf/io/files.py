"""Files: written whole or not at all, kept inside their folder, read with errors that name them.

Everything that the program writes goes through `atomic_path`: a reader never meets half a file, and a run that is
stopped leaves the old file as it was. Downloads alone are gathered under a lasting name, to be resumed.
"""

import contextlib
import json
import logging
import os
import secrets
from pathlib import Path

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def atomic_path(path):
    """Context that yields a temporary path beside `path` and renames it to `path` at the end.

    The temporary name ends in the name of `path`, so that writers which look at suffixes (`.weights.h5`) see the same.
    Missing parent folders are made. If the body raises, the temporary file is removed and `path` stays as it was.

    Raises:
        ValueError: `path` is a folder, or its parent cannot be made.
        RuntimeError: the body wrote nothing to the path it was given.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path}: is a folder, expected a file to write")
    make_folder(path.parent)
    temporary = path.with_name(f".{secrets.token_hex(4)}-{path.name}")
    try:
        yield temporary
        if not temporary.exists():
            raise RuntimeError(f"{path}: nothing was written to the temporary file {temporary.name}")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path, text):
    """Write `text` to `path` as UTF-8, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path, value, *, indent=None):
    """Write `value` to `path` as JSON, whole or not at all; numpy numbers and arrays become plain ones.

    Raises:
        ValueError: something in `value` has no JSON form (NaN and infinity among them).
    """
    try:
        text = json.dumps(value, indent=indent, allow_nan=False, default=_plain)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: cannot be written as JSON ({error})") from error
    write_text(path, text + "\n")


def read_json(path):
    """The content of a JSON file.

    Raises:
        ValueError: names the file, and the line where it breaks off being JSON.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")  # other systems' editors put a byte order mark in front
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a JSON file (not UTF-8 text at byte {error.start})") from error
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON at line {error.lineno}, column {error.colno} ({error.msg})") from error
    except RecursionError as error:
        raise ValueError(f"{path}: JSON nested too deeply") from error


def writable_folder(path):
    """`path` as a Path, checked: a folder that files can be written to, or none yet.

    Raises:
        ValueError: `path` or something above it is a file, or the folder is not writable.
    """
    path = Path(path)
    existing = next(part for part in (path, *path.absolute().parents) if part.exists())
    if not existing.is_dir():
        raise ValueError(f"{path}: cannot write there, {existing} is a file")
    if not os.access(existing, os.W_OK):
        raise ValueError(f"{path}: cannot write there, no permission for {existing}")
    return path


def inside(folder, name):
    """The path of `name` in `folder`.

    The file itself may be a link to elsewhere (large data sets are often linked together); the folders on the way to
    it may not lead out.

    Raises:
        ValueError: `name` is empty, or leads out of `folder`.
    """
    folder, path = Path(folder), Path(folder) / name
    if not name or "\0" in str(name) or path.name in ("", "..") or path == folder:
        raise ValueError(f"{str(name)!r} is not the name of a file in the folder {folder}")
    if path.parent != folder and not path.parent.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{str(name)!r} leads out of the folder {folder}")
    return path


def make_folder(folder):
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{folder}: the folder cannot be made ({error.strerror})") from error


def _plain(value):
    """numpy's numbers and arrays, and paths, as what JSON knows."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"a value of type {type(value).__name__}")
