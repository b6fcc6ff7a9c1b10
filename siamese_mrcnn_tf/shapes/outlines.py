"""Outlines of the 20 categories of the Shapes data set, and stamps: one shape by itself, to be placed on a scene.

An outline is a list of polygons that are painted in order, each adding to the shape or cutting from it. Categories
differ by outline and structure alone (holes, spokes, notches, arms).
"""

import functools
import math
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

Outline = list[tuple[np.ndarray, bool]]  # (corners [n, (x, y)], whether the polygon adds to the shape)

# Class ids 1, 2, ... The novel categories of a split are a column here; each has compact and thin shapes.
CATEGORIES = (
    "star", "disc", "square", "triangle",
    "heart", "arrow", "cross", "ring",
    "gear", "key", "eight", "comb",
    "ladder", "horseshoe", "pacman", "asterisk",
    "flower", "hourglass", "spiral", "tee",
)  # fmt: skip

RADIUS = (0.14, 0.28)  # of the circle around a shape before it is stretched, in short sides of the scene
STRETCH = (0.85, 1.2)  # of a shape along one axis before it is turned
MARGIN = 3  # pixels around a shape on its stamp, for the colors around it

_SUPERSAMPLING = 4  # per axis, for smooth edges
_SHIFT = 4  # fractional bits of the corners that OpenCV fills
_FINE = 72  # corners of a full circle
_TOOTH = [-9, 9, 12, 28]  # degrees of a gear's tooth: two corners on top, two in the gap


# ---- stamps ------------------------------------------------------------------------------------------------------
def make_stamp(rng: np.random.Generator, name: str, short_side: int) -> np.ndarray:
    """A shape (`draw`) of random size, stretch, rotation and handedness, for a scene of `short_side` pixels."""
    radius, stretch = rng.uniform(*RADIUS) * short_side, rng.uniform(*STRETCH)
    return draw(name, radius, stretch=stretch, angle=rng.uniform(0, 2 * math.pi), mirror=rng.choice((-1, 1)))


def draw(name: str, radius: float, *, stretch: float = 1.0, angle: float = 0.0, mirror: int = 1) -> np.ndarray:
    """A shape in the middle of a square image that it fills up to MARGIN.

    Args:
        name: out of CATEGORIES.
        radius: of the circle around it before it is stretched, in pixels.
        stretch: factor along its x axis.
        angle: rotation in radians.
        mirror: -1 flips left and right first, 1 does not.

    Returns:
        uint8 [side, side], coverage of each pixel, 0..255.
    """
    side = 2 * (math.ceil(radius * max(stretch, 1)) + MARGIN)
    cosine, sine = math.cos(angle), math.sin(angle)
    scale = np.array([[stretch * mirror], [1.0]]) * radius * _SUPERSAMPLING
    turn = scale * np.array([[cosine, sine], [-sine, cosine]])
    center = side * _SUPERSAMPLING / 2 - 0.5  # OpenCV's whole numbers are centers of pixels
    canvas = np.zeros((side * _SUPERSAMPLING,) * 2, np.uint8)
    for corners, adds in unit_outline(name):
        fixed = np.around((corners @ turn + center) * (1 << _SHIFT)).astype(np.int32)
        cv2.fillPoly(canvas, [fixed], 255 if adds else 0, shift=_SHIFT)
    return cv2.resize(canvas, (side, side), interpolation=cv2.INTER_AREA)


@functools.cache
def unit_outline(name: str) -> tuple[tuple[np.ndarray, bool], ...]:
    """The polygons of a category, moved and scaled so that the unit circle is their minimum enclosing circle.

    Returns:
        (corners float [n, (x, y)], adds): y points down; adds is False where the polygon is cut out.
    """
    outline, scale = _outlines()[name], 200  # pixels a unit
    canvas = np.zeros((4 * scale, 4 * scale), np.uint8)
    for corners, adds in outline:
        cv2.fillPoly(canvas, [np.around((corners + 2) * scale).astype(np.int32)], 255 if adds else 0)
    contours, _ = cv2.findContours(canvas, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    (x, y), radius = cv2.minEnclosingCircle((np.concatenate(contours)[:, 0] / scale - 2).astype(np.float32))
    return tuple(((corners - (x, y)) / radius, adds) for corners, adds in outline)


# ---- categories --------------------------------------------------------------------------------------------------
@functools.cache
def _outlines() -> dict[str, Outline]:
    """The outline of every category, each in its own unit."""
    bar, lobe, wheel = _box(-1, -0.2, 1, 0.2), _arc(0.5, -180, 40, (0.5, -0.4)), np.add.outer(np.arange(9) * 40, _TOOTH)
    petal, outer, inner = _circle(0.34, (0, -0.66)), _arc(1, 180, 360), _arc(0.38, 360, 180)
    turn, half = np.linspace(0, 2 * math.pi * 1.5, 2 * _FINE), 0.2
    middle = 0.1 + 0.095 * turn  # the gap between turns of the spiral is as wide as the stroke or wider
    return {
        "disc": _outline(_circle(1)),
        "square": _outline(_spokes([1] * 4)),
        "triangle": _outline(_spokes([1] * 3)),
        "star": _outline(_spokes([1, 0.45] * 5)),
        "ring": _outline(_circle(1), holes=[_circle(0.45)]),
        "cross": _outline(_box(-1, -0.34, 1, 0.34), _box(-0.34, -1, 0.34, 1)),
        "arrow": _outline(_mirrored([(0, -1), (0.85, 0), (0.34, 0), (0.34, 1)])),
        "heart": _outline(_mirrored([*lobe, (0, 1)])),
        "gear": _outline(_polar(np.radians(wheel.ravel()), np.tile([1, 1, 0.7, 0.7], 9)), holes=[_circle(0.3)]),
        "key": _outline(
            _circle(0.55, (0, -0.45)),
            _box(-0.2, -0.1, 0.2, 1),
            _box(0, 0.22, 0.6, 0.5),
            _box(0, 0.72, 0.6, 1),
            holes=[_circle(0.22, (0, -0.45))],
        ),
        "eight": _outline(
            *(_circle(0.54, (0, y)) for y in (-0.46, 0.46)), holes=[_circle(0.22, (0, y)) for y in (-0.46, 0.46)]
        ),
        "comb": _outline(_box(-1, -0.5, 1, 0.2), *(_box(x - 0.22, 0, x + 0.22, 1.1) for x in (-0.78, 0, 0.78))),
        "horseshoe": _outline(np.concatenate([outer, [(1, 1), (0.38, 1)], inner, [(-0.38, 1), (-1, 1)]])),
        "ladder": _outline(
            _box(-0.6, -1, -0.24, 1),
            _box(0.24, -1, 0.6, 1),
            *(_box(-0.5, y - 0.17, 0.5, y + 0.17) for y in (-0.5, 0.5)),
        ),
        "pacman": _outline(np.concatenate([[(-0.1, 0)], _arc(1, 47, 313)])),
        "asterisk": _outline(*(_turned(bar, degrees) for degrees in (0, 60, 120))),
        "hourglass": _outline(_mirrored([(0, -1), (0.8, -1), (0.16, 0), (0.8, 1), (0, 1)])),
        "spiral": _outline(
            np.concatenate([_polar(turn, middle + half), _polar(turn, np.maximum(middle - half, 0))[::-1]])
        ),
        "flower": _outline(_circle(0.55), *(_turned(petal, degrees) for degrees in range(0, 360, 72))),
        "tee": _outline(_box(-0.9, -1, 0.9, -0.4), _box(-0.32, -1, 0.32, 1)),
    }


# ---- parts of outlines: corners float [n, (x, y)] ----------------------------------------------------------------
def _outline(*polygons: np.ndarray, holes: Sequence[np.ndarray] = ()) -> Outline:
    return [*((polygon, True) for polygon in polygons), *((hole, False) for hole in holes)]


def _polar(angles: np.ndarray, radii: npt.ArrayLike) -> np.ndarray:
    """Corners at angles in radians clockwise from the right; a radius for each, or one for all."""
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1) * np.reshape(radii, (-1, 1))


def _arc(radius: float, start: float, stop: float, center: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """From one angle to another, in degrees clockwise from the right."""
    steps = max(2, math.ceil(_FINE * abs(stop - start) / 360) + 1)
    return _polar(np.radians(np.linspace(start, stop, steps)), radius) + center


def _circle(radius: float, center: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    return _arc(radius, 0, 360, center)[:-1]


def _spokes(radii: list[float]) -> np.ndarray:
    """Corners at even angles, the first at the top."""
    angles = np.arange(len(radii)) * (2 * math.pi / len(radii))
    return np.stack([np.sin(angles), -np.cos(angles)], axis=-1) * np.asarray(radii)[:, None]


def _box(x1: float, y1: float, x2: float, y2: float) -> np.ndarray:
    return np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)], float)


def _turned(corners: np.ndarray, degrees: float) -> np.ndarray:
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return corners @ np.array([[cosine, sine], [-sine, cosine]])


def _mirrored(half: Sequence[tuple[float, float] | np.ndarray]) -> np.ndarray:
    """A closed outline from its right half, from top to bottom."""
    return np.array([*half, *((-x, y) for x, y in half[::-1] if x)], float)
