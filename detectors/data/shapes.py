"""The figures of the drawn data set: an alpha mask and a pattern of two colours for each class."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.floating[Any]]

# Periods of stripes, checks and dots across a figure: enough to show in thin parts such as a cross,
# few enough to show in a figure of 32 pixels.
PERIODS = 4.0


def _disc(u: Array, v: Array) -> Array:
    return np.hypot(u, v) - 1


def _square(u: Array, v: Array) -> Array:
    return np.maximum(abs(u), abs(v)) - 0.9


def _triangle(u: Array, v: Array) -> Array:
    # Point up: the base at v = 0.9, the sides through (0, -1) and (+-1, 0.9).
    return np.maximum(v - 0.9, (1.9 * abs(u) - v - 1) / math.hypot(1.9, 1))


def _diamond(u: Array, v: Array) -> Array:
    return (1.35 * abs(u) + abs(v) - 1) / math.hypot(1.35, 1)


def _cross(u: Array, v: Array) -> Array:
    long, short = np.maximum(abs(u), abs(v)), np.minimum(abs(u), abs(v))
    return np.maximum(long - 1, short - 0.36)


def _ring(u: Array, v: Array) -> Array:
    return abs(np.hypot(u, v) - 0.74) - 0.26


def _star(u: Array, v: Array) -> Array:
    # Five points: fold the plane into the half sector between an outer vertex (1, 0) and an inner one.
    sector = math.pi / 5
    angle = abs((np.arctan2(u, -v) + sector) % (2 * sector) - sector)
    radius = np.hypot(u, v)
    inner_x, inner_y = 0.45 * math.cos(sector), 0.45 * math.sin(sector)
    side = math.hypot(inner_y, 1 - inner_x)
    return (inner_y * (radius * np.cos(angle) - 1) + (1 - inner_x) * radius * np.sin(angle)) / side


def _crescent(u: Array, v: Array) -> Array:
    return np.maximum(np.hypot(u, v) - 1, 0.72 - np.hypot(u - 0.5, v))


# Signed distances (negative inside) in a frame where the figure fills [-1, 1] both ways.
SHAPES: dict[str, Callable[[Array, Array], Array]] = {
    "disc": _disc,
    "square": _square,
    "triangle": _triangle,
    "cross": _cross,
    "ring": _ring,
    "star": _star,
    "diamond": _diamond,
    "crescent": _crescent,
}


def _wave(t: Array) -> Array:
    return np.sin(math.pi * PERIODS * t)


# Above 0 the first colour is seen, below 0 the second; None: only the first.
TEXTURES: dict[str, Callable[[Array, Array], Array] | None] = {
    "solid": None,
    "striped": lambda u, v: _wave(v),
    "checked": lambda u, v: 2 * _wave(u * 0.7) * _wave(v * 0.7),
    "barred": lambda u, v: _wave(u),
    "dotted": lambda u, v: 0.35 - np.cos(math.pi * PERIODS * 0.8 * u) * np.cos(math.pi * PERIODS * 0.8 * v),
}


def class_names() -> list[str]:
    """All 40 names, such as "striped disc", in an order of which any start mixes shapes and textures.

    Squares of the table of shapes x textures, each in the next: 4 names are 2 shapes x 2 textures.
    So neither the shape alone nor the texture alone tells the classes apart.
    """
    cells = [(s, t) for s in range(len(SHAPES)) for t in range(len(TEXTURES))]
    cells.sort(key=lambda cell: (max(cell), cell[1] == max(cell), min(cell)))
    shapes, textures = list(SHAPES), list(TEXTURES)
    return [f"{textures[texture]} {shapes[shape]}" for shape, texture in cells]


@dataclass(frozen=True)
class Figure:
    """One figure on a patch that its visible pixels fill.

    Attributes:
        alpha: `[H, W]` float32, 0 outside to 1 inside, with smooth edges.
        second: `[H, W]` float32, share of the second colour, 0 to 1.
    """

    alpha: Array
    second: Array

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) in pixels: the tight box of the figure."""
        return self.alpha.shape[0], self.alpha.shape[1]


def draw_figure(name: str, side: float, aspect: float, angle: float) -> Figure:
    """One figure.

    Args:
        name: of the class, such as "striped disc".
        side: longest that its box may be, in pixels.
        aspect: width by height before it is turned.
        angle: by which it is turned, in radians.
    """
    texture, shape = name.split(" ")
    half_width, half_height = min(1.0, aspect), min(1.0, 1 / aspect)
    cos, sin = math.cos(angle), math.sin(angle)
    # The frame of the figure, turned, must fit into the side.
    reach_x = half_width * abs(cos) + half_height * abs(sin)
    reach_y = half_width * abs(sin) + half_height * abs(cos)
    unit = side / 2 / max(reach_x, reach_y)
    x = np.arange(math.ceil(reach_x * unit) * 2, dtype=np.float32) + np.float32(
        0.5 - math.ceil(reach_x * unit)
    )
    y = np.arange(math.ceil(reach_y * unit) * 2, dtype=np.float32) + np.float32(
        0.5 - math.ceil(reach_y * unit)
    )
    x, y = x[None] / np.float32(unit), y[:, None] / np.float32(unit)
    u, v = (cos * x + sin * y) / half_width, (cos * y - sin * x) / half_height
    edge = unit * min(half_width, half_height)
    alpha = np.clip(np.float32(0.5) - SHAPES[shape](u, v) * np.float32(edge), 0, 1)
    rows, columns = np.flatnonzero(alpha.max(axis=1) >= 0.5), np.flatnonzero(alpha.max(axis=0) >= 0.5)
    tight = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    pattern = TEXTURES[texture]
    if pattern is None:
        return Figure(alpha[tight], np.zeros((1, 1), np.float32))
    # The steepest slope of a wave is pi * PERIODS to a unit: this makes the change one pixel wide.
    steep = np.float32(edge / (math.pi * PERIODS))
    return Figure(alpha[tight], np.clip(np.float32(0.5) - pattern(u, v)[tight] * steep, 0, 1))
