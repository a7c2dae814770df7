"""MobileNetV1 (Howard et al., 2017) and MobileNetV2 (Sandler et al., CVPR 2018) as flat lists of blocks."""

from typing import Literal

from torch import Tensor, nn

from detectors.models.backbones import BACKBONES, Trunk

# MobileNetV1, table 1: (channels, stride) of each depthwise separable block.
_V1 = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1), (512, 1), (512, 1), (512, 1),
    (512, 1), (1024, 2), (1024, 1),
)  # fmt: skip
# MobileNetV2, table 2: (expansion, channels, blocks, stride of the first).
_V2 = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip
# "stride1": as the 2018 pruning tool has them, with the last halving left out.
Tail = Literal["stride2", "stride1"]


class ConvBlock(nn.Module):
    """A chain of convolutions under the name `conv`, which the published weights have."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` -> what the chain makes of it."""
        out: Tensor = self.conv(x)
        return out


class InvertedResidual(ConvBlock):
    """1x1 expansion, 3x3 depthwise, linear 1x1 projection; added to the input where the shape allows it.

    MobileNetV2, section 3.4. The expansion is there for a factor of 1 as well.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        hidden = inputs * expansion
        super().__init__(
            *_conv(inputs, hidden, 1),
            *_conv(hidden, hidden, 3, stride=stride, groups=hidden),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """`[B, inputs, H, W]` -> `[B, outputs, H / stride, W / stride]`."""
        out: Tensor = self.conv(x)
        return x + out if self.residual else out


@BACKBONES.register("mobilenet_v1")
def mobilenet_v1(width: float = 1.0, *, tail: Tail = "stride2") -> Trunk:
    """MobileNetV1 without its classifier; tail="stride1": its last halving and last block left out."""
    channels = _depth(32, width)
    layers: list[nn.Module] = [ConvBlock(*_conv(3, channels, 3, stride=2, activation=nn.ReLU))]
    depths = [channels]
    for index, (full, stride) in enumerate(_V1):
        if tail == "stride1" and index == 12:
            break
        outputs = _depth(full, width)
        stride = 1 if tail == "stride1" and index == 11 else stride
        depthwise = _conv(channels, channels, 3, stride=stride, groups=channels, activation=nn.ReLU)
        layers.append(ConvBlock(*depthwise, *_conv(channels, outputs, 1, activation=nn.ReLU)))
        channels = outputs
        depths.append(channels)
    return Trunk(tuple(layers), tuple(depths))


@BACKBONES.register("mobilenet_v2")
def mobilenet_v2(width: float = 1.0, *, tail: Tail = "stride2") -> Trunk:
    """MobileNetV2 up to its 320 channels; tail="stride1": last halving left out, the 1x1 to 1280 put in."""
    channels = _depth(32, width)
    # ssds.pytorch shares the first convolution of the two networks, with its plain ReLU.
    first_relu = nn.ReLU6 if tail == "stride1" else nn.ReLU
    layers: list[nn.Module] = [ConvBlock(*_conv(3, channels, 3, stride=2, activation=first_relu))]
    depths = [channels]
    for expansion, full, count, first in _V2:
        outputs = _depth(full, width)
        for index in range(count):
            stride = first if index == 0 and not (tail == "stride1" and full == 160) else 1
            layers.append(InvertedResidual(channels, outputs, stride, expansion))
            channels = outputs
            depths.append(channels)
    if tail == "stride1":
        layers.append(ConvBlock(*_conv(channels, max(1280, _depth(1280, width)), 1)))
        depths.append(max(1280, _depth(1280, width)))
    return Trunk(tuple(layers), tuple(depths))


def _depth(channels: int, width: float) -> int:
    """A channel count times the multiplier, rounded down, at least 8, as TensorFlow has it."""
    return channels if width == 1 else max(8, int(channels * width))


def _conv(
    inputs: int,
    outputs: int,
    kernel: int,
    *,
    stride: int = 1,
    groups: int = 1,
    activation: type[nn.ReLU] | type[nn.ReLU6] = nn.ReLU6,
) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs), activation(inplace=True)]
