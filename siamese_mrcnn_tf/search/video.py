"""Frames of video files, by PyAV, and of webcams, by OpenCV."""

import dataclasses
import importlib.util
import itertools
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..io.errors import InputError
from ..io.files import StrPath

VIDEO_EXTRA = 'pip install "siamese-mrcnn-tf[video]"'
_TOLERANCE = 0.5  # seconds that may lack at the end of a video: containers round


@dataclasses.dataclass(frozen=True)
class VideoFrame:
    """A frame that becomes pixels when they are needed."""

    number: int  # from 0 on, in the order of presentation
    seconds: float | None  # since the first frame; None where the file does not say
    to_pixels: Callable[[], np.ndarray]  # uint8 [height, width, RGB], upright


def read_video(path: StrPath, every: int = 1) -> Iterator[VideoFrame]:
    """Every n-th frame of a video file, in the order and with the times of presentation.

    Frames are turned as the file says (phones store upright videos as turned ones). Damaged packets are passed over.

    Raises:
        ValueError: PyAV is not installed, the file is no video, or, after the last frame, some are missing.
    """
    require_av(path)
    import av

    if not os.path.isfile(path):
        raise InputError(f"{path}: no such file, or not a regular one")
    try:
        container = av.open(str(path))
    except av.error.FFmpegError as error:
        raise InputError(f"{path}: not a video that can be read ({error.strerror})") from error
    with container:
        if not container.streams.video:
            raise InputError(f"{path}: no video in this file")
        stream = container.streams.video[0]
        stream.thread_type = "SLICE"  # frame threads hide errors, and lose the frames before one
        decoding = _Decoding(container, stream)
        for number, frame in enumerate(decoding.frames(av.error.FFmpegError)):
            if number % every == 0:
                yield VideoFrame(number, decoding.seconds(frame), _pixels_of(frame))
        if problem := decoding.problem():
            raise InputError(f"{path}: {problem}")


def read_webcam(device: int, every: int = 1) -> Iterator[VideoFrame]:
    """Every n-th frame of a webcam, until the caller stops; times are those since the first frame.

    Raises:
        ValueError: there is no such webcam, or it gives no more frames.
    """
    import cv2

    capture = cv2.VideoCapture(device)
    try:
        if not capture.isOpened():
            raise InputError(f"webcam:{device}: cannot be opened; other webcams are webcam:1, webcam:2, ...")
        begin: float | None = None
        for number in itertools.count():
            is_read, pixels = capture.read()
            if not is_read:
                raise InputError(f"webcam:{device}: gives no more frames after {number}")
            now = time.monotonic()
            begin = now if begin is None else begin
            if number % every == 0:
                yield VideoFrame(number, round(now - begin, 3), _constant(np.ascontiguousarray(pixels[..., ::-1])))
    finally:
        capture.release()


class _Decoding:
    """The frames of a stream, and what is wrong with it at the end."""

    def __init__(self, container: Any, stream: Any) -> None:
        self._container, self._stream = container, stream
        self._count = self._damaged = 0
        self._begin: float | None = None
        self._end = 0.0  # seconds of the stream at the end of the last frame

    def frames(self, errors: type[Exception]) -> Iterator[Any]:
        """All frames that can be decoded."""
        packets = iter(self._container.demux(self._stream))
        while True:
            try:
                decoded = next(packets).decode()
            except StopIteration:
                return
            except errors:
                self._damaged += 1
                continue
            for frame in decoded:
                self._note(frame)
                yield frame

    def seconds(self, frame: Any) -> float | None:
        """The time of a frame since the first."""
        return None if frame.time is None else round(frame.time - (self._begin or 0.0), 6)

    def problem(self) -> str:
        """What is missing, in words; empty for a whole video."""
        if not self._count:
            return "no frame of the video can be decoded"
        problems = [f"damaged parts: {self._damaged}"] if self._damaged else []
        duration, is_mov = self._duration(), "mov" in self._container.format.name
        if duration is not None and duration - self._end > _TOLERANCE:
            problems.insert(0, f"the video ends at {self._end:.2f} s of {duration:.2f} s")
        elif not is_mov and self._stream.frames > self._count:  # in MOV and MP4 files, edits may hide frames
            problems.insert(0, f"the video has {self._count} of {self._stream.frames} frames")
        return "; ".join(problems)

    def _note(self, frame: Any) -> None:
        self._count += 1
        self._damaged += bool(frame.is_corrupt)
        if frame.time is not None:
            self._begin = frame.time if self._begin is None else self._begin
            self._end = max(self._end, frame.time + float((frame.duration or 0) * frame.time_base) - self._start)

    @property
    def _start(self) -> float:
        return float((self._stream.start_time or 0) * self._stream.time_base)

    def _duration(self) -> float | None:
        """Seconds that the file says that the stream lasts."""
        if self._stream.duration is not None:
            return float(self._stream.duration * self._stream.time_base)
        words = self._stream.metadata.get("DURATION", "").split(":")  # of Matroska: 00:00:04.000000000
        try:
            hours, minutes, seconds = map(float, words)
        except ValueError:
            return None
        return 3600 * hours + 60 * minutes + seconds - self._start


def _pixels_of(frame: Any) -> Callable[[], np.ndarray]:
    """A function that makes a frame of PyAV an image."""

    def to_pixels() -> np.ndarray:
        pixels = frame.to_ndarray(format="rgb24")
        return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))

    return to_pixels


def _constant(pixels: np.ndarray) -> Callable[[], np.ndarray]:
    return lambda: pixels


def has_av() -> bool:
    """Whether PyAV is installed."""
    return importlib.util.find_spec("av") is not None


def require_av(path: StrPath) -> None:
    """Raise ValueError if PyAV, which reads a video file, is not installed."""
    if not has_av():
        raise InputError(f"{path}: video files need {VIDEO_EXTRA}")
