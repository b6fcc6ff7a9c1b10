"""Augmentation: image and masks of a training sample changed together.

An augmentation is a callable `augmentation(image, masks, rng) -> (image, masks)`:

    image: uint8 [height, width, 3], RGB.
    masks: bool [height, width, num_instances].
    rng: numpy.random.Generator, the only source of chance.

It keeps shapes and types and never writes to what it is given. Boxes are not its business: they come from the new
masks, `boxes.extract_bboxes`. A mask may come back empty where its instance has left the picture.

`fliplr` is native. `imgaug_augmentation` adapts the augmenters of imgaug, a library that is imported only then; under
numpy 2 it needs help to be imported at all, so write `iaa = import_imgaug().augmenters` where you would write
`import imgaug.augmenters as iaa`.
"""

import contextlib
import functools
import importlib
import operator
import pickle
import threading
import types

import numpy as np


def flip_left_right(image, masks):
    """Mirror an image and its masks.

    Args:
        image: [height, width, channels].
        masks: [height, width, num_instances].

    Returns:
        Image and masks of the same shapes and types, new arrays.
    """
    return np.ascontiguousarray(image[:, ::-1]), np.ascontiguousarray(masks[:, ::-1])


def fliplr(probability=0.5):
    """Augmentation that mirrors a share of `probability` of the samples.

    Raises:
        ValueError: `probability` is outside 0..1.
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"probability = {probability!r}: expected a number from 0 to 1")
    return functools.partial(_flip_sometimes, probability=probability)


def imgaug_augmentation(augmenter):
    """Augmentation by an imgaug augmenter.

    Augmenters of colour (noise, blur, contrast, weather, ...) change the image alone; those that move pixels change
    image and masks alike, the masks by the nearest pixel. What such an augmenter brings into the picture from outside
    belongs to no mask, copies at a mirrored border included. One that blanks the whole picture (`TotalDropout`)
    empties the masks.

    Args:
        augmenter: an `imgaug.augmenters.Augmenter`. Each sample is changed by a copy that is seeded from the sample's
            generator, so the seed given to the augmenter and imgaug's global one do not matter.

    Raises:
        ValueError: not an augmenter, or one among its children is not known to keep the image's size and the masks
            on their instances; the message names it.
        ImportError: imgaug or a library that it needs is missing; the message says what to install.
    """
    iaa = import_imgaug().augmenters
    if not isinstance(augmenter, iaa.Augmenter):
        raise ValueError(f"{augmenter!r} is of type {type(augmenter).__name__}: expected an imgaug augmenter")
    _check_augmenter(augmenter, may_move=True)
    return _ImgaugAugmentation(augmenter)


def parse_augmentation(name):
    """The augmentation with a name from the command line: None for None and "none", `fliplr()` for "fliplr".

    Raises:
        ValueError: another name.
    """
    if name is not None and name not in _NAMED:
        raise ValueError(f"augmentation {name!r}: expected one of {', '.join(_NAMED)}")
    return None if name is None else _NAMED[name]()


def as_augmentation(value):
    """The augmentation that a value stands for: None, a name, an augmenter of imgaug, or a callable as described above.

    Raises:
        ValueError: something else, or an augmenter that cannot be used.
    """
    if value is None or isinstance(value, str):
        return parse_augmentation(value)
    if any(kind.__module__.startswith("imgaug.") for kind in type(value).__mro__):
        return imgaug_augmentation(value)
    if not callable(value):
        raise ValueError(f"augmentation {value!r}: expected a name, an imgaug augmenter or a callable")
    return value


@functools.cache
def import_imgaug():
    """The module imgaug, imported and working under today's numpy.

    Neither numpy's names nor its global random state are different afterwards.

    Raises:
        ImportError: imgaug or a library that it needs is missing; the message says what to install.
    """
    with _import_lock:
        try:
            with _numpy_names(sctypes=_SCTYPES):
                imgaug = importlib.import_module("imgaug")
        except ImportError as error:
            raise ImportError(_advice(error), name=error.name, path=error.path) from error
        for name in _USERS_OF_OLD_ALIASES:
            importlib.import_module(name).np = _NumpyWithOldAliases("numpy")
        if imgaug.random.GLOBAL_RNG is None:  # imgaug would draw its seed from numpy's global state
            imgaug.random.GLOBAL_RNG = imgaug.random.RNG(np.random.Generator(np.random.SFC64()))
    return imgaug


_import_lock = threading.Lock()  # numpy's names are everyone's: one thread at a time adds and removes them

_NAMED = {"none": lambda: None, "fliplr": fliplr}

_INSTALL = "pip install 'imgaug==0.4.0' 'opencv-python>=4.8,<5'"
_DEBIAN_PACKAGES = {"libGL.so": "libgl1", "libgthread-2.0.so": "libglib2.0-0"}  # that OpenCV's wheel does not carry

_SCTYPES = {  # numpy.sctypes as numpy 1 had it, as far as imgaug reads it
    "float": [np.float16, np.float32, np.float64, np.longdouble],
    "int": [np.int8, np.int16, np.int32, np.int64],
    "uint": [np.uint8, np.uint16, np.uint32, np.uint64],
}
_USERS_OF_OLD_ALIASES = ("imgaug.parameters", "imgaug.augmenters.meta", "imgaug.augmentables.polys")

_MAX_SEED = 2**31 - 1  # of imgaug, exclusive

_COMBINING = ("Sequential", "SomeOf", "OneOf", "Sometimes")
_MOVING = ("Fliplr", "Flipud", "Rot90", "CropAndPad", "Affine", "PiecewiseAffine", "PerspectiveTransform")
_COLOURING = ("Identity", "ChannelShuffle", "WithChannels")  # of imgaug.augmenters.meta; and all of these modules:
_COLOUR_MODULES = tuple(
    f"imgaug.augmenters.{name}"
    for name in (
        "arithmetic",
        "artistic",
        "blend",
        "blur",
        "color",
        "contrast",
        "convolutional",
        "edges",
        "pillike",
        "pooling",
        "segmentation",
        "weather",
    )
)
_UNUSABLE = (  # the first two want labels that masks do not have, the last knows images only
    "BlendAlphaSegMapClassIds",
    "BlendAlphaBoundingBoxes",
    "pillike.Affine",
)


class _ImgaugAugmentation:
    """What `imgaug_augmentation` returns; can be pickled when its augmenter can."""

    def __init__(self, augmenter):
        self._augmenter = augmenter

    def __repr__(self):
        return f"imgaug_augmentation({self._augmenter})"

    def __call__(self, image, masks, rng):
        _check_sample(image, masks)
        augmenter = self._augmenter.deepcopy()  # its random state belongs to this sample and this thread
        augmenter.seed_(int(rng.integers(_MAX_SEED)), deterministic_too=True)
        new_image, new_masks = _augment(augmenter, image, masks)
        if new_image.shape != image.shape or new_masks.shape != masks.shape:
            raise ValueError(
                f"imgaug augmenter {self._augmenter}: changed the shapes of image and masks from {image.shape} and "
                f"{masks.shape} to {new_image.shape} and {new_masks.shape}, expected one that keeps them"
            )
        return new_image, new_masks

    def __getstate__(self):
        return {"pickled": pickle.dumps(self._augmenter)}

    def __setstate__(self, state):
        import_imgaug()  # in a fresh process unpickling would import it without help
        self._augmenter = pickle.loads(state["pickled"])


def _flip_sometimes(image, masks, rng, *, probability):
    return flip_left_right(image, masks) if rng.random() < probability else (image, masks)


def _augment(augmenter, image, masks):
    """One call for both, so that imgaug draws once for both."""
    count = masks.shape[-1]
    if not count:
        new_image = augmenter.augment(image=image)
        return new_image, np.zeros((*new_image.shape[:2], 0), bool)
    maps = import_imgaug().SegmentationMapsOnImage(_packed(masks), shape=image.shape)
    new_image, maps = augmenter.augment(image=image, segmentation_maps=maps)
    return new_image, _unpacked(maps.arr.astype(np.uint8), count)


def _packed(masks):
    """Eight masks as the bits of one map: uint8 [height, width, maps], an eighth of the work for imgaug.

    The bits survive because augmenters that move pixels move maps by the nearest pixel.
    """
    height, width, count = masks.shape
    whole = np.zeros((height, width, -(-count // 8) * 8), bool)  # numpy packs whole bytes several times faster
    whole[..., :count] = masks
    return np.packbits(whole).reshape(height, width, -1)


def _unpacked(maps, count):
    """The first `count` masks of `_packed`: bool [height, width, count]."""
    bits = np.unpackbits(maps).reshape(*maps.shape[:2], -1)
    return np.ascontiguousarray(bits[..., :count]).view(bool)


def _check_sample(image, masks):
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
        raise ValueError(f"image is {image.dtype} {image.shape}: expected uint8 (height, width, 3)")
    if masks.dtype != bool or masks.ndim != 3 or masks.shape[:2] != image.shape[:2]:
        height, width = image.shape[:2]
        raise ValueError(f"masks are {masks.dtype} {masks.shape}: expected bool ({height}, {width}, instances)")


def _check_augmenter(augmenter, *, may_move):
    """Refuse an augmenter, or a child of it, that could part masks from their instances.

    Args:
        may_move: False for children of augmenters that apply them to a part of the pixels or channels.
    """
    combines, moves = _is_one_of(augmenter, _COMBINING), _is_one_of(augmenter, _MOVING)
    if _is_one_of(augmenter, _UNUSABLE) or not (combines or moves or _changes_colours(augmenter)):
        raise _refusal(augmenter, "masks cannot follow it, or it changes the image's size, or it is not known")
    if moves and not may_move:
        raise _refusal(augmenter, "moves pixels inside an augmenter that changes the picture in part")
    if not getattr(augmenter, "keep_size", True):
        raise _refusal(augmenter, "changes the image's size (keep_size=False)")
    if _is_one_of(augmenter, ("Affine",)) and augmenter.fit_output:
        raise _refusal(augmenter, "changes the image's size (fit_output=True)")
    for children in augmenter.get_children_lists():
        for child in children:
            _check_augmenter(child, may_move=may_move and combines)


def _changes_colours(augmenter):
    modules = {kind.__module__ for kind in type(augmenter).__mro__}
    return _is_one_of(augmenter, _COLOURING) or not modules.isdisjoint(_COLOUR_MODULES)


def _is_one_of(augmenter, names):
    iaa = import_imgaug().augmenters
    return isinstance(augmenter, tuple(operator.attrgetter(name)(iaa) for name in names))


def _refusal(augmenter, reason):
    return ValueError(
        f"imgaug augmenter {type(augmenter).__name__} ({augmenter.name}): {reason}; expected augmenters of colour "
        f"and {', '.join(_MOVING)} that keep the image's size, combined by {', '.join(_COMBINING)}"
    )


@contextlib.contextmanager
def _numpy_names(**names):
    """Context in which numpy has these names; those that it lacks are taken away again at the end."""
    added = [name for name in names if not hasattr(np, name)]
    for name in added:
        setattr(np, name, names[name])
    try:
        yield
    finally:
        for name in added:
            delattr(np, name)


class _NumpyWithOldAliases(types.ModuleType):
    """numpy as imgaug's modules see it: with two aliases that imgaug reads when it augments, long after its import."""

    bool = bool
    complex = complex

    def __getattr__(self, name):
        return getattr(np, name)


def _advice(error):
    """What to do about an ImportError of imgaug."""
    for library, package in _DEBIAN_PACKAGES.items():
        if library in str(error):
            return (
                f"imgaug needs OpenCV, which does not find a system library ({error}): install it, "
                f"on Debian and Ubuntu with `apt-get install {package}`"
            )
    return f"imgaug cannot be imported ({error}): install what it needs with `{_INSTALL}`"
