"""Weights of keras-applications compute the same features here, where only their padding is equal."""

import types

import keras
import numpy as np
import pytest

from siamese_mrcnn_tf.config import SmallConfig
from siamese_mrcnn_tf.modeling.backbone import BatchNorm, build_resnet_model
from siamese_mrcnn_tf.weights.batch_norm import EPSILON, KERAS_EPSILON, corrected_norms
from siamese_mrcnn_tf.weights.loading import load_weights


def normalized(x, weights, epsilon):
    gamma, beta, mean, variance = (weights[f"bn/{name}"].astype(np.float64) for name in NAMES)
    return gamma * (x - mean) / np.sqrt(variance + epsilon) + beta


NAMES = ("gamma", "beta", "moving_mean", "moving_variance")


def test_function_is_the_same_for_every_variance():
    rng = np.random.default_rng(0)
    weights = {f"bn/{name}": rng.normal(size=6).astype(np.float32) for name in NAMES}
    weights["bn/moving_variance"] = np.float32([0, 1e-7, 9e-4, 9.9e-4, 1e-3, 2.5])
    changed, num_folded = corrected_norms(weights)
    assert num_folded == 3 and set(changed) == {"bn/gamma", "bn/moving_variance"}
    assert (changed["bn/moving_variance"] >= 0).all()
    assert changed["bn/gamma"][3:] == pytest.approx(weights["bn/gamma"][3:], rel=0)
    x = rng.normal(size=(50, 6))
    expected = normalized(x, weights, KERAS_EPSILON)
    np.testing.assert_allclose(normalized(x, {**weights, **changed}, EPSILON), expected, rtol=1e-5, atol=1e-4)
    assert not np.allclose(normalized(x, weights, EPSILON), expected, rtol=1e-2)


def test_epsilon_is_that_of_the_network():
    assert BatchNorm().epsilon == EPSILON


@pytest.mark.slow
def test_stages_of_the_resnet_of_keras(tmp_path):
    theirs = keras_resnet()
    theirs.save(tmp_path / "resnet50.h5")
    ours = build_resnet_model(SmallConfig())
    report = load_weights(types.SimpleNamespace(layers=[ours]), tmp_path / "resnet50.h5")
    assert not report.missing and "channels by their gamma; " in report.notes[-1]
    ends = ["pool1_pool", "conv2_block3_out", "conv3_block4_out", "conv4_block6_out", "conv5_block3_out"]
    stages = keras.Model(theirs.input, [theirs.get_layer(name).output for name in ends])
    assert differences(ours, stages, size=62) == pytest.approx([0] * 5, abs=1e-5)  # conv1 gives 31 rows: both pad alike
    assert min(differences(ours, stages, size=64)) > 1e-2  # 32 rows: the pooling here pads below and to the right only


def differences(ours, theirs, size):
    """Of each stage: the largest difference, relative to its largest value."""
    image = np.random.default_rng(1).normal(0, 50, (1, size, size, 3)).astype(np.float32)
    pairs = [[np.asarray(stage) for stage in pair] for pair in zip(ours(image), theirs(image), strict=True)]
    return [np.abs(stage - other).max() / np.abs(other).max() for stage, other in pairs]


def keras_resnet():
    """A ResNet-50 of keras.applications whose normalizations have random weights, some with hardly any variance."""
    keras.utils.set_random_seed(0)
    model = keras.applications.ResNet50(weights=None, include_top=False)
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            assert layer.epsilon == KERAS_EPSILON
            width = layer.gamma.shape[0]
            variance = np.where(rng.random(width) < 0.1, rng.random(width) * 1e-3, rng.random(width) + 0.5)
            layer.set_weights([rng.uniform(0.1, 0.4, width), rng.normal(size=width), rng.normal(size=width), variance])
    return model
