"""Downloads that resume.

The bytes received so far are kept in `NAME.part` beside the file, which is renamed when the download is complete.
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
from typing import Any

from tqdm import tqdm

from .files import StrPath, make_folder

logger = logging.getLogger(__name__)

_TIMEOUT = 30  # seconds without a byte after which a connection counts as dropped
_WAITS = (1, 2, 4)  # seconds before each retry of a connection that brought nothing
_CHUNK = 1 << 18  # bytes read at once
_BUSY = (http.HTTPStatus.TOO_MANY_REQUESTS, *range(500, 600))  # HTTP statuses that a retry may change


def download(url: str, path: StrPath, *, md5: str | None = None, progress: bool = True) -> None:
    """Download a file, resuming what an earlier try has left. A file that is at `path` already is replaced at the end.

    Args:
        url: http or https address.
        path: file to write; missing parent folders are made.
        md5: checksum of the whole file in hexadecimal; None checks the size alone.

    Raises:
        ValueError: not such an address, `path` is a folder, or the checksum differs (the bytes are removed then).
        ConnectionError: the server cannot be reached, refuses, or drops the connection again and again; the message
            has its answer. The bytes received are kept.
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
            with open(part, "rb") as file:
                found = hashlib.file_digest(file, "md5").hexdigest()
            if found != md5.lower():
                came = f"the {_size(part)} bytes that came from {url} have the md5 checksum {found}"
                part.unlink()
                raise ValueError(f"{path}: {came}, expected {md5}; they are not kept")
        os.replace(part, path)
    except _FailedRequest as error:
        kept = f"; {_size(part)} bytes are kept in {part.name}, the next try resumes there" if _size(part) else ""
        raise ConnectionError(f"{path}: cannot be downloaded from {url} ({error}){kept}") from error
    except OSError as error:
        raise OSError(error.errno, f"{path}: the download from {url} cannot be written ({error.strerror})") from error


class _FailedRequest(Exception):
    """A request that failed; `retry` tells whether another try may succeed."""

    def __init__(self, reason: object, *, retry: bool = True) -> None:
        super().__init__(reason)
        self.retry = retry


def _fetch_all(url: str, part: Path, bar: Any) -> None:
    """Fetch until `part` is complete. Failures after new bytes do not count."""
    failures, largest = 0, _size(part)
    while True:
        try:
            return _fetch(url, part, bar)
        except _FailedRequest as error:
            if _size(part) > largest:
                failures, largest = 0, _size(part)
            if not error.retry or failures == len(_WAITS):
                raise
            logger.warning("%s: %s; trying again in %s s", url, error, _WAITS[failures])
            time.sleep(_WAITS[failures])
            failures += 1


def _fetch(url: str, part: Path, bar: Any) -> None:
    """One request for the bytes that `part` lacks."""
    have = _size(part)
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        response = error
    except (OSError, http.client.HTTPException) as error:
        raise _FailedRequest(getattr(error, "reason", None) or error) from error
    with response:
        start, total = _extent(response, part, have)
        bar.total, bar.n = total, start
        bar.refresh()
        if start != total:
            _receive(response, part, start, bar)
    if total is not None and _size(part) != total:
        raise _FailedRequest(f"the connection broke off after {_size(part)} of {total} bytes")


def _extent(response: Any, part: Path, have: int) -> tuple[int, int | None]:
    """Position of the response's first byte in the file, and the file's size if the server states it."""
    status, content_range = response.status, response.headers.get("Content-Range", "").strip()
    answer = f"HTTP status {status} {response.reason}"
    if status == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
        if content_range == f"bytes */{have}":
            return have, have
        part.unlink()
        raise _FailedRequest(f"{answer}: the bytes kept are of another file, starting anew")
    if status >= http.HTTPStatus.BAD_REQUEST:
        raise _FailedRequest(answer, retry=status in _BUSY)
    if status != http.HTTPStatus.PARTIAL_CONTENT:  # the server sends the whole file, asked for a range or not
        length = response.headers.get("Content-Length")
        return 0, None if length is None else int(length)
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", content_range)
    if not match or int(match[1]) != have:
        reason = f"asked for the bytes from {have} on, the answer is of the range {content_range!r}"
        raise _FailedRequest(reason, retry=False)
    return have, None if match[2] == "*" else int(match[2])


def _receive(response: Any, part: Path, start: int, bar: Any) -> None:
    with open(part, "r+b" if start else "wb") as file:
        file.seek(start)
        while True:
            try:
                chunk = response.read(_CHUNK)
            except (OSError, http.client.HTTPException) as error:
                raise _FailedRequest(f"the connection broke off after {file.tell()} bytes: {error!r}") from error
            if not chunk:
                return
            file.write(chunk)
            bar.update(len(chunk))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
