"""The folder of a run: what is kept, what is removed, and that a state always finds its weights."""

import csv
import gc
import json
import types

import h5py
import keras
import numpy as np
import pytest

from siamese_mrcnn_tf import TinyConfig
from siamese_mrcnn_tf.cli.inputs import resumed_arguments
from siamese_mrcnn_tf.io import files, schemas
from siamese_mrcnn_tf.io.errors import InputError
from siamese_mrcnn_tf.training import checkpoints
from siamese_mrcnn_tf.training.board import Board
from siamese_mrcnn_tf.training.checkpoints import CheckpointManager, TrainerState, resolve_run
from siamese_mrcnn_tf.weights.runs import best_epoch, has_risen


@pytest.fixture
def model():
    """One weight and an optimizer with momentum."""
    inputs = keras.Input((1,))
    model = keras.Model(inputs, keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")(inputs))
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9))
    model.optimizer.build(model.trainable_variables)
    return model


def save_legacy(layers, path):
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"legacy of {layers.name}")


@pytest.fixture
def open_folder(tmp_path):
    """Opens the run folder with settings."""

    def open_it(keep=2, **options):
        layers = types.SimpleNamespace(name="layers")
        return CheckpointManager(tmp_path / "run", layers, keep=keep, **{"save_legacy": save_legacy, **options})

    return open_it


def finish_epochs(folder, model, val_losses, state=None):
    """Save an epoch for each validation loss; None: not validated."""
    state = state or TrainerState()
    for loss in val_losses:
        row = {"epoch": state.epoch + 1, "learning_rate": 0.1, "loss": 1.5}
        state.history.append(row if loss is None else row | {"val_loss": loss})
        state.epoch, state.step = state.epoch + 1, 0
        folder.save_epoch(model, state)
    return state


def names_in(folder):
    return {path.name for path in folder.path.iterdir()}


def names_of(*epochs):
    kept = {f"siamese_mrcnn_{epoch:04d}{suffix}" for epoch in epochs for suffix in (".h5", ".weights.h5")}
    return kept | {"state.json", "history.csv"}


@pytest.mark.parametrize(
    ("keep", "val_losses", "kept"),
    [
        (1, [3.0], {1}),
        (1, [3.0, 2.0, 4.0, 5.0], {2, 4}),
        (2, [1.0, 2.0, 3.0, 4.0], {1, 3, 4}),
        (2, [4.0, 3.0, 2.0, 1.0], {3, 4}),
        (2, [None, None, None], {2, 3}),
        (1, [float("nan"), 2.0, float("inf"), None], {2, 4}),
        (9, [1.0, 2.0], {1, 2}),
    ],
)
def test_the_last_epochs_and_the_best_are_kept(open_folder, model, keep, val_losses, kept):
    folder = open_folder(keep)
    writable = [loss if loss is None or np.isfinite(loss) else None for loss in val_losses]
    state = finish_epochs(folder, model, writable)
    assert names_in(folder) == names_of(*kept)
    assert folder.kept_epochs(state) == kept


def test_the_best_epoch():
    rows = [{"epoch": epoch, "val_loss": loss} for epoch, loss in enumerate((2.0, float("nan"), 1.0, 1.0), start=1)]
    assert best_epoch(rows) == 3
    assert best_epoch([*rows, {"epoch": 5, "val_loss": float("-inf")}]) == 3
    assert best_epoch([*rows, {"epoch": 5, "val_loss": None}]) == 3  # as runs of version 0.1 without validation
    assert best_epoch([{"epoch": 1}]) is None and best_epoch([]) is None
    assert has_risen([*rows, {"epoch": 5, "val_loss": 1.1}]) and has_risen(rows[:2])
    assert not has_risen(rows) and not has_risen([{"epoch": 1}]) and not has_risen([])


def test_keep_is_checked(open_folder):
    with pytest.raises(ValueError, match="keep = 0: expected 1 or more epochs"):
        open_folder(0)


def test_checkpoints_within_an_epoch_replace_each_other(open_folder, model):
    folder, state = open_folder(), TrainerState(settings={"seed": 3})
    for step in (2, 4):
        state.step = step
        folder.save_within_epoch(model, state)
        assert state.weights == f"resume_0000_{step:06d}.weights.h5"
        assert names_in(folder) == {"state.json", state.weights}
    assert folder.load_state() == state
    finish_epochs(folder, model, [1.0], state)
    assert names_in(folder) == names_of(1)
    state.step = 2
    folder.save_within_epoch(model, state)
    assert names_in(folder) == names_of(1) | {"resume_0001_000002.weights.h5"}


def test_the_command_is_kept_and_options_given_now_are_added(open_folder, model):
    folder = open_folder()
    begun = ["train", "--logs", "a b", "--seed", "3"]
    checkpoints.save_command(folder.path, "coco.py", begun, TinyConfig())
    assert json.loads((folder.path / "run.json").read_text())["command"] == "coco.py train --logs 'a b' --seed 3"
    assert json.loads((folder.path / "config.json").read_text()) == json.loads(json.dumps(TinyConfig().to_dict()))
    finish_epochs(folder, model, [1.0])
    for given in (["--resume"], ["--resume", "run"], ["--resume=run"]):
        assert resumed_arguments(folder.path, [*given, "--epochs", "5"]) == [*begun, "--epochs", "5"]
        assert resumed_arguments(folder.path, ["--keep", "1", *given]) == [*begun, "--keep", "1"]
    (folder.path / "run.json").write_text('{"arguments": "train"}')
    with pytest.raises(ValueError, match=r"run\.json: arguments = 'train': expected array"):
        resumed_arguments(folder.path, [])


def test_what_a_killed_write_left_is_removed(open_folder, model):
    folder = open_folder()
    folder.path.mkdir()
    (folder.path / ".0a1b2c3d-siamese_mrcnn_0001.weights.h5").write_text("half of it")
    below = folder.path / "evaluation" / ".0a1b2c3d-scores.json"  # of an evaluation that may be under way
    files.write_text(below, "half of it")
    with folder.opened():
        finish_epochs(folder, model, [1.0])
    assert names_in(folder) == names_of(1) | {"evaluation"} and below.exists()


def test_a_full_disk_is_told_with_the_path(open_folder, model, full_disk):
    folder = open_folder()
    folder.path.mkdir()
    with full_disk(), pytest.raises(ValueError, match=r"resume_0000_000000.weights.h5: cannot be written \(File too"):
        folder.save_within_epoch(model, TrainerState())
    with full_disk(), pytest.raises(ValueError, match=r"events.*: cannot be written"), Board(folder.path) as board:
        for epoch in range(100):
            board.add({"epoch": epoch, "loss": 1.0})
    assert not [path for path in folder.path.iterdir() if path.suffix == ".h5"]


def test_only_what_the_run_wrote_is_removed(open_folder, model):
    folder = open_folder(keep=1)
    folder.path.mkdir()
    foreign = {"siamese_mrcnn_0001.h5", "siamese_mrcnn_0160.h5", "best.h5", "notes.txt", "siamese_mrcnn_0002.h5.bak"}
    for name in foreign:
        (folder.path / name).write_text("mine")
    state = TrainerState(epoch=1)  # begun from the first epoch of another run: it is not in the history
    finish_epochs(folder, model, [3.0, 2.0, 1.0], state)
    assert names_in(folder) == names_of(4) | foreign
    assert all((folder.path / name).read_text() == "mine" for name in foreign)


def test_the_weights_come_back_with_the_optimizer(open_folder, model):
    folder, state = open_folder(), TrainerState()
    weight, momentum = model.trainable_variables[0], model.optimizer.momentums[0]
    weight.assign([[2.5]])
    momentum.assign([[-0.5]])
    folder.save_within_epoch(model, state)
    weight.assign([[0.0]])
    momentum.assign([[0.0]])
    model.load_weights(folder.weights_path(folder.load_state()))
    assert float(weight.numpy()[0, 0]) == 2.5 and float(momentum.numpy()[0, 0]) == -0.5


def test_other_names_of_finished_epochs(open_folder, model):
    folder = open_folder(keep=1, name="imagenet_{epoch:04d}")
    finish_epochs(folder, model, [1.0, 2.0])
    assert {name for name in names_in(folder) if name.startswith("imagenet")} == {
        *("imagenet_0001.h5", "imagenet_0001.weights.h5", "imagenet_0002.h5", "imagenet_0002.weights.h5")
    }


def test_a_machine_that_does_not_write(open_folder, model):
    folder = open_folder(writes=False)
    state = finish_epochs(folder, model, [1.0])
    folder.save_within_epoch(model, state)
    assert not folder.path.exists() and state.weights is None


# ---- stops at any moment -----------------------------------------------------------------------------------------


class Killed(BaseException):
    pass


WRITES = ("save_legacy", "atomic_path", "save_weights", "write_state", "clean_up", "write_text")


@pytest.mark.parametrize("stopped_in", WRITES)
@pytest.mark.parametrize("finishes", [False, True], ids=["within", "end"])
def test_a_state_finds_its_weights_after_a_stop_at_any_moment(
    open_folder, model, monkeypatch, tmp_path, stopped_in, finishes
):
    folder = open_folder(keep=1)
    before = finish_epochs(folder, model, [1.0, 2.0])
    before.step = 2
    folder.save_within_epoch(model, before)
    before = folder.load_state()

    def stop(*_, **__):
        raise Killed

    with monkeypatch.context() as patch:
        if stopped_in == "save_legacy":
            folder = open_folder(keep=1, save_legacy=stop)
        elif stopped_in == "save_weights":
            patch.setattr(model, "save_weights", stop)
        elif stopped_in == "clean_up":
            patch.setattr(CheckpointManager, "_clean_up", stop)
        elif stopped_in == "write_state":
            patch.setattr(schemas, "write", stop)
        else:
            patch.setattr(files, stopped_in, stop)
        state = folder.load_state()
        state.step = 4
        try:
            if finishes:
                finish_epochs(folder, model, [0.5], state)
            else:
                folder.save_within_epoch(model, state)
            reached = "the end"
        except Killed:
            reached = stopped_in
    if (stopped_in, finishes) != ("save_legacy", False):  # no legacy file then
        assert reached == stopped_in
    folder = open_folder(keep=1)
    found = folder.load_state()  # which looks for the weights
    model.load_weights(folder.weights_path(found))
    if reached == "clean_up":
        assert (found.epoch, found.step) == ((3, 0) if finishes else (2, 4))
    elif reached != "the end":
        assert found == before
    assert not [name for name in names_in(folder) if name.startswith(".")]  # no temporary files
    state = finish_epochs(folder, model, [0.25], folder.load_state())
    assert names_in(folder) == names_of(state.epoch, best_epoch(state.history))  # a later run cleans up


@pytest.mark.parametrize("finishes", [False, True], ids=["within", "end"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(open_folder, model, value, finishes):
    folder = open_folder()
    state = finish_epochs(folder, model, [1.0])
    good = (folder.path / state.weights).read_bytes()
    model.trainable_variables[0].assign([[value]])
    state.step = 3
    message = (
        r"epoch 2, step 3: 1 weights hold NaN or infinity, the first is .*kernel.*checkpoint: .*_0001\.weights\.h5"
    )
    with pytest.raises(RuntimeError, match=message):
        folder.save_epoch(model, state) if finishes else folder.save_within_epoch(model, state)
    assert names_in(folder) == names_of(1)
    assert (folder.path / folder.load_state().weights).read_bytes() == good


def test_checkpoints_build_no_optimizers(open_folder, model, monkeypatch):
    """Keras would build one for each, whose variables stay in memory."""
    open_folder().save_within_epoch(model, TrainerState())
    built = []
    monkeypatch.setattr(keras.optimizers.Optimizer, "__init__", lambda *_, **__: built.append(1))
    open_folder().save_within_epoch(model, TrainerState(step=1))
    assert not built


def test_checkpoints_leave_no_cycles(open_folder, model):
    """Objects that point at each other would stay until Python looks through all of them."""
    folder, left = open_folder(), []
    for step in range(3):
        gc.collect()
        gc.disable()
        try:
            folder.save_within_epoch(model, TrainerState(step=step))
            left.append(gc.collect())
        finally:
            gc.enable()
    assert max(left[1:]) < 100  # 226 with those of Keras, 31 without


def test_refused_before_anything_was_saved(open_folder, model):
    model.trainable_variables[0].assign([[np.nan]])
    with pytest.raises(RuntimeError, match="the last good checkpoint: none yet"):
        open_folder().save_within_epoch(model, TrainerState())


# ---- reading -----------------------------------------------------------------------------------------------------
WHOLE = '{"epoch": 2, "step": 0, "settings": {}, "weights": "siamese_mrcnn_0002.weights.h5", %s}'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"state\.json: not JSON at line 1"),
        ("[]", r"state\.json: expected object, got array"),
        ('{"epochs": 3}', r"state\.json: unknown key 'epochs'"),
        ('{"format": 2}', r"state\.json: format = 2: written by a newer version .* upgrade siamese-mrcnn-tf"),
        ('{"epoch": 1%s}' % ("0" * 30), r"state\.json: epoch = 1e\+30: expected int"),
        (
            '{"epoch": 1%s}' % ("0" * 5000),
            r"state\.json: line 1, epoch: the number 10+\.\.\. of 5001 digits is too large",
        ),
        ('{"epoch": 1000001}', r"state\.json: epoch = 1000001: expected int <= 1000000"),
        ('{"step": -1}', r"state\.json: step = -1: expected int >= 0"),
        ('{"epoch": true}', r"state\.json: epoch = True: expected int"),
        ('{"stage": {"index": 0, "layers": "all"}}', r"state\.json: stage: the key 'learning_rate' is missing"),
        ('{"metrics": {"loss": [NaN, 1]}}', r"state\.json: metrics\[\.\.\.\]\[0\]: expected float >="),
        ('{"epoch": 2, "history": [{"epoch": 2}, {"epoch": 1}]}', r"history\[1\]\.epoch = 1: .* above 2"),
        ('{"epoch": 1, "history": [{"epoch": 2}]}', r"history\[0\]\.epoch = 2: .* at most epoch = 1"),
        ('{"history": [{"loss": "x"}]}', r"state\.json: history\[0\]"),
        ('{"epoch": 9, "weights": "siamese_mrcnn_0002.weights.h5"}', r"epoch = 9, step = 0: do not go with weights"),
        ('{"step": 1, "weights": "siamese_mrcnn_0000.weights.h5"}', r"epoch = 0, step = 1: do not go with weights"),
        ('{"step": 0, "weights": "a_0000.weights.h5"}', r"state\.json: the key 'epoch' is missing"),
        (WHOLE % '"history": []', r"state\.json: history: the last row is of epoch None, .* epoch = 2"),
        (WHOLE % '"history": [{"epoch": 1}]', r"state\.json: history: the last row is of epoch 1, .* epoch = 2"),
        (WHOLE % '"history": [{"epoch": 2, "loss": "x"}]', r"history\[0\]\.loss = 'x': expected int"),
        ("[" * 100000, r"state\.json: JSON nested too deeply"),
    ],
    ids=lambda text: text[:24],
)
def test_broken_states_are_named(open_folder, text, message):
    folder = open_folder()
    assert folder.load_state() is None
    folder.path.mkdir()
    (folder.path / "state.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        folder.load_state()


def test_states_of_version_0_1_are_read(open_folder):
    """They have no version."""
    folder = open_folder()
    folder.path.mkdir()
    history = [{"epoch": 1, "loss": 2, "val_loss": None}]
    content = {"epoch": 1, "step": 0, "stage": None, "metrics": {}, "history": history}
    (folder.path / "state.json").write_text(json.dumps(content | {"settings": {"pictures": 3}, "weights": None}))
    state = folder.load_state()
    assert state == TrainerState(epoch=1, history=history, settings={"images": 3})


def damage(change):
    def apply(path):
        with h5py.File(path, "a") as h5:
            change(h5)

    return apply


def without_optimizer(h5):
    del h5["optimizer"]


def with_fewer_moments(h5):
    del h5["optimizer/vars/2"]


def with_nan(h5):
    h5["layers/dense/vars/0"][()] = np.nan


def with_a_large_kernel(h5):
    del h5["layers/dense/vars/0"]
    h5["layers/dense/vars"].create_dataset("0", (2**20, 2**12), np.float32)


def without_a_kernel(h5):
    del h5["layers/dense/vars/0"]


def with_a_link(h5):
    without_a_kernel(h5)
    h5["layers/dense/vars/0"] = h5py.ExternalLink("other.h5", "/values")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (damage(without_optimizer), "has no optimizer state, a run cannot be resumed from it"),
        (damage(with_fewer_moments), "optimizer state 2 is missing"),
        (damage(with_nan), "1 weights hold NaN or infinity, the first is .*kernel"),
        (damage(with_a_large_kernel), r"0 is of shape \[1048576, 4096\], which nothing in the model has"),
        (damage(without_a_kernel), "does not fit the model"),
        (damage(with_a_link), "a link to another file"),
        (lambda path: path.write_bytes(path.read_bytes()[:1000]), "a damaged or truncated HDF5 file"),
        (lambda path: path.write_bytes(b""), "a damaged or truncated HDF5 file"),
    ],
)
def test_damaged_checkpoints_are_named(open_folder, tmp_path, change, message):
    inputs = keras.Input((1,))
    model = keras.Model(inputs, keras.layers.Dense(1, use_bias=False, name="dense")(inputs))
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9))
    model.optimizer.build(model.trainable_variables)
    folder = open_folder()
    state = finish_epochs(folder, model, [1.0])
    folder.load_weights(model, state, optimizer=True)
    change(folder.weights_path(state))
    with pytest.raises(InputError, match=rf"siamese_mrcnn_0001\.weights\.h5: .*{message}"):
        folder.load_weights(model, state, optimizer=True)


def test_missing_weights_are_named(open_folder, model):
    folder = open_folder()
    state = finish_epochs(folder, model, [1.0])
    (folder.path / state.weights).unlink()
    with pytest.raises(ValueError, match=r"siamese_mrcnn_0001\.weights\.h5: no such file, though state\.json names it"):
        folder.load_state()


def test_a_state_cannot_name_weights_elsewhere(open_folder, model):
    folder = open_folder()
    finish_epochs(folder, model, [1.0])
    content = json.loads((folder.path / "state.json").read_text())
    (folder.path / "state.json").write_text(json.dumps(content | {"weights": "../other.weights.h5"}))
    with pytest.raises(ValueError, match="expected the name of a file in the same folder"):
        folder.load_state()


def test_history(open_folder, model):
    folder = open_folder()
    finish_epochs(folder, model, [None, 2.5, 0.1 + 0.2])
    with open(folder.path / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["epoch", "learning_rate", "loss", "val_loss"]
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [row["val_loss"] for row in rows] == ["", "2.5", "0.30000000000000004"]  # in full
    assert {row["loss"] for row in rows} == {"1.5"}


def test_folders_without_and_with_a_run(open_folder, model, tmp_path):
    folder = open_folder()
    with pytest.raises(ValueError, match=r"run: no run to resume there, it has no (run|state)\.json"):
        resolve_run(folder.path)
    checkpoints.refuse_run(folder.path)
    checkpoints.save_command(folder.path, "coco.py", ["train", "--seed", "3"], TinyConfig())
    with pytest.raises(ValueError, match=r"run: no run to resume there, it has no state\.json"):
        resolve_run(folder.path)
    finish_epochs(folder, model, [1.0])
    assert resolve_run(str(folder.path)) == folder.path
    with pytest.raises(ValueError, match="run: holds a run already; resume it"):
        checkpoints.refuse_run(folder.path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file is a file"):
        CheckpointManager(tmp_path / "file" / "run", None, keep=1)
