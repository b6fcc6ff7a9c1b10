"""Overlays of a search: an image with the finds of all categories, and the references in a margin beside it.

    colors = category_colors([crops for _, crops in wanted])
    legends = [Legend(name, color, 0.7, crops) for (name, crops), color in zip(wanted, colors)]
    drawing = draw_finds(image, legends, finds)
    Image.fromarray(add_margin(drawing, legends)).save("overlay.png")

Small images are enlarged, so that labels can be read. Every line has a dark line around it: one of the two stands off
any image. Boxes are (y1, x1, y2, x2) in pixels, y2 and x2 exclusive; colors are (red, green, blue) in 0..1.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Protocol

import cv2
import numpy as np
from PIL import Image, ImageDraw

from ..ops.boxes import extract_bboxes
from . import style
from .lettering import Plate, draw_plate, fitting_text, font_for, place_plates, shown_text
from .palette import ink_on, tint_on
from .style import Color

Bytes3 = tuple[int, int, int]

_MIN_SIDE, _MAX_ENLARGED = 480, 2048  # pixels: short side to which images are enlarged, long side up to which
_LINE_SHARE, _FONT_SHARE = 1 / 260, 1 / 34  # of the short side
_MIN_LINE, _MIN_FONT, _SMALLEST_FONT = 2, 11, 8
_MAX_LABEL_SHARE = 0.25  # of the area, that labels may cover before they shrink
_WORTH_NAMES = 0.5  # share of that area that labels need at most to have names, if they are made smaller
_LABEL_WIDTH = 14  # maximum, in heights of the font
_TINT = 0.35  # share of the color in a mask
_SMOOTHING, _SOLID = 0.45, 110  # of borders of enlarged masks: standard deviation in pixels; minimum coverage, of 255
_CASING: Bytes3 = (16, 18, 22)  # of lines
_CASING_OPACITY, _BOX_OPACITY, _BOX_CASING_OPACITY = 0.75, 0.75, 0.25
_PLACING_SIDE = 800  # pixels of the long side, at most, of the grid on which labels are placed


class Instances(Protocol):
    """Detections of one category, such as `search.results.Finds`."""

    @property
    def boxes(self) -> np.ndarray:
        """[n, (y1, x1, y2, x2)] in pixels."""

    @property
    def scores(self) -> np.ndarray:
        """[n]."""

    @property
    def masks(self) -> np.ndarray | None:
        """bool [height, width, n]; None for a model without masks."""


@dataclasses.dataclass(frozen=True)
class Legend:
    """A category as overlays show it."""

    name: str
    color: Color
    threshold: float
    crops: Sequence[np.ndarray] = ()  # references, uint8 [h, w, RGB]


@dataclasses.dataclass(frozen=True)
class Drawing:
    """An image with its finds drawn into it."""

    pixels: np.ndarray  # uint8 [scale * height, scale * width, RGB]
    counts: tuple[int, ...]  # finds of each category
    num_unlabeled: int = 0  # finds for whose label there is no room


@dataclasses.dataclass(frozen=True)
class _Find:
    """One instance on the enlarged image."""

    category: int
    score: float
    box: np.ndarray  # int [(y1, x1, y2, x2)]
    contours: list[np.ndarray]  # int32 [points, 1, (x, y)]
    inside: np.ndarray  # bool, the mask in its own box
    corner: tuple[int, int]  # (x, y) of that box


def overlay_scale(height: int, width: int) -> int:
    """Factor by which an image is enlarged for its overlay; 1 for all but small ones."""
    wanted = -(-_MIN_SIDE // min(height, width))
    return min(wanted, max(_MAX_ENLARGED // max(height, width), 1))


def draw_finds(image: np.ndarray, categories: Sequence[Legend], finds: Sequence[Instances]) -> Drawing:
    """Draw the finds of all categories: tinted masks, outlines, boxes, and labels with names and scores.

    Args:
        image: uint8 [height, width, RGB].
        categories: of the finds.
        finds: of each category.

    Raises:
        ValueError: an image, boxes or masks of another shape; another number of categories than of finds.
    """
    image = style.checked_image(image, "image")
    style.checked_count(finds, len(categories), "finds")
    scale = overlay_scale(*image.shape[:2])
    canvas = _enlarged(image, scale)
    found = sorted(_scaled(finds, image.shape[:2], scale), key=lambda one: one.score)
    line = _line_width(canvas)
    for one in found:
        _draw_instance(canvas, one, categories[one.category].color, line)
    drawn = Image.fromarray(canvas)
    hidden = _draw_labels(drawn, found[::-1], categories, line)
    return Drawing(np.array(drawn), tuple(len(one.scores) for one in finds), hidden)


def _enlarged(image: np.ndarray, scale: int) -> np.ndarray:
    if scale == 1:
        return np.array(image)
    size = image.shape[1] * scale, image.shape[0] * scale
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def _line_width(canvas: np.ndarray) -> int:
    return max(round(min(canvas.shape[:2]) * _LINE_SHARE), _MIN_LINE)


def font_pixels(canvas: np.ndarray) -> int:
    """Height in pixels of the labels of an enlarged image [height, width, RGB]."""
    return max(round(min(canvas.shape[:2]) * _FONT_SHARE), _MIN_FONT)


# ---- instances ---------------------------------------------------------------------------------------------------
def _scaled(finds: Sequence[Instances], shape: tuple[int, ...], scale: int) -> Iterator[_Find]:
    """The instances of all categories, on the image of `shape` enlarged by `scale`."""
    for category, group in enumerate(finds):
        boxes = style.checked_boxes(group.boxes, "boxes")
        masks = group.masks
        if masks is not None:
            masks = style.checked_shape(masks, (*shape[:2], len(boxes)), "masks")
        for index, box in enumerate(boxes):
            large = np.rint(box * scale).astype(int)
            mask = None if masks is None else np.ascontiguousarray(masks[:, :, index], bool)
            inside, corner = np.zeros((0, 0), bool), (0, 0)
            if mask is not None and mask.any():
                inside, corner = _scaled_mask(mask, scale)
            contours = _contours(inside, corner) if inside.any() else _rectangle(large)
            yield _Find(category, float(group.scores[index]), large, contours, inside, corner)


def _scaled_mask(mask: np.ndarray, scale: int) -> tuple[np.ndarray, tuple[int, int]]:
    """(the mask enlarged with smooth borders, in its box; (x, y) of that box on the enlarged image)."""
    y1, x1, y2, x2 = extract_bboxes(mask[:, :, None])[0]
    part: np.ndarray = np.pad(mask[y1:y2, x1:x2], 1).astype(np.uint8) * 255
    if scale > 1:
        size = part.shape[1] * scale, part.shape[0] * scale
        part = cv2.resize(part, size, interpolation=cv2.INTER_LINEAR)
        part = cv2.GaussianBlur(part, (0, 0), _SMOOTHING * scale)
    height, width = mask.shape[0] * scale, mask.shape[1] * scale
    top, left = (y1 - 1) * scale, (x1 - 1) * scale
    rows, columns = slice(max(-top, 0), height - top), slice(max(-left, 0), width - left)
    return part[rows, columns] >= _SOLID, (max(left, 0), max(top, 0))


def _contours(mask: np.ndarray, corner: tuple[int, int]) -> list[np.ndarray]:
    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    return [contour + np.array(corner, np.int32) for contour in found]


def _rectangle(box: np.ndarray) -> list[np.ndarray]:
    y1, x1, y2, x2 = box - (0, 0, 1, 1)
    return [np.array([[[x1, y1]], [[x2, y1]], [[x2, y2]], [[x1, y2]]], np.int32)]


def _draw_instance(canvas: np.ndarray, one: _Find, color: Color, line: int) -> None:
    """Draw mask, box and outline into the image, in place."""
    if one.inside.size:
        x, y = one.corner
        region = canvas[y : y + one.inside.shape[0], x : x + one.inside.shape[1]]
        below = region[one.inside]
        tint = np.multiply(tint_on(color, below), 255 * _TINT)
        region[one.inside] = np.rint(below * (1 - _TINT) + tint).astype(np.uint8)
        frame, thin = _rectangle(one.box), max(line // 2, 1)
        _stroke(canvas, frame, _CASING, thin + 2, _BOX_CASING_OPACITY)
        _stroke(canvas, frame, as_bytes(color), thin, _BOX_OPACITY)
    _stroke(canvas, one.contours, _CASING, line + 2 * max(round(line / 2), 1), _CASING_OPACITY)
    _stroke(canvas, one.contours, as_bytes(color), line, 1.0)


def _stroke(canvas: np.ndarray, contours: Sequence[np.ndarray], color: Bytes3, width: int, opacity: float) -> None:
    """Draw closed lines into the image, in place; width in pixels."""
    points = np.concatenate(contours)[:, 0]
    low = np.maximum(points.min(axis=0) - width - 1, 0)
    high = np.minimum(points.max(axis=0) + width + 2, canvas.shape[1::-1])
    if (high <= low).any():
        return
    region = canvas[low[1] : high[1], low[0] : high[0]]
    layer = np.zeros(region.shape[:2], np.uint8)
    shifted = [contour - low.astype(np.int32) for contour in contours]
    cv2.polylines(layer, shifted, True, 255, width, cv2.LINE_AA)
    touched = layer > 0
    share = layer[touched, None] * np.float32(opacity / 255)
    below = region[touched]
    region[touched] = np.rint(below + share * (np.array(color, np.float32) - below)).astype(np.uint8)


# ---- labels ------------------------------------------------------------------------------------------------------
def _draw_labels(drawn: Image.Image, found: Sequence[_Find], categories: Sequence[Legend], line: int) -> int:
    """Draw the labels of finds, the best first; returns how many have no room."""
    plates = _plates(np.asarray(drawn), found, categories)
    step = max(-(-max(drawn.size) // _PLACING_SIDE), 1)  # labels are placed on a grid of so many pixels
    area = drawn.width // step, drawn.height // step
    sizes = [(-(-plate.size[0] // step), -(-plate.size[1] // step)) for plate in plates]
    boxes = np.array([one.box for one in found]).reshape(-1, 4) // step
    gap = max(round((line + 2) / step), 1)
    places = place_plates(sizes, boxes, area, gap=gap, avoid=_occupied(found, area, step))
    corners = [None if place is None else (place[0] * step, place[1] * step) for place in places]
    draw = ImageDraw.Draw(drawn)
    for one, plate, corner in zip(found, plates, corners, strict=True):
        if corner is not None:
            _draw_leader(draw, one.box, (*corner, *np.add(corner, plate.size)), plate.fill, line)
    for plate, corner in zip(plates, corners, strict=True):
        if corner is not None:
            draw_plate(draw, plate, corner)
    return corners.count(None)


def _plates(canvas: np.ndarray, found: Sequence[_Find], categories: Sequence[Legend]) -> list[Plate]:
    """The labels of finds; where they would cover too much of the image they have scores alone, or are smaller."""
    pixels, limit = font_pixels(canvas), _MAX_LABEL_SHARE * canvas.shape[0] * canvas.shape[1]
    plates = [_plate(one, categories[one.category], pixels) for one in found]
    named = _area(plates) * _WORTH_NAMES <= limit
    if not named:
        plates = [_plate(one, categories[one.category], pixels, named=False) for one in found]
    if (covered := _area(plates)) > limit:
        smaller = max(int(pixels * (limit / covered) ** 0.5), min(_SMALLEST_FONT, pixels))
        plates = [_plate(one, categories[one.category], smaller, named=named) for one in found]
    return plates


def _area(plates: Sequence[Plate]) -> int:
    return sum(width * height for width, height in (plate.size for plate in plates))


def _plate(one: _Find, category: Legend, pixels: int, *, named: bool = True) -> Plate:
    name, score = shown_text(category.name) if named else "", f"{' ' if named else ''}{one.score:.2f}"
    font = font_for(name + score, pixels, bold=True)
    text = fitting_text(name, font, _LABEL_WIDTH * pixels - font.getlength(score)) + score
    return Plate(text, font, as_bytes(category.color), as_bytes(ink_on(category.color)))


def _occupied(found: Sequence[_Find], area: tuple[int, int], step: int) -> np.ndarray:
    """The cost of covering a part of the image: 1 on objects, 3 at their centers."""
    cost = np.zeros(area[::-1], np.float32)
    for one in found:
        y1, x1, y2, x2 = one.box // step
        inside = one.inside[::step, ::step]
        if inside.size:
            x, y = one.corner[0] // step, one.corner[1] // step
            part = cost[y : y + inside.shape[0], x : x + inside.shape[1]]
            part[inside[: part.shape[0], : part.shape[1]]] = 1
        else:
            cost[y1:y2, x1:x2] = 1
    for one in found:
        y1, x1, y2, x2 = one.box // step
        inset_y, inset_x = (y2 - y1) // 4, (x2 - x1) // 4
        cost[y1 + inset_y : y2 - inset_y, x1 + inset_x : x2 - inset_x] = 3
    return cost


def _draw_leader(draw: ImageDraw.ImageDraw, box: np.ndarray, plate: tuple[int, ...], color: Bytes3, line: int) -> None:
    """Draw a line from a box to its label where that is not beside it."""
    y1, x1, y2, x2 = map(int, box)
    nearest = min(max((plate[0] + plate[2]) // 2, x1), x2), min(max((plate[1] + plate[3]) // 2, y1), y2)
    start = min(max(nearest[0], plate[0]), plate[2]), min(max(nearest[1], plate[1]), plate[3])
    if max(abs(start[0] - nearest[0]), abs(start[1] - nearest[1])) > 6 * line:
        draw.line((*start, *nearest), fill=_CASING, width=line + 2)
        draw.line((*start, *nearest), fill=color, width=line)


def as_bytes(color: Color) -> Bytes3:
    """A color in 0..1 as (red, green, blue) in 0..255."""
    red, green, blue = (round(255 * part) for part in color)
    return red, green, blue
