"""Videos of annotated frames, in a form that browsers play.

With PyAV (`pip install "siamese-mrcnn-tf[video]"`) they are H.264; OpenCV alone, which has no encoder for that, writes
VP9. Both are MP4 files with 4:2:0 colors, which need even sides: an odd side loses its last pixel. The same frames give
the same file.
"""

import logging
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ..io.errors import InputError
from ..io.files import StrPath, atomic_path

logger = logging.getLogger(__name__)

DEFAULT_RATE = Fraction(25)  # frames per second where no times are known
_MAX_DENOMINATOR = 1001  # of rates such as 30000/1001
_MAX_RATE = 240
# The same bytes for the same frames: one thread, and no macroblock tree (with it they differ).
_QUALITY = {"crf": "20", "preset": "medium", "threads": "1", "x264-params": "mbtree=0"}


def frame_rate(seconds: Sequence[float | None]) -> Fraction:
    """Frames per second of frames with these times: by the median distance; DEFAULT_RATE where it is not known."""
    known = [second for second in seconds if second is not None]
    steps = np.diff(known)
    steps = steps[steps > 0]
    if len(known) < len(seconds) or not len(steps):
        return DEFAULT_RATE
    rate = Fraction(1 / float(np.median(steps))).limit_denominator(_MAX_DENOMINATOR)
    return min(max(rate, Fraction(1, _MAX_DENOMINATOR)), Fraction(_MAX_RATE))


def frame_positions(seconds: Sequence[float | None], rate: Fraction) -> list[int]:
    """The place of each frame in a video of this rate, ascending; a frame is shown until the next one."""
    if any(second is None for second in seconds):
        return list(range(len(seconds)))
    positions = list[int]()
    for second in seconds:
        wanted = round((float(second or 0) - float(seconds[0] or 0)) * rate)
        positions.append(max(wanted, positions[-1] + 1 if positions else 0))
    return positions


def write_video(path: StrPath, frames: Iterable[tuple[int, np.ndarray]], rate: Fraction) -> None:
    """Write an MP4 file.

    Args:
        frames: (position, uint8 [height, width, RGB]) in ascending order, all of the size of the first.
        rate: positions per second.

    Raises:
        ValueError: no frame, frames of different sizes, or no encoder.
    """
    try:
        import av  # noqa: F401
    except ImportError:
        writer: Any = _write_by_opencv
    else:
        writer = _write_by_pyav
    with atomic_path(path) as temporary:
        try:
            count = writer(temporary, _checked(path, frames), rate)
        except _Unencodable as error:
            raise InputError(f"{path}: the video cannot be written ({error})") from error
        if not count:
            raise InputError(f"{path}: no frames to write")


class _Unencodable(Exception):
    """An encoder is missing or refuses the frames."""


def _checked(path: StrPath, frames: Iterable[tuple[int, np.ndarray]]) -> Iterable[tuple[int, np.ndarray]]:
    """The frames, cut to even sides."""
    size = None
    for position, pixels in frames:
        size = size or pixels.shape
        if pixels.shape != size:
            raise InputError(f"{path}: a frame of shape {pixels.shape} after one of {size}, expected one size")
        height, width = (max(side - side % 2, 2) for side in size[:2])
        yield position, np.ascontiguousarray(pixels[:height, :width])


def _write_by_pyav(path: Path, frames: Iterable[tuple[int, np.ndarray]], rate: Fraction) -> int:
    import av

    count, stream = 0, None
    try:
        with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
            for position, pixels in frames:
                if stream is None:
                    stream = container.add_stream("libx264", rate=rate, options=_QUALITY)
                    stream.height, stream.width, stream.pix_fmt = *pixels.shape[:2], "yuv420p"
                    stream.time_base = 1 / rate
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts, frame.time_base = position, 1 / rate
                container.mux(stream.encode(frame))
                count += 1
            if stream is not None:
                container.mux(stream.encode(None))
    except (av.FFmpegError, av.codec.codec.UnknownCodecError) as error:
        raise _Unencodable(str(error)) from error
    return count


def _write_by_opencv(path: Path, frames: Iterable[tuple[int, np.ndarray]], rate: Fraction) -> int:
    import cv2

    count, writer, before = 0, None, None
    for position, pixels in frames:
        if writer is None:
            code = cv2.VideoWriter.fourcc(*"vp09")
            writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, code, float(rate), pixels.shape[1::-1])
            if not writer.isOpened():
                raise _Unencodable("OpenCV has no VP9 encoder; install the extra: siamese-mrcnn-tf[video]")
        image = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
        while before is not None and count < position:  # a constant rate: frames that are missing are held
            writer.write(before)
            count += 1
        writer.write(image)
        before, count = image, count + 1
    if writer is not None:
        writer.release()
        if not cv2.VideoCapture(str(path)).isOpened():  # OpenCV does not say what went wrong
            raise _Unencodable("OpenCV has not written all of it; the disk may be full")
    return count
