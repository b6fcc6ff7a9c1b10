"""The image_meta vector: one table of slices that composes and parses it.

The layout is Matterport's: image id, original shape, molded shape, window, scale, active classes. Parsing only slices,
so it works on numpy arrays and tensors.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

_FIELDS = (  # name, width; active_class_ids follow
    ("image_id", 1),
    ("original_image_shape", 3),  # (height, width, channels) before molding
    ("image_shape", 3),  # (height, width, channels) after molding
    ("window", 4),  # (y1, x1, y2, x2) of the image inside its padding, pixels
    ("scale", 1),  # molded pixels per original pixel
)


def compose_image_meta(
    image_id: float,
    original_image_shape: Sequence[int] | np.ndarray,
    image_shape: Sequence[int] | np.ndarray,
    window: Sequence[int] | np.ndarray,
    scale: float,
    active_class_ids: npt.ArrayLike,
) -> np.ndarray:
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


def parse_image_meta(meta: Any, *names: str) -> dict[str, Any]:
    """Attributes by name of metas [batch, 12 + num_classes], numpy or tensor: those in `names`, or all.

    Returns:
        dict of slices: image_id [batch], original_image_shape [batch, 3], image_shape [batch, 3],
        window [batch, (y1, x1, y2, x2)] in pixels, scale [batch], active_class_ids [batch, num_classes].
    """
    slices, start = dict[str, int | slice](), 0
    for name, width in _FIELDS:
        slices[name] = start if width == 1 else slice(start, start + width)
        start += width
    slices["active_class_ids"] = slice(start, None)
    return {name: meta[:, slices[name]] for name in names or slices}
