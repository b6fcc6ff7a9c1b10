"""All layers: the round trip through their configuration, output shapes, a model in a file."""

import json

import keras
import numpy as np
import pytest
from network_values import foreground, metas

from siamese_mrcnn_tf.modeling import detection, matching, roi_align, roi_heads, rpn
from siamese_mrcnn_tf.modeling.backbone import BatchNorm

NO_DELTAS = (1.0, 1.0, 1.0, 1.0)  # bbox_std_dev that leaves deltas unchanged
MAP_SIDES = (32, 16, 8, 4)


BINARY_ANCHORS = [[-0.25, 0.0, 0.5, 1.5], [0.125, 0.25, 0.75, 1.0]]  # that float32 has exactly
LAYERS = [
    (matching.MatchingLayer(9, name="fpn_distance_P2"), [(None, 8, 8, 6), (None, 6)], {"filters": 9}),
    (matching.MeanOverReferences(name="target_embedding"), [(None, 5, 6), (None, 3, 64, 64, 3)], {}),
    (rpn.AnchorLayer(np.array(BINARY_ANCHORS), name="anchors"), (None, 8, 8, 3), {"anchors": BINARY_ANCHORS}),
    (
        rpn.ProposalLayer(7, 0.6, 50, np.array([0.1, 0.1, 0.2, 0.2]), name="ROI"),
        [(None, 99, 2), (None, 99, 4), (None, 99, 4)],
        {"proposal_count": 7, "nms_threshold": 0.6, "pre_nms_limit": 50, "bbox_std_dev": [0.1, 0.1, 0.2, 0.2]},
    ),
    (
        roi_align.PyramidROIAlign([7, 5], 112, name="roi_align"),
        [(None, 11, 4), (None, 14), *((None, side, side, 3) for side in MAP_SIDES)],
        {"pool_shape": (7, 5), "canonical_size": 112},
    ),
    (
        detection.DetectionLayer(8, 0.4, 0.3, (0.1, 0.1, 0.2, 0.2), name="mrcnn_detection"),
        [(None, 11, 4), (None, 11, 2), (None, 11, 4), (None, 14)],
        {"max_instances": 8, "min_confidence": 0.4, "nms_threshold": 0.3, "bbox_std_dev": [0.1, 0.1, 0.2, 0.2]},
    ),
    (roi_heads.UnfoldRois(5, name="mrcnn_bbox"), (None, 4), {"count": 5}),
    (BatchNorm(None, name="bn_conv1"), (None, 3, 3, 4), {"train_bn": None}),
    (BatchNorm(name="bn_conv1"), (None, 3, 3, 4), {"train_bn": False}),
]
each_layer = pytest.mark.parametrize(
    ("layer", "shapes", "settings"), LAYERS, ids=lambda item: getattr(item, "name", "")
)


@each_layer
def test_config_round_trip(layer, shapes, settings):
    config = layer.get_config()
    assert {name: config[name] for name in settings} == settings
    assert config["name"] == layer.name
    assert type(layer).from_config(config).get_config() == config


@each_layer
def test_serialization_round_trip(layer, shapes, settings):
    stored = json.dumps(keras.saving.serialize_keras_object(layer))
    assert f'"registered_name": "siamese_mrcnn_tf>{type(layer).__name__}"' in stored
    restored = keras.saving.deserialize_keras_object(json.loads(stored))
    assert type(restored) is type(layer)
    assert restored.get_config() == layer.get_config()


@each_layer
def test_compute_output_shape_is_what_call_gives(layer, shapes, settings):
    layer = type(layer).from_config(layer.get_config())
    batches = {"mrcnn_bbox": 15, "target_embedding": (6, 2)}.get(layer.name, 3)
    listed = shapes if isinstance(shapes, list) else [shapes]
    sizes = batches if isinstance(batches, tuple) else (batches,) * len(listed)
    inputs = [np.full((size, *shape[1:]), 0.5, np.float32) for size, shape in zip(sizes, listed, strict=True)]
    outputs = layer(inputs if isinstance(shapes, list) else inputs[0])
    assert layer.compute_output_shape(shapes)[1:] == tuple(outputs.shape[1:])
    assert layer.compute_output_shape(shapes)[0] is None


def test_a_model_of_these_layers_survives_a_file(tmp_path):
    sides, channels, anchors = MAP_SIDES, 2, 30
    maps = [keras.Input((side, side, channels)) for side in sides]
    embeddings, references = keras.Input((4, channels)), keras.Input((3, 8, 8, 3))
    scored, deltas, boxes, meta = (keras.Input(shape) for shape in ((anchors, 2), (anchors, 4), (anchors, 4), (14,)))
    mean = matching.MeanOverReferences()([embeddings, references])
    matched = [
        matching.MatchingLayer(3, name=f"fpn_distance_P{index + 2}")([level, mean[:, index]])
        for index, level in enumerate(maps)
    ]
    rois = rpn.ProposalLayer(6, 0.7, 20, (0.1, 0.1, 0.2, 0.2), name="ROI")([scored, deltas, boxes])
    pooled = roi_align.PyramidROIAlign((2, 2), 64)([rois, meta, *matched])
    detections = detection.DetectionLayer(4, 0.0, 0.5, NO_DELTAS)([rois, scored[:, :6], deltas[:, :6], meta])
    model = keras.Model([*maps, embeddings, references, scored, deltas, boxes, meta], [pooled, detections])
    model.save(tmp_path / "model.keras")
    rng = np.random.default_rng(5)
    corners = np.sort(rng.random((2, anchors, 2, 2)), axis=2).reshape(2, anchors, 4)
    inputs = [rng.normal(size=(2, side, side, channels)) for side in sides]
    inputs += [rng.normal(size=(6, 4, channels)), np.zeros((2, 3, 8, 8, 3))]
    inputs += [foreground(rng.random((2, anchors))), rng.normal(size=(2, anchors, 4)), corners]
    inputs = [np.asarray(values, np.float32) for values in [*inputs, metas((0, 0, 128, 128), (0, 0, 99, 99))]]
    expected, found = model(inputs), keras.saving.load_model(tmp_path / "model.keras")(inputs)
    for before, after in zip(expected, found, strict=True):
        np.testing.assert_array_equal(before, after)
        assert np.abs(before).max() > 0
