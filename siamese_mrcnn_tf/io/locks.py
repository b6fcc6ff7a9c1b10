"""Locks between processes, which the system drops when their owner ends, however it ends.

`exclusive` is for outputs: a second process is told who writes there, and ends. `locked` is for files that any process
may make and use, such as downloads: the others wait. `temporary_folder` makes a folder that does not outlive a kill for
long: the next process that makes one removes it.
"""

import contextlib
import datetime
import errno
import hashlib
import json
import logging
import os
import shlex
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import filelock

from .cache import cache_folder
from .errors import InputError, StateError
from .files import StrPath, lock_path, make_folder, write_errors

logger = logging.getLogger(__name__)

LOCKS = "locks"  # folder of lock files in that of downloads
_TRIES = 100  # to lock a file that its owner removes meanwhile
_DESCRIPTION = 4096  # bytes of what a lock file says of its owner, at most
_TEMPORARY = "siamese-mrcnn-"  # begins the names of temporary folders
_COMMAND = 300  # characters of a command in a message
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.EBADF)  # of file systems
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)

_held: set[Path] = set()  # outputs of this process


@contextlib.contextmanager
def exclusive(path: StrPath, *, wait: bool = False) -> Iterator[None]:
    """Context in which no other process writes an output, a file or a folder.

    The lock file `.NAME.lock` beside the output is removed at the end, and so are parent folders that were made for it
    and are empty. After a kill it stays, without effect. Within a process the context may be entered again.

    Args:
        wait: wait for another process, with a warning that names it.

    Raises:
        RuntimeError: another process is in it; says which, since when, and its command.
        ValueError: the lock file cannot be made.
    """
    output = Path(os.path.realpath(path))
    if output in _held:
        yield
        return
    with contextlib.ExitStack() as stack:
        _hold(output, path, stack, wait=wait)
        _held.add(output)
        stack.callback(_held.discard, output)
        yield


@contextlib.contextmanager
def locked(path: StrPath, purpose: str) -> Iterator[None]:
    """Context that one process at a time enters; the others wait, and say what for.

    The lock file is removed at the end. A warning names the process that is waited for.

    Args:
        path: the lock file; missing parent folders are made.
        purpose: what the lock is for, in words.

    Raises:
        ValueError: the folder of `path` cannot be made.
        OSError: the lock file cannot be opened.
    """
    path = Path(path)
    make_folder(path.parent)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(_lock_file(path, f"{purpose}: another process is at it", wait=True))
        except OSError as error:
            if isinstance(error, InputError) or error.errno not in _NO_LOCKS:
                raise
            reason = f"{path}: {error.strerror or error}"
            logger.warning("%s: cannot be locked against other processes (%s)", purpose, reason)
        yield


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Context with a new folder, which is removed at the end; those of killed processes are removed first.

    The folder itself is locked, where the system can do that.

    Raises:
        ValueError: the folder cannot be made.
    """
    for found in Path(tempfile.gettempdir()).glob(f"{_TEMPORARY}*"):
        _remove_abandoned(found)
    with write_errors(tempfile.gettempdir()):
        folder, descriptor = _locked_folder()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if descriptor is not None:
            os.close(descriptor)


def _locked_folder() -> tuple[Path, int | None]:
    """(A new temporary folder, its descriptor, which holds the lock)."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_TEMPORARY))
        descriptor = _lock_folder(folder)
        if descriptor is None or folder.exists():  # others may have taken it for an abandoned one before it was locked
            return folder, descriptor
        os.close(descriptor)


def _lock_folder(folder: Path) -> int | None:
    """A descriptor that holds the lock of a folder of this user; None if that cannot be had."""
    if os.name == "nt":
        return None
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            if os.fstat(descriptor).st_uid == os.getuid() and filelock.lock_descriptor(descriptor, blocking=False):
                return descriptor
        except OSError:
            pass
        os.close(descriptor)
    return None


def _remove_abandoned(folder: Path) -> None:
    """Remove a temporary folder whose owner has ended."""
    descriptor = _lock_folder(folder)
    if descriptor is not None:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


# ---- the lock of an output -------------------------------------------------------------------------------------------


def _hold(output: Path, shown: StrPath, stack: contextlib.ExitStack, *, wait: bool) -> None:
    """Lock an output until `stack` ends; without a lock, and with a warning, where the file system has none."""
    beside = [lock_path(output)] if output.name else []  # the root of a drive has nothing beside it
    for path in (*beside, cache_folder() / LOCKS / f"{hashlib.sha256(bytes(output)).hexdigest()[:32]}.lock"):
        try:
            stack.enter_context(_removed_if_empty(output, path))
            stack.enter_context(_lock_file(path, f"{shown}: another process writes there", wait=wait))
            return
        except OSError as error:
            if isinstance(error, InputError):
                raise
            if error.errno not in (*_NO_LOCKS, *_READ_ONLY):
                raise InputError(f"{shown}: cannot write there ({path}: {error.strerror or error})") from error
            _require_writable(output, shown, error)
            reason = f"{path}: {error.strerror or error}"
    logger.warning("%s: cannot be locked against other processes (%s)", shown, reason)


def _require_writable(output: Path, shown: StrPath, error: OSError) -> None:
    """Raise ValueError unless files can be made in an output whose lock file could not be made beside it."""
    if error.errno not in _READ_ONLY:
        return
    try:
        tempfile.TemporaryFile(dir=output).close()
    except OSError:
        raise InputError(f"{shown}: cannot write there ({error.strerror or error})") from error


@contextlib.contextmanager
def _removed_if_empty(output: Path, path: Path) -> Iterator[None]:
    """Context at whose end the output and the folders above the lock file are removed, if they are new and empty."""
    missing = [folder for folder in (output, *path.parents) if not folder.exists()]
    try:
        yield
    finally:
        for folder in missing:
            with contextlib.suppress(OSError):
                folder.rmdir()


@contextlib.contextmanager
def _lock_file(path: Path, busy: str, *, wait: bool) -> Iterator[None]:
    """Context that holds a lock file; `busy` says that another process does."""
    descriptor = _opened(path, busy, wait=wait)
    try:
        _describe(descriptor)
        yield
    finally:
        if os.name == "nt":  # where an open file cannot be removed
            os.close(descriptor)
        with contextlib.suppress(OSError):  # it is another user's
            path.unlink()
        if os.name != "nt":
            os.close(descriptor)


def _opened(path: Path, busy: str, *, wait: bool) -> int:
    """The descriptor of the lock file, locked."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    for _ in range(_TRIES):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, flags, 0o666)
        except FileNotFoundError:  # another process has removed the folder meanwhile
            continue
        except PermissionError:
            if not path.exists():
                raise
            # the file that another user's killed process has left
            descriptor = os.open(path, flags & ~(os.O_RDWR | os.O_CREAT))
        try:
            if not filelock.lock_descriptor(descriptor, blocking=False):
                if not wait:
                    raise StateError(f"{busy}: {_owner(descriptor)}; wait for it to end")
                logger.warning("%s: %s; waiting for it", busy, _owner(descriptor))
                filelock.lock_descriptor(descriptor)
            if path.exists() and os.path.samestat(path.stat(), os.fstat(descriptor)):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its owner has removed it meanwhile
    raise StateError(f"{busy}, and others all the time ({path})")


def _describe(descriptor: int) -> None:
    """Write who has the lock, from the second byte on: Windows locks the first one."""
    now = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %z")
    about = {"pid": os.getpid(), "host": socket.gethostname(), "since": now, "command": _command()}
    with contextlib.suppress(OSError):  # a full disk
        os.ftruncate(descriptor, 0)
        os.write(descriptor, b" " + json.dumps(about).encode()[: _DESCRIPTION - 1])


def _owner(descriptor: int) -> str:
    """Who has a lock, in words."""
    try:
        os.lseek(descriptor, 1, os.SEEK_SET)
        about = json.loads(os.read(descriptor, _DESCRIPTION))
        where = "" if about["host"] == socket.gethostname() else f" on {about['host']}"
        return f"process {about['pid']}{where}, since {about['since']}: {about['command']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "it has not said which"


def _command() -> str:
    """The command line of this process, its programs without their folders."""
    words = [Path(word).name if os.path.isabs(word) else word for word in sys.orig_argv[:2]] + sys.orig_argv[2:]
    text = " ".join(shlex.join(words).split())
    return text if len(text) <= _COMMAND else f"{text[: _COMMAND - 3]}..."
