"""Pyramid RoI pooling: levels by hand, crops against TensorFlow's op, gradients."""

import math

import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from network_values import array, metas, tensor

from siamese_mrcnn_tf.modeling import roi_align


# ---- levels ------------------------------------------------------------------------------------------------------
def levels_of(sides, *, shape=(512, 512), canonical_size=224):
    """Levels of rois with these (height, width) in units of the molded image."""
    rois = np.array([[[0.0, 0.0, height, width] for height, width in sides]])
    meta = metas((0, 0, *shape), shape=shape)
    return array(roi_align.roi_levels_graph(tensor(rois), tensor(meta), canonical_size=canonical_size))[0].tolist()


def test_roi_levels_by_hand():
    # sides in pixels of 512: 56, 112, 224, 448, then beyond both ends
    sides = [56, 112, 224, 448, 4, 512]
    assert levels_of([(side / 512, side / 512) for side in sides]) == [2, 3, 4, 5, 2, 5]


def test_roi_levels_change_at_the_square_root_of_two():
    limits = [224 / 512 * 2**exponent for exponent in (-1.5, -0.5, 0.5)]
    assert levels_of([(0.99 * limit, 0.99 * limit) for limit in limits]) == [2, 3, 4]
    assert levels_of([(1.01 * limit, 1.01 * limit) for limit in limits]) == [3, 4, 5]


def test_roi_level_depends_on_the_area_alone():
    assert levels_of([(0.875, 0.21875), (0.21875, 0.875), (0.4375, 0.4375)]) == [4, 4, 4]


def test_roi_level_depends_on_the_molded_shape_and_the_canonical_size():
    side = [(0.4375, 0.4375)]
    assert levels_of(side) == [4]
    assert levels_of(side, shape=(1024, 1024)) == [5]
    assert levels_of(side, shape=(256, 1024)) == [4]
    assert levels_of(side, shape=(128, 512)) == [3]
    assert levels_of(side, canonical_size=112) == [5]
    assert levels_of(side, canonical_size=448) == [3]


def test_zero_padded_rois_go_to_the_finest_level():
    assert levels_of([(0, 0), (0.5, 0), (1, 1)]) == [2, 2, 5]
    assert levels_of([(0, 0)], canonical_size=1) == [2]


def test_roi_levels_round_half_to_even(monkeypatch):
    # With the logarithm replaced, a roi of side s on a canonical image has the offset s itself.
    monkeypatch.setattr(roi_align.ops, "log", lambda x: x * math.log(2.0))
    sides = [(side, side) for side in (0.25, 0.5, 0.75, 1.0)]
    assert levels_of(sides, shape=(128, 128), canonical_size=128) == [4, 4, 5, 5]


def test_roi_levels_of_a_batch():
    rois = np.zeros((2, 3, 4))
    rois[0, :, 2:] = [[0.1], [0.5], [1]]
    rois[1, :, 2:] = [[1], [0.1], [0.5]]
    found = roi_align.roi_levels_graph(tensor(rois), tensor(metas((0, 0, 9, 9), (1, 1, 8, 8))), canonical_size=56)
    assert array(found).tolist() == [[2, 4, 5], [5, 2, 4]]


# ---- pooling -----------------------------------------------------------------------------------------------------
MAP_SIDES = (32, 16, 8, 4)


@pytest.fixture
def maps():
    """P2..P5 [2, side, side, 3]; each level has its own range, so that a wrong level cannot pass."""
    rng = np.random.default_rng(3)
    return [
        rng.uniform(10 * level, 10 * level + 5, (2, side, side, 3)).astype(np.float32)
        for level, side in enumerate(MAP_SIDES, start=2)
    ]


@pytest.fixture
def rois():
    """[2, 12, 4]: all sizes, differing between the two images, the last rows zero-padded."""
    rng = np.random.default_rng(4)
    sides = np.geomspace(0.05, 1, 10)[:, None] * np.array([1, 0.9])
    start = rng.random((2, 10, 2)) * (1 - sides)
    drawn = np.concatenate([start, start + sides], axis=-1)
    drawn[1] = drawn[1, ::-1]
    return np.concatenate([drawn, np.zeros((2, 2, 4))], axis=1).astype(np.float32)


def test_pooling_equals_a_crop_from_the_roi_s_level(maps, rois):
    meta = metas((0, 0, 128, 128), (10, 0, 90, 128))
    found = array(
        roi_align.PyramidROIAlign((3, 5), canonical_size=56)([tensor(rois), tensor(meta), *map(tensor, maps)])
    )
    assert found.shape == (2, 12, 3, 5, 3)
    seen = set()
    for image, row in np.ndindex(2, 12):
        height, width = rois[image, row, 2:] - rois[image, row, :2]
        size = math.sqrt(height * width) * 128
        level = 2 if size == 0 else min(max(4 + round(math.log2(size / 56)), 2), 5)
        seen.add(level)
        expected = tf.image.crop_and_resize(maps[level - 2][[image]], rois[image, [row]], [0], (3, 5))
        np.testing.assert_allclose(found[image, row], expected[0], rtol=1e-6)
    assert seen == {2, 3, 4, 5}


def test_zero_padded_rois_repeat_the_first_cell_of_p2(maps):
    found = roi_align.PyramidROIAlign((2, 2))([ops.zeros((2, 3, 4)), tensor(metas((0, 0, 9, 9))), *map(tensor, maps)])
    expected = np.broadcast_to(maps[0][:, None, :1, :1], (2, 3, 2, 2, 3))
    np.testing.assert_allclose(array(found), expected, rtol=1e-6)


def test_pooling_takes_the_level_it_is_told(maps):
    boxes = tensor([[[0, 0, 1, 1]] * 4, [[0, 0, 1, 1]] * 4])
    levels = ops.convert_to_tensor([[2, 3, 4, 5], [5, 5, 3, 2]])
    found = array(roi_align.pyramid_roi_align_graph(boxes, levels, list(map(tensor, maps)), pool_shape=(4, 4)))
    decades = np.floor(found / 10)
    assert (decades == array(levels)[:, :, None, None, None]).all()
    np.testing.assert_allclose(found[0, 3], maps[3][0], rtol=1e-6)


def test_pooling_of_an_empty_batch(maps):
    none = [ops.zeros((0, side, side, 3)) for side in MAP_SIDES]
    levels = ops.zeros((0, 6), "int32")
    assert roi_align.pyramid_roi_align_graph(ops.zeros((0, 6, 4)), levels, none, pool_shape=(2, 2)).shape == (
        0,
        6,
        2,
        2,
        3,
    )


def test_gradients_reach_the_maps_but_not_the_rois(maps, rois):
    boxes, tensors = tf.constant(rois), [tf.constant(level) for level in maps]
    meta = tf.constant(metas((0, 0, 128, 128), (0, 0, 128, 128)))
    with tf.GradientTape() as tape:
        tape.watch([boxes, *tensors])
        total = tf.reduce_sum(roi_align.PyramidROIAlign((2, 2), 56)([boxes, meta, *tensors]))
    of_boxes, *of_maps = tape.gradient(total, [boxes, *tensors])
    assert of_boxes is None
    sums = [float(tf.reduce_sum(gradient)) for gradient in of_maps]
    assert min(sums) > 1
    np.testing.assert_allclose(sum(sums), 2 * 12 * 2 * 2 * 3, rtol=1e-5)  # every sample's weights add up to 1
