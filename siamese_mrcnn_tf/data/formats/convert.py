"""Tells what an annotation file or folder is of, and converts it to a COCO-format tree."""

import dataclasses
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from ...io import files
from ...io.errors import InputError
from ..annotations import Content
from .coco import read_coco
from .common import ImportedImage, read_xml
from .cvat import read_cvat
from .label_studio import read_label_studio
from .labelme import read_labelme
from .supervisely import is_supervisely, read_supervisely
from .tree import TreeOptions, number_categories, write_tree
from .via import is_table
from .via3 import is_via3
from .via_tree import read_via_images
from .voc import is_voc, read_voc
from .yolo import is_yolo, read_yolo

logger = logging.getLogger(__name__)

FORMATS = ("COCO", "LabelMe", "CVAT", "Label Studio", "VIA", "Pascal VOC", "YOLO", "Supervisely")

_OTHERS = {  # keys of JSON files that are read by no reader -> (what they are of, advice)
    frozenset({"type", "features"}): ("GeoJSON", "export masks or COCO"),
    frozenset({"item", "annotations"}): ("Darwin (V7)", "export it as COCO"),
    frozenset({"asset", "regions"}): ("VoTT", "export it as Pascal VOC"),
    frozenset({"flags", "version", "lineColor"}): ("an early LabelMe", "save it again with LabelMe"),
}


@dataclasses.dataclass(frozen=True)
class ReaderOptions:
    """What readers are told: the image folder, and how categories are found (see `via.region_categories`)."""

    image_dir: Path | None = None
    attribute: str | None = None
    category: str | None = None
    categories: Sequence[str] | None = None


def convert(
    paths: Iterable[files.StrPath],
    image_dir: files.StrPath | None,
    out: files.StrPath,
    *,
    attribute: str | None = None,
    category: str | None = None,
    categories: Iterable[str] | None = None,
    **options: Any,
) -> dict[str, Content]:
    """Write a COCO-format tree of annotations; if anything is wrong with them, nothing is written.

    Args:
        paths: annotation files or folders, of one format (FORMATS).
        image_dir: folder of the images; None where the format knows it.
        out: folder of the tree: `annotations/instances_{subset}{year}.json` and `{subset}{year}/`.
        attribute: of VIA, the region attribute that holds the category.
        category: one category for all objects.
        categories: all categories in the order of their ids; None: those found, by name, those of COCO with their ids.
        options: fields of `tree.TreeOptions`.

    Returns:
        contents of the annotation files by set name ("train2017").

    Raises:
        ValueError: names the wrong argument, file, entry, key and value, or the existing file.
    """
    sources, order = list(map(Path, paths)), None if categories is None else list(categories)
    kinds = {path: identify(path) for path in sources}
    if len(set(kinds.values())) != 1:
        found = ", ".join(f"{path} ({kind})" for path, kind in kinds.items()) or "nothing"
        raise InputError(f"expected annotations of one tool, got {found}")
    kind = next(iter(kinds.values()))
    told = ReaderOptions(None if image_dir is None else Path(image_dir), attribute, category, order)
    images, ids = _READERS[kind](sources, told)
    if not images:
        raise InputError(f"{', '.join(map(str, sources))}: no images in it, though it is of {kind}")
    if category is not None:
        images, ids = [_renamed(image, category) for image in images], None
    if ids is None or order is not None:
        ids = number_categories(images, order)
    description = f"converted from annotations of {'the VGG Image Annotator' if kind == 'VIA' else kind}"
    return write_tree(images, ids, image_dir, out, TreeOptions(**options), description=description)


def identify(path: files.StrPath) -> str:
    """The tool whose annotations a file or folder has, one of FORMATS.

    Raises:
        ValueError: says what it is instead, or what was looked for.
    """
    path = Path(path)
    if os.path.isdir(path):
        return _folder_kind(path)
    files.require_regular(path, "an annotation file")
    if not os.path.isfile(path):
        raise InputError(f"{path}: no such file or folder")
    suffix = path.suffix.lower()
    if suffix in (".yaml", ".yml"):
        return "YOLO"
    if suffix == ".csv":
        if is_table(path):
            return "VIA"
        raise InputError(f"{path}: a table, but not one of VIA; expected annotations of {_all_formats()}")
    if suffix == ".xml":
        root = read_xml(path)
        if root.tag == "annotations":
            return "CVAT"
        what = "one image of Pascal VOC; pass the folder that has Annotations/ and JPEGImages/"
        raise InputError(
            f"{path}: {what if root.tag == 'annotation' else f'<{root.tag}>, expected annotations of CVAT'}"
        )
    if suffix == ".txt":
        raise InputError(f"{path}: a text file, perhaps of YOLO; pass its data.yaml, or the folder that has labels/")
    if suffix in (".zip", ".tar", ".gz", ".7z", ".rar"):
        raise InputError(f"{path}: an archive; unpack it first, and pass what is in it")
    return _json_kind(path, files.read_json(path))


def _folder_kind(path: Path) -> str:
    for kind, is_kind in (("Pascal VOC", is_voc), ("Supervisely", is_supervisely), ("YOLO", is_yolo)):
        if is_kind(path):
            return kind
    found = [file for file in sorted(path.rglob("*.json")) if not files.is_companion(file)]
    if found:
        kind = _json_kind(found[0], files.read_json(found[0]))
        if kind == "LabelMe":
            return kind
        raise InputError(f"{path}: a folder with files of {kind}; pass the files, such as {found[0]}")
    raise InputError(f"{path}: no annotations in this folder; expected one of LabelMe, Pascal VOC, YOLO or Supervisely")


def _json_kind(path: Path, content: Any) -> str:
    if isinstance(content, list):
        tasks = [entry for entry in content if isinstance(entry, dict)]
        if any("data" in task and ("annotations" in task or "completions" in task) for task in tasks):
            return "Label Studio"
        if any("annotation_id" in task or "label" in task for task in tasks):
            raise InputError(f"{path}: the export 'JSON-MIN' of Label Studio, which lacks sizes; export 'JSON' instead")
        raise InputError(f"{path}: a list, expected annotations of {_all_formats()}")
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected annotations of {_all_formats()}")
    keys = content.keys()
    known: list[tuple[str, Callable[[], bool]]] = [
        ("LabelMe", lambda: {"shapes", "imagePath"} <= keys),
        ("COCO", lambda: {"images", "annotations", "categories"} <= keys),
        ("VIA", lambda: is_via3(content) or "_via_img_metadata" in keys or _are_via_images(content)),
    ]
    for kind, is_kind in known:
        if is_kind():
            return kind
    if {"objects", "size"} <= keys:
        raise InputError(f"{path}: one image of Supervisely; pass the folder of its project")
    for wanted, (what, advice) in _OTHERS.items():
        if wanted <= keys:
            raise InputError(f"{path}: a file of {what}, which is not read; {advice}")
    if {"images", "annotations"} <= keys:
        raise InputError(f"{path}: a COCO file without categories")
    shown = ", ".join(sorted(map(str, keys))[:8])
    raise InputError(f"{path}: a JSON file with the keys {shown}, expected annotations of {_all_formats()}")


def _are_via_images(content: dict[str, Any]) -> bool:
    return bool(content) and all(isinstance(e, dict) and {"filename", "regions"} & e.keys() for e in content.values())


def _all_formats() -> str:
    return f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"


def _renamed(image: ImportedImage, category: str) -> ImportedImage:
    objects = tuple(dataclasses.replace(found, category=category) for found in image.objects)
    return dataclasses.replace(image, objects=objects)


Read = tuple[list[ImportedImage], dict[str, int] | None]


def _via(paths: list[Path], told: ReaderOptions) -> Read:
    chosen: dict[str, Any] = {"attribute": told.attribute, "category": told.category, "categories": told.categories}
    return read_via_images(paths, **chosen), None


_READERS: dict[str, Callable[[list[Path], ReaderOptions], Read]] = {
    "COCO": lambda paths, told: read_coco(paths, told.image_dir),
    "LabelMe": lambda paths, _: (read_labelme(paths), None),
    "CVAT": lambda paths, _: (read_cvat(paths), None),
    "Label Studio": lambda paths, told: (read_label_studio(paths, told.image_dir), None),
    "VIA": _via,
    "Pascal VOC": lambda paths, _: (read_voc(paths), None),
    "YOLO": lambda paths, told: (read_yolo(paths, told.image_dir, told.categories), None),
    "Supervisely": lambda paths, _: (read_supervisely(paths), None),
}
