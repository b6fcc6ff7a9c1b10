"""The training loop: the stages of a schedule, epoch by epoch, resumable after a stop at any moment.

    trainer = Trainer(model, layers, config, CheckpointManager(path, layers, keep=3), settings)
    trainer.run(schedule, loader, val_loader)

`Trainer.run` is the whole run. What happens after each step is in `callbacks`; what is saved is in `checkpoints`.
"""

import contextlib
import dataclasses
import logging
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, cast

import keras
import numpy as np
from tqdm import tqdm

from ..config import Config
from ..data.augmentation import as_augmentation
from ..data.data_generator import TrainingSamples
from ..data.dataset import Dataset
from ..data.loader import SampleLoader
from ..io.errors import InputError
from ..io.schemas import Values
from ..weights.run_files import StageState
from ..weights.runs import STATE_FILE, best_epoch
from .batches import TrainingBatches
from .board import Board
from .callbacks import StepCallback, TrainingStopped, ValidationCallback, loader_errors
from .checkpoints import CheckpointManager, TrainerState
from .distribution import fit_scope, replicas_of, sync_variables
from .schedules import Stage
from .trainable_layers import matching_layers, select_layers, summarize_names
from .training_model import build_optimizer, compile_model

logger = logging.getLogger(__name__)

_BAR_SECONDS = 0.5, 30  # between updates of the progress bar, on a terminal and in a file


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    """Settings of a run beyond the configuration.

    Attributes:
        steps_per_epoch, validation_steps: batches; with 0 validation steps there is no validation.
        save_every: steps between checkpoints within an epoch.
        seed: of samples and rois; saved with the run.
        progress: show a progress bar.
        fixed: further settings by name; a run resumes only with the same values.
    """

    steps_per_epoch: int
    validation_steps: int
    save_every: int = 250
    seed: int = 0
    progress: bool = True
    fixed: dict[str, Any] = dataclasses.field(default_factory=dict)


class Trainer:
    """Trains a model, resumably.

    Args:
        model: a Keras model with a `compute_loss` of its own, such as `training_model.build_training_model` returns.
        layers: object with the `layers` to choose from, such as `network.build_layers` returns.
        config: reads BATCH_SIZE, WARM_UP_STEPS and what `training_model.compile_model` reads.
        folder, settings: of the run.
        stop: once it is set, the run saves and stops after the current step.
    """

    def __init__(
        self,
        model: keras.Model,
        layers: Any,
        config: Config,
        folder: CheckpointManager,
        settings: TrainingSettings,
        *,
        stop: threading.Event | None = None,
    ) -> None:
        self.model, self.layers, self.config, self.folder, self.settings = model, layers, config, folder, settings
        self.stop = stop or threading.Event()
        self.state = TrainerState(settings=self._fixed_settings())

    def run(self, stages: Sequence[Stage], loader: SampleLoader, val_loader: SampleLoader | None = None) -> None:
        """Train to the end of a schedule, from `state` on.

        Args:
            loader, val_loader: of training and validation samples; None: no validation.

        Raises:
            TrainingStopped: `stop` was set; the message says where.
            RuntimeError: a sample cannot be made, or a loss is NaN; names images, step and the last checkpoint.
            ValueError: no layer matches a stage's selection, or devices cannot share a batch evenly.
        """
        self.check(stages)
        state, restore = self.state, self.state.weights is not None
        with self.folder.opened(), Board(self.folder.path / "tensorboard", writes=self.folder.writes) as board:
            for index, stage in enumerate(stages):
                if state.epoch >= stage.epochs:  # a resumed run has finished this stage
                    continue

                # Compile: the stage's layers, and a new optimizer without momentum. Only the first stage of a resumed
                # run takes weights (and momentum, if it is in the middle of the stage) from the checkpoint.
                self._begin_stage(index, stage, restore=restore)
                restore = False
                if state.weights is None:  # save before the first step: a run killed in it can be resumed, too
                    self.save_now()

                while state.epoch < stage.epochs:
                    # Fit: the steps of the epoch that are left. Each step is counted in `state.step` and checked.
                    logs = self._fit(loader, total_epochs=stages[-1].epochs)
                    # Validate: on the same samples each time.
                    if val_loader is not None and self.settings.validation_steps:
                        logs |= self._validate(val_loader)
                    # Record: in the history, and for TensorBoard.
                    rate = stage.learning_rate if stage.decay_to is None else float(self.model.optimizer.learning_rate)
                    row: Values = {"epoch": state.epoch + 1, "learning_rate": rate, **logs}
                    state.history.append(row)
                    board.add(row)
                    # Save: the state counts the epoch as finished before it is written.
                    state.epoch, state.step, state.metrics = state.epoch + 1, 0, {}
                    self.folder.save_epoch(self.model, state)
                    shown = ", ".join(f"{name} {value:.4g}" for name, value in logs.items())
                    best = best_epoch(state.history) or "-"
                    logger.info("epoch %d/%d: %s (best: %s)", state.epoch, stages[-1].epochs, shown, best)

    def begin_at(self, epoch: int) -> None:
        """Begin at the end of an epoch, with the weights of the model; ValueError if the folder holds a longer run."""
        before = self.folder.load_state()
        if before is not None and before.epoch > epoch:
            found = f"holds a run of {before.epoch} epochs, and this one begins after epoch {epoch}"
            way = "resume from there (load_latest_checkpoint()), or choose another folder or EXPERIMENT"
            raise InputError(f"{self.folder.path}: {found}: {way}")
        self.state.epoch = epoch
        if before is not None:
            self.state.history = before.history
            for name, mine, theirs in self._differences(before):
                logger.warning("%s: %s = %r, before it was %r", self.folder.path, name, mine, theirs)

    def resume(self) -> None:
        """Resume the run of the folder; ValueError if there is none, or if it has other settings."""
        state = self.folder.load_state()
        if state is None:
            raise InputError(f"{self.folder.path}: no run to resume there")
        if state.weights is None:
            raise InputError(f"{self.folder.path / STATE_FILE}: no run to resume there, the key 'weights' is missing")
        for name, mine, theirs in self._differences(state):
            if theirs is None and name not in state.settings:
                raise InputError(f"{self.folder.path / STATE_FILE}: settings: the key {name!r} is missing")
            raise InputError(f"{self.folder.path}: {name} = {mine!r}, but the run was begun with {theirs!r}; use that")
        if state.step > self.settings.steps_per_epoch:
            steps = f"step = {state.step}: expected at most the {self.settings.steps_per_epoch} of an epoch"
            raise InputError(f"{self.folder.path / STATE_FILE}: {steps}")
        self._check_stage(state)
        self.state = state
        if state.history and self.folder.writes:
            self.folder.write_history(state)  # the run may have been killed before that

    def _check_stage(self, state: TrainerState) -> None:
        """Refuse a stage that no checkpoint of this model can be of: the run would go on with a new optimizer."""
        where = f"{self.folder.path / STATE_FILE}: stage"
        if state.stage is None:
            raise InputError(f"{where} is missing: expected the stage of the schedule that the weights belong to")
        first_epoch = state.stage.get("first_epoch", 0)
        if first_epoch > state.epoch:
            raise InputError(f"{where}.first_epoch = {first_epoch}: expected at most epoch = {state.epoch}")
        try:
            matching_layers(self.layers.layers, state.stage["layers"])
        except InputError as error:
            raise InputError(f"{where}.{error}") from error

    def _fixed_settings(self) -> dict[str, Any]:
        counts = {"steps_per_epoch": self.settings.steps_per_epoch, "batch_size": self.config.BATCH_SIZE}
        return {"seed": self.settings.seed, **counts, **self.settings.fixed}

    def _differences(self, state: TrainerState) -> list[tuple[str, Any, Any]]:
        """[(name, value here, value in the state)] of the settings that differ from those of a saved run.

        A setting of the configuration that the state lacks is newer than the run, which has its default.
        """
        mine, theirs = self._fixed_settings(), Config().to_dict() | state.settings
        return [(name, mine[name], theirs.get(name)) for name in mine if mine[name] != theirs.get(name)]

    def check(self, stages: Sequence[Stage]) -> None:
        """Raise ValueError for a schedule that `run` could not follow to its end, and before it writes anything."""
        for stage in stages:
            matching_layers(self.layers.layers, stage.layers)
        replicas = replicas_of(self.model)
        if self.config.BATCH_SIZE % replicas:
            raise InputError(f"a batch of {self.config.BATCH_SIZE} cannot be shared evenly by {replicas} devices")

    def _begin_stage(self, index: int, stage: Stage, *, restore: bool) -> None:
        """Choose the layers that train and compile; `restore` loads the weights of the state.

        The optimizer's state is loaded too, unless the checkpoint is of the stage before: momentum starts anew then.
        """
        begun: dict[str, Any] = {"index": index, "layers": stage.layers, "learning_rate": stage.learning_rate}
        if stage.decay_to is not None:
            begun["decay_to"] = stage.decay_to
        saved: dict[str, Any] = {**(self.state.stage or {})}
        continues = restore and {name: saved[name] for name in saved if name != "first_epoch"} == begun
        first_epoch = saved.get("first_epoch", self.state.epoch) if continues else self.state.epoch
        if restore and saved.get("index") == index and not continues:
            changed = ", ".join(
                f"{name} = {saved.get(name)!r} then and {value!r} now"
                for name, value in begun.items()
                if saved.get(name) != value
            )
            logger.warning("%s: the stage has changed, its momentum starts anew: %s", self.folder.path, changed)
        if restore and not continues:  # before there is an optimizer: that of another stage does not fit
            self.folder.load_weights(self.model, self.state, optimizer=False)
        names = select_layers(self.layers.layers, stage.layers)
        text = "to epoch %d: %s at learning rate %g; %d layers train: %s"
        logger.info(text, stage.epochs, stage.layers, stage.learning_rate, len(names), summarize_names(names))
        self._compile(self._schedule_of(stage, first_epoch))
        build_optimizer(self.model)  # else Keras runs a batch first, on several devices the mean of their batches
        if continues:
            self.folder.load_weights(self.model, self.state, optimizer=True)
        self.state.stage = cast(StageState, begun | ({} if stage.decay_to is None else {"first_epoch": first_epoch}))

    def _compile(self, learning_rate: Any) -> None:
        """Give the model a new optimizer."""
        compile_model(self.model, self.config, learning_rate=learning_rate)

    def _schedule_of(self, stage: Stage, first_epoch: int) -> Any:
        """The learning rate of a stage that begins after epoch `first_epoch`: a number, or a schedule of Keras."""
        if stage.decay_to is None:
            return stage.learning_rate
        warm_up = self.config.WARM_UP_STEPS
        steps = max((stage.decay_to - first_epoch) * self.settings.steps_per_epoch - warm_up, 1)
        start, peak = (0.0, stage.learning_rate) if warm_up else (stage.learning_rate, None)
        return keras.optimizers.schedules.CosineDecay(start, steps, warmup_target=peak, warmup_steps=warm_up)

    def _fit(self, loader: SampleLoader, *, total_epochs: int) -> dict[str, float]:
        """Train the rest of an epoch; returns its losses by name."""
        state, steps = self.state, self.settings.steps_per_epoch
        if state.step == steps:  # a run resumed between the last step and the end of validation
            self.check_metrics()
            sums = {name: np.asarray(values, np.float32) for name, values in state.metrics.items()}  # as Keras rounds
            return {name: float(total / count) for name, (total, count) in sorted(sums.items())}  # and sorts
        first = state.epoch * steps + state.step
        batches = TrainingBatches(loader, first_step=first, num_batches=steps - state.step)
        with self._progress_bar(f"epoch {state.epoch + 1}/{total_epochs}", steps, state.step) as bar:
            callback = StepCallback(self, loader, bar)
            try:
                with loader_errors(loader), fit_scope(self.model):
                    self.model.fit(batches, shuffle=False, verbose=0, callbacks=[callback])
            except RuntimeError as error:
                if error is loader.failure and self.stop.is_set() and callback.logs:
                    callback.undo_failed_step()
                    self.stop_now()  # the signal has also ended the processes that make samples
                raise
        return callback.logs

    def _validate(self, val_loader: SampleLoader) -> dict[str, float]:
        """Validation losses of an epoch, by name."""
        steps = self.settings.validation_steps
        batches = TrainingBatches(val_loader, num_batches=steps)
        with self._progress_bar("validation", steps, 0) as bar, loader_errors(val_loader):
            callback = ValidationCallback(self, val_loader, bar)
            with fit_scope(self.model):
                logs = self.model.evaluate(batches, verbose=0, return_dict=True, callbacks=[callback])
        return {f"val_{name}": float(value) for name, value in logs.items()}

    def check_metrics(self) -> None:
        """Refuse a state within an epoch that lacks values of a loss: the losses of the epoch would be others."""
        for metric in self.model.metrics if self.state.step else ():
            values = self.state.metrics.get(metric.name, ())
            if len(values) != len(metric.variables) or (len(values) == 2 and values[1] <= 0):  # sum and count
                where = f"{self.folder.path / STATE_FILE}: metrics.{metric.name} = {list(values)}"
                raise InputError(f"{where}: expected {len(metric.variables)} numbers, the sum and a count above 0")

    def save_now(self) -> None:
        """Save within an epoch."""
        sync_variables(self.model)
        measured = self.model.metrics if self.state.step else ()  # before the first step they are of another epoch
        values = {metric.name: map(np.asarray, metric.variables) for metric in measured}
        self.state.metrics = {name: [value.tolist() for value in found] for name, found in values.items()}
        self.folder.save_within_epoch(self.model, self.state)

    def stop_now(self) -> None:
        """Save and raise TrainingStopped."""
        self.save_now()
        raise TrainingStopped(f"stopped in epoch {self.state.epoch + 1} after step {self.state.step}")

    def _progress_bar(self, text: str, total: int, done: int) -> tqdm:
        every, hidden = _BAR_SECONDS[0 if sys.stderr.isatty() else 1], not self.settings.progress
        return tqdm(desc=text, total=total, initial=done, unit="step", mininterval=every, disable=hidden)


def train_on_dataset(
    trainer: Trainer,
    stages: Sequence[Stage],
    train_dataset: Dataset,
    val_dataset: Dataset | None = None,
    *,
    augmentation: Any = None,
    workers: int = 1,
    processes: bool = False,
    on_begin: Callable[[], None] | None = None,
) -> None:
    """Run a Trainer on data sets.

    Args:
        train_dataset, val_dataset: data sets with indices built, or of your own class; without the second there is no
            validation. Samples of validation are the same each epoch, and never augmented.
        augmentation: see `augmentation.as_augmentation`.
        workers, processes: see `SampleLoader`.
        on_begin: called when everything is checked and nothing is written.

    Errors as those of `Trainer.run` and `TrainingSamples`.
    """
    config, seed = trainer.config, trainer.settings.seed
    made_by: Any = {"workers": workers, "processes": processes}
    samples = TrainingSamples(train_dataset, config, seed=seed, augmentation=as_augmentation(augmentation))
    with contextlib.ExitStack() as stack:
        loader, val_loader = stack.enter_context(SampleLoader(samples, config, **made_by)), None
        if val_dataset is not None and trainer.settings.validation_steps:
            val_samples = TrainingSamples(val_dataset, config, seed=seed, purpose="validation")
            val_loader = stack.enter_context(SampleLoader(val_samples, config, **made_by))
        trainer.check(stages)
        if on_begin is not None:
            on_begin()
        trainer.run(stages, loader, val_loader)
