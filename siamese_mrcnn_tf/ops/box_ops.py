"""Geometry of boxes on tensors of any Keras backend.

Boxes are [..., (y1, x1, y2, x2)], in normalized coordinates unless stated otherwise (see `ops.boxes`).
"""

from typing import Any, TypeAlias

from keras import ops

Tensor: TypeAlias = Any  # of the Keras backend or symbolic; the backends share no base class


def apply_box_deltas_graph(boxes: Tensor, deltas: Tensor) -> Tensor:
    """Boxes [..., (y1, x1, y2, x2)] moved and scaled, in their unit.

    `deltas` are [..., (dy, dx, log(dh), log(dw))], with shifts in units of the box's height and width.
    """
    y1, x1, y2, x2 = ops.split(boxes, 4, axis=-1)
    dy, dx, log_dh, log_dw = ops.split(deltas, 4, axis=-1)
    height, width = y2 - y1, x2 - x1
    center_y = y1 + 0.5 * height + dy * height
    center_x = x1 + 0.5 * width + dx * width
    height, width = height * ops.exp(log_dh), width * ops.exp(log_dw)
    top, left = center_y - 0.5 * height, center_x - 0.5 * width
    return ops.concatenate([top, left, top + height, left + width], axis=-1)


def box_refinement_graph(boxes: Tensor, targets: Tensor) -> Tensor:
    """Deltas [..., (dy, dx, log(dh), log(dw))] that turn boxes into targets, inverse of `apply_box_deltas_graph`.

    Both are [..., (y1, x1, y2, x2)] in the same unit, with area.
    """
    y1, x1, y2, x2 = ops.split(boxes, 4, axis=-1)
    target_y1, target_x1, target_y2, target_x2 = ops.split(targets, 4, axis=-1)
    height, width = y2 - y1, x2 - x1
    target_height, target_width = target_y2 - target_y1, target_x2 - target_x1
    dy = (target_y1 + 0.5 * target_height - (y1 + 0.5 * height)) / height
    dx = (target_x1 + 0.5 * target_width - (x1 + 0.5 * width)) / width
    return ops.concatenate([dy, dx, ops.log(target_height / height), ops.log(target_width / width)], axis=-1)


def clip_boxes_graph(boxes: Tensor, window: Tensor) -> Tensor:
    """Clip boxes [batch, n, (y1, x1, y2, x2)] to windows [batch or 1, (y1, x1, y2, x2)]; outside no area is left."""
    lower = ops.expand_dims(ops.take(window, [0, 1, 0, 1], axis=-1), axis=1)
    upper = ops.expand_dims(ops.take(window, [2, 3, 2, 3], axis=-1), axis=1)
    return ops.maximum(ops.minimum(boxes, upper), lower)


def norm_boxes_graph(boxes: Tensor, shape: Tensor) -> Tensor:
    """Boxes [..., (y1, x1, y2, x2)] in pixels to normalized; shape: [..., (height, width)] of their images."""
    boxes, shape = ops.cast(boxes, "float32"), ops.cast(shape, "float32")
    scale = ops.concatenate([shape, shape], axis=-1) - 1.0
    return (boxes - ops.convert_to_tensor([0.0, 0.0, 1.0, 1.0])) / scale


def overlaps_graph(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Intersection over union of boxes [batch, n, 4] and [batch, m, 4]: [batch, n, m]; 0 where both are empty."""
    boxes1, boxes2 = ops.expand_dims(boxes1, 2), ops.expand_dims(boxes2, 1)
    top_left = ops.maximum(boxes1[..., :2], boxes2[..., :2])
    bottom_right = ops.minimum(boxes1[..., 2:], boxes2[..., 2:])
    intersection = _area(top_left, bottom_right)
    union = _area(boxes1[..., :2], boxes1[..., 2:]) + _area(boxes2[..., :2], boxes2[..., 2:]) - intersection
    return ops.where(union > 0, intersection / ops.where(union > 0, union, 1.0), 0.0)


def gather_batched(values: Tensor, indices: Tensor) -> Tensor:
    """Rows of each batch item: values [batch, n, ...], indices int [batch, k] -> [batch, k, ...]."""
    shape = ops.shape(values)
    offsets = ops.arange(shape[0], dtype="int32")[:, None] * shape[1]
    flat = ops.reshape(values, (-1, *values.shape[2:]))
    return ops.take(flat, ops.cast(indices, "int32") + offsets, axis=0)


def _area(top_left: Tensor, bottom_right: Tensor) -> Tensor:
    sides = ops.maximum(bottom_right - top_left, 0.0)
    return sides[..., 0] * sides[..., 1]
