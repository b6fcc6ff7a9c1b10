"""Data sets of the user's own class, in Matterport's way: derived from `Dataset`, with `load_image` and `load_mask`.

`indexed_dataset` gives them what training, references and evaluation need: an index of instances, their masks as RLE,
and the ground truth as a COCO object.
"""

import numpy as np
import pycocotools.mask as coco_mask
from pycocotools.coco import COCO
from tqdm import tqdm

from ..io.errors import InputError, StateError
from .annotations import coco_object
from .dataset import Dataset, IndexedCocoDataset

_LONG = 200  # minimum number of images for a progress bar


def indexed_dataset(dataset: Dataset, *, progress: bool = True) -> IndexedCocoDataset:
    """The data set itself if it has an index of instances; else a `MaskDataset` of it, made once."""
    if isinstance(dataset, IndexedCocoDataset):
        return dataset
    made = getattr(dataset, "_indexed", None)
    if made is None or made.num_images != dataset.num_images or made.num_classes != dataset.num_classes:
        made = MaskDataset(dataset, progress=progress)
        dataset._indexed = made  # type: ignore[attr-defined]
    made.ACTIVE_CLASSES = dataset.ACTIVE_CLASSES
    return made


def ground_truth(dataset: IndexedCocoDataset) -> COCO:
    """The ground truth of a data set as `pycocotools.coco.COCO`."""
    images = [
        {"id": info["id"], "file_name": str(info["path"]), "height": info["height"], "width": info["width"]}
        for info in dataset.image_info
    ]
    annotations = [annotation for info in dataset.image_info for annotation in info["annotations"]]
    categories = [{"id": info["id"], "name": info["name"]} for info in dataset.class_info[1:]]
    return coco_object({"images": images, "annotations": annotations, "categories": categories})


class MaskDataset(IndexedCocoDataset):
    """The images, classes and masks of a `Dataset`.

    COCO ids of categories are class ids; those of images are the data set's own if all are numbers from 0 on, else they
    count from 1. The masks of all images are loaded once and kept as RLE. Images are loaded when they are needed.

    Raises:
        RuntimeError: the data set was not prepared.
        ValueError: names the image whose masks are not [height, width, instances] with a class id for each.
    """

    def __init__(self, dataset: Dataset, *, progress: bool = True) -> None:
        super().__init__()
        if dataset.num_images != len(dataset.image_info) or dataset.num_classes != len(dataset.class_info):
            raise StateError("images or classes were added since the last prepare(): call prepare() first")
        self._dataset = dataset
        self.set_names = [type(dataset).__name__]
        for class_id, info in enumerate(dataset.class_info[1:], start=1):
            self.add_class("coco", class_id, info["name"])
        ids = [info["id"] for info in dataset.image_info]
        own = all(type(i) is int and i >= 0 for i in ids) and len(set(ids)) == len(ids)
        hidden = not progress or len(ids) < _LONG
        number = 1
        for image_id in tqdm(range(len(ids)), "masks", unit="image", disable=hidden):
            masks, class_ids = self._checked_masks(image_id)
            height, width = masks.shape[:2]
            coco_id, annotations = ids[image_id] if own else image_id + 1, []
            for index, class_id in enumerate(class_ids.tolist()):
                rle = coco_mask.encode(np.asfortranarray(masks[..., index]).astype(np.uint8))
                entry = {"id": number, "image_id": coco_id, "category_id": abs(class_id), "iscrowd": int(class_id < 0)}
                entry |= {"segmentation": rle | {"counts": rle["counts"].decode("ascii")}}
                area = float(coco_mask.area(rle))
                if area:
                    annotations.append(entry | {"bbox": coco_mask.toBbox(rle).tolist(), "area": area})
                    number += 1
            path = dataset.image_info[image_id].get("path")
            size = {"height": height, "width": width}
            self.add_image("coco", coco_id, path or "", image_dir="", annotations=annotations, **size)
        self.prepare()
        self.build_indices()

    def prepare(self, class_map: None = None) -> None:
        super(IndexedCocoDataset, self).prepare()
        self._is_small = False

    def _log_tags(self, found: list[tuple[str, int]]) -> None:
        """Nothing: images are read by the data set itself."""

    def undecided_orientations(self, progress: bool = False) -> list[str]:
        return []

    def image_reference(self, image_id: int) -> str:
        return self._dataset.image_reference(image_id) or f"image {image_id}"

    def load_image(self, image_id: int) -> np.ndarray:
        """The image of the data set: uint8 [height, width, 3]. Grey is repeated, alpha is dropped, as in Matterport.

        Raises:
            ValueError: the image has another shape, other values, or another size than its masks.
        """
        image = np.asarray(self._dataset.load_image(image_id))
        image = np.repeat(image[..., None], 3, axis=-1) if image.ndim == 2 else image
        image = np.repeat(image, 3, axis=-1) if image.ndim == 3 and image.shape[2] == 1 else image[..., :3]
        info, name = self.image_info[image_id], self.image_reference(image_id)
        if (
            image.ndim != 3
            or image.shape[2] != 3
            or image.dtype.kind not in "ui"
            or image.min() < 0
            or image.max() > 255
        ):
            found = f"{image.dtype} {image.shape}"
            raise InputError(
                f"{name}: load_image gave {found}, expected [height, width, 3] with whole numbers in 0..255"
            )
        if image.shape[:2] != (info["height"], info["width"]):
            masks = f"its masks {info['height']} x {info['width']}"
            raise InputError(f"{name}: the image is {image.shape[0]} x {image.shape[1]} (height x width), {masks}")
        return image.astype(np.uint8, copy=False)

    def _checked_masks(self, image_id: int) -> tuple[np.ndarray, np.ndarray]:
        """`load_mask` of the data set: bool [height, width, n], int [n]; without instances of the image's size."""
        masks, class_ids = self._dataset.load_mask(image_id)
        masks, class_ids = np.asarray(masks), np.asarray(class_ids).reshape(-1)
        name = self._dataset.image_reference(image_id) or f"image {image_id}"
        if not class_ids.size:
            return np.zeros((*np.asarray(self._dataset.load_image(image_id)).shape[:2], 0), bool), class_ids.astype(int)
        if masks.ndim != 3 or masks.shape[2] != class_ids.size:
            expected = f"expected [height, width, {class_ids.size}] for its {class_ids.size} class ids"
            raise InputError(f"{name}: load_mask gave masks of shape {masks.shape}, {expected}")
        if class_ids.dtype.kind not in "ui" or not np.isin(np.abs(class_ids), self._dataset.class_ids[1:]).all():
            classes = f"expected 1..{self._dataset.num_classes - 1}, negative for crowds"
            raise InputError(f"{name}: load_mask gave class ids {class_ids.tolist()}, {classes}")
        return masks != 0, class_ids.astype(int)
