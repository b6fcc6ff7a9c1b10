"""Loads batches of training samples ahead of time, in threads or worker processes, like PyTorch's DataLoader.

Batch n holds the samples n * batch_size to (n + 1) * batch_size - 1, whatever the number of workers. Nothing here
imports Keras, so that worker processes start fast.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import FrameType
from typing import Any, Protocol

import numpy as np

from ..config import Config
from .data_generator import collate

_PREFETCHED = 2  # batches begun before they are asked for
_KEPT = 2  # past batches kept: Keras reads the first two of an epoch twice
_GRACE = 5  # seconds after SIGTERM to deliver the current sample


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
    ) -> None:
        self.samples, self.config, self.collate = samples, config, collate
        self.batch_size = config.BATCH_SIZE if batch_size is None else batch_size
        self.failure: RuntimeError | None = None  # of the first sample that could not be made
        self._ahead = max(_PREFETCHED * self.batch_size, workers)
        self._lock = threading.Lock()
        self._pending: dict[int, Future] = {}
        self._make: Callable[[int], Any] = _sample_of_worker if processes else samples.__getitem__
        spawn = multiprocessing.get_context("spawn")
        pool = (
            ProcessPoolExecutor(workers, spawn, _start_worker, (samples,)) if processes else ThreadPoolExecutor(workers)
        )
        self._executor: Executor = pool

    def numbers(self, step: int) -> range:
        """Numbers of the samples of a batch."""
        return range(step * self.batch_size, (step + 1) * self.batch_size)

    def images(self, step: int) -> list[str]:
        """Names of the images of a batch, for messages."""
        return [self.samples.dataset.image_reference(self.samples.image_of(number)) for number in self.numbers(step)]

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """Batch `step`, as `collate` returns it; prefetches the next ones.

        Raises:
            RuntimeError: a sample could not be made; names the image.
        """
        try:
            return self.collate([future.result() for future in self._futures(self.numbers(step))], self.config)
        except RuntimeError as error:
            if isinstance(error, BrokenProcessPool):
                error = RuntimeError(f"a worker process died, perhaps for lack of memory ({error})")
            self.failure = self.failure or error
            raise self.failure from None

    def _futures(self, numbers: range) -> list[Future]:
        """Futures of this batch's samples; prefetches the next ones and drops old ones."""
        with self._lock:
            oldest = numbers.start - _KEPT * self.batch_size
            for number in [number for number in self._pending if number < oldest]:
                self._pending.pop(number).cancel()
            for number in range(numbers.start, numbers.stop + self._ahead):
                if number not in self._pending:
                    self._pending[number] = self._executor.submit(self._make, number)
            return [self._pending[number] for number in numbers]

    def close(self) -> None:
        """Stop the workers after their current samples, which are dropped."""
        # waiting, because the interpreter's exit fails on processes that are just ending
        self._executor.shutdown(wait=True, cancel_futures=True)

    def __exit__(self, *_: object) -> None:
        self.close()


# ---- in a worker process ---------------------------------------------------------------------------------------------

_worker_samples: Samples
_ending = threading.Event()  # SIGTERM has come


def _start_worker(samples: Samples) -> None:
    """Set up a worker process: it ignores Ctrl-C and ends with its parent.

    SIGTERM, which may go to all processes of a run, ends it before its next sample, or after _GRACE seconds if none is
    asked for. A worker that died while it delivers a sample would leave its parent waiting for the rest.
    """
    global _worker_samples
    _worker_samples = samples
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the run itself decides when to stop
    signal.signal(signal.SIGTERM, _end_soon)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _sample_of_worker(number: int) -> Any:
    if _ending.is_set():
        os._exit(1)
    return _worker_samples[number]


def _end_soon(number: int, frame: FrameType | None) -> None:
    if not _ending.is_set():
        _ending.set()
        timer = threading.Timer(_GRACE, os._exit, (1,))
        timer.daemon = True
        timer.start()


def _end_with_parent() -> None:
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
    os._exit(1)
