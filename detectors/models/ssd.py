"""SSD: Single Shot MultiBox Detector (Liu et al., ECCV 2016), and SSD-Lite (MobileNetV2, section 6.2)."""

from collections.abc import Callable, Sequence
from typing import Literal

from torch import Tensor, nn

from detectors.anchors import AnchorSpec
from detectors.errors import ConfigError
from detectors.models import DETECTORS
from detectors.models.backbones import Backbone
from detectors.models.base import Detector, HeadMaps
from detectors.models.heads import heads, predict
from detectors.models.layers import L2Norm, conv_block, depthwise_block, initialise
from detectors.models.layouts import (
    SSD300,
    TAPS,
    Colours,
    Source,
    anchors_of,
    further_depths,
    normalise_of,
    tapped,
    trunk_of,
)  # fmt: skip
from detectors.types import DetectorSpec

# Layers of one further map, and its depth, from the depth of the map before it.
ExtraMap = Callable[[int], tuple[list[nn.Module], int]]

# Where the 2018 pruning tool taps its backbones, and the option of theirs that gives its layers.
_TENCENT: dict[str, tuple[tuple[int, int], dict[str, str]]] = {
    "vgg16": ((22, 34), {}),
    "resnet50": ((10, 20), {"tail": "stride1"}),
    "mobilenet_v1": ((5, 12), {"tail": "stride1"}),
    "mobilenet_v2": ((6, 18), {"tail": "stride1"}),
}


class SSDNetwork(nn.Module):
    """Backbone, extra maps and a pair of heads on each map.

    Args:
        backbone: gives the first maps; the finest one is L2-normalised with initial scale 20.
        extras: the further maps.
        outputs: channels of a class head for one anchor, 1 + number of classes.
        anchors: says how many anchors each map has.
        separable: heads of a depthwise 3x3 and a 1x1 convolution.
    """

    def __init__(
        self,
        backbone: Backbone,
        extras: Sequence[ExtraMap],
        outputs: int,
        anchors: AnchorSpec,
        *,
        separable: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.norm = L2Norm(backbone.depths[0], 20)
        self.extras = nn.ModuleList()
        depths = list(backbone.depths)
        ends = []
        for extra in extras:
            layers, depth = extra(depths[-1])
            self.extras.extend(layers)
            depths.append(depth)
            ends.append(len(self.extras) - 1)
        self.ends = frozenset(ends)
        self.loc, self.conf = heads(depths, anchors, outputs, separable=separable)
        initialise(self)

    def forward(self, x: Tensor) -> HeadMaps:
        """Normalised images -> (logits, deltas) of each map, finest first."""
        fine, *others = self.backbone(x)
        maps = [self.norm(fine), *others]
        x = maps[-1]
        for index, block in enumerate(self.extras):
            x = block(x)
            if index in self.ends:
                maps.append(x)
        return predict(maps, self.loc, self.conf)


def dense_map(
    channels: int, kernel: int, stride: int, padding: int, *, between: int | None = None, bn: bool = False
) -> ExtraMap:
    """SSD's further map (figure 2): 1x1 to half the channels, or to `between`, then kernel x kernel."""

    def build(inputs: int) -> tuple[list[nn.Module], int]:
        narrow = channels // 2 if between is None else between
        return [
            nn.Sequential(*conv_block(inputs, narrow, 1, bn=bn)),
            nn.Sequential(*conv_block(narrow, channels, kernel, stride=stride, padding=padding, bn=bn)),
        ], channels

    return build


def lite_map(channels: int, stride: int, padding: int) -> ExtraMap:
    """SSD-Lite's further map: 1x1, depthwise 3x3 and linear 1x1, as ssds.pytorch has it."""

    def build(inputs: int) -> tuple[list[nn.Module], int]:
        return [nn.Sequential(*depthwise_block(inputs, channels, stride, padding), nn.ReLU())], channels

    return build


@DETECTORS.register("ssd")
@DETECTORS.register("ssd_lite")
def ssd(
    spec: DetectorSpec,
    *,
    backbone: str | None = None,
    size: tuple[int, int] = (300, 300),
    width: float = 1.0,
    layout: Literal["ssds", "tencent"] = "ssds",
    layers: tuple[Source, ...] | None = None,
    depths: tuple[int, ...] | None = None,
    sizes: tuple[float, ...] | None = None,
    steps: tuple[float, ...] | None = None,
    aspect_ratios: tuple[tuple[float, ...], ...] | None = None,
    squares: bool = True,
    clip: bool = True,
    head: Literal["dense", "separable"] = "dense",
    colours: Colours | None = None,
) -> Detector:
    """SSD over any backbone, in ssds.pytorch's layout; ssd_lite has depthwise further maps.

    Args:
        spec: name, classes and options.
        backbone: VGG16, a ResNet, a MobileNet or a Darknet; None: vgg16, for ssd_lite mobilenet_v2.
        size: (height, width) of the input, pixels.
        width: multiplier on every channel count that is not given in `depths`.
        layout: "tencent": the taps, last stage and default boxes of the 2018 pruning tool.
        layers: the maps: indices of backbone layers, then "S" (halved) or "" (valid 3x3); None: published.
        depths: channels of the maps, as they are; those of backbone layers are what the backbone gives; None:
            published, times `width`.
        sizes: sides of the smaller squares, one more than maps, pixels; None: published, scaled to `size`.
        steps: between cells, pixels; None: published at the published size, else input / map.
        aspect_ratios: of each map; None: published.
        squares: False: only the boxes of `aspect_ratios`, as ssds.pytorch reads a list without a 1.
        clip: cut the default boxes to the image.
        head: "separable": a depthwise 3x3 and a 1x1 convolution (MobileNetV2, section 6.2); the published
            lite files have dense heads.
        colours: what the weights expect of the image; None: what the layout's published weights do.
    """
    lite = spec.name == "ssd_lite"
    backbone = backbone or ("mobilenet_v2" if lite else "vgg16")
    tencent = layout == "tencent"
    options = _TENCENT[backbone][1] if tencent and backbone in _TENCENT else {}
    trunk = trunk_of(spec.name, backbone, width, list(_TENCENT if tencent else TAPS), **options)
    taps, boxes = (_TENCENT[backbone][0], SSD300) if tencent else TAPS[backbone]
    # From maps at stride 16 on every further map is halved; from stride 8 on the last two shrink by 2.
    last = ("", "") if boxes.steps[0] == 8 else ("S", "S")
    layers = (*taps, "S", "S", *last) if layers is None else layers
    backbone_taps = tapped(spec.name, layers)
    if depths is None:
        channels = further_depths(spec.name, layers, (0, 0, 512, 256, 256, 128 if lite else 256), width)
    else:
        channels = further_depths(spec.name, layers, depths, 1.0)
    extras = _extras(spec.name, layers, channels, lite=lite)
    anchors = anchors_of(
        spec.name, boxes, size, len(layers), sizes, steps, aspect_ratios, clip=clip, squares=squares
    )
    network = SSDNetwork(
        Backbone(trunk, backbone_taps),
        extras,
        1 + len(spec.classes),
        anchors,
        separable=head == "separable",
    )
    return Detector(spec, network, anchors, size, normalise_of(colours or ("caffe" if tencent else "ssds")))


def _extras(detector: str, layers: Sequence[Source], depths: Sequence[int], *, lite: bool) -> list[ExtraMap]:
    shapes = {"S": (2, 1), "": (1, 0)}
    extras = []
    for source, depth in zip(layers, depths, strict=True):
        if isinstance(source, int):
            continue
        if source not in shapes:
            raise ConfigError(f"{detector}: {source!r} in layers is no further map; there are 'S' and ''")
        stride, padding = shapes[source]
        extras.append(lite_map(depth, stride, padding) if lite else dense_map(depth, 3, stride, padding))
    return extras
