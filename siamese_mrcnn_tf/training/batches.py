"""Batches for `fit`: samples made ahead of time by threads or processes, in order.

    loader = SampleLoader(TrainingSamples(dataset, config, seed=0), config, workers=4)
    model.fit(TrainingBatches(loader, first_step=0, num_batches=1000))

Batch n of a run holds the samples n * batch_size to (n + 1) * batch_size - 1, whatever makes them.
"""

import keras


class TrainingBatches(keras.utils.PyDataset):
    """Some of the batches of a run.

    Args:
        loader: SampleLoader.
        first_step: number of the first batch.
        num_batches: how many.
    """

    def __init__(self, loader, *, first_step=0, num_batches):
        super().__init__()  # one Keras worker: it keeps the order, and the loader has workers of its own
        self.loader, self.first_step = loader, first_step
        self._num_batches = num_batches

    @property
    def num_batches(self):
        return self._num_batches

    def __getitem__(self, index):
        """(dict of the model's inputs,) of one batch."""
        return (self.loader.batch(self.first_step + index),)
