"""Instances of a COCO-format data set as pictures to classify: what a backbone is pre-trained on without ImageNet.

Samples look like references: the box of an instance, enlarged to the reference's square and padded; in training its
edges are moved a little, and every other one is mirrored. Sample n depends on the data set, the seed and n alone.
Nothing here imports Keras, so that worker processes start fast.
"""

import enum

import numpy as np
from PIL import Image

from .imagenet import NO_LABEL, LabelledCrop

_SHIFT = 0.06  # of a side of the box: how far its edges are moved
_MIRRORED = 0.5  # share of the training samples


class _Draw(enum.IntEnum):
    """What a random number is for; a part of its key."""

    ORDER = 1
    CROP = 2


class Instances:
    """The instances of the active classes of a data set that can be cut out.

    Args:
        dataset: IndexedCocoDataset with indices built.
        name: of the weight file that is trained on them, without suffix.

    Attributes:
        class_ids: of the data set; a label is an index in them.
        num_classes: how many.
        places: list of (image id, (y1, x1, y2, x2) in pixels, label), crowds and boxes below a pixel left out.

    Raises:
        ValueError: there is none, or only one class.
    """

    def __init__(self, dataset, name):
        self.dataset, self.name = dataset, name
        self.class_ids = [int(class_id) for class_id in dataset.ACTIVE_CLASSES]
        self.num_classes = len(self.class_ids)
        self.places = list(_places(dataset, self.class_ids))
        found = len({label for *_, label in self.places})
        if found < 2:
            raise ValueError(
                f"{dataset.set_name}: instances of {found} of {self.num_classes} active classes, expected two or more"
            )

    def __len__(self):
        return len(self.places)

    def image_reference(self, index):
        """What the picture of an instance is called in messages: its path."""
        return self.dataset.image_reference(self.places[index][0])

    def summary(self):
        """What there is, in a line."""
        return f"{self.dataset.set_name}: {len(self)} instances of {self.num_classes} classes"

    def training_samples(self, size, *, seed):
        """The numbered samples of training: RandomInstanceCrops."""
        return RandomInstanceCrops(self, size, seed=seed)

    def validation_samples(self, size):
        """The numbered samples of validation: ReferenceCrops."""
        return ReferenceCrops(self, size)


class RandomInstanceCrops:
    """Makes the numbered samples of training. All instances are gone through in a new random order each pass.

    Args:
        dataset: Instances.
        size: side of a crop in pixels.
        seed: a number from 0 on.
    """

    def __init__(self, dataset, size, *, seed):
        self.dataset, self.size, self.seed = dataset, size, seed
        self._order = None, None  # pass, its permutation of the instances

    def image_of(self, number):
        """Index of the instance of sample `number`."""
        run, place = divmod(number, len(self.dataset))
        last, order = self._order
        if run != last:
            order = np.random.default_rng([self.seed, _Draw.ORDER, run]).permutation(len(self.dataset))
            self._order = run, order
        return int(order[place])

    def __call__(self, number):
        """LabelledCrop `number`, from 0 on.

        Raises:
            RuntimeError: it could not be made; names the picture.
        """
        rng = np.random.default_rng([self.seed, _Draw.CROP, number])

        def cut(image, box):
            crop = padded_box(image, _shifted(box, image.shape, rng), self.size)
            return np.ascontiguousarray(crop[:, ::-1]) if rng.random() < _MIRRORED else crop

        return _made(self.dataset, self.image_of(number), cut)


class ReferenceCrops:
    """Makes the numbered samples of validation: the box of each instance in turn, then samples without a label.

    Args:
        dataset: Instances.
        size: side of a crop in pixels.
    """

    def __init__(self, dataset, size):
        self.dataset, self.size = dataset, size

    def image_of(self, number):
        """Index of the instance of sample `number`; of one that only fills up, the last."""
        return min(number, len(self.dataset) - 1)

    def __call__(self, number):
        """LabelledCrop `number`, from 0 on.

        Raises:
            RuntimeError: it could not be made; names the picture.
        """
        if number >= len(self.dataset):
            return LabelledCrop(np.zeros((self.size, self.size, 3), np.uint8), NO_LABEL)
        return _made(self.dataset, number, lambda image, box: padded_box(image, box, self.size))


def padded_box(image, box, size):
    """A box of a picture as references are: resized until its long side is `size`, padded with 0 to a square.

    Args:
        image: uint8 [height, width, RGB].
        box: (y1, x1, y2, x2) in pixels, inside the picture; fractions are allowed.
        size: side of the result.

    Returns:
        uint8 [size, size, RGB].
    """
    y1, x1, y2, x2 = box
    scale = size / max(y2 - y1, x2 - x1)
    height, width = max(round((y2 - y1) * scale), 1), max(round((x2 - x1) * scale), 1)
    part = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR, (x1, y1, x2, y2))
    canvas = np.zeros((size, size, 3), np.uint8)
    top, left = (size - height) // 2, (size - width) // 2
    canvas[top : top + height, left : left + width] = np.asarray(part)
    return canvas


def _places(dataset, class_ids):
    labels = {dataset.class_info[class_id]["id"]: label for label, class_id in enumerate(class_ids)}
    for image_id, info in enumerate(dataset.image_info):
        for annotation in info["annotations"]:
            x, y, width, height = annotation["bbox"]
            y1, x1 = max(y, 0), max(x, 0)
            y2, x2 = min(y + height, info["height"]), min(x + width, info["width"])
            if annotation["category_id"] in labels and not annotation["iscrowd"] and min(y2 - y1, x2 - x1) >= 1:
                yield image_id, (y1, x1, y2, x2), labels[annotation["category_id"]]


def _shifted(box, shape, rng):
    """A box with each of its edges moved at random, inside the picture."""
    y1, x1, y2, x2 = box
    sides = np.array([y2 - y1, x2 - x1] * 2)
    moved = np.array(box) + rng.uniform(-_SHIFT, _SHIFT, 4) * sides
    moved = np.clip(moved, 0, [*shape[:2], *shape[:2]])
    return tuple(moved) if min(moved[2:] - moved[:2]) >= 1 else box


def _made(dataset, index, cut):
    """The LabelledCrop that `cut` makes of an instance."""
    image_id, box, label = dataset.places[index]
    try:
        return LabelledCrop(cut(dataset.dataset.load_image(image_id), box), label)
    except Exception as error:  # whatever decoders raise: without the name it cannot be mended
        raise RuntimeError(f"{dataset.image_reference(index)}: {error}") from error
