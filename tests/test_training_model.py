"""Optimizers: those of Keras on one device, clipping after the sum on several; the overrides that Keras must call."""

import collections
import json
import math
import pathlib
import subprocess
import sys
import types

import keras
import numpy as np
import pytest
import toy

from siamese_mrcnn_tf.training import training_model
from siamese_mrcnn_tf.training.training_model import ReducedClipAdam, ReducedClipSGD, TrainingModel, compile_model

HERE = pathlib.Path(__file__).parent
OVERRIDES = {
    "_maybe_symbolic_build": TrainingModel,
    "_clip_gradients": training_model._ReducedClip,
    "_all_reduce_sum_gradients": training_model._ReducedClip,
}
CONFIG = types.SimpleNamespace(**vars(toy.CONFIG) | {"GRADIENT_CLIP_NORM": 1.0})


class Pulled(TrainingModel):
    """A layer of two weights w on each sample x: the loss -sum(w * x) / samples has the gradient -mean(x)."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return -keras.ops.mean(y_pred["pull"]) / training_model.replicas_in_sync()


def one_step(config=CONFIG):
    """(calls of each override in a step of `fit`, the two weights after it, which begin at 0)."""
    inputs = keras.Input((2,))
    pull = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")(inputs)
    model = Pulled(inputs, {"pull": pull}, loss_weights={}, weight_decay=0.0)
    compile_model(model, config, learning_rate=1.0)
    calls = collections.Counter()

    def counted(name, method):
        def call(self, *arguments, **named):
            calls[name] += 1
            return method(self, *arguments, **named)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name, owner in OVERRIDES.items():
            patch.setattr(owner, name, counted(name, vars(owner)[name]))
        model.fit(np.float32([[6, 8], [2, 0]]), batch_size=2, shuffle=False, verbose=0)
    return dict(calls), model.get_weights()[0].ravel().tolist()


# ---- overrides of private methods of Keras -----------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_keras_calls_every_override(optimizer):
    calls, weights = one_step(types.SimpleNamespace(**vars(CONFIG) | {"OPTIMIZER": optimizer}))
    assert calls.keys() == OVERRIDES.keys()
    if optimizer == "sgd":
        # the gradient (4, 4), clipped to the norm 1
        np.testing.assert_allclose(weights, 2 * [math.sqrt(0.5)], rtol=1e-5)


@pytest.mark.slow
def test_two_devices_clip_the_sum_of_their_gradients():
    """Their gradients are (3, 4) and (1, 0): Keras would clip each to the norm 1 and make (1.6, 0.8) of them."""
    code = """
import json
from siamese_mrcnn_tf.training import distribution
with distribution.device_scope(2):
    import test_training_model as tests
    calls, weights = tests.one_step()
    print(json.dumps([calls, weights]))
"""
    ran = subprocess.run([sys.executable, "-c", code], cwd=HERE, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    calls, weights = json.loads(ran.stdout.splitlines()[-1])
    assert calls.keys() == OVERRIDES.keys()
    np.testing.assert_allclose(weights, 2 * [math.sqrt(0.5)], rtol=1e-5)


# ---- optimizers --------------------------------------------------------------------------------------------------


def test_on_one_device_the_optimizer_is_that_of_keras():
    gradients = [np.float32([[3, -4], [0, 12]]), np.float32([1, 2])]  # of norm 13.2
    updates = []
    for kind in (keras.optimizers.SGD, ReducedClipSGD):
        variables = [keras.Variable(np.ones(gradient.shape), dtype="float32") for gradient in gradients]
        optimizer = kind(0.1, 0.9, global_clipnorm=5.0)
        for share in (1, -0.5, 0.01):  # the last is not clipped
            optimizer.apply([keras.ops.convert_to_tensor(share * gradient) for gradient in gradients], variables)
        updates.append([variable.numpy() for variable in variables])
    for keras_own, ours in zip(*updates, strict=True):
        np.testing.assert_array_equal(ours, keras_own)
    clipped = 5 / np.sqrt(sum(np.square(gradient).sum() for gradient in gradients))
    steps = [clipped, -clipped, 0.01]
    momentum = total = 0
    for step in steps:
        momentum = 0.9 * momentum - 0.1 * step
        total += momentum
    np.testing.assert_allclose(updates[1][0], 1 + total * gradients[0], rtol=1e-5)


def test_adam_by_hand_with_clipping_over_all_variables():
    """Two steps: the first gradient has the norm 10 and is cut to 5, the second has the norm 1."""
    changed = {"OPTIMIZER": "adam", "LEARNING_MOMENTUM": 0.8, "ADAM_BETA_2": 0.95}
    config = types.SimpleNamespace(**vars(toy.CONFIG) | changed)
    model, _ = toy.build_model()
    compile_model(model, config, learning_rate=0.1)
    optimizer = model.optimizer
    assert isinstance(optimizer, ReducedClipAdam)
    assert (optimizer.beta_1, optimizer.beta_2, optimizer.global_clipnorm) == (0.8, 0.95, 5.0)
    variables = [keras.Variable(np.zeros(1), dtype="float32") for _ in range(2)]
    for gradients in ((6, 8), (0.6, -0.8)):
        optimizer.apply([keras.ops.convert_to_tensor([float(gradient)]) for gradient in gradients], variables)
    for variable, (first, second) in zip(variables, ((3, 0.6), (4, -0.8)), strict=True):
        mean = (0.8 * 0.2 * first + 0.2 * second) / (1 - 0.8**2)
        square = (0.95 * 0.05 * first**2 + 0.05 * second**2) / (1 - 0.95**2)
        expected = -0.1 * (1 + mean / math.sqrt(square))  # a first step is as long as the learning rate
        assert float(variable.value[0]) == pytest.approx(expected, abs=1e-5)


def test_on_one_device_adam_is_that_of_keras():
    updates = []
    for kind in (keras.optimizers.Adam, ReducedClipAdam):
        variables = [keras.Variable(np.ones(3), dtype="float32") for _ in range(2)]
        optimizer = kind(0.1, 0.9, 0.99, global_clipnorm=2.0)
        for share in (5.0, -0.5, 0.01):
            optimizer.apply([keras.ops.convert_to_tensor(np.float32([3, -4, 0]) * share)] * 2, variables)
        updates.append([variable.numpy() for variable in variables])
    np.testing.assert_array_equal(*updates)


def test_the_momentum_of_a_configuration_can_be_overruled():
    model, _ = toy.build_model()
    for optimizer, kind, name in (("adam", ReducedClipAdam, "beta_1"), ("sgd", ReducedClipSGD, "momentum")):
        config = types.SimpleNamespace(**vars(toy.CONFIG) | {"OPTIMIZER": optimizer})
        compile_model(model, config, learning_rate=0.1, momentum=0.5)
        assert type(model.optimizer) is kind and getattr(model.optimizer, name) == 0.5
