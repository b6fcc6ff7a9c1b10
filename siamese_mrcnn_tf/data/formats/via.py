"""Annotations of the VGG Image Annotator (VIA): reading, categories and outlines of regions.

Reads the JSON and CSV annotations of VIA 1 and VIA 2, and the project files of VIA 2. Coordinates are (x, y) in pixels
of the image as a browser shows it, turned by its EXIF orientation.
"""

import collections
import contextlib
import csv
import dataclasses
import io
import itertools
import logging
import reprlib
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...io import files
from ...io.errors import InputError
from ...io.json_text import parse_json
from .common import checked_number, ellipse_outline, rectangle_outline, required

logger = logging.getLogger(__name__)

USUAL_ATTRIBUTES = ("name", "label", "class", "type", "category")  # of regions, for what they show

_LIMIT_LOCK = threading.Lock()  # the limit of cells is that of the process
_COLUMNS = "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes"


@dataclasses.dataclass(frozen=True)
class Region:
    """A region of an image."""

    place: str  # its name in messages: annotation file, image, and number, from 1 on as in VIA
    shape: dict[str, Any]  # VIA's shape attributes, {"name": "rect", "x": ...}, in pixels
    attributes: dict[str, Any]  # VIA's region attributes by name: text, or a dict from option to whether it is ticked


@dataclasses.dataclass(frozen=True)
class AnnotatedImage:
    """An image in VIA: its file name there, its annotation file, and its regions."""

    name: str
    source: str
    regions: tuple[Region, ...]

    @property
    def place(self) -> str:
        """Its name in messages."""
        return f"{self.source}: image {self.name!r}"


Regions = Sequence[Region]


def read_via(paths: Iterable[files.StrPath]) -> list[AnnotatedImage]:
    """The images in annotation files of VIA, in the order of the files.

    Raises:
        ValueError: names the file, the image, the region, the key and the value.
    """
    found, read = [], list(map(Path, paths))
    for path in read:
        entries = _csv_entries(path) if path.suffix.lower() == ".csv" else _json_entries(path)
        found += [_image(path, key, entry) for key, entry in entries.items()]
    return named_once(found, read)


def named_once(found: Iterable[AnnotatedImage], paths: Iterable[Path]) -> list[AnnotatedImage]:
    """The images of some files, in their order; ValueError if there are none, or two have the same name."""
    images: dict[str, AnnotatedImage] = {}
    for image in found:
        if image.name in images:
            raise InputError(f"{image.place}: {images[image.name].source} has it already; expected each name once")
        images[image.name] = image
    if not images:
        raise InputError(f"{', '.join(map(str, paths)) or 'no file'}: no images in it, expected annotations of VIA")
    return list(images.values())


# ---- categories ----------------------------------------------------------------------------------------------------


def region_categories(
    regions: Regions, attribute: str | None = None, category: str | None = None, categories: Iterable[str] | None = None
) -> tuple[list[str], dict[str, int]]:
    """The category of each region, and the category ids by name, from 1 on.

    Args:
        attribute: the region attribute that holds the category; None finds it (`find_attribute`).
        category: one category for all regions, whatever their attributes.
        categories: all categories in the order of their ids; None sorts the categories found by name.

    Raises:
        ValueError: names the region, or the attributes found; there are no regions.
    """
    if not regions:
        raise InputError("no regions with an area: there is nothing to learn from")
    if category is not None:
        names = [category] * len(regions)
    else:
        attribute = find_attribute(regions) if attribute is None else attribute
        names = [_category(region, attribute, regions) for region in regions]
    order = sorted(set(names)) if categories is None else list(categories)
    if not order or not all(order) or len(set(order)) < len(order):
        raise InputError(f"categories {order}: expected names, each once")
    for region, name in zip(regions, names, strict=True):
        if name not in order:
            raise InputError(f"{region.place}: category {name!r}, expected one of {', '.join(order)}")
    return names, {name: number for number, name in enumerate(order, start=1)}


def find_attribute(regions: Regions) -> str:
    """The region attribute that holds the category: the only one, or the only one that all regions have.

    If all regions have several, it is the one with a usual name (USUAL_ATTRIBUTES, in upper or lower case).

    Raises:
        ValueError: none or several could be it; names the attributes found.
    """
    counts = _attribute_counts(regions)
    shared = [name for name, count in counts.items() if count == len(regions)]
    usual = [name for name in shared if name.lower() in USUAL_ATTRIBUTES]
    for candidates in (list(counts), shared, usual):
        if len(candidates) == 1:
            return candidates[0]
    file = regions[0].place.partition(": ")[0]
    raise InputError(f"{file}: which region attribute holds the category? {_attributes_text(regions)}")


def _attribute_counts(regions: Regions) -> collections.Counter[str]:
    """The number of regions with a value, by attribute."""
    attributes = itertools.chain.from_iterable(region.attributes.items() for region in regions)
    return collections.Counter(name for name, value in attributes if value not in ("", {}, None))


def _attributes_text(regions: Regions) -> str:
    counts = [f"{name!r} ({count} of {len(regions)})" for name, count in sorted(_attribute_counts(regions).items())]
    there = f"the regions have {', '.join(counts)}" if counts else "the regions have no attributes with values"
    return f"{there}; name an attribute, or one category for all regions"


def _category(region: Region, attribute: str, regions: Regions) -> str:
    value = region.attributes.get(attribute, "")
    if isinstance(value, dict):
        ticked = [option for option, is_ticked in value.items() if is_ticked is True]
        if len(ticked) != 1:
            raise InputError(f"{region.place}: {attribute} has {ticked or 'nothing'} ticked, expected one option")
        value = ticked[0]
    if not isinstance(value, str):
        raise InputError(f"{region.place}: {attribute} = {reprlib.repr(value)}, expected text or ticked options")
    if not value.strip():
        raise InputError(f"{region.place}: the attribute {attribute!r} has no value; {_attributes_text(regions)}")
    return value.strip()


# ---- shapes --------------------------------------------------------------------------------------------------------


def region_outline(region: Region) -> np.ndarray:
    """The polygon of a region, not clipped to the image: float64 [points, (x, y)] in pixels.

    A polyline is closed. A circle or an ellipse has enough points that no chord is farther than a twentieth of a pixel
    from its arc.

    Raises:
        ValueError: a point, another unknown shape, or a shape that encloses nothing; names the region.
    """
    name = region.shape.get("name")
    if not isinstance(name, str) or name not in _OUTLINES:
        raise InputError(f"{region.place}: shape name = {name!r}, expected one of {', '.join(_OUTLINES)}")
    return _OUTLINES[name](region)


def clip_outline(outline: np.ndarray, height: int, width: int) -> np.ndarray:
    """The part of a polygon [points, (x, y)] inside an image; no points if there is none."""
    from matplotlib import path, transforms  # slow to import

    closed = path.Path(np.concatenate([outline, outline[:1]]), closed=True)
    parts = closed.clip_to_bbox(transforms.Bbox([[0, 0], [width, height]])).to_polygons(closed_only=False)
    return np.concatenate([np.zeros((0, 2)), *(np.asarray(part)[:-1] for part in parts)])


def _polygon(region: Region) -> np.ndarray:
    points = []
    for key in ("all_points_x", "all_points_y"):
        points.append(required(region.shape, key, list, region.place))
        for index, value in enumerate(points[-1]):
            checked_number(value, f"{region.place}: {key}[{index}]")
    if len(points[0]) != len(points[1]):
        counts = f"all_points_x has {len(points[0])} values, all_points_y {len(points[1])}"
        raise InputError(f"{region.place}: {counts}, expected as many of both")
    outline = np.array(points, np.float64).T
    if len(set(map(tuple, outline.tolist()))) < 3:
        raise InputError(f"{region.place}: {region.shape['name']} of {len(outline)} points, expected 3 different ones")
    return outline


def _rectangle(region: Region) -> np.ndarray:
    x, y = (_number(region, key) for key in ("x", "y"))
    return rectangle_outline(x, y, *(_number(region, key, is_size=True) for key in ("width", "height")))


def _ellipse(region: Region) -> np.ndarray:
    """An ellipse turned by theta (radians, from the x axis towards the y axis), which early VIA lacks, or a circle."""
    keys = ("r", "r") if region.shape["name"] == "circle" else ("rx", "ry")
    radii = [_number(region, key, is_size=True) for key in keys]
    angle = _number(region, "theta") if "theta" in region.shape else 0.0
    return ellipse_outline((_number(region, "cx"), _number(region, "cy")), radii, angle)


_OUTLINES = {"polygon": _polygon, "polyline": _polygon, "rect": _rectangle, "ellipse": _ellipse, "circle": _ellipse}


def _number(region: Region, key: str, *, is_size: bool = False) -> float:
    """A number among the shape attributes, in pixels or radians."""
    value = required(region.shape, key, object, region.place)
    return checked_number(value, f"{region.place}: {key}", is_size=is_size)


# ---- reading -------------------------------------------------------------------------------------------------------


def _json_entries(path: Path) -> dict[str, Any]:
    """VIA's entries of images by their key, from an annotation or a project file."""
    content: Any = files.read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected annotations of VIA, a dict of images")
    if "_via_img_metadata" in content:
        content = required(content, "_via_img_metadata", dict, str(path))
    elif {"images", "annotations"} <= content.keys():
        raise InputError(f"{path}: a COCO file; put it into a COCO-format tree, it needs no conversion")
    entries: dict[str, Any] = content
    return entries


def _csv_entries(path: Path) -> dict[str, Any]:
    """As `_json_entries`, from an exported table."""
    entries: dict[str, Any] = {}
    counts = {}
    for number, row in _csv_rows(path):
        place = f"{path}: line {number}, image {row['filename']!r}"
        shape, attributes = (_csv_dict(row, key, place) for key in ("region_shape_attributes", "region_attributes"))
        key = row["filename"] + row["file_size"]
        regions = entries.setdefault(key, {"filename": row["filename"], "regions": []})["regions"]
        counts[key] = row["region_count"]
        if shape or attributes:  # an image without regions has a row of its own
            regions.append({"shape_attributes": shape, "region_attributes": attributes})
    for key, entry in entries.items():
        found = str(len(entry["regions"]))
        if counts[key] != found:
            logger.warning("%s: image %r: region_count = %s, found %s", path, entry["filename"], counts[key], found)
    return entries


def is_table(path: files.StrPath) -> bool:
    """Whether a CSV file has VIA's header."""
    return files.read_text(path).lstrip("\ufeff#").startswith(_COLUMNS)


@contextlib.contextmanager
def _field_limit(characters: int) -> Iterator[None]:
    """Context in which a cell of a table may have this many characters; usually they are 131,072."""
    with _LIMIT_LOCK:
        usual = csv.field_size_limit(max(characters, csv.field_size_limit()))
        try:
            yield
        finally:
            csv.field_size_limit(usual)


def _csv_rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """(line number, cells by column) of the rows of a table."""
    text = files.read_text(path)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    with _field_limit(len(text)):
        try:
            rows = [(reader.line_num, row) for row in reader if row]
        except csv.Error as error:
            raise InputError(f"{path}: line {reader.line_num}: no row of a table ({error})") from error
    if not rows or ",".join(rows[0][1]).removeprefix("#") != _COLUMNS:
        raise InputError(f"{path}: expected a table of VIA with the header {_COLUMNS}")
    columns = _COLUMNS.split(",")
    for number, row in rows[1:]:
        if len(row) != len(columns):
            raise InputError(f"{path}: line {number}: {len(row)} columns, expected {len(columns)}")
    return [(number, dict(zip(columns, row, strict=True))) for number, row in rows[1:]]


def _csv_dict(row: dict[str, str], key: str, place: str) -> dict[str, Any]:
    """The JSON dict in a cell."""
    try:
        value = parse_json(row[key])
    except ValueError as error:
        raise InputError(f"{place}: {key} = {reprlib.repr(row[key])}, expected JSON ({error})") from error
    if not isinstance(value, dict):
        raise InputError(f"{place}: {key} = {reprlib.repr(row[key])}, expected a dict")
    return value


def _image(path: Path, key: str, entry: Any) -> AnnotatedImage:
    image = AnnotatedImage(required(entry, "filename", str, f"{path}: {key!r}"), str(path), ())
    regions = required(entry, "regions", dict | list, image.place)
    regions = regions.values() if isinstance(regions, dict) else regions  # VIA 1 has a dict: "0", "1", ...
    found = []
    for number, region in enumerate(regions, 1):
        place = f"{image.place}, region {number}"
        shape, attributes = (required(region, key, dict, place) for key in ("shape_attributes", "region_attributes"))
        found.append(Region(place, shape, attributes))
    return dataclasses.replace(image, regions=tuple(found))
