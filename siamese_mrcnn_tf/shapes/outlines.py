"""Outlines of the categories of the Shapes data set, and stamps: one shape by itself, to be placed on a scene.

An outline is a list of polygons that are painted in order, each adding to the shape or cutting from it. Categories
differ by outline and structure alone (holes, spokes, notches, arms).
"""

import functools
import math
from collections.abc import Sequence

import cv2
import numpy as np

from ..io.errors import InputError
from . import grammar
from .parts import Outline, arc, box, circle, in_unit_circle, make_outline, mirrored, polar, rotated, spokes

# The named ones, with class ids 1, 2, ...; `grammar` makes further ones. The novel categories of a split are a column
# here; each has compact and thin shapes.
CATEGORIES = (
    "star", "disc", "square", "triangle",
    "heart", "arrow", "cross", "ring",
    "gear", "key", "eight", "comb",
    "ladder", "horseshoe", "pacman", "asterisk",
    "flower", "hourglass", "spiral", "tee",
)  # fmt: skip

RADIUS = (0.14, 0.28)  # of the circle around a shape before it is stretched, in short sides of the scene
STRETCH = (0.85, 1.2)  # of a shape along one axis before it is turned
BEND = (0.12, 0.05, 0.05)  # maximum shear and waves of a shape of the grammar, in radii
MAX_CATEGORIES = 1000
MARGIN = 3  # pixels around a shape on its stamp, for the colors around it

_WAVE = 3.0  # radians a radius
_SUPERSAMPLING = 4  # per axis, for smooth edges
_SHIFT = 4  # fractional bits of the corners that OpenCV fills
_TOOTH = [-9, 9, 12, 28]  # degrees of a gear's tooth: two corners on top, two in the gap


# ---- stamps ------------------------------------------------------------------------------------------------------
def make_stamp(rng: np.random.Generator, name: str, short_side: int) -> np.ndarray:
    """A shape (`draw`) of random size, stretch, rotation and handedness, for a scene of `short_side` pixels.

    Shapes of the grammar are bent at random, too.
    """
    radius, stretch = rng.uniform(*RADIUS) * short_side, rng.uniform(*STRETCH)
    angle, mirror = rng.uniform(0, 2 * math.pi), rng.choice((-1, 1))
    bend = (0.0, 0.0, 0.0) if name in CATEGORIES else tuple(rng.uniform(-1, 1, 3) * BEND)
    return draw(name, radius, stretch=stretch, angle=angle, mirror=mirror, bend=bend)


def draw(
    name: str,
    radius: float,
    *,
    stretch: float = 1.0,
    angle: float = 0.0,
    mirror: int = 1,
    bend: Sequence[float] = (0.0, 0.0, 0.0),
) -> np.ndarray:
    """A shape in the middle of a square image that it fills up to MARGIN.

    Args:
        name: of `category_names`.
        radius: of the circle around it before it is stretched and bent, in pixels.
        stretch: factor along its x axis.
        angle: rotation in radians.
        mirror: -1 flips left and right first, 1 does not.
        bend: shear, and the amplitudes of waves along x and y, in radii.

    Returns:
        uint8 [side, side], coverage of each pixel, 0..255.
    """
    side = 2 * (math.ceil(radius * (max(stretch, 1) + float(np.abs(bend).sum()))) + MARGIN)
    cosine, sine = math.cos(angle), math.sin(angle)
    scale = np.array([[stretch * mirror], [1.0]]) * radius * _SUPERSAMPLING
    turn = scale * np.array([[cosine, sine], [-sine, cosine]])
    center = side * _SUPERSAMPLING / 2 - 0.5  # OpenCV's whole numbers are centers of pixels
    canvas = np.zeros((side * _SUPERSAMPLING,) * 2, np.uint8)
    for corners, adds in unit_outline(name):
        fixed = np.around((_bent(corners, bend) @ turn + center) * (1 << _SHIFT)).astype(np.int32)
        cv2.fillPoly(canvas, [fixed], 255 if adds else 0, shift=_SHIFT)
    return cv2.resize(canvas, (side, side), interpolation=cv2.INTER_AREA)


def _bent(corners: np.ndarray, bend: Sequence[float]) -> np.ndarray:
    shear, wave_x, wave_y = bend
    x, y = corners[:, 0], corners[:, 1]
    return np.stack([x + shear * y + wave_x * np.sin(_WAVE * y), y + wave_y * np.sin(_WAVE * x)], axis=-1)


@functools.cache
def unit_outline(name: str) -> tuple[tuple[np.ndarray, bool], ...]:
    """The polygons of a category: (corners float [n, (x, y)], adds); adds is False where the polygon is cut out.

    The unit circle is their minimum enclosing circle; y points down.
    """
    if name in CATEGORIES:
        return tuple(in_unit_circle(named_outlines()[name]))
    return tuple(grammar.generate(grammar.seeds()[category_id(name) - len(CATEGORIES) - 1]))


# ---- categories --------------------------------------------------------------------------------------------------
def category_names(count: int = len(CATEGORIES)) -> tuple[str, ...]:
    """Names of the first `count` categories: CATEGORIES, then those of the grammar, such as gear-21.

    Raises:
        ValueError: fewer than 2 or more than MAX_CATEGORIES.
    """
    if not 2 <= count <= MAX_CATEGORIES:
        raise InputError(f"categories = {count}: expected 2 to {MAX_CATEGORIES}")
    return _all_names()[:count]


def category_id(name: str) -> int:
    """1 + the index of a category in `category_names`; KeyError for another name."""
    return _ids()[name]


@functools.cache
def _all_names() -> tuple[str, ...]:
    families = map(grammar.family_of, grammar.seeds())
    further = (f"{family}-{number}" for number, family in enumerate(families, len(CATEGORIES) + 1))
    return (*CATEGORIES, *further)


@functools.cache
def _ids() -> dict[str, int]:
    return {name: number for number, name in enumerate(_all_names(), 1)}


@functools.cache
def named_outlines() -> dict[str, Outline]:
    """The outline of every category, each in its own unit."""
    bar, lobe, wheel = box(-1, -0.2, 1, 0.2), arc(0.5, -180, 40, (0.5, -0.4)), np.add.outer(np.arange(9) * 40, _TOOTH)
    petal, outer, inner = circle(0.34, (0, -0.66)), arc(1, 180, 360), arc(0.38, 360, 180)
    turn, half = np.linspace(0, 2 * math.pi * 1.5, 144), 0.2
    middle = 0.1 + 0.095 * turn  # the gap between turns of the spiral is as wide as the stroke or wider
    return {
        "disc": make_outline(circle(1)),
        "square": make_outline(spokes([1] * 4)),
        "triangle": make_outline(spokes([1] * 3)),
        "star": make_outline(spokes([1, 0.45] * 5)),
        "ring": make_outline(circle(1), holes=[circle(0.45)]),
        "cross": make_outline(box(-1, -0.34, 1, 0.34), box(-0.34, -1, 0.34, 1)),
        "arrow": make_outline(mirrored([(0, -1), (0.85, 0), (0.34, 0), (0.34, 1)])),
        "heart": make_outline(mirrored([*lobe, (0, 1)])),
        "gear": make_outline(polar(np.radians(wheel.ravel()), np.tile([1, 1, 0.7, 0.7], 9)), holes=[circle(0.3)]),
        "key": make_outline(
            circle(0.55, (0, -0.45)),
            box(-0.2, -0.1, 0.2, 1),
            box(0, 0.22, 0.6, 0.5),
            box(0, 0.72, 0.6, 1),
            holes=[circle(0.22, (0, -0.45))],
        ),
        "eight": make_outline(
            *(circle(0.54, (0, y)) for y in (-0.46, 0.46)), holes=[circle(0.22, (0, y)) for y in (-0.46, 0.46)]
        ),
        "comb": make_outline(box(-1, -0.5, 1, 0.2), *(box(x - 0.22, 0, x + 0.22, 1.1) for x in (-0.78, 0, 0.78))),
        "horseshoe": make_outline(np.concatenate([outer, [(1, 1), (0.38, 1)], inner, [(-0.38, 1), (-1, 1)]])),
        "ladder": make_outline(
            box(-0.6, -1, -0.24, 1),
            box(0.24, -1, 0.6, 1),
            *(box(-0.5, y - 0.17, 0.5, y + 0.17) for y in (-0.5, 0.5)),
        ),
        "pacman": make_outline(np.concatenate([[(-0.1, 0)], arc(1, 47, 313)])),
        "asterisk": make_outline(*(rotated(bar, degrees) for degrees in (0, 60, 120))),
        "hourglass": make_outline(mirrored([(0, -1), (0.8, -1), (0.16, 0), (0.8, 1), (0, 1)])),
        "spiral": make_outline(
            np.concatenate([polar(turn, middle + half), polar(turn, np.maximum(middle - half, 0))[::-1]])
        ),
        "flower": make_outline(circle(0.55), *(rotated(petal, degrees) for degrees in range(0, 360, 72))),
        "tee": make_outline(box(-0.9, -1, 0.9, -0.4), box(-0.32, -1, 0.32, 1)),
    }
