"""Commands in processes of their own: forked from this one, which has the package imported, or started anew."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from .case import Ended
from .runner import _command

ROOT = Path(__file__).resolve().parents[2]


class Forked:
    """A command in a forked process that leads a session."""

    def __init__(self, words: Sequence[str], work: Path, log: Path) -> None:
        self.log, self.words = log, list(words)
        self._since = time.monotonic()
        self._ended: Ended | None = None
        self.pid = os.fork()
        if not self.pid:
            self._run(work)

    def _run(self, work: Path) -> None:
        code = 70
        try:
            os.setsid()
            os.chdir(work)
            for number in (1, 2):
                os.dup2(os.open(self.log, os.O_CREAT | os.O_WRONLY | os.O_APPEND), number)
            sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", errors="backslashreplace", closefd=False)
            code = _command(self.words)
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def poll(self) -> Ended | None:
        """How it ended; None while it runs."""
        if self._ended is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                text = self.log.read_text(errors="replace") if self.log.exists() else ""
                code = os.waitstatus_to_exitcode(status)
                self._ended = Ended(code, False, "", text, time.monotonic() - self._since)
        return self._ended

    def within(self, seconds: float) -> Ended | None:
        """How it ended within some seconds; None while it runs."""
        end = time.monotonic() + seconds
        while (ended := self.poll()) is None and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.01))
        return ended

    def wait(self, seconds: float) -> Ended:
        """How it ended; one that is still running then is killed."""
        if (ended := self.within(seconds)) is not None:
            return ended
        self.kill()
        return Ended(-signal.SIGKILL, True, "", self.log.read_text(errors="replace"), seconds)

    def kill(self) -> None:
        """SIGKILL to this process alone, not to those that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)

    def orphans(self, grace: float = 5.0) -> list[int]:
        """Processes of its session that live on after it, for longer than `grace` seconds; they are killed."""
        end = time.monotonic() + grace
        while (found := _of_session(self.pid)) and time.monotonic() < end:
            time.sleep(0.05)
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return found


def _of_session(session: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (path / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(path.name))
    return found


def run_anew(words: Sequence[str], work: Path, seconds: float = 300) -> Ended:
    """A command in a new interpreter, which also ends as one does."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    began = time.monotonic()
    try:
        found = subprocess.run(
            [sys.executable, "-m", "siamese_mrcnn_tf", *words],
            cwd=work,
            env=environment,
            capture_output=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Ended(-signal.SIGKILL, True, "", "", seconds)
    output, errors = (text.decode("utf-8", "replace") for text in (found.stdout, found.stderr))
    return Ended(found.returncode, False, output, errors, time.monotonic() - began)
