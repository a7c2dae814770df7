"""Small detectors with random weights, and what tests ask of them."""

from typing import Any

import torch
from toys import shaken

from detectors.models import build
from detectors.models.base import Detector
from detectors.types import Outputs


def small(size: tuple[int, int] = (64, 64), width: float = 0.25, seed: int = 0, **options: Any) -> Detector:
    """An SSD with batch norm whose statistics are random too."""
    torch.manual_seed(seed)
    detector = build("ssd_vgg16_bn", ["cat", "dog"], size=size, width=width, **options)
    return shaken(detector).eval()


def outputs_of(detector: Detector, seed: int = 0) -> Outputs:
    """Raw outputs for two random images."""
    images = torch.rand(2, 3, *detector.size, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return detector(images)


def equal(one: Detector, other: Detector) -> bool:
    """Whether two detectors hold the same tensors and give the same outputs, to the bit."""
    first, second = one.state_dict(), other.state_dict()
    return (
        first.keys() == second.keys()
        and all(torch.equal(first[key], second[key]) for key in first)
        and all(torch.equal(a, b) for a, b in zip(outputs_of(one), outputs_of(other), strict=True))
    )
