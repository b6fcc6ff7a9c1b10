"""Geometry of boxes on tensors: by hand, and equal to its numpy twin."""

import math

import numpy as np
import pytest
from keras import ops

from siamese_mrcnn_tf.ops import box_ops, boxes


def tensor(values):
    return ops.convert_to_tensor(np.asarray(values, np.float32))


def array(values):
    return ops.convert_to_numpy(values)


def random_boxes(seed, *shape):
    """float32 [*shape, (y1, x1, y2, x2)] normalized, corners in order."""
    corners = np.sort(np.random.default_rng(seed).random((*shape, 2, 2)), axis=-2)
    return corners.reshape(*shape, 4).astype(np.float32)


# ---- apply_box_deltas_graph --------------------------------------------------------------------------------------
def test_apply_box_deltas_by_hand():
    # 4 high and 2 wide around (3, 2): down by half its height, left by its width, then twice as high, half as wide
    moved = box_ops.apply_box_deltas_graph(tensor([[1, 1, 5, 3]]), tensor([[0.5, -1, np.log(2), np.log(0.5)]]))
    np.testing.assert_allclose(array(moved), [[1, -0.5, 9, 0.5]], atol=1e-6)


def test_zero_deltas_change_nothing():
    start = random_boxes(0, 2, 5)
    moved = array(box_ops.apply_box_deltas_graph(tensor(start), ops.zeros((2, 5, 4))))
    np.testing.assert_allclose(moved, start, atol=1e-6)


def test_zero_padded_rows_stay_zero():
    moved = box_ops.apply_box_deltas_graph(ops.zeros((2, 3, 4)), tensor(np.full((2, 3, 4), 0.7)))
    assert array(moved).shape == (2, 3, 4) and not array(moved).any()


def test_apply_box_deltas_to_no_boxes():
    assert box_ops.apply_box_deltas_graph(ops.zeros((2, 0, 4)), ops.zeros((2, 0, 4))).shape == (2, 0, 4)


# ---- clip_boxes_graph --------------------------------------------------------------------------------------------
def test_clip_boxes_by_hand():
    given = [[[-1, -2, 3, 4], [0.25, 0.5, 0.75, 1], [2, 2, 3, 3], [-3, 0.1, -2, 0.2]]]
    expected = [[[0, 0, 1, 1], [0.25, 0.5, 0.75, 1], [1, 1, 1, 1], [0, 0.1, 0, 0.2]]]
    found = array(box_ops.clip_boxes_graph(tensor(given), tensor([[0, 0, 1, 1]])))
    np.testing.assert_array_equal(found, np.array(expected, np.float32))


def test_each_image_has_its_window():
    given = [[[0, 0, 9, 9]], [[0, 0, 9, 9]]]
    found = box_ops.clip_boxes_graph(tensor(given), tensor([[1, 2, 3, 4], [5, 6, 7, 8]]))
    assert array(found).tolist() == [[[1, 2, 3, 4]], [[5, 6, 7, 8]]]


def test_clip_no_boxes():
    assert box_ops.clip_boxes_graph(ops.zeros((2, 0, 4)), tensor([[0, 0, 1, 1]])).shape == (2, 0, 4)


# ---- norm_boxes_graph --------------------------------------------------------------------------------------------
def test_norm_boxes_by_hand():
    found = box_ops.norm_boxes_graph(tensor([[0, 0, 11, 21], [5, 10, 6, 11]]), tensor([11, 21]))
    np.testing.assert_array_equal(array(found), np.array([[0, 0, 1, 1], [0.5, 0.5, 0.5, 0.5]], np.float32))


@pytest.mark.parametrize("dtype", ["int32", "float32"])
def test_norm_boxes_equals_numpy(dtype):
    pixels = np.random.default_rng(2).integers(-20, 600, (2, 30, 4))
    found = box_ops.norm_boxes_graph(ops.convert_to_tensor(pixels, dtype), ops.convert_to_tensor([375, 500]))
    np.testing.assert_allclose(array(found), boxes.norm_boxes(pixels, (375, 500)), atol=1e-6)


def test_each_image_has_its_shape():
    pixels = np.array([[0, 0, 11, 21], [0, 0, 11, 21]])
    found = array(box_ops.norm_boxes_graph(tensor(pixels), tensor([[11, 21], [21, 41]])))
    np.testing.assert_array_equal(found, np.array([[0, 0, 1, 1], [0, 0, 0.5, 0.5]], np.float32))


# ---- overlaps_graph ----------------------------------------------------------------------------------------------
def test_overlaps_by_hand():
    first = [[[0, 0, 2, 2], [0, 0, 4, 4], [1, 1, 1, 1]]]
    second = [[[0, 0, 2, 2], [1, 1, 3, 3], [2, 2, 4, 4], [1, 1, 1, 1]]]
    expected = [[[1, 1 / 7, 0, 0], [1 / 4, 1 / 4, 1 / 4, 0], [0, 0, 0, 0]]]
    np.testing.assert_allclose(array(box_ops.overlaps_graph(tensor(first), tensor(second))), expected, rtol=1e-6)


def test_overlaps_of_a_batch_equal_numpy():
    first, second = random_boxes(3, 3, 6), random_boxes(4, 3, 5)
    first[1, 3:] = 0  # zero padding
    second[2] = 0
    found = array(box_ops.overlaps_graph(tensor(first), tensor(second)))
    expected = [boxes.compute_overlaps(*pair) for pair in zip(first, second, strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert not found[1, 3:].any() and not found[2].any() and found[0].any()


def test_overlaps_of_no_boxes():
    assert box_ops.overlaps_graph(ops.zeros((2, 0, 4)), ops.zeros((2, 3, 4))).shape == (2, 0, 3)


# ---- gather_batched ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("tail", [(), (4,), (2, 3)])
def test_gather_batched(tail):
    values = np.arange(3 * 5 * math.prod(tail), dtype=np.float32).reshape(3, 5, *tail)
    indices = np.array([[4, 0], [1, 1], [2, 3]])
    found = array(box_ops.gather_batched(tensor(values), ops.convert_to_tensor(indices)))
    np.testing.assert_array_equal(found, np.stack([values[image, indices[image]] for image in range(3)]))


def test_gather_no_rows():
    assert box_ops.gather_batched(ops.zeros((2, 5, 4)), ops.zeros((2, 0), "int32")).shape == (2, 0, 4)
