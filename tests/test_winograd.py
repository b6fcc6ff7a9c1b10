"""`ops.winograd`: the same convolution in fewer products."""

import numpy as np
import pytest
from keras import ops

from siamese_mrcnn_tf.ops import winograd
from siamese_mrcnn_tf.ops.tracing import allowing_winograd

pytestmark = pytest.mark.slow  # compiled by XLA


@pytest.mark.parametrize(("shape", "batch"), [((64, 128), 1), ((61, 120), 2)])
def test_the_convolution_borders_included(shape, batch):
    rng = np.random.default_rng(0)
    maps = np.maximum(rng.standard_normal((batch, *shape, 128)), 0).astype(np.float32)
    kernel = (rng.standard_normal((3, 3, 128, 128)) / 34).astype(np.float32)
    expected = np.asarray(ops.conv(maps, kernel, padding="same"))
    found = np.asarray(winograd.convolve(ops.convert_to_tensor(maps), ops.convert_to_tensor(kernel)))
    assert found.shape == expected.shape
    difference = np.abs(found - expected) / np.abs(expected).max()
    assert difference.max() < 5e-5 and difference.mean() < 2e-6


def test_its_gradients():
    import tensorflow as tf

    rng = np.random.default_rng(1)
    maps, upstream = (tf.constant(rng.standard_normal((2, 32, 128, 128)).astype(np.float32)) for _ in range(2))
    kernel = tf.constant((rng.standard_normal((3, 3, 128, 128)) / 34).astype(np.float32))
    found = []
    for convolve in (winograd.convolve, lambda maps, kernel: tf.nn.conv2d(maps, kernel, 1, "SAME")):
        with tf.GradientTape() as tape:
            tape.watch((maps, kernel))
            total = tf.reduce_sum(convolve(maps, kernel) * upstream)
        found.append(tape.gradient(total, (maps, kernel)))
    for mine, theirs in zip(*found, strict=True):
        assert np.abs(mine - theirs).max() < 5e-5 * np.abs(theirs).max()


def test_where_it_applies():
    maps, kernel = np.zeros((1, 64, 128, 128), np.float32), np.zeros((3, 3, 128, 256), np.float32)
    assert not winograd.applies(maps, kernel, (1, 1))
    with allowing_winograd():
        assert winograd.applies(maps, kernel, (1, 1))
        assert not winograd.applies(maps, kernel, (2, 2))
        assert not winograd.applies(maps.astype(np.float16), kernel, (1, 1))
        assert not winograd.applies(maps[:, :, :64], kernel, (1, 1))  # half of the block would be padding
        assert not winograd.applies(maps[..., :64], kernel[:, :, :64], (1, 1))
        assert not winograd.applies(maps, kernel[:1, :1], (1, 1))
        with allowing_winograd(False):
            assert not winograd.applies(maps, kernel, (1, 1))
