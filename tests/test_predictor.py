"""`SiamesePredictor`: encode once, detect with many references."""

import numpy as np
import pytest

from siamese_mrcnn_tf import ReferenceEmbedding, SiamesePredictor
from siamese_mrcnn_tf.weights import loading


@pytest.fixture(scope="module")
def predictor(tiny_model):
    return tiny_model.predictor


def assert_same(found, expected):
    np.testing.assert_array_equal(found["rois"], expected["rois"])
    np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-6)
    np.testing.assert_array_equal(found["masks"], expected["masks"])


def test_detections_describe_the_scene(predictor, scene, crop):
    predictor.set_image(scene)
    found = predictor.detect(crop)
    count = len(found["rois"])
    assert count > 0
    assert found["masks"].shape == (*scene.shape[:2], count) and found["masks"].dtype == bool
    assert found["class_ids"].tolist() == [1] * count
    assert (np.diff(found["scores"]) <= 0).all()
    y1, x1, y2, x2 = found["rois"].T
    assert (y1 >= 0).all() and (x1 >= 0).all() and (y2 <= scene.shape[0]).all() and (x2 <= scene.shape[1]).all()
    assert (y2 > y1).all() and (x2 > x1).all()


def test_crops_arrays_lists_and_embeddings_are_one_query(predictor, scene, crop):
    predictor.set_image(scene)
    expected = predictor.detect(crop)
    for same in ([crop], crop[None], predictor.encode_references([crop])):
        assert_same(predictor.detect(same), expected)


def test_the_reference_matters(predictor, scene, crop):
    predictor.set_image(scene)
    other = 255 - crop
    assert not np.array_equal(predictor.detect(crop)["scores"], predictor.detect(other)["scores"])


def test_k_shot_is_the_mean_of_embeddings(predictor, scene, crop):
    crops = [crop, 255 - crop, crop[::-1]]
    predictor.set_image(scene)
    embedding = predictor.encode_references(crops)
    assert embedding.vectors.shape == (3, 5, predictor.config.FPN_FEATUREMAPS)
    mean = ReferenceEmbedding(embedding.mean[None])
    assert_same(predictor.detect(mean), predictor.detect(crops))


def test_batch_equals_single_scenes(predictor, scene, crop):
    scenes = [scene, scene[::-1], scene[:60, :50]]
    queries = [[crop], [crop, 255 - crop], [255 - crop]]
    together = predictor.detect_in(predictor.encode_scenes(scenes), queries)
    for image, query, found in zip(scenes, queries, together, strict=True):
        predictor.set_image(image)
        alone = predictor.detect(query)
        np.testing.assert_allclose(found["scores"], alone["scores"], atol=1e-5)
        np.testing.assert_array_equal(found["rois"], alone["rois"])


def test_embeddings_are_saved_and_loaded(predictor, scene, crop, tmp_path):
    embedding = predictor.encode_references([crop, crop[::-1]])
    embedding.save(tmp_path / "reference.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["reference.npz"]
    loaded = ReferenceEmbedding.load(tmp_path / "reference.npz")
    predictor.set_image(scene)
    assert_same(predictor.detect(loaded), predictor.detect(embedding))


def test_an_invalid_image_does_not_leave_the_previous_scene(predictor, scene, crop):
    predictor.set_image(scene)
    with pytest.raises(ValueError, match="image 0"):
        predictor.set_image(scene[:, :, 0])
    with pytest.raises(RuntimeError, match="set_image"):
        predictor.detect(crop)


@pytest.mark.parametrize("vectors", [np.full((1, 5, 64), np.nan), np.full((1, 5, 64), "a"), np.zeros((0, 5, 64))])
def test_embeddings_are_finite_numbers(vectors):
    with pytest.raises(ValueError, match="embedding: expected finite numbers"):
        ReferenceEmbedding(vectors)


def test_views_have_the_shape_of_the_embedding():
    with pytest.raises(ValueError, match=r"expected views of shape \(2, 5, 4\), got \(1, 5, 4\)"):
        ReferenceEmbedding(np.ones((2, 5, 4), np.float32), np.ones((1, 5, 4), np.float32))


def test_backbone_weights_are_not_enough(tiny_model, tmp_path):
    class Backbone:
        layers = [tiny_model.predictor.layers.resnet_model]

    loading.save_weights(Backbone, tmp_path / "backbone.h5")
    with pytest.raises(ValueError, match="backbone.h5: cannot detect, 76 weights are missing"):
        SiamesePredictor(tiny_model.config, weights=tmp_path / "backbone.h5")


@pytest.mark.slow
def test_weights_that_are_not_numbers_find_nothing_instead_of_failing(tiny_model, scene, crop):
    predictor = SiamesePredictor(tiny_model.config)
    predictor.layers.rpn_model.get_layer("rpn_bbox_pred").bias.assign(np.full(12, np.nan))
    predictor.layers.classifier["mrcnn_bbox_fc"].bias.assign(np.full(4, np.nan))
    scenes = predictor.encode_scenes([scene, scene])
    outputs = predictor.match(scenes, [crop, crop])
    assert outputs["mrcnn_class"].shape == (2, tiny_model.config.POST_NMS_ROIS_INFERENCE, 2)
    assert not outputs["mrcnn_detection"].any()
    assert [len(found["rois"]) for found in predictor.unmold(scenes, outputs)] == [0, 0]


PARTIAL = object()


@pytest.mark.parametrize("content", [b"", b"no archive", None, PARTIAL])
def test_invalid_embedding_files_are_refused(tmp_path, content):
    path = tmp_path / "broken.npz"
    if content is PARTIAL:
        ReferenceEmbedding(np.ones((2, 5, 64), np.float32)).save(path)
        path.write_bytes(path.read_bytes()[:700])
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match="broken.npz: not a saved reference embedding"):
        ReferenceEmbedding.load(path)


@pytest.mark.slow
def test_weights_by_path(tiny_model, tiny_weights, scene, crop):
    predictor = SiamesePredictor(tiny_model.config, weights=tiny_weights)
    predictor.set_image(scene)
    tiny_model.predictor.set_image(scene)
    assert_same(predictor.detect(crop), tiny_model.predictor.detect(crop))
    predictor.load_weights(tiny_weights)
    with pytest.raises(RuntimeError, match="set_image"):  # a scene encoded with other weights would be wrong
        predictor.detect(crop)


def test_errors_name_what_is_wrong(predictor, tiny_model, scene, crop):
    with pytest.raises(RuntimeError, match=r"call set_image\(image\) first"):
        SiamesePredictor(tiny_model.config, layers=tiny_model.predictor.layers).detect(crop)
    predictor.set_image(scene)
    with pytest.raises(ValueError, match="at least one crop, got none"):
        predictor.detect([])
    with pytest.raises(ValueError, match=r"reference 0.*\(0, 5, 3\)"):
        predictor.detect(np.zeros((0, 5, 3), np.uint8))
    with pytest.raises(ValueError, match=r"embedding: expected \[references, 5, 64\]"):
        predictor.detect(ReferenceEmbedding(np.zeros((1, 5, 256), np.float32)))
    with pytest.raises(ValueError, match="image 0"):
        predictor.set_image(np.zeros((10, 10), np.uint8))
    with pytest.raises(ValueError, match="one query for each of 1 scenes, got 2"):
        predictor.match(predictor.encode_scenes([scene]), [[crop], [crop]])


@pytest.mark.slow
def test_min_confidence_cuts_by_score(tiny_model, scene, crop):
    tiny_model.predictor.set_image(scene)
    scores = tiny_model.predictor.detect(crop)["scores"]
    bound = float(np.median(scores))
    config = tiny_model.config.replace(DETECTION_MIN_CONFIDENCE=bound)
    strict = SiamesePredictor(config, layers=tiny_model.predictor.layers)
    strict.set_image(scene)
    found = strict.detect(crop)["scores"]
    assert 0 < len(found) < len(scores)
    assert found.min() >= bound
