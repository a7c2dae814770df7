"""The ground of the drawn data set, and its colours: nothing here carries a label."""

import math
from typing import Any, TypeAlias

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.floating[Any]]

# Brightness of a colour from its red, green and blue (ITU-R BT.601).
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
# At full clutter: this many blobs and lines, noise and gradient of this many grey levels.
BLOBS, LINES, NOISE, GRADIENT = 8, 8, 24, 60.0


def draw_colour(random: Generator, low: float, high: float) -> Array:
    """A random hue whose brightness lies between `low` and `high` (0..255): `[3]` float32."""
    brightness = random.uniform(max(low, 8.0), min(high, 247.0))
    offset = random.uniform(-128, 128, size=3).astype(np.float32)
    offset -= LUMA @ offset
    # As vivid as fits into 0..255 without changing the brightness.
    room = np.where(offset > 0, 255 - brightness, brightness) / np.maximum(abs(offset), 1e-3)
    return np.float32(brightness) + offset * np.float32(min(1.0, room.min()))


def draw_ground(random: Generator, size: tuple[int, int], brightness: float, clutter: float) -> Array:
    """A ground of about that brightness, with gradient, blobs and lines: `[H, W, 3]` float32, 0..255."""
    height, width = size
    base = draw_colour(random, brightness, brightness)
    turn = random.uniform(0, 2 * math.pi)
    slope = draw_colour(random, 64, 192) / 255 * np.float32(clutter * GRADIENT)
    rows = np.linspace(-0.5, 0.5, height, dtype=np.float32) * np.float32(math.sin(turn))
    columns = np.linspace(-0.5, 0.5, width, dtype=np.float32) * np.float32(math.cos(turn))
    canvas = base + (rows[:, None] + columns[None])[..., None] * slope
    for _ in range(round(clutter * BLOBS * random.uniform(0.5, 1))):
        _blend_blob(random, canvas)
    for _ in range(round(clutter * LINES * random.uniform(0.5, 1))):
        _blend_line(random, canvas)
    return np.clip(canvas, 0, 255)


def add_noise(random: Generator, canvas: Array, clutter: float) -> NDArray[np.uint8]:
    """The finished image, `[H, W, 3]` uint8, with even noise on every pixel."""
    amplitude = round(clutter * NOISE)
    noise = random.integers(0, amplitude, size=canvas.shape, dtype=np.uint8, endpoint=True)
    return np.clip(canvas + noise - np.float32(amplitude / 2), 0, 255).astype(np.uint8)


def _blend_blob(random: Generator, canvas: Array) -> None:
    """A soft ellipse, 0.05 to 0.2 of the shorter side in radius."""
    height, width = canvas.shape[:2]
    radii = random.uniform(0.05, 0.2, size=2) * min(height, width)
    y, x = random.uniform(0, height), random.uniform(0, width)
    top, left = max(0, int(y - radii[0])), max(0, int(x - radii[1]))
    patch = canvas[top : int(y + radii[0]) + 1, left : int(x + radii[1]) + 1]
    rows = (
        (np.arange(top, top + patch.shape[0], dtype=np.float32) - np.float32(y)) / np.float32(radii[0])
    ) ** 2
    columns = (
        (np.arange(left, left + patch.shape[1], dtype=np.float32) - np.float32(x)) / np.float32(radii[1])
    ) ** 2
    weight = np.float32(0.6) * np.clip(1 - rows[:, None] - columns[None], 0, 1)
    patch += weight[..., None] * (draw_colour(random, 30, 225) - patch)


def _blend_line(random: Generator, canvas: Array) -> None:
    """A straight line, 1 to 3 pixels wide on 160 pixels, with smooth edges."""
    height, width = canvas.shape[:2]
    ends = random.uniform(0, 1, size=(2, 2)) * (height, width)
    half = random.uniform(0.5, 1.5) * max(1.0, min(height, width) / 160)
    low, high = ends.min(axis=0) - half - 1, ends.max(axis=0) + half + 1
    top, left = max(0, int(low[0])), max(0, int(low[1]))
    patch = canvas[top : int(high[0]) + 1, left : int(high[1]) + 1]
    normal = np.array([ends[0, 1] - ends[1, 1], ends[1, 0] - ends[0, 0]])
    normal /= max(1e-6, math.hypot(*normal))
    rows = (np.arange(top, top + patch.shape[0]) - ends[0, 0]).astype(np.float32) * np.float32(normal[0])
    columns = (np.arange(left, left + patch.shape[1]) - ends[0, 1]).astype(np.float32) * np.float32(normal[1])
    weight = np.clip(np.float32(half + 0.5) - abs(rows[:, None] + columns[None]), 0, 1)
    # Only where the line is: most of its bounding box is not.
    hit = weight.nonzero()
    patch[hit] += weight[hit][:, None] * (draw_colour(random, 20, 235) - patch[hit])
