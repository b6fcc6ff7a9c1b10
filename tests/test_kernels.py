"""The two operations: by hand, and the portable forms against TensorFlow's ops, which the original used.

The portable forms run eagerly, as a graph and compiled by XLA (the compiler of JAX too): compilers reorder and fuse
float operations, and a sample at the edge of a map is lost when they do.
"""

import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from siamese_mrcnn_tf.ops import kernels, tracing

DATA = pathlib.Path(__file__).parent / "data"
NO_LIMIT = float("-inf")


def tensorflow_nms(boxes, scores, size, overlap, minimum):
    return kernels.non_max_suppression(
        boxes, scores, max_output_size=size, iou_threshold=overlap, score_threshold=minimum
    )


NMS_FORMS = {
    "tensorflow": tensorflow_nms,
    "portable": kernels.portable_non_max_suppression,
}
CROP_FORMS = {
    "tensorflow": kernels.crop_and_resize,
    "portable": kernels.portable_crop_and_resize,
}
MODES = {  # how the portable form runs
    "eager": lambda function: function,
    "graph": lambda function: tf.function(function, autograph=False),
    "xla": lambda function: tf.function(function, autograph=False, jit_compile=True),
}
each_nms = pytest.mark.parametrize("nms", NMS_FORMS.values(), ids=NMS_FORMS)
each_crop = pytest.mark.parametrize("crop", CROP_FORMS.values(), ids=CROP_FORMS)
each_mode = pytest.mark.parametrize("mode", MODES.values(), ids=MODES)


def suppress(nms, boxes, scores, size, overlap, minimum=NO_LIMIT):
    """Kept indices of each image, as lists without the rows that are not valid; checks the padding."""
    boxes, scores = np.asarray(boxes, np.float32), np.asarray(scores, np.float32)
    indices, valid = (np.asarray(result) for result in nms(boxes, scores, size, overlap, minimum))
    assert indices.shape == valid.shape == (len(boxes), size)
    assert indices.dtype == np.int32 and valid.dtype == bool
    assert not indices[~valid].any()
    return [row[kept].tolist() for row, kept in zip(indices, valid, strict=True)]


def crop_with(crop, images, boxes, box_indices, crop_size):
    images, boxes = np.asarray(images, np.float32), np.asarray(boxes, np.float32)
    return np.asarray(crop(images, boxes, np.asarray(box_indices, np.int32), crop_size))


# ---- non-maximum suppression by hand -----------------------------------------------------------------------------
UNIT = [0, 0, 1, 1]
HALF = [0, 0, 1, 0.5]  # overlap with UNIT: exactly 1/2
FAR = [5, 5, 6, 6]


@each_nms
def test_nms_drops_what_overlaps_a_better_box(nms):
    boxes = [[HALF, FAR, UNIT, [0, 0.5, 1, 1]]]
    assert suppress(nms, boxes, [[0.5, 0.1, 0.9, 0.4]], 4, 0.4) == [[2, 1]]
    assert suppress(nms, boxes, [[0.9, 0.1, 0.5, 0.8]], 4, 0.4) == [[0, 3, 1]]


@each_nms
def test_nms_keeps_what_overlaps_by_just_the_threshold(nms):
    assert suppress(nms, [[UNIT, HALF]], [[0.9, 0.8]], 2, 0.5) == [[0, 1]]
    assert suppress(nms, [[UNIT, HALF]], [[0.9, 0.8]], 2, 0.49) == [[0]]


@each_nms
def test_nms_of_equal_scores_prefers_the_lower_index(nms):
    boxes = [[FAR, HALF, UNIT, FAR, [9, 9, 10, 10]]]
    assert suppress(nms, boxes, [[0.5] * 5], 5, 0.3) == [[0, 1, 4]]
    assert suppress(nms, boxes, [[0.5] * 5], 2, 0.3) == [[0, 1]]


@each_nms
def test_nms_of_identical_boxes_keeps_one(nms):
    assert suppress(nms, [[UNIT] * 4], [[0.1, 0.3, 0.3, 0.2]], 3, 0.5) == [[1]]


@each_nms
def test_nms_of_boxes_without_area_keeps_all(nms):
    point, line = [0.5, 0.5, 0.5, 0.5], [0, 0, 0, 1]
    boxes = [[point, point, line, line, UNIT, [0, 0, 0, 0]]]
    assert suppress(nms, boxes, [[0.1, 0.2, 0.3, 0.4, 0.5, 0.6]], 6, 0.0) == [[5, 4, 3, 2, 1, 0]]


@each_nms
def test_nms_takes_corners_in_any_order(nms):
    boxes = [[UNIT, [1, 0, 0, 1], [0, 1, 1, 0], [1, 1, 0, 0]]]
    assert suppress(nms, boxes, [[0.1, 0.2, 0.3, 0.4]], 4, 0.5) == [[3]]


@each_nms
def test_nms_score_threshold_is_exclusive(nms):
    boxes = [[UNIT, FAR, [9, 9, 10, 10], [20, 20, 21, 21]]]
    assert suppress(nms, boxes, [[0.5, 0.75, 0.25, NO_LIMIT]], 4, 0.5, 0.5) == [[1]]
    assert suppress(nms, boxes, [[0.5, 0.75, 0.25, NO_LIMIT]], 4, 0.5) == [[1, 0, 2]]
    assert suppress(nms, boxes, [[-1.0, -1.0, -1.0, -1.0]], 4, 0.5, -0.5) == [[]]


@each_nms
def test_nms_counts_differ_within_a_batch(nms):
    boxes = [[UNIT, HALF, FAR], [FAR, FAR, FAR], [UNIT, UNIT, FAR]]
    scores = [[0.9, 0.8, 0.7], [0.1, 0.2, 0.3], [0.1, 0.1, 0.1]]
    assert suppress(nms, boxes, scores, 4, 0.5, 0.25) == [[0, 1, 2], [2], []]


@each_nms
@pytest.mark.parametrize(("batch", "count"), [(2, 0), (0, 3), (0, 0)])
def test_nms_of_nothing(nms, batch, count):
    assert suppress(nms, np.zeros((batch, count, 4)), np.zeros((batch, count)), 3, 0.5) == [[]] * batch


# ---- non-maximum suppression against TensorFlow's ----------------------------------------------------------------
def random_nms(kind, batch=8, count=40):
    """Boxes [batch, count, 4] and scores [batch, count] with many ties; kind "grid" also has exact overlaps."""
    rng = np.random.default_rng(4)
    if kind == "grid":
        boxes = rng.integers(0, 8, (batch, count, 4)) / np.float32(7)  # of any corner order, many without area
    else:
        centres, sides = rng.random((2, batch, count, 2))
        boxes = np.concatenate([centres - 0.3 * sides, centres + 0.3 * sides], axis=-1)
    return boxes.astype(np.float32), (rng.integers(0, 10, (batch, count)) / 10).astype(np.float32)


@each_mode
@pytest.mark.parametrize("kind", ["grid", "smooth"])
def test_portable_nms_equals_tensorflows(mode, kind):
    boxes, scores = random_nms(kind)
    portable = mode(lambda *arguments: kernels.portable_non_max_suppression(*arguments))
    for size, overlap, minimum in ((45, 0.5, 0.35), (10, 0.7, NO_LIMIT)):
        expected = suppress(NMS_FORMS["tensorflow"], boxes, scores, size, overlap, minimum)
        assert suppress(portable, boxes, scores, size, overlap, minimum) == expected
        assert all(0 < len(kept) < 40 for kept in expected)


# ---- crop and resize by hand -------------------------------------------------------------------------------------
RAMP = np.arange(12, dtype=np.float32).reshape(1, 3, 4, 1) + 1  # rows 1..4, 5..8, 9..12


@each_crop
def test_crop_of_the_whole_image_is_the_image(crop):
    np.testing.assert_allclose(crop_with(crop, RAMP, [[0, 0, 1, 1]], [0], (3, 4)), RAMP, rtol=1e-6)


@each_crop
def test_crop_by_hand(crop):
    # rows at 0.5 and 1.5, columns at 0.75, 1.5 and 2.25: the ramp is linear, 4 y + x + 1
    found = crop_with(crop, RAMP, [[0.25, 0.25, 0.75, 0.75]], [0], (2, 3))
    np.testing.assert_allclose(found[0, :, :, 0], [[3.75, 4.5, 5.25], [7.75, 8.5, 9.25]], rtol=1e-6)


@each_crop
def test_crop_of_one_cell_samples_the_centre(crop):
    found = crop_with(crop, RAMP, [[0, 0, 1, 1], [0.5, 0, 0.5, 1 / 3]], [0, 0], (1, 1))
    np.testing.assert_allclose(found.ravel(), [6.5, 5.5], rtol=1e-6)


@each_crop
def test_crop_beyond_the_image_is_zero(crop):
    found = crop_with(
        crop, RAMP, [[-0.5, 0, 0.5, 1], [0, 0.5, 1, 1.5], [2, 2, 3, 3], [-2, -2, -2, -2]], [0] * 4, (3, 4)
    )
    np.testing.assert_allclose(found[0, :, :, 0], [[0, 0, 0, 0], [1, 2, 3, 4], [5, 6, 7, 8]], rtol=1e-6)
    right = [[2.5, 3.5, 0, 0], [6.5, 7.5, 0, 0], [10.5, 11.5, 0, 0]]
    np.testing.assert_allclose(found[1, :, :, 0], right, rtol=1e-6)
    assert not found[2:].any()


@each_crop
def test_crop_of_an_inverted_box_is_mirrored(crop):
    found = crop_with(crop, RAMP, [[1, 0, 0, 1], [0, 1, 1, 0]], [0, 0], (3, 4))
    np.testing.assert_allclose(found[0], RAMP[0, ::-1], rtol=1e-6)
    np.testing.assert_allclose(found[1], RAMP[0, :, ::-1], rtol=1e-6)


@each_crop
def test_crop_of_a_box_without_area_repeats_its_sample(crop):
    found = crop_with(crop, RAMP, [[0.5, 1 / 3, 0.5, 1 / 3], [0, 0, 0, 0]], [0, 0], (2, 2))
    np.testing.assert_allclose(found[:, :, :, 0], [np.full((2, 2), 6), np.full((2, 2), 1)], rtol=1e-6)


@each_crop
def test_crop_takes_each_box_from_its_image(crop):
    images = np.concatenate([RAMP, -RAMP, 10 * RAMP])
    found = crop_with(crop, images, [[0, 0, 1, 1]] * 4, [2, 0, 1, 2], (3, 4))
    np.testing.assert_allclose(found, images[[2, 0, 1, 2]], rtol=1e-6)


@each_crop
def test_crop_of_no_boxes(crop):
    assert crop_with(crop, RAMP, np.zeros((0, 4)), [], (2, 2)).shape == (0, 2, 2, 1)


@each_crop
def test_crop_gives_float32_of_half_precision_maps(crop):
    found = crop(tf.cast(RAMP, "float16"), tf.constant([[0.0, 0.0, 1.0, 1.0]]), tf.constant([0]), (3, 4))
    assert found.dtype == "float32"
    np.testing.assert_allclose(found, RAMP, rtol=1e-6)


# ---- crop and resize against TensorFlow's ------------------------------------------------------------------------
def edge_boxes(seed, count=600):
    """Boxes [count, 4]: a third clipped to exactly 0 or 1 on some side, a third reaching out, some degenerate."""
    boxes = np.random.default_rng(seed).uniform(-0.3, 1.3, (count, 4)).astype(np.float32)
    boxes[: count // 3] = np.clip(boxes[: count // 3], 0, 1)
    boxes[: count // 6, 2:] = 1
    boxes[-20:, 2:] = boxes[-20:, :2]
    boxes[-10:] = np.round(boxes[-10:])
    return boxes


@each_mode
@pytest.mark.parametrize(("size", "crop_size"), [((128, 128), (7, 7)), ((50, 33), (14, 1)), ((1, 2), (1, 28))])
def test_portable_crop_equals_tensorflows(mode, size, crop_size):
    rng = np.random.default_rng(5)
    images = rng.uniform(1, 2, (2, *size, 3))
    boxes, box_indices = edge_boxes(6), rng.integers(0, 2, 600)
    expected = crop_with(CROP_FORMS["tensorflow"], images, boxes, box_indices, crop_size)
    found = crop_with(in_mode(mode, kernels.portable_crop_and_resize), images, boxes, box_indices, crop_size)
    np.testing.assert_array_equal(found == 0, expected == 0)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert 0.1 < (expected == 0).mean() < 0.9


def in_mode(mode, crop):
    """`crop` run in a mode, the crop size static."""

    def run(images, boxes, box_indices, crop_size):
        return mode(lambda *arrays: crop(*arrays, crop_size))(images, boxes, box_indices)

    return run


def zero_pattern(crop, boxes, side, samples):
    """bool [n, samples, samples]: samples beyond a map of ones [side, side]."""
    return crop_with(crop, np.ones((1, side, side, 1)), boxes, np.zeros(len(boxes)), (samples, samples))[..., 0] == 0


@each_mode
@pytest.mark.parametrize(("side", "samples"), [(128, 7), (50, 14)])
def test_last_sample_of_clipped_boxes_is_decided_as_tensorflow_does(mode, side, samples):
    starts = np.random.default_rng(7).uniform(0, 0.9, (3000, 2))
    boxes = np.concatenate([starts, np.ones_like(starts)], axis=-1).astype(np.float32)
    expected = zero_pattern(CROP_FORMS["tensorflow"], boxes, side, samples)
    found = zero_pattern(in_mode(mode, kernels.portable_crop_and_resize), boxes, side, samples)
    np.testing.assert_array_equal(found, expected)
    assert expected[:, -1].any() and not expected[:, :-1, :-1].any()  # rounding does put some beyond the edge


def rule_of_the_original(start, end, side, samples):
    """The recorded rule in numpy float32: bool [n, samples], beyond the map."""
    extent = np.float32(side - 1)
    scale = (end - start) * extent / np.float32(samples - 1)
    places = (start * extent)[:, None] + np.arange(samples, dtype=np.float32) * scale[:, None]
    return (places < 0) | (places > extent)


@pytest.mark.parametrize(("form", "mode"), [("tensorflow", "eager"), *(("portable", mode) for mode in MODES)])
def test_recorded_edges_of_the_original(form, mode):
    with np.load(DATA / "roi_align_edges.npz", allow_pickle=False) as content:
        record = dict(content)
    crop = in_mode(MODES[mode], CROP_FORMS[form])
    assert (record["rois"][:, 2:] == 1).sum() > 50  # rois that end at the very edge
    for level in range(2, 6):
        rows = record["level"] == level
        rois, side = record["rois"][rows], 512 >> level
        expected = record["zero_rows"][rows][:, :, None] | record["zero_cols"][rows][:, None, :]
        found = zero_pattern(crop, rois, side, 7)
        np.testing.assert_array_equal(found, expected)
        by_rule = [rule_of_the_original(rois[:, axis], rois[:, axis + 2], side, 7) for axis in (0, 1)]
        np.testing.assert_array_equal(found, by_rule[0][:, :, None] | by_rule[1][:, None, :])


def test_gradients_of_both_forms_are_equal():
    rng = np.random.default_rng(8)
    images = tf.constant(rng.normal(size=(2, 9, 11, 3)), tf.float32)
    corners = np.sort(rng.uniform(0.05, 0.95, (12, 2, 2)), axis=1)
    boxes = tf.constant(np.concatenate([corners.reshape(12, 4), [[-0.4, 0.2, 0.6, 1.4]]]), tf.float32)
    box_indices = tf.constant([0, 1] * 6 + [1])
    weights = rng.normal(size=(13, 4, 5, 3)).astype(np.float32)
    gradients = []
    for form in ("tensorflow", "portable"):
        with tf.GradientTape() as tape:
            tape.watch([images, boxes])
            total = tf.reduce_sum(CROP_FORMS[form](images, boxes, box_indices, (4, 5)) * weights)
        gradients.append(tape.gradient(total, [images, boxes]))
    np.testing.assert_allclose(gradients[1][0], gradients[0][0], atol=1e-5)
    np.testing.assert_allclose(gradients[1][1][:12], gradients[0][1][:12], rtol=1e-4, atol=1e-3)
    assert np.abs(gradients[0][0]).max() > 0.1


# ---- crops from a pyramid ----------------------------------------------------------------------------------------
PYRAMID_FORMS = {
    "tensorflow": kernels.pyramid_crop_and_resize,
    "portable": kernels.portable_pyramid_crop_and_resize,
}
each_pyramid = pytest.mark.parametrize("pyramid", PYRAMID_FORMS.values(), ids=PYRAMID_FORMS)


@pytest.fixture
def feature_maps():
    """Three maps [2, side, side, 2], the coarsest of one cell; each has its own range of values."""
    rng = np.random.default_rng(9)
    sides = (8, 4, 1)
    return [
        tf.constant(rng.uniform(10 * i, 10 * i + 5, (2, side, side, 2)), tf.float32) for i, side in enumerate(sides)
    ]


@each_pyramid
@pytest.mark.parametrize("map_indices", [[0, 1, 2, 1, 0, 2], [1] * 6, [2, 0, 0, 2, 0, 2]])
def test_pyramid_crops_each_box_from_its_map(pyramid, feature_maps, map_indices):
    boxes = tf.constant(edge_boxes(10, 60)[::10])
    box_indices = [0, 1, 1, 0, 1, 0]
    found = pyramid(feature_maps, boxes, tf.constant(box_indices), tf.constant(map_indices), (3, 2))
    assert found.shape == (6, 3, 2, 2)
    for row, (image, level) in enumerate(zip(box_indices, map_indices, strict=True)):
        expected = tf.image.crop_and_resize(feature_maps[level], boxes[row : row + 1], [image], (3, 2))
        np.testing.assert_allclose(found[row], expected[0], rtol=1e-6)


@each_pyramid
def test_pyramid_crops_of_no_boxes(pyramid, feature_maps):
    none = tf.zeros((0,), tf.int32)
    assert pyramid(feature_maps, tf.zeros((0, 4)), none, none, (3, 2)).shape == (0, 3, 2, 2)


def test_gradients_of_both_pyramid_forms_are_equal(feature_maps):
    boxes, box_indices, map_indices = (
        tf.constant(edge_boxes(11, 30)),
        tf.constant([0, 1] * 15),
        tf.constant([0, 0, 1] * 10),
    )
    weights = np.random.default_rng(12).normal(size=(30, 3, 3, 2)).astype(np.float32)
    gradients = []
    for form in ("tensorflow", "portable"):
        with tf.GradientTape() as tape:
            tape.watch(feature_maps)
            crops = PYRAMID_FORMS[form](feature_maps, boxes, box_indices, map_indices, (3, 3))
            total = tf.reduce_sum(crops * weights)
        gradients.append(tape.gradient(total, feature_maps))
    for by_tensorflow, by_portable in zip(*gradients, strict=True):
        np.testing.assert_allclose(by_portable, tf.convert_to_tensor(by_tensorflow), atol=1e-5)
    assert np.abs(gradients[0][0]).max() > 0.1 and not np.any(gradients[0][2])  # no box is of the last map


# ---- backends ----------------------------------------------------------------------------------------------------
def test_another_backend_is_refused(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    message = "Keras backend 'torch': expected one of tensorflow, jax"
    with pytest.raises(ValueError, match=message):
        kernels.non_max_suppression(np.zeros((1, 1, 4)), np.zeros((1, 1)), max_output_size=1, iou_threshold=0.5)
    with pytest.raises(ValueError, match=message):
        kernels.crop_and_resize(RAMP, np.zeros((1, 4)), np.zeros(1, int), (1, 1))
    with pytest.raises(ValueError, match=message):
        kernels.pyramid_crop_and_resize([RAMP], np.zeros((1, 4)), np.zeros(1, int), np.zeros(1, int), (1, 1))


def test_jax_runs_the_portable_forms(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    for name in ("non_max_suppression", "crop_and_resize", "pyramid_crop_and_resize"):
        monkeypatch.setattr(kernels, f"portable_{name}", lambda *arguments, name=name: (name, arguments))
    assert kernels.non_max_suppression(1, 2, max_output_size=3, iou_threshold=4) == (
        "non_max_suppression",
        (1, 2, 3, 4, NO_LIMIT),
    )
    assert kernels.crop_and_resize(1, 2, 3, 4) == ("crop_and_resize", (1, 2, 3, 4))
    assert kernels.pyramid_crop_and_resize(1, 2, 3, 4, 5) == ("pyramid_crop_and_resize", (1, 2, 3, 4, 5))


def test_under_xla_tensorflow_runs_the_portable_forms():
    """XLA has no kernel for TensorFlow's crops: without the context this does not compile."""
    feature_maps = [
        tf.constant(np.random.default_rng(3).normal(size=(2, size, size, 2)), tf.float32) for size in (9, 5)
    ]
    boxes, boxes_of, maps_of = edge_boxes(4, 60), np.int32([0, 1] * 30), np.int32([0, 0, 1] * 20)

    def crops_and_gradient():
        with tf.GradientTape() as tape:
            tape.watch(feature_maps)
            crops = kernels.pyramid_crop_and_resize(feature_maps, tf.constant(boxes), boxes_of, maps_of, (3, 3))
        kept = kernels.non_max_suppression(
            tf.constant(boxes[None]), tf.range(60.0)[None], max_output_size=4, iou_threshold=0.3
        )
        return [crops, *tape.gradient(crops, feature_maps), *kept]

    def compiled():
        with tracing.compiling_xla():
            return crops_and_gradient()

    found = tf.function(compiled, autograph=False, jit_compile=True)()
    for one, expected in zip(found, crops_and_gradient(), strict=True):
        np.testing.assert_allclose(one, tf.convert_to_tensor(expected), atol=1e-5)
