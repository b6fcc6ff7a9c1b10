"""Colors of categories and instances: far from each other and from what they mark, readable on dark and light plates.

Distances are CIEDE2000, the distance that fits what people see best; 1 is just visible, 20 and more is another color.
"""

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from skimage.color import deltaE_ciede2000, rgb2lab

from ..io.errors import InputError
from ..ops.boxes import extract_bboxes
from .style import Color, checked_boxes, checked_image, checked_shape

_STEPS = 12  # of the grid in each channel of RGB
_LIGHTNESS, _CHROMA = (56, 86), (38, 100)  # of CIELAB: neither dull nor close to black and white
_SAMPLES = 256  # pixels of a reference that are compared
_INSTANCE_SAMPLES = 24  # pixels of an instance that are compared
_NEAR = 0.25  # share of these that may be closer to the color
_REFERENCE_WEIGHT = 0.7  # of the distance to the reference against that to the other categories
_AROUND_WEIGHT = 0.4  # of what is around an instance against the instance, which its color is mixed with
_ENOUGH = 45.0  # a larger distance makes no color better
_LUMINANCE = (0.2126, 0.7152, 0.0722)  # of linear red, green, blue


def category_colors(references: Sequence[Sequence[np.ndarray]]) -> list[Color]:
    """A color for each category, always the same for the same references.

    Args:
        references: for each category its crops, uint8 [h, w, RGB]; none where there is none to see.

    Returns:
        colors (red, green, blue) in 0..1; they repeat where there are more categories than distinct colors.
    """
    return _spread_colors([_distance_to_crops(crops) if crops else None for crops in references])


def contrasting_colors(image: ArrayLike, masks: ArrayLike | None, boxes: ArrayLike | None = None) -> list[Color]:
    """A color for each instance, far from those of its pixels, of what is around it, and of the other instances.

    Args:
        image: uint8 [height, width, RGB].
        masks: [height, width, n], zero or False outside; None takes the pixels of the boxes.
        boxes: [n, (y1, x1, y2, x2)] in pixels, only read without masks, then required.

    Returns:
        n colors (red, green, blue) in 0..1, as `colors` of the functions that draw instances.
    """
    image, distances = checked_image(image, "image"), list[np.ndarray | None]()
    if masks is None:
        if boxes is None:
            raise InputError("masks, boxes: expected one of them, got None for both")
        corners = np.maximum(checked_boxes(boxes, "boxes"), 0).astype(int)
    else:
        count = np.shape(masks)[-1] if np.ndim(masks) == 3 else 0
        masks = checked_shape(masks, (*image.shape[:2], count), "masks").astype(bool)
        corners = extract_bboxes(masks)
    for index, (y1, x1, y2, x2) in enumerate(corners):
        part = image[y1:y2, x1:x2]
        inside = np.ones(part.shape[:2], bool) if masks is None else masks[y1:y2, x1:x2, index]
        found = [_distance_to_crops([part[inside]], _INSTANCE_SAMPLES)] if inside.any() else []
        around = part[~inside]
        found += [_distance_to_crops([around], _INSTANCE_SAMPLES) / _AROUND_WEIGHT] if len(around) else []
        distances.append(np.min(found, axis=0) if found else None)
    return _spread_colors(distances)


def ink_on(color: Sequence[float] | np.ndarray) -> Color:
    """Black or white, whichever has more contrast to a color (red, green, blue) in 0..1 (WCAG's relative luminance)."""
    channels = np.asarray(color, float)
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return (0.0, 0.0, 0.0) if linear @ _LUMINANCE > 0.179 else (1.0, 1.0, 1.0)


def tint_on(color: Color, pixels: np.ndarray, min_distance: float = 22.0) -> Color:
    """A color as it is, or lighter or darker if it is too close to the mean of the pixels uint8 [n, RGB] below it."""
    if not len(pixels):
        return color
    behind = rgb2lab((pixels.mean(axis=0) / 255)[None, None])[0, 0]
    distance = float(deltaE_ciede2000(behind, rgb2lab(np.array(color)[None, None])[0, 0]))
    if distance >= min_distance:
        return color
    towards = 0.0 if behind[0] > 55 else 1.0
    share = 0.75 * (1 - distance / min_distance)
    red, green, blue = (part + (towards - part) * share for part in color)
    return red, green, blue


def _spread_colors(distances: Sequence[np.ndarray | None]) -> list[Color]:
    """A color for each category or instance, far from those before it and from its own pixels.

    `distances` are those of all candidates to the pixels; None where there are none.
    """
    candidates, chosen = _candidates(), list[int]()
    others = np.full(len(candidates), np.inf)  # distance to the nearest color in use
    for to_pixels in distances:
        if chosen:
            others = np.minimum(others, _distances_to(chosen[-1]))
        own = np.full(len(candidates), _ENOUGH) if to_pixels is None else _REFERENCE_WEIGHT * to_pixels
        best = int(np.minimum(np.minimum(others, own), _ENOUGH).argmax())
        if others[best] == 0:  # all are in use
            best, others = int(own.argmax()), np.full(len(candidates), np.inf)
        chosen.append(best)
    rgb = _grid()
    return [(float(rgb[index, 0]), float(rgb[index, 1]), float(rgb[index, 2])) for index in chosen]


def _distance_to_crops(crops: Sequence[np.ndarray], samples: int = _SAMPLES) -> np.ndarray:
    """Distance [candidates] to the colors of crops, but for those that a few pixels only have."""
    pixels = np.concatenate([np.asarray(crop).reshape(-1, 3) for crop in crops])
    chosen = pixels[np.linspace(0, len(pixels) - 1, min(samples, len(pixels))).astype(int)]
    lab = rgb2lab(chosen[None] / 255)[0]
    return np.quantile(deltaE_ciede2000(_candidates()[:, None], lab[None]), _NEAR, axis=1)


@functools.cache
def _grid() -> np.ndarray:
    """RGB [candidates, 3] in 0..1 of the colors to choose from."""
    axis = np.linspace(0, 1, _STEPS)
    rgb = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    lab = rgb2lab(rgb[None])[0]
    chroma = np.hypot(lab[:, 1], lab[:, 2])
    kept = (lab[:, 0] > _LIGHTNESS[0]) & (lab[:, 0] < _LIGHTNESS[1]) & (chroma > _CHROMA[0]) & (chroma < _CHROMA[1])
    return rgb[kept]


@functools.cache
def _candidates() -> np.ndarray:
    return np.asarray(rgb2lab(_grid()[None])[0])


@functools.cache
def _distances_to(index: int) -> np.ndarray:
    """Distances [candidates] of the colors to choose from to one of them."""
    candidates = _candidates()
    return np.asarray(deltaE_ciede2000(candidates[index][None], candidates))
