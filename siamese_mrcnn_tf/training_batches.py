"""Batches for `fit`: samples made ahead of time by threads or processes, in order.

    loader = SampleLoader(SampleMaker(dataset, config, seed=0), config, workers=4)
    model.fit(TrainingBatches(loader, first_step=0, num_batches=1000))

Batch n of a run holds the samples n * batch_size to (n + 1) * batch_size - 1, whatever makes them.
"""

import concurrent.futures
import multiprocessing
import threading
from concurrent.futures.process import BrokenProcessPool

import keras

from .data_generator import make_batch
from .sample_processes import make_in_process, start_process

_AHEAD = 2  # batches begun before they are asked for
_BEHIND = 2  # batches kept: Keras reads the first two of an epoch twice


class SampleLoader:
    """Makes samples ahead of time.

    Args:
        maker: SampleMaker, or another callable from a number to a sample, with `image_of` and `dataset`.
        config: a Config.
        batch_size: samples of a batch; BATCH_SIZE by default.
        workers: threads or processes.
        processes: True for processes, which do not share an interpreter's lock but take a copy of the data set each.
        collate: callable (samples, config) that makes the dict of a batch.

    Attributes:
        failure: the error of the first sample that could not be made, or None.
    """

    def __init__(self, maker, config, *, batch_size=None, workers=1, processes=False, collate=make_batch):
        self.maker, self.config, self.collate = maker, config, collate
        self.batch_size = config.BATCH_SIZE if batch_size is None else batch_size
        self.failure = None
        self._ahead = max(_AHEAD * self.batch_size, workers)
        self._pending, self._lock = {}, threading.Lock()
        if processes:
            self._make = make_in_process
            self._executor = concurrent.futures.ProcessPoolExecutor(
                workers, multiprocessing.get_context("spawn"), start_process, (maker,)
            )
        else:
            self._make = maker
            self._executor = concurrent.futures.ThreadPoolExecutor(workers, "samples")

    def numbers(self, step):
        """Numbers of the samples of a batch."""
        return range(step * self.batch_size, (step + 1) * self.batch_size)

    def images(self, step):
        """What the images of a batch are called, for messages."""
        return [self.maker.dataset.image_reference(self.maker.image_of(number)) for number in self.numbers(step)]

    def batch(self, step):
        """Batch `step`, as `collate` makes it; those after it are begun.

        Raises:
            RuntimeError: a sample could not be made; names the image.
        """
        try:
            futures = self._futures(self.numbers(step))
            return self.collate([future.result() for future in futures], self.config)
        except RuntimeError as error:
            if isinstance(error, BrokenProcessPool):
                error = RuntimeError(f"a process that makes samples died, perhaps for lack of memory ({error})")
            self.failure = self.failure or error
            raise self.failure from None

    def _futures(self, numbers):
        """Those of the samples of a batch; the next are begun, those long past are let go."""
        with self._lock:
            oldest = numbers.start - _BEHIND * self.batch_size
            for number in [number for number in self._pending if number < oldest]:
                self._pending.pop(number).cancel()
            for number in range(numbers.start, numbers.stop + self._ahead):
                if number not in self._pending:
                    self._pending[number] = self._executor.submit(self._make, number)
            return [self._pending[number] for number in numbers]

    def close(self):
        """Stop the workers, which finish the sample in hand; what they make is dropped."""
        # waiting, because Python's own end would stumble over processes that are just ending
        self._executor.shutdown(wait=True, cancel_futures=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


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
