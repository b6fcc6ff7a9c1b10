"""Scenes of the Shapes data set: objects in front of each other on a textured, cluttered background, seeded.

Colour, texture, size, rotation, stretch and place are drawn at random for every object, whatever its category.
"""

import math
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from ..io.files import atomic_path
from ..ops.boxes import extract_bboxes
from .outlines import CATEGORIES, make_stamp

MIN_SIZE = 48  # pixels a side; smaller scenes leave no room for outlines
OBJECTS_PER_SCENE = (1, 6)
CATEGORIES_PER_SCENE = (2, 3)  # few, so that a reference has several matches; a single object has one
MIN_VISIBLE = 0.7  # of every object, whatever lies in front of it or beyond the border

_SOLID = 128  # coverage, of 255, from which on a pixel belongs to an object
_STAMP_TRIES = 10  # objects drawn until one finds a place; practically the first does
_PLACE_TRIES = 20
_CENTRES = (0.05, 0.95)  # of the side, where middles of objects may lie

_COLOUR_TRIES = 16
_MIN_CONTRAST = 100  # distance in RGB, 0..255 a channel, between an object and what is around it
_NEAREST_PART = 0.15  # of the pixels around may be closer to the object's colour than that
_AROUND = 400  # pixels around an object that are looked at, at most
_OBJECT_TEXTURE = (0, 14)  # amplitudes, in grey levels
_OBJECT_SHADE = 25  # largest change of an object's colour from one end to the other, in grey levels

_BACKGROUND_COLOURS = (30, 225)
_BACKGROUND_TEXTURE = (1, 10)
_PERIOD = (0.04, 0.15)  # of textures, in short sides of the scene
_CLUTTER = {"curves": (2, 6), "segments": (2, 7), "blobs": (2, 6)}  # number of each, both ends included
_CLUTTER_CONTRAST = (10, 35)  # distance in RGB from what is behind: faint beside an object
_CLUTTER_WIDTH = (0.008, 0.03)  # of strokes, in short sides
_BLOB_RADIUS = (0.04, 0.17)  # in short sides
_STROKE_CORNERS = 24  # of a curve
_BLOB_CORNERS = 32

_GAIN = (0.7, 1.15)  # brightness of a scene
_NOISE = (1, 5)  # standard deviation of a sensor's noise, in grey levels
_JPEG_QUALITY = 95


# ---- scenes ------------------------------------------------------------------------------------------------------
def make_scene(rng, height, width, *, categories=CATEGORIES):
    """A textured picture with objects, later ones in front of earlier ones.

    Two objects or more are of 2 or 3 categories, as far as there are as many to choose from.

    Args:
        rng: numpy.random.Generator.
        height, width: of the picture, in pixels.
        categories: names out of CATEGORIES to choose from.

    Returns:
        image: uint8 [height, width, RGB].
        masks: bool [height, width, n], what is visible of each object, at least 70 % of it; n is 1 to 6.
        class_ids: int32 [n], 1 + index in CATEGORIES.
    """
    _check_scene(height, width, categories)
    image = _background(rng, height, width)
    owner = np.full((height, width), -1, np.int8)  # index of the front object
    names, areas = [], []
    for name in _choose_names(rng, categories):
        found = _find_place(rng, name, owner, areas)
        if found is None:
            continue
        stamp, on_scene, on_stamp = found
        _paint(rng, image, stamp, on_scene, on_stamp)
        owner[on_scene][stamp[on_stamp] >= _SOLID] = len(areas)
        areas.append(np.count_nonzero(stamp >= _SOLID))
        names.append(name)
    masks = owner[:, :, None] == np.arange(len(areas))
    return _exposed(rng, image), masks, np.array([CATEGORIES.index(name) + 1 for name in names], np.int32)


def _choose_names(rng, categories):
    """The categories of a scene's objects, from back to front. Each chosen one comes once before any comes again."""
    count = rng.integers(*OBJECTS_PER_SCENE, endpoint=True)
    least, most = CATEGORIES_PER_SCENE
    kinds = min(rng.integers(least, most, endpoint=True), count, len(categories))
    few = rng.choice(categories, kinds, replace=False)
    return [*map(str, few), *map(str, rng.choice(few, count - kinds))]


def _check_scene(height, width, categories):
    if min(height, width) < MIN_SIZE:
        raise ValueError(f"a scene of {height} x {width} pixels is too small: expected {MIN_SIZE} or more a side")
    unknown = [name for name in categories if name not in CATEGORIES]
    if unknown or not len(categories):
        raise ValueError(f"categories = {list(categories)!r}: expected some of {', '.join(CATEGORIES)}")


# ---- files of a scene --------------------------------------------------------------------------------------------
class SceneJob(NamedTuple):
    """What a worker process needs to know of one scene."""

    path: Path  # of the picture
    seed: tuple  # of numpy's generator
    least_side: int  # in pixels; the short side is drawn from here to the long one
    size: int  # long side in pixels
    polygons: bool  # for masks without holes


def write_scene(job):
    """Make a scene and write its picture.

    Returns:
        ((height, width), annotations): in pixels; COCO's records of the objects, without the ids of image and record.
    """
    rng = np.random.default_rng(job.seed)
    height, width = map(int, rng.permutation([job.size, rng.integers(job.least_side, job.size, endpoint=True)]))
    image, masks, class_ids = make_scene(rng, height, width)
    write_picture(job.path, image, quality=_JPEG_QUALITY)
    return (height, width), annotate(masks, class_ids, polygons=job.polygons)


def write_picture(path, image, **options):
    """Write uint8 [height, width, RGB] in the format of the path's suffix, whole or not at all."""
    with atomic_path(path) as temporary:
        Image.fromarray(image).save(temporary, **options)


def annotate(masks, class_ids, *, polygons):
    """COCO's records of a scene's objects, without the ids of image and record; as polygons where no mask has a hole.

    Args:
        masks: bool [height, width, n].
        class_ids: int [n].
        polygons: False writes exact RLE for all.
    """
    records = []
    for box, mask, class_id in zip(extract_bboxes(masks), np.moveaxis(masks, -1, 0), class_ids, strict=True):
        y1, x1, y2, x2 = map(float, box)
        records.append(
            {
                "category_id": int(class_id),
                "segmentation": (mask_polygons(mask) if polygons else None) or _rle(mask),
                "area": float(np.count_nonzero(mask)),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "iscrowd": 0,
            }
        )
    return records


def _rle(mask):
    from pycocotools import mask as coco_mask  # here, so that --help and --demo do without it

    rle = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


_POLYGON_DETAIL = 3  # parts of a pixel, so that outlines run along the borders of pixels and not through their middles
_POLYGON_TOLERANCE = 0.4  # pixels that a polygon may leave the border by


def mask_polygons(mask):
    """The outlines of a mask as COCO's polygons.

    Args:
        mask: bool [height, width].

    Returns:
        list of [x, y, x, y, ...] in pixels, one for each connected part; None if the mask has a hole.
    """
    fine = cv2.resize(
        mask.view(np.uint8), None, fx=_POLYGON_DETAIL, fy=_POLYGON_DETAIL, interpolation=cv2.INTER_NEAREST
    )
    contours, hierarchy = cv2.findContours(fine, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if (hierarchy[0, :, 3] >= 0).any():  # a contour with a parent goes around a hole
        return None
    return [np.around((_simplified(contour) + 0.5) / _POLYGON_DETAIL, 2).ravel().tolist() for contour in contours]


def _simplified(contour):
    """A contour [n, 1, (x, y)] in fine pixels with fewer corners, but not without an area."""
    simpler = cv2.approxPolyDP(contour, _POLYGON_TOLERANCE * _POLYGON_DETAIL, closed=True)
    return simpler if len(simpler) >= 3 else contour


# ---- placing -----------------------------------------------------------------------------------------------------
def _find_place(rng, name, owner, areas):
    """An object and a random place for it that leaves enough of every object to be seen.

    Args:
        name: its category.
        owner: int8 [height, width], index of the object in front, -1 for none.
        areas: of the whole objects so far, in pixels.

    Returns:
        (stamp uint8 [side, side], (rows, columns) of the scene, (rows, columns) of the stamp), the latter as slices;
        None if no place was found.
    """
    seen = np.bincount(owner[owner >= 0], minlength=len(areas))
    for _ in range(_STAMP_TRIES):
        stamp = make_stamp(rng, name, min(owner.shape))
        solid = stamp >= _SOLID
        least = MIN_VISIBLE * np.count_nonzero(solid)
        for _ in range(_PLACE_TRIES):
            on_scene, on_stamp = _random_place(rng, len(stamp), owner.shape)
            covers = solid[on_stamp]
            hidden = owner[on_scene][covers]
            lost = np.bincount(hidden[hidden >= 0], minlength=len(areas))
            if np.count_nonzero(covers) >= least and np.all(seen - lost >= MIN_VISIBLE * np.array(areas)):
                return stamp, on_scene, on_stamp
    return None


def _random_place(rng, length, sides):
    """Where a stamp of `length` pixels a side lies on a scene of `sides`: slices of the scene, slices of the stamp."""
    spans = [_overlap(int(rng.uniform(*_CENTRES) * side) - length // 2, length, side) for side in sides]
    return tuple(zip(*spans, strict=True))


def _overlap(start, length, side):
    """Where start..start + length lies within 0..side, and which part of it: two slices."""
    first, last = max(start, 0), min(start + length, side)
    return slice(first, last), slice(first - start, last - start)


# ---- colours and textures of objects -----------------------------------------------------------------------------
def _paint(rng, image, stamp, on_scene, on_stamp):
    """Put an object on a scene, float32 [height, width, RGB], in a colour that stands out from what is around it."""
    coverage, behind = stamp[on_stamp], image[on_scene]
    colour = _distinct_colour(rng, _around(behind, coverage))
    shade = rng.uniform(-_OBJECT_SHADE, _OBJECT_SHADE, 3).astype(np.float32)
    texture = _texture(rng, *coverage.shape, period_of=min(image.shape[:2]))
    front = colour + rng.uniform(*_OBJECT_TEXTURE) * texture[:, :, None]
    front += _ramp(rng, *coverage.shape)[:, :, None] * shade
    behind += (coverage / np.float32(255))[:, :, None] * (front - behind)


def _around(behind, coverage):
    """Colours [n, RGB] of the pixels within a few pixels outside of an object."""
    near = cv2.dilate(coverage, np.ones((7, 7), np.uint8)) >= _SOLID
    pixels = behind[near & (coverage == 0)]
    return pixels[:: len(pixels) // _AROUND + 1]


def _distinct_colour(rng, around):
    """A random colour, float32 [RGB], away from nearly all of the colours [n, RGB]; the best of a few if none is."""
    candidates = rng.uniform(0, 255, (_COLOUR_TRIES, 3)).astype(np.float32)
    distances = np.linalg.norm(candidates[:, None] - around, axis=-1)
    nearest = np.partition(distances, int(_NEAREST_PART * len(around)), axis=1)[:, int(_NEAREST_PART * len(around))]
    good = nearest >= _MIN_CONTRAST
    return candidates[good.argmax() if good.any() else nearest.argmax()]


def _texture(rng, height, width, *, period_of):
    """Stripes, checks, waves or blotches, fine beside `period_of` pixels: float32 [height, width], about -1..1."""
    kind = rng.integers(4)
    if kind == 0:
        coarse = rng.uniform(-1, 1, rng.integers(4, 14, 2)).astype(np.float32)
        return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    y, x = _turned_grid(rng, height, width, rng.uniform(*_PERIOD) * period_of / (2 * math.pi))
    if kind == 1:
        return np.sin(y)
    if kind == 2:
        return np.sign(np.sin(y) * np.sin(x))
    return np.sin(y + 2 * np.sin(x / 2))


def _turned_grid(rng, height, width, unit=1.0):
    """Coordinates of the pixels along two perpendicular directions, in `unit` pixels: two float32 [height, width]."""
    angle = rng.uniform(0, math.pi)
    cosine, sine = math.cos(angle) / unit, math.sin(angle) / unit
    y, x = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)
    return y * np.float32(cosine) + x * np.float32(sine), x * np.float32(cosine) - y * np.float32(sine)


def _ramp(rng, height, width):
    """From 0 to 1 in a random direction: float32 [height, width]."""
    along, _ = _turned_grid(rng, height, width)
    return (along - along.min()) / max(np.ptp(along), 1)


# ---- background --------------------------------------------------------------------------------------------------
def _background(rng, height, width):
    """Two colours that blend across the picture, clutter, and a texture: float32 [height, width, RGB]."""
    first, second = rng.uniform(*_BACKGROUND_COLOURS, (2, 3)).astype(np.float32)
    image = (first + (second - first) * _ramp(rng, height, width)[:, :, None]).astype(np.uint8)
    _add_clutter(rng, image)
    texture = _texture(rng, height, width, period_of=min(height, width))
    return image + np.float32(rng.uniform(*_BACKGROUND_TEXTURE)) * texture[:, :, None]


def _add_clutter(rng, image):
    """Draw curves, segments and blobs that are no objects into a picture, uint8 [height, width, RGB]."""
    kinds = np.repeat(list(_CLUTTER), [rng.integers(*span, endpoint=True) for span in _CLUTTER.values()])
    height, width = image.shape[:2]
    short_side = min(height, width)
    for kind in rng.permutation(kinds):
        y, x = int(rng.integers(height)), int(rng.integers(width))
        change = rng.normal(size=3)
        change *= rng.uniform(*_CLUTTER_CONTRAST) / np.linalg.norm(change)
        colour = np.clip(image[y, x] + change, 0, 255).tolist()
        if kind == "blobs":
            corners = _blob(rng, rng.uniform(*_BLOB_RADIUS) * short_side) + (x, y)
            cv2.fillPoly(image, [_fixed(corners)], colour, cv2.LINE_AA, _CLUTTER_SHIFT)
        else:
            corners = _curve(rng, 0.6 * short_side, straight=kind == "segments") + (x, y)
            thickness = max(1, round(rng.uniform(*_CLUTTER_WIDTH) * short_side))
            cv2.polylines(image, [_fixed(corners)], False, colour, thickness, cv2.LINE_AA, _CLUTTER_SHIFT)


_CLUTTER_SHIFT = 4  # fractional bits of the corners that OpenCV draws


def _fixed(corners):
    """Corners [n, (x, y)] in pixels as OpenCV's fixed-point numbers."""
    return np.around(corners * (1 << _CLUTTER_SHIFT)).astype(np.int32)


def _blob(rng, radius):
    """An irregular closed outline around 0, 0, of that mean radius in pixels: float [n, (x, y)]."""
    angles = np.linspace(0, 2 * math.pi, _BLOB_CORNERS, endpoint=False)
    waves = np.arange(1, 7)[:, None]  # each weaker than the one before: no regular lobes
    strengths, phases = rng.uniform(-0.45, 0.45, waves.shape) / waves, rng.uniform(0, 2 * math.pi, waves.shape)
    radii = radius * (1 + (strengths * np.cos(waves * angles + phases)).sum(axis=0))
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1) * radii[:, None]


def _curve(rng, reach, *, straight):
    """A cubic Bezier curve, or a line, from 0, 0 to points within `reach` pixels: float [n, (x, y)]."""
    if straight:
        return np.array([(0, 0), rng.uniform(-reach, reach, 2)])
    t = np.linspace(0, 1, _STROKE_CORNERS)[:, None]
    first, second, last = rng.uniform(-reach, reach, (3, 2))
    return 3 * t * (1 - t) ** 2 * first + 3 * t**2 * (1 - t) * second + t**3 * last


# ---- the camera --------------------------------------------------------------------------------------------------
def _exposed(rng, image):
    """A float picture as the camera gives it, with a brightness and noise of its own: uint8 [height, width, RGB]."""
    noise = rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(*_NOISE))
    return np.clip(np.around(image * np.float32(rng.uniform(*_GAIN)) + noise), 0, 255).astype(np.uint8)
