"""Files: written whole or not at all, kept inside their folder, read with errors that name them.

Everything that the program writes goes through `atomic_path`: a reader never meets half a file, and a run that is
stopped leaves the old file as it was. Downloads alone are gathered under a lasting name, to be resumed.
"""

import hashlib
import http.client
import logging
import os
import re
import time
import urllib.error
import urllib.request
from pathlib import Path

from tqdm import tqdm

from .files import make_folder

logger = logging.getLogger(__name__)

_TIMEOUT = 30  # seconds without a byte after which a connection counts as dropped
_WAITS = (1, 2, 4)  # seconds before each new try after a dropped connection that brought nothing
_CHUNK = 1 << 18  # bytes read at once


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
    make_folder(path.parent)
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
