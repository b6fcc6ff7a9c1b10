"""Resizing equals scikit-image and scipy, masks and mini masks included."""

import pathlib

import numpy as np
import pytest
import scipy.ndimage
import seeded
import skimage.transform

from siamese_mrcnn_tf.data import resize
from siamese_mrcnn_tf.ops.boxes import extract_bboxes

SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared" / "parity"
SCENES = ((11, 375, 500), (12, 300, 400), (13, 480, 640))  # (seed, height, width) of the recorded data pipeline
with_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the recorded outputs of the original are not here")


@pytest.fixture(scope="module")
def recorded():
    return np.load(pathlib.Path(__file__).parent / "data" / "molding.npz")


def scene(seed, height, width):
    return seeded.make_scene(height, width, seed)


def unpack(records, name):
    shape = records[f"{name}_shape"]
    return np.unpackbits(records[f"{name}_packed"])[: np.prod(shape)].reshape(shape).astype(bool)


def by_skimage(array, shape):
    rule = {"order": 1, "mode": "constant", "anti_aliasing": False, "preserve_range": True}
    return skimage.transform.resize(array.astype(np.float64), shape, **rule)


# ---- resize ------------------------------------------------------------------------------------------------------
def test_resize_by_hand():
    # doubling places samples at -0.25, 0.25, 0.75, 1.25; the missing neighbours count as 0
    expected = [[0.0, 0.0, 0.0, 0.0], [0.75 * 4, 4, 4, 0.75 * 4]]
    assert np.allclose(resize.resize([[0, 0], [4, 4]], (2, 4)), expected)


def test_resize_stays_in_the_range_of_its_input():
    assert np.all(resize.resize(np.full((3, 3), 7), (5, 8)) == 7)
    assert resize.resize(np.array([[-3.0, -1.0]]), (1, 5)).max() == -1


@pytest.mark.parametrize("seed", range(12))
def test_resize_equals_skimage(seed):
    rng = np.random.default_rng(seed)
    shape, new_shape = rng.integers(1, 90, 2), rng.integers(1, 90, 2)
    channels = () if seed % 3 == 0 else (int(rng.integers(1, 5)),)
    array = rng.normal(50, 40, (*shape, *channels))
    resized = resize.resize(array, new_shape)
    assert resized.shape == (*new_shape, *channels) and resized.dtype == np.float64
    np.testing.assert_allclose(resized, by_skimage(array, tuple(new_shape)), atol=1e-9)


@pytest.mark.parametrize(
    "shape, new_shape", [((427, 640), (683, 1024)), ((333, 250), (341, 256)), ((200, 90), (60, 27))]
)
def test_truncated_images_equal_skimage(shape, new_shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    resized = resize.resize(image, new_shape).astype(np.uint8).astype(int)
    difference = np.abs(resized - by_skimage(image, new_shape).astype(np.uint8))
    assert difference.max() <= 1 and np.count_nonzero(difference) <= 1e-3 * difference.size


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.float32])
def test_resize_takes_any_dtype(dtype):
    assert np.array_equal(resize.resize(np.eye(4).astype(dtype), (4, 4)), np.eye(4))


@pytest.mark.parametrize(
    "shape, new_shape", [((0, 4), (2, 2)), ((4, 4), (0, 2)), ((4,), (2, 2)), ((2, 2, 2, 2), (2, 2))]
)
def test_resize_refuses_missing_axes(shape, new_shape):
    with pytest.raises(ValueError, match="cannot resize shape"):
        resize.resize(np.zeros(shape), new_shape)


# ---- resize_image ------------------------------------------------------------------------------------------------
def test_square_scales_up_to_min_dim_and_pads_the_smaller_half_first():
    image, window, scale, padding, crop = resize.resize_image(np.ones((10, 15, 3), np.uint8), min_dim=30, max_dim=33)
    assert image.shape == (33, 33, 3) and image.dtype == np.uint8 and crop is None
    assert scale == 33 / 15 and padding == [(5, 6), (0, 0), (0, 0)] and window == (5, 0, 27, 33)
    _, window, scale, padding, _ = resize.resize_image(np.ones((10, 15, 3), np.uint8), min_dim=20, max_dim=33)
    assert scale == 2 and padding == [(6, 7), (1, 2), (0, 0)] and window == (6, 1, 26, 31)


def test_square_leaves_the_size_of_an_image_that_fits():
    image, window, scale, _, _ = resize.resize_image(np.ones((30, 40, 3)), min_dim=20, max_dim=64)
    assert scale == 1 and window == (17, 12, 47, 52) and image.sum() == 30 * 40 * 3


def test_square_keeps_at_least_one_pixel_of_a_thin_image():
    image, window, *_ = resize.resize_image(np.full((1, 500, 3), 9, np.uint8), min_dim=40, max_dim=64)
    assert image.shape == (64, 64, 3) and window == (31, 0, 32, 64)


def test_a_side_of_several_pixels_keeps_two():
    image, window, scale, padding, _ = resize.resize_image(np.full((10, 2000, 3), 9, np.uint8), min_dim=40, max_dim=64)
    assert window == (31, 0, 33, 64) and image[31:33].any(axis=-1).all()
    mask = resize.resize_mask(np.ones((10, 2000, 1), bool), scale, padding)
    assert mask.shape == (64, 64, 1) and mask[31:33].all() and mask.sum() == 128


def test_min_scale():
    _, _, scale, _, _ = resize.resize_image(np.ones((10, 10, 3)), min_dim=10, max_dim=64, min_scale=3)
    assert scale == 3


def test_pad64():
    image, window, scale, padding, _ = resize.resize_image(np.ones((64, 100, 3)), min_dim=64, mode="pad64")
    assert image.shape == (64, 128, 3) and scale == 1 and window == (0, 14, 64, 114)
    assert padding == [(0, 0), (14, 14), (0, 0)]


def test_none_leaves_the_image_alone():
    source = np.ones((5, 7, 3))
    image, window, scale, padding, crop = resize.resize_image(source, min_dim=64, max_dim=64, mode="none")
    assert image is source and window == (0, 0, 5, 7) and scale == 1 and padding == [(0, 0)] * 3 and crop is None


def test_crop_is_placed_by_its_generator():
    source = np.arange(40 * 60 * 3).reshape(40, 60, 3)
    image, window, scale, padding, crop = resize.resize_image(source, 32, mode="crop", rng=np.random.default_rng(5))
    y, x, height, width = crop
    assert (height, width) == (32, 32) and window == (0, 0, 32, 32) and scale == 1 and padding == [(0, 0)] * 3
    assert np.array_equal(image, source[y : y + 32, x : x + 32])
    again = resize.resize_image(source, 32, mode="crop", rng=np.random.default_rng(5))
    assert again[4] == crop


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"mode": "stretch"}, "mode = 'stretch': expected one of square, pad64, crop, none"),
        ({"mode": "square"}, "max_dim = None"),
        ({"mode": "pad64", "min_dim": 100}, "min_dim = 100: mode 'pad64' needs a multiple of 64"),
        ({"mode": "pad64"}, "min_dim = None"),
        ({"mode": "crop"}, "min_dim = None"),
        ({"mode": "crop", "min_dim": 4}, "rng = None: IMAGE_RESIZE_MODE = 'crop'"),
    ],
)
def test_resize_image_refuses_an_incomplete_rule(arguments, message):
    with pytest.raises(ValueError, match=message):
        resize.resize_image(np.ones((8, 8, 3)), **arguments)


@pytest.mark.parametrize("shape", [(0, 5, 3), (5, 5), (5, 5, 0)])
def test_resize_image_refuses_an_empty_image(shape):
    with pytest.raises(ValueError, match="not empty"):
        resize.resize_image(np.ones(shape), max_dim=8)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_resize_mask_equals_scipy():
    rng = np.random.default_rng(3)
    sizes = [(8, 3.25), (12, 43 / 6)]  # where scipy's rounding passes the last row and fills it with 0
    sizes += [(int(rng.integers(3, 200)), float(rng.uniform(0.2, 4))) for _ in range(60)]
    for height, scale in sizes:
        mask = rng.random((height, 17, 3)) > 0.3
        expected = scipy.ndimage.zoom(mask, (scale, scale, 1), order=0)
        resized = resize.resize_mask(mask, scale, [(0, 0)] * 3)
        assert resized.dtype == bool and np.array_equal(resized, expected), (height, scale)


def test_resize_mask_pads_and_crops():
    mask = np.ones((4, 4, 2), np.uint8)
    padded = resize.resize_mask(mask, 1, [(1, 2), (0, 3), (0, 0)])
    assert padded.shape == (7, 7, 2) and padded.sum() == mask.sum() and padded[0].sum() == 0
    assert resize.resize_mask(mask, 2, [(0, 0)] * 3, crop=(1, 2, 5, 4)).shape == (5, 4, 2)
    assert resize.resize_mask(np.zeros((4, 4, 0), bool), 2, [(0, 0)] * 3).shape == (8, 8, 0)


def test_resize_mask_is_the_same_for_every_order_in_memory():
    mask = np.random.default_rng(5).random((13, 17, 3)) > 0.6
    by_column = np.stack([mask[..., index].T for index in range(3)]).T  # as decoded by pycocotools
    for scale, padding, crop in ((1.7, [(1, 2), (0, 3), (0, 0)], None), (0.6, [(0, 0)] * 3, (2, 1, 4, 5))):
        expected = resize.resize_mask(mask, scale, padding, crop)
        for other in (by_column, np.asfortranarray(mask), np.moveaxis(np.moveaxis(mask, -1, 0).copy(), 0, -1)):
            np.testing.assert_array_equal(resize.resize_mask(other, scale, padding, crop), expected)


def test_mini_masks_there_and_back():
    mask = np.zeros((20, 30, 2), bool)
    mask[4:12, 5:25, 0] = True
    mask[0:20, 0:30, 1] = np.arange(30) < 15
    boxes = extract_bboxes(mask)
    mini = resize.minimize_mask(boxes, mask, (10, 10))
    assert mini.shape == (10, 10, 2) and mini.dtype == bool and mini[:, :, 0].all()
    assert np.array_equal(resize.expand_mask(boxes, mini, (20, 30, 3)), mask)
    assert resize.minimize_mask(np.zeros((0, 4)), mask[:, :, :0], (10, 10)).shape == (10, 10, 0)


def test_mini_masks_refuse_bad_boxes():
    mask = np.ones((20, 30, 1), bool)
    with pytest.raises(ValueError, match=r"bbox\[0\] = \(5, 5, 5, 9\): no box inside 20 x 30"):
        resize.minimize_mask([[5, 5, 5, 9]], mask, (10, 10))
    with pytest.raises(ValueError, match=r"bbox\[0\] = \(0, 0, 21, 9\): no box inside"):
        resize.expand_mask([[0, 0, 21, 9]], mask, (20, 30))
    with pytest.raises(ValueError, match="one .* for each of 1 masks"):
        resize.minimize_mask(np.zeros((2, 4)), mask, (10, 10))


@pytest.mark.parametrize("index", range(3))
def test_ground_truth_equals_the_records(recorded, index):
    image, masks, _ = scene(*SCENES[index])
    molded, _, scale, padding, _ = resize.resize_image(image, 400, 512, 0, "square")
    difference = np.abs(molded[::5, ::5].astype(int) - recorded[f"gt{index}_image_u8_sub"])
    assert difference.max() <= 1 and np.count_nonzero(difference) <= 0.008 * difference.size
    masks = resize.resize_mask(masks, scale, padding)
    boxes = extract_bboxes(masks)
    assert np.array_equal(boxes, recorded[f"gt{index}_boxes"])
    assert np.array_equal(resize.minimize_mask(boxes, masks, (56, 56)), unpack(recorded, f"gt{index}_minimask"))
    if index == 1:
        assert np.array_equal(masks, unpack(recorded, "gt1_fullmask"))


# ---- the whole records, and the rules they come from -------------------------------------------------------------
@with_shared
def test_every_pixel_of_the_recorded_scenes():
    records = np.load(SHARED / "data_pipeline.npz")
    for index, (rule, unequal) in enumerate(zip(SCENES, (26, 120, 4148), strict=True)):
        image, masks, _ = scene(*rule)
        molded, _, scale, padding, _ = resize.resize_image(image, 400, 512, 0, "square")
        difference = np.abs(molded.astype(int) - records[f"gt{index}_image_u8"])
        assert difference.max() <= 1 and np.count_nonzero(difference) <= unequal
        assert np.array_equal(resize.resize_mask(masks, scale, padding), unpack(records, f"gt{index}_fullmask"))
