"""References that training classifies by category (REFERENCE_CLASSES)."""

import conftest
import numpy as np
import pytest

from siamese_mrcnn_tf import TinyConfig
from siamese_mrcnn_tf.data.data_generator import INPUT_NAMES, TARGET_CLASS, TrainingSamples, collate
from siamese_mrcnn_tf.modeling.network import build_layers
from siamese_mrcnn_tf.training.training_model import REFERENCE_LOSS, build_training_model, compile_model

CONFIG = TinyConfig().replace(**conftest.MICRO, IMAGES_PER_GPU=2, QUERIES_PER_IMAGE=1, REFERENCE_CLASSES=5)


@pytest.fixture(scope="module")
def samples(training_parts):
    return TrainingSamples(training_parts[0], CONFIG)


def test_batches_hold_the_classes_of_the_references(samples):
    chosen = [samples[number] for number in range(4)]
    batch = collate(chosen, CONFIG)
    assert list(batch) == [*INPUT_NAMES, TARGET_CLASS]
    assert batch[TARGET_CLASS].tolist() == [sample.class_id for sample in chosen]
    assert list(collate(chosen, CONFIG.replace(REFERENCE_CLASSES=0))) == list(INPUT_NAMES)
    highest = max(sample.class_id for sample in chosen)
    with pytest.raises(ValueError, match=f"REFERENCE_CLASSES = {highest}: expected more than the highest class id"):
        collate(chosen, CONFIG.replace(REFERENCE_CLASSES=highest))


def test_loss_is_that_of_the_cosines(samples):
    layers = build_layers(CONFIG)
    model = build_training_model(CONFIG, layers, seed=0)
    batch = collate([samples[0], samples[1]], CONFIG)
    outputs = {name: np.asarray(value) for name, value in model(batch, training=False).items()}
    names = [layer.name for layer in layers.layers]
    assert "reference_classifier" not in names and model.get_layer("reference_classifier").num_classes == 5
    logits = outputs["reference_logits"].astype(np.float64)
    assert logits.shape == (2, 5) and np.abs(logits).max() <= 16 and np.ptp(logits) > 0
    shifted = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = -shifted[np.arange(2), batch[TARGET_CLASS]].mean()
    compile_model(model, CONFIG, learning_rate=0.01)
    found = model.test_on_batch(batch, return_dict=True)
    assert found[REFERENCE_LOSS] == pytest.approx(expected, rel=1e-4)


def test_a_batch_of_one_is_refused():
    with pytest.raises(ValueError, match="REFERENCE_CLASSES = 5: expected IMAGES_PER_GPU of 2 or more, got 1"):
        build_training_model(CONFIG.replace(IMAGES_PER_GPU=1), build_layers(CONFIG))


def test_loss_trains_the_encoder(samples):
    """With the other losses off, a step changes the backbone and the classifier and not the heads."""
    weights = dict.fromkeys(CONFIG.LOSS_WEIGHTS, 0.0) | {REFERENCE_LOSS: 1.0}
    config = CONFIG.replace(LOSS_WEIGHTS=weights, WEIGHT_DECAY=0.0)
    layers = build_layers(config)
    model = build_training_model(config, layers, seed=0)
    compile_model(model, config, learning_rate=0.01)
    before = {variable.path: np.asarray(variable) for variable in model.trainable_variables}
    model.train_on_batch(collate([samples[0], samples[1]], config))
    moved = {path for path, value in before.items() if not np.array_equal(value, _of(model, path))}
    assert any("conv1" in path for path in moved) and any("reference_classifier" in path for path in moved)
    assert not any("mrcnn" in path or "rpn" in path for path in moved)


def _of(model, path):
    return next(np.asarray(variable) for variable in model.trainable_variables if variable.path == path)
