"""Worker threads and worker processes, whose end does not go unnoticed.

A worker process has a pipe of its own. If the system kills it, for lack of memory for instance, the pipe closes and its
caller gets an error that names it. Worker processes end with the process that started them, also when that is killed.
Nothing here imports Keras, so that worker processes start fast.
"""

import collections
import contextlib
import ctypes
import itertools
import multiprocessing
import os
import pickle
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from multiprocessing import resource_tracker
from types import FrameType
from typing import Any

from .errors import StateError

_GRACE = 5  # seconds after SIGTERM to deliver the current result
_PR_SET_PDEATHSIG = 1
_ENDING = 20  # seconds that a call gets to end, and a process whose pipe is closed

Job = tuple[Future, Callable[..., Any], tuple[Any, ...]]


class WorkerDied(StateError):
    """A worker process ended before its time."""


class WorkerThreads(contextlib.AbstractContextManager["WorkerThreads"]):
    """Daemon threads that call functions: one that hangs, such as in a read, does not keep the process alive."""

    def __init__(self, count: int, at_end: Callable[[], None] = lambda: None) -> None:
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._closing = threading.Lock()
        self._is_closed, self._at_end = False, at_end  # which is called in each thread
        self._threads = [threading.Thread(target=self._work, name="worker", daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future:
        """The Future of a call."""
        future: Future = Future()
        with self._closing:
            if self._is_closed:
                raise StateError("the workers are closed, nothing can be submitted after shutdown")
            self._jobs.put((future, function, arguments))
        return future

    def close(self) -> bool:
        """End the threads after their current calls; calls that are not begun are dropped.

        Returns whether all have ended within _ENDING seconds; those that have not are left behind.
        """
        with self._closing:
            self._is_closed = True
        with contextlib.suppress(queue.Empty):
            while True:
                if (job := self._jobs.get_nowait()) is not None:
                    job[0].cancel()
        for _ in self._threads:
            self._jobs.put(None)
        end = time.monotonic() + _ENDING
        for thread in self._threads:
            thread.join(max(end - time.monotonic(), 0))
        return not any(thread.is_alive() for thread in self._threads)

    def __exit__(self, *_: object) -> None:
        self.close()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            future, function, arguments = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(function(*arguments))
            except BaseException as error:  # whoever asks for the result gets it
                future.set_exception(error)
            del job, future
        self._at_end()


class WorkerProcesses(contextlib.AbstractContextManager["WorkerProcesses"]):
    """Processes that call one function, each for one argument at a time.

    They are fresh: a program with running threads (TensorFlow's) cannot be forked safely. Scripts need
    `if __name__ == "__main__":`.

    Args:
        function: is pickled, once for each process.
        count: number of processes.
    """

    def __init__(self, function: Callable[[Any], Any], count: int) -> None:
        self._function, self._count = function, count
        self._threads = WorkerThreads(count, self._close_mine)
        self._mine = threading.local()  # its `worker`
        self._workers: list[_Worker] = []
        self._starting = threading.Lock()
        self._is_over = False  # closed, or a process has died

    def submit(self, argument: Any) -> Future:
        """The Future of the function's result; its error is WorkerDied if the process dies meanwhile."""
        return self._threads.submit(self._call, argument)

    def map(self, arguments: Iterable[Any]) -> Iterator[Any]:
        """The results in order, some computed ahead."""
        waiting, ahead = iter(arguments), collections.deque[Future]()
        while True:
            ahead.extend(map(self.submit, itertools.islice(waiting, 2 * self._count - len(ahead))))
            if not ahead:
                return
            yield ahead.popleft().result()

    def close(self) -> None:
        """End the processes after their current calls, whose results are dropped; kill those that take too long."""
        self._is_over = True
        if not self._threads.close():
            for worker in self._workers:
                worker.kill()
            self._threads.close()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, argument: Any) -> Any:
        worker: _Worker | None = getattr(self._mine, "worker", None)
        if worker is None:
            with self._starting:
                if self._is_over:
                    raise StateError("the workers are closed, or one of them has died")
                worker = self._mine.worker = _Worker(self._function)
                self._workers.append(worker)
        try:
            return worker.call(argument)
        except WorkerDied:
            self._is_over = True
            raise

    def _close_mine(self) -> None:
        if (worker := getattr(self._mine, "worker", None)) is not None:
            worker.close()


class _Worker:
    """A worker process, seen from its parent."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, function), daemon=True)
        try:
            with interruptions_held():
                self._process.start()
        except OSError as error:
            raise StateError(f"a worker process cannot be started ({error})") from error
        theirs.close()

    def call(self, argument: Any) -> Any:
        try:
            self._pipe.send(argument)
            has_succeeded, value = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise WorkerDied(self._end()) from error
        if has_succeeded:
            return value
        raise value

    def _end(self) -> str:
        """How the process ended, in words."""
        self._process.join(_ENDING)
        code, name = self._process.exitcode, f"worker process {self._process.pid}"
        if code is None:
            return f"{name} closed its pipe"
        if code >= 0:
            return f"{name} ended with exit code {code}"
        with contextlib.suppress(ValueError):
            known = signal.Signals(-code).name
            return f"{name} was killed by {known}{', perhaps for lack of memory' if known == 'SIGKILL' else ''}"
        return f"{name} was killed by signal {-code}"

    def close(self) -> None:
        """End the process; it is in no call."""
        self._pipe.close()
        self._process.join(_ENDING)
        self.kill()

    def kill(self) -> None:
        self._process.kill()
        self._process.join(_ENDING)


@contextlib.contextmanager
def interruptions_held() -> Iterator[None]:
    """Block Ctrl-C in this thread and in the processes that it starts meanwhile, which never receive it."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # which unblocks Ctrl-C when it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# ---- in a worker process ---------------------------------------------------------------------------------------------

_ending = threading.Event()  # SIGTERM has come


def _serve(pipe: Any, function: Callable[[Any], Any]) -> None:
    """Answer calls until the pipe is closed.

    Ctrl-C, which reaches the whole group, is ignored: the parent decides when to stop. SIGTERM, which may go to all
    processes of a run, ends the process before its next call, or after _GRACE seconds if there is none.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_soon)
    _die_with_parent()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with contextlib.suppress(EOFError, OSError):  # the parent has closed the pipe, or has ended
        while True:
            argument = pipe.recv()
            if _ending.is_set():
                os._exit(1)
            pipe.send(_answer(function, argument))


def _answer(function: Callable[[Any], Any], argument: Any) -> tuple[bool, Any]:
    """(True, result) or (False, error); the error has the traceback, which cannot be sent, as a note."""
    try:
        return True, function(argument)
    except Exception as error:
        error.add_note(f"In the worker process:\n{traceback.format_exc()}")
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # an error of its own class, which cannot be sent
            return False, StateError(f"{type(error).__name__}: {error}")
        return False, error


def _end_soon(number: int, frame: FrameType | None) -> None:
    if not _ending.is_set():
        _ending.set()
        timer = threading.Timer(_GRACE, os._exit, (1,))
        timer.daemon = True
        timer.start()


def _die_with_parent() -> None:
    """On Linux: be killed when the thread that started this process ends, at the latest with the parent."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _end_with_parent() -> None:
    """Wait for the end of the parent, on any system, and end too."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
    os._exit(1)
