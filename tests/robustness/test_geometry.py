"""Property tests: the geometry of boxes and masks against slow numpy, one pixel and one pair at a time."""

import math

import hypothesis
import numpy as np
import pycocotools.mask as coco_mask
import pytest
from hypothesis import given
from hypothesis import strategies as st

from siamese_mrcnn_tf.data import annotations, molding, resize
from siamese_mrcnn_tf.ops import boxes as box_ops

hypothesis.settings.register_profile("suite", deadline=None, max_examples=60, derandomize=True, database=None)
hypothesis.settings.load_profile("suite")
SIDES = st.integers(1, 24)
_FEW = st.integers(1, 4)


@st.composite
def pixel_boxes(draw, count=_FEW, side=20, may_be_empty=True):
    """int [n, (y1, x1, y2, x2)]."""
    least = 0 if may_be_empty else 1
    rows = []
    for _ in range(draw(count)):
        y1, x1 = draw(st.integers(0, side - 1)), draw(st.integers(0, side - 1))
        rows.append([y1, x1, draw(st.integers(y1 + least, side)), draw(st.integers(x1 + least, side))])
    return np.array(rows)


@st.composite
def masks(draw, count=_FEW):
    """bool [height, width, n] of rectangles and noise."""
    height, width, number = draw(SIDES), draw(SIDES), draw(count)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return rng.random((height, width, number)) < draw(st.sampled_from((0.0, 0.02, 0.3, 0.9, 1.0)))


def iou(one, other):
    """Of two boxes with whole corners, by counting pixels."""
    canvas = np.zeros((2, 32, 32), bool)
    for layer, (y1, x1, y2, x2) in zip(canvas, (one, other), strict=True):
        layer[y1:y2, x1:x2] = True
    union = (canvas[0] | canvas[1]).sum()
    return (canvas[0] & canvas[1]).sum() / union if union else 0.0


@given(masks())
def test_boxes_of_masks(mask):
    found = box_ops.extract_bboxes(mask)
    for index in range(mask.shape[2]):
        pixels = np.argwhere(mask[:, :, index])
        expected = [*pixels.min(axis=0), *(pixels.max(axis=0) + 1)] if len(pixels) else [0, 0, 0, 0]
        assert found[index].tolist() == [int(value) for value in expected]


@given(pixel_boxes(), pixel_boxes())
def test_overlaps(one, other):
    found = box_ops.compute_overlaps(one, other)
    expected = [[iou(a, b) for b in other] for a in one]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    for index, box in enumerate(other):
        np.testing.assert_allclose(box_ops.overlaps_with_box(one.T.astype(float), box), found[:, index], atol=1e-12)


@given(pixel_boxes(), st.integers(2, 1000), st.integers(2, 1000))
def test_normalized_boxes_come_back(found, height, width):
    back = box_ops.denorm_boxes(box_ops.norm_boxes(found, (height, width)), (height, width))
    assert np.array_equal(back, found)


@given(pixel_boxes(may_be_empty=False), st.integers(0, 2**32 - 1))
def test_deltas_lead_from_box_to_box(found, seed):
    targets = np.random.default_rng(seed).permutation(found)
    for box, target, (dy, dx, dh, dw) in zip(found, targets, box_ops.box_refinement(found, targets), strict=True):
        height, width = box[2] - box[0], box[3] - box[1]
        center = (box[0] + height / 2 + dy * height, box[1] + width / 2 + dx * width)
        sides = (height * math.exp(dh), width * math.exp(dw))
        corners = [
            center[0] - sides[0] / 2,
            center[1] - sides[1] / 2,
            center[0] + sides[0] / 2,
            center[1] + sides[1] / 2,
        ]
        np.testing.assert_allclose(corners, target, atol=1e-9)


def slow_suppression(found, scores, limit, threshold):
    kept = []
    for index in sorted(range(len(found)), key=lambda i: (-scores[i], i)):
        if len(kept) < limit and all(iou(found[index], found[other]) <= threshold for other in kept):
            kept.append(index)
    return kept


@pytest.mark.slow
@hypothesis.settings(max_examples=40)
@given(st.data())
def test_non_max_suppression(data):
    kernels = pytest.importorskip("siamese_mrcnn_tf.ops.kernels")
    found = data.draw(pixel_boxes(st.just(8), may_be_empty=False))
    scores = np.array(data.draw(st.permutations(range(8))), np.float32) / 10 + 0.05
    threshold = data.draw(st.sampled_from((0.0, 0.3, 0.55, 0.7, 1.0)))
    expected = slow_suppression(found, scores, 5, threshold + 1e-7)
    arguments = (found[None].astype(np.float32), scores[None])
    for indices, valid in (
        kernels.non_max_suppression(*arguments, max_output_size=5, iou_threshold=threshold),
        kernels.portable_non_max_suppression(*arguments, 5, threshold, float("-inf")),
    ):
        assert np.asarray(indices)[0][np.asarray(valid)[0]].tolist() == expected


@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 2**32 - 1), st.sampled_from((0.0, 0.3, 0.5, 0.9)))
def test_greedy_matches(detections, instances, seed, threshold):
    overlaps = np.random.default_rng(seed).integers(0, 11, (detections, instances)) / 10
    free, expected = set(range(instances)), []
    for row in overlaps:
        best = max(free, key=lambda index: (row[index], index), default=None)
        matched = best is not None and row[best] >= threshold
        expected.append(best if matched else -1)
        free -= {best} if matched else set()
    assert box_ops.match_greedily(overlaps, threshold).tolist() == expected


def slow_resize(array, height, width):
    """Bilinear, one pixel at a time; what is beyond the border is 0, the range stays."""
    result = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            v, u = (y + 0.5) * array.shape[0] / height - 0.5, (x + 0.5) * array.shape[1] / width - 0.5
            top, left = math.floor(v), math.floor(u)
            for row, share_y in ((top, 1 - v + top), (top + 1, v - top)):
                for column, share_x in ((left, 1 - u + left), (left + 1, u - left)):
                    if 0 <= row < array.shape[0] and 0 <= column < array.shape[1]:
                        result[y, x] += share_y * share_x * array[row, column]
    return np.clip(result, array.min(), array.max())


@given(SIDES, SIDES, SIDES, SIDES, st.integers(0, 2**32 - 1))
def test_resizing(height, width, new_height, new_width, seed):
    array = np.random.default_rng(seed).random((height, width)) * 255
    found = resize.resize(array, (new_height, new_width))
    np.testing.assert_allclose(found, slow_resize(array, new_height, new_width), atol=1e-9)


@given(st.integers(1, 200), st.integers(1, 200), st.sampled_from((64, 128)), st.sampled_from((0, 32, 64)))
def test_windows_of_resized_images(height, width, max_dim, min_dim):
    image = np.full((height, width, 3), 200, np.uint8)
    resized, (y1, x1, y2, x2), scale, padding, crop = resize.resize_image(image, min_dim, max_dim, 0, "square")
    assert resized.shape == (max_dim, max_dim, 3) and crop is None
    assert 0 <= y1 < y2 <= max_dim and 0 <= x1 < x2 <= max_dim
    outside = np.ones((max_dim, max_dim), bool)
    outside[y1:y2, x1:x2] = False
    assert not resized[outside].any()
    assert max(y2 - y1, x2 - x1) <= max_dim and scale * max(height, width) <= max_dim + 0.5
    assert (
        abs((y2 - y1) - max(height * scale, 1)) <= 0.5 + 1e-6 and abs((x2 - x1) - max(width * scale, 1)) <= 0.5 + 1e-6
    )
    moved = resize.resize_mask(np.ones((height, width, 1), bool), scale, padding)
    assert moved.shape == (max_dim, max_dim, 1) and not moved[outside].any()


@given(masks(), st.sampled_from(((7, 7), (28, 14), (56, 56))))
def test_mini_masks(mask, shape):
    found = box_ops.extract_bboxes(mask)
    hypothesis.assume(all(box[2] > box[0] for box in found))
    mini = resize.minimize_mask(found, mask, shape)
    back = resize.expand_mask(found, mini, mask.shape)
    assert mini.shape == (*shape, mask.shape[2]) and back.shape == mask.shape
    for index, (y1, x1, y2, x2) in enumerate(found):
        expected = slow_resize(mask[y1:y2, x1:x2, index].astype(float), *shape)
        clear = np.abs(expected - 0.5) > 1e-9  # rounding decides elsewhere
        assert np.array_equal(mini[:, :, index][clear], expected[clear] > 0.5)
        outside = back[:, :, index].copy()
        outside[y1:y2, x1:x2] = False
        assert not outside.any()


@given(st.integers(-10, 25), st.integers(-10, 25), SIDES, SIDES, SIDES, SIDES, st.integers(0, 2**32 - 1))
def test_pasted_masks(top, left, height, width, rows, columns, seed):
    mask = np.random.default_rng(seed).random((14, 14))
    found = molding.unmold_mask(mask, (top, left, top + height, left + width), (rows, columns))
    whole = slow_resize(mask, height, width)
    for y in range(rows):
        for x in range(columns):
            inside = top <= y < top + height and left <= x < left + width
            value = whole[y - top, x - left] if inside else 0.0
            if abs(value - 0.5) > 1e-9:  # rounding decides there
                assert found[y, x] == (value > 0.5), (y, x, value)


@given(masks(st.just(1)))
def test_run_lengths(mask):
    plane = np.asfortranarray(mask[:, :, 0].astype(np.uint8))
    packed = coco_mask.encode(plane)
    flat, counts, value = plane.ravel(order="F"), [0], 0
    for pixel in flat:
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    height, width = plane.shape
    raw = {"size": [height, width], "counts": counts}
    assert annotations.is_rle(raw, (height, width))
    assert annotations.is_rle({"size": [height, width], "counts": packed["counts"].decode()}, (height, width))
    assert not annotations.is_rle(raw, (height, width + 1))
    assert not annotations.is_rle(raw | {"counts": [*counts, 1]}, (height, width))
    found = annotations.annotation_rle({"id": 1, "segmentation": raw}, height, width)
    assert np.array_equal(coco_mask.decode(found), plane)
    assert coco_mask.area(found) == plane.sum()
