"""torchvision's detection models as networks of head maps: what is traced, counted, cut and exported."""

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from detectors.models.base import HeadMaps
from detectors.models.layers import L2Norm


class FrozenBatchNorm(nn.BatchNorm2d):
    """Batch norm whose statistics stay as they are while the network trains; scale and shift are trained.

    torchvision's published detectors were trained with batch norm frozen whole. Here scale and shift are
    parameters, because that is what makes the layer one that can be cut and counted, and because they let
    fine-tuning make up for statistics that no longer fit behind a cut.
    """

    def train(self, mode: bool = True) -> "FrozenBatchNorm":
        """Stays in evaluation mode."""
        super().train(False)
        return self


def freeze_batch_norm(model: nn.Module) -> None:
    """Replaces every batch norm inside a model, in place, by a frozen one of the same weights and epsilon."""
    for parent in list(model.modules()):
        for name, norm in parent.named_children():
            if type(norm) is nn.BatchNorm2d:
                frozen = FrozenBatchNorm(norm.num_features, norm.eps, norm.momentum)
                frozen.load_state_dict(norm.state_dict())
                setattr(parent, name, frozen.eval())


class GuestNetwork(nn.Module):
    """A model of torchvision behind a `forward` that gives its maps before flattening.

    Args:
        model: torchvision's, whole; its keys here are its own behind the prefix `model.`.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self._step = int(model.transform.size_divisible)
        # The containers remember how many channels they were built for. Nothing asks them once they are
        # built, and in a slim network they would be wrong.
        for module in model.modules():
            if not isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                vars(module).pop("out_channels", None)

    def padded(self, images: Tensor) -> Tensor:
        """Normalised images `[B, 3, H, W]`, filled up with zeros to a multiple of the model's step.

        As torchvision's transform does it: to the right and below.
        """
        height, width = (-side % self._step for side in images.shape[2:])
        return F.pad(images, (0, width, 0, height)) if height or width else images

    def features(self, images: Tensor) -> "OrderedDict[str, Tensor]":
        """The maps that the heads read, of padded images, finest first."""
        maps: OrderedDict[str, Tensor] = self.model.backbone(images)
        return maps


class DefaultBoxNetwork(GuestNetwork):
    """SSD and SSDlite: each map has a pair of heads of its own."""

    def forward(self, x: Tensor) -> HeadMaps:
        """Normalised images -> (logits, deltas) of each map, finest first."""
        head = self.model.head
        heads = zip(head.classification_head.module_list, head.regression_head.module_list, strict=True)
        maps = self.features(self.padded(x)).values()
        return [(logits(m), deltas(m)) for m, (logits, deltas) in zip(maps, heads, strict=True)]


class PyramidNetwork(GuestNetwork):
    """RetinaNet and FCOS: all maps share one pair of heads; FCOS also gives a centre-ness."""

    def forward(self, x: Tensor) -> list[tuple[Tensor, ...]]:
        """Normalised images -> (logits, deltas) or (logits, deltas, centre-ness) of each map."""
        classes, boxes = self.model.head.classification_head, self.model.head.regression_head
        maps = []
        for level in self.features(self.padded(x)).values():
            about_boxes = boxes.conv(level)
            made = [classes.cls_logits(classes.conv(level)), boxes.bbox_reg(about_boxes)]
            if hasattr(boxes, "bbox_ctrness"):
                made.append(boxes.bbox_ctrness(about_boxes))
            maps.append(tuple(made))
        return maps


class TwoStageNetwork(GuestNetwork):
    """Faster R-CNN with a box for every proposal in a fixed place, so that both stages are one dense network.

    Args:
        model: torchvision's.
        proposals: boxes that go through the second stage, as many as the first stage lets through at
            inference; spread evenly over the pooled maps. What is counted is the cost with all of them.
    """

    def __init__(self, model: Any, proposals: int) -> None:
        super().__init__(model)
        self.proposals = proposals

    def forward(self, x: Tensor) -> dict[str, list[tuple[Tensor, ...]]]:
        """Normalised images -> the maps of both stages.

        Returns:
            `proposals`: (objectness, deltas) of each map, finest first. `boxes`: (logits, deltas), `[B *
            count, K]` and `[B * count, 4 * K]`, of the boxes on each pooled map.
        """
        features = self.features(self.padded(x))
        objectness, deltas = self.model.rpn.head(list(features.values()))
        pool, heads = self.model.roi_heads.box_roi_pool, self.model.roi_heads
        pooled = [level for name, level in features.items() if name in pool.featmap_names]
        found = []
        for place, level in enumerate(pooled):
            count = len(range(place, self.proposals, len(pooled)))
            boxes = [_lattice(count, level)] * len(level)
            crops = roi_align(level, boxes, pool.output_size, 1.0, pool.sampling_ratio)
            found.append(tuple(heads.box_predictor(heads.box_head(crops))))
        return {"proposals": list(zip(objectness, deltas, strict=True)), "boxes": found}


class VGGFeatures(nn.Module):
    """torchvision's VGG16 for SSD, its bare vector of scales made a layer that can be cut and counted.

    Args:
        extractor: torchvision's; its `scale_weight` becomes `norm.weight`.
    """

    def __init__(self, extractor: Any) -> None:
        super().__init__()
        self.features, self.extra = extractor.features, extractor.extra
        self.norm = L2Norm(len(extractor.scale_weight), 20)

    def forward(self, x: Tensor) -> "OrderedDict[str, Tensor]":
        """Normalised images -> six maps, finest first."""
        x = self.features(x)
        maps = [self.norm(x)]
        for block in self.extra:
            x = block(x)
            maps.append(x)
        return OrderedDict((str(place), found) for place, found in enumerate(maps))


def _lattice(count: int, level: Tensor) -> Tensor:
    """So many boxes of 7 x 7 cells, `[count, 4]` xyxy, in rows over a map `[B, C, h, w]`; in its cells."""
    columns = max(1, round(count**0.5))
    place = torch.arange(count, device=level.device)
    rows = -(-count // columns)
    low = torch.stack(
        [(place % columns) * (level.shape[3] / columns), (place // columns) * (level.shape[2] / rows)], dim=1
    )
    return torch.cat([low, low + 7], dim=1).to(level.dtype)
