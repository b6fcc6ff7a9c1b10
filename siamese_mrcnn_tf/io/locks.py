"""Locks between processes."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import filelock

from .files import StrPath, make_folder

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def locked(path: StrPath, purpose: str) -> Iterator[None]:
    """Context that one process at a time enters; the others wait, and say what for.

    The system drops the lock when its owner ends, however it ends; the empty lock file stays.

    Args:
        path: the lock file; missing parent folders are made.
        purpose: what the lock is for, in words.

    Raises:
        ValueError: the folder of `path` cannot be made.
        OSError: the lock file cannot be opened.
    """
    path = Path(path)
    make_folder(path.parent)
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        logger.warning("%s: another process is at it, waiting for it", purpose)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
