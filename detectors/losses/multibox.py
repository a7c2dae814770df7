"""SSD's loss: softmax with hard negatives, and smooth L1 on the boxes of positives."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from detectors.boxes import corners, encode
from detectors.matching import match
from detectors.types import Outputs


def multibox_loss(
    outputs: Outputs,
    anchors: Tensor,
    boxes: Sequence[Tensor],
    labels: Sequence[Tensor],
    *,
    threshold: float = 0.5,
    negatives: float = 3.0,
    eligible: Tensor | None = None,
) -> dict[str, Tensor]:
    """The training objective of SSD (section 2.2, equations 1 to 3), both terms divided by the batch's
    positives.

    An image without objects has no positives and so, as published, no negatives: it adds nothing.

    Args:
        outputs: logits `[B, A, 1 + C]` with background at 0, deltas `[B, A, 4]`.
        anchors: `[A, 4]` centre form, 0..1; or `[B, A, 4]`, each image's own.
        boxes: for each image `[N, 4]` corner form, 0..1.
        labels: for each image `[N]` int64, 0-based without background.
        threshold: IoU from which an anchor is positive.
        negatives: mined negatives for each positive of an image.
        eligible: `[B, A]` bool, the anchors that may be mined as negatives; None: all.

    Returns:
        "classes" and "boxes", float32 scalars.
    """
    logits, deltas = outputs.logits.float(), outputs.deltas.float()
    anchors = anchors.expand(len(logits), -1, 4)
    form = corners(anchors)
    classes = torch.zeros(logits.shape[:2], dtype=torch.int64, device=logits.device)
    goals = torch.zeros_like(deltas)
    for i, (box, label) in enumerate(zip(boxes, labels, strict=True)):
        matched = match(form[i], box, threshold)
        positive = matched >= 0
        classes[i, positive] = label[matched[positive]] + 1
        goals[i, positive] = encode(box[matched[positive]], anchors[i, positive])
    positive = classes > 0
    count = positive.sum().clamp(min=1)
    box_loss = F.smooth_l1_loss(deltas[positive], goals[positive], reduction="sum")
    chosen = positive | hard_negatives(logits.detach(), positive, negatives, eligible)
    class_loss = F.cross_entropy(logits[chosen], classes[chosen], reduction="sum")
    return {"classes": class_loss / count, "boxes": box_loss / count}


def hard_negatives(logits: Tensor, positive: Tensor, ratio: float, eligible: Tensor | None = None) -> Tensor:
    """The background anchors with the highest loss, `ratio` for each positive of the same image.

    Args:
        logits: `[B, A, 1 + C]`.
        positive: `[B, A]` bool.
        ratio: negatives for each positive.
        eligible: `[B, A]` bool, the anchors to choose from; None: all but the positives.

    Returns:
        `[B, A]` bool.
    """
    candidate = ~positive if eligible is None else ~positive & eligible
    background_loss = torch.logsumexp(logits, dim=-1) - logits[..., 0]
    background_loss = background_loss.masked_fill(~candidate, -torch.inf)
    order = background_loss.argsort(dim=1, descending=True, stable=True)
    places = torch.arange(logits.shape[1], device=logits.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, places)
    wanted = (positive.sum(dim=1, keepdim=True) * ratio).clamp(max=logits.shape[1] - 1)
    return (rank < wanted) & candidate
