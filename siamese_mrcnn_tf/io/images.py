"""Image files: those of `decoding.FORMATS`, and TIFF files of many bits, are read as 8-bit RGB; errors name the file.

HEIC files need pillow-heif, and AVIF files Pillow 11.3 or newer: the extra `heif`. HEIC files say how they are turned
outside of their orientation tag, and are always shown upright.
"""

import functools
from collections.abc import Callable, Sequence

import numpy as np
from PIL import ExifTags, Image

from . import intensity, orientation
from .decoding import FORMATS, TooLargeError, open_image
from .errors import InputError
from .files import StrPath, open_regular

HEIF_SUFFIXES = (".heic", ".heif", ".avif")  # formats of phones and cameras that Pillow may not read
HEIF_EXTRA = 'pip install "siamese-mrcnn-tf[heif]"'
_HEIF_BOX, _AVIF_BRANDS = b"ftyp", (b"avif", b"avis")  # at bytes 4 and 8 of a file


def read_image(
    path: StrPath,
    size: Sequence[int] | None = None,
    *,
    rule: str = "auto",
    ranges: intensity.RangesOf = None,
    on_undecided: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Read an image file of any kind as RGB: uint8 [height, width, 3].

    Greyscale is repeated over the channels, transparency is dropped, more than 8 bits are scaled to 8.

    Args:
        size: (height, width) in pixels from an annotation file.
        rule: "auto" lets `size` decide whether the image is turned by its orientation tag; where the stored and the
            turned image both have this size, or without a size, the tag is obeyed. "obey" always turns it, "ignore"
            never.
        ranges: for images of more than 8 bits, the ranges of the set (`intensity.find_ranges`) or a function that
            returns them; None scales by the range of the file.
        on_undecided: called with the tag if the size does not decide whether it applies.

    Raises:
        ValueError: the file is missing, broken, no image, too large, empty, or of another size than `size`.
    """
    head = _head(path)
    kind = intensity.deep_kind(path)
    if kind:
        image = Image.fromarray(intensity.to_eight_bits(path, kind, ranges))
        tag = orientation.read_tag(path)
    else:
        image, tag = _open(path, head)
    if 0 in image.size:
        raise InputError(f"{path}: the image is empty ({image.height} x {image.width} pixels)")
    wanted = (int(size[0]), int(size[1])) if size else None
    if orientation.is_obeyed(tag, (image.height, image.width), wanted, rule, path):
        image = orientation.turn(image, tag)
    if on_undecided and orientation.is_undecided(tag, image.height, image.width):
        on_undecided(tag)
    try:
        return np.array(image.convert("RGB"))
    except (MemoryError, OSError, ValueError) as error:
        raise InputError(f"{path}: an image of mode {image.mode} cannot be converted to RGB ({error})") from error


def can_read(suffix: str) -> bool:
    """Whether files with a suffix of HEIF_SUFFIXES, in lower case, can be read by what is installed."""
    Image.init()
    return suffix in Image.registered_extensions() or (suffix != ".avif" and register_heif())


@functools.cache
def register_heif() -> bool:
    """Let Pillow read HEIC files by pillow-heif; whether it is installed."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def has_camera_tags(path: StrPath) -> bool:
    """Whether a file names the camera that took it; reads its header only."""
    try:
        with open_image(path) as image:
            tags = image.getexif()
    except Exception:  # decoders raise anything on broken files, and videos are no images
        return False
    return any(tag in tags for tag in (ExifTags.Base.Make, ExifTags.Base.Model))


def _head(path: StrPath) -> bytes:
    """The first bytes of a file; Pillow reads HEIC files then.

    Raises:
        ValueError: there is no such file, or it is a pipe or a device, which a reader would wait for.
    """
    try:
        with open_regular(path, "an image") as file:
            head = file.read(12)
    except OSError as error:
        raise InputError(f"{path}: the image cannot be read ({error.strerror or error})") from error
    if head[4:8] == _HEIF_BOX:
        register_heif()
    return head


def _open(path: StrPath, head: bytes) -> tuple[Image.Image, int]:
    """(decoded Pillow image as stored, first frame of an animation; orientation tag)."""
    try:
        with open_image(path) as image:
            return orientation.load_stored(image, path)
    except TooLargeError:
        raise
    except Image.UnidentifiedImageError as error:
        known = "" if head[4:8] == _HEIF_BOX else f", expected {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        raise InputError(f"{path}: not an image that can be read{known}{_heif_advice(head)}") from error
    except Exception as error:  # decoders raise anything on broken files
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: the image cannot be read, it may be truncated or broken ({reason})") from error


def _heif_advice(head: bytes) -> str:
    """What lacks to read a HEIC or AVIF file with these first bytes; empty where nothing lacks, and for other files."""
    suffix = ".avif" if head[8:] in _AVIF_BRANDS else ".heic"
    return f"; {suffix[1:].upper()} files need {HEIF_EXTRA}" if head[4:8] == _HEIF_BOX and not can_read(suffix) else ""
