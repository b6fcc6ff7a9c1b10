"""Resizing and padding of images, masks and mini masks.

Images are resized bilinearly with the semantics of scikit-image (order 1, mode "constant", no anti-aliasing): a
neighbour beyond the border counts as 0, so borders fade, and the result stays in the value range of the input. The
released weights were trained on exactly this. Masks are resized by the nearest pixel, as scipy's zoom does. Boxes are
(y1, x1, y2, x2) in pixels, y2 and x2 exclusive.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..io.errors import InputError
from ..settings import RESIZE_MODES

Padding = list[tuple[int, int]]  # [(top, bottom), (left, right), (0, 0)] in pixels
Crop = tuple[int, int, int, int]  # (y, x, height, width) in pixels of the resized image
Resized = tuple[np.ndarray, tuple[int, int, int, int], float, Padding, Crop | None]  # see `resize_image`
Pair = Sequence[np.ndarray]  # neighbours of the output pixels along an axis, or their weights

PAD_MULTIPLE = 64  # five halvings in the backbone, one more for P6
_MIN_SIDE = 2  # pixels of a resized image
_BLOCK_ROWS = 32  # rows worked on at a time, to stay in the processor's cache


# ---- resizing ----------------------------------------------------------------------------------------------------
def resize(
    array: npt.ArrayLike, shape: Sequence[int], *, region: Sequence[int] | None = None, dtype: npt.DTypeLike = float
) -> np.ndarray:
    """Resize [height, width] or [height, width, channels], numbers or bool, bilinearly.

    Args:
        shape: (height, width, ...) of the result; channels stay.
        region: (y1, x1, y2, x2), the part of the result to compute; None computes all of it.
        dtype: of the result, which has the value range of `array`; integers are truncated.
    """
    array = np.asarray(array)
    if array.ndim not in (2, 3) or not array.size or min(shape[:2]) < 1:
        raise InputError(f"cannot resize shape {array.shape} to {tuple(shape[:2])}: an axis is missing or empty")
    y1, x1, y2, x2 = (0, 0, *shape[:2]) if region is None else region
    above, below, *row_weights = _taps(array.shape[0], shape[0], y1, y2)
    left, right, *column_weights = _taps(array.shape[1], shape[1], x1, x2)
    rows = np.unique(np.concatenate([above, below]))
    channels = array.shape[2] if array.ndim == 3 else 1
    flat = array.reshape(array.shape[0], -1)
    columns = [(tap[:, None] * channels + np.arange(channels)).ravel() for tap in (left, right)]
    column_weights = [np.repeat(weight, channels) for weight in column_weights]
    # columns first, then rows, in float64: the original's order, so that values truncate alike
    narrow = np.empty((len(rows), len(columns[0])))
    for start in range(0, len(rows), _BLOCK_ROWS):
        block = slice(start, start + _BLOCK_ROWS)
        _blend(flat[rows[block]].astype(np.float64), columns, column_weights, axis=1, out=narrow[block])
    result = np.empty((y2 - y1, narrow.shape[1]), dtype)
    lowest, highest = array.min(), array.max()
    above, below = np.searchsorted(rows, above), np.searchsorted(rows, below)
    for start in range(0, len(result), _BLOCK_ROWS):
        block = slice(start, start + _BLOCK_ROWS)
        weights = [weight[block, None] for weight in row_weights]
        blended = _blend(narrow, (above[block], below[block]), weights, axis=0)
        result[block] = np.clip(blended, lowest, highest, out=blended)
    return result.reshape(y2 - y1, x2 - x1, *array.shape[2:])


def resize_image(
    image: npt.ArrayLike,
    min_dim: int | None = None,
    max_dim: int | None = None,
    min_scale: float | None = None,
    mode: str = "square",
    *,
    rng: np.random.Generator | None = None,
) -> Resized:
    """Resize and pad an image [height, width, channels] as Matterport's function of that name.

    Args:
        min_dim: minimum of the short side after scaling up, in pixels.
        max_dim: in mode "square" the side of the result, in pixels; a longer side is scaled down to it.
        min_scale: minimum scale.
        mode: "none": untouched. "square": zero-padded to a square. "pad64": scaled up, then zero-padded to multiples
            of 64. "crop": scaled up, then a random [min_dim, min_dim] part of it.
        rng: places the crop of mode "crop".

    Returns:
        image: [new height, new width, channels] in the dtype of `image` (truncated where that is an integer).
        window: (y1, x1, y2, x2) of the image inside its padding.
        scale: resized pixels per pixel of `image`.
        padding: [(top, bottom), (left, right), (0, 0)] in pixels.
        crop: (y, x, height, width) in the resized image, or None.
    """
    image = np.asarray(image)
    if image.ndim != 3 or not image.size:
        raise InputError(f"image: expected [height, width, channels] that is not empty, got shape {image.shape}")
    _check_resize_args(min_dim, max_dim, mode, rng)
    scale, shape = scaled_shape(image.shape, min_dim, max_dim, min_scale, mode)
    if shape != image.shape[:2]:
        image = resize(image, shape, dtype=image.dtype)
    padding = padding_of(shape, max_dim, mode)
    crop = None
    if mode == "crop" and min_dim and rng:
        y, x = (int(rng.integers(0, side - min_dim, endpoint=True)) for side in shape)
        crop, image = (y, x, min_dim, min_dim), image[y : y + min_dim, x : x + min_dim]
    (top, _), (left, _), _ = padding
    window = (top, left, top + image.shape[0], left + image.shape[1])
    return np.pad(image, padding) if any(map(any, padding)) else image, window, scale, padding, crop


def resize_mask(mask: npt.ArrayLike, scale: float, padding: Padding, crop: Crop | None = None) -> np.ndarray:
    """Resize and pad masks as `resize_image` did their image: nearest with aligned corners.

    [height, width, num_instances] to [new height, new width, num_instances] of the same dtype, a view of the masks
    stored one after the other, so that looking at each is fast. Equal to
    `scipy.ndimage.zoom(mask, (scale, scale, 1), order=0)`, its float64 edge rule included. `scale`, `padding` and
    `crop` are what `resize_image` returned.
    """
    mask = np.asarray(mask)
    # whole masks one after the other, by row or by column as they come: pycocotools decodes them by column
    axes = (2, 1, 0) if mask.strides[0] < mask.strides[1] else (2, 0, 1)
    planes = np.ascontiguousarray(mask.transpose(axes))
    sources = [_nearest(side, _scaled(side, scale)) for side in mask.shape[:2]]
    first, second = (sources[axis] for axis in axes[1:])
    resized = planes.take(first, axis=1, mode="clip").take(second, axis=2, mode="clip")
    resized[:, first < 0] = 0
    resized[:, :, second < 0] = 0
    if crop is None and any(map(any, padding)):
        resized = np.pad(resized, [padding[axis] for axis in axes])
    resized = resized.transpose(np.argsort(axes))
    if crop is not None:
        y, x, height, width = crop
        return resized[y : y + height, x : x + width]
    return resized


def minimize_mask(bbox: npt.ArrayLike, mask: np.ndarray, mini_shape: Sequence[int]) -> np.ndarray:
    """Masks cut to their boxes and resized to one small shape, to save memory: bool [*mini_shape, num_instances].

    `bbox` is int [num_instances, (y1, x1, y2, x2)] in pixels, `mask` [height, width, num_instances], and `mini_shape`
    (mini height, mini width) in pixels.
    """
    mini_mask = np.zeros((*mini_shape[:2], mask.shape[-1]), bool)
    for index, (y1, x1, y2, x2) in enumerate(_boxes_of_masks(bbox, mask.shape[-1], mask.shape)):
        part = mask[y1:y2, x1:x2, index].astype(bool)
        mini_mask[:, :, index] = np.around(resize(part, mini_shape))
    return mini_mask


def expand_mask(bbox: npt.ArrayLike, mini_mask: np.ndarray, image_shape: Sequence[int]) -> np.ndarray:
    """The approximate reverse of `minimize_mask`: bool [height, width, num_instances].

    The boxes are inside the image, `image_shape` is its (height, width, ...) in pixels.
    """
    mask = np.zeros((*image_shape[:2], mini_mask.shape[-1]), bool)
    for index, (y1, x1, y2, x2) in enumerate(_boxes_of_masks(bbox, mini_mask.shape[-1], image_shape)):
        mask[y1:y2, x1:x2, index] = np.around(resize(mini_mask[:, :, index].astype(bool), (y2 - y1, x2 - x1)))
    return mask


def _taps(size: int, new_size: int, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Neighbours and weights of output pixels start..stop along one axis; a neighbour outside weighs 0."""
    centres = (np.arange(start, stop) + 0.5) * (size / new_size) - 0.5
    first = np.floor(centres).astype(int)
    fraction = centres - first
    weights = np.where(first >= 0, 1 - fraction, 0.0), np.where(first + 1 < size, fraction, 0.0)
    return np.maximum(first, 0), np.minimum(first + 1, size - 1), *weights


def _blend(array: np.ndarray, taps: Pair, weights: Pair, *, axis: int, out: np.ndarray | None = None) -> np.ndarray:
    """The weighted sum of two gathers along an axis."""
    first = np.take(array, taps[0], axis, out=out, mode="clip")
    first *= weights[0]
    first += np.take(array, taps[1], axis) * weights[1]
    return first


def _nearest(size: int, new_size: int) -> np.ndarray:
    """Source index of every output pixel, corners aligned; -1 where rounding passes the last one (scipy gives 0)."""
    centres = np.arange(new_size) * ((size - 1) / max(new_size - 1, 1))
    return np.where(centres > size - 1, -1, np.floor(centres + 0.5)).astype(int)


def _check_resize_args(min_dim: int | None, max_dim: int | None, mode: str, rng: np.random.Generator | None) -> None:
    if mode not in RESIZE_MODES:
        raise InputError(f"mode = {mode!r}: expected one of {', '.join(RESIZE_MODES)}")
    for name, value, needing in (("max_dim", max_dim, "square"), ("min_dim", min_dim, "crop")):
        if mode == needing and not value:
            raise InputError(f"{name} = {value!r}: mode {mode!r} needs its side in pixels")
    if mode == "pad64" and (not min_dim or min_dim % PAD_MULTIPLE):
        raise InputError(f"min_dim = {min_dim!r}: mode 'pad64' needs a multiple of {PAD_MULTIPLE}")
    if mode == "crop" and rng is None:
        raise InputError("rng = None: IMAGE_RESIZE_MODE = 'crop' is random, it needs a numpy.random.Generator as rng")


def scaled_shape(
    shape: Sequence[int], min_dim: int | None, max_dim: int | None, min_scale: float | None, mode: str
) -> tuple[float, tuple[int, int]]:
    """(scale, (height, width)) of an image of `shape` that `resize_image` resizes with these arguments."""
    height, width = shape[:2]
    if mode == "none":
        return 1, (height, width)
    scale = max(1, min_dim / min(height, width) if min_dim else 1, min_scale or 0)
    if mode == "square" and max_dim and round(max(height, width) * scale) > max_dim:
        scale = max_dim / max(height, width)
    return scale, (_scaled(height, scale), _scaled(width, scale))


def _scaled(side: int, scale: float) -> int:
    """A resized side; two pixels at least where it had two: boxes in a window of one pixel have no extent."""
    return max(round(side * scale), min(side, _MIN_SIDE))


def padding_of(shape: tuple[int, int], max_dim: int | None, mode: str) -> Padding:
    """[(top, bottom), (left, right), (0, 0)] around a resized image; the smaller half comes first."""
    missing = [-side % PAD_MULTIPLE if mode == "pad64" else 0 for side in shape]
    if mode == "square" and max_dim:
        missing = [max_dim - side for side in shape]
    return [(pixels // 2, pixels - pixels // 2) for pixels in missing] + [(0, 0)]


def _boxes_of_masks(bbox: npt.ArrayLike, count: int, image_shape: Sequence[int]) -> list[list[int]]:
    """Boxes as a list of ints, once there are `count` of them, each with area and inside the image."""
    boxes, (height, width) = np.asarray(bbox).astype(int), image_shape[:2]
    if boxes.shape != (count, 4):
        raise InputError(f"bbox: expected one (y1, x1, y2, x2) for each of {count} masks, got shape {boxes.shape}")
    corners: list[list[int]] = boxes.tolist()
    for index, (y1, x1, y2, x2) in enumerate(corners):
        if not (0 <= y1 < y2 <= height and 0 <= x1 < x2 <= width):
            raise InputError(f"bbox[{index}] = {(y1, x1, y2, x2)}: no box inside {height} x {width} pixels")
    return corners
