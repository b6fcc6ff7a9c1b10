"""Projects of VIA 3, as regions of VIA 2.

The format is that of gitlab.com/vgg/via, `via-3.x.y/src/js/_via_metadata.js` and `_via_attribute.js`. Extreme
rectangles and circles are stored by the points that were clicked on their edges (`_via_file_annotator.js`).
"""

import reprlib
from pathlib import Path
from typing import Any

import numpy as np

from ...io.errors import InputError
from .common import checked_number, required
from .via import AnnotatedImage, Region

_SHAPES = {  # VIA 3's numbers: VIA 2's name and keys
    1: ("point", ("cx", "cy")),
    2: ("rect", ("x", "y", "width", "height")),
    3: ("circle", ("cx", "cy", "r")),
    4: ("ellipse", ("cx", "cy", "rx", "ry")),
    5: ("polyline", ()),
    6: ("polyline", ()),
    7: ("polygon", ()),
    8: ("rect", ()),
    9: ("circle", ()),
}
_EXTREME_POINTS = {8: 4, 9: 3}  # points on the edge of a rectangle, or of a circle
_LINE = 5
_MIN_TURN = 1e-6  # square pixels between two chords of a circle; on one line they have none
_IMAGE_FILE = 2  # type of a file
_CHECKBOX, _CHOICES = 2, (3, 4)  # types of attributes: several options, one of several


def is_via3(content: Any) -> bool:
    """Whether the content of a JSON file is of VIA 3."""
    if not isinstance(content, dict):
        return False
    return "_via3" in content or {"project", "metadata", "view"} <= content.keys()


def read_project(path: Path, content: dict[str, Any]) -> list[AnnotatedImage]:
    """The images of a project with their regions; ValueError names the entry."""
    names, attributes = required(content, "file", dict, str(path)), required(content, "attribute", dict, str(path))
    views = required(content, "view", dict, str(path)) if "view" in content else {}
    regions: dict[str, list[Region]] = {}
    owner: dict[str, str] = {}
    for key, view in views.items():
        ids = required(view, "fid_list", list, f"{path}: view {key!r}")
        if len(ids) == 1 and str(ids[0]) in names:
            owner[key] = str(ids[0])
            regions[str(ids[0])] = []
    for key, entry in required(content, "metadata", dict, str(path)).items():
        place = f"{path}: metadata {key!r}"
        view = str(required(entry, "vid", str | int, place))
        numbers = required(entry, "xy", list, place)
        if numbers and view in owner:  # others describe whole files, or comparisons of several
            regions[owner[view]].append(_region(entry, numbers, attributes, place))
    found = []
    for key, kept in regions.items():
        place = f"{path}: file {key!r}"
        name = required(names[key], "fname", str, place)
        if names[key].get("type", _IMAGE_FILE) == _IMAGE_FILE:
            found.append(AnnotatedImage(name, str(path), tuple(kept)))
    return found


def _region(entry: dict[str, Any], numbers: list[Any], attributes: dict[str, Any], place: str) -> Region:
    kind, values = numbers[0], [checked_number(value, f"{place}: xy") for value in numbers[1:]]
    if type(kind) is not int or kind not in _SHAPES:
        raise InputError(f"{place}: xy[0] = {reprlib.repr(kind)}, expected the number of a shape, {list(_SHAPES)}")
    name, keys = _SHAPES[kind]
    if kind == _LINE:
        name = "point"  # as little area
    shape: dict[str, Any] = {"name": name}
    if kind in _EXTREME_POINTS:
        if len(values) != 2 * _EXTREME_POINTS[kind]:
            expected = f"{_EXTREME_POINTS[kind]} points (x, y) on the edge of a {name}"
            raise InputError(f"{place}: xy = {reprlib.repr(numbers)}, expected {expected}")
        points = np.array(values).reshape(-1, 2)
        shape |= _rectangle_around(points) if name == "rect" else _circle_through(points, place)
    elif keys:
        if len(values) != len(keys):
            raise InputError(f"{place}: xy = {reprlib.repr(numbers)}, expected {', '.join(keys)} of a {name}")
        shape |= dict(zip(keys, values, strict=True))
    else:
        shape |= {"all_points_x": values[::2], "all_points_y": values[1::2]}
    given = required(entry, "av", dict, place) if entry.get("av") is not None else {}
    known = {key: value for key, value in given.items() if isinstance(attributes.get(key), dict)}
    return Region(place, shape, dict(_attribute(attributes[key], value, place) for key, value in known.items()))


def _rectangle_around(points: np.ndarray) -> dict[str, float]:
    (x, y), (width, height) = points.min(axis=0).tolist(), np.ptp(points, axis=0).tolist()
    return {"x": x, "y": y, "width": width, "height": height}


def _circle_through(points: np.ndarray, place: str) -> dict[str, float]:
    """The circle through three points [3, (x, y)]: its centre is as far from the first as from the others."""
    chords = points[1:] - points[0]
    if abs(np.linalg.det(chords)) < _MIN_TURN:
        raise InputError(f"{place}: xy = {points.ravel().tolist()}, expected three points that are not on one line")
    centre = np.linalg.solve(2 * chords, (chords**2).sum(axis=1))
    cx, cy = (points[0] + centre).tolist()
    return {"cx": cx, "cy": cy, "r": float(np.linalg.norm(centre))}


def _attribute(attribute: dict[str, Any], value: Any, place: str) -> tuple[str, Any]:
    """(name, VIA 2's value) of an attribute of a region."""
    name = required(attribute, "aname", str, place)
    options = required(attribute, "options", dict, place) if attribute.get("options") else {}
    if attribute.get("type") == _CHECKBOX:
        return name, {str(options.get(one, one)): True for one in str(value).split(",") if one}
    return name, str(options.get(str(value), value)) if attribute.get("type") in _CHOICES else str(value)
