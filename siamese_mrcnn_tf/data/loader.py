"""Loads batches of training samples ahead of time, in threads or worker processes, like PyTorch's DataLoader.

Batch n holds the samples n * batch_size to (n + 1) * batch_size - 1, whatever the number of workers. Nothing here
imports Keras, so that worker processes start fast.
"""

import contextlib
import functools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from typing import Any, Protocol

import numpy as np

from ..config import Config
from ..io.errors import StateError
from ..io.processes import WorkerDied, WorkerProcesses, WorkerThreads
from .data_generator import collate

_PREFETCHED = 2  # batches begun before they are asked for
_KEPT = 2  # past batches kept: Keras reads the first two of an epoch twice
_TIMEOUT = 600.0  # seconds to wait for a sample
_TICK = 1.0  # seconds of a wait that are counted at once: those in which the whole run is stopped are not


class Samples(Protocol):
    """Numbered samples: TrainingSamples, for example. `dataset` has a method `image_reference(image_id)`."""

    dataset: Any

    def image_of(self, number: int) -> int:
        """Image id of a sample."""

    def __getitem__(self, number: int) -> Any:
        """A sample; it depends on its number alone, from 0 on."""


class SampleLoader(contextlib.AbstractContextManager["SampleLoader"]):
    """Makes samples ahead of time.

    Args:
        batch_size: BATCH_SIZE by default.
        workers: number of threads or processes.
        processes: True for processes: they do not share the interpreter's lock, but each has a copy of the data set.
        collate: callable (samples, config) that returns the dict of a batch.
        timeout: seconds to wait for a sample, such as one on a network drive that does not answer.
    """

    def __init__(
        self,
        samples: Samples,
        config: Config,
        *,
        batch_size: int | None = None,
        workers: int = 1,
        processes: bool = False,
        collate: Callable[[Sequence[Any], Any], dict[str, np.ndarray]] = collate,
        timeout: float = _TIMEOUT,
    ) -> None:
        self.samples, self.config, self.collate = samples, config, collate
        self.batch_size = config.BATCH_SIZE if batch_size is None else batch_size
        self.failure: RuntimeError | None = None  # of the first sample that could not be made
        self._ahead = max(_PREFETCHED * self.batch_size, workers)
        self._lock = threading.Lock()
        self._pending: dict[int, Future] = {}
        self._timeout = timeout
        make = samples.__getitem__
        self._workers: WorkerProcesses | WorkerThreads
        self._submit: Callable[[int], Future]
        if processes:
            self._workers = pool = WorkerProcesses(make, workers)
            self._submit = pool.submit
        else:
            self._workers = threads = WorkerThreads(workers)
            self._submit = functools.partial(threads.submit, make)

    def numbers(self, step: int) -> range:
        """Numbers of the samples of a batch."""
        return range(step * self.batch_size, (step + 1) * self.batch_size)

    def images(self, step: int) -> list[str]:
        """Names of the images of a batch, for messages."""
        return [self.samples.dataset.image_reference(self.samples.image_of(number)) for number in self.numbers(step)]

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """Batch `step`, as `collate` returns it; prefetches the next ones.

        Raises:
            RuntimeError: a sample could not be made, or did not come in time; names the image.
        """
        numbers = self.numbers(step)
        try:
            samples = [self._result(*one) for one in zip(numbers, self._futures(numbers), strict=True)]
            return self.collate(samples, self.config)
        except RuntimeError as error:
            self.failure = self.failure or error
            raise self.failure from None

    def _result(self, number: int, future: Future) -> Any:
        """A sample, once it is made."""
        waited = 0.0
        while not future.done() and waited < self._timeout:
            tick = min(_TICK, self._timeout - waited)
            wait([future], tick)
            waited += tick
        try:
            return future.result(0)
        except WorkerDied as error:
            raise StateError(f"{self._name(number)}: {error}") from error
        except TimeoutError as error:
            if future.done():  # raised by what makes the sample
                raise
            slow = f"nothing came within {self._timeout:g} s; does the drive of the image answer?"
            raise StateError(f"{self._name(number)}: {slow}") from error

    def _name(self, number: int) -> str:
        return f"training sample {number}, image {self.samples.dataset.image_reference(self.samples.image_of(number))}"

    def _futures(self, numbers: range) -> list[Future]:
        """Futures of this batch's samples; prefetches the next ones and drops old ones."""
        with self._lock:
            oldest = numbers.start - _KEPT * self.batch_size
            for number in [number for number in self._pending if number < oldest]:
                self._pending.pop(number).cancel()
            for number in range(numbers.start, numbers.stop + self._ahead):
                if number not in self._pending:
                    self._pending[number] = self._submit(number)
            return [self._pending[number] for number in numbers]

    def close(self) -> None:
        """Stop the workers after their current samples, which are dropped; workers that hang are left behind."""
        self._workers.close()

    def __exit__(self, *_: object) -> None:
        self.close()
