"""RFB: Receptive Field Block Net (Liu et al., ECCV 2018), as ssds.pytorch has it, and its lite form."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from detectors.anchors import AnchorSpec
from detectors.errors import ConfigError
from detectors.models import DETECTORS
from detectors.models.backbones import Backbone
from detectors.models.base import Detector, HeadMaps
from detectors.models.heads import heads, predict
from detectors.models.layers import initialise
from detectors.models.layouts import (
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


class BasicConv(nn.Module):
    """Convolution of any kernel, batch norm and, unless told otherwise, ReLU."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: tuple[int, int] = (1, 1),
        *,
        stride: int = 1,
        dilation: int = 1,
        padding: tuple[int, int] | None = None,
        relu: bool = True,
    ) -> None:
        super().__init__()
        same = (dilation * (kernel[0] // 2), dilation * (kernel[1] // 2))
        self.conv = nn.Conv2d(
            inputs, outputs, kernel, stride, same if padding is None else padding, dilation, bias=False
        )
        self.bn = nn.BatchNorm2d(outputs, eps=1e-5, momentum=0.01)
        self.relu = nn.ReLU(inplace=True) if relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """`[B, inputs, H, W]` -> `[B, outputs, H / stride, W / stride]`."""
        out: Tensor = self.relu(self.bn(self.conv(x)))
        return out


class RFBBlock(nn.Module):
    """Branches of growing receptive field, joined by a linear 1x1, added to a shortcut (figure 4).

    Args:
        inputs: channels in.
        outputs: channels out.
        branches: chains of convolutions that all read the input.
        stride: of the block.
        project: whether the shortcut is a 1x1 convolution.
    """

    def __init__(
        self, inputs: int, outputs: int, branches: dict[str, list[BasicConv]], stride: int, *, project: bool
    ) -> None:
        super().__init__()
        self.names = tuple(branches)
        joined = 0
        for name, branch in branches.items():
            self.add_module(name, nn.Sequential(*branch))
            joined += branch[-1].conv.out_channels
        self.ConvLinear = BasicConv(joined, outputs, relu=False)
        self.shortcut = BasicConv(inputs, outputs, stride=stride, relu=False) if project else nn.Identity()
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """`[B, inputs, H, W]` -> `[B, outputs, H / stride, W / stride]`."""
        branches = [self.get_submodule(name)(x) for name in self.names]
        out: Tensor = self.relu(self.ConvLinear(torch.cat(branches, dim=1)) + self.shortcut(x))
        return out


def _dilated(channels: int, dilation: int) -> BasicConv:
    """The 3x3 that ends a branch; it is dense in the lite form too, where the original meant it depthwise."""
    return BasicConv(channels, channels, (3, 3), dilation=dilation, relu=False)


def rfb_s(inputs: int, *, project: bool) -> RFBBlock:
    """RFB-s for the finest map (figure 4b): asymmetric kernels, dilations 1, 3, 3 and 5."""
    n = max(1, inputs // 4)
    half, wide = max(1, n // 2), 3 * max(1, n // 4)
    branches = {
        "branch0": [BasicConv(inputs, n), _dilated(n, 1)],
        "branch1": [BasicConv(inputs, n), BasicConv(n, n, (3, 1)), _dilated(n, 3)],
        "branch2": [BasicConv(inputs, n), BasicConv(n, n, (1, 3)), _dilated(n, 3)],
        "branch3": [
            BasicConv(inputs, half),
            BasicConv(half, wide, (1, 3)),
            BasicConv(wide, n, (3, 1)),
            _dilated(n, 5),
        ],
    }
    return RFBBlock(inputs, inputs, branches, 1, project=project)


def rfb_block(inputs: int, outputs: int, stride: int) -> RFBBlock:
    """RFB with two branches, of dilations 3 and 5, as ssds.pytorch builds it."""
    n = max(1, inputs // 8)
    wide = 3 * max(1, n // 2)
    branches = {
        "branch0": [BasicConv(inputs, n), BasicConv(n, 2 * n, (3, 3), stride=stride), _dilated(2 * n, 3)],
        "branch1": [
            BasicConv(inputs, n),
            BasicConv(n, wide, (3, 3)),
            BasicConv(wide, 2 * n, (3, 3), stride=stride),
            _dilated(2 * n, 5),
        ],
    }
    return RFBBlock(inputs, outputs, branches, stride, project=True)


def rfb_lite_block(inputs: int, outputs: int, stride: int) -> RFBBlock:
    """RFB-Lite's block for a further map: one branch of asymmetric kernels, one of 3x3."""
    n = max(1, inputs // 8)
    wide = 3 * max(1, n // 2)
    branches = {
        "branch1": [
            BasicConv(inputs, n),
            BasicConv(n, wide, (1, 3)),
            BasicConv(wide, wide, (3, 1), stride=stride),
            _dilated(wide, 3),
        ],
        "branch2": [
            BasicConv(inputs, n),
            BasicConv(n, wide, (3, 3)),
            BasicConv(wide, wide, (3, 3), stride=stride),
            _dilated(wide, 5),
        ],
    }
    return RFBBlock(inputs, outputs, branches, stride, project=stride > 1 or inputs != outputs)


class RFBNetwork(nn.Module):
    """Backbone, RFB blocks on its maps, further maps and a pair of heads on each.

    The further maps start from the deepest map of the backbone, behind its block where it has one.

    Args:
        backbone: gives the first maps.
        layers: what each map is made of.
        depths: channels of the further maps, at the places of `layers`.
        outputs: channels of a class head for one anchor, 1 + number of classes.
        anchors: says how many anchors each map has.
        lite: RFB-Lite: of the backbone's maps only the finest one has a block, whose shortcut is the map.
        separable: heads of a depthwise 3x3 and a 1x1 convolution.
    """

    def __init__(
        self,
        backbone: Backbone,
        layers: Sequence[Source],
        depths: Sequence[int],
        outputs: int,
        anchors: AnchorSpec,
        *,
        lite: bool,
        separable: bool,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        found = list(backbone.depths)
        # Both forms have their names from the published files: `norm` and `norm.N`.
        self.norm: nn.Module = rfb_s(found[0], project=not lite)
        if not lite:
            self.norm = nn.ModuleList([self.norm, *(rfb_block(depth, depth, 1) for depth in found[1:])])
        self.extras = nn.ModuleList()
        ends = []
        for source, depth in list(zip(layers, depths, strict=True))[len(found) :]:
            self.extras.extend(_further_map(str(source), found[-1], depth, lite=lite))
            ends.append(len(self.extras) - 1)
            found.append(depth)
        self.ends = frozenset(ends)
        self.loc, self.conf = heads(found, anchors, outputs, separable=separable)
        initialise(self)

    def forward(self, x: Tensor) -> HeadMaps:
        """Normalised images -> (logits, deltas) of each map, finest first."""
        maps = self.backbone(x)
        blocks = self.norm if isinstance(self.norm, nn.ModuleList) else [self.norm]
        maps = [block(found) for block, found in zip(blocks, maps, strict=False)] + maps[len(blocks) :]
        x = maps[-1]
        for index, block in enumerate(self.extras):
            x = block(x)
            if index in self.ends:
                maps.append(x)
        return predict(maps, self.loc, self.conf)


def _further_map(source: str, inputs: int, outputs: int, *, lite: bool) -> list[nn.Module]:
    if source == "RBF":
        return [rfb_lite_block(inputs, outputs, 2) if lite else rfb_block(inputs, outputs, 2)]
    half = outputs // 2
    last = (
        BasicConv(half, outputs, (3, 3), stride=2)
        if source == "S"
        else BasicConv(half, outputs, (3, 3), padding=(0, 0))
    )
    return [BasicConv(inputs, half), last]


@DETECTORS.register("rfb")
@DETECTORS.register("rfb_lite")
def rfb(
    spec: DetectorSpec,
    *,
    backbone: str | None = None,
    size: tuple[int, int] = (300, 300),
    width: float = 1.0,
    layers: tuple[Source, ...] | None = None,
    depths: tuple[int, ...] | None = None,
    sizes: tuple[float, ...] | None = None,
    steps: tuple[float, ...] | None = None,
    aspect_ratios: tuple[tuple[float, ...], ...] | None = None,
    clip: bool = True,
    head: Literal["dense", "separable"] = "dense",
    colours: Colours = "ssds",
) -> Detector:
    """RFB Net over any backbone, in ssds.pytorch's layout; rfb_lite has fewer and narrower blocks.

    Args:
        spec: name, classes and options.
        backbone: as in `ssd`; None: vgg16, for rfb_lite mobilenet_v2.
        layers: the maps: indices of backbone layers, then "RBF" (halved in an RFB block), "S" (halved) or ""
            (valid 3x3); None: published.
        size, width, depths, sizes, steps, aspect_ratios, clip, head, colours: as in `ssd`.
    """
    lite = spec.name == "rfb_lite"
    backbone = backbone or ("mobilenet_v2" if lite else "vgg16")
    trunk = trunk_of(spec.name, backbone, width, list(TAPS))
    taps, boxes = TAPS[backbone]
    last = ("", "") if boxes.steps[0] == 8 else ("S", "S")
    layers = (*taps, "RBF", "S" if lite else "RBF", *last) if layers is None else layers
    depths = (0, 0, 512, 256, 256, 128 if lite else 256) if depths is None else depths
    unknown = [source for source in layers if isinstance(source, str) and source not in ("RBF", "S", "")]
    if unknown:
        raise ConfigError(
            f"{spec.name}: {unknown[0]!r} in layers is no further map; there are 'RBF', 'S' and ''"
        )
    tapped_backbone = Backbone(trunk, tapped(spec.name, layers))
    anchors = anchors_of(spec.name, boxes, size, len(layers), sizes, steps, aspect_ratios, clip=clip)
    network = RFBNetwork(
        tapped_backbone,
        layers,
        further_depths(spec.name, layers, depths, width),
        1 + len(spec.classes),
        anchors,
        lite=lite,
        separable=head == "separable",
    )
    return Detector(spec, network, anchors, size, normalise_of(colours))
