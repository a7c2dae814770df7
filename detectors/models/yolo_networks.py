"""The networks of YOLOv2 (Redmon and Farhadi, 2016) and YOLOv3 (2018), as ssds.pytorch has them."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detectors.anchors import AnchorSpec
from detectors.models.backbones import Backbone
from detectors.models.backbones.darknet import conv_leaky
from detectors.models.backbones.mobilenet import ConvBlock
from detectors.models.base import HeadMaps
from detectors.models.heads import predict
from detectors.models.layers import initialise
from detectors.models.layouts import Source


class Reorg(nn.Module):
    """Space to depth (YOLOv2, section 2, "Fine-Grained Features"): neighbours side by side as channels.

    The channels of the even rows and columns come first, then even rows and odd columns, and so on.
    """

    def __init__(self, stride: int = 2) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` -> `[B, C * stride^2, H / stride, W / stride]`."""
        step = self.stride
        places = [(row, column) for row in range(step) for column in range(step)]
        # Strided slices rather than a reshape: the graph then tells which channels belong together.
        return torch.cat([x[:, :, row::step, column::step] for row, column in places], dim=1)


class YoloV2Network(nn.Module):
    """Backbone, 3x3 blocks in a row with finer maps brought in, and 1x1 heads on the last.

    Args:
        backbone: its last map goes through the blocks; the others are brought in.
        branch: for each block "" for 3x3, or the index of the layer that is brought in by 1x1 and `Reorg`.
        depths: channels of each block.
        outputs: channels of a class head for one anchor, 1 + number of classes.
        anchors: says how many anchors a cell has.
    """

    def __init__(
        self,
        backbone: Backbone,
        branch: Sequence[Source],
        depths: Sequence[int],
        outputs: int,
        anchors: AnchorSpec,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.reorg = Reorg()
        found = dict(zip(backbone.taps, backbone.depths, strict=True))
        self.sources = tuple(branch)
        self.extras = nn.ModuleList()
        inputs = backbone.depths[-1]
        for source, depth in zip(branch, depths, strict=True):
            if isinstance(source, int):
                self.extras.append(ConvBlock(*conv_leaky(found[source], depth, 1)))
                inputs += depth * self.reorg.stride**2
            else:
                self.extras.append(ConvBlock(*conv_leaky(inputs, depth, 3)))
                inputs = depth
        self.loc, self.conf = _heads([inputs], anchors, outputs)
        initialise(self)

    def forward(self, x: Tensor) -> HeadMaps:
        """Normalised images -> (logits, deltas) of the one map."""
        found = dict(zip(self.backbone.taps, self.backbone(x), strict=True))
        x = found[self.backbone.taps[-1]]
        for source, block in zip(self.sources, self.extras, strict=True):
            if isinstance(source, int):
                x = torch.cat([x, self.reorg(block(found[source]))], dim=1)
            else:
                x = block(x)
        return predict([x], self.loc, self.conf)


class YoloV3Network(nn.Module):
    """Backbone and for each map a branch of blocks, of 1x1 and 3x3, with 1x1 heads at its end (section 2.3).

    Each further branch takes the end of the one before by 1x1, upsampled, together with a finer layer.

    Args:
        backbone: its last map enters the first branch.
        branches: "B" for each block; a further branch begins with the index of the finer layer.
        depths: channels of each block.
        outputs: channels of a class head for one anchor, 1 + number of classes.
        anchors: says how many anchors each map has.
    """

    def __init__(
        self,
        backbone: Backbone,
        branches: Sequence[Sequence[Source]],
        depths: Sequence[Sequence[int]],
        outputs: int,
        anchors: AnchorSpec,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        found = dict(zip(backbone.taps, backbone.depths, strict=True))
        self.branches = tuple(tuple(branch) for branch in branches)
        self.extras = nn.ModuleList()
        inputs = backbone.depths[-1]
        ends = []
        for branch, channels in zip(branches, depths, strict=True):
            for source, depth in zip(branch, channels, strict=True):
                if isinstance(source, int):
                    self.extras.append(ConvBlock(*conv_leaky(inputs, depth, 1)))
                    inputs = depth + found[source]
                else:
                    half = depth // 2
                    self.extras.append(ConvBlock(*conv_leaky(inputs, half, 1), *conv_leaky(half, depth, 3)))
                    inputs = depth
            ends.append(inputs)
        self.loc, self.conf = _heads(ends, anchors, outputs)
        initialise(self)

    def forward(self, x: Tensor) -> HeadMaps:
        """Normalised images -> (logits, deltas) of each map, coarsest first."""
        found = dict(zip(self.backbone.taps, self.backbone(x), strict=True))
        x = found[self.backbone.taps[-1]]
        blocks = iter(self.extras)
        maps = []
        for branch in self.branches:
            for source in branch:
                x = next(blocks)(x)
                if isinstance(source, int):
                    fine = found[source]
                    # torch 0.3, in which the published weights were trained, aligned the corners.
                    x = F.interpolate(x, size=fine.shape[-2:], mode="bilinear", align_corners=True)
                    x = torch.cat([x, fine], dim=1)
            maps.append(x)
        return predict(maps, self.loc, self.conf)


def _heads(depths: Sequence[int], anchors: AnchorSpec, outputs: int) -> tuple[nn.ModuleList, nn.ModuleList]:
    cells = [level.per_cell for level in anchors.levels]
    pairs = list(zip(depths, cells, strict=True))
    loc = nn.ModuleList(nn.Conv2d(depth, count * 4, 1) for depth, count in pairs)
    conf = nn.ModuleList(nn.Conv2d(depth, count * outputs, 1) for depth, count in pairs)
    return loc, conf
