"""The models over one set of layers, on TinyConfig."""

import subprocess
import sys

import conftest
import keras
import numpy as np
import pytest

from siamese_mrcnn_tf import LargeConfig, TinyConfig
from siamese_mrcnn_tf.model import SiameseMaskRCNN
from siamese_mrcnn_tf.modeling import network

OUTPUTS = {"mrcnn_detection", "mrcnn_class", "mrcnn_bbox", "mrcnn_mask", "ROI", "rpn_class", "rpn_bbox"}
ALIASES = {"detections", "rpn_rois"}


def model_inputs(model, scene, crop, batch=1, references=1):
    """The four inputs by name for `batch` times the same scene."""
    molded, metas, _ = model.mold_inputs([scene] * batch)
    targets = model._molded_targets([[crop] * references] * batch)
    anchors = model.get_anchors(molded.shape[1:])
    return {
        "input_image": molded,
        "input_image_meta": metas,
        "input_target": targets,
        "input_anchors": np.repeat(anchors[None], batch, axis=0),
    }


@pytest.mark.slow
def test_inputs_and_outputs_have_the_original_names(tiny_model, scene, crop):
    names = ["input_image", "input_image_meta", "input_target", "input_anchors"]
    assert [tensor.name for tensor in tiny_model.keras_model.inputs] == names
    inputs = model_inputs(tiny_model, scene, crop)
    by_name = tiny_model.keras_model.predict(inputs, verbose=0)
    in_order = tiny_model.keras_model.predict([inputs[name] for name in names], verbose=0)
    assert set(by_name) == OUTPUTS | ALIASES
    for name, values in by_name.items():
        np.testing.assert_array_equal(values, in_order[name])
    np.testing.assert_array_equal(by_name["detections"], by_name["mrcnn_detection"])
    np.testing.assert_array_equal(by_name["rpn_rois"], by_name["ROI"])


@pytest.mark.slow
def test_output_shapes_follow_the_configuration(tiny_model, scene, crop):
    config = tiny_model.config
    outputs = tiny_model.keras_model.predict(model_inputs(tiny_model, scene, crop, batch=3, references=2), verbose=0)
    rois, detections = config.POST_NMS_ROIS_INFERENCE, config.DETECTION_MAX_INSTANCES
    anchors = len(tiny_model.get_anchors(config.IMAGE_SHAPE))
    shapes = {name: outputs[name].shape for name in OUTPUTS}
    assert shapes == {
        "mrcnn_detection": (3, detections, 6),
        "mrcnn_class": (3, rois, 2),
        "mrcnn_bbox": (3, rois, 4),
        "mrcnn_mask": (3, detections, 28, 28),
        "ROI": (3, rois, 4),
        "rpn_class": (3, anchors, 2),
        "rpn_bbox": (3, anchors, 4),
    }


def test_layers_of_the_original_are_found_by_name(tiny_model):
    model = tiny_model.keras_model
    for name in ("ROI", "mrcnn_class", "mrcnn_bbox", "mrcnn_detection", "rpn_class", "rpn_bbox", "resnet_model"):
        assert model.get_layer(name) is not None
    assert model.get_layer("mrcnn_mask_conv1") is tiny_model.predictor.layers.mask["mrcnn_mask_conv1"]


@pytest.mark.slow
def test_frcnn_has_no_masks(scene, crop):
    model = SiameseMaskRCNN("inference", TinyConfig().replace(MODEL="frcnn", DETECTION_MIN_CONFIDENCE=0.0), "logs")
    assert (
        set(model.keras_model.predict(model_inputs(model, scene, crop), verbose=0))
        == (OUTPUTS - {"mrcnn_mask"}) | ALIASES
    )
    assert not any("mask" in layer.name for layer in model.keras_model.layers)
    found = model.detect([[crop]], [scene])[0]
    assert found["masks"].shape == (*scene.shape[:2], 0)
    assert len(found["rois"]) == len(found["scores"])


@pytest.mark.slow
def test_loading_into_one_model_loads_into_all(scene, crop, tiny_weights, tiny_model):
    config = tiny_model.config
    model = SiameseMaskRCNN("inference", config, "logs")
    before = model.detect([[crop]], [scene])[0]
    model.load_weights(tiny_weights)
    after, expected = (one.detect([[crop]], [scene])[0] for one in (model, tiny_model))
    np.testing.assert_array_equal(after["rois"], expected["rois"])
    assert before["rois"].shape != after["rois"].shape or not np.array_equal(before["rois"], after["rois"])
    outputs = model.keras_model.predict(model_inputs(model, scene, crop), verbose=0)
    count = len(after["scores"])
    # the predictor folds normalizations into convolutions, which rounds otherwise: by 2e-6 here
    np.testing.assert_allclose(outputs["mrcnn_detection"][0, :count, 5], after["scores"], atol=5e-6)


def test_bad_configurations_are_refused_before_anything_is_built():
    with pytest.raises(ValueError, match="IMAGE_MAX_DIM = 500 is not a multiple of 64: use 448 or 512"):
        network.build_layers(TinyConfig().replace(IMAGE_MAX_DIM=500))
    with pytest.raises(ValueError, match="TARGET_MAX_DIM = 70"):
        network.build_layers(TinyConfig().replace(TARGET_MAX_DIM=70))
    with pytest.raises(ValueError, match="BACKBONE = 'vgg16'"):
        network.build_layers(TinyConfig().replace(BACKBONE="vgg16"))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["pad64", "none"])
def test_images_of_any_shape_without_the_square(mode, crop, tiny_weights):
    config = TinyConfig().replace(IMAGE_RESIZE_MODE=mode, IMAGE_MIN_DIM=64, DETECTION_MIN_CONFIDENCE=0.0)
    model = SiameseMaskRCNN("inference", config, "logs")
    model.load_weights(tiny_weights)
    image = np.random.default_rng(0).integers(0, 256, (128, 192, 3), np.uint8)
    found = model.detect([[crop]], [image])[0]
    assert found["masks"].shape == (128, 192, len(found["rois"]))
    assert len(found["rois"]) > 0


def test_importing_the_package_does_not_import_tensorflow():
    code = (
        "import sys, siamese_mrcnn_tf as s; s.Config(); sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_model_is_a_plain_keras_model(tiny_model):
    assert isinstance(tiny_model.keras_model, keras.Model)
    assert tiny_model.keras_model.name == "mask_rcnn"


@pytest.mark.slow
def test_large_configuration(scene, crop):
    """One detection by the predictor and by the single model, weights as seeded; in images of half the size."""
    config = LargeConfig().replace(DETECTION_MIN_CONFIDENCE=0.0, IMAGE_MIN_DIM=400, IMAGE_MAX_DIM=512)
    model = SiameseMaskRCNN("inference", config, "logs")
    conftest.set_seeded_weights(model.keras_model.layers)
    scenes = model.predictor.encode_scenes([scene])
    found = model.predictor.detect_in(scenes, [[crop, 255 - crop]])[0]
    outputs = model.keras_model.predict(model_inputs(model, scene, crop, references=1), verbose=0)
    assert outputs["ROI"].shape == (1, 1000, 4) and outputs["mrcnn_detection"].shape == (1, 100, 6)
    assert outputs["rpn_class"].shape == (1, 65472, 2)
    alone = model.predictor.detect_in(scenes, [[crop]])[0]
    count = len(alone["scores"])
    assert count > 0 and len(found["rois"]) > 0
    np.testing.assert_allclose(outputs["mrcnn_detection"][0, :count, 5], alone["scores"], atol=1e-4)
