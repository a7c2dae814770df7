"""The types that travel between the parts, and THE page on coordinates, labels and units.

Coordinates: boxes are float32 `[N, 4]` xyxy in pixels of the image they travel with: the resized image in a
`Target` that a batch holds, the original image in `Detections`. x grows to the right, y downwards; a box
covers `[x1, x2)`. Labels: int64, 0-based, without a background class; `num_classes == len(spec.classes)`.
Softmax heads shift by one inside and keep column 0 for the background.
Images: float32 RGB, 0..1, `[B, 3, H, W]`; each detector normalises inside. Sizes are (height, width).
Cost is in MACs (one multiply and add); GFLOPs = 2 x GMACs, only in reports.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Outputs(NamedTuple):
    """What `detector(images)` returns: raw, before softmax and decoding, the same in training and evaluation.

    Attributes:
        logits: `[B, A, 1 + num_classes]`, column 0 the background; objectness in a YOLO with its own loss.
        deltas: `[B, A, 4]`, offsets from the anchors in units of the variances; t_x..t_h in such a YOLO.
    """

    logits: Tensor
    deltas: Tensor


class RefineOutputs(NamedTuple):
    """What RefineDet returns: raw outputs of both of its steps.

    Attributes:
        arm_logits: `[B, A, 2]`, first step: background, object of any class.
        arm_deltas: `[B, A, 4]`, first step: offsets from the anchors.
        logits: `[B, A, 1 + num_classes]`, second step, column 0 the background.
        deltas: `[B, A, 4]`, second step: offsets from the anchors that the first step moved.
    """

    arm_logits: Tensor
    arm_deltas: Tensor
    logits: Tensor
    deltas: Tensor


class ClassLogits(NamedTuple):
    """The class logits of one head, as two detectors of the same anchors are compared.

    Attributes:
        logits: `[B, A, K]`.
        softmax: the K exclude each other; else each is a logistic regression of its own.
        background: column 0 of a softmax is the background.
    """

    logits: Tensor
    softmax: bool
    background: bool = False


class Comparable(NamedTuple):
    """Raw outputs in the form in which those of two detectors with the same anchors are compared.

    Attributes:
        classes: heads whose best probabilities for an object multiply to how sure an anchor is of one.
        boxes: `[B, A, 4]`, whose differences say how far boxes lie apart.
    """

    classes: tuple[ClassLogits, ...]
    boxes: Tensor


@dataclass(frozen=True)
class Target:
    """The labelled boxes of one image.

    Attributes:
        boxes: `[N, 4]` float32, xyxy, pixels of the image at hand.
        labels: `[N]` int64, 0-based.
        difficult: `[N]` bool; ignored in VOC scores, trained on only if the recipe says so.
        crowd: `[N]` bool; COCO's regions of many objects, ignored in scores and training.
    """

    boxes: Tensor
    labels: Tensor
    difficult: Tensor
    crowd: Tensor

    @staticmethod
    def of(boxes: Any, labels: Any, difficult: Any = None, crowd: Any = None) -> "Target":
        """A checked target from lists or tensors; flags left out are all False.

        Raises ValueError on odd shapes.
        """
        boxes = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)
        labels = torch.as_tensor(labels, dtype=torch.int64).reshape(-1)
        flags = [
            torch.zeros(len(labels), dtype=torch.bool)
            if flag is None
            else torch.as_tensor(flag, dtype=torch.bool)
            for flag in (difficult, crowd)
        ]
        if not len(boxes) == len(labels) == len(flags[0]) == len(flags[1]):
            raise ValueError(
                f"{len(boxes)} boxes, but {len(labels)} labels and {[len(f) for f in flags]} flags"
            )
        return Target(boxes, labels, *flags)

    def select(self, keep: Tensor) -> "Target":
        """The boxes that a mask or an index picks."""
        return Target(self.boxes[keep], self.labels[keep], self.difficult[keep], self.crowd[keep])

    def to(self, device: torch.device) -> "Target":
        """The same on another device."""
        moved = (
            t.to(device, non_blocking=True) for t in (self.boxes, self.labels, self.difficult, self.crowd)
        )
        return Target(*moved)


@dataclass(frozen=True)
class Batch:
    """Images of one size with their targets.

    Attributes:
        images: `[B, 3, H, W]` float32, 0..1, RGB.
        targets: one for each image, boxes in pixels of the resized image; for scoring, of the original one.
        sizes: (height, width) of each original image.
        indices: position of each image in its data set.
    """

    images: Tensor
    targets: list[Target]
    sizes: list[tuple[int, int]]
    indices: list[int]

    def to(self, device: torch.device) -> "Batch":
        """The same on another device."""
        images = self.images.to(device, non_blocking=True)
        return Batch(images, [target.to(device) for target in self.targets], self.sizes, self.indices)

    def first(self, count: int) -> "Batch":
        """The same with so many images at most."""
        return Batch(self.images[:count], self.targets[:count], self.sizes[:count], self.indices[:count])


@dataclass(frozen=True)
class Detections:
    """What was found in one image, best score first.

    Attributes:
        boxes: `[N, 4]` float32, xyxy, pixels of the original image.
        scores: `[N]` float32, 0..1.
        labels: `[N]` int64, 0-based.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.scores)

    def cpu(self) -> "Detections":
        """The same in host memory."""
        return Detections(self.boxes.cpu(), self.scores.cpu(), self.labels.cpu())


@dataclass(frozen=True)
class DetectorSpec:
    """What rebuilds a full detector.

    Its registered name, its class names, its builder's options (plain data).
    """

    name: str
    classes: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)
