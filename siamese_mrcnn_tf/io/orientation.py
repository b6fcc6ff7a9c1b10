"""The orientation tag of image files (EXIF tag 274, or XMP): reading it, the rule that decides, and the turning.

Tag 1 is upright, 2 to 4 are mirrored or upside down, 5 to 8 are turned by a quarter, which swaps height and width.
"""

import logging
import os

import tifffile
from PIL import ExifTags, Image, ImageOps

from .decoding import open_image
from .errors import InputError
from .files import StrPath, open_regular

logger = logging.getLogger(__name__)

UPRIGHT = 1
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
TIFF_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_INVERSES = {6: 8, 8: 6}  # the other tags undo themselves
_SWAPPED = range(5, 9)
_TAG_SOURCES = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")  # in the info of a Pillow image
_PNG_CHUNKS = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")  # those that may hold a tag


def read_tag(path: StrPath) -> int:
    """The orientation tag of a file, 1..8, from its header; 1 where there is none or the file cannot be read."""
    try:
        with open_regular(path) as file:
            magic = file.read(8)
        if magic[:4] in TIFF_MAGICS:
            with tifffile.TiffFile(path) as tiff:
                return _valid(tiff.pages.first.tags.valueof(ExifTags.Base.Orientation, UPRIGHT))
        if magic == PNG_MAGIC and not _has_png_tag(path):
            return UPRIGHT
        with open_image(path) as image:
            return tag_of(image, path)
    except Exception as error:  # decoders raise anything on broken files; reading the pixels says what is wrong
        logger.debug("%s: no orientation read: %s", path, error)
        return UPRIGHT


def tag_of(image: Image.Image, path: StrPath = "an image") -> int:
    """The orientation tag of a Pillow image, 1..8; 1 where there is none or the EXIF data are broken."""
    try:
        return _valid(image.getexif().get(ExifTags.Base.Orientation, UPRIGHT))
    except Exception as error:  # broken EXIF data raise anything; the pixels are whole
        logger.debug("%s: EXIF orientation ignored: %s", path, error)
        return UPRIGHT


def is_undecided(tag: int, height: int, width: int) -> bool:
    """Whether an image of this size in pixels has the same size when it is turned by its tag."""
    return tag != UPRIGHT and (tag not in _SWAPPED or height == width)


def is_obeyed(tag: int, stored: tuple[int, int], wanted: tuple[int, int] | None, rule: str, path: StrPath) -> bool:
    """Whether an image is to be turned by its tag.

    Args:
        stored, wanted: (height, width) in pixels of the file, and of its annotations or None.
        rule: "auto" lets the annotated size decide and obeys the tag where both fit; "obey" and "ignore" are for all.

    Raises:
        ValueError: the image does not have the annotated size; names the file, the sizes and the tag.
    """
    turned = stored[::-1] if tag in _SWAPPED else stored
    by_size = rule == "auto" and wanted is not None and turned != stored
    obeyed = tag != UPRIGHT and (stored != wanted if by_size else rule != "ignore")
    found, other = (turned, stored) if obeyed else (stored, turned)
    if wanted is None or found == wanted:
        return obeyed
    if other != wanted:
        found = stored
    words = f"{path}: the image is {found[0]} x {found[1]} pixels (height x width)"
    if other == wanted:
        words += f" {'turned by' if obeyed else 'without'} its orientation tag {tag}"
    words += f", but its annotations say {wanted[0]} x {wanted[1]}"
    if other == wanted:
        words += f"; --orientation {'ignore' if obeyed else 'obey'} or auto reads it so"
    raise InputError(words)


def turn(image: Image.Image, tag: int) -> Image.Image:
    """The image turned as its tag says."""
    turned = image.copy()
    for name in _TAG_SOURCES:  # one of them may be broken
        turned.info.pop(name, None)
    turned.getexif()[ExifTags.Base.Orientation] = tag
    ImageOps.exif_transpose(turned, in_place=True)
    return turned


def load_stored(image: Image.Image, path: StrPath) -> tuple[Image.Image, int]:
    """(decoded image as stored, its tag) of a Pillow image that was just opened; Pillow turns TIFF files itself."""
    tag = _valid(getattr(image, "tag_v2", {}).get(ExifTags.Base.Orientation, UPRIGHT))
    image.load()
    left = tag_of(image, path)
    if tag == UPRIGHT or left == tag:
        return image, left
    return turn(image, _INVERSES.get(tag, tag)), tag


def _valid(tag: object) -> int:
    return tag if isinstance(tag, int) and 1 <= tag <= 8 else UPRIGHT


def _has_png_tag(path: StrPath) -> bool:
    """Whether a PNG file has a chunk that may hold a tag, also behind its pixels, which are not decoded for it."""
    with open(path, "rb") as file:
        file.seek(len(PNG_MAGIC))
        while len(header := file.read(8)) == 8:
            if header[4:] in _PNG_CHUNKS:
                return True
            file.seek(int.from_bytes(header[:4], "big") + 4, os.SEEK_CUR)  # 4 of the checksum
    return False
