"""Data sets in COCO format, their class index, and the category splits.

`Dataset` is Matterport's container; `CocoDataset` reads a COCO annotation file with its images, where `layouts` finds
them; `IndexedCocoDataset` also knows which class is in which image. Image ids are 0..N-1 and class ids
1..N (0 is background); the ids in the annotation file are called COCO ids.
"""

import collections
import logging
import os
import textwrap
import threading
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pycocotools.mask as coco_mask
from pycocotools.coco import COCO
from tqdm import tqdm

from ..io import files, intensity, orientation
from ..io.errors import InputError, StateError
from ..io.images import read_image
from .annotations import Content, Entry, annotation_rle, coco_object, crowds_advice, load_annotations
from .layouts import choose_images, drop_root_category, find_layout, other_subsets, resolve_names
from .reading import ReadingRules
from .repairs import Repairs

logger = logging.getLogger(__name__)

VALIDATION_IMAGES = 3000  # of the training images, set aside by the original for validation during training
_CACHED_BYTES = 512 * 1024**2  # maximum size of the decoded images of a set that are kept in memory
_SHOWN = 400  # characters of ids in a message
_TAGGED_SHOWN = 5  # images with an orientation tag in a message, of each tag
_HEADERS_READ = 4000  # maximum size of a set whose orientation tags are read by `prepare`
_RANGES_LOCK = threading.Lock()  # several threads load images; one finds the ranges
NUM_SPLITS = 4  # category splits of the paper; a quarter of the classes is novel in each


class Dataset:
    """Matterport's container of images and classes: derive a class, fill it, then call `prepare()`."""

    def __init__(self) -> None:
        self.image_info: list[Entry] = []  # {"id", "source", "path", ...} by image id
        self.class_info: list[Entry] = [{"source": "", "id": 0, "name": "BG"}]  # by class id
        self.num_images = self.num_classes = 0
        self.class_ids, self.image_ids = np.arange(0), np.arange(0)
        self.class_names: list[str] = []
        self.class_from_source_map: dict[str, int] = {}
        self.image_from_source_map: dict[str, int] = {}
        self._active_classes: np.ndarray | None = None
        self._ranges: intensity.Ranges | None = None  # of images above 8 bits; found when one is read

    def add_class(self, source: str, class_id: int, class_name: str) -> None:
        """Add the class with the id `class_id` in `source`, unless it is there."""
        if "." in source:
            raise InputError(f"source {source!r}: a name without a dot is expected")
        if not any((info["source"], info["id"]) == (source, class_id) for info in self.class_info):
            self.class_info.append({"source": source, "id": class_id, "name": class_name})

    def add_image(self, source: str, image_id: int, path: files.StrPath, **kwargs: Any) -> None:
        """Add the image with the id `image_id` in `source`; `kwargs` go into its `image_info`."""
        self.image_info.append({"id": image_id, "source": source, "path": path, **kwargs})

    def prepare(self, class_map: None = None) -> None:
        """Number classes and images; call it when all are added. `class_map` has no use, as in Matterport."""
        self._ranges = None
        self.num_classes, self.num_images = len(self.class_info), len(self.image_info)
        self.class_ids, self.image_ids = np.arange(self.num_classes), np.arange(self.num_images)
        self.class_names = [info["name"] for info in self.class_info]
        maps = [{f"{x['source']}.{x['id']}": i for i, x in enumerate(y)} for y in (self.class_info, self.image_info)]
        self.class_from_source_map, self.image_from_source_map = maps

    @property
    def ACTIVE_CLASSES(self) -> np.ndarray:
        """Class ids in use, [n]: all of them until others are assigned."""
        return self.class_ids[1:] if self._active_classes is None else self._active_classes

    @ACTIVE_CLASSES.setter
    def ACTIVE_CLASSES(self, class_ids: npt.ArrayLike) -> None:
        class_ids = np.asarray(class_ids, dtype=int).reshape(-1)
        if not np.isin(class_ids, self.class_ids[1:]).all():
            raise InputError(f"ACTIVE_CLASSES = {class_ids.tolist()}: expected class ids in 1..{self.num_classes - 1}")
        self._active_classes = class_ids

    def map_source_class_id(self, source_class_id: str) -> int:
        """Class id of "source.id", for example "coco.18"."""
        return self.class_from_source_map[source_class_id]

    def get_source_class_id(self, class_id: int, source: str) -> Any:
        """The id of a class in `source`."""
        info = self.class_info[class_id]
        if info["source"] != source:
            raise InputError(f"class {class_id} ({info['name']}) is from {info['source']!r}, not from {source!r}")
        return info["id"]

    def image_reference(self, image_id: int) -> str:
        """The path of the image, for messages; its id if it has none."""
        info = self.image_info[image_id]
        return str(info["path"] or f"image {info['id']}")

    def source_image_link(self, image_id: int) -> Any:
        """The path of the image, as it was added."""
        return self.image_info[image_id]["path"]

    def load_image(self, image_id: int) -> np.ndarray:
        """The image: uint8 [height, width, 3], RGB; above 8 bits it is scaled by the range of the set."""
        return read_image(self.image_info[image_id]["path"], ranges=self.image_ranges)

    def image_ranges(self) -> intensity.Ranges:
        """The ranges by which images of more than 8 bits are scaled, the same for all of the set."""
        with _RANGES_LOCK:
            if self._ranges is None:
                self._ranges = intensity.find_ranges(self._deep_paths())
            return self._ranges

    def _deep_paths(self) -> list[str]:
        """Files of the set that may have more than 8 bits."""
        paths = [str(info["path"]) for info in self.image_info if info.get("path") is not None]
        return list(filter(intensity.may_be_deep, paths))

    def __getstate__(self) -> dict[str, Any]:
        """The state for worker processes, with the ranges: all must scale by the same."""
        if self._ranges is None and intensity.sample_is_deep(self._deep_paths()):
            self.image_ranges()
        return dict(self.__dict__)

    def load_mask(self, image_id: int) -> tuple[np.ndarray, np.ndarray]:
        """Masks bool [height, width, instances] and class ids int32 [instances] of an image; none here."""
        info = self.image_info[image_id]
        return np.zeros((info.get("height", 0), info.get("width", 0), 0), bool), np.zeros(0, np.int32)


class CocoDataset(Dataset):
    """A COCO-format tree; several subsets may be loaded one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.set_names: list[str] = []  # "val2017", ...
        self.source_names: list[str] = []  # of the folder or the annotation file of each
        self.rules = ReadingRules()
        self.repairs = Repairs({})  # of the subset that was loaded last
        self._decoded: dict[int, np.ndarray] = {}  # images by image id
        self._is_small = False
        self.listed: dict[str, list[str]] = {}  # image folder -> paths of all images of its annotation files
        self._warns_of_tags = True  # as images are read: the set is too large for `prepare`

    @files.collector_paused()
    def load_coco(
        self,
        dataset_dir: files.StrPath,
        subset: str,
        year: str = "2017",
        class_ids: Iterable[int] | None = None,
        return_coco: bool = False,
        auto_download: bool = False,
        subsubset: str | None = None,
        *,
        val_images: int | None = VALIDATION_IMAGES,
        image_ids: Iterable[int] | None = None,
        annotations: files.StrPath | None = None,
        images: files.StrPath | None = None,
        rules: ReadingRules | None = None,
    ) -> COCO | None:
        """Add the images of a subset in order of COCO id, and the classes in order of category id.

        Args:
            subset: "train", "val", ...; "minival" and "valminusminival" are parts of val2014, whatever the year.
            class_ids: COCO ids of the categories to keep, with the images that have one of them; None keeps all.
            return_coco: return the `pycocotools.coco.COCO` of the annotation file.
            auto_download: refused, data sets are not downloaded here.
            subsubset: "train" keeps all images with annotations but the last `val_images`, "val" keeps these.
            val_images: None sets 3000 aside, but at most a tenth.
            image_ids: COCO ids of the images to keep, before any are set aside; None keeps all.
            annotations, images: annotation file and image folder, in place of those in `dataset_dir`.
            rules: how images and annotations are read where the files leave it open; None for the defaults.

        Raises:
            ValueError: names the file, and the entry and key that is wrong.
        """
        if auto_download:
            needed = f"annotations/instances_{subset}{year}.json and {subset}{year}/ into {dataset_dir}"
            raise InputError(f"auto_download: sets are not downloaded here; put {needed} (cocodataset.org/#download)")
        self.rules = rules or self.rules
        if (annotations is None) != (images is None):
            raise InputError("annotations and images: expected both, an annotation file and its image folder")
        if annotations is not None and images is not None:
            annotation_path, folders = Path(annotations), [Path(images)]
        else:
            annotation_path, folders = find_layout(dataset_dir, subset, year)
        content, self.repairs = load_annotations(annotation_path, self.rules)
        image_dir = choose_images(annotation_path, folders, content)
        resolve_names(content, image_dir, annotation_path)
        others = [] if annotations is not None else other_subsets(dataset_dir, annotation_path, year)
        drop_root_category(content, annotation_path, others)
        folder = str(image_dir)  # pathlib takes seconds for 118,000 names
        paths = [os.path.join(folder, image["file_name"]) for image in content["images"]]
        self.listed.setdefault(folder, []).extend(paths)
        chosen = _chosen(content["categories"], "class_ids", class_ids, f"category ids of {annotation_path}")
        categories = [content["categories"][index] for index in chosen]
        found = _by_image(content, None if class_ids is None else {category["id"] for category in categories})
        kept = _chosen(content["images"], "image_ids", image_ids, f"image ids of {annotation_path}")
        if class_ids is not None or subsubset is not None:
            kept = [index for index in kept if found[content["images"][index]["id"]]]
        kept = _part(kept, subsubset, val_images, annotation_path)
        for category in categories:
            self.add_class("coco", category["id"], category["name"])
        for index in kept:
            image = content["images"][index]
            extra = {key: image.get(key) for key in ("height", "width", "coco_url", "listed_as")}
            self.add_image(
                "coco", image["id"], paths[index], image_dir=image_dir, annotations=found[image["id"]], **extra
            )
        self.set_names.append(image_dir.name or annotation_path.stem)
        named = annotation_path.stem if annotations is not None else Path(dataset_dir).resolve().name
        self.source_names.append(named)
        return coco_object(content, found if class_ids is None else None) if return_coco else None

    def prepare(self, class_map: None = None) -> None:
        super().prepare()
        if len(self.image_from_source_map) < self.num_images:
            raise InputError(f"{self.set_name}: some images were loaded twice; a subset may be loaded once")
        pixels = sum((info.get("height") or 0) * (info.get("width") or 0) for info in self.image_info)
        self._decoded, self._is_small = {}, 3 * pixels <= _CACHED_BYTES
        self._warns_of_tags = self.num_images > _HEADERS_READ and self.rules.orientation == "auto"
        if self.num_images <= _HEADERS_READ:
            self._log_tags(self._undecided_tags())

    @property
    def set_name(self) -> str:
        """The loaded subsets, for messages."""
        return " + ".join(self.set_names) or "an empty data set"

    def image_reference(self, image_id: int) -> str:
        """The image's page at cocodataset.org, or its path if the annotation file has no such address."""
        info = self.image_info[image_id]
        return f"http://cocodataset.org/#explore?id={info['id']}" if info.get("coco_url") else str(info["path"])

    def load_image(self, image_id: int) -> np.ndarray:
        """The image in the size its annotations are for: uint8 [height, width, 3], RGB.

        The images of a small set (`_CACHED_BYTES`) are decoded once and kept in memory.
        """
        if image_id in self._decoded:
            return self._decoded[image_id].copy()
        info = self.image_info[image_id]
        name = Path(info["path"]).relative_to(info["image_dir"])
        path = files.inside(info["image_dir"], name)
        if info.get("listed_as") and not path.is_file():
            listed = f"image {info['id']} is listed as {info['listed_as']!r}"
            raise InputError(f"{info['path']}: no such file; {listed}, and no last part of it is in the folder")
        image = read_image(
            path,
            (info["height"], info["width"]),
            rule=self.rules.orientation,
            ranges=self.image_ranges,
            on_undecided=(lambda tag: self._warn_of_tag(name, tag)) if self._warns_of_tags else None,
        )
        if self._is_small:
            self._decoded[image_id] = image.copy()
        return image

    @property
    def crowds_advice(self) -> str:
        """What to do if all annotations are crowds; otherwise empty."""
        annotations = [annotation for info in self.image_info for annotation in info["annotations"]]
        is_all = annotations and all(annotation["iscrowd"] for annotation in annotations)
        return crowds_advice(len(annotations)) if is_all else ""

    def undecided_orientations(self, progress: bool = False) -> list[str]:
        """The images with an orientation tag that their size does not decide, "a.jpg: orientation tag 3, obeyed"."""
        word = "ignored" if self.rules.orientation == "ignore" else "obeyed"
        found = self._undecided_tags(progress)
        return [f"{name}: orientation tag {tag}, {word}" for name, tag in found]

    def _undecided_tags(self, progress: bool = False) -> list[tuple[str, int]]:
        """(file name, orientation tag) of the images whose size leaves it open; reads the header of each."""
        found = []
        for info in tqdm(self.image_info, "orientation", unit="image", disable=not progress):
            tag = orientation.read_tag(info["path"])
            if orientation.is_undecided(tag, info["height"], info["width"]):
                found.append((os.path.relpath(info["path"], info["image_dir"]), tag))
        return found

    def _log_tags(self, found: list[tuple[str, int]]) -> None:
        """Name images whose tag is not decided by their size; a warning unless the user chose a rule."""
        if not found:
            return
        names = collections.defaultdict(list)
        for name, tag in found:
            names[tag].append(name)
        groups = [
            f"tag {tag}: {', '.join(group[:_TAGGED_SHOWN])}{', ...' if len(group) > _TAGGED_SHOWN else ''}"
            for tag, group in sorted(names.items())
        ]
        have = "images have an" if len(found) > 1 else "image has an"
        words = f"{self.set_name}: {len(found)} {have} orientation tag that the size does not decide"
        rule = self.rules.orientation
        effect = "read as stored" if rule == "ignore" else "turned by it"
        advice = "; --orientation ignore reads them as stored" if rule == "auto" else f" (--orientation {rule})"
        level = logging.WARNING if rule == "auto" else logging.INFO
        logger.log(level, "%s (%s); they are %s%s", words, "; ".join(groups), effect, advice)

    def _warn_of_tag(self, name: Path, tag: int) -> None:
        """Name the first image whose tag is not decided by its size, as images are read."""
        self._warns_of_tags = False
        words = "orientation tag %d, which the size does not decide, is obeyed, and so are those of other images; "
        logger.warning("%s: %s: " + words + "check counts them, --orientation ignore", self.set_name, name, tag)

    def _deep_paths(self) -> list[str]:
        listed = [path for paths in self.listed.values() for path in paths if intensity.may_be_deep(path)]
        return list(dict.fromkeys(super()._deep_paths() + listed))

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_decoded": {}}  # worker processes decode for themselves

    def load_mask(self, image_id: int) -> tuple[np.ndarray, np.ndarray]:
        """Masks bool [height, width, instances] and class ids int32 [instances], negative for crowds as in Matterport.

        They are in order of annotation id; empty masks are left out.
        """
        masks, class_ids = [], []
        for index, annotation in enumerate(self.image_info[image_id]["annotations"]):
            mask = self.instance_mask(image_id, index)
            if mask.any():
                class_id = self.map_source_class_id(f"coco.{annotation['category_id']}")
                class_ids.append(-class_id if annotation["iscrowd"] else class_id)
                masks.append(mask)
        if not masks:
            return super().load_mask(image_id)
        return np.stack(masks, axis=-1), np.array(class_ids, np.int32)

    def instance_mask(self, image_id: int, annotation_index: int) -> np.ndarray:
        """The mask of `image_info[image_id]["annotations"][annotation_index]`: bool [height, width]."""
        info = self.image_info[image_id]
        try:
            rle = annotation_rle(info["annotations"][annotation_index], info["height"], info["width"])
            return np.asarray(coco_mask.decode(rle), bool)
        except ValueError as error:
            raise InputError(f"{self.set_name}: {error}") from error


class IndexedCocoDataset(CocoDataset):
    """A COCO tree that knows which class is in which image: call `build_indices()` after `prepare()`."""

    def __init__(self) -> None:
        super().__init__()
        self.image_category_index: list[list[int]] = []  # by image id: classes with an instance that is not a crowd
        self.category_image_index: list[np.ndarray] = []  # by class id (0 has none): image ids [n], ascending

    @files.collector_paused()
    def build_indices(self) -> None:
        """Fill `image_category_index` and `category_image_index`."""
        if self.num_images != len(self.image_info):
            raise StateError("images were added since the last prepare(): call prepare() first")
        class_of = {info["id"]: class_id for class_id, info in enumerate(self.class_info) if class_id}
        found = np.zeros((self.num_images, self.num_classes), bool)
        for present, info in zip(found, self.image_info, strict=True):
            present[[class_of[entry["category_id"]] for entry in info["annotations"] if not entry["iscrowd"]]] = True
        self.image_category_index = [np.flatnonzero(present).tolist() for present in found]
        self.category_image_index = [np.flatnonzero(present) for present in found.T]

    def set_active_classes(self, active_classes: npt.ArrayLike | str) -> None:
        """Set ACTIVE_CLASSES to these class ids, or to those in a text file, separated by white space."""
        if isinstance(active_classes, str):
            words = files.read_text(active_classes).split()
            if wrong := [word for word in words if not word.isdecimal()]:
                raise InputError(f"{active_classes}: {wrong[0]!r}: expected class ids")
            active_classes = [int(word) for word in words]
        self.ACTIVE_CLASSES = np.asarray(active_classes)

    def images_of(self, class_id: int) -> np.ndarray:
        """Image ids with an instance of the class that is not a crowd: [n], ascending."""
        if not self.category_image_index:
            raise StateError("the data set has no index of its classes: call build_indices() first")
        if not 1 <= class_id < self.num_classes:
            raise InputError(f"class id {class_id}: {self.set_name} has classes 1..{self.num_classes - 1}")
        return self.category_image_index[class_id]

    def instances_of(self, image_id: int, class_id: int) -> list[int]:
        """Annotation indices of the instances of a class in an image, crowds left out: [n]."""
        category, annotations = self.class_info[class_id]["id"], self.image_info[image_id]["annotations"]
        return [i for i, a in enumerate(annotations) if a["category_id"] == category and not a["iscrowd"]]


def split_classes(num_classes: int, split: int) -> tuple[np.ndarray, np.ndarray]:
    """Train and novel classes, int [n] each in 1..num_classes (80 for COCO), of one of the paper's category splits.

    `split` is 1..4, or 0 for no novel classes.
    """
    if split not in range(NUM_SPLITS + 1):
        raise InputError(f"split {split!r}: expected 1..{NUM_SPLITS}, or 0 for all classes")
    class_ids = np.arange(1, num_classes + 1)
    is_novel = (class_ids - split) % NUM_SPLITS == 0 if split else np.zeros(num_classes, bool)
    return class_ids[~is_novel], class_ids[is_novel]


def _chosen(entries: list[Entry], key: str, ids: Iterable[int] | None, expected: str) -> Sequence[int]:
    """Indices, ascending, of the entries with these COCO ids; None chooses all."""
    if ids is None:
        return range(len(entries))
    wanted, known = set(map(int, ids)), [entry["id"] for entry in entries]
    unknown = sorted(wanted.difference(known))
    if unknown or not wanted:
        shown = textwrap.shorten(", ".join(map(str, known)), _SHOWN, placeholder=" ...")
        raise InputError(f"{key} = {unknown}: expected {expected}: {shown}")
    return [index for index, coco_id in enumerate(known) if coco_id in wanted]


def _by_image(content: Content, category_ids: Collection[int] | None) -> dict[int, list[Entry]]:
    """The annotations of each image by its COCO id; of these categories, or of all."""
    found: dict[int, list[Entry]] = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        if category_ids is None or annotation["category_id"] in category_ids:
            found[annotation["image_id"]].append(annotation)
    return found


def _part(images: Sequence[int], subsubset: str | None, val_images: int | None, path: Path) -> Sequence[int]:
    """The images of a sub-subset: all for None, for "train" all but the last `val_images`, for "val" the last ones."""
    if subsubset is None:
        return images
    if subsubset not in ("train", "val"):
        raise InputError(f"subsubset = {subsubset!r}: expected None, 'train' or 'val'")
    if val_images is None:
        val_images = min(VALIDATION_IMAGES, max(len(images) // 10, 1))
    border = max(len(images) - val_images, 0)
    part = images[:border] if subsubset == "train" else images[border:]
    if val_images < 0 or not part:
        raise InputError(f"val_images = {val_images} leaves no images for {subsubset!r} of the {len(images)} in {path}")
    return part
