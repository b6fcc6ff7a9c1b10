"""Geometry of boxes on tensors, and the choice of rows among them; any Keras backend.

Boxes are [..., (y1, x1, y2, x2)]; unless said otherwise in normalized coordinates (design section 3).
"""

from keras import ops


def apply_box_deltas_graph(boxes, deltas):
    """Move and scale boxes.

    Args:
        boxes: [..., (y1, x1, y2, x2)].
        deltas: [..., (dy, dx, log(dh), log(dw))]; shifts in units of the box's height and width.

    Returns:
        [..., (y1, x1, y2, x2)] in the unit of `boxes`.
    """
    y1, x1, y2, x2 = ops.split(boxes, 4, axis=-1)
    dy, dx, log_dh, log_dw = ops.split(deltas, 4, axis=-1)
    height, width = y2 - y1, x2 - x1
    centre_y = y1 + 0.5 * height + dy * height
    centre_x = x1 + 0.5 * width + dx * width
    height, width = height * ops.exp(log_dh), width * ops.exp(log_dw)
    top, left = centre_y - 0.5 * height, centre_x - 0.5 * width
    return ops.concatenate([top, left, top + height, left + width], axis=-1)


def box_refinement_graph(boxes, targets):
    """The deltas that `apply_box_deltas_graph` turns `boxes` into `targets` with.

    Args:
        boxes, targets: [..., (y1, x1, y2, x2)] in the same unit, not empty.

    Returns:
        [..., (dy, dx, log(dh), log(dw))].
    """
    y1, x1, y2, x2 = ops.split(boxes, 4, axis=-1)
    target_y1, target_x1, target_y2, target_x2 = ops.split(targets, 4, axis=-1)
    height, width = y2 - y1, x2 - x1
    target_height, target_width = target_y2 - target_y1, target_x2 - target_x1
    dy = (target_y1 + 0.5 * target_height - (y1 + 0.5 * height)) / height
    dx = (target_x1 + 0.5 * target_width - (x1 + 0.5 * width)) / width
    return ops.concatenate([dy, dx, ops.log(target_height / height), ops.log(target_width / width)], axis=-1)


def clip_boxes_graph(boxes, window):
    """Cut boxes to a window.

    Args:
        boxes: [batch, n, (y1, x1, y2, x2)].
        window: [batch or 1, (y1, x1, y2, x2)] in the same unit.

    Returns:
        [batch, n, (y1, x1, y2, x2)]; a box outside the window has no area left.
    """
    lower = ops.expand_dims(ops.take(window, [0, 1, 0, 1], axis=-1), axis=1)
    upper = ops.expand_dims(ops.take(window, [2, 3, 2, 3], axis=-1), axis=1)
    return ops.maximum(ops.minimum(boxes, upper), lower)


def norm_boxes_graph(boxes, shape):
    """Pixels to normalized coordinates.

    Args:
        boxes: [..., (y1, x1, y2, x2)] in pixels.
        shape: tensor [..., (height, width)] in pixels.

    Returns:
        [..., (y1, x1, y2, x2)] normalized.
    """
    boxes = ops.cast(boxes, "float32")
    shape = ops.cast(shape, "float32")
    scale = ops.concatenate([shape, shape], axis=-1) - 1.0
    return (boxes - ops.convert_to_tensor([0.0, 0.0, 1.0, 1.0])) / scale


def overlaps_graph(boxes1, boxes2):
    """Intersection over union of every pair.

    Args:
        boxes1: [batch, n, (y1, x1, y2, x2)].
        boxes2: [batch, m, (y1, x1, y2, x2)] in the same unit.

    Returns:
        [batch, n, m]; 0 where both boxes are empty.
    """
    boxes1, boxes2 = ops.expand_dims(boxes1, 2), ops.expand_dims(boxes2, 1)
    top_left = ops.maximum(boxes1[..., :2], boxes2[..., :2])
    bottom_right = ops.minimum(boxes1[..., 2:], boxes2[..., 2:])
    intersection = _area(top_left, bottom_right)
    union = _area(boxes1[..., :2], boxes1[..., 2:]) + _area(boxes2[..., :2], boxes2[..., 2:]) - intersection
    return ops.where(union > 0, intersection / ops.where(union > 0, union, 1.0), 0.0)


def gather_batched(values, indices):
    """Rows of each batch item: values [batch, n, ...], indices int [batch, k] -> [batch, k, ...]."""
    shape = ops.shape(values)
    offsets = ops.arange(shape[0], dtype="int32")[:, None] * shape[1]
    flat = ops.reshape(values, (-1, *values.shape[2:]))
    return ops.take(flat, ops.cast(indices, "int32") + offsets, axis=0)


def _area(top_left, bottom_right):
    sides = ops.maximum(bottom_right - top_left, 0.0)
    return sides[..., 0] * sides[..., 1]
