"""Writes the files of Keras 3, .weights.h5 and .keras, through memory.

HDF5 keeps data back until it closes a file, and ends the process when it then meets a full disk. In memory it meets
none, and what is written from there is checked.
"""

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
    write_bytes(path, memory.getbuffer())


def write_model(model: "keras.Model", path: StrPath) -> None:
    """Write a model to a .keras file, whole or not at all."""
    memory = _Memory(os.path.basename(path))
    model.save(memory)
    write_bytes(path, memory.getbuffer())
