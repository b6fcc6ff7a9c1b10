"""Annotations of CVAT in its own format, "CVAT for images 1.1": one XML file.

The format is described in docs.cvat.ai, "XML annotation format". The runs of a mask are those of its box, row by row,
the first of background. Coordinates are of pixels' corners.
"""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from ...io import decoding
from ...io.errors import InputError
from ..layouts import subset_of
from .common import (
    ImportedImage,
    ImportedObject,
    checked_points,
    ellipse_outline,
    log_left_out,
    parsed_number,
    read_xml,
    rectangle_outline,
)

_WITHOUT_AREA = ("points", "polyline", "cuboid", "skeleton", "tag")


def read_cvat(paths: Iterable[Path]) -> list[ImportedImage]:
    """The images of CVAT's XML files, with the subsets of the task.

    Shapes of a group (`group_id`) with one label are one object, as in CVAT's COCO export. Points, polylines, cuboids
    and skeletons are left out, with a warning.

    Raises:
        ValueError: names the file, the image, the shape, the attribute and the value; annotations of a video.
    """
    images, left_out = [], list[str]()
    for path in paths:
        root = read_xml(path)
        if root.tag != "annotations":
            raise InputError(f"{path}: <{root.tag}>, expected <annotations> as CVAT for images 1.1 writes it")
        if root.find("track") is not None:
            advice = "export the task as 'CVAT for images 1.1', with its images"
            raise InputError(f"{path}: CVAT for video 1.1, whose tracks have no images of their own; {advice}")
        images += [_image(element, path, left_out) for element in root.findall("image")]
    log_left_out(left_out, ", ".join(_WITHOUT_AREA), "they have no area")
    return images


def _image(element: Element, path: Path, left_out: list[str]) -> ImportedImage:
    name = element.get("name", "")
    place = f"{path}: image {name!r}"
    if not name:
        raise InputError(f"{path}: image {element.get('id')}: the attribute 'name' is missing")
    objects = []
    for number, shape in enumerate(element, 1):
        where = f"{place}, shape {number} ({shape.tag})"
        if shape.tag in _WITHOUT_AREA:
            left_out += [where] if shape.tag != "tag" else []
            continue
        objects.append(_object(shape, where))
    size = tuple(round(parsed_number(element.get(key), f"{place}: {key}", is_size=True)) for key in ("height", "width"))
    decoding.require_pixels(size[0], size[1], place)
    subset = subset_of(element.get("subset", ""))
    return ImportedImage(name, place, tuple(objects), subset=subset, size=(size[0], size[1]))


def _object(shape: Element, place: str) -> ImportedObject:
    label, group = shape.get("label", ""), shape.get("group_id", "0")
    found: dict[str, Any] = {"place": place, "category": label, "group": "" if group == "0" else group}
    if not label:
        raise InputError(f"{place}: the attribute 'label' is missing")

    def number(key: str, *, is_size: bool = False) -> float:
        return parsed_number(shape.get(key), f"{place}: {key}", is_size=is_size)

    angle = math.radians(number("rotation")) if shape.get("rotation") else 0.0
    if shape.tag == "polygon":
        return ImportedObject(outlines=(_points(shape, place),), **found)
    if shape.tag == "box":
        x, y, x2, y2 = (number(key) for key in ("xtl", "ytl", "xbr", "ybr"))
        return ImportedObject(outlines=(rectangle_outline(x, y, x2 - x, y2 - y, angle),), **found)
    if shape.tag == "ellipse":
        radii = number("rx", is_size=True), number("ry", is_size=True)
        return ImportedObject(outlines=(ellipse_outline((number("cx"), number("cy")), radii, angle),), **found)
    if shape.tag == "mask":
        x, y, width, height = (round(number(key)) for key in ("left", "top", "width", "height"))
        return ImportedObject(mask=_mask(shape, width, height, place), corner=(x, y), **found)
    raise InputError(f"{place}: expected polygon, box, ellipse, mask, {', '.join(_WITHOUT_AREA)}")


def _points(shape: Element, place: str) -> np.ndarray:
    pairs = [pair.split(",") for pair in shape.get("points", "").split(";") if pair.strip()]
    numbers = [[parsed_number(text, f"{place}: points[{i}]") for text in pair] for i, pair in enumerate(pairs)]
    return checked_points(numbers, place)


def _mask(shape: Element, width: int, height: int, place: str) -> np.ndarray:
    """The mask bool [height, width] of runs such as "3, 5, 4"."""
    decoding.require_pixels(max(height, 0), max(width, 0), f"{place}: height and width")
    try:
        runs = np.array([int(run) for run in shape.get("rle", "").split(",")])
        fits = width > 0 and height > 0 and (runs >= 0).all() and runs.sum() == width * height
    except (ValueError, OverflowError):
        fits = False
    if not fits:
        raise InputError(f"{place}: rle = {shape.get('rle', '')[:40]!r}, expected runs of {width} x {height} pixels")
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(height, width)
