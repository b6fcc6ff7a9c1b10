"""Weights, scenes and references by rule: the inputs of the recorded numbers, reproduced without files.

The rules are those under which the original implementation's outputs were recorded; same names and seeds give the same
numbers, bit for bit. They draw from numpy's legacy RandomState because its streams never change.
"""

import zlib

import numpy as np

QUERY_SEED, QUERY_SHAPE = 7, (375, 500)  # the recorded detection: scene, (height, width) in pixels
REFERENCE_SEEDS, REFERENCE_KIND = (101, 102, 103, 104, 105), 2
ELLIPSE, RECTANGLE, TRIANGLE = 1, 2, 3  # class ids of scenes
_REFERENCE_SCENE_SHAPE = (300, 400)
_MIN_VISIBLE = 40  # pixels; objects hidden further are dropped
_DECONV = "mrcnn_mask_deconv"
_KERNEL_GAIN = {
    "conv1": 1 / 64,
    "fpn_distance_P3": 1.8,
    "fpn_distance_P4": 4.0,
    "fpn_distance_P5": 9.0,
    "fpn_distance_P6": 10.0,
    "rpn_bbox_pred": 0.5,
    "mrcnn_class_logits": 2.0,
    "mrcnn_bbox_fc": 0.8,
    "mrcnn_mask": 3.0,
}
_BIAS_SHIFT = {"mrcnn_class_logits": np.array([2.1, 0.0])}  # background first


def seeded_weight(name, shape):
    """The value of a weight: float32 of `shape`.

    Args:
        name: "layer/weight:0" as stored in a weight file; a prefix of the layer is ignored.
        shape: kernels (height, width, in, out), of the transposed convolution (height, width, out, in).
    """
    layer, weight = name.rpartition(":")[0].split("/")[-2:]
    rng = np.random.RandomState(zlib.crc32(f"{layer}/{weight}:0".encode()) & 0x7FFFFFFF)
    noise = rng.standard_normal(size=tuple(shape))
    if weight not in _WEIGHT_RULES:
        raise ValueError(f"{name}: no rule for {weight!r}, expected one of {', '.join(_WEIGHT_RULES)}")
    return _WEIGHT_RULES[weight](layer, noise).astype(np.float32)


def make_scene(height, width, seed, num_objects=8):
    """An image with textured objects, later ones in front.

    Returns:
        image: uint8 [height, width, RGB].
        masks: bool [height, width, n], the visible parts; objects with less than 40 visible pixels are left out.
        class_ids: int32 [n], 1 ellipse, 2 rectangle, 3 triangle.
    """
    rng = np.random.RandomState(seed)
    y, x = np.mgrid[0:height, 0:width]
    image = _background(rng, y, x)
    owner = np.full((height, width), -1)  # index of the front object
    for index in range(num_objects):
        mask, colour = _draw_object(rng, y, x, index % 3 + 1)
        image[mask] = colour[mask]
        owner[mask] = index
    image += rng.normal(0, 6.0, size=image.shape)
    image = np.clip(np.floor(image + 0.5), 0, 255).astype(np.uint8)
    masks = owner[:, :, None] == np.arange(num_objects)
    visible = np.flatnonzero(masks.sum(axis=(0, 1)) >= _MIN_VISIBLE)
    return image, masks[:, :, visible], (visible % 3 + 1).astype(np.int32)


def boxes_of(masks):
    """Tight boxes of masks [height, width, n]: int32 [n, (y1, x1, y2, x2)] in pixels, y2 and x2 exclusive."""
    boxes = np.zeros((masks.shape[-1], 4), np.int32)
    for box, mask in zip(boxes, np.moveaxis(masks, -1, 0), strict=True):
        y, x = np.nonzero(mask)
        box[:] = y.min(), x.min(), y.max() + 1, x.max() + 1
    return boxes


def reference_crop(seed, kind):
    """The crop of the largest object of class `kind` in scene `seed`: uint8 [h, w, RGB], neither resized nor padded."""
    image, masks, class_ids = make_scene(*_REFERENCE_SCENE_SHAPE, seed)
    areas = np.where(class_ids == kind, masks.sum(axis=(0, 1)), 0)
    y1, x1, y2, x2 = boxes_of(masks)[areas.argmax()]
    return image[y1:y2, x1:x2]


def _kernel(layer, noise):
    inputs = (3,) if layer == _DECONV else tuple(range(noise.ndim - 1))
    fan_in = int(np.prod([noise.shape[axis] for axis in inputs]))
    # filters that sum to zero keep contrast alive through the ReLUs
    centred = noise - noise.mean(axis=inputs, keepdims=True)
    return centred * np.sqrt(2.0 / fan_in) * _KERNEL_GAIN.get(layer, 1.0)


def _gamma(layer, noise):
    gamma = 1.0 + 0.1 * noise
    if layer.endswith("_branch2c"):
        return 0.4 * gamma
    return 0.8 * gamma if layer.endswith("_branch1") else gamma


_WEIGHT_RULES = {
    "kernel": _kernel,
    "bias": lambda layer, noise: 0.01 * noise + _BIAS_SHIFT.get(layer, 0.0),
    "gamma": _gamma,
    "beta": lambda layer, noise: 0.05 * noise,
    "moving_mean": lambda layer, noise: 0.05 * noise,
    "moving_variance": lambda layer, noise: 1.0 + 0.1 * np.abs(noise),
}


def _background(rng, y, x):
    """A colour gradient with a ripple: float64 [height, width, RGB]."""
    height, width = y.shape
    channels = []
    for _ in range(3):
        down, right, level = rng.uniform([-80, -80, 60], [80, 80, 190])
        channels.append(level + down * (y / height - 0.5) + right * (x / width - 0.5))
    return np.stack(channels, axis=-1) + 12.0 * np.sin(y / 9.0 + x / 23.0)[:, :, None]


def _draw_object(rng, y, x, kind):
    """One object: mask bool [height, width], striped colour float64 [height, width, RGB]."""
    size = np.array(y.shape)
    radius_y, radius_x = rng.uniform(0.06, 0.22, size=2) * size
    centre_y, centre_x = rng.uniform(0.1, 0.9, size=2) * size
    colour = rng.uniform(0, 255, size=3)
    period = rng.uniform(3.0, 12.0)
    u, v = (y + 0.5 - centre_y) / radius_y, (x + 0.5 - centre_x) / radius_x
    stripes = 35.0 * np.sign(np.sin((y + (kind - 2) * x) / period))
    return _OUTLINES[kind](u, v), colour + stripes[:, :, None]


_OUTLINES = {  # of objects that reach from -1 to 1 along u (down) and v (right)
    ELLIPSE: lambda u, v: u * u + v * v <= 1.0,
    RECTANGLE: lambda u, v: (np.abs(u) <= 1.0) & (np.abs(v) <= 1.0),
    TRIANGLE: lambda u, v: (np.abs(u) <= 1.0) & (np.abs(v) <= (u + 1.0) / 2.0),
}
