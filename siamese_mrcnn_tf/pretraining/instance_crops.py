"""Instances of a COCO-format data set as pictures to classify: what a backbone is pre-trained on without ImageNet.

Samples look like references: the box of an instance, enlarged to the reference's square and padded; in training its
edges are moved a little, and every other one is mirrored. Sample n depends on the data set, the seed and n alone.
Nothing here imports Keras, so that worker processes start fast.
"""

import numpy as np
from PIL import Image

_SHIFT = 0.06  # of a side of the box: how far its edges are moved


class InstanceCrops:
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

    def label_of(self, index):
        """The label of an instance."""
        return self.places[index][2]

    def random_crop(self, index, size, rng):
        """An instance with the edges of its box moved a little: uint8 [size, size, RGB]."""
        image_id, box, _ = self.places[index]
        image = self.dataset.load_image(image_id)
        return padded_box(image, _shifted(box, image.shape, rng), size)

    def centre_crop(self, index, size):
        """An instance: uint8 [size, size, RGB]."""
        image_id, box, _ = self.places[index]
        return padded_box(self.dataset.load_image(image_id), box, size)


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
