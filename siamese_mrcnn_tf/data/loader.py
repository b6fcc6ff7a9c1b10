"""Worker processes that make samples: what runs in them. Imports no Keras, so that they start fast."""

import multiprocessing
import os
import signal
import threading

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
