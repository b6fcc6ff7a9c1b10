"""Non-maximum suppression, crop-and-resize and biases, the operations that differ between Keras backends.

TensorFlow uses its own ops, as the original did. JAX, and TensorFlow where it compiles with XLA, which has no kernel
for its crop-and-resize, use the portable forms. These have the same semantics and static shapes and are built from
`keras.ops`. The public functions raise ValueError on an unsupported backend.
"""

from collections.abc import Sequence

import keras
from keras import ops

from ..io.errors import InputError
from .box_ops import Tensor
from .tracing import compiling_xla, detecting, exportable

_BACKENDS = ("tensorflow", "jax")
_MIN_FLOAT = -3.4e38  # close to the minimum of float32
_HALVES = 4097.0  # 2 ** 12 + 1 splits the 24 binary digits of a float32 (Veltkamp's splitting)


def is_exporting() -> bool:
    """Whether a graph for other runtimes is traced, see `tracing.exportable`."""
    return exportable.is_on


def non_max_suppression(
    boxes: Tensor, scores: Tensor, *, max_output_size: int, iou_threshold: float, score_threshold: float = float("-inf")
) -> tuple[Tensor, Tensor]:
    """Greedy non-maximum suppression for a batch, with outputs of fixed size.

    Args:
        boxes: [batch, n, (y1, x1, y2, x2)] in any unit.
        scores: [batch, n].
        max_output_size: rows of the result.
        iou_threshold: drop a box that overlaps a better one by more; boxes without area overlap nothing.
        score_threshold: ignore boxes with this score or less.

    Returns:
        (indices int32 [batch, max_output_size] in descending order of score, equal scores by index;
        valid bool [batch, max_output_size]). Rows that are not valid have index 0.
    """
    if not has_tensorflow_ops():
        return portable_non_max_suppression(boxes, scores, max_output_size, iou_threshold, score_threshold)
    import tensorflow as tf

    def suppress_one(inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        indices, count = tf.raw_ops.NonMaxSuppressionV4(
            boxes=inputs[0],
            scores=inputs[1],
            max_output_size=max_output_size,
            iou_threshold=iou_threshold,
            score_threshold=score_threshold,
            pad_to_max_output_size=True,
        )
        return tf.ensure_shape(indices, [max_output_size]), tf.range(max_output_size) < count

    if boxes.shape[0] == 1:  # without a loop, which other runtimes are slow at
        return tuple(found[None] for found in suppress_one([boxes[0], scores[0]]))
    signature = (tf.TensorSpec([max_output_size], tf.int32), tf.TensorSpec([max_output_size], tf.bool))
    return tf.map_fn(suppress_one, (boxes, scores), fn_output_signature=signature)


def crop_and_resize(images: Tensor, boxes: Tensor, box_indices: Tensor, crop_size: tuple[int, int]) -> Tensor:
    """Crop boxes from images, one bilinear sample per cell, corners aligned to (height - 1, width - 1).

    Args:
        images: [batch, height, width, channels].
        boxes: [n, (y1, x1, y2, x2)] in normalized coordinates.
        box_indices: int32 [n], each box's image.
        crop_size: (height, width) of the crops.

    Returns:
        [n, crop height, crop width, channels]; samples outside the image are 0.
    """
    if not has_tensorflow_ops():
        return portable_crop_and_resize(images, boxes, box_indices, crop_size)
    import tensorflow as tf

    return tf.image.crop_and_resize(images, boxes, box_indices, crop_size, method="bilinear")


def pyramid_crop_and_resize(
    feature_maps: list[Tensor], boxes: Tensor, box_indices: Tensor, map_indices: Tensor, crop_size: tuple[int, int]
) -> Tensor:
    """`crop_and_resize` of each box from one of several maps; other arguments and result as there.

    Args:
        feature_maps: list of maps [batch, height, width, channels], sizes may differ.
        map_indices: int32 [n], each box's index into `feature_maps`.
    """
    if is_exporting() or not has_tensorflow_ops():
        return portable_pyramid_crop_and_resize(feature_maps, boxes, box_indices, map_indices, crop_size)
    import tensorflow as tf

    rows, crops = [], []
    for index, feature_map in enumerate(feature_maps):  # each map crops its own boxes: 4 times faster than all from all
        selected = tf.cast(tf.where(tf.equal(map_indices, index))[:, 0], tf.int32)
        of_boxes, of_images = tf.gather(boxes, selected), tf.gather(box_indices, selected)
        rows.append(selected)
        crops.append(crop_and_resize(feature_map, of_boxes, of_images, crop_size))
    return tf.ensure_shape(tf.dynamic_stitch(rows, crops), [boxes.shape[0], *crop_size, feature_maps[0].shape[-1]])


def add_bias(outputs: Tensor, bias: Tensor) -> Tensor:
    """`outputs + bias` of a convolution [batch, h, w, filters] and [filters].

    In detection TensorFlow computes it with the convolution, and with a sum and a ReLU that follow. Training keeps the
    plain sum: with this one a test that trains at a high learning rate ended in NaN.
    """
    if not detecting.is_on or is_exporting() or not has_tensorflow_ops():
        return outputs + bias
    import tensorflow as tf

    return tf.nn.bias_add(outputs, bias)


def has_tensorflow_ops() -> bool:
    """Whether TensorFlow's own operations may be used: on that backend, outside of what XLA compiles."""
    backend = keras.backend.backend()
    if backend not in _BACKENDS:
        raise InputError(f"Keras backend {backend!r}: expected one of {', '.join(_BACKENDS)} (set KERAS_BACKEND)")
    return backend == "tensorflow" and not compiling_xla.is_on


def portable_non_max_suppression(
    boxes: Tensor, scores: Tensor, max_output_size: int, iou_threshold: float, score_threshold: float
) -> tuple[Tensor, Tensor]:
    """`non_max_suppression` as a loop of fixed length, one step per kept box."""
    batch, columns = ops.shape(scores)[0], ops.arange(max_output_size)
    nothing = ops.zeros((batch, max_output_size), "int32"), ops.zeros((batch, max_output_size), "bool")
    if scores.shape[1] == 0:
        return nothing
    scores = ops.where(scores > score_threshold, scores, float("-inf"))
    # corners may come in any order, as in TensorFlow's op
    top_left, bottom_right = ops.minimum(boxes[..., :2], boxes[..., 2:]), ops.maximum(boxes[..., :2], boxes[..., 2:])
    boxes = ops.concatenate([top_left, bottom_right], axis=-1)
    areas = _areas(boxes)

    def keep_best(step: Tensor, state: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        remaining, indices, valid = state
        best = ops.argmax(remaining, axis=-1)
        found = ops.take_along_axis(remaining, best[:, None], axis=1)[:, 0] > float("-inf")
        chosen = ops.take_along_axis(boxes, best[:, None, None], axis=1)
        overlap = _overlaps_with(chosen, boxes, areas)
        itself = ops.arange(ops.shape(remaining)[1])[None] == ops.cast(best, "int32")[:, None]
        remaining = ops.where((overlap > iou_threshold) | itself, float("-inf"), remaining)
        here = (columns == step)[None] & found[:, None]
        return remaining, ops.where(here, ops.cast(best, "int32")[:, None], indices), valid | here

    _, indices, valid = ops.fori_loop(0, max_output_size, keep_best, (scores, *nothing))
    return indices, valid


def _areas(boxes: Tensor) -> Tensor:
    return _rounded((boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1]))


def _overlaps_with(chosen: Tensor, boxes: Tensor, areas: Tensor) -> Tensor:
    """Overlap [batch, n] of a box [batch, 1, 4] with boxes [batch, n, 4]; 0 where one has no area."""
    top_left = ops.maximum(chosen[..., :2], boxes[..., :2])
    sides = ops.maximum(ops.minimum(chosen[..., 2:], boxes[..., 2:]) - top_left, 0.0)
    intersection = _rounded(sides[..., 0] * sides[..., 1])
    area = _areas(chosen)
    solid = (areas > 0) & (area > 0)
    return ops.where(solid, intersection / ops.where(solid, area + areas - intersection, 1.0), 0.0)


def portable_crop_and_resize(images: Tensor, boxes: Tensor, box_indices: Tensor, crop_size: tuple[int, int]) -> Tensor:
    """`crop_and_resize` by gathering the four neighbors of every sample."""
    first_map = ops.zeros_like(ops.cast(box_indices, "int32"))
    return portable_pyramid_crop_and_resize([images], boxes, box_indices, first_map, crop_size)


def _sample_axis(start: Tensor, end: Tensor, size: Tensor, samples: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Samples from start to end: (lower neighbor, upper neighbor, weight of the upper one, inside), each [n, samples].

    `start` and `end` are [n], normalized; `size` int32 [n], cells of the axis.
    Order and rounding of the float32 operations are TensorFlow's: they decide which samples at the edge are inside.
    """
    extent = ops.cast(size - 1, "float32")
    if samples > 1:
        step = _divided(_rounded((end - start) * extent), samples - 1)
        index = ops.arange(samples, dtype="float32")
        places = _rounded(start * extent)[:, None] + _rounded(index[None] * step[:, None])
    else:
        places = (0.5 * (start + end) * extent)[:, None]
    inside = (places >= 0) & (places <= extent[:, None])
    places = ops.where(inside, places, 0.0)
    low = ops.floor(places)
    return ops.cast(low, "int32"), ops.cast(ops.ceil(places), "int32"), places - low, inside


def _divided(numbers: Tensor, whole: int) -> Tensor:
    """`numbers` [n] divided by a whole number below 4096, rounded to float32 as a division is."""
    if not is_exporting():
        # a constant divisor would be compiled to a multiplication by its reciprocal
        return numbers / ops.where(ops.isnan(numbers), 1.0, float(whole))
    # OpenVINO multiplies by the reciprocal of any divisor: add the quotient of what this leaves, computed without error
    quotient = _rounded(numbers * (1.0 / whole))
    spread = _rounded(quotient * _HALVES)
    high = spread - _rounded(spread - quotient)  # half of the digits each, so that the products are exact
    rest = (numbers - _rounded(high * whole)) - _rounded((quotient - high) * whole)
    return quotient + _rounded(rest * (1.0 / whole))


def _rounded(product: Tensor) -> Tensor:
    """`product` rounded to float32: a maximum keeps compilers from fusing it with the operation that follows."""
    return ops.maximum(product, _MIN_FLOAT)


def portable_pyramid_crop_and_resize(
    feature_maps: list[Tensor], boxes: Tensor, box_indices: Tensor, map_indices: Tensor, crop_size: tuple[int, int]
) -> Tensor:
    """`pyramid_crop_and_resize` with static shapes: one gather from the pixels of all maps in one table."""
    shapes = [ops.shape(feature_map)[:3] for feature_map in feature_maps]  # (batch, height, width)
    channels = feature_maps[0].shape[-1]
    tables = [ops.reshape(ops.cast(feature_map, "float32"), (-1, channels)) for feature_map in feature_maps]
    pixels, sizes = ops.concatenate(tables), [batch * height * width for batch, height, width in shapes]
    chosen = ops.cast(map_indices, "int32")
    start, height, width = (
        ops.take(ops.stack([ops.cast(number, "int32") for number in numbers]), chosen)
        for numbers in (
            [sum(sizes[:index]) for index in range(len(sizes))],
            [shape[1] for shape in shapes],
            [shape[2] for shape in shapes],
        )
    )
    y_low, y_high, y_weight, y_inside = _sample_axis(boxes[:, 0], boxes[:, 2], height, crop_size[0])
    x_low, x_high, x_weight, x_inside = _sample_axis(boxes[:, 1], boxes[:, 3], width, crop_size[1])
    row_start = (ops.cast(box_indices, "int32") * height)[:, None]

    def gather(y: Tensor, x: Tensor) -> Tensor:
        rows = start[:, None] + (row_start + y) * width[:, None]
        return ops.take(pixels, rows[:, :, None] + x[:, None, :], axis=0)

    x_weight, y_weight = x_weight[:, None, :, None], y_weight[:, :, None, None]
    top_left, bottom_left = gather(y_low, x_low), gather(y_high, x_low)
    top = top_left + (gather(y_low, x_high) - top_left) * x_weight
    bottom = bottom_left + (gather(y_high, x_high) - bottom_left) * x_weight
    inside = (y_inside[:, :, None] & x_inside[:, None, :])[..., None]
    return ops.where(inside, top + (bottom - top) * y_weight, 0.0)
