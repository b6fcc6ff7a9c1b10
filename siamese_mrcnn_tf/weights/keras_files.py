"""Writes the files of Keras 3, .weights.h5 and .keras, through memory.

HDF5 keeps data back until it closes a file, and ends the process when it then meets a full disk. In memory it meets
none, and what is written from there is checked.
"""

import contextlib
import gc
import io
import os
from typing import TYPE_CHECKING

from ..io.files import StrPath, write_bytes

if TYPE_CHECKING:
    import keras


class _Memory(io.BytesIO):
    """A file in memory, which Keras knows by the suffix of its name."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def __str__(self) -> str:
        return self._name


def write_state(model: "keras.Model", path: StrPath) -> None:
    """Write the weights of a model and the state of its optimizer to a .weights.h5 file, whole or not at all."""
    memory = _Memory(os.path.basename(path))
    model.save_weights(memory)
    _keep_names_of_optimizers()
    write_bytes(path, memory.getbuffer())
    gc.collect()  # Keras leaves objects that point at each other; they would stay for thousands of steps


def write_model(model: "keras.Model", path: StrPath) -> None:
    """Write a model to a .keras file, whole or not at all."""
    memory = _Memory(os.path.basename(path))
    model.save(memory)
    write_bytes(path, memory.getbuffer())


def _keep_names_of_optimizers() -> None:
    """Let Keras find the names that it leaves out of optimizers.

    Keras 3.15 stores them under another key than it looks for, and so builds an optimizer for each file; about 70 KB of
    its variables stay in memory.
    """
    with contextlib.suppress(ImportError, AttributeError):  # of a Keras that has no such place
        from keras.src.backend.common import global_state

        stored, wanted = (f"saving_attr_{word}_Optimizer" for word in ("skipset", "skiplist"))
        names = global_state.get_global_attribute(stored, None)
        if names is not None:
            global_state.set_global_attribute(wanted, names)
