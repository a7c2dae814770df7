"""RefineDet's loss: objects against background on the anchors, then classes on the anchors so moved."""

from collections.abc import Sequence

import torch
from torch import Tensor

from detectors.boxes import VARIANCES, moved
from detectors.losses.multibox import multibox_loss
from detectors.types import Outputs, RefineOutputs

# An anchor with less of an object is an easy negative (section 3, "Negative Anchor Filtering": theta = 0.99
# of background; Caffe's `objectness_score`).
OBJECTNESS = 0.01
# Limits on the sides of moved anchors, as shares of the image: far beyond any box, and with finite
# logarithms.
SMALLEST, LARGEST = 1e-4, 1e4


def refinedet_loss(
    outputs: RefineOutputs,
    anchors: Tensor,
    boxes: Sequence[Tensor],
    labels: Sequence[Tensor],
    *,
    threshold: float = 0.5,
    negatives: float = 3.0,
    objectness: float = OBJECTNESS,
) -> dict[str, Tensor]:
    """The training objective of RefineDet (section 4, "Loss Function", equation 1), each term divided by its
    positives.

    First step: SSD's loss on the anchors with one class, "object". Second step: SSD's loss on the moved
    anchors, through which no gradient flows back; as in Caffe, anchors of which the first step is sure that
    they are background are not mined, and positives are never left out.

    Args:
        outputs: of both steps.
        anchors: `[A, 4]` centre form, 0..1.
        boxes: for each image `[N, 4]` corner form, 0..1.
        labels: for each image `[N]` int64, 0-based without background.
        threshold: IoU from which an anchor, or a moved anchor, is positive.
        negatives: mined negatives for each positive of an image, in both steps.
        objectness: probability of an object from which an anchor may be mined in the second step.

    Returns:
        "arm_classes", "arm_boxes", "classes" and "boxes", float32 scalars.
    """
    first = multibox_loss(
        Outputs(outputs.arm_logits, outputs.arm_deltas),
        anchors,
        boxes,
        [torch.zeros_like(label) for label in labels],
        threshold=threshold,
        negatives=negatives,
    )
    second = multibox_loss(
        Outputs(outputs.logits, outputs.deltas),
        moved_anchors(outputs.arm_deltas.detach(), anchors),
        boxes,
        labels,
        threshold=threshold,
        negatives=negatives,
        eligible=object_scores(outputs.arm_logits.detach()) >= objectness,
    )
    return {**{f"arm_{name}": term for name, term in first.items()}, **second}


def moved_anchors(deltas: Tensor, anchors: Tensor) -> Tensor:
    """The anchors `[A, 4]` where the first step moves them, `[B, A, 4]` float32, centre form, 0..1.

    Sides stay within SMALLEST and LARGEST, so that a first step gone astray leaves the second one finite.
    """
    boxes = moved(deltas.float(), anchors)
    return torch.cat([boxes[..., :2], boxes[..., 2:].clamp(SMALLEST, LARGEST)], dim=-1)


def offsets(outputs: RefineOutputs, anchors: Tensor) -> Tensor:
    """The boxes of the second step as offsets from the anchors `[A, 4]` that the first one began with.

    Decoded, and encoded anew on what two detectors share: `[B, A, 4]` float32 in units of the variances, as
    single-shot deltas are. Sides are held as in `moved_anchors`.
    """
    boxes = moved(outputs.deltas.float(), moved_anchors(outputs.arm_deltas, anchors))
    shift = (boxes[..., :2] - anchors[..., :2]) / (VARIANCES[0] * anchors[..., 2:])
    sides = boxes[..., 2:].clamp(SMALLEST, LARGEST) / anchors[..., 2:]
    return torch.cat([shift, sides.log() / VARIANCES[1]], dim=-1)


def object_scores(logits: Tensor) -> Tensor:
    """The first step's probability of an object, `[B, A, 2]` -> `[B, A]` float32."""
    return logits.float().softmax(dim=-1)[..., 1]
