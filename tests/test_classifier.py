"""The classifier, its recipe and its training."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import coco_tree
import h5py
import imagenet_tree
import keras
import numpy as np
import pytest

from siamese_mrcnn_tf.config import SmallConfig, TinyConfig
from siamese_mrcnn_tf.modeling import network
from siamese_mrcnn_tf.pretraining import imagenet
from siamese_mrcnn_tf.pretraining.classifier import (
    WEIGHT_DECAY,
    Recipe,
    build_classifier,
    classification_graph,
    pretrain,
    pretraining_config,
    pretraining_schedule,
    recipe_of,
)
from siamese_mrcnn_tf.pretraining.instance_crops import InstanceCrops
from siamese_mrcnn_tf.training.schedules import Stage
from siamese_mrcnn_tf.weights import loading

SCRIPT = pathlib.Path(__file__).resolve().parents[1] / "samples" / "imagenet" / "pretrain.py"
SMALL = {"BACKBONE_STEM_WIDTH": 16, "BACKBONE_WIDTHS": (16, 16, 32, 32), "FPN_FEATUREMAPS": 16}
CONFIG = pretraining_config(TinyConfig().replace(**SMALL, OPTIMIZER="sgd"), batch=6)
ADAM = CONFIG.replace(OPTIMIZER="adam", WARM_UP_STEPS=2)
RECIPE = Recipe(epochs=2, steps_per_epoch=3, learning_rate=1.0, size=32)


@pytest.fixture
def tree(tmp_path):
    return imagenet_tree.write_tree(tmp_path / "set")


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


@pytest.mark.parametrize("batch", [8, 1024])
def test_a_recipe_that_decays_as_a_cosine_is_one_stage_at_its_rate(batch):
    recipe = Recipe(epochs=5, learning_rate=0.003, decay="cosine")
    assert pretraining_schedule(recipe, batch) == (Stage(5, "all", 0.003, decay_to=5),)


def test_recipes_go_with_the_optimizer():
    recipe = recipe_of(TinyConfig())
    assert (recipe.steps_per_epoch, recipe.learning_rate) == (100, 0.004)
    assert (recipe.decay, recipe.weight_decay) == ("cosine", 0)
    assert recipe_of(SmallConfig()) == Recipe()
    assert (Recipe().decay, Recipe().weight_decay) == ("steps", WEIGHT_DECAY)


def test_the_configuration_trains_statistics_and_shares_the_batch():
    config = pretraining_config(SmallConfig(), batch=256, devices=8)
    assert config.TRAIN_BN is None and config.BATCH_SIZE == 256 and config.IMAGES_PER_GPU == 32
    with pytest.raises(ValueError, match="batch = 10: cannot be shared evenly by 4 devices"):
        pretraining_config(SmallConfig(), batch=10, devices=4)


# ---- model -------------------------------------------------------------------------------------------------------


def test_classification_by_hand():
    logits = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [1 / 3, 1 / 3, 1 / 3]], np.float32))
    counts, cross_entropy, is_right = classification_graph(np.array([1, 2, -1]), logits)
    assert counts.numpy().tolist() == [1, 1, 0] and is_right.numpy().tolist() == [0, 1, 0]
    np.testing.assert_allclose(cross_entropy, [np.log(4), np.log(1.25), 0], rtol=1e-5)


def test_the_loss_is_cross_entropy_over_labels_and_half_the_squares_of_kernels():
    model = build_classifier(CONFIG, 5, weight_decay=0.01)
    outputs = {"logits": np.zeros((3, 1, 5), np.float32), "input_label": np.array([0, 4, -1], np.int32)}
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
    first, again, other = (build_classifier(CONFIG, 5, seed=seed).get_weights() for seed in (1, 1, 2))
    assert all(map(np.array_equal, first, again)) and not all(map(np.array_equal, first, other))
    kernel = _backbone(build_classifier(CONFIG, 5)).get_layer("res5a_branch2b").kernel.numpy()
    assert kernel.std() == pytest.approx(np.sqrt(2 / (9 * kernel.shape[-1])), rel=0.05)


def test_statistics_are_trained_and_logits_stay_float32_in_mixed_precision():
    config = CONFIG.replace(PRECISION="bfloat16")
    model = build_classifier(config, 5)
    model.compile(keras.optimizers.SGD(0.1), jit_compile=False)
    statistics = _backbone(model).get_layer("bn_conv1").moving_mean
    batch = {"input_image": np.full((6, 32, 32, 3), 50, np.float32), "input_label": np.zeros(6, np.int32)}
    first = float(model.train_on_batch(batch, return_dict=True)["cross_entropy"])
    model.reset_metrics()
    assert float(model.train_on_batch(batch, return_dict=True)["cross_entropy"]) < first
    assert np.abs(statistics.numpy()).max() > 0
    assert model.output["logits"].dtype == "float32" and _backbone(model).outputs[-1].dtype == "bfloat16"
    assert keras.config.dtype_policy().name == "float32"


def _backbone(classifier):
    return classifier.get_layer("resnet_model")


def test_a_pyramid_has_a_classifier_on_each_level_too():
    model = build_classifier(CONFIG, 5, pyramid=True)
    heads = [layer.name for layer in model.layers if layer.name.startswith("classifier")]
    assert heads == ["classifier", "classifier_p2", "classifier_p3", "classifier_p4", "classifier_p5"]
    assert [layer.name for layer in model.encoder.layers] == ["resnet_model", "fpn_model"]
    image = np.random.default_rng(0).integers(0, 200, (2, 64, 64, 3)).astype(np.float32)
    outputs = model({"input_image": image, "input_label": np.zeros(2, np.int32)})
    assert outputs["logits"].shape == (2, 5, 5)
    maps = [_backbone(model)(image)[-1], *model.get_layer("fpn_model")(_backbone(model)(image)[1:])[:4]]
    for index, name in enumerate(heads):
        expected = model.get_layer(name)(keras.ops.mean(maps[index], axis=(1, 2)))
        np.testing.assert_allclose(outputs["logits"][:, index], expected, rtol=1e-4, atol=1e-5, err_msg=name)
    alone = build_classifier(CONFIG, 5)
    assert [layer.name for layer in alone.encoder.layers] == ["resnet_model"]
    assert alone({"input_image": image, "input_label": np.zeros(2, np.int32)})["logits"].shape == (2, 1, 5)


def test_cosine_classifier():
    """Cosines of the standardized averages of P2 to P5, with one head."""
    model = build_classifier(CONFIG, 5, pyramid=True, cosine=True)
    image = np.random.default_rng(0).integers(0, 200, (3, 64, 64, 3)).astype(np.float32)
    logits = np.asarray(model({"input_image": image, "input_label": np.zeros(3, np.int32)})["logits"])
    maps = model.get_layer("fpn_model")(_backbone(model)(image)[1:])[:4]
    features = np.concatenate([np.asarray(one).mean(axis=(1, 2)) for one in maps], axis=1)
    statistics = model.get_layer("standardized")
    features = (features - statistics.moving_mean) / np.sqrt(statistics.moving_variance + statistics.epsilon)
    kernel = np.asarray(model.get_layer("classifier").kernel)
    cosines = features @ kernel / np.linalg.norm(features, axis=1)[:, None] / np.linalg.norm(kernel, axis=0)
    assert logits.shape == (3, 1, 5) and np.ptp(cosines) > 0.01
    np.testing.assert_allclose(logits[:, 0], 16 * cosines, rtol=1e-3, atol=1e-3)
    assert [layer.name for layer in model.encoder.layers] == ["resnet_model", "fpn_model"]


def test_the_loss_is_the_mean_over_the_heads():
    model = build_classifier(CONFIG, 3, pyramid=True, weight_decay=0.0)
    probabilities = [[0.5, 0.25, 0.25], [0.2, 0.4, 0.4], [0.8, 0.1, 0.1], [0.25, 0.5, 0.25], [0.6, 0.2, 0.2]]
    logits = np.log(np.array([probabilities, probabilities], np.float32))
    outputs = {"logits": logits, "input_label": np.array([0, imagenet.NO_LABEL], np.int32)}
    expected = -np.mean(np.log([0.5, 0.2, 0.8, 0.25, 0.6]))
    assert float(model.compute_loss(y_pred=outputs)) == pytest.approx(expected, rel=1e-5)
    metrics = {metric.name: float(metric.result()) for metric in model.trackers}
    assert metrics == pytest.approx({"cross_entropy": expected, "top1": 3 / 5})


def test_mask_loss():
    """Of each sample, as by hand; the target is the share of each cell of P2 that the mask covers."""
    model = build_classifier(CONFIG, 3, pyramid=True, weight_decay=0.0, mask_weight=2.0)
    rng = np.random.default_rng(0)
    masks = (rng.random((2, 32, 32)) < 0.5).astype(np.float32)
    batch = {"input_image": rng.normal(size=(2, 32, 32, 3)).astype(np.float32) * 50}
    batch |= {"input_label": np.array([2, 0], np.int32), "input_mask": masks}
    outputs = {name: np.asarray(value, np.float64) for name, value in model(batch).items()}
    targets = masks.reshape(2, 8, 4, 8, 4).mean(axis=(2, 4))
    np.testing.assert_allclose(outputs["mask_targets"], targets, atol=1e-6)
    probabilities = 1 / (1 + np.exp(-outputs["mask_logits"]))
    expected = -(targets * np.log(probabilities) + (1 - targets) * np.log(1 - probabilities)).mean()
    classes = build_loss(model, outputs, mask_weight=0.0)
    assert build_loss(model, outputs, mask_weight=2.0) - classes == pytest.approx(2 * expected, rel=1e-4)
    assert [tracker.name for tracker in model.trackers] == ["cross_entropy", "top1", "mask_loss"]


def test_masks_and_cosines_under_mixed_precision():
    config = CONFIG.replace(PRECISION="bfloat16")
    models = [build_classifier(one, 3, pyramid=True, mask_weight=2.0, cosine=True) for one in (CONFIG, config)]
    rng = np.random.default_rng(0)
    batch = {"input_image": rng.normal(size=(4, 32, 32, 3)).astype(np.float32) * 50}
    batch |= {"input_label": np.array([2, 0, 1, 1], np.int32), "input_mask": rng.random((4, 32, 32), np.float32)}
    exact, close = (float(model.compute_loss(y_pred=model(batch))) for model in models)
    assert close == pytest.approx(exact, rel=0.1) and close != exact


def build_loss(model, outputs, *, mask_weight):
    model.mask_weight, before = mask_weight, model.mask_weight
    trackers, model.trackers = model.trackers, model.trackers[: 3 if mask_weight else 2]
    loss = float(model.compute_loss(y_pred={name: value.astype(np.float32) for name, value in outputs.items()}))
    model.mask_weight, model.trackers = before, trackers
    return loss


# ---- runs --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(folder of a run of two epochs, history, classifier)."""
    path = tmp_path_factory.mktemp("pretraining")
    tree = imagenet_tree.write_tree(path / "set")
    train, val = (imagenet.find_images(tree, subset, 687, partial=True) for subset in ("train", "val"))
    classifier = build_classifier(CONFIG, 687)
    _, history = pretrain(classifier, CONFIG, RECIPE, train, val, path / "run", progress=False, workers=2)
    return path / "run", history, classifier


@pytest.mark.slow
def test_a_run_writes_the_backbone_and_its_history(finished):
    folder, history, _ = finished
    assert [row["epoch"] for row in history] == [1, 2]
    assert set(history[0]) >= {"loss", "cross_entropy", "top1", "val_loss", "val_cross_entropy", "val_top1"}
    assert history[1]["cross_entropy"] < history[0]["cross_entropy"]
    decay = history[1]["val_loss"] - history[1]["val_cross_entropy"]  # nothing but the 9 images counts
    assert 0 < decay < 0.2
    assert {path.name for path in folder.iterdir()} == {
        *("imagenet_687.h5", "state.json", "history.csv", "tensorboard"),
        *(f"imagenet_687_{epoch:04d}{suffix}" for epoch in (1, 2) for suffix in (".h5", ".weights.h5")),
    }


@pytest.mark.slow
def test_the_written_backbone_loads_into_the_detector(finished):
    folder, _, classifier = finished
    layers = network.build_layers(CONFIG.replace(TRAIN_BN=False))
    report = loading.load_weights(layers, folder / "imagenet_687.h5")
    expected, _ = loading.model_weights(classifier.encoder)
    assert sorted(report.loaded) == sorted(expected) and not report.unused and not report.zeroed
    found, _ = loading.model_weights(layers.resnet_model)
    for key, variable in expected.items():
        np.testing.assert_array_equal(found[key].numpy(), variable.numpy(), err_msg=key)


@pytest.mark.slow
def test_the_written_backbone_has_the_layout_of_the_original(finished):
    with h5py.File(finished[0] / "imagenet_687.h5") as h5:
        assert h5.attrs["layer_names"].tolist() == [b"resnet_model"]
        names = h5["resnet_model"].attrs["weight_names"].tolist()
    assert names[:4] == [b"conv1/kernel:0", b"conv1/bias:0", b"bn_conv1/gamma:0", b"bn_conv1/beta:0"]
    first = names.index(b"bn_conv1/moving_mean:0")  # the original loads by position, what trains first
    assert all(b"moving" in name for name in names[first:]) and not any(b"moving" in name for name in names[:first])
    text = loading.describe_weights(finished[0] / "imagenet_687.h5")
    assert "backbone weights, ResNet with 1+1+1+1 blocks, with conv biases" in text and "left out: nothing" in text


def test_the_real_backbone_is_that_of_the_detector(tmp_path):
    classifier = build_classifier(pretraining_config(SmallConfig()), 3)
    loading.save_weights(classifier.encoder, tmp_path / "imagenet_687.h5")
    text = loading.describe_weights(tmp_path / "imagenet_687.h5")
    assert "backbone weights, ResNet-50, with conv biases" in text and "fits: config small or config large" in text
    assert "318" in text  # weights of the backbone in the published files


@pytest.mark.slow
def test_a_run_is_not_resumed_with_other_samples(finished, tmp_path):
    folder, _, classifier = finished
    tree = imagenet_tree.write_tree(tmp_path / "more", train=7)
    train = imagenet.find_images(tree, "train", 687, partial=True)
    with pytest.raises(ValueError, match="images = 21, but the run was begun with 18"):
        pretrain(classifier, CONFIG, RECIPE, train, None, folder, resume=True, progress=False)


def test_a_broken_image_stops_the_run_and_is_named(tree, tmp_path):
    (tree / "train" / "n01440764" / "n01440764_3.JPEG").write_bytes(b"\xff\xd8\xff nothing")
    train = imagenet.find_images(tree, "train", 687, partial=True)
    classifier = build_classifier(CONFIG, 687)
    with pytest.raises(RuntimeError, match="n01440764_3.JPEG: not an image that can be read"):
        pretrain(classifier, CONFIG, RECIPE, train, None, tmp_path / "run", progress=False)


@pytest.fixture(scope="module")
def instances(tmp_path_factory):
    """(instances of training, instances of validation) of generated images."""
    root = tmp_path_factory.mktemp("instances")
    coco_tree.write_tree(root, subset="train", num_images=8)
    return [InstanceCrops(coco_tree.load(root, subsubset=part, val_images=3), "drawn_s1") for part in ("train", "val")]


@pytest.fixture(scope="module")
def with_pyramid(instances, tmp_path_factory):
    """(folder of a run of Adam on instances, history, classifier, its optimizer's learning rates by step)."""
    path, rates = tmp_path_factory.mktemp("pyramid") / "run", []
    classifier = build_classifier(ADAM, 3, pyramid=True, weight_decay=0.0)

    class Note(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            rates.append(float(self.model.optimizer.learning_rate))

    fit = classifier.fit
    classifier.fit = lambda *arguments, callbacks, **named: fit(*arguments, callbacks=[*callbacks, Note()], **named)
    recipe = dataclasses.replace(recipe_of(ADAM), epochs=2, steps_per_epoch=4, learning_rate=0.01, size=32)
    written, history = pretrain(classifier, ADAM, recipe, *instances, path, progress=False)
    assert written == path / "drawn_s1.h5"
    return path, history, classifier, rates


@pytest.mark.slow
def test_instances_are_learned_with_adam_and_a_decaying_rate(with_pyramid):
    path, history, classifier, rates = with_pyramid
    assert isinstance(classifier.optimizer, keras.optimizers.Adam) and classifier.optimizer.global_clipnorm is None
    assert (classifier.optimizer.beta_1, classifier.optimizer.beta_2) == (0.9, TinyConfig.ADAM_BETA_2)
    falls = [0.005 * (1 + np.cos(np.pi * step / 6)) for step in range(6)]
    assert rates == pytest.approx([0, 0.005, *falls], abs=1e-7)
    assert [row["learning_rate"] for row in history] == pytest.approx([falls[2], 0], abs=1e-7)
    assert history[1]["cross_entropy"] < history[0]["cross_entropy"]
    assert history[1]["loss"] == pytest.approx(history[1]["cross_entropy"])  # no weight decay
    names = {file.name for file in path.iterdir()}
    assert {"drawn_s1.h5", "drawn_s1_0001.h5", "drawn_s1_0002.h5", "state.json"} <= names


@pytest.mark.slow
def test_the_written_pyramid_loads_into_the_detector(with_pyramid):
    path, _, classifier, _ = with_pyramid
    layers = network.build_layers(ADAM.replace(TRAIN_BN=False))
    report = loading.load_weights(layers, path / "drawn_s1.h5")
    expected, _ = loading.model_weights(classifier.encoder)
    assert sorted(report.loaded) == sorted(expected) and not report.unused and not report.zeroed
    assert {"conv1/kernel", "bn_conv1/moving_mean", "fpn_c5p5/kernel", "fpn_p2/kernel", "fpn_p5/bias"} <= set(expected)
    found, _ = loading.model_weights(layers)
    for key, variable in expected.items():
        np.testing.assert_array_equal(found[key].numpy(), variable.numpy(), err_msg=key)
    missing = {key.split("/")[0] for key in report.missing}
    assert {name.split("_")[0] for name in missing} == {"fpn", "rpn", "mrcnn"}
    assert {name for name in missing if name.startswith("fpn")} == {f"fpn_distance_P{level}" for level in range(2, 7)}
    assert len(report.missing) == len(found) - len(expected)


@pytest.mark.slow
def test_a_written_pyramid_is_described(with_pyramid, finished):
    text = loading.describe_weights(with_pyramid[0] / "drawn_s1.h5")
    assert ": backbone and FPN weights, ResNet with 1+1+1+1 blocks, with conv biases" in text
    assert "not in the file: matching layers, RPN and heads keep their initial values" in text
    assert "left out: nothing" in text
    text = loading.describe_weights(finished[0] / "imagenet_687.h5")
    assert ": backbone weights, ResNet" in text
    assert "not in the file: FPN, matching layers, RPN and heads keep their initial values" in text


_RESUME = """
import json, sys, threading
import keras
import tensorflow as tf
from siamese_mrcnn_tf.config import TinyConfig
from siamese_mrcnn_tf.pretraining import classifier, imagenet
from siamese_mrcnn_tf.training import callbacks, distribution

class StopAfter(threading.Event):
    left = 3
    def is_set(self):
        self.left -= 1
        return self.left < 0

distribution.prepare_backend(seed=0)
tf.config.run_functions_eagerly(True)  # compiling four models takes longer than their steps
tree, out = sys.argv[1:]
small = {"BACKBONE_STEM_WIDTH": 16, "BACKBONE_WIDTHS": (16, 16, 32, 32), "OPTIMIZER": "sgd"}
config = classifier.pretraining_config(TinyConfig().replace(**small), batch=6)
recipe = classifier.Recipe(epochs=2, steps_per_epoch=3, learning_rate=1.0, size=32)
images = [imagenet.find_images(tree, subset, 687, partial=True) for subset in ("train", "val")]

def run(name, **options):
    model = classifier.build_classifier(config, 687)
    options["progress"] = False
    return classifier.pretrain(model, config, recipe, *images, f"{out}/{name}", **options)[1]

whole = run("whole")
for step in range(9):
    try:
        parts = run("parts", resume=step > 0, workers=1 + step % 2, stop=StopAfter())
        break
    except callbacks.TrainingStopped as reason:
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
