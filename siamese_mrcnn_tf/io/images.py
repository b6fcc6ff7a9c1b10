"""Image files: whatever Pillow opens, and TIFF files of many bits, are read as 8-bit RGB; errors name the file."""

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from . import intensity, orientation
from .files import StrPath


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
    kind = intensity.deep_kind(path)
    if kind:
        image = Image.fromarray(intensity.to_eight_bits(path, kind, ranges))
        tag = orientation.read_tag(path)
    else:
        image, tag = _open(path)
    if 0 in image.size:
        raise ValueError(f"{path}: the image is empty ({image.height} x {image.width} pixels)")
    wanted = (int(size[0]), int(size[1])) if size else None
    if orientation.is_obeyed(tag, (image.height, image.width), wanted, rule, path):
        image = orientation.turn(image, tag)
    if on_undecided and orientation.is_undecided(tag, image.height, image.width):
        on_undecided(tag)
    try:
        return np.array(image.convert("RGB"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: an image of mode {image.mode} cannot be converted to RGB ({error})") from error


def _open(path: StrPath) -> tuple[Image.Image, int]:
    """(decoded Pillow image as stored, first frame of an animation; orientation tag)."""
    try:
        with Image.open(path) as image:
            return orientation.load_stored(image, path)
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file") from error
    except Image.UnidentifiedImageError as error:
        raise ValueError(f"{path}: not an image that can be read") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path}: the image is too large to be read safely ({error})") from error
    except Exception as error:  # decoders raise anything on broken files
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{path}: the image cannot be read, it may be truncated or broken ({reason})") from error
