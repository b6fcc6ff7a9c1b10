"""A toy of a training run: numbered samples that are four numbers, and a model of four layers that learns from them.

Nothing here imports Keras before it is needed, so that processes which make samples start fast.
"""

import sys
import threading
import types

import numpy as np

CONFIG = types.SimpleNamespace(
    BATCH_SIZE=2,
    OPTIMIZER="sgd",
    LEARNING_MOMENTUM=0.9,
    ADAM_BETA_2=0.99,
    GRADIENT_CLIP_NORM=5.0,
    WARM_UP_STEPS=0,
    USE_XLA=False,
)


class Numbers:
    """Makes sample n: n itself, and three numbers that depend on it. Image k of seven is called toy/k.png.

    Args:
        broken: numbers of the samples that cannot be made.
        infinite: number from which on samples hold infinity.
        endless: numbers of the samples that are never made.
    """

    def __init__(self, broken=(), infinite=None, endless=()):
        self.broken, self.infinite, self.endless = broken, infinite, endless
        self.dataset, self.made = self, []

    def image_of(self, number):
        return number % 7

    def image_reference(self, image_id):
        return f"toy/{image_id}.png"

    def __getitem__(self, number):
        if number in self.broken:
            raise RuntimeError(f"training sample {number}, image toy/{self.image_of(number)}.png: cut off")
        if number in self.endless:
            threading.Event().wait()
        self.made.append(number)
        values = np.random.default_rng(number).standard_normal(3)
        if self.infinite is not None and number >= self.infinite:
            values[0] = np.inf
        return np.array([number, *values], np.float32)


class Modules(Numbers):
    """Makes of each number whether Keras is imported where it is made: 1 or 0."""

    def __getitem__(self, number):
        return np.array([number, "keras" in sys.modules], np.float32)


class Large(Numbers):
    """Makes samples that take a while to be handed over by a process: 32 MB of the number."""

    def __getitem__(self, number):
        return np.full(2**23, number, np.float32)


class Same(Numbers):
    """The same sample for each number."""

    def __init__(self, sample):
        super().__init__()
        self.sample = sample

    def __getitem__(self, number):
        return self.sample


def collate(samples, config):
    return {"input_x": np.stack(samples)}


class StopAfter(threading.Event):
    """Is set when it has been asked `count` times."""

    def __init__(self, count):
        super().__init__()
        self.left = count

    def is_set(self):
        self.left -= 1
        return self.left < 0


def build_model(seed=0):
    """(model, layers): conv1 and res4a inside a nested model, then mrcnn_a and the frozen-statistics bn of Keras.

    The first of a sample's four numbers is left out of the loss; its mean over an epoch is the metric `number`,
    which counts a batch as one, as the losses of the real model do.
    """
    import keras
    from keras import ops

    from siamese_mrcnn_tf.training.distribution import replicas_in_sync

    class Toy(keras.Model):
        def __init__(self, inputs, outputs, **kwargs):
            super().__init__(inputs, outputs, **kwargs)
            self.numbers = keras.metrics.Mean(name="number")

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            self.numbers.update_state(ops.mean(x["input_x"][:, 0]))
            error = y_pred - ops.sum(x["input_x"][:, 1:], axis=-1, keepdims=True)
            return ops.mean(ops.square(error)) / replicas_in_sync()

    def dense(units, name, number):
        return keras.layers.Dense(
            units,
            activation="tanh" if units > 1 else None,
            kernel_initializer=keras.initializers.RandomNormal(seed=seed + number),
            name=name,
        )

    image = keras.Input((3,))
    backbone = keras.Model(image, dense(4, "res4a", 1)(dense(4, "conv1", 0)(image)), name="resnet_model")
    inputs = keras.Input((4,), name="input_x")
    features = dense(3, "rpn_a", 2)(backbone(inputs[:, 1:]))
    model = Toy({"input_x": inputs}, dense(1, "mrcnn_a", 3)(features))
    heads = [model.get_layer("rpn_a"), model.get_layer("mrcnn_a")]
    return model, types.SimpleNamespace(layers=[backbone, *heads])


def save_legacy(layers, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"legacy")
