"""Layers that several networks share."""

import torch
from torch import Tensor, nn


class L2Norm(nn.Module):
    """Scales each position to unit length over the channels, then each channel by a learnt weight (ParseNet;
    SSD 3.1).

    `weight * x / (sqrt(sum_c x^2) + 1e-10)`, as ssd.pytorch computes it.
    """

    def __init__(self, channels: int, scale: float) -> None:
        super().__init__()
        self.channels = channels
        self.weight = nn.Parameter(torch.full((channels,), float(scale)))

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` -> the same shape."""
        norm = x.pow(2).sum(dim=1, keepdim=True).sqrt() + 1e-10
        return self.weight[None, :, None, None] * x / norm

    def resize(self, channels: int) -> None:
        """Gives it fresh, unset weights for that many channels."""
        self.channels = channels
        self.weight = nn.Parameter(torch.empty_like(self.weight[:1]).repeat(channels))

    def extra_repr(self) -> str:
        """What `print` shows in the brackets."""
        return str(self.channels)


class Normalise(nn.Module):
    """Images 0..1 to what the published weights expect: `(255 * x - mean) / std`.

    Args:
        mean: of red, green and blue, 0..255.
        std: of red, green and blue, 0..255.
        bgr: hand the channels on in the order blue, green, red, as ssds.pytorch's weights expect.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: tuple[float, float, float],
        std: tuple[float, float, float] = (1.0, 1.0, 1.0),
        *,
        bgr: bool = False,
    ) -> None:
        super().__init__()
        # Not in the state dict: they belong to the architecture, not to what was learnt.
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.bgr = bgr

    def forward(self, images: Tensor) -> Tensor:
        """`[B, 3, H, W]`, 0..1 RGB -> the same shape."""
        normalised = (images * 255 - self.mean) / self.std
        return normalised.flip(1) if self.bgr else normalised


def scaled(channels: int, width: float) -> int:
    """A channel count times the width multiplier, as a multiple of 8 and at least 8."""
    return channels if width == 1 else max(8, round(channels * width / 8) * 8)


def conv_block(
    inputs: int,
    outputs: int,
    kernel: int,
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    bn: bool = False,
) -> list[nn.Module]:
    """Convolution, batch norm if asked for (then without bias), ReLU."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=not bn)
    return [conv, *([nn.BatchNorm2d(outputs)] if bn else []), nn.ReLU(inplace=True)]


def depthwise_block(inputs: int, outputs: int, stride: int, padding: int) -> list[nn.Module]:
    """1x1 to `outputs`, depthwise 3x3, linear 1x1: batch norm behind each, ReLU6 behind the first two."""
    return [
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(inplace=True),
        nn.Conv2d(outputs, outputs, 3, stride, padding, groups=outputs, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(inplace=True),
        nn.Conv2d(outputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
    ]


def initialise(network: nn.Module) -> None:
    """Initial weights: He's (2015) before a batch norm's ReLU, Xavier's elsewhere as ssd.pytorch does.

    Biases 0.
    """
    batch_norm = any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            if batch_norm and module.bias is None:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            else:
                nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
