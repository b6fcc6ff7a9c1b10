"""What happens after each step of a run: Keras callbacks, and stopping on signals.

Not Keras' CSVLogger and TerminateOnNaN: history.csv is rewritten when a run resumes, and a loss that is NaN stops the
run with an error that names the images of the step and the last good checkpoint.
"""

import contextlib
import logging
import math
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from tqdm import tqdm

from ..data.loader import SampleLoader
from ..io.errors import StateError
from .distribution import counts_ahead

if TYPE_CHECKING:
    from .trainer import Trainer

logger = logging.getLogger(__name__)
Logs = dict[str, Any]


class TrainingStopped(Exception):
    """The run was asked to stop and has saved its state."""


class _Callback(keras.callbacks.Callback):
    def __init__(self, trainer: "Trainer", loader: SampleLoader, bar: tqdm) -> None:
        super().__init__()
        self._trainer, self._loader, self._bar = trainer, loader, bar

    def _check(self, losses: dict[str, float], where: str, number: int) -> None:
        """Raise RuntimeError if a loss of batch `number` is NaN or infinite."""
        names = [name for name, value in losses.items() if not math.isfinite(value)]
        if names:
            last = self._trainer.folder.last_good(self._trainer.state)
            images = f"Images of this step: {', '.join(self._loader.images(number))}. The last good checkpoint: {last}"
            raise StateError(f"{where}: {', '.join(names)} is NaN or infinite, training stops. {images}")


class StepCallback(_Callback):
    """After each step of `fit`: count it, check its losses, show them, save now and then, stop if asked to."""

    def __init__(self, trainer: "Trainer", loader: SampleLoader, bar: tqdm) -> None:
        super().__init__(trainer, loader, bar)
        self.logs: dict[str, float] = {}  # losses of the epoch so far, by name
        self._counters: list[Any] = []  # variables
        self._counts: list[tuple[Any, np.ndarray]] = []  # (variable, value) after the last step

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Restore the metrics of a resumed epoch, which Keras has reset."""
        self._trainer.check_metrics()
        for metric in self.model.metrics:
            values = self._trainer.state.metrics.get(metric.name)
            for variable, value in zip(metric.variables, values or (), strict=False):
                variable.assign(value)

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        trainer, state, settings = self._trainer, self._trainer.state, self._trainer.settings
        state.step += 1
        self.logs = {name: float(value) for name, value in (logs or {}).items()}
        if counts_ahead():
            self._counters = self._counters or _counters(self.model)
            self._counts = [(variable, np.array(variable)) for variable in self._counters]
        number = state.epoch * settings.steps_per_epoch + state.step - 1
        self._check(self.logs, f"epoch {state.epoch + 1}, step {state.step}", number)
        self._bar.set_postfix({name: f"{value:.3f}" for name, value in self.logs.items()}, refresh=False)
        self._bar.update()
        if trainer.stop.is_set():
            trainer.stop_now()
        if state.step % settings.save_every == 0 or state.step == settings.steps_per_epoch:
            trainer.save_now()

    def undo_failed_step(self) -> None:
        """Undo the counting of a step that got no samples, see `distribution.counts_ahead`."""
        for variable, value in self._counts:
            variable.assign(value)


class ValidationCallback(_Callback):
    """After each step of `evaluate`: check its losses, show progress, stop if asked to."""

    def on_test_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        where = f"validation of epoch {self._trainer.state.epoch + 1}"
        found = {f"val_{name}": float(value) for name, value in (logs or {}).items()}
        self._check(found, f"{where}, step {batch + 1}", batch)
        self._bar.update()
        if self._trainer.stop.is_set():  # the epoch's last training step is saved already
            raise TrainingStopped(f"stopped in the {where}")


@contextlib.contextmanager
def stopping_on_signals() -> Iterator[threading.Event]:
    """Context that yields an Event which Ctrl-C and SIGTERM set; a second Ctrl-C interrupts at once."""
    stop = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()
        logger.warning("%s: saving after this step", signal.Signals(number).name)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def loader_errors(loader: SampleLoader) -> Iterator[None]:
    """Context that raises the error of a loader itself instead of the data pipeline's version of it."""
    try:
        yield
    except TrainingStopped:
        raise
    except Exception as error:
        if loader.failure is not None and error is not loader.failure:
            raise loader.failure from error
        raise


def _counters(model: keras.Model) -> list[Any]:
    """Variables that change without samples: metrics (their counts), the optimizer's steps, random states."""
    of_metrics = [variable for metric in model.metrics for variable in metric.variables]
    others = [variable for variable in [*model.variables, *model.optimizer.variables] if "int" in str(variable.dtype)]
    return of_metrics + others
