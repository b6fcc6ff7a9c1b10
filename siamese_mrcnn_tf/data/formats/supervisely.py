"""Projects of Supervisely: folders of images and of JSON files.

The format is described in docs.supervisely.com, "Supervisely annotation format". A bitmap is a PNG file, compressed by
zlib and in base64, whose upper left pixel lies at its origin.
"""

import base64
import binascii
import reprlib
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...io import decoding, files
from ...io.errors import InputError
from ..layouts import subset_of
from .common import (
    ImportedImage,
    ImportedObject,
    checked_number,
    checked_points,
    log_left_out,
    png_mask,
    rectangle_outline,
    required,
)

_WITHOUT_AREA = ("point", "line", "polyline", "graph", "cuboid", "multiline")
_MAX_BYTES = 2**28  # of a bitmap's file


def is_supervisely(folder: Path) -> bool:
    """Whether a folder is a project, or a data set of one."""
    return folder.is_dir() and ((folder / "meta.json").is_file() or (folder / "ann").is_dir())


def read_supervisely(paths: Iterable[Path]) -> list[ImportedImage]:
    """The images of projects or of data sets in them; data sets called train or val are these subsets.

    Raises:
        ValueError: names the file, the object, the key and the value.
    """
    images, left_out = [], list[str]()
    for path in paths:
        sets = [path] if (path / "ann").is_dir() else sorted(entry.parent for entry in path.rglob("ann"))
        if not sets:
            raise InputError(f"{path}: no folder 'ann' in it, expected a project of Supervisely")
        for folder in sets:
            annotated = sorted((folder / "ann").glob("*.json"))
            kept = [file for file in annotated if not files.is_companion(file)]
            images += [_image(file, folder, len(sets) > 1, left_out) for file in kept]
    log_left_out(left_out, ", ".join(_WITHOUT_AREA), "they have no area")
    return images


def _image(path: Path, folder: Path, several: bool, left_out: list[str]) -> ImportedImage:
    content: Any = files.read_json(path)
    size = required(content, "size", dict, str(path))
    sides = tuple(
        int(checked_number(size.get(key), f"{path}: size: {key}", is_size=True)) for key in ("height", "width")
    )
    decoding.require_pixels(sides[0], sides[1], f"{path}: size")
    objects = []
    for number, entry in enumerate(required(content, "objects", list, str(path)), 1):
        place = f"{path}: object {number}"
        kind = required(entry, "geometryType", str, place)
        if kind in _WITHOUT_AREA:
            left_out.append(place)
        else:
            objects.append(_object(entry, kind, place))
    name, subset = _image_name(path, folder / "img"), subset_of(folder.name)
    target = f"{folder.name}/{name}" if several and subset is None else name
    return ImportedImage(name, str(path), tuple(objects), folder / "img", subset, target, size=(sides[0], sides[1]))


def _image_name(path: Path, image_dir: Path) -> str:
    """Name of the image of an annotation file: NAME.jpg of NAME.jpg.json, or of NAME.json as in older projects."""
    if (image_dir / path.stem).is_file() or not image_dir.is_dir():
        return path.stem
    same = [file.name for file in image_dir.iterdir() if file.stem == path.stem and not files.is_companion(file)]
    return same[0] if len(same) == 1 else path.stem


def _object(entry: dict[str, Any], kind: str, place: str) -> ImportedObject:
    category = required(entry, "classTitle", str, place)
    if kind == "bitmap":
        bitmap = required(entry, "bitmap", dict, place)
        origin = required(bitmap, "origin", list, place)
        if len(origin) != 2:
            raise InputError(f"{place}: origin = {reprlib.repr(origin)}, expected [x, y]")
        x, y = (round(checked_number(value, f"{place}: origin")) for value in origin)
        return ImportedObject(place, category, mask=_bitmap(required(bitmap, "data", str, place), place), corner=(x, y))
    points = required(entry, "points", dict, place)
    exterior = required(points, "exterior", list, place)
    if kind == "polygon":
        cut_out = required(points, "interior", list, place) if points.get("interior") is not None else []
        holes = tuple(checked_points(hole, f"{place}: interior") for hole in cut_out)
        return ImportedObject(place, category, outlines=(checked_points(exterior, place),), holes=holes)
    if kind == "rectangle":
        corners = checked_points(exterior, place, minimum=2)
        low, high = corners.min(axis=0), corners.max(axis=0)
        return ImportedObject(place, category, outlines=(rectangle_outline(*low, *(high - low)),))
    kinds = f"polygon, bitmap, rectangle, {', '.join(_WITHOUT_AREA)}"
    raise InputError(f"{place}: geometryType = {kind!r}, expected one of {kinds}")


def _bitmap(text: str, place: str) -> Any:
    try:
        unpacking = zlib.decompressobj()
        data = unpacking.decompress(base64.b64decode(text), _MAX_BYTES)
    except (ValueError, binascii.Error, zlib.error, MemoryError) as error:
        raise InputError(f"{place}: data = {text[:40]!r}, expected a PNG file, packed by zlib, in base64") from error
    return png_mask(data, f"{place}: data")
