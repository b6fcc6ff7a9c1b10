"""RPN targets: against the records of the original, and by hand."""

import coco_tree
import numpy as np
import pytest

from siamese_mrcnn_tf.config import SmallConfig, TinyConfig
from siamese_mrcnn_tf.data.data_generator import TrainingSamples
from siamese_mrcnn_tf.data.rpn_targets import build_rpn_targets
from siamese_mrcnn_tf.ops.anchors import pyramid_anchors

ELLIPSE, RECTANGLE, TRIANGLE = 1, 2, 3  # class ids of recorded_scenes, and of coco_tree's categories 3, 7, 18
EVERY_ANCHOR = 100_000  # RPN_TRAIN_ANCHORS_PER_IMAGE with which nothing is thinned out

TINY = TinyConfig().replace(  # its samples as the original's are
    QUERIES_PER_IMAGE=1, RPN_POSITIVE_IOU=0.7, USE_HARD_NEGATIVES=False
)


# ---- build_rpn_targets: the original -----------------------------------------------------------------------------
@pytest.fixture(scope="module")
def small_anchors():
    return pyramid_anchors(SmallConfig(), (512, 512, 3))


def recorded_match(training_record, name, anchors):
    match = np.zeros(len(anchors), np.int32)
    match[training_record[f"rpnt_{name}positive"]] = 1
    if name.endswith("nosubsample_"):
        match[np.unpackbits(training_record[f"rpnt_{name}negative_packed"])[: len(anchors)] == 1] = -1
    else:
        match[training_record[f"rpnt_{name}negative"]] = -1
    return match


def recorded_targets(training_record, name, anchors, *, rng, most=None):
    """Our targets of the recorded scene, by the record's name."""
    crowd = "crowd_" if "crowd_" in name else ""
    config = SmallConfig() if most is None else SmallConfig().replace(RPN_TRAIN_ANCHORS_PER_IMAGE=most)
    class_ids, boxes = training_record[f"rpnt_{crowd}class_ids"], training_record["rpnt_boxes"]
    return build_rpn_targets((512, 512, 3), anchors, class_ids, boxes, config, rng=rng)


@pytest.mark.parametrize("name", ["", "crowd_"])
def test_recorded_targets_and_the_original_s_draws(training_record, small_anchors, name):
    match, bbox = recorded_targets(training_record, name, small_anchors, rng=np.random.RandomState(0))
    assert match.dtype == np.int32 and match.shape == (65472,)
    np.testing.assert_array_equal(match, recorded_match(training_record, name, small_anchors))
    np.testing.assert_allclose(bbox, training_record[f"rpnt_{name}bbox"], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("name", "positives"), [("nosubsample_", 15), ("crowd_nosubsample_", 14)])
def test_recorded_targets_of_every_anchor(training_record, small_anchors, name, positives):
    match, bbox = recorded_targets(
        training_record, name, small_anchors, rng=np.random.RandomState(0), most=2 * EVERY_ANCHOR
    )
    np.testing.assert_array_equal(match, recorded_match(training_record, name, small_anchors))
    assert bbox.shape == (2 * EVERY_ANCHOR, 4) and not bbox[positives:].any()
    np.testing.assert_allclose(bbox[:positives], training_record[f"rpnt_{name}bbox"], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("make_rng", [np.random.default_rng, np.random.RandomState])
@pytest.mark.parametrize(("most", "positives"), [(64, 15), (8, 4), (9, 4), (31, 15), (30, 15)])
def test_at_most_half_is_positive_and_the_rest_negative(training_record, small_anchors, make_rng, most, positives):
    match, bbox = recorded_targets(training_record, "", small_anchors, rng=make_rng(3), most=most)
    assert (match == 1).sum() == positives and (match == -1).sum() == most - positives
    every = recorded_match(training_record, "nosubsample_", small_anchors)
    assert (every[match == 1] == 1).all() and (every[match == -1] == -1).all()
    rows = np.isin(np.flatnonzero(every == 1), np.flatnonzero(match == 1))  # those of the anchors that stayed
    assert bbox.shape == (most, 4) and not bbox[positives:].any()
    np.testing.assert_allclose(bbox[:positives], training_record["rpnt_nosubsample_bbox"][rows], rtol=1e-12, atol=1e-12)


def test_choice_of_anchors_depends_on_the_generator_alone(training_record, small_anchors):
    first, again, other = (
        recorded_targets(training_record, "", small_anchors, rng=np.random.default_rng(seed), most=8)[0]
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first == 1, other == 1) and not np.array_equal(first == -1, other == -1)


# ---- build_rpn_targets: by hand ----------------------------------------------------------------------------------
def targets_of(anchors, gt_boxes, class_ids=None, *, most=8):
    """rpn_match as a list, and the rows of rpn_bbox, times their RPN_BBOX_STD_DEV, up to the last one in use."""
    config = TINY.replace(RPN_TRAIN_ANCHORS_PER_IMAGE=most)
    class_ids = np.ones(len(gt_boxes), np.int32) if class_ids is None else class_ids
    anchors, gt_boxes = np.array(anchors, float), np.array(gt_boxes, np.int32).reshape(-1, 4)
    rng = np.random.default_rng(0)
    match, bbox = build_rpn_targets((128, 128, 3), anchors, class_ids, gt_boxes, config, rng=rng)
    assert bbox.shape == (most, 4) and match.shape == (len(anchors),)
    count = (match == 1).sum()
    assert not bbox[count:].any()
    return match.tolist(), bbox[:count] * config.RPN_BBOX_STD_DEV


ANCHORS = [[0, 0, 10, 10], [0, 5, 10, 15], [20, 20, 30, 30], [20, 20, 30, 34], [50, 50, 60, 60]]


def test_the_best_anchor_is_positive_whatever_its_overlap():
    # overlaps: 0.8 and 0.2 (of anchors 0, 1), 0.6 and 0.43 (of 2, 3), 0.2 (of 4)
    gt_boxes = [[0, 0, 10, 8], [20, 20, 30, 26], [50, 50, 60, 52]]
    match, deltas = targets_of(ANCHORS, gt_boxes)
    assert match == [1, -1, 1, 0, 1]
    expected = [[0, -0.1, 0, np.log(0.8)], [0, -0.2, 0, np.log(0.6)], [0, -0.4, 0, np.log(0.2)]]
    np.testing.assert_allclose(deltas, expected, atol=1e-12)


def test_rows_are_in_the_order_of_the_anchors():
    gt_boxes = [[50, 50, 60, 52], [20, 20, 30, 26], [0, 0, 10, 8]]
    match, deltas = targets_of(ANCHORS, gt_boxes)
    assert match == [1, -1, 1, 0, 1]
    np.testing.assert_allclose(np.exp(deltas[:, 3]), [0.8, 0.6, 0.2], atol=1e-12)


def test_deltas_are_divided_by_their_deviation():
    config = TINY.replace(RPN_BBOX_STD_DEV=(0.1, 0.2, 0.5, 0.25), RPN_TRAIN_ANCHORS_PER_IMAGE=2)
    _, bbox = build_rpn_targets(None, np.array([[0.0, 0, 10, 10]]), [1], [[1, 1, 21, 11]], config)
    np.testing.assert_allclose(bbox, [[6, 0.5, 2 * np.log(2), 0], [0, 0, 0, 0]], atol=1e-12)


def test_borders_of_positive_and_negative():
    anchors = [[0, 0, 10, 10], [0, 0, 10, 10.1], [40, 40, 50, 50], [40, 40, 50, 50.1], [0, 0, 10, 7], [40, 40, 50, 43]]
    match, deltas = targets_of(anchors, [[0, 0, 10, 7], [40, 40, 50, 43]])  # the last two anchors are the best ones
    assert match == [1, 0, 0, -1, 1, 1]  # 0.7 is positive, 0.3 is neutral
    np.testing.assert_allclose(np.exp(deltas[:, 3]), [0.7, 1, 1])


def test_the_border_of_positive_is_a_setting():
    anchors, boxes = np.array(ANCHORS, float), np.array([[0, 0, 10, 10], [20, 20, 30, 32]])
    # overlaps: 1 and 1 / 3 (of anchors 0, 1), 10 / 12 and 12 / 14 (of 2, 3); the best ones are positive at any border
    for least, positive in ((0.9, [0, 3]), (0.83, [0, 2, 3]), (0.3, [0, 1, 2, 3])):
        config = TINY.replace(RPN_POSITIVE_IOU=least, RPN_TRAIN_ANCHORS_PER_IMAGE=8)
        match, bbox = build_rpn_targets(None, anchors, [1, 1], boxes, config)
        assert np.flatnonzero(match == 1).tolist() == positive
        assert bbox.any(axis=-1).sum() == len(positive) - 1  # anchor 0 is the object itself


def test_an_anchor_goes_to_its_own_best_object():
    """Though it is positive as the best one of another."""
    match, deltas = targets_of([[0, 0, 10, 10], [30, 30, 40, 40]], [[0, 6, 10, 10], [0, 0, 10, 9]])
    assert match == [1, -1]
    np.testing.assert_allclose(deltas, [[0, -0.05, 0, np.log(0.9)]], atol=1e-12)


def test_the_first_of_equal_objects_and_the_first_of_equal_anchors():
    match, deltas = targets_of([[0, 0, 10, 10], [0, 0, 10, 10]], [[0, 0, 10, 6], [0, 4, 10, 10]])
    assert match == [1, 0]
    np.testing.assert_allclose(deltas, [[0, -0.2, 0, np.log(0.6)]], atol=1e-12)


def test_crowds_neutralise():
    gt_boxes = [[0, 0, 10, 8], [18, 18, 40, 40], [0, 5, 10, 15]]
    assert targets_of(ANCHORS, gt_boxes[:1], [1])[0] == [1, -1, -1, -1, -1]
    # but they leave positive what is, anchor 0 meeting both
    assert targets_of(ANCHORS, gt_boxes, [1, -1, -1])[0] == [1, 0, 0, 0, -1]


def test_a_crowd_neutralises_from_a_thousandth_on():
    anchors = [[0, 0, 100, 100], [200, 200, 300, 300], [400, 400, 410, 410]]
    crowds = [[0, 0, 1, 10], [200, 200, 201, 209]]  # 0.001 and 0.0009
    assert targets_of(anchors, [*crowds, [400, 400, 410, 410]], [-1, -1, 1])[0] == [0, -1, 1]


@pytest.mark.parametrize("most", [8, 3])
def test_without_objects_anchors_are_negative(most):
    for boxes, class_ids, negative in (([], [], range(5)), ([[0, 0, 10, 20]], [-1], range(2, 5))):
        match, deltas = targets_of(ANCHORS, boxes, class_ids, most=most)
        assert match.count(-1) == min(most, len(negative)) and 1 not in match
        assert all(match[index] == 0 for index in range(5) if index not in negative)
        assert deltas.shape == (0, 4)


def test_an_object_that_meets_no_anchor_has_none():
    assert targets_of(ANCHORS, [[100, 100, 110, 110]])[0] == [-1] * 5
    assert targets_of(ANCHORS, [[10, 15, 20, 20]])[0] == [-1] * 5  # it touches two of them


def test_no_anchors():
    assert targets_of(np.zeros((0, 4)), [[0, 0, 10, 10]])[0] == []


# ---- TrainingSamples -------------------------------------------------------------------------------------------------
# ---- TrainingSamples: crops ------------------------------------------------------------------------------------------
@pytest.fixture
def crops(tmp_path, content):
    """Rectangles in random parts of 128 x 128 pixels of images scaled to 128 x 171."""
    config = TINY.replace(IMAGE_RESIZE_MODE="crop", IMAGE_MIN_DIM=128, USE_MINI_MASK=False)
    return TrainingSamples(coco_tree.load(tmp_path, "val", active=[RECTANGLE]), config)
