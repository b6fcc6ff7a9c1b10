"""Boxes in numpy: by hand and on empty input."""

import numpy as np
import pytest

from siamese_mrcnn_tf.ops import boxes


# ---- extract_bboxes ----------------------------------------------------------------------------------------------
def test_extract_bboxes_by_hand():
    masks = np.zeros((6, 8, 4), bool)
    masks[1:3, 2:7, 0] = True
    masks[0, 0, 1] = masks[5, 7, 1] = True  # two far corners
    masks[5, 3, 2] = True  # one pixel; the last mask stays empty
    found = boxes.extract_bboxes(masks)
    assert found.tolist() == [[1, 2, 3, 7], [0, 0, 6, 8], [5, 3, 6, 4], [0, 0, 0, 0]]
    assert found.dtype == np.int32


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.int64])
def test_extract_bboxes_takes_any_non_zero_value(dtype):
    masks = np.zeros((3, 3, 1), dtype)
    masks[1, 1:, 0] = 255
    assert boxes.extract_bboxes(masks).tolist() == [[1, 1, 2, 3]]


@pytest.mark.parametrize("shape", [(5, 4, 0), (0, 0, 0), (0, 4, 2), (5, 0, 2)])
def test_extract_bboxes_of_nothing(shape):
    found = boxes.extract_bboxes(np.zeros(shape, bool))
    assert found.shape == (shape[2], 4) and found.dtype == np.int32
    assert not found.any()


# ---- normalizing -------------------------------------------------------------------------------------------------
def test_norm_boxes_by_hand():
    found = boxes.norm_boxes([[0, 0, 11, 21], [5, 10, 6, 11]], (11, 21, 3))
    np.testing.assert_array_equal(found, np.array([[0, 0, 1, 1], [0.5, 0.5, 0.5, 0.5]], np.float32))
    assert found.dtype == np.float32
    assert boxes.norm_boxes(np.zeros((0, 4)), (11, 21)).shape == (0, 4)


def test_denorm_boxes_rounds_half_to_even():
    found = boxes.denorm_boxes([[0.05, 0.15, 0.25, 0.5]], (11, 11))  # 0.5, 1.5, 3.5, 6
    assert found.tolist() == [[0, 2, 4, 6]]
    assert found.dtype == np.int32


def test_norm_and_denorm_are_inverse():
    rng = np.random.default_rng(0)
    pixels = rng.integers(-50, 1100, (2, 300, 4))
    np.testing.assert_array_equal(boxes.denorm_boxes(boxes.norm_boxes(pixels, (375, 1024)), (375, 1024)), pixels)


# ---- overlaps ----------------------------------------------------------------------------------------------------
def test_box_areas_by_hand():
    assert boxes.box_areas([[0, 0, 2, 3], [1, 1, 1, 5]]).tolist() == [6, 0]
    assert boxes.box_areas(np.zeros((2, 0, 4))).shape == (2, 0)


def test_compute_overlaps_by_hand():
    first = np.array([[0, 0, 2, 2], [0, 0, 4, 4], [1, 1, 1, 1]])
    second = np.array([[0, 0, 2, 2], [1, 1, 3, 3], [2, 2, 4, 4], [1, 1, 1, 1]])
    expected = [[1, 1 / 7, 0, 0], [1 / 4, 1 / 4, 1 / 4, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(boxes.compute_overlaps(first, second), expected, rtol=1e-12)


def test_compute_overlaps_has_no_unit():
    rng = np.random.default_rng(1)
    corners = np.sort(rng.integers(0, 30, (2, 20, 2, 2)), axis=2).reshape(2, 20, 4)
    found = boxes.compute_overlaps(*corners)
    np.testing.assert_allclose(boxes.compute_overlaps(*(corners / 512).astype(np.float32)), found, atol=1e-6)
    np.testing.assert_array_equal(found.T, boxes.compute_overlaps(corners[1], corners[0]))
    assert found.min() == 0 < found.max() <= 1


@pytest.mark.parametrize(("rows", "columns"), [(0, 3), (3, 0), (0, 0)])
def test_compute_overlaps_of_nothing(rows, columns):
    assert boxes.compute_overlaps(np.zeros((rows, 4)), np.zeros((columns, 4))).shape == (rows, columns)


# ---- refinement --------------------------------------------------------------------------------------------------
def test_box_refinement_by_hand():
    boxes_ = np.array([[0, 0, 10, 20], [10, 10, 20, 30], [4, 4, 8, 8]])
    gt_boxes = np.array([[5, -10, 15, 10], [10, 10, 40, 20], [4, 4, 8, 8]])
    expected = [
        [0.5, -0.5, 0, 0],  # half a height down, half a width to the left
        [1, -0.25, np.log(3), np.log(0.5)],  # centres (15, 20) and (25, 15)
        [0, 0, 0, 0],
    ]
    found = boxes.box_refinement(boxes_, gt_boxes)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(boxes.box_refinement(boxes_ / 512, gt_boxes / 512), found)  # no unit


def test_box_refinement_keeps_the_precision_of_float64():
    near = np.array([[0, 0, 1000, 1000 + 1e-6]], np.float64)
    found = boxes.box_refinement([[0, 0, 1000, 1000]], near)
    np.testing.assert_allclose(found, [[0, 5e-10, 0, 1e-9]], rtol=1e-3)


def test_box_refinement_of_nothing():
    assert boxes.box_refinement(np.zeros((0, 4)), np.zeros((0, 4), np.int32)).shape == (0, 4)


# ---- matching ----------------------------------------------------------------------------------------------------
def test_match_greedily_by_hand():
    overlaps = [[0.6, 0.8, 0.0], [0.7, 0.9, 0.0], [0.0, 0.6, 0.4]]
    assert boxes.match_greedily(overlaps, 0.5).tolist() == [1, 0, -1]  # the first detection chooses first
    assert boxes.match_greedily(overlaps, 0.85).tolist() == [-1, 1, -1]
    assert boxes.match_greedily([[0.5, 0.5]], 0.5).tolist() == [1]  # ties go to the last instance


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_match_greedily_of_nothing(shape):
    assert boxes.match_greedily(np.zeros(shape), 0.5).tolist() == [-1] * shape[0]


def test_overlaps_with_one_box_are_those_of_all_pairs_to_the_last_bit():
    rng = np.random.default_rng(3)
    corners = rng.uniform(-5, 20, (400, 2))
    many = np.concatenate([corners, corners + rng.uniform(0, 15, (400, 2))], axis=1)
    for box in ((2, 3, 11, 17), (0, 0, 0, 0)):
        expected = boxes.compute_overlaps(many, [box])[:, 0]
        np.testing.assert_array_equal(boxes.overlaps_with_box(many.T, box), expected)


def test_apply_box_deltas_undoes_box_refinement():
    sides = np.random.default_rng(0).uniform(1, 9, (2, 20, 4))
    before, after = (np.concatenate([part[:, :2], part[:, :2] + part[:, 2:]], axis=1) for part in sides)
    np.testing.assert_allclose(boxes.apply_box_deltas(before, boxes.box_refinement(before, after)), after)


def test_non_max_suppression_by_hand():
    pairs = [[0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30], [0, 0, 10, 10]]
    assert boxes.non_max_suppression(pairs, [0.5, 0.9, 0.1, 0.9], 0.8).tolist() == [1, 2]
    assert boxes.non_max_suppression(pairs, [0.5, 0.9, 0.1, 0.9], 0.9).tolist() == [1, 3, 2]  # 0.9 is not above 0.9
    assert boxes.non_max_suppression(np.zeros((0, 4)), [], 0.5).tolist() == []


def test_names_of_matterport_by_hand():
    pairs = [[0, 0, 2, 2], [0, 0, 2, 4], [0, 0, 0, 0]]
    assert boxes.compute_iou(pairs[0], pairs, 4, [4, 8, 0]).tolist() == [1, 0.5, 0]
    assert boxes.trim_zeros(pairs).tolist() == pairs[:2]
