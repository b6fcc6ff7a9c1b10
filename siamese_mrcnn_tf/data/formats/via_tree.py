"""Converts annotations of the VGG Image Annotator to a COCO-format tree, images included."""

import dataclasses
import io
import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pycocotools.mask as coco_mask
from PIL import Image
from tqdm import tqdm

from ...io import files, intensity, orientation
from ...io.images import read_image
from ..annotations import Content, Entry, annotation_rle
from . import via

logger = logging.getLogger(__name__)

SUBSETS = ("train", "val")

_DECIMALS = 2  # of the polygons that are written
_TOLERANCE = 3  # pixels that a region may reach out of its image without a warning
_JPEG_QUALITY = 95  # of images that are written upright


def convert_via(
    paths: Iterable[files.StrPath],
    image_dir: files.StrPath,
    out: files.StrPath,
    *,
    subset: str = "train",
    year: str = "2017",
    val_share: float = 0.0,
    seed: int = 0,
    attribute: str | None = None,
    category: str | None = None,
    categories: Iterable[str] | None = None,
    link: bool = False,
    ignore_orientation: bool = False,
    force: bool = False,
    progress: bool = True,
) -> dict[str, Content]:
    """Write a COCO-format tree of VIA annotations; if anything is wrong with them, nothing is written.

    Returns the contents of the annotation files by set name ("train2017").
    Images are numbered from 1 in the order of the files. Regions that are points have no area: they are left out, and
    the log names them. Other regions are clipped to their image. An image whose size does not tell whether its
    orientation tag applies is written as its regions are for, without the tag.

    Args:
        paths: annotation files.
        image_dir: folder of the images.
        out: folder of the tree: `annotations/instances_{subset}{year}.json` and `{subset}{year}/`.
        subset: "train" or "val".
        val_share: if above 0, this share of the images, one at least, becomes the subset "val", the others "train".
            The choice depends on `seed` and the file names: images added later move few of the others.
        attribute, category, categories: as in `via.region_categories`.
        link: link the images instead of copying them.
        ignore_orientation: the regions were drawn on the stored images, without their EXIF orientation.
        force: replace existing files.

    Raises:
        ValueError: names the wrong argument, annotation file or image, or the existing file.
    """
    out = files.writable_folder(out)
    annotated = _with_area(via.read_via(paths))
    regions = [region for image in annotated for region in image.regions]
    names, ids = via.region_categories(regions, attribute, category, categories)
    outlines = [via.region_outline(region) for region in regions]
    parts = _parts([image.name for image in annotated], subset, val_share, seed)
    for part in parts:
        path = _annotation_path(out, f"{part}{year}")
        if path.exists() and not force:
            raise ValueError(f"{path}: is there already; replace it with --force, or choose another folder (--out)")
    sources = _sources(annotated, image_dir, ignore_orientation, progress)
    images = [
        {"id": number, "file_name": source.name, "height": source.size[0], "width": source.size[1]}
        for number, source in enumerate(sources, start=1)
    ]
    image_of = [entry for image, entry in zip(annotated, images, strict=True) for _ in image.regions]
    annotations = [
        _annotation(number, region, outline, ids[name], image)
        for number, (region, outline, name, image) in enumerate(zip(regions, outlines, names, image_of, strict=True), 1)
    ]
    contents = {}
    for part, numbers in parts.items():
        kept = {images[i]["id"] for i in numbers}
        contents[f"{part}{year}"] = {
            "info": {"description": "converted from annotations of the VGG Image Annotator"},
            "images": [images[i] for i in numbers],
            "annotations": [annotation for annotation in annotations if annotation["image_id"] in kept],
            "categories": [{"id": number, "name": name} for name, number in ids.items()],
        }
    _write_images([(sources[i], out / f"{part}{year}") for part in parts for i in parts[part]], link, force)
    for name, content in contents.items():
        files.write_json(_annotation_path(out, name), content)
    return contents


def _with_area(images: list[via.AnnotatedImage]) -> list[via.AnnotatedImage]:
    """The images without regions that are points; the log names these, and polylines."""
    regions = [region for image in images for region in image.regions]
    for shape, words in (("point", "left out, points have no area"), ("polyline", "closed, and taken as polygons")):
        places = [region.place for region in regions if region.shape.get("name") == shape]
        if places:
            logger.warning("%s: %s", words, "; ".join(places))
    kept = [[region for region in image.regions if region.shape.get("name") != "point"] for image in images]
    return [dataclasses.replace(image, regions=tuple(found)) for image, found in zip(images, kept, strict=True)]


def _parts(names: list[str], subset: str, val_share: float, seed: int) -> dict[str, list[int]]:
    """Indices, ascending, of the images of each subset."""
    if subset not in SUBSETS:
        raise ValueError(f"subset = {subset!r}: expected one of {', '.join(SUBSETS)}")
    if not 0 <= val_share < 1 or seed < 0:
        given = f"val_share = {val_share}, seed = {seed}"
        raise ValueError(f"{given}: expected a share from 0 to below 1, and no negative seed")
    if not val_share:
        return {subset: list(range(len(names)))}
    if subset != "train" or len(names) < 2:
        raise ValueError(f"val_share = {val_share}: expected the subset 'train' and two images or more")
    count = min(max(round(val_share * len(names)), 1), len(names) - 1)
    draws = [np.random.default_rng([seed, *name.encode()]).random() for name in names]
    val = set(sorted(range(len(names)), key=draws.__getitem__)[:count])
    return {"train": [i for i in range(len(names)) if i not in val], "val": sorted(val)}


def _annotation_path(out: Path, name: str) -> Path:
    return files.inside(out / "annotations", f"instances_{name}.json")


def _annotation(number: int, region: via.Region, outline: np.ndarray, category_id: int, image: Entry) -> Entry:
    """A region as COCO annotation, clipped to its image; an error if no pixel is left."""
    height, width = image["height"], image["width"]
    size = f"{width} x {height} (width x height)"
    polygon = via.clip_outline(outline, height, width)
    annotation = {"id": number, "image_id": image["id"], "category_id": category_id}
    annotation |= {"segmentation": [polygon.round(_DECIMALS).ravel().tolist()], "iscrowd": 0}
    rle = annotation_rle(annotation, height, width)
    area = float(coco_mask.area(rle))
    beyond = max((-outline).max(), (outline - (width, height)).max())
    if not area:
        words = f"outline from {outline.min(0).tolist()} to {outline.max(0).tolist()} (x, y)"
        raise ValueError(f"{region.place}: {words} has no pixel of the image, {size}")
    if beyond > _TOLERANCE:
        logger.warning("%s: reaches %.0f pixels out of the image, %s; clipped there", region.place, beyond, size)
    return annotation | {"area": area, "bbox": coco_mask.toBbox(rle).tolist()}


# ---- images --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Source:
    """An image file."""

    path: Path
    name: str  # its path in the image folder, with slashes
    size: Sequence[int]  # (height, width) in pixels that the regions are for
    is_turned: bool  # it has to be written without its orientation tag, which the size does not decide
    rule: str  # "obey" or "ignore": whether the regions are for the upright or the stored image


def _sources(
    images: list[via.AnnotatedImage], image_dir: files.StrPath, ignore_orientation: bool, progress: bool
) -> list[_Source]:
    """The image files; all of them are read."""
    first: dict[Path, via.AnnotatedImage] = {}
    for image in images:
        path = _find(image, image_dir)
        other = first.setdefault(path, image)
        if other is not image:
            raise ValueError(f"{image.place}: is the file {path}, as is {other.name!r} in {other.source}")
    return [
        _Source(path, path.relative_to(image_dir).as_posix(), *_measure(path, ignore_orientation))
        for path in tqdm(first, desc="images", unit="image", disable=not progress)
    ]


def _find(image: via.AnnotatedImage, image_dir: files.StrPath) -> Path:
    """The file of an image; of a path or an address in VIA, the last part is tried too."""
    for name in (image.name, re.split(r"[\\/]", image.name)[-1]):
        try:
            path = files.inside(image_dir, name)
        except ValueError:  # an absolute path, for example
            continue
        if path.is_file():
            return path
    raise ValueError(f"{image.place}: no such file in {image_dir}")


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
            if link and not source.is_turned:
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
        raise ValueError(f"{target}: {words}; choose another --out")
    if is_itself or target.read_bytes() == _image_bytes(source):
        return False
    if not force:
        raise ValueError(f"{target}: another image is there already; replace it with --force, or choose another --out")
    return True


def _image_bytes(source: _Source) -> bytes:
    """The content of the file to write: as it is, or the image without orientation tag in the same format."""
    if not source.is_turned:
        return source.path.read_bytes()
    if intensity.deep_kind(source.path):
        tag = f"its orientation tag {orientation.read_tag(source.path)} is not decided by its size"
        raise ValueError(f"{source.path}: {tag}, and more than 8 bits cannot be turned; remove the tag from the file")
    with Image.open(source.path) as image:
        kind = image.format
    buffer = io.BytesIO()
    try:
        pixels = Image.fromarray(read_image(source.path, rule=source.rule))
        pixels.save(buffer, format=kind, quality=_JPEG_QUALITY)
    except (KeyError, OSError, ValueError) as error:
        raise ValueError(f"{source.path}: cannot be written without its tag as {kind} ({error})") from error
    return buffer.getvalue()
