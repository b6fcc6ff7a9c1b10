"""RPN targets: which anchors of a scene are positive, negative or neutral, and the box deltas of the positive ones."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..config import Config
from ..ops.boxes import box_refinement, overlaps_with_box

Rng = np.random.Generator | np.random.RandomState

_NEGATIVE_IOU = 0.3  # maximum IoU of a negative anchor with its best ground truth box
_CROWD_IOU = 0.001  # IoU with a crowd from which an anchor is neutral


def build_rpn_targets(
    image_shape: Sequence[int],
    anchors: npt.ArrayLike,
    gt_class_ids: npt.ArrayLike,
    gt_boxes: npt.ArrayLike,
    config: Config,
    *,
    rng: Rng | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """RPN targets of a scene.

    An anchor is positive if its IoU with a ground truth box is RPN_POSITIVE_IOU or more, or if it is the best anchor of
    a box. It is negative if its IoU is below 0.3 with all boxes, and below 0.001 with crowds. At most half of
    RPN_TRAIN_ANCHORS_PER_IMAGE stay positive; negatives fill up that number.

    Args:
        image_shape: of the molded scene; unused, kept for callers of the original.
        anchors: [anchors, (y1, x1, y2, x2)] in pixels.
        gt_class_ids: int [instances], negative for crowds.
        gt_boxes: [instances, (y1, x1, y2, x2)] in pixels.
        rng: numpy.random.Generator that chooses among too many; None starts a fresh one. A RandomState chooses as the
            original does with numpy's global one.

    Returns:
        rpn_match: int32 [anchors], 1 positive, -1 negative, 0 neutral.
        rpn_bbox: float64 [RPN_TRAIN_ANCHORS_PER_IMAGE, (dy, dx, log(dh), log(dw))], one row for each positive anchor in
            their order, then zeros; divided by RPN_BBOX_STD_DEV.
    """
    rng = np.random.default_rng() if rng is None else rng
    anchors, gt_class_ids, gt_boxes = np.asarray(anchors), np.asarray(gt_class_ids), np.reshape(gt_boxes, (-1, 4))
    crowds, boxes = gt_boxes[gt_class_ids < 0], gt_boxes[gt_class_ids > 0]
    best_iou, assigned, best_anchors = _match_anchors(anchors, boxes)
    match = np.where(best_iou < _NEGATIVE_IOU, -1, 0).astype(np.int32)
    if len(crowds):
        match[_match_anchors(anchors, crowds)[0] >= _CROWD_IOU] = 0
    match[best_anchors] = 1
    match[best_iou >= config.RPN_POSITIVE_IOU] = 1
    total = config.RPN_TRAIN_ANCHORS_PER_IMAGE
    _subsample(match, 1, total // 2, rng)
    positive = np.flatnonzero(match == 1)
    _subsample(match, -1, total - len(positive), rng)
    rpn_bbox = np.zeros((total, 4))
    deltas = box_refinement(anchors[positive], boxes[assigned[positive]])
    rpn_bbox[: len(positive)] = deltas / np.asarray(config.RPN_BBOX_STD_DEV)
    return match, rpn_bbox


def _match_anchors(anchors: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each anchor its highest IoU with `boxes` and the index of that box; for each box its best anchor.

    IoUs are computed only for anchors that overlap a box, a small part of a hundred thousand.
    """
    best_iou, assigned, best_anchors = np.zeros(len(anchors)), np.zeros(len(anchors), int), []
    columns = np.ascontiguousarray(anchors.T)  # no copy where anchors are stored by column
    tops, lefts, bottoms, rights = columns
    for index, (y1, x1, y2, x2) in enumerate(boxes.tolist()):
        meets = tops < y2
        for condition in (bottoms > y1, lefts < x2, rights > x1):
            meets &= condition
        meeting = np.flatnonzero(meets)
        if not len(meeting):
            continue
        iou = overlaps_with_box(columns[:, meeting], (y1, x1, y2, x2))
        best_anchors.append(meeting[iou.argmax()])
        better = iou > best_iou[meeting]
        best_iou[meeting[better]], assigned[meeting[better]] = iou[better], index
    return best_iou, assigned, np.array(best_anchors, int)


def _subsample(match: np.ndarray, value: int, maximum: int, rng: Rng) -> None:
    """Make random anchors with `value` neutral until `maximum` are left."""
    found = np.flatnonzero(match == value)
    extra = len(found) - maximum
    if extra <= 0:
        return
    if isinstance(rng, np.random.RandomState):
        match[rng.choice(found, extra, replace=False)] = 0
    else:  # drawing the few that stay takes a hundredth of the time
        match[found] = 0
        match[rng.choice(found, maximum, replace=False)] = value
