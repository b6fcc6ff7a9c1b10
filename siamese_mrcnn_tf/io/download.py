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

from .errors import InputError, StateError, TransferError
from .files import StrPath, make_folder, remove_temporaries, write_text
from .web import SLOWEST, FailedRequest, TooSlow, answer_of, is_safe_address, is_web_address, open_url, refuse_error

logger = logging.getLogger(__name__)

_WAITS = (1, 2, 4)  # seconds before each retry of a connection that brought nothing
_CHUNK = 1 << 18  # bytes read at once
_PART, _TAG = ".part", ".part.tag"
_LIMIT = 4 * 2**30  # bytes of a file whose size is not known beforehand; known weight files have up to 260 MB
_SHOWN = 100  # characters of a header that a message shows
_SIZE = re.compile(r"[0-9]{1,18}")
_LONGEST_TAG = 600  # bytes of the file that keeps one
_STRONG_TAG = re.compile(r'"[\x21\x23-\x7e]{0,500}"')


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
        url: https address, or http where `digest` is given or for this machine; redirects are followed, from https to
            https only.
        path: file to write; missing parent folders are made.
        size: bytes of the whole file, if they are known; without them a file of more than 4 GiB is refused.
        digest: "md5:..." or "sha256:...", a checksum of the whole file in hexadecimal.
        check: called with the path of the complete file before it is renamed; raises ValueError to refuse it.

    Raises:
        ValueError: not such an address, `path` is a folder, or size, checksum or `check` refuse what came; nothing of
            it is kept then.
        ConnectionError: the server cannot be reached, refuses, or drops the connection again and again; the message
            has its answer. The bytes received are kept.
        ValueError: the file cannot be written.
    """
    path = Path(path)
    if not is_web_address(url):
        raise InputError(f"{path}: cannot be downloaded from {url!r}, expected an http or https address")
    if digest is None and not is_safe_address(url):
        raise InputError(f"{path}: cannot be downloaded from {url} without a checksum, expected an https address")
    if path.is_dir():
        raise InputError(f"{path}: is a folder, expected a file to write")
    make_folder(path.parent)
    part = path.with_name(path.name + _PART)
    remove_temporaries(_tag_path(part))
    try:
        _fetch_all(url, part, size, progress)
        _refuse_other(url, path, part, size, digest, check)
        os.replace(part, path)
        _forget_tag(part)
    except FailedRequest as error:
        kept = f"; {_size(part)} bytes are kept in {part.name}, the next try resumes there" if _size(part) else ""
        raise TransferError(f"{path}: cannot be downloaded from {url} ({error}){kept}") from error
    except OSError as error:
        raise StateError(f"{path}: the download from {url} cannot be written ({error.strerror or error})") from error


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
    """Fetch until `part` is complete. Failures after new bytes do not count, unless these come too slowly."""
    failures, largest, since = 0, _size(part), time.monotonic()
    while True:
        try:
            return _fetch(url, part, size, progress)
        except FailedRequest as error:
            if _size(part) - largest > SLOWEST * (time.monotonic() - since):
                failures, largest, since = 0, _size(part), time.monotonic()
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
        start, total = _extent(response, part, have, tag)
        if None not in (size, total) and total != size:
            raise FailedRequest(f"the server has {total} bytes, expected {size}", retry=False)
        bound = _LIMIT if total is None and size is None else min(n for n in (total, size) if n is not None)
        if bound > _LIMIT:
            raise FailedRequest(f"the server has {bound} bytes, expected at most {_LIMIT}", retry=False)
        if start != total:
            if not start:
                _write_tag(part, response)
            units: dict[str, Any] = {"unit": "B", "unit_scale": True, "unit_divisor": 1024, "disable": not progress}
            with tqdm(desc=part.name.removesuffix(_PART), total=total or size, initial=start, **units) as bar:
                _receive(response, part, start, bound, bar)
    if total is not None and _size(part) != total:
        raise FailedRequest(f"the connection broke off after {_size(part)} of {total} bytes")


def _extent(response: Any, part: Path, have: int, tag: str) -> tuple[int, int | None]:
    """Position of the response's first byte in the file, and the file's size if the server states it.

    `have` bytes are kept, of the version `tag`.
    """
    status, content_range = response.status, response.headers.get("Content-Range", "").strip()
    if status == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
        if content_range == f"bytes */{have}":
            return have, have
        _discard(part)
        raise FailedRequest(f"{answer_of(response)}: the bytes kept are of another file, starting anew")
    refuse_error(response)
    if status != http.HTTPStatus.PARTIAL_CONTENT:  # the server sends the whole file, asked for a range or not
        length = response.headers.get("Content-Length", "")
        return 0, int(length) if _SIZE.fullmatch(length) else None
    match = re.fullmatch(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)", content_range)
    total = None if not match or match[3] == "*" else int(match[3])
    if not match or int(match[1]) != have or (total is not None and not have <= int(match[2]) < total):
        reason = f"asked for the bytes from {have} on, the answer is of the range {content_range[:_SHOWN]!r}"
        raise FailedRequest(reason, retry=False)
    if tag and response.headers.get("ETag", tag).strip() != tag:
        _discard(part)
        raise FailedRequest("the bytes kept are of another version of the file, starting anew")
    return have, total


def _receive(response: Any, part: Path, start: int, bound: int, bar: Any) -> None:
    """Add what comes to `part` from position `start` on; nothing is kept of more than `bound` bytes."""
    with _open_part(part) as file:
        file.truncate(start)
        file.seek(start)
        while True:
            try:
                chunk = response.read1(_CHUNK)
            except TooSlow as error:
                raise FailedRequest(error, retry=False) from error
            except (OSError, http.client.HTTPException) as error:
                raise FailedRequest(f"the connection broke off after {file.tell()} bytes: {error!r}") from error
            if not chunk:
                return
            if file.tell() + len(chunk) > bound:
                _discard(part)
                raise FailedRequest(f"the server sent more than {bound} bytes; they are not kept", retry=False)
            file.write(chunk)
            bar.update(len(chunk))


# ---- the file of bytes received so far ---------------------------------------------------------------------------


def _open_part(part: Path) -> io.BufferedRandom:
    """`part`, made if necessary, open to read and write.

    OSError instead if it is a link, a pipe, or another name of a file, which would be written to.
    """
    if part.is_symlink():  # where the system has no O_NOFOLLOW
        raise OSError(errno.ELOOP, f"{part.name} is a symbolic link, remove it")
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    number = os.open(part, flags, 0o666)
    status = os.fstat(number)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(number)
        raise OSError(errno.EINVAL, f"{part.name} is no file of its own, remove it")
    return os.fdopen(number, "r+b")


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
    if not path.is_file() or path.is_symlink() or path.stat().st_size > _LONGEST_TAG:
        return ""
    tag = path.read_text(encoding="ascii", errors="replace").strip()
    return tag if _STRONG_TAG.fullmatch(tag) else ""


def _write_tag(part: Path, response: Any) -> None:
    """Keep a strong ETag of the response, or none."""
    tag = response.headers.get("ETag", "").strip()
    if _STRONG_TAG.fullmatch(tag):
        write_text(_tag_path(part), tag)
    else:
        _forget_tag(part)


def _forget_tag(part: Path) -> None:
    _tag_path(part).unlink(missing_ok=True)
