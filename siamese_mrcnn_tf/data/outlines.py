"""Bounds of polygons [x, y, x, y, ...] in pixels: pycocotools walks along every edge, and trusts the numbers."""

import array
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

MAX_COORDINATE = 1e6  # pixels
MAX_LENGTH = 1e7  # pixels along an outline; pycocotools keeps five steps in memory for each


def numbers_of(rows: Iterable[list[float]]) -> np.ndarray:
    """The numbers of lists one after the other: float64 [n].

    Raises:
        TypeError: one of them is no number.
        OverflowError: one of them is too large for a float.
    """
    numbers = array.array("d")
    for row in rows:
        numbers.fromlist(row)
    return np.frombuffer(numbers) if numbers else np.zeros(0)


def is_outline(polygon: Any) -> bool:
    """Whether a polygon is a list of finite numbers that pycocotools can walk along."""
    return are_outlines([polygon])


def are_outlines(polygons: Sequence[Any]) -> bool:
    """Whether all polygons are: fast for many, whose edges are looked at only where some may be too long."""
    try:
        numbers = numbers_of(polygons)
    except (OverflowError, TypeError, ValueError):
        return False
    largest = float(np.abs(numbers).max(initial=0))
    if not largest < MAX_COORDINATE:  # also NaN
        return False
    ends = np.cumsum(np.fromiter(map(len, polygons), np.int64, len(polygons)))
    of_switches = np.searchsorted(ends, np.flatnonzero((numbers == 0) | (numbers == 1)), side="right")
    if any(bool in map(type, polygons[index]) for index in np.unique(of_switches)):  # array.array takes True as 1
        return False
    longest = int(np.diff(ends, prepend=0).max(initial=0))  # numbers, twice as many as edges
    return longest * largest <= MAX_LENGTH or all(_length(polygon) <= MAX_LENGTH for polygon in polygons)


def _length(polygon: Sequence[float]) -> float:
    """Steps along an outline, one for each pixel to the side or up and down."""
    points = np.asarray(polygon, np.float64)[: len(polygon) // 2 * 2].reshape(-1, 2)
    return float(np.abs(points - np.roll(points, -1, axis=0)).max(axis=1, initial=0).sum())
