"""Checks a data set before a run: counts what it holds and lists what is broken.

Boxes are [x, y, width, height] in pixels of the image, as in the annotation file.
"""

import collections
import dataclasses
import itertools
import os
import textwrap
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pycocotools.mask as coco_mask
from tqdm import tqdm

from ..config import Config
from ..io.files import IMAGE_SUFFIXES, is_companion
from . import molding, repairs, resize
from .annotations import CROWDS_OPTION, Entry, Rle, annotation_rle
from .dataset import CocoDataset, split_classes

Findings = dict[str, list[str]]  # texts by kind
Outside = list[tuple[float, str]]  # pixels beyond the image, and text

_BLOCK = 256  # images handed to the threads at a time, so that a stop does not wait for all
_OVERSHOOT = 0.5  # pixels that a box may reach beyond its image: rounding
_SPLIT_WORDS = ("train", "novel")
_SHOWN, _TEXT_WIDTH = 10, 120  # findings of a kind in the text, and its characters in a line

_ONLY_CROWDS = "only crowds"

_KINDS = {  # of findings: heading, and whether it counts as broken
    "missing_images": ("images without a file", False),
    "broken_images": ("images that cannot be read", True),
    "broken_outlines": ("annotations with broken polygons", True),
    "wrong_boxes": (repairs.KINDS["wrong_boxes"], True),
    "boxes_outside": ("boxes that reach outside their images, the furthest first", True),
    "repeated_files": ("images with several entries", True),
    "similar_categories": ("categories with the same name but for case and blanks", True),
    "repeated_annotations": ("annotations that repeat another one of their image", False),
    "point_lists": (repairs.KINDS["point_lists"], False),
    "box_rectangles": (repairs.KINDS["box_rectangles"], False),
    "box_neutral": (repairs.KINDS["box_neutral"], False),
    "no_extent": (repairs.KINDS["no_extent"], False),
    "crowds": (repairs.KINDS["crowds"], False),
    "vanishing_masks": ("masks without a pixel at the network's scale (neutral in training)", False),
    "undecided_orientation": ("images whose orientation tag is not decided by their size", False),
    "unlisted_images": ("images on disk without an entry", False),
}


@dataclasses.dataclass(frozen=True)
class ClassCount:
    """Counts of a class."""

    name: str
    class_id: int
    coco_id: int  # category id of the annotation file
    is_novel: bool  # the split leaves it out of training
    images: int  # with an instance that is not a crowd
    instances: int
    crowds: int
    references: int  # instances that have a pixel at the network's scale

    @property
    def unusable(self) -> str:
        """Why the class has no references; empty if it has some."""
        if self.references:
            return ""
        if self.instances:
            return "only masks without a pixel"
        return _ONLY_CROWDS if self.crowds else "no instance"


@dataclasses.dataclass(frozen=True)
class Report:
    """The result of `check_dataset`.

    Attributes:
        findings: dict of lists of texts that name file, annotation id and category. "broken_images" (only if images
            were read): missing, undecodable, or of another size than the annotation file says; otherwise
            "missing_images";
            "broken_outlines": polygons whose coordinates are no pixels of an image; "boxes_outside": more than half a
            pixel beyond the image, the furthest first; "vanishing_masks": no pixel at the network's scale;
            "repeated_files", "similar_categories", "undecided_orientation", "unlisted_images"; and the kinds of
            `repairs.KINDS`.
        form: what the wrong boxes look like, or empty.
    """

    set_name: str  # the loaded subsets
    split: int  # 0..4
    num_images: int
    num_bare_images: int  # without annotations
    num_annotations: int  # crowds among them
    num_crowds: int
    num_train_images: int  # with an instance of a train class that is not a crowd
    num_novel_images: int
    classes: list[ClassCount]  # by class id
    findings: Findings
    form: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing counts as broken; what was repaired without doubt does not count."""
        return not any(self.findings.get(kind) for kind, (_, is_broken) in _KINDS.items() if is_broken)

    def text(self, shown: int = _SHOWN) -> str:
        """The report as text: totals, the table of classes, and `shown` findings of each kind that has some."""
        novel = sum(count.is_novel for count in self.classes)
        totals = (
            f"{self.set_name}: {self.num_images} images, {self.num_bare_images} of them without annotations; "
            f"{self.num_annotations} annotations, {self.num_crowds} of them crowds\n"
            f"split {self.split}: {len(self.classes) - novel} train classes, {novel} novel"
        )
        checked = [kind for kind in _KINDS if kind in self.findings]
        unusable = _unusable_text(self.classes)
        kinds = [
            _findings_text(heading, self.findings.get(kind), shown)
            for kind, (heading, _) in _KINDS.items()
            if self.findings.get(kind) or (kind == "broken_images" and kind not in self.findings)
        ]
        kinds += [f"the wrong boxes look like {self.form}"] if self.form else []
        found = sum(bool(self.findings[kind]) for kind in checked) + bool(unusable)
        total = len(checked) + 1  # with the classes that cannot be references
        kinds.append(f"no {'other ' if found else ''}faults: {counted(total - found, 'kind')} checked")
        return "\n\n".join(filter(None, [totals, _classes_text(self), unusable, "\n".join(kinds)]))


def check_dataset(
    dataset: CocoDataset,
    *,
    config: Config,
    split: int,
    read_images: bool = True,
    workers: int = 4,
    progress: bool = True,
) -> Report:
    """Count the images, annotations and classes of a data set, and list what is broken. Image files may be missing.

    Args:
        dataset: prepared.
        config: its scene size decides which masks vanish.
        split: 1..4, or 0 for no novel classes.
        read_images, workers: whether to decode every image, and in how many threads.
    """
    findings: Findings = {kind: [] for kind in _KINDS if kind != "broken_images"}
    findings |= {kind: list(texts) for kind, texts in dataset.repairs.found.items()}
    outside: Outside = []
    infos = tqdm(dataset.image_info, desc="annotations", unit="image", disable=not progress)
    usable = [_check_annotations(info, dataset, config, findings, outside) for info in infos]
    findings["boxes_outside"] += [text for _, text in sorted(outside, key=lambda found: -found[0])]
    findings |= _check_entries(dataset)
    if read_images:
        findings["broken_images"] = _check_images(dataset, workers, progress)
        del findings["missing_images"]  # they are among the broken ones
    classes, num_train_images, num_novel_images = _count(dataset, split, usable)
    return Report(
        set_name=dataset.set_name,
        split=split,
        num_images=len(dataset.image_info),
        num_bare_images=sum(not info["annotations"] for info in dataset.image_info),
        num_annotations=sum(len(info["annotations"]) for info in dataset.image_info),
        num_crowds=sum(count.crowds for count in classes),
        num_train_images=num_train_images,
        num_novel_images=num_novel_images,
        classes=classes,
        findings=findings,
        form=dataset.repairs.form,
    )


# ---- counts --------------------------------------------------------------------------------------------------------
def _count(dataset: CocoDataset, split: int, usable: list[np.ndarray]) -> tuple[list[ClassCount], int, int]:
    """Counts of each class, and of the images with train and with novel classes; `usable`: see `_check_annotations`."""
    class_of = {info["id"]: class_id for class_id, info in enumerate(dataset.class_info) if class_id}
    counts = np.zeros((dataset.num_classes, 4), int)  # images, instances, crowds, references
    is_novel = np.zeros(dataset.num_classes, bool)
    is_novel[split_classes(dataset.num_classes - 1, split)[1]] = True
    num_images = np.zeros(2, int)  # with train classes, with novel ones
    for info, is_usable in zip(dataset.image_info, usable, strict=True):
        classes = np.array([class_of[annotation["category_id"]] for annotation in info["annotations"]], int)
        is_crowd = np.array([annotation["iscrowd"] for annotation in info["annotations"]], bool)
        present = np.unique(classes[~is_crowd])
        groups = present, classes[~is_crowd], classes[is_crowd], classes[~is_crowd & is_usable]
        for column, group in enumerate(groups):
            np.add.at(counts[:, column], group, 1)
        num_images += (~is_novel[present]).any(), is_novel[present].any()
    rows = enumerate(zip(dataset.class_info, is_novel.tolist(), counts.tolist(), strict=True))
    found = [ClassCount(info["name"], i, info["id"], novel, *row) for i, (info, novel, row) in rows if i]
    return found, *num_images.tolist()


# ---- annotations ---------------------------------------------------------------------------------------------------
def _check_annotations(
    info: Entry, dataset: CocoDataset, config: Config, findings: Findings, outside: Outside
) -> np.ndarray:
    """Add what is wrong with the annotations of an image to `findings`, and boxes outside it to `outside`.

    Returns bool [annotations], whether the mask has a pixel at the network's scale; for crowds, whether it has a pixel.
    """
    annotations, size = info["annotations"], (info["height"], info["width"])
    names, is_usable = [_name(entry, info, dataset) for entry in annotations], np.zeros(len(annotations), bool)
    _check_boxes(annotations, names, size, outside)
    scale, _ = molding.resized_scene_shape(size, config)
    survivors = [_survivors(side, scale) for side in size]
    for index, (annotation, name) in enumerate(zip(annotations, names, strict=True)):
        try:
            rle = annotation_rle(annotation, *size)
        except ValueError:
            findings["broken_outlines"].append(f"{name}: a coordinate is no pixel of an image")
            continue
        pixels, mask_box = int(coco_mask.area(rle)), coco_mask.toBbox(rle)
        is_usable[index] = pixels and (annotation["iscrowd"] or _survives(rle, mask_box, survivors))
        if pixels and not is_usable[index]:
            findings["vanishing_masks"].append(f"{name}: {counted(pixels, 'pixel')}, scale {scale:.3g}")
    return is_usable


def _check_boxes(annotations: list[Entry], names: list[str], size: tuple[int, int], outside: Outside) -> None:
    """Add boxes outside an image of `size` (height, width), with the pixels beyond it."""
    boxes = np.array([annotation["bbox"] for annotation in annotations], np.float64).reshape(-1, 4)
    corner, far_corner = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    beyond = np.concatenate([-corner, far_corner - size[::-1]], axis=1)  # left, top, right, bottom
    for index in np.flatnonzero((beyond > _OVERSHOOT).any(axis=1)).tolist():
        edge, pixels = ("left", "upper", "right", "lower")[beyond[index].argmax()], float(beyond[index].max())
        text = f"{pixels:.1f} pixels beyond the {edge} edge of {size[0]} x {size[1]} (height x width)"
        outside.append((pixels, f"{names[index]}: {text}, {_box_text(boxes[index])}"))


def _survivors(side: int, scale: float) -> np.ndarray:
    """Whether `resize_mask` keeps each row or column of an image: bool [side]."""
    numbered = resize.resize_mask(np.arange(1, side + 1).reshape(-1, 1, 1), scale, [(0, 0)] * 3)
    kept = np.zeros(side + 1, bool)  # row 0 is the padding
    kept[numbered[:, 0, 0]] = True
    return kept[1:]


def _survives(rle: Rle, mask_box: np.ndarray, survivors: Sequence[np.ndarray]) -> bool:
    """Whether a mask has a pixel in the rows and columns that survive: (bool [height], bool [width])."""
    rows, columns = survivors
    if rows.all() and columns.all():
        return True
    x1, y1, width, height = map(int, mask_box)
    part = coco_mask.decode(rle)[y1 : y1 + height, x1 : x1 + width]
    return bool(part[rows[y1 : y1 + height]][:, columns[x1 : x1 + width]].any())


def _name(annotation: Entry, info: Entry, dataset: CocoDataset) -> str:
    name = dataset.class_names[dataset.map_source_class_id(f"coco.{annotation['category_id']}")]
    file_name = os.path.relpath(info["path"], info["image_dir"])
    return f"{file_name}, annotation {annotation['id']} ({name})"


def _box_text(box: Any) -> str:
    return f"[x, y, width, height] = [{', '.join(f'{value:.1f}' for value in box)}]"


def counted(count: int, what: str) -> str:
    """For example "1 image" or "2 images"."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


# ---- entries and files ---------------------------------------------------------------------------------------------
def faults_text(faults: Findings, shown: int = _SHOWN) -> str:
    """The faults of form of an annotation file as text, `shown` of each kind."""
    kinds = (_findings_text(f"wrong {kind}", texts, shown) for kind, texts in faults.items())
    return "\n".join([f"faults of form: {sum(map(len, faults.values()))}", *kinds])


def _check_entries(dataset: CocoDataset) -> Findings:
    """Findings on images and categories as they are listed, without opening images."""
    paths = [os.path.realpath(info["path"]) for info in dataset.image_info]
    shown = [os.path.relpath(info["path"], info["image_dir"]) for info in dataset.image_info]
    missing = [name for name, path in zip(shown, paths, strict=True) if not os.path.isfile(path)]
    ids = collections.defaultdict(list)
    for info, path in zip(dataset.image_info, paths, strict=True):
        ids[path].append(str(info["id"]))
    repeated = [f"{os.path.basename(path)}: image ids {', '.join(of)}" for path, of in ids.items() if len(of) > 1]
    names = collections.defaultdict(list)
    for info in dataset.class_info[1:]:
        names["".join(info["name"].split()).casefold()].append(f"{info['name']!r} (id {info['id']})")
    return {
        "missing_images": missing,
        "repeated_files": repeated,
        "repeated_annotations": _repeated_annotations(dataset),
        "similar_categories": [", ".join(found) for found in names.values() if len(found) > 1],
        "undecided_orientation": dataset.undecided_orientations(progress=False),
        "unlisted_images": [name for folder, listed in dataset.listed.items() for name in _unlisted(folder, listed)],
    }


def _repeated_annotations(dataset: CocoDataset) -> list[str]:
    """Annotations with the category, the box and the segmentation of an earlier one of their image."""
    found = []
    for info in dataset.image_info:
        seen: dict[str, Any] = {}
        for entry in info["annotations"]:
            first = seen.setdefault(repr((entry["category_id"], entry["bbox"], entry["segmentation"])), entry["id"])
            if first != entry["id"]:
                found.append(f"{_name(entry, info, dataset)}: the same as annotation {first}")
    return found


def _unlisted(folder: str, paths_listed: Sequence[str]) -> list[str]:
    """Image files in a folder, and below it, that are not listed: their paths in it, sorted."""
    names, listed = [], set(map(os.path.realpath, paths_listed))
    for where, folders, found in os.walk(folder):
        folders[:] = [name for name in folders if not is_companion(name)]
        chosen = (name for name in found if name.lower().endswith(IMAGE_SUFFIXES) and not is_companion(name))
        paths = (os.path.join(where, name) for name in chosen)
        names += [os.path.relpath(path, folder) for path in paths if os.path.realpath(path) not in listed]
    return sorted(names)


# ---- images --------------------------------------------------------------------------------------------------------
def _check_images(dataset: CocoDataset, workers: int, progress: bool) -> list[str]:
    """The errors of the image files, in their order."""

    def error_of(image_id: int) -> str:
        try:
            dataset.load_image(image_id)
        except (OSError, ValueError) as error:
            return str(error)
        return ""

    image_ids = range(len(dataset.image_info))
    with ThreadPoolExecutor(workers) as threads:
        blocks = (threads.map(error_of, image_ids[start : start + _BLOCK]) for start in image_ids[::_BLOCK])
        texts = itertools.chain.from_iterable(blocks)
        bar = tqdm(texts, total=len(image_ids), desc="images", unit="image", disable=not progress)
        return [text for text in bar if text]


# ---- text ----------------------------------------------------------------------------------------------------------
def _classes_text(report: Report) -> str:
    """A row for each class, then one for each kind; the images of a kind are counted once."""
    head = "class", "COCO id", "name", "split", "images", "instances", "crowds", "references"
    rows, sums = [], []
    for count in report.classes:
        numbers = str(count.images), str(count.instances), str(count.crowds), count.unusable or str(count.references)
        rows.append((str(count.class_id), str(count.coco_id), count.name, _SPLIT_WORDS[count.is_novel], *numbers))
    for is_novel, images in ((False, report.num_train_images), (True, report.num_novel_images)):
        counts = [count for count in report.classes if count.is_novel == is_novel]
        if counts:
            totals = [sum(getattr(count, key) for count in counts) for key in head[-3:]]
            sums.append(("", "", f"{len(counts)} classes", _SPLIT_WORDS[is_novel], str(images), *map(str, totals)))
    widths = [max(map(len, column)) for column in zip(head, *rows, *sums, strict=True)]
    rule = ["-" * width for width in widths]
    line = "  ".join(
        f"{{:{'<' if key in ('name', 'split') else '>'}{width}}}" for key, width in zip(head, widths, strict=True)
    )
    return "\n".join(line.format(*row) for row in (head, rule, *rows, rule, *sums))


def _unusable_text(classes: list[ClassCount]) -> str:
    """The classes without a reference, by reason; empty if all have some."""
    unusable = [count for count in classes if count.unusable]
    lines = [f"classes that cannot be references: {len(unusable)}"] if unusable else []
    for reason in dict.fromkeys(count.unusable for count in unusable):
        names = ", ".join(count.name for count in unusable if count.unusable == reason)
        advice = f" ({CROWDS_OPTION})" if reason == _ONLY_CROWDS else ""
        lines.append(textwrap.fill(f"  {reason}: {names}{advice}", _TEXT_WIDTH, subsequent_indent="    "))
    return "\n".join(lines)


def _findings_text(heading: str, findings: list[str] | None, shown: int) -> str:
    if findings is None:
        return f"{heading}: not checked"
    lines = [f"{heading}: {len(findings)}", *(f"  {text}" for text in findings[:shown])]
    if len(findings) > shown:
        lines.append(f"  ... and {len(findings) - shown} more")
    return "\n".join(lines)
