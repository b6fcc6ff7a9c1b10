"""What the readers of annotation formats give: images with objects. Coordinates are (x, y) in pixels of the image."""

import base64
import binascii
import dataclasses
import io
import logging
import math
import re
import reprlib
import struct
import types
import xml.etree.ElementTree as ElementTree
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pycocotools.mask as coco_mask

from ...io import decoding, files
from ...io.errors import InputError
from ..annotations import Rle
from ..outlines import MAX_COORDINATE, MAX_LENGTH, are_outlines

logger = logging.getLogger(__name__)

_MAX_ARC_ERROR = 0.05  # pixels between an arc and its polygon
_SHOWN = 5  # places in a message
# what Pillow raises on broken files, beside OSError and ValueError
_BROKEN = (EOFError, IndexError, MemoryError, OverflowError, SyntaxError, TypeError, struct.error, zlib.error)


@dataclasses.dataclass(frozen=True)
class ImportedObject:
    """An annotated object; it has outlines or a mask, or else a box, or all of a COCO annotation.

    Attributes:
        place: its name in messages.
        category: name; empty if the format has none for it.
        outlines: polygons float64 [points, (x, y)], the parts of the object.
        holes: polygons that are cut out of it.
        mask: bool [h, w], with its place in the image.
        corner: (x, y) of the mask's upper left pixel.
        box: (x, y, width, height), for an object without outlines and mask.
        coco: an annotation of a COCO file, taken over as it is.
        group: objects of an image with the same group and category are one; empty for none.
    """

    place: str
    category: str
    outlines: tuple[np.ndarray, ...] = ()
    holes: tuple[np.ndarray, ...] = ()
    mask: np.ndarray | None = None
    corner: tuple[int, int] = (0, 0)
    box: tuple[float, float, float, float] | None = None
    coco: dict[str, Any] | None = None
    group: str = ""


@dataclasses.dataclass(frozen=True)
class ImportedImage:
    """An annotated image.

    Attributes:
        name: file name, perhaps with folders, as the format has it.
        place: its name in messages, with that of its annotation file.
        objects: in the order of the file.
        folder: where to look for the image if no image folder is given; None if the format does not tell.
        subset: "train" or "val" if the format tells.
        target: name to write the image by; empty for its path in the image folder.
        data: content of the image file if the format has it.
        size: (height, width) in pixels that the format gives, or None.
    """

    name: str
    place: str
    objects: tuple[ImportedObject, ...]
    folder: Path | None = None
    subset: str | None = None
    target: str = ""
    data: bytes | None = None
    size: tuple[int, int] | None = None


def required(entry: Any, key: str, kind: type | types.UnionType, place: str) -> Any:
    """The value of a key, which must be there and of a kind; ValueError names the place, the key and the value."""
    if not isinstance(entry, dict):
        raise InputError(f"{place}: {reprlib.repr(entry)}, expected a dict")
    if key not in entry:
        raise InputError(f"{place}: the key {key!r} is missing")
    if not isinstance(entry[key], kind):
        expected = getattr(kind, "__name__", str(kind).replace("|", "or"))
        raise InputError(f"{place}: {key} = {reprlib.repr(entry[key])}, expected a {expected}")
    return entry[key]


def require_text(text: str, place: str) -> str:
    """A text that can be printed and written; ValueError names the place of half a surrogate pair or a NUL."""
    if not files.is_text(text):
        raise InputError(f"{place} = {text[:40]!r}, expected a text without NUL and half characters")
    return text


def checked_number(value: Any, place: str, *, is_size: bool = False) -> float:
    """A number of pixels, above 0 for a size; ValueError names the place."""
    if type(value) not in (int, float) or not -MAX_COORDINATE < value < MAX_COORDINATE:
        raise InputError(f"{place} = {reprlib.repr(value)}, expected a number below {MAX_COORDINATE:.0f} in size")
    if is_size and value <= 0:
        raise InputError(f"{place} = {value!r}, expected a size above 0")
    return float(value)


def parsed_number(text: Any, place: str, *, is_size: bool = False) -> float:
    """`checked_number` of a text."""
    try:
        value = float(text)
    except (TypeError, ValueError):
        value = math.nan
    if math.isnan(value):
        raise InputError(f"{place} = {reprlib.repr(text)}, expected a number")
    return checked_number(value, place, is_size=is_size)


def checked_points(points: Any, place: str, minimum: int = 3) -> np.ndarray:
    """Points [[x, y], ...] as float64 [points, (x, y)]; for a polygon 3 different ones at least."""
    if not isinstance(points, list) or not all(isinstance(point, list) and len(point) == 2 for point in points):
        raise InputError(f"{place}: points = {reprlib.repr(points)}, expected [[x, y], ...]")
    for index, point in enumerate(points):
        for value in point:
            checked_number(value, f"{place}: points[{index}]")
    if len(set(map(tuple, points))) < minimum:
        raise InputError(f"{place}: {len(points)} points, expected {minimum} different ones")
    return np.array(points, np.float64)


def require_outlines(found: ImportedObject) -> None:
    """Raise ValueError, which names the place, for outlines that are too long to be walked along."""
    if not are_outlines([outline.ravel().tolist() for outline in (*found.outlines, *found.holes)]):
        expected = f"numbers below {MAX_COORDINATE:.0f}, and at most {MAX_LENGTH:.0f} pixels along an outline"
        raise InputError(f"{found.place}: the outlines are no pixels of an image, expected {expected}")


def rectangle_outline(x: float, y: float, width: float, height: float, angle: float = 0.0) -> np.ndarray:
    """Corners [4, (x, y)] of a rectangle, turned by an angle in radians around its centre, from x towards y."""
    corners = np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float64)
    centre = np.array([width / 2, height / 2])
    turned: np.ndarray = rotated(corners - centre, angle) + centre + (x, y)
    return turned


def ellipse_outline(centre: npt.ArrayLike, radii: Sequence[float], angle: float = 0.0) -> np.ndarray:
    """A polygon no chord of which is farther than a twentieth of a pixel from the ellipse's arc; angle as above."""
    count = math.ceil(math.pi / math.acos(1 - _MAX_ARC_ERROR / max(*radii, 1.0)))
    steps = np.linspace(0, 2 * np.pi, count, endpoint=False)
    points = np.stack([radii[0] * np.cos(steps), radii[1] * np.sin(steps)], axis=1)
    return rotated(points, angle) + np.asarray(centre, np.float64)


def rotated(points: np.ndarray, angle: float) -> np.ndarray:
    """Points [n, (x, y)] turned around the origin by an angle in radians, from the x axis towards the y axis."""
    cosine, sine = math.cos(angle), math.sin(angle)
    return np.asarray(points @ np.array([(cosine, sine), (-sine, cosine)]))


def object_rle(found: ImportedObject, height: int, width: int) -> Rle:
    """The pixels of an object's outlines without its holes, and of its mask, as RLE of the image."""
    parts = []
    if found.outlines:
        inside = _filled(found.outlines, height, width)
        if found.holes:
            inside &= ~_filled(found.holes, height, width)
        parts.append(inside)
    if found.mask is not None:
        parts.append(placed_mask(found.mask, found.corner, height, width))
    joined = np.any(parts, axis=0) if parts else np.zeros((height, width), bool)
    return coco_mask.encode(np.asfortranarray(joined).astype(np.uint8))


def placed_mask(mask: np.ndarray, corner: tuple[int, int], height: int, width: int) -> np.ndarray:
    """A mask at its place in an image: bool [height, width]; what reaches out is cut off."""
    canvas = np.zeros((height, width), bool)
    x, y = corner
    top, left = max(y, 0), max(x, 0)
    part = mask[top - y : max(height - y, 0), left - x : max(width - x, 0)]
    canvas[top : top + part.shape[0], left : left + part.shape[1]] = part
    return canvas


def _filled(outlines: Iterable[np.ndarray], height: int, width: int) -> np.ndarray:
    polygons = [outline.ravel().tolist() for outline in outlines]
    return np.asarray(coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))), bool)


def joined_groups(objects: Sequence[ImportedObject], height: int, width: int) -> list[ImportedObject]:
    """The objects, those of one group and category joined into one at the place of the first."""
    groups: dict[tuple[str, str], list[ImportedObject]] = {}
    for index, found in enumerate(objects):
        groups.setdefault((found.group or f"alone {index}", found.category), []).append(found)
    return [parts[0] if len(parts) == 1 else _joined(parts, height, width) for parts in groups.values()]


def _joined(parts: Sequence[ImportedObject], height: int, width: int) -> ImportedObject:
    if any(part.mask is not None or part.holes for part in parts):
        rles = [object_rle(part, height, width) for part in parts]
        mask = np.asarray(coco_mask.decode(coco_mask.merge(rles)), bool)
        return dataclasses.replace(parts[0], outlines=(), holes=(), mask=mask, corner=(0, 0))
    return dataclasses.replace(parts[0], outlines=tuple(outline for part in parts for outline in part.outlines))


def decoded_png(text: Any, place: str) -> np.ndarray:
    """The mask in a base64 text of a PNG file, bool [h, w]: where the last channel is not 0."""
    try:
        data = base64.b64decode(text, validate=False)
    except (TypeError, ValueError, binascii.Error) as error:
        raise InputError(f"{place}: {reprlib.repr(text)}, expected a PNG image in base64 ({error})") from error
    return png_mask(data, place)


def png_mask(data: bytes, place: str) -> np.ndarray:
    """The mask of the content of a PNG file, bool [h, w]: where the last channel is not 0.

    Raises:
        ValueError: names the place.
    """
    try:
        with decoding.open_image(io.BytesIO(data), ("PNG",), place) as image:
            values = np.asarray(image)
    except decoding.TooLargeError:
        raise
    except (OSError, ValueError, *_BROKEN) as error:
        raise InputError(f"{place}: expected a PNG image ({error})") from error
    return np.asarray((values if values.ndim == 2 else values[..., -1]) != 0)


def read_xml(path: Path) -> ElementTree.Element:
    """The root of an XML file; documents that define entities are refused."""
    text = files.read_text(path)
    if re.search(r"<!(DOCTYPE|ENTITY)", text):
        raise InputError(f"{path}: an XML file with a document type, expected one without")
    try:
        return ElementTree.fromstring(re.sub(r"^\s*<\?xml[^>]*\?>", "", text))
    except (ElementTree.ParseError, MemoryError, RecursionError, ValueError) as error:
        raise InputError(f"{path}: not an XML file that can be read ({error})") from error


def log_left_out(places: Sequence[str], what: str, why: str) -> None:
    """Warn of objects that are left out, with their number and the first of them."""
    if places:
        shown = "; ".join(places[:_SHOWN]) + ("; ..." if len(places) > _SHOWN else "")
        logger.warning("%s: left out, %s (%d: %s)", what, why, len(places), shown)
