"""Image files: whatever Pillow opens is read as 8-bit RGB; errors name the file."""

import logging
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps

from .files import StrPath

logger = logging.getLogger(__name__)

_WIDE_MODES = ("I", "F")  # with "I;16" and its kin: one channel of more than 8 bits


def read_image(path: StrPath, size: Sequence[int] | None = None) -> np.ndarray:
    """Read an image file of any kind as RGB: uint8 [height, width, 3].

    Greyscale is repeated over the channels, transparency is dropped, 16 bits become 8.

    Args:
        size: (height, width) in pixels from an annotation file. The EXIF orientation is then applied only if the stored
            image does not have this size and the turned one does. None always applies it.

    Raises:
        ValueError: the file is missing, broken, no image, too large, empty, or of another size than `size`.
    """
    image = _open(path)
    _turn(image, size, path)
    if 0 in image.size:
        raise ValueError(f"{path}: the image is empty ({image.height} x {image.width} pixels)")
    if image.mode in _WIDE_MODES or image.mode.startswith("I;16"):
        return _eight_bits(np.asarray(image), path)
    try:
        return np.array(image.convert("RGB"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: an image of mode {image.mode} cannot be converted to RGB ({error})") from error


def _open(path: StrPath) -> Image.Image:
    """The decoded Pillow image (first frame of an animation)."""
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file") from error
    except Image.UnidentifiedImageError as error:
        raise ValueError(f"{path}: not an image that can be read") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path}: the image is too large to be read safely ({error})") from error
    except Exception as error:  # decoders raise anything on broken files
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{path}: the image cannot be read, it may be truncated or broken ({reason})") from error


def _turn(image: Image.Image, size: Sequence[int] | None, path: StrPath) -> None:
    """Apply the EXIF orientation to the image in place, as `read_image` says for `size`."""
    stored, wanted = (image.height, image.width), size and (int(size[0]), int(size[1]))
    if stored == wanted:
        return
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except Exception as error:  # broken EXIF data raise anything; the pixels are whole
        logger.debug("%s: EXIF orientation ignored: %s", path, error)
    if wanted and (image.height, image.width) != wanted:
        found = f"the image is {stored[0]} x {stored[1]} pixels (height x width)"
        raise ValueError(f"{path}: {found}, but its annotations say {wanted[0]} x {wanted[1]}")


def _eight_bits(values: np.ndarray, path: StrPath) -> np.ndarray:
    """One channel of more than 8 bits [height, width] to uint8 [height, width, 3].

    Values up to 255 are taken as they are, larger ones are 16 bits (65535 to 255), floats up to 1 span 0..255.
    """
    if not np.isfinite(values).all():
        raise ValueError(f"{path}: the image has values that are not finite")
    highest = values.max()
    if highest > 255:
        values = values / 257
    elif values.dtype.kind == "f" and highest <= 1:
        values = values * 255
    grey = np.rint(np.clip(values, 0, 255)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)
