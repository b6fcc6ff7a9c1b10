"""Stopping on signals, and errors of the loader."""

import pathlib
import signal
import subprocess
import sys
import types

import pytest

from siamese_mrcnn_tf.training.callbacks import TrainingStopped, loader_errors

ROOT = pathlib.Path(__file__).resolve().parents[1]

# In a process of its own: signals of a process with many threads, such as those of runtimes, disturb other tests.
SIGNALS = """
import logging, os, signal, sys
from siamese_mrcnn_tf.training.callbacks import stopping_on_signals

logging.basicConfig(stream=sys.stdout, format="%(message)s")
number = signal.Signals(int(sys.argv[1]))
before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
with stopping_on_signals() as stop:
    assert not stop.is_set()
    os.kill(os.getpid(), number)
    assert stop.wait(60)
    os.kill(os.getpid(), signal.SIGTERM)
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        print("interrupted")
assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_ask_to_stop_and_the_second_interrupt_does(number):
    command = [sys.executable, "-c", SIGNALS, str(int(number))]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT, check=False)
    assert finished.returncode == 0, finished.stderr
    assert f"{number.name}: saving after this step" in finished.stdout
    assert finished.stdout.endswith("interrupted\n")


def test_a_stop_is_told_though_the_next_sample_is_broken():
    """Which was asked for ahead of time."""
    loader = types.SimpleNamespace(failure=RuntimeError("training sample 8: cut off"))
    with pytest.raises(TrainingStopped, match="after step 3"), loader_errors(loader):
        raise TrainingStopped("after step 3")
    with pytest.raises(RuntimeError, match="sample 8"), loader_errors(loader):
        raise ValueError("from the data pipeline")
