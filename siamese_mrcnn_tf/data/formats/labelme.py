"""Annotations of LabelMe: a JSON file for each image.

The format is that of github.com/wkentaro/labelme, `labelme/label_file.py` and `labelme/shape.py`. A mask lies in the
box of its two points, which are its first and its last pixel.
"""

import base64
import binascii
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ...io import files
from ...io.errors import InputError
from .common import (
    ImportedImage,
    ImportedObject,
    checked_points,
    decoded_png,
    ellipse_outline,
    log_left_out,
    rectangle_outline,
    required,
)

_CORNERS = 4  # of a rectangle as LabelMe's oriented_rectangle and the tools after LabelMe write it
_TURNED = ("oriented_rectangle", "rotation")  # LabelMe's name and that of X-AnyLabeling
_WITHOUT_AREA = ("point", "points", "line", "linestrip")


def read_labelme(paths: Iterable[Path]) -> list[ImportedImage]:
    """The images of LabelMe files, or of the files in folders and below them.

    Shapes with the same label and `group_id` are one object. Points and lines are left out, with a warning.

    Raises:
        ValueError: names the file, the shape, the key and the value.
    """
    left_out: list[str] = []
    images = [_image(file, folder, left_out) for file, folder in _files(paths)]
    log_left_out(left_out, "points and lines", "they have no area")
    return images


def _files(paths: Iterable[Path]) -> list[tuple[Path, Path]]:
    """(file, folder that was given or the file's own) of each file."""
    found = []
    for path in paths:
        inside = sorted(path.rglob("*.json")) if path.is_dir() else [path]
        kept = [file for file in inside if not files.is_companion(file)]
        found += [(file, path if path.is_dir() else file.parent) for file in kept]
    return found


def _image(path: Path, folder: Path, left_out: list[str]) -> ImportedImage:
    content: Any = files.read_json(path)
    name = required(content, "imagePath", str, str(path))
    shapes = required(content, "shapes", list, str(path))
    objects = []
    for number, shape in enumerate(shapes, 1):
        place = f"{path}: shape {number}"
        kind = shape.get("shape_type") or "polygon" if isinstance(shape, dict) else ""
        if kind in _WITHOUT_AREA:
            left_out.append(place)
            continue
        objects.append(_object(shape, kind, place))
    data = content.get("imageData")
    relative = path.parent.relative_to(folder).as_posix()
    inside = name if relative == "." else f"{relative}/{name}"
    size = content.get("imageHeight"), content.get("imageWidth")
    known = (int(size[0]), int(size[1])) if all(type(side) is int and side > 0 for side in size) else None
    embedded = _decoded(data, path) if data else None
    return ImportedImage(inside, str(path), tuple(objects), folder=folder, data=embedded, size=known)


def _decoded(data: Any, path: Path) -> bytes:
    try:
        return base64.b64decode(data)
    except (TypeError, ValueError, binascii.Error) as error:
        raise InputError(f"{path}: imageData: expected an image file in base64 ({error})") from error


def _object(shape: Any, kind: str, place: str) -> ImportedObject:
    label = required(shape, "label", str, place)
    group = shape.get("group_id")
    found: dict[str, Any] = {"group": "" if group is None else str(group), "place": place, "category": label}
    points = required(shape, "points", list, place)
    if kind == "polygon" or kind in _TURNED or (kind == "rectangle" and len(points) == _CORNERS):
        return ImportedObject(outlines=(checked_points(points, place),), **found)
    if kind not in ("rectangle", "circle", "mask"):
        kinds = ", ".join(("polygon", "rectangle", *_TURNED, "circle", "mask", *_WITHOUT_AREA))
        raise InputError(f"{place}: shape_type = {kind!r}, expected one of {kinds}")
    corners = checked_points(points, place, minimum=1 if kind == "mask" else 2)  # a mask may be one pixel
    if len(corners) != 2:
        raise InputError(f"{place}: {kind} of {len(corners)} points, expected 2")
    if kind == "rectangle":
        low, high = corners.min(axis=0), corners.max(axis=0)
        return ImportedObject(outlines=(rectangle_outline(*low, *(high - low)),), **found)
    if kind == "circle":
        radius = float(np.linalg.norm(corners[1] - corners[0]))
        return ImportedObject(outlines=(ellipse_outline(corners[0], (radius, radius)),), **found)
    mask = decoded_png(required(shape, "mask", str, place), f"{place}: mask")
    x, y = np.rint(corners.min(axis=0)).astype(int).tolist()
    return ImportedObject(mask=mask, corner=(x, y), **found)
