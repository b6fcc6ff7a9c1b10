"""Data sets: COCO-format trees, their indices, category splits and the choice of references.

`Dataset` is Matterport's container; `CocoDataset` reads `annotations/instances_{subset}{year}.json` with the pictures
in `{subset}{year}/`; `IndexedCocoDataset` also knows which class is in which image. Image ids are 0..N-1 and class ids
1..N (0 is background); the numbers that stand in the annotation file are called COCO ids.
"""

import itertools
import os
from pathlib import Path

import numpy as np
import pycocotools.mask as coco_mask

from ..io import files
from ..io.images import read_image
from .annotations import annotation_rle, coco_layout, coco_object, fill_areas, read_annotations

VALIDATION_IMAGES = 3000  # of the training images, set aside by the original for validation during training
NUM_SPLITS = 4  # category splits of the paper; in each a quarter of the classes is held out


class Dataset:
    """Matterport's container of images and classes: derive a class, fill it, then call `prepare()`."""

    def __init__(self):
        self.image_info = []  # {"id", "source", "path", ...} by image id
        self.class_info = [{"source": "", "id": 0, "name": "BG"}]  # by class id
        self.num_images = self.num_classes = 0
        self.class_ids, self.class_names, self.image_ids = np.arange(0), [], np.arange(0)
        self.class_from_source_map, self.image_from_source_map = {}, {}
        self._active_classes = None

    def add_class(self, source, class_id, class_name):
        """Add the class that `source` numbers `class_id`, unless it is there."""
        if "." in source:
            raise ValueError(f"source {source!r}: a name without a dot is expected")
        if not any((info["source"], info["id"]) == (source, class_id) for info in self.class_info):
            self.class_info.append({"source": source, "id": class_id, "name": class_name})

    def add_image(self, source, image_id, path, **kwargs):
        """Add the image that `source` numbers `image_id`; `kwargs` go into its `image_info`."""
        self.image_info.append({"id": image_id, "source": source, "path": path, **kwargs})

    def prepare(self):
        """Number classes and images; call it when all are added."""
        self.num_classes, self.num_images = len(self.class_info), len(self.image_info)
        self.class_ids, self.image_ids = np.arange(self.num_classes), np.arange(self.num_images)
        self.class_names = [info["name"].split(",")[0] for info in self.class_info]
        self.class_from_source_map = _numbered(self.class_info)
        self.image_from_source_map = _numbered(self.image_info)

    @property
    def ACTIVE_CLASSES(self):
        """Class ids in use, [n]: all of them until others are assigned."""
        return self.class_ids[1:] if self._active_classes is None else self._active_classes

    @ACTIVE_CLASSES.setter
    def ACTIVE_CLASSES(self, class_ids):
        class_ids = np.asarray(class_ids, dtype=int).reshape(-1)
        known = self.class_ids[1:]
        if not np.isin(class_ids, known).all():
            raise ValueError(f"ACTIVE_CLASSES = {class_ids.tolist()}: expected class ids in 1..{len(known)}")
        self._active_classes = class_ids

    def map_source_class_id(self, source_class_id):
        """Class id of "source.id", for example "coco.18"."""
        return self.class_from_source_map[source_class_id]

    def get_source_class_id(self, class_id, source):
        """The number that `source` gives to the class `class_id`."""
        info = self.class_info[class_id]
        if info["source"] != source:
            raise ValueError(f"class {class_id} ({info['name']}) is from {info['source']!r}, not from {source!r}")
        return info["id"]

    def image_reference(self, image_id):
        """Something to find the image by: its path."""
        return str(self.image_info[image_id]["path"])

    def load_image(self, image_id):
        """The image: uint8 [height, width, 3], RGB."""
        return read_image(self.image_info[image_id]["path"])

    def load_mask(self, image_id):
        """Masks bool [height, width, instances] and class ids int32 [instances] of an image; none here."""
        info = self.image_info[image_id]
        return np.zeros((info.get("height", 0), info.get("width", 0), 0), bool), np.zeros(0, np.int32)


class CocoDataset(Dataset):
    """A COCO-format tree; several subsets may be loaded one after the other."""

    def __init__(self):
        super().__init__()
        self.set_names = []  # "val2017", ...

    def load_coco(
        self,
        dataset_dir,
        subset,
        year="2017",
        class_ids=None,
        return_coco=False,
        auto_download=False,
        subsubset=None,
        *,
        val_images=VALIDATION_IMAGES,
        image_ids=None,
    ):
        """Add the images of a subset in order of COCO id, and the classes in order of category id.

        Args:
            dataset_dir: folder with `annotations/instances_{subset}{year}.json` and `{subset}{year}/`.
            subset: "train", "val", ...; "minival" and "valminusminival" are parts of val2014, whatever the year.
            class_ids: COCO ids of the categories to keep, with the images that have one of them; None keeps all.
            return_coco: return the `pycocotools.coco.COCO` of the annotation file.
            auto_download: refused, data sets are not downloaded here.
            subsubset: of the images with annotations "train" keeps all but the last `val_images`, "val" these.
            val_images: None sets 3000 aside, but at most a tenth.
            image_ids: COCO ids of the images to keep, before anything is set aside; None keeps all.

        Raises:
            ValueError: names the file, and the entry and key that is wrong.
        """
        if auto_download:
            raise ValueError(
                f"auto_download: data sets are not downloaded here; put annotations/instances_{subset}{year}.json and "
                f"the pictures in {subset}{year}/ into {dataset_dir} (from cocodataset.org/#download)"
            )
        annotation_path, image_dir = coco_layout(dataset_dir, subset, year)
        content = read_annotations(annotation_path)
        fill_areas(content)
        categories = _chosen_categories(content["categories"], class_ids, annotation_path)
        by_image = _annotations_by_image(content, categories)
        kept = _chosen_images(content["images"], image_ids, annotation_path)
        if class_ids is not None or subsubset is not None:
            kept = [index for index in kept if by_image[index]]
        kept = _part(kept, subsubset, val_images, annotation_path)
        for category in categories:
            self.add_class("coco", category["id"], category["name"])
        for index in kept:
            self._add_coco_image(content["images"][index], image_dir, by_image[index])
        self.set_names.append(image_dir.name)
        return coco_object(content) if return_coco else None

    def _add_coco_image(self, image, image_dir, annotations):
        path = os.path.join(image_dir, image["file_name"])  # pathlib takes seconds for 118,000 of them
        copied = {key: image.get(key) for key in ("height", "width", "coco_url")}
        self.add_image("coco", image["id"], path, image_dir=image_dir, annotations=annotations, **copied)

    def prepare(self):
        super().prepare()
        if len(self.image_from_source_map) < self.num_images:
            raise ValueError(f"{self.set_name}: some images were loaded twice; a subset may be loaded once")

    @property
    def set_name(self):
        """The loaded subsets, for messages."""
        return " + ".join(self.set_names) or "an empty data set"

    def image_reference(self, image_id):
        """The image's page at cocodataset.org, or its path where the annotation file does not point there."""
        info = self.image_info[image_id]
        return f"http://cocodataset.org/#explore?id={info['id']}" if info.get("coco_url") else info["path"]

    def load_image(self, image_id):
        """The image in the size its annotations are for: uint8 [height, width, 3], RGB."""
        info = self.image_info[image_id]
        name = Path(info["path"]).relative_to(info["image_dir"])
        return read_image(files.inside(info["image_dir"], name), (info["height"], info["width"]))

    def load_mask(self, image_id):
        """Masks and classes of the instances of an image, in order of annotation id; empty masks are left out.

        Returns:
            masks: bool [height, width, instances].
            class_ids: int32 [instances]; negative for crowds, as in Matterport.
        """
        info = self.image_info[image_id]
        masks, class_ids = [], []
        for index, annotation in enumerate(info["annotations"]):
            mask = self.instance_mask(image_id, index)
            if mask.any():
                class_id = self.map_source_class_id(f"coco.{annotation['category_id']}")
                class_ids.append(-class_id if annotation["iscrowd"] else class_id)
                masks.append(mask)
        if not masks:
            return super().load_mask(image_id)
        return np.stack(masks, axis=-1), np.array(class_ids, np.int32)

    def instance_mask(self, image_id, annotation_index):
        """The mask of `image_info[image_id]["annotations"][annotation_index]`: bool [height, width]."""
        info = self.image_info[image_id]
        annotation = info["annotations"][annotation_index]
        try:
            return coco_mask.decode(annotation_rle(annotation, info["height"], info["width"])).astype(bool)
        except ValueError as error:
            raise ValueError(f"{self.set_name}: {error}") from error


class IndexedCocoDataset(CocoDataset):
    """A COCO tree that knows which class is in which image: call `build_indices()` after `prepare()`."""

    def __init__(self):
        super().__init__()
        self.image_category_index = None  # by image id: class ids with at least one instance that is not a crowd
        self.category_image_index = None  # by class id (0, background, has none): image ids [n], ascending

    def build_indices(self):
        """Fill `image_category_index` and `category_image_index`."""
        if self.num_images != len(self.image_info):
            raise RuntimeError("images were added since the last prepare(): call prepare() first")
        annotations = [info["annotations"] for info in self.image_info]
        images = np.repeat(self.image_ids, [len(entries) for entries in annotations])
        flat = list(itertools.chain.from_iterable(annotations))
        categories = np.array([entry["category_id"] for entry in flat], np.int64)
        crowds = np.array([entry["iscrowd"] for entry in flat], bool)
        known = np.array([info["id"] for info in self.class_info[1:]], np.int64)
        order = np.argsort(known)
        classes = order[np.searchsorted(known, categories, sorter=order)] + 1
        pairs = np.unique((images * self.num_classes + classes)[~crowds])
        images, classes = np.divmod(pairs, max(self.num_classes, 1))
        self.image_category_index = _grouped(classes.tolist(), images, self.num_images)
        order = np.argsort(classes, kind="stable")
        self.category_image_index = _grouped(images[order], classes[order], self.num_classes)

    def images_of(self, class_id):
        """Image ids with an instance of the class that is not a crowd: [n], ascending."""
        if self.category_image_index is None:
            raise RuntimeError("the data set has no index of its classes: call build_indices() first")
        if not 1 <= class_id < self.num_classes:
            raise ValueError(f"class id {class_id}: {self.set_name} has classes 1..{self.num_classes - 1}")
        return self.category_image_index[class_id]

    def instances_of(self, image_id, class_id):
        """Annotation indices of the instances of a class in an image, crowds left out: [n]."""
        category = self.class_info[class_id]["id"]
        annotations = self.image_info[image_id]["annotations"]
        return [i for i, a in enumerate(annotations) if a["category_id"] == category and not a["iscrowd"]]


# ---- category splits and references --------------------------------------------------------------------------------


def split_classes(num_classes, split):
    """The classes of one of the paper's category splits.

    Args:
        num_classes: without background (80 for COCO).
        split: 1..4, or 0 for no held-out classes.

    Returns:
        train_ids, held_out_ids: int [n] each, class ids in 1..num_classes.
    """
    if split not in range(NUM_SPLITS + 1):
        raise ValueError(f"split {split!r}: expected 1..{NUM_SPLITS}, or 0 for all classes")
    class_ids = np.arange(1, num_classes + 1)
    held_out = (class_ids - split) % NUM_SPLITS == 0 if split else np.zeros(num_classes, bool)
    return class_ids[~held_out], class_ids[held_out]


# ---- the annotation file -------------------------------------------------------------------------------------------


def _chosen_categories(categories, class_ids, path):
    """Categories with the COCO ids `class_ids` (None: all), in the order of `categories`."""
    if class_ids is None:
        return categories
    wanted = {int(class_id) for class_id in class_ids}
    unknown = sorted(wanted - {category["id"] for category in categories})
    if unknown or not wanted:
        known = ", ".join(str(category["id"]) for category in categories)
        raise ValueError(f"class_ids = {sorted(wanted)}: expected some of the category ids of {path}: {known}")
    return [category for category in categories if category["id"] in wanted]


def _chosen_images(images, image_ids, path):
    """Indices of the images with the COCO ids `image_ids` (None: all), ascending."""
    if image_ids is None:
        return range(len(images))
    wanted = {int(image_id) for image_id in image_ids}
    unknown = sorted(wanted - {image["id"] for image in images})
    if unknown or not wanted:
        raise ValueError(f"image_ids = {sorted(wanted)}: expected ids of images in {path}, which has no {unknown}")
    return [index for index, image in enumerate(images) if image["id"] in wanted]


def _annotations_by_image(content, categories):
    """For each image the list of its annotations that are of `categories`, in order of id."""
    annotations = content["annotations"]
    belongs = np.array([annotation["image_id"] for annotation in annotations], np.int64)
    kinds = np.array([annotation["category_id"] for annotation in annotations], np.int64)
    image_ids = np.array([image["id"] for image in content["images"]], np.int64)
    kept = np.flatnonzero(np.isin(kinds, [category["id"] for category in categories]))
    images = np.searchsorted(image_ids, belongs[kept])
    order = np.argsort(images, kind="stable")
    return _grouped([annotations[index] for index in kept[order].tolist()], images[order], len(image_ids))


def _part(images, subsubset, val_images, path):
    """The images of a sub-subset: all for None, for "train" all but the last `val_images`, for "val" the last ones."""
    if subsubset is None:
        return images
    if subsubset not in ("train", "val"):
        raise ValueError(f"subsubset = {subsubset!r}: expected None, 'train' or 'val'")
    if val_images is None:
        val_images = min(VALIDATION_IMAGES, max(len(images) // 10, 1))
    border = max(len(images) - val_images, 0)
    part = images[:border] if subsubset == "train" else images[border:]
    if val_images < 0 or not part:
        raise ValueError(f"val_images = {val_images} leaves no images for {subsubset!r} of the {len(images)} in {path}")
    return part


def _numbered(infos):
    return {f"{info['source']}.{info['id']}": index for index, info in enumerate(infos)}


def _grouped(values, groups, num_groups):
    """Cut `values`, whose group numbers `groups` ascend, into a list with one piece for each group."""
    borders = np.searchsorted(groups, np.arange(num_groups + 1)).tolist()
    return [values[start:stop] for start, stop in itertools.pairwise(borders)]
