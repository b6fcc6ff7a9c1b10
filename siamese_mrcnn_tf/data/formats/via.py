"""Annotations of the VGG Image Annotator (VIA): reading them, the categories and the polygons of their regions.

Read are the annotations that VIA 1 and VIA 2 export, as JSON or CSV, and the project files of VIA 2. Coordinates are
(x, y) in pixels of the picture as the browser shows it: turned as the camera's orientation tag says.
"""

import collections
import csv
import dataclasses
import io
import json
import logging
import math
import reprlib
from pathlib import Path

import numpy as np

from ...io import files

logger = logging.getLogger(__name__)

USUAL_ATTRIBUTES = ("name", "label", "class", "type", "category")  # of regions, for what they show

_COLUMNS = (
    "filename",
    "file_size",
    "file_attributes",
    "region_count",
    "region_id",
    "region_shape_attributes",
    "region_attributes",
)
_FARTHEST = 1e6  # pixels from the corner of a picture; what is farther is no coordinate in one
_ARC_ERROR = 0.05  # pixels between an arc and the polygon that stands for it, at most


@dataclasses.dataclass(frozen=True)
class Region:
    """A region of a picture.

    Attributes:
        place: what messages call it: the annotation file, the picture, and its number, from 1 on as VIA shows it.
        shape: VIA's shape attributes, {"name": "rect", "x": ...}, in pixels.
        attributes: VIA's region attributes by name: text, or a dict of options that are ticked or not.
    """

    place: str
    shape: dict
    attributes: dict


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture that VIA knows: its file name there, the annotation file that names it, and its regions."""

    name: str
    source: str
    regions: tuple

    @property
    def place(self):
        """What messages call it."""
        return f"{self.source}: picture {self.name!r}"


def read_via(paths):
    """The pictures in annotation files of VIA, in the order of the files: list of Picture.

    Raises:
        ValueError: names the file, the picture, the region, the key and the value.
    """
    pictures = {}
    for path in map(Path, paths):
        entries = _csv_entries(path) if path.suffix.lower() == ".csv" else _json_entries(path)
        for key, entry in entries.items():
            picture = _picture(path, key, entry)
            if picture.name in pictures:
                other = pictures[picture.name].source
                raise ValueError(f"{picture.place}: {other} has it already; expected each file name once")
            pictures[picture.name] = picture
    if not pictures:
        raise ValueError(f"{', '.join(map(str, paths)) or 'no file'}: no pictures in it, expected annotations of VIA")
    return list(pictures.values())


# ---- categories ----------------------------------------------------------------------------------------------------


def region_categories(regions, attribute=None, category=None, categories=None):
    """What regions show.

    Args:
        regions: sequence of Region.
        attribute: the region attribute that holds the category; None finds it (`find_attribute`).
        category: one category for all regions, whatever their attributes.
        categories: all categories in the order of their ids; None sorts by name those that there are.

    Returns:
        names: list with the category of each region.
        ids: dict of category ids by name, from 1 on.

    Raises:
        ValueError: names the region, or the attributes that there are; there are no regions.
    """
    if not regions:
        raise ValueError("no regions with an area: there is nothing to learn from")
    if category is not None:
        names = [category] * len(regions)
    else:
        attribute = find_attribute(regions) if attribute is None else attribute
        names = [_category(region, attribute, regions) for region in regions]
    order = sorted(set(names)) if categories is None else list(categories)
    if not order or not all(order) or len(set(order)) < len(order):
        raise ValueError(f"categories {order}: expected names, each once")
    for region, name in zip(regions, names, strict=True):
        if name not in order:
            raise ValueError(f"{region.place}: category {name!r}, expected one of {', '.join(order)}")
    return names, {name: number for number, name in enumerate(order, start=1)}


def find_attribute(regions):
    """The region attribute that holds the category: the only one there is, or that all regions have.

    Of several that all regions have, it is the one with a usual name (USUAL_ATTRIBUTES, in upper or lower case).

    Raises:
        ValueError: none or several could be it; names those that there are.
    """
    counts = _attribute_counts(regions)
    shared = [name for name, count in counts.items() if count == len(regions)]
    usual = [name for name in shared if name.lower() in USUAL_ATTRIBUTES]
    for candidates in (list(counts), shared, usual):
        if len(candidates) == 1:
            return candidates[0]
    raise ValueError(f"which region attribute holds the category? {_attributes_text(regions)}")


def _attribute_counts(regions):
    """In how many regions each attribute has a value."""
    return collections.Counter(
        name for region in regions for name, value in region.attributes.items() if value not in ("", {}, None)
    )


def _attributes_text(regions):
    counts = [f"{name!r} ({count} of {len(regions)})" for name, count in sorted(_attribute_counts(regions).items())]
    there = f"the regions have {', '.join(counts)}" if counts else "the regions have no attributes with values"
    return f"{there}; name an attribute, or one category for all regions"


def _category(region, attribute, regions):
    """The category that an attribute of a region holds."""
    value = region.attributes.get(attribute, "")
    if isinstance(value, dict):
        return _ticked(region, attribute, value)
    if not isinstance(value, str):
        raise ValueError(f"{region.place}: {attribute} = {reprlib.repr(value)}, expected text or ticked options")
    if not value.strip():
        raise ValueError(f"{region.place}: the attribute {attribute!r} has no value; {_attributes_text(regions)}")
    return value.strip()


def _ticked(region, attribute, options):
    ticked = [option for option, is_ticked in options.items() if is_ticked is True]
    if len(ticked) != 1:
        raise ValueError(f"{region.place}: {attribute} has {ticked or 'nothing'} ticked, expected one option")
    return ticked[0].strip()


# ---- shapes --------------------------------------------------------------------------------------------------------


def region_outline(region):
    """The polygon of a region, not cut off at the picture: float64 [points, (x, y)] in pixels.

    A polyline is taken as closed. The points of a circle or an ellipse are so many that no arc is farther than a
    twentieth of a pixel from its chord.

    Raises:
        ValueError: a point, another shape that is unknown, or one that encloses nothing; names the region.
    """
    name = region.shape.get("name")
    if name not in _OUTLINES:
        raise ValueError(f"{region.place}: shape name = {name!r}, expected one of {', '.join(_OUTLINES)}")
    return _OUTLINES[name](region)


def clip_outline(outline, height, width):
    """The part of a polygon [points, (x, y)] inside a picture; no points where there is none."""
    for axis, limit in ((0, width), (1, height)):
        outline = _cut(outline, outline[:, axis])
        outline = _cut(outline, limit - outline[:, axis])
    return outline


def _cut(outline, inside):
    """The part of a polygon [points, 2] on one side of a line: where `inside` [points], the distance to it, is >= 0."""
    kept = []
    for index, distance in enumerate(inside):
        following = (index + 1) % len(inside)
        if distance >= 0:
            kept.append(outline[index])
        if (distance >= 0) != (inside[following] >= 0):
            share = distance / (distance - inside[following])
            kept.append(outline[index] + share * (outline[following] - outline[index]))
    return np.array(kept, np.float64).reshape(-1, 2)


def _polygon(region):
    points = [_required(region.shape, key, list, region.place) for key in ("all_points_x", "all_points_y")]
    for key, values in zip(("all_points_x", "all_points_y"), points, strict=True):
        for index, value in enumerate(values):
            _check_number(value, f"{region.place}: {key}[{index}]")
    if len(points[0]) != len(points[1]):
        counts = f"all_points_x has {len(points[0])} values, all_points_y {len(points[1])}"
        raise ValueError(f"{region.place}: {counts}, expected as many of both")
    outline = np.array(points, np.float64).T
    if len(set(map(tuple, outline.tolist()))) < 3:
        raise ValueError(f"{region.place}: {region.shape['name']} of {len(outline)} points, expected 3 different ones")
    return outline


def _rectangle(region):
    x, y = (_number(region, key) for key in ("x", "y"))
    width, height = (_extent(region, key) for key in ("width", "height"))
    return np.array([(x, y), (x + width, y), (x + width, y + height), (x, y + height)], np.float64)


def _circle(region):
    radius = _extent(region, "r")
    return _arc(region, radius, radius, 0.0)


def _ellipse(region):
    angle = _number(region, "theta") if "theta" in region.shape else 0.0  # the first ellipses of VIA have no angle
    return _arc(region, _extent(region, "rx"), _extent(region, "ry"), angle)


def _arc(region, radius_x, radius_y, angle):
    """Polygon of an ellipse that is turned by `angle` (radians, from the x axis towards the y axis)."""
    center = np.array([_number(region, "cx"), _number(region, "cy")], np.float64)
    largest = max(radius_x, radius_y, 1.0)
    count = math.ceil(math.pi / math.acos(1 - _ARC_ERROR / largest))
    steps = np.linspace(0, 2 * np.pi, count, endpoint=False)
    points = np.stack([radius_x * np.cos(steps), radius_y * np.sin(steps)], axis=1)
    cosine, sine = math.cos(angle), math.sin(angle)
    return points @ np.array([(cosine, sine), (-sine, cosine)]) + center


_OUTLINES = {"polygon": _polygon, "polyline": _polygon, "rect": _rectangle, "ellipse": _ellipse, "circle": _circle}


def _number(region, key):
    """A number among the shape attributes, in pixels or radians."""
    value = _required(region.shape, key, object, region.place)
    _check_number(value, f"{region.place}: {key}")
    return value


def _extent(region, key):
    """A size among the shape attributes, in pixels."""
    value = _number(region, key)
    if value <= 0:
        raise ValueError(f"{region.place}: {key} = {value!r}, expected a size above 0")
    return value


def _check_number(value, place):
    if type(value) not in (int, float) or not -_FARTHEST < value < _FARTHEST:
        raise ValueError(f"{place} = {reprlib.repr(value)}, expected a number below {_FARTHEST:.0f} in size")


# ---- reading -------------------------------------------------------------------------------------------------------


def _json_entries(path):
    """VIA's entries of pictures by their key, from an annotation or a project file."""
    content = files.read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected annotations of VIA, a dict of pictures")
    if "_via_img_metadata" in content:
        return _required(content, "_via_img_metadata", dict, path)
    if {"images", "annotations"} <= content.keys():
        raise ValueError(f"{path}: a COCO file; put it into a COCO-format tree, it needs no conversion")
    if {"project", "metadata", "view"} <= content.keys():
        raise ValueError(f"{path}: a project of VIA 3, expected annotations of VIA 1 or VIA 2")
    return content


def _csv_entries(path):
    """What `_json_entries` returns, from an exported table."""
    entries, counts = {}, {}
    for number, row in _csv_rows(path):
        name, size, count, shape, attributes = (row[column] for column in (0, 1, 3, 5, 6))
        shape = _csv_dict(shape, f"{path}: line {number}, picture {name!r}: {_COLUMNS[5]}")
        attributes = _csv_dict(attributes, f"{path}: line {number}, picture {name!r}: {_COLUMNS[6]}")
        regions = entries.setdefault(name + size, {"filename": name, "regions": []})["regions"]
        counts[name + size] = count
        if shape or attributes:  # a picture without regions has a row of its own
            regions.append({"shape_attributes": shape, "region_attributes": attributes})
    for key, entry in entries.items():
        if counts[key] != str(len(entry["regions"])):
            found = len(entry["regions"])
            logger.warning("%s: picture %r: region_count = %s, found %s", path, entry["filename"], counts[key], found)
    return entries


def _csv_rows(path):
    """(line number, cells) of the rows of a table, its header checked and left out."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        rows = [(reader.line_num, row) for row in reader if row]
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text at byte {error.start}") from error
    except csv.Error as error:
        raise ValueError(f"{path}: line {reader.line_num}: no row of a table ({error})") from error
    if not rows or ",".join(rows[0][1]).removeprefix("#") != ",".join(_COLUMNS):
        raise ValueError(f"{path}: expected a table of VIA with the header {','.join(_COLUMNS)}")
    for number, row in rows[1:]:
        if len(row) != len(_COLUMNS):
            raise ValueError(f"{path}: line {number}: {len(row)} columns, expected {len(_COLUMNS)}")
    return rows[1:]


def _csv_dict(text, place):
    try:
        value = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{place} = {reprlib.repr(text)}, expected JSON ({error})") from error
    if not isinstance(value, dict):
        raise ValueError(f"{place} = {reprlib.repr(text)}, expected a dict")
    return value


def _picture(path, key, entry):
    name = _required(entry, "filename", str, f"{path}: {key!r}")
    picture = Picture(name, str(path), ())
    regions = _required(entry, "regions", (dict, list), picture.place)
    regions = regions.values() if isinstance(regions, dict) else regions  # VIA 1 has a dict: "0", "1", ...
    return dataclasses.replace(
        picture,
        regions=tuple(_region(f"{picture.place}, region {number}", entry) for number, entry in enumerate(regions, 1)),
    )


def _region(place, entry):
    shape, attributes = (_required(entry, key, dict, place) for key in ("shape_attributes", "region_attributes"))
    return Region(place, shape, attributes)


def _required(entry, key, kind, place):
    """The value of a key, which has to be there and of a kind."""
    if not isinstance(entry, dict):
        raise ValueError(f"{place}: {reprlib.repr(entry)}, expected a dict")
    if key not in entry:
        raise ValueError(f"{place}: the key {key!r} is missing")
    if not isinstance(entry[key], kind):
        kinds = " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
        raise ValueError(f"{place}: {key} = {reprlib.repr(entry[key])}, expected a {kinds}")
    return entry[key]
