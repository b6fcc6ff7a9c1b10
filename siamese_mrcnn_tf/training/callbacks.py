"""Training runs: the stages of a schedule, epoch by epoch, with a folder from which a run goes on after any stop.

    trainer = Trainer(model, layers, config, CheckpointManager(path, layers, keep=3), settings)
    trainer.run(schedule, loader, val_loader)

An epoch is one `fit` and one `evaluate` of Keras; checkpoints, logs and resuming are around them.
"""

import contextlib
import logging
import math
import signal
import threading

import keras
import numpy as np

logger = logging.getLogger(__name__)


class TrainingStopped(Exception):
    """The run was asked to stop; it has saved where it stands."""


class _StepCallback(keras.callbacks.Callback):
    """After each step of `fit`: count it, check it, show it, save now and then, stop when asked to."""

    def __init__(self, trainer, loader, bar):
        super().__init__()
        self._trainer, self._loader, self._bar = trainer, loader, bar
        self.logs = {}
        self._counters, self._counts = [], []  # variables; [(variable, value)] after the last step

    def on_epoch_begin(self, epoch, logs=None):
        """Keras has reset the metrics; in a resumed epoch they go on."""
        for metric in self.model.metrics:
            values = self._trainer.state.metrics.get(metric.name)
            for variable, value in zip(metric.variables, values or (), strict=False):
                variable.assign(value)

    def on_train_batch_end(self, batch, logs=None):
        trainer, state = self._trainer, self._trainer.state
        state.step += 1
        self.logs = {name: float(value) for name, value in logs.items()}
        self._counters = self._counters or _counters(self.model)
        self._counts = [(variable, np.array(variable)) for variable in self._counters]
        _check_finite(
            self.logs,
            f"epoch {state.epoch + 1}, step {state.step}",
            lambda: self._loader.images(state.epoch * trainer.settings.steps_per_epoch + state.step - 1),
            trainer,
        )
        self._bar.set_postfix({name: f"{value:.3f}" for name, value in self.logs.items()}, refresh=False)
        self._bar.update()
        if trainer.stop.is_set():
            trainer.stop_now()
        if state.step % trainer.settings.save_every == 0 or state.step == trainer.settings.steps_per_epoch:
            trainer.save_now()

    def undo_failed_step(self):
        """Take back what a step has counted that got no samples: TensorFlow does not wait for them with that."""
        for variable, value in self._counts:
            variable.assign(value)


class _ValidationCallback(keras.callbacks.Callback):
    """After each step of `evaluate`: check it, show it, stop when asked to."""

    def __init__(self, trainer, loader, bar):
        super().__init__()
        self._trainer, self._loader, self._bar = trainer, loader, bar

    def on_test_batch_end(self, batch, logs=None):
        where = f"validation of epoch {self._trainer.state.epoch + 1}, step {batch + 1}"
        found = {f"val_{name}": float(value) for name, value in logs.items()}
        _check_finite(found, where, lambda: self._loader.images(batch), self._trainer)
        self._bar.update()
        if self._trainer.stop.is_set():  # the epoch's last step is saved
            raise TrainingStopped(f"stopped in the validation of epoch {self._trainer.state.epoch + 1}")


# ---- stopping --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def stopping_on_signals():
    """Context that yields an Event which Ctrl-C and SIGTERM set; a second Ctrl-C interrupts at once."""
    stop = threading.Event()

    def ask(number, frame):
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


def _check_finite(losses, where, images, trainer):
    """Raise RuntimeError if a loss is NaN or infinite; `images` is a callable to the names of the step's images."""
    names = [name for name, value in losses.items() if not math.isfinite(value)]
    if names:
        raise RuntimeError(
            f"{where}: {', '.join(names)} is NaN or infinite, training stops. Images of this step: "
            f"{', '.join(images())}. The last good checkpoint: {trainer.folder.last_good(trainer.state)}"
        )


def _counters(model):
    """Variables that no sample need have a part in: metrics (their counts), the optimizer's steps, random states."""
    of_metrics = [variable for metric in model.metrics for variable in metric.variables]
    others = [variable for variable in [*model.variables, *model.optimizer.variables] if "int" in str(variable.dtype)]
    return of_metrics + others
