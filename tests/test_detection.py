"""Detections: by hand, thresholds, windows, padding."""

import numpy as np
from network_values import array, foreground, metas, tensor

from siamese_mrcnn_tf.modeling import detection

WHOLE = [[0.0, 0.0, 1.0, 1.0]]
ROIS = [[0.1, 0.1, 0.4, 0.4], [0.1, 0.1, 0.4, 0.38], [0.5, 0.5, 0.9, 0.9], [0.6, 0.0, 0.8, 0.3], [0, 0, 0, 0]]


def refine(scores, rois=None, deltas=None, window=WHOLE, **settings):
    """Detections of match scores [batch, n] as numpy; rois [n, 4] are shared by the batch."""
    scores = np.asarray(scores, np.float32)
    rois = np.broadcast_to(np.asarray(ROIS if rois is None else rois, np.float32), (*scores.shape, 4))
    deltas = np.zeros_like(rois) if deltas is None else deltas
    settings = {"max_instances": 4, "min_confidence": 0.7, "nms_threshold": 0.5, **settings}
    return array(
        detection.refine_detections_graph(*map(tensor, (rois, foreground(scores), deltas, window)), **settings)
    )


def detection_rows(*rows):
    """(roi, score) pairs as rows of detections, None for zero padding."""
    padding = [0.0] * 6
    return np.array([padding if row is None else [*ROIS[row[0]], 1, row[1]] for row in rows], np.float32)


def test_detections_by_hand():
    found = refine([[0.8, 0.9, 0.75, 0.95, 0.2]])
    np.testing.assert_allclose(found[0], detection_rows((3, 0.95), (1, 0.9), (2, 0.75), None), atol=1e-6)


def test_background_is_no_detection_whatever_its_probability():
    found = refine([[0.45, 0.1, 0.55, 0.0, 0.0]], min_confidence=0.5)
    np.testing.assert_allclose(found[0], detection_rows((2, 0.55), None, None, None), atol=1e-6)


def test_equal_probabilities_are_background():
    assert not refine([[0.5, 0.5, 0.5, 0.5, 0.5]], min_confidence=0.0).any()


def test_min_confidence_is_inclusive():
    found = refine([[0.7, 0.0, np.nextafter(np.float32(0.7), np.float32(0)), 0.0, 0.0]], min_confidence=0.7)
    np.testing.assert_allclose(found[0], detection_rows((0, 0.7), None, None, None), atol=1e-6)


def test_zero_padded_rois_do_not_suppress_each_other():
    found = refine([[0.9, 0.9]], rois=[[0, 0, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_allclose(found[0, :, 4], [1, 1, 0, 0])
    assert not found[0, :, :4].any()


def test_best_detections_when_there_are_too_many():
    found = refine([[0.8, 0.1, 0.75, 0.95, 0.2]], max_instances=2)
    np.testing.assert_allclose(found[0], detection_rows((3, 0.95), (0, 0.8)), atol=1e-6)


def test_nms_threshold_of_detections():
    found = refine([[0.8, 0.9, 0.1, 0.1, 0.1]], nms_threshold=0.95)
    np.testing.assert_allclose(found[0], detection_rows((1, 0.9), (0, 0.8), None, None), atol=1e-6)


def test_no_detection_at_all_gives_zeros():
    found = refine([[0.1] * 5, [0.69] * 5])
    assert found.shape == (2, 4, 6) and not found.any()


def test_detections_are_moved_and_clipped_to_the_window():
    rois = [[0.1, 0.1, 0.5, 0.5], [0.6, 0.6, 1.0, 1.0]]
    deltas = [[[0.5, 0, 0, np.log(2)], [0, 0, 0, 0]]]
    found = refine([[0.9, 0.8]], rois, deltas, window=[[0.2, 0.2, 0.8, 0.9]])
    expected = [[0.3, 0.2, 0.7, 0.7, 1, 0.9], [0.6, 0.6, 0.8, 0.9, 1, 0.8]]
    np.testing.assert_allclose(found[0, :2], expected, atol=1e-6)


def test_detections_of_a_batch_have_their_own_windows_and_counts():
    scores = [[0.8, 0.1, 0.9, 0.1, 0.1], [0.1] * 5, [0.1, 0.1, 0.9, 0.1, 0.1]]
    found = refine(scores, window=[[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0.6, 0.7]])
    np.testing.assert_allclose(found[0], detection_rows((2, 0.9), (0, 0.8), None, None), atol=1e-6)
    assert not found[1].any()
    np.testing.assert_allclose(found[2, 0], [0.5, 0.5, 0.6, 0.7, 1, 0.9], atol=1e-6)
    assert not found[2, 1:].any()


def test_detection_layer_scales_deltas_and_norms_the_window():
    meta = metas((0, 0, 128, 128), (32, 0, 96, 128))
    rois = np.array([[[0.1, 0.1, 0.5, 0.5], [0, 0, 1, 1]]] * 2)
    deltas = np.array([[[5.0, 0, 0, 0], [0, 0, 0, 0]]] * 2)
    layer = detection.DetectionLayer(2, 0.7, 0.5, np.array([0.1, 0.1, 0.2, 0.2]))
    found = array(layer([tensor(rois), tensor(foreground([[0.9, 0.8]] * 2)), tensor(deltas), tensor(meta)]))
    expected = [[0.3, 0.1, 0.7, 0.5, 1, 0.9], [0, 0, 1, 1, 1, 0.8]]
    np.testing.assert_allclose(found[0], expected, atol=1e-6)
    top, bottom = 32 / 127, 95 / 127  # y2 is exclusive in pixels
    clipped = [[0.3, 0.1, 0.7, 0.5, 1, 0.9], [top, 0, bottom, 1, 1, 0.8]]
    np.testing.assert_allclose(found[1], clipped, atol=1e-6)
