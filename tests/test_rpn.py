"""The region proposal network: order of the anchors, values against numpy, proposals by hand, anchors of a batch."""

import keras
import numpy as np
import pytest
from keras import ops
from network_values import fill, relu, softmax

from siamese_mrcnn_tf.modeling import rpn
from siamese_mrcnn_tf.ops import bands, tracing
from siamese_mrcnn_tf.ops.anchors import generate_anchors

CHANNELS = 3
NO_DELTAS = (1.0, 1.0, 1.0, 1.0)  # bbox_std_dev that leaves deltas unchanged


def tensor(values):
    return ops.convert_to_tensor(np.asarray(values, np.float32))


def array(values):
    return ops.convert_to_numpy(values)


def foreground(scores):
    """RPN or class probabilities [batch, n, 2] with these scores in the second place."""
    scores = np.asarray(scores, np.float32)
    return np.stack([1 - scores, scores], axis=-1)


# ---- model -------------------------------------------------------------------------------------------------------
def counting_rpn(ratios, stride):
    """An RPN whose outputs tell where they come from: the cell's value plus 1000 times the filter's index."""
    model = rpn.build_rpn_model(stride, ratios, 1, 2)
    shared = np.zeros((3, 3, 1, 2))
    at = 1 if stride == 1 else 0  # the cell itself; "same" padding of even sizes at stride 2 begins at it
    shared[at, at, 0, 0] = 1
    model.get_layer("rpn_conv_shared").set_weights([shared, np.zeros(2)])
    for name, filters in (("rpn_class_raw", 2 * ratios), ("rpn_bbox_pred", 4 * ratios)):
        kernel = np.zeros((1, 1, 2, filters))
        kernel[0, 0, 0] = 1
        model.get_layer(name).set_weights([kernel, 1000.0 * np.arange(filters)])
    return model


@pytest.mark.parametrize(("ratios", "stride"), [(3, 1), (2, 1), (3, 2)])
def test_rpn_rows_are_ordered_by_y_x_ratio(ratios, stride):
    feature_map = np.arange(2 * 4 * 6, dtype=np.float32).reshape(2, 4, 6, 1)
    outputs = counting_rpn(ratios, stride)(feature_map)
    places = feature_map[:, ::stride, ::stride].reshape(2, -1, 1, 1)
    logits = places + 1000.0 * np.arange(2 * ratios).reshape(ratios, 2)
    deltas = places + 1000.0 * np.arange(4 * ratios).reshape(ratios, 4)
    np.testing.assert_array_equal(outputs["rpn_class_logits"], logits.reshape(2, -1, 2))
    np.testing.assert_array_equal(outputs["rpn_bbox"], deltas.reshape(2, -1, 4))
    anchors = generate_anchors(8, [1] * ratios, (4, 6), 1, stride)
    centers = (anchors[:, :2] + anchors[:, 2:]) / 2  # with 1 pixel a cell: the cell of each row
    cells = feature_map[0, centers[:, 0].astype(int), centers[:, 1].astype(int), 0]
    np.testing.assert_array_equal(np.asarray(outputs["rpn_bbox"])[0, :, 0] % 1000, cells)


def test_rpn_equals_plain_operations():
    model = rpn.build_rpn_model(1, 3, CHANNELS, 7)
    fill(model.layers)
    assert {layer.name for layer in model.layers if layer.weights} == {
        "rpn_conv_shared",
        "rpn_class_raw",
        "rpn_bbox_pred",
    }
    feature_map = np.random.default_rng(1).normal(size=(2, 5, 4, CHANNELS)).astype(np.float32)
    kernel, bias = model.get_layer("rpn_conv_shared").weights
    shared = relu(np.asarray(ops.conv(feature_map, kernel, padding="same") + bias))
    outputs = {name: np.asarray(values) for name, values in model(feature_map).items()}
    assert set(outputs) == {"rpn_class_logits", "rpn_class", "rpn_bbox"}
    for name, layer, width in (("rpn_class_logits", "rpn_class_raw", 2), ("rpn_bbox", "rpn_bbox_pred", 4)):
        kernel, bias = (weight.numpy() for weight in model.get_layer(layer).weights)
        np.testing.assert_allclose(outputs[name], (shared @ kernel[0, 0] + bias).reshape(2, -1, width), atol=1e-5)
    np.testing.assert_allclose(outputs["rpn_class"], softmax(outputs["rpn_class_logits"]), atol=1e-6)


@pytest.mark.slow  # compiled by XLA
@pytest.mark.parametrize("height", [64, 61])
def test_rpn_of_large_maps_in_bands(height):
    rng = np.random.default_rng(2)
    model = rpn.build_rpn_model(1, 3, 128, 256)
    for weight in model.weights:
        weight.assign(rng.normal(size=weight.shape) / 30)
    maps, head = tensor(rng.normal(size=(2, height, 120, 128))), rpn.RPNHead(model)
    term = tensor(rng.normal(size=(1, height, 120, 256)))
    kernel = model.get_layer(rpn.RPN_CONV).kernel.value
    added = head.outputs(maps, kernel, term)
    with tracing.detecting():
        for name, expected in model(maps).items():
            np.testing.assert_allclose(array(head(maps)[name]), array(expected), atol=1e-6)
        with tracing.allowing_winograd():
            in_bands, added_in_bands = head(maps), head.outputs(maps, kernel, term)
    for name, expected in model(maps).items():
        np.testing.assert_allclose(array(in_bands[name]), array(expected), atol=1e-4)
        np.testing.assert_allclose(array(added_in_bands[name]), array(added[name]), atol=1e-4)
    assert np.abs(array(added["rpn_bbox"]) - array(in_bands["rpn_bbox"])).max() > 0.1


def test_rpn_takes_maps_of_any_size():
    model = rpn.build_rpn_model(1, 3, CHANNELS, 4)
    for height, width in ((1, 1), (4, 7)):
        outputs = model(np.zeros((2, height, width, CHANNELS)))
        assert outputs["rpn_class"].shape == (2, height * width * 3, 2)
        assert outputs["rpn_bbox"].shape == (2, height * width * 3, 4)


def test_rpn_of_an_empty_batch(empty_convolutions):
    model = rpn.build_rpn_model(1, 3, CHANNELS, 4)
    assert model(np.zeros((0, 4, 4, CHANNELS)))["rpn_bbox"].shape == (0, 48, 4)


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


def test_proposals_of_an_empty_batch():
    inputs = [ops.zeros((0, 5, width)) for width in (2, 4, 4)]
    assert rpn.ProposalLayer(3, 0.7, 100, NO_DELTAS)(inputs).shape == (0, 3, 4)


@pytest.mark.parametrize(("anchors", "rows"), [(9, 5), (3, 3)])
def test_layer_of_refined_anchors_survives_its_configuration(anchors, rows):
    layer = rpn.RefinedAnchorsLayer(5, (0.1, 0.1, 0.2, 0.2), name="refined_anchors")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert again.get_config() == layer.get_config() and again.pre_nms_limit == 5
    shapes = [(None, anchors, 2), (None, anchors, 4), (None, anchors, 4)]
    outputs = again([np.zeros((2, *shape[1:]), np.float32) for shape in shapes])
    expected = {name: tuple(values.shape[1:]) for name, values in outputs.items()}
    assert {name: shape[1:] for name, shape in layer.compute_output_shape(shapes).items()} == expected
    assert expected["refined_anchors"] == (rows, 4)


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


# ---- export ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("limit", [1, 3, 20, 59, 60, 6000])
@pytest.mark.parametrize("count", [1, 7, 40])
def test_proposals_of_exported_graphs_are_the_same(limit, count):
    rng = np.random.default_rng(limit)
    corners = rng.uniform(0, 1, (1, 60, 4)).astype(np.float32)
    top_left, bottom_right = (
        np.minimum(corners[..., :2], corners[..., 2:]),
        np.maximum(corners[..., :2], corners[..., 2:]),
    )
    anchors = np.concatenate([top_left, bottom_right], axis=-1)
    inputs = foreground(rng.permutation(60)[None] / 60), rng.normal(0, 0.3, (1, 60, 4)).astype(np.float32), anchors
    settings = {"proposal_count": count, "nms_threshold": 0.5, "pre_nms_limit": limit, "bbox_std_dev": NO_DELTAS}
    expected = array(rpn.proposal_graph(*map(tensor, inputs), **settings))
    with tracing.exportable():
        found = array(rpn.proposal_graph(*map(tensor, inputs), **settings))
    np.testing.assert_allclose(found, expected, atol=1e-7)
    assert 1 <= expected.any(axis=-1).sum() <= min(count, limit)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="int8 is quantized from TensorFlow's graphs")
@pytest.mark.parametrize("as_map", [False, True])
def test_bands_of_quantized_graphs_are_the_same(monkeypatch, as_map):
    rng = np.random.default_rng(3)
    head = rpn.RPNHead(rpn.build_rpn_model(1, 3, 2, conv_channels=4))
    for weight in head.rpn_model.weights:
        weight.assign(rng.normal(size=weight.shape))
    maps = tensor(rng.normal(size=(1, 256, 256, 2)))
    kernel, term = tensor(rng.normal(size=(3, 3, 2, 4))), tensor(rng.normal(size=(1, 256, 256, 4) if as_map else 4))
    expected = head.outputs(maps, kernel, term)
    convolved, convolve = [], bands.convolved_bands
    monkeypatch.setattr(bands, "convolved_bands", lambda *given: convolved.append(convolve(*given)) or convolved[-1])
    with tracing.quantizable():
        assert bands.applies_in_int8(maps) and not bands.applies_in_int8(maps[:, :128])
        found = head.outputs(maps, kernel, term)
    assert not bands.applies_in_int8(maps)
    assert [len(one) for one in convolved] == [8]
    for name, values in expected.items():
        np.testing.assert_allclose(array(found[name]), array(values), rtol=1e-4, atol=1e-5, err_msg=name)
