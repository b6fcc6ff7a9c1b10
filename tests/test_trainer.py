"""Runs: stages, stops, resuming, what is refused. Most on a toy model; a real one goes through two stages once."""

import collections
import csv
import json
import logging
import math
import os
import pathlib
import threading

import conftest
import h5py
import keras
import numpy as np
import pytest
import toy

from siamese_mrcnn_tf import SiameseMaskRCNN
from siamese_mrcnn_tf.data.data_generator import TrainingSamples
from siamese_mrcnn_tf.data.loader import SampleLoader
from siamese_mrcnn_tf.io.errors import InputError
from siamese_mrcnn_tf.training.batches import TrainingBatches
from siamese_mrcnn_tf.training.callbacks import TrainingStopped
from siamese_mrcnn_tf.training.checkpoints import CheckpointManager
from siamese_mrcnn_tf.training.schedules import Stage, layer_pattern, shortened
from siamese_mrcnn_tf.training.trainer import Trainer, TrainingSettings, train_on_dataset
from siamese_mrcnn_tf.training.training_model import LOSS_NAMES, TrainingModel

STAGES = (Stage(1, "heads", 0.02), Stage(3, "all", 0.05))
STEPS, VAL_STEPS = 4, 2


# ---- a toy -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def train_in():
    """Trains a fresh toy in a folder: returns its Trainer. `begin` is called with it before it runs.

    Toys are not compiled: that takes longer than their steps. The real model below is.
    """
    import tensorflow as tf

    def run(
        path,
        stages=STAGES,
        *,
        begin=None,
        resume=False,
        stop=None,
        maker=None,
        val_maker=None,
        model=None,
        **changes,
    ):
        model, layers = model or toy.build_model()
        settings = {"steps_per_epoch": STEPS, "validation_steps": VAL_STEPS, "save_every": 3, "progress": False}
        folder = CheckpointManager(path, layers, keep=3, save_legacy=toy.save_legacy)
        trainer = Trainer(model, layers, toy.CONFIG, folder, TrainingSettings(**(settings | changes)), stop=stop)
        if resume:
            trainer.resume()
        if begin is not None:
            begin(trainer)
        made = {"collate": toy.collate, "workers": 2}
        with (
            SampleLoader(maker or toy.Numbers(), toy.CONFIG, **made) as loader,
            SampleLoader(val_maker or toy.Numbers(), toy.CONFIG, **made) as val_loader,
        ):
            tf.config.run_functions_eagerly(True)
            try:
                trainer.run(stages, loader, val_loader)
            finally:
                tf.config.run_functions_eagerly(False)
        return trainer

    return run


@pytest.fixture
def train(train_in, tmp_path):
    """Trains a toy in a folder of this test."""

    def run(name="run", *arguments, **options):
        return train_in(tmp_path / name, *arguments, **options)

    return run


@pytest.fixture(scope="module")
def whole(train_in, tmp_path_factory):
    """The Trainer of a run that was not stopped."""
    return train_in(tmp_path_factory.mktemp("whole"))


def weights_of(model):
    return {variable.path: variable.numpy() for variable in model.variables}


def assert_same_weights(model, other):
    for (name, values), expected in zip(weights_of(model).items(), weights_of(other).values(), strict=True):
        np.testing.assert_array_equal(values, expected, err_msg=name)


def test_a_run_goes_through_its_stages_and_samples_in_order(whole):
    history = whole.state.history
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert [row["learning_rate"] for row in history] == [0.02, 0.05, 0.05]
    assert list(history[0]) == ["epoch", "learning_rate", "loss", "number", "val_loss", "val_number"]
    per_epoch = STEPS * toy.CONFIG.BATCH_SIZE
    assert [row["number"] for row in history] == [epoch * per_epoch + (per_epoch - 1) / 2 for epoch in range(3)]
    assert {row["val_number"] for row in history} == {(VAL_STEPS * toy.CONFIG.BATCH_SIZE - 1) / 2}  # always the same
    assert (whole.state.epoch, whole.state.step) == (3, 0)
    assert whole.state.stage == {"index": 1, "layers": "all", "learning_rate": 0.05}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (None, "stage is missing"),
        ({"layers": "none_of_them"}, "stage.layers 'none_of_them': no layer"),
        ({"layers": "("}, "stage.layers '\\(': expected"),
        ({"first_epoch": 7}, "stage.first_epoch = 7: expected at most epoch = "),
    ],
)
def test_a_stage_that_no_checkpoint_is_of(train, stage, message):
    trainer = train(stages=STAGES[:1])
    path = trainer.folder.path / "state.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"stage": stage and content["stage"] | stage}))
    with pytest.raises(InputError, match=rf"state\.json: {message}"):
        trainer.resume()


def test_a_stage_that_has_changed_is_told(train, caplog):
    train(stages=(Stage(1, "all", 0.1),))
    train(stages=(Stage(2, "all", 0.05),), resume=True)
    assert "the stage has changed, its momentum starts anew: learning_rate = 0.1 then and 0.05 now" in caplog.text


def test_momentum_starts_anew_in_each_stage(train):
    """The second of two equal stages is a run of its own from the weights that the first ends with."""
    halves = train("halves", (Stage(1, "all", 0.1), Stage(2, "all", 0.1)))
    model, layers = toy.build_model()
    train("first", (Stage(1, "all", 0.1),), model=(model, layers))
    alone = train("second", (Stage(2, "all", 0.1),), model=(model, layers), begin=lambda trainer: trainer.begin_at(1))
    assert_same_weights(halves.model, alone.model)
    one_stage = train("one", (Stage(2, "all", 0.1),))
    assert abs(one_stage.state.history[1]["loss"] - halves.state.history[1]["loss"]) > 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("stops", (1, 4, 5, 6, 7, 9))
def test_a_run_that_is_stopped_anywhere_goes_on_as_if_it_were_not(train, whole, stops):
    """Within an epoch, after its last step, in validation and after it, in the first and in a later stage."""
    with pytest.raises(TrainingStopped) as stopped:
        train("parts", stop=toy.StopAfter(stops - 1))
    epoch, place = divmod(stops - 1, STEPS + VAL_STEPS)
    where = f"stopped in epoch {epoch + 1} after step {place + 1}"
    assert str(stopped.value) == (where if place < STEPS else f"stopped in the validation of epoch {epoch + 1}")
    maker = toy.Numbers()
    parts = train("parts", resume=True, maker=maker)
    assert parts.state.history == whole.state.history
    assert_same_weights(parts.model, whole.model)
    for momentum, expected in zip(parts.model.optimizer.momentums, whole.model.optimizer.momentums, strict=True):
        np.testing.assert_array_equal(momentum.numpy(), expected.numpy())
    files = [(trainer.folder.path / "history.csv").read_text() for trainer in (parts, whole)]
    assert files[0] == files[1]
    first = (epoch * STEPS + min(place + 1, STEPS)) * toy.CONFIG.BATCH_SIZE
    assert min(maker.made) == first  # nothing is made again


def test_a_run_that_is_killed_goes_on_from_the_last_checkpoint(train, whole):
    class Killed(BaseException):
        pass

    def kill(trainer):
        fit = trainer.model.fit

        def stop_in_the_middle(*arguments, **named):
            if trainer.state.epoch == 1:
                raise Killed
            fit(*arguments, **named)

        trainer.model.fit = stop_in_the_middle

    with pytest.raises(Killed):
        train("parts", begin=kill)
    parts = train("parts", resume=True)  # from the end of the first stage
    assert parts.state.history == whole.state.history
    assert_same_weights(parts.model, whole.model)


@pytest.mark.slow
@pytest.mark.parametrize(
    "stages", [(Stage(2, "all", 0.1),), (Stage(1, "all", 0.1), Stage(2, "all", 0.05))], ids=["a stage", "a schedule"]
)
def test_a_finished_run_can_be_prolonged(train, stages):
    """With the momentum it had, where the stage goes on."""
    train("parts", shortened(stages, 1))
    maker = toy.Numbers()
    train("parts", shortened(stages, 1), resume=True, maker=maker)
    assert not maker.made
    parts = train("parts", stages, resume=True, maker=maker)
    assert min(maker.made) == STEPS * toy.CONFIG.BATCH_SIZE
    at_once = train("at_once", stages)
    assert parts.state.history == at_once.state.history
    assert_same_weights(parts.model, at_once.model)


def test_losses_of_a_finished_epoch_have_the_order_of_keras(train, monkeypatch):
    """A run that is killed in validation writes the columns of history.csv as an undisturbed one."""
    trainer = train("run", (Stage(1, "all", 0.1),), validation_steps=0)
    trainer.state.step, trainer.state.metrics = STEPS, {"loss": [6.0, 2.0], "accuracy": [1.0, 2.0]}
    monkeypatch.setattr(trainer, "check_metrics", lambda: None)
    assert list(trainer._fit(None, total_epochs=1).items()) == [("accuracy", 0.5), ("loss", 3.0)]


def test_without_validation(train):
    trainer = train("run", (Stage(1, "all", 0.1),), validation_steps=0)
    assert list(trainer.state.history[0]) == ["epoch", "learning_rate", "loss", "number"]


@pytest.mark.parametrize("save_every", [1, 3])
def test_a_loss_that_is_not_finite_stops_the_run(train, whole, save_every):
    """From sample 10 on there is infinity in them: in step 2 of epoch 2."""
    with pytest.raises(RuntimeError) as stopped:
        train(maker=toy.Numbers(infinite=10), save_every=save_every)
    message = str(stopped.value)
    assert message.startswith("epoch 2, step 2: loss is NaN or infinite, training stops. ")
    assert "Images of this step: toy/3.png, toy/4.png. " in message
    name = "resume_0001_000001.weights.h5" if save_every == 1 else "siamese_mrcnn_0001.weights.h5"
    path = pathlib.Path(message.partition("The last good checkpoint: ")[2])
    assert path.name == name
    good, layers = toy.build_model(seed=50)
    folder = CheckpointManager(path.parent, layers, keep=1)
    assert folder.weights_path(folder.load_state()) == path
    good.load_weights(path)
    assert all(np.isfinite(values).all() for values in weights_of(good).values())
    assert train(resume=True).state.history == whole.state.history  # with samples that are mended


def test_a_learning_rate_that_is_too_high_stops_the_run(train):
    with pytest.raises(
        RuntimeError, match=r"epoch 1, step \d: .*NaN or infinit.*last good checkpoint: .*resume_0000_000000"
    ):
        train("run", (Stage(2, "all", 1e20),))


def test_a_validation_loss_that_is_not_finite_stops_the_run(train, tmp_path):
    message = (
        r"validation of epoch 1, step 2: val_loss is NaN or infinite, .*: toy/2\.png, toy/3\.png\. .*_000004\.weights"
    )
    with pytest.raises(RuntimeError, match=message):
        train(val_maker=toy.Numbers(infinite=2))
    state = json.loads((tmp_path / "run" / "state.json").read_text())
    assert (state["epoch"], state["step"], state["history"]) == (0, STEPS, [])


@pytest.mark.parametrize("part", ["maker", "val_maker"])
def test_a_sample_that_cannot_be_made_stops_the_run(train, part):
    with pytest.raises(RuntimeError, match=r"^training sample 3, image toy/3\.png: cut off$"):
        train(**{part: toy.Numbers(broken=(3,))})


def test_workers_that_a_signal_ends_do_not_lose_the_steps_done(train, whole):
    """SIGTERM may be sent to all processes of a run: samples fail then, while the stop is asked for."""
    stop = threading.Event()

    class Ended(toy.Numbers):
        def __getitem__(self, number):
            if number < 6:
                return super().__getitem__(number)
            raise RuntimeError("terminated abruptly")

    def ask_late(trainer):
        class Late(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                if trainer.state.step == 3:
                    stop.set()  # after the last step that has its samples, when Trainer has looked already

        fit = trainer.model.fit
        trainer.model.fit = lambda *arguments, callbacks, **named: fit(
            *arguments, callbacks=[*callbacks, Late()], **named
        )
        stopped.append(trainer.model)

    stopped = []
    with pytest.raises(TrainingStopped, match="stopped in epoch 1 after step 3"):
        train(maker=Ended(), stop=stop, begin=ask_late, save_every=100)
    assert int(stopped[0].optimizer.iterations) == 3  # the step that failed has counted for nothing
    assert train(resume=True).state.history == whole.state.history


def test_resuming_wants_a_run(train):
    with pytest.raises(ValueError, match="run: no run to resume there"):
        train(resume=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "seed = 1, but the run was begun with 0; use that"),
        ({"steps_per_epoch": 5}, "steps_per_epoch = 5, but the run was begun with 4"),
    ],
)
def test_resuming_with_other_settings_is_refused(train, changes, message):
    train("run", (Stage(1, "all", 0.1),))
    with pytest.raises(ValueError, match=f"run: {message}"):
        train(resume=True, **changes)


def kept_first(values):
    return {"loss": values["loss"][:1]}


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("metrics", lambda metrics: {}, r"state\.json: metrics\.\w+ = \[\]: expected 2 numbers"),
        ("metrics", kept_first, r"state\.json: metrics\.\w+ = .*: expected 2 numbers"),
        ("step", lambda step: 7, r"state\.json: epoch = 0, step = 7: do not go with weights"),
    ],
)
def test_resuming_a_state_that_lacks_something_is_refused(train, tmp_path, key, change, message):
    with pytest.raises(TrainingStopped):
        train("run", stop=toy.StopAfter(1))
    path = tmp_path / "run" / "state.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {key: change(content[key])}))
    with pytest.raises(InputError, match=message):
        train("run", resume=True)


def test_resuming_a_run_that_is_older_than_a_setting(train):
    """It had the setting's default."""
    train("run", (Stage(1, "all", 0.1),))
    assert train("run", (Stage(2, "all", 0.1),), resume=True, fixed={"ABSENT_REFERENCE_RATIO": 0.0}).state.epoch == 2
    with pytest.raises(ValueError, match="ABSENT_REFERENCE_RATIO = 0.3, but the run was begun with 0.0; use that"):
        train("run", resume=True, fixed={"ABSENT_REFERENCE_RATIO": 0.3})


def test_resuming_with_another_batch_is_refused(train, monkeypatch):
    train("run", (Stage(1, "all", 0.1),))
    monkeypatch.setattr(toy.CONFIG, "BATCH_SIZE", 3)
    with pytest.raises(ValueError, match="batch_size = 3, but the run was begun with 2"):
        train(resume=True)


def test_a_run_that_went_further_is_not_overwritten(train, tmp_path):
    train("run", (Stage(2, "all", 0.1),))
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    with pytest.raises(
        ValueError, match="run: holds a run of 2 epochs, and this one begins after epoch 1: resume from"
    ):
        train(begin=lambda trainer: trainer.begin_at(1))
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()} == before


def test_a_run_that_begins_where_another_ends_takes_its_history(train):
    first = train("run", (Stage(1, "all", 0.1),))
    second = train("run", (Stage(2, "all", 0.1),), begin=lambda trainer: trainer.begin_at(1))
    assert second.state.history[0] == first.state.history[0] and len(second.state.history) == 2


def test_history_and_board_hold_every_value(whole):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with open(whole.folder.path / "history.csv", newline="") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    assert rows == whole.state.history
    events = EventAccumulator(str(whole.folder.path / "tensorboard"))
    events.Reload()
    names = set(rows[0]) - {"epoch"}
    assert set(events.Tags()["tensors"]) | set(events.Tags()["scalars"]) == names
    for name in names:
        if name in events.Tags()["scalars"]:
            found = [(event.step, event.value) for event in events.Scalars(name)]
        else:
            found = [(event.step, float(event.tensor_proto.float_val[0])) for event in events.Tensors(name)]
        assert found == [(row["epoch"], pytest.approx(row[name])) for row in rows]


def test_a_machine_that_does_not_write_trains_all_the_same(train, tmp_path):
    def forbid(trainer):
        trainer.folder.writes = False

    trainer = train(begin=forbid)
    assert len(trainer.state.history) == 3 and not (tmp_path / "run").exists()


# ---- learning rates that decay -----------------------------------------------------------------------------------

DECAY = (Stage(1, "heads", 0.02), Stage(3, "all", 0.1, decay_to=4))  # falls over 12 steps, stops after 8 of them


@pytest.fixture
def rates():
    """(list, function for `begin`): the function makes a Trainer note the learning rate of each step in the list."""
    noted = []

    class Note(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            noted.append(float(self.model.optimizer.learning_rate))

    def begin(trainer):
        fit = trainer.model.fit
        trainer.model.fit = lambda *arguments, callbacks, **named: fit(
            *arguments, callbacks=[*callbacks, Note()], **named
        )

    return noted, begin


def decaying(highest, steps, *, warm_up=0):
    """Learning rates of `steps` steps and after the last of them: a rise along a line, half a cosine."""
    rise = [highest * step / warm_up for step in range(warm_up)]
    fall = [highest * (1 + math.cos(math.pi * step / (steps - warm_up))) / 2 for step in range(steps - warm_up + 1)]
    return rise + fall


@pytest.mark.parametrize("warm_up", [0, 3])
def test_a_learning_rate_rises_and_falls(train, rates, monkeypatch, warm_up):
    monkeypatch.setattr(toy.CONFIG, "WARM_UP_STEPS", warm_up)
    noted, begin = rates
    trainer = train("run", (Stage(3, "all", 0.1, decay_to=3),), begin=begin)
    expected = decaying(0.1, 3 * STEPS, warm_up=warm_up)
    assert expected[warm_up] == 0.1 and expected[-1] == 0 and len(expected) == 3 * STEPS + 1
    assert noted == pytest.approx(expected[:-1], abs=1e-7)
    history = [row["learning_rate"] for row in trainer.state.history]
    assert history == pytest.approx(expected[STEPS::STEPS], abs=1e-7)  # what each epoch ends with
    assert trainer.state.stage == {"index": 0, "layers": "all", "learning_rate": 0.1, "decay_to": 3, "first_epoch": 0}


def test_a_rise_that_is_longer_than_the_stage_stays_a_rise(train, rates, monkeypatch):
    monkeypatch.setattr(toy.CONFIG, "WARM_UP_STEPS", 100)
    noted, begin = rates
    train("run", (Stage(1, "all", 0.1, decay_to=1),), begin=begin)
    assert noted == pytest.approx([0.001 * step for step in range(STEPS)], abs=1e-7)


def test_each_stage_has_its_own_learning_rate(train, rates, monkeypatch):
    monkeypatch.setattr(toy.CONFIG, "WARM_UP_STEPS", 2)
    noted, begin = rates
    trainer = train("run", DECAY, begin=begin)
    assert noted[:STEPS] == pytest.approx([0.02] * STEPS)  # without a decay there is no rise
    assert noted[STEPS:] == pytest.approx(decaying(0.1, 3 * STEPS, warm_up=2)[: 2 * STEPS], abs=1e-7)
    assert trainer.state.history[-1]["learning_rate"] > 0.02
    assert trainer.state.stage["first_epoch"] == 1


def test_a_decay_begins_where_the_run_does(train, rates):
    noted, begin = rates

    def begin_late(trainer):
        trainer.begin_at(1)
        begin(trainer)

    train("run", (Stage(3, "all", 0.1, decay_to=3),), begin=begin_late)
    assert noted == pytest.approx(decaying(0.1, 2 * STEPS)[:-1], abs=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "places"), [("sgd", (5, 10)), ("adam", (8, 11))])
def test_a_stop_while_the_learning_rate_falls_changes_nothing(train, rates, monkeypatch, optimizer, places):
    """In the validation before the stage, within an epoch of it, after the last step of one and in its validation."""
    monkeypatch.setattr(toy.CONFIG, "WARM_UP_STEPS", 3)
    monkeypatch.setattr(toy.CONFIG, "OPTIMIZER", optimizer)
    noted, begin = rates
    whole = train("whole", DECAY, begin=begin)
    at_once = noted.copy()
    for stops in places:
        noted.clear()
        with pytest.raises(TrainingStopped):
            train(f"parts{stops}", DECAY, begin=begin, stop=toy.StopAfter(stops - 1))
        assert len(noted) < len(at_once)
        parts = train(f"parts{stops}", DECAY, begin=begin, resume=True)
        assert noted == at_once
        assert parts.state.history == whole.state.history and parts.state.stage == whole.state.stage
        assert_same_weights(parts.model, whole.model)


@pytest.mark.slow
def test_a_shortened_decay_can_be_prolonged(train, rates):
    noted, begin = rates
    train("parts", shortened(DECAY, 2), begin=begin)
    parts = train("parts", DECAY, begin=begin, resume=True)
    assert noted == pytest.approx([0.02] * STEPS + decaying(0.1, 3 * STEPS)[: 2 * STEPS], abs=1e-7)
    assert_same_weights(parts.model, train("whole", DECAY).model)


# ---- the real model ----------------------------------------------------------------------------------------------

REAL_STAGES = (Stage(1, "heads", 0.001), Stage(3, "4+", 0.001))
Run = collections.namedtuple("Run", "model trainer initial traces dataset")


def file_content(path):
    """All weights in a legacy file, by their place in it."""
    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return found


@pytest.fixture(scope="module")
def finished(training_parts, micro_config, tmp_path_factory):
    """A run of two stages on generated images."""
    folder = tmp_path_factory.mktemp("run")
    model = SiameseMaskRCNN("training", micro_config, folder)
    conftest.set_seeded_weights(model.keras_model.layers)
    model.save_weights(folder / "initial.h5")
    initial, traces, compute_loss = file_content(folder / "initial.h5"), [], TrainingModel.compute_loss

    def counted(self, *arguments, training=True, **named):
        traces.append("training" if training else "validation")
        return compute_loss(self, *arguments, training=training, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingModel, "compute_loss", counted)
        trainer = model.trainer(keep=9, seed=1)
        train_on_dataset(trainer, REAL_STAGES, *training_parts, augmentation="fliplr", workers=2)
    return Run(model, trainer, initial, traces, training_parts)


@pytest.mark.slow
def test_stages_train_their_layers_and_no_others(finished):
    folder = pathlib.Path(finished.model.log_dir)
    files = [finished.initial] + [file_content(folder / f"siamese_mrcnn_{epoch:04d}.h5") for epoch in (1, 2, 3)]
    for epoch, stage in ((1, "heads"), (2, "4+"), (3, "4+")):
        before, after = files[epoch - 1 : epoch + 1]
        assert before.keys() == after.keys()
        changed = {layer_of(name) for name in before if not np.array_equal(before[name], after[name])}
        chosen = {name for name in map(layer_of, before) if layer_pattern(stage).fullmatch(name)}
        assert changed <= chosen
        assert len(changed) > 0.9 * len(chosen), chosen - changed
        assert {"heads": {"rpn_class_raw"}, "4+": {"res4a_branch2a"}}[stage] <= changed


def layer_of(name):
    return name.split("/")[-2]


@pytest.mark.slow
def test_each_stage_is_compiled_once(finished):
    """And not once more for another epoch, or after validation."""
    assert finished.traces == ["training", "validation"] * len(REAL_STAGES)


@pytest.mark.slow
def test_the_run_records_every_loss(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    names = ["loss", *LOSS_NAMES]
    for row in finished.trainer.state.history:
        assert set(row) == {"epoch", "learning_rate", *names, *(f"val_{name}" for name in names)}
        assert all(row[name] > 0 for name in row)
    events = EventAccumulator(str(finished.trainer.folder.path / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert set(tags["tensors"]) | set(tags["scalars"]) == set(finished.trainer.state.history[0]) - {"epoch"}


@pytest.mark.slow
def test_validation_is_the_same_each_time_and_leaves_no_trace(finished, micro_config):
    model, before = finished.model.keras_model, [variable.numpy() for variable in finished.model.keras_model.variables]
    losses = []
    with SampleLoader(TrainingSamples(finished.dataset[1], micro_config, seed=1), micro_config) as loader:
        for _ in range(2):
            losses.append(model.evaluate(TrainingBatches(loader, num_batches=1), verbose=0, return_dict=True))
    assert losses[0] == losses[1]
    last = finished.trainer.state.history[-1]
    for name, value in losses[0].items():
        assert value == pytest.approx(last[f"val_{name}"], rel=1e-5)
    for variable, values in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), values)


class MemoryLog(threading.Event):
    """Notes the memory in use when it is asked, after each step: megabytes."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def is_set(self):
        pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
        self.seen.append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
        return False


@pytest.mark.slow
@pytest.mark.skipif(not pathlib.Path("/proc/self/statm").exists(), reason="reads Linux' /proc")
def test_memory_does_not_grow(finished, micro_config, tmp_path):
    log, folder = MemoryLog(), CheckpointManager(tmp_path, finished.trainer.layers, keep=1)
    settings = TrainingSettings(75, 0, save_every=50, progress=False)
    trainer = Trainer(finished.model.keras_model, finished.trainer.layers, micro_config, folder, settings, stop=log)
    train_on_dataset(trainer, (Stage(2, "rpn", 1e-4),), finished.dataset[0])
    assert len(log.seen) == 150
    assert max(log.seen[125:]) - max(log.seen[:50]) < 8  # 0.1 MB a step


def test_the_trainer_logs_its_stages(train, caplog):
    with caplog.at_level(logging.INFO, logger="siamese_mrcnn_tf"):
        train("run", (Stage(1, "heads", 0.5),))
    assert "to epoch 1: heads at learning rate 0.5; 2 layers train: rpn_a, mrcnn_a" in caplog.text
    assert "epoch 1/1: loss" in caplog.text and "(best: 1)" in caplog.text


def test_a_run_on_a_trained_model_counts_its_own_losses_alone(train):
    trainer = train("run", (Stage(1, "heads", 0.5),))
    assert any(np.asarray(metric.variables[0]) for metric in trainer.model.metrics)  # of the last epoch
    trainer.save_now()
    assert trainer.state.metrics == {}
