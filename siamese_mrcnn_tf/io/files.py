"""Text and JSON files, written whole or not at all, and checks of folders and file names.

The program writes every file through `atomic_path`: a reader never sees half a file, and a stopped run leaves the old
file as it was. Errors name the file.
"""

import codecs
import contextlib
import functools
import gc
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from .errors import InputError, StateError
from .json_text import parse_json

StrPath = str | os.PathLike[str]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff")
_TEMPORARY = re.compile(r"\.[0-9a-f]{8}([-~])(.+)")  # names by `atomic_path`; ~ is what `atomic_folder` replaces
_SYSTEM_FILES = ("thumbs.db", "desktop.ini")
_MANY_OBJECTS = 200_000  # created while the garbage collector is paused; the collector ignores them afterwards


@contextlib.contextmanager
def atomic_path(path: StrPath) -> Iterator[Path]:
    """Context that yields a temporary path beside `path` and renames it to `path` at the end.

    The temporary name ends in the name of `path`: writers that look at suffixes (`.weights.h5`) see the same one.
    Missing parent folders are made. If the body raises, the temporary file is removed and `path` stays as it was.

    Raises:
        ValueError: `path` is a folder, its parent cannot be made, or the file cannot be written, as on a full disk.
        RuntimeError: the body wrote nothing to the path it was given.
    """
    path = Path(path)
    if os.path.isdir(path):
        raise InputError(f"{path}: is a folder, expected a file to write")
    make_folder(path.parent)
    temporary = path.with_name(f".{secrets.token_hex(4)}-{path.name}")
    try:
        with write_errors(path):
            yield temporary
            if not os.path.lexists(temporary):
                raise StateError(f"{path}: nothing was written to the temporary file {temporary.name}")
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: StrPath, *, replace: bool = False) -> Iterator[Path]:
    """Context that yields a new temporary folder beside `path` and renames it to `path` at the end.

    If the body raises, the temporary folder is removed and `path` stays as it was. An empty folder is replaced.

    Args:
        replace: whether a folder with content is replaced.

    Raises:
        ValueError: `path` is a file, or a folder with content that is not to be replaced; or it cannot be written.
    """
    path = Path(path)
    if path.is_file() or (path.is_dir() and not replace and any(path.iterdir())):
        raise InputError(f"{path}: is in use, expected a new or an empty folder")
    temporary, former = (path.with_name(f".{secrets.token_hex(4)}{mark}{path.name}") for mark in "-~")
    make_folder(temporary)
    try:
        with write_errors(path):
            yield temporary
            if path.exists():
                os.replace(path, former)
            os.replace(temporary, path)
    finally:
        if former.exists() and not path.exists():
            os.replace(former, path)
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(former, ignore_errors=True)


@contextlib.contextmanager
def write_errors(path: StrPath) -> Iterator[None]:
    """Context that turns the errors of writing `path`, such as that of a full disk, into ValueErrors that name it."""
    try:
        yield
    except InputError:
        raise
    except OSError as error:
        names = [os.fsdecode(name) for name in (error.filename,) if isinstance(name, (str, bytes, os.PathLike))]
        other = [name for name in names if not _is_of(Path(name).name, Path(path).name)]
        reason = error.strerror or str(error) or type(error).__name__
        raise InputError(f"{path}: cannot be written ({': '.join([*other, reason])})") from error


# ---- what a killed process left --------------------------------------------------------------------------------------


def lock_path(path: Path) -> Path:
    """Where the lock of an output is (see `locks`): .NAME.lock beside it."""
    return path.with_name(f".{path.name}.lock")


def is_empty(folder: Path) -> bool:
    """Whether a folder holds nothing but what `atomic_path` leaves when the process is killed."""
    return all(_TEMPORARY.fullmatch(path.name) for path in folder.iterdir())


def remove_temporaries(path: StrPath, *, below: bool = True) -> None:
    """Remove what `atomic_path` and `atomic_folder` left of an output when the process was killed.

    Call it with the lock of the output (see `locks`). What belongs to other outputs in a folder, which have locks of
    their own, stays. A folder that was about to be replaced comes back.

    Args:
        path: the output, a file or a folder.
        below: of a folder, also from the folders in it.
    """
    path = Path(os.path.abspath(path))
    for found in _temporaries(path.parent):
        if _is_of(found.name, path.name):
            _remove(found, path)
    folders = [path]
    while folders:
        folder = folders.pop()
        for found in _temporaries(folder):
            of = found.with_name(_named(found.name))
            if not lock_path(of).exists():
                _remove(found, of)
        folders += [one for one in _folders(folder) if not lock_path(one).exists()] if below else []


def _temporaries(folder: Path) -> list[Path]:
    with contextlib.suppress(OSError):  # no such folder
        return [Path(entry.path) for entry in os.scandir(folder) if _TEMPORARY.fullmatch(entry.name)]
    return []


def _folders(folder: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return [Path(entry.path) for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]
    return []


def _named(temporary: str) -> str:
    """The name of the output that a temporary name is of; "" for other names."""
    match = _TEMPORARY.fullmatch(temporary)
    return match[2] if match else ""


def _is_of(name: str, output: str) -> bool:
    return output in (name, _named(name))


def _remove(temporary: Path, path: Path) -> None:
    """Remove a temporary file or folder of `path`, or put back what was to be replaced."""
    with contextlib.suppress(OSError):
        if _TEMPORARY.fullmatch(temporary.name)[1] == "~" and not path.exists():  # type: ignore[index]  # it matches
            os.replace(temporary, path)
        elif temporary.is_dir() and not temporary.is_symlink():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


# ---- text and JSON ---------------------------------------------------------------------------------------------------


def write_text(path: StrPath, text: str) -> None:
    """Write `text` to `path` as UTF-8, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path: StrPath, content: bytes | memoryview) -> None:
    """Write `content` to `path`, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: StrPath, value: Any, *, indent: int | None = None) -> None:
    """Write `value` to `path` as JSON, whole or not at all; numpy numbers and arrays become plain ones.

    Raises:
        ValueError: something in `value` has no JSON form (NaN and infinity among them).
    """
    write_text(path, json_text(path, value, indent=indent))


def json_text(path: StrPath, value: Any, *, indent: int | None = None) -> str:
    """What `write_json` writes to `path`; ValueError as there."""
    try:
        return json.dumps(value, indent=indent, allow_nan=False, default=plain_value) + "\n"
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: cannot be written as JSON ({error})") from error


def read_text(path: StrPath) -> str:
    """The content of a UTF-8 file, its line ends as they are; a byte order mark is dropped.

    Raises:
        ValueError: the file cannot be read, or is not UTF-8 text.
    """
    return _decoded(path, read_bytes(path))


def read_json(path: StrPath) -> Any:
    """The content of a JSON file.

    Raises:
        ValueError: the file cannot be read, or is not JSON; names the line.
    """
    content = read_bytes(path).removeprefix(codecs.BOM_UTF8)
    with collector_paused(), contextlib.suppress(orjson.JSONDecodeError):
        return orjson.loads(content)
    try:
        return parse_json(_decoded(path, content))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not JSON at line {error.lineno}, column {error.colno} ({error.msg})") from error
    except InputError as error:
        raise error if str(error).startswith(str(path)) else InputError(f"{path}: {error}") from error


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """Context without garbage collection, which would look at millions of new objects again and again.

    Objects that are made here are no garbage: if they are many, the collector ignores them from then on.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            if gc.get_count()[0] > _MANY_OBJECTS:
                gc.freeze()
            gc.enable()


def require_regular(path: StrPath, expected: str = "a file") -> None:
    """Raise ValueError for a pipe, a socket or a device, which a reader would wait for, and for a path that is no path.

    Links are followed. What does not exist, and folders, are left to the reader, which says what it cannot do.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return
    except ValueError as error:  # a NUL character
        raise InputError(f"{os.fspath(path)!r}: no path of a file ({error})") from error
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise InputError(f"{path}: not a regular file (a pipe, a socket or a device), expected {expected}")


def open_regular(path: StrPath, expected: str = "a file") -> io.BufferedReader:
    """A regular file, or a link to one, open to read its bytes.

    Raises:
        ValueError: as `require_regular`, or the file does not exist or cannot be opened.
    """
    require_regular(path, expected)
    try:
        return open(path, "rb")
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


def read_bytes(path: StrPath) -> bytes:
    """The content of a regular file; ValueError if it cannot be read."""
    require_regular(path)
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except MemoryError as error:
        raise InputError(f"{path}: cannot be read, the file is larger than the memory that is left") from error


def _decoded(path: StrPath, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text at byte {error.start}") from error


def writable_folder(path: StrPath) -> Path:
    """`path` as a Path, once it is known to be a folder that files can be written to, or not to exist yet.

    Raises:
        ValueError: `path` or something above it is a file or a link to nothing, or the folder is not writable.
    """
    path = Path(path)
    try:
        existing = next(part for part in (path, *path.absolute().parents) if _is_there(part))
        existing.stat()
    except FileNotFoundError as error:
        raise InputError(f"{path}: cannot write there, {existing} is a link to nothing") from error
    except OSError as error:  # a name that is too long, a link to itself
        raise InputError(f"{path}: cannot write there ({error.strerror or error})") from error
    if not existing.is_dir():
        raise InputError(f"{path}: cannot write there, {existing} is a file")
    if not os.access(existing, os.W_OK):
        raise InputError(f"{path}: cannot write there, no permission for {existing}")
    return path


def _is_there(path: Path) -> bool:
    """Whether a name is taken, also by a link to nothing; OSError if it can be none, such as one that is too long."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def writable_file(path: StrPath) -> Path:
    """`path` as a Path, once it is known to be a file that can be written, or not to exist yet.

    Raises:
        ValueError: `path` is a folder, a pipe, a device or a link to nothing, or its folder is not writable, or its
            name is too long.
    """
    path = Path(path)
    writable_folder(path.parent)
    if os.path.isdir(path):
        raise InputError(f"{path}: is a folder, expected a file to write")
    try:
        if _is_there(path) and not stat.S_ISREG(path.stat().st_mode):
            raise InputError(f"{path}: is a pipe or a device, expected a file to write")
        _is_there(path.with_name(f".{'0' * 8}-{path.name}"))  # the temporary name, which is longer
    except OSError as error:
        raise InputError(f"{path}: cannot write there ({error.strerror or error})") from error
    return path


def make_folder(folder: Path) -> None:
    """Make a folder and its missing parents; raises ValueError if it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: the folder cannot be made ({error.strerror})") from error


def inside(folder: StrPath, name: StrPath) -> Path:
    """The path of `name` in `folder`.

    The file itself may be a link to elsewhere (large data sets are often linked together); the folders on the way to
    it may not lead out.

    Raises:
        ValueError: `name` is empty, or leads out of `folder`.
    """
    folder, path = Path(folder), Path(folder) / name
    if not name or "\0" in str(name) or path.name in ("", "..") or path == folder:
        raise InputError(f"{str(name)!r} is not the name of a file in the folder {folder}")
    if path.parent != folder and not path.parent.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{str(name)!r} leads out of the folder {folder}")
    return path


def plain_value(value: Any) -> Any:
    """numpy's numbers and arrays, and paths, as values that JSON knows."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"a value of type {type(value).__name__}")


def checksum(path: StrPath) -> str:
    """SHA-256 of a file, computed again only after the file has changed."""
    status = os.stat(path)
    return _checksum(os.path.abspath(path), status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=8)
def _checksum(path: str, *_: int) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_text(name: str) -> bool:
    """Whether a name can be printed and written: file names may have bytes that are no characters."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in name


def is_companion(path: StrPath) -> bool:
    """Whether a file or folder is hidden, or one that an operating system leaves among images.

    `._IMG_1.jpg`, `.DS_Store` and `__MACOSX/` are from macOS, `Thumbs.db` and `desktop.ini` from Windows.
    """
    path = Path(path)
    return path.name.startswith(".") or path.name.lower() in _SYSTEM_FILES or "__MACOSX" in path.parts
