"""ResNet (He et al., CVPR 2016) as a flat list of stem layers and residual blocks."""

from typing import Literal

from torch import Tensor, nn

from detectors.models.backbones import BACKBONES, Trunk
from detectors.models.layers import scaled

# The last stage: as published, at stride 2; or as the 2018 pruning tool has it, at stride 1 and with an
# average pooling behind it that keeps the size.
Tail = Literal["none", "stride1", "stride2"]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (figure 5, left)."""

    expansion = 1

    def __init__(self, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = _shortcut(inputs, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, inputs, H, W]` -> `[B, channels, H / stride, W / stride]`."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu(out + self.downsample(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut (figure 5, right), the stride in the 3x3."""

    expansion = 4

    def __init__(self, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        outputs = channels * self.expansion
        self.conv1 = nn.Conv2d(inputs, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, inputs, H, W]` -> `[B, 4 * channels, H / stride, W / stride]`."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.relu(out + self.downsample(x))


@BACKBONES.register("resnet18")
def resnet18(width: float = 1.0, *, tail: Tail = "none") -> Trunk:
    """ResNet-18 without its last stage; tail="stride2": with it; "stride1": at stride 1 and a 7x7 mean."""
    return _resnet(BasicBlock, (2, 2, 2, 2), width, tail)


@BACKBONES.register("resnet34")
def resnet34(width: float = 1.0, *, tail: Tail = "none") -> Trunk:
    """ResNet-34, as resnet18."""
    return _resnet(BasicBlock, (3, 4, 6, 3), width, tail)


@BACKBONES.register("resnet50")
def resnet50(width: float = 1.0, *, tail: Tail = "none") -> Trunk:
    """ResNet-50, as resnet18."""
    return _resnet(Bottleneck, (3, 4, 6, 3), width, tail)


@BACKBONES.register("resnet101")
def resnet101(width: float = 1.0, *, tail: Tail = "none") -> Trunk:
    """ResNet-101, as resnet18."""
    return _resnet(Bottleneck, (3, 4, 23, 3), width, tail)


def _resnet(
    block: type[BasicBlock] | type[Bottleneck], blocks: tuple[int, ...], width: float, tail: Tail
) -> Trunk:
    channels = scaled(64, width)
    layers: list[nn.Module] = [
        nn.Conv2d(3, channels, 7, 2, 3, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
    ]
    depths = [channels] * len(layers)
    for stage, count in enumerate(blocks):
        if stage == 3 and tail == "none":
            break
        narrow = scaled(64 * 2**stage, width)
        for index in range(count):
            halves = stage in (1, 2) or (stage == 3 and tail == "stride2")
            stride = 2 if index == 0 and halves else 1
            layers.append(block(channels, narrow, stride))
            channels = narrow * block.expansion
            depths.append(channels)
    if tail == "stride1":
        layers.append(nn.AvgPool2d(7, 1, 3, count_include_pad=False))
        depths.append(channels)
    return Trunk(tuple(layers), tuple(depths))


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    """A projection where the shape changes (equation 2), else the identity."""
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
