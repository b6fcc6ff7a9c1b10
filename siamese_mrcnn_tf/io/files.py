"""Files: written whole or not at all, kept inside their folder, read with errors that name them.

Everything that the program writes goes through `atomic_path`: a reader never meets half a file, and a run that is
stopped leaves the old file as it was. Downloads alone are gathered under a lasting name, to be resumed.
"""

import contextlib
import hashlib
import http.client
import json
import logging
import os
import re
import secrets
import time
import urllib.error
import urllib.request
from pathlib import Path

from tqdm import tqdm

logger = logging.getLogger(__name__)

_TIMEOUT = 30  # seconds without a byte after which a connection counts as dropped
_WAITS = (1, 2, 4)  # seconds before each new try after a dropped connection that brought nothing
_CHUNK = 1 << 18  # bytes read at once


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
    _make_folder(path.parent)
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


def download(url, path, *, md5=None, progress=True):
    """Download a file, whole or not at all; a download that broke off goes on where it stopped.

    What has come so far is kept beside `path`, with `.part` after its name, through broken connections and stopped
    programs, until the file is complete. A file that is at `path` already is replaced then.

    Args:
        url: http or https address.
        path: file to write; missing parent folders are made.
        md5: checksum of the whole file in hexadecimal; None checks the size alone.
        progress: show a bar.

    Raises:
        ValueError: not such an address, `path` is a folder, or the checksum is another one (nothing is kept then).
        ConnectionError: the server cannot be reached, refuses, or drops the connection again and again; the message
            has its answer. What has come is kept.
        OSError: the file cannot be written.
    """
    path = Path(path)
    if not re.fullmatch(r"https?://[^\s/]\S*", url, re.IGNORECASE):
        raise ValueError(f"{path}: cannot be downloaded from {url!r}, expected an http or https address")
    if path.is_dir():
        raise ValueError(f"{path}: is a folder, expected a file to write")
    _make_folder(path.parent)
    part = path.with_name(path.name + ".part")
    try:
        with tqdm(desc=path.name, unit="B", unit_scale=True, unit_divisor=1024, disable=not progress) as bar:
            _fetch_all(url, part, bar)
        if md5 is not None:
            _check_md5(url, part, md5)
        os.replace(part, path)
    except (_Dropped, _Refused) as error:
        kept = f"; {_size(part)} bytes are kept in {part.name} and a new try goes on from there" if _size(part) else ""
        raise ConnectionError(f"{path}: cannot be downloaded from {url} ({error}){kept}") from error
    except OSError as error:
        raise OSError(error.errno, f"{path}: the download from {url} cannot be written ({error.strerror})") from error


class _Dropped(Exception):
    """The connection failed or broke off: worth another try."""


class _Refused(Exception):
    """The server answers that it will not give the file."""


def _fetch_all(url, part, bar):
    """Fetch until `part` is complete. Tries that bring new bytes are not counted."""
    waits, most = iter(_WAITS), _size(part)
    while True:
        try:
            return _fetch(url, part, bar)
        except _Dropped as error:
            if _size(part) > most:
                waits, most = iter(_WAITS), _size(part)
            wait = next(waits, None)
            if wait is None:
                raise
            logger.warning("%s: %s; trying again in %s s", url, error, wait)
            time.sleep(wait)


def _fetch(url, part, bar):
    """One request for what `part` lacks."""
    have = _size(part)
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        with error:
            _take_refusal(error, part, have)
        return
    except (OSError, http.client.HTTPException) as error:
        raise _Dropped(getattr(error, "reason", None) or error) from error
    with response:
        start, total = _extent(response, have)
        bar.total, bar.n = total, start
        bar.refresh()
        with open(part, "r+b" if start else "wb") as file:
            file.seek(start)
            _receive(response, file, bar)
    if total is not None and _size(part) != total:
        raise _Dropped(f"the connection broke off after {_size(part)} of {total} bytes")


def _take_refusal(error, part, have):
    """Act on an HTTP error: nothing left to fetch, a fresh start, another try, or the end."""
    answer = f"HTTP status {error.code} {error.reason}"
    if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
        if error.headers.get("Content-Range", "").strip() == f"bytes */{have}":
            return  # everything had come before the last stop
        part.unlink()
        raise _Dropped(f"{answer}: the part kept from before is of another file, starting anew")
    if error.code >= http.HTTPStatus.INTERNAL_SERVER_ERROR or error.code == http.HTTPStatus.TOO_MANY_REQUESTS:
        raise _Dropped(answer)
    raise _Refused(answer)


def _extent(response, have):
    """Where the answer's first byte belongs in the file, and the file's size, None where the server does not say."""
    if response.status == http.HTTPStatus.PARTIAL_CONTENT:
        content_range = response.headers.get("Content-Range", "")
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", content_range.strip())
        if not match or int(match[1]) != have:
            raise _Refused(f"asked for the bytes from {have} on, the answer is of the range {content_range!r}")
        return have, None if match[2] == "*" else int(match[2])
    length = response.headers.get("Content-Length")  # the server sends the whole file, asked for a range or not
    return 0, None if length is None else int(length)


def _receive(response, file, bar):
    while True:
        try:
            chunk = response.read(_CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise _Dropped(f"the connection broke off after {file.tell()} bytes: {error!r}") from error
        if not chunk:
            return
        file.write(chunk)
        bar.update(len(chunk))


def _check_md5(url, part, expected):
    with open(part, "rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest()
    if found != expected.lower():
        size = _size(part)
        part.unlink()
        raise ValueError(
            f"{part.with_suffix('')}: the {size} bytes that came from {url} have the md5 checksum {found}, "
            f"expected {expected}; they are not kept"
        )


def _size(path):
    return path.stat().st_size if path.exists() else 0


def _make_folder(folder):
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
