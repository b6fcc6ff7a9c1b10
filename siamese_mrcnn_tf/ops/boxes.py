"""Geometry of boxes in numpy.

Boxes are (y1, x1, y2, x2). In pixels y2 and x2 are exclusive; normalized boxes divide by (h - 1, w - 1) after
subtracting (0, 0, 1, 1), as in Matterport's Mask R-CNN.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

_NORM_SHIFT = np.array([0.0, 0.0, 1.0, 1.0])  # y2 and x2 are exclusive in pixels, inclusive when normalized


def extract_bboxes(mask: npt.ArrayLike) -> np.ndarray:
    """Tight boxes of masks [height, width, num_instances], zero or False outside the instances.

    Returns int32 [num_instances, (y1, x1, y2, x2)] in pixels; an empty mask gives (0, 0, 0, 0).
    """
    present = np.asarray(mask, bool)
    rows, columns = present.any(axis=1), present.any(axis=0)  # [height, instances], [width, instances]
    boxes = np.stack([*_extent(rows), *_extent(columns)], axis=-1)[:, [0, 2, 1, 3]]
    boxes[~rows.any(axis=0)] = 0
    return boxes.astype(np.int32)


def _extent(hits: Any) -> tuple[np.ndarray, np.ndarray]:
    """First and one past the last True along axis 0: two arrays [instances]."""
    if not hits.size:
        return np.zeros(hits.shape[1], int), np.zeros(hits.shape[1], int)
    return hits.argmax(axis=0), hits.shape[0] - hits[::-1].argmax(axis=0)


def norm_boxes(boxes: npt.ArrayLike, shape: Sequence[int]) -> np.ndarray:
    """Pixels of an image of `shape` (height, width, ...) to normalized coordinates: float32 [..., (y1, x1, y2, x2)]."""
    return ((np.asarray(boxes) - _NORM_SHIFT) / _extent_scale(shape)).astype(np.float32)


def denorm_boxes(boxes_norm: npt.ArrayLike, shape: Sequence[int]) -> np.ndarray:
    """Normalized coordinates to pixels, rounded half to even: int32 [..., (y1, x1, y2, x2)]."""
    return np.around(np.asarray(boxes_norm) * _extent_scale(shape) + _NORM_SHIFT).astype(np.int32)


def _extent_scale(shape: Sequence[int]) -> np.ndarray:
    height, width = shape[:2]
    return np.array([height - 1, width - 1, height - 1, width - 1])


def box_areas(boxes: npt.ArrayLike) -> np.ndarray:
    """Areas [...] of boxes [..., (y1, x1, y2, x2)], in the square of their unit."""
    boxes = np.asarray(boxes)
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def compute_overlaps(boxes1: npt.ArrayLike, boxes2: npt.ArrayLike) -> np.ndarray:
    """Intersection over union of boxes [n, (y1, x1, y2, x2)] and [m, (y1, x1, y2, x2)] in the same unit: [n, m]."""
    boxes1, boxes2 = np.asarray(boxes1), np.asarray(boxes2)
    top_left = np.maximum(boxes1[:, None, :2], boxes2[None, :, :2])
    bottom_right = np.minimum(boxes1[:, None, 2:], boxes2[None, :, 2:])
    intersection = np.prod(np.maximum(bottom_right - top_left, 0), axis=-1)
    union = box_areas(boxes1)[:, None] + box_areas(boxes2)[None, :] - intersection
    return intersection / np.maximum(union, np.finfo(np.float32).tiny)


def overlaps_with_box(columns: np.ndarray, box: Sequence[float]) -> np.ndarray:
    """`compute_overlaps` of many boxes with one (y1, x1, y2, x2), in less time: [n].

    `columns` are [(y1, x1, y2, x2), n], so that the coordinates of a kind are side by side.
    """
    y1, x1, y2, x2 = columns
    top, left, bottom, right = box
    height = np.maximum(np.minimum(y2, bottom) - np.maximum(y1, top), 0)
    width = np.maximum(np.minimum(x2, right) - np.maximum(x1, left), 0)
    intersection = height * width
    union = (y2 - y1) * (x2 - x1) + (bottom - top) * (right - left) - intersection
    return np.asarray(intersection / np.maximum(union, np.finfo(np.float32).tiny))


def match_greedily(overlaps: npt.ArrayLike, threshold: float) -> np.ndarray:
    """Match each detection, in order, to the free instance with the highest overlap; ties go to the last instance.

    `overlaps` are [detections, instances], `threshold` is the minimum overlap of a match.
    Returns int [detections], index of the matched instance, -1 for none.
    """
    overlaps = np.array(overlaps, float)
    matches = np.full(len(overlaps), -1)
    for index in np.flatnonzero((overlaps >= threshold).any(axis=1)):
        best = overlaps.shape[1] - 1 - int(overlaps[index, ::-1].argmax())  # the last maximum, as in COCOeval
        if overlaps[index, best] >= threshold:
            matches[index] = best
            overlaps[:, best] = -1
    return matches


def box_refinement(boxes: npt.ArrayLike, gt_boxes: npt.ArrayLike) -> np.ndarray:
    """Deltas that turn boxes into ground truth boxes, both [n, (y1, x1, y2, x2)] in the same unit, with area.

    Returns float64 [n, (dy, dx, log(dh), log(dw))], relative to the sides of `boxes`.
    """
    boxes, gt_boxes = np.asarray(boxes, np.float64), np.asarray(gt_boxes, np.float64)
    sides, gt_sides = boxes[:, 2:] - boxes[:, :2], gt_boxes[:, 2:] - gt_boxes[:, :2]
    shift = (gt_boxes[:, :2] + 0.5 * gt_sides) - (boxes[:, :2] + 0.5 * sides)
    return np.concatenate([shift / sides, np.log(gt_sides / sides)], axis=1)


def apply_box_deltas(boxes: npt.ArrayLike, deltas: npt.ArrayLike) -> np.ndarray:
    """The boxes that `box_refinement` gives these deltas for: float64 [n, (y1, x1, y2, x2)] in the unit of `boxes`."""
    boxes, deltas = np.asarray(boxes, np.float64), np.asarray(deltas, np.float64)
    sides = boxes[:, 2:] - boxes[:, :2]
    center = boxes[:, :2] + (0.5 + deltas[:, :2]) * sides
    half = 0.5 * sides * np.exp(deltas[:, 2:])
    return np.concatenate([center - half, center + half], axis=1)


def compute_iou(box: npt.ArrayLike, boxes: npt.ArrayLike, box_area: Any = None, boxes_area: Any = None) -> np.ndarray:
    """Intersection over union of one box with boxes [n, (y1, x1, y2, x2)]: [n]. The areas are unused."""
    return compute_overlaps(np.asarray(box)[None], boxes)[0]


def non_max_suppression(boxes: npt.ArrayLike, scores: npt.ArrayLike, threshold: float) -> np.ndarray:
    """Drop each box that overlaps one of a higher score by more than `threshold`.

    The network itself uses `kernels.non_max_suppression`. Returns int32 [kept], indices in descending order of score.
    """
    left, kept = np.argsort(-np.asarray(scores, np.float64), kind="stable"), []
    overlaps = compute_overlaps(boxes, boxes) if left.size else np.zeros((0, 0))
    while left.size:
        kept.append(left[0])
        left = left[1:][overlaps[left[0], left[1:]] <= threshold]
    return np.array(kept, np.int32)


def trim_zeros(boxes: npt.ArrayLike) -> np.ndarray:
    """The rows of zero-padded boxes [n, values] that are not all zero."""
    boxes = np.asarray(boxes)
    return boxes[(boxes != 0).any(axis=1)]
