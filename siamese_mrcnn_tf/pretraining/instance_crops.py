"""Instances of a COCO-format data set, cropped for classification: pre-training of a backbone without ImageNet.

Samples look like references: the box of an instance, resized to the reference's square and padded. In training its
edges are jittered, and every other sample is mirrored. With masks a crop has a fourth channel. Nothing here imports
Keras, so that worker processes start fast.
"""

from collections.abc import Iterator

import numpy as np
from PIL import Image

from ..data.custom import indexed_dataset
from ..data.dataset import Dataset, IndexedCocoDataset
from ..io.errors import InputError
from .imagenet import Box

_CACHED_BYTES = 512 * 2**20  # a data set whose decoded images are larger is read again for each crop
_SHIFT = 0.25  # largest shift of an edge, as a share of the box's side: finds to verify have boxes as inexact


class InstanceCrops:
    """The instances of a data set's active classes, without crowds and boxes below a pixel.

    Args:
        dataset: with indices built, or of your own class (`data.custom`).
        name: name of the weight file that is trained on them, without suffix.
        masks: crops have a fourth channel, 255 on the instance.

    Attributes:
        class_ids: of the data set; a label is an index into them.
        places: list of (image id, (y1, x1, y2, x2) in pixels, label).
        annotations: index of each place's annotation in its image.

    Raises:
        ValueError: instances of fewer than two classes.
    """

    def __init__(self, dataset: Dataset, name: str, *, masks: bool = False) -> None:
        dataset = indexed_dataset(dataset)
        self.dataset, self.name, self.masks = dataset, name, masks
        self.class_ids = [int(class_id) for class_id in dataset.ACTIVE_CLASSES]
        self.num_classes = len(self.class_ids)
        found_places = list(_places(dataset, self.class_ids))
        self.places = [place for place, _ in found_places]
        self.annotations = [index for _, index in found_places]
        sizes = sum(3 * info["height"] * info["width"] for info in dataset.image_info)
        self._images: dict[int, np.ndarray] | None = {} if sizes <= _CACHED_BYTES else None
        found = len({label for *_, label in self.places})
        if found < 2:
            count = f"instances of {found} of {self.num_classes} active classes"
            raise InputError(f"{dataset.set_name}: {count}, expected two or more")

    def __len__(self) -> int:
        return len(self.places)

    def image_reference(self, index: int) -> str:
        """The path of an instance's image, for messages."""
        return self.dataset.image_reference(self.places[index][0])

    def summary(self) -> str:
        """Number of instances and classes, in a line."""
        return f"{self.dataset.set_name}: {len(self)} instances of {self.num_classes} classes"

    def label_of(self, index: int) -> int:
        """The label of an instance."""
        return self.places[index][2]

    def random_crop(self, index: int, size: int, rng: np.random.Generator) -> np.ndarray:
        """An instance with the edges of its box jittered: uint8 [size, size, RGB], with masks [size, size, RGB + 1]."""
        image_id, box, _ = self.places[index]
        image = self._image(image_id)
        return self._crop(index, image, _shifted(box, image.shape, rng), size)

    def centre_crop(self, index: int, size: int) -> np.ndarray:
        """An instance: uint8 [size, size, RGB], with masks [size, size, RGB + 1]."""
        image_id, box, _ = self.places[index]
        return self._crop(index, self._image(image_id), box, size)

    def _image(self, image_id: int) -> np.ndarray:
        if self._images is None:
            return self.dataset.load_image(image_id)
        if image_id not in self._images:
            self._images[image_id] = self.dataset.load_image(image_id)
        return self._images[image_id]

    def _crop(self, index: int, image: np.ndarray, box: Box, size: int) -> np.ndarray:
        crop = padded_box(image, box, size)
        if not self.masks:
            return crop
        mask = self.dataset.instance_mask(self.places[index][0], self.annotations[index])
        return np.dstack([crop, padded_box(mask.astype(np.uint8) * np.uint8(255), box, size)])


def padded_box(image: np.ndarray, box: Box, size: int) -> np.ndarray:
    """A box of an image in the form of references: resized by its long side, padded with 0 to uint8 [size, size, RGB].

    Arguments as in `imagenet.resized_crop`; a mask uint8 [height, width] gives [size, size].
    """
    y1, x1, y2, x2 = box
    scale = size / max(y2 - y1, x2 - x1)
    height, width = max(round((y2 - y1) * scale), 1), max(round((x2 - x1) * scale), 1)
    part = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR, (x1, y1, x2, y2))
    canvas = np.zeros((size, size, *image.shape[2:]), np.uint8)
    top, left = (size - height) // 2, (size - width) // 2
    canvas[top : top + height, left : left + width] = np.asarray(part)
    return canvas


def _places(dataset: IndexedCocoDataset, class_ids: list[int]) -> Iterator[tuple[tuple[int, Box, int], int]]:
    labels = {dataset.class_info[class_id]["id"]: label for label, class_id in enumerate(class_ids)}
    for image_id, info in enumerate(dataset.image_info):
        for index, annotation in enumerate(info["annotations"]):
            x, y, width, height = annotation["bbox"]
            y1, x1 = max(y, 0), max(x, 0)
            y2, x2 = min(y + height, info["height"]), min(x + width, info["width"])
            if annotation["category_id"] in labels and not annotation["iscrowd"] and min(y2 - y1, x2 - x1) >= 1:
                yield (image_id, (y1, x1, y2, x2), labels[annotation["category_id"]]), index


def _shifted(box: Box, shape: tuple[int, ...], rng: np.random.Generator) -> Box:
    """A box with each of its edges moved at random, inside the image."""
    y1, x1, y2, x2 = box
    reach = rng.uniform(0, _SHIFT)  # of this crop; few are moved far
    moved = np.array(box) + rng.uniform(-reach, reach, 4) * np.array([y2 - y1, x2 - x1] * 2)
    y1, x1, y2, x2 = np.clip(moved, 0, [*shape[:2], *shape[:2]]).tolist()
    return (y1, x1, y2, x2) if min(y2 - y1, x2 - x1) >= 1 else box
