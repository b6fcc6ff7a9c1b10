"""Reading the files of a data set: pictures and COCO annotation files.

Whatever Pillow opens becomes RGB of 8 bits; what is broken becomes an error that names the file and the entry in it.
"""

import functools
import itertools
import logging
import math
import operator
import reprlib
from pathlib import Path

import numpy as np
from PIL import Image

from . import files

logger = logging.getLogger(__name__)

_EXIF_ORIENTATION = 0x0112
_TURNS = {  # EXIF orientation -> what makes the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPS_SIDES = (5, 6, 7, 8)  # orientations that exchange height and width
_WIDE_MODES = ("I", "F")  # with "I;16" and its kin: one channel of more than 8 bits

MIN_POLYGON = 6  # numbers (x, y, ...) of a polygon that encloses something
_NUMBER = (int, float)
_RUN_CHARACTERS = 7  # of a compressed RLE for one run: more than 32 bits
_COCO_2014_SUBSETS = ("minival", "valminusminival")  # parts of val2014 with annotation files of their own


def read_image(path, size=None):
    """Read a picture file of any kind.

    Greyscale is repeated over the channels, transparency is dropped, 16 bits become 8.

    Args:
        path: the file.
        size: (height, width) in pixels that an annotation file gives for it. The camera's orientation tag is then
            obeyed only if the stored picture does not have this size and the turned one does: annotations are drawn on
            one of the two. None obeys the tag.

    Returns:
        uint8 [height, width, 3], RGB.

    Raises:
        ValueError: the file is missing, broken, no picture, too large, empty, or of another size than `size`.
    """
    image = _open(path)
    image = _turned(image, _orientation(image), size, path)
    if 0 in image.size:
        raise ValueError(f"{path}: the picture is empty ({image.height} x {image.width} pixels)")
    if image.mode in _WIDE_MODES or image.mode.startswith("I;16"):
        return _eight_bits(np.asarray(image), path)
    try:
        return np.array(image.convert("RGB"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: a picture of mode {image.mode} cannot be converted to RGB ({error})") from error


def coco_layout(dataset_dir, subset, year):
    """Annotation file and image folder of a subset of the COCO tree in `dataset_dir`.

    Raises:
        ValueError: one of them is missing.
    """
    if subset in _COCO_2014_SUBSETS:
        year, pictures = "2014", "val2014"
    else:
        pictures = f"{subset}{year}"
    folder = Path(dataset_dir) / "annotations"
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder, expected one with instances_{subset}{year}.json")
    path = files.inside(folder, f"instances_{subset}{year}.json")
    if not path.is_file():
        there = sorted(entry.name for entry in folder.iterdir())
        raise ValueError(f"{path}: no such annotation file; the folder holds {', '.join(there) or 'nothing'}")
    image_dir = files.inside(dataset_dir, pictures)
    if not image_dir.is_dir():
        raise ValueError(f"{image_dir}: no such image folder (it belongs to {path.name})")
    return path, image_dir


def read_annotations(path):
    """The content of a COCO instances file: a dict with "images", "annotations" and "categories", sorted by id.

    What the program relies on is checked; `iscrowd` is set to 0 where it is missing. A polygon of fewer than three
    points encloses nothing: it is no error, and reported in the log.

    Raises:
        ValueError: names the file, the entry and the key.
    """
    content = files.read_json(path)
    for section in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(section), list):
            raise ValueError(f"{path}: expected a COCO instances file with a list {section!r}")
        _check_ids(path, section, content[section])
        content[section].sort(key=operator.itemgetter("id"))
    _check_images(path, content["images"])
    _column(path, "categories", content["categories"], "name", (str,))
    _check_annotations(path, content)
    return content


def is_rle(segmentation, size):
    """Whether a COCO RLE, compressed or not, covers an image of `size` exactly: (height, width) in pixels.

    pycocotools itself reads beyond the end of broken ones, or does not come back.
    """
    counts = segmentation.get("counts")
    if isinstance(counts, (str, bytes)):
        text = counts.encode("utf-8", "replace") if isinstance(counts, str) else counts
        runs = _run_lengths(text) if text else np.zeros(0, np.int64)
        fits = len(runs) and runs.min() >= 0 and runs.sum() == size[0] * size[1]
    else:
        fits = _are_counts(counts) and sum(counts) == size[0] * size[1]
    return bool(fits) and list(segmentation.get("size", ())) == list(size)


def _open(path):
    """The decoded Pillow image (first frame of an animation)."""
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file") from error
    except Image.UnidentifiedImageError as error:
        raise ValueError(f"{path}: not a picture that can be read") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path}: the picture is too large to be read safely ({error})") from error
    except Exception as error:  # decoders of broken files raise whatever they trip over
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{path}: the picture cannot be read, it may be truncated or broken ({reason})") from error


def _orientation(image):
    try:
        return image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception as error:  # as in _open; the picture itself is whole
        logger.debug("orientation tag ignored: %s", error)
        return 1


def _turned(image, orientation, size, path):
    """The image as `read_image` promises it for `size`."""
    if size is None:
        return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image
    stored, wanted = (image.height, image.width), (int(size[0]), int(size[1]))
    if stored == wanted:
        return image
    if orientation in _SWAPS_SIDES and stored[::-1] == wanted:
        return image.transpose(_TURNS[orientation])
    raise ValueError(
        f"{path}: the picture is {stored[0]} x {stored[1]} pixels (height x width), "
        f"but its annotations say {wanted[0]} x {wanted[1]}"
    )


def _eight_bits(values, path):
    """One channel of more than 8 bits [height, width] to uint8 [height, width, 3].

    Values up to 255 are taken as they are, larger ones are 16 bits (65535 to 255), floats up to 1 span 0..255.
    """
    if not np.isfinite(values).all():
        raise ValueError(f"{path}: the picture holds values that are not finite")
    highest = values.max()
    if highest > 255:
        values = values / 257
    elif values.dtype.kind == "f" and highest <= 1:
        values = values * 255
    grey = np.rint(np.clip(values, 0, 255)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


# ---- checks of an annotation file: a column at a time, there are 860,000 entries in COCO ---------------------------


def _column(path, section, entries, key, types):
    """The values of `key` in all entries, each of one of `types`."""
    try:
        values = [entry[key] for entry in entries]
    except (KeyError, TypeError):
        index = next(i for i, entry in enumerate(entries) if not isinstance(entry, dict) or key not in entry)
        raise ValueError(f"{_entry(path, section, entries, index)}: the key {key!r} is missing") from None
    expected = " or ".join(kind.__name__ for kind in types)
    _refuse_first(path, section, entries, key, [type(value) in types for value in values], expected)
    return values


def _refuse_first(path, section, entries, key, valid, expected):
    """An error for the first entry where `valid` is False."""
    if not all(valid):
        index = list(map(bool, valid)).index(False)
        value = reprlib.repr(entries[index][key])
        raise ValueError(f"{_entry(path, section, entries, index)}: {key} = {value}, expected {expected}")


def _entry(path, section, entries, index):
    """Words for an entry: the file, the place, and the id if it has one."""
    known = entries[index].get("id") if isinstance(entries[index], dict) else None
    return f"{path}: {section}[{index}]" + (f" (id {known})" if known is not None else "")


def _check_ids(path, section, entries):
    ids = _column(path, section, entries, "id", (int,))
    _refuse_first(path, section, entries, "id", [0 <= i < 2**63 for i in ids], "a number that is not negative")
    seen = set()
    fresh = [not (i in seen or seen.add(i)) for i in ids] if len(set(ids)) < len(ids) else []
    _refuse_first(path, section, entries, "id", fresh, "an id of its own, but another entry has the same")


def _check_images(path, images):
    names = _column(path, "images", images, "file_name", (str,))
    for key in ("height", "width"):
        sizes = _column(path, "images", images, key, (int,))
        _refuse_first(path, "images", images, key, [size > 0 for size in sizes], "a size in pixels")
    _refuse_first(path, "images", images, "file_name", [_stays(name) for name in names], "a name in the image folder")


def _stays(name):
    """Whether a file name stays in its folder, links aside (those are looked at when the file is opened)."""
    depths = itertools.accumulate({"": 0, ".": 0, "..": -1}.get(part, 1) for part in name.split("/"))
    return bool(name) and not name.startswith("/") and min(depths) >= 0


def _check_annotations(path, content):
    annotations = content["annotations"]
    for annotation in annotations:
        annotation.setdefault("iscrowd", 0)
    column = functools.partial(_column, path, "annotations", annotations)
    refuse = functools.partial(_refuse_first, path, "annotations", annotations)
    sizes = {image["id"]: [image["height"], image["width"]] for image in content["images"]}
    categories = {category["id"] for category in content["categories"]}
    images = column("image_id", (int,))
    refuse("image_id", [i in sizes for i in images], "the id of one of the images")
    refuse("category_id", [i in categories for i in column("category_id", (int,))], "the id of one of the categories")
    refuse("iscrowd", [crowd in (0, 1) for crowd in column("iscrowd", (int, bool))], "0 or 1")
    refuse("bbox", [_is_box(box) for box in column("bbox", (list,))], "[x, y, width, height] in pixels")
    areas = [annotation.get("area", 0) for annotation in annotations]
    refuse("area", [type(area) in _NUMBER and 0 <= area < math.inf for area in areas], "an area in square pixels")
    segmentations = column("segmentation", (list, dict))
    rows = zip(segmentations, images, annotations, strict=True)
    valid = [_is_segmentation(shape, sizes[image], entry["iscrowd"]) for shape, image, entry in rows]
    refuse("segmentation", valid, "polygons [[x, y, x, y, ...], ...], or an RLE of the size of the image")
    _report_degenerate(path, annotations)


def _is_box(box):
    return len(box) == 4 and all(type(value) in _NUMBER and math.isfinite(value) for value in box)


def _is_segmentation(segmentation, size, is_crowd):
    """Whether a segmentation is well-formed; the RLEs of crowds may have a size of their own."""
    if type(segmentation) is list:
        return all(type(polygon) is list and not len(polygon) % 2 for polygon in segmentation)
    own_size = segmentation.get("size")
    is_size = _are_counts(own_size) and len(own_size) == 2
    return is_size and (own_size == size or bool(is_crowd)) and is_rle(segmentation, own_size)


def _are_counts(values):
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _run_lengths(text):
    """The runs int64 [n] of a compressed RLE, or [-1] where it breaks off.

    A character holds 5 bits, and a sixth that says that more of the number follow, lowest first. From the fourth on,
    runs stand as the difference to the last but one.
    """
    characters = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    starts = np.flatnonzero(np.concatenate([[True], characters[:-1] < 32]))
    lengths = np.diff(starts, append=len(characters))
    if characters.min() < 0 or characters.max() > 63 or characters[-1] >= 32 or lengths.max() > _RUN_CHARACTERS:
        return np.array([-1])
    shifts = 5 * (np.arange(len(characters)) - np.repeat(starts, lengths))
    runs = np.add.reduceat((characters & 31) << shifts, starts)
    is_negative = characters[starts + lengths - 1] & 16 > 0
    runs -= np.where(is_negative, 1 << (5 * lengths), 0)
    runs[1::2], runs[2::2] = np.cumsum(runs[1::2]), np.cumsum(runs[2::2])
    return runs


def _report_degenerate(path, annotations):
    polygons = ((entry["id"], entry["segmentation"]) for entry in annotations if type(entry["segmentation"]) is list)
    short = [i for i, parts in polygons if not parts or min(map(len, parts)) < MIN_POLYGON]
    if short:
        logger.warning(
            "%s: %d annotations have polygons of fewer than three points, which enclose nothing (first: id %d)",
            *(path, len(short), short[0]),
        )
