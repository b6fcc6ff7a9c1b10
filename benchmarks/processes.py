"""Processes of benchmarks/worker.py, and whole commands, with their seconds, processor seconds and peak memory."""

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

WORKER = Path(__file__).with_name("worker.py")
ROOT = WORKER.parents[1]


class Worker:
    """A process that measures; to be used as a context manager, which ends it.

    Args:
        cache: folder for what the package keeps, by default the user's.
    """

    def __init__(self, cache: str | None = None) -> None:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        environment = {**os.environ, **({"SIAMESE_MRCNN_CACHE": cache} if cache else {})}
        self._process = subprocess.Popen([sys.executable, str(WORKER)], text=True, env=environment, **pipes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.stdin.close()
        self._process.wait()

    def tell(self, task: str, **arguments: Any) -> None:
        """Give it a task; the answer is read by `answer`, and other workers may run meanwhile."""
        self._process.stdin.write(json.dumps({"task": task, **arguments}) + "\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        """The answer to the oldest task without one.

        Raises:
            RuntimeError: the task failed.
        """
        line = self._process.stdout.readline()
        found = json.loads(line) if line else {"error": f"a worker ended with exit code {self._process.wait()}"}
        if "error" in found:
            raise RuntimeError(found["error"])
        return found["answer"]

    def ask(self, task: str, **arguments: Any) -> Any:
        """The answer to a task."""
        self.tell(task, **arguments)
        return self.answer()


@dataclasses.dataclass(frozen=True)
class Usage:
    """What a command used: seconds, processor seconds of all cores, peak resident memory in GB."""

    seconds: float
    processor: float
    peak: float


def run_command(arguments: Sequence[str], folder: str | Path) -> Usage:
    """Run a Python command to its end, in a folder.

    Raises:
        RuntimeError: it failed; with the end of what it wrote.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment["SIAMESE_MRCNN_CACHE"] = str(folder)
    written = Path(folder) / "output.txt"
    with written.open("w", encoding="utf-8") as output:
        start = time.perf_counter()
        streams = {"stdout": output, "stderr": subprocess.STDOUT}
        process = subprocess.Popen([sys.executable, *arguments], cwd=folder, env=environment, **streams)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        end = written.read_text(encoding="utf-8")[-2000:]
        raise RuntimeError(f"{' '.join(arguments)}: exit code {process.returncode}\n{end}")
    return Usage(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e6)  # Linux counts in kB
