"""Training runs: the stages of a schedule, epoch by epoch, with a folder from which a run goes on after any stop.

    trainer = Trainer(model, layers, config, CheckpointManager(path, layers, keep=3), settings)
    trainer.run(schedule, loader, val_loader)

An epoch is one `fit` and one `evaluate` of Keras; checkpoints, logs and resuming are around them.
"""

import contextlib
import dataclasses
import logging
import sys
import threading

import keras
import numpy as np
from tensorboard.summary import Writer
from tqdm import tqdm

from ..data.augmentation import as_augmentation
from ..data.data_generator import TrainingSamples
from ..data.loader import SampleLoader
from .batches import TrainingBatches
from .callbacks import (
    TrainingStopped,
    _StepCallback,
    _ValidationCallback,
)
from .checkpoints import TrainerState, best_epoch
from .distribution import replicas_of
from .trainable_layers import matching_layers, select_layers, summarize_names
from .training_model import build_optimizer, compile_model

logger = logging.getLogger(__name__)

_BAR_SECONDS = 0.5, 30  # between updates of the progress bar, on a terminal and in a file


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    """Settings of a run beyond the configuration.

    Attributes:
        steps_per_epoch, validation_steps: batches; 0 validation steps leave validation out.
        save_every: steps between checkpoints within an epoch.
        seed: of samples and rois; kept with the run.
        progress: show a progress bar.
        fixed: further settings by name that a run can be resumed with only if they are the same.
    """

    steps_per_epoch: int
    validation_steps: int
    save_every: int = 250
    seed: int = 0
    progress: bool = True
    fixed: dict = dataclasses.field(default_factory=dict)


class Trainer:
    """Trains a model, resumably.

    Args:
        model: a Keras model whose `compute_loss` knows its loss, such as `training_model.build_training_model`.
        layers: object with the `layers` to choose from, such as `network.build_layers`.
        config: reads BATCH_SIZE, WARM_UP_STEPS and what `training_model.compile_model` does.
        folder: checkpoints.CheckpointManager.
        settings: TrainingSettings.
        stop: threading.Event; once it is set, the run saves and stops after the step in hand.

    Attributes:
        state: checkpoints.TrainerState.
    """

    def __init__(self, model, layers, config, folder, settings, *, stop=None):
        self.model, self.layers, self.config, self.folder, self.settings = model, layers, config, folder, settings
        self.stop = stop or threading.Event()
        self.state = TrainerState(settings=self._fixed_settings())

    def begin_at(self, epoch):
        """Begin at the end of epoch `epoch`, with the weights that the model has.

        Raises:
            ValueError: the folder holds a run that went further.
        """
        before = self.folder.load_state()
        if before is not None and before.epoch > epoch:
            raise ValueError(
                f"{self.folder.path}: holds a run of {before.epoch} epochs, and this one begins after epoch {epoch}: "
                "go on from there (load_latest_checkpoint()), or choose another folder or EXPERIMENT"
            )
        self.state.epoch = epoch
        if before is not None:
            self.state.history = before.history
            for name, mine, theirs in self._differences(before):
                logger.warning("%s: %s = %r, before it was %r", self.folder.path, name, mine, theirs)

    def resume(self):
        """Take up the run of the folder.

        Raises:
            ValueError: there is none, or it was begun with other settings.
        """
        state = self.folder.load_state()
        if state is None or state.weights is None:
            raise ValueError(f"{self.folder.path}: no run to resume there")
        for name, mine, theirs in self._differences(state):
            raise ValueError(
                f"{self.folder.path}: {name} = {mine!r}, but the run was begun with {theirs!r}: it goes on with that"
            )
        self.state = state
        if state.history and self.folder.writes:
            self.folder.write_history(state)  # a kill may have come before it

    def run(self, stages, loader, val_loader=None):
        """Train to the end of a schedule.

        Args:
            stages: sequence of schedules.Stage.
            loader, val_loader: SampleLoader of training and of validation samples; None: no validation.

        Raises:
            TrainingStopped: `stop` was set; the message says where.
            RuntimeError: a sample could not be made, or a loss is NaN; names images, step and the last checkpoint.
            ValueError: no layer matches a stage's selection, or devices cannot share a batch evenly.
        """
        self._check(stages)
        with _board(self.folder) as board:
            restore = self.state.weights is not None
            for index, stage in enumerate(stages):
                if self.state.epoch >= stage.epochs:
                    continue
                self._begin_stage(index, stage, restore=restore)
                restore = False
                if self.state.weights is None:  # a kill in the first steps, too, leaves something to go on from
                    self.save_now()
                while self.state.epoch < stage.epochs:
                    self._run_epoch(stage, stages[-1].epochs, loader, val_loader, board)

    def _check(self, stages):
        """Find now what would stop the run after days."""
        for stage in stages:
            matching_layers(self.layers.layers, stage.layers)
        replicas = replicas_of(self.model)
        if self.config.BATCH_SIZE % replicas:
            raise ValueError(f"a batch of {self.config.BATCH_SIZE} cannot be shared evenly by {replicas} devices")

    def _fixed_settings(self):
        counts = {"steps_per_epoch": self.settings.steps_per_epoch, "batch_size": self.config.BATCH_SIZE}
        return {"seed": self.settings.seed, **counts, **self.settings.fixed}

    def _differences(self, state):
        """[(name, value here, value in the state)] of the settings that are not as when the run was begun."""
        mine = self._fixed_settings()
        return [(name, mine[name], state.settings.get(name)) for name in mine if mine[name] != state.settings.get(name)]

    def _begin_stage(self, index, stage, *, restore):
        """Choose what trains and compile; with `restore` take the weights of the state.

        The optimizer's state is taken too, unless the checkpoint is of the stage before: momentum starts anew then.
        """
        begun = {"index": index, "layers": stage.layers, "learning_rate": stage.learning_rate}
        if stage.decay_to is not None:
            begun["decay_to"] = stage.decay_to
        goes_on = restore and _without_start(self.state.stage) == begun
        first_epoch = self.state.stage.get("first_epoch", self.state.epoch) if goes_on else self.state.epoch
        if restore and not goes_on:  # before there is an optimizer: that of another stage does not fit
            self.model.load_weights(self.folder.weights_path(self.state))
        names = select_layers(self.layers.layers, stage.layers)
        logger.info(
            "to epoch %d: %s at learning rate %g; %d layers train: %s",
            *(stage.epochs, stage.layers, stage.learning_rate, len(names), summarize_names(names)),
        )
        self._compile(self._learning_rate(stage, first_epoch))
        build_optimizer(self.model)
        if goes_on:
            self.model.load_weights(self.folder.weights_path(self.state))
        self.state.stage = begun | ({} if stage.decay_to is None else {"first_epoch": first_epoch})

    def _learning_rate(self, stage, first_epoch):
        """The learning rate of a stage that begins after epoch `first_epoch`: a number, or a schedule of Keras."""
        if stage.decay_to is None:
            return stage.learning_rate
        warm_up = self.config.WARM_UP_STEPS
        steps = max((stage.decay_to - first_epoch) * self.settings.steps_per_epoch - warm_up, 1)
        start, peak = (0.0, stage.learning_rate) if warm_up else (stage.learning_rate, None)
        return keras.optimizers.schedules.CosineDecay(start, steps, warmup_target=peak, warmup_steps=warm_up)

    def _compile(self, learning_rate):
        """Give the model a new optimizer."""
        compile_model(self.model, self.config, learning_rate=learning_rate)

    def _run_epoch(self, stage, epochs, loader, val_loader, board):
        state, steps = self.state, self.settings.steps_per_epoch
        first_step = state.epoch * steps
        if state.step < steps:
            logs = self._fit(loader, first_step, epochs)
        else:  # stopped between the last step and the end of validation
            logs = {name: _mean(values) for name, values in state.metrics.items()}
        if val_loader is not None and self.settings.validation_steps:
            logs.update(self._validate(val_loader))
        rate = stage.learning_rate if stage.decay_to is None else float(self.model.optimizer.learning_rate)
        row = {"epoch": state.epoch + 1, "learning_rate": rate, **logs}
        state.history.append(row)
        state.epoch, state.step, state.metrics = state.epoch + 1, 0, {}
        if board is not None:
            for name in row.keys() - {"epoch"}:
                board.add_scalar(name, row[name], row["epoch"])
            board.flush()
        self.folder.save_epoch(self.model, state)
        shown = ", ".join(f"{name} {value:.4g}" for name, value in logs.items())
        logger.info("epoch %d/%d: %s (best: %s)", row["epoch"], epochs, shown, best_epoch(state.history) or "-")

    def _fit(self, loader, first_step, epochs):
        """Train the rest of an epoch; returns its losses by name."""
        state, steps = self.state, self.settings.steps_per_epoch
        batches = TrainingBatches(loader, first_step=first_step + state.step, num_batches=steps - state.step)
        with _progress_bar(f"epoch {state.epoch + 1}/{epochs}", steps, state.step, self.settings.progress) as bar:
            callback = _StepCallback(self, loader, bar)
            try:
                with _loader_errors(loader):
                    self.model.fit(batches, shuffle=False, verbose=0, callbacks=[callback])
            except RuntimeError as error:
                if error is loader.failure and self.stop.is_set() and callback.logs:
                    callback.undo_failed_step()
                    self.stop_now()  # the signal has ended the processes that make samples, too
                raise
        return callback.logs

    def _validate(self, val_loader):
        steps = self.settings.validation_steps
        batches = TrainingBatches(val_loader, num_batches=steps)
        with _progress_bar("validation", steps, 0, self.settings.progress) as bar, _loader_errors(val_loader):
            callback = _ValidationCallback(self, val_loader, bar)
            logs = self.model.evaluate(batches, verbose=0, return_dict=True, callbacks=[callback])
        return {f"val_{name}": float(value) for name, value in logs.items()}

    def save_now(self):
        """Save within an epoch."""
        measured = self.model.metrics if self.state.step else ()  # before the first step they are of another epoch
        self.state.metrics = {
            metric.name: [np.asarray(variable).tolist() for variable in metric.variables] for metric in measured
        }
        self.folder.save_within_epoch(self.model, self.state)

    def stop_now(self):
        """Save and raise TrainingStopped."""
        self.save_now()
        raise TrainingStopped(f"stopped in epoch {self.state.epoch + 1} after step {self.state.step}")


def train_on_dataset(
    trainer, stages, train_dataset, val_dataset=None, *, augmentation=None, workers=1, processes=False
):
    """Run a Trainer on data sets.

    Args:
        trainer: Trainer of a training model.
        stages: sequence of schedules.Stage.
        train_dataset, val_dataset: IndexedCocoDataset with indices built; no validation without the second. Samples of
            validation are the same each epoch, and never augmented.
        augmentation: see `augmentation.as_augmentation`.
        workers, processes: see `SampleLoader`.

    Raises:
        ValueError, RuntimeError, TrainingStopped: as `Trainer.run` and `TrainingSamples`.
    """
    config, seed = trainer.config, trainer.settings.seed
    made_by = {"workers": workers, "processes": processes}
    with contextlib.ExitStack() as stack:
        maker = TrainingSamples(train_dataset, config, seed=seed, augmentation=as_augmentation(augmentation))
        loader, val_loader = stack.enter_context(SampleLoader(maker, config, **made_by)), None
        if val_dataset is not None and trainer.settings.validation_steps:
            val_loader = stack.enter_context(
                SampleLoader(TrainingSamples(val_dataset, config, seed=seed, purpose="validation"), config, **made_by)
            )
        trainer.run(stages, loader, val_loader)


# ---- helpers -------------------------------------------------------------------------------------------------------


def _board(folder):
    """Context of a TensorBoard writer; of None where this machine does not write."""
    if not folder.writes:
        return contextlib.nullcontext()
    return contextlib.closing(Writer(str(folder.path / "tensorboard")))


def _progress_bar(text, total, done, shown):
    seconds = _BAR_SECONDS[0 if sys.stderr.isatty() else 1]
    return tqdm(desc=text, total=total, initial=done, unit="step", mininterval=seconds, disable=not shown)


@contextlib.contextmanager
def _loader_errors(loader):
    """Context that raises a loader's own error in place of what the data pipeline makes of it."""
    try:
        yield
    except TrainingStopped:
        raise
    except Exception as error:
        if loader.failure is not None and error is not loader.failure:
            raise loader.failure from error
        raise


def _without_start(stage):
    """What identifies a stage: its dict in a TrainerState without the epoch it began after."""
    return stage and {name: value for name, value in stage.items() if name != "first_epoch"}


def _mean(values):
    """The mean that the variables of a `keras.metrics.Mean` stand for."""
    total, count = np.asarray(values, np.float32)  # rounded as Keras does
    return float(total / count)
