"""The drawn data set: textured shapes on a cluttered ground, the same for the same seed, split and index."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from detectors.data import DATASETS, Split
from detectors.data.ground import add_noise, draw_colour, draw_ground
from detectors.data.shapes import SHAPES, TEXTURES, Figure, class_names, draw_figure
from detectors.errors import ConfigError, DataError, UnknownClassError, sentence
from detectors.images import read_all, resize, shrunk_size
from detectors.registry import did_you_mean
from detectors.settings import DataConfig, SyntheticConfig
from detectors.types import Target

SPLITS = ("train", "val", "test")
ASPECTS = (0.7, 1.4)
# Radians: about 14 degrees, so that a square stays a square and no diamond, and stripes no bars.
TURN = 0.25
TRIES = 30
# Pixels: below this no texture can be seen.
SMALLEST = 8
# Two objects that are not meant to crowd share at most this IoU and this part of the smaller one.
APART_IOU, APART_COVER = 0.1, 0.3
# A crowding object shares this IoU with its partner, and not too much with any other.
CROWD_IOU, CROWD_COVER = (0.2, 0.5), 0.4
# The ground is of middle brightness; of the two colours of an object one is darker, one lighter by this much.
GROUND = (85.0, 170.0)
CONTRAST = 55.0


class Placed(NamedTuple):
    """A figure in an image: its class and its tight box in whole pixels, half-open."""

    label: int
    figure: Figure
    x1: int
    y1: int
    x2: int
    y2: int


@dataclass
class SyntheticDataset:
    """Images that are drawn when asked for, and boxes that are known without drawing them."""

    classes: tuple[str, ...]
    knobs: SyntheticConfig
    drawn: list[str]
    entries: list[tuple[str, int]]
    max_side: int | None

    def __post_init__(self) -> None:
        """Starts with nothing kept."""
        self.skipped: list[str] = []
        self.kept: list[Tensor] | None = None
        self._targets: dict[int, Target] = {}

    def __len__(self) -> int:
        """The number of images."""
        return len(self.entries)

    def image(self, index: int) -> Tensor:
        """The image, uint8 `[3, H, W]` RGB."""
        if self.kept is not None:
            return self.kept[index]
        split, number = self.entries[index]
        objects = layout(self.knobs, self.drawn, split, number)
        image = torch.from_numpy(render(self.knobs, objects, split, number)).permute(2, 0, 1)
        height, width = self.knobs.size
        size = shrunk_size((height, width), self.max_side)
        return image if size == (height, width) else resize(image, size)

    def target(self, index: int) -> Target:
        """The boxes, in pixels of what `image(index)` returns."""
        if index not in self._targets:
            objects = layout(self.knobs, self.drawn, *self.entries[index])
            height, width = self.knobs.size
            small = shrunk_size((height, width), self.max_side)
            scale = torch.tensor([small[1] / width, small[0] / height]).repeat(2)
            target = Target.of([item[2:] for item in objects], [self._label(item.label) for item in objects])
            self._targets[index] = replace(target, boxes=target.boxes * scale)
        return self._targets[index]

    def name(self, index: int) -> str:
        """The split and the number in it, such as train/000012."""
        split, number = self.entries[index]
        return f"{split}/{number:06d}"

    def _label(self, drawn: int) -> int:
        return self.classes.index(self.drawn[drawn])


@DATASETS.register("synthetic")
def synthetic(config: DataConfig, split: Split, classes: tuple[str, ...] | None = None) -> SyntheticDataset:
    """Drawn on the spot by the knobs of data.synthetic; its splits are train, val and test."""
    knobs = config.synthetic
    _check(knobs)
    drawn = class_names()[: knobs.classes]
    known = tuple(config.classes or classes or drawn)
    for name in drawn:
        if name not in known:
            drawn_one = f"data.synthetic.classes={knobs.classes} draws {name!r}"
            fault = f"{drawn_one}, which is not among the classes{did_you_mean(name, known)}"
            raise UnknownClassError(
                f"{sentence(fault)} Lower data.synthetic.classes or leave data.classes null"
            )
    entries: list[tuple[str, int]] = []
    for entry in config.train if split == "train" else config.test:
        if entry not in SPLITS:
            raise DataError(
                f"data.{split}: the synthetic data set has no split {entry!r}; it has train, val and test. "
                f"Set data.train=[train] and data.test=[test]"
            )
        entries.extend((entry, number) for number in range(getattr(knobs, entry)))
    if not entries:
        raise DataError(f"data.{split} names no image. Raise data.synthetic.{split} or name another split")
    data = SyntheticDataset(known, knobs, drawn, entries, config.max_side)
    if config.cache == "ram":
        data.kept = read_all(data.image, len(data))
    return data


def layout(knobs: SyntheticConfig, names: list[str], split: str, number: int) -> list[Placed]:
    """The objects of one image, the lowest first; a function of (seed, split, number) alone."""
    random = _random(knobs, split, number, 0)
    placed: list[Placed] = []
    covered: set[int] = set()
    for _ in range(random.integers(knobs.objects[0], knobs.objects[1], endpoint=True)):
        partner = None
        if placed and random.random() < knobs.crowding:
            # Nobody gets two that lie on it, or hardly a piece of it would stay visible.
            free = [item for item in placed if id(item) not in covered]
            partner = free[random.integers(len(free))]
        label = partner.label if partner else int(random.integers(len(names)))
        side = random.uniform(knobs.object_size[0], knobs.object_size[1]) * min(knobs.size)
        if partner:  # of like size, or the overlap wanted is out of reach
            side = max(partner.figure.shape) * random.uniform(0.9, 1.1)
            side = min(side, knobs.object_size[1] * min(knobs.size))
        figure = draw_figure(names[label], side, random.uniform(*ASPECTS), random.uniform(-TURN, TURN))
        place = _find_place(random, knobs.size, figure, label, placed, partner)
        if place:
            placed.append(place)
            if partner:
                covered.add(id(partner))
    return placed


def _find_place(
    random: Generator,
    size: list[int],
    figure: Figure,
    label: int,
    placed: list[Placed],
    partner: Placed | None,
) -> Placed | None:
    """A place that overlaps the partner as wanted and the others little; None if there is no room."""
    height, width = figure.shape
    low, high = (0, 0), (size[1] - width, size[0] - height)
    if partner:
        low = max(0, partner.x1 - width), max(0, partner.y1 - height)
        high = min(high[0], partner.x2), min(high[1], partner.y2)
    for x, y in random.integers(low, high, size=(TRIES, 2), endpoint=True).tolist():
        item = Placed(label, figure, x, y, x + width, y + height)
        if all(_tolerated(item, other, partner) for other in placed):
            return item
    return None


def _tolerated(item: Placed, other: Placed, partner: Placed | None) -> bool:
    inner_width = min(item.x2, other.x2) - max(item.x1, other.x1)
    inner_height = min(item.y2, other.y2) - max(item.y1, other.y1)
    inner = max(0, inner_width) * max(0, inner_height)
    areas = [(box.x2 - box.x1) * (box.y2 - box.y1) for box in (item, other)]
    iou, cover = inner / (sum(areas) - inner), inner / min(areas)
    if other is partner:
        return CROWD_IOU[0] <= iou <= CROWD_IOU[1]
    if partner:
        return cover <= CROWD_COVER
    return iou < APART_IOU and cover < APART_COVER


def render(knobs: SyntheticConfig, objects: list[Placed], split: str, number: int) -> NDArray[np.uint8]:
    """The pixels of one image, `[H, W, 3]` uint8 RGB; a function of (seed, split, number) alone."""
    random = _random(knobs, split, number, 1)
    level = random.uniform(*GROUND)
    canvas = draw_ground(random, (knobs.size[0], knobs.size[1]), level, knobs.clutter)
    for item in objects:
        dark, light = draw_colour(random, 0, level - CONTRAST), draw_colour(random, level + CONTRAST, 255)
        first, second = (dark, light) if random.random() < 0.5 else (light, dark)
        paint = first + item.figure.second[..., None] * (second - first)
        patch = canvas[item.y1 : item.y2, item.x1 : item.x2]
        patch += item.figure.alpha[..., None] * (paint - patch)
    return add_noise(random, canvas, knobs.clutter)


def _random(knobs: SyntheticConfig, split: str, number: int, stage: int) -> Generator:
    """Random numbers of one stage of one image, whatever was drawn before."""
    return np.random.default_rng((knobs.seed, SPLITS.index(split), number, stage))


def _check(knobs: SyntheticConfig) -> None:
    """Raises ConfigError that names the first knob out of its range."""
    most = len(SHAPES) * len(TEXTURES)
    rules = (
        ("classes", 1 <= knobs.classes <= most, f"must be 1 to {most}"),
        ("train", knobs.train >= 0, "must not be negative"),
        ("val", knobs.val >= 0, "must not be negative"),
        ("test", knobs.test >= 0, "must not be negative"),
        ("size", len(knobs.size) == 2 and min(knobs.size) >= 32, "must be [height, width], each at least 32"),
        ("objects", _is_range(knobs.objects) and knobs.objects[0] >= 0, "must be [fewest, most], from 0 up"),
        (
            "object_size",
            _is_range(knobs.object_size) and min(knobs.object_size) > 0 and max(knobs.object_size) < 1,
            "must be [smallest, largest], above 0 and below 1",
        ),
        ("clutter", 0 <= knobs.clutter <= 1, "must be 0 to 1"),
        ("crowding", 0 <= knobs.crowding <= 1, "must be 0 to 1"),
        ("seed", knobs.seed >= 0, "must not be negative"),
    )
    for name, holds, rule in rules:
        if not holds:
            raise ConfigError(f"data.synthetic.{name}={getattr(knobs, name)} {rule}")
    smallest = knobs.object_size[0] * min(knobs.size)
    if smallest < SMALLEST:
        raise ConfigError(
            f"data.synthetic.object_size={knobs.object_size} of {min(knobs.size)} pixels makes objects of "
            f"{smallest:.1f} pixels; they must have at least {SMALLEST}"
        )


def _is_range(pair: Sequence[float]) -> bool:
    return len(pair) == 2 and pair[0] <= pair[1]
