"""The presence output: its graph by hand, gated detections, the layers beside the others, and training steps."""

import argparse

import coco_tree
import conftest
import keras
import numpy as np
import pytest
import tensorflow as tf
from network_values import array, fill, relu, tensor
from weight_models import fake_model, network_shapes, zeros

from siamese_mrcnn_tf import TinyConfig
from siamese_mrcnn_tf.cli.inputs import choose_config
from siamese_mrcnn_tf.cli.options import add_model_arguments
from siamese_mrcnn_tf.data.data_generator import TrainingSamples, collate
from siamese_mrcnn_tf.modeling import network, presence
from siamese_mrcnn_tf.predictor import SiamesePredictor
from siamese_mrcnn_tf.training import trainable_layers, training_model
from siamese_mrcnn_tf.weights import loading

GATED = TinyConfig().replace(USE_PRESENCE=True, DETECTION_MIN_CONFIDENCE=0.0)
ADDED = ["presence_fc", "presence_logit"]


def random_maps(batch=2, channels=6):
    rng = np.random.default_rng(0)
    return [rng.normal(size=(batch, side, side, channels)).astype(np.float32) for side in (8, 4, 2, 1)]


# ---- the graph ---------------------------------------------------------------------------------------------------
def test_presence_by_hand():
    layers, maps = presence.build_presence_layers(6, 5), random_maps()
    fill(layers.values())
    found = presence.presence_graph([tensor(level) for level in maps], layers)
    pooled = [pool(level, axis=(1, 2)) for level in maps for pool in (np.max, np.mean)]
    (kernel, bias), (last, last_bias) = ([weight.numpy() for weight in layers[name].weights] for name in ADDED)
    logits = relu(np.concatenate(pooled, axis=-1) @ kernel + bias) @ last + last_bias
    assert logits.shape == (2, 1) and np.abs(logits).min() > 1e-3
    np.testing.assert_allclose(array(found["presence_logit"]), logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(array(found["presence"]), 1 / (1 + np.exp(-logits)), rtol=1e-4)


def test_presence_is_float32_and_starts_undecided():
    with network.dtype_policy("bfloat16"):
        layers = presence.build_presence_layers(6, 5)
        found = presence.presence_graph([tf.cast(level, tf.bfloat16) for level in random_maps()], layers)
    assert found["presence"].dtype == tf.float32
    assert array(found["presence"]).tolist() == [[0.5], [0.5]]


def test_matches_are_multiplied_by_presence():
    probabilities = [[[0.2, 0.8], [0.9, 0.1]], [[0.5, 0.5], [0.0, 1.0]]]
    found = array(presence.gated_graph(tensor(probabilities), tensor([[0.5], [0.0]])))
    np.testing.assert_allclose(found, [[[0.6, 0.4], [0.95, 0.05]], [[1, 0], [1, 0]]], rtol=1e-6)


# ---- the network -------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def gated():
    """Predictor with a presence output and the weights of `conftest.tiny_model`."""
    predictor = SiamesePredictor(GATED)
    conftest.set_seeded_weights(predictor.layers.layers)
    predictor.layers.classifier["mrcnn_class_logits"].bias.assign(np.zeros(2))
    return predictor


def force(predictor, logit):
    """Make the presence of every query sigmoid(logit)."""
    predictor.layers.presence["presence_logit"].kernel.assign(np.zeros((GATED.FPN_CLASSIF_FC_LAYERS_SIZE, 1)))
    predictor.layers.presence["presence_logit"].bias.assign([logit])


@pytest.mark.slow
def test_presence_gates_the_scores(gated, tiny_model, scene, crop):
    scenes, inputs = gated.encode_scenes([scene]), [[crop]]
    plain = tiny_model.predictor.match(tiny_model.predictor.encode_scenes([scene]), inputs)
    assert "presence" not in plain and plain["mrcnn_detection"][0, :, 5].max() > 0.5
    force(gated, 40.0)
    certain = gated.match(scenes, inputs)
    assert certain["presence"].tolist() == [[1.0]]
    np.testing.assert_allclose(certain["mrcnn_detection"], plain["mrcnn_detection"], atol=1e-6)
    force(gated, 0.0)
    halved = gated.match(scenes, inputs)
    np.testing.assert_allclose(halved["mrcnn_detection"][..., 5], plain["mrcnn_detection"][..., 5] / 2, atol=1e-6)
    np.testing.assert_allclose(halved["mrcnn_class"], plain["mrcnn_class"], atol=1e-6)  # of the head itself
    force(gated, -200.0)
    absent = gated.match(scenes, inputs)
    assert absent["presence"].tolist() == [[0.0]] and not absent["mrcnn_detection"][..., 5].any()


@pytest.mark.slow
def test_presence_depends_on_scene_and_reference(gated, scene, crop):
    conftest.set_seeded_weights(gated.layers.presence.values())
    outputs = gated.match(gated.encode_scenes([scene, scene, 255 - scene]), [[crop], [255 - crop], [crop]])
    assert outputs["presence"].shape == (3, 1) and len(set(outputs["presence"].ravel().tolist())) == 3


@pytest.mark.slow
def test_the_other_layers_are_as_without_presence():
    """Also their initial weights."""
    found = []
    for config in (TinyConfig(), GATED):
        keras.utils.set_random_seed(0)
        layers = network.build_layers(config)
        found.append(loading.model_weights(layers)[0])
    plain, gated = found
    assert list(gated) == [*plain, *(f"{name}/{weight}" for name in ADDED for weight in ("kernel", "bias"))]
    for key, variable in plain.items():
        np.testing.assert_array_equal(gated[key].numpy(), variable.numpy(), err_msg=key)
    assert {key: tuple(variable.shape) for key, variable in gated.items()} == network_shapes(GATED)
    assert trainable_layers.select_layers(layers.layers, "heads")[-2:] == ADDED
    assert not set(ADDED) & set(trainable_layers.matching_layers(layers.layers, "rpn"))


@pytest.mark.slow
def test_weights_without_presence_are_for_training_only(gated, tiny_weights, tmp_path, scene, crop):
    with pytest.raises(ValueError, match=r"cannot detect, 4 weights are missing[\s\S]*no presence output"):
        SiamesePredictor(GATED, weights=tiny_weights)
    loading.save_weights(gated.layers, tmp_path / "gated.h5")
    again = SiamesePredictor(GATED, weights=tmp_path / "gated.h5")
    first, second = (one.match(one.encode_scenes([scene]), [[crop]]) for one in (gated, again))
    for name, values in first.items():
        np.testing.assert_array_equal(second[name], values, err_msg=name)


@pytest.mark.parametrize(
    ("settings", "chosen", "expected"),
    [({"USE_PRESENCE": True}, [], True), ({}, [], False), ({"USE_PRESENCE": True}, ["USE_PRESENCE=false"], False)],
)
def test_commands_read_from_the_weights_whether_there_is_presence(tmp_path, settings, chosen, expected):
    config = TinyConfig().replace(**settings)
    loading.save_weights(fake_model(zeros(network_shapes(config))), tmp_path / "w.h5")
    parser = argparse.ArgumentParser()
    add_model_arguments(parser)
    arguments = ["--model", str(tmp_path / "w.h5"), *(["--set", *chosen] if chosen else [])]
    found, _ = choose_config(parser.parse_args(arguments))
    assert found.USE_PRESENCE is expected and found.NAME == "tiny"


# ---- training ----------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def batch_of(tmp_path_factory):
    """A function of a configuration that gives its first batch of four, with both absent and present references."""
    root = tmp_path_factory.mktemp("set")
    coco_tree.write_tree(root, num_images=6)
    dataset = coco_tree.load(root, "val")

    def make(config):
        samples = TrainingSamples(dataset, config, seed=2)
        return collate([samples[number] for number in range(4)], config)

    return make


def gradients_of(model, inputs):
    """Losses by name and the gradients of all trainable weights."""
    with tf.GradientTape() as tape:
        outputs = model(inputs, training=True)
        loss = model.compute_loss(inputs, y_pred=outputs)
    slopes = tape.gradient(loss, [variable.value for variable in model.trainable_variables])
    found = training_model.losses_graph(outputs, model.class_loss)
    return {name: float(value) for name, value in found.items()} | {"loss": float(loss)}, slopes, outputs


@pytest.mark.slow
@pytest.mark.parametrize("hard", [False, True], ids=["alone", "with-hard-negatives"])
@pytest.mark.parametrize("changes", [{}, {"USE_PRESENCE": True, "CLASS_LOSS": "focal"}], ids=["plain", "presence"])
def test_a_step_with_absent_references(micro_config, batch_of, changes, hard):
    config = micro_config.replace(ABSENT_REFERENCE_RATIO=1.0, USE_HARD_NEGATIVES=hard, IMAGES_PER_GPU=4, **changes)
    model = training_model.build_training_model(config, network.build_layers(config))
    inputs = batch_of(config)
    assert not inputs["input_gt_class_ids"].any() and not (inputs["input_rpn_match"] == 1).any()
    assert inputs["input_gt_boxes"].any() == hard
    found, slopes, outputs = gradients_of(model, inputs)
    assert np.isfinite(list(found.values())).all()
    assert [found[f"{name}_loss"] for name in ("rpn_bbox", "mrcnn_bbox", "mrcnn_mask")] == [0, 0, 0]
    assert found["rpn_class_loss"] > 0 and found["mrcnn_class_loss"] > 0
    assert all(slope is None or np.isfinite(slope).all() for slope in map(array_or_none, slopes))
    rois = outputs["output_rois"].numpy()
    assert rois.any(axis=-1).all() and not outputs["target_class_ids"].numpy().any()  # filled with negatives
    names = {"loss", *training_model.LOSS_NAMES} | ({"presence_loss"} if changes else set())
    assert set(found) == names and {tracker.name for tracker in model.loss_trackers} == names - {"loss"}
    if changes:
        assert found["presence_loss"] == pytest.approx(np.log(2)) and not outputs["target_presence"].numpy().any()


def array_or_none(slope):
    return None if slope is None else slope.numpy()


@pytest.mark.slow
def test_presence_learns_from_its_loss(micro_config, batch_of):
    """The targets are whether a scene shows the category; the weight of the loss is 1 unless it is given."""
    config = micro_config.replace(ABSENT_REFERENCE_RATIO=0.5, USE_PRESENCE=True, IMAGES_PER_GPU=4)
    weights = config.LOSS_WEIGHTS | {"presence_loss": 0.25}
    keras.utils.set_random_seed(0)
    layers = network.build_layers(config)
    inputs, found = batch_of(config), []
    for changed in (config, config.replace(LOSS_WEIGHTS=weights)):
        model = training_model.build_training_model(changed, layers, seed=0)
        outputs = model(inputs, training=True)
        model.compute_loss(inputs, y_pred=outputs)
        found.append({tracker.name: float(tracker.result()) for tracker in model.loss_trackers}["presence_loss"])
    assert found == pytest.approx([np.log(2), np.log(2) / 4])
    targets = outputs["target_presence"].numpy()[:, 0]
    np.testing.assert_array_equal(targets, inputs["input_gt_class_ids"].any(axis=-1))
    assert targets.any() and not targets.all()
    trainable_layers.select_layers(layers.layers, "presence_.*")
    training_model.compile_model(model, config.replace(OPTIMIZER="adam"), learning_rate=0.01)
    for _ in range(30):
        model.train_on_batch(inputs)
    logits = model(inputs, training=True)["presence_logit"].numpy()[:, 0]
    assert logits[targets].min() > logits[~targets].max()
