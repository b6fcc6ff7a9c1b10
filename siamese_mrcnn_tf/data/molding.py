"""Molding: scenes and references as the network takes them, and its detections back in pixels of the image.

Boxes are (y1, x1, y2, x2) in pixels, y2 and x2 exclusive.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..config import Config
from ..io.errors import InputError
from ..ops.boxes import denorm_boxes, extract_bboxes, norm_boxes
from ..ops.image_meta import compose_image_meta
from .resize import PAD_MULTIPLE, Resized, padding_of, resize, resize_image, resize_mask, scaled_shape

_MASK_THRESHOLD = 0.5


# ---- scenes ------------------------------------------------------------------------------------------------------
def mold_image(image: npt.ArrayLike, config: Config) -> np.ndarray:
    """Subtract MEAN_PIXEL: [..., RGB] in 0..255 to float32 of the same shape."""
    image, mean = np.asarray(image), np.asarray(config.MEAN_PIXEL, np.float64)
    molded = np.empty(image.shape, np.float32)
    # computed in float64 and rounded once, as in the original; numpy is slow at rows of three numbers
    width = image.shape[-2] if image.ndim > 1 and image.size and image.shape[-1] == len(mean) else 1
    rows = (*image.shape[:-2], width * image.shape[-1]) if width > 1 else image.shape
    np.subtract(image.reshape(rows), np.tile(mean, width), out=molded.reshape(rows), casting="same_kind")
    return molded


def unmold_image(image: npt.ArrayLike, config: Config) -> np.ndarray:
    """Add MEAN_PIXEL: float [..., RGB] to uint8 of the same shape, rounded and clipped to 0..255."""
    restored = np.asarray(image, np.float64) + np.asarray(config.MEAN_PIXEL, np.float64)
    return np.clip(np.around(restored), 0, 255).astype(np.uint8)


def mold_inputs(
    images: Sequence[npt.ArrayLike], config: Config, *, rng: np.random.Generator | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scenes as the network takes them.

    Args:
        images: sequence of uint8 [height, width, RGB], sizes may differ where IMAGE_RESIZE_MODE is "square".
        rng: numpy.random.Generator, for IMAGE_RESIZE_MODE "crop" only.

    Returns:
        molded_images: float32 [n, molded height, molded width, RGB], mean subtracted.
        image_metas: float64 [n, IMAGE_META_SIZE].
        windows: int [n, (y1, x1, y2, x2)] of the images inside their padding, in pixels of the molded image.
    """
    if not len(images):
        raise InputError("images: expected at least one image, got none")
    molded_images, image_metas, windows, no_classes = [], [], [], np.zeros(config.NUM_CLASSES)
    for index, given in enumerate(images):
        image = _checked_image(given, f"image {index}")
        if config.IMAGE_RESIZE_MODE == "none" and any(side % PAD_MULTIPLE for side in image.shape[:2]):
            needed = f"IMAGE_RESIZE_MODE = 'none' needs multiples of {PAD_MULTIPLE}"
            raise InputError(f"image {index}: {needed}, got {image.shape}")
        molded, window, scale, _, _ = resize_image(image, *scene_resize_args(config), rng=rng)
        molded_images.append(mold_image(molded, config))
        image_metas.append(compose_image_meta(0, image.shape, molded.shape, window, scale, no_classes))
        windows.append(window)
    shapes = list(dict.fromkeys(molded.shape for molded in molded_images))
    if len(shapes) > 1:
        raise InputError(f"images mold to the shapes {shapes}; a batch needs one (IMAGE_RESIZE_MODE = 'square')")
    return np.stack(molded_images), np.stack(image_metas), np.stack(windows)


def scene_resize_args(config: Config) -> tuple[int, int, float, str]:
    """Arguments of `resize_image` for scenes: (min_dim, max_dim, min_scale, mode)."""
    return config.IMAGE_MIN_DIM, config.IMAGE_MAX_DIM, config.IMAGE_MIN_SCALE, config.IMAGE_RESIZE_MODE


def resized_scene_shape(image_shape: Sequence[int], config: Config) -> tuple[float, tuple[int, int]]:
    """Scale and (height, width) in pixels of a resized scene before padding; `image_shape`: (height, width, ...)."""
    return scaled_shape(image_shape, *scene_resize_args(config))


def box_in_scene(mask: np.ndarray, config: Config) -> np.ndarray:
    """Box (y1, x1, y2, x2) of a mask [height, width] in pixels of the resized scene without padding; 0 if empty."""
    scale, _ = resized_scene_shape(mask.shape, config)
    return np.asarray(extract_bboxes(resize_mask(mask[..., None] != 0, scale, [(0, 0)] * 3))[0])


# ---- references --------------------------------------------------------------------------------------------------
def mold_reference(crop: npt.ArrayLike, config: Config) -> np.ndarray:
    """A crop resized and zero-padded to the reference's square: uint8 [TARGET_MAX_DIM, TARGET_MAX_DIM, RGB].

    `crop` is uint8 [height, width, RGB]; one that has the square's shape passes unchanged.
    """
    return resize_reference(_checked_image(crop, "reference"), config)[0].astype(np.uint8, copy=False)


def resize_reference(crop: npt.ArrayLike, config: Config) -> Resized:
    """`resize_image` of a crop [height, width, channels] with the arguments for references."""
    # as in the original, the minimum scale of scenes holds for references too
    return resize_image(crop, config.TARGET_MIN_DIM, config.TARGET_MAX_DIM, config.IMAGE_MIN_SCALE, "square")


def mold_references(crops: Sequence[npt.ArrayLike], config: Config, *, subtract_mean: bool) -> np.ndarray:
    """References as the network takes them: float32 [k, TARGET_MAX_DIM, TARGET_MAX_DIM, RGB].

    `crops` are k uint8 [height, width, RGB]. `subtract_mean` is True as in training; False keeps 0..255, as the
    original's evaluation feeds them.
    """
    if not len(crops):
        raise InputError("references: expected at least one crop, got none")
    molded = np.stack([mold_reference(_checked_image(c, f"reference {i}"), config) for i, c in enumerate(crops)])
    return mold_image(molded, config) if subtract_mean else molded.astype(np.float32)


def reference_from_mask(image: npt.ArrayLike, mask: npt.ArrayLike, config: Config) -> np.ndarray:
    """The reference in the box of an instance: uint8 [TARGET_MAX_DIM, TARGET_MAX_DIM, RGB].

    As in the original, the crop is cut from the scene resized for the network, by the box of the resized mask, and
    resized again; only the pixels of the crop are computed. `image` is the scene, uint8 [height, width, RGB]; `mask`
    [height, width] is zero or False outside the instance.
    """
    image, mask = _checked_image(image, "scene"), np.asarray(mask)
    if mask.shape != image.shape[:2]:
        raise InputError(f"mask: expected the shape of the scene {image.shape[:2]}, got {mask.shape}")
    scale, shape = resized_scene_shape(image.shape, config)
    box = box_in_scene(mask, config)
    if not box[2]:
        raise InputError(f"mask: no pixel at the network's scale {scale:.4g} ({np.count_nonzero(mask)} before)")
    return mold_reference(resize(image, shape, region=box.tolist(), dtype=image.dtype), config)


def reference_from_box(image: npt.ArrayLike, box: npt.ArrayLike, config: Config) -> np.ndarray:
    """As `reference_from_mask`, for a box (y1, x1, y2, x2) in pixels of `image`; fractions are allowed."""
    image, edges = _checked_image(image, "scene"), np.asarray(box, np.float64)
    if edges.shape != (4,):
        raise InputError(f"box: expected (y1, x1, y2, x2), got shape {edges.shape}")
    y1, x1, y2, x2 = map(float, edges)
    named = f"box (y1, x1, y2, x2) = ({y1:g}, {x1:g}, {y2:g}, {x2:g})"
    size = f"image of {image.shape[0]} x {image.shape[1]} pixels (height x width)"
    if not (y1 < y2 and x1 < x2):
        raise InputError(f"{named} is empty: expected y1 < y2 and x1 < x2 ({size})")
    if y1 < 0 or x1 < 0 or y2 > image.shape[0] or x2 > image.shape[1]:
        raise InputError(f"{named} leaves the {size}")
    scale, shape = resized_scene_shape(image.shape, config)
    (top, _), (left, _), _ = padding_of(shape, config.IMAGE_MAX_DIM, config.IMAGE_RESIZE_MODE)
    y1, y2 = _scaled_extent(y1, y2, scale, top, shape[0])
    x1, x2 = _scaled_extent(x1, x2, scale, left, shape[1])
    return mold_reference(resize(image, shape, region=(y1, x1, y2, x2), dtype=image.dtype), config)


# ---- unmolding ---------------------------------------------------------------------------------------------------
def unmold_mask(mask: npt.ArrayLike, bbox: npt.ArrayLike, image_shape: Sequence[int]) -> np.ndarray:
    """One mask of the network, probabilities [28, 28] (any size), at its place in the image: bool [height, width].

    `bbox` is int (y1, x1, y2, x2) in pixels; parts beyond the image are left out.
    """
    canvas = np.zeros(tuple(image_shape[:2]), bool)
    _paste_mask(canvas, mask, bbox)
    return canvas


def unmold_boxes(
    boxes_norm: npt.ArrayLike, original_image_shape: Sequence[int], image_shape: Sequence[int], window: npt.ArrayLike
) -> np.ndarray:
    """Boxes of the network in pixels of the original image: int32 [n, (y1, x1, y2, x2)].

    `boxes_norm` are [n, (y1, x1, y2, x2)] in normalized coordinates of the molded image; further arguments as in
    `unmold_detections`.
    """
    y1, x1, y2, x2 = norm_boxes(window, image_shape)
    extent = np.array([y2 - y1, x2 - x1] * 2)
    shifted = np.asarray(boxes_norm) - np.array([y1, x1, y1, x1])
    # an image of one pixel is its whole window, which has no extent in normalized coordinates
    within_window = np.where(extent > 0, shifted / np.where(extent > 0, extent, 1), (0, 0, 1, 1))
    return denorm_boxes(within_window, original_image_shape)


def unmold_detections(
    detections: npt.ArrayLike,
    mrcnn_mask: np.ndarray | None,
    original_image_shape: Sequence[int],
    image_shape: Sequence[int],
    window: npt.ArrayLike,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Detections of one image in pixels of the original image.

    Args:
        detections: [N, (y1, x1, y2, x2, class_id, score)], boxes in normalized coordinates of the molded image; rows
            from the first class id 0 on are padding.
        mrcnn_mask: [N, 28, 28], or [N, 28, 28, num_classes], or None for a model without masks.
        original_image_shape, image_shape: (height, width, ...) of the original and the molded image.
        window: (y1, x1, y2, x2) of the original image in the molded one, in pixels.

    Returns:
        boxes: int32 [n, (y1, x1, y2, x2)] in pixels; boxes without area are dropped.
        class_ids, scores: int32 [n], float [n].
        masks: bool [height, width, n], a view of [n, height, width]; [height, width, 0] if `mrcnn_mask` is None.
    """
    detections = np.asarray(detections)
    padding_rows = np.flatnonzero(detections[:, 4] == 0)
    detections = detections[: padding_rows[0]] if padding_rows.size else detections
    boxes = unmold_boxes(detections[:, :4], original_image_shape, image_shape, window)
    class_ids, scores = detections[:, 4].astype(np.int32), detections[:, 5]
    keep = np.flatnonzero((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]))
    boxes, class_ids, scores = boxes[keep], class_ids[keep], scores[keep]
    masks = np.zeros((0 if mrcnn_mask is None else len(keep), *original_image_shape[:2]), bool)
    if mrcnn_mask is not None:
        for canvas, box, class_id, mask in zip(masks, boxes, class_ids, np.asarray(mrcnn_mask)[keep], strict=True):
            _paste_mask(canvas, mask if mask.ndim == 2 else mask[:, :, class_id], box)
    return boxes, class_ids, scores, np.moveaxis(masks, 0, -1)


def _paste_mask(canvas: np.ndarray, mask: npt.ArrayLike, bbox: npt.ArrayLike) -> None:
    y1, x1, y2, x2 = map(int, np.asarray(bbox))
    placed = resize(mask, (y2 - y1, x2 - x1)) >= _MASK_THRESHOLD
    top, left = max(y1, 0), max(x1, 0)
    part = placed[top - y1 : max(canvas.shape[0] - y1, 0), left - x1 : max(canvas.shape[1] - x1, 0)]
    canvas[top : top + part.shape[0], left : left + part.shape[1]] = part


def _scaled_extent(start: float, stop: float, scale: float, offset: int, side: int) -> tuple[int, int]:
    """One axis of a box in whole resized pixels: inside 0..side, one or more of them."""
    # rounded with the padding's offset: half to even depends on it
    first, end = (round(edge * scale + offset) - offset for edge in (start, stop))
    first = min(first, side - 1)
    return first, min(max(end, first + 1), side)


def _checked_image(image: npt.ArrayLike, what: str) -> np.ndarray:
    """The image as an array, once it is known to be [height, width, 3] in 0..255."""
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or not image.size or image.dtype.kind not in "uif":
        found = f"{image.dtype} of shape {image.shape}"
        raise InputError(f"{what}: expected uint8 [height, width, 3] that is not empty, got {found}")
    if image.dtype != np.uint8 and not (image.min() >= 0 and image.max() <= 255):
        raise InputError(f"{what}: expected values in 0..255, got {image.min()} to {image.max()} ({image.dtype})")
    if image.dtype.kind == "f" and 0 < image.max() <= 1:
        raise InputError(f"{what}: looks like 0..1 ({image.dtype} up to {image.max():g}): expected 0..255")
    return image
