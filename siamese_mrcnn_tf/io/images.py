"""Reading pictures: whatever Pillow opens becomes RGB of 8 bits; what is broken becomes an error that names it."""

import logging

import numpy as np
from PIL import Image

logger = logging.getLogger(__name__)

_EXIF_ORIENTATION = 0x0112
_TURNS = {  # EXIF orientation -> what makes the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPS_SIDES = (5, 6, 7, 8)  # orientations that exchange height and width
_WIDE_MODES = ("I", "F")  # with "I;16" and its kin: one channel of more than 8 bits


def read_image(path, size=None):
    """Read a picture file of any kind.

    Greyscale is repeated over the channels, transparency is dropped, 16 bits become 8.

    Args:
        path: the file.
        size: (height, width) in pixels that an annotation file gives for it. The camera's orientation tag is then
            obeyed only if the stored picture does not have this size and the turned one does: annotations are drawn on
            one of the two. None obeys the tag.

    Returns:
        uint8 [height, width, 3], RGB.

    Raises:
        ValueError: the file is missing, broken, no picture, too large, empty, or of another size than `size`.
    """
    image = _open(path)
    image = _turned(image, _orientation(image), size, path)
    if 0 in image.size:
        raise ValueError(f"{path}: the picture is empty ({image.height} x {image.width} pixels)")
    if image.mode in _WIDE_MODES or image.mode.startswith("I;16"):
        return _eight_bits(np.asarray(image), path)
    try:
        return np.array(image.convert("RGB"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: a picture of mode {image.mode} cannot be converted to RGB ({error})") from error


def _open(path):
    """The decoded Pillow image (first frame of an animation)."""
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file") from error
    except Image.UnidentifiedImageError as error:
        raise ValueError(f"{path}: not a picture that can be read") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path}: the picture is too large to be read safely ({error})") from error
    except Exception as error:  # decoders of broken files raise whatever they trip over
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{path}: the picture cannot be read, it may be truncated or broken ({reason})") from error


def _orientation(image):
    try:
        return image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception as error:  # as in _open; the picture itself is whole
        logger.debug("orientation tag ignored: %s", error)
        return 1


def _turned(image, orientation, size, path):
    """The image as `read_image` promises it for `size`."""
    if size is None:
        return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image
    stored, wanted = (image.height, image.width), (int(size[0]), int(size[1]))
    if stored == wanted:
        return image
    if orientation in _SWAPS_SIDES and stored[::-1] == wanted:
        return image.transpose(_TURNS[orientation])
    raise ValueError(
        f"{path}: the picture is {stored[0]} x {stored[1]} pixels (height x width), "
        f"but its annotations say {wanted[0]} x {wanted[1]}"
    )


def _eight_bits(values, path):
    """One channel of more than 8 bits [height, width] to uint8 [height, width, 3].

    Values up to 255 are taken as they are, larger ones are 16 bits (65535 to 255), floats up to 1 span 0..255.
    """
    if not np.isfinite(values).all():
        raise ValueError(f"{path}: the picture holds values that are not finite")
    highest = values.max()
    if highest > 255:
        values = values / 257
    elif values.dtype.kind == "f" and highest <= 1:
        values = values * 255
    grey = np.rint(np.clip(values, 0, 255)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)
