"""The training model: losses and targets of the original's recorded batch, and steps of a small model."""

import conftest
import keras
import numpy as np
import pytest
import seeded
import tensorflow as tf

from siamese_mrcnn_tf import SmallConfig, TinyConfig
from siamese_mrcnn_tf.data import data_generator, molding, rpn_targets
from siamese_mrcnn_tf.modeling import losses, network, roi_heads
from siamese_mrcnn_tf.ops.anchors import pyramid_anchors
from siamese_mrcnn_tf.ops.image_meta import compose_image_meta
from siamese_mrcnn_tf.training import trainable_layers, training_model

EXACT = 1e-4  # relative
# The class loss of the whole forward pass alone is further off, by 3.4e-4: one roi, row 3 of the first image, ends at
# exactly 1.0, where crop_and_resize gives 0 or not by the last bit of the other edge (roi_align_zero_flags in
# test_kernels.py), and our proposals differ from the recorded ones in their last bits. On the recorded rois the class
# loss is exact like the others, see test_heads_on_recorded_rois.
CLASS_LOSS_OF_OWN_ROIS = 5e-4
MAPS = ("matched_P2", "matched_P3", "matched_P4", "matched_P5")

pytestmark = pytest.mark.slow

each_batch = pytest.mark.parametrize(("name", "count"), [("b1", 1), ("b2", 2)])


# ---- the original ------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def layers():
    """The layers of the small configuration with the weights of the record."""
    if not (conftest.SHARED / "parity" / "train_batch.npz").exists():
        pytest.skip("the full records are not here")
    layers = network.build_layers(SmallConfig())
    conftest.set_seeded_weights(layers.layers)
    return layers


@pytest.fixture(scope="module")
def batch(layers):
    """The recorded batch of two, by input."""
    config = SmallConfig()
    with np.load(conftest.SHARED / "parity" / "train_batch.npz", allow_pickle=False) as content:
        values = (
            molding.mold_image(content["images_u8"], config),
            content["image_meta"].astype(np.float32),
            molding.mold_image(content["targets_u8"], config),
            content["rpn_match"].astype(np.int32),
            content["rpn_bbox"].astype(np.float32),
            content["gt_class_ids"],
            content["gt_boxes"].astype(np.float32),
            unpacked(content, "gt_masks").astype(bool),
        )
    return dict(zip(data_generator.INPUT_NAMES, values, strict=True))


@pytest.fixture(scope="module")
def records(layers):
    """name -> the record of that batch; losses by name."""
    found = {}
    with np.load(conftest.SHARED / "parity" / "train_forward.npz", allow_pickle=False) as content:
        for name in ("b1", "b2"):
            prefix = f"{name}_identity_"
            record = {key.removeprefix(prefix): content[key] for key in content.files if key.startswith(prefix)}
            record["losses"] = dict(zip(content["loss_names"].tolist(), record["losses"].tolist(), strict=True))
            found[name] = record | {"t_masks": unpacked(content, f"{prefix}t_masks")}
    return found


@pytest.fixture(scope="module")
def forward(layers, batch):
    """count -> outputs and losses of the training model on that many images of the batch, and its matched maps."""
    model = training_model.build_training_model(SmallConfig().replace(SHUFFLE_ROIS=False), layers)
    found = {}
    for count in (1, 2):
        outputs = model([values[:count] for values in batch.values()], training=True)
        found[count] = outputs, {name: float(loss) for name, loss in training_model.losses_graph(outputs).items()}
    return found


def unpacked(content, name):
    shape = content[f"{name}_shape"]
    return np.unpackbits(content[f"{name}_packed"])[: np.prod(shape)].reshape(shape)


def relative_error(values, recorded):
    values = np.asarray(values)
    assert values.shape == recorded.shape
    return np.abs(values - recorded).max() / np.abs(recorded).max()


@each_batch
def test_losses_of_the_recorded_batch(forward, records, name, count):
    found, recorded = forward[count][1], records[name]["losses"]
    assert list(found) == list(recorded) == list(training_model.LOSS_NAMES)
    tolerances = dict.fromkeys(found, EXACT) | {"mrcnn_class_loss": CLASS_LOSS_OF_OWN_ROIS}
    errors = {loss: abs(found[loss] / recorded[loss] - 1) for loss in found}
    assert all(errors[loss] < tolerances[loss] for loss in found), errors


@each_batch
def test_detection_targets_of_the_recorded_batch(forward, records, name, count):
    outputs, record = forward[count][0], records[name]
    np.testing.assert_allclose(outputs["output_rois"], record["output_rois"], atol=1e-5)
    np.testing.assert_array_equal(outputs["target_class_ids"], record["t_class_ids"])
    np.testing.assert_allclose(outputs["target_bbox"], record["t_deltas"], atol=1e-4)
    np.testing.assert_array_equal(outputs["target_mask"], record["t_masks"])
    assert record["t_class_ids"].sum() == {"b1": 3, "b2": 5}[name] and record["t_masks"].any()


@each_batch
def test_proposals_of_the_recorded_batch(forward, records, name, count):
    for found, recorded in zip(forward[count][0]["rpn_rois"].numpy(), records[name]["rpn_rois"], strict=True):
        distances = np.abs(found[:, None] - recorded[None]).max(axis=-1) * 511
        assert max(distances.min(axis=0).max(), distances.min(axis=1).max()) < 0.05  # pixels


@pytest.fixture(scope="module")
def on_recorded_rois(layers, batch, records):
    """Outputs of the heads on the recorded rois: name of the record -> dict."""
    config = SmallConfig()
    image, references = keras.Input(config.IMAGE_SHAPE), keras.Input((1, *config.TARGET_SHAPE))
    tensors = network.encoders_graph(image, references, layers)
    maps = network.match_graph(
        [tensors[f"img_{level}"] for level in network.LEVELS], tensors["target_embedding"], layers
    )
    rois, meta = keras.Input((100, 4)), keras.Input((14,))
    maps = [maps[level] for level in MAPS]
    classified = roi_heads.fpn_classifier_graph(rois, maps, meta, layers.classifier, pool_size=config.POOL_SIZE)
    masked = roi_heads.build_fpn_mask_graph(rois, maps, meta, layers.mask, pool_size=config.MASK_POOL_SIZE)
    model = keras.Model([image, references, rois, meta], {**classified, **masked})
    inputs = [batch[f"input_{name}"] for name in ("image", "target", "image_meta")]
    return {
        name: model(
            [inputs[0][:count], inputs[1][:count], records[name]["output_rois"], inputs[2][:count]], training=True
        )
        for name, count in (("b1", 1), ("b2", 2))
    }


@each_batch
def test_heads_on_recorded_rois(on_recorded_rois, records, name, count):
    outputs, record = on_recorded_rois[name], records[name]
    class_ids = record["t_class_ids"]
    for head in ("mrcnn_class_logits", "mrcnn_bbox"):
        assert relative_error(outputs[head], record[head]) < EXACT
    image, row = record["mrcnn_mask_pos_index"].T
    np.testing.assert_allclose(outputs["mrcnn_mask"].numpy()[image, row], record["mrcnn_mask_pos"], atol=EXACT)
    found = {
        "mrcnn_class_loss": losses.mrcnn_class_loss_graph(class_ids, outputs["mrcnn_class_logits"]),
        "mrcnn_bbox_loss": losses.mrcnn_bbox_loss_graph(record["t_deltas"], class_ids, outputs["mrcnn_bbox"]),
        "mrcnn_mask_loss": losses.mrcnn_mask_loss_graph(record["t_masks"], class_ids, outputs["mrcnn_mask"]),
    }
    for loss, value in found.items():
        assert float(value) == pytest.approx(record["losses"][loss], rel=EXACT), loss


def test_loss_of_the_recorded_batch(forward, layers, records):
    """What is minimized: the weighted losses and the decay of what trains, on one device."""
    config = SmallConfig().replace(SHUFFLE_ROIS=False)
    model = training_model.build_training_model(config, layers)
    outputs, found = forward[2]
    decay = decay_of(config, model)
    assert decay > 1e-6
    expected = decay + sum(weight * records["b2"]["losses"][loss] for loss, weight in config.LOSS_WEIGHTS.items())
    assert float(model.compute_loss(y_pred=outputs)) == pytest.approx(expected, rel=3e-4)
    for tracker in model.loss_trackers:
        assert float(tracker.result()) == pytest.approx(config.LOSS_WEIGHTS[tracker.name] * found[tracker.name])


ORIGINAL_STEPS = {  # of the original code under TensorFlow 1.15, first image: see test_steps_of_the_original
    "heads": (64, 0.000311036, 180.820592, 0.02, (4.1953773, 2.7631330, 1.6913607)),
    "4+": (180, 0.000320156, 188.562089, 0.02, (4.1953864, 2.6165509, 1.5841970)),
    "all": (276, 0.000348011, 5051.203719, 0.0002, (4.1954145, 3.2904196)),
}
ORIGINAL_NORMS = {  # of gradients in "all"; that of rpn_bbox_pred is 0.41 without the way through the target deltas
    "res4a_branch2a/kernel": 7.94710,
    "fpn_p2/kernel": 88.54763,
    "fpn_distance_P3/kernel": 1.81203,
    "rpn_conv_shared/kernel": 11.10344,
    "rpn_bbox_pred/kernel": 3.07184,
    "mrcnn_class_conv1/kernel": 144.15007,
    "mrcnn_mask/kernel": 0.11765,
}


@pytest.fixture
def restored(layers):
    """The layers get their weights back when the test is over."""
    weights = [(weight, weight.numpy()) for layer in layers.layers for weight in layer.weights]
    yield
    for weight, values in weights:
        weight.assign(values)


def record_norms(model):
    """A variable that holds, after each step, the norms of the gradients before clipping."""
    norms, apply = tf.Variable(tf.zeros(len(model.trainable_variables))), model.optimizer.apply

    def record_and_apply(gradients, variables=None):
        norms.assign([tf.norm(gradient) for gradient in gradients])
        return apply(gradients, variables)

    model.optimizer.apply = record_and_apply
    return norms


@pytest.mark.parametrize("selection", ORIGINAL_STEPS)
def test_steps_of_the_original(layers, batch, restored, selection):
    """Trainable weights, weight decay, norm of the gradient before clipping, and the total losses of SGD steps.

    They are not compiled, which is faster; those of the tiny model below are. Of "all" there are two: the third says
    little, as its loss moves most.
    One part in a million on the weights moves the norms by up to 2e-2 and the third loss by 4e-3 ("all": 7e-2) in the
    original itself: of some rois the last bit decides whether they fall on a sample beyond the map.
    """
    count, decay, norm, learning_rate, totals = ORIGINAL_STEPS[selection]
    config = SmallConfig().replace(SHUFFLE_ROIS=False)
    trainable_layers.select_layers(layers.layers, selection)
    model = training_model.build_training_model(config, layers)
    assert len(model.trainable_variables) == count
    found = losses.weight_decay_graph(model.trainable_variables, config.WEIGHT_DECAY)
    np.testing.assert_allclose(found, decay, rtol=1e-5)
    training_model.compile_model(model, config, learning_rate=learning_rate)
    model.run_eagerly = True
    norms_of_step = record_norms(model)
    first = {name: values[:1] for name, values in batch.items()}
    steps, norms = [], []
    for _ in totals:
        steps.append(float(model.train_on_batch(first, return_dict=True)["loss"]))
        norms.append(norms_of_step.numpy())
    np.testing.assert_allclose(np.linalg.norm(norms[0]), norm, rtol=2e-2)
    if selection == "all":
        names = ["/".join(variable.path.split("/")[-2:]) for variable in model.trainable_variables]
        by_name = dict(zip(names, norms[0], strict=True))
        for name, recorded in ORIGINAL_NORMS.items():
            np.testing.assert_allclose(by_name[name], recorded, rtol=2e-2, err_msg=name)
    tolerance = 1e-2 if selection != "all" else 1e-1
    np.testing.assert_allclose(steps[0], totals[0], rtol=CLASS_LOSS_OF_OWN_ROIS)
    np.testing.assert_allclose(steps[1:], totals[1:], rtol=tolerance)


# ---- steps of a small model --------------------------------------------------------------------------------------
def tiny_batch(config, *class_ids, boxes_of_all=((30, 40, 70, 90), (80, 10, 120, 60))):
    """A batch: one image for each list of class ids (1, or -1 for crowds), at the same places."""
    rng = np.random.default_rng(0)
    anchors = pyramid_anchors(config, config.IMAGE_SHAPE)
    scene = seeded.make_scene(128, 128, seed=5)[0]
    samples = []
    for ids in class_ids:
        gt_boxes = np.array(boxes_of_all[: len(ids)], np.int32).reshape(-1, 4)
        match, bbox = rpn_targets.build_rpn_targets(None, anchors, ids, gt_boxes, config, rng=rng)
        samples.append(
            data_generator.Sample(
                image_id=0,
                class_id=1,
                references=[(0, 0)],
                image=rng.permutation(scene),
                image_meta=compose_image_meta(0, (128, 128, 3), (128, 128, 3), (0, 0, 128, 128), 1, [1, 1]),
                targets=rng.integers(0, 256, (1, *config.TARGET_SHAPE), dtype=np.uint8),
                rpn_match=match,
                rpn_bbox=bbox,
                gt_class_ids=np.array(ids, np.int32),
                gt_boxes=gt_boxes,
                gt_masks=rng.random((*config.MINI_MASK_SHAPE, len(ids))) < 0.7,
            )
        )
    return data_generator.collate(samples, config)


@pytest.fixture(scope="module")
def tiny():
    """Configuration, layers and compiled training model."""
    config = TinyConfig().replace(SHUFFLE_ROIS=False, NUM_JITTERED_GT_ROIS=0, QUERIES_PER_IMAGE=1)  # free of chance
    layers = network.build_layers(config)
    model = training_model.build_training_model(config, layers)
    model.compile(optimizer=keras.optimizers.SGD(0.01, momentum=0.9, global_clipnorm=5.0), jit_compile=False)
    return config, layers, model


@pytest.fixture
def step(tiny):
    """The tiny model at its start: configuration, model, and a step on a batch that gives the losses."""
    config, layers, model = tiny
    restart(layers, model)

    def run(inputs):
        model.reset_metrics()
        return {name: float(value) for name, value in model.train_on_batch(inputs, return_dict=True).items()}

    return config, model, run


def restart(layers, model):
    """First weights, no momentum."""
    conftest.set_seeded_weights(layers.layers)
    for variable in model.optimizer.variables:
        if "momentum" in variable.name:
            variable.assign(np.zeros(variable.shape))


def decay_of(config, model):
    """The weight decay, computed in float64."""
    decayed = [weight for weight in model.trainable_variables if weight.name not in ("gamma", "beta")]
    return config.WEIGHT_DECAY * sum(float(np.square(weight.numpy().astype(float)).mean()) for weight in decayed)


def weights_of(model):
    return [weight.numpy() for weight in model.trainable_variables]


def test_a_step_gives_the_loss_and_its_parts(step):
    config, model, run = step
    inputs, decay = tiny_batch(config, [1, 1], [1]), decay_of(config, model)
    outputs = model(inputs, training=True)
    unweighted = {name: float(loss) for name, loss in training_model.losses_graph(outputs).items()}
    before = weights_of(model)
    found = run(inputs)
    assert set(found) == {"loss", *training_model.LOSS_NAMES}
    for name, loss in unweighted.items():
        assert loss > 0
        assert found[name] == pytest.approx(config.LOSS_WEIGHTS[name] * loss, rel=1e-4)
    assert decay > 1e-5 * found["loss"]
    assert found["loss"] == pytest.approx(decay + sum(found[name] for name in training_model.LOSS_NAMES), rel=1e-6)
    changed = [not np.array_equal(weight, other) for weight, other in zip(before, weights_of(model), strict=True)]
    assert np.mean(changed) > 0.9


def test_inputs_in_a_list_and_by_name(step, tiny):
    config, model, run = step
    inputs = tiny_batch(config, [1, 1], [1])
    assert [tensor.name for tensor in model.inputs] == list(data_generator.INPUT_NAMES)
    by_name, after = run(inputs), weights_of(model)
    restart(tiny[1], model)
    model.run_eagerly = True  # compiling it again for a list takes longer than the step
    listed = run(list(inputs.values()))
    model.run_eagerly = False
    assert listed == pytest.approx(by_name, rel=1e-5)
    for weight, other in zip(weights_of(model), after, strict=True):
        np.testing.assert_allclose(weight, other, rtol=1e-3, atol=1e-4)  # threads add up in any order


def test_steps_on_one_batch_lower_the_loss(step):
    config, model, run = step
    inputs = tiny_batch(config, [1, 1], [1])
    rate, model.optimizer.learning_rate = float(model.optimizer.learning_rate), 2e-4
    found = [run(inputs)["loss"] for _ in range(12)]
    model.optimizer.learning_rate = rate
    assert np.isfinite(found).all() and found[-1] < 0.8 * found[0]


@pytest.mark.parametrize("class_ids", [([], []), ([-1, -1], [-1])], ids=["nothing", "crowds"])
def test_a_batch_without_positives(step, class_ids):
    config, model, run = step
    inputs = tiny_batch(config, *class_ids)
    assert not (inputs["input_rpn_match"] == 1).any() and (inputs["input_rpn_match"] == -1).any()
    before = weights_of(model)
    found = run(inputs)
    assert np.isfinite(list(found.values())).all()
    assert [found[f"{name}_loss"] for name in ("rpn_bbox", "mrcnn_bbox", "mrcnn_mask")] == [0, 0, 0]
    assert found["rpn_class_loss"] > 0 and found["mrcnn_class_loss"] > 0
    after = weights_of(model)
    assert all(np.isfinite(weight).all() for weight in after)
    moved = {
        variable.path
        for variable, weight, other in zip(model.trainable_variables, before, after, strict=True)
        if not np.array_equal(weight, other)
    }
    assert any("rpn_class_raw" in path for path in moved) and any("conv1" in path for path in moved)


def test_images_without_positives_leave_the_others_alone(step):
    """The boxes and masks of a batch are those of its positives."""
    config, model, run = step
    inputs = tiny_batch(config, [1, 1], [-1])
    alone = {name: values[:1] for name, values in inputs.items()}
    together, single = (
        {name: float(loss) for name, loss in training_model.losses_graph(model(values, training=True)).items()}
        for values in (inputs, alone)
    )
    for name in ("rpn_bbox_loss", "mrcnn_bbox_loss", "mrcnn_mask_loss"):
        assert single[name] > 0 and together[name] == pytest.approx(single[name], rel=1e-4)
    assert abs(together["rpn_class_loss"] - single["rpn_class_loss"]) > 1e-4


def test_a_model_without_masks():
    config = TinyConfig().replace(MODEL="frcnn", SHUFFLE_ROIS=False, QUERIES_PER_IMAGE=1)
    model = training_model.build_training_model(config, network.build_layers(config))
    model.compile(optimizer=keras.optimizers.SGD(0.001), run_eagerly=True)
    found = model.train_on_batch(tiny_batch(config, [1]), return_dict=True)
    assert set(found) == {"loss", *training_model.LOSS_NAMES[:-1]}
    assert np.isfinite([float(value) for value in found.values()]).all()
    assert "mrcnn_mask" not in model.output


def test_a_scene_is_encoded_once_for_its_queries(tiny):
    """Losses and gradients are those of encoding it again for each; only the first one's scene is looked at."""
    config, layers, _ = tiny
    conftest.set_seeded_weights(layers.layers)
    inputs = tiny_batch(config, [1], [1, 1], [1], [1])
    for index in (1, 3):
        inputs["input_image"][index] = inputs["input_image"][index - 1]
    found = []
    for queries in (1, 2):
        model = training_model.build_training_model(config.replace(QUERIES_PER_IMAGE=queries), layers)
        if queries == 2:
            inputs["input_image"][1::2] = 0
        with tf.GradientTape() as tape:
            outputs = model(inputs, training=True)
            loss = model.compute_loss(inputs, y_pred=outputs)
        gradients = tape.gradient(loss, [variable.value for variable in model.trainable_variables])
        found.append([float(loss), *(float(tf.norm(gradient)) for gradient in gradients)])
    assert found[0][0] > 0
    np.testing.assert_allclose(found[1], found[0], rtol=1e-3)


def test_replicas_share_the_loss(step, monkeypatch):
    config, model, _ = step
    outputs = model(tiny_batch(config, [1]), training=True)
    whole = float(model.compute_loss(y_pred=outputs))
    monkeypatch.setattr(training_model, "replicas_in_sync", lambda: 4)
    assert float(model.compute_loss(y_pred=outputs)) == pytest.approx(whole / 4)
    assert whole > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"IMAGE_RESIZE_MODE": "pad64"}, "IMAGE_RESIZE_MODE = 'pad64'"),
        ({"USE_RPN_ROIS": False}, "USE_RPN_ROIS"),
        ({"QUERIES_PER_IMAGE": 3}, "IMAGES_PER_GPU = 16: expected a multiple of QUERIES_PER_IMAGE = 3"),
        (
            {"ABSENT_REFERENCE_RATIO": 0.2, "FILL_NEGATIVE_ROIS": False},
            "RATIO = 0.2: expected FILL_NEGATIVE_ROIS = True",
        ),
    ],
)
def test_configurations_that_cannot_be_trained(tiny, settings, message):
    config, layers, _ = tiny
    with pytest.raises(ValueError, match=message):
        training_model.build_training_model(config.replace(**settings), layers)
