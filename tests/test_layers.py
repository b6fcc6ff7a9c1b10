"""The layers: their graph functions by hand, batches, padding, and the round trip through their configuration."""

import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from siamese_mrcnn_tf.modeling import detection, matching, roi_align, roi_heads, rpn
from siamese_mrcnn_tf.modeling.backbone import BatchNorm
from siamese_mrcnn_tf.ops.image_meta import compose_image_meta

NO_DELTAS = (1.0, 1.0, 1.0, 1.0)  # bbox_std_dev that leaves deltas alone


def tensor(values):
    return ops.convert_to_tensor(np.asarray(values, np.float32))


def array(values):
    return ops.convert_to_numpy(values)


def metas(*windows, shape=(128, 128)):
    """image_meta [len(windows), 14] of images molded to `shape`."""
    rows = [compose_image_meta(0, (50, 60, 3), (*shape, 3), window, 1.0, [1, 1]) for window in windows]
    return np.stack(rows).astype(np.float32)


def foreground(scores):
    """RPN or class probabilities [batch, n, 2] with these scores in the second place."""
    scores = np.asarray(scores, np.float32)
    return np.stack([1 - scores, scores], axis=-1)


# ---- matching ----------------------------------------------------------------------------------------------------
def test_matching_by_hand():
    layer = matching.MatchingLayer(2)
    layer.build([(None, None, None, 1), (None, 1)])
    layer.set_weights([np.array([[1, 10], [100, 1000]]).reshape(1, 1, 2, 2), np.array([0.5, -0.5])])
    # scene 3 against 5: difference 2; negative results stay, there is no activation
    found = array(layer([tensor([[[[3]], [[-7]]]]), tensor([[5]])]))
    np.testing.assert_allclose(found[0, :, 0], [[203.5, 2029.5], [1193.5, 11929.5]])


def test_matching_of_a_batch_equals_numpy():
    rng = np.random.default_rng(0)
    scene, reference = rng.normal(size=(3, 4, 5, 6)), rng.normal(size=(3, 6))
    reference[2] = 0
    kernel, bias = rng.normal(size=(1, 1, 12, 9)), rng.normal(size=9)
    joined = np.concatenate([scene, np.abs(scene - reference[:, None, None])], axis=-1)
    found = array(matching.matching_graph(*map(tensor, (scene, reference, kernel, bias))))
    np.testing.assert_allclose(found, joined @ kernel[0, 0] + bias, atol=1e-5)
    assert found.min() < 0


def test_matching_of_an_empty_batch(empty_convolutions):
    layer = matching.MatchingLayer(4)
    assert layer([ops.zeros((0, 3, 3, 2)), ops.zeros((0, 2))]).shape == (0, 3, 3, 4)
    assert layer.kernel.shape == (1, 1, 4, 4) and layer.bias.shape == (4,)


def test_mean_over_references():
    embeddings = np.arange(2 * 3 * 2 * 2, dtype=np.float32).reshape(6, 2, 2)
    found = array(matching.MeanOverReferences()([tensor(embeddings), ops.zeros((2, 3, 4, 4, 3))]))
    np.testing.assert_allclose(found, embeddings.reshape(2, 3, 2, 2).mean(axis=1))
    one_shot = array(matching.MeanOverReferences()([tensor(embeddings), ops.zeros((6, 1, 4, 4, 3))]))
    np.testing.assert_array_equal(one_shot, embeddings)


# ---- proposals ---------------------------------------------------------------------------------------------------
ANCHORS = [
    [0.1, 0.1, 0.3, 0.3],
    [0.5, 0.5, 0.9, 0.9],
    [0.5, 0.5, 0.9, 0.88],
    [0.0, 0.6, 0.2, 0.8],
    [0.7, 0.0, 0.8, 0.1],
]


def propose(scores, anchors=None, deltas=None, **settings):
    """Proposals of scores [batch, n] as numpy; anchors [n, 4] are shared by the batch."""
    scores = np.asarray(scores, np.float32)
    anchors = np.asarray(ANCHORS if anchors is None else anchors, np.float32)
    anchors = np.broadcast_to(anchors, (*scores.shape, 4))
    deltas = np.zeros_like(anchors) if deltas is None else deltas
    settings = {
        "proposal_count": 4,
        "nms_threshold": 0.7,
        "pre_nms_limit": 6000,
        "bbox_std_dev": NO_DELTAS,
        **settings,
    }
    return array(rpn.proposal_graph(*map(tensor, (foreground(scores), deltas, anchors)), **settings))


def anchor_rows(*rows):
    """The anchors of these rows, None for a row of zero padding."""
    return np.array([[0] * 4 if row is None else ANCHORS[row] for row in rows], np.float32)


def test_proposals_are_ordered_suppressed_and_padded():
    found = propose([[0.2, 0.6, 0.9, 0.4, 0.0]], proposal_count=6)
    np.testing.assert_allclose(found[0], anchor_rows(2, 3, 0, 4, None, None), atol=1e-7)  # 1 overlaps 2 by 0.95


def test_no_more_proposals_than_asked_for():
    np.testing.assert_allclose(propose([[0.2, 0.6, 0.9, 0.4, 0.1]], proposal_count=2)[0], anchor_rows(2, 3), atol=1e-7)


def test_pre_nms_limit_and_ties_prefer_the_lower_index():
    tied = propose([[0.5] * 5], pre_nms_limit=3)
    np.testing.assert_allclose(tied[0], anchor_rows(0, 1, None, None), atol=1e-7)
    limited = propose([[0.1, 0.6, 0.9, 0.4, 0.3]], pre_nms_limit=2)  # what NMS drops is not made up for
    np.testing.assert_allclose(limited[0], anchor_rows(2, None, None, None), atol=1e-7)


def test_nms_threshold_of_proposals():
    found = propose([[0.1, 0.8, 0.9, 0.05, 0.01]], nms_threshold=0.96, proposal_count=5)
    np.testing.assert_allclose(found[0], anchor_rows(2, 1, 0, 3, 4), atol=1e-7)


def test_deltas_are_scaled_and_results_clipped():
    anchors = [[0.2, 0.2, 0.4, 0.6], [0.8, 0.8, 1.2, 1.2], [-0.5, -0.4, -0.1, -0.1]]
    deltas = [[[5, -2.5, 0, 0], [0, 0, 0, 5 * np.log(0.5)], [0, 0, 0, 0]]]
    found = propose([[0.9, 0.8, 0.7]], anchors, deltas, bbox_std_dev=(0.1, 0.1, 0.2, 0.2))
    expected = [[0.3, 0.1, 0.5, 0.5], [0.8, 0.9, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(found[0], expected, atol=1e-6)


def test_suppression_follows_the_moved_boxes():
    anchors = [[0.1, 0.1, 0.3, 0.3], [0.6, 0.6, 0.8, 0.8]]
    apart = propose([[0.9, 0.8]], anchors)
    assert apart[0].any(axis=-1).tolist() == [True, True, False, False]
    together = propose([[0.9, 0.8]], anchors, [[[2.5, 2.5, 0, 0], [0, 0, 0, 0]]])
    assert together[0].any(axis=-1).tolist() == [True, False, False, False]


def test_proposals_of_a_batch_are_those_of_its_images():
    rng = np.random.default_rng(1)
    scores = rng.random((3, 5))
    scores[1] = 0
    deltas = rng.normal(0, 0.3, (3, 5, 4))
    together = propose(scores, deltas=deltas)
    alone = [propose(scores[[image]], deltas=deltas[[image]])[0] for image in range(3)]
    np.testing.assert_allclose(together, alone, atol=1e-7)
    assert not np.array_equal(together[0], together[2])


def test_number_of_anchors_may_be_unknown():
    inputs = [keras.Input((None, width)) for width in (2, 4, 4)]
    model = keras.Model(inputs, rpn.ProposalLayer(4, 0.7, 4, NO_DELTAS)(inputs))
    assert model.output_shape == (None, 4, 4)
    scores = np.array([[0.2, 0.6, 0.9, 0.4, 0.1]], np.float32)
    for count in (5, 3):  # above and below pre_nms_limit
        anchors = np.array([ANCHORS[:count]], np.float32)
        found = model([foreground(scores[:, :count]), np.zeros_like(anchors), anchors])
        np.testing.assert_allclose(found, propose(scores[:, :count], ANCHORS[:count], pre_nms_limit=4), atol=1e-7)


def test_proposal_layer_equals_its_graph():
    rng = np.random.default_rng(2)
    scores, deltas = rng.random((2, 5)), rng.normal(size=(2, 5, 4))
    layer = rpn.ProposalLayer(3, 0.6, 4, np.array([0.1, 0.1, 0.2, 0.2]))
    anchors = np.broadcast_to(np.array(ANCHORS), (2, 5, 4))
    found = array(layer([tensor(foreground(scores)), tensor(deltas), tensor(anchors)]))
    settings = {"proposal_count": 3, "nms_threshold": 0.6, "pre_nms_limit": 4, "bbox_std_dev": (0.1, 0.1, 0.2, 0.2)}
    np.testing.assert_array_equal(found, propose(scores, deltas=deltas, **settings))


# ---- anchors -----------------------------------------------------------------------------------------------------
def test_anchors_for_each_image_of_a_batch():
    layer = rpn.AnchorLayer(np.array(ANCHORS))  # float64
    for shape in ((3, 8, 8, 3), (1, 4, 4, 3), (2, 5)):  # of the input only the batch counts
        found = layer(ops.zeros(shape))
        assert keras.backend.standardize_dtype(found.dtype) == "float32"
        np.testing.assert_array_equal(array(found), np.broadcast_to(np.float32(ANCHORS), (shape[0], 5, 4)))
    assert layer.weights == []


def test_anchors_of_an_empty_batch():
    assert rpn.AnchorLayer(ANCHORS)(ops.zeros((0, 8, 8, 3))).shape == (0, 5, 4)


def test_anchors_stay_float32_whatever_layers_compute_in():
    """In bfloat16 the anchors of neighbouring cells are one."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        layer = rpn.AnchorLayer(ANCHORS)
        model = keras.Sequential([keras.Input((8, 8, 3), dtype="bfloat16"), layer])
    finally:
        keras.config.set_dtype_policy(before)
    assert layer.compute_dtype == "float32" and model.output_shape == (None, 5, 4)
    np.testing.assert_array_equal(array(model(ops.zeros((2, 8, 8, 3), "bfloat16")))[1], np.float32(ANCHORS))


# ---- roi levels --------------------------------------------------------------------------------------------------
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
    monkeypatch.setattr(matching.ops, "log", lambda x: x * math.log(2.0))
    sides = [(side, side) for side in (0.25, 0.5, 0.75, 1.0)]
    assert levels_of(sides, shape=(128, 128), canonical_size=128) == [4, 4, 5, 5]


def test_roi_levels_of_a_batch():
    rois = np.zeros((2, 3, 4))
    rois[0, :, 2:] = [[0.1], [0.5], [1]]
    rois[1, :, 2:] = [[1], [0.1], [0.5]]
    found = roi_align.roi_levels_graph(tensor(rois), tensor(metas((0, 0, 9, 9), (1, 1, 8, 8))), canonical_size=56)
    assert array(found).tolist() == [[2, 4, 5], [5, 2, 4]]


# ---- roi pooling -------------------------------------------------------------------------------------------------
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


# ---- detections --------------------------------------------------------------------------------------------------
WHOLE = [[0.0, 0.0, 1.0, 1.0]]
ROIS = [[0.1, 0.1, 0.4, 0.4], [0.1, 0.1, 0.4, 0.38], [0.5, 0.5, 0.9, 0.9], [0.6, 0.0, 0.8, 0.3], [0, 0, 0, 0]]


def refine(scores, rois=None, deltas=None, window=WHOLE, **settings):
    """Detections of match scores [batch, n] as numpy; rois [n, 4] are shared by the batch."""
    scores = np.asarray(scores, np.float32)
    rois = np.broadcast_to(np.asarray(ROIS if rois is None else rois, np.float32), (*scores.shape, 4))
    deltas = np.zeros_like(rois) if deltas is None else deltas
    settings = {"max_instances": 4, "min_confidence": 0.7, "nms_threshold": 0.5, **settings}
    return array(
        detection.refine_detections_graph(*map(tensor, (rois, foreground(scores), deltas, window)), **settings)
    )


def detection_rows(*rows):
    """(roi, score) pairs as rows of detections, None for zero padding."""
    padding = [0.0] * 6
    return np.array([padding if row is None else [*ROIS[row[0]], 1, row[1]] for row in rows], np.float32)


def test_detections_by_hand():
    found = refine([[0.8, 0.9, 0.75, 0.95, 0.2]])
    np.testing.assert_allclose(found[0], detection_rows((3, 0.95), (1, 0.9), (2, 0.75), None), atol=1e-6)


def test_background_is_no_detection_whatever_its_probability():
    found = refine([[0.45, 0.1, 0.55, 0.0, 0.0]], min_confidence=0.5)
    np.testing.assert_allclose(found[0], detection_rows((2, 0.55), None, None, None), atol=1e-6)


def test_equal_probabilities_are_background():
    assert not refine([[0.5, 0.5, 0.5, 0.5, 0.5]], min_confidence=0.0).any()


def test_min_confidence_is_inclusive():
    found = refine([[0.7, 0.0, np.nextafter(np.float32(0.7), np.float32(0)), 0.0, 0.0]], min_confidence=0.7)
    np.testing.assert_allclose(found[0], detection_rows((0, 0.7), None, None, None), atol=1e-6)


def test_zero_padded_rois_do_not_suppress_each_other():
    found = refine([[0.9, 0.9]], rois=[[0, 0, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_allclose(found[0, :, 4], [1, 1, 0, 0])
    assert not found[0, :, :4].any()


def test_best_detections_when_there_are_too_many():
    found = refine([[0.8, 0.1, 0.75, 0.95, 0.2]], max_instances=2)
    np.testing.assert_allclose(found[0], detection_rows((3, 0.95), (0, 0.8)), atol=1e-6)


def test_nms_threshold_of_detections():
    found = refine([[0.8, 0.9, 0.1, 0.1, 0.1]], nms_threshold=0.95)
    np.testing.assert_allclose(found[0], detection_rows((1, 0.9), (0, 0.8), None, None), atol=1e-6)


def test_no_detection_at_all_gives_zeros():
    found = refine([[0.1] * 5, [0.69] * 5])
    assert found.shape == (2, 4, 6) and not found.any()


def test_detections_are_moved_and_clipped_to_the_window():
    rois = [[0.1, 0.1, 0.5, 0.5], [0.6, 0.6, 1.0, 1.0]]
    deltas = [[[0.5, 0, 0, np.log(2)], [0, 0, 0, 0]]]
    found = refine([[0.9, 0.8]], rois, deltas, window=[[0.2, 0.2, 0.8, 0.9]])
    expected = [[0.3, 0.2, 0.7, 0.7, 1, 0.9], [0.6, 0.6, 0.8, 0.9, 1, 0.8]]
    np.testing.assert_allclose(found[0, :2], expected, atol=1e-6)


def test_detections_of_a_batch_have_their_own_windows_and_counts():
    scores = [[0.8, 0.1, 0.9, 0.1, 0.1], [0.1] * 5, [0.1, 0.1, 0.9, 0.1, 0.1]]
    found = refine(scores, window=[[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0.6, 0.7]])
    np.testing.assert_allclose(found[0], detection_rows((2, 0.9), (0, 0.8), None, None), atol=1e-6)
    assert not found[1].any()
    np.testing.assert_allclose(found[2, 0], [0.5, 0.5, 0.6, 0.7, 1, 0.9], atol=1e-6)
    assert not found[2, 1:].any()


def test_detection_layer_scales_deltas_and_norms_the_window():
    meta = metas((0, 0, 128, 128), (32, 0, 96, 128))
    rois = np.array([[[0.1, 0.1, 0.5, 0.5], [0, 0, 1, 1]]] * 2)
    deltas = np.array([[[5.0, 0, 0, 0], [0, 0, 0, 0]]] * 2)
    layer = detection.DetectionLayer(2, 0.7, 0.5, np.array([0.1, 0.1, 0.2, 0.2]))
    found = array(layer([tensor(rois), tensor(foreground([[0.9, 0.8]] * 2)), tensor(deltas), tensor(meta)]))
    expected = [[0.3, 0.1, 0.7, 0.5, 1, 0.9], [0, 0, 1, 1, 1, 0.8]]
    np.testing.assert_allclose(found[0], expected, atol=1e-6)
    top, bottom = 32 / 127, 95 / 127  # y2 is exclusive in pixels
    clipped = [[0.3, 0.1, 0.7, 0.5, 1, 0.9], [top, 0, bottom, 1, 1, 0.8]]
    np.testing.assert_allclose(found[1], clipped, atol=1e-6)


def test_proposals_of_an_empty_batch():
    inputs = [ops.zeros((0, 5, width)) for width in (2, 4, 4)]
    assert rpn.ProposalLayer(3, 0.7, 100, NO_DELTAS)(inputs).shape == (0, 3, 4)


# ---- configurations ----------------------------------------------------------------------------------------------
BINARY_ANCHORS = [[-0.25, 0.0, 0.5, 1.5], [0.125, 0.25, 0.75, 1.0]]  # that float32 has exactly
LAYERS = [
    (matching.MatchingLayer(9, name="fpn_distance_P2"), [(None, 8, 8, 6), (None, 6)], {"filters": 9}),
    (matching.MeanOverReferences(name="target_embedding"), [(None, 5, 6), (None, 3, 64, 64, 3)], {}),
    (rpn.AnchorLayer(np.array(BINARY_ANCHORS), name="anchors"), (None, 8, 8, 3), {"anchors": BINARY_ANCHORS}),
    (
        rpn.ProposalLayer(7, 0.6, 50, np.array([0.1, 0.1, 0.2, 0.2]), name="ROI"),
        [(None, 99, 2), (None, 99, 4), (None, 99, 4)],
        {"proposal_count": 7, "nms_threshold": 0.6, "pre_nms_limit": 50, "bbox_std_dev": [0.1, 0.1, 0.2, 0.2]},
    ),
    (
        roi_align.PyramidROIAlign([7, 5], 112, name="roi_align"),
        [(None, 11, 4), (None, 14), *((None, side, side, 3) for side in MAP_SIDES)],
        {"pool_shape": (7, 5), "canonical_size": 112},
    ),
    (
        detection.DetectionLayer(8, 0.4, 0.3, (0.1, 0.1, 0.2, 0.2), name="mrcnn_detection"),
        [(None, 11, 4), (None, 11, 2), (None, 11, 4), (None, 14)],
        {"max_instances": 8, "min_confidence": 0.4, "nms_threshold": 0.3, "bbox_std_dev": [0.1, 0.1, 0.2, 0.2]},
    ),
    (roi_heads.UnfoldRois(5, name="mrcnn_bbox"), (None, 4), {"count": 5}),
    (BatchNorm(None, name="bn_conv1"), (None, 3, 3, 4), {"train_bn": None}),
    (BatchNorm(name="bn_conv1"), (None, 3, 3, 4), {"train_bn": False}),
]
each_layer = pytest.mark.parametrize(
    ("layer", "shapes", "settings"), LAYERS, ids=lambda item: getattr(item, "name", "")
)


@each_layer
def test_config_round_trip(layer, shapes, settings):
    config = layer.get_config()
    assert {name: config[name] for name in settings} == settings
    assert config["name"] == layer.name
    assert type(layer).from_config(config).get_config() == config


@each_layer
def test_serialization_round_trip(layer, shapes, settings):
    stored = json.dumps(keras.saving.serialize_keras_object(layer))
    assert f'"registered_name": "siamese_mrcnn_tf>{type(layer).__name__}"' in stored
    restored = keras.saving.deserialize_keras_object(json.loads(stored))
    assert type(restored) is type(layer)
    assert restored.get_config() == layer.get_config()


@each_layer
def test_compute_output_shape_is_what_call_gives(layer, shapes, settings):
    layer = type(layer).from_config(layer.get_config())
    batches = {"mrcnn_bbox": 15, "target_embedding": (6, 2)}.get(layer.name, 3)
    listed = shapes if isinstance(shapes, list) else [shapes]
    sizes = batches if isinstance(batches, tuple) else (batches,) * len(listed)
    inputs = [np.full((size, *shape[1:]), 0.5, np.float32) for size, shape in zip(sizes, listed, strict=True)]
    outputs = layer(inputs if isinstance(shapes, list) else inputs[0])
    assert layer.compute_output_shape(shapes)[1:] == tuple(outputs.shape[1:])
    assert layer.compute_output_shape(shapes)[0] is None


def test_a_model_of_these_layers_survives_a_file(tmp_path):
    sides, channels, anchors = MAP_SIDES, 2, 30
    maps = [keras.Input((side, side, channels)) for side in sides]
    embeddings, references = keras.Input((4, channels)), keras.Input((3, 8, 8, 3))
    scored, deltas, boxes, meta = (keras.Input(shape) for shape in ((anchors, 2), (anchors, 4), (anchors, 4), (14,)))
    mean = matching.MeanOverReferences()([embeddings, references])
    matched = [
        matching.MatchingLayer(3, name=f"fpn_distance_P{index + 2}")([level, mean[:, index]])
        for index, level in enumerate(maps)
    ]
    rois = rpn.ProposalLayer(6, 0.7, 20, (0.1, 0.1, 0.2, 0.2), name="ROI")([scored, deltas, boxes])
    pooled = roi_align.PyramidROIAlign((2, 2), 64)([rois, meta, *matched])
    detections = detection.DetectionLayer(4, 0.0, 0.5, NO_DELTAS)([rois, scored[:, :6], deltas[:, :6], meta])
    model = keras.Model([*maps, embeddings, references, scored, deltas, boxes, meta], [pooled, detections])
    model.save(tmp_path / "model.keras")
    rng = np.random.default_rng(5)
    corners = np.sort(rng.random((2, anchors, 2, 2)), axis=2).reshape(2, anchors, 4)
    inputs = [rng.normal(size=(2, side, side, channels)) for side in sides]
    inputs += [rng.normal(size=(6, 4, channels)), np.zeros((2, 3, 8, 8, 3))]
    inputs += [foreground(rng.random((2, anchors))), rng.normal(size=(2, anchors, 4)), corners]
    inputs = [np.asarray(values, np.float32) for values in [*inputs, metas((0, 0, 128, 128), (0, 0, 99, 99))]]
    expected, found = model(inputs), keras.saving.load_model(tmp_path / "model.keras")(inputs)
    for before, after in zip(expected, found, strict=True):
        np.testing.assert_array_equal(before, after)
        assert np.abs(before).max() > 0
