"""Pictures in class folders, as ImageNet has them, and the numbered samples that a classifier is trained on.

    DIR/train/n01440764/*.JPEG      one folder a class, named by its WordNet id
    DIR/val/n01440764/*.JPEG

Sample n of a run depends on the pictures, the seed and n alone: not on other samples, workers or where the run was
resumed. Nothing here imports Keras, so that worker processes start fast.
"""

import dataclasses
import enum
import logging
import math
from pathlib import Path

import numpy as np
from PIL import Image

from . import molding
from .imagenet_classes import CLASS_SETS, WNIDS, excluded_classes, trained_classes
from .images import read_image

logger = logging.getLogger(__name__)

NO_LABEL = -1  # of samples that fill up the last batch and count for nothing

_SUFFIXES = {".jpeg", ".jpg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
_NAMES_SHOWN = 5  # folders in a message before "and 12 more"
_AREA, _LOG_RATIO = (0.08, 1.0), (math.log(3 / 4), math.log(4 / 3))  # of a random crop, as in Inception's training
_TRIES = 10  # at a random crop that fits in the picture
_CENTRE = 224 / 256  # side of the crop at validation over the short side of the picture


class _Draw(enum.IntEnum):
    """What a random number is for; a part of its key."""

    ORDER = 1
    CROP = 2


# ---- folders -----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Pictures:
    """The pictures of one part of a tree ("train" or "val").

    Attributes:
        folder: DIR/train or DIR/val.
        num_classes: of the class set; labels are below it.
        names: file of each picture under `folder`, sorted within a class.
        labels: int32 [pictures], ascending.
        missing: WordNet ids of the class set that have no picture.
        left_out: WordNet ids of folders whose classes the set leaves out.
    """

    folder: Path
    num_classes: int
    names: list
    labels: np.ndarray
    missing: tuple
    left_out: tuple

    def __len__(self):
        return len(self.names)

    @property
    def name(self):
        """Of the weight file that is trained on them, without suffix."""
        return CLASS_SETS[self.num_classes]

    def image_reference(self, index):
        """What a picture is called in messages: its path."""
        return str(self.folder / self.names[index])

    def label_of(self, index):
        """The label of a picture."""
        return int(self.labels[index])

    def random_crop(self, index, size, rng):
        """A random part of a picture: uint8 [size, size, RGB]."""
        image = self._read(index)
        return resized_crop(image, random_box(image.shape, rng), size)

    def centre_crop(self, index, size):
        """The middle of a picture: uint8 [size, size, RGB]."""
        image = self._read(index)
        return resized_crop(image, centre_box(image.shape, _CENTRE), size)

    def _read(self, index):
        return read_image(self.folder / self.names[index])

    def summary(self):
        """What there is, in a line."""
        text = f"{self.folder}: {len(self)} pictures of {self.num_classes - len(self.missing)} classes"
        if self.left_out:
            text += f"; left out, because COCO has them too: {len(self.left_out)} classes"
        return text + (f"; without a picture: {len(self.missing)} classes" if self.missing else "")


def find_pictures(data_dir, subset, classes, *, partial=False):
    """The pictures of a tree that belong to a class set.

    Args:
        data_dir: folder with train/ and val/.
        subset: "train" or "val".
        classes: 687, 771 or 1000 (module `imagenet_classes`).
        partial: whether classes may be missing.

    Returns:
        Pictures.

    Raises:
        ValueError: no such folder, no picture, or a class without one.
    """
    folder, wanted = Path(data_dir) / subset, trained_classes(classes)
    there = _class_folders(folder)
    names, labels, missing = [], [], []
    for label, wnid in enumerate(wanted):
        found = _picture_files(folder / wnid) if wnid in there else []
        names += [f"{wnid}/{name}" for name in found]
        labels += [label] * len(found)
        if not found:
            missing.append(wnid)
    if not names:
        raise ValueError(f"{folder}: no picture of any of the {len(wanted)} classes that are trained")
    if missing and not partial:
        raise ValueError(
            f"{folder}: {len(missing)} of the {len(wanted)} classes have no picture: {_listed(missing)}. "
            "To train on the others all the same ask for a partial set (--partial)"
        )
    unknown = sorted(there.difference(WNIDS))
    if unknown:
        logger.warning("%s: %d folders are no classes of ILSVRC-2012: %s", folder, len(unknown), _listed(unknown))
    left_out = tuple(sorted(there.intersection(excluded_classes(classes))))
    return Pictures(folder, len(wanted), names, np.array(labels, np.int32), tuple(missing), left_out)


def _class_folders(folder):
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; expected DIR/train and DIR/val, in each a folder for every class")
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    there = {entry.name for entry in entries if entry.is_dir()}
    if not there.intersection(WNIDS):
        flat = " (pictures lie there side by side: sort them)" if any(map(_is_picture, entries)) else ""
        raise ValueError(f"{folder}: no class folder there{flat}; expected folders named like {WNIDS[0]}")
    return there


def _picture_files(folder):
    return sorted(entry.name for entry in folder.iterdir() if _is_picture(entry))


def _is_picture(path):
    return path.suffix.lower() in _SUFFIXES and not path.name.startswith(".")


def _listed(names):
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(names[:_NAMES_SHOWN]) + more


# ---- samples -----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class LabelledCrop:
    """One sample.

    Attributes:
        image: uint8 [size, size, RGB], the mean not subtracted.
        label: index of its class, or NO_LABEL.
    """

    image: np.ndarray
    label: int


class RandomCrops:
    """Makes the numbered samples of training: random crops, every other one mirrored.

    All pictures are gone through in a new random order each pass.

    Args:
        dataset: Pictures, or another sequence of pictures with label_of, random_crop, centre_crop and image_reference.
        size: side of a crop in pixels.
        seed: a number from 0 on.
    """

    def __init__(self, dataset, size, *, seed):
        self.dataset, self.size, self.seed = dataset, size, seed
        self._order = None, None  # pass, its permutation of the pictures

    def image_of(self, number):
        """Index of the picture of sample `number`."""
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

        def cut(index):
            crop = self.dataset.random_crop(index, self.size, rng)
            return np.ascontiguousarray(crop[:, ::-1]) if rng.random() < 0.5 else crop

        return _made(self.dataset, self.image_of(number), cut)


class CentreCrops:
    """Makes the numbered samples of validation: the middle of each picture in turn, then samples without a label.

    Args:
        dataset: see `RandomCrops`.
        size: side of a crop in pixels.
    """

    def __init__(self, dataset, size):
        self.dataset, self.size = dataset, size

    def image_of(self, number):
        """Index of the picture of sample `number`; of one that only fills up, the last."""
        return min(number, len(self.dataset) - 1)

    def __call__(self, number):
        """LabelledCrop `number`, from 0 on.

        Raises:
            RuntimeError: it could not be made; names the picture.
        """
        if number >= len(self.dataset):
            return LabelledCrop(np.zeros((self.size, self.size, 3), np.uint8), NO_LABEL)
        return _made(self.dataset, number, lambda index: self.dataset.centre_crop(index, self.size))


def make_crop_batch(samples, config):
    """Samples as the classifier takes them.

    Args:
        samples: sequence of LabelledCrop, those without a label last. Of them only as many are taken as the devices
            need to share the batch evenly.
        config: reads MEAN_PIXEL and GPU_COUNT.

    Returns:
        dict: input_image float32 [batch, size, size, RGB], the mean subtracted; input_label int32 [batch].
    """
    labelled = sum(sample.label != NO_LABEL for sample in samples)
    samples = samples[: -(-labelled // config.GPU_COUNT) * config.GPU_COUNT]
    return {
        "input_image": molding.mold_image(np.stack([sample.image for sample in samples]), config),
        "input_label": np.array([sample.label for sample in samples], np.int32),
    }


def random_box(shape, rng):
    """A random part of a picture: 8 to 100 % of its area, its width 3/4 to 4/3 of its height.

    Args:
        shape: (height, width, ...) in pixels.
        rng: numpy.random.Generator.

    Returns:
        (y1, x1, y2, x2) in pixels.
    """
    height, width = shape[:2]
    for _ in range(_TRIES):
        area, ratio = height * width * rng.uniform(*_AREA), math.exp(rng.uniform(*_LOG_RATIO))
        h, w = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < h <= height and 0 < w <= width:
            y, x = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
            return y, x, y + h, x + w
    return centre_box(shape, 1.0)


def centre_box(shape, share):
    """The middle square of a picture, its side `share` of the short one: (y1, x1, y2, x2) in pixels, with fractions."""
    height, width = shape[:2]
    side = share * min(height, width)
    y, x = (height - side) / 2, (width - side) / 2
    return y, x, y + side, x + side


def resized_crop(image, box, size):
    """Cut and resize, bilinear with anti-aliasing; at the border pixels beyond the box take part.

    Args:
        image: uint8 [height, width, RGB].
        box: (y1, x1, y2, x2) in pixels, inside the picture; fractions are allowed.
        size: side of the result.

    Returns:
        uint8 [size, size, RGB].
    """
    y1, x1, y2, x2 = box
    picture = Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR, (x1, y1, x2, y2))
    return np.asarray(picture)


def _made(dataset, index, cut):
    """The LabelledCrop that `cut` makes of the picture `index`."""
    try:
        return LabelledCrop(cut(index), dataset.label_of(index))
    except Exception as error:  # whatever decoders raise: without the name it cannot be mended
        name = dataset.image_reference(index)
        text = str(error)
        raise RuntimeError(text if text.startswith(name) else f"{name}: {text}") from error
