"""Models as compiled functions; on JAX see tests/test_jax.py."""

import keras
import numpy as np
import pytest

from siamese_mrcnn_tf import SiamesePredictor
from siamese_mrcnn_tf.modeling.compiled import compiled


@pytest.mark.parametrize("xla", [False, True])
def test_a_model_is_built_once_and_new_weights_are_used(xla):
    built = []

    def build():
        one, two = keras.Input((2,)), keras.Input((2,))
        built.append(keras.Model([one, two], keras.layers.Dense(1, kernel_initializer="ones")(one) + two))
        return built[-1]

    function, values = compiled(build, xla=xla), np.float32([[1, 2], [3, 4]])
    assert not built
    np.testing.assert_allclose(function(values, values), [[4, 5], [10, 11]])
    built[0].set_weights([np.float32([[1], [0]]), np.float32([1])])
    np.testing.assert_allclose(function(values[:1], values[:1]), [[3, 4]])
    assert len(built) == 1


@pytest.mark.slow
def test_xla_detects_the_same(tiny_model, scene, crop):
    found = []
    for xla in (False, True):
        config = tiny_model.config.replace(USE_XLA=xla)
        predictor = SiamesePredictor(config, layers=tiny_model.predictor.layers)
        predictor.set_image(scene)
        found.append(predictor.detect(crop))
    expected, by_xla = found
    assert len(expected["rois"]) > 0
    np.testing.assert_allclose(by_xla["rois"], expected["rois"], atol=1)
    np.testing.assert_allclose(by_xla["scores"], expected["scores"], atol=1e-3)
    assert (by_xla["masks"] != expected["masks"]).mean() < 1e-3
