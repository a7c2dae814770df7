"""VGG16 with the fully connected layers turned into convolutions, as SSD uses it."""

from torch import Tensor, nn

from detectors.models.layers import conv_block, scaled

_CONFIG: tuple[int | str, ...] = (
    64,
    64,
    "M",
    128,
    128,
    "M",
    256,
    256,
    256,
    "C",
    512,
    512,
    512,
    "M",
    512,
    512,
    512,
)


class VGG16(nn.Module):
    """VGG16 up to conv5_3, then pool5 3x3 stride 1, fc6 3x3 dilation 6 and fc7 1x1 (SSD, section 3.1).

    Without batch norm the indices of `features` are those of ssd.pytorch's `vgg.N` and of
    `vgg16_reducedfc.pth`.

    Args:
        width: multiplier on every channel count.
        bn: batch norm after each convolution.
    """

    def __init__(self, width: float = 1.0, bn: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        taps, depths = [], []
        for position, entry in enumerate(_CONFIG):
            if isinstance(entry, str):
                # pool3 rounds up ("C"), so that 75 becomes 38 as in Caffe.
                layers.append(nn.MaxPool2d(2, 2, ceil_mode=entry == "C"))
                continue
            layers += conv_block(channels, scaled(entry, width), 3, padding=1, bn=bn)
            channels = scaled(entry, width)
            if position == 12:  # conv4_3
                taps.append(len(layers) - 1)
                depths.append(channels)
        fc = scaled(1024, width)
        layers.append(nn.MaxPool2d(3, 1, 1))
        layers += conv_block(channels, fc, 3, padding=6, dilation=6, bn=bn)
        layers += conv_block(fc, fc, 1, bn=bn)
        taps.append(len(layers) - 1)
        depths.append(fc)
        self.features = nn.ModuleList(layers)
        self.taps = tuple(taps)
        self.depths = tuple(depths)

    def forward(self, x: Tensor) -> list[Tensor]:
        """`[B, 3, H, W]` -> relu4_3 at stride 8 and relu7 at stride 16."""
        found = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.taps:
                found.append(x)
        return found

    @staticmethod
    def map_sizes(size: tuple[int, int]) -> list[tuple[int, int]]:
        """(height, width) of the two maps for an input of that size."""
        fine = tuple(-(-(side // 4) // 2) for side in size)
        return [(fine[0], fine[1]), (fine[0] // 2, fine[1] // 2)]
