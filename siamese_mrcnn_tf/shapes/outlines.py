"""Outlines of the 20 categories of the Shapes data set, and stamps: one shape by itself, ready to be put on a scene.

An outline is a list of polygons that are painted one after the other, each adding to the shape or cutting from it.
Categories differ by outline and structure alone (holes, spokes, notches, arms).
"""

import functools
import math

import cv2
import numpy as np

# Class ids 1, 2, ... A category split holds out every fourth one, which is a column here: compact shapes
# in each, and shapes of thin parts.
CATEGORIES = (
    "star", "disc", "square", "triangle",
    "heart", "arrow", "cross", "ring",
    "gear", "key", "eight", "comb",
    "ladder", "horseshoe", "pacman", "asterisk",
    "flower", "hourglass", "spiral", "tee",
)  # fmt: skip

RADIUS = (0.14, 0.28)  # of the circle around a shape before it is stretched, in short sides of the scene
STRETCH = (0.85, 1.2)  # of a shape along one axis before it is turned
MARGIN = 3  # pixels around a shape on its stamp, to see what it borders on

_SUPERSAMPLING = 4  # per axis, for smooth edges
_SHIFT = 4  # fractional bits of the corners that OpenCV fills
_FINE = 72  # corners of a full circle


# ---- stamps ------------------------------------------------------------------------------------------------------
def make_stamp(rng, name, short_side):
    """A shape of random size, stretch, rotation and handedness.

    Args:
        rng: numpy.random.Generator.
        name: out of CATEGORIES.
        short_side: of the scene, in pixels.

    Returns:
        uint8 [side, side], how much of each pixel it covers, 0..255.
    """
    radius = rng.uniform(*RADIUS) * short_side
    stretch = rng.uniform(*STRETCH)
    angle = rng.uniform(0, 2 * math.pi)
    mirror = rng.choice((-1, 1))
    return draw(name, radius, stretch=stretch, angle=angle, mirror=mirror)


def draw(name, radius, *, stretch=1.0, angle=0.0, mirror=1):
    """A shape in the middle of a square picture that it fills but for MARGIN.

    Args:
        name: out of CATEGORIES.
        radius: of the circle around it before it is stretched, in pixels.
        stretch: factor along its x axis.
        angle: by which it is turned, in radians.
        mirror: -1 flips left and right first, 1 does not.

    Returns:
        uint8 [side, side], how much of each pixel it covers, 0..255.
    """
    side = 2 * (math.ceil(radius * max(stretch, 1)) + MARGIN)
    cosine, sine = math.cos(angle), math.sin(angle)
    scale = np.array([[stretch * mirror], [1.0]]) * radius * _SUPERSAMPLING
    turn = scale * np.array([[cosine, sine], [-sine, cosine]])
    centre = side * _SUPERSAMPLING / 2 - 0.5  # OpenCV's whole numbers are middles of pixels
    canvas = np.zeros((side * _SUPERSAMPLING,) * 2, np.uint8)
    for corners, adds in unit_outline(name):
        fixed = np.around((corners @ turn + centre) * (1 << _SHIFT)).astype(np.int32)
        cv2.fillPoly(canvas, [fixed], 255 if adds else 0, shift=_SHIFT)
    return cv2.resize(canvas, (side, side), interpolation=cv2.INTER_AREA)


@functools.cache
def unit_outline(name):
    """The polygons of a category, moved and scaled so that the unit circle is the smallest around it.

    Returns:
        tuple of (corners float [n, (x, y)], adds): y points down; adds is False where the polygon is cut out.
    """
    outline = _OUTLINES[name]()
    (x, y), radius = cv2.minEnclosingCircle(_painted(outline))
    return tuple(((np.asarray(corners, float) - (x, y)) / radius, adds) for corners, adds in outline)


def _painted(outline):
    """Points on the border of what an outline paints, in its own unit: float32 [n, (x, y)]."""
    scale = 200  # pixels a unit
    canvas = np.zeros((4 * scale, 4 * scale), np.uint8)
    for corners, adds in outline:
        cv2.fillPoly(canvas, [np.around((np.asarray(corners) + 2) * scale).astype(np.int32)], 255 if adds else 0)
    contours, _ = cv2.findContours(canvas, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return (np.concatenate(contours)[:, 0] / scale - 2).astype(np.float32)


# ---- parts of outlines: corners float [n, (x, y)] ----------------------------------------------------------------
def _arc(radius, start, stop, centre=(0.0, 0.0)):
    """From one angle to another, in degrees clockwise from the right."""
    steps = max(2, math.ceil(_FINE * abs(stop - start) / 360) + 1)
    angles = np.radians(np.linspace(start, stop, steps))
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1) * radius + centre


def _circle(radius, centre=(0.0, 0.0)):
    return _arc(radius, 0, 360, centre)[:-1]


def _spokes(radii):
    """Corners at even angles, the first at the top."""
    angles = np.arange(len(radii)) * (2 * math.pi / len(radii))
    return np.stack([np.sin(angles), -np.cos(angles)], axis=-1) * np.asarray(radii)[:, None]


def _box(x1, y1, x2, y2):
    return np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)], float)


def _turned(corners, degrees):
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.asarray(corners, float) @ np.array([[cosine, sine], [-sine, cosine]])


def _mirrored(half):
    """A closed outline from its right half, given from the top to the bottom."""
    return np.array([*half, *((-x, y) for x, y in half[::-1] if x)], float)


def _solid(*polygons):
    return [(polygon, True) for polygon in polygons]


def _cut(outline, *holes):
    return [*outline, *((hole, False) for hole in holes)]


# ---- categories --------------------------------------------------------------------------------------------------
def _cross():
    return _solid(_box(-1, -0.34, 1, 0.34), _box(-0.34, -1, 0.34, 1))


def _arrow():
    return _solid(_mirrored([(0, -1), (0.85, 0), (0.34, 0), (0.34, 1)]))


def _heart():
    lobe = _arc(0.5, -180, 40, (0.5, -0.4))
    return _solid(_mirrored([*lobe, (0, 1)]))


def _gear():
    tooth = [1, 1, 0.7, 0.7]  # two corners on top, two in the gap
    angles = np.radians(np.add.outer(np.arange(9) * 40, [-9, 9, 12, 28]).ravel())
    rim = np.stack([np.cos(angles), np.sin(angles)], axis=-1) * np.tile(tooth, 9)[:, None]
    return _cut(_solid(rim), _circle(0.3))


def _key():
    head, shaft = _circle(0.55, (0, -0.45)), _box(-0.2, -0.1, 0.2, 1)
    bits = _box(0, 0.22, 0.6, 0.5), _box(0, 0.72, 0.6, 1)
    return _cut(_solid(head, shaft, *bits), _circle(0.22, (0, -0.45)))


def _eight():
    centres = (0, -0.46), (0, 0.46)
    return _cut(_solid(*(_circle(0.54, centre) for centre in centres)), *(_circle(0.22, centre) for centre in centres))


def _comb():
    teeth = (_box(x - 0.22, 0, x + 0.22, 1.1) for x in (-0.78, 0, 0.78))
    return _solid(_box(-1, -0.5, 1, 0.2), *teeth)


def _horseshoe():
    outer, inner = _arc(1, 180, 360), _arc(0.38, 360, 180)
    return _solid(np.concatenate([outer, [(1, 1), (0.38, 1)], inner, [(-0.38, 1), (-1, 1)]]))


def _ladder():
    rails = _box(-0.6, -1, -0.24, 1), _box(0.24, -1, 0.6, 1)
    return _solid(*rails, *(_box(-0.5, y - 0.17, 0.5, y + 0.17) for y in (-0.5, 0.5)))


def _pacman():
    return _solid(np.concatenate([[(-0.1, 0)], _arc(1, 47, 313)]))


def _asterisk():
    return _solid(*(_turned(_box(-1, -0.2, 1, 0.2), turn) for turn in (0, 60, 120)))


def _hourglass():
    return _solid(_mirrored([(0, -1), (0.8, -1), (0.16, 0), (0.8, 1), (0, 1)]))


def _spiral():
    turn = np.linspace(0, 2 * math.pi * 1.5, 2 * _FINE)
    middle, half = 0.1 + 0.095 * turn, 0.2  # the gap between turns is as wide as the stroke or wider
    across = np.stack([np.cos(turn), np.sin(turn)], axis=-1)
    outer, inner = across * (middle + half)[:, None], across * np.maximum(middle - half, 0)[:, None]
    return _solid(np.concatenate([outer, inner[::-1]]))


def _flower():
    petals = (_turned(_circle(0.34, (0, -0.66)), turn) for turn in range(0, 360, 72))
    return _solid(_circle(0.55), *petals)


def _tee():
    return _solid(_box(-0.9, -1, 0.9, -0.4), _box(-0.32, -1, 0.32, 1))


_OUTLINES = {
    "disc": lambda: _solid(_circle(1)),
    "square": lambda: _solid(_spokes([1] * 4)),
    "triangle": lambda: _solid(_spokes([1] * 3)),
    "star": lambda: _solid(_spokes([1, 0.45] * 5)),
    "ring": lambda: _cut(_solid(_circle(1)), _circle(0.45)),
    "cross": _cross,
    "arrow": _arrow,
    "heart": _heart,
    "gear": _gear,
    "key": _key,
    "eight": _eight,
    "comb": _comb,
    "horseshoe": _horseshoe,
    "ladder": _ladder,
    "pacman": _pacman,
    "asterisk": _asterisk,
    "hourglass": _hourglass,
    "spiral": _spiral,
    "flower": _flower,
    "tee": _tee,
}
