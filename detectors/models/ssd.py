"""SSD: Single Shot MultiBox Detector (Liu et al., ECCV 2016) over VGG16."""

from typing import Literal

from torch import Tensor, nn

from detectors.anchors import AnchorSpec, published, spread
from detectors.errors import ConfigError
from detectors.models import DETECTORS
from detectors.models.backbones import Backbone
from detectors.models.backbones.vgg import RELU4_3, RELU4_3_BN, RELU7, RELU7_BN, vgg16, vgg16_bn
from detectors.models.base import Detector, HeadMaps, map_sizes
from detectors.models.layers import L2Norm, Normalise, conv_block, initialise, scaled
from detectors.types import DetectorSpec

# Caffe's VGG means in RGB, no scaling: what vgg16_reducedfc.pth and every published SSD-VGG expects.
_CAFFE = ((123.0, 117.0, 104.0), (1.0, 1.0, 1.0))
# torchvision's ImageNet statistics, for networks with batch norm.
_IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))

_STEPS_300 = (8, 16, 32, 64, 100, 300)
_STEPS_512 = (8, 16, 32, 64, 128, 256, 512)
_RATIOS_300 = ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,))
_RATIOS_512 = ((2,), (2, 3), (2, 3), (2, 3), (2, 3), (2,), (2,))
# Smallest sides of the default boxes on each map, and the side that follows the last one (caffe's SSD
# scripts).
_SIZES = {
    (300, "voc"): (30, 60, 111, 162, 213, 264, 315),
    (300, "coco"): (21, 45, 99, 153, 207, 261, 315),
    (512, "voc"): (35.84, 76.8, 153.6, 230.4, 307.2, 384, 460.8, 537.6),
    (512, "coco"): (20.48, 51.2, 133.12, 215.04, 296.96, 378.88, 460.8, 542.72),
}

# Each extra map comes from 1x1 (half the channels) then k x k: (channels, kernel, stride, padding).
_EXTRAS_300 = ((512, 3, 2, 1), (256, 3, 2, 1), (256, 3, 1, 0), (256, 3, 1, 0))
_EXTRAS_512 = ((512, 3, 2, 1), (256, 3, 2, 1), (256, 3, 2, 1), (256, 3, 2, 1), (256, 4, 1, 1))

_Extras = tuple[tuple[int, int, int, int], ...]


class SSDNetwork(nn.Module):
    """Backbone, extra maps and a pair of 3x3 heads on each map.

    Args:
        backbone: gives the first maps; the finest one is L2-normalised with initial scale 20.
        extras: the further maps.
        outputs: channels of a class head for one anchor, 1 + number of classes.
        anchors: says how many anchors each map has.
        width: multiplier on the channels of the extras.
        bn: batch norm in the extras.
    """

    def __init__(
        self,
        backbone: Backbone,
        extras: _Extras,
        outputs: int,
        anchors: AnchorSpec,
        width: float = 1.0,
        bn: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.norm = L2Norm(backbone.depths[0], 20)
        self.extras = nn.ModuleList()
        depths = list(backbone.depths)
        for channels, kernel, stride, padding in extras:
            half, full = scaled(channels // 2, width), scaled(channels, width)
            self.extras.append(nn.Sequential(*conv_block(depths[-1], half, 1, bn=bn)))
            block = conv_block(half, full, kernel, stride=stride, padding=padding, bn=bn)
            self.extras.append(nn.Sequential(*block))
            depths.append(full)
        cells = [level.per_cell for level in anchors.levels]
        self.loc = nn.ModuleList(
            nn.Conv2d(d, n * 4, 3, padding=1) for d, n in zip(depths, cells, strict=True)
        )
        self.conf = nn.ModuleList(
            nn.Conv2d(d, n * outputs, 3, padding=1) for d, n in zip(depths, cells, strict=True)
        )
        initialise(self)

    def forward(self, x: Tensor) -> HeadMaps:
        """Normalised images -> (logits, deltas) of each map, finest first."""
        fine, coarse = self.backbone(x)
        maps = [self.norm(fine), coarse]
        x = coarse
        for index, block in enumerate(self.extras):
            x = block(x)
            if index % 2:
                maps.append(x)
        return [(conf(m), loc(m)) for m, conf, loc in zip(maps, self.conf, self.loc, strict=True)]


@DETECTORS.register("ssd300_vgg16")
def ssd300_vgg16(spec: DetectorSpec, *, anchors: Literal["voc", "coco"] = "voc") -> Detector:
    """SSD300 over VGG16, exactly the published network; anchors=voc or coco picks its default boxes."""
    return _published(spec, 300, _EXTRAS_300, _STEPS_300, _RATIOS_300, anchors)


@DETECTORS.register("ssd512_vgg16")
def ssd512_vgg16(spec: DetectorSpec, *, anchors: Literal["voc", "coco"] = "voc") -> Detector:
    """SSD512 over VGG16, as published with Caffe; anchors=voc or coco picks its default boxes."""
    return _published(spec, 512, _EXTRAS_512, _STEPS_512, _RATIOS_512, anchors)


@DETECTORS.register("ssd_vgg16_bn")
def ssd_vgg16_bn(
    spec: DetectorSpec,
    *,
    size: tuple[int, int] = (300, 300),
    width: float = 1.0,
    scales: tuple[float, float] = (0.1, 0.9),
    aspect_ratios: tuple[float, ...] = (2.0, 3.0),
    dilation: int = 6,
) -> Detector:
    """SSD over VGG16 with batch norm, for any image size; a narrow one trains from scratch on a CPU.

    Args:
        spec: name, classes and options.
        size: (height, width) of the input, pixels, 64 or more; need not be square.
        width: multiplier on every channel count, above 0.
        scales: sides of the smallest and the largest anchor, as shares of the shorter side.
        aspect_ratios: of the anchors, each used both ways, on every map.
        dilation: of fc6; the published 6 spans 13 cells, more than the maps of a small image have.
    """
    height, width_px = _checked_size(spec.name, size)
    if not 0 < width <= 4:
        raise ConfigError(f"{spec.name}: width={width} is not between 0 and 4")
    if any(ratio <= 0 for ratio in aspect_ratios):
        raise ConfigError(f"{spec.name}: aspect_ratios={list(aspect_ratios)} must all be above 0")
    if not 0 < scales[0] < scales[1]:
        raise ConfigError(
            f"{spec.name}: scales={list(scales)} is not [smallest, largest] with 0 < smallest < largest"
        )
    if dilation < 1:
        raise ConfigError(f"{spec.name}: dilation={dilation} is not 1 or more")
    backbone = Backbone(vgg16_bn(width, dilation=dilation), (RELU4_3_BN, RELU7_BN))
    maps = map_sizes(backbone, (height, width_px))
    # Halve until a map has fewer than three cells across, up to the six maps of SSD300.
    while len(maps) < 6 and min(maps[-1]) > 2:
        maps.append((-(-maps[-1][0] // 2), -(-maps[-1][1] // 2)))
    extras = tuple((512 if k == 0 else 256, 3, 2, 1) for k in range(len(maps) - 2))
    anchors = spread(len(maps), min(size), (scales[0], scales[1]), tuple(aspect_ratios))
    network = SSDNetwork(backbone, extras, 1 + len(spec.classes), anchors, width, bn=True)
    return Detector(spec, network, anchors, (height, width_px), Normalise(*_IMAGENET))


def _published(
    spec: DetectorSpec,
    size: int,
    extras: _Extras,
    steps: tuple[float, ...],
    ratios: tuple[tuple[float, ...], ...],
    data: str,
) -> Detector:
    anchors = published(_SIZES[size, data], steps, ratios)
    network = SSDNetwork(Backbone(vgg16(), (RELU4_3, RELU7)), extras, 1 + len(spec.classes), anchors)
    return Detector(spec, network, anchors, (size, size), Normalise(*_CAFFE))


def _checked_size(name: str, size: tuple[int, int]) -> tuple[int, int]:
    if min(size) < 64:
        raise ConfigError(f"{name}: size={list(size)} is not [height, width] of at least 64 pixels each")
    return size[0], size[1]
