"""VGG16 with the fully connected layers turned into convolutions, as SSD uses it."""

from torch import nn

from detectors.models.backbones import BACKBONES, Trunk
from detectors.models.layers import conv_block, scaled

_CONFIG = (64, 64, "M", 128, 128, "M", 256, 256, 256, "C", 512, 512, 512, "M", 512, 512, 512)

# Layers without batch norm behind which detectors tap: relu4_3, relu5_3 and relu7.
RELU4_3, RELU5_3, RELU7 = 22, 29, 34
# The same with batch norm.
RELU4_3_BN, RELU5_3_BN, RELU7_BN = 32, 42, 49


@BACKBONES.register("vgg16")
def vgg16(width: float = 1.0, *, dilation: int = 6, pool5: int = 3) -> Trunk:
    """VGG16 up to conv5_3, then pool5, fc6 3x3 dilated and fc7 1x1 (SSD, section 3.1).

    The indices are those of ssd.pytorch's `vgg.N` and of `vgg16_reducedfc.pth`.

    Args:
        width: multiplier on every channel count.
        dilation: of fc6: 6 in SSD, 3 in RefineDet.
        pool5: 3: 3x3 with stride 1, as in SSD; 2: 2x2 with stride 2, as in RefineDet.
    """
    return _vgg16(width, dilation, pool5, bn=False)


@BACKBONES.register("vgg16_bn")
def vgg16_bn(width: float = 1.0, *, dilation: int = 6, pool5: int = 3) -> Trunk:
    """As vgg16, with batch norm after each convolution."""
    return _vgg16(width, dilation, pool5, bn=True)


def _vgg16(width: float, dilation: int, pool5: int, *, bn: bool) -> Trunk:
    layers: list[nn.Module] = []
    depths: list[int] = []
    channels = 3

    def add(new: list[nn.Module]) -> None:
        layers.extend(new)
        depths.extend([channels] * len(new))

    for entry in _CONFIG:
        if isinstance(entry, str):
            # pool3 rounds up ("C"), so that 75 becomes 38 as in Caffe.
            add([nn.MaxPool2d(2, 2, ceil_mode=entry == "C")])
            continue
        before, channels = channels, scaled(entry, width)
        add(conv_block(before, channels, 3, padding=1, bn=bn))
    add([nn.MaxPool2d(3, 1, 1) if pool5 == 3 else nn.MaxPool2d(2, 2)])
    before, channels = channels, scaled(1024, width)
    add(conv_block(before, channels, 3, padding=dilation, dilation=dilation, bn=bn))
    add(conv_block(channels, channels, 1, bn=bn))
    return Trunk(tuple(layers), tuple(depths))
