"""A SavedModel as a session."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np


def open_saved_model(path: Path, outputs: Sequence[str]) -> Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
    """The signature "serving_default" of a SavedModel as a function of arrays by name."""
    import tensorflow as tf

    model = tf.saved_model.load(str(path))
    signature = model.signatures["serving_default"]

    def run(inputs: Mapping[str, np.ndarray], model: object = model) -> dict[str, np.ndarray]:  # keeps the variables
        found = signature(**{name: tf.constant(value) for name, value in inputs.items()})
        return {name: found[name].numpy() for name in outputs}

    return run
