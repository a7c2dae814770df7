"""Toy networks with what pruning tools stumble over, one structure each."""

from collections.abc import Callable
from dataclasses import dataclass

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


OUTPUT = "makes an output"


@dataclass(frozen=True)
class Case:
    """A network, the groups it must have, and the layers that must stay whole.

    Attributes:
        build: makes the network.
        groups: name -> (channels to choose from, filters of each).
        whole: layer -> a part of the reason; the heads need not be named.
    """

    build: Callable[[], nn.Module]
    groups: dict[str, tuple[int, int]]
    whole: dict[str, str]


def conv(inputs: int, outputs: int, **options: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, **options)


def up(inputs: int, outputs: int, groups: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(inputs, outputs, 2, 2, groups=groups)


BODY = {"body": (16, 1)}

CASES = {
    "chunk into concat": Case(Chunked, {"body": (8, 2)}, {}),
    "split at fixed sizes": Case(
        lambda: Chunked(static=True), {}, {"body": "split into parts that do not follow", "inner": "split"}
    ),
    "unequal split": Case(
        lambda: Between(lambda m, x: torch.cat(x.split((4, 12), 1)[::-1], 1)), {}, {"body": "unequal parts"}
    ),
    "shuffle unit": Case(ShuffleUnit, {"body": (8, 2)}, {}),
    "channel shuffle": Case(lambda: Between(nn.ChannelShuffle(4)), {"body": (4, 4)}, {}),
    "channel shuffle by view": Case(lambda: Between(viewed_shuffle), {"body": (4, 4)}, {}),
    "view at fixed sizes": Case(
        lambda: Between(lambda m, x: x.view(1, 2, 8, 16, 16).flip(1).flatten(1, 2)),
        {},
        {"body": "reshaped to a form that does not follow"},
    ),
    "grouped convolution": Case(
        lambda: Between(conv(16, 24, groups=2), 24), {"body": (8, 2), "middle": (12, 2)}, {}
    ),
    "many groups": Case(lambda: Between(conv(16, 32, groups=8), 32), {"body": (8, 2)}, {}),
    "grouped and transposed": Case(
        lambda: Between(up(16, 24, 4), 24), {"body": (4, 4), "middle": (6, 4)}, {}
    ),
    "many groups transposed": Case(lambda: Between(up(16, 32, 8), 32), {"body": (8, 2)}, {}),
    "depthwise transposed": Case(lambda: Between(up(16, 16, 16)), BODY, {}),
    "depthwise multiplier": Case(lambda: Between(conv(16, 48, groups=16), 48), BODY, {}),
    "pixel shuffle": Case(lambda: Between(nn.PixelShuffle(2), 4), {"body": (4, 4)}, {}),
    "pixel unshuffle": Case(lambda: Between(nn.PixelUnshuffle(2), 64), BODY, {}),
    "reorg beside a map": Case(
        lambda: Between(reorg, 74, deeper=nn.Conv2d(16, 10, 2, stride=2)), {**BODY, "deeper": (10, 1)}, {}
    ),
    "group norm": Case(lambda: Between(nn.GroupNorm(4, 16)), {"body": (4, 4)}, {}),
    "group norm of all": Case(lambda: Between(nn.GroupNorm(1, 16)), {}, {"body": "hang together"}),
    "group norm without weights": Case(
        lambda: Between(nn.GroupNorm(4, 16, affine=False)), {}, {"body": "group norm without weights"}
    ),
    "layer norm": Case(lambda: Between(nn.LayerNorm([16, 16, 16])), {}, {"body": "layer norm in middle"}),
    "layer norm over columns": Case(lambda: Between(nn.LayerNorm(16)), BODY, {}),
    "instance norm": Case(lambda: Between(nn.InstanceNorm2d(16)), BODY, {}),
    "instance norm with weights": Case(lambda: Between(nn.InstanceNorm2d(16, affine=True)), BODY, {}),
    "instance norm with statistics": Case(
        lambda: Between(nn.InstanceNorm2d(16, affine=True, track_running_stats=True)), BODY, {}
    ),
    "local response norm": Case(lambda: Between(nn.LocalResponseNorm(3)), {}, {"body": "middle (LocalRes"}),
    "PReLU": Case(lambda: Between(nn.PReLU()), BODY, {}),
    "PReLU for each channel": Case(lambda: Between(nn.PReLU(16)), BODY, {}),
    "squeeze and excitation": Case(
        lambda: Between(gated, squeeze=nn.Conv2d(16, 6, 1), excite=nn.Conv2d(6, 16, 1)),
        {**BODY, "squeeze": (6, 1)},
        {},
    ),
    "one map weighs all": Case(
        lambda: Between(attended, weigh=nn.Conv2d(16, 1, 1)), BODY, {"weigh": "has one channel"}
    ),
    "selective kernels": Case(lambda: Between(selected, 8, grow=conv(16, 16)), {**BODY, "grow": (8, 2)}, {}),
    "shared tower": Case(SharedTower, {"fine": (16, 1), "tower": (8, 2)}, {}),
    "feature pyramid": Case(
        FeaturePyramid, {"fine": (8, 1), "coarse": (12, 1), "lateral_coarse": (6, 1)}, {}
    ),
    "classifier": Case(Classifier, {"body": (8, 1), "hidden": (12, 1)}, {}),
    "tied weights": Case(
        Tied,
        {"last": (8, 1)},
        {
            "first": "read by one, which shares its weight",
            "one": "with other",
            "other": "with one",
        },
    ),
    "never reached": Case(Unreached, {"body": (8, 1)}, {"auxiliary": "not reached"}),
    "computed weight": Case(
        lambda: Between(Standardised(16, 16, 3)), {}, {"body": "middle", "middle": "outside the layer"}
    ),
    "bare parameter": Case(
        lambda: Between(lambda m, x: x * m.gain, gain=nn.Parameter(torch.rand(1, 16, 1, 1))),
        {},
        {"body": "meets the bare parameter gain"},
    ),
    "a layer nobody knows": Case(
        lambda: Between(Gain(16)), {}, {"body": "meets middle, a Gain that cannot be narrowed safely"}
    ),
    "mean over channels": Case(
        lambda: Between(lambda m, x: x - x.mean(1, keepdim=True)),
        {},
        {"body": "over its channels by mean"},
    ),
    "sum over channels": Case(lambda: Between(lambda m, x: x / (x.sum(1, keepdim=True) + 1)), BODY, {}),
    "sum of what is never zero": Case(
        lambda: Between(lambda m, x: x / x.sigmoid().sum(1, keepdim=True)),
        {},
        {"body": "reduced over its channels by sum"},
    ),
    "softmax over channels": Case(lambda: Between(lambda m, x: x.softmax(1)), {}, {"body": "_softmax"}),
    "slice": Case(lambda: Between(lambda m, x: x[:, :6], 6), {}, {"body": "sliced"}),
    "one channel taken": Case(lambda: Between(lambda m, x: x * x[:, 0:1]), {}, {"body": "sliced"}),
    "focus": Case(
        lambda: Between(lambda m, x: torch.cat([x[..., ::2, ::2], x[..., 1::2, 1::2]], 1), 32), BODY, {}
    ),
    "channels of zeros": Case(
        lambda: Between(padded_shortcut, 24, wide=conv(16, 24)), {}, dict.fromkeys(("body", "wide"), "fixed")
    ),
    "attention": Case(
        lambda: Between(lambda m, x: (x.flatten(2) @ x.flatten(2).transpose(1, 2) @ x.flatten(2)).view_as(x)),
        {},
        {"body": "meets bmm"},
    ),
    "written into a buffer": Case(
        lambda: Between(
            lambda m, x: torch.zeros(1, 20, 16, 16, device=x.device, dtype=x.dtype).index_copy(
                1, torch.arange(16, device=x.device), x
            ),
            20,
        ),
        {},
        {"body": "index_copy"},
    ),
    "copied into a part": Case(lambda: Between(copied_into, 20), {}, {"body": "meets copy"}),
    "as wide as the input": Case(
        lambda: Between(lambda m, x: m.narrow(x), 3, narrow=nn.Conv2d(16, 3, 1)),
        {**BODY, "narrow": (3, 1)},
        {},
    ),
    "stacked and summed": Case(
        lambda: Between(lambda m, x: torch.stack([x, m.other(x)], 1).sum(1), other=conv(16, 16)), BODY, {}
    ),
    "there and back again": Case(
        lambda: Between(
            lambda m, x: x.repeat(1, 2, 1, 1).permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2), 32
        ),
        BODY,
        {},
    ),
}


def copied_into(_: nn.Module, x: Tensor) -> Tensor:
    wide = x.new_zeros(len(x), 20, *x.shape[2:])
    wide[:, 2:18] = x
    return wide
