"""SSD over VGG16: SSD300 and SSD512 as published, and the same family with batch norm for any image size."""

from typing import Literal

from detectors.anchors import AnchorSpec, published, spread
from detectors.errors import ConfigError
from detectors.models import DETECTORS
from detectors.models.backbones import Backbone
from detectors.models.backbones.vgg import RELU4_3, RELU4_3_BN, RELU7, RELU7_BN, vgg16, vgg16_bn
from detectors.models.base import Detector, map_sizes
from detectors.models.layers import scaled
from detectors.models.layouts import SSD300, normalise_of
from detectors.models.ssd import ExtraMap, SSDNetwork, dense_map
from detectors.types import DetectorSpec

_STEPS_512 = (8, 16, 32, 64, 128, 256, 512)
_RATIOS_512 = ((2,), (2, 3), (2, 3), (2, 3), (2, 3), (2,), (2,))
# Smallest sides of the default boxes on each map, and the side that follows the last one (caffe's SSD
# scripts).
_SIZES = {
    (300, "voc"): SSD300.sizes,
    (300, "coco"): (21, 45, 99, 153, 207, 261, 315),
    (512, "voc"): (35.84, 76.8, 153.6, 230.4, 307.2, 384, 460.8, 537.6),
    (512, "coco"): (20.48, 51.2, 133.12, 215.04, 296.96, 378.88, 460.8, 542.72),
}

_EXTRAS_300 = (
    dense_map(512, 3, 2, 1), dense_map(256, 3, 2, 1), dense_map(256, 3, 1, 0), dense_map(256, 3, 1, 0),
)  # fmt: skip
_EXTRAS_512 = (
    dense_map(512, 3, 2, 1), dense_map(256, 3, 2, 1), dense_map(256, 3, 2, 1), dense_map(256, 3, 2, 1),
    dense_map(256, 4, 1, 1),
)  # fmt: skip


@DETECTORS.register("ssd300_vgg16")
def ssd300_vgg16(spec: DetectorSpec, *, anchors: Literal["voc", "coco"] = "voc") -> Detector:
    """SSD300 over VGG16, exactly the published network; anchors=voc or coco picks its default boxes."""
    boxes = published(_SIZES[300, anchors], SSD300.steps, SSD300.aspect_ratios)
    return _published(spec, 300, boxes, _EXTRAS_300)


@DETECTORS.register("ssd512_vgg16")
def ssd512_vgg16(spec: DetectorSpec, *, anchors: Literal["voc", "coco"] = "voc") -> Detector:
    """SSD512 over VGG16, as published with Caffe; anchors=voc or coco picks its default boxes."""
    boxes = published(_SIZES[512, anchors], _STEPS_512, _RATIOS_512)
    return _published(spec, 512, boxes, _EXTRAS_512)


@DETECTORS.register("ssd_vgg16_bn")
def ssd_vgg16_bn(
    spec: DetectorSpec,
    *,
    size: tuple[int, int] = (300, 300),
    width: float = 1.0,
    scales: tuple[float, float] = (0.1, 0.9),
    aspect_ratios: tuple[float, ...] = (2.0, 3.0),
    dilation: int = 6,
    match_iou: float = 0.5,
    negatives: float = 3.0,
) -> Detector:
    """SSD over VGG16 with batch norm, for any image size; a narrow one trains from scratch on a CPU.

    Args:
        spec: name, classes and options.
        size: (height, width) of the input, pixels, 64 or more; need not be square.
        width: multiplier on every channel count, above 0.
        scales: sides of the smallest and the largest anchor, as shares of the shorter side.
        aspect_ratios: of the anchors, each used both ways, on every map.
        dilation: of fc6; the published 6 spans 13 cells, more than the maps of a small image have.
        match_iou: overlap from which an anchor is trained for an object; the published 0.5 leaves objects of
            few pixels one anchor each.
        negatives: mined background anchors for each positive one; 3 as published.
    """
    if min(size) < 64:
        raise ConfigError(f"{spec.name}: size={list(size)} is not [height, width] of at least 64 pixels each")
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
    if not 0 < match_iou <= 1:
        raise ConfigError(f"{spec.name}: match_iou={match_iou} is not between 0 and 1")
    if negatives <= 0:
        raise ConfigError(f"{spec.name}: negatives={negatives} is not above 0")
    size = (size[0], size[1])
    backbone = Backbone(vgg16_bn(width, dilation=dilation), (RELU4_3_BN, RELU7_BN))
    maps = map_sizes(backbone, size)
    # Halve until a map has fewer than three cells across, up to the six maps of SSD300.
    while len(maps) < 6 and min(maps[-1]) > 2:
        maps.append((-(-maps[-1][0] // 2), -(-maps[-1][1] // 2)))
    anchors = spread(len(maps), min(size), (scales[0], scales[1]), tuple(aspect_ratios))
    # Each width is rounded by itself, half of a rounded one would be another.
    full = [512 if k == 0 else 256 for k in range(len(maps) - 2)]
    extras = [dense_map(scaled(n, width), 3, 2, 1, between=scaled(n // 2, width), bn=True) for n in full]
    network = SSDNetwork(backbone, extras, 1 + len(spec.classes), anchors)
    detector = Detector(spec, network, anchors, size, normalise_of("imagenet"))
    detector.match_iou, detector.negatives = match_iou, negatives
    return detector


def _published(spec: DetectorSpec, size: int, anchors: AnchorSpec, extras: tuple[ExtraMap, ...]) -> Detector:
    network = SSDNetwork(Backbone(vgg16(), (RELU4_3, RELU7)), extras, 1 + len(spec.classes), anchors)
    return Detector(spec, network, anchors, (size, size), normalise_of("caffe"))
