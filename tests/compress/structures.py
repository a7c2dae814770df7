"""Toy networks with what pruning tools stumble over, one structure each."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Between(nn.Module):
    """body (3 -> 16) -> some structure -> head.

    Args:
        middle: a module, or a function of the maps.
        width: channels that the head reads.
        parts: further modules, which the function finds as attributes.
    """

    def __init__(
        self, middle: Callable[..., Tensor], width: int = 16, **parts: nn.Module | nn.Parameter
    ) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 16, 3, padding=1)
        self.head = nn.Conv2d(width, 4, 1)
        for name, part in parts.items():
            setattr(self, name, part)
        self.middle = middle

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x).relu()
        return self.head(self.middle(x) if isinstance(self.middle, nn.Module) else self.middle(self, x))


class Chunked(nn.Module):
    """Halves of a map: one is carried on through a convolution, all are concatenated, as C2f does."""

    def __init__(self, static: bool = False) -> None:
        super().__init__()
        self.body, self.inner = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm, self.head = nn.BatchNorm2d(24), nn.Conv2d(24, 4, 1)
        self.static = static

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        one, other = x.split((8, 8), 1) if self.static else x.chunk(2, 1)
        return self.head(self.norm(torch.cat([one, other, other + self.inner(other).relu()], 1)))


class ShuffleUnit(nn.Module):
    """Half of the channels through a depthwise convolution, then a shuffle by view, as in ShuffleNet v2."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 16, 3, padding=1)
        self.point, self.deep = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.head = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x).relu()
        left, right = x.chunk(2, 1)
        x = torch.cat([left, self.deep(self.point(right).relu())], 1)
        batch, channels, height, width = x.shape
        x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, -1, height, width)
        return self.head(x)


def viewed_shuffle(_: nn.Module, x: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    return (
        x.view(batch, 4, channels // 4, height, width).transpose(1, 2).reshape(batch, channels, height, width)
    )


def reorg(model: nn.Module, x: Tensor) -> Tensor:
    """Space to depth with the channels of a 2 x 2 block behind each other, beside a deeper map (YOLOv2)."""
    batch, channels, height, width = x.shape
    blocks = x.view(batch, channels, height // 2, 2, width // 2, 2).permute(0, 3, 5, 1, 2, 4)
    flat = blocks.reshape(batch, 4 * channels, height // 2, width // 2)
    return torch.cat([flat, model.deeper(x)], 1)


def gated(model: nn.Module, x: Tensor) -> Tensor:
    """Squeeze and excitation, as MobileNetV3 has it."""
    return x * model.excite(model.squeeze(F.adaptive_avg_pool2d(x, 1)).relu()).sigmoid()


def attended(model: nn.Module, x: Tensor) -> Tensor:
    """A map of one channel weighs every place."""
    return x * model.weigh(x).sigmoid()


def selected(model: nn.Module, x: Tensor) -> Tensor:
    """Two branches, weighed against each other by a softmax and summed, as selective kernels do."""
    both = model.grow(x)
    both = both.view(len(both), 2, both.shape[1] // 2, *both.shape[2:])
    return (both.softmax(1) * both).sum(1)


class SharedTower(nn.Module):
    """A convolution, its group norm and a head over two levels, as RetinaNet's."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, stride=2, padding=1)
        self.tower, self.norm = nn.Conv2d(16, 16, 3, padding=1), nn.GroupNorm(8, 16)
        self.head = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> dict[str, list[Tensor]]:
        fine = self.fine(x)
        levels = [fine, self.coarse(fine.relu())]
        return {"maps": [self.head(self.norm(self.tower(level)).relu()) for level in levels]}


class FeaturePyramid(nn.Module):
    """Laterals, upsampled and summed, behind batch norms; outputs deep in a nesting."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.fine_norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.coarse = nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.lateral_fine, self.lateral_coarse = nn.Conv2d(8, 6, 1), nn.Conv2d(12, 6, 1)
        self.head = nn.Conv2d(6, 4, 3, padding=1)

    def forward(self, x: Tensor) -> dict[str, tuple[list[Tensor], dict[str, Tensor]]]:
        fine = self.fine_norm(self.fine(x)).relu()
        coarse = self.lateral_coarse(F.max_pool2d(F.pad(self.coarse(fine), (0, 1, 0, 1)), 2, 1))
        fine = self.lateral_fine(fine) + F.interpolate(coarse, size=fine.shape[-2:], mode="nearest")
        return {"levels": ([self.head(fine)], {"coarse": self.head(coarse)})}


class Classifier(nn.Module):
    """Pooling, flattening, linear layers with a norm between them."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.norm = nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8)
        self.hidden, self.hidden_norm = nn.Linear(8 * 3 * 3, 12), nn.BatchNorm1d(12)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_max_pool2d(self.norm(self.body(x)).relu(), 3).flatten(1)
        return self.head(self.hidden_norm(self.hidden(x)).relu())


class Tied(nn.Module):
    """Two convolutions with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.one, self.other = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3)
        self.other.weight = self.one.weight
        self.last, self.head = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.last(self.other(self.one(self.first(x)).relu())).relu())


class Unreached(nn.Module):
    """A layer that only training would use."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.auxiliary, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x).relu()
        return self.auxiliary(x) if self.training else self.head(x)


class Standardised(nn.Conv2d):
    """A convolution that computes its weight from the stored one."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight - self.weight.mean((1, 2, 3), keepdim=True), self.bias, padding=1)


class StoredWidth(nn.Module):
    """A scale for each channel that remembers how many there are."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.count, self.weight = channels, nn.Parameter(torch.rand(channels) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight.view(1, self.count, 1, 1)


class Gain(nn.Module):
    """One weight for each channel, in a layer that does not say how it is resized."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.rand(channels, 1, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain


def padded_shortcut(model: nn.Module, x: Tensor) -> Tensor:
    """The shortcut of the first residual networks: channels of zeros are added."""
    return model.wide(x) + F.pad(x, (0, 0, 0, 0, 0, 8))


def copied_into(_: nn.Module, x: Tensor) -> Tensor:
    wide = x.new_zeros(len(x), 20, *x.shape[2:])
    wide[:, 2:18] = x
    return wide
