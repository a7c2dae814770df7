"""FSSD: Feature Fusion Single Shot Multibox Detector (Li and Zhou, 2017), as ssds.pytorch has it."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detectors.anchors import AnchorSpec
from detectors.errors import ConfigError
from detectors.models import DETECTORS
from detectors.models.backbones import Backbone
from detectors.models.base import Detector, HeadMaps
from detectors.models.heads import heads, predict
from detectors.models.layers import initialise, scaled
from detectors.models.layouts import STRIDE_8, Colours, Source, anchors_of, normalise_of, tapped, trunk_of
from detectors.types import DetectorSpec

# The maps that are fused: layers of the backbone, and "S" for one more that is half the last one.
_SOURCES: dict[str, tuple[Source, ...]] = {
    "vgg16": (22, 34, "S"),
    "vgg16_bn": (32, 49, "S"),
    "resnet18": (7, 9, "S"),
    "resnet34": (10, 16, "S"),
    "resnet50": (10, 16, "S"),
    "resnet101": (10, 33, "S"),
    "mobilenet_v1": (5, 11, 13),
    "mobilenet_v2": (6, 13, 17),
    "darknet19": (8, 12, 16),
    "darknet53": (14, 23, 28),
}
# Channels of the pyramid's maps, where they are not 512, 512 and four times 256.
_DEPTHS = {"mobilenet_v2": (256, 256, 256, 256, 128, 128)}


class ConvReLU(nn.Module):
    """Convolution with bias, and ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, inputs, H, W]` -> `[B, outputs, H / stride, W / stride]`."""
        out: Tensor = self.relu(self.conv(x))
        return out


class FSSDNetwork(nn.Module):
    """Maps of several depths fused into one, from which a pyramid is built (section 3).

    Args:
        backbone: gives the maps that are fused.
        further: channels of one more map that is fused, half the last one; None: there is none.
        fused: channels of each map in the fusion.
        pyramid: kind of each map of the pyramid: "" keeps (the first) or shrinks by a valid 3x3, "S" halves.
        depths: channels of the pyramid's maps.
        outputs: channels of a class head for one anchor, 1 + number of classes.
        anchors: says how many anchors each map has.
        separable: heads of a depthwise 3x3 and a 1x1 convolution.
    """

    def __init__(
        self,
        backbone: Backbone,
        further: int | None,
        fused: int,
        pyramid: Sequence[str],
        depths: Sequence[int],
        outputs: int,
        anchors: AnchorSpec,
        *,
        separable: bool,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        found = list(backbone.depths)
        self.extras = nn.ModuleList()
        if further is not None:
            self.extras.append(nn.Conv2d(found[-1], further // 2, 1))
            self.extras.append(nn.Conv2d(further // 2, further, 3, 2, 1))
            found.append(further)
        self.transforms = nn.ModuleList(ConvReLU(depth, fused, 1) for depth in found)
        self.norm = nn.BatchNorm2d(fused * len(found))
        self.pyramids = nn.ModuleList()
        inputs = fused * len(found)
        for index, (kind, depth) in enumerate(zip(pyramid, depths, strict=True)):
            stride, padding = (2, 1) if kind == "S" else (1, 1 if index == 0 else 0)
            self.pyramids.append(ConvReLU(inputs, depth, 3, stride, padding))
            inputs = depth
        self.loc, self.conf = heads(depths, anchors, outputs, separable=separable)
        initialise(self)

    def forward(self, x: Tensor) -> HeadMaps:
        """Normalised images -> (logits, deltas) of each map, finest first."""
        sources = self.backbone(x)
        x = sources[-1]
        for layer in self.extras:
            x = layer(x)
        if len(self.extras):
            sources.append(x)
        size = sources[0].shape[-2:]
        fused = [transform(source) for transform, source in zip(self.transforms, sources, strict=True)]
        # torch 0.3, in which the published weights were trained, aligned the corners.
        lifted = [F.interpolate(m, size=size, mode="bilinear", align_corners=True) for m in fused[1:]]
        x = self.norm(torch.cat([fused[0], *lifted], dim=1))
        maps = []
        for layer in self.pyramids:
            x = layer(x)
            maps.append(x)
        return predict(maps, self.loc, self.conf)


@DETECTORS.register("fssd")
@DETECTORS.register("fssd_lite")
def fssd(
    spec: DetectorSpec,
    *,
    backbone: str | None = None,
    size: tuple[int, int] = (300, 300),
    width: float = 1.0,
    sources: tuple[Source, ...] | None = None,
    source_depths: tuple[int, ...] | None = None,
    layers: tuple[Source, ...] | None = None,
    depths: tuple[int, ...] | None = None,
    sizes: tuple[float, ...] | None = None,
    steps: tuple[float, ...] | None = None,
    aspect_ratios: tuple[tuple[float, ...], ...] | None = None,
    clip: bool = True,
    head: Literal["dense", "separable"] = "dense",
    colours: Colours = "ssds",
) -> Detector:
    """FSSD over any backbone, in ssds.pytorch's layout; fssd_lite is the same network over MobileNetV2.

    Args:
        spec: name, classes and options.
        backbone: as in `ssd`; None: vgg16, for fssd_lite mobilenet_v2.
        sources: the maps that are fused: indices of backbone layers, at the end "S" for one more, half the
            last one; None: published.
        source_depths: channels of the sources; only that of "S" is free, and half the last one is what each
            map brings into the fusion; None: published.
        layers: the pyramid: "" keeps (the first) or shrinks by a valid 3x3, "S" halves; None: published.
        depths: channels of the pyramid's maps; None: published.
        size, width, sizes, steps, aspect_ratios, clip, head, colours: as in `ssd`.
    """
    backbone = backbone or ("mobilenet_v2" if spec.name == "fssd_lite" else "vgg16")
    trunk = trunk_of(spec.name, backbone, width, list(_SOURCES))
    sources = _SOURCES[backbone] if sources is None else sources
    taps = tapped(spec.name, sources, "sources")
    if list(sources[len(taps) :]) not in ([], ["S"]):
        raise ConfigError(f"{spec.name}: sources={list(sources)} may end in one 'S' and in nothing else")
    tapped_backbone = Backbone(trunk, taps)
    last = scaled(512, width) if len(taps) < len(sources) else tapped_backbone.depths[-1]
    if source_depths is not None:
        if len(source_depths) != len(sources) or source_depths[-1] < 2:
            raise ConfigError(
                f"{spec.name}: source_depths={list(source_depths)} are one for each of "
                f"sources={list(sources)}, the last one 2 or more"
            )
        last = scaled(source_depths[-1], width)
    pyramid = ("", "S", "S", "S", "", "") if layers is None else tuple(str(layer) for layer in layers)
    if depths is None:
        depths = _DEPTHS.get(backbone, (512, 512, 256, 256, 256, 256))
    if not pyramid or len(depths) != len(pyramid) or not set(pyramid) <= {"", "S"} or min(depths) < 1:
        raise ConfigError(
            f"{spec.name}: layers={list(pyramid)} are '' or 'S', with one of depths={list(depths)} for each, "
            "above 0"
        )
    anchors = anchors_of(spec.name, STRIDE_8, size, len(pyramid), sizes, steps, aspect_ratios, clip=clip)
    network = FSSDNetwork(
        tapped_backbone,
        last if len(taps) < len(sources) else None,
        last // 2,
        pyramid,
        [scaled(depth, width) for depth in depths],
        1 + len(spec.classes),
        anchors,
        separable=head == "separable",
    )
    return Detector(spec, network, anchors, size, normalise_of(colours))
