"""Images of the page: checked before they are decoded, kept as files, shown at the size of a screen.

Names of uploads are only shown. The files that are kept have names of the program.
"""

import dataclasses
import functools
import io
import re
from collections.abc import Collection, Iterable
from pathlib import Path, PurePosixPath
from typing import Self

import numpy as np
from PIL import Image

from ..io import orientation
from ..io.errors import InputError
from ..io.files import StrPath
from ..io.images import read_image, register_heif

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "HEIF")  # that are decoded; Pillow knows many more
VIEW_SIDE, THUMBNAIL_SIDE, CROP_SIDE = 2048, 320, 160  # maximum sides in pixels of what is shown
MAX_NAME = 120  # characters
_LOSSLESS_PIXELS = 400_000  # smaller images are shown as PNG
_JPEG_QUALITY = 90
_FIRST_SWAPPED = 5  # orientation tags from here on swap height and width
_NOT_IN_NAMES = re.compile(r"[\x00-\x1f\x7f<>:\"|?*\\/]+")


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a user may open."""

    upload_mb: int = 20  # of one file, in MiB
    pixels: int = 40_000_000  # of one image
    images: int = 200  # of a session

    @property
    def upload_bytes(self) -> int:
        return self.upload_mb * 2**20

    def check_bytes(self, size: int, name: str) -> None:
        """ValueError if a file of this size in bytes is too large."""
        if size > self.upload_bytes:
            raise InputError(f"{name}: the file has {size / 2**20:.1f} MB, at most {self.upload_mb} MB can be opened")


@dataclasses.dataclass(frozen=True)
class StoredImage:
    """An image file that was checked; sizes are those of the upright image, in pixels."""

    path: Path
    name: str  # as the user named the file, without folders
    height: int
    width: int

    @classmethod
    def open(cls, path: StrPath, name: str, limits: Limits) -> Self:
        """Check the header of a file.

        Raises:
            ValueError: the file is missing, of another format, or has too many pixels.
        """
        path = Path(path)
        (width, height), kind = read_header(path, name, limits)
        tag = orientation.read_tag(path)
        if kind == "TIFF" and tag != orientation.UPRIGHT:  # versions of Pillow differ in whether it is turned already
            height, width = _read(path, name).shape[:2]
        elif tag >= _FIRST_SWAPPED:
            height, width = width, height
        return cls(path, name, height, width)

    def pixels(self) -> np.ndarray:
        """The upright image: uint8 [height, width, RGB]; ValueError names the image if it is broken."""
        pixels = _read(self.path, self.name)
        if pixels.shape[:2] != (self.height, self.width):
            found = f"{pixels.shape[1]} x {pixels.shape[0]}"
            raise InputError(f"{self.name}: {found} pixels, but its header says {self.width} x {self.height}")
        return pixels

    def view(self) -> tuple[bytes, str]:
        """(image file to show, media type)."""
        return encoded(self.pixels(), VIEW_SIDE)

    @functools.cached_property
    def thumbnail(self) -> tuple[bytes, str]:
        """(small image file, media type)."""
        return encoded(self.pixels(), THUMBNAIL_SIDE)


def _read(path: Path, name: str) -> np.ndarray:
    """The upright image of a file, uint8 [height, width, RGB]; a ValueError names it as the user did."""
    try:
        return read_image(path, rule="obey")
    except ValueError as error:
        raise InputError(str(error).replace(str(path), name)) from error


def read_header(path: StrPath, name: str, limits: Limits) -> tuple[tuple[int, int], str]:
    """((width, height) as stored, format) of an image file, without decoding it.

    Raises:
        ValueError: the file is missing, of another format, or has too many pixels.
    """
    allowed = f"expected an image file ({', '.join(usable_formats())})"
    try:
        with Image.open(path, formats=usable_formats()) as image:
            size, kind = image.size, str(image.format)
    except FileNotFoundError as error:
        raise InputError(f"{name}: no such file") from error
    except Image.UnidentifiedImageError as error:
        raise InputError(f"{name}: not an image that can be opened; {allowed}") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{name}: too many pixels, at most {limits.pixels:,} can be opened") from error
    except Exception as error:  # the readers of headers raise anything on broken files
        raise InputError(f"{name}: the image is broken ({error}); {allowed}") from error
    if size[0] * size[1] > limits.pixels:
        found = f"{size[0]} x {size[1]} pixels"
        raise InputError(f"{name}: {found}, at most {limits.pixels:,} pixels in all can be opened")
    return size, kind


@functools.cache
def usable_formats() -> tuple[str, ...]:
    """Those of FORMATS that Pillow can read here; HEIF with pillow-heif."""
    Image.init()
    register_heif()
    return tuple(kind for kind in FORMATS if kind in Image.OPEN)


def encoded(pixels: np.ndarray, max_side: int) -> tuple[bytes, str]:
    """(image file, media type) of uint8 [height, width, RGB], not larger than `max_side`: PNG if small, else JPEG."""
    image = Image.fromarray(pixels)
    image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    lossless = image.width * image.height <= _LOSSLESS_PIXELS
    content = io.BytesIO()
    image.save(content, **({"format": "PNG"} if lossless else {"format": "JPEG", "quality": _JPEG_QUALITY}))
    return content.getvalue(), "image/png" if lossless else "image/jpeg"


def shown_name(name: str) -> str:
    """The name of an upload without folders and control characters, not too long."""
    kept = _NOT_IN_NAMES.sub(" ", re.split(r"[/\\]", name)[-1]).strip()[-MAX_NAME:]
    return kept or "image"


def unique_name(name: str, taken: Collection[str]) -> str:
    """A name of a file that is not taken, whatever the case of letters: a number is put before its suffix."""
    path, others, number = PurePosixPath(name), {one.casefold() for one in taken}, 1
    while name.casefold() in others:
        number += 1
        name = f"{path.stem}-{number}{path.suffix}"
    return name


def unique_names(names: Iterable[str]) -> list[str]:
    """`unique_name` of each name among those before it."""
    found: list[str] = []
    for name in names:
        found.append(unique_name(name, found))
    return found
