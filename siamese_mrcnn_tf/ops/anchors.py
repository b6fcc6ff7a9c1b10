"""Geometry of boxes and anchors in numpy.

Boxes are (y1, x1, y2, x2). In pixels y2 and x2 are exclusive; normalized boxes divide by (h - 1, w - 1) after
subtracting (0, 0, 1, 1), as in Matterport's Mask R-CNN (design section 3).
"""

import math

import numpy as np


def compute_backbone_shapes(config, image_shape):
    """Heights and widths of P2..P6: int [levels, (height, width)].

    Args:
        config: reads BACKBONE, BACKBONE_STRIDES, COMPUTE_BACKBONE_SHAPE.
        image_shape: (height, width, ...) of the molded image in pixels.
    """
    if callable(config.BACKBONE) and config.COMPUTE_BACKBONE_SHAPE is not None:
        return np.array(config.COMPUTE_BACKBONE_SHAPE(image_shape))
    return np.array([[math.ceil(image_shape[axis] / stride) for axis in (0, 1)] for stride in config.BACKBONE_STRIDES])


def generate_anchors(scale, ratios, shape, feature_stride, anchor_stride):
    """Anchors of one pyramid level.

    Args:
        scale: side of the square anchor in pixels.
        ratios: width / height of the anchors at each place.
        shape: (height, width) of the feature map in cells.
        feature_stride: pixels between cells.
        anchor_stride: cells between places.

    Returns:
        float64 [places * ratios, (y1, x1, y2, x2)] in pixels, ordered by y, x, ratio. Centres are at index * stride.
    """
    heights = scale / np.sqrt(np.asarray(ratios, float))
    widths = scale * np.sqrt(np.asarray(ratios, float))
    centre_y = np.arange(0, shape[0], anchor_stride) * feature_stride
    centre_x = np.arange(0, shape[1], anchor_stride) * feature_stride
    centre_y, centre_x, index = np.meshgrid(centre_y, centre_x, np.arange(len(heights)), indexing="ij")
    half_y, half_x = heights[index] / 2, widths[index] / 2
    corners = (centre_y - half_y, centre_x - half_x, centre_y + half_y, centre_x + half_x)
    return np.stack(corners, axis=-1).reshape(-1, 4)


def generate_pyramid_anchors(scales, ratios, feature_shapes, feature_strides, anchor_stride):
    """Anchors of all levels, finest first: float64 [anchors, (y1, x1, y2, x2)] in pixels.

    Args:
        scales: one per level, in pixels.
        ratios, anchor_stride: as in `generate_anchors`.
        feature_shapes, feature_strides: per level.
    """
    levels = zip(scales, feature_shapes, feature_strides, strict=True)
    return np.concatenate(
        [generate_anchors(scale, ratios, shape, stride, anchor_stride) for scale, shape, stride in levels]
    )


def pyramid_anchors(config, image_shape):
    """The anchors of a configuration: float64 [anchors, (y1, x1, y2, x2)] in pixels of the molded image."""
    return generate_pyramid_anchors(
        config.RPN_ANCHOR_SCALES,
        config.RPN_ANCHOR_RATIOS,
        compute_backbone_shapes(config, image_shape),
        config.BACKBONE_STRIDES,
        config.RPN_ANCHOR_STRIDE,
    )
