"""Opening image files: by a list of formats, whatever their names say, and not above a number of pixels.

The bound is read from the header, before anything is decoded. It is the environment variable SIAMESE_MRCNN_MAX_PIXELS
(`--max-pixels` sets it, also for worker processes), or else twice Pillow's `Image.MAX_IMAGE_PIXELS`: 178,956,970.
"""

import os
import re
from typing import BinaryIO

from PIL import Image

from .errors import InputError
from .files import StrPath, require_regular

VARIABLE = "SIAMESE_MRCNN_MAX_PIXELS"  # environment variable of the bound
OPTION = "--max-pixels"
HARD_BOUND = 2**31 - 1  # pixels of an image; masks count them in 32 bits
FORMATS = ("JPEG", "MPO", "PNG", "GIF", "BMP", "DIB", "TIFF", "WEBP", "PPM", "JPEG2000", "HEIF", "AVIF")  # of Pillow


class TooLargeError(InputError):
    """An image has more pixels than are read."""


def allow_pixels(count: int) -> None:
    """Read images up to a number of pixels, in this process and in those that it starts."""
    if not 0 < count <= HARD_BOUND:
        raise InputError(f"{OPTION} {count}: expected 1 to {HARD_BOUND}")
    os.environ[VARIABLE] = str(count)


def max_pixels() -> int:
    """Number of pixels up to which images are read.

    Raises:
        ValueError: the environment variable is no such number.
    """
    text = os.environ.get(VARIABLE)
    if text is None:
        bound = Image.MAX_IMAGE_PIXELS
        return HARD_BOUND if bound is None else min(2 * bound, HARD_BOUND)
    if not (text.isascii() and text.isdecimal() and len(text) < 12 and 0 < int(text) <= HARD_BOUND):
        raise InputError(f"{VARIABLE} = {text!r}: expected a number of pixels, 1 to {HARD_BOUND}")
    return int(text)


def require_pixels(height: int, width: int, place: object) -> None:
    """Raise TooLargeError, a ValueError that names the place and the option, for more pixels than are read."""
    if height * width > (bound := max_pixels()):
        words = f"{height} x {width} (height x width) are {height * width} pixels, more than {bound}"
        raise TooLargeError(f"{place}: too large to be read safely, {words}; {OPTION} N allows more")


def open_image(source: StrPath | BinaryIO, formats: tuple[str, ...] = FORMATS, place: object = None) -> Image.Image:
    """A Pillow image whose header was read, of one of some formats, not decoded yet.

    Args:
        source: a path, or a file that is open.
        place: names the image in messages; None for the path.

    Raises:
        TooLargeError: a ValueError that names the place and the option.
        ValueError: the path is a pipe, a socket or a device.
        OSError, ...: whatever Pillow raises for what is no image.
    """
    place = source if place is None else place
    if isinstance(source, (str, os.PathLike)):
        require_regular(source, "an image")
    bound = max_pixels()
    if Image.MAX_IMAGE_PIXELS is not None and bound > 2 * Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = bound  # Pillow has a bound of its own
    Image.init()
    try:
        image = Image.open(source, formats=[kind for kind in formats if kind in Image.OPEN])
    except Image.DecompressionBombError as error:
        count = next(iter(re.findall(r"\d+", str(error))), "too many")
        words = f"too large to be read safely, {count} pixels are more than {bound}"
        raise TooLargeError(f"{place}: {words}; {OPTION} N allows more") from error
    require_pixels(image.height, image.width, place)
    return image
