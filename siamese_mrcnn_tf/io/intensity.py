"""Images of more than 8 bits: read without loss, and scaled to 8 bits by one range for a whole set.

The range of integers is the smallest of 8, 10, 12, 14 and 16 bits (then 17 to 32) that holds the maximum of the set:
files of 16 bits often hold 10, 12 or 14. Floats in 0..1 span 0..1, others the same numbers of bits. A set with negative
values spans its minimum to its maximum. Files of different types (16-bit, 32-bit float, ...) have a range each.
"""

import dataclasses
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from tqdm import tqdm

from .decoding import TooLargeError, open_image, require_pixels
from .errors import InputError
from .files import StrPath, open_regular
from .orientation import PNG_MAGIC, TIFF_MAGICS, load_stored

logger = logging.getLogger(__name__)

_EIGHT_BIT_SUFFIXES = (".jpg", ".jpeg", ".gif", ".bmp", ".webp")  # formats without more
_EIGHT_BIT_MAGICS = (b"\xff\xd8\xff", b"GIF8", b"BM", b"RIFF")
_PILLOW_KINDS = {"I": "int32", "F": "float32"}  # by mode, with "I;16" and its kin
_BITS = (8, 10, 12, 14, *range(16, 33))
_ROUNDING = 1e-6  # by which floats may exceed 1
_MANY = 100  # files with a progress bar
_SHOWN = 5  # names in a message
_EXTRAS = 4  # channels of a TIFF file beside its colours
_PNG_DEPTH = 24  # byte of a PNG file that holds the bits of a channel


@dataclasses.dataclass(frozen=True)
class Range:
    """Values that become 0..255."""

    minimum: float
    maximum: float
    name: str  # "12 bits", for messages

    def __str__(self) -> str:
        return f"{self.name}, {self.minimum:.7g}..{self.maximum:.7g} is scaled to 0..255"


Ranges = dict[str, Range]  # by type of the values, for example "uint16"
RangesOf = Ranges | Callable[[], Ranges] | None  # ranges, or a function that finds them when they are needed


def may_be_deep(path: StrPath) -> bool:
    """Whether the format that a file's name tells has images of more than 8 bits."""
    return not os.fspath(path).lower().endswith(_EIGHT_BIT_SUFFIXES)


def deep_kind(path: StrPath) -> str | None:
    """The numpy type of an image file of more than 8 bits, from its header; None for 8 bits or an unreadable file."""
    try:
        with open_regular(path, "an image") as file:
            head = file.read(_PNG_DEPTH + 1)
        if head.startswith(PNG_MAGIC):
            return "uint16" if head[_PNG_DEPTH] == 16 else None
        if head.startswith(_EIGHT_BIT_MAGICS):
            return None
        if head.startswith(TIFF_MAGICS):
            with tifffile.TiffFile(path) as tiff:
                kind = tiff.pages.first.dtype
            return kind.name if kind is not None and kind.itemsize > 1 else None
        with open_image(path) as image:
            return "uint16" if image.mode.startswith("I;16") else _PILLOW_KINDS.get(image.mode)
    except Exception:  # decoders raise anything on broken files; reading the pixels says what is wrong
        return None


def read_values(path: StrPath) -> np.ndarray:
    """The values of an image of more than 8 bits as stored, without alpha: [height, width] or [height, width, RGB].

    The first image of a file of several.

    Raises:
        ValueError: the file is broken, too large, has values that are not finite, or channels that are no RGB.
    """
    try:
        with open_regular(path, "an image") as file:
            head = file.read(len(PNG_MAGIC))
        values = _tiff_values(path) if head.startswith(TIFF_MAGICS) else _pillow_values(path, head == PNG_MAGIC)
    except TooLargeError:
        raise
    except Exception as error:  # decoders raise anything on broken files
        raise InputError(f"{path}: the image cannot be read, it may be truncated or broken ({error})") from error
    if not values.size:
        raise InputError(f"{path}: the image is empty ({values.shape[0]} x {values.shape[1]} pixels)")
    if not np.isfinite(values).all():
        raise InputError(f"{path}: the image has values that are not finite")
    return values


def range_of(minimum: float, maximum: float, kind: str) -> Range:
    """The range for values of a numpy type from `minimum` to `maximum`, by the rule of this module."""
    if minimum < 0:
        return Range(minimum, maximum, "negative values, from minimum to maximum")
    if kind.startswith("float") and maximum <= 1 + _ROUNDING:
        return Range(0, 1, "floats up to 1")
    bits = next((bits for bits in _BITS if maximum <= 2**bits - 1), None)
    return Range(0, 2**bits - 1, f"{bits} bits") if bits else Range(0, maximum, "more than 32 bits, up to the maximum")


def scaled(values: np.ndarray, span: Range) -> np.ndarray:
    """Values [height, width] or [height, width, RGB] as uint8 [height, width, RGB]."""
    width = (span.maximum - span.minimum) or 1
    pixels = np.rint(np.clip((values - np.float64(span.minimum)) * 255 / width, 0, 255)).astype(np.uint8)
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=-1)


def find_ranges(paths: Iterable[StrPath], *, progress: bool = True) -> Ranges:
    """The ranges of a set of image files, {} if all have 8 bits; names them in the log.

    Files of more than 8 bits are found by their headers and read once; one that cannot be read is passed over.
    """
    paths = list(dict.fromkeys(map(str, paths)))
    kinds = {path: kind for path in paths if may_be_deep(path) and (kind := deep_kind(path))}
    extremes: dict[str, dict[str, tuple[float, float]]] = {}  # by type, by path
    for path, kind in tqdm(kinds.items(), "image ranges", unit="image", disable=not progress or len(kinds) < _MANY):
        try:
            values = read_values(path)
        except ValueError as error:
            logger.debug("%s", error)  # it is an error when the image is used
            continue
        extremes.setdefault(kind, {})[path] = float(values.min()), float(values.max())
    ranges = {}
    for kind, found in sorted(extremes.items()):
        lows, highs = zip(*found.values(), strict=True)
        ranges[kind] = range_of(min(lows), max(highs), kind)
        _log_range(kind, ranges[kind], found)
    if len(kinds) < len(paths) and ranges or len(ranges) > 1:
        counts = [f"{_words(kind)} ({len(extremes[kind])})" for kind in ranges]
        counts += [f"8-bit files ({len(paths) - len(kinds)})"] if len(kinds) < len(paths) else []
        logger.warning("images of different files are used together, each kind scaled alone: %s", ", ".join(counts))
    return ranges


def _log_range(kind: str, span: Range, found: dict[str, tuple[float, float]]) -> None:
    """Name the range of a kind of files, and the files that need less of it."""
    logger.warning("images of %s (%d): %s", _words(kind), len(found), span)
    alone = {path: range_of(low, high, kind) for path, (low, high) in found.items()} if span.minimum == 0 else {}
    less = [f"{Path(path).name}: {own.name}" for path, own in alone.items() if own.maximum < span.maximum]
    if less:
        shown = ", ".join(less[:_SHOWN]) + (", ..." if len(less) > _SHOWN else "")
        words = "%d of them would have a smaller range alone (%s); they are scaled like the others. If they are of "
        logger.warning(words + "another camera, put them into a set of their own", len(less), shown)


def _words(kind: str) -> str:
    bits = 8 * np.dtype(kind).itemsize
    names = {"u": f"{bits}-bit files", "i": f"signed {bits}-bit files"}
    return names.get(np.dtype(kind).kind, f"{bits}-bit float files")


def _pillow_values(path: StrPath, is_png: bool) -> np.ndarray:
    """The values of a file that is no TIFF; Pillow keeps those of one channel, OpenCV those of several."""
    with open_image(path) as image:
        image.load()
        if image.mode in _PILLOW_KINDS or image.mode.startswith("I;16"):
            return np.asarray(image)
    if not is_png:
        raise InputError(f"a mode {image.mode} that is not expected")
    return _opencv_values(path)


def _opencv_values(path: StrPath) -> np.ndarray:
    """The values of three channels as OpenCV reads them, alpha dropped: [height, width, RGB]."""
    import cv2  # a large library that few images need

    flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
    values = cv2.imdecode(np.fromfile(path, np.uint8), flags)
    if values is None:
        raise InputError("OpenCV cannot decode it")
    return values[..., ::-1]


def _tiff_values(path: StrPath) -> np.ndarray:
    """The values of the first image of a TIFF file."""
    with tifffile.TiffFile(path) as tiff:
        page: Any = tiff.pages.first
        require_pixels(page.imagelength * page.imagedepth, page.imagewidth, path)
        channels = _colours(page)
        try:
            values = _channels_last(page.asarray(), page.axes, channels)
        except ValueError as error:  # a compression that needs another library
            logger.debug("%s: %s", path, error)
            values = _compressed_values(path, channels)
    if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE and values.dtype.kind == "u":
        return int(range_of(0, int(values.max()), values.dtype.name).maximum) - values
    return values


def _colours(page: Any) -> int:
    """Number of the colours of a TIFF page, 1 or 3, without its alpha."""
    extra = [kind for kind in page.extrasamples if kind == tifffile.EXTRASAMPLE.UNSPECIFIED]
    colours: int = page.samplesperpixel - len(page.extrasamples)
    most = colours == 3  # a fourth of RGB is taken as alpha, whatever it is
    if colours not in (1, 3) or len(extra) > most or len(page.extrasamples) > _EXTRAS:
        channels = page.samplesperpixel
        raise InputError(f"it has {channels} channels, expected grey or RGB, with or without alpha")
    return colours


def _channels_last(values: np.ndarray, axes: str, channels: int) -> np.ndarray:
    """[height, width] or [height, width, RGB] of a page whose axes are named YX, YXS or SYX."""
    if "S" in axes:
        values = np.moveaxis(values, axes.index("S"), -1)[..., :channels]
    values = values.reshape(*values.shape[-3:]) if "S" in axes else values.reshape(values.shape[-2:])
    return values[..., 0] if channels == 1 and values.ndim == 3 else values


def _compressed_values(path: StrPath, channels: int) -> np.ndarray:
    """The values of a TIFF file by the libraries that bring their own decompression."""
    if channels > 1:
        return _opencv_values(path)
    with open_image(path) as image:
        if image.mode not in _PILLOW_KINDS and not image.mode.startswith("I;16"):
            return _opencv_values(path)[..., 0]
        return np.asarray(load_stored(image, path)[0])


def to_eight_bits(path: StrPath, kind: str, ranges: RangesOf) -> np.ndarray:
    """An image file of more than 8 bits as uint8 [height, width, RGB], as stored.

    Its range is that of `ranges`, or of a function that is called for them; where they have none, that of the file.
    """
    values = read_values(path)
    span = (ranges() if callable(ranges) else ranges or {}).get(kind)
    return scaled(values, span or range_of(float(values.min()), float(values.max()), kind))


def sample_is_deep(paths: Sequence[StrPath], count: int = 16) -> bool:
    """Whether any of `count` of the files, spread over the sequence, has more than 8 bits."""
    return any(deep_kind(path) for path in paths[:: max(1, len(paths) // count)])
