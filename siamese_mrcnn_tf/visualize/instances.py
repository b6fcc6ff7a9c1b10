"""Detections drawn over their image: on matplotlib axes, or painted into a copy of the image.

The `display_*` functions draw on the axes they are given or on those of a new figure, and return them. They never show
anything: `axes.figure.savefig(path)` writes the drawing, a notebook displays `axes.figure`. Boxes are (y1, x1, y2, x2)
in pixels, y2 and x2 exclusive; colors are (red, green, blue) in 0..1.
"""

import colorsys
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import binary_erosion

from ..io.errors import InputError
from ..io.files import atomic_path
from ..ops.boxes import extract_bboxes
from . import style
from .lettering import place_plates, plot_name, plot_text
from .palette import contrasting_colors, ink_on
from .style import Color, Values

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_Pair = tuple[int, int]  # (x, y) or (width, height) in pixels

_GOLDEN_RATIO = 0.618033988749895  # steps of it around the color circle keep clear of each other
_TINT = 0.45  # share of the color in a mask of an overlay
_LABEL_SCALE, _LABEL_PIXELS = 1 / 28, (10, 60)  # height of labels as a share of the image's short side, and its limits
_LINE_SCALE = 1 / 300  # width of lines as a share of the image's short side
_STRIP = 0.3  # height of references above their scene as a share of its short side
_GAPS = 0.8  # maximum share of the width of a scene for the gaps between its references
_CAPTION = 0.8  # size of captions in a grid relative to names
_MARGIN = 10  # pixels around an image on axes, for boxes and labels at its border


# ---- colors ------------------------------------------------------------------------------------------------------
def random_colors(n: int) -> list[Color]:
    """`n` colors that are easy to tell apart, always the same ones."""
    # three brightnesses in turn separate neighboring hues where there are many
    return [colorsys.hsv_to_rgb(index * _GOLDEN_RATIO % 1, 0.85, (1, 0.8, 0.9)[index % 3]) for index in range(n)]


def apply_mask(image: np.ndarray, mask: ArrayLike, color: Color, alpha: float = 0.5) -> np.ndarray:
    """Tint an image [height, width, RGB], 0..255, in place where a mask [height, width] is set; returns the image.

    Args:
        alpha: share of the color in the result, 0..1.
    """
    inside = np.asarray(mask, bool)
    image[inside] = image[inside] * (1 - alpha) + np.multiply(color, 255 * alpha)
    return image


# ---- arrays ------------------------------------------------------------------------------------------------------
def draw_overlay(
    image: ArrayLike,
    boxes: ArrayLike,
    masks: ArrayLike | None,
    scores: Values | None,
    *,
    captions: Values | None = None,
    colors: Values | None = None,
) -> np.ndarray:
    """Paint instances into a copy of their image: tinted masks, outlines, boxes, labels.

    Args:
        image: uint8 [height, width, RGB].
        boxes: [n, (y1, x1, y2, x2)] in pixels.
        masks: [height, width, n], zero or False outside; None or [height, width, 0] to draw boxes alone.
        scores: [n], or None.
        captions: n labels in place of the scores; those for which there is no room are left out.
        colors: n of (red, green, blue) in 0..1; None takes `palette.contrasting_colors`.

    Returns:
        uint8 [height, width, RGB].
    """
    image, boxes, masks, colors = _checked_instances(image, boxes, masks, colors, scores=scores, captions=captions)
    if captions is None:
        captions = [""] * len(boxes) if scores is None else [f"{score:.2f}" for score in scores]
    order = range(len(boxes)) if scores is None else np.argsort(-np.asarray(scores), kind="stable")  # best first
    line = max(round(min(image.shape[:2]) * _LINE_SCALE), 1)
    painted = np.array(image)
    if masks is not None:
        for index in order[::-1]:
            y1, x1, y2, x2 = extract_bboxes(masks[:, :, [index]])[0]
            mask, region = np.asarray(masks[y1:y2, x1:x2, index], bool), painted[y1:y2, x1:x2]
            if mask.size:
                apply_mask(region, mask, colors[index], _TINT)
                region[mask & ~binary_erosion(mask, iterations=line)] = _as_bytes(colors[index])  # the outline
    canvas = Image.fromarray(painted)
    draw = ImageDraw.Draw(canvas)
    for index in order[::-1]:
        y1, x1, y2, x2 = map(int, boxes[index])
        if y2 > y1 and x2 > x1:
            draw.rectangle((x1, y1, x2 - 1, y2 - 1), outline=_as_bytes(colors[index]), width=line)
    _draw_labels(draw, canvas.size, boxes, captions, colors, order)
    return np.array(canvas)


# ---- axes --------------------------------------------------------------------------------------------------------
def display_instances(
    image: ArrayLike,
    boxes: ArrayLike,
    masks: ArrayLike | None,
    class_ids: Values,
    class_names: Sequence[str] | None = None,
    scores: Values | None = None,
    title: str = "",
    figsize: tuple[float, float] = (16, 16),
    ax: "Axes | None" = None,
    show_mask: bool = True,
    show_bbox: bool = True,
    colors: Values | None = None,
    captions: Values | None = None,
    *,
    linewidth: float = 2,
    fontsize: float = 11,
) -> "Axes":
    """Draw instances over their image.

    Args:
        image: uint8 [height, width, RGB].
        boxes: [n, (y1, x1, y2, x2)] in pixels; a row of zeros is left out.
        masks: [height, width, n], zero or False outside; None or [height, width, 0] to draw boxes alone.
        class_ids: int [n].
        class_names: name of every class id; None leaves the names out.
        scores: [n], or None.
        title: above the image.
        figsize: (width, height) of a new figure, in inches.
        ax: matplotlib axes to draw on; None makes a new figure.
        show_mask, show_bbox: whether to draw tinted masks, and boxes.
        colors: n of (red, green, blue) in 0..1; None takes `palette.contrasting_colors`.
        captions: n labels in place of class names and scores; those for which there is no room are left out.
        linewidth, fontsize: of boxes and of captions, in points.
    """
    of_instances: dict[str, Any] = {"class_ids": class_ids, "scores": scores, "captions": captions}
    image, boxes, masks, colors = _checked_instances(image, boxes, masks, colors, **of_instances)
    if captions is None:
        captions = [""] * len(boxes) if class_names is None else [str(class_names[class_id]) for class_id in class_ids]
        if scores is not None:
            captions = [f"{name} {score:.3f}".strip() for name, score in zip(captions, scores, strict=True)]
    ax = style.new_figure(figsize).add_subplot() if ax is None else ax
    painted = np.array(image)
    for index in map(int, np.flatnonzero(boxes.any(axis=1))):
        color = colors[index]
        if show_bbox:
            style.draw_box(ax, boxes[index], color, linewidth=linewidth, alpha=0.7, linestyle="dashed")
        if masks is not None and show_mask:
            apply_mask(painted, masks[:, :, index], color)
        if masks is not None:
            style.draw_outline(ax, masks[:, :, index], color)
    style.draw_image(ax, painted, title, margin=_MARGIN)
    from .captions import draw_captions

    draw_captions(ax, captions, boxes, colors, size=fontsize)
    return ax


def display_results(
    target: Values,
    image: ArrayLike,
    boxes: ArrayLike,
    masks: ArrayLike | None,
    class_ids: Values,
    scores: Values | None = None,
    title: str = "",
    figsize: tuple[float, float] = (16, 16),
    ax: "Iterable[Axes] | None" = None,
    show_mask: bool = True,
    show_bbox: bool = True,
    colors: Values | None = None,
    captions: Values | None = None,
) -> "list[Axes]":
    """Draw references beside the instances that were found with them; returns the axes of all, the scene's last.

    Args:
        target: uint8 [h, w, RGB] or a sequence of them, the reference crops, from top to bottom.
        ax: axes in the order of the result; None makes a new figure. Other arguments as in `display_instances`.
    """
    targets = _crops(target, "target")
    if ax is None:
        figure = style.new_figure(figsize)
        columns = figure.add_gridspec(1, 2, width_ratios=(1, 3))
        rows = columns[0].subgridspec(len(targets), 1)
        axes = [figure.add_subplot(rows[index]) for index in range(len(targets))]
        axes.append(figure.add_subplot(columns[1]))
    else:
        axes = list(ax)
    if len(axes) != len(targets) + 1:
        raise InputError(f"ax: expected {len(targets)} axes for references and one for the scene, got {len(axes)}")
    for target_ax, crop in zip(axes, targets, strict=False):
        style.draw_image(target_ax, crop, "", margin=0)
    scene: dict[str, Any] = {"scores": scores, "title": title, "ax": axes[-1], "colors": colors, "captions": captions}
    display_instances(image, boxes, masks, class_ids, show_mask=show_mask, show_bbox=show_bbox, **scene)
    return axes


def display_grid(
    target_list: Sequence[Values],
    image_list: Sequence[ArrayLike],
    boxes_list: Sequence[ArrayLike],
    masks_list: Sequence[ArrayLike | None],
    class_ids_list: Sequence[Values],
    scores_list: Sequence[Values] | None = None,
    category_names_list: Sequence[str] | None = None,
    title: str = "",
    figsize: tuple[float, float] = (16, 16),
    ax: Any = None,
    show_mask: bool = True,
    show_bbox: bool = True,
    colors: Sequence[Values] | None = None,
    captions: Sequence[Values] | None = None,
    show_scores: bool = True,
    target_shift: float = 10,
    fontsize: float = 14,
    linewidth: float = 2,
    save: str | Path | bool = False,
) -> "list[Axes]":
    """Draw scenes with their detections in a grid, after the paper's Figure 4, with the references above the scenes.

    Args:
        target_list: of each scene the reference crop uint8 [h, w, RGB], or a sequence of several.
        image_list, boxes_list, masks_list, class_ids_list, scores_list, colors, captions: of each scene, as in
            `display_instances`.
        category_names_list: of each scene the name of the category, above it.
        title, figsize: of a new figure; (width, height) in inches.
        ax: as many axes as scenes, in any arrangement; None makes a new figure with a grid close to square.
        show_mask, show_bbox, show_scores: whether to draw tinted masks, boxes, scores.
        target_shift: pixels between references, and between them and the scene.
        fontsize, linewidth: of names (captions are smaller) and of boxes, in points.
        save: path to write the figure to, in the format of its suffix; True stands for grid.pdf; False writes none.

    Returns:
        list of axes, one for each scene.
    """
    count = len(image_list)
    given: dict[str, Any] = {"target_list": target_list, "boxes_list": boxes_list, "masks_list": masks_list}
    given |= {"class_ids_list": class_ids_list, "scores_list": scores_list, "captions": captions, "colors": colors}
    _check_counts(count, category_names_list=category_names_list, **given)
    if not count:
        raise InputError("image_list: expected a scene or several, got 0")
    path = "grid.pdf" if save is True else save
    if ax is None:
        figure = style.new_figure(figsize)
        figure.suptitle(plot_text(title), fontsize=fontsize)
        axes = style.add_grid(figure, count, math.ceil(math.sqrt(count)))
    else:
        axes = list(np.ravel(ax))
    _check_counts(count, ax=axes)
    shown: dict[str, Any] = {"linewidth": linewidth, "show_mask": show_mask, "show_bbox": show_bbox}
    for index, cell in enumerate(axes):
        scores = None if scores_list is None or not show_scores else scores_list[index]
        tints, labels = (None if values is None else values[index] for values in (colors, captions))
        instances = image_list[index], boxes_list[index], masks_list[index], class_ids_list[index]
        shown |= {"scores": scores, "colors": tints, "captions": labels, "ax": cell}
        display_instances(*instances, fontsize=fontsize * _CAPTION, **shown)
        _draw_references(cell, _crops(target_list[index], "target_list"), np.shape(image_list[index]), target_shift)
        cell.set_title("" if category_names_list is None else plot_name(category_names_list[index]), fontsize=fontsize)
    if path:
        with atomic_path(path) as temporary:
            whole: Any = axes[0].figure
            whole.savefig(temporary, format=Path(path).suffix.lstrip(".") or None)
    return axes


def display_boxes(
    image: ArrayLike,
    groups: Iterable[tuple[ArrayLike, Any, dict[str, Any]]],
    title: str = "",
    figsize: tuple[float, float] = (16, 16),
    ax: "Axes | None" = None,
    margin: float = _MARGIN,
) -> "Axes":
    """Draw groups of boxes over their image, later ones over earlier ones.

    Args:
        image: uint8 [height, width, RGB].
        groups: sequence of (boxes, color, settings). boxes: [n, (y1, x1, y2, x2)] in pixels; color: one for all or one
            for each box; settings: further ones of a matplotlib LineCollection, such as {"linewidth": 2}.
        title, figsize, ax: as in `display_instances`.
        margin: pixels around the image.
    """
    from matplotlib.collections import LineCollection

    ax = style.new_figure(figsize).add_subplot() if ax is None else ax
    style.draw_image(ax, style.checked_image(image, "image"), title, margin=margin)
    for boxes, color, settings in groups:
        edges = np.asarray(boxes, float).reshape(-1, 4) - 0.5  # pixel 0 spans -0.5 to 0.5 on axes
        lines = edges[:, [[1, 0], [3, 0], [3, 2], [1, 2], [1, 0]]]  # [n, 5 corners, (x, y)]
        ax.add_collection(LineCollection(list(lines), colors=color, **settings), autolim=False)
    return ax


# ---- helpers: axes -----------------------------------------------------------------------------------------------
def _crops(target: Values, what: str) -> list[np.ndarray]:
    """The reference crops of a target that is one crop or a sequence of them."""
    if not len(target):
        raise InputError(f"{what}: expected a reference crop or several, got none")
    return [style.checked_image(crop, what) for crop in (target if np.ndim(target[0]) == 3 else [target])]


def _draw_references(ax: "Axes", crops: list[np.ndarray], shape: tuple[int, ...], gap: float) -> None:
    """References in a strip above a scene of `shape`, in the middle, each as high as the strip if there is room."""
    (height, width), bottom = shape[:2], -0.5 - max(gap, _MARGIN)
    gap = min(gap, _GAPS * width / len(crops))
    strip, room = _STRIP * min(height, width), (width - gap * (len(crops) - 1)) / len(crops)
    scales = [min(strip / crop.shape[0], room / crop.shape[1]) for crop in crops]
    wide = sum(scale * crop.shape[1] for scale, crop in zip(scales, crops, strict=True)) + gap * (len(crops) - 1)
    left = (width - wide) / 2 - 0.5
    limits: dict[str, Any] = {"xlim": ax.get_xlim(), "ylim": (ax.get_ylim()[0], bottom - strip)}
    for scale, crop in zip(scales, crops, strict=True):
        right, top = left + scale * crop.shape[1], bottom - scale * crop.shape[0]
        ax.imshow(crop.astype(np.uint8), extent=(left, right, bottom, top))
        left = right + gap
    ax.set(**limits)


# ---- helpers: overlays -------------------------------------------------------------------------------------------
def _draw_labels(
    draw: ImageDraw.ImageDraw, size: _Pair, boxes: np.ndarray, labels: Values, colors: Values, order: Iterable[int]
) -> None:
    """Draw labels on plates of their color; the first ones of `order` choose their places first."""
    pixels = int(np.clip(round(min(size) * _LABEL_SCALE), *_LABEL_PIXELS))
    font, pad = ImageFont.load_default(pixels), max(pixels // 8, 1)
    shown = [index for index in order if labels[index]]
    texts = [draw.textbbox((0, 0), labels[index], font=font) for index in shown]
    plates = [(int(right - left) + 2 * pad + 1, int(bottom - top) + 2 * pad + 1) for left, top, right, bottom in texts]
    places = place_plates(plates, boxes[shown], size, gap=0)
    for index, text, plate, place in zip(shown, texts, plates, places, strict=True):
        if place:
            x, y = place
            draw.rectangle((x, y, x + plate[0] - 1, y + plate[1] - 1), fill=_as_bytes(colors[index]))
            ink = _as_bytes(ink_on(colors[index]))
            draw.text((x + pad - text[0], y + pad - text[1]), labels[index], fill=ink, font=font)


def _as_bytes(color: Color) -> tuple[int, ...]:
    return tuple(round(255 * part) for part in color)


# ---- helpers: checks ---------------------------------------------------------------------------------------------
def _checked_instances(
    image: ArrayLike, boxes: ArrayLike, masks: ArrayLike | None, colors: Values | None, **of_instances: Values | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, Values]:
    """Image, boxes, masks (None where there are none) and colors, once all are of as many instances."""
    image, boxes = style.checked_image(image, "image"), style.checked_boxes(boxes, "boxes")
    if masks is not None:
        masks = style.checked_shape(masks, (*image.shape[:2], len(boxes)), "masks") if np.shape(masks)[-1] else None
    _check_counts(len(boxes), **of_instances, colors=colors)
    tints = contrasting_colors(image, masks, boxes) if colors is None else [style.checked_color(one) for one in colors]
    return image, boxes, masks, tints


def _check_counts(count: int, **values_by_name: Any) -> None:
    for name, values in values_by_name.items():
        if values is not None:
            style.checked_count(values, count, name)
