"""Training samples: a scene, one of its classes, references of that class, and what the network is to make of them.

Samples are numbered. Sample n of a run depends on the data set, the configuration, the seed and n alone: not on other
samples, workers or where the run was resumed. Nothing here imports Keras, so that worker processes start fast. Boxes
are (y1, x1, y2, x2) in pixels of the molded scene, y2 and x2 exclusive.
"""

import logging

import numpy as np

from ..ops.boxes import box_refinement, compute_overlaps

logger = logging.getLogger(__name__)

_NEGATIVE_IOU = 0.3  # of an anchor with its best ground truth box
_CROWD_IOU = 0.001  # with a crowd, from which an anchor is neutral


def build_rpn_targets(image_shape, anchors, gt_class_ids, gt_boxes, config, *, rng=None):
    """What the RPN is to say of each anchor.

    Positive is an anchor with an IoU of RPN_POSITIVE_IOU or more with a ground truth box, and the best anchor of each;
    negative one below 0.3 with all of them, and below 0.001 with crowds. At most half of RPN_TRAIN_ANCHORS_PER_IMAGE
    stay positive, the rest of that number negative.

    Args:
        image_shape: of the molded scene; unused, kept for callers of the original.
        anchors: [anchors, (y1, x1, y2, x2)] in pixels.
        gt_class_ids: int [instances], negative for crowds.
        gt_boxes: [instances, (y1, x1, y2, x2)] in pixels.
        config: reads RPN_POSITIVE_IOU, RPN_TRAIN_ANCHORS_PER_IMAGE and RPN_BBOX_STD_DEV.
        rng: numpy.random.Generator that chooses among too many; None starts a fresh one. A RandomState makes the
            choices that the original made with numpy's global one.

    Returns:
        rpn_match: int32 [anchors], 1 positive, -1 negative, 0 neutral.
        rpn_bbox: float64 [RPN_TRAIN_ANCHORS_PER_IMAGE, (dy, dx, log(dh), log(dw))], one row for each positive anchor in
            their order, then zeros; divided by RPN_BBOX_STD_DEV.
    """
    rng = np.random.default_rng() if rng is None else rng
    gt_class_ids, gt_boxes = np.asarray(gt_class_ids), np.asarray(gt_boxes).reshape(-1, 4)
    crowds, boxes = gt_boxes[gt_class_ids < 0], gt_boxes[gt_class_ids > 0]
    best_iou, assigned, best_anchors = _match_anchors(anchors, boxes)
    match = np.where(best_iou < _NEGATIVE_IOU, -1, 0).astype(np.int32)
    if len(crowds):
        match[_match_anchors(anchors, crowds)[0] >= _CROWD_IOU] = 0
    match[best_anchors] = 1
    match[best_iou >= config.RPN_POSITIVE_IOU] = 1
    most = config.RPN_TRAIN_ANCHORS_PER_IMAGE
    _thin_out(match, 1, most // 2, rng)
    positive = np.flatnonzero(match == 1)
    _thin_out(match, -1, most - len(positive), rng)
    rpn_bbox = np.zeros((most, 4))
    deltas = box_refinement(anchors[positive], boxes[assigned[positive]])
    rpn_bbox[: len(positive)] = deltas / np.asarray(config.RPN_BBOX_STD_DEV)
    return match, rpn_bbox


def _match_anchors(anchors, boxes):
    """Of each anchor the highest IoU with one of `boxes` and the index of that box; of each box its best anchor.

    Only anchors that meet a box are looked at: of a hundred thousand they are a small part.
    """
    best_iou, assigned, best_anchors = np.zeros(len(anchors)), np.zeros(len(anchors), int), []
    tops, lefts, bottoms, rights = np.ascontiguousarray(np.asarray(anchors).T)
    for index, (y1, x1, y2, x2) in enumerate(np.asarray(boxes).tolist()):
        meeting = np.flatnonzero((tops < y2) & (bottoms > y1) & (lefts < x2) & (rights > x1))
        if not len(meeting):
            continue
        iou = compute_overlaps(anchors[meeting], [(y1, x1, y2, x2)])[:, 0]
        best_anchors.append(meeting[iou.argmax()])
        better = iou > best_iou[meeting]
        best_iou[meeting[better]], assigned[meeting[better]] = iou[better], index
    return best_iou, assigned, np.array(best_anchors, int)


def _thin_out(match, value, most, rng):
    """Make anchors neutral, at random, until `most` of those with `value` are left."""
    found = np.flatnonzero(match == value)
    extra = len(found) - most
    if extra <= 0:
        return
    if isinstance(rng, np.random.RandomState):
        match[rng.choice(found, extra, replace=False)] = 0
    else:  # to draw the few that stay takes a hundredth of the time
        match[found] = 0
        match[rng.choice(found, most, replace=False)] = value
