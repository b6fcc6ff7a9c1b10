"""Verified finds of `SiamesePredictor`, and the threshold file that it takes from beside its weights."""

import dataclasses
import logging
import shutil

import numpy as np
import pytest
import seeded

from siamese_mrcnn_tf import SiameseMaskRCNN, SiamesePredictor
from siamese_mrcnn_tf.data import molding
from siamese_mrcnn_tf.io import files
from siamese_mrcnn_tf.modeling import network
from siamese_mrcnn_tf.modeling.detection import refined_rois_graph, window_norm_graph
from siamese_mrcnn_tf.modeling.matching import match_graph
from siamese_mrcnn_tf.ops import similarity
from siamese_mrcnn_tf.ops.boxes import box_areas, compute_overlaps
from siamese_mrcnn_tf.ops.similarity import fit_statistics, logit
from siamese_mrcnn_tf.predictor import ReferenceEmbedding
from siamese_mrcnn_tf.weights import thresholds


@pytest.fixture(scope="module")
def verification(tiny_model):
    """With the statistics of the objects of a few scenes, and a weight."""
    crops = []
    for seed in range(6):
        image, masks, _ = seeded.make_scene(90, 120, seed)
        crops += [image[y1:y2, x1:x2] for y1, x1, y2, x2 in seeded.boxes_of(masks)]
    vectors = tiny_model.predictor.encode_references(crops).vectors
    return dataclasses.replace(fit_statistics(vectors), weight=4.0, offset=-1.0)


@pytest.fixture(scope="module")
def predictor(tiny_model, verification):
    """Verifies all finds of `tiny_model`, and keeps all."""
    config = tiny_model.config.replace(VERIFY_DETECTIONS=True, VERIFY_MIN_CONFIDENCE=0.0)
    return SiamesePredictor(config, layers=tiny_model.predictor.layers, verification=verification)


@pytest.fixture
def unverified(tiny_model, scene, crop):
    """Detections of `tiny_model`."""
    scenes = tiny_model.predictor.encode_scenes([scene])
    return tiny_model.predictor.detect_in(scenes, [crop])[0]


def test_scores_follow_the_crops(predictor, verification, unverified, scene, crop):
    predictor.set_image(scene)
    found = predictor.detect(crop)
    config, query = predictor.config, predictor.encode_references(crop).mean
    crops = [molding.reference_from_box(scene, box, config) for box in unverified["rois"]]
    similarities = [verification.similarity(query, predictor.encode_references(one).vectors)[0] for one in crops]
    logits = logit(unverified["scores"]) + 4 * np.array(similarities) - 1
    expected = 1 / (1 + np.exp(-logits))
    order = np.argsort(-expected)
    np.testing.assert_allclose(found["scores"], expected[order], rtol=1e-4)
    np.testing.assert_array_equal(found["rois"], unverified["rois"][order])
    np.testing.assert_array_equal(found["masks"], unverified["masks"][:, :, order])
    assert order.tolist() != sorted(order), "the similarities change the order"


def test_a_find_that_is_the_reference_comes_first(predictor, verification, scene, crop):
    scenes = predictor.encode_scenes([scene])
    outputs = predictor.match(scenes, [crop])
    rows = outputs["mrcnn_detection"][0]
    boxes = molding.unmold_boxes(rows[:, :4], scene.shape, scenes.molded_shape, scenes.windows[0])
    number = int(np.argmax(box_areas(boxes)))
    assert number > 0  # another has the best score
    reference = molding.reference_from_box(scene, boxes[number], predictor.config)
    assert predictor.similarities(scenes, outputs, [reference])[0][number] == pytest.approx(1, abs=1e-5)
    predictor.verification = dataclasses.replace(verification, weight=30.0)
    try:
        verified = predictor.verify(scenes, outputs, [reference])
    finally:
        predictor.verification = verification
    np.testing.assert_array_equal(verified["mrcnn_detection"][0, 0, :4], rows[number, :4])
    np.testing.assert_array_equal(verified["mrcnn_mask"][0, 0], outputs["mrcnn_mask"][0, number])
    np.testing.assert_array_equal(outputs["mrcnn_detection"][0], rows)  # what is given is not changed


def test_without_a_weight_nothing_changes(predictor, verification, unverified, scene, crop):
    predictor.verification = dataclasses.replace(verification, weight=0.0, offset=0.0)
    try:
        found = predictor.detect_in(predictor.encode_scenes([scene]), [crop])[0]
    finally:
        predictor.verification = verification
    np.testing.assert_array_equal(found["rois"], unverified["rois"])
    np.testing.assert_allclose(found["scores"], unverified["scores"], rtol=1e-5)
    np.testing.assert_array_equal(found["masks"], unverified["masks"])


def test_scenes_of_a_batch_are_verified_apart(predictor, scene, crop):
    scenes, queries = [scene, scene[::-1], scene[:60, :50]], [[crop], [crop, 255 - crop], [255 - crop]]
    together = predictor.detect_in(predictor.encode_scenes(scenes), queries)
    for image, query, found in zip(scenes, queries, together, strict=True):
        alone = predictor.detect_in(predictor.encode_scenes([image]), [query])[0]
        np.testing.assert_allclose(found["scores"], alone["scores"], atol=1e-5)
        np.testing.assert_array_equal(found["rois"], alone["rois"])


def test_boxes_smaller_than_a_pixel_keep_their_score(predictor, scene, crop):
    scenes = predictor.encode_scenes([scene])
    outputs = {"mrcnn_detection": np.zeros((1, 3, 6), np.float32)}
    outputs["mrcnn_detection"][0, 0] = (0.5, 0.5, 0.5, 0.5, 1, 0.6)
    outputs["mrcnn_detection"][0, 0, 2:4] -= 0.05
    assert np.isnan(predictor.similarities(scenes, outputs, [crop])[0]).tolist() == [True]
    np.testing.assert_array_equal(
        predictor.verify(scenes, outputs, [crop])["mrcnn_detection"], outputs["mrcnn_detection"]
    )


def test_no_find_is_no_error(predictor, scene, crop):
    scenes = predictor.encode_scenes([scene])
    outputs = {"mrcnn_detection": np.zeros((1, 3, 6), np.float32)}
    assert not predictor.verify(scenes, outputs, [crop])["mrcnn_detection"].any()


@pytest.mark.slow
def test_the_minimum_is_for_verified_scores(tiny_model, predictor, verification, unverified, scene, crop):
    predictor.set_image(scene)
    everything = predictor.detect(crop)
    bound = float(np.median(everything["scores"]))
    changes = {"DETECTION_MIN_CONFIDENCE": bound, "DETECTION_ARGMAX": True, "VERIFY_MIN_CONFIDENCE": 0.0}
    config = predictor.config.replace(**changes)
    strict = SiamesePredictor(config, layers=tiny_model.predictor.layers, verification=verification)
    strict.set_image(scene)
    found = strict.detect(crop)
    kept = everything["scores"] >= bound
    assert 0 < kept.sum() < len(kept)
    np.testing.assert_array_equal(found["rois"], everything["rois"][kept])
    np.testing.assert_array_equal(found["masks"], everything["masks"][:, :, kept])
    strict.verification = None  # then the network's own scores count, and its own minimum
    assert not strict.verifies
    strict.set_image(scene)
    scores = unverified["scores"]
    np.testing.assert_allclose(strict.detect(crop)["scores"], scores[scores >= max(bound, 0.5)], atol=1e-6)


def test_a_setting_alone_does_not_verify(tiny_model, verification):
    layers = tiny_model.predictor.layers
    assert not SiamesePredictor(tiny_model.config, layers=layers, verification=verification).verifies
    predictor = SiamesePredictor(tiny_model.config.replace(VERIFY_DETECTIONS=True), layers=layers)
    assert not predictor.verifies
    with pytest.raises(RuntimeError, match="no verification to compare finds with: fit one with"):
        predictor.similarities(predictor.encode_scenes([np.zeros((32, 32, 3), np.uint8)]), {}, [])


# ---- threshold files ---------------------------------------------------------------------------------------------
@pytest.fixture
def calibrated_weights(tiny_weights, verification, tmp_path):
    """A weight file with a threshold file beside it."""
    path = tmp_path / "tiny.h5"
    shutil.copy(tiny_weights, path)
    checksum = files.checksum(path)
    calibration = thresholds.Calibration(checksum, 0.35, "best F1", verification)
    thresholds.save_thresholds(calibration, thresholds.threshold_path(path))
    return path


@pytest.mark.slow
def test_the_threshold_file_beside_the_weights_is_used(tiny_model, calibrated_weights, verification, caplog):
    caplog.set_level(logging.INFO, "siamese_mrcnn_tf.base_predictor")
    config = tiny_model.config.replace(DETECTION_MIN_CONFIDENCE=0.7)
    predictor = SiamesePredictor(config, weights=calibrated_weights)
    assert predictor.verifies and predictor.config.DETECTION_MIN_CONFIDENCE == 0.35
    np.testing.assert_allclose(predictor.verification.mean, verification.mean, rtol=1e-5)
    assert "threshold 0.35 of verified scores, fitted for best F1" in caplog.text
    assert config.DETECTION_MIN_CONFIDENCE == 0.7 and not config.VERIFY_DETECTIONS


@pytest.mark.slow
def test_a_threshold_of_the_configuration_is_kept(tiny_model, calibrated_weights):
    predictor = SiamesePredictor(tiny_model.config, weights=calibrated_weights)
    assert predictor.verifies and predictor.config.DETECTION_MIN_CONFIDENCE == 0.0


@pytest.mark.slow
def test_the_threshold_file_can_be_left_aside(tiny_model, calibrated_weights):
    config = tiny_model.config.replace(DETECTION_MIN_CONFIDENCE=0.7)
    predictor = SiamesePredictor(config, weights=calibrated_weights, calibrated=False)
    assert not predictor.verifies and predictor.config.DETECTION_MIN_CONFIDENCE == 0.7


@pytest.mark.slow
def test_the_facade_verifies_where_its_configuration_says_so(tiny_model, calibrated_weights, scene, crop):
    config = tiny_model.config.replace(VERIFY_DETECTIONS=True)
    model = SiameseMaskRCNN("inference", config, "logs")
    model.load_weights(calibrated_weights)
    found = model.detect([[crop]], [scene])[0]
    predictor = SiamesePredictor(config, weights=calibrated_weights)
    predictor.set_image(scene)
    np.testing.assert_allclose(found["scores"], predictor.detect(crop)["scores"], rtol=1e-5)
    plain = tiny_model.detect([[crop]], [scene])[0]
    assert not np.allclose(found["scores"][:3], plain["scores"][:3])
    thresholds.threshold_path(calibrated_weights).unlink()
    for open_weights in (model.load_weights, lambda path: SiamesePredictor(config, weights=path)):
        with pytest.raises(ValueError, match="tiny.threshold.json: no verification there, which VERIFY_DETECTIONS"):
            open_weights(calibrated_weights)


def test_a_threshold_file_for_other_weights_is_refused(tiny_model, calibrated_weights):
    path = thresholds.threshold_path(calibrated_weights)
    found = thresholds.read_thresholds(path)
    thresholds.save_thresholds(dataclasses.replace(found, weights_sha256="0" * 64), path)
    with pytest.raises(ValueError, match="tiny.threshold.json: was fitted for other weights than tiny.h5"):
        SiamesePredictor(tiny_model.config, weights=calibrated_weights)


# ---- views -------------------------------------------------------------------------------------------------------
def test_views():
    crops = np.arange(2 * 3 * 3).reshape(2, 3, 3, 1)
    assert len(similarity.views_of(crops, 1)) == 1 and np.array_equal(similarity.views_of(crops, 1)[0], crops)
    plain, mirrored = similarity.views_of(crops, 2)
    assert np.array_equal(plain, crops) and np.array_equal(mirrored, crops[:, :, ::-1])
    views = similarity.views_of(crops, 8)
    assert len({view.tobytes() for view in views}) == 8
    assert all(np.array_equal(np.sort(view.ravel()), crops.ravel()) for view in views)


def test_embeddings_of_views(tmp_path, tiny_model):
    """The mean over the views goes into the comparison, the plain embedding into the search."""
    predictor = SiamesePredictor(tiny_model.config, layers=tiny_model.predictor.layers)
    crops = list(np.random.default_rng(0).integers(0, 255, (3, 20, 30, 3), np.uint8))
    plain = predictor.encode_references(crops)
    assert plain.views is None and np.array_equal(plain.verified, plain.mean)
    mirrored = predictor.encode_references([molding.mold_reference(crop, predictor.config)[:, ::-1] for crop in crops])
    expected = (plain.vectors + mirrored.vectors) / 2
    np.testing.assert_allclose(predictor.encode_views(crops, 2), expected, rtol=1e-4, atol=1e-5)
    predictor.verification = similarity.fit_statistics(expected, views=2)
    both = predictor.encode_references(crops)
    np.testing.assert_array_equal(both.vectors, plain.vectors)
    np.testing.assert_allclose(both.views, expected, rtol=1e-4, atol=1e-5)
    both.save(tmp_path / "reference.npz")
    loaded = ReferenceEmbedding.load(tmp_path / "reference.npz")
    np.testing.assert_array_equal(loaded.verified, both.verified)
    assert (plain.num_views, both.num_views, loaded.num_views) == (1, 2, 2)
    assert ReferenceEmbedding.join([both, loaded]).num_views == 2
    assert ReferenceEmbedding.join([both, plain]).num_views is None
    joined = ReferenceEmbedding.join([both, plain])
    np.testing.assert_array_equal(joined.views, np.concatenate([both.views, plain.vectors]))
    assert ReferenceEmbedding.join([plain, plain]).views is None
    with pytest.raises(ValueError, match="views = 3: expected one of 1, 2, 8"):
        similarity.fit_statistics(expected, views=3)


# ---- refined boxes -----------------------------------------------------------------------------------------------
def test_refinement_applies_the_box_head_to_the_detections(tiny_model, scene, crop):
    """The boxes of the first pass, moved by the head's deltas for them; of boxes that overlap the first is kept."""
    layers, common = tiny_model.predictor.layers, {"DETECTION_MIN_CONFIDENCE": 0.0, "DETECTION_NMS_THRESHOLD": 0.3}
    config = tiny_model.config.replace(**common, DETECTION_REFINEMENTS=0)
    once = SiamesePredictor(config, layers=layers)
    scenes, query = once.encode_scenes([scene]), once.encode_references([crop])
    first = once.match(scenes, [query])["mrcnn_detection"]
    matched = list(match_graph(scenes.pyramid, query.mean[None], layers).values())
    head = network.classifier_outputs_graph(first[..., :4], matched[:4], scenes.image_metas, config, layers)
    deltas = np.asarray(head["mrcnn_bbox"]) * np.array(config.BBOX_STD_DEV, np.float32)
    window = window_norm_graph(scenes.image_metas)
    boxes = np.asarray(refined_rois_graph(first[..., :4], deltas, window))[0]
    count, kept = np.count_nonzero(first[0, :, 4]), []
    for index in range(count):
        if all(compute_overlaps(boxes[[index]], boxes[[other]])[0, 0] <= 0.3 for other in kept):
            kept.append(index)
    refined = SiamesePredictor(config.replace(DETECTION_REFINEMENTS=1), layers=layers)
    found = refined.match(scenes, [query])["mrcnn_detection"][0]
    assert len(kept) > 1 and np.abs(boxes[kept] - first[0, kept, :4]).max() > 1e-3
    np.testing.assert_allclose(found[: len(kept), :4], boxes[kept], atol=1e-5)
    np.testing.assert_allclose(found[: len(kept), 5], first[0, kept, 5], atol=1e-6)
    assert not found[len(kept) :].any()
