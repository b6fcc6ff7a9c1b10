"""Augmentation: image and masks of a training sample changed together.

An augmentation is a callable `augmentation(image, masks, rng) -> (image, masks)` of an image uint8 [height, width, RGB]
and masks bool [height, width, num_instances]; the numpy.random.Generator is the only source of randomness. It keeps
shapes and types and does not write to its arguments. The mask of an instance that leaves the image is empty.

`fliplr` is native. imgaug is imported only for its augmenters. Under numpy 2 it cannot be imported as it is: write
`iaa = import_imgaug().augmenters` instead of `import imgaug.augmenters as iaa`.
"""

import functools
import importlib
import operator
import pickle
import threading
import types
from collections.abc import Callable
from typing import Any, cast

import numpy as np

from ..io.errors import InputError, MissingPackageError

ImageAndMasks = tuple[np.ndarray, np.ndarray]
Rng = np.random.Generator
Augmentation = Callable[[np.ndarray, np.ndarray, Rng], ImageAndMasks]


def flip_left_right(image: np.ndarray, masks: np.ndarray) -> ImageAndMasks:
    """Mirror an image [height, width, channels] and its masks [height, width, num_instances] into new arrays."""
    return np.ascontiguousarray(image[:, ::-1]), np.ascontiguousarray(masks[:, ::-1])


def fliplr(probability: float = 0.5) -> Augmentation:
    """Augmentation that mirrors a sample with a probability; raises ValueError if that is outside 0..1."""
    if not 0 <= probability <= 1:
        raise InputError(f"probability = {probability!r}: expected a number from 0 to 1")
    return functools.partial(_flip_sometimes, probability=probability)


def imgaug_augmentation(augmenter: Any) -> Augmentation:
    """Augmentation by an imgaug augmenter.

    Augmenters of colour (noise, blur, contrast, weather, ...) change only the image. Augmenters that move pixels change
    image and masks alike, the masks by the nearest pixel. Pixels that they bring in from outside the image belong to no
    mask, copies at a mirrored border included. `TotalDropout`, which blanks the whole image, empties the masks.

    Args:
        augmenter: an `imgaug.augmenters.Augmenter`. Each sample is changed by a copy seeded from the sample's
            generator; the augmenter's own seed and imgaug's global one are not used.

    Raises:
        ValueError: not an augmenter, or one of its children is not known to keep the image's size and the masks on
            their instances; the message names it.
        ImportError: imgaug or a library that it needs is missing; the message says what to install.
    """
    iaa = import_imgaug().augmenters
    if not isinstance(augmenter, iaa.Augmenter):
        raise InputError(f"{augmenter!r} is of type {type(augmenter).__name__}: expected an imgaug augmenter")
    _check_augmenter(augmenter, may_move=True)
    return _ImgaugAugmentation(augmenter)


def parse_augmentation(name: str | None) -> Augmentation | None:
    """The augmentation with a name: None for None and "none", `fliplr()` for "fliplr"; ValueError for others."""
    if name is not None and name not in _NAMED:
        raise InputError(f"augmentation {name!r}: expected one of {', '.join(_NAMED)}")
    return None if name is None else _NAMED[name]()


def as_augmentation(value: Any) -> Augmentation | None:
    """The augmentation for None, a name, an imgaug augmenter, or a callable as described above.

    Raises:
        ValueError: another value, or an augmenter that cannot be used.
    """
    if value is None or isinstance(value, str):
        return parse_augmentation(value)
    if any(kind.__module__.startswith("imgaug.") for kind in type(value).__mro__):
        return imgaug_augmentation(value)
    if not callable(value):
        raise InputError(f"augmentation {value!r}: expected a name, an imgaug augmenter or a callable")
    return cast(Augmentation, value)


@functools.cache
def import_imgaug() -> Any:
    """The module imgaug, working under numpy 2. numpy's names and its global random state stay as they are.

    Raises:
        ImportError: imgaug or a library that it needs is missing; the message says what to install.
    """
    with _import_lock:
        lacks_sctypes = not hasattr(np, "sctypes")
        try:
            if lacks_sctypes:
                vars(np)["sctypes"] = _SCTYPES
            imgaug = importlib.import_module("imgaug")
        except ImportError as error:
            raise MissingPackageError(_advice(error), name=error.name, path=error.path) from error
        finally:
            if lacks_sctypes:
                del vars(np)["sctypes"]
        for name in _USERS_OF_OLD_ALIASES:
            vars(importlib.import_module(name))["np"] = _NumpyWithOldAliases("numpy")
        if imgaug.random.GLOBAL_RNG is None:  # imgaug would draw its seed from numpy's global state
            imgaug.random.GLOBAL_RNG = imgaug.random.RNG(np.random.Generator(np.random.SFC64()))
    return imgaug


_import_lock = threading.Lock()  # one thread at a time adds and removes numpy's names

_NAMED: dict[str, Callable[[], Augmentation | None]] = {"none": lambda: None, "fliplr": fliplr}

_DEBIAN_PACKAGES = {"libGL.so": "libgl1", "libgthread-2.0.so": "libglib2.0-0"}  # that OpenCV's wheel lacks

_SCTYPES = {  # the part of numpy 1's numpy.sctypes that imgaug reads
    "float": [np.float16, np.float32, np.float64, np.longdouble],
    "int": [np.int8, np.int16, np.int32, np.int64],
    "uint": [np.uint8, np.uint16, np.uint32, np.uint64],
}
_USERS_OF_OLD_ALIASES = ("imgaug.parameters", "imgaug.augmenters.meta", "imgaug.augmentables.polys")

_COMBINING = ("Sequential", "SomeOf", "OneOf", "Sometimes")
_MOVING = ("Fliplr", "Flipud", "Rot90", "CropAndPad", "Affine", "PiecewiseAffine", "PerspectiveTransform")
_COLOURING = ("Identity", "ChannelShuffle", "WithChannels")  # of imgaug.augmenters.meta; and all of these modules:
_COLOUR_MODULES = (
    "arithmetic artistic blend blur color contrast convolutional edges pillike pooling segmentation weather"
)
# the first two need labels that masks do not have, the last changes images only
_UNUSABLE = ("BlendAlphaSegMapClassIds", "BlendAlphaBoundingBoxes", "pillike.Affine")


class _ImgaugAugmentation:
    """The result of `imgaug_augmentation`; it can be pickled if its augmenter can."""

    def __init__(self, augmenter: Any) -> None:
        self._augmenter = augmenter

    def __repr__(self) -> str:
        return f"imgaug_augmentation({self._augmenter})"

    def __call__(self, image: np.ndarray, masks: np.ndarray, rng: Rng) -> ImageAndMasks:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
            raise InputError(f"image is {image.dtype} {image.shape}: expected uint8 (height, width, 3)")
        if masks.dtype != bool or masks.ndim != 3 or masks.shape[:2] != image.shape[:2]:
            height, width = image.shape[:2]
            raise InputError(f"masks are {masks.dtype} {masks.shape}: expected bool ({height}, {width}, instances)")
        augmenter = self._augmenter.deepcopy()  # its random state belongs to this sample and this thread
        augmenter.seed_(int(rng.integers(2**31 - 1)), deterministic_too=True)  # imgaug's range of seeds
        new_image, new_masks = _augment(augmenter, image, masks)
        if new_image.shape != image.shape or new_masks.shape != masks.shape:
            before, after = f"{image.shape} and {masks.shape}", f"{new_image.shape} and {new_masks.shape}"
            changed = f"changed the shapes of image and masks from {before} to {after}"
            raise InputError(f"imgaug augmenter {self._augmenter}: {changed}, expected one that keeps them")
        return new_image, new_masks

    def __getstate__(self) -> dict[str, bytes]:
        return {"pickled": pickle.dumps(self._augmenter)}

    def __setstate__(self, state: dict[str, bytes]) -> None:
        import_imgaug()  # in a fresh process unpickling would import it under plain numpy
        self._augmenter = pickle.loads(state["pickled"])


def _flip_sometimes(image: np.ndarray, masks: np.ndarray, rng: Rng, *, probability: float) -> ImageAndMasks:
    return flip_left_right(image, masks) if rng.random() < probability else (image, masks)


def _augment(augmenter: Any, image: np.ndarray, masks: np.ndarray) -> ImageAndMasks:
    """Augment image and masks in one call, with the same random numbers."""
    count = masks.shape[-1]
    if not count:
        new_image = augmenter.augment(image=image)
        return new_image, np.zeros((*new_image.shape[:2], 0), bool)
    maps = import_imgaug().SegmentationMapsOnImage(_packed(masks), shape=image.shape)
    new_image, maps = augmenter.augment(image=image, segmentation_maps=maps)
    bits = np.unpackbits(maps.arr.astype(np.uint8)).reshape(*maps.arr.shape[:2], -1)
    return new_image, np.ascontiguousarray(bits[..., :count]).view(bool)


def _packed(masks: np.ndarray) -> np.ndarray:
    """Eight masks as the bits of one map, to save imgaug's time: uint8 [height, width, maps].

    The bits survive because augmenters that move pixels move maps by the nearest pixel.
    """
    height, width, count = masks.shape
    whole = np.zeros((height, width, -(-count // 8) * 8), bool)  # numpy packs whole bytes several times faster
    whole[..., :count] = masks
    return np.packbits(whole).reshape(height, width, -1)


def _check_augmenter(augmenter: Any, *, may_move: bool) -> None:
    """Refuse an augmenter, or a child of it, that could move masks off their instances."""
    modules = {kind.__module__.removeprefix("imgaug.augmenters.") for kind in type(augmenter).__mro__}
    combines, moves = _is_one_of(augmenter, _COMBINING), _is_one_of(augmenter, _MOVING)
    colours = _is_one_of(augmenter, _COLOURING) or not modules.isdisjoint(_COLOUR_MODULES.split())
    reason = None
    if _is_one_of(augmenter, _UNUSABLE) or not (combines or moves or colours):
        reason = "masks cannot follow it, or it changes the image's size, or it is not known"
    elif moves and not may_move:
        reason = "moves pixels inside an augmenter that changes a part of the image"
    elif not getattr(augmenter, "keep_size", True):
        reason = "changes the image's size (keep_size=False)"
    elif _is_one_of(augmenter, ("Affine",)) and augmenter.fit_output:
        reason = "changes the image's size (fit_output=True)"
    if reason is not None:
        raise InputError(
            f"imgaug augmenter {type(augmenter).__name__} ({augmenter.name}): {reason}; expected augmenters of colour "
            f"and {', '.join(_MOVING)} that keep the image's size, combined by {', '.join(_COMBINING)}"
        )
    for children in augmenter.get_children_lists():
        for child in children:
            # other parents apply their children to a part of the pixels or channels
            _check_augmenter(child, may_move=may_move and combines)


def _is_one_of(augmenter: Any, names: tuple[str, ...]) -> bool:
    iaa = import_imgaug().augmenters
    return isinstance(augmenter, tuple(operator.attrgetter(name)(iaa) for name in names))


class _NumpyWithOldAliases(types.ModuleType):
    """numpy for imgaug's modules, with two removed aliases that imgaug reads while it augments."""

    bool = bool
    complex = complex

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


def _advice(error: ImportError) -> str:
    """The message of an ImportError of imgaug: what to install."""
    for library, package in _DEBIAN_PACKAGES.items():
        if library in str(error):
            advice = f"install it, on Debian and Ubuntu with `apt-get install {package}`"
            return f"imgaug needs OpenCV, which does not find a system library ({error}): {advice}"
    command = "pip install 'imgaug==0.4.0' 'opencv-python>=4.8,<5'"
    return f"imgaug cannot be imported ({error}): install what it needs with `{command}`"
