"""The losses: by hand, on empty selections, in batches, and on the recorded outputs of the original's heads."""

import math

import conftest
import keras
import numpy as np
import pytest
import tensorflow as tf

from siamese_mrcnn_tf.modeling import losses

LOG2, LOG4 = math.log(2), math.log(4)
THREE_TO_ONE = math.log(3)  # logit of probability 3/4 beside a 0
ROW = [0.5, -1.0, 3.0, 0.0]  # against zeros: smooth L1 of 0.125, 0.5, 2.5, 0
ROW_LOSS = (0.125 + 0.5 + 2.5) / 4


def value(loss, *arguments):
    """A loss of arrays as a number; those of floats enter as float32."""
    arguments = [np.asarray(argument) for argument in arguments]
    arguments = [argument.astype(np.float32) if argument.dtype.kind == "f" else argument for argument in arguments]
    found = loss(*map(tf.convert_to_tensor, arguments))
    assert found.shape == () and found.dtype == tf.float32
    return float(found)


def gradient(loss, *targets, predicted):
    """Value of `loss(*targets, predicted)` and its gradient by `predicted`, as an array."""
    predicted = tf.constant(predicted, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(predicted)
        found = loss(*map(tf.convert_to_tensor, targets), predicted)
    return float(found), tape.gradient(found, predicted, unconnected_gradients="zero").numpy()


def column(*match):
    """rpn_match int32 [batch, anchors, 1] of rows of a batch."""
    return np.array(match, np.int32)[..., None]


# ---- smooth L1 and means -----------------------------------------------------------------------------------------
def test_smooth_l1_around_its_border():
    predicted = [0.0, 0.5, -0.5, 0.999, 1.0, -1.0, 1.001, 3.0, -11.0]
    expected = [0.0, 0.125, 0.125, 0.4990005, 0.5, 0.5, 0.501, 2.5, 10.5]
    np.testing.assert_allclose(losses.smooth_l1(np.zeros(9), np.array(predicted)), expected, rtol=1e-6)
    np.testing.assert_allclose(losses.smooth_l1(np.array(predicted), np.zeros(9)), expected, rtol=1e-6)


def test_gradient_of_smooth_l1_is_bounded():
    predicted = [-5.0, -1.0, -0.25, 0.25, 0.999, 1.0, 5.0]
    _, found = gradient(lambda p: tf.reduce_sum(losses.smooth_l1(tf.zeros(7), p)), predicted=predicted)
    np.testing.assert_allclose(found, [-1, -1, -0.25, 0.25, 0.999, 1, 1], rtol=1e-6)


def test_masked_mean():
    values = np.array([[1.0, 2.0], [4.0, np.inf]], np.float32)
    assert value(losses.masked_mean, values, np.array([[True, True], [True, False]])) == pytest.approx(7 / 3)
    assert value(losses.masked_mean, values, np.array([[True], [False]])) == 1.5  # broadcast
    assert value(losses.masked_mean, values, np.array([[False], [False]])) == 0
    assert value(losses.masked_mean, np.zeros((0, 2)), np.zeros((0, 1), bool)) == 0


# ---- the region proposal network ---------------------------------------------------------------------------------
LOGITS = [[0.0, THREE_TO_ONE], [0.0, THREE_TO_ONE], [0.0, 0.0], [5.0, -7.0]]  # background, foreground


def test_rpn_class_loss_by_hand():
    # foreground of probability 3/4, background of 1/4, and one undecided; the neutral anchor does not count
    expected = (math.log(4 / 3) + LOG4 + LOG2) / 3
    assert value(losses.rpn_class_loss_graph, column([1, -1, -1, 0]), [LOGITS]) == pytest.approx(expected, rel=1e-6)
    assert value(losses.rpn_class_loss_graph, column([0, 0, 1, 0]), [LOGITS]) == pytest.approx(LOG2, rel=1e-6)


def test_rpn_class_loss_is_a_mean_over_the_batch_s_anchors():
    match = column([1, 0, 0, 0], [0, -1, -1, 0])
    expected = (math.log(4 / 3) + LOG4 + LOG2) / 3  # not the mean of the images' means
    assert value(losses.rpn_class_loss_graph, match, [LOGITS, LOGITS]) == pytest.approx(expected, rel=1e-6)


def test_rpn_class_loss_of_confident_anchors():
    logits = [[[-200.0, 200.0], [-200.0, 200.0]]]
    assert value(losses.rpn_class_loss_graph, column([1, 0]), logits) == 0
    assert value(losses.rpn_class_loss_graph, column([-1, 0]), logits) == pytest.approx(400)


def test_rpn_bbox_loss_by_hand():
    predicted = np.full((1, 4, 4), 77.0)  # of anchors that are not positive: without effect
    predicted[0, 1], predicted[0, 3] = 1.0, ROW
    targets = np.array([[[1.0, 1, 1, 0], [0, 0, 0, 0], [9, 9, 9, 9]]])  # of anchors 1 and 3, then a row of no anchor
    found = value(losses.rpn_bbox_loss_graph, targets, column([-1, 1, 0, 1]), predicted)
    assert found == pytest.approx((0.5 + 4 * ROW_LOSS) / 8)


def test_rpn_bbox_loss_of_images_with_different_counts():
    """Rows of an image begin anew, whatever the image before it had."""
    predicted = np.zeros((3, 3, 4))
    predicted[0, :] = 1.0
    predicted[2, 2] = ROW
    targets = np.zeros((3, 3, 4))
    targets[0, :, 0] = 1, 2, 3  # image 0: three positives; image 1: none; image 2: one
    targets[1], targets[2, 1:] = 50, 60
    match = column([1, 1, 1], [-1, 0, -1], [0, -1, 1])
    # image 0: distances 0, 1, 2 in the first place and 1 in the other three
    expected = (0 + 0.5 + 1.5 + 9 * 0.5 + 4 * ROW_LOSS) / 16
    assert value(losses.rpn_bbox_loss_graph, targets, match, predicted) == pytest.approx(expected)


def test_rpn_bbox_loss_with_a_row_for_every_positive():
    targets, predicted = np.array([[[1.0] * 4, [2.0] * 4]]), np.array([[[1.0] * 4, [0.0] * 4, [2.0] * 4]])
    assert value(losses.rpn_bbox_loss_graph, targets, column([1, 0, 1]), predicted) == 0


# ---- the heads ---------------------------------------------------------------------------------------------------
def test_mrcnn_class_loss_counts_every_row():
    class_ids = np.array([[1, 0, 0, 0], [0, 0, 1, 0]], np.int32)
    logits = [LOGITS[:2] + [[0.0, 0.0]] * 2, [[0.0, 0.0]] * 3 + [[THREE_TO_ONE, 0.0]]]
    expected = (math.log(4 / 3) + LOG4 + 2 * LOG2 + 3 * LOG2 + math.log(4 / 3)) / 8
    assert value(losses.mrcnn_class_loss_graph, class_ids, logits) == pytest.approx(expected, rel=1e-6)


# ---- presence ----------------------------------------------------------------------------------------------------
def test_presence_loss_by_hand():
    targets, logits = np.array([[True], [False], [False]]), [[THREE_TO_ONE], [THREE_TO_ONE], [0.0]]
    expected = (math.log(4 / 3) + LOG4 + LOG2) / 3
    assert value(losses.presence_loss_graph, targets, logits) == pytest.approx(expected, rel=1e-6)


def test_presence_loss_of_certain_and_wrong_queries():
    targets = np.array([[True], [False], [True]])
    found, slope = gradient(losses.presence_loss_graph, targets, predicted=[[-300.0], [300.0], [300.0]])
    assert found == pytest.approx(200)
    np.testing.assert_allclose(slope, [[-1 / 3], [1 / 3], [0]], atol=1e-6)


# ---- boxes and masks of the heads --------------------------------------------------------------------------------
def test_mrcnn_bbox_loss_by_hand():
    class_ids = np.array([[1, 0, 0], [1, 1, 0]], np.int32)
    targets, predicted = np.zeros((2, 3, 4)), np.full((2, 3, 4), 77.0)
    predicted[0, 0], predicted[1, 0], predicted[1, 1] = ROW, 2.0, 0.0
    found = value(losses.mrcnn_bbox_loss_graph, targets, class_ids, predicted)
    assert found == pytest.approx((4 * ROW_LOSS + 4 * 1.5) / 12)


def test_mrcnn_mask_loss_by_hand():
    class_ids = np.array([[1, 0], [1, 1]], np.int32)
    targets = np.zeros((2, 2, 1, 2))
    targets[0, 0], targets[1, 1] = [[1, 0]], [[1, 1]]
    predicted = np.full((2, 2, 1, 2), 0.123)
    predicted[0, 0], predicted[1, 0], predicted[1, 1] = [[0.25, 0.25]], [[0.5, 0.5]], [[1.0, 0.5]]
    expected = (LOG4 + math.log(4 / 3) + 2 * LOG2 + 0 + LOG2) / 6
    found = value(losses.mrcnn_mask_loss_graph, targets, class_ids, predicted)
    assert found == pytest.approx(expected, rel=1e-6)


def test_mask_loss_of_certain_and_wrong_pixels_is_finite():
    class_ids, targets = np.array([[1]], np.int32), np.array([[[[1.0, 0.0]]]])
    found, slope = gradient(losses.mrcnn_mask_loss_graph, np.float32(targets), class_ids, predicted=1 - targets)
    assert found == pytest.approx(-math.log(1e-7), rel=0.02)  # float32 cannot tell 1 - 1e-7 from 1 - 1.19e-7
    assert np.isfinite(slope).all()


def test_mask_loss_of_fewer_predicted_rows_than_targets():
    """Positive rows come first, and the mask head does not run on those that cannot be positive."""
    rng = np.random.default_rng(0)
    class_ids = np.array([[1, 1, 0, 0, 0], [1, 0, 0, 0, 0]], np.int32)
    targets = (rng.random((2, 5, 4, 4)) < 0.5).astype(np.float32)
    predicted = rng.uniform(0.1, 0.9, (2, 5, 4, 4))
    every_row = value(losses.mrcnn_mask_loss_graph, targets, class_ids, predicted)
    assert every_row > 0.1
    for rows in (2, 3):
        assert value(losses.mrcnn_mask_loss_graph, targets, class_ids, predicted[:, :rows]) == every_row
    targets[:, 3:], class_ids[:, 3:] = 1, 1  # beyond the rows of the head: no part of the loss
    assert value(losses.mrcnn_mask_loss_graph, targets, class_ids, predicted[:, :3]) == every_row


# ---- empty selections --------------------------------------------------------------------------------------------
def selective_losses(*, positive, count=2):
    """Each loss over a selection, with its targets for `count` images, and predictions."""
    rng = np.random.default_rng(1)
    class_ids, match = np.zeros((count, 3), np.int32), np.zeros((count, 3, 1), np.int32)
    class_ids[:, 0] = match[:, 1] = positive
    deltas, masks = rng.normal(size=(count, 3, 4)).astype(np.float32), np.ones((count, 3, 2, 2), np.float32)
    predicted = rng.uniform(0.2, 0.8, (count, 3, 4)).astype(np.float32)
    return {
        "rpn_class": (losses.rpn_class_loss_graph, (match,), predicted[..., :2]),
        "rpn_bbox": (losses.rpn_bbox_loss_graph, (deltas, match), predicted),
        "mrcnn_bbox": (losses.mrcnn_bbox_loss_graph, (deltas, class_ids), predicted),
        "mrcnn_mask": (losses.mrcnn_mask_loss_graph, (masks, class_ids), predicted.reshape(count, 3, 2, 2)),
    }


SELECTIVE = ("rpn_class", "rpn_bbox", "mrcnn_bbox", "mrcnn_mask")
SELECTED_ROW = {"rpn_class": 1, "rpn_bbox": 1, "mrcnn_bbox": 0, "mrcnn_mask": 0}
each_selective = pytest.mark.parametrize("name", SELECTIVE)


@each_selective
@pytest.mark.parametrize("count", [1, 2])
def test_an_empty_selection_gives_0_and_a_gradient_of_0(name, count):
    loss, targets, predicted = selective_losses(positive=0, count=count)[name]
    found, slope = gradient(loss, *targets, predicted=predicted)
    assert found == 0 and slope.shape == predicted.shape and not slope.any()  # nan is true


@each_selective
def test_the_gradient_is_that_of_the_selection(name):
    loss, targets, predicted = selective_losses(positive=1)[name]
    found, slope = gradient(loss, *targets, predicted=predicted)
    rows = [row for row in range(3) if slope[:, row].any()]
    assert found > 0 and rows == [SELECTED_ROW[name]]
    assert slope[:, rows[0]].all() and np.isfinite(slope).all()


@each_selective
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_what_is_left_out_may_be_infinite(name, bad):
    loss, targets, predicted = selective_losses(positive=1)[name]
    expected = value(loss, *targets, predicted)
    left_out = [row for row in range(3) if row != SELECTED_ROW[name]]
    broken = predicted.copy()
    broken[:, left_out] = bad
    assert value(loss, *targets, broken) == expected
    if name != "rpn_class":
        unused = (2,) if name == "rpn_bbox" else left_out  # rpn_bbox: row 0 belongs to the one positive anchor
        values = targets[0].copy()
        values[:, unused] = bad
        assert value(loss, values, *targets[1:], predicted) == expected


def test_empty_images_do_not_weigh_the_others():
    class_ids, targets = np.array([[1, 0], [0, 0]], np.int32), np.zeros((2, 2, 4))
    predicted = np.array([[ROW, ROW], [ROW, ROW]])
    assert value(losses.mrcnn_bbox_loss_graph, targets, class_ids, predicted) == pytest.approx(ROW_LOSS)


def test_losses_are_computed_in_float32():
    """bfloat16, with its 8 bits, would be off by 1e-3 and lose count of 4096 values."""
    match, logits = column([1] * 4096), tf.zeros((1, 4096, 2), tf.bfloat16)
    found = losses.rpn_class_loss_graph(match, logits)
    assert found.dtype == tf.float32 and float(found) == pytest.approx(LOG2, rel=1e-5)
    third = tf.constant(1 / 3, tf.bfloat16, (1, 4096, 4))
    found = losses.mrcnn_bbox_loss_graph(tf.zeros((1, 4096, 4)), tf.ones((1, 4096), tf.int32), third)
    assert found.dtype == tf.float32 and float(found) == pytest.approx(0.5 * float(third[0, 0, 0]) ** 2, rel=1e-5)


# ---- weight decay ------------------------------------------------------------------------------------------------
def test_weight_decay_by_hand():
    kernel = keras.Variable([[1.0, 2.0], [3.0, 4.0]], name="kernel")
    bias = keras.Variable([0.0, 6.0], name="bias")
    norms = [keras.Variable([100.0], name=name) for name in ("gamma", "beta")]
    assert float(losses.weight_decay_graph([kernel, bias], 0.1)) == pytest.approx(0.1 * (30 / 4 + 36 / 2))
    assert float(losses.weight_decay_graph([norms[0], kernel, norms[1], bias], 0.1)) == pytest.approx(2.55)
    assert float(losses.weight_decay_graph([kernel], 0.0)) == 0
    for left in (norms, []):
        assert float(losses.weight_decay_graph(left, 0.1)) == 0


def test_weight_decay_of_layers():
    """Of real layers: batch normalization has gamma and beta, a frozen layer has nothing that trains."""
    dense, norm = keras.layers.Dense(2), keras.layers.BatchNormalization()
    model = keras.Sequential([keras.Input((3,)), dense, norm])
    dense.kernel.assign(np.full((3, 2), 2.0))
    dense.bias.assign([1.0, 3.0])
    assert float(losses.weight_decay_graph(model.trainable_variables, 0.01)) == pytest.approx(0.01 * (4 + 5))
    with tf.GradientTape() as tape:
        found = losses.weight_decay_graph(model.trainable_variables, 0.01)
    slopes = tape.gradient(found, [dense.bias.value, norm.gamma.value])
    np.testing.assert_allclose(slopes[0], 0.01 * 2 * np.array([1, 3]) / 2, rtol=1e-6)
    assert slopes[1] is None
    dense.trainable = False
    assert float(losses.weight_decay_graph(model.trainable_variables, 0.01)) == 0


# ---- the original ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["b1", "b2"])
def test_losses_of_recorded_heads(name):
    """The original's own outputs of the heads give its losses."""
    with np.load(conftest.DATA / "training.npz", allow_pickle=False) as content:
        record = {key.removeprefix(f"{name}_"): content[key] for key in content.files if key.startswith(f"{name}_")}
        expected = dict(zip(content["loss_names"].tolist(), record["losses"], strict=True))
    class_ids = record["t_class_ids"]
    found = value(losses.mrcnn_class_loss_graph, class_ids, record["mrcnn_class_logits"])
    assert found == pytest.approx(expected["mrcnn_class_loss"], rel=1e-6)
    found = value(losses.mrcnn_bbox_loss_graph, record["t_deltas"], class_ids, record["mrcnn_bbox"])
    assert found == pytest.approx(expected["mrcnn_bbox_loss"], rel=1e-6)
    shape = record["t_masks_shape"]
    masks = np.unpackbits(record["t_masks_packed"])[: np.prod(shape)].reshape(shape)
    predicted = np.full(shape, 0.5, np.float32)  # those of the other rows are not recorded
    image, row = record["mrcnn_mask_pos_index"].T
    assert np.array_equal(np.argwhere(class_ids > 0), record["mrcnn_mask_pos_index"])
    predicted[image, row] = record["mrcnn_mask_pos"]
    found = value(losses.mrcnn_mask_loss_graph, masks, class_ids, predicted)
    assert found == pytest.approx(expected["mrcnn_mask_loss"], rel=1e-6)
