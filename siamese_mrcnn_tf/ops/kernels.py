"""The two primitives that differ by backend: non-maximum suppression and crop-and-resize (of one map or a pyramid).

TensorFlow runs its own ops, those that the original ran; XLA has no kernel for its crop-and-resize, so they are not for
`jit_compile`. The portable forms below have the same semantics, built from
`keras.ops` with static shapes, and serve the other backends (design section 10).
"""

import keras
from keras import ops

_BACKENDS = ("tensorflow", "jax")
_LEAST_FLOAT = -3.4e38  # close to the least float32


def non_max_suppression(boxes, scores, *, max_output_size, iou_threshold, score_threshold=float("-inf")):
    """Greedy non-maximum suppression for a batch, with outputs of fixed size.

    Args:
        boxes: [batch, n, (y1, x1, y2, x2)] in any one unit.
        scores: [batch, n].
        max_output_size: rows of the result.
        iou_threshold: a box that overlaps a better one by more is dropped; boxes without area overlap nothing.
        score_threshold: only boxes that score more take part.

    Returns:
        (indices int32 [batch, max_output_size] by falling score, equal scores by index;
        valid bool [batch, max_output_size]). Rows that are not valid have index 0.

    Raises:
        ValueError: the Keras backend is not supported.
    """
    function = _by_backend(_tensorflow_non_max_suppression, portable_non_max_suppression)
    return function(boxes, scores, max_output_size, iou_threshold, score_threshold)


def crop_and_resize(images, boxes, box_indices, crop_size):
    """Sample boxes from images, one bilinear sample a cell, corners aligned to (height - 1, width - 1).

    Args:
        images: [batch, height, width, channels].
        boxes: [n, (y1, x1, y2, x2)] in normalized coordinates.
        box_indices: int32 [n], each box's image.
        crop_size: (height, width) of the crops.

    Returns:
        [n, crop height, crop width, channels]; a sample beyond the image is 0.

    Raises:
        ValueError: the Keras backend is not supported.
    """
    function = _by_backend(_tensorflow_crop_and_resize, portable_crop_and_resize)
    return function(images, boxes, box_indices, crop_size)


def pyramid_crop_and_resize(feature_maps, boxes, box_indices, map_indices, crop_size):
    """`crop_and_resize`, each box from one of several maps.

    Args:
        feature_maps: list of maps [batch, height, width, channels], sizes may differ.
        boxes: [n, (y1, x1, y2, x2)] in normalized coordinates.
        box_indices: int32 [n], each box's image.
        map_indices: int32 [n], each box's place in `feature_maps`.
        crop_size: (height, width) of the crops.

    Returns:
        [n, crop height, crop width, channels].

    Raises:
        ValueError: the Keras backend is not supported.
    """
    function = _by_backend(_tensorflow_pyramid_crop_and_resize, portable_pyramid_crop_and_resize)
    return function(feature_maps, boxes, box_indices, map_indices, crop_size)


def _by_backend(tensorflow_form, portable_form):
    backend = keras.backend.backend()
    if backend not in _BACKENDS:
        raise ValueError(f"Keras backend {backend!r}: expected one of {', '.join(_BACKENDS)} (set KERAS_BACKEND)")
    return tensorflow_form if backend == "tensorflow" else portable_form


def _tensorflow_non_max_suppression(boxes, scores, max_output_size, iou_threshold, score_threshold):
    import tensorflow as tf

    def one_image(inputs):
        indices, count = tf.raw_ops.NonMaxSuppressionV4(
            boxes=inputs[0],
            scores=inputs[1],
            max_output_size=max_output_size,
            iou_threshold=iou_threshold,
            score_threshold=score_threshold,
            pad_to_max_output_size=True,
        )
        return tf.ensure_shape(indices, [max_output_size]), tf.range(max_output_size) < count

    signature = (tf.TensorSpec([max_output_size], tf.int32), tf.TensorSpec([max_output_size], tf.bool))
    return tf.map_fn(one_image, (boxes, scores), fn_output_signature=signature)


def _tensorflow_crop_and_resize(images, boxes, box_indices, crop_size):
    import tensorflow as tf

    return tf.image.crop_and_resize(images, boxes, box_indices, crop_size, method="bilinear")


def _tensorflow_pyramid_crop_and_resize(feature_maps, boxes, box_indices, map_indices, crop_size):
    """Each map crops its own boxes: a quarter of the time of cropping all boxes from all maps."""
    import tensorflow as tf

    rows, crops = [], []
    for index, feature_map in enumerate(feature_maps):
        mine = tf.cast(tf.where(tf.equal(map_indices, index))[:, 0], tf.int32)
        rows.append(mine)
        crops.append(crop_and_resize(feature_map, tf.gather(boxes, mine), tf.gather(box_indices, mine), crop_size))
    stitched = tf.dynamic_stitch(rows, crops)
    return tf.ensure_shape(stitched, [boxes.shape[0], *crop_size, feature_maps[0].shape[-1]])


def portable_non_max_suppression(boxes, scores, max_output_size, iou_threshold, score_threshold):
    """`non_max_suppression` as a loop of fixed length over the best remaining box."""
    batch, columns = ops.shape(scores)[0], ops.arange(max_output_size)
    nothing = ops.zeros((batch, max_output_size), "int32"), ops.zeros((batch, max_output_size), "bool")
    if scores.shape[1] == 0:
        return nothing
    scores = ops.where(scores > score_threshold, scores, float("-inf"))
    # Corners may come in any order, as in TensorFlow's op.
    top_left, bottom_right = ops.minimum(boxes[..., :2], boxes[..., 2:]), ops.maximum(boxes[..., :2], boxes[..., 2:])
    boxes = ops.concatenate([top_left, bottom_right], axis=-1)
    areas = _areas(boxes)

    def keep_best(step, state):
        live, indices, valid = state
        best = ops.argmax(live, axis=-1)
        found = ops.take_along_axis(live, best[:, None], axis=1)[:, 0] > float("-inf")
        chosen = ops.take_along_axis(boxes, best[:, None, None], axis=1)
        overlap = _overlaps_with(chosen, boxes, areas)
        itself = ops.arange(ops.shape(live)[1])[None] == ops.cast(best, "int32")[:, None]
        live = ops.where((overlap > iou_threshold) | itself, float("-inf"), live)
        here = (columns == step)[None]
        indices = ops.where(here & found[:, None], ops.cast(best, "int32")[:, None], indices)
        return live, indices, valid | (here & found[:, None])

    _, indices, valid = ops.fori_loop(0, max_output_size, keep_best, (scores, *nothing))
    return indices, valid


def _areas(boxes):
    return _rounded((boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1]))


def _overlaps_with(chosen, boxes, areas):
    """Overlap [batch, n] of boxes [batch, 1, 4] with boxes [batch, n, 4]; 0 where one has no area."""
    top_left = ops.maximum(chosen[..., :2], boxes[..., :2])
    sides = ops.maximum(ops.minimum(chosen[..., 2:], boxes[..., 2:]) - top_left, 0.0)
    intersection = _rounded(sides[..., 0] * sides[..., 1])
    area = _areas(chosen)
    solid = (areas > 0) & (area > 0)
    return ops.where(solid, intersection / ops.where(solid, area + areas - intersection, 1.0), 0.0)


def portable_crop_and_resize(images, boxes, box_indices, crop_size):
    """`crop_and_resize` by gathering the four neighbours of every sample."""
    shape = ops.shape(images)
    channels = images.shape[-1]
    y_low, y_high, y_weight, y_inside = _sample_axis(boxes[:, 0], boxes[:, 2], shape[1], crop_size[0])
    x_low, x_high, x_weight, x_inside = _sample_axis(boxes[:, 1], boxes[:, 3], shape[2], crop_size[1])
    pixels = ops.cast(ops.reshape(images, (-1, channels)), "float32")
    row_start = ops.cast(box_indices, "int32")[:, None] * shape[1]

    def gather(y, x):
        return ops.take(pixels, (row_start + y)[:, :, None] * shape[2] + x[:, None, :], axis=0)

    x_weight, y_weight = x_weight[:, None, :, None], y_weight[:, :, None, None]
    top_left, bottom_left = gather(y_low, x_low), gather(y_high, x_low)
    top = top_left + (gather(y_low, x_high) - top_left) * x_weight
    bottom = bottom_left + (gather(y_high, x_high) - bottom_left) * x_weight
    inside = (y_inside[:, :, None] & x_inside[:, None, :])[..., None]
    return ops.where(inside, top + (bottom - top) * y_weight, 0.0)


def _sample_axis(start, end, size, samples):
    """Neighbours, weight of the upper one and whether inside, each [n, samples], of samples from start to end.

    The order and the rounding of the float32 operations decide which samples at the very edge count as beyond the
    image; they are TensorFlow's.
    """
    extent = ops.cast(size - 1, "float32")
    if samples > 1:
        # Compilers multiply by the reciprocal of a constant, so the divisor must not look like one.
        intervals = ops.where(ops.isnan(start), 1.0, float(samples - 1))
        step = _rounded((end - start) * extent) / intervals
        index = ops.arange(samples, dtype="float32")
        places = _rounded(start * extent)[:, None] + _rounded(index[None] * step[:, None])
    else:
        places = (0.5 * (start + end) * extent)[:, None]
    inside = (places >= 0) & (places <= extent)
    places = ops.where(inside, places, 0.0)
    low = ops.floor(places)
    return ops.cast(low, "int32"), ops.cast(ops.ceil(places), "int32"), places - low, inside


def _rounded(product):
    """`product`, rounded to float32 before it is used further.

    Compilers fuse a product with the sum or quotient that follows and round once, which is off by one unit in the last
    place; they do not look through a maximum.
    """
    return ops.maximum(product, _LEAST_FLOAT)


def portable_pyramid_crop_and_resize(feature_maps, boxes, box_indices, map_indices, crop_size):
    """`pyramid_crop_and_resize` with static shapes: every map crops every box, and those of other maps are dropped."""
    crops = 0.0
    for index, feature_map in enumerate(feature_maps):
        here = map_indices == index
        cropped = crop_and_resize(feature_map, boxes, box_indices, crop_size)
        crops += ops.where(here[:, None, None, None], cropped, 0.0)
    return crops
