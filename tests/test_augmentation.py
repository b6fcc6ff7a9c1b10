"""Augmentations move image and masks together, draw from the sample's generator only, and refuse what they cannot do.

imgaug is imported in fixtures alone, so that the other tests run without it.
"""

import concurrent.futures
import pickle
import subprocess
import sys

import numpy as np
import pytest

from siamese_mrcnn_tf.data import augmentation
from siamese_mrcnn_tf.ops import boxes

SHAPE = (160, 240)


@pytest.fixture(scope="module")
def iaa():
    try:
        return augmentation.import_imgaug().augmenters
    except ImportError as error:  # OpenCV wants libGL, which a bare machine lacks
        pytest.skip(str(error))


def _rng(seed=0):
    return np.random.default_rng(seed)


def _sample(count=2):
    """An image with a white rectangle on black and `count` masks, the first of it: image, masks."""
    image = np.zeros((*SHAPE, 3), np.uint8)
    image[40:110, 60:150] = 255
    masks = _rng(1).random((*SHAPE, count)) < 0.5
    if count:
        masks[..., 0] = image[..., 0] > 0
    return image, masks


def _overlap(image, mask):
    """Intersection over union of the white of an image and a mask."""
    white = image[..., 0] > 127
    return (white & mask).sum() / (white | mask).sum()


def _equal(pair, other):
    return all(np.array_equal(a, b) for a, b in zip(pair, other, strict=True))


# native flips


def test_flip_left_right_by_hand():
    image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    masks = np.array([[[1, 0], [0, 0], [0, 1]], [[1, 1], [0, 0], [0, 0]]], bool)
    flipped, flipped_masks = augmentation.flip_left_right(image, masks)
    assert flipped.tolist()[0] == [[6, 7, 8], [3, 4, 5], [0, 1, 2]]
    assert flipped_masks[..., 0].tolist() == [[False, False, True], [False, False, True]]
    assert flipped_masks[..., 1].tolist() == [[True, False, False], [False, False, True]]
    assert flipped_masks.dtype == bool and flipped.flags.c_contiguous
    assert _equal(augmentation.flip_left_right(flipped, flipped_masks), (image, masks))


def test_flip_left_right_moves_boxes():
    image, masks = _sample(1)
    assert boxes.extract_bboxes(masks).tolist() == [[40, 60, 110, 150]]
    assert boxes.extract_bboxes(augmentation.flip_left_right(image, masks)[1]).tolist() == [[40, 90, 110, 180]]


def test_fliplr_flips_its_share():
    image, masks = _sample()
    flipped = augmentation.flip_left_right(image, masks)
    assert _equal(augmentation.fliplr(1)(image, masks, _rng()), flipped)
    assert _equal(augmentation.fliplr(0)(image, masks, _rng()), (image, masks))
    rng, flip = _rng(), augmentation.fliplr(0.25)
    share = np.mean([_equal(flip(image, masks, rng), flipped) for _ in range(400)])
    assert 0.2 < share < 0.3


def test_fliplr_without_masks_and_by_pickle():
    image, masks = _sample(0)
    flip = pickle.loads(pickle.dumps(augmentation.fliplr(1.0)))
    assert flip(image, masks, _rng())[1].shape == (*SHAPE, 0)


@pytest.mark.parametrize("probability", [-0.1, 1.5, float("nan")])
def test_fliplr_refuses(probability):
    with pytest.raises(ValueError, match=f"probability = {probability}: expected a number from 0 to 1"):
        augmentation.fliplr(probability)


def test_parse_augmentation():
    image, masks = _sample()
    assert augmentation.parse_augmentation(None) is None and augmentation.parse_augmentation("none") is None
    flip, rng = augmentation.parse_augmentation("fliplr"), _rng()
    assert len({flip(image, masks, rng)[0].tobytes() for _ in range(20)}) == 2
    with pytest.raises(ValueError, match="augmentation 'flip': expected one of none, fliplr"):
        augmentation.parse_augmentation("flip")


# imgaug: what moves pixels

MOVING = {
    "flip": lambda iaa: iaa.Fliplr(1.0),
    "upside down": lambda iaa: iaa.Flipud(1.0),
    "quarter turns": lambda iaa: iaa.Rot90((1, 3)),
    "crop and pad": lambda iaa: iaa.CropAndPad(percent=(-0.2, 0.2)),
    "crop": lambda iaa: iaa.Crop(px=(0, 30)),
    "affine": lambda iaa: iaa.Affine(scale=(0.8, 1.2), translate_px=(-20, 20), rotate=(-30, 30), shear=(-10, 10)),
    "rotation": lambda iaa: iaa.Rotate((-45, 45), order=3),
    "piecewise": lambda iaa: iaa.PiecewiseAffine(scale=(0.01, 0.03), nb_rows=3, nb_cols=3),
    "perspective": lambda iaa: iaa.PerspectiveTransform(scale=(0.05, 0.1)),
    "combined": lambda iaa: iaa.Sequential(
        [
            iaa.Sometimes(0.5, iaa.Fliplr(0.5), iaa.Flipud(0.5)),
            iaa.SomeOf((1, 2), [iaa.Affine(rotate=(-20, 20)), iaa.Multiply(0.9), iaa.Crop(percent=(0, 0.1))]),
            iaa.OneOf([iaa.GaussianBlur(0.5), iaa.Add(10)]),
        ],
        random_order=True,
    ),
}


@pytest.mark.parametrize("name", MOVING)
@pytest.mark.filterwarnings("ignore:`estimate` is deprecated:FutureWarning")  # imgaug's use of scikit-image
def test_image_and_masks_move_together(iaa, name):
    image, masks = _sample()
    augment = augmentation.imgaug_augmentation(MOVING[name](iaa))
    moved = 0
    for seed in range(4):
        new_image, new_masks = augment(image, masks, _rng(seed))
        assert new_image.shape == image.shape and new_image.dtype == np.uint8
        assert new_masks.shape == masks.shape and new_masks.dtype == bool
        assert _overlap(new_image, new_masks[..., 0]) > 0.94
        moved += _overlap(new_image, masks[..., 0]) < 0.94
    assert moved


def test_a_flip_is_exact(iaa):
    image, masks = _sample(9)
    flipped = augmentation.imgaug_augmentation(iaa.Fliplr(1.0))(image, masks, _rng())
    assert _equal(flipped, augmentation.flip_left_right(image, masks))


def test_a_shift_by_hand(iaa):
    image, masks = _sample(1)
    shift = augmentation.imgaug_augmentation(iaa.Affine(translate_px={"x": 7, "y": -5}, cval=200, mode="edge"))
    assert boxes.extract_bboxes(shift(image, masks, _rng())[1]).tolist() == [[35, 67, 105, 157]]


def test_what_comes_in_from_outside_belongs_to_no_mask(iaa):
    image, masks = np.full((*SHAPE, 3), 255, np.uint8), np.ones((*SHAPE, 1), bool)
    shift = augmentation.imgaug_augmentation(iaa.Affine(translate_px={"x": 10}, mode="reflect"))
    new_image, new_masks = shift(image, masks, _rng())
    assert new_image.min() > 250 and boxes.extract_bboxes(new_masks).tolist() == [[0, 10, 160, 240]]


def test_a_mask_that_leaves_the_image_is_empty(iaa):
    image, masks = _sample(1)
    shift = augmentation.imgaug_augmentation(iaa.Affine(translate_px={"x": 200}))
    assert not shift(image, masks, _rng())[1].any()


@pytest.mark.parametrize("count", [1, 7, 8, 9, 100])
def test_each_of_many_masks_moves_as_if_alone(iaa, count):
    image, masks = _sample(count)
    augment = augmentation.imgaug_augmentation(
        iaa.Sequential(
            [iaa.Affine(rotate=(10, 20)), iaa.CropAndPad(percent=(-0.1, 0.1)), iaa.PerspectiveTransform(0.1)]
        )
    )
    new_image, new_masks = augment(image, masks, _rng())
    for index in {0, count // 2, count - 1}:
        alone = augment(image, masks[..., index : index + 1], _rng())
        assert _equal(alone, (new_image, new_masks[..., index : index + 1]))


# imgaug: what changes colours

COLOURING = {
    "blur": lambda iaa: iaa.GaussianBlur(2.0),
    "noise": lambda iaa: iaa.AdditiveGaussianNoise(scale=20, per_channel=True),
    "contrast": lambda iaa: iaa.LinearContrast((1.5, 2.0)),
    "hue": lambda iaa: iaa.AddToHueAndSaturation((20, 50)),
    "brightness": lambda iaa: iaa.MultiplyBrightness(0.5),
    "dropout": lambda iaa: iaa.CoarseDropout(0.2, size_percent=0.1),
    "blend": lambda iaa: iaa.BlendAlphaSimplexNoise(iaa.Multiply(0.5)),
    "channel": lambda iaa: iaa.WithChannels(0, iaa.Add(-50)),
    "pooling": lambda iaa: iaa.MaxPooling(3),
    "clouds": lambda iaa: iaa.Clouds(),
}


@pytest.mark.parametrize("name", COLOURING)
def test_colours_change_the_image_alone(iaa, name):
    image, masks = _sample(9)
    image = np.where(image, np.uint8([200, 120, 60]), np.uint8(30))
    new_image, new_masks = augmentation.imgaug_augmentation(COLOURING[name](iaa))(image, masks, _rng())
    assert np.array_equal(new_masks, masks)
    assert new_image.shape == image.shape and new_image.dtype == np.uint8 and not np.array_equal(new_image, image)


# imgaug: chance and side effects


def _busy(iaa):
    return iaa.Sequential([MOVING["affine"](iaa), iaa.Sometimes(0.5, iaa.SaltAndPepper(0.1)), COLOURING["noise"](iaa)])


def test_the_generator_decides(iaa):
    image, masks = _sample()
    augmenter = _busy(iaa)
    augment = augmentation.imgaug_augmentation(augmenter)
    first = augment(image, masks, _rng(3))
    assert _equal(augment(image, masks, _rng(3)), first)
    assert _equal(augmentation.imgaug_augmentation(_busy(iaa))(image, masks, _rng(3)), first)
    assert _equal(augmentation.imgaug_augmentation(augmenter.to_deterministic())(image, masks, _rng(3)), first)
    assert not _equal(augment(image, masks, _rng(4)), first)
    rng = _rng(3)
    assert _equal(augment(image, masks, rng), first) and not _equal(augment(image, masks, rng), first)


def test_threads_do_not_disturb_each_other(iaa):
    image, masks = _sample()
    augment = augmentation.imgaug_augmentation(_busy(iaa))
    alone = [augment(image, masks, _rng(seed)) for seed in range(8)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda seed: augment(image, masks, _rng(seed)), range(8)))
    assert all(_equal(a, b) for a, b in zip(alone, together, strict=True))


def test_no_masks(iaa):
    image, masks = _sample()
    augment = augmentation.imgaug_augmentation(_busy(iaa))
    new_image, new_masks = augment(image, masks[..., :0], _rng())
    assert new_masks.shape == (*SHAPE, 0) and new_masks.dtype == bool
    assert np.array_equal(new_image, augment(image, masks, _rng())[0])


def test_nothing_else_is_touched(iaa):
    image, masks = _sample(9)
    kept = image.copy(), masks.copy()
    before = np.random.get_state()
    global_before = augmentation.import_imgaug().random.GLOBAL_RNG.state
    augmenter = _busy(iaa)
    augment = augmentation.imgaug_augmentation(augmenter)
    augment(image, masks, _rng())
    assert _equal((image, masks), kept)
    assert all(np.array_equal(a, b) for a, b in zip(before, np.random.get_state(), strict=True))
    assert str(augmentation.import_imgaug().random.GLOBAL_RNG.state) == str(global_before)


def test_aliases_that_imgaug_reads_late(iaa):
    names = [name for name in ("sctypes", "complex") if int(np.__version__.split(".")[0]) >= 2]
    assert not any(hasattr(np, name) for name in names)
    image, masks = _sample()
    for augmenter in (iaa.SomeOf(1, [iaa.Add(1), iaa.Add(2)]), iaa.BlendAlphaFrequencyNoise(foreground=iaa.Add(50))):
        augmentation.imgaug_augmentation(augmenter)(image, masks, _rng())
    assert not any(hasattr(np, name) for name in names)


FRESH_PROCESS = """
import pickle, sys
import numpy as np
from siamese_mrcnn_tf import augmentation
augmentation.fliplr(1)(np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2, 1), bool), np.random.default_rng())
print([name for name in ("imgaug", "cv2", "tensorflow", "keras", "skimage") if name in sys.modules])
names, state = set(dir(np)), np.random.get_state()
augment, image, masks = pickle.load(sys.stdin.buffer)
new_image, new_masks = augment(image, masks, np.random.default_rng(3))
iaa = augmentation.import_imgaug().augmenters
iaa.Affine(rotate=(0, 3))
print({"sctypes", "complex"} & (set(dir(np)) - names))
print(all(np.array_equal(a, b) for a, b in zip(state, np.random.get_state())))
print(int(new_image.sum()), int(new_masks.sum()))
"""


@pytest.mark.slow
def test_a_fresh_process_imports_imgaug_late_and_leaves_numpy_as_it_was(iaa):
    image, masks = _sample()
    augment = augmentation.imgaug_augmentation(_busy(iaa))
    run = subprocess.run(
        [sys.executable, "-c", FRESH_PROCESS], input=pickle.dumps((augment, image, masks)), capture_output=True
    )
    new_image, new_masks = augment(image, masks, _rng(3))
    expected = ["[]", "set()", "True", f"{new_image.sum()} {new_masks.sum()}"]
    assert run.stdout.decode().splitlines() == expected, run.stderr.decode()


# imgaug: refusals

REFUSED = {
    "ElasticTransformation": lambda iaa: iaa.ElasticTransformation(),
    "Jigsaw": lambda iaa: iaa.Jigsaw(4, 4),
    "WithPolarWarping": lambda iaa: iaa.WithPolarWarping(iaa.Add(1)),
    "Resize": lambda iaa: iaa.Resize(64),
    "PadToSquare": lambda iaa: iaa.PadToSquare(),
    "Lambda": lambda iaa: iaa.Lambda(),
    "BlendAlphaSegMapClassIds": lambda iaa: iaa.BlendAlphaSegMapClassIds([1], iaa.Add(1)),
    "KeepSizeByResize": lambda iaa: iaa.RandAugment(),
    r"Affine \(UnnamedAffine\): masks": lambda iaa: iaa.pillike.Affine(),
    r"Affine .*fit_output=True": lambda iaa: iaa.Affine(rotate=10, fit_output=True),
    r"Rotate .*fit_output=True": lambda iaa: iaa.Rotate(10, fit_output=True),
    r"Crop .*keep_size=False": lambda iaa: iaa.Crop(px=3, keep_size=False),
    r"Rot90 .*keep_size=False": lambda iaa: iaa.Rot90(1, keep_size=False),
    r"PerspectiveTransform .*keep_size=False": lambda iaa: iaa.PerspectiveTransform(0.1, keep_size=False),
    r"MaxPooling .*keep_size=False": lambda iaa: iaa.MaxPooling(2, keep_size=False),
    r"Fliplr .*part of the image": lambda iaa: iaa.WithChannels(0, iaa.Fliplr(1.0)),
    r"Affine .*part of the image": lambda iaa: iaa.BlendAlpha(0.5, iaa.Sequential([iaa.Affine(rotate=5)])),
}


@pytest.mark.parametrize("message", REFUSED)
@pytest.mark.parametrize("nested", [False, True])
def test_augmenters_that_part_masks_from_instances_are_refused(iaa, message, nested):
    augmenter = REFUSED[message](iaa)
    if nested:
        augmenter = iaa.Sequential([iaa.Add(1), iaa.Sometimes(0.5, None, iaa.OneOf([iaa.Fliplr(0.5), augmenter]))])
    with pytest.raises(ValueError, match=f"imgaug augmenter {message}.*; expected augmenters of colour and Fliplr"):
        augmentation.imgaug_augmentation(augmenter)


@pytest.mark.parametrize("value", [None, "fliplr", [], augmentation.flip_left_right])
def test_what_is_no_augmenter_is_refused(iaa, value):
    with pytest.raises(ValueError, match=f"of type {type(value).__name__}: expected an imgaug augmenter"):
        augmentation.imgaug_augmentation(value)


def test_an_augmenter_that_changes_shapes_all_the_same_is_refused(iaa):
    class Halve(iaa.Add):
        def _augment_batch_(self, batch, random_state, parents, hooks):
            batch.images = [image[::2] for image in batch.images]
            return batch

    image, masks = _sample()
    augment = augmentation.imgaug_augmentation(Halve())
    for some in (masks, masks[..., :0]):
        with pytest.raises(ValueError, match=r"Halve.* changed the shapes .*from \(160, 240, 3\) .* to \(80, 240, 3\)"):
            augment(image, some, _rng())


def test_samples_of_other_types_are_refused(iaa):
    image, masks = _sample()
    augment = augmentation.imgaug_augmentation(iaa.Add(1))
    with pytest.raises(ValueError, match=r"image is float64 \(160, 240, 3\): expected uint8 \(height, width, 3\)"):
        augment(image.astype(float), masks, _rng())
    with pytest.raises(ValueError, match=r"image is uint8 \(160, 240\)"):
        augment(image[..., 0], masks, _rng())
    with pytest.raises(ValueError, match=r"masks are uint8 \(160, 240, 2\): expected bool \(160, 240, instances\)"):
        augment(image, masks.astype(np.uint8), _rng())
    with pytest.raises(ValueError, match=r"masks are bool \(159, 240, 2\): expected bool \(160, 240, instances\)"):
        augment(image, masks[1:], _rng())


# what users give


def test_names_none_and_callables_stand_for_augmentations():
    assert augmentation.as_augmentation(None) is None and augmentation.as_augmentation("none") is None
    image, masks = _sample()
    named, native = augmentation.as_augmentation("fliplr"), augmentation.fliplr()
    flipped = [named(image, masks, _rng(seed))[0] for seed in range(8)]
    np.testing.assert_array_equal(flipped, [native(image, masks, _rng(seed))[0] for seed in range(8)])
    assert 0 < sum(np.array_equal(one, image) for one in flipped) < 8
    assert augmentation.as_augmentation(augmentation.flip_left_right) is augmentation.flip_left_right


def test_an_augmenter_of_imgaug_stands_for_an_augmentation(iaa):
    image, masks = _sample()
    flip = augmentation.as_augmentation(iaa.Sequential([iaa.Fliplr(1.0)]))
    expected = augmentation.flip_left_right(image, masks)
    for found, values in zip(flip(image, masks, _rng()), expected, strict=True):
        np.testing.assert_array_equal(found, values)

    class Mine(iaa.Fliplr):
        """Of a module that is not imgaug's."""

    np.testing.assert_array_equal(augmentation.as_augmentation(Mine(1.0))(image, masks, _rng())[1], expected[1])
    with pytest.raises(ValueError, match="Affine|Crop"):
        augmentation.as_augmentation(iaa.CropToFixedSize(10, 10))


@pytest.mark.parametrize(
    ("value", "message"), [("flip", "'flip'"), (0.5, "augmentation 0.5: expected a name, an imgaug")]
)
def test_what_is_no_augmentation_is_refused(value, message):
    with pytest.raises(ValueError, match=message):
        augmentation.as_augmentation(value)


# imgaug: importing it


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ModuleNotFoundError("No module named 'imgaug'"), r"No module named 'imgaug'.*pip install 'imgaug==0.4.0'"),
        (ImportError("libGL.so.1: cannot open shared object file"), r"libGL\.so\.1: .*apt-get install libgl1`"),
        (ImportError("libgthread-2.0.so.0: cannot open"), r"libgthread.*apt-get install libglib2\.0-0`"),
    ],
)
def test_a_failed_import_says_what_to_install(monkeypatch, error, message):
    def fail(name, *arguments):
        assert name == "imgaug" and hasattr(np, "sctypes")
        raise error

    monkeypatch.setattr(augmentation.importlib, "import_module", fail)
    names = set(vars(np))
    with pytest.raises(ImportError, match=message):
        augmentation.import_imgaug.__wrapped__()
    assert set(vars(np)) == names
