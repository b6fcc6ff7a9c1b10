"""The layers that Keras lacks: matching, proposals, RoI pooling, detections.

Each class unpacks its inputs and delegates to a `*_graph` function on plain tensors. Boxes are normalized
(y1, x1, y2, x2); the shapes of inputs and outputs are static but for the batch.
"""

import math

import keras
from keras import ops

from ..ops.image_meta import parse_image_meta
from ..ops.kernels import pyramid_crop_and_resize

_COARSEST_POOLED, _FINEST_POOLED, _CANONICAL_POOLED = 5, 2, 4  # pyramid levels that rois are pooled from


@keras.saving.register_keras_serializable(package="siamese_mrcnn_tf")
class PyramidROIAlign(keras.layers.Layer):
    """Pools rois from the pyramid level that fits their size (Matterport's rule, not torchvision's RoIAlign).

    Args:
        pool_shape: (height, width) of the pooled maps.
        canonical_size: side in pixels of a roi that is pooled from P4.
    """

    def __init__(self, pool_shape, canonical_size=224, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})  # boxes bear no less
        self.pool_shape = tuple(pool_shape)
        self.canonical_size = canonical_size

    def call(self, inputs):
        """inputs: rois [batch, n, 4], image_meta [batch, meta], maps P2..P5 -> [batch, n, *pool_shape, channels]."""
        rois, image_meta, *feature_maps = inputs
        levels = roi_levels_graph(rois, image_meta, canonical_size=self.canonical_size)
        return pyramid_roi_align_graph(rois, levels, feature_maps, pool_shape=self.pool_shape)

    def compute_output_shape(self, input_shape):
        return (*input_shape[0][:2], *self.pool_shape, input_shape[2][-1])

    def get_config(self):
        return {**super().get_config(), "pool_shape": self.pool_shape, "canonical_size": self.canonical_size}


def roi_levels_graph(rois, image_meta, *, canonical_size):
    """Pyramid level of each roi: clip(4 + round(log2(sqrt(h w) / (canonical_size / sqrt(H W)))), 2, 5).

    Args:
        rois: [batch, n, (y1, x1, y2, x2)] normalized.
        image_meta: [batch, meta]; the molded shape gives H and W.
        canonical_size: pixels.

    Returns:
        int32 [batch, n]; rois without area go to level 2.
    """
    shape = parse_image_meta(image_meta)["image_shape"][:, None]
    height, width = rois[..., 2] - rois[..., 0], rois[..., 3] - rois[..., 1]
    relative_size = ops.sqrt(height * width) / (float(canonical_size) / ops.sqrt(shape[..., 0] * shape[..., 1]))
    # log(0) is -inf, which the clip turns into the finest level
    offset = ops.round(ops.log(relative_size) / math.log(2.0))
    offset = ops.clip(offset, _FINEST_POOLED - _CANONICAL_POOLED, _COARSEST_POOLED - _CANONICAL_POOLED)
    # clipped again: a roi that is not a number must have a level too, or rows would go missing
    return ops.clip(ops.cast(offset, "int32") + _CANONICAL_POOLED, _FINEST_POOLED, _COARSEST_POOLED)


def pyramid_roi_align_graph(rois, levels, feature_maps, *, pool_shape):
    """Crop each roi from the map of its level, one bilinear sample a cell.

    Args:
        rois: [batch, n, (y1, x1, y2, x2)] normalized.
        levels: int32 [batch, n], 2 for the first map.
        feature_maps: P2.. [batch, h, w, channels], coarser one by one.
        pool_shape: (height, width).

    Returns:
        [batch, n, height, width, channels].
    """
    batch, count = ops.shape(rois)[0], rois.shape[1]
    boxes = ops.stop_gradient(ops.reshape(rois, (-1, 4)))
    box_levels = ops.reshape(levels, (-1,))
    image_of_box = ops.repeat(ops.arange(batch, dtype="int32"), count)
    pooled = pyramid_crop_and_resize(feature_maps, boxes, image_of_box, box_levels - _FINEST_POOLED, pool_shape)
    return ops.reshape(pooled, (-1, count, *pool_shape, feature_maps[0].shape[-1]))
