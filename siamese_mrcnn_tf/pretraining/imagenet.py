"""ImageNet: its classes, the images of class folders, and the numbered samples that a classifier is trained on.

    DIR/train/n01440764/*.JPEG      a folder for each class, named by its WordNet id
    DIR/val/n01440764/*.JPEG

A backbone trained on all 1,000 classes of ILSVRC-2012 has seen the categories of COCO. For one-shot detection of novel
COCO categories it is trained without them: the paper's cut leaves 687 classes, a milder one 771.

Sample n of a run depends only on the images, the seed and n: not on other samples, workers or where the run was
resumed. Nothing here imports Keras, so that worker processes start fast.
"""

import dataclasses
import enum
import functools
import importlib.resources
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Union

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..config import Config
from ..data import molding
from ..io import intensity
from ..io.errors import InputError, StateError
from ..io.files import IMAGE_SUFFIXES, is_companion
from ..io.images import read_image
from . import CLASS_SETS

if TYPE_CHECKING:
    from .instance_crops import InstanceCrops

logger = logging.getLogger(__name__)

Box = tuple[float, float, float, float]  # (y1, x1, y2, x2) in pixels
LabeledImages = Union["ImageFolder", "InstanceCrops"]
NO_LABEL = -1  # of samples that fill the last batch and do not count

_NAMES_SHOWN = 5  # folders in a message before "and 12 more"
_AREA, _LOG_RATIO = (0.08, 1.0), (math.log(3 / 4), math.log(4 / 3))  # of a random crop, as in Inception's training
_TRIES = 10  # at a random crop that fits in the image
_CENTRE = 224 / 256  # side of the crop at validation over the short side of the image

_Draw = enum.IntEnum("_Draw", ["ORDER", "CROP"])  # what a random number is for: a part of its key


# ---- classes -----------------------------------------------------------------------------------------------------


@functools.cache
def _classes() -> dict[str, list[str]]:
    """{WordNet id: sizes of the class sets that leave the class out}, sorted."""
    text = (importlib.resources.files(__package__) / "imagenet_wnids.txt").read_text(encoding="utf-8")
    rows = (line.split() for line in text.splitlines() if not line.startswith("#"))
    return {wnid: sizes for wnid, *sizes in rows}


def wordnet_ids() -> tuple[str, ...]:
    """WordNet ids of the 1,000 classes of ILSVRC-2012, sorted."""
    return tuple(_classes())


def trained_classes(count: int) -> tuple[str, ...]:
    """WordNet ids of a class set of 687, 771 or 1000, sorted; the index in it is a class's label."""
    excluded = set(excluded_classes(count))
    return tuple(wnid for wnid in _classes() if wnid not in excluded)


def excluded_classes(count: int) -> tuple[str, ...]:
    """WordNet ids of the classes that a class set leaves out, sorted; ValueError if it is not the size of one."""
    if count not in CLASS_SETS:
        raise InputError(f"classes = {count!r}: expected one of {', '.join(map(str, CLASS_SETS))}")
    return tuple(wnid for wnid, sizes in _classes().items() if str(count) in sizes)


# ---- folders -----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class ImageFolder:
    """The images of one part of a tree ("train" or "val").

    Attributes:
        folder: DIR/train or DIR/val.
        num_classes: of the class set; labels are below it.
        names: file of each image under `folder`, sorted within a class.
        labels: int32 [images], ascending.
        missing: WordNet ids of the class set without images.
        left_out: WordNet ids of folders whose classes are not in the set.
        orientation: "ignore" reads images as stored, "obey" and "auto" turn them by their orientation tag.
        ranges: by which images of more than 8 bits are scaled.
    """

    folder: Path
    num_classes: int
    names: list[str]
    labels: npt.NDArray[np.int32]
    missing: tuple[str, ...]
    left_out: tuple[str, ...]
    orientation: str = "auto"
    ranges: intensity.Ranges = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def name(self) -> str:
        """Name of the weight file that is trained on them, without suffix."""
        return CLASS_SETS[self.num_classes]

    def image_reference(self, index: int) -> str:
        """The path of an image, for messages."""
        return str(self.folder / self.names[index])

    def label_of(self, index: int) -> int:
        """The label of an image."""
        return int(self.labels[index])

    def random_crop(self, index: int, size: int, rng: np.random.Generator) -> np.ndarray:
        """A random part of an image: uint8 [size, size, RGB]."""
        image = self._read(index)
        return resized_crop(image, random_box(image.shape, rng), size)

    def centre_crop(self, index: int, size: int) -> np.ndarray:
        """The middle of an image: uint8 [size, size, RGB]."""
        image = self._read(index)
        return resized_crop(image, centre_box(image.shape, _CENTRE), size)

    def _read(self, index: int) -> np.ndarray:
        return read_image(self.folder / self.names[index], rule=self.orientation, ranges=self.ranges)

    def summary(self) -> str:
        """Number of images and classes, in a line."""
        text = f"{self.folder}: {len(self)} images of {self.num_classes - len(self.missing)} classes"
        if self.left_out:
            text += f"; left out, because COCO has them too: {len(self.left_out)} classes"
        return text + (f"; without images: {len(self.missing)} classes" if self.missing else "")


def find_images(
    data_dir: str | os.PathLike[str], subset: str, classes: int, *, partial: bool = False, orientation: str = "auto"
) -> ImageFolder:
    """The images of a tree that belong to a class set. Hidden files are passed over, as `io.files.is_companion` says.

    Args:
        data_dir: folder with train/ and val/.
        subset: "train" or "val".
        classes: 687, 771 or 1000.
        partial: whether classes may be missing.
        orientation: as in ImageFolder.

    Raises:
        ValueError: no such folder, no image, or a class without images.
    """
    folder, wanted = Path(data_dir) / subset, trained_classes(classes)
    present = _class_folders(folder)
    found = {wnid: sorted(filter(_is_image, (folder / wnid).iterdir())) if wnid in present else [] for wnid in wanted}
    names = [f"{wnid}/{path.name}" for wnid, paths in found.items() for path in paths]
    missing = tuple(wnid for wnid, paths in found.items() if not paths)
    if not names:
        raise InputError(f"{folder}: no image of any of the {len(wanted)} classes that are trained")
    if missing and not partial:
        count = f"{len(missing)} of the {len(wanted)} classes have no image: {_listed(missing)}"
        raise InputError(f"{folder}: {count}. To train on the others anyway allow a partial set (--partial)")
    unknown = sorted(present.difference(wordnet_ids()))
    if unknown:
        logger.warning("%s: %d folders are no classes of ILSVRC-2012: %s", folder, len(unknown), _listed(unknown))
    left_out = tuple(sorted(present.intersection(excluded_classes(classes))))
    labels = np.repeat(np.arange(len(wanted), dtype=np.int32), [len(paths) for paths in found.values()])
    deep = [folder / name for name in names if intensity.may_be_deep(name)]
    ranges = intensity.find_ranges(deep) if intensity.sample_is_deep(deep) else {}
    return ImageFolder(folder, len(wanted), names, labels, missing, left_out, orientation, ranges)


def _class_folders(folder: Path) -> set[str]:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected DIR/train and DIR/val, in each a folder for every class")
    entries = [entry for entry in folder.iterdir() if not is_companion(entry)]
    present = {entry.name for entry in entries if entry.is_dir()}
    if not present.intersection(wordnet_ids()):
        flat = " (it holds the images themselves: sort them)" if any(map(_is_image, entries)) else ""
        raise InputError(f"{folder}: no class folder there{flat}; expected folders named like {wordnet_ids()[0]}")
    return present


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not is_companion(path)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(names[:_NAMES_SHOWN]) + more


# ---- samples -----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class LabeledImage:
    """One sample: uint8 [size, size, RGB], the mean not subtracted, and the index of its class, or NO_LABEL.

    A fourth channel is the mask of an instance, 0 or 255 but for its edge.
    """

    image: np.ndarray
    label: int


class _Crops:
    """Numbered samples of a data set; a loop over them ends after a pass, though numbers go on."""

    def __init__(self, dataset: LabeledImages, size: int) -> None:
        self.dataset, self.size = dataset, size

    def __len__(self) -> int:
        """Number of images, the samples of one pass."""
        return len(self.dataset)

    def __iter__(self) -> Iterator[LabeledImage]:
        """The samples of the first pass."""
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, number: int) -> LabeledImage:
        raise NotImplementedError

    def _labeled(self, index: int, cut: Callable[[int], np.ndarray]) -> LabeledImage:
        """The LabeledImage of what `cut` returns for the image `index`."""
        try:
            return LabeledImage(cut(index), self.dataset.label_of(index))
        except Exception as error:  # whatever decoders raise: users need the name of the file
            name, text = self.dataset.image_reference(index), str(error)
            raise StateError(text if text.startswith(name) else f"{name}: {text}") from error


class RandomCrops(_Crops):
    """The numbered samples of training: random crops, every other one mirrored.

    Each pass goes through all images in a new random order.

    Args:
        dataset: ImageFolder or InstanceCrops.
        size: side of a crop in pixels.
        seed: a number from 0 on.
    """

    def __init__(self, dataset: LabeledImages, size: int, *, seed: int) -> None:
        super().__init__(dataset, size)
        self.seed = seed
        self._order: tuple[int, np.ndarray] = -1, np.empty(0)  # pass, its permutation of the images

    def image_of(self, number: int) -> int:
        """Index of the image of sample `number`."""
        run, place = divmod(number, len(self.dataset))
        last, order = self._order
        if run != last:
            order = np.random.default_rng([self.seed, _Draw.ORDER, run]).permutation(len(self.dataset))
            self._order = run, order
        return int(order[place])

    def __getitem__(self, number: int) -> LabeledImage:
        """Sample `number`, from 0 on, of any pass; RuntimeError with the image's name if it cannot be made."""
        rng = np.random.default_rng([self.seed, _Draw.CROP, number])

        def cut(index: int) -> np.ndarray:
            crop = self.dataset.random_crop(index, self.size, rng)
            return np.ascontiguousarray(crop[:, ::-1]) if rng.random() < 0.5 else crop

        return self._labeled(self.image_of(number), cut)


class CentreCrops(_Crops):
    """The numbered samples of validation: the middle of each image in turn, then samples without a label.

    Args:
        dataset: ImageFolder or InstanceCrops.
        size: side of a crop in pixels.
    """

    def image_of(self, number: int) -> int:
        """Index of the image of sample `number`; the last one for samples without a label."""
        return min(number, len(self.dataset) - 1)

    def __getitem__(self, number: int) -> LabeledImage:
        """Sample `number`, from 0 on; errors as those of `RandomCrops`."""
        if number >= len(self.dataset):
            return LabeledImage(np.zeros_like(self[0].image), NO_LABEL)
        return self._labeled(number, lambda index: self.dataset.centre_crop(index, self.size))


def make_crop_batch(samples: Sequence[LabeledImage], config: Config) -> dict[str, np.ndarray]:
    """A batch of the classifier: input_image float32 [batch, size, size, RGB], the mean (MEAN_PIXEL) subtracted,
    input_label int32 [batch], and of samples with a mask input_mask float32 [batch, size, size] in 0..1.

    Samples without a label come last; only as many of them are used as GPU_COUNT devices need to share a batch evenly.
    """
    labeled = sum(sample.label != NO_LABEL for sample in samples)
    samples = samples[: -(-labeled // config.GPU_COUNT) * config.GPU_COUNT]
    pixels = np.stack([sample.image for sample in samples])
    batch = {
        "input_image": molding.mold_image(pixels[..., :3], config),
        "input_label": np.array([sample.label for sample in samples], np.int32),
    }
    return batch | ({"input_mask": pixels[..., 3].astype(np.float32) / 255} if pixels.shape[-1] > 3 else {})


# ---- crops -------------------------------------------------------------------------------------------------------


def random_box(shape: Sequence[int], rng: np.random.Generator) -> Box:
    """A random (y1, x1, y2, x2) in pixels: 8 to 100 % of an image's area, its width 3/4 to 4/3 of its height.

    `shape` is (height, width, ...) in pixels.
    """
    height, width = shape[:2]
    for _ in range(_TRIES):
        area, ratio = height * width * rng.uniform(*_AREA), math.exp(rng.uniform(*_LOG_RATIO))
        h, w = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < h <= height and 0 < w <= width:
            y, x = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
            return y, x, y + h, x + w
    return centre_box(shape, 1.0)


def centre_box(shape: Iterable[int], share: float) -> Box:
    """The middle square of an image, its side `share` of the short one: (y1, x1, y2, x2) in pixels, with fractions."""
    height, width, *_ = shape
    side = share * min(height, width)
    y, x = (height - side) / 2, (width - side) / 2
    return y, x, y + side, x + side


def resized_crop(image: np.ndarray, box: Box, size: int) -> np.ndarray:
    """A box of an image, resized to uint8 [size, size, RGB]: bilinear with anti-aliasing, pixels outside contribute.

    Args:
        image: uint8 [height, width, RGB].
        box: (y1, x1, y2, x2) in pixels, inside the image; fractions are allowed.
        size: side of the result.
    """
    y1, x1, y2, x2 = box
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR, (x1, y1, x2, y2)))
