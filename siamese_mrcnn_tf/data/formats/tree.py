"""Converts annotations of any known format to a COCO-format tree, images included."""

import collections
import dataclasses
import io
import itertools
import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as coco_mask
from PIL import Image
from tqdm import tqdm

from ...io import decoding, files, intensity, orientation
from ...io.errors import InputError
from ...io.images import read_image
from ...io.locks import temporary_folder
from ..annotations import Content, Entry, Rle, annotation_rle
from ..layouts import find_image
from .common import (
    ImportedImage,
    ImportedObject,
    joined_groups,
    log_left_out,
    object_rle,
    require_outlines,
    require_text,
)
from .label_studio import image_names
from .via import clip_outline

logger = logging.getLogger(__name__)

SUBSETS = ("train", "val")

_DECIMALS = 2  # of the polygons that are written
_TOLERANCE = 3  # pixels that an object may reach out of its image without a warning
_JPEG_QUALITY = 95  # of images that are written upright
_SHOWN = 5  # names in a message


@dataclasses.dataclass(frozen=True)
class TreeOptions:
    """How a tree is written.

    Attributes:
        subset: "train" or "val"; None: what the format says of each image, or else train.
        year: in the name of the annotation file.
        val_share: if above 0, this share of the images, one at least, becomes the subset "val", the others "train".
            Every category that is in two images or more is in both parts, where that is possible. The choice depends on
            `seed` and the file names: images added later move few of the others.
        link: link the images instead of copying them.
        ignore_orientation: the objects were drawn on the stored images, without their EXIF orientation.
        force: replace existing files.
    """

    subset: str | None = None
    year: str = "2017"
    val_share: float = 0.0
    seed: int = 0
    link: bool = False
    ignore_orientation: bool = False
    force: bool = False
    progress: bool = True


def write_tree(
    images: Sequence[ImportedImage],
    categories: Mapping[str, int],
    image_dir: files.StrPath | None,
    out: files.StrPath,
    options: TreeOptions,
    *,
    description: str,
) -> dict[str, Content]:
    """Write a COCO-format tree of imported images; if anything is wrong with them, nothing is written.

    Returns the contents of the annotation files by set name ("train2017"). Images are numbered from 1 in their order.
    Objects are clipped to their image. An image whose EXIF orientation is not decided by its size is written without
    it.

    Raises:
        ValueError: names the wrong argument, annotation file or image, or the existing file.
    """
    out = files.writable_folder(out)
    parts = _parts(images, options)
    for part in parts:
        path = _annotation_path(out, f"{part}{options.year}")
        if path.exists() and not options.force:
            raise InputError(f"{path}: is there already; replace it with --force, or choose another folder (--out)")
    with temporary_folder() as spare:
        sources = _named_apart(_sources(images, image_dir, options, spare), parts)
        _tell_left_out(images, sources, image_dir, out)
        return _write(images, categories, sources, parts, out, options, description)


def _write(
    images: Sequence[ImportedImage],
    categories: Mapping[str, int],
    sources: Sequence["_Source"],
    parts: Mapping[str, list[int]],
    out: Path,
    options: TreeOptions,
    description: str,
) -> dict[str, Content]:
    contents = {}
    numbers = itertools.count(1)
    entries, annotations = [], []
    for number, (image, source) in enumerate(zip(images, sources, strict=True), start=1):
        height, width = source.size
        for found in image.objects:
            require_outlines(found)
        entries.append({"id": number, "file_name": source.name, "height": height, "width": width})
        for found in joined_groups(image.objects, height, width):
            annotation = _annotation(found, entries[-1], categories)
            annotations.append({"id": next(numbers), "image_id": number} | annotation)
    for part, chosen in parts.items():
        kept = {entries[i]["id"] for i in chosen}
        contents[f"{part}{options.year}"] = {
            "info": {"description": description},
            "images": [entries[i] for i in chosen],
            "annotations": [annotation for annotation in annotations if annotation["image_id"] in kept],
            "categories": [{"id": number, "name": name} for name, number in categories.items()],
        }
    placed = [(sources[i], out / f"{part}{options.year}") for part in parts for i in parts[part]]
    texts = {
        path: files.json_text(path, content)
        for name, content in contents.items()
        for path in [_annotation_path(out, name)]
    }
    for name in ("annotations", *(f"{subset}*" for subset in SUBSETS)):
        for folder in out.glob(name):
            files.remove_temporaries(folder)
    _write_images(placed, options.link, options.force)
    for path, text in texts.items():
        files.write_text(path, text)
    return contents


def number_categories(images: Sequence[ImportedImage], categories: Iterable[str] | None = None) -> dict[str, int]:
    """Category ids by name, from 1 on: in the given order, or by name.

    Raises:
        ValueError: no objects, an object without category, or one that is not among the given.
    """
    objects = [found for image in images for found in image.objects]
    if not objects:
        raise InputError("no regions with an area: there is nothing to learn from")
    order = sorted({found.category for found in objects}) if categories is None else list(categories)
    if not order or not all(map(str.strip, order)) or len(set(order)) < len(order):
        raise InputError(f"categories {order}: expected names, each once")
    for found in objects:
        if found.category not in order:
            raise InputError(f"{found.place}: category {found.category!r}, expected one of {', '.join(order)}")
    return {name: number for number, name in enumerate(order, start=1)}


# ---- subsets -------------------------------------------------------------------------------------------------------
def _parts(images: Sequence[ImportedImage], options: TreeOptions) -> dict[str, list[int]]:
    """Indices, ascending, of the images of each subset."""
    subset, share = options.subset, options.val_share
    if subset not in (None, *SUBSETS):
        raise InputError(f"subset = {subset!r}: expected one of {', '.join(SUBSETS)}")
    if not 0 <= share < 1 or options.seed < 0:
        given = f"val_share = {share}, seed = {options.seed}"
        raise InputError(f"{given}: expected a share from 0 to below 1, and no negative seed")
    if not share:
        told = [subset or image.subset or "train" for image in images]
        return {part: [i for i, one in enumerate(told) if one == part] for part in SUBSETS if part in told}
    if subset == "val" or len(images) < 2:
        raise InputError(f"val_share = {share}: expected the subset 'train' and two images or more")
    draws = [np.random.default_rng([options.seed, *image.name.encode()]).random() for image in images]
    val = _stratified(images, draws, min(max(round(share * len(images)), 1), len(images) - 1))
    return {"train": [i for i in range(len(images)) if i not in val], "val": sorted(val)}


def _stratified(images: Sequence[ImportedImage], draws: Sequence[float], count: int) -> set[int]:
    """Indices of the images for val: those with the lowest draws.

    Others are moved to bring each category of several images into both parts.
    """
    val = set(sorted(range(len(images)), key=draws.__getitem__)[:count])
    owners = collections.defaultdict(set)
    for index, image in enumerate(images):
        for one in image.objects:
            owners[one.category].add(index)
    several = {name: found for name, found in owners.items() if len(found) > 1}

    def movable(found: set[int], part: set[int]) -> list[int]:
        """Images of a category that leave a part without taking another category's last image from it; by draw."""
        free = (i for i in found if not any(other & part == {i} for other in several.values()))
        return sorted(free, key=draws.__getitem__)

    apart = []
    for name in sorted(several, key=lambda one: (len(several[one]), one)):
        found, train = several[name], set(range(len(images))) - val
        if not found & val:
            val |= set(movable(found, train)[:1])
        elif not found & train:
            val -= set(movable(found, val)[-1:])
        apart += [] if found & val and found - val else [name]
    if apart:
        shown = ", ".join(apart[:_SHOWN]) + (", ..." if len(apart) > _SHOWN else "")
        logger.warning("%d categories of several images are in one part alone: %s", len(apart), shown)
    return val


def _annotation_path(out: Path, name: str) -> Path:
    return files.inside(out / "annotations", f"instances_{name}.json")


# ---- objects -------------------------------------------------------------------------------------------------------
def _annotation(found: ImportedObject, image: Entry, categories: Mapping[str, int]) -> Entry:
    """An object as COCO annotation, clipped to its image; an error if no pixel is left."""
    height, width = image["height"], image["width"]
    base: Entry = {"category_id": categories[found.category], "iscrowd": 0}
    if found.coco is not None:
        keys = ("segmentation", "bbox", "area", "iscrowd")
        return base | {key: found.coco[key] for key in keys if key in found.coco}
    _warn_of_clipping(found, height, width)
    if found.box is not None:
        return base | _boxed(found, height, width)
    if found.mask is not None or found.holes:
        rle = object_rle(found, height, width)
        _require_pixels(found, rle, image)
        return base | _measured(rle, rle | {"counts": rle["counts"].decode("ascii")})
    polygons = [clip_outline(outline, height, width).round(_DECIMALS) for outline in found.outlines]
    segmentation = [polygon.ravel().tolist() for polygon in polygons if len(polygon) > 2]
    rle = annotation_rle({"id": 0, "segmentation": segmentation}, height, width)
    _require_pixels(found, rle, image)
    return base | _measured(rle, segmentation)


def _warn_of_clipping(found: ImportedObject, height: int, width: int) -> None:
    """Warn of an object that reaches out of its image by more than rounding."""
    points = list(found.outlines)
    if found.box is not None:
        x, y, box_width, box_height = found.box
        points.append(np.array([(x, y), (x + box_width, y + box_height)]))
    if found.mask is not None and found.mask.any():
        rows, columns = (np.flatnonzero(found.mask.any(axis=axis)) for axis in (1, 0))
        corners = [(columns[0], rows[0]), (columns[-1] + 1, rows[-1] + 1)]
        points.append(np.array(corners) + found.corner)
    beyond = max((max((-one).max(), (one - (width, height)).max()) for one in points), default=0)
    if beyond > _TOLERANCE:
        size = f"{width} x {height} (width x height)"
        logger.warning("%s: reaches %.0f pixels out of the image, %s; clipped there", found.place, beyond, size)


def _measured(rle: Rle, segmentation: Any) -> Entry:
    area, bbox = float(coco_mask.area(rle)), coco_mask.toBbox(rle).tolist()
    return {"segmentation": segmentation, "area": area, "bbox": bbox}


def _boxed(found: ImportedObject, height: int, width: int) -> Entry:
    """An object with a box alone, clipped to its image."""
    x, y, box_width, box_height = found.box or (0, 0, 0, 0)
    x1, y1 = min(max(x, 0), width), min(max(y, 0), height)
    x2, y2 = min(max(x + box_width, 0), width), min(max(y + box_height, 0), height)
    if x2 - x1 <= 0 or y2 - y1 <= 0:
        given = f"box [x, y, width, height] = {[round(value, 1) for value in (x, y, box_width, box_height)]}"
        raise InputError(f"{found.place}: {given} has no pixel of the image, {width} x {height} (width x height)")
    return {"segmentation": [], "area": (x2 - x1) * (y2 - y1), "bbox": [x1, y1, x2 - x1, y2 - y1]}


def _require_pixels(found: ImportedObject, rle: Rle, image: Entry) -> None:
    if coco_mask.area(rle):
        return
    size = f"{image['width']} x {image['height']} (width x height)"
    words = "mask"
    if found.outlines:
        points = np.concatenate(found.outlines)
        words = f"outline from {points.min(0).tolist()} to {points.max(0).tolist()} (x, y)"
    raise InputError(f"{found.place}: {words} has no pixel of the image, {size}")


# ---- images --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Source:
    """An image file."""

    path: Path  # of the file, or where it would be if it is embedded in the annotations
    name: str  # its path in the image folder, with slashes
    size: Sequence[int]  # (height, width) in pixels that the objects are for
    is_turned: bool  # it has to be written without its orientation tag, which the size does not decide
    rule: str  # "obey" or "ignore": whether the objects are for the upright or the stored image
    is_embedded: bool = False  # from an annotation file: the image lies in a temporary folder


def _sources(
    images: Sequence[ImportedImage], image_dir: files.StrPath | None, options: TreeOptions, spare: Path
) -> list[_Source]:
    """The image files; all of them are read. Those that the annotations hold are written to the folder `spare`."""
    first: dict[Path, ImportedImage] = {}
    sources = []
    for number, image in enumerate(tqdm(images, desc="images", unit="image", disable=not options.progress)):
        path, name = _find(image, image_dir, spare / str(number))
        require_text(name, f"{image.place}: name of the file")
        other = first.setdefault(path, image)
        if other is not image:
            raise InputError(f"{image.place}: is the file {path}, as is {other.name!r} in {other.place}")
        measured = _measure(path, options.ignore_orientation)
        source = _Source(path, image.target or name, *measured, is_embedded=spare in path.parents)
        if image.size is not None and tuple(source.size) != image.size:
            found = f"the image {path} is {source.size[0]} x {source.size[1]} pixels (height x width)"
            advice = "; try --orientation ignore" if tuple(source.size[::-1]) == image.size else ""
            raise InputError(
                f"{image.place}: {found}, its annotations are for {image.size[0]} x {image.size[1]}{advice}"
            )
        sources.append(source)
    return sources


def _named_apart(sources: Sequence[_Source], parts: Mapping[str, list[int]]) -> list[_Source]:
    """The sources; of those of a part with the same name all but the first have a number added to it."""
    renamed, changes = list(sources), []
    for chosen in parts.values():
        taken = {sources[index].name for index in chosen}
        seen = set[str]()
        for index in chosen:
            name = sources[index].name
            if name in seen:
                stem, suffix = os.path.splitext(name)
                name = next(new for i in itertools.count(2) if (new := f"{stem}_{i}{suffix}") not in taken)
                renamed[index] = dataclasses.replace(sources[index], name=name)
                changes.append(f"{sources[index].path} as {name}")
                taken.add(name)
            seen.add(name)
    if changes:
        shown = "; ".join(changes[:_SHOWN]) + ("; ..." if len(changes) > _SHOWN else "")
        logger.warning(
            "%d images have the name of another image and are written with a number: %s", len(changes), shown
        )
    return renamed


def _find(image: ImportedImage, image_dir: files.StrPath | None, spare: Path) -> tuple[Path, str]:
    """(file of an image, its path in the image folder). Of a path or an address the longest last part is taken.

    An image that is not there, but in its annotation file, is written to the folder `spare`.
    """
    folder = Path(image_dir) if image_dir is not None else image.folder
    if folder is None:
        raise InputError(f"{image.place}: the folder of its images is not known, expected --images")
    for name in image_names(image.name):
        found = find_image(name, folder)
        if found is not None:
            return files.inside(folder, found), found
    if image.data is not None:
        name = re.split(r"[\\/]", image.name)[-1]
        with files.write_errors(spare / name):
            spare.mkdir(parents=True)
            files.inside(spare, name).write_bytes(image.data)
        return spare / name, name
    advice = "; name the folder of the images with --images" if image_dir is None else ""
    raise InputError(f"{image.place}: no such file in {folder}: {image.name!r}{advice}")


def _tell_left_out(
    images: Sequence[ImportedImage], sources: Sequence[_Source], image_dir: files.StrPath | None, out: Path
) -> None:
    """Warn of the image files beside those of a tree that no annotation file names."""
    folders = {image.folder for image in images if image.folder} if image_dir is None else {Path(image_dir)}
    used, written = {source.path.resolve() for source in sources}, out.resolve()
    left: dict[Path, str] = {}  # a file once, also where it is below two of the folders
    for folder in sorted(folders):
        for path in sorted(folder.rglob("*")):
            is_image = path.suffix.lower() in files.IMAGE_SUFFIXES and path.is_file() and not files.is_companion(path)
            if is_image and (real := path.resolve()) not in used and written not in real.parents:
                left.setdefault(real, str(path))
    advice = "to keep one as an image without objects, save it in the annotation tool without any"
    log_left_out(list(left.values()), "images", f"no annotation file names them; {advice}")


def _measure(path: Path, ignore_orientation: bool) -> tuple[Sequence[int], bool, str]:
    """`size`, `is_turned` and `rule` of a _Source."""
    rule = "ignore" if ignore_orientation else "obey"
    size = read_image(path, rule=rule).shape[:2]
    return size, orientation.is_undecided(orientation.read_tag(path), *size), rule


def _write_images(placed: list[tuple[_Source, Path]], link: bool, force: bool) -> None:
    """Copy or link images into folders. Existing files are checked before the first is written."""
    pairs = [(source, files.inside(folder, source.name)) for source, folder in placed]
    for source, target in [pair for pair in pairs if _is_needed(*pair, force)]:
        with files.atomic_path(target) as temporary:
            if link and not source.is_turned and not source.is_embedded:
                temporary.symlink_to(source.path.resolve())
            else:
                temporary.write_bytes(_image_bytes(source))


def _is_needed(source: _Source, target: Path, force: bool) -> bool:
    """Whether an image must be written to `target`; raises if another file is there."""
    if not target.exists():
        return True
    is_itself = target.samefile(source.path) and not target.is_symlink()
    if is_itself and source.is_turned:
        words = "has to be written without its orientation tag, but is the image itself"
        raise InputError(f"{target}: {words}; choose another --out")
    if is_itself or files.read_bytes(target) == _image_bytes(source):
        return False
    if not force:
        raise InputError(f"{target}: another image is there already; replace it with --force, or choose another --out")
    return True


def _image_bytes(source: _Source) -> bytes:
    """The content of the file to write: as it is, or the image without orientation tag in the same format."""
    if not source.is_turned:
        return files.read_bytes(source.path)
    if intensity.deep_kind(source.path):
        tag = f"its orientation tag {orientation.read_tag(source.path)} is not decided by its size"
        raise InputError(f"{source.path}: {tag}, and more than 8 bits cannot be turned; remove the tag from the file")
    with decoding.open_image(source.path) as image:
        kind = image.format
    buffer = io.BytesIO()
    try:
        pixels = Image.fromarray(read_image(source.path, rule=source.rule))
        pixels.save(buffer, format=kind, quality=_JPEG_QUALITY)
    except (KeyError, OSError, ValueError) as error:
        raise InputError(f"{source.path}: cannot be written without its tag as {kind} ({error})") from error
    return buffer.getvalue()
