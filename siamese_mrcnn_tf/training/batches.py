"""Batches for `fit`, from a loader that makes samples ahead of time.

    loader = SampleLoader(TrainingSamples(dataset, config, seed=0), config, workers=4)
    model.fit(TrainingBatches(loader, first_step=0, num_batches=1000))

Batches are numbered through a run, whatever its epochs are.
"""

import keras
import numpy as np

from ..data.loader import SampleLoader


class TrainingBatches(keras.utils.PyDataset):
    """A range of the batches of a run: `num_batches` from number `first_step` on."""

    def __init__(self, loader: SampleLoader, *, first_step: int = 0, num_batches: int) -> None:
        super().__init__()  # one Keras worker: it keeps the order, and the loader has workers of its own
        self.loader, self.first_step = loader, first_step
        self._num_batches = num_batches

    @property
    def num_batches(self) -> int:
        return self._num_batches

    def __getitem__(self, index: int) -> tuple[dict[str, np.ndarray]]:
        """(dict of the model's inputs,) of one batch."""
        return (self.loader.batch(self.first_step + index),)
