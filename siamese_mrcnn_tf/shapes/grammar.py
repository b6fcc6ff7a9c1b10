"""A grammar of outlines: 980 categories of Shapes beside the 20 named ones, told apart by eye at 128 pixels.

A category is a family (star, gear, polygon, curve, arc, letter, compound) with parameters drawn from a seed. Seeds
whose outline resembles an earlier category are skipped. The limit is stricter for named categories, so that nothing
that looks like a novel one of them is trained. Stars and curves with five points and gears of more than seven teeth are
not drawn at all. `grammar_seeds.txt` holds the accepted seeds; `accepted_seeds` computed them.
"""

import functools
import itertools
import math
from collections.abc import Iterable, Iterator
from importlib import resources

import cv2
import numpy as np

from .parts import Outline, arc, box, circle, in_unit_circle, make_outline, paint, polar, rotated

SEEDS_FILE = "grammar_seeds.txt"
MAX_SIMILARITY, MAX_SIMILARITY_TO_NAMED = 0.82, 0.76  # of `similarities`

_SEED = 20  # of the grammar
_SCALE = 48  # pixels a unit, for comparisons
_RINGS, _ANGLES = 16, 72  # of the polar grid for comparisons
_MIN_WIDTH = 0.14  # of strokes and gaps, in radii: 2.5 pixels of the smallest shape in a scene of 128
_LOST = 0.12  # maximum share of the area in thinner strokes or gaps
_AREA = (0.16, 0.85)  # of a shape, in circles around it


# ---- categories --------------------------------------------------------------------------------------------------
@functools.cache
def seeds() -> tuple[int, ...]:
    """The seeds of the categories, in order."""
    return tuple(map(int, resources.files(__package__).joinpath(SEEDS_FILE).read_text().split()))


def generate(seed: int) -> Outline:
    """The outline of a seed, in the unit circle."""
    rng = np.random.default_rng([_SEED, seed])
    return in_unit_circle(_FAMILIES[family_of(seed)](rng))


def family_of(seed: int) -> str:
    return list(_FAMILIES)[seed % len(_FAMILIES)]


def accepted_seeds(named: Iterable[Outline]) -> Iterator[int]:
    """Seeds of outlines that can be drawn and that differ from `named` and from those before them, without end."""
    spectra = [polar_spectrum(in_unit_circle(one)) for one in named]
    limits = [MAX_SIMILARITY_TO_NAMED] * len(spectra)
    for seed in itertools.count():
        candidate = generate(seed)
        if is_drawable(candidate):
            spectrum = polar_spectrum(candidate)
            if (similarities(spectrum, np.array(spectra)) <= limits).all():
                spectra.append(spectrum)
                limits.append(MAX_SIMILARITY)
                yield seed


def is_drawable(outline: Outline) -> bool:
    """Whether an outline is in one part, neither thin nor full, without strokes or gaps too thin for 128 pixels."""
    shape = paint(outline, _SCALE)
    area = np.count_nonzero(shape)
    width = round(_MIN_WIDTH * _SCALE) | 1
    brush = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width))
    thin = area - np.count_nonzero(cv2.morphologyEx(shape, cv2.MORPH_OPEN, brush))
    gaps = np.count_nonzero(cv2.morphologyEx(shape, cv2.MORPH_CLOSE, brush)) - area
    share = area / (math.pi * _SCALE**2)
    parts = cv2.connectedComponents(shape)[0] - 1
    return bool(parts == 1 and _AREA[0] <= share <= _AREA[1] and max(thin, gaps) <= _LOST * area)


# ---- comparison --------------------------------------------------------------------------------------------------
def polar_spectrum(outline: Outline) -> np.ndarray:
    """Fourier transform over the angle of an outline's mask on a polar grid: complex [rings, frequencies].

    Cells are weighted by the root of their area, so that products sum over areas.
    """
    side = (2 * _SCALE, 2 * _SCALE)
    grid = cv2.warpPolar(paint(outline, _SCALE), (4 * _RINGS, 4 * _ANGLES), side, 1.02 * _SCALE, cv2.INTER_LINEAR)
    cells = grid.reshape(_ANGLES, 4, _RINGS, 4).mean(axis=(1, 3)).T / 255
    return np.fft.rfft(cells * np.sqrt(np.arange(_RINGS) + 0.5)[:, None], axis=1)


def similarities(spectrum: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union in the best rotation and handedness: [n], with each of `others` [n, rings, ...]."""
    own = _area(spectrum)
    best = np.zeros(len(others))
    for one in (spectrum, spectrum.conj()):  # the conjugate is the mirror image
        shared = np.fft.irfft((one * others.conj()).sum(axis=1), _ANGLES, axis=1).max(axis=1)
        best = np.maximum(best, shared / (own + _area(others) - shared))
    return best


def _area(spectra: np.ndarray) -> np.ndarray:
    """Sum of squares over the grid, by Parseval's theorem: [...] of [..., rings, frequencies]."""
    power = np.abs(spectra) ** 2
    return np.asarray((2 * power.sum(axis=-1) - power[..., 0] - power[..., -1]).sum(axis=-1) / _ANGLES)


# ---- families ----------------------------------------------------------------------------------------------------
def _star(rng: np.random.Generator) -> Outline:
    points, inner, twist = int(rng.choice((3, 4, 6, 7, 8, 9))), rng.uniform(0.35, 0.8), rng.uniform(-0.8, 0.8)
    angles = np.arange(2 * points) * math.pi / points
    angles[1::2] += (rng.random() < 0.4) * twist * math.pi / points
    every_other = rng.uniform(0.6, 1.0) if points % 2 == 0 and rng.random() < 0.6 else 1.0
    radii = np.tile([1, inner, every_other, inner], points)[: 2 * points]
    return make_outline(polar(angles, radii), holes=_holes(rng, inner * 0.75))


def _gear(rng: np.random.Generator) -> Outline:
    teeth, depth = int(rng.integers(3, 8)), rng.uniform(0.55, 0.8)
    top, slope = rng.uniform(0.3, 0.6), rng.uniform(-0.1, 0.15)
    edges = np.array([0, top, top + slope, 1 - slope]) * 2 * math.pi / teeth
    angles = np.add.outer(np.arange(teeth) * 2 * math.pi / teeth, edges)
    return make_outline(polar(angles.ravel(), np.tile([1, 1, depth, depth], teeth)), holes=_holes(rng, depth * 0.75))


def _polygon(rng: np.random.Generator) -> Outline:
    corners = int(rng.integers(4, 9))
    angles = (np.arange(corners) + rng.uniform(-0.35, 0.35, corners)) * 2 * math.pi / corners
    return make_outline(polar(angles, rng.uniform(0.3, 1.0, corners)), holes=_holes(rng, 0.3))


def _curve(rng: np.random.Generator) -> Outline:
    angles = np.linspace(0, 2 * math.pi, 120, endpoint=False)
    orders = rng.choice((2, 3, 4, 6, 7), int(rng.integers(1, 4)), replace=False)[:, None]
    strengths, phases = rng.uniform(0.12, 0.4, orders.shape), rng.uniform(0, 2 * math.pi, orders.shape)
    radii = np.maximum(1 + (strengths * np.cos(orders * angles + phases)).sum(axis=0), 0.2)
    return make_outline(polar(angles, radii), holes=_holes(rng, 0.7 * float(radii.min())))


def _arc(rng: np.random.Generator) -> Outline:
    opening, inner = rng.uniform(30, 200), rng.uniform(0.35, 0.7)
    parts = [np.concatenate([arc(1, opening, 360), arc(inner, 360, opening)])]
    for end in (0.0, opening):
        if rng.random() < 0.4:
            x, y = polar(np.radians([end]), (1 + inner) / 2)[0]
            parts.append(circle(rng.uniform(0.25, 0.45), (float(x), float(y))))
    spokes = int(rng.integers(0, 4))
    start, stop = (0.0, 0.9) if rng.random() < 0.5 else (0.9, 1.4)
    for number in range(spokes):
        parts.append(rotated(box(start, -0.12, stop, 0.12), opening + (number + 0.5) * (360 - opening) / spokes))
    return make_outline(*parts)


def _letter(rng: np.random.Generator) -> Outline:
    """Bars between neighbors on a grid of 3 x 3 points."""
    width, points = rng.uniform(0.16, 0.26), [(x, y) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    is_round, used, parts = rng.random() < 0.5, [int(rng.integers(9))], list[np.ndarray]()
    for _ in range(int(rng.integers(3, 7))):
        here = int(rng.choice(used))
        x, y = points[here]
        near = [i for i, (u, v) in enumerate(points) if max(abs(u - x), abs(v - y)) == 1]
        there = int(rng.choice(near))
        parts.append(_bar(points[here], points[there], width))
        parts += [_end(points[one], width, is_round) for one in (here, there)]
        used.append(there)
    return make_outline(*parts)


def _compound(rng: np.random.Generator) -> Outline:
    """A body with parts around it, and cuts into it."""
    count, cuts = int(rng.integers(1, 5)), int(rng.integers(1, 4))
    if rng.random() < 0.5:
        part = _part(rng)
        parts = [rotated(part, 360 / (count + 1) * number) for number in range(count + 1)]
    else:
        parts = [rotated(_part(rng), 30.0 * int(rng.integers(12))) for _ in range(count)]
    notch = np.array([(0.1, 0), (0.9, -0.3), (0.9, 0.3)]) if rng.random() < 0.5 else box(0.25, -0.13, 0.9, 0.13)
    turn = 180 / (count + 1)
    notches = [rotated(notch, turn + 360 / cuts * number) for number in range(cuts)] if rng.random() < 0.6 else []
    return make_outline(_body(rng), *parts, holes=notches or _holes(rng, 0.4))


_FAMILIES = {
    "star": _star,
    "gear": _gear,
    "polygon": _polygon,
    "curve": _curve,
    "arc": _arc,
    "letter": _letter,
    "compound": _compound,
}


# ---- parts of families -------------------------------------------------------------------------------------------
def _body(rng: np.random.Generator) -> np.ndarray:
    kind = int(rng.integers(4))
    if kind == 0:
        return circle(0.62)
    if kind == 1:
        half = rng.uniform(0.31, 0.62)
        return box(-0.62, -half, 0.62, half)
    corners = 3 if kind == 2 else int(rng.integers(5, 7))
    return polar(np.arange(corners) * 2 * math.pi / corners, 0.68)


def _part(rng: np.random.Generator) -> np.ndarray:
    """On the right of a body."""
    kind, half = int(rng.integers(4)), rng.uniform(0.12, 0.22)
    if kind == 0:
        return circle(1.6 * half, (rng.uniform(0.6, 0.85), 0.0))
    if kind == 1:
        return box(0.2, -half, 1.1, half)
    if kind == 2:
        return np.array([(0.4, -2 * half), (1.15, rng.uniform(-0.4, 0.4)), (0.4, 2 * half)])
    return np.array([(0.2, -0.13), (1.05, -0.13), (1.05, 0.5), (0.75, 0.5), (0.75, 0.13), (0.2, 0.13)])


def _holes(rng: np.random.Generator, radius: float) -> list[np.ndarray]:
    """None, or one or two holes inside a circle of `radius`."""
    kind, share = int(rng.integers(5)), rng.uniform(0.6, 1.0)
    if kind < 2 or share * radius < _MIN_WIDTH:
        return []
    if kind == 2:
        return [circle(share * radius)]
    if kind == 3 or radius < 3 * _MIN_WIDTH:
        return [polar(np.arange(4) * math.pi / 2, share * radius)]
    return [circle(0.36 * radius, (sign * 0.58 * radius, 0.0)) for sign in (-1, 1)]


def _bar(start: tuple[float, float], end: tuple[float, float], width: float) -> np.ndarray:
    along = np.subtract(end, start)
    across = np.array([-along[1], along[0]]) * width / np.linalg.norm(along)
    return np.array([start + across, end + across, end - across, start - across])


def _end(center: tuple[float, float], half: float, is_round: bool) -> np.ndarray:
    x, y = center
    return circle(half, center) if is_round else box(x - half, y - half, x + half, y + half)
