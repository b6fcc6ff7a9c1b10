"""Parts of outlines: polygons float [n, (x, y)], y down, in the unit of an outline.

An outline is a list of polygons that are painted in order, each adding to the shape or cutting from it.
"""

import math
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

Outline = list[tuple[np.ndarray, bool]]  # (corners [n, (x, y)], whether the polygon adds to the shape)

_FINE = 72  # corners of a full circle
_FIT_SCALE = 200  # pixels a unit, to find the circle around an outline


def make_outline(*polygons: np.ndarray, holes: Sequence[np.ndarray] = ()) -> Outline:
    return [*((polygon, True) for polygon in polygons), *((hole, False) for hole in holes)]


def polar(angles: np.ndarray, radii: npt.ArrayLike) -> np.ndarray:
    """Corners at angles in radians clockwise from the right; a radius for each, or one for all."""
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1) * np.reshape(radii, (-1, 1))


def arc(radius: float, start: float, stop: float, center: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """From one angle to another, in degrees clockwise from the right."""
    steps = max(2, math.ceil(_FINE * abs(stop - start) / 360) + 1)
    return polar(np.radians(np.linspace(start, stop, steps)), radius) + center


def circle(radius: float, center: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    return arc(radius, 0, 360, center)[:-1]


def spokes(radii: list[float]) -> np.ndarray:
    """Corners at even angles, the first at the top."""
    angles = np.arange(len(radii)) * (2 * math.pi / len(radii))
    return np.stack([np.sin(angles), -np.cos(angles)], axis=-1) * np.asarray(radii)[:, None]


def box(x1: float, y1: float, x2: float, y2: float) -> np.ndarray:
    return np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)], float)


def rotated(corners: np.ndarray, degrees: float) -> np.ndarray:
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return corners @ np.array([[cosine, sine], [-sine, cosine]])


def mirrored(half: Sequence[tuple[float, float] | np.ndarray]) -> np.ndarray:
    """A closed outline from its right half, from top to bottom."""
    return np.array([*half, *((-x, y) for x, y in half[::-1] if x)], float)


def in_unit_circle(parts: Outline) -> Outline:
    """An outline moved and scaled so that the unit circle is its minimum enclosing circle."""
    contours, _ = cv2.findContours(paint(parts, _FIT_SCALE), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    (x, y), radius = cv2.minEnclosingCircle((np.concatenate(contours)[:, 0] / _FIT_SCALE - 2).astype(np.float32))
    return [((corners - (x, y)) / radius, adds) for corners, adds in parts]


def paint(parts: Outline, scale: int) -> np.ndarray:
    """An outline at `scale` pixels a unit, its origin in the middle: uint8 [4 * scale, 4 * scale], 0 or 255."""
    canvas = np.zeros((4 * scale, 4 * scale), np.uint8)
    for corners, adds in parts:
        cv2.fillPoly(canvas, [np.around((corners + 2) * scale).astype(np.int32)], 255 if adds else 0)
    return canvas
