"""Anchors of the feature pyramid, in numpy: squares and rectangles of a fixed area, centered on the cells of P2..P6."""

import math
from collections.abc import Sequence

import numpy as np

from ..config import Config


def compute_backbone_shapes(config: Config, image_shape: Sequence[int]) -> np.ndarray:
    """Heights and widths of P2..P6 of a molded image (height, width, ...) in pixels: int [levels, (height, width)]."""
    if callable(config.BACKBONE) and config.COMPUTE_BACKBONE_SHAPE is not None:
        return np.array(config.COMPUTE_BACKBONE_SHAPE(image_shape))
    return np.array([[math.ceil(image_shape[axis] / stride) for axis in (0, 1)] for stride in config.BACKBONE_STRIDES])


def generate_anchors(
    scale: float, ratios: Sequence[float], shape: Sequence[int], feature_stride: int, anchor_stride: int
) -> np.ndarray:
    """Anchors of one pyramid level.

    Args:
        scale: side of the square anchor in pixels.
        ratios: width / height of the anchors at each place.
        shape: (height, width) of the feature map in cells.
        feature_stride: pixels between cells.
        anchor_stride: cells between places.

    Returns:
        float64 [places * ratios, (y1, x1, y2, x2)] in pixels, ordered by y, x, ratio. Centers are at index * stride.
    """
    heights = scale / np.sqrt(np.asarray(ratios, float))
    widths = scale * np.sqrt(np.asarray(ratios, float))
    rows, columns = (np.arange(0, cells, anchor_stride) * feature_stride for cells in shape[:2])
    center_y, center_x, index = np.meshgrid(rows, columns, np.arange(len(heights)), indexing="ij")
    half_y, half_x = heights[index] / 2, widths[index] / 2
    corners = (center_y - half_y, center_x - half_x, center_y + half_y, center_x + half_x)
    return np.stack(corners, axis=-1).reshape(-1, 4)


def generate_pyramid_anchors(
    scales: Sequence[float],
    ratios: Sequence[float],
    feature_shapes: Sequence[Sequence[int]] | np.ndarray,
    feature_strides: Sequence[int],
    anchor_stride: int,
) -> np.ndarray:
    """Anchors of all levels, finest first: float64 [anchors, (y1, x1, y2, x2)] in pixels.

    Args:
        scales: one per level, in pixels.
        ratios, anchor_stride: as in `generate_anchors`.
        feature_shapes, feature_strides: per level.
    """
    levels = zip(scales, feature_shapes, feature_strides, strict=True)
    return np.concatenate([generate_anchors(size, ratios, cells, step, anchor_stride) for size, cells, step in levels])


def pyramid_anchors(config: Config, image_shape: Sequence[int]) -> np.ndarray:
    """The anchors of a configuration: float64 [anchors, (y1, x1, y2, x2)] in pixels of the molded image."""
    shapes, strides = compute_backbone_shapes(config, image_shape), config.BACKBONE_STRIDES
    scales, ratios = config.RPN_ANCHOR_SCALES, config.RPN_ANCHOR_RATIOS
    return generate_pyramid_anchors(scales, ratios, shapes, strides, config.RPN_ANCHOR_STRIDE)
