"""What each structure must come to: its groups, and the layers that stay whole by name."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from structures import (
    Between,
    Chunked,
    Classifier,
    FeaturePyramid,
    Gain,
    SharedTower,
    ShuffleUnit,
    Standardised,
    StoredWidth,
    Tied,
    Unreached,
    attended,
    copied_into,
    gated,
    padded_shortcut,
    reorg,
    selected,
    viewed_shuffle,
)
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

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
    "weight norm": Case(
        lambda: Between(nn.utils.parametrizations.weight_norm(conv(16, 16))),
        {},
        {
            "body": "is read by middle, which has a weight that is computed",
            "middle": "weight that is computed",
        },
    ),
    "weight norm without a bias": Case(
        lambda: Between(nn.utils.parametrizations.weight_norm(nn.Conv2d(16, 16, 1, bias=False))),
        {},
        {"body": "is read by middle", "middle": "weight that is computed"},
    ),
    "a weight of the network's own": Case(
        lambda: Between(lambda m, x: F.conv2d(x, m.weight), weight=nn.Parameter(torch.rand(16, 16, 1, 1))),
        {},
        {"body": "is read by the network itself"},
    ),
    "bare parameter": Case(
        lambda: Between(lambda m, x: x * m.gain, gain=nn.Parameter(torch.rand(1, 16, 1, 1))),
        {},
        {"body": "meets the bare parameter gain"},
    ),
    "a layer nobody knows": Case(
        lambda: Between(Gain(16)), {}, {"body": "meets middle, a Gain that cannot be narrowed safely"}
    ),
    "a scale of stored width": Case(
        lambda: Between(StoredWidth(16)), {}, {"body": "meets middle, a StoredWidth that cannot be narrowed"}
    ),
    "frozen batch norm": Case(
        lambda: Between(FrozenBatchNorm2d(16)), {}, {"body": "meets middle, a FrozenBatchNorm2d that cannot"}
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
    "largest places": Case(lambda: Between(lambda m, x: x.sort()[0] + x.topk(1)[0]), BODY, {}),
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
