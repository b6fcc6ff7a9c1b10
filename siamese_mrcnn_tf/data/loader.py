"""Worker processes that make samples: what runs in them. Imports no Keras, so that they start fast."""

import concurrent.futures
import multiprocessing
import os
import signal
import threading
from concurrent.futures.process import BrokenProcessPool

from .data_generator import collate

# MERGED DOC: """Batches for `fit`: samples made ahead of time by threads or processes, in order.
#
#     loader = SampleLoader(TrainingSamples(dataset, config, seed=0), config, workers=4)
#     model.fit(TrainingBatches(loader, first_step=0, num_batches=1000))
#
# Batch n of a run holds the samples n * batch_size to (n + 1) * batch_size - 1, whatever makes them.
# """

_GRACE = 5  # seconds from SIGTERM in which the sample in hand can be handed over

_process_maker = None  # of a worker process
_ends = threading.Event()  # whether it has been asked to


def start_process(maker):
    """Give a worker process its maker of samples. It leaves Ctrl-C to its parent, and ends when that does.

    SIGTERM, which may go to all processes of a run, ends it before its next sample, or after _GRACE seconds where none
    is asked for: cut off while it hands one over, it would leave the parent waiting for the rest of it for ever.
    """
    global _process_maker
    _process_maker = maker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the run itself decides when to stop
    signal.signal(signal.SIGTERM, _end_soon)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def make_in_process(number):
    """Sample `number` of the maker of this worker process."""
    if _ends.is_set():
        os._exit(1)
    return _process_maker(number)


def _end_soon(number, frame):
    if not _ends.is_set():
        _ends.set()
        timer = threading.Timer(_GRACE, os._exit, (1,))
        timer.daemon = True
        timer.start()


def _end_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)


_AHEAD = 2  # batches begun before they are asked for
_BEHIND = 2  # batches kept: Keras reads the first two of an epoch twice


class SampleLoader:
    """Makes samples ahead of time.

    Args:
        maker: TrainingSamples, or another callable from a number to a sample, with `image_of` and `dataset`.
        config: a Config.
        batch_size: samples of a batch; BATCH_SIZE by default.
        workers: threads or processes.
        processes: True for processes, which do not share an interpreter's lock but take a copy of the data set each.
        collate: callable (samples, config) that makes the dict of a batch.

    Attributes:
        failure: the error of the first sample that could not be made, or None.
    """

    def __init__(self, maker, config, *, batch_size=None, workers=1, processes=False, collate=collate):
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
