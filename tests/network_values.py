"""Random weights, and the operations of the heads in numpy."""

import numpy as np


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
