"""The image_meta vector: one table of slices that composes and parses it.

Layout (Matterport's): image id, original shape, molded shape, window, scale, active classes. Parsing only slices, so it
serves numpy arrays and tensors alike.
"""

import numpy as np

_FIELDS = (  # name, width; what follows them is active_class_ids
    ("image_id", 1),
    ("original_image_shape", 3),  # (height, width, channels) before molding
    ("image_shape", 3),  # (height, width, channels) after molding
    ("window", 4),  # (y1, x1, y2, x2) of the image inside its padding, pixels
    ("scale", 1),  # molded pixels per original pixel
)


def compose_image_meta(image_id, original_image_shape, image_shape, window, scale, active_class_ids):
    """One image's attributes as float64 [12 + num_classes].

    Args:
        image_id: a number.
        original_image_shape, image_shape: (height, width, channels) before and after molding.
        window: (y1, x1, y2, x2) in pixels of the molded image.
        scale: molded pixels per original pixel.
        active_class_ids: [num_classes], 1 for the classes of the image's data set.
    """
    parts = ([image_id], original_image_shape, image_shape, window, [scale], active_class_ids)
    return np.concatenate([np.asarray(part, np.float64) for part in parts])


def parse_image_meta(meta):
    """Attributes by name of metas [batch, 12 + num_classes], numpy or tensor.

    Returns:
        dict of slices: image_id [batch], original_image_shape [batch, 3], image_shape [batch, 3],
        window [batch, (y1, x1, y2, x2)] in pixels, scale [batch], active_class_ids [batch, num_classes].
    """
    parsed, start = {}, 0
    for name, width in _FIELDS:
        parsed[name] = meta[:, start] if width == 1 else meta[:, start : start + width]
        start += width
    parsed["active_class_ids"] = meta[:, start:]
    return parsed
