"""Stopping on signals, and errors of the loader."""

import os
import signal
import types

import pytest

from siamese_mrcnn_tf.training.callbacks import TrainingStopped, loader_errors, stopping_on_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_ask_to_stop_and_the_second_interrupt_does(number, caplog):
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with stopping_on_signals() as stop:
        assert not stop.is_set()
        os.kill(os.getpid(), number)
        assert stop.wait(60)
        assert f"{number.name}: saving after this step" in caplog.text
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_stop_is_told_though_the_next_sample_is_broken():
    """Which was asked for ahead of time."""
    loader = types.SimpleNamespace(failure=RuntimeError("training sample 8: cut off"))
    with pytest.raises(TrainingStopped, match="after step 3"), loader_errors(loader):
        raise TrainingStopped("after step 3")
    with pytest.raises(RuntimeError, match="sample 8"), loader_errors(loader):
        raise ValueError("from the data pipeline")
