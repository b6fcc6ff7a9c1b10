"""Downloads that resume.

The bytes received so far are kept in `NAME.part` beside the file, which is renamed when the download is complete and
checked. `NAME.part.tag` has what the server calls this version of the file: what it has replaced meanwhile is not
continued.
"""

import contextlib
import errno
import hashlib
import http.client
import io
import logging
import os
import re
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .errors import InputError, TransferError
from .files import StrPath, make_folder, read_text, write_text
from .web import FailedRequest, answer_of, is_web_address, open_url, refuse_error

logger = logging.getLogger(__name__)

_WAITS = (1, 2, 4)  # seconds before each retry of a connection that brought nothing
_CHUNK = 1 << 18  # bytes read at once
_PART, _TAG = ".part", ".part.tag"


def download(
    url: str,
    path: StrPath,
    *,
    size: int | None = None,
    digest: str | None = None,
    check: Callable[[Path], None] | None = None,
    progress: bool = True,
) -> None:
    """Download a file, resuming what an earlier try has left. A file that is at `path` already is replaced at the end.

    One process at a time may download to a path (see `io.locks`).

    Args:
        url: http or https address; redirects are followed, from https to https only.
        path: file to write; missing parent folders are made.
        size: bytes of the whole file, if they are known.
        digest: "md5:..." or "sha256:...", a checksum of the whole file in hexadecimal.
        check: called with the path of the complete file before it is renamed; raises ValueError to refuse it.

    Raises:
        ValueError: not such an address, `path` is a folder, or size, checksum or `check` refuse what came; nothing of
            it is kept then.
        ConnectionError: the server cannot be reached, refuses, or drops the connection again and again; the message
            has its answer. The bytes received are kept.
        OSError: the file cannot be written.
    """
    path = Path(path)
    if not is_web_address(url):
        raise InputError(f"{path}: cannot be downloaded from {url!r}, expected an http or https address")
    if path.is_dir():
        raise InputError(f"{path}: is a folder, expected a file to write")
    make_folder(path.parent)
    part = path.with_name(path.name + _PART)
    try:
        _fetch_all(url, part, size, progress)
        _refuse_other(url, path, part, size, digest, check)
        os.replace(part, path)
        _forget_tag(part)
    except FailedRequest as error:
        kept = f"; {_size(part)} bytes are kept in {part.name}, the next try resumes there" if _size(part) else ""
        raise TransferError(f"{path}: cannot be downloaded from {url} ({error}){kept}") from error
    except OSError as error:
        raise OSError(error.errno, f"{path}: the download from {url} cannot be written ({error.strerror})") from error


def _refuse_other(
    url: str,
    path: Path,
    part: Path,
    size: int | None,
    digest: str | None,
    check: Callable[[Path], None] | None,
) -> None:
    """Remove what came, and raise ValueError, if it is not the file that was expected."""
    try:
        came = f"{path}: the {_size(part)} bytes that came from {url}"
        if size is not None and _size(part) != size:
            raise InputError(f"{came} should be {size}; they are not kept")
        if digest is not None:
            kind, _, expected = digest.partition(":")
            with _open_part(part) as file:
                found = hashlib.file_digest(file, kind).hexdigest()
            if found != expected.lower():
                raise InputError(f"{came} have the {kind} checksum {found}, expected {expected}; they are not kept")
        if check is not None:
            check(part)
    except ValueError:
        _discard(part)
        raise


def _fetch_all(url: str, part: Path, size: int | None, progress: bool) -> None:
    """Fetch until `part` is complete. Failures after new bytes do not count."""
    failures, largest = 0, _size(part)
    while True:
        try:
            return _fetch(url, part, size, progress)
        except FailedRequest as error:
            if _size(part) > largest:
                failures, largest = 0, _size(part)
            if not error.retry or failures == len(_WAITS):
                raise
            logger.warning("%s: %s; trying again in %s s", url, error, _WAITS[failures])
            time.sleep(_WAITS[failures])
            failures += 1


def _fetch(url: str, part: Path, size: int | None, progress: bool) -> None:
    """One request for the bytes that `part` lacks."""
    have, tag = _size(part), _read_tag(part)
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", **({"If-Range": tag} if tag else {})}
    with open_url(url, headers) as response:
        start, total = _extent(response, part, have)
        if None not in (size, total) and total != size:
            raise FailedRequest(f"the server has {total} bytes, expected {size}", retry=False)
        if start != total:
            if not start:
                _write_tag(part, response)
            units: dict[str, Any] = {"unit": "B", "unit_scale": True, "unit_divisor": 1024, "disable": not progress}
            with tqdm(desc=part.name.removesuffix(_PART), total=total or size, initial=start, **units) as bar:
                _receive(response, part, start, bar)
    if total is not None and _size(part) != total:
        raise FailedRequest(f"the connection broke off after {_size(part)} of {total} bytes")


def _extent(response: Any, part: Path, have: int) -> tuple[int, int | None]:
    """Position of the response's first byte in the file, and the file's size if the server states it."""
    status, content_range = response.status, response.headers.get("Content-Range", "").strip()
    if status == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
        if content_range == f"bytes */{have}":
            return have, have
        _discard(part)
        raise FailedRequest(f"{answer_of(response)}: the bytes kept are of another file, starting anew")
    refuse_error(response)
    if status != http.HTTPStatus.PARTIAL_CONTENT:  # the server sends the whole file, asked for a range or not
        length = response.headers.get("Content-Length", "")
        return 0, int(length) if length.isdecimal() else None
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", content_range)
    if not match or int(match[1]) != have:
        reason = f"asked for the bytes from {have} on, the answer is of the range {content_range!r}"
        raise FailedRequest(reason, retry=False)
    return have, None if match[2] == "*" else int(match[2])


def _receive(response: Any, part: Path, start: int, bar: Any) -> None:
    with _open_part(part) as file:
        file.truncate(start)
        file.seek(start)
        while True:
            try:
                chunk = response.read(_CHUNK)
            except (OSError, http.client.HTTPException) as error:
                raise FailedRequest(f"the connection broke off after {file.tell()} bytes: {error!r}") from error
            if not chunk:
                return
            file.write(chunk)
            bar.update(len(chunk))


# ---- the file of bytes received so far ---------------------------------------------------------------------------


def _open_part(part: Path) -> io.BufferedRandom:
    """`part`, made if necessary, open to read and write. Never what a link of this name points to: OSError instead."""
    if part.is_symlink():  # where the system has no O_NOFOLLOW
        raise OSError(errno.ELOOP, f"{part.name} is a symbolic link, remove it")
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    return os.fdopen(os.open(part, flags, 0o666), "r+b")


def _size(part: Path) -> int:
    """Bytes of a regular file; 0 for anything else, such as a link."""
    with contextlib.suppress(OSError):
        found = os.lstat(part)
        return found.st_size if stat.S_ISREG(found.st_mode) else 0
    return 0


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _forget_tag(part)


def _tag_path(part: Path) -> Path:
    return part.with_name(part.name.removesuffix(_PART) + _TAG)


def _read_tag(part: Path) -> str:
    """What the server called the version that `part` is of; empty where it did not say."""
    path = _tag_path(part)
    return read_text(path).strip() if path.is_file() and not path.is_symlink() else ""


def _write_tag(part: Path, response: Any) -> None:
    """Keep a strong ETag of the response, or none."""
    tag = response.headers.get("ETag", "").strip()
    if re.fullmatch(r'"[\x21\x23-\x7e]*"', tag):
        write_text(_tag_path(part), tag)
    else:
        _forget_tag(part)


def _forget_tag(part: Path) -> None:
    _tag_path(part).unlink(missing_ok=True)
