"""Drawings of detections: on matplotlib axes, or painted into an array of the picture's own size.

The `display_*` functions draw on the axes they are given or on those of a new figure, and return them. They never show
anything: `axes.figure.savefig(path)` writes the drawing, a notebook displays `axes.figure`. Boxes are (y1, x1, y2, x2)
in pixels, y2 and x2 exclusive; colours are (red, green, blue) in 0..1.
"""

import colorsys
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..io.files import atomic_path
from .style import new_figure

_GOLDEN_RATIO = 0.618033988749895  # steps of it around the colour circle keep clear of each other
_TINT = 0.45  # how much of the colour a mask gets in an overlay
_LABEL_SCALE, _LABEL_PIXELS = 1 / 28, (10, 60)  # height of labels: of the picture's short side, and limits
_LINE_SCALE = 1 / 300  # width of lines, of the picture's short side
_INSET_AREA, _INSET_SIDE = 1 / 14, 0.45  # of a reference in its scene: share of the area, and of a side at most
_INSET_ORDER = 9  # above all that belongs to the scene
_CAPTION = 0.8  # size of captions in a grid, of that of names
_MARGIN = 10  # pixels around a picture on axes, for boxes and labels at its border


# ---- colours -----------------------------------------------------------------------------------------------------
def random_colors(n):
    """`n` colours that are told apart easily, always the same: list of (red, green, blue) in 0..1."""
    # three brightnesses in turn tell neighbouring hues apart where there are many
    return [colorsys.hsv_to_rgb(index * _GOLDEN_RATIO % 1, 0.85, (1, 0.8, 0.9)[index % 3]) for index in range(n)]


def apply_mask(image, mask, color, alpha=0.5):
    """Tint an image where a mask is set; changes the image and returns it.

    Args:
        image: [height, width, RGB] in 0..255.
        mask: [height, width], zero or False outside the instance.
        color: (red, green, blue) in 0..1.
        alpha: share of the colour in the result, 0..1.
    """
    inside = np.asarray(mask, bool)
    image[inside] = image[inside] * (1 - alpha) + np.multiply(color, 255 * alpha)
    return image


# ---- arrays ------------------------------------------------------------------------------------------------------
def draw_overlay(image, boxes, masks, scores, *, captions=None, colors=None):
    """Paint instances into a copy of their picture: tinted masks, outlines, boxes, labels.

    Args:
        image: uint8 [height, width, RGB].
        boxes: [n, (y1, x1, y2, x2)] in pixels.
        masks: [height, width, n], zero or False outside; None or [height, width, 0] to draw boxes alone.
        scores: [n], or None.
        captions: n labels in place of the scores.
        colors: n of (red, green, blue) in 0..1.

    Returns:
        uint8 [height, width, RGB].
    """
    boxes, masks, colors = _checked_instances(image, boxes, masks, colors, scores=scores, captions=captions)
    if captions is None:
        captions = [""] * len(boxes) if scores is None else [f"{score:.2f}" for score in scores]
    best_first = _best_first(scores, len(boxes))
    line = max(round(min(image.shape[:2]) * _LINE_SCALE), 1)
    painted = np.array(image)
    if masks is not None:
        for index in best_first[::-1]:
            _paint_mask(painted, masks[:, :, index], colors[index], line)
    picture = Image.fromarray(painted)
    draw = ImageDraw.Draw(picture)
    for index in best_first[::-1]:
        y1, x1, y2, x2 = map(int, boxes[index])
        if y2 > y1 and x2 > x1:
            draw.rectangle((x1, y1, x2 - 1, y2 - 1), outline=_as_bytes(colors[index]), width=line)
    _draw_labels(draw, picture.size, boxes, captions, colors, best_first)
    return np.array(picture)


# ---- axes --------------------------------------------------------------------------------------------------------
def display_instances(
    image,
    boxes,
    masks,
    class_ids,
    class_names=None,
    scores=None,
    title="",
    figsize=(16, 16),
    ax=None,
    show_mask=True,
    show_bbox=True,
    colors=None,
    captions=None,
):
    """Draw instances over their picture.

    Args:
        image: uint8 [height, width, RGB].
        boxes: [n, (y1, x1, y2, x2)] in pixels; a row of zeros is left out.
        masks: [height, width, n], zero or False outside; None or [height, width, 0] to draw boxes alone.
        class_ids: int [n].
        class_names: name of every class id; None leaves the names out.
        scores: [n], or None.
        title: above the picture.
        figsize: (width, height) of a new figure, in inches.
        ax: matplotlib axes to draw on; None makes a new figure.
        show_mask, show_bbox: whether to draw tinted masks, and boxes.
        colors: n of (red, green, blue) in 0..1; None takes `random_colors`.
        captions: n labels in place of class names and scores.

    Returns:
        The axes.
    """
    ax = new_figure(figsize).add_subplot() if ax is None else ax
    shown = {"show_mask": show_mask, "show_bbox": show_bbox}
    _draw_instances(ax, image, boxes, masks, class_ids, class_names, scores, captions, colors, **shown)
    ax.set_title(title)
    return ax


def display_results(
    target,
    image,
    boxes,
    masks,
    class_ids,
    scores=None,
    title="",
    figsize=(16, 16),
    ax=None,
    show_mask=True,
    show_bbox=True,
    colors=None,
    captions=None,
):
    """Draw references beside the instances that were found with them.

    Args:
        target: uint8 [h, w, RGB] or a sequence of them, the reference crops.
        ax: axes in the order of what is returned; None makes a new figure.
        image, boxes, masks, class_ids, scores, title, figsize, show_mask, show_bbox, colors, captions: as in
            `display_instances`.

    Returns:
        list of axes: one for each reference, from top to bottom, then the scene's.
    """
    if not len(target):
        raise ValueError("target: expected a reference crop or several, got none")
    targets = [np.asarray(crop) for crop in (target if np.ndim(target[0]) == 3 else [target])]
    axes = _beside_each_other(new_figure(figsize), len(targets)) if ax is None else list(ax)
    if len(axes) != len(targets) + 1:
        raise ValueError(f"ax: expected {len(targets)} axes for references and one for the scene, got {len(axes)}")
    for target_ax, crop in zip(axes, targets, strict=False):
        draw_picture(target_ax, checked_picture(crop, "target"), "", margin=0)
    shown = {"show_mask": show_mask, "show_bbox": show_bbox, "colors": colors, "captions": captions}
    display_instances(image, boxes, masks, class_ids, scores=scores, title=title, ax=axes[-1], **shown)
    return axes


def display_grid(
    target_list,
    image_list,
    boxes_list,
    masks_list,
    class_ids_list,
    scores_list=None,
    category_names_list=None,
    title="",
    figsize=(16, 16),
    ax=None,
    show_mask=True,
    show_bbox=True,
    colors=None,
    captions=None,
    show_scores=True,
    target_shift=10,
    fontsize=14,
    linewidth=2,
    save=False,
):
    """Draw scenes with what was found in a grid, the references in the lower left corner of each: the paper's Figure 4.

    Args:
        target_list: of each scene the reference crop uint8 [h, w, RGB], or a sequence of several.
        image_list, boxes_list, masks_list, class_ids_list: of each scene, as in `display_instances`.
        scores_list: of each scene [n]; None draws no scores.
        category_names_list: of each scene the name of what was searched, above it.
        title: of a new figure.
        figsize: (width, height) of a new figure, in inches.
        ax: as many axes as scenes, in any arrangement; None makes a new figure, as square as it can be.
        show_mask, show_bbox, show_scores: whether to draw tinted masks, boxes, scores.
        colors, captions: of each scene what `display_instances` takes.
        target_shift: pixels between a reference and the corner.
        fontsize, linewidth: of names, in points, captions being smaller; of boxes.
        save: path to write the figure to, its kind by its name; False writes none.

    Returns:
        list of axes, one for each scene.
    """
    count = len(image_list)
    given = {"target_list": target_list, "boxes_list": boxes_list, "masks_list": masks_list}
    given |= {"class_ids_list": class_ids_list, "scores_list": scores_list, "captions": captions, "colors": colors}
    _check_counts(count, "scenes", category_names_list=category_names_list, **given)
    if save is True or not count:
        raise ValueError(
            "save: expected a path, or False" if count else "image_list: expected a scene or several, got 0"
        )
    axes = _grid_of_axes(count, figsize, title, fontsize) if ax is None else list(np.ravel(ax))
    _check_counts(count, "scenes", ax=axes)
    style = {"show_mask": show_mask, "show_bbox": show_bbox, "linewidth": linewidth, "fontsize": fontsize * _CAPTION}
    for index, cell in enumerate(axes):
        image, scores = image_list[index], None if scores_list is None or not show_scores else scores_list[index]
        labels, tints = (None if values is None else values[index] for values in (captions, colors))
        instances = boxes_list[index], masks_list[index], class_ids_list[index], None, scores, labels, tints
        _draw_instances(cell, image, *instances, **style)
        _draw_inset(cell, target_list[index], np.shape(image), target_shift)
        name = "" if category_names_list is None else str(category_names_list[index])
        cell.set_title(name, fontsize=fontsize)
    if save:
        with atomic_path(save) as temporary:
            axes[0].figure.savefig(temporary, format=Path(save).suffix.lstrip(".") or None)
    return axes


def display_boxes(image, groups, title="", figsize=(16, 16), ax=None, margin=_MARGIN):
    """Draw groups of boxes over their picture, later ones over earlier ones.

    Args:
        image: uint8 [height, width, RGB].
        groups: sequence of (boxes, color, style). boxes: [n, (y1, x1, y2, x2)] in pixels; color: one for all or one for
            each box; style: further settings of a matplotlib LineCollection, such as {"linewidth": 2}.
        title: above the picture.
        figsize: (width, height) of a new figure, in inches.
        ax: matplotlib axes to draw on; None makes a new figure.
        margin: pixels around the picture.

    Returns:
        The axes.
    """
    from matplotlib.collections import LineCollection

    ax = new_figure(figsize).add_subplot() if ax is None else ax
    draw_picture(ax, checked_picture(image, "image"), title, margin=margin)
    for boxes, color, style in groups:
        y1, x1, y2, x2 = np.asarray(boxes, float).reshape(-1, 4).T - 0.5  # pixel 0 reaches from -0.5 to 0.5 on axes
        corners = np.moveaxis([[x1, x2, x2, x1, x1], [y1, y1, y2, y2, y1]], -1, 0)  # [n, (x, y), 5]
        ax.add_collection(LineCollection(list(corners.swapaxes(1, 2)), colors=color, **style), autolim=False)
    return ax


# ---- helpers: axes -----------------------------------------------------------------------------------------------


def _beside_each_other(figure, num_references):
    """Axes of the references in a narrow column at the left, then the scene's."""
    column, scene = figure.add_gridspec(1, 2, width_ratios=(1, 3))
    references = column.subgridspec(num_references, 1)
    return [*(figure.add_subplot(cell) for cell in references), figure.add_subplot(scene)]


def draw_picture(ax, image, title, *, margin):
    """A picture [height, width, RGB] without ticks, row 0 at the top, `margin` pixels around it."""
    height, width = image.shape[:2]
    ax.imshow(image.astype(np.uint8))
    ax.set_xlim(-0.5 - margin, width - 0.5 + margin)
    ax.set_ylim(height - 0.5 + margin, -0.5 - margin)
    ax.axis("off")
    ax.set_title(title)


def _draw_instances(ax, image, boxes, masks, class_ids, class_names, scores, captions, colors, *, show_mask, **style):
    """Instances over their picture; arguments as in `display_instances`."""
    of_instances = {"class_ids": class_ids, "scores": scores, "captions": captions}
    boxes, masks, colors = _checked_instances(image, boxes, masks, colors, **of_instances)
    if captions is None:
        captions = [_caption(index, class_ids, class_names, scores) for index in range(len(boxes))]
    painted = np.array(image)
    for index in np.flatnonzero(boxes.any(axis=1)):
        mask = None if masks is None else masks[:, :, index]
        if mask is not None and show_mask:
            apply_mask(painted, mask, colors[index])
        _draw_instance(ax, boxes[index], mask, colors[index], captions[index], **style)
    draw_picture(ax, painted, "", margin=_MARGIN)


def _grid_of_axes(count, figsize, title, fontsize):
    figure, columns = new_figure(figsize), math.ceil(math.sqrt(count))
    figure.suptitle(title, fontsize=fontsize)
    places = figure.add_gridspec(-(-count // columns), columns)
    return [figure.add_subplot(places[index // columns, index % columns]) for index in range(count)]


def _draw_inset(ax, target, shape, shift):
    """References in the lower left corner of a scene, framed in white, each of the same area."""
    from matplotlib.patches import Rectangle

    crops = [checked_picture(crop, "target_list") for crop in (target if np.ndim(target[0]) == 3 else [target])]
    left, bottom, (limit_y, limit_x) = shift, shape[0] - shift, np.multiply(shape[:2], _INSET_SIDE)
    for crop in crops:
        height, width = crop.shape[:2]
        scale = math.sqrt(_INSET_AREA * shape[0] * shape[1] / (height * width))
        scale = min(scale, limit_y / height, limit_x / len(crops) / width)
        extent = (left, left + width * scale, bottom, bottom - height * scale)
        limits = ax.get_xlim(), ax.get_ylim()
        ax.imshow(crop.astype(np.uint8), extent=extent, zorder=_INSET_ORDER)
        ax.set(xlim=limits[0], ylim=limits[1])
        frame = {"linewidth": 3, "edgecolor": "white", "facecolor": "none", "zorder": _INSET_ORDER}
        ax.add_patch(Rectangle((extent[0], extent[3]), width * scale, height * scale, **frame))
        left = extent[1] + shift / 2


def _draw_instance(ax, box, mask, color, caption, *, show_bbox, linewidth=2, fontsize=11):
    from matplotlib.patches import Rectangle

    y1, x1, y2, x2 = (float(edge) - 0.5 for edge in box)  # pixel 0 reaches from -0.5 to 0.5 on axes
    if show_bbox:
        style = {"linewidth": linewidth, "alpha": 0.7, "linestyle": "dashed", "edgecolor": color, "facecolor": "none"}
        ax.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, **style))
    if mask is not None and np.any(mask):
        draw_outline(ax, mask, color)
    background = {"facecolor": "black", "alpha": 0.4, "edgecolor": "none", "pad": 1}
    ax.text(x1, y1 + 8, caption, color="white", size=fontsize, bbox=background if caption else None)


def draw_outline(ax, mask, color):
    """The outline of a mask [height, width] that is not empty."""
    rows, columns = _extent(mask)
    part = np.pad(np.asarray(mask[rows, columns], float), 1)  # a frame closes outlines at the border
    y, x = np.arange(rows.start - 1, rows.stop + 1), np.arange(columns.start - 1, columns.stop + 1)
    ax.contour(x, y, part, levels=[0.5], colors=[color], linewidths=1)


def _caption(index, class_ids, class_names, scores):
    name = "" if class_names is None else str(class_names[class_ids[index]])
    return name if scores is None else f"{name} {scores[index]:.3f}".strip()


# ---- helpers: overlays -------------------------------------------------------------------------------------------
def _paint_mask(image, mask, color, line):
    """Tint a mask in the image, with an outline of `line` pixels inside its edge."""
    mask = np.asarray(mask, bool)
    if not mask.any():
        return
    part = _extent(mask)
    mask, image = mask[part], image[part]
    apply_mask(image, mask, color, _TINT)
    core = np.pad(mask, line)
    for _ in range(line):
        core[1:-1, 1:-1] &= core[:-2, 1:-1] & core[2:, 1:-1] & core[1:-1, :-2] & core[1:-1, 2:]
    image[mask & ~core[line:-line, line:-line]] = _as_bytes(color)


def _extent(mask):
    """The rows and columns that a mask reaches over, as two slices."""
    rows, columns = (np.flatnonzero(np.any(mask, axis=axis)) for axis in (1, 0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _draw_labels(draw, size, boxes, labels, colors, order):
    """Labels on plates of their colour, in an `order` of indices in which the first find their place first."""
    smallest, largest = _LABEL_PIXELS
    pixels = min(max(round(min(size) * _LABEL_SCALE), smallest), largest)
    font, pad, taken = ImageFont.load_default(pixels), max(pixels // 8, 1), []
    for index in order:
        if not labels[index]:
            continue
        left, top, right, bottom = draw.textbbox((0, 0), labels[index], font=font)
        plate = (int(right - left) + 2 * pad + 1, int(bottom - top) + 2 * pad + 1)
        x, y = _label_place(boxes[index], plate, size, taken)
        taken.append((x, y, x + plate[0], y + plate[1]))
        draw.rectangle((x, y, x + plate[0] - 1, y + plate[1] - 1), fill=_as_bytes(colors[index]))
        ink = "black" if np.dot(colors[index], (0.299, 0.587, 0.114)) > 0.5 else "white"  # weights of luminance
        draw.text((x + pad - left, y + pad - top), labels[index], fill=ink, font=font)


def _label_place(box, plate, size, taken):
    """The corner (x, y) for a plate (width, height) at its box, inside the picture, clear of the plates in `taken`."""
    y1, x1, y2, x2 = map(int, box)
    width, height = plate
    wanted = [(x1, y1 - height), (x1, y1), (x2 - width, y1 - height), (x1, y2 - height), (x1, y2), (x2 - width, y2)]
    places = [(min(max(x, 0), max(size[0] - width, 0)), min(max(y, 0), max(size[1] - height, 0))) for x, y in wanted]
    return min(places, key=lambda place: sum(_shared_area(place, plate, other) for other in taken))


def _shared_area(place, plate, other):
    across = min(place[0] + plate[0], other[2]) - max(place[0], other[0])
    down = min(place[1] + plate[1], other[3]) - max(place[1], other[1])
    return max(across, 0) * max(down, 0)


def _best_first(scores, count):
    """Indices by falling score, the first of equals first."""
    return list(range(count)) if scores is None else np.argsort(-np.asarray(scores), kind="stable").tolist()


def _as_bytes(color):
    return tuple(round(255 * part) for part in color)


# ---- helpers: checks ---------------------------------------------------------------------------------------------
def checked_picture(image, what):
    """The picture as an array; ValueError names `what` unless it is [height, width, 3] and not empty."""
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"{what}: expected uint8 [height, width, 3] that is not empty, got shape {image.shape}")
    return image


def _checked_instances(image, boxes, masks, colors, **of_instances):
    """Boxes, masks (None where there are none) and colours, once all are of as many instances."""
    image, boxes = checked_picture(image, "image"), np.asarray(boxes)
    count = len(boxes)
    if boxes.shape != (count, 4) and boxes.size:
        raise ValueError(f"boxes: expected [n, (y1, x1, y2, x2)], got shape {boxes.shape}")
    masks = None if masks is None or np.shape(masks)[-1] == 0 else np.asarray(masks)
    if masks is not None and masks.shape != (*image.shape[:2], count):
        expected = (*image.shape[:2], count)
        raise ValueError(f"masks: expected shape {expected} like the image and its boxes, got {masks.shape}")
    _check_counts(count, "boxes", **of_instances, colors=colors)
    return boxes.reshape(count, 4), masks, random_colors(count) if colors is None else colors


def _check_counts(count, what, **values_by_name):
    for name, values in values_by_name.items():
        if values is not None and len(values) != count:
            raise ValueError(f"{name}: expected one for each of {count} {what}, got {len(values)}")
