"""Repairs of annotations whose meaning is clear: other forms of polygons, objects without a mask, boxes that contradict
masks, crowds that are instances.

They change the content of an annotation file once, after it is read, so that training, references and evaluation see
the same objects. Boxes are [x, y, width, height] in pixels.
"""

import dataclasses
import itertools
import logging
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pycocotools.mask as coco_mask

from .outlines import MAX_COORDINATE, numbers_of
from .reading import ReadingRules

logger = logging.getLogger(__name__)

Entry = dict[str, Any]  # an annotation, image or category
Points = list[float]  # x, y, x, y, ... of a polygon

KINDS = {  # what was repaired, in words
    "crowds": "crowds (iscrowd 1) taken as instances",
    "point_lists": "polygons given as lists of points, read as polygons",
    "box_rectangles": "objects with a box but no mask: the box is their mask",
    "box_neutral": "objects with a box but no mask: neutral, like crowds",
    "no_extent": "objects without mask and box: left out",
    "wrong_boxes": "boxes that contradict their masks: the masks' boxes are used",
    "boxes_outside": "boxes that reach outside their images: clipped there",
}
MIN_POLYGON = 6  # numbers (x, y, ...) of a polygon that encloses something

_TOLERANCE = 1.5  # pixels by which the edges of a box and of its mask may differ: rounding, inclusive ends, thin tips
_BLOCK = 20_000  # annotations whose coordinates are in memory at a time
_SHOWN, _WIDTH = 5, 400  # annotations in a message, and its characters
_NUMBER = (int, float)
_MIN_SHARE = 0.5  # of the boxes beside masks that must have a form, for boxes without masks to be read in it


@dataclasses.dataclass(frozen=True)
class Repairs:
    """What was repaired in an annotation file.

    Attributes:
        found: kind (see KINDS) -> a text for each annotation.
        form: what most of the wrong boxes look like, empty if they look like nothing known.
    """

    found: dict[str, list[str]]
    form: str = ""

    def log(self, path: Any) -> None:
        """Warn of each kind, with the number of annotations and the first of them."""
        for kind, texts in self.found.items():
            if texts:
                more = f"; they look like {self.form}" if kind == "wrong_boxes" and self.form else ""
                shown = textwrap.shorten("; ".join(texts[:_SHOWN]), _WIDTH, placeholder=" ...")
                end = "; ..." if len(texts) > _SHOWN else ""
                logger.warning("%s: %d %s%s (%s%s)", path, len(texts), KINDS[kind], more, shown, end)


def plain_polygons(annotations: Sequence[Entry]) -> list[Entry]:
    """Turn other forms of polygons into [[x, y, x, y, ...], ...], in place; returns the changed annotations.

    Read as polygons are [[x, y], ...], [[[x, y], ...], ...], points as {"x", "y"}, and one flat list of numbers. A
    missing segmentation becomes an empty one. What is not understood stays as it is.
    """
    changed = []
    for annotation in _with_other_shapes(annotations):
        shape = annotation.get("segmentation", [])
        if "segmentation" not in annotation:
            annotation["segmentation"] = shape
        elif type(shape) is list and not _is_plain(shape):
            polygons = _as_polygons(shape)
            if polygons is not None and polygons != shape:
                annotation["segmentation"] = polygons
                changed += [annotation] if polygons else []
    return changed


def repair(
    content: dict[str, Any],
    rules: ReadingRules,
    mask_of: Callable[[Entry, int, int], Any],
    point_lists: Sequence[Entry] = (),
) -> Repairs:
    """Repair the annotations of a file that was read and checked, in place.

    Args:
        content: "images", "annotations" and "categories"; annotations without extent are removed.
        rules: how objects without masks and crowds are read.
        mask_of: (annotation, height, width) -> RLE.
        point_lists: what `plain_polygons` changed.
    """
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    names = {category["id"]: category["name"] for category in content["categories"]}
    file_names = {image["id"]: image["file_name"] for image in content["images"]}
    found: dict[str, list[str]] = {kind: [] for kind in KINDS}

    def named(annotation: Entry) -> str:
        category = names[annotation["category_id"]]
        return f"{file_names[annotation['image_id']]}, annotation {annotation['id']} ({category})"

    found["point_lists"] = [named(annotation) for annotation in point_lists]
    annotations = content["annotations"]
    if rules.crowds == "instances":
        for annotation in annotations:
            if annotation["iscrowd"]:
                annotation["iscrowd"] = 0
                found["crowds"].append(named(annotation))
    bare, wrong, form = _compare(annotations, sizes, mask_of)
    outside: list[tuple[float, str]] = []
    for annotation, box in wrong:
        given, beyond = annotation["bbox"], _beyond(annotation["bbox"], box, sizes[annotation["image_id"]])
        texts = f"{named(annotation)}: {_box_text(given)}", f"the mask's {_box_text(box)}"
        if beyond:
            outside.append((beyond, f"{texts[0]}, {beyond:.1f} pixels beyond the edge, {texts[1]}"))
        else:
            found["wrong_boxes"].append(", ".join(texts))
        annotation["bbox"] = box
    lost = set()
    for annotation in bare:
        size = sizes[annotation["image_id"]]
        rectangle, beyond = _usable_box(annotation, size, form)
        if rectangle is None:
            lost.add(id(annotation))
            found["no_extent"].append(f"{named(annotation)}: {_box_text(annotation['bbox'])}")
            continue
        if beyond > _TOLERANCE:
            box_text = f"{named(annotation)}: {_box_text(annotation['bbox'])}"
            outside.append((beyond, f"{box_text}, {beyond:.1f} pixels beyond the edge, no mask"))
        is_neutral = rules.box_only == "neutral" or annotation["iscrowd"]
        found["box_neutral" if is_neutral else "box_rectangles"].append(named(annotation))
        _become_rectangle(annotation, rectangle, size, neutral=bool(is_neutral))
    found["boxes_outside"] = [text for _, text in sorted(outside, key=lambda one: -one[0])]
    if lost:
        content["annotations"] = [annotation for annotation in annotations if id(annotation) not in lost]
    return Repairs(found, form.words if form else "")


# ---- forms of polygons ---------------------------------------------------------------------------------------------
def _with_other_shapes(annotations: Sequence[Entry]) -> Sequence[Entry]:
    """The annotations whose segmentation may be no list of polygons; none if the whole column is plain."""
    shapes = [annotation.get("segmentation") for annotation in annotations]
    lists = [shape for shape in shapes if type(shape) is list]
    parts = list(itertools.chain.from_iterable(lists))
    is_plain = set(map(type, parts)) <= {list} and min(map(len, parts), default=4) > 3 and all(lists)
    if is_plain and set(map(type, [part[0] for part in parts])) <= set(_NUMBER):
        return [annotation for annotation, shape in zip(annotations, shapes, strict=True) if shape is None]
    return annotations


def _is_plain(shape: list[Any]) -> bool:
    return bool(shape) and all(type(part) is list and len(part) > 3 and type(part[0]) in _NUMBER for part in shape)


def _as_polygons(shape: list[Any]) -> list[Points] | None:
    """Polygons [[x, y, ...], ...]; None for what is not understood."""
    if not shape:
        return []
    if all(type(value) in _NUMBER for value in shape):
        return None if len(shape) % 2 else [shape]
    points = [_as_point(part) for part in shape]
    if all(point is not None for point in points):
        return [[value for point in points if point is not None for value in point]]
    polygons = [_as_part(part) for part in shape]
    return None if any(polygon is None for polygon in polygons) else [part for part in polygons if part]


def _as_part(part: Any) -> Points | None:
    """One polygon: of numbers, of points, or empty."""
    if type(part) is not list:
        return None
    if all(type(value) in _NUMBER for value in part):
        return None if len(part) % 2 else part
    points = [_as_point(point) for point in part]
    return None if any(point is None for point in points) else [value for point in points if point for value in point]


def _as_point(value: Any) -> Points | None:
    if isinstance(value, dict) and {"x", "y"} <= set(value):
        value = [value["x"], value["y"]]
    is_point = type(value) is list and len(value) == 2 and all(type(number) in _NUMBER for number in value)
    return value if is_point else None


# ---- masks and boxes -----------------------------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True)
class _Form:
    """Another meaning of the four numbers of a box."""

    words: str
    read: Callable[[np.ndarray, np.ndarray], np.ndarray]  # boxes [n, 4], sizes [n, (width, height)] -> [n, 4]


def _from_corners(boxes: np.ndarray, _: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def _from_centres(boxes: np.ndarray, _: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, 2:]], axis=1)


def _swapped(boxes: np.ndarray) -> np.ndarray:
    return boxes[:, [1, 0, 3, 2]]


def _scaled(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    return np.asarray(boxes * np.tile(sizes, 2))


_NEGATIVE = "boxes with negative sizes"
_FORMS = (
    _Form("[x1, y1, x2, y2]", _from_corners),
    _Form("[y1, x1, y2, x2]", lambda boxes, sizes: _from_corners(_swapped(boxes), sizes)),
    _Form("[y, x, height, width]", lambda boxes, _: _swapped(boxes)),
    _Form("[x, y, height, width]", lambda boxes, _: boxes[:, [0, 1, 3, 2]]),
    _Form("[centre x, centre y, width, height]", _from_centres),
    _Form("[x, y, width, height] as shares of the image", _scaled),
    _Form("[x, y, width, height] in percent of the image", lambda boxes, sizes: _scaled(boxes / 100, sizes)),
    _Form("[x1, y1, x2, y2] as shares of the image", lambda b, sizes: _from_corners(_scaled(b, sizes), sizes)),
    _Form("[centre x, centre y, width, height] as shares of the image", lambda b, s: _from_centres(_scaled(b, s), s)),
    _Form(_NEGATIVE, lambda boxes, _: _positive(boxes)),
    _Form(_NEGATIVE, lambda boxes, _: np.concatenate([boxes[:, :2], np.abs(boxes[:, 2:])], axis=1)),
)


def _positive(boxes: np.ndarray) -> np.ndarray:
    """The same rectangles with sizes that are not negative."""
    corners, shifts = boxes[:, :2], np.minimum(boxes[:, 2:], 0)
    return np.concatenate([corners + shifts, np.abs(boxes[:, 2:])], axis=1)


def _compare(
    annotations: Sequence[Entry], sizes: dict[int, tuple[int, int]], mask_of: Callable[[Entry, int, int], Any]
) -> tuple[list[Entry], list[tuple[Entry, list[float]]], _Form | None]:
    """(annotations without a mask, (annotation, box of its mask) of wrong boxes, form of most wrong boxes).

    Boxes of crowds are compared only if they have no area: a crowd's mask may cover more than its box says.
    """
    bare: list[Entry] = []
    wrong: list[tuple[Entry, list[float]]] = []
    given, right, shapes, num_masks = [], [], [], 0
    for start in range(0, len(annotations), _BLOCK):
        block = annotations[start : start + _BLOCK]
        extents = _polygon_extents(block, sizes)
        boxes = numbers_of(annotation["bbox"] for annotation in block).reshape(-1, 4)
        far = ~_agree(boxes, extents)
        for index in np.flatnonzero(far | np.isnan(extents[:, 0])).tolist():
            annotation, (height, width) = block[index], sizes[block[index]["image_id"]]
            trusted = annotation["iscrowd"] and (boxes[index, 2:] > 0).all()
            if trusted and _has_runs(annotation["segmentation"]):
                num_masks += 1
                continue
            try:
                rle = mask_of(annotation, height, width)
            except ValueError:
                continue  # a broken polygon, which `check` names and training refuses
            if not coco_mask.area(rle):
                bare.append(annotation)
                continue
            num_masks += 1
            box = np.asarray(coco_mask.toBbox(rle), float)
            if not trusted and not _agree(boxes[index : index + 1], box[None])[0]:
                wrong.append((annotation, box.tolist()))
                given.append(boxes[index])
                right.append(box)
                shapes.append((width, height))
        num_masks += int((~far & ~np.isnan(extents[:, 0])).sum())
    return bare, wrong, _form_of(np.array(given), np.array(right), np.array(shapes), num_masks)


def _has_runs(shape: Any) -> bool:
    """Whether a segmentation is an RLE as a list of runs, and has a pixel: without building its mask."""
    return type(shape) is dict and type(shape["counts"]) is list and any(shape["counts"][1::2])


def _beyond(given: Sequence[float], box: Sequence[float], size: tuple[int, int]) -> float:
    """Pixels by which a box leaves its image (height, width); 0 if it also contradicts the mask's box inside it."""
    corners = np.array([given[0], given[1], given[0] + given[2], given[1] + given[3]], float)
    clipped = np.clip(corners, 0, [size[1], size[0]] * 2)
    inside = np.concatenate([clipped[:2], clipped[2:] - clipped[:2]])[None]
    return float(np.abs(corners - clipped).max()) if _agree(inside, np.array([box], float))[0] else 0.0


def _form_of(given: np.ndarray, right: np.ndarray, sizes: np.ndarray, num_masks: int) -> _Form | None:
    """The form in which most boxes of a file fit their masks."""
    if not len(given):
        return None
    shares = []
    for form in _FORMS:
        boxes = form.read(given, sizes)
        differs = (boxes != given).any(axis=1)  # a box that means the same in both forms says nothing
        shares.append((differs & _agree(boxes, right, 2 * _TOLERANCE)).sum() / num_masks)
    best = int(np.argmax(shares))
    return _FORMS[best] if shares[best] > _MIN_SHARE else None


def _agree(boxes: np.ndarray, others: np.ndarray, tolerance: float = _TOLERANCE) -> np.ndarray:
    """Whether boxes [n, 4] have the same edges up to rounding: bool [n]."""
    edges, other_edges = (np.concatenate([one[:, :2], one[:, :2] + one[:, 2:]], axis=1) for one in (boxes, others))
    with np.errstate(invalid="ignore"):
        return np.array((np.abs(edges - other_edges) <= tolerance).all(axis=1) & (boxes[:, 2:] > 0).all(axis=1))


def _polygon_extents(annotations: Sequence[Entry], sizes: dict[int, tuple[int, int]]) -> np.ndarray:
    """Boxes [n, 4] around the polygons of annotations, clipped to their images.

    NaN for those that must be looked at one by one: RLE, no polygon, less than a pixel inside the image, odd numbers.
    """
    lists = [(index, one["segmentation"]) for index, one in enumerate(annotations) if type(one["segmentation"]) is list]
    parts = [(index, part) for index, shape in lists for part in shape if len(part) >= MIN_POLYGON]
    extents = np.full((len(annotations), 4), np.nan)
    if not parts:
        return extents
    owners, lengths = (np.array(numbers) for numbers in zip(*((i, len(part)) for i, part in parts), strict=True))
    try:
        values = numbers_of(part for _, part in parts).reshape(-1, 2)
    except (OverflowError, TypeError, ValueError):
        return extents
    starts = np.concatenate([[0], np.cumsum(lengths // 2)])[:-1]
    low, high = np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)
    following = np.roll(values, -1, axis=0)
    following[np.append(starts[1:], len(values)) - 1] = values[starts]
    with np.errstate(all="ignore"):  # coordinates may be infinite
        areas = np.abs(np.add.reduceat(values[:, 0] * following[:, 1] - following[:, 0] * values[:, 1], starts)) / 2
    edges = np.full((len(annotations), 4), np.inf)
    edges[:, 2:] = -np.inf
    first_parts = np.flatnonzero(np.diff(owners, prepend=-1))
    edges[owners[first_parts], :2] = np.minimum.reduceat(low, first_parts)
    edges[owners[first_parts], 2:] = np.maximum.reduceat(high, first_parts)
    total = np.bincount(owners, areas, minlength=len(annotations))
    of_images = itertools.chain.from_iterable([sizes[annotation["image_id"]] for annotation in annotations])
    far_corner = np.fromiter(of_images, float).reshape(-1, 2)[:, ::-1]
    first, last = np.clip(edges[:, :2], 0, far_corner), np.clip(edges[:, 2:], 0, far_corner)
    with np.errstate(invalid="ignore"):
        sure = (total >= 1) & (last - first >= 1).all(axis=1) & (np.abs(edges) < MAX_COORDINATE).all(axis=1)
    extents[sure] = np.concatenate([first, last - first], axis=1)[sure]
    return extents


def _usable_box(annotation: Entry, size: tuple[int, int], form: _Form | None) -> tuple[list[float] | None, float]:
    """The box of an object without a mask, clipped to its image, and by how many pixels it was clipped.

    The box is None if it has no pixel in the image.
    It is read in the form of the other boxes of the file. Two corners in place of a polygon are taken if there is none.
    """
    height, width = size
    boxes = [np.array([annotation["bbox"]], float)]
    if form is not None:
        boxes[0] = form.read(boxes[0], np.array([[width, height]], float))
    shape = annotation["segmentation"]
    if type(shape) is list and len(shape) == 1 and len(shape[0]) == 4:
        boxes.append(_from_corners(np.array(shape, float), np.zeros((1, 2))))
    for box in map(_positive, boxes):
        edges = np.concatenate([box[0, :2], box[0, :2] + box[0, 2:]])
        beyond = float(np.abs(edges - np.clip(edges, 0, [width, height] * 2)).max())
        edges = np.clip(edges, 0, [width, height] * 2)
        rectangle = np.array([*edges[:2], *(edges[2:] - edges[:2])])
        if (
            np.isfinite(rectangle).all()
            and (rectangle[2:] > 0).all()
            and coco_mask.area(_rectangle_rle(rectangle, size))
        ):
            return [float(value) for value in rectangle], beyond
    return None, 0.0


def _become_rectangle(annotation: Entry, box: npt.ArrayLike, size: tuple[int, int], *, neutral: bool) -> None:
    rle = _rectangle_rle(np.asarray(box, float), size)
    annotation["segmentation"] = rle | {"counts": rle["counts"].decode("ascii")}
    annotation["bbox"] = coco_mask.toBbox(rle).tolist()
    annotation["area"] = float(coco_mask.area(rle))
    annotation["iscrowd"] = int(neutral)


def _rectangle_rle(box: np.ndarray, size: tuple[int, int]) -> Any:
    return coco_mask.frPyObjects(np.array([box], float), *size)[0]


def _box_text(box: Any) -> str:
    return f"[{', '.join(f'{value:g}' for value in np.round(np.asarray(box, float), 2))}]"
