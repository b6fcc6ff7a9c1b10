"""Random weights, and the operations of the heads in numpy."""

import numpy as np
from keras import ops

from siamese_mrcnn_tf.ops.image_meta import compose_image_meta


def fill(layers, seed=0):
    """Random weights, variances positive."""
    rng = np.random.default_rng(seed)
    for layer in layers:
        for weight in layer.weights:
            low, high = (0.5, 1.5) if weight.name in ("gamma", "moving_variance") else (-0.5, 0.5)
            weight.assign(rng.uniform(low, high, weight.shape))


def relu(x):
    return np.maximum(x, 0)


def batch_norm(x, layer):
    gamma, beta, mean, variance = (weight.numpy() for weight in layer.weights)
    return (x - mean) / np.sqrt(variance + 1e-3) * gamma + beta


def softmax(x):
    exponents = np.exp(x - x.max(axis=-1, keepdims=True))
    return exponents / exponents.sum(axis=-1, keepdims=True)


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
