"""Reading and resizing images: the one way that training, evaluation and `predict` share."""

from torch import Tensor
from torchvision.transforms.v2 import functional


def to_size(image: Tensor, size: tuple[int, int]) -> Tensor:
    """`[3, h, w]`, uint8 or float -> `[3, *size]` of the same type, bilinear with antialiasing."""
    return functional.resize(image, list(size), antialias=True)
