"""COCO annotation files: read and checked, with errors that name the wrong entry, and masks as pycocotools' RLE."""

import itertools
import logging
import operator
import reprlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
import pycocotools.mask as coco_mask
from pycocotools.coco import COCO

from ..io import decoding, files
from ..io.errors import InputError
from .outlines import MAX_COORDINATE, MAX_LENGTH, are_outlines, is_outline
from .reading import ReadingRules
from .repairs import MIN_POLYGON, Repairs, plain_polygons, repair

logger = logging.getLogger(__name__)

Entry = dict[str, Any]  # an image, annotation or category of an annotation file
Content = dict[str, Any]  # of an annotation file: lists of Entry by section
Rle = Any  # a mask as pycocotools takes it, compressed: {"size", "counts"}

CROWDS_OPTION = "--crowds instances (ReadingRules) takes them as instances"  # advice in messages

_SECTIONS = ("images", "annotations", "categories")
_MAX_BOX = 1e9  # pixels, of the numbers of a box
_BLOCK = 20_000  # polygons whose numbers are in memory at a time
_NUMBER = (int, float)
_RUN_CHARACTERS = 7  # of a compressed RLE for one run: more than 32 bits


class FaultsError(InputError):
    """An annotation file has faults of form: `faults` as of `find_faults`."""

    def __init__(self, message: str, faults: dict[str, list[str]]) -> None:
        super().__init__(message)
        self.faults = faults


def load_annotations(path: files.StrPath, rules: ReadingRules | None = None) -> tuple[Content, Repairs]:
    """(content of a COCO instances file, repaired by rules, with the areas that it lacks; what was repaired).

    The log names the repairs. Raises ValueError as `read_annotations`.
    """
    content, point_lists = _read(path)
    repairs = repair(content, rules or ReadingRules(), annotation_rle, point_lists)
    repairs.log(path)
    if content["annotations"] and all(annotation["iscrowd"] for annotation in content["annotations"]):
        logger.warning("%s: %s", path, crowds_advice(len(content["annotations"])))
    fill_areas(content)
    return content, repairs


def crowds_advice(count: int) -> str:
    """What to do with a set whose `count` annotations are all crowds."""
    return f"all {count} annotations are crowds (iscrowd 1), as the brush masks of CVAT are; {CROWDS_OPTION}"


def read_annotations(path: files.StrPath) -> Content:
    """The content of a COCO instances file: a dict with "images", "annotations" and "categories", sorted by id.

    `iscrowd` is set to 0 where it is missing, and polygons given as lists of points become polygons.

    Raises:
        FaultsError: a ValueError that names the file, the entry and the key, and how many more faults there are.
    """
    return _read(path)[0]


def find_faults(path: files.StrPath) -> dict[str, list[str]]:
    """All faults of form of a COCO instances file: texts by section and key, such as "annotations: bbox"."""
    content, _ = _parsed(path)
    faults: dict[str, list[str]] = {}
    for section, key, check in _checks(path, content):
        try:
            check(section)
        except ValueError:
            found = _faults_of(section, check)
            faults.setdefault(f"{section.name}: {key}", []).extend(found)
    return faults


def _read(path: files.StrPath) -> tuple[Content, list[Entry]]:
    """(content, the annotations whose polygons had another form)."""
    content, point_lists = _parsed(path)
    try:
        for section, _, check in _checks(path, content):
            check(section)
    except ValueError as error:
        faults = find_faults(path)
        count = sum(map(len, faults.values()))
        more = f"; {count - 1} more faults in this file, `siamese-mrcnn check` lists them" if count > 1 else ""
        raise FaultsError(f"{error}{more}", faults) from error
    for name in _SECTIONS:
        content[name].sort(key=operator.itemgetter("id"))
    return content, point_lists


def _parsed(path: files.StrPath) -> tuple[Content, list[Entry]]:
    content: Content = files.read_json(path)
    for name in _SECTIONS:
        if not isinstance(content, dict) or not isinstance(content.get(name), list):
            raise InputError(f"{path}: expected a COCO instances file with a list {name!r}")
    entries = [entry for entry in content["annotations"] if isinstance(entry, dict)]
    for annotation in entries:
        annotation.setdefault("iscrowd", 0)
    return content, plain_polygons(entries)


def is_rle(segmentation: Entry, size: Sequence[int]) -> bool:
    """Whether a COCO RLE, compressed or not, covers an image of `size` exactly: (height, width) in pixels.

    pycocotools itself reads beyond the end of broken ones, or does not return.
    """
    counts = segmentation.get("counts")
    if isinstance(counts, (str, bytes)):
        text = counts.encode("utf-8", "replace") if isinstance(counts, str) else counts
        runs = _run_lengths(text) if text else np.zeros(0, np.int64)
        fits = len(runs) and runs.min() >= 0 and runs.sum() == size[0] * size[1]
    else:
        fits = _are_counts(counts) and sum(counts or []) == size[0] * size[1]
    return bool(fits) and list(segmentation.get("size", ())) == list(size)


def annotation_rle(annotation: Entry, height: int, width: int) -> Rle:
    """The mask of an annotation; without points it is empty.

    A crowd whose RLE has another size than its image covers all of it, as in Matterport. Raises ValueError for polygon
    coordinates that are no numbers, or far from any image.
    """
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, dict):
        if list(segmentation["size"]) != [height, width]:
            return _uniform_rle(height, width, is_full=True)
        is_raw = isinstance(segmentation["counts"], list)
        return coco_mask.frPyObjects(segmentation, height, width) if is_raw else segmentation
    polygons = [polygon for polygon in segmentation if len(polygon) >= MIN_POLYGON]  # fewer points have no area
    if not all(map(is_outline, polygons)):
        raise InputError(f"annotation {annotation['id']}: a polygon has coordinates that are no pixels of an image")
    if polygons:
        return coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
    return _uniform_rle(height, width, is_full=False)


def _uniform_rle(height: int, width: int, *, is_full: bool) -> Rle:
    """The mask of a whole image, or an empty one, without its pixels."""
    counts = [0, height * width] if is_full else [height * width]
    return coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)


def coco_object(content: Content, by_image: Mapping[int, list[Entry]] | None = None) -> COCO:
    """A `pycocotools.coco.COCO` that shares the content of an annotation file; COCO's own methods print.

    `by_image` are the annotations of each image by its id, if they are known; the lists are shared, too.
    """
    coco = COCO()
    coco.dataset = content
    for kind, section in (("imgs", "images"), ("anns", "annotations"), ("cats", "categories")):
        setattr(coco, kind, {entry["id"]: entry for entry in content[section]})
    for annotation in content["annotations"]:
        coco.catToImgs[annotation["category_id"]].append(annotation["image_id"])
    if by_image is None:
        for annotation in content["annotations"]:
            coco.imgToAnns[annotation["image_id"]].append(annotation)
    else:  # as in COCO, images without annotations are not in it
        coco.imgToAnns.update({image_id: found for image_id, found in by_image.items() if found})
    return coco


def fill_areas(content: Content) -> None:
    """Compute the areas that the annotation file does not give."""
    missing = [annotation for annotation in content["annotations"] if "area" not in annotation]
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]} if missing else {}
    for annotation in missing:
        annotation["area"] = float(coco_mask.area(annotation_rle(annotation, *sizes[annotation["image_id"]])))


# ---- checks of an annotation file ----------------------------------------------------------------------------------
# COCO has 860,000 annotations: columns are checked as a whole, entries one by one only to name the wrong ones.


class _Section:
    """Entries under one key of an annotation file, the first with the index `start`, and the errors that name them."""

    def __init__(self, path: files.StrPath, name: str, entries: list[Entry], start: int = 0) -> None:
        self.path, self.name, self.entries, self.start = path, name, entries, start

    def column(self, key: str, types: tuple[type, ...]) -> list[Any]:
        """The values of `key` in all entries, each of one of `types`."""
        try:
            values = [entry[key] for entry in self.entries]
        except (KeyError, TypeError):
            has_key = [isinstance(entry, dict) and key in entry for entry in self.entries]
            raise InputError(f"{self._place(has_key.index(False))}: the key {key!r} is missing") from None
        expected = " or ".join(kind.__name__ for kind in types)
        fine = set(map(type, values)) <= set(types)
        self.require(key, values, lambda value: type(value) in types, expected, fine=fine)
        return values

    def require(
        self, key: str, values: list[Any], is_valid: Callable[[Any], Any], expected: str, *, fine: bool | None = None
    ) -> None:
        """Raise for the first of `values` that is not valid; `fine` tells whether all are valid, if that is known."""
        if not (all(map(is_valid, set(values))) if fine is None else fine):
            index = next(i for i, value in enumerate(values) if not is_valid(value))
            self.refuse(index, key, values[index], expected)

    def refuse(self, index: int, key: str, value: Any, expected: str) -> NoReturn:
        raise InputError(f"{self._place(index)}: {key} = {reprlib.repr(value)}, expected {expected}")

    def repeated(self) -> list[int]:
        """Indices of the entries whose id an earlier entry has."""
        try:  # most often there are none
            ids = [entry["id"] for entry in self.entries]
        except (KeyError, TypeError):
            ids = [entry.get("id") if isinstance(entry, dict) else None for entry in self.entries]
        if len(set(ids if set(map(type, ids)) == {int} else map(repr, ids))) == len(ids):
            return []
        first = {repr(i): index for index, i in reversed(list(enumerate(ids)))}
        return [index for index, i in enumerate(ids) if i is not None and first[repr(i)] < index]

    def _place(self, index: int) -> str:
        entry = self.entries[index]
        known = f" (id {entry['id']})" if isinstance(entry, dict) and "id" in entry else ""
        return f"{self.path}: {self.name}[{self.start + index}]{known}"


_Check = Callable[[_Section], Any]


def _checks(path: files.StrPath, content: Content) -> list[tuple[_Section, str, _Check]]:
    """(section, key, check) of all that is required of the content of an annotation file."""
    images, annotations, categories = (_Section(path, name, content[name]) for name in _SECTIONS)
    sizes = {one["id"]: [one.get("height"), one.get("width")] for one in content["images"] if _has_id(one)}
    category_ids = {one["id"] for one in content["categories"] if _has_id(one)}

    def one_of(key: str, known: Collection[int], what: str) -> _Check:
        return lambda found: found.require(key, found.column(key, (int,)), known.__contains__, f"the id of {what}")

    ids = [(section, "id", check) for section in (images, annotations, categories) for check in (_check_ids, _unique)]
    return [
        *ids,
        (images, "height", lambda found: _check_size(found, "height")),
        (images, "width", lambda found: _check_size(found, "width")),
        (images, "width", _check_pixels),
        (images, "file_name", _check_file_names),
        (categories, "name", lambda found: found.column("name", (str,))),
        (annotations, "image_id", one_of("image_id", sizes, "one of the images")),
        (annotations, "category_id", one_of("category_id", category_ids, "one of the categories")),
        (annotations, "iscrowd", _check_crowds),
        (annotations, "bbox", _check_boxes),
        (annotations, "area", _check_areas),
        (annotations, "segmentation", lambda found: _check_segmentations(found, sizes)),
    ]


def _faults_of(section: _Section, check: _Check) -> list[str]:
    """The errors of a check for each entry of a section."""
    if check is _unique:
        return [_error(check, section, [index]) for index in section.repeated()]
    singles = (_Section(section.path, section.name, [e], i) for i, e in enumerate(section.entries))
    return [text for one in singles if (text := _error(check, one))]


def _error(check: _Check, section: _Section, repeated: list[int] | None = None) -> str:
    try:
        check(section) if repeated is None else _unique(section, repeated)
    except ValueError as error:
        return str(error)
    return ""


def _has_id(entry: Any) -> bool:
    return isinstance(entry, dict) and type(entry.get("id")) is int


def _check_ids(section: _Section) -> None:
    ids = section.column("id", (int,))
    fine = min(ids, default=0) >= 0 and max(ids, default=0) < 2**63
    section.require("id", ids, lambda i: 0 <= i < 2**63, "a number that is not negative", fine=fine)


def _unique(section: _Section, repeated: list[int] | None = None) -> None:
    for index in section.repeated() if repeated is None else repeated:
        section.refuse(index, "id", section.entries[index]["id"], "an id of its own; another entry has the same")


def _check_size(section: _Section, key: str) -> None:
    section.require(key, section.column(key, (int,)), lambda size: size > 0, "a size in pixels")


def _check_pixels(section: _Section) -> None:
    """Raise for an image of more pixels than are read; sizes that are none are left to `_check_size`."""
    bound = decoding.max_pixels()
    for index, entry in enumerate(section.entries):
        height, width = (entry.get("height"), entry.get("width")) if isinstance(entry, dict) else (0, 0)
        if type(height) is int and type(width) is int and height * width > bound:
            words = f"a size whose pixels, {height} x {width} (height x width), are at most {bound}"
            key = "height" if height > width else "width"
            section.refuse(index, key, entry[key], f"{words}; {decoding.OPTION} N allows more")


def _check_file_names(section: _Section) -> None:
    names = section.column("file_name", (str,))
    section.require("file_name", names, _is_file_name, "a name in the image folder")


def _is_file_name(name: str) -> bool:
    return bool(name.strip()) and "\0" not in name


def _check_crowds(section: _Section) -> None:
    section.require("iscrowd", section.column("iscrowd", (int, bool)), (0, 1).__contains__, "0 or 1")


def _check_boxes(section: _Section) -> None:
    boxes = section.column("bbox", (list,))
    expected = "[x, y, width, height] in pixels"
    section.require("bbox", boxes, lambda box: _are_boxes([box]), expected, fine=_are_boxes(boxes))
    bare = [index for index, entry in enumerate(section.entries) if entry.get("segmentation") == []]
    wrong = next((index for index in bare if max(boxes[index]) <= 1 and _are_shares(boxes[index])), None)
    if wrong is not None:
        section.refuse(wrong, "bbox", boxes[wrong], f"{expected}; these are shares of the image, 0..1")


def _are_shares(values: Sequence[float]) -> bool:
    """Whether numbers look like coordinates in 0..1: not all of them whole."""
    return 0 <= min(values) and max(values) <= 1 and any(value % 1 for value in values)


def _check_areas(section: _Section) -> None:
    areas = [entry.get("area", 0) if type(entry) is dict else 0 for entry in section.entries]
    fine = set(map(type, areas)) <= set(_NUMBER) and _in_range(areas, 0)
    expected = "an area in square pixels"
    section.require("area", areas, lambda a: type(a) in _NUMBER and _in_range([a], 0), expected, fine=fine)


def _are_boxes(boxes: list[list[Any]]) -> bool:
    values = list(itertools.chain.from_iterable(boxes))
    is_plain = set(map(len, boxes)) <= {4} and set(map(type, values)) <= set(_NUMBER)
    return is_plain and _in_range(values, -_MAX_BOX, _MAX_BOX)


def _in_range(values: Iterable[float], minimum: float, maximum: float = _MAX_BOX**2) -> bool:
    """Whether all numbers are in a range."""
    try:
        numbers = np.fromiter(values, np.float64)
    except OverflowError:
        return False
    return bool((numbers >= minimum).all() and (numbers <= maximum).all())


def _check_segmentations(section: _Section, sizes: dict[int, list[Any]]) -> None:
    shapes = section.column("segmentation", (list, dict))
    parts = list(itertools.chain.from_iterable(shape for shape in shapes if type(shape) is list))
    fine = set(map(type, parts)) <= {list} and not any(length % 2 for length in set(map(len, parts)))
    firsts = [part[0] if part else 0 for part in parts] if fine else []
    fine = fine and not set(map(type, firsts)) & {list, dict}
    section.require("segmentation", shapes, _are_polygons, "polygons [[x, y, x, y, ...], ...]", fine=fine)
    blocks = (parts[start : start + _BLOCK] for start in range(0, len(parts), _BLOCK))
    expected = f"polygons of numbers below {MAX_COORDINATE:.0f}, with at most {MAX_LENGTH:.0f} pixels along an outline"
    fine = all(map(are_outlines, blocks))
    section.require("segmentation", shapes, lambda s: type(s) is dict or are_outlines(s), expected, fine=fine)
    for index, shape in enumerate(shapes):
        if type(shape) is dict:
            entry, size = section.entries[index], shape.get("size")
            image_id = entry.get("image_id")
            image = sizes.get(image_id, size) if type(image_id) is int else size
            fits = size == image or entry["iscrowd"]  # a crowd's may have a size of its own
            if not (fits and _are_counts(size) and len(size or []) == 2 and is_rle(shape, size or [])):
                section.refuse(index, "segmentation", shape, f"an RLE of its image's size {image}")
    small = [part for part, first in zip(parts, firsts, strict=True) if type(first) in _NUMBER and first <= 1]
    if any(map(_is_share_polygon, small)):
        found = (type(shape) is list and any(map(_is_share_polygon, shape)) for shape in shapes)
        index = next(i for i, is_wrong in enumerate(found) if is_wrong)
        section.refuse(index, "segmentation", shapes[index], "polygons in pixels; these are shares of the image, 0..1")


def _is_share_polygon(part: list[Any]) -> bool:
    is_small = len(part) >= MIN_POLYGON and type(part[0]) in _NUMBER and part[0] <= 1
    return is_small and set(map(type, part)) <= set(_NUMBER) and _are_shares(part)


def _are_polygons(shape: Any) -> bool:
    return type(shape) is dict or all(map(_is_polygon, shape))


def _is_polygon(part: Any) -> bool:
    return type(part) is list and not len(part) % 2 and not (part and type(part[0]) in (list, dict))


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and set(map(type, values)) <= {int} and min(values, default=0) >= 0


def _run_lengths(text: bytes) -> np.ndarray:
    """The runs int64 [n] of a compressed RLE, or [-1] where it breaks off.

    A character holds 5 bits, and a sixth that says that more of the number follow, lowest first. From the fourth on,
    runs are stored as the difference to the last but one.
    """
    characters = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    starts = np.flatnonzero(np.concatenate([[True], characters[:-1] < 32]))
    lengths = np.diff(starts, append=len(characters))
    if characters.min() < 0 or characters.max() > 63 or characters[-1] >= 32 or lengths.max() > _RUN_CHARACTERS:
        return np.array([-1])
    shifts = 5 * (np.arange(len(characters)) - np.repeat(starts, lengths))
    runs = np.add.reduceat((characters & 31) << shifts, starts)
    is_negative = (characters[starts + lengths - 1] & 16) > 0
    runs -= np.where(is_negative, 1 << (5 * lengths), 0)
    runs[1::2], runs[2::2] = np.cumsum(runs[1::2]), np.cumsum(runs[2::2])
    return runs
