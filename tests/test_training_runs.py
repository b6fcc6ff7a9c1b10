"""Runs of `train` as processes: killed, stopped, resumed, on two devices, on two machines."""

import contextlib
import csv
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import conftest
import keras
import pytest

from siamese_mrcnn_tf.cli.main import main
from siamese_mrcnn_tf.training import distribution, machines

SCRIPT = pathlib.Path(__file__).resolve().parents[1] / "samples" / "coco" / "coco.py"
TESTS = pathlib.Path(__file__).parent
# Each process compiles one stage, without validation: tests/test_trainer.py stops runs in and between all of them.
STAGES = [{"epochs": 2, "layers": "heads", "learning_rate": 0.01}]
STEPS = 8
_PATIENCE = 600  # seconds to wait for what never comes


@pytest.fixture(scope="module")
def begin(training_tree, tmp_path_factory):
    """Arguments of a run of two epochs, on a network smaller than TinyConfig's."""
    folder = tmp_path_factory.mktemp("settings")
    (folder / "stages.json").write_text(json.dumps(STAGES))
    (folder / "micro.json").write_text(json.dumps({"BASE": "tiny", **conftest.MICRO}))
    data = ["--dataset", training_tree, "--val-images", 2, "--val-steps", 0]
    network = ["--config", folder / "micro.json", "--model", "untrained", "--stages", folder / "stages.json"]
    return [*data, *network, "--steps", STEPS, "--batch", 2, "--save-every", 2]


@pytest.fixture(scope="module")
def start():
    """Starts a run as a process; those that a failed test leaves behind are ended."""
    started = []

    def start_process(*arguments, environment=None):
        command = [sys.executable, str(SCRIPT), "train", *map(str, arguments)]
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
        started.append(subprocess.Popen(command, env=os.environ | (environment or {}), **options))
        return started[-1]

    yield start_process
    for process in started:
        process.kill()
        process.communicate()


def finish(process, code=0):
    """What a process has said, which ends with an exit code."""
    text, _ = process.communicate(timeout=_PATIENCE)
    assert process.returncode == code, text
    return text


def run_folder(logs):
    return logs / "siamese_mrcnn_tiny_default"


def wait_for_step(process, logs, epoch, step):
    """Wait until a run has saved a step of an epoch, counted from 0, or a later one; returns the state."""
    path = run_folder(logs) / "state.json"
    given_up = time.monotonic() + _PATIENCE
    while process.poll() is None and time.monotonic() < given_up:
        with contextlib.suppress(OSError):
            state = json.loads(path.read_text())
            if (state["epoch"], state["step"]) >= (epoch, step):
                return state
        time.sleep(0.01)
    process.kill()
    raise AssertionError(f"never came to epoch {epoch}, step {step}: {process.communicate()[0]}")


def history_of(logs):
    with open(run_folder(logs) / "history.csv", newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def assert_same_history(found, expected, rel=1e-5):
    assert len(found) == len(expected)
    for row, other in zip(found, expected, strict=True):
        assert row == pytest.approx(other, rel=rel)


# ---- stops -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(begin, start, tmp_path_factory):
    """The history of a run that was not stopped."""
    logs = tmp_path_factory.mktemp("whole")
    finish(start(*begin, "--logs", logs, "--workers", 1))
    history = history_of(logs)
    assert [row["epoch"] for row in history] == [1, 2] and history[0]["loss"] != history[1]["loss"]
    return history


@pytest.mark.slow
def test_a_killed_run_resumes_as_if_it_were_not(begin, start, whole, tmp_path):
    """Killed in the middle of the first epoch, stopped by SIGTERM in that of the second, on either resumed."""
    process = start(*begin, "--logs", tmp_path, "--processes")
    wait_for_step(process, tmp_path, 0, 2)
    process.kill()
    finish(process, -signal.SIGKILL)  # returns when no process has the output open: the workers have ended, too
    state = json.loads((run_folder(tmp_path) / "state.json").read_text())
    assert state["epoch"] == 0 and 2 <= state["step"] < STEPS
    assert not (run_folder(tmp_path) / "history.csv").exists()

    process = start("--resume", run_folder(tmp_path), "--processes")
    wait_for_step(process, tmp_path, 1, 2)
    os.killpg(process.pid, signal.SIGTERM)  # the workers get it, too
    text = finish(process, 130)
    state = json.loads((run_folder(tmp_path) / "state.json").read_text())
    assert state["epoch"] == 1 and 2 <= state["step"] <= STEPS
    assert "SIGTERM: saving after this step" in text and "stopped in" in text
    assert f"{SCRIPT} train --resume {run_folder(tmp_path)}" in text.partition("To resume: ")[2]
    assert "Traceback" not in text

    assert "trained to epoch 2" in finish(start("--resume", run_folder(tmp_path)))
    assert_same_history(history_of(tmp_path), whole)


# ---- devices and machines ----------------------------------------------------------------------------------------

_TWO_DEVICES = """
import json, sys
import coco_tree, conftest, numpy as np, toy
from siamese_mrcnn_tf import TinyConfig
from siamese_mrcnn_tf.data.data_generator import TrainingSamples, collate
from siamese_mrcnn_tf.data.loader import SampleLoader
from siamese_mrcnn_tf.modeling import network
from siamese_mrcnn_tf.training import distribution
from siamese_mrcnn_tf.training import training_model as tm
from siamese_mrcnn_tf.training.batches import TrainingBatches

CLIP, STEP = 0.5, 0.01
distribution.prepare_backend(seed=0, devices=2)
toy.CONFIG.GRADIENT_CLIP_NORM = CLIP
free_of_chance = {"SHUFFLE_ROIS": False, "NUM_JITTERED_GT_ROIS": 0}
settings = {"TRAIN_BN": False, "IMAGES_PER_GPU": 1, "QUERIES_PER_IMAGE": 1, "GPU_COUNT": 2, "GRADIENT_CLIP_NORM": CLIP}
config = TinyConfig().replace(**conftest.MICRO | free_of_chance | settings)
sample = TrainingSamples(coco_tree.load(sys.argv[1], subset="train"), config)[1]  # some of its rois are positive

def real():
    layers = network.build_layers(config)
    model = tm.build_training_model(config, layers)
    conftest.set_seeded_weights(layers.layers)
    return model

def three_steps(model, samples, collate, eagerly):
    weights, losses = [[variable.numpy() for variable in model.trainable_variables]], []
    tm.compile_model(model, config, learning_rate=STEP, momentum=0.0)
    tm.build_optimizer(model)
    model.run_eagerly = eagerly  # on one device: compiling takes longer than three steps
    with SampleLoader(samples, config, collate=collate) as loader:
        for step in range(3):
            batches = TrainingBatches(loader, first_step=step, num_batches=1)
            logs = model.fit(batches, shuffle=False, verbose=0).history
            losses.append({name: values[0] for name, values in logs.items()})
            weights.append([variable.numpy() for variable in model.trainable_variables])
    moved = np.sqrt(sum(np.square(after - before).sum() for before, after in zip(*weights[:2])))
    return losses, weights[-1], float(moved) / STEP

found = {"replicas": [], "real": [], "toy": []}
for scope in (distribution.device_scope(2), distribution.device_scope(1)):
    with scope:
        models = real(), toy.build_model()[0]
        found["replicas"].append(distribution.replicas_in_sync())
    found["real"].append(three_steps(models[0], toy.Same(sample), collate, found["replicas"][-1] == 1))
    found["toy"].append(three_steps(models[1], toy.Numbers(), toy.collate, found["replicas"][-1] == 1))
result = {"replicas": found["replicas"], "clip": CLIP}
for name in ("real", "toy"):
    (losses, weights, moved), (expected, expected_weights, expected_moved) = found[name]
    largest = [max(np.abs(values).max(), 1e-3) for values in expected_weights]
    difference = max(np.abs(a - b).max() / c for a, b, c in zip(weights, expected_weights, largest))
    result[name] = [losses, expected, float(difference), [moved, expected_moved]]
json.dump(result, sys.stdout)
"""


@pytest.mark.slow
def test_two_devices_do_what_one_does(training_tree):
    """Equal samples, as a loss's mean over the positives of each device is not that over all of them; and a toy whose
    samples are not equal, so that clipping on each device would give another direction.
    """
    finished = subprocess.run(
        [sys.executable, "-c", _TWO_DEVICES, training_tree],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])},
    )
    assert finished.returncode == 0, finished.stderr
    found = json.loads(finished.stdout)
    assert found["replicas"] == [2, 1]
    for name in ("real", "toy"):
        losses, expected, difference, norms = found[name]
        assert len(losses) == 3
        for step, other in zip(losses, expected, strict=True):
            assert step == pytest.approx(other, rel=1e-4)
        assert difference < 1e-4
        assert norms == pytest.approx([found["clip"]] * 2, rel=1e-3)  # of the gradient: it was clipped, after the sum
    assert all(value > 0 for value in found["real"][1][0].values())


@pytest.mark.slow
def test_two_machines_do_what_two_devices_do(begin, start, tmp_path):
    shorter = [*begin, "--batch", 4, "--epochs", 1, "--steps", 2, "--val-steps", 1, "--workers", 1]
    finish(start(*shorter, "--logs", tmp_path / "devices", "--devices", 2))
    addresses = [f"localhost:{port}" for port in free_ports(2)]
    machines = [
        {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        for index in range(len(addresses))
    ]
    processes = [
        start(*shorter, "--logs", tmp_path / "machines", environment={"TF_CONFIG": json.dumps(machine)})
        for machine in machines
    ]
    texts = [finish(process) for process in processes]
    assert all("trained to epoch 1" in text for text in texts)
    assert_same_history(history_of(tmp_path / "machines"), history_of(tmp_path / "devices"), rel=1e-4)
    names = [{path.name for path in run_folder(tmp_path / part).iterdir()} for part in ("machines", "devices")]
    assert names[0] == names[1]
    assert len(list((run_folder(tmp_path / "machines") / "tensorboard").iterdir())) == 1  # the chief's


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("localhost", 0))
        return [each.getsockname()[1] for each in sockets]


@pytest.fixture
def machine(monkeypatch):
    """Sets TF_CONFIG to a task of some cluster, type -> number of machines."""

    def set_config(kind, index, **counts):
        cluster = {name: [f"localhost:{9000 + number}" for number in range(count)] for name, count in counts.items()}
        monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}}))

    monkeypatch.delenv("TF_CONFIG", raising=False)
    return set_config


def test_one_machine_writes(machine):
    assert machines.is_chief() and not machines.several_machines()
    machine("worker", 0, worker=1)  # alone
    assert machines.is_chief() and not machines.several_machines()
    for counts, writer in (({"worker": 2}, ("worker", 0)), ({"chief": 1, "worker": 2}, ("chief", 0))):
        for kind, count in counts.items():
            for index in range(count):
                machine(kind, index, **counts)
                assert machines.is_chief() is ((kind, index) == writer) and machines.several_machines()


@pytest.mark.parametrize("counts", [{"worker": 2}, {"worker": 1, "ps": 1}])
def test_other_clusters_are_refused(machine, counts):
    machine("ps", 0, **counts)
    with pytest.raises(ValueError, match="expected a chief and workers, and this machine among them"):
        machines.is_chief()


def test_one_device_needs_no_strategy(machine):
    for _ in range(2):
        with distribution.device_scope(1):
            assert distribution.replicas_in_sync() == 1
        machine("worker", 0, worker=1)


def test_a_cpu_in_use_is_not_split(machine):
    keras.ops.ones(1)
    with pytest.raises(ValueError, match="devices = 2: this machine has"):
        distribution.device_scope(2)


def test_on_jax_devices_must_be_there_and_machines_are_refused(machine, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    monkeypatch.setattr(keras.distribution, "list_devices", lambda: ["cpu:0"])
    assert distribution.replicas_in_sync() == 1
    with pytest.raises(ValueError, match="devices = 2: JAX sees cpu:0 .*XLA_FLAGS=--xla_force_host_platform_device"):
        distribution.device_scope(2)
    machine("worker", 0, worker=2)
    with pytest.raises(ValueError, match="need KERAS_BACKEND=tensorflow"):
        distribution.device_scope(1)


# ---- mistakes ----------------------------------------------------------------------------------------------------


@pytest.fixture
def command(monkeypatch, capsys):
    """Run `siamese-mrcnn train` in this process, which is left as it is: (exit code, standard error)."""
    import tensorflow as tf

    monkeypatch.setattr(tf.config.experimental, "enable_op_determinism", lambda: None)
    monkeypatch.setattr(tf.config.threading, "set_inter_op_parallelism_threads", lambda count: None)

    def run(*arguments):
        return main(["train", *map(str, arguments)]), capsys.readouterr().err

    return run


@pytest.mark.parametrize("text", ["{", "[]", '{"cluster": {"worker": ["a:1", "b:1"]}}', '{"cluster": 3, "task": {}}'])
def test_a_tf_config_that_cannot_be_read(command, begin, monkeypatch, tmp_path, text):
    monkeypatch.setenv("TF_CONFIG", text)
    code, errors = command(*begin, "--logs", tmp_path / "logs")
    assert code == 2 and errors.startswith("siamese-mrcnn train: error: TF_CONFIG = ") and repr(text) in errors
    assert not (tmp_path / "logs").exists()


def test_machines_use_all_their_devices(command, begin, machine, tmp_path):
    machine("worker", 0, worker=2)
    code, errors = command(*begin, "--logs", tmp_path / "logs", "--batch", 4, "--devices", 2)
    assert code == 2 and "devices = 2: where TF_CONFIG names several machines, each uses all of its GPUs" in errors


def test_a_folder_without_a_run_is_not_resumed(command, tmp_path):
    code, errors = command("--resume", tmp_path / "nowhere")
    assert code == 2 and "nowhere: no run to resume there" in errors


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", "", "not JSON at line 1"),
        ("state.json", "", "not JSON at line 1"),
        ("run.json", '{"arguments": ["train", "--frob"]}', "arguments = ['train', '--frob']: "),
        ("run.json", '{"arguments": ["train", "--help"]}', "arguments = ['train', '--help']: "),
        ("run.json", '{"arguments": ["shapes", "--out", "x"]}', "expected those of train"),
        ("run.json", '{"arguments": ["train", "--resume", "x"]}', "has --resume, expected those that began the run"),
    ],
)
def test_a_run_with_a_damaged_file_is_not_resumed(command, begin, tmp_path, name, content, message):
    arguments = ["train", *map(str, begin)]
    contents = {"state.json": "{}", "config.json": "{}", "run.json": json.dumps({"arguments": arguments})}
    for file, text in (contents | {name: content}).items():
        (tmp_path / file).write_text(text)
    code, errors = command("--resume", tmp_path)
    assert code == 2 and f"{name}: {message}" in errors or f"{name}: arguments" in errors and message in errors


def test_a_batch_that_devices_cannot_share(command, begin, tmp_path):
    code, errors = command(*begin, "--logs", tmp_path / "logs", "--devices", 3)
    assert code == 2 and "--batch 2: cannot be shared evenly by 3 devices" in errors


def test_a_batch_that_parts_the_samples_of_a_scene(command, begin, tmp_path):
    code, errors = command(*begin, "--logs", tmp_path / "logs", "--batch", 3)
    assert (
        code == 2 and "--batch 3: expected a multiple of QUERIES_PER_IMAGE = 2 for each of 1 devices, got 3" in errors
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("--stages", "papr"), "schedule 'papr': none of paper, paper-full, small"),
        (("--stages", "{path}/typo.json"), "layers 'nowhere': no layer of that name"),
        (("--resume", "{path}/nowhere"), "--model untrained: a run that is resumed has its own weights"),
        (("--model", "{path}/gone.h5"), "gone.h5"),
        (("--model", "last"), "no checkpoint siamese_mrcnn_####.h5"),
        (("--dataset", "{path}/gone"), "gone"),
        (("--val-images", 7), "val_images = 7 leaves no images for 'train'"),
        (("--set", "TRAIN_ROIS_PER_IMAGES=3"), "did you mean TRAIN_ROIS_PER_IMAGE"),
    ],
)
def test_mistakes_are_named_before_anything_is_written(command, begin, tmp_path, changes, message):
    changes = [str(change).format(path=tmp_path) for change in changes]
    (tmp_path / "typo.json").write_text('[{"epochs": 1, "layers": "nowhere", "learning_rate": 0.01}]')
    code, errors = command(*begin, "--logs", tmp_path / "logs", *changes)
    assert code == 2 and message in errors
    assert not (tmp_path / "logs").exists()
