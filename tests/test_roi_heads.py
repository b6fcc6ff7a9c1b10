"""The RoI heads: values against numpy on tiny sizes, rois folded into the batch."""

import functools

import keras
import numpy as np
import pytest
from keras import ops
from network_values import batch_norm, fill, relu, softmax

from siamese_mrcnn_tf.modeling import roi_heads
from siamese_mrcnn_tf.modeling.roi_align import PyramidROIAlign
from siamese_mrcnn_tf.ops import tracing
from siamese_mrcnn_tf.ops.image_meta import compose_image_meta

CHANNELS, COUNT, FC, MASK_CHANNELS, CLASSES = 3, 5, 4, 6, 2
SIDES = (16, 8, 4, 2)


# ---- class, box and mask heads -----------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def classifier():
    return roi_heads.build_classifier_layers(2, CLASSES, fc_layers_size=FC)


@pytest.fixture(scope="module")
def mask():
    return roi_heads.build_mask_layers(channels=MASK_CHANNELS)


@pytest.fixture(scope="module")
def model(classifier, mask):
    """Both heads over the same rois, with random weights."""
    rois, meta = keras.Input((COUNT, 4)), keras.Input((14,))
    maps = [keras.Input((side, side, CHANNELS)) for side in SIDES]
    head = functools.partial(roi_heads.class_head_graph, layers=classifier)
    outputs = roi_heads.fpn_classifier_graph(rois, maps, meta, head, pool_size=2, canonical_size=32)
    masks = roi_heads.build_fpn_mask_graph(rois, maps, meta, mask, pool_size=3, canonical_size=32)
    built = keras.Model([rois, meta, *maps], {**outputs, **masks})
    fill([*classifier.values(), *mask.values()])
    return built


@pytest.fixture(scope="module")
def inputs():
    """Two images; the last roi is zero-padded."""
    rng = np.random.default_rng(2)
    corners = np.sort(rng.random((2, COUNT, 2, 2)), axis=2).reshape(2, COUNT, 4)
    corners[:, -1] = 0
    meta = compose_image_meta(0, (64, 64, 3), (64, 64, 3), (0, 0, 64, 64), 1.0, [1, 1])
    maps = [rng.normal(size=(2, side, side, CHANNELS)) for side in SIDES]
    return [np.asarray(values, np.float32) for values in (corners, np.stack([meta, meta]), *maps)]


@pytest.fixture(scope="module")
def outputs(model, inputs):
    return {name: np.asarray(values) for name, values in model(inputs).items()}


def test_layers_of_the_heads_have_the_original_names(classifier, mask):
    assert list(classifier) == [
        "mrcnn_class_conv1",
        "mrcnn_class_bn1",
        "mrcnn_class_conv2",
        "mrcnn_class_bn2",
        "mrcnn_class_logits",
        "mrcnn_bbox_fc",
    ]
    numbered = [name for index in (1, 2, 3, 4) for name in (f"mrcnn_mask_conv{index}", f"mrcnn_mask_bn{index}")]
    assert list(mask) == [*numbered, "mrcnn_mask_deconv", "mrcnn_mask"]
    assert all(layer.name == name for name, layer in {**classifier, **mask}.items())


@pytest.mark.parametrize("switch", [tracing.exportable, tracing.detecting])
def test_the_class_head_as_matrix_products_is_the_same(classifier, model, switch):
    pooled = np.random.default_rng(3).normal(size=(COUNT, 2, 2, CHANNELS)).astype(np.float32)
    expected = roi_heads.class_head_graph(ops.convert_to_tensor(pooled), classifier)
    with switch():
        found = roi_heads.class_head_graph(ops.convert_to_tensor(pooled), classifier)
    for name, values in expected.items():
        np.testing.assert_allclose(np.asarray(found[name]), np.asarray(values), rtol=1e-5, atol=1e-6, err_msg=name)


def test_shapes_of_all_outputs(outputs):
    inner = (2, COUNT, 3, 3, MASK_CHANNELS)
    assert {name: values.shape for name, values in outputs.items()} == {
        "roi_align_classifier": (2, COUNT, 2, 2, CHANNELS),
        "mrcnn_class_bn1": (2, COUNT, 1, 1, FC),
        "mrcnn_class_bn2": (2, COUNT, 1, 1, FC),
        "mrcnn_class_logits": (2, COUNT, CLASSES),
        "mrcnn_class": (2, COUNT, CLASSES),
        "mrcnn_bbox": (2, COUNT, 4),
        "roi_align_mask": (2, COUNT, 3, 3, CHANNELS),
        **{f"mrcnn_mask_bn{index}": inner for index in (1, 2, 3, 4)},
        "mrcnn_mask_deconv": (2, COUNT, 6, 6, MASK_CHANNELS),
        "mrcnn_mask": (2, COUNT, 6, 6),
    }


def test_classifier_equals_numpy(outputs, classifier):
    def dense(x, name):
        kernel, bias = (weight.numpy() for weight in classifier[name].weights)
        return x @ kernel.reshape(-1, kernel.shape[-1]) + bias

    pooled = outputs["roi_align_classifier"].reshape(2, COUNT, -1)  # a 2x2 "valid" convolution of 2x2 cells is dense
    bn1 = batch_norm(dense(pooled, "mrcnn_class_conv1"), classifier["mrcnn_class_bn1"])
    bn2 = batch_norm(dense(relu(bn1), "mrcnn_class_conv2"), classifier["mrcnn_class_bn2"])
    np.testing.assert_allclose(outputs["mrcnn_class_bn1"][:, :, 0, 0], bn1, atol=1e-5)
    np.testing.assert_allclose(outputs["mrcnn_class_bn2"][:, :, 0, 0], bn2, atol=1e-5)
    assert bn1.min() < 0 and bn2.min() < 0  # recorded before the ReLU
    logits = dense(relu(bn2), "mrcnn_class_logits")
    np.testing.assert_allclose(outputs["mrcnn_class_logits"], logits, atol=1e-5)
    np.testing.assert_allclose(outputs["mrcnn_class"], softmax(logits), atol=1e-5)
    np.testing.assert_allclose(outputs["mrcnn_bbox"], dense(relu(bn2), "mrcnn_bbox_fc"), atol=1e-5)


def test_mask_head_equals_numpy(outputs, mask):
    def conv(x, name):
        """3x3 with zero padding: the sum over the nine shifts."""
        kernel, bias = (weight.numpy() for weight in mask[name].weights)
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)))
        return bias + sum(padded[:, :, y : y + 3, z : z + 3] @ kernel[y, z] for y in range(3) for z in range(3))

    x = outputs["roi_align_mask"]
    for index in (1, 2, 3, 4):
        x = batch_norm(conv(x, f"mrcnn_mask_conv{index}"), mask[f"mrcnn_mask_bn{index}"])
        np.testing.assert_allclose(outputs[f"mrcnn_mask_bn{index}"], x, atol=1e-4)
        assert x.min() < 0  # recorded before the ReLU
        x = relu(x)
    kernel, bias = (weight.numpy() for weight in mask["mrcnn_mask_deconv"].weights)  # [2, 2, out, in]
    grown = np.zeros((2, COUNT, 6, 6, MASK_CHANNELS))
    for y, z in np.ndindex(2, 2):
        grown[:, :, y::2, z::2] = relu(x @ kernel[y, z].T + bias)
    np.testing.assert_allclose(outputs["mrcnn_mask_deconv"], grown, atol=1e-4)
    kernel, bias = (weight.numpy() for weight in mask["mrcnn_mask"].weights)
    np.testing.assert_allclose(
        outputs["mrcnn_mask"], 1 / (1 + np.exp(-(grown @ kernel[0, 0] + bias)))[..., 0], atol=1e-4
    )


def test_a_batch_is_its_images(model, inputs, outputs):
    for image in range(2):
        alone = model([values[[image]] for values in inputs])
        for name, values in alone.items():
            np.testing.assert_allclose(outputs[name][image], values[0], atol=1e-5)
    assert not np.allclose(outputs["mrcnn_class"][0], outputs["mrcnn_class"][1])


def test_zero_padded_rois_see_the_first_cell_of_p2(outputs, inputs):
    corner = inputs[2][:, :1, :1]
    np.testing.assert_allclose(outputs["roi_align_classifier"][:, -1], np.tile(corner, (1, 2, 2, 1)), rtol=1e-6)
    np.testing.assert_allclose(outputs["roi_align_mask"][:, -1], np.tile(corner, (1, 3, 3, 1)), rtol=1e-6)


@pytest.mark.parametrize(("name", "side"), [("roi_align_classifier", 2), ("roi_align_mask", 3)])
def test_both_heads_pool_by_the_canonical_size(outputs, inputs, name, side):
    np.testing.assert_array_equal(outputs[name], PyramidROIAlign((side, side), 32)(inputs))
    assert not np.allclose(outputs[name], PyramidROIAlign((side, side), 224)(inputs))


def test_an_empty_batch(empty_convolutions, model, inputs):
    outputs = model([values[:0] for values in inputs])
    assert outputs["mrcnn_bbox"].shape == (0, COUNT, 4)
    assert outputs["mrcnn_mask"].shape == (0, COUNT, 6, 6)


def test_batch_normalization_of_the_heads_stays_frozen(model, inputs, outputs):
    for name, values in model(inputs, training=True).items():
        np.testing.assert_array_equal(values, outputs[name])


def test_train_bn_reaches_the_heads():
    layers = {**roi_heads.build_classifier_layers(2, 2, train_bn=None), **roi_heads.build_mask_layers(train_bn=None)}
    assert [layer.train_bn for name, layer in layers.items() if "_bn" in name] == [None] * 6


def test_released_widths():
    classifier, mask = roi_heads.build_classifier_layers(7, 2), roi_heads.build_mask_layers()
    assert classifier["mrcnn_class_conv1"].filters == 1024 and classifier["mrcnn_class_conv1"].kernel_size == (7, 7)
    assert classifier["mrcnn_class_logits"].units == 2 and classifier["mrcnn_bbox_fc"].units == 4
    assert mask["mrcnn_mask_conv4"].filters == mask["mrcnn_mask_deconv"].filters == 256
    assert mask["mrcnn_mask"].filters == 1


# ---- folding -----------------------------------------------------------------------------------------------------
def test_fold_and_unfold_rois():
    x = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
    folded = roi_heads.fold_rois(ops.convert_to_tensor(x))
    np.testing.assert_array_equal(folded, x.reshape(6, 4, 5))
    np.testing.assert_array_equal(roi_heads.unfold_rois(folded, 3), x)
    np.testing.assert_array_equal(roi_heads.UnfoldRois(3)(folded), x)
    assert roi_heads.fold_rois(ops.zeros((0, 3, 4))).shape == (0, 4)
    assert roi_heads.unfold_rois(ops.zeros((0, 4)), 3).shape == (0, 3, 4)
