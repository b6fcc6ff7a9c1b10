"""The images of a search, one after the other: files, frames of videos and of webcams, each read when it is needed."""

import dataclasses
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from .sources import ImageReading, Source
from .video import read_video, read_webcam


@dataclasses.dataclass(frozen=True)
class Frame:
    """An image to search."""

    image_id: int  # from 1 on
    name: str  # unique, for names of files
    source: str  # the file as the user named it; "webcam:0"
    read: Callable[[], np.ndarray]  # uint8 [height, width, RGB]; raises ValueError for what cannot be read
    size: int | None = None  # of the file, in bytes, by which a changed file is known
    frame: int | None = None  # number of the frame, from 0 on
    seconds: float | None = None  # its time


def iter_frames(
    sources: Iterable[Source], read: ImageReading, *, every: int = 1, limit: int | None = None
) -> Iterator[Frame]:
    """The images of the sources in their order; of videos and webcams every n-th frame, `limit` of each at most.

    A video that cannot be read, or not to its end, has one image more that fails with the reason, and so has a webcam
    that stops.

    Raises:
        ValueError: a webcam gives no frame at all.
    """
    numbers = itertools.count(1)
    for source in sources:
        if source.kind == "image":
            path = Path(source.path)
            yield Frame(next(numbers), source.name, source.path, _reading(read, path), size_of(source.path))
        else:
            yield from _moving(source, numbers, every, limit)


def size_of(path: str) -> int | None:
    """The size of a file in bytes; None for what is no file."""
    try:
        return os.stat(path).st_size
    except OSError:
        return None


def _moving(source: Source, numbers: Iterator[int], every: int, limit: int | None) -> Iterator[Frame]:
    size = size_of(source.path)
    frames = read_video(source.path, every) if source.kind == "video" else read_webcam(source.device, every)
    begun = False
    try:
        for one in itertools.islice(frames, limit):
            begun, name = True, source.frame_name(one.number)
            yield Frame(next(numbers), name, source.path, one.to_pixels, size, one.number, one.seconds)
    except ValueError as error:
        if source.kind == "webcam" and not begun:
            raise
        yield Frame(next(numbers), source.name, source.path, _failing(error), size)


def _reading(read: ImageReading, path: Path) -> Callable[[], np.ndarray]:
    return lambda: read(path)


def _failing(error: ValueError) -> Callable[[], np.ndarray]:
    def fail() -> np.ndarray:
        raise error

    return fail
