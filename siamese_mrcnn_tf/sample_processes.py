"""Worker processes that make samples: what runs in them. Imports no Keras, so that they start fast."""

import multiprocessing
import os
import signal
import threading

_process_maker = None  # of a worker process


def start_process(maker):
    """Give a worker process its maker of samples. The process leaves Ctrl-C to its parent, and ends when that does."""
    global _process_maker
    _process_maker = maker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the run itself decides when to stop
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)


def make_in_process(number):
    """Sample `number` of the maker of this worker process."""
    return _process_maker(number)
