"""Average precision of one image, with Matterport's names."""

import numpy as np
import pytest

from siamese_mrcnn_tf.evaluation import average_precision
from siamese_mrcnn_tf.visualize.stages import mask_overlaps


def masks_of(boxes, side=20):
    masks = np.zeros((side, side, len(boxes)), bool)
    for index, (y1, x1, y2, x2) in enumerate(boxes):
        masks[y1:y2, x1:x2, index] = True
    return masks


TRUTH = np.array([[0, 0, 10, 10], [10, 10, 20, 20], [0, 10, 10, 20], [0, 0, 0, 0]])  # zero-padded
FOUND = np.array([[10, 10, 20, 20], [0, 0, 10, 9], [0, 0, 10, 10], [0, 10, 10, 20], [0, 0, 0, 0]])
SCORES = np.array([0.6, 0.9, 0.8, 0.7, 0.0])


def arguments(classes=(1, 1, 1, 1, 0)):
    return TRUTH, np.array([1, 1, 2, 0]), masks_of(TRUTH), FOUND, np.array(classes), SCORES, masks_of(FOUND)


def test_matches_by_hand():
    gt_match, pred_match, overlaps = average_precision.compute_matches(*arguments())
    assert pred_match.tolist() == [0, -1, -1, 1] and gt_match.tolist() == [0, 3, -1]  # each instance once, same class
    assert overlaps.shape == (4, 3) and overlaps[0, 0] == pytest.approx(0.9)
    assert average_precision.compute_matches(*arguments(), 0.95)[1].tolist() == [-1, 0, -1, 1]
    assert average_precision.compute_matches(*arguments(), 0.5, 0.95)[1].tolist() == [-1, 0, -1, 1]


def test_average_precision_by_hand():
    value, precisions, recalls, overlaps = average_precision.compute_ap(*arguments())
    np.testing.assert_allclose(precisions, [1, 1, 0.5, 0.5, 0.5, 0])
    np.testing.assert_allclose(recalls, np.array([0, 1, 1, 1, 2, 3]) / 3)
    assert value == pytest.approx(1 / 3 + 0.5 / 3) and overlaps.shape == (4, 3)
    assert average_precision.compute_ap(*arguments((1, 1, 1, 2, 0)))[0] == pytest.approx((1 + 0.75 + 0.75) / 3)


def test_average_precision_over_overlaps(capsys):
    low, high = (average_precision.compute_ap(*arguments(), threshold)[0] for threshold in (0.5, 0.95))
    mean = average_precision.compute_ap_range(*arguments(), iou_thresholds=[0.5, 0.95])
    assert mean == pytest.approx((low + high) / 2) and "AP at 0.50 to 0.95" in capsys.readouterr().out
    every = average_precision.compute_ap_range(*arguments(), verbose=0)
    assert high < every < low and not capsys.readouterr().out


@pytest.mark.parametrize(("gt", "found", "expected"), [(0, 4, 0), (3, 0, 0), (0, 0, 0)])
def test_average_precision_of_nothing(gt, found, expected):
    truth, ids, masks, boxes, classes, scores, found_masks = arguments()
    given = truth[:gt], ids[:gt], masks[..., :gt], boxes[:found], classes[:found], scores[:found]
    assert average_precision.compute_ap(*given, found_masks[..., :found])[0] == expected


def test_recall_of_boxes_by_hand():
    recall, positive = average_precision.compute_recall(FOUND, TRUTH[:3], 0.95)
    assert recall == 1 and positive.tolist() == [0, 2, 3]
    assert average_precision.compute_recall(FOUND[:2], TRUTH[:3], 0.95)[0] == pytest.approx(1 / 3)
    assert average_precision.compute_recall(FOUND, np.zeros((0, 4)), 0.5)[0] == 0


def test_the_older_name_of_mask_overlaps():
    from siamese_mrcnn_tf import utils

    assert utils.compute_overlaps_masks is mask_overlaps
