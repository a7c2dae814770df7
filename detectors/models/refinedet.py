"""RefineDet: Single-Shot Refinement Neural Network for Object Detection (Zhang et al., CVPR 2018)."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detectors.anchors import AnchorLevel, AnchorSpec, ssd_shapes
from detectors.boxes import decode
from detectors.errors import ConfigError
from detectors.losses.refinedet import OBJECTNESS, moved_anchors, object_scores, offsets, refinedet_loss
from detectors.models import DETECTORS
from detectors.models.backbones import Backbone
from detectors.models.backbones.resnet import Bottleneck
from detectors.models.backbones.vgg import RELU4_3, RELU4_3_BN, RELU5_3, RELU5_3_BN, RELU7, RELU7_BN
from detectors.models.base import Detector
from detectors.models.layers import L2Norm, initialise, scaled
from detectors.models.layouts import Colours, normalise_of, trunk_of
from detectors.postprocess import PostprocessOptions, select
from detectors.types import ClassLogits, Comparable, Detections, DetectorSpec, RefineOutputs, Target

# For each level, finest first: logits and deltas of the second step, then of the first, if there is one.
RefineMaps = list[tuple[Tensor, ...]]

# The layers behind which the first three maps are taken: relu4_3, relu5_3, relu7; res3b3, res4b22, res5c.
_TAPS = {
    "vgg16": (RELU4_3, RELU5_3, RELU7),
    "vgg16_bn": (RELU4_3_BN, RELU5_3_BN, RELU7_BN),
    "resnet50": (10, 16, 19),
    "resnet101": (10, 33, 36),
}
_STEPS = (8, 16, 32, 64)


class RefineDetNetwork(nn.Module):
    """Four maps, a first pair of heads on each (ARM), and a second pair (ODM) on what the TCBs make of them.

    Args:
        backbone: gives the three finer maps.
        extras: the layers that make the coarsest map, a ReLU behind each.
        depth: of the coarsest map.
        l2: L2-normalise the two finest maps with initial scales 10 and 8, as over VGG16.
        outputs: channels of an ODM class head for one anchor, 1 + number of classes.
        per_cell: anchors in one cell.
        channels: of the transfer connection blocks.
        bn: batch norm in the transfer connection blocks.
        arm: with the anchor refinement module.
        tcb: with the transfer connection blocks; else the ODM reads what the ARM reads.
        top_relu: the last two ReLUs of the coarsest block.
    """

    def __init__(
        self,
        backbone: Backbone,
        extras: Sequence[nn.Module],
        depth: int,
        *,
        l2: bool,
        outputs: int,
        per_cell: int,
        channels: int,
        bn: bool,
        arm: bool,
        tcb: bool,
        top_relu: bool,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        depths = [*backbone.depths, depth]
        self.conv4_3_L2Norm = L2Norm(depths[0], 10) if l2 else nn.Identity()
        self.conv5_3_L2Norm = L2Norm(depths[1], 8) if l2 else nn.Identity()
        self.extras = nn.ModuleList(extras)
        if arm:
            self.arm_loc = nn.ModuleList(nn.Conv2d(d, per_cell * 4, 3, padding=1) for d in depths)
            self.arm_conf = nn.ModuleList(nn.Conv2d(d, per_cell * 2, 3, padding=1) for d in depths)
        if tcb:
            # Flat lists of three layers for each level, as published files number them.
            self.tcb0, self.tcb1, self.tcb2 = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
            for level, inputs in enumerate(depths):
                top = level == len(depths) - 1
                activation = nn.Identity if top and not top_relu else nn.ReLU
                self.tcb0.extend(
                    [_conv(inputs, channels, 3, bn=bn), nn.ReLU(), _conv(channels, channels, 3, bn=bn)]
                )
                self.tcb2.extend([activation(), _conv(channels, channels, 3, bn=bn), activation()])
                if not top:
                    self.tcb1.append(_upsampling(channels, bn=bn))
            depths = [channels] * len(depths)
        self.odm_loc = nn.ModuleList(nn.Conv2d(d, per_cell * 4, 3, padding=1) for d in depths)
        self.odm_conf = nn.ModuleList(nn.Conv2d(d, per_cell * outputs, 3, padding=1) for d in depths)
        self.arm, self.tcb = arm, tcb
        initialise(self)

    def forward(self, x: Tensor) -> RefineMaps:
        """Normalised images -> (logits, deltas, ARM logits, ARM deltas) of each map, finest first."""
        fine, middle, coarse = self.backbone(x)
        maps = [self.conv4_3_L2Norm(fine), self.conv5_3_L2Norm(middle), coarse]
        x = coarse
        for layer in self.extras:
            x = F.relu(layer(x))
        maps.append(x)
        read = self._transferred(maps) if self.tcb else maps
        found: RefineMaps = [
            (conf(m), loc(m)) for m, conf, loc in zip(read, self.odm_conf, self.odm_loc, strict=True)
        ]
        if not self.arm:
            return found
        first = zip(maps, self.arm_conf, self.arm_loc, strict=True)
        return [(*odm, conf(m), loc(m)) for odm, (m, conf, loc) in zip(found, first, strict=True)]

    def _transferred(self, maps: list[Tensor]) -> list[Tensor]:
        """The maps behind the transfer connection blocks (figure 2): each adds the coarser one, upsampled."""
        made: list[Tensor] = []
        for level in reversed(range(len(maps))):
            x = maps[level]
            for k in range(3):
                x = self.tcb0[3 * level + k](x)
            if made:
                x = x + self.tcb1[level](made[-1])
            for k in range(3):
                x = self.tcb2[3 * level + k](x)
            made.append(x)
        return made[::-1]


class RefineDet(Detector):
    """A detector of two steps: the first moves the anchors and filters them, the second classifies them."""

    def outputs(self, maps: RefineMaps) -> RefineOutputs:  # type: ignore[override]
        """Head maps to one row for each anchor, in the order of `anchors`."""
        columns = (1 + self.num_classes, 4, 2, 4)
        logits, deltas, arm_logits, arm_deltas = (
            torch.cat([level.permute(0, 2, 3, 1).reshape(len(level), -1, width) for level in kind], dim=1)
            for kind, width in zip(zip(*maps, strict=True), columns, strict=True)
        )
        return RefineOutputs(arm_logits, arm_deltas, logits, deltas)

    def loss(  # type: ignore[override]
        self, outputs: RefineOutputs, targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        """Named loss terms of both steps, whose sum is minimised; target boxes in pixels of the input."""
        height, width = self.size
        scale = self.anchors.new_tensor([width, height, width, height])
        return refinedet_loss(
            outputs, self.anchors, [t.boxes / scale for t in targets], [t.labels for t in targets]
        )

    def detect(  # type: ignore[override]
        self, outputs: RefineOutputs, sizes: Sequence[tuple[int, int]]
    ) -> list[Detections]:
        """Raw outputs to detections in pixels of the original images, whose (height, width) are `sizes`.

        An anchor that the first step takes for background scores 0 (section 4, "Inference").
        """
        scores = outputs.logits.float().softmax(dim=-1)[..., 1:]
        scores = scores * (object_scores(outputs.arm_logits) > OBJECTNESS)[..., None]
        boxes = decode(outputs.deltas.float(), moved_anchors(outputs.arm_deltas, self.anchors))
        return [select(s, b, size, self.postprocess) for s, b, size in zip(scores, boxes, sizes, strict=True)]

    def comparable(self, outputs: RefineOutputs) -> Comparable:
        """As in `Detector`; boxes are those that both steps end with, for each detector moves its anchors."""
        first, second = (
            ClassLogits(logits.float(), softmax=True, background=True)
            for logits in (outputs.arm_logits, outputs.logits)
        )
        return Comparable((first, second), offsets(outputs, self.anchors))


@DETECTORS.register("refinedet320_vgg16")
def refinedet320_vgg16(spec: DetectorSpec) -> Detector:
    """RefineDet320 over VGG16, exactly the network of RefineDet.PyTorch."""
    return refinedet(spec)


@DETECTORS.register("refinedet512_vgg16")
def refinedet512_vgg16(spec: DetectorSpec) -> Detector:
    """RefineDet512 over VGG16, exactly the network of RefineDet.PyTorch."""
    return refinedet(spec, size=(512, 512))


@DETECTORS.register("refinedet")
def refinedet(
    spec: DetectorSpec,
    *,
    backbone: str = "vgg16",
    size: tuple[int, int] = (320, 320),
    width: float = 1.0,
    sizes: tuple[float, float, float, float] = (32, 64, 128, 256),
    aspect_ratios: tuple[float, ...] = (2.0,),
    clip: bool = True,
    dilation: int | None = None,
    top_relu: bool = True,
    arm: bool = True,
    tcb: bool = True,
    colours: Colours | None = None,
) -> Detector:
    """RefineDet over VGG16, with or without batch norm, or a ResNet, for any multiple of 64 pixels.

    Args:
        spec: name, classes and options.
        backbone: vgg16, vgg16_bn, resnet50 or resnet101.
        size: (height, width) of the input, pixels, multiples of 64; need not be square.
        width: multiplier on every channel count, above 0.
        sizes: sides of the square anchor on each map, pixels, whatever the input size.
        aspect_ratios: of the further anchors, each used both ways, on every map.
        clip: cut the anchors to the image; Caffe does not.
        dilation: of VGG's fc6; None: 3, as in Caffe. PytorchSSD (lzx1413) and its offspring have 6.
        top_relu: the last two ReLUs of the coarsest transfer connection block, which PytorchSSD lacks.
        arm: with the anchor refinement module; without it, a detector of one step (ablation study).
        tcb: with transfer connection blocks; without them, both steps read the same maps (ablation study).
        colours: what the weights expect of the image; None: "imagenet" for batch norm, "caffe" without.
    """
    if any(side < 64 or side % 64 for side in size):
        fitting = [max(64, round(side / 64) * 64) for side in size]
        raise ConfigError(
            f"{spec.name}: size={list(size)} does not fit maps that are halved and doubled again; "
            f"multiples of 64 do, such as {fitting}"
        )
    if min(sizes) <= 0 or any(ratio <= 0 for ratio in aspect_ratios):
        raise ConfigError(
            f"{spec.name}: sizes={list(sizes)} and aspect_ratios={list(aspect_ratios)} must be above 0"
        )
    vgg = backbone.startswith("vgg")
    if dilation is not None and (dilation < 1 or not vgg):
        reason = "is not 1 or more" if vgg else f"is of VGG's fc6, which {backbone} does not have"
        raise ConfigError(f"{spec.name}: dilation={dilation} {reason}")
    options: dict[str, Any] = {"dilation": dilation or 3, "pool5": 2} if vgg else {"tail": "stride2"}
    trunk = trunk_of(spec.name, backbone, width, list(_TAPS), **options)
    base = Backbone(trunk, _TAPS[backbone])
    bn = backbone != "vgg16"
    extras, depth = _extras(base.depths[-1], width, residual=not vgg, bn=bn)
    anchors = AnchorSpec(
        tuple(
            AnchorLevel(ssd_shapes(side, None, tuple(aspect_ratios)), step)
            for side, step in zip(sizes, _STEPS, strict=True)
        ),
        clip,
    )
    network = RefineDetNetwork(
        base,
        extras,
        depth,
        l2=vgg,
        outputs=1 + len(spec.classes),
        per_cell=anchors.levels[0].per_cell,
        channels=scaled(256, width),
        bn=bn,
        arm=arm,
        tcb=tcb,
        top_relu=top_relu,
    )
    kind = RefineDet if arm else Detector
    detector = kind(spec, network, anchors, size, normalise_of(colours or ("imagenet" if bn else "caffe")))
    detector.postprocess = PostprocessOptions(score_threshold=0.01, nms_iou=0.45, top_k=1000, keep=500)
    return detector


def _extras(inputs: int, width: float, *, residual: bool, bn: bool) -> tuple[list[nn.Module], int]:
    """The layers of the coarsest map and its depth: res6 over a ResNet, else conv6_1 and conv6_2."""
    if residual:
        narrow = scaled(128, width)
        return [Bottleneck(inputs, narrow, 2)], narrow * Bottleneck.expansion
    half, full = scaled(256, width), scaled(512, width)
    return [_conv(inputs, half, 1, bn=bn), _conv(half, full, 3, stride=2, bn=bn)], full


def _conv(inputs: int, outputs: int, kernel: int, *, stride: int = 1, bn: bool = False) -> nn.Module:
    """A convolution that keeps the size but for its stride, and with `bn` a batch norm behind it."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=not bn)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs)) if bn else conv


def _upsampling(channels: int, *, bn: bool) -> nn.Module:
    """A learnt doubling of the size, and with `bn` a batch norm behind it."""
    conv = nn.ConvTranspose2d(channels, channels, 2, stride=2, bias=not bn)
    return nn.Sequential(conv, nn.BatchNorm2d(channels)) if bn else conv
