"""Scenes of the Shapes data set: objects in front of each other on a textured, cluttered background, seeded.

Color, texture, size, rotation, stretch and place of every object are random and independent of its category.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image

from ..io.errors import InputError
from ..io.files import atomic_path
from ..ops.boxes import extract_bboxes
from ..ops.polygons import mask_polygons
from .outlines import CATEGORIES, MAX_CATEGORIES, category_id, category_names, make_stamp

Part = tuple[slice, slice]  # rows and columns

MIN_SIZE = 48  # pixels a side; smaller scenes leave no room for outlines
MAX_SIZE = 8192  # pixels a side
OBJECTS_PER_SCENE = (1, 6)
CATEGORIES_PER_SCENE = (2, 3)  # few, so that a reference has several matches; a single object has one
MIN_VISIBLE = 0.7  # share of every object that is neither hidden nor beyond the border

_SOLID = 128  # minimum coverage, of 255, of the pixels of an object
_STAMP_TRIES = 10  # objects drawn until one finds a place; usually the first does
_PLACE_TRIES = 20
_CENTERS = (0.05, 0.95)  # of the side, for the centers of objects

_COLOR_TRIES = 16
_MIN_CONTRAST = 100  # distance in RGB, 0..255 a channel, between an object and the pixels around it
_NEAREST_PART = 0.15  # share of these pixels that may be closer to the object's color
_AROUND = 400  # maximum number of these pixels
_OBJECT_TEXTURE = (0, 14)  # amplitudes, in gray levels
_OBJECT_SHADE = 25  # largest change of an object's color from one end to the other, in gray levels

_BACKGROUND_COLORS = (30, 225)
_BACKGROUND_TEXTURE = (1, 10)
_PERIOD = (0.04, 0.15)  # of textures, in short sides of the scene
_CLUTTER = {"curves": (2, 6), "segments": (2, 7), "blobs": (2, 6)}  # number of each, both ends included
_CLUTTER_CONTRAST = (10, 35)  # distance in RGB from the background: faint beside an object
_CLUTTER_WIDTH = (0.008, 0.03)  # of strokes, in short sides
_BLOB_RADIUS = (0.04, 0.17)  # in short sides
_STROKE_CORNERS = 24  # of a curve
_BLOB_CORNERS = 32

_GAIN = (0.7, 1.15)  # brightness of a scene
_NOISE = (1, 5)  # standard deviation of a sensor's noise, in gray levels
_JPEG_QUALITY = 95


# ---- scenes ------------------------------------------------------------------------------------------------------
def make_scene(
    rng: np.random.Generator, height: int, width: int, *, categories: Sequence[str] = CATEGORIES
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A textured image with objects, later ones in front of earlier ones.

    Two objects or more are of 2 or 3 categories, or fewer if `categories` has fewer.

    Args:
        height, width: of the image, in pixels.
        categories: names of `outlines.category_names` to choose from.

    Returns:
        image: uint8 [height, width, RGB].
        masks: bool [height, width, n], the visible part of each object, at least 70 % of it; n is 1 to 6.
        class_ids: int32 [n], of `outlines.category_id`.
    """
    if min(height, width) < MIN_SIZE:
        raise InputError(f"a scene of {height} x {width} pixels is too small: expected {MIN_SIZE} or more a side")
    if max(height, width) > MAX_SIZE:
        raise InputError(f"a scene of {height} x {width} pixels is too large: expected at most {MAX_SIZE} a side")
    known = category_names(MAX_CATEGORIES)
    if not len(categories) or not set(categories) <= set(known):
        raise InputError(
            f"categories = {list(categories)!r}: expected some of {', '.join(CATEGORIES)}, {known[20]}, ..."
        )
    image = _background(rng, height, width)
    owner = np.full((height, width), -1, np.int8)  # index of the front object
    names, areas = list[str](), list[int]()
    for name in _choose_names(rng, categories):
        found = _find_place(rng, name, owner, areas)
        if found is None:
            continue
        stamp, on_scene, on_stamp = found
        _paint(rng, image, stamp, on_scene, on_stamp)
        owner[on_scene][stamp[on_stamp] >= _SOLID] = len(areas)
        areas.append(int(np.count_nonzero(stamp >= _SOLID)))
        names.append(name)
    masks = owner[:, :, None] == np.arange(len(areas))
    noise = rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(*_NOISE))  # of a camera
    exposed = np.clip(np.around(image * np.float32(rng.uniform(*_GAIN)) + noise), 0, 255).astype(np.uint8)
    return exposed, masks, np.array([category_id(name) for name in names], np.int32)


def _choose_names(rng: np.random.Generator, categories: Sequence[str]) -> list[str]:
    """The categories of a scene's objects, from back to front: each chosen one once, then random repeats."""
    count = int(rng.integers(*OBJECTS_PER_SCENE, endpoint=True))
    kinds = min(int(rng.integers(*CATEGORIES_PER_SCENE, endpoint=True)), count, len(categories))
    few = rng.choice(categories, kinds, replace=False)
    return [*map(str, few), *map(str, rng.choice(few, count - kinds))]


# ---- files of a scene --------------------------------------------------------------------------------------------
class SceneJob(NamedTuple):
    """A scene to be drawn by a worker process."""

    path: Path  # of the image
    seed: tuple[int, ...]  # of numpy's generator
    min_side: int  # in pixels; the short side is drawn from here to the long one
    size: int  # long side in pixels
    polygons: bool  # for masks without holes
    categories: int  # number of categories to choose from


def write_scene(job: SceneJob) -> tuple[tuple[int, int], list[dict[str, Any]]]:
    """Make a scene and write its image; returns (height, width) in pixels, and the records that `annotate` makes."""
    rng = np.random.default_rng(job.seed)
    short_side = int(rng.integers(job.min_side, job.size, endpoint=True))
    height, width = map(int, rng.permutation([job.size, short_side]))
    image, masks, class_ids = make_scene(rng, height, width, categories=category_names(job.categories))
    write_image(job.path, image, quality=_JPEG_QUALITY)
    return (height, width), annotate(masks, class_ids, polygons=job.polygons)


def write_image(path: Path, image: np.ndarray, **options: Any) -> None:
    """Write uint8 [height, width, RGB] in the format of the path's suffix."""
    with atomic_path(path) as temporary:
        Image.fromarray(image).save(temporary, **options)


def annotate(masks: np.ndarray, class_ids: np.ndarray, *, polygons: bool) -> list[dict[str, Any]]:
    """COCO's records of a scene's objects, without the ids of image and record.

    Args:
        masks: bool [height, width, n].
        class_ids: int [n].
        polygons: write polygons for masks without holes; False writes exact RLE for all.
    """
    from pycocotools import mask as coco_mask  # here, so that --help and --demo do not load it

    records = []
    for box, mask, class_id in zip(extract_bboxes(masks), np.moveaxis(masks, -1, 0), class_ids, strict=True):
        y1, x1, y2, x2 = map(float, box)
        rle = coco_mask.encode(np.asfortranarray(mask, np.uint8))
        records.append(
            {
                "category_id": int(class_id),
                "segmentation": (mask_polygons(mask) if polygons else None) or rle | {"counts": rle["counts"].decode()},
                "area": float(np.count_nonzero(mask)),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "iscrowd": 0,
            }
        )
    return records


# ---- placing -----------------------------------------------------------------------------------------------------
def _find_place(
    rng: np.random.Generator, name: str, owner: np.ndarray, areas: list[int]
) -> tuple[np.ndarray, Part, Part] | None:
    """A stamp of `name`, the part of the scene that it covers, and that part of it; None if no place was found.

    Enough of every object stays visible.

    Args:
        owner: int8 [height, width], index of the object in front, -1 for none.
        areas: of the whole objects so far, in pixels.
    """
    visible = np.bincount(owner[owner >= 0], minlength=len(areas))
    for _ in range(_STAMP_TRIES):
        stamp = make_stamp(rng, name, min(owner.shape))
        solid = stamp >= _SOLID
        min_area = MIN_VISIBLE * np.count_nonzero(solid)
        for _ in range(_PLACE_TRIES):
            on_scene, on_stamp = _random_place(rng, len(stamp), owner.shape)
            covers = solid[on_stamp]
            hidden = owner[on_scene][covers]
            lost = np.bincount(hidden[hidden >= 0], minlength=len(areas))
            if np.count_nonzero(covers) >= min_area and np.all(visible - lost >= MIN_VISIBLE * np.array(areas)):
                return stamp, on_scene, on_stamp
    return None


def _random_place(rng: np.random.Generator, length: int, sides: tuple[int, ...]) -> tuple[Part, Part]:
    """A place for a stamp of `length` pixels a side on a scene of `sides`: the parts of the scene and of the stamp."""
    y, x = (int(rng.uniform(*_CENTERS) * side) - length // 2 for side in sides)
    top, left, bottom, right = max(y, 0), max(x, 0), min(y + length, sides[0]), min(x + length, sides[1])
    return (slice(top, bottom), slice(left, right)), (slice(top - y, bottom - y), slice(left - x, right - x))


# ---- colors and textures of objects -----------------------------------------------------------------------------
def _paint(rng: np.random.Generator, image: np.ndarray, stamp: np.ndarray, on_scene: Part, on_stamp: Part) -> None:
    """Paint an object on a scene, float32 [height, width, RGB], in a color that differs from the pixels around it."""
    coverage, behind = stamp[on_stamp], image[on_scene]
    near = cv2.dilate(coverage, np.ones((7, 7), np.uint8)) >= _SOLID
    around = behind[near & (coverage == 0)]
    color = _distinct_color(rng, around[:: len(around) // _AROUND + 1])
    shade = rng.uniform(-_OBJECT_SHADE, _OBJECT_SHADE, 3).astype(np.float32)
    texture = _texture(rng, *coverage.shape, period_of=min(image.shape[:2]))
    front = color + rng.uniform(*_OBJECT_TEXTURE) * texture[:, :, None]
    front += _ramp(rng, *coverage.shape)[:, :, None] * shade
    behind += (coverage / np.float32(255))[:, :, None] * (front - behind)


def _distinct_color(rng: np.random.Generator, around: np.ndarray) -> np.ndarray:
    """A random color, float32 [RGB], far from nearly all colors [n, RGB], or the farthest of a few tries."""
    candidates = rng.uniform(0, 255, (_COLOR_TRIES, 3)).astype(np.float32)
    distances = np.linalg.norm(candidates[:, None] - around, axis=-1)
    nearest = np.partition(distances, int(_NEAREST_PART * len(around)), axis=1)[:, int(_NEAREST_PART * len(around))]
    good = nearest >= _MIN_CONTRAST
    return candidates[good.argmax() if good.any() else nearest.argmax()]


def _texture(rng: np.random.Generator, height: int, width: int, *, period_of: int) -> np.ndarray:
    """Stripes, checks, waves or blotches, periods relative to `period_of`: float32 [height, width], about -1..1."""
    if (kind := rng.integers(4)) == 0:
        coarse = rng.uniform(-1, 1, rng.integers(4, 14, 2)).astype(np.float32)
        return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    y, x = _turned_grid(rng, height, width, rng.uniform(*_PERIOD) * period_of / (2 * math.pi))
    return np.sin(y) if kind == 1 else np.sign(np.sin(y) * np.sin(x)) if kind == 2 else np.sin(y + 2 * np.sin(x / 2))


def _turned_grid(rng: np.random.Generator, height: int, width: int, unit: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of the pixels along two perpendicular directions, in `unit` pixels: two float32 [height, width]."""
    angle = rng.uniform(0, math.pi)
    cosine, sine = math.cos(angle) / unit, math.sin(angle) / unit
    y, x = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)
    return y * np.float32(cosine) + x * np.float32(sine), x * np.float32(cosine) - y * np.float32(sine)


def _ramp(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """From 0 to 1 in a random direction: float32 [height, width]."""
    along, _ = _turned_grid(rng, height, width)
    return (along - along.min()) / max(np.ptp(along), 1)


# ---- background --------------------------------------------------------------------------------------------------
def _background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Two colors that blend across the image, clutter, and a texture: float32 [height, width, RGB]."""
    first, second = rng.uniform(*_BACKGROUND_COLORS, (2, 3)).astype(np.float32)
    image = (first + (second - first) * _ramp(rng, height, width)[:, :, None]).astype(np.uint8)
    _add_clutter(rng, image)
    texture = _texture(rng, height, width, period_of=min(height, width))
    return image + np.float32(rng.uniform(*_BACKGROUND_TEXTURE)) * texture[:, :, None]


def _add_clutter(rng: np.random.Generator, image: np.ndarray) -> None:
    """Draw curves, segments and blobs that are not objects into an image, uint8 [height, width, RGB]."""
    kinds = np.repeat(list(_CLUTTER), [rng.integers(*span, endpoint=True) for span in _CLUTTER.values()])
    height, width = image.shape[:2]
    short_side, shift = min(height, width), 4  # fractional bits of the corners that OpenCV draws
    for kind in rng.permutation(kinds):
        y, x = int(rng.integers(height)), int(rng.integers(width))
        change = rng.normal(size=3)
        change *= rng.uniform(*_CLUTTER_CONTRAST) / np.linalg.norm(change)
        color = np.clip(image[y, x] + change, 0, 255).tolist()
        if is_blob := kind == "blobs":
            corners = _blob(rng, rng.uniform(*_BLOB_RADIUS) * short_side)
        else:
            corners = _curve(rng, 0.6 * short_side, straight=kind == "segments")
        fixed = np.around((corners + (x, y)) * (1 << shift)).astype(np.int32)
        if is_blob:
            cv2.fillPoly(image, [fixed], color, cv2.LINE_AA, shift)
        else:
            thickness = max(1, round(rng.uniform(*_CLUTTER_WIDTH) * short_side))
            cv2.polylines(image, [fixed], False, color, thickness, cv2.LINE_AA, shift)


def _blob(rng: np.random.Generator, radius: float) -> np.ndarray:
    """An irregular closed outline around 0, 0 with a mean radius in pixels: float [n, (x, y)]."""
    angles = np.linspace(0, 2 * math.pi, _BLOB_CORNERS, endpoint=False)
    waves = np.arange(1, 7)[:, None]  # each weaker than the one before: no regular lobes
    strengths, phases = rng.uniform(-0.45, 0.45, waves.shape) / waves, rng.uniform(0, 2 * math.pi, waves.shape)
    radii = radius * (1 + (strengths * np.cos(waves * angles + phases)).sum(axis=0))
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1) * radii[:, None]


def _curve(rng: np.random.Generator, reach: float, *, straight: bool) -> np.ndarray:
    """A cubic Bezier curve, or a line, from 0, 0 to points within `reach` pixels: float [n, (x, y)]."""
    if straight:
        return np.array([(0, 0), rng.uniform(-reach, reach, 2)])
    t = np.linspace(0, 1, _STROKE_CORNERS)[:, None]
    first, second, last = rng.uniform(-reach, reach, (3, 2))
    return 3 * t * (1 - t) ** 2 * first + 3 * t**2 * (1 - t) * second + t**3 * last
