"""Drawn detections and targets that look like a detector's: hits, near hits, doubles and false alarms."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from detectors.types import Detections, Target

Drawn = tuple[list[Detections], list[Target]]


def _draw(
    seed: int,
    images: int = 30,
    classes: int = 3,
    detections: int = 12,
    objects: int = 5,
    difficult: float = 0.0,
    crowd: float = 0.0,
    empty: float = 0.1,
    levels: int | None = None,
) -> Drawn:
    """`levels`: quantise scores to that many values and boxes to whole pixels, so that both hold ties."""
    random = np.random.default_rng(seed)
    found, targets = [], []
    for _ in range(images):
        n = 0 if random.random() < empty else int(random.integers(1, objects + 1))
        corner, side = random.uniform(0, 300, (n, 2)), np.exp(random.uniform(np.log(8), np.log(250), (n, 2)))
        truth, labels = np.concatenate([corner, corner + side], 1), random.integers(0, classes, n)
        d = 0 if random.random() < empty else detections
        corner, side = random.uniform(0, 300, (d, 2)), np.exp(random.uniform(np.log(8), np.log(250), (d, 2)))
        boxes, guesses = np.concatenate([corner, corner + side], 1), random.integers(0, classes, d)
        if n and d:
            aimed = np.flatnonzero(random.random(d) < 0.6)
            at = random.integers(0, n, len(aimed))
            spread = np.tile(truth[at, 2:] - truth[at, :2], 2) * 0.1
            boxes[aimed] = truth[at] + random.normal(size=(len(aimed), 4)) * spread
            boxes[aimed, 2:] = np.maximum(boxes[aimed, 2:], boxes[aimed, :2] + 2)
            guesses[aimed] = labels[at]
        scores = random.random(d)
        if levels is not None:
            scores = np.round(scores * levels) / levels
            boxes, truth = np.round(boxes), np.round(truth)
        order = np.argsort(-scores, kind="stable")
        found.append(
            Detections(
                torch.tensor(boxes[order], dtype=torch.float32).reshape(-1, 4),
                torch.tensor(scores[order], dtype=torch.float32),
                torch.tensor(guesses[order], dtype=torch.int64),
            )
        )
        targets.append(Target.of(truth, labels, random.random(n) < difficult, random.random(n) < crowd))
    return found, targets


@pytest.fixture(scope="session")
def draw() -> Callable[..., Drawn]:
    return _draw
