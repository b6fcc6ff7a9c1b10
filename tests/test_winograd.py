"""`ops.winograd`: the same convolution in fewer products."""

import gc
import weakref

import numpy as np
import pytest
from keras import ops

from siamese_mrcnn_tf.ops import winograd
from siamese_mrcnn_tf.ops.tracing import allowing_winograd, detecting

pytestmark = pytest.mark.slow  # compiled by XLA


@pytest.mark.parametrize(("shape", "batch"), [((64, 128), 1), ((61, 120), 2)])
def test_the_convolution_borders_included(shape, batch):
    rng = np.random.default_rng(0)
    maps = np.maximum(rng.standard_normal((batch, *shape, 128)), 0).astype(np.float32)
    kernel = (rng.standard_normal((3, 3, 128, 128)) / 34).astype(np.float32)
    expected = np.asarray(ops.conv(maps, kernel, padding="same"))
    maps, kernel = ops.convert_to_tensor(maps), ops.convert_to_tensor(kernel)
    found = np.asarray(winograd.convolve(maps, kernel))
    assert found.shape == expected.shape
    difference = np.abs(found - expected) / np.abs(expected).max()
    assert difference.max() < 5e-5 and difference.mean() < 2e-6
    with detecting():  # without gradients: the same numbers
        assert np.array_equal(winograd.convolve(maps, kernel), found)
    sums = winograd.convolve_then(
        maps, kernel, 1, lambda values, band: ops.sum(values, axis=-1, keepdims=True) + 10.0 * band
    )
    bands = np.arange(shape[0]) // 32
    np.testing.assert_allclose(sums[..., 0], found.sum(axis=-1) + 10 * bands[:, None], atol=1e-4)


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


def test_predictors_and_gradients_leave_no_graph():
    """TensorFlow keeps custom gradients for ever: none may hold the graph that it was traced in, and so its weights."""
    import tensorflow as tf

    maps, kernel = (np.ones(shape, np.float32) for shape in ((1, 32, 128, 128), (3, 3, 128, 128)))

    def traced(in_bands: bool) -> weakref.ref:
        weights = tf.Variable(kernel)

        @tf.function
        def run(maps):
            with tf.GradientTape() as tape, detecting(in_bands):
                outputs = winograd.convolve(maps, weights)
            return outputs if in_bands else tape.gradient(outputs, weights)

        assert np.isfinite(np.asarray(run(maps))).all()
        return weakref.ref(run.get_concrete_function(tf.TensorSpec(maps.shape)).graph)

    graphs = [traced(in_bands) for in_bands in (True, False)]
    gc.collect()
    assert [graph() for graph in graphs] == [None, None]


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
