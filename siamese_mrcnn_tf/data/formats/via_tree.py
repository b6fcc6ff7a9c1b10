"""Annotations of the VGG Image Annotator become a COCO-format tree, pictures included."""

import dataclasses
import io
import logging
import re
from pathlib import Path

import numpy as np
import pycocotools.mask as coco_mask
from PIL import ExifTags, Image
from tqdm import tqdm

from ...io import files
from ...io.images import read_image
from ..annotations import annotation_rle
from . import via

logger = logging.getLogger(__name__)

SUBSETS = ("train", "val")

_DECIMALS = 2  # of the polygons that are written
_FEW_PIXELS = 3  # that a region may reach out of its picture without a warning: nobody draws borders more exactly
_JPEG_QUALITY = 95  # of pictures that have to be written anew


def convert_via(
    paths,
    image_dir,
    out,
    *,
    subset="train",
    year="2017",
    val_share=0.0,
    seed=0,
    attribute=None,
    category=None,
    categories=None,
    link=False,
    ignore_orientation=False,
    force=False,
    progress=True,
):
    """Write a COCO-format tree of annotations of VIA; nothing of it if anything is wrong with them.

    Images are numbered from 1 in the order of the files. Regions that are points have no area: the log names them, and
    they are left out. Others are cut off at the borders of the picture. A picture whose orientation tag would not be
    obeyed later, because it turns the picture into one of the same size, is written anew, upright.

    Args:
        paths: annotation files.
        image_dir: folder of the pictures.
        out: folder of the tree: `annotations/instances_{subset}{year}.json` and `{subset}{year}/`.
        subset: "train" or "val".
        val_share: if above 0, this share of the images, one at least, becomes the subset "val", the others "train".
            Which ones depends on `seed` and their file names, so that images that are added later move few of them.
        attribute, category, categories: as in `via.region_categories`.
        link: link the pictures instead of copying them.
        ignore_orientation: the regions were drawn on the pictures as they are stored, without regard to the tag.
        force: replace what is there.
        progress: show a progress bar.

    Returns:
        dict by set name ("train2017"): the content of its annotation file.

    Raises:
        ValueError: names what is wrong with the arguments, the annotation files or the pictures, or what is there.
    """
    out = files.writable_folder(out)
    pictures = _with_area(via.read_via(paths))
    regions = [region for picture in pictures for region in picture.regions]
    names, ids = via.region_categories(regions, attribute, category, categories)
    outlines = [via.region_outline(region) for region in regions]
    parts = _parts([picture.name for picture in pictures], subset, val_share, seed)
    _refuse_annotations(out, parts, year, force)
    sources = _sources(pictures, image_dir, ignore_orientation, progress)
    images = [source.entry(number) for number, source in enumerate(sources, start=1)]
    image_of = [image for picture, image in zip(pictures, images, strict=True) for _ in picture.regions]
    annotations = [
        _annotation(number, region, outline, ids[name], image)
        for number, (region, outline, name, image) in enumerate(zip(regions, outlines, names, image_of, strict=True), 1)
    ]
    contents = {f"{part}{year}": _content([images[i] for i in parts[part]], annotations, ids) for part in parts}
    _write_pictures([(sources[i], out / f"{part}{year}") for part in parts for i in parts[part]], link, force)
    for name, content in contents.items():
        files.write_json(_annotation_path(out, name), content)
    return contents


def _with_area(pictures):
    """The pictures without the regions that are points; the log names what is left out, or taken for something else."""
    regions = [region for picture in pictures for region in picture.regions]
    for shape, words in (("point", "left out, points have no area"), ("polyline", "closed, and taken as polygons")):
        places = [region.place for region in regions if region.shape.get("name") == shape]
        if places:
            logger.warning("%s: %s", words, "; ".join(places))
    return [dataclasses.replace(picture, regions=_without_points(picture.regions)) for picture in pictures]


def _without_points(regions):
    return tuple(region for region in regions if region.shape.get("name") != "point")


def _parts(names, subset, val_share, seed):
    """dict by subset: the indices, ascending, of the pictures of these names that belong to it."""
    if subset not in SUBSETS:
        raise ValueError(f"subset = {subset!r}: expected one of {', '.join(SUBSETS)}")
    if not 0 <= val_share < 1 or seed < 0:
        raise ValueError(
            f"val_share = {val_share}, seed = {seed}: expected a share from 0 to below 1, and no negative seed"
        )
    if not val_share:
        return {subset: list(range(len(names)))}
    if subset != "train" or len(names) < 2:
        raise ValueError(f"val_share = {val_share}: expected the subset 'train' and two pictures or more")
    count = min(max(round(val_share * len(names)), 1), len(names) - 1)
    draws = [np.random.default_rng([seed, *name.encode()]).random() for name in names]
    val = set(sorted(range(len(names)), key=draws.__getitem__)[:count])
    return {"train": [i for i in range(len(names)) if i not in val], "val": sorted(val)}


def _annotation_path(out, name):
    return files.inside(out / "annotations", f"instances_{name}.json")


def _refuse_annotations(out, parts, year, force):
    for part in parts:
        path = _annotation_path(out, f"{part}{year}")
        if path.exists() and not force:
            raise ValueError(f"{path}: is there already; replace it with --force, or choose another folder (--out)")


def _content(images, annotations, ids):
    """The annotation file of some images: a dict as COCO has it."""
    kept = {image["id"] for image in images}
    return {
        "info": {"description": "converted from annotations of the VGG Image Annotator"},
        "images": images,
        "annotations": [annotation for annotation in annotations if annotation["image_id"] in kept],
        "categories": [{"id": number, "name": name} for name, number in ids.items()],
    }


def _annotation(number, region, outline, category_id, image):
    """A region as COCO annotation, cut off at the borders of its image.

    Raises:
        ValueError: no pixel of the image is in it; names the region.
    """
    height, width = image["height"], image["width"]
    polygon = via.clip_outline(outline, height, width)
    annotation = {
        "id": number,
        "image_id": image["id"],
        "category_id": category_id,
        "segmentation": [polygon.round(_DECIMALS).ravel().tolist()],
        "iscrowd": 0,
    }
    rle = annotation_rle(annotation, height, width)
    area = float(coco_mask.area(rle))
    beyond = max((-outline).max(), (outline - (width, height)).max())
    if not area:
        words = f"outline from {outline.min(0).tolist()} to {outline.max(0).tolist()} (x, y)"
        raise ValueError(f"{region.place}: {words} has no pixel of the picture, {width} x {height} (width x height)")
    if beyond > _FEW_PIXELS:
        size = f"{width} x {height} (width x height)"
        logger.warning("%s: reaches %.0f pixels out of the picture, %s; cut off there", region.place, beyond, size)
    return annotation | {"area": area, "bbox": coco_mask.toBbox(rle).tolist()}


# ---- pictures ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Source:
    """A picture file.

    Attributes:
        path: the file.
        name: its path in the folder of the pictures, with slashes.
        size: (height, width) in pixels that the regions are for.
        is_turned: `read_image` does not give the upright picture for that size.
    """

    path: Path
    name: str
    size: tuple
    is_turned: bool

    def entry(self, number):
        """The image as COCO has it."""
        return {"id": number, "file_name": self.name, "height": self.size[0], "width": self.size[1]}


def _sources(pictures, image_dir, ignore_orientation, progress):
    """The files of the pictures, all of them read: list of _Source."""
    paths = [_find(picture, image_dir) for picture in pictures]
    first = {}
    for picture, path in zip(pictures, paths, strict=True):
        other = first.setdefault(path, picture)
        if other is not picture:
            raise ValueError(f"{picture.place}: is the file {path}, as is {other.name!r} in {other.source}")
    return [
        _Source(path, path.relative_to(image_dir).as_posix(), *_measure(path, ignore_orientation))
        for path in tqdm(paths, desc="pictures", unit="image", disable=not progress)
    ]


def _find(picture, image_dir):
    """The file of a picture; VIA may know it by a path or an address, of which the last part counts then."""
    for name in (picture.name, re.split(r"[\\/]", picture.name)[-1]):
        try:
            path = files.inside(image_dir, name)
        except ValueError:  # an absolute path, for example
            continue
        if path.is_file():
            return path
    raise ValueError(f"{picture.place}: no such file in {image_dir}")


def _measure(path, ignore_orientation):
    """(height, width) of the picture that the regions are for, and whether `read_image` does not give it upright."""
    upright = read_image(path)
    with Image.open(path) as image:
        stored, is_tagged = (image.height, image.width), _has_orientation(image)
    if is_tagged and ignore_orientation:
        return stored, False
    size = upright.shape[:2]
    return size, is_tagged and not np.array_equal(read_image(path, size), upright)


def _has_orientation(image):
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    except Exception:  # whatever a broken tag trips over; `read_image` ignores it then
        return False


def _write_pictures(placed, link, force):
    """Copy or link pictures into folders: pairs (_Source, folder). What is there is looked at before the first."""
    targets = [files.inside(folder, source.name) for source, folder in placed]
    needed = [_is_needed(source, target, force) for (source, _), target in zip(placed, targets, strict=True)]
    for (source, _), target, is_needed in zip(placed, targets, needed, strict=True):
        if not is_needed:
            continue
        with files.atomic_path(target) as temporary:
            if link and not source.is_turned:
                temporary.symlink_to(source.path.resolve())
            else:
                temporary.write_bytes(_picture_bytes(source))


def _is_needed(source, target, force):
    """Whether a picture has to be written to `target`; an error if another file is there."""
    if not target.exists():
        return True
    is_itself = target.samefile(source.path) and not target.is_symlink()
    if is_itself and source.is_turned:
        raise ValueError(f"{target}: has to be written upright, but is the picture itself; choose another --out")
    if is_itself or target.read_bytes() == _picture_bytes(source):
        return False
    if not force:
        raise ValueError(
            f"{target}: another picture is there already; replace it with --force, or choose another --out"
        )
    return True


def _picture_bytes(source):
    """The file to write: as it is, or the upright picture in the same format."""
    if not source.is_turned:
        return source.path.read_bytes()
    with Image.open(source.path) as image:
        kind = image.format
    buffer = io.BytesIO()
    try:
        Image.fromarray(read_image(source.path)).save(buffer, format=kind, quality=_JPEG_QUALITY)
    except (KeyError, OSError, ValueError) as error:
        raise ValueError(f"{source.path}: cannot be written upright as {kind} ({error})") from error
    return buffer.getvalue()
