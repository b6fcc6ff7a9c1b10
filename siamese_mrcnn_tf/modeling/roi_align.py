"""Pyramid RoI pooling: crops each roi from the pyramid level that fits its size.

This is Matterport's rule with one bilinear sample per cell, not torchvision's RoIAlign. Boxes are normalized
(y1, x1, y2, x2); shapes are static except for the batch.
"""

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from ..ops.box_ops import Tensor
from ..ops.image_meta import parse_image_meta
from ..ops.kernels import pyramid_crop_and_resize

_FINEST_LEVEL, _COARSEST_LEVEL, _CANONICAL_LEVEL = 2, 5, 4  # rois are pooled from P2..P5, of canonical size from P4


@keras.saving.register_keras_serializable(package="siamese_mrcnn_tf")
class PyramidROIAlign(keras.layers.Layer):
    """Pools rois from the pyramid level that fits their size.

    Args:
        pool_shape: (height, width) of the pooled maps.
        canonical_size: side in pixels of a roi that is pooled from P4.
    """

    def __init__(self, pool_shape: Sequence[int], canonical_size: int = 224, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})  # box coordinates need float32
        self.pool_shape = (pool_shape[0], pool_shape[1])
        self.canonical_size = canonical_size

    def call(self, inputs: list[Tensor]) -> Tensor:
        """inputs: rois [batch, n, 4], image_meta [batch, meta], maps P2..P5 -> [batch, n, *pool_shape, channels]."""
        rois, image_meta, *feature_maps = inputs
        levels = roi_levels_graph(rois, image_meta, canonical_size=self.canonical_size)
        return pyramid_roi_align_graph(rois, levels, feature_maps, pool_shape=self.pool_shape)

    def compute_output_shape(self, input_shape: Any) -> tuple:
        return (*input_shape[0][:2], *self.pool_shape, input_shape[2][-1])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "pool_shape": self.pool_shape, "canonical_size": self.canonical_size}


class ListedROIAlign(PyramidROIAlign):
    """`PyramidROIAlign` of a list of rois with the index of each one's image, so that no rows pad it."""

    def call(self, inputs: list[Tensor]) -> Tensor:
        """inputs: rois [n, 4], indices int32 [n], image_meta [batch, meta] of one molded shape, maps P2..P5
        -> [n, *pool_shape, channels]."""
        rois, indices, image_meta, *feature_maps = inputs
        levels = roi_levels_graph(rois[None], image_meta[:1], canonical_size=self.canonical_size)[0]
        return pyramid_crop_and_resize(feature_maps, rois, indices, levels - _FINEST_LEVEL, self.pool_shape)

    def compute_output_shape(self, input_shape: Any) -> tuple:
        return (input_shape[0][0], *self.pool_shape, input_shape[3][-1])


def roi_levels_graph(rois: Tensor, image_meta: Tensor, *, canonical_size: int) -> Tensor:
    """Level of each roi, int32 [batch, n]: clip(4 + round(log2(sqrt(h w) / (canonical_size / sqrt(H W)))), 2, 5).

    Args:
        rois: [batch, n, (y1, x1, y2, x2)] normalized; those without area go to level 2.
        image_meta: [batch, meta]; its molded shape is H and W.
        canonical_size: pixels.
    """
    shape = parse_image_meta(image_meta, "image_shape")["image_shape"][:, None]
    height, width = rois[..., 2] - rois[..., 0], rois[..., 3] - rois[..., 1]
    relative_size = ops.sqrt(height * width) / (float(canonical_size) / ops.sqrt(shape[..., 0] * shape[..., 1]))
    offset = ops.round(ops.log(relative_size) / math.log(2.0))
    # log(0) is -inf, which is clipped to the finest level; clipped again as an integer, NaN has a level too
    offset = ops.clip(offset, _FINEST_LEVEL - _CANONICAL_LEVEL, _COARSEST_LEVEL - _CANONICAL_LEVEL)
    return ops.clip(ops.cast(offset, "int32") + _CANONICAL_LEVEL, _FINEST_LEVEL, _COARSEST_LEVEL)


def pyramid_roi_align_graph(
    rois: Tensor, levels: Tensor, feature_maps: list[Tensor], *, pool_shape: tuple[int, int]
) -> Tensor:
    """Crop each roi from the map of its level, one bilinear sample per cell: [batch, n, *pool_shape, channels].

    Args:
        rois: [batch, n, (y1, x1, y2, x2)] normalized.
        levels: int32 [batch, n], 2 for the first map.
        feature_maps: P2, P3, ..., each [batch, h, w, channels].
        pool_shape: (height, width).
    """
    batch, count = ops.shape(rois)[0], rois.shape[1]
    boxes = ops.stop_gradient(ops.reshape(rois, (-1, 4)))
    image_of_box = ops.repeat(ops.arange(batch, dtype="int32"), count)
    map_of_box = ops.reshape(levels, (-1,)) - _FINEST_LEVEL
    pooled = pyramid_crop_and_resize(feature_maps, boxes, image_of_box, map_of_box, pool_shape)
    return ops.reshape(pooled, (-1, count, *pool_shape, feature_maps[0].shape[-1]))
