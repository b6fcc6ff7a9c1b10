"""Geometry of boxes and anchors in numpy.

Boxes are (y1, x1, y2, x2). In pixels y2 and x2 are exclusive; normalized boxes divide by (h - 1, w - 1) after
subtracting (0, 0, 1, 1), as in Matterport's Mask R-CNN (design section 3).
"""

import numpy as np
import numpy.typing as npt

_NORM_SHIFT = np.array([0.0, 0.0, 1.0, 1.0])  # y2 and x2 are exclusive in pixels, inclusive when normalized


def extract_bboxes(mask):
    """Tight boxes of masks.

    Args:
        mask: [height, width, num_instances], zero or False outside the instances.

    Returns:
        int32 [num_instances, (y1, x1, y2, x2)] in pixels; an empty mask gives (0, 0, 0, 0).
    """
    mask = np.asarray(mask, bool)
    rows, columns = mask.any(axis=1), mask.any(axis=0)  # [height, instances], [width, instances]
    boxes = np.stack([*_extent(rows), *_extent(columns)], axis=-1)[:, [0, 2, 1, 3]]
    boxes[~rows.any(axis=0)] = 0
    return boxes.astype(np.int32)


def _extent(hits):
    """First and one past the last True along axis 0: two arrays [instances]."""
    if not hits.size:
        return (np.zeros(hits.shape[1], int),) * 2
    return hits.argmax(axis=0), hits.shape[0] - hits[::-1].argmax(axis=0)


def norm_boxes(boxes, shape):
    """Pixels to normalized coordinates.

    Args:
        boxes: [..., (y1, x1, y2, x2)] in pixels.
        shape: (height, width, ...) in pixels.

    Returns:
        float32 [..., (y1, x1, y2, x2)] normalized.
    """
    return ((np.asarray(boxes) - _NORM_SHIFT) / _extent_scale(shape)).astype(np.float32)


def denorm_boxes(boxes_norm, shape):
    """Normalized coordinates to pixels, rounded half to even: int32 [..., (y1, x1, y2, x2)]."""
    return np.around(np.asarray(boxes_norm) * _extent_scale(shape) + _NORM_SHIFT).astype(np.int32)


def _extent_scale(shape):
    height, width = shape[:2]
    return np.array([height - 1, width - 1, height - 1, width - 1])


def box_areas(boxes):
    """Areas [...] of boxes [..., (y1, x1, y2, x2)], in the square of their unit."""
    boxes = np.asarray(boxes)
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def compute_overlaps(boxes1, boxes2):
    """Intersection over union of every pair: [len(boxes1), len(boxes2)].

    Args:
        boxes1, boxes2: [n, (y1, x1, y2, x2)] in the same unit.
    """
    boxes1, boxes2 = np.asarray(boxes1), np.asarray(boxes2)
    top_left = np.maximum(boxes1[:, None, :2], boxes2[None, :, :2])
    bottom_right = np.minimum(boxes1[:, None, 2:], boxes2[None, :, 2:])
    intersection = np.prod(np.maximum(bottom_right - top_left, 0), axis=-1)
    union = box_areas(boxes1)[:, None] + box_areas(boxes2)[None, :] - intersection
    return intersection / np.maximum(union, np.finfo(np.float32).tiny)


def match_greedily(overlaps: npt.ArrayLike, threshold: float) -> np.ndarray:
    """Match detections, in their order, each to the free instance that it overlaps most; of equals, to the last one.

    Args:
        overlaps: [detections, instances].
        threshold: minimum overlap of a match.

    Returns:
        int [detections], index of the instance, -1 for none.
    """
    overlaps = np.array(overlaps, float)
    matches = np.full(len(overlaps), -1)
    for index in np.flatnonzero((overlaps >= threshold).any(axis=1)):
        best = overlaps.shape[1] - 1 - int(overlaps[index, ::-1].argmax())  # the last one, as COCOeval has it
        if overlaps[index, best] >= threshold:
            matches[index] = best
            overlaps[:, best] = -1
    return matches


def box_refinement(boxes, gt_boxes):
    """Deltas that turn boxes into ground truth boxes.

    Args:
        boxes, gt_boxes: [n, (y1, x1, y2, x2)] in the same unit, with area.

    Returns:
        float64 [n, (dy, dx, log(dh), log(dw))], relative to the sides of `boxes`.
    """
    boxes, gt_boxes = np.asarray(boxes, np.float64), np.asarray(gt_boxes, np.float64)
    sides, gt_sides = boxes[:, 2:] - boxes[:, :2], gt_boxes[:, 2:] - gt_boxes[:, :2]
    shift = (gt_boxes[:, :2] + 0.5 * gt_sides) - (boxes[:, :2] + 0.5 * sides)
    return np.concatenate([shift / sides, np.log(gt_sides / sides)], axis=1)
