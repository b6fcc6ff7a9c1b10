"""Detection and training on JAX, against TensorFlow. Keras cannot change its backend: each has a process of its own.

The processes run the same commands on the same scenes with the bundled weights; JAX trains on two devices. It compiles
without optimizations, which takes less time than what these save.
"""

import csv
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from siamese_mrcnn_tf.cli.main import main
from siamese_mrcnn_tf.weights.legacy_h5 import read_weights
from siamese_mrcnn_tf.weights.pretrained import find_weights

pytestmark = pytest.mark.slow
pytest.importorskip("jax")

HERE = pathlib.Path(__file__).parent
TRAINING = ["SHUFFLE_ROIS=False", "NUM_JITTERED_GT_ROIS=0", "OPTIMIZER=sgd", "WARM_UP_STEPS=0"]  # nothing is drawn
JAX = {
    "KERAS_BACKEND": "jax",
    "XLA_FLAGS": "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0",
}


def commands(folder, backend):
    """A search of a scene with one reference, and two epochs of one step, both with the bundled weights."""
    out, model = folder / backend, ["--model", "shapes"]
    devices = "2" if backend == "jax" else "1"
    scene = ["--image", folder / "demo/scene.png", "--reference", *sorted((folder / "demo").glob("reference_h*.png"))]
    train = ["train", "--dataset", folder / "data", "--config", "tiny", "--logs", out / "logs", "--val-images", "0"]
    train += ["--stages", folder / "stages.json", "--steps", "1", "--batch", "4", "--devices", devices]
    train += [word for setting in TRAINING for word in ("--set", setting)]
    found = [["predict", *scene, "--save", "coco", "--out", out / "found", *model], [*train, *model]]
    return [[str(word) for word in words] for words in found]


def start(folder, backend, settings):
    path = folder / f"{backend}.json"
    path.write_text(json.dumps(commands(folder, backend)), "utf-8")
    words = [sys.executable, str(HERE / "backend_run.py"), str(path)]
    return subprocess.Popen(words, env=os.environ | settings, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folder with the results of both backends, `tensorflow` and `jax`."""
    folder = tmp_path_factory.mktemp("backends")
    main(["shapes", "--out", str(folder / "demo"), "--demo", "--size", "128", "--seed", "19"])
    main(["shapes", "--out", str(folder / "data"), "--train", "8", "--val", "1", "--size", "128"])
    (folder / "stages.json").write_text('[{"epochs": 2, "layers": "all", "learning_rate": 0.001}]', "utf-8")
    processes = [start(folder, "tensorflow", {"KERAS_BACKEND": "tensorflow"}), start(folder, "jax", JAX)]
    for process in processes:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    return folder


def test_jax_finds_what_tensorflow_finds(runs):
    expected, found = (
        json.loads((runs / backend / "found" / "results.json").read_text("utf-8")) for backend in ("tensorflow", "jax")
    )
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one["bbox"], other["bbox"], atol=1)
        assert one["score"] == pytest.approx(other["score"], abs=1e-3)
        assert one["area"] == pytest.approx(other["area"], rel=0.02)


def test_two_devices_train_on_jax_as_one_does_on_tensorflow(runs):
    initial, rows, changes = weights_of(find_weights("shapes")), [], []
    for backend in ("tensorflow", "jax"):
        (run,) = (runs / backend / "logs").iterdir()
        read = csv.DictReader((run / "history.csv").read_text("utf-8").splitlines())
        rows.append([{name: float(value) for name, value in row.items()} for row in read])
        changes.append(weights_of(run / "siamese_mrcnn_0001.h5") - initial)
    expected, found = rows
    assert found[0] == pytest.approx(expected[0], rel=1e-3)
    assert found[1] == pytest.approx(expected[1], rel=0.1)  # other rois are drawn where weights differ by rounding
    assert found[1]["loss"] == pytest.approx(expected[1]["loss"], rel=0.03)
    assert np.linalg.norm(changes[1] - changes[0]) < 0.02 * np.linalg.norm(changes[0])


def test_jax_keeps_what_it_compiles(runs):
    assert list((pathlib.Path(os.environ["SIAMESE_MRCNN_CACHE"]) / "jax").glob("jit_*"))


def weights_of(path):
    """All weights of a file in one array."""
    arrays = read_weights(path).arrays
    return np.concatenate([np.ravel(arrays[name]) for name in sorted(arrays)])
