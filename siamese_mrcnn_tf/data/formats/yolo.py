"""Data sets of Ultralytics YOLO for segmentation: a text file with outlines for each image.

The format is described in docs.ultralytics.com, "Instance segmentation datasets overview": each line has the number of
a class and the points of an outline as shares of the image. A line of five numbers is a box, by centre and size.
"""

import reprlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ...io import files
from ...io.errors import InputError
from ...io.images import read_image
from ..layouts import SUBSETS, find_image, subset_of
from .common import ImportedImage, ImportedObject, require_text

_BOX = 5  # numbers of a line
_MAX_DIGITS = 9  # of the number of a class
_MIN_POLYGON = 7


class _PlainLoader(yaml.SafeLoader):
    """Reads YAML without aliases, by which a short file may stand for a content of any size."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(None, None, f"the alias *{event.anchor} is not read", event.start_mark)
        return super().compose_node(parent, index)


def is_yolo(path: Path) -> bool:
    """Whether a path is a data set's YAML file, or a folder with one or with labels."""
    if path.is_dir():
        return bool(_yaml_files(path)) or (path / "labels").is_dir() or bool(list(path.glob("*/labels")))
    return path.suffix.lower() in (".yaml", ".yml")


def read_yolo(paths: Iterable[Path], image_dir: Path | None, names: Iterable[str] | None) -> list[ImportedImage]:
    """The images of data sets that have a label file; images without one are scenes without objects.

    Args:
        paths: YAML files, or folders with one, or with images/ and labels/ and perhaps classes.txt.
        image_dir: folder of the images, if they are not where the data set says.
        names: categories by number, for a data set that does not name them.

    Raises:
        ValueError: names the file, the line and the value.
    """
    return [image for path in paths for image in _dataset(path, image_dir, None if names is None else list(names))]


def _dataset(path: Path, image_dir: Path | None, names: list[str] | None) -> list[ImportedImage]:
    described = path if path.is_file() else next(iter(_yaml_files(path)), None)
    root = path.parent if path.is_file() else path
    content = {} if described is None else _read_yaml(described)
    categories = _names(content.get("names"), described, root, names)
    folders = _places(content, root, described)
    images = []
    for subset, place in folders:
        taken, listed = _image_files(place, root, image_dir)
        folder = place if place.is_dir() else taken
        for file in listed:
            labels = _labels_of(file, taken, folder)
            name = file.relative_to(taken).as_posix()
            objects = _objects(labels, file, categories) if labels.is_file() else ()
            images.append(ImportedImage(name, str(labels), objects, folder=taken, subset=subset, target=name))
    if not any(image.objects for image in images):
        where = ", ".join(str(folder) for _, folder in folders) or str(root)
        raise InputError(f"{path}: no labels for the images in {where}, expected labels/NAME.txt for images/NAME.jpg")
    return images


def _yaml_files(folder: Path) -> list[Path]:
    found = [entry for entry in sorted(folder.iterdir()) if entry.suffix.lower() in (".yaml", ".yml")]
    return [entry for entry in found if not files.is_companion(entry)]


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(files.read_text(path), _PlainLoader)
    except InputError:
        raise
    except RecursionError as error:
        raise InputError(f"{path}: YAML nested too deeply") from error
    except (yaml.YAMLError, AttributeError, MemoryError, OverflowError, TypeError, ValueError) as error:
        words = " ".join(str(error).split())  # in one line
        raise InputError(f"{path}: not a YAML file that can be read ({words})") from error
    if not isinstance(content, dict) or "names" not in content:
        raise InputError(f"{path}: expected the YAML file of a YOLO data set, with names")
    return content


def _names(found: Any, path: Path | None, root: Path, given: list[str] | None) -> dict[int, str]:
    """Categories by number, of the YAML file, of classes.txt, or as given."""
    if isinstance(found, list):
        found = dict(enumerate(found))
    if isinstance(found, dict) and all(map(_is_number, found)):
        return {int(number): _name(name, f"{path}: names[{number}]") for number, name in found.items()}
    if found is not None:
        raise InputError(f"{path}: names = {reprlib.repr(found)}, expected a list, or a dict by number")
    for place in (root / "classes.txt", root / "labels" / "classes.txt"):
        if place.is_file():
            return dict(enumerate(line.strip() for line in files.read_text(place).splitlines() if line.strip()))
    if given is None:
        raise InputError(f"{root}: neither data.yaml nor classes.txt names the classes; name them with --categories")
    return dict(enumerate(given))


def _is_number(key: Any) -> bool:
    """Whether a key is the number of a class."""
    text = str(key) if type(key) in (int, str) else ""
    return text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS


def _name(value: Any, place: str) -> str:
    """The name of a category, which YAML may have taken for a number, a date or a truth value."""
    if value is None or isinstance(value, (list, dict, set, bytes)):
        raise InputError(f"{place} = {reprlib.repr(value)}, expected a name")
    return require_text(str(value), place)


def _places(content: dict[str, Any], root: Path, described: Path | None) -> list[tuple[str | None, Path]]:
    """(subset or None, folder or list of images), in the order of the YAML file or of the folders.

    A YAML file none of whose folders is there, as one from another machine, is passed over; one that is there in part
    is an error.
    """
    base = root / "".join(_listed(content.get("path") or None, f"{described}: path")[:1])
    found: list[tuple[str | None, Path]] = []
    missing = []
    for key in ("train", "val", "valid"):
        for part in _listed(content.get(key), f"{described}: {key}"):
            tries = (base / part, root / part, root / part.removeprefix("../"), Path(part))
            there = [one for one in tries if one.is_dir() or (one.is_file() and one.suffix.lower() == ".txt")]
            found += [(subset_of(key), place) for place in there[:1]]
            missing += [] if there else [f"{key} = {part!r}"]
    if found and missing:
        raise InputError(f"{described}: {missing[0]}: no such folder, and no list of images (.txt)")
    if found:
        return found
    for name in (*SUBSETS["train"], *SUBSETS["val"]):
        found += [
            (subset_of(name), folder) for folder in (root / "images" / name, root / name / "images") if folder.is_dir()
        ]
    whole: list[tuple[str | None, Path]] = [(None, folder) for folder in (root / "images", root) if folder.is_dir()]
    return found or whole[:1]


def _image_files(place: Path, root: Path, image_dir: Path | None) -> tuple[Path, list[Path]]:
    """(folder, image files below it) of a folder or of a text file that lists images, a path a line."""
    if place.is_dir():
        folder = image_dir or place
        found = sorted(entry for entry in folder.rglob("*") if entry.suffix.lower() in files.IMAGE_SUFFIXES)
        return folder, [entry for entry in found if not files.is_companion(entry)]
    folder, listed = image_dir or root, []
    for number, line in enumerate(files.read_text(place).splitlines(), 1):
        if line.strip():
            name = find_image(line.strip(), folder)
            if name is None:
                raise InputError(f"{place}: line {number}: {line.strip()!r}: no such file in {folder}")
            listed.append(files.inside(folder, name))
    return folder, listed


def _listed(value: Any, place: str) -> list[str]:
    parts = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(part, str) for part in parts):
        raise InputError(f"{place} = {reprlib.repr(value)}, expected a folder, or a list of them")
    return [require_text(part, place) for part in parts]


def _labels_of(file: Path, taken: Path, folder: Path) -> Path:
    """The label file of an image: beside it, or in labels/ in place of the last images/ of its path."""
    inside = file.relative_to(taken).with_suffix(".txt")
    parts = [*folder.parts, *inside.parts]
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
        return Path(*parts)
    beside = folder / inside
    return beside if beside.is_file() else folder / "labels" / inside


def _objects(path: Path, image: Path, categories: dict[int, str]) -> tuple[ImportedObject, ...]:
    lines = [line.split() for line in files.read_text(path).splitlines()]
    height, width = read_image(image).shape[:2] if any(lines) else (0, 0)
    return tuple(
        _object(line, f"{path}: line {number}", categories, np.array([width, height]))
        for number, line in enumerate(lines, 1)
        if line
    )


def _object(line: list[str], place: str, categories: dict[int, str], size: np.ndarray) -> ImportedObject:
    try:
        number, values = int(line[0]), np.array([float(word) for word in line[1:]])
    except (OverflowError, ValueError):
        raise InputError(f"{place}: {' '.join(line)[:60]!r}, expected a class number and coordinates") from None
    if number not in categories:
        raise InputError(f"{place}: class {line[0][:20]}, expected one of {', '.join(map(str, categories))}")
    if not np.isfinite(values).all() or (values < -1).any() or (values > 2).any():
        raise InputError(f"{place}: coordinates {values.min()} to {values.max()}, expected shares of the image, 0..1")
    if len(line) == _BOX:
        corner, extent = (values[:2] - values[2:] / 2) * size, values[2:] * size
        return ImportedObject(place, categories[number], box=(*corner.tolist(), *extent.tolist()))
    if len(line) < _MIN_POLYGON or len(values) % 2:
        raise InputError(
            f"{place}: {len(line)} numbers, expected a class and a box of 4, or x and y of 3 points or more"
        )
    return ImportedObject(place, categories[number], outlines=(values.reshape(-1, 2) * size,))
