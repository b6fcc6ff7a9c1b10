"""The parts of the inference network compute what the single model does, with less work."""

import keras
import numpy as np
import pytest

from siamese_mrcnn_tf import SiamesePredictor
from siamese_mrcnn_tf.base_predictor import bucket
from siamese_mrcnn_tf.data import molding
from siamese_mrcnn_tf.modeling import network
from siamese_mrcnn_tf.modeling.backbone import LEVELS, BatchNorm
from siamese_mrcnn_tf.modeling.folding import FoldedConv, folded_model
from siamese_mrcnn_tf.modeling.parts import PredictorParts
from siamese_mrcnn_tf.ops.similarity import Verification


def close(values, expected, tolerance=2e-5):
    expected = np.asarray(expected)
    assert values.shape == expected.shape
    return np.abs(np.asarray(values) - expected).max() <= tolerance * np.abs(expected).max()


@pytest.fixture(scope="module")
def varied(tiny_model):
    """The tiny configuration whose normalizations have statistics, scales and offsets of their own."""
    predictor, rng = SiamesePredictor(tiny_model.config), np.random.default_rng(3)
    for layer, source in zip(predictor.layers.layers, tiny_model.predictor.layers.layers, strict=True):
        layer.set_weights(source.get_weights())
    norms = [one for one in predictor.layers.resnet_model.layers if isinstance(one, keras.layers.BatchNormalization)]
    heads = [*predictor.layers.classifier.values(), *predictor.layers.mask.values()]
    for norm in [*norms, *(one for one in heads if isinstance(one, keras.layers.BatchNormalization))]:
        for variable in (norm.gamma, norm.moving_variance):
            variable.assign(rng.uniform(0.7, 1.3, variable.shape))
        for variable in (norm.beta, norm.moving_mean):
            variable.assign(rng.normal(0, 0.1, variable.shape))
    return predictor


@pytest.fixture
def expected(varied, scene, crop):
    """The outputs of the single model, in which nothing is folded or shared."""
    inference = network.build_inference_model(varied.config, varied.layers)
    scenes, references = varied.encode_scenes([scene]), varied.encode_references(crop)
    names = [f"img_{level}" for level in LEVELS] + [f"matched_{level}" for level in LEVELS]
    outputs = {**inference.model.output, **{name: inference.tensors[name] for name in names}}
    model = keras.Model(inference.model.inputs, outputs)
    molded = molding.mold_inputs([scene], varied.config)[0]
    targets = molding.mold_references([crop], varied.config, subtract_mean=True)[None]
    assert references.vectors.shape[0] == 1
    return model.predict_on_batch([molded, scenes.image_metas, targets, np.array(scenes.anchors)])


def test_folded_normalizations_change_nothing(varied, expected, scene):
    for level, maps in zip(LEVELS, varied.encode_scenes([scene]).pyramid, strict=True):
        assert close(maps, expected[f"img_{level}"])


def test_detectors_take_the_maps_of_the_scene_encoder(varied):
    for mode in ("square", "pad64"):
        parts = PredictorParts(varied.config.replace(IMAGE_RESIZE_MODE=mode), varied.layers)
        expected = [(tensor.shape, tensor.dtype) for tensor in parts.scene_encoder.outputs]
        for detector in (parts.detector, parts.shared_detector):
            assert [(tensor.shape, tensor.dtype) for tensor in detector.inputs[: len(LEVELS)]] == expected


def test_scenes_and_references_share_one_encoder(varied, scene, crop):
    parts = PredictorParts(varied.config, varied.layers)
    molded = molding.mold_inputs([scene], varied.config)[0]
    targets = molding.mold_references([crop, crop[::2]], varied.config, subtract_mean=True)
    for maps, expected in zip(varied._encode_scene(molded), parts.scene_encoder(molded, training=False), strict=True):
        assert close(maps, expected)
    assert close(varied._encode_reference(targets), parts.reference_encoder(targets, training=False))


def test_detection_in_bfloat16(varied, scene, crop):
    config = varied.config.replace(PRECISION="bfloat16")
    rounded = SiamesePredictor(config)
    for layer, source in zip(rounded.layers.layers, varied.layers.layers, strict=True):
        layer.set_weights(source.get_weights())
    for maps, exact in zip(rounded.encode_scenes([scene]).pyramid, varied.encode_scenes([scene]).pyramid, strict=True):
        assert keras.backend.standardize_dtype(maps.dtype) == "bfloat16"
        assert close(np.asarray(maps, np.float32), exact, 0.05)
    rounded.set_image(scene)
    found = rounded.detect(crop)
    assert len(found["scores"]) and found["masks"].shape[2] == len(found["scores"])
    (shared, _) = rounded.detect_all(rounded.encode_scenes([scene]), [crop, crop[::-1]])
    count = min(len(shared["scores"]), len(found["scores"]), 5)
    assert count and np.abs(shared["scores"][:count] - found["scores"][:count]).max() < 0.05


def test_every_normalization_is_folded(varied):
    folded = folded_model(varied.layers.resnet_model)
    assert not [one for one in folded.layers if isinstance(one, keras.layers.BatchNormalization)]
    norms = [one for one in varied.layers.resnet_model.layers if isinstance(one, keras.layers.BatchNormalization)]
    assert sum(isinstance(one, FoldedConv) for one in folded.layers) == len(norms) > 10


def test_a_convolution_with_another_reader_is_not_folded():
    image = keras.Input((8, 8, 3))
    convolved = keras.layers.Conv2D(4, 3, padding="same", name="shared")(image)
    first = BatchNorm(name="one")(convolved)
    active = BatchNorm(name="two")(keras.layers.Conv2D(4, 1, activation="relu", name="active")(first))
    model = keras.Model(image, [first, active, convolved])
    model.get_layer("one").moving_mean.assign(np.full(4, 0.5))
    folded = folded_model(model)
    assert not any(isinstance(one, FoldedConv) for one in folded.layers)
    pixels = np.random.default_rng(0).random((1, 8, 8, 3), np.float32)
    for mine, theirs in zip(folded(pixels), model(pixels), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)


def test_parts_follow_the_weights(varied, scene):
    before = np.asarray(varied.encode_scenes([scene]).pyramid[0])
    norm = varied.layers.resnet_model.get_layer("bn_conv1")
    gamma = norm.gamma.numpy()
    norm.gamma.assign(gamma * 0.5)
    changed = np.asarray(varied.encode_scenes([scene]).pyramid[0])
    norm.gamma.assign(gamma)
    assert not close(changed, before, 1e-2)
    assert close(np.asarray(varied.encode_scenes([scene]).pyramid[0]), before, 1e-6)


def test_the_outputs_of_the_single_model(varied, expected, scene, crop):
    outputs = varied.match(varied.encode_scenes([scene]), [crop])
    for name in ("rpn_class", "rpn_bbox"):
        assert close(outputs[name], expected[name], 1e-4)
    count = np.count_nonzero(expected["mrcnn_detection"][0, :, 4])
    assert count > 3
    np.testing.assert_allclose(outputs["mrcnn_detection"], expected["mrcnn_detection"], atol=1e-4)
    differences = np.abs(outputs["mrcnn_mask"][0, :count] - expected["mrcnn_mask"][0, :count])
    assert differences.max() < 5e-3 and differences.mean() < 1e-4
    assert not outputs["mrcnn_mask"][0, count:].any()


@pytest.mark.parametrize("stride", [1, 2])
def test_shared_terms_give_the_same_maps(tiny_model, varied, scene, crop, stride):
    """Borders included: matched maps and RPN of each reference, with the terms of the scene and without."""
    config = tiny_model.config.replace(RPN_ANCHOR_STRIDE=stride)
    predictor = varied if stride == 1 else SiamesePredictor(config)
    parts = PredictorParts(config, predictor.layers)
    for layer in predictor.layers.matching.values():
        layer.bias.assign(np.random.default_rng(1).normal(0, 0.5, layer.bias.shape))
    scenes = predictor.encode_scenes([scene])
    embeddings = np.stack([predictor.encode_references(one).mean for one in (crop, 255 - crop, crop[::-1])])
    terms = parts.scene_terms(list(scenes.pyramid))
    together = scenes.for_queries(3)
    given = [embeddings, together.image_metas, np.array(together.anchors)]
    maps = [np.asarray(level) for level in scenes.pyramid]
    shared = parts.shared_detector([*maps, *map(np.asarray, terms), *given])
    alone = parts.detector([*(np.repeat(level, 3, axis=0) for level in maps), *given])
    for name in ("rpn_class", "rpn_bbox", *(f"matched_{level}" for level in LEVELS[:4])):
        assert close(shared[name], alone[name], 1e-4), name


def test_several_queries_of_a_scene(varied, scene, crop):
    queries = [[crop], [crop, 255 - crop], [crop[::-1]]]
    found = varied.detect_all(varied.encode_scenes([scene]), queries, batch=2)
    assert len(found) == 3
    for one, query in zip(found, queries, strict=True):
        alone = varied.detect_in(varied.encode_scenes([scene]), [query])[0]
        np.testing.assert_allclose(one["scores"], alone["scores"], atol=1e-4)
        assert np.abs(one["rois"] - alone["rois"]).max() <= 1
        assert (one["masks"] != alone["masks"]).mean() < 1e-3


def test_one_scene_only(varied, scene, crop):
    with pytest.raises(ValueError, match="scene: expected one image, got 2"):
        varied.detect_all(varied.encode_scenes([scene, scene]), [crop])


def test_masks_are_computed_for_detections_alone(varied, scene, crop, monkeypatch):
    sizes, plain = [], varied._segment
    monkeypatch.setattr(varied, "_segment", lambda boxes, *rest: sizes.append(len(boxes)) or plain(boxes, *rest))
    (found,) = varied.detect_in(varied.encode_scenes([scene]), [crop])
    assert sizes == [bucket(len(found["rois"]))]
    monkeypatch.setattr(varied, "config", varied.config.replace(VERIFY_DETECTIONS=False))
    varied.match(varied.encode_scenes([scene]), [crop], masks=False)
    assert len(sizes) == 1


def test_buckets():
    sizes = [bucket(count) for count in range(1, 3000)]
    assert sizes[:18] == [1, 2, 3, 4, 5, 6, 7, 8, 10, 10, 12, 12, 14, 14, 16, 16, 20, 20]
    assert all(count <= size <= 1.25 * count + 1 for count, size in enumerate(sizes, 1))
    assert len(set(sizes)) < 50


def test_another_verification_compiles_the_detectors_alone(tiny_model, scene, crop):
    config = tiny_model.config.replace(VERIFY_DETECTIONS=True)
    predictor = SiamesePredictor(config, layers=tiny_model.predictor.layers)
    encode, share, detect = predictor._encode_scene, predictor._share, predictor._detect
    channels = config.FPN_FEATUREMAPS
    predictor.verification = Verification(np.zeros((4, channels)), np.ones((4, channels)), 1.0)
    assert predictor._encode_scene is encode and predictor._share is share and predictor._detect is not detect
    predictor.set_image(scene)
    assert set(predictor.detect(crop)) == {"rois", "class_ids", "scores", "masks"}
