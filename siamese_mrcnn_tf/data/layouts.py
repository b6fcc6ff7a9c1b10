"""Where annotation tools put the annotation file and the images of a data set, and how they name images.

`find_layout` knows the folders of COCO, Roboflow, CVAT, Label Studio and coco-annotator; `resolve_names` finds images
whose names are paths of another machine.
"""

import contextlib
import logging
import os
import re
import urllib.parse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..io import files
from ..io.errors import InputError
from .annotations import Content, Entry

logger = logging.getLogger(__name__)

SUBSETS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}

_COCO_2014_SUBSETS = ("minival", "valminusminival")  # parts of val2014 with annotation files of their own
_ROBOFLOW = "_annotations.coco.json"
_WHOLE = ("instances_default.json", "result.json")  # CVAT's and Label Studio's: all images in one file
_PARTS = {*SUBSETS["val"], *SUBSETS["test"], *_COCO_2014_SUBSETS}  # words of a file that has not all images
_NO_MASKS = {"captions", "keypoints", "panoptic", "stuff", "info"}  # words of COCO's files of other kinds
_PLAIN_NAME = re.compile(r"[^/\\%?:]+")
_LOOKED = 8  # folders in a message
_PEEKED = 20  # names that decide on the image folder


def subset_of(name: str) -> str | None:
    """The subset, train or val, that goes by a name such as "Validation"; None for other names."""
    return next((subset for subset in ("train", "val") if name.lower() in SUBSETS[subset]), None)


class LayoutError(InputError):
    """A folder has no annotation file of a subset."""


def find_layout(dataset_dir: files.StrPath, subset: str, year: str) -> tuple[Path, list[Path]]:
    """(annotation file of a subset, folders that may hold its images; the first that has them is taken).

    In this order, names without regard to case; "valid" and "validation" stand for val:

    1. COCO: annotations/instances_{subset}{year}.json; then without a year, or with the only other year there is.
    2. The only JSON file with the subset as a word of its name, in annotations/ or in the folder: coco_val.json.
    3. Roboflow: {subset}/_annotations.coco.json beside the images, or another single JSON file there.
    4. For train alone, a file of all images: CVAT's annotations/instances_default.json, Label Studio's result.json, or
       the only COCO file in the folder, or else in annotations/ (coco-annotator).

    Images are in {subset}{year}/, {subset}/, images/{subset}/, images/default/, images/, or beside the file; those of a
    file of all images also in the only other folder.

    Raises:
        LayoutError: a ValueError that says what was looked for, and what is there.
    """
    root = Path(dataset_dir)
    if not os.path.isdir(root):
        raise LayoutError(f"{root}: no such folder, expected a data set with annotations/instances_{subset}{year}.json")
    if subset in _COCO_2014_SUBSETS:
        return _existing(root, "annotations", f"instances_{subset}2014.json"), [root / "val2014"]
    names = SUBSETS.get(subset, (subset,))
    path = _of_subset(root, names, year) or _beside_images(root, names)
    if path is not None:
        return path, _image_folders(root, path, names, year)
    path = _whole(root) if subset == "train" else None
    if path is None:
        raise LayoutError(_nothing_found(root, subset, year))
    others = [entry for entry in root.iterdir() if entry.is_dir() and entry.name[0] != "." and entry != path.parent]
    others = [entry for entry in others if entry.name.lower() != "annotations"]
    return path, [*_image_folders(root, path, names, year), *(others if len(others) == 1 else [])]


def image_folders(path: Path) -> list[Path]:
    """Folders that may hold the images of an annotation file in one of these layouts, the likeliest first."""
    root = path.parent.parent if path.parent.name == "annotations" else path.parent
    return _image_folders(root, path, SUBSETS.get(subset_of_file(path) or "", ()), "")


def subset_of_file(path: Path) -> str | None:
    """The subset, train or val, that an annotation file or its folder is named after; None if it is neither or both."""
    for name in (path.stem, path.absolute().parent.name):
        found = {subset_of(word) for word in re.split(r"[^a-z]+", name.lower())} - {None}
        if found:
            return found.pop() if len(found) == 1 else None
    return None


def choose_images(path: files.StrPath, folders: Sequence[Path], content: Content) -> Path:
    """The first folder that holds one of the first images of a file; without images in any, the first that exists.

    A folder that also holds the annotation file, or its folder, counts only if it has one of these images.

    Raises:
        ValueError: none of the folders exists.
    """
    there = [folder for folder in folders if os.path.isdir(folder)]
    own = [folder for folder in there if len(folders) == 1 or folder not in Path(path).parents]
    if not own and not any(_holds_images(folder, content) for folder in there):
        looked = ", ".join(str(folder) for folder in folders[:_LOOKED])
        raise LayoutError(f"{path}: no such image folder (looked for {looked}{', ...' if folders[_LOOKED:] else ''})")
    if len(there) > 1:
        for folder in there:
            if _holds_images(folder, content):
                return folder
    return (own or there)[0]


def _holds_images(folder: Path, content: Content) -> bool:
    """Whether a folder has one of the first images; true for a file without images."""
    images = content["images"][:_PEEKED]
    return not images or any(find_image(image["file_name"], folder) for image in images)


def resolve_names(content: Content, image_dir: Path, path: files.StrPath) -> None:
    """Replace the names of images that are paths by those of files in the image folder, in place.

    Of a name with backslashes, an absolute path, one that leaves the folder, or an address, the longest last part that
    is there is taken. Plain names, and names that are there, stay.

    Raises:
        ValueError: two entries, one of them by a path, name the same file.
    """
    changed, missing = {}, []
    for index, image in enumerate(content["images"]):
        name = image["file_name"]
        if _PLAIN_NAME.fullmatch(name):
            continue
        found = find_image(name, image_dir)
        if found is None:
            missing.append(name)
            image["listed_as"] = name  # for messages
            found = os.path.normpath(name) if _stays(name) else _last_part(name)
        if found != name:
            image["file_name"] = found
            changed[index] = name
    if missing:
        logger.warning("%s: %d images are not in %s, such as %r", path, len(missing), image_dir, missing[0])
    _require_own_files(content, image_dir, path, changed)
    if changed:
        index, name = next(iter(changed.items()))
        found = content["images"][index]["file_name"]
        logger.info("%s: %d file names are paths; read as their last parts, %r as %r", path, len(changed), name, found)


def _require_own_files(content: Content, image_dir: Path, path: files.StrPath, changed: dict[int, str]) -> None:
    """Raise for the first two images whose names, one of them a path, are the same file.

    `changed` has the listed names of paths by index. A plain name that is repeated is a finding of `check`.
    """
    names = [image["file_name"] for image in content["images"]]
    if len(set(names)) == len(names):
        return
    first: dict[str, int] = {}
    for index, name in enumerate(names):
        if first.setdefault(name, index) != index and {first[name], index} & changed.keys():
            entries = [(i, content["images"][i]["id"], changed.get(i, name)) for i in (first[name], index)]
            text = " and ".join(f"images[{i}] (id {image_id}): file_name = {n!r}" for i, image_id, n in entries)
            raise InputError(f"{path}: {text} are the same file {image_dir / name}")


def find_image(name: str, folder: files.StrPath) -> str | None:
    """The path in `folder` of the file that a name means, with slashes: the name itself, or its longest last part."""
    for candidate in _candidates(name):
        if os.path.isfile(os.path.join(folder, candidate)):
            return candidate
    return None


def drop_root_category(content: Content, path: files.StrPath, others: Iterable[Path] = ()) -> None:
    """Remove the category of Roboflow that only groups the others, so that it takes no class number.

    Its supercategory is "none", its name is the supercategory of all other categories, and no annotation has it, here
    or in the files `others`: those of the other subsets, which must number their classes alike.
    """
    root = _root_category(content)
    if root is None or _has_annotations(content, root["id"]):
        return
    for other in others:
        found = files.read_json(other)
        same = _root_category(found) if _has_sections(found) else None
        if same is not None and same["name"] == root["name"] and _has_annotations(found, same["id"]):
            logger.warning("%s: category %r stays, as %s has annotations of it", path, root["name"], other)
            return
    content["categories"] = [category for category in content["categories"] if category is not root]
    logger.info("%s: category %r groups the others and takes no class number", path, root["name"])


def other_subsets(dataset_dir: files.StrPath, path: Path, year: str) -> Iterable[Path]:
    """The annotation files of the subsets of a data set but `path`."""
    for subset in SUBSETS:
        with contextlib.suppress(LayoutError):
            found, _ = find_layout(dataset_dir, subset, year)
            if found != path:
                yield found


def _root_category(content: Content) -> Entry | None:
    """The category without a supercategory that is the supercategory of all others."""
    root: Entry
    for root in content["categories"]:
        groups = {str(category.get("supercategory")) for category in content["categories"] if category is not root}
        if str(root.get("supercategory", "")).lower() == "none" and groups == {root["name"]}:
            return root
    return None


def _has_annotations(content: Content, category_id: int) -> bool:
    return any(annotation.get("category_id") == category_id for annotation in content["annotations"])


def _has_sections(content: Any) -> bool:
    """Whether the content of a JSON file has the lists of COCO's, of dicts."""
    if not isinstance(content, dict):
        return False
    lists = [content.get(key) for key in ("images", "annotations", "categories")]
    return all(isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries) for entries in lists)


# ---- annotation files ----------------------------------------------------------------------------------------------
def _of_subset(root: Path, names: Sequence[str], year: str) -> Path | None:
    """The annotation file that has the name of the subset."""
    folder = root / "annotations"
    there = _json_files(folder)
    for name in names:
        for wanted in (f"instances_{name}{year}.json", f"instances_{name}.json"):
            if wanted.lower() in there:
                return files.inside(folder, there[wanted.lower()])
        pattern = re.compile(rf"instances_{re.escape(name)}(\d{{4}})\.json")
        others = [found for low, found in there.items() if pattern.fullmatch(low)]
        if len(others) == 1:
            logger.warning("%s: no instances_%s%s.json, %s is taken", folder, name, year, others[0])
            return files.inside(folder, others[0])
    for place, found in ((folder, there), (root, _json_files(root))):
        named = [found[low] for low in found if not _words(low).isdisjoint(names) and _words(low).isdisjoint(_NO_MASKS)]
        exact = [name for name in named if Path(name).stem.lower() in names]
        for choice in (exact, named):
            if len(choice) == 1:
                return files.inside(place, choice[0])
    return None


def _beside_images(root: Path, names: Sequence[str]) -> Path | None:
    """The annotation file in the image folder of the subset, as Roboflow writes it."""
    folders = {entry.name.lower(): entry for entry in root.iterdir() if entry.is_dir()}
    for folder in (folders[name] for name in names if name in folders):
        there = _json_files(folder)
        if _ROBOFLOW in there:
            return files.inside(folder, there[_ROBOFLOW])
        if len(there) == 1:
            return files.inside(folder, next(iter(there.values())))
    return None


def _whole(root: Path) -> Path | None:
    """The only annotation file of the data set."""
    for folder in (root / "annotations", root):
        there = _json_files(folder)
        for name in _WHOLE:
            if name in there:
                return files.inside(folder, there[name])
    for folder in (root, root / "annotations"):
        found = list(_json_files(folder).values())
        if len(found) > 1:
            found = [name for name in found if _is_coco(folder / name)]
        if len(found) == 1 and _words(found[0]).isdisjoint(_PARTS):
            return files.inside(folder, found[0])
    return None


def _words(name: str) -> set[str]:
    """The words of a file name, in lower case."""
    return set(re.split(r"[^a-z]+", name.lower()))


def _is_coco(path: Path) -> bool:
    """Whether a JSON file has images, annotations and categories; one that cannot be read has none."""
    try:
        content = files.read_json(path)
    except ValueError:
        return False
    return _has_sections(content)


def _json_files(folder: Path) -> dict[str, str]:
    """Names of the JSON files in a folder by their lower-case form."""
    if not folder.is_dir():
        return {}
    entries = sorted(entry.name for entry in folder.iterdir() if entry.suffix.lower() == ".json")
    return {name.lower(): name for name in entries if not files.is_companion(name)}


def _existing(root: Path, *parts: str) -> Path:
    path = files.inside(root, os.path.join(*parts))
    if not path.is_file():
        there = sorted(entry.name for entry in path.parent.iterdir()) if path.parent.is_dir() else []
        raise LayoutError(f"{path}: no such annotation file; the folder holds {', '.join(there) or 'nothing'}")
    return path


def _nothing_found(root: Path, subset: str, year: str) -> str:
    whole = _whole(root)
    folder = root / "annotations"
    there = sorted(entry.name for entry in (folder if folder.is_dir() else root).iterdir())
    place = folder if folder.is_dir() else root
    text = f"{place}: no annotation file for {subset!r} (instances_{subset}{year}.json, or {subset}/{_ROBOFLOW})"
    if whole is not None:
        split = f"siamese-mrcnn convert {whole} --images IMAGES --out OUT --val-share 0.2"
        return f"{text}; {whole.name} holds all images: to split it, {split}; or choose --subset train"
    return f"{text}; the folder holds {', '.join(there) or 'nothing'}"


def _image_folders(root: Path, path: Path, names: Sequence[str], year: str) -> list[Path]:
    """Folders that may hold the images of an annotation file, the likeliest first."""
    stem = re.sub(r"^(instances|annotations)_|_annotations$", "", path.stem, flags=re.IGNORECASE)
    subsets = list(dict.fromkeys([stem, *(f"{name}{year}" for name in names), *names, "default"]))
    wanted = [part for name in subsets for part in (name, f"images/{name}")]
    beside = [path.parent] if path.parent != root / "annotations" else []
    spelt = [_spelt(root, part) for part in [*wanted, "images", "img"]]
    first = beside if path.name.lower() == _ROBOFLOW else []
    return list(dict.fromkeys([*first, *spelt, *beside, path.parent / "images", root]))


def _spelt(root: Path, part: str) -> Path:
    """The folder `part` below `root`, in the spelling of the disk."""
    folder = root
    for name in part.split("/"):
        same = folder / name
        if not same.is_dir() and folder.is_dir():
            same = next((e for e in folder.iterdir() if e.is_dir() and e.name.lower() == name.lower()), same)
        folder = same
    return folder


# ---- names of images -----------------------------------------------------------------------------------------------
def _candidates(name: str) -> Iterable[str]:
    """Paths inside the image folder that a name may mean, the most literal first."""
    if _stays(name):
        yield os.path.normpath(name)
    texts = [name, urllib.parse.unquote(re.sub(r"[?#].*$", "", name)), urllib.parse.unquote(name.partition("?d=")[2])]
    for text in dict.fromkeys(texts):
        parts = [part for part in re.split(r"[\\/]+", text) if part not in ("", ".", "..") and not part.endswith(":")]
        for start in range(len(parts)):
            yield "/".join(parts[start:])


def _last_part(name: str) -> str:
    """The last part of a path or an address; the name itself if there is none."""
    return next(reversed(list(_candidates(name))), name)


def _stays(name: str) -> bool:
    """Whether a file name stays in its folder; links are followed when the file is opened, by `files.inside`."""
    return bool(name) and not os.path.isabs(name) and os.path.normpath(name).split(os.sep)[0] != ".."
