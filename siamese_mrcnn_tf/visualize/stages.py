"""Drawings of what happens inside: proposals and their refinement, masks, differences to the ground truth, maps.

Like those of `drawing`, these functions draw on the axes they are given or on those of a new figure, return them, and
never show anything. Boxes are (y1, x1, y2, x2) in pixels, y2 and x2 exclusive.
"""

import numpy as np
from PIL import Image

from ..data import molding
from ..ops.boxes import compute_overlaps, match_greedily
from .instances import apply_mask, random_colors
from .style import checked_image, draw_image, draw_outline, new_figure

_TRUE_COLOR, _FOUND_COLOR = (0.0, 0.85, 0.0), (1.0, 0.1, 0.1)  # ground truth and detections in `display_differences`
_GRAY, _SHADOW = (0.85, 0.85, 0.85), (0, 0, 0, 0.6)  # a light line with a dark one below is seen on every picture
_LINES = ("dotted", "dotted", "solid")  # of the visibilities 0, 1, 2
_INCHES, _LARGE_INCHES, _TITLE_INCHES = 4, 12, 0.4  # widths of pictures in new figures, height of a title
_LINE_WIDTH, _SHADOW_WIDTH = 2, 3.5  # of boxes, in points


# ---- several pictures ------------------------------------------------------------------------------------------------
def display_images(images, titles=None, cols=4, cmap=None, norm=None, interpolation=None, *, ax=None):
    """Draw pictures beside each other.

    Args:
        images: sequence of [height, width] or [height, width, RGB].
        titles: as many texts.
        cols: pictures in a row.
        cmap, norm, interpolation: as matplotlib's `imshow` takes them.
        ax: as many axes, in any arrangement; None makes a new figure.

    Returns:
        list of axes, one for each picture.
    """
    images = [np.asarray(image) for image in images]
    for index, image in enumerate(images):
        if image.ndim not in (2, 3) or not image.size:
            raise ValueError(f"images: expected [height, width] or [height, width, 3], got {image.shape} at {index}")
    titles = _as_many([""] * len(images) if titles is None else titles, images, "titles")
    highest = max((image.shape for image in images), key=lambda shape: shape[0] / shape[1], default=(1, 1))
    axes = _axes_for(len(images), cols, ax, highest, _INCHES)
    for cell, image, title in zip(axes, images, titles, strict=True):
        pixels = image.astype(np.uint8) if image.ndim == 3 else image
        cell.imshow(pixels, cmap=cmap, norm=norm, interpolation=interpolation)
        cell.axis("off")
        cell.set_title(title, fontsize=9)
    return axes


def display_top_masks(image, mask, class_ids, class_names, limit=4, *, ax=None):
    """Draw a picture and beside it the masks of the classes that cover most of it.

    Args:
        image: uint8 [height, width, RGB].
        mask: [height, width, n], zero or False outside the instances.
        class_ids: int [n].
        class_names: name of every class id.
        limit: number of classes.
        ax: `limit` + 1 axes; None makes a new figure.

    Returns:
        list of axes: the picture's, then one for each class, those that are not there empty.
    """
    image, mask, class_ids = checked_image(image, "image"), np.asarray(mask), np.asarray(class_ids, int)
    _require_shape(mask, (*image.shape[:2], len(class_ids)), "mask")
    areas = mask.astype(bool).sum(axis=(0, 1))
    classes = [int(class_id) for class_id in np.unique(class_ids) if areas[class_ids == class_id].any()]
    classes.sort(key=lambda class_id: -areas[class_ids == class_id].sum())
    images, titles = [image], [f"height x width = {image.shape[0]} x {image.shape[1]}"]
    for class_id in (*classes, *[None] * limit)[:limit]:
        merged = np.zeros(image.shape[:2], int)
        for number, index in enumerate(np.flatnonzero(class_ids == class_id) if class_id is not None else (), 1):
            merged[mask[:, :, index].astype(bool)] = number
        images.append(merged)
        titles.append("-" if class_id is None else str(class_names[class_id]))
    return display_images(images, titles, cols=limit + 1, cmap="Blues_r", interpolation="nearest", ax=ax)


# ---- boxes and their refinement --------------------------------------------------------------------------------------
def draw_boxes(image, boxes=None, refined_boxes=None, masks=None, captions=None, visibilities=None, title="", ax=None):
    """Draw boxes, what they were refined to, and masks.

    Args:
        image: uint8 [height, width, RGB].
        boxes: [n, (y1, x1, y2, x2)] in pixels; a row of zeros is left out. Dashed if there are refined boxes too.
        refined_boxes: [n, (y1, x1, y2, x2)], solid, with a line from the corner of the box to theirs.
        masks: [height, width, n], zero or False outside.
        captions: n texts, at the refined box where there is one.
        visibilities: n of 0 (gray and dotted), 1 (coloured and dotted) or 2 (coloured and solid, the default).
        title: above the picture.
        ax: matplotlib axes to draw on; None makes a new figure.

    Returns:
        The axes.
    """
    image = checked_image(image, "image")
    given = [_boxes(values, name) for name, values in (("boxes", boxes), ("refined_boxes", refined_boxes))]
    count = max((len(values) for values in given if values is not None), default=0)
    boxes, refined = (np.zeros((count, 4)) if values is None else _as_many(values, range(count)) for values in given)
    if masks is not None:
        _require_shape(masks, (*image.shape[:2], count), "masks")
    captions = _as_many([""] * count if captions is None else captions, boxes, "captions")
    visibilities = _as_many([2] * count if visibilities is None else visibilities, boxes, "visibilities")
    if any(each not in range(len(_LINES)) for each in visibilities):
        raise ValueError(f"visibilities: expected 0, 1 or 2 for each box, got {list(visibilities)}")
    ax = _axes_for(1, 1, ax, image.shape, _LARGE_INCHES)[0]
    painted, colors = np.array(image), random_colors(count)
    for index in range(count):
        color, line = colors[index] if visibilities[index] else _GRAY, _LINES[int(visibilities[index])]
        if masks is not None and np.any(masks[:, :, index]):
            apply_mask(painted, masks[:, :, index], color)
            draw_outline(ax, masks[:, :, index], color)
        _draw_refinement(ax, boxes[index], refined[index], captions[index], color, line)
    draw_image(ax, painted, title, margin=_margin(image))
    return ax


def draw_rois(image, rois, refined_rois, mask, class_ids, class_names, limit=10, *, ax=None):
    """Draw proposals as the heads refine them: those of background gray, the others with class and mask.

    Args:
        image: uint8 [height, width, RGB].
        rois: [n, (y1, x1, y2, x2)] in pixels; rows of zeros are padding.
        refined_rois: [n, (y1, x1, y2, x2)] in pixels.
        mask: float [n, h, w], probabilities inside each refined box (`mrcnn_mask`), or None.
        class_ids: int [n], 0 for background.
        class_names: name of every class id; None leaves the names out.
        limit: number of proposals, taken evenly from all of them.
        ax: matplotlib axes to draw on; None makes a new figure.

    Returns:
        The axes; the title has the numbers.
    """
    image, rois, class_ids = checked_image(image, "image"), _boxes(rois, "rois"), np.asarray(class_ids, int)
    refined = _as_many(_boxes(refined_rois, "refined_rois"), rois, "refined_rois")
    _as_many(class_ids, rois, "class_ids")
    mask = None if mask is None else _as_many(np.asarray(mask), rois, "mask")
    real = np.flatnonzero(rois.any(axis=1))
    positive = np.count_nonzero(class_ids[real] > 0)
    title = f"{len(real)} proposals, {positive} of objects ({100 * positive / max(len(real), 1):.0f}%)"
    chosen = real[np.linspace(0, len(real) - 1, min(limit, len(real))).astype(int)]
    title += "" if len(chosen) == len(real) else f"; {len(chosen)} shown"
    is_object = class_ids[chosen] > 0
    names = ["" if class_names is None else str(class_names[class_id]) for class_id in class_ids[chosen]]
    masks = np.zeros((*image.shape[:2], len(chosen)), bool)
    for place in np.flatnonzero(is_object) if mask is not None else ():
        box = np.rint(refined[chosen[place]]).astype(int)
        if np.all(box[2:] > box[:2]):
            masks[:, :, place] = molding.unmold_mask(mask[chosen[place]], box, image.shape)
    captions = [name if shown else "" for name, shown in zip(names, is_object, strict=True)]
    shown = {"captions": captions, "visibilities": np.where(is_object, 2, 0), "title": title, "ax": ax}
    return draw_boxes(image, rois[chosen], np.where(is_object[:, None], refined[chosen], 0), masks, **shown)


def display_differences(
    image,
    gt_box,
    gt_class_id,
    gt_mask,
    pred_box,
    pred_class_id,
    pred_score,
    pred_mask,
    class_names=None,
    title="",
    ax=None,
    show_mask=True,
    show_box=True,
    iou_threshold=0.5,
    score_threshold=0.5,
):
    """Draw ground truth (green) and detections (red, with score / overlap) over each other.

    Args:
        image: uint8 [height, width, RGB].
        gt_box, pred_box: [n, (y1, x1, y2, x2)] in pixels.
        gt_class_id, pred_class_id: int [n]; None for one of them compares no classes.
        gt_mask, pred_mask: [height, width, n], zero or False outside; None overlaps boxes in their place.
        pred_score: [n].
        class_names: kept for callers of Matterport's.
        title: above the picture; "" says how many were found.
        ax: matplotlib axes to draw on; None makes a new figure.
        show_mask, show_box: whether to draw masks, and boxes.
        iou_threshold: overlap from which on a detection counts as found, a `*` after its overlap.
        score_threshold: detections below it are left out.

    Returns:
        The axes.
    """
    image, truth, found = checked_image(image, "image"), _boxes(gt_box, "gt_box"), _boxes(pred_box, "pred_box")
    scores = _as_many(np.asarray(pred_score, float), found, "pred_score")
    kept = np.argsort(-scores, kind="stable")
    kept = kept[scores[kept] >= score_threshold]
    masks = None
    if gt_mask is not None and pred_mask is not None:
        _require_shape(gt_mask, (*image.shape[:2], len(truth)), "gt_mask")
        _require_shape(pred_mask, (*image.shape[:2], len(found)), "pred_mask")
        masks = np.asarray(gt_mask, bool), np.asarray(pred_mask, bool)[:, :, kept]
    overlaps = compute_overlaps(found[kept], truth) if masks is None else mask_overlaps(masks[1], masks[0])
    if gt_class_id is not None and pred_class_id is not None:
        overlaps = overlaps * (np.asarray(pred_class_id)[kept][:, None] == np.asarray(gt_class_id)[None])
    matches = match_greedily(overlaps, iou_threshold)
    best = overlaps.max(axis=1, initial=0)
    captions = [""] * len(truth)
    captions += [f"{scores[k]:.2f} / {best[i]:.2f}{'*' * bool(matches[i] >= 0)}" for i, k in enumerate(kept)]
    colors = [_TRUE_COLOR] * len(truth) + [_FOUND_COLOR] * len(kept)
    title = title or f"{np.count_nonzero(matches >= 0)} of {len(truth)} found; detections: score / overlap, * found"
    ax = _axes_for(1, 1, ax, image.shape, _LARGE_INCHES)[0]
    painted, boxes = np.array(image), np.concatenate([truth, found[kept]])
    masks = None if masks is None or not show_mask else np.concatenate(masks, axis=2)
    for index, color in enumerate(colors):
        if masks is not None and masks[:, :, index].any():
            apply_mask(painted, masks[:, :, index], color, 0.35)
            draw_outline(ax, masks[:, :, index], color)
        box = boxes[index] if show_box else np.zeros(4)
        _draw_refinement(ax, np.zeros(4), box, captions[index], color, "solid")
    draw_image(ax, painted, title, margin=_margin(image))
    return ax


# ---- maps ------------------------------------------------------------------------------------------------------------
def display_matching(
    image, maps, names=None, window=None, molded_shape=None, *, alpha=0.6, cmap="inferno", cols=3, ax=None
):
    """Draw feature maps, such as those that were matched with a reference, as heat over their scene.

    Args:
        image: uint8 [height, width, RGB].
        maps: sequence of [h, w], [h, w, channels] or [1, h, w, channels], for example a map of each pyramid level; of
            channels the mean of the absolute values is drawn.
        names: as many titles; None takes P2, P3, ...
        window: (y1, x1, y2, x2), where the scene is in the molded image that the maps are of, in pixels, as
            `EncodedScenes.windows` has it; None if the maps are of `image` as it is.
        molded_shape: (height, width, ...) of the molded image in pixels; goes with `window`.
        alpha: share of the heat in the picture, 0..1.
        cmap: colours of the heat.
        cols: pictures in a row.
        ax: as many axes as maps; None makes a new figure.

    Returns:
        list of axes, one for each map, each with a colour bar of its own range.
    """
    image, strengths = checked_image(image, "image"), [channel_strength(values) for values in maps]
    if (window is None) != (molded_shape is None):
        raise ValueError("window and molded_shape: expected both or neither, they go together")
    names = [f"P{level}" for level in range(2, 2 + len(strengths))] if names is None else names
    _as_many(names, strengths, "names")
    axes = _axes_for(len(strengths), cols, ax, image.shape, _INCHES)
    for cell, strength, name in zip(axes, strengths, names, strict=True):
        heat = _over_scene(strength, image.shape, window, molded_shape)
        draw_image(cell, image, f"{name}, {strength.shape[0]} x {strength.shape[1]}", margin=0)
        drawn = cell.imshow(heat, cmap=cmap, alpha=alpha, vmin=float(heat.min()), vmax=float(heat.max()))
        bar = cell.figure.colorbar(drawn, cax=cell.inset_axes((1.02, 0, 0.04, 1)))
        bar.solids.set_alpha(1)
    return axes


def channel_strength(values):
    """Mean of the absolute values over the channels of a map: float32 [h, w].

    Args:
        values: [h, w] (taken as it is), [h, w, channels] or [1, h, w, channels].
    """
    values = np.asarray(values, np.float32)
    values = values[0] if values.ndim == 4 and len(values) == 1 else values
    if values.ndim not in (2, 3) or not values.size:
        raise ValueError(f"maps: expected [h, w], [h, w, channels] or [1, h, w, channels], got shape {values.shape}")
    return np.abs(values).mean(axis=-1) if values.ndim == 3 else values


# ---- overlaps --------------------------------------------------------------------------------------------------------
def mask_overlaps(masks1, masks2):
    """Intersection over union of every pair of masks: [n1, n2].

    Args:
        masks1, masks2: [height, width, n1] and [height, width, n2], zero or False outside.
    """
    flat1, flat2 = (np.asarray(masks, bool).astype(np.float32) for masks in (masks1, masks2))
    flat1, flat2 = (flat.reshape(flat.shape[0] * flat.shape[1], flat.shape[2]) for flat in (flat1, flat2))
    shared = flat1.T @ flat2
    union = flat1.sum(axis=0)[:, None] + flat2.sum(axis=0)[None] - shared
    return shared / np.maximum(union, 1)


# ---- for other libraries ---------------------------------------------------------------------------------------------
def results_to_detections(result):
    """What was detected in the form that `supervision.Detections(**detections)` takes.

    Args:
        result: dict that `SiamesePredictor.detect` returns, or one that `SiameseMaskRCNN.detect` returns for a scene:
            rois [n, (y1, x1, y2, x2)], scores [n], masks [height, width, n], perhaps class_ids [n].

    Returns:
        dict: xyxy float32 [n, (x1, y1, x2, y2)], mask bool [n, height, width] (None for a model without masks),
        confidence float32 [n], class_id int64 [n] (1 where there are none).

    Raises:
        ValueError: a key is missing, or its values are of another number.
    """
    missing = [key for key in ("rois", "scores", "masks") if key not in result]
    if missing:
        raise ValueError(f"result: expected rois, scores and masks, {missing[0]!r} is missing")
    rois = _boxes(result["rois"], "rois")
    scores = _as_many(np.asarray(result["scores"], np.float32), rois, "scores")
    class_ids = result.get("class_ids")
    class_ids = np.ones(len(rois)) if class_ids is None else _as_many(class_ids, rois, "class_ids")
    masks = np.asarray(result["masks"], bool)
    has_masks = masks.ndim == 3 and (masks.shape[2] or not len(rois))
    if has_masks:
        _require_shape(masks, (*masks.shape[:2], len(rois)), "masks")
    return {
        "xyxy": rois[:, [1, 0, 3, 2]].astype(np.float32),
        "mask": np.ascontiguousarray(np.moveaxis(masks, -1, 0)) if has_masks else None,
        "confidence": scores,
        "class_id": np.asarray(class_ids, np.int64),
    }


# ---- helpers ---------------------------------------------------------------------------------------------------------
def _axes_for(count, columns, ax, shape, width):
    """`count` axes: those given, or new ones, `columns` in a row, `width` inches wide for a picture of `shape`."""
    if ax is not None:
        return list(_as_many(np.ravel(ax), range(count), "ax"))
    columns = max(min(columns, count), 1)
    rows = max(-(-count // columns), 1)
    figure = new_figure((width * columns, (width * shape[0] / shape[1] + _TITLE_INCHES) * rows))
    places = figure.add_gridspec(rows, columns)
    return [figure.add_subplot(places[index // columns, index % columns]) for index in range(count)]


def _draw_refinement(ax, box, refined, caption, color, line):
    """A box and what it was refined to; a row of zeros is no box."""
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    has_box, has_refined = np.any(box), np.any(refined)
    style = {"path_effects": [withStroke(linewidth=_SHADOW_WIDTH, foreground=_SHADOW)] if color == _GRAY else None}
    for edges, is_there, dashes in ((box, has_box, "dashed" if has_refined else line), (refined, has_refined, line)):
        if is_there:
            y1, x1, y2, x2 = (float(edge) - 0.5 for edge in edges)  # pixel 0 reaches from -0.5 to 0.5 on axes
            frame = {"linewidth": _LINE_WIDTH, "linestyle": dashes, "edgecolor": color, "facecolor": "none"}
            ax.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, **frame, **style))
    if has_box and has_refined:
        ax.plot([box[1] - 0.5, refined[1] - 0.5], [box[0] - 0.5, refined[0] - 0.5], color=color)
    if caption and (has_box or has_refined):
        y1, x1 = (refined if has_refined else box)[:2]
        plate = {"facecolor": "black", "alpha": 0.5, "edgecolor": "none", "pad": 1}
        ax.text(x1, y1, caption, color="white", size=11, verticalalignment="top", bbox=plate)


def _over_scene(strength, shape, window, molded_shape):
    """A map in the size of the scene: float [height, width]."""
    if window is None:
        return _resized(strength, shape)
    y1, x1, y2, x2 = (int(edge) for edge in window)
    if not (0 <= y1 < y2 <= molded_shape[0] and 0 <= x1 < x2 <= molded_shape[1]):
        raise ValueError(f"window: expected a box inside {tuple(molded_shape[:2])}, got {(y1, x1, y2, x2)}")
    return _resized(_resized(strength, molded_shape)[y1:y2, x1:x2], shape)


def _resized(values, shape):
    """Values [h, w] in the size (height, width, ...), bilinearly; border values reach to the border."""
    return np.asarray(Image.fromarray(values).resize((shape[1], shape[0]), Image.Resampling.BILINEAR))


def _boxes(values, name):
    """Boxes as float [n, 4], None where there are none."""
    if values is None:
        return None
    boxes = np.asarray(values, float)
    if boxes.size and (boxes.ndim != 2 or boxes.shape[1] != 4):
        raise ValueError(f"{name}: expected [n, (y1, x1, y2, x2)], got shape {boxes.shape}")
    return boxes.reshape(-1, 4)


def _as_many(values, others, name="boxes and refined_boxes"):
    """`values`, once they are as many as `others`."""
    if len(values) != len(others):
        raise ValueError(f"{name}: expected {len(others)}, one for each, got {len(values)}")
    return values


def _require_shape(array, shape, name):
    if np.shape(array) != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {np.shape(array)}")


def _margin(image):
    return max(image.shape[:2]) // 20
