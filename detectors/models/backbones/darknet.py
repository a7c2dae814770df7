"""Darknet-19 (Redmon and Farhadi, CVPR 2017) and Darknet-53 (YOLOv3, 2018) as flat lists of blocks."""

from torch import Tensor, nn

from detectors.models.backbones import BACKBONES, Trunk
from detectors.models.backbones.mobilenet import ConvBlock
from detectors.models.layers import scaled

# YOLO9000, table 6: (channels, further pairs of 1x1 and 3x3) between poolings.
_STAGES_19 = ((32, 0), (64, 0), (128, 1), (256, 1), (512, 2), (1024, 2))
# YOLOv3, table 1: residual blocks behind each halving.
_STAGES_53 = (1, 2, 8, 8, 4)


def conv_leaky(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    """Convolution, batch norm, LeakyReLU with slope 0.1: YOLO's unit."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return [conv, nn.BatchNorm2d(outputs), nn.LeakyReLU(0.1, inplace=True)]


class DarknetBlock(ConvBlock):
    """1x1 to half the channels and 3x3 back; Darknet-53 adds the input."""

    def __init__(self, channels: int, *, residual: bool) -> None:
        half = channels // 2
        super().__init__(*conv_leaky(channels, half, 1), *conv_leaky(half, channels, 3))
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        """`[B, channels, H, W]` -> the same shape."""
        out: Tensor = self.conv(x)
        return x + out if self.residual else out


@BACKBONES.register("darknet19")
def darknet19(width: float = 1.0) -> Trunk:
    """Darknet-19 without its classifier."""
    layers: list[nn.Module] = []
    depths: list[int] = []
    channels = 3
    for full, pairs in _STAGES_19:
        if layers:
            layers.append(nn.MaxPool2d(2, 2))
            depths.append(channels)
        outputs = scaled(full, width)
        layers.append(ConvBlock(*conv_leaky(channels, outputs, 3)))
        channels = outputs
        layers += [DarknetBlock(channels, residual=False) for _ in range(pairs)]
        depths += [channels] * (1 + pairs)
    return Trunk(tuple(layers), tuple(depths))


@BACKBONES.register("darknet53")
def darknet53(width: float = 1.0) -> Trunk:
    """Darknet-53 without its classifier."""
    channels = scaled(32, width)
    layers: list[nn.Module] = [ConvBlock(*conv_leaky(3, channels, 3))]
    depths = [channels]
    for stage, count in enumerate(_STAGES_53):
        outputs = scaled(64 * 2**stage, width)
        layers.append(ConvBlock(*conv_leaky(channels, outputs, 3, stride=2)))
        channels = outputs
        layers += [DarknetBlock(channels, residual=True) for _ in range(count)]
        depths += [channels] * (1 + count)
    return Trunk(tuple(layers), tuple(depths))
