"""YOLOv2 (Redmon and Farhadi, 2016) and YOLOv3 (2018): as ssds.pytorch has them, and with their own loss."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from detectors.anchors import AnchorLevel, AnchorSpec
from detectors.errors import ConfigError
from detectors.losses.yolo import decode, yolo_v2_loss, yolo_v3_loss
from detectors.models import DETECTORS
from detectors.models.backbones import Backbone
from detectors.models.base import Detector, map_sizes
from detectors.models.layers import Normalise, scaled
from detectors.models.layouts import Colours, Source, normalise_of, trunk_of
from detectors.models.yolo_networks import YoloV2Network, YoloV3Network
from detectors.postprocess import select
from detectors.types import ClassLogits, Comparable, Detections, DetectorSpec, Outputs, Target

Branches = tuple[tuple[Source, ...], ...]
Depths = tuple[tuple[int, ...], ...]
# For each map, (width, height) of the boxes of a cell, as shares of the image.
Shares = tuple[tuple[tuple[float, float], ...], ...]

# The layer at stride 16 that YOLOv2 brings in; those at strides 16 and 8 for YOLOv3.
_TAPS = {"darknet19": (12, 8), "darknet53": (23, 14), "mobilenet_v1": (11, 5), "mobilenet_v2": (13, 6)}
_DEPTHS_V2: Depths = ((1024, 1024, 64, 1024),)
_DEPTHS_V3: Depths = ((1024, 1024, 1024), (256, 512, 512, 512), (128, 256, 256, 256))
# ssds.pytorch's boxes, the same for VOC and COCO.
_SHARES_V2: Shares = (((0.1, 0.1), (0.2, 0.2), (0.3, 0.3), (0.5, 0.5), (0.9, 0.9)),)
_SHARES_V3: Shares = (
    ((0.278, 0.216), (0.375, 0.475), (0.896, 0.783)),
    ((0.072, 0.146), (0.146, 0.108), (0.141, 0.286)),
    ((0.024, 0.031), (0.038, 0.072), (0.079, 0.055)),
)
# Objectness before training, so that the background does not drown the objects at the start (RetinaNet,
# section 4.1); higher for version 2, whose squared errors of a sigmoid learn slowly from afar.
_PRIOR = {2: 0.1, 3: 0.01}


class YoloDetector(Detector):
    """A detector with YOLO's own loss: logits with objectness in column 0, deltas t_x, t_y, t_w, t_h.

    Args:
        spec, network, anchors, size, normalise: as in `Detector`.
        version: 2: softmax over the classes; 3: a logistic regression for each.

    Attributes:
        cells: `[A, 2]` float32, width and height of each anchor's cell, 0..1.
    """

    cells: Tensor

    def __init__(
        self,
        spec: DetectorSpec,
        network: YoloV2Network | YoloV3Network,
        anchors: AnchorSpec,
        size: tuple[int, int],
        normalise: Normalise,
        *,
        version: Literal[2, 3],
    ) -> None:
        super().__init__(spec, network, anchors, size, normalise)
        self.version = version
        rows = [
            torch.tensor([1 / width, 1 / height]).expand(height * width * level.per_cell, 2)
            for level, (height, width) in zip(anchors.levels, map_sizes(network, self.size), strict=True)
        ]
        self.register_buffer("cells", torch.cat(rows), persistent=False)
        prior = _PRIOR[version]
        for conf in network.conf:
            assert isinstance(conf, nn.Conv2d)
            assert conf.bias is not None
            nn.init.constant_(conf.bias[:: 1 + self.num_classes], math.log(prior / (1 - prior)))

    def loss(self, outputs: Outputs, targets: Sequence[Target]) -> dict[str, Tensor]:
        """As in `Detector`: "boxes", "objectness" and "classes"."""
        height, width = self.size
        scale = self.anchors.new_tensor([width, height, width, height])
        boxes, labels = [t.boxes / scale for t in targets], [t.labels for t in targets]
        if self.version == 2:
            return yolo_v2_loss(outputs, self.anchors, self.cells, boxes, labels)
        return yolo_v3_loss(outputs, self.anchors, self.cells, boxes, labels)

    def detect(self, outputs: Outputs, sizes: Sequence[tuple[int, int]]) -> list[Detections]:
        """As in `Detector`; a score is objectness times the probability of the class."""
        logits = outputs.logits.float()
        classes = logits[..., 1:].softmax(dim=-1) if self.version == 2 else logits[..., 1:].sigmoid()
        scores = logits[..., :1].sigmoid() * classes
        boxes = decode(outputs.deltas.float(), self.anchors, self.cells)
        return [select(s, b, size, self.postprocess) for s, b, size in zip(scores, boxes, sizes, strict=True)]

    def comparable(self, outputs: Outputs) -> Comparable:
        """As in `Detector`; objectness is a head of its own, and centres are compared inside their cells."""
        logits, deltas = outputs.logits.float(), outputs.deltas.float()
        heads = (ClassLogits(logits[..., :1], False), ClassLogits(logits[..., 1:], self.version == 2))
        return Comparable(heads, torch.cat([deltas[..., :2].sigmoid(), deltas[..., 2:]], dim=-1))


@DETECTORS.register("yolo_v2")
def yolo_v2(
    spec: DetectorSpec,
    *,
    backbone: str = "darknet19",
    size: tuple[int, int] = (416, 416),
    width: float = 1.0,
    layers: Branches | None = None,
    depths: Depths | None = None,
    anchors: Shares | None = None,
    clip: bool = True,
    loss: Literal["ssd", "yolo"] = "ssd",
    colours: Colours = "ssds",
) -> Detector:
    """YOLOv2 over a Darknet or a MobileNet, in ssds.pytorch's layout.

    Args:
        spec: name, classes and options.
        backbone: a Darknet or a MobileNet.
        size: (height, width) of the input, pixels; multiples of 32 always fit.
        width: multiplier on every channel count.
        layers: one row of blocks, "" for 3x3 or the index of a layer that is brought in; None: published.
        depths: channels of each block; None: published.
        anchors: for the map, (width, height) of the boxes as shares of the image; None: published.
        clip: cut the default boxes to the image.
        loss: "ssd": softmax with background and SSD's offsets, as the published weights have it; "yolo": the
            paper's. Both have the same layers; column 0 of the logits is background or objectness.
        colours: what the weights expect of the image.
    """
    trunk = trunk_of(spec.name, backbone, width, list(_TAPS))
    branches = (("", "", _TAPS[backbone][0], ""),) if layers is None else layers
    channels = _depths(spec.name, branches, _DEPTHS_V2 if depths is None else depths, width)
    blocks = {source for source in branches[0] if not isinstance(source, int)} if branches else set()
    if len(branches) != 1 or blocks != {""}:
        raise ConfigError(f"{spec.name}: layers={_shown(branches)} must be one row of '' and backbone layers")
    boxes = _anchors(spec.name, _SHARES_V2 if anchors is None else anchors, size, len(branches), clip=clip)
    stem = Backbone(trunk, _taps(branches, len(trunk.layers)))
    network = YoloV2Network(stem, branches[0], channels[0], 1 + len(spec.classes), boxes)
    if loss == "yolo":
        return YoloDetector(spec, network, boxes, size, normalise_of(colours), version=2)
    return Detector(spec, network, boxes, size, normalise_of(colours))


@DETECTORS.register("yolo_v3")
def yolo_v3(
    spec: DetectorSpec,
    *,
    backbone: str = "darknet53",
    size: tuple[int, int] = (416, 416),
    width: float = 1.0,
    layers: Branches | None = None,
    depths: Depths | None = None,
    anchors: Shares | None = None,
    clip: bool = True,
    loss: Literal["ssd", "yolo"] = "ssd",
    colours: Colours = "ssds",
) -> Detector:
    """YOLOv3 over a Darknet or a MobileNet, in ssds.pytorch's layout.

    Args:
        layers: for each map, coarsest first, a row of blocks: "B" for 1x1 and 3x3; from the second row on it
            begins with the index of the finer layer that is brought in; None: published.
        depths: channels of each block; None: published.
        anchors: for each map, (width, height) of the boxes as shares of the image; None: published.
        spec, backbone, size, width, clip, loss, colours: as in `yolo_v2`.
    """
    trunk = trunk_of(spec.name, backbone, width, list(_TAPS))
    published: Branches = (("B", "B", "B"), *((tap, "B", "B", "B") for tap in _TAPS[backbone]))
    branches = published if layers is None else layers
    channels = _depths(spec.name, branches, _DEPTHS_V3 if depths is None else depths, width)
    led = [isinstance(branch[0], int) if branch else None for branch in branches]
    blocks = {source for branch, leads in zip(branches, led, strict=True) for source in branch[bool(leads) :]}
    if not branches or led != [False] + [True] * (len(branches) - 1) or blocks != {"B"}:
        raise ConfigError(
            f"{spec.name}: layers={_shown(branches)} must be rows of 'B', all but the first one led by a "
            "backbone layer"
        )
    boxes = _anchors(spec.name, _SHARES_V3 if anchors is None else anchors, size, len(branches), clip=clip)
    stem = Backbone(trunk, _taps(branches, len(trunk.layers)))
    network = YoloV3Network(stem, branches, channels, 1 + len(spec.classes), boxes)
    if loss == "yolo":
        return YoloDetector(spec, network, boxes, size, normalise_of(colours), version=3)
    return Detector(spec, network, boxes, size, normalise_of(colours))


def _taps(branches: Branches, count: int) -> tuple[int, ...]:
    """The backbone layers that are brought in, and its last one."""
    brought = {source for branch in branches for source in branch if isinstance(source, int)}
    return tuple(sorted(brought | {count - 1}))


def _depths(detector: str, branches: Branches, depths: Depths, width: float) -> Depths:
    if [len(branch) for branch in branches] != [len(branch) for branch in depths]:
        raise ConfigError(
            f"{detector}: layers={_shown(branches)} and depths={_shown(depths)} must have one entry for "
            "each block"
        )
    if any(depth < 2 for branch in depths for depth in branch):
        raise ConfigError(f"{detector}: depths={_shown(depths)} must all be at least 2")
    return tuple(tuple(scaled(depth, width) for depth in branch) for branch in depths)


def _anchors(detector: str, shares: Shares, size: tuple[int, int], count: int, *, clip: bool) -> AnchorSpec:
    if len(shares) != count:
        raise ConfigError(f"{detector}: anchors for {len(shares)} maps, but there are {count}; give {count}")
    if not all(shares) or any(side <= 0 for level in shares for shape in level for side in shape):
        raise ConfigError(
            f"{detector}: anchors={_shown(shares)} must give each map [width, height] pairs above 0, as "
            "shares of the image"
        )
    height, width = size
    levels = (AnchorLevel(tuple((w * width, h * height) for w, h in level)) for level in shares)
    return AnchorSpec(tuple(levels), clip)


def _shown(nested: object) -> object:
    """Tuples as the lists that a recipe would have."""
    return [_shown(item) for item in nested] if isinstance(nested, list | tuple) else nested
