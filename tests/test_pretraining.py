"""Pre-training of the backbone, and its command line."""

import importlib.util
import json
import pathlib
import signal
import subprocess
import sys
import time

import h5py
import imagenet_tree
import keras
import numpy as np
import pytest

from siamese_mrcnn_tf import imagenet, network, pretraining, weights
from siamese_mrcnn_tf.config import SmallConfig, TinyConfig
from siamese_mrcnn_tf.pretraining import Recipe, pretraining_config, pretraining_schedule
from siamese_mrcnn_tf.schedules import Stage

SCRIPT = pathlib.Path(__file__).resolve().parents[1] / "samples" / "imagenet" / "pretrain.py"
CONFIG = pretraining_config(
    TinyConfig().replace(BACKBONE_STEM_WIDTH=16, BACKBONE_WIDTHS=(16, 16, 32, 32), FPN_FEATUREMAPS=8), batch=6
)
RECIPE = Recipe(epochs=2, steps_per_epoch=3, learning_rate=1.0, size=32)


@pytest.fixture
def tree(tmp_path):
    return imagenet_tree.write_tree(tmp_path / "set")


@pytest.fixture(scope="module")
def command():
    spec = importlib.util.spec_from_file_location("pretrain_command", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---- recipe ------------------------------------------------------------------------------------------------------


def test_the_schedule_of_a_batch_of_256_is_the_standard_one():
    stages = pretraining_schedule(Recipe(), 256)
    assert [stage.epochs for stage in stages] == [30, 60, 80, 90]
    assert [stage.learning_rate for stage in stages] == pytest.approx([0.1, 0.01, 0.001, 0.0001])
    assert {stage.layers for stage in stages} == {"all"}


def test_larger_batches_warm_up_to_a_learning_rate_in_proportion():
    stages = pretraining_schedule(Recipe(), 1024)
    assert [stage.epochs for stage in stages] == [1, 2, 3, 4, 5, 30, 60, 80, 90]
    rates = [stage.learning_rate for stage in stages]
    assert rates == pytest.approx([0.13, 0.19, 0.25, 0.31, 0.37, 0.4, 0.04, 0.004, 0.0004])


def test_short_schedules_have_no_empty_stages():
    assert pretraining_schedule(Recipe(epochs=1), 512) == (Stage(1, "all", 0.2),)
    assert [stage.epochs for stage in pretraining_schedule(Recipe(epochs=4), 64)] == [2, 3, 4]


def test_the_configuration_trains_statistics_and_shares_the_batch():
    config = pretraining_config(SmallConfig(), batch=256, devices=8)
    assert config.TRAIN_BN is None and config.BATCH_SIZE == 256 and config.IMAGES_PER_GPU == 32
    with pytest.raises(ValueError, match="batch = 10: cannot be shared evenly by 4 devices"):
        pretraining_config(SmallConfig(), batch=10, devices=4)


# ---- model -------------------------------------------------------------------------------------------------------


def test_classification_by_hand():
    logits = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [1 / 3, 1 / 3, 1 / 3]], np.float32))
    counts, cross_entropy, is_right = pretraining.classification_graph(np.array([1, 2, -1]), logits)
    assert counts.numpy().tolist() == [1, 1, 0] and is_right.numpy().tolist() == [0, 1, 0]
    np.testing.assert_allclose(cross_entropy, [np.log(4), np.log(1.25), 0], rtol=1e-5)


def test_the_loss_is_cross_entropy_over_labels_and_half_the_squares_of_kernels():
    model = pretraining.build_classifier(CONFIG, 5, weight_decay=0.01)
    outputs = {"logits": np.zeros((3, 5), np.float32), "input_label": np.array([0, 4, -1], np.int32)}
    kernels = [variable for variable in model.trainable_variables if variable.path.endswith("kernel")]
    decay = 0.005 * sum(np.square(kernel.numpy()).sum() for kernel in kernels)
    assert len(kernels) == 18 and float(model.compute_loss(y_pred=outputs)) == pytest.approx(
        np.log(5) + decay, rel=1e-5
    )
    metrics = {metric.name: float(metric.result()) for metric in model.trackers}
    assert metrics == pytest.approx({"cross_entropy": np.log(5), "top1": 0.5})
    outputs["input_label"][:] = imagenet.NO_LABEL
    assert float(model.compute_loss(y_pred=outputs)) == pytest.approx(decay, rel=1e-5)


def test_initial_weights_depend_on_the_seed_alone():
    first, again, other = (pretraining.build_classifier(CONFIG, 5, seed=seed).get_weights() for seed in (1, 1, 2))
    assert all(map(np.array_equal, first, again)) and not all(map(np.array_equal, first, other))
    kernel = pretraining.build_classifier(CONFIG, 5).backbone.get_layer("res5a_branch2b").kernel.numpy()
    assert kernel.std() == pytest.approx(np.sqrt(2 / (9 * kernel.shape[-1])), rel=0.05)


def test_statistics_are_trained_and_logits_stay_float32_in_mixed_precision():
    config = CONFIG.replace(PRECISION="bfloat16")
    model = pretraining.build_classifier(config, 5)
    model.compile(keras.optimizers.SGD(0.1), jit_compile=False)
    statistics = model.backbone.get_layer("bn_conv1").moving_mean
    batch = {"input_image": np.full((6, 32, 32, 3), 50, np.float32), "input_label": np.zeros(6, np.int32)}
    first = float(model.train_on_batch(batch, return_dict=True)["cross_entropy"])
    model.reset_metrics()
    assert float(model.train_on_batch(batch, return_dict=True)["cross_entropy"]) < first
    assert np.abs(statistics.numpy()).max() > 0
    assert model.output["logits"].dtype == "float32" and model.backbone.outputs[-1].dtype == "bfloat16"
    assert keras.config.dtype_policy().name == "float32"


# ---- runs --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(folder of a run of two epochs, history, classifier)."""
    path = tmp_path_factory.mktemp("pretraining")
    tree = imagenet_tree.write_tree(path / "set")
    train, val = (imagenet.find_pictures(tree, subset, 687, partial=True) for subset in ("train", "val"))
    classifier = pretraining.build_classifier(CONFIG, 687)
    _, history = pretraining.pretrain(classifier, CONFIG, RECIPE, train, val, path / "run", progress=False, workers=2)
    return path / "run", history, classifier


def test_a_run_writes_the_backbone_and_its_history(finished):
    folder, history, _ = finished
    assert [row["epoch"] for row in history] == [1, 2]
    assert set(history[0]) >= {"loss", "cross_entropy", "top1", "val_loss", "val_cross_entropy", "val_top1"}
    assert history[1]["cross_entropy"] < history[0]["cross_entropy"]
    decay = history[1]["val_loss"] - history[1]["val_cross_entropy"]  # nothing but the 9 pictures counts
    assert 0 < decay < 0.2
    assert {path.name for path in folder.iterdir()} == {
        *("imagenet_687.h5", "state.json", "history.csv", "tensorboard"),
        *(f"imagenet_687_{epoch:04d}{suffix}" for epoch in (1, 2) for suffix in (".h5", ".weights.h5")),
    }


def test_the_written_backbone_loads_into_the_detector(finished):
    folder, _, classifier = finished
    layers = network.build_layers(CONFIG.replace(TRAIN_BN=False))
    report = weights.load_weights(layers, folder / "imagenet_687.h5")
    expected, _ = weights._model_weights(classifier.backbone)
    assert sorted(report.loaded) == sorted(expected) and not report.unused and not report.zeroed
    found, _ = weights._model_weights(layers.resnet_model)
    for key, variable in expected.items():
        np.testing.assert_array_equal(found[key].numpy(), variable.numpy(), err_msg=key)


def test_the_written_backbone_has_the_layout_of_the_original(finished):
    with h5py.File(finished[0] / "imagenet_687.h5") as h5:
        assert h5.attrs["layer_names"].tolist() == [b"resnet_model"]
        names = h5["resnet_model"].attrs["weight_names"].tolist()
    assert names[:4] == [b"conv1/kernel:0", b"conv1/bias:0", b"bn_conv1/gamma:0", b"bn_conv1/beta:0"]
    first = names.index(b"bn_conv1/moving_mean:0")  # the original loads by position, what trains first
    assert all(b"moving" in name for name in names[first:]) and not any(b"moving" in name for name in names[:first])
    text = weights.describe_weights(finished[0] / "imagenet_687.h5")
    assert "backbone weights, ResNet with 1+1+1+1 blocks, with conv biases" in text and "left out: nothing" in text


def test_the_real_backbone_is_that_of_the_detector(tmp_path):
    classifier = pretraining.build_classifier(pretraining_config(SmallConfig()), 3)
    weights.save_weights(classifier.backbone, tmp_path / "imagenet_687.h5")
    text = weights.describe_weights(tmp_path / "imagenet_687.h5")
    assert "backbone weights, ResNet-50, with conv biases" in text and "fits: config small or config large" in text
    assert "318" in text  # weights of the backbone in the published files


def test_a_run_is_not_resumed_with_other_samples(finished, tmp_path):
    folder, _, classifier = finished
    tree = imagenet_tree.write_tree(tmp_path / "more", train=7)
    train = imagenet.find_pictures(tree, "train", 687, partial=True)
    with pytest.raises(ValueError, match="pictures = 21, but the run was begun with 18"):
        pretraining.pretrain(classifier, CONFIG, RECIPE, train, None, folder, resume=True, progress=False)


def test_a_broken_picture_stops_the_run_and_is_named(tree, tmp_path):
    (tree / "train" / "n01440764" / "n01440764_3.JPEG").write_bytes(b"\xff\xd8\xff nothing")
    train = imagenet.find_pictures(tree, "train", 687, partial=True)
    classifier = pretraining.build_classifier(CONFIG, 687)
    with pytest.raises(RuntimeError, match="n01440764_3.JPEG: not a picture that can be read"):
        pretraining.pretrain(classifier, CONFIG, RECIPE, train, None, tmp_path / "run", progress=False)


_RESUME = """
import json, sys, threading
import keras
from siamese_mrcnn_tf import devices, imagenet, pretraining, training
from siamese_mrcnn_tf.config import TinyConfig

class StopAfter(threading.Event):
    left = 3
    def is_set(self):
        self.left -= 1
        return self.left < 0

devices.prepare_backend(seed=0)
tree, out = sys.argv[1:]
small = {"BACKBONE_STEM_WIDTH": 16, "BACKBONE_WIDTHS": (16, 16, 32, 32)}
config = pretraining.pretraining_config(TinyConfig().replace(**small), batch=6)
recipe = pretraining.Recipe(epochs=2, steps_per_epoch=3, learning_rate=1.0, size=32)
pictures = [imagenet.find_pictures(tree, subset, 687, partial=True) for subset in ("train", "val")]

def run(name, **options):
    classifier = pretraining.build_classifier(config, 687)
    options["progress"] = False
    return pretraining.pretrain(classifier, config, recipe, *pictures, f"{out}/{name}", **options)[1]

whole = run("whole")
for step in range(9):
    try:
        parts = run("parts", resume=step > 0, workers=1 + step % 2, stop=StopAfter())
        break
    except training.TrainingStopped as reason:
        print(reason, file=sys.stderr)
json.dump([whole, parts, step], sys.stdout)
"""


@pytest.mark.slow
def test_a_resumed_run_is_the_same_as_one_that_was_not_stopped(tree, tmp_path):
    """Sums in one order, for which TensorFlow must be told before it has begun: in a process of its own."""
    finished = subprocess.run(
        [sys.executable, "-c", _RESUME, tree, tmp_path], capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    whole, parts, stops = json.loads(finished.stdout)
    assert stops == 2
    assert "in the validation of epoch 1" in finished.stderr and "in epoch 2 after step 2" in finished.stderr
    assert whole == parts
    files = [(tmp_path / name / "imagenet_687.h5").read_bytes() for name in ("whole", "parts")]
    assert files[0] == files[1]


# ---- command line ------------------------------------------------------------------------------------------------


def test_help_does_not_start_tensorflow():
    probe = (
        "import sys, runpy\nsys.argv = ['pretrain.py', '--help']\ntry:\n"
        f" runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\nexcept SystemExit:\n pass\n"
        "sys.exit('keras' in sys.modules)"
    )
    finished = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert all(option in finished.stdout for option in ("--data", "--classes", "--resume", "--devices"))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((), "--data: in which folder"),
        (("--data", "nowhere"), "nowhere/train: no such folder"),
        (("--data", "{tree}"), "684 of the 687 classes have no picture"),
        (("--data", "{tree}", "--partial", "--batch", 10, "--devices", 4), "cannot be shared evenly by 4 devices"),
        (("--data", "{tree}", "--partial", "--config", "huge"), "configuration 'huge'"),
        (("--resume", "nowhere"), "nowhere: no run to resume there"),
    ],
)
def test_what_the_user_can_mend_is_said(command, capsys, tree, arguments, message):
    assert command.main([str(argument).format(tree=tree) for argument in arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("option, value", [("--learning-rate", "0"), ("--learning-rate", "x"), ("--size", "8")])
def test_impossible_numbers_are_refused(command, capsys, option, value):
    with pytest.raises(SystemExit):
        command.main(["--data", "d", option, value])
    assert f"got '{value}'" in capsys.readouterr().err


def test_a_folder_with_a_run_is_not_begun_again(command, capsys, tree, finished):
    assert command.main(["--data", str(tree), "--partial", "--out", str(finished[0])]) == 2
    assert "holds a run already; go on with it (--resume)" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_stops_on_two_devices_and_goes_on(tree, tmp_path):
    out = tmp_path / "out"
    begin = ["--data", tree, "--out", out, "--partial", "--config", "tiny", "--size", 32, "--batch", 4, "--epochs", 1]
    process = _start(*begin, "--steps", 12, "--save-every", 1, "--devices", 2, "--learning-rate", 0.5)
    deadline = time.monotonic() + 60
    while not (out / "state.json").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, text = process.communicate(timeout=60)
    assert process.returncode == 130, text
    assert "stopped in epoch 1 after step" in text and f"--resume {out}" in text
    assert "left out, because COCO has them too: 2 classes" in text
    process = _start("--resume", out, "--devices", 1)
    said, text = process.communicate(timeout=120)
    assert process.returncode == 0, text
    assert "trained to epoch 1" in said and str(out / "imagenet_687.h5") in said
    assert json.loads((out / "config.json").read_text())["GPU_COUNT"] == 1
    assert weights.load_weights(network.build_layers(TinyConfig()), out / "imagenet_687.h5").loaded


def _start(*arguments):
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
