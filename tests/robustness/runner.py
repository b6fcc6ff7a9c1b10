"""Runs cases: the package is imported once, each case is a forked process with its own folder, limits and a timeout."""

import contextlib
import os
import resource
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from . import base
from .case import Case, Ended, Outcome, judge

TIMEOUT = 60  # seconds of computing, or of waiting without computing
_MEMORY = 8 * 2**30  # bytes that a case may map beyond what is mapped before it
_SHOWN = 20_000  # characters that are kept of the output


def import_package() -> None:
    """Import what commands import, so that forked processes have it; starts nothing of TensorFlow."""
    import argparse

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ |= {"SIAMESE_MRCNN_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "-1"}
    from siamese_mrcnn_tf.cli.inputs import start_keras

    start_keras(argparse.Namespace(debug=False))
    import h5py  # noqa: F401
    import matplotlib  # noqa: F401
    import onnxruntime  # noqa: F401
    import pycocotools.coco  # noqa: F401

    import siamese_mrcnn_tf.cli.main  # noqa: F401


def run_cases(
    cases: Sequence[Case], root: Path, *, workers: int = 2, on_outcome: Callable[[Outcome], None] = lambda outcome: None
) -> list[Outcome]:
    """The outcomes of cases, in their order; good inputs are made in `root` where they are missing."""
    for name in dict.fromkeys(need for case in cases for need in case.needs):
        base.make(name, root)
    outcomes: dict[str, Outcome] = {}
    running: dict[int, _Started] = {}
    waiting = list(reversed(cases))
    while waiting or running:
        while waiting and len(running) < workers:
            started = _Started(waiting.pop(), root)
            running[started.pid] = started
        for pid, started in list(running.items()):
            ended = started.poll()
            if ended is None:
                continue
            del running[pid]
            kind, text = judge(started.case, ended)
            words = shlex.join(started.words)
            outcome = Outcome(started.case.name, started.case.family, kind, text[:600], words, ended.seconds)
            outcomes[outcome.name] = outcome
            on_outcome(outcome)
        time.sleep(0.005)
    return [outcomes[case.name] for case in cases]


class _Started:
    """A case in a process of its own."""

    def __init__(self, case: Case, root: Path) -> None:
        self.case = case
        self.folder = Path(tempfile.mkdtemp(prefix="case-", dir=root))
        self.work = self.folder / "work"
        self.work.mkdir()
        case.make(self.work)
        self.words = [word.replace("{base}", str(root / "base")) for word in case.words]
        self._before = set(files_below(self.work))
        self._since = self._moved = time.monotonic()
        self._used = 0.0
        self.pid = os.fork()
        if not self.pid:
            _run_in_child(self.words, self.work, self.folder)

    def poll(self) -> Ended | None:
        """How it ended; None while it runs. One that is late is killed."""
        pid, status, _ = os.wait4(self.pid, os.WNOHANG)
        seconds = time.monotonic() - self._since
        is_late = not pid and self._is_late()
        if not pid and not is_late:
            return None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)  # and what it has left
        if is_late:
            _, status = os.waitpid(self.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        output, errors = (_tail(self.folder / name) for name in ("stdout", "stderr"))
        new = sorted(set(files_below(self.work)) - self._before)
        new = [name for name in new if not name.startswith(self.case.touches)] if self.case.touches else new
        check = self.case.fault
        fault = check(self.work, f"{output}\n{errors}") if check and code == 0 and not is_late else None
        shutil.rmtree(self.folder, ignore_errors=True)
        return Ended(code, is_late, output, errors, seconds, tuple(new), fault)

    def _is_late(self) -> bool:
        """Whether it has computed for too long, or waited: a busy machine makes none late."""
        now, used = time.monotonic(), _cpu_seconds(self.pid)
        if used > self._used + 0.05:
            self._used, self._moved = used, now
        return used > TIMEOUT or now - self._moved > TIMEOUT


def _cpu_seconds(pid: int) -> float:
    """What a process and its threads have computed."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _run_in_child(words: list[str], work: Path, folder: Path) -> None:
    """Run a command in this forked process, and end it."""
    code = 70
    try:
        os.setsid()
        os.chdir(work)
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + _MEMORY, mapped + _MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(folder / name, os.O_CREAT | os.O_WRONLY | os.O_APPEND), number)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", errors="backslashreplace", closefd=False)
        code = _command(words)
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _command(words: list[str]) -> int:
    import traceback

    from siamese_mrcnn_tf.cli.main import main

    try:
        return int(main(words))
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
        return 1


def files_below(folder: Path) -> Iterator[str]:
    """Relative names of everything below a folder."""
    for place, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            yield os.path.relpath(os.path.join(place, name), folder)


def _tail(path: Path) -> str:
    text = path.read_bytes().decode("utf-8", "replace") if path.exists() else ""
    return text if len(text) <= 2 * _SHOWN else f"{text[:_SHOWN]}\n...\n{text[-_SHOWN:]}"
