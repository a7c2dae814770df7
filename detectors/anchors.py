"""SSD's default boxes for any image size."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class AnchorLevel:
    """The default boxes of one feature map.

    Attributes:
        shapes: (width, height) of the boxes in every cell, in their order, pixels of the network's input.
        step: distance of neighbouring cells in pixels; None: input size / map size.
    """

    shapes: tuple[tuple[float, float], ...]
    step: float | None = None

    @property
    def per_cell(self) -> int:
        """Boxes in one cell."""
        return len(self.shapes)


def ssd_shapes(
    size: float, next_size: float | None, aspect_ratios: tuple[float, ...]
) -> tuple[tuple[float, float], ...]:
    """The boxes of one cell as SSD orders them (section 2.2).

    A square of `size`, a square of sqrt(size * next_size), then for each aspect ratio r a box of
    size * sqrt(r) by size / sqrt(r) and the same upright.

    Args:
        size: side of the smaller square, pixels.
        next_size: side that the larger square leads to, `size` of the next map in the paper; None: no larger
            square, as in RefineDet.
        aspect_ratios: width over height, each used both ways.
    """
    shapes = [(size, size)]
    if next_size is not None:
        larger = math.sqrt(size * next_size)
        shapes.append((larger, larger))
    for ratio in aspect_ratios:
        root = math.sqrt(ratio)
        shapes += [(size * root, size / root), (size / root, size * root)]
    return tuple(shapes)


@dataclass(frozen=True)
class AnchorSpec:
    """The default boxes of a detector: one entry for each feature map, finest first.

    Attributes:
        levels: the maps.
        clip: cut the numbers of the centre form to 0..1, as ssd.pytorch does (Caffe does not).
    """

    levels: tuple[AnchorLevel, ...]
    clip: bool = True

    def boxes(self, image_size: tuple[int, int], map_sizes: list[tuple[int, int]]) -> Tensor:
        """All anchors, map by map, row by row, `[A, 4]` float32 centre form, normalised to 0..1 of the image.

        Args:
            image_size: (height, width) of the network's input; anchors are square in its pixels.
            map_sizes: (height, width) of each feature map.
        """
        rows = [
            self._level(level, image_size, size) for level, size in zip(self.levels, map_sizes, strict=True)
        ]
        anchors = torch.cat(rows).float()
        return anchors.clamp(0, 1) if self.clip else anchors

    def _level(self, level: AnchorLevel, image_size: tuple[int, int], map_size: tuple[int, int]) -> Tensor:
        (height, width), (map_height, map_width) = image_size, map_size
        step_y = level.step or height / map_height
        step_x = level.step or width / map_width
        # float64 until the end: the published anchors were computed in Python floats.
        y = (torch.arange(map_height, dtype=torch.float64) + 0.5) * (step_y / height)
        x = (torch.arange(map_width, dtype=torch.float64) + 0.5) * (step_x / width)
        shapes = torch.tensor(level.shapes, dtype=torch.float64)
        shapes /= torch.tensor([width, height], dtype=torch.float64)
        centre_y, centre_x = torch.meshgrid(y, x, indexing="ij")
        centre = torch.stack([centre_x, centre_y], dim=-1).reshape(-1, 1, 2)
        count = len(shapes)
        boxes = torch.cat([centre.expand(-1, count, 2), shapes.expand(len(centre), count, 2)], dim=-1)
        return boxes.reshape(-1, 4)


def published(
    sizes: tuple[float, ...], steps: tuple[float, ...], aspect_ratios: tuple[tuple[float, ...], ...]
) -> AnchorSpec:
    """The spec of a published configuration.

    `len(steps)` maps, `sizes` one longer than that, all in pixels.
    """
    levels = zip(sizes[:-1], sizes[1:], aspect_ratios, steps, strict=True)
    return AnchorSpec(tuple(AnchorLevel(ssd_shapes(*level[:3]), level[3]) for level in levels))


def spread(
    count: int, shorter_side: int, scales: tuple[float, float], aspect_ratios: tuple[float, ...]
) -> AnchorSpec:
    """Anchors for `count` maps of an image of any size: sides spaced geometrically between two shares.

    The paper's linear spacing (equation 4) leaves large gaps between small objects; equal ratios cover all
    sizes with the same overlap.

    Args:
        count: number of maps.
        shorter_side: of the image, pixels.
        scales: side of the smallest and of the largest square, as shares of the shorter side.
        aspect_ratios: used on every map.
    """
    low, high = scales
    ratio = (high / low) ** (1 / max(count - 1, 1))
    sides = [shorter_side * low * ratio**k for k in range(count + 1)]
    return AnchorSpec(
        tuple(AnchorLevel(ssd_shapes(sides[k], sides[k + 1], aspect_ratios)) for k in range(count))
    )
