"""Data sets in the layout of Pascal VOC, with masks of objects, or with boxes alone.

The layout is described in the development kit of VOC 2012, section 2: the pixels of SegmentationObject are numbers of
objects, those of SegmentationClass numbers of classes, and 255 is a border that belongs to neither. Tools that write
colours instead of numbers list them in labelmap.txt.
"""

import collections
import logging
from collections.abc import Iterable
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from ...io import decoding, files
from ...io.errors import InputError
from ..layouts import subset_of
from .common import ImportedImage, ImportedObject, parsed_number, read_xml

logger = logging.getLogger(__name__)

CLASSES = (
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person pottedplant sheep "
    "sofa train tvmonitor"
).split()  # of VOC 2012, from number 1 on

_BORDER, _BORDER_COLOUR = 255, (224, 224, 192)
Colour = tuple[int, ...]


def is_voc(folder: Path) -> bool:
    """Whether a folder has the layout of Pascal VOC."""
    names = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    return bool(names & {"SegmentationObject", "Annotations"}) and "JPEGImages" in names


def read_voc(paths: Iterable[Path]) -> list[ImportedImage]:
    """The images of folders in the layout of VOC; those with masks have them as objects, the others have boxes.

    Raises:
        ValueError: names the file, the object and the value.
    """
    return [image for folder in paths for image in _folder(folder)]


def _folder(folder: Path) -> list[ImportedImage]:
    masks = {path.stem: path for path in _listed(folder / "SegmentationObject", ".png")}
    tables = {path.stem: path for path in _listed(folder / "Annotations", ".xml")}
    photos = {path.stem: path.name for path in _listed(folder / "JPEGImages", *files.IMAGE_SUFFIXES)}
    subsets, labels, found, assumed = _subsets(folder), _labels(folder), [], list[str]()
    for stem in sorted(photos):
        if stem not in masks.keys() | tables.keys() | subsets.keys():
            continue
        boxes = _boxes(tables[stem]) if stem in tables else []
        objects = _masks(masks[stem], boxes, labels, assumed) if stem in masks else boxes
        place = str(masks.get(stem) or tables.get(stem) or folder / "JPEGImages" / photos[stem])
        folder_of_images, subset = folder / "JPEGImages", subsets.get(stem)
        found.append(ImportedImage(photos[stem], place, tuple(objects), folder=folder_of_images, subset=subset))
    if assumed:
        words = "neither labelmap.txt nor class_names.txt nor a box names their categories; those of VOC 2012 are taken"
        logger.warning("%s: %d objects: %s, such as %s", folder, len(assumed), words, assumed[0])
    lost = sorted((masks.keys() | tables.keys()) - photos.keys())
    if lost:
        raise InputError(f"{folder / 'JPEGImages'}: no image {lost[0]} (nor {len(lost) - 1} more that are annotated)")
    return found


def _listed(folder: Path, *suffixes: str) -> list[Path]:
    if not folder.is_dir():
        return []
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes)
    return [path for path in paths if not files.is_companion(path)]


def _subsets(folder: Path) -> dict[str, str]:
    """Subset by image, of the lists in ImageSets."""
    subsets = {}
    for kind in ("Segmentation", "Main"):
        for path in _listed(folder / "ImageSets" / kind, ".txt"):
            if subset := subset_of(path.stem):
                words = (line.split() for line in files.read_text(path).splitlines())
                subsets.update({line[0]: subset for line in words if line})
        if subsets:
            break
    return subsets


def _labels(folder: Path) -> dict[Colour, str]:
    """Category by the colour or the number of its pixels, as the folder lists them; empty if it does not."""
    labels: dict[Colour, str] = {}
    path = folder / "class_names.txt"  # of LabelMe's labelme2voc: a name a line, the first of the background
    if path.is_file():
        names = [line.strip() for line in files.read_text(path).splitlines() if line.strip() != "__ignore__"]
        labels = {(number,): name for number, name in enumerate(names) if number and name}
    path = folder / "labelmap.txt"
    if path.is_file():  # name:red,green,blue:parts:actions
        lines = [line for line in files.read_text(path).splitlines() if line and not line.startswith("#")]
        for number, line in enumerate(lines, 1):
            name, _, rest = line.partition(":")
            try:
                colour = tuple(int(value) for value in rest.split(":")[0].split(","))
            except ValueError:
                raise InputError(f"{path}: label {number}: {line!r}, expected name:red,green,blue::") from None
            labels[colour] = name
    return labels


def _boxes(path: Path) -> list[ImportedObject]:
    root, found = read_xml(path), []
    if root.tag != "annotation":
        raise InputError(f"{path}: <{root.tag}>, expected <annotation> as in Pascal VOC")
    for number, element in enumerate(root.findall("object"), 1):
        place = f"{path}: object {number}"
        name = (element.findtext("name") or "").strip()
        if not name:
            raise InputError(f"{place}: <name> is missing")
        found.append(ImportedObject(place, name, box=_box(element, place)))
    return found


def _box(element: Element, place: str) -> tuple[float, float, float, float]:
    """(x, y, width, height); VOC counts pixels from 1, and its far edges are inside."""
    keys = ("xmin", "ymin", "xmax", "ymax")
    x1, y1, x2, y2 = (parsed_number(element.findtext(f"bndbox/{key}"), f"{place}: {key}") for key in keys)
    return x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1


def _masks(
    path: Path, boxes: list[ImportedObject], labels: dict[Colour, str], assumed: list[str]
) -> list[ImportedObject]:
    """The objects of an image's masks: the category is that of most of their pixels, or of the box that fits best.

    Objects whose category has neither are named in `assumed`: it is that of their number in VOC 2012.
    """
    standard: dict[Colour, str] = {(number,): name for number, name in enumerate(CLASSES, 1)}
    objects, found = _pixels(path), []
    classes_path = path.parent.parent / "SegmentationClass" / path.name
    classes = _pixels(classes_path) if classes_path.is_file() else None
    if classes is not None and classes.shape[:2] != objects.shape[:2]:
        raise InputError(f"{classes_path}: is of another size than {path}")
    colours, numbers = np.unique(objects.reshape(-1, objects.shape[-1]), axis=0, return_inverse=True)
    owners = numbers.reshape(objects.shape[:2])
    for number, colour in enumerate(map(tuple, colours.tolist())):
        if colour in ((_BORDER,), _BORDER_COLOUR) or not any(colour):
            continue
        mask, place = owners == number, f"{path}: object {colour}"
        category = "" if classes is None else _category(classes[mask], labels)
        category = category or _category_of_box(mask, boxes)
        if not category and not labels and classes is not None:
            category = _category(classes[mask], standard)
            assumed += [place] if category else []
        if not category:
            raise InputError(f"{place}: no category, neither in SegmentationClass with labelmap.txt nor in Annotations")
        found.append(ImportedObject(place, category, mask=mask))
    return found


def _pixels(path: Path) -> np.ndarray:
    """Numbers [height, width, 1] of a palette or grey image, or colours [height, width, 3]."""
    try:
        with decoding.open_image(path) as image:
            plain = image if image.mode in ("P", "L", "I", "I;16") else image.convert("RGB")
            values = np.asarray(plain)
    except decoding.TooLargeError:
        raise
    except Exception as error:  # decoders raise anything on broken files
        raise InputError(f"{path}: the masks cannot be read ({error})") from error
    return values[..., None] if values.ndim == 2 else values


def _category(pixels: np.ndarray, labels: dict[Colour, str]) -> str:
    for colour, _ in collections.Counter(map(tuple, pixels.tolist())).most_common():
        if colour in labels and any(colour) and colour not in ((_BORDER,), _BORDER_COLOUR):
            return labels[colour]
    return ""


def _category_of_box(mask: np.ndarray, boxes: list[ImportedObject]) -> str:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    edges = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1

    def overlap(found: ImportedObject) -> float:
        x, y, width, height = found.box or (0, 0, 0, 0)
        across, along = min(edges[2], x + width) - max(edges[0], x), min(edges[3], y + height) - max(edges[1], y)
        shared = max(across, 0) * max(along, 0)
        whole = (edges[2] - edges[0]) * (edges[3] - edges[1]) + width * height - shared
        return float(shared / whole)

    best = max(boxes, key=overlap, default=None)
    return best.category if best is not None and overlap(best) > 0.5 else ""
