"""Drawings of the inside of the network: proposals and their refinement, masks, feature maps, differences.

The functions draw on the axes they are given or on those of a new figure, return them, and never show anything. Boxes
are (y1, x1, y2, x2) in pixels, y2 and x2 exclusive.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from ..data import molding
from ..io.errors import InputError
from ..ops.boxes import compute_overlaps, match_greedily
from . import style
from .instances import apply_mask, random_colors
from .lettering import plot_text
from .palette import contrasting_colors
from .style import Color, Values

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TRUE_COLOR, _FOUND_COLOR = (0.0, 0.85, 0.0), (1.0, 0.1, 0.1)  # ground truth and detections in `display_differences`
_GRAY = (0.85, 0.85, 0.85)
_LINES = ("dotted", "dotted", "solid")  # of the visibilities 0, 1, 2
_INCHES, _LARGE_INCHES, _TITLE_INCHES = 4, 12, 0.4  # widths of images in new figures, height of a title
_LINE_WIDTH, _SHADOW_WIDTH = 2, 3.5  # of boxes, in points
_CAPTION_SIZE = 11  # points


# ---- several images --------------------------------------------------------------------------------------------------
def display_images(
    images: Sequence[ArrayLike],
    titles: Sequence[str] | None = None,
    cols: int = 4,
    cmap: Any = None,
    norm: Any = None,
    interpolation: str | None = None,
    *,
    ax: Any = None,
) -> "list[Axes]":
    """Draw images beside each other.

    Args:
        images: sequence of [height, width] or [height, width, RGB].
        titles: as many texts.
        cols: images in a row.
        cmap, norm, interpolation: as matplotlib's `imshow` takes them.
        ax: as many axes, in any arrangement, which are returned; None makes a new figure.
    """
    arrays = [np.asarray(image) for image in images]
    for index, image in enumerate(arrays):
        if image.ndim not in (2, 3) or not image.size:
            raise InputError(f"images: expected [height, width] or [height, width, 3], got {image.shape} at {index}")
    titles = style.checked_count([""] * len(arrays) if titles is None else titles, len(arrays), "titles")
    highest = max((image.shape for image in arrays), key=lambda shape: shape[0] / shape[1], default=(1, 1))
    axes = _axes_for(len(arrays), cols, ax, highest, _INCHES)
    for cell, image, title in zip(axes, arrays, titles, strict=True):
        pixels = image.astype(np.uint8) if image.ndim == 3 else image
        cell.imshow(pixels, cmap=cmap, norm=norm, interpolation=interpolation)
        cell.axis("off")
        cell.set_title(plot_text(title), fontsize=9)
    return axes


def display_top_masks(
    image: ArrayLike, mask: ArrayLike, class_ids: Values, class_names: Sequence[str], limit: int = 4, *, ax: Any = None
) -> "list[Axes]":
    """Draw an image and beside it the masks of the `limit` classes that cover most of it, or empty ones.

    Args:
        mask: [height, width, n], zero or False outside. Other arguments as in `display_instances`.
        ax: `limit` + 1 axes, which are returned; None makes a new figure.
    """
    image, mask, class_ids = style.checked_image(image, "image"), np.asarray(mask), np.asarray(class_ids, int)
    style.checked_shape(mask, (*image.shape[:2], len(class_ids)), "mask")
    areas = mask.astype(bool).sum(axis=(0, 1))
    classes = [int(class_id) for class_id in np.unique(class_ids) if areas[class_ids == class_id].any()]
    classes.sort(key=lambda class_id: -areas[class_ids == class_id].sum())
    images, titles = [image], [f"height x width = {image.shape[0]} x {image.shape[1]}"]
    for place in range(limit):
        merged, class_id = np.zeros(image.shape[:2], int), classes[place] if place < len(classes) else None
        for number, index in enumerate(np.flatnonzero(class_ids == class_id), 1):
            merged[mask[:, :, index].astype(bool)] = number
        images.append(merged)
        titles.append("-" if class_id is None else str(class_names[class_id]))
    return display_images(images, titles, cols=limit + 1, cmap="Blues_r", interpolation="nearest", ax=ax)


# ---- boxes and their refinement --------------------------------------------------------------------------------------
def draw_boxes(
    image: ArrayLike,
    boxes: ArrayLike | None = None,
    refined_boxes: ArrayLike | None = None,
    masks: ArrayLike | None = None,
    captions: Sequence[str] | None = None,
    visibilities: Values | None = None,
    title: str = "",
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw boxes, their refinements and masks.

    Args:
        image: uint8 [height, width, RGB].
        boxes: [n, (y1, x1, y2, x2)] in pixels; a row of zeros is left out. Dashed if there are refined boxes too.
        refined_boxes: [n, (y1, x1, y2, x2)], solid, with a line from the corner of the box to theirs.
        masks: [height, width, n], zero or False outside.
        captions: n texts, at the refined box where there is one.
        visibilities: n of 0 (gray and dotted), 1 (colored and dotted) or 2 (colored and solid, the default).
        title, ax: as in `display_instances`.
    """
    image = style.checked_image(image, "image")
    given = {"boxes": boxes, "refined_boxes": refined_boxes}
    count = max((len(np.asarray(values)) for values in given.values() if values is not None), default=0)
    blank = np.zeros((count, 4))
    checked = [style.checked_boxes(blank if values is None else values, name) for name, values in given.items()]
    old, refined = (style.checked_count(values, count, "boxes and refined_boxes") for values in checked)
    if masks is not None:
        masks = style.checked_shape(masks, (*image.shape[:2], count), "masks")
    captions = style.checked_count([""] * count if captions is None else captions, count, "captions")
    visibilities = style.checked_count([2] * count if visibilities is None else visibilities, count, "visibilities")
    if any(each not in range(len(_LINES)) for each in visibilities):
        raise InputError(f"visibilities: expected 0, 1 or 2 for each box, got {list(visibilities)}")
    from .captions import draw_captions

    ax = _axes_for(1, 1, ax, image.shape, _LARGE_INCHES)[0]
    places = np.where(refined.any(axis=1, keepdims=True), refined, old)
    painted = np.array(image)
    chosen = random_colors(count) if masks is None else contrasting_colors(image, masks)
    colors = [color if visible else _GRAY for color, visible in zip(chosen, visibilities, strict=True)]
    for index, color in enumerate(colors):
        line = _LINES[int(visibilities[index])]
        if masks is not None:
            apply_mask(painted, masks[:, :, index], color)
            style.draw_outline(ax, masks[:, :, index], color)
        _draw_refinement(ax, old[index], refined[index], color, line)
    style.draw_image(ax, painted, title, margin=max(image.shape[:2]) // 20)
    draw_captions(ax, captions, places, colors, size=_CAPTION_SIZE)
    return ax


def draw_rois(
    image: ArrayLike,
    rois: ArrayLike,
    refined_rois: ArrayLike,
    mask: ArrayLike | None,
    class_ids: ArrayLike,
    class_names: Sequence[str] | None,
    limit: int = 10,
    *,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw proposals as the heads refine them: background in gray, objects with class and mask.

    Args:
        image: uint8 [height, width, RGB].
        rois: [n, (y1, x1, y2, x2)] in pixels; rows of zeros are padding.
        refined_rois: [n, (y1, x1, y2, x2)] in pixels.
        mask: float [n, h, w], probabilities inside each refined box (`mrcnn_mask`), or None.
        class_ids: int [n], 0 for background.
        class_names, ax: as in `display_instances`. The title has the counts.
        limit: number of proposals, taken evenly from all of them.
    """
    image, rois = style.checked_image(image, "image"), style.checked_boxes(rois, "rois")
    refined = style.checked_count(style.checked_boxes(refined_rois, "refined_rois"), len(rois), "refined_rois")
    class_ids = style.checked_count(np.asarray(class_ids, int), len(rois), "class_ids")
    real = np.flatnonzero(rois.any(axis=1))
    positive = np.count_nonzero(class_ids[real] > 0)
    title = f"{len(real)} proposals, {positive} of objects ({100 * positive / max(len(real), 1):.0f}%)"
    chosen = real[np.linspace(0, len(real) - 1, min(limit, len(real))).astype(int)]
    title += "" if len(chosen) == len(real) else f"; {len(chosen)} shown"
    is_object = class_ids[chosen] > 0
    captions = [str(class_names[i]) if class_names is not None and i > 0 else "" for i in class_ids[chosen]]
    masks = np.zeros((*image.shape[:2], len(chosen)), bool)
    if mask is not None:
        probabilities = style.checked_count(np.asarray(mask), len(rois), "mask")
        for place in np.flatnonzero(is_object):
            box = np.rint(refined[chosen[place]]).astype(int)
            if np.all(box[2:] > box[:2]):
                masks[:, :, place] = molding.unmold_mask(probabilities[chosen[place]], box, image.shape)
    refined = np.where(is_object[:, None], refined[chosen], 0)
    return draw_boxes(image, rois[chosen], refined, masks, captions, np.where(is_object, 2, 0), title, ax)


# ---- differences -----------------------------------------------------------------------------------------------------
def display_differences(
    image: ArrayLike,
    gt_box: ArrayLike,
    gt_class_id: ArrayLike | None,
    gt_mask: ArrayLike | None,
    pred_box: ArrayLike,
    pred_class_id: ArrayLike | None,
    pred_score: ArrayLike,
    pred_mask: ArrayLike | None,
    class_names: Sequence[str] | None = None,
    title: str = "",
    ax: "Axes | None" = None,
    show_mask: bool = True,
    show_box: bool = True,
    iou_threshold: float = 0.5,
    score_threshold: float = 0.5,
) -> "Axes":
    """Draw ground truth (green) and detections (red, with score / overlap) over each other.

    Args:
        image: uint8 [height, width, RGB].
        gt_box, pred_box: [n, (y1, x1, y2, x2)] in pixels.
        gt_class_id, pred_class_id: int [n]; None for one of them compares no classes.
        gt_mask, pred_mask: [height, width, n], zero or False outside; None compares boxes instead.
        pred_score: [n].
        class_names: not used; part of Matterport's signature.
        title: above the image; "" gives the number of found instances.
        ax, show_mask, show_box: as in `display_instances`.
        iou_threshold: minimum overlap of a match, which has a `*` after its overlap.
        score_threshold: minimum score of a detection.
    """
    image = style.checked_image(image, "image")
    truth, found = style.checked_boxes(gt_box, "gt_box"), style.checked_boxes(pred_box, "pred_box")
    scores = style.checked_count(np.asarray(pred_score, float), len(found), "pred_score")
    kept = np.argsort(-scores, kind="stable")
    kept = kept[scores[kept] >= score_threshold]
    masks = None
    if gt_mask is None or pred_mask is None:
        overlaps = compute_overlaps(found[kept], truth)
    else:
        gt_masks = style.checked_shape(gt_mask, (*image.shape[:2], len(truth)), "gt_mask").astype(bool)
        pred_masks = style.checked_shape(pred_mask, (*image.shape[:2], len(found)), "pred_mask").astype(bool)
        masks = np.concatenate([gt_masks, pred_masks[:, :, kept]], axis=2)
        overlaps = mask_overlaps(pred_masks[:, :, kept], gt_masks)
    if gt_class_id is not None and pred_class_id is not None:
        overlaps = overlaps * (np.asarray(pred_class_id)[kept][:, None] == np.asarray(gt_class_id)[None])
    matches = match_greedily(overlaps, iou_threshold)
    captions = [""] * len(truth)
    for index, score in enumerate(scores[kept]):
        captions.append(f"{score:.2f} / {overlaps[index].max(initial=0):.2f}{'' if matches[index] < 0 else '*'}")
    title = title or f"{np.count_nonzero(matches >= 0)} of {len(truth)} found; detections: score / overlap, * found"
    ax = _axes_for(1, 1, ax, image.shape, _LARGE_INCHES)[0]
    painted, boxes = np.array(image), np.concatenate([truth, found[kept]])
    colors = [_TRUE_COLOR] * len(truth) + [_FOUND_COLOR] * len(kept)
    for index, color in enumerate(colors):
        if masks is not None and show_mask:
            apply_mask(painted, masks[:, :, index], color, 0.35)
            style.draw_outline(ax, masks[:, :, index], color)
        if show_box:
            _draw_refinement(ax, np.zeros(4), boxes[index], color, "solid")
    style.draw_image(ax, painted, title, margin=max(image.shape[:2]) // 20)
    if show_box:
        from .captions import draw_captions

        draw_captions(ax, captions, boxes, colors, size=_CAPTION_SIZE)
    return ax


def draw_box(image: np.ndarray, box: ArrayLike, color: Sequence[float] | np.ndarray) -> np.ndarray:
    """Draw the outline of a box, 2 pixels wide, into an image, as Matterport's function does.

    Args:
        image: uint8 [height, width, 3], changed and returned.
        box: (y1, x1, y2, x2) in pixels; what is outside the image is not drawn.
        color: (r, g, b) in 0..255.
    """
    y1, x1, y2, x2 = np.clip(np.asarray(box, int), 0, [*image.shape[:2], *image.shape[:2]]).tolist()
    inside = image[y1:y2, x1:x2]
    inside[:2], inside[-2:], inside[:, :2], inside[:, -2:] = color, color, color, color
    return image


def mask_overlaps(masks1: ArrayLike, masks2: ArrayLike) -> np.ndarray:
    """Intersection over union [n1, n2] of the masks [height, width, n1] with the masks [height, width, n2]."""
    pair = (np.asarray(masks, bool).astype(np.float32) for masks in (masks1, masks2))
    flat1, flat2 = (masks.reshape(masks.shape[0] * masks.shape[1], masks.shape[2]) for masks in pair)
    shared = flat1.T @ flat2
    union = flat1.sum(axis=0)[:, None] + flat2.sum(axis=0)[None] - shared
    return shared / np.maximum(union, 1)


# ---- maps ------------------------------------------------------------------------------------------------------------
def display_matching(
    image: ArrayLike,
    maps: Sequence[ArrayLike],
    names: Sequence[str] | None = None,
    window: Sequence[float] | np.ndarray | None = None,
    molded_shape: Sequence[int] | None = None,
    *,
    alpha: float = 0.6,
    cmap: Any = "inferno",
    cols: int = 3,
    ax: Any = None,
) -> "list[Axes]":
    """Draw feature maps, such as maps matched with a reference, as heat over their scene.

    Args:
        image: uint8 [height, width, RGB].
        maps: sequence of [h, w], [h, w, channels] or [1, h, w, channels], for example one for each pyramid level; of
            channels the mean absolute value is drawn.
        names: as many titles; None takes P2, P3, ...
        window: (y1, x1, y2, x2) in pixels, the part of the molded image that shows the scene, as in
            `EncodedScenes.windows`; None if the maps are of `image` itself.
        molded_shape: (height, width, ...) of the molded image in pixels; goes with `window`.
        alpha, cmap: opacity of the heat, 0..1, and its colors, each map with a color bar of its own range.
        cols, ax: as in `display_images`.
    """
    image, strengths = style.checked_image(image, "image"), [channel_strength(values) for values in maps]
    if (window is None) != (molded_shape is None):
        raise InputError("window and molded_shape: expected both or neither, they go together")
    names = [f"P{level}" for level in range(2, 2 + len(strengths))] if names is None else names
    style.checked_count(names, len(strengths), "names")
    if window is None or molded_shape is None:
        heats = strengths
    else:
        y1, x1, y2, x2 = map(int, window)
        if not (0 <= y1 < y2 <= molded_shape[0] and 0 <= x1 < x2 <= molded_shape[1]):
            raise InputError(f"window: expected a box inside {tuple(molded_shape[:2])}, got {(y1, x1, y2, x2)}")
        heats = [_resized(strength, molded_shape)[y1:y2, x1:x2] for strength in strengths]
    axes = _axes_for(len(strengths), cols, ax, image.shape, _INCHES)
    for cell, strength, values, name in zip(axes, strengths, heats, names, strict=True):
        heat = _resized(values, image.shape)
        style.draw_image(cell, image, f"{name}, {strength.shape[0]} x {strength.shape[1]}", margin=0)
        drawn = cell.imshow(heat, cmap=cmap, alpha=alpha, vmin=float(heat.min()), vmax=float(heat.max()))
        bar: Any = cell.figure.colorbar(drawn, cax=cell.inset_axes((1.02, 0, 0.04, 1)))
        bar.solids.set_alpha(1)
    return axes


def channel_strength(values: ArrayLike) -> np.ndarray:
    """Mean of the absolute values over channels, float32 [h, w], of [h, w, channels] or [1, h, w, channels].

    [h, w] is returned as it is.
    """
    values = np.asarray(values, np.float32)
    values = values[0] if values.ndim == 4 and len(values) == 1 else values
    if values.ndim not in (2, 3) or not values.size:
        raise InputError(f"maps: expected [h, w], [h, w, channels] or [1, h, w, channels], got shape {values.shape}")
    return np.abs(values).mean(axis=-1) if values.ndim == 3 else values


# ---- for other libraries ---------------------------------------------------------------------------------------------
def results_to_detections(result: Mapping[str, Any]) -> dict[str, np.ndarray | None]:
    """Detections as arguments of `supervision.Detections(**detections)`.

    Args:
        result: of `SiamesePredictor.detect`, or of `SiameseMaskRCNN.detect` for one scene:
            rois [n, (y1, x1, y2, x2)], scores [n], masks [height, width, n], perhaps class_ids [n].

    Returns:
        dict: xyxy float32 [n, (x1, y1, x2, y2)], mask bool [n, height, width] (None for a model without masks),
        confidence float32 [n], class_id int64 [n] (1 where there are none).

    Raises:
        ValueError: a key is missing, or the numbers of values differ.
    """
    missing = [key for key in ("rois", "scores", "masks") if key not in result]
    if missing:
        raise InputError(f"result: expected rois, scores and masks, {missing[0]!r} is missing")
    rois = style.checked_boxes(result["rois"], "rois")
    scores = style.checked_count(np.asarray(result["scores"], np.float32), len(rois), "scores")
    class_ids = result.get("class_ids")
    class_ids = np.ones(len(rois)) if class_ids is None else style.checked_count(class_ids, len(rois), "class_ids")
    masks = np.asarray(result["masks"], bool)
    mask = None
    if masks.ndim == 3 and (masks.shape[2] or not len(rois)):
        style.checked_shape(masks, (*masks.shape[:2], len(rois)), "masks")
        mask = np.ascontiguousarray(np.moveaxis(masks, -1, 0))
    return {
        "xyxy": rois[:, [1, 0, 3, 2]].astype(np.float32),
        "mask": mask,
        "confidence": scores,
        "class_id": np.asarray(class_ids, np.int64),
    }


# ---- helpers ---------------------------------------------------------------------------------------------------------
def _axes_for(count: int, columns: int, ax: Any, shape: tuple[int, ...], width: float) -> "list[Axes]":
    """`count` axes: the given ones, or new ones, `columns` in a row, `width` inches wide for an image of `shape`."""
    if ax is not None:
        return list(style.checked_count(np.ravel(ax), count, "ax"))
    columns = max(min(columns, count), 1)
    rows = max(-(-count // columns), 1)
    figure = style.new_figure((width * columns, (width * shape[0] / shape[1] + _TITLE_INCHES) * rows))
    return style.add_grid(figure, count, columns)


def _draw_refinement(ax: "Axes", box: np.ndarray, refined: np.ndarray, color: Color, line: str) -> None:
    """A box and its refinement; a row of zeros is no box."""
    from matplotlib.patheffects import withStroke

    shadow = [withStroke(linewidth=_SHADOW_WIDTH, foreground=style.SHADOW)]
    both = box.any() and refined.any()
    for edges, dashes in ((box, "dashed" if both else line), (refined, line)):
        if edges.any():
            style.draw_box(ax, edges, color, linewidth=_LINE_WIDTH, linestyle=dashes, path_effects=shadow)
    if both:
        ax.plot([box[1] - 0.5, refined[1] - 0.5], [box[0] - 0.5, refined[0] - 0.5], color=color)


def _resized(values: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Values [h, w] in the size (height, width, ...), bilinearly."""
    return np.asarray(Image.fromarray(values).resize((shape[1], shape[0]), Image.Resampling.BILINEAR))
