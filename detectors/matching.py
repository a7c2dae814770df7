"""Which anchor answers for which object."""

import torch
from torch import Tensor

from detectors.boxes import iou

BACKGROUND = -1


def match(anchors: Tensor, boxes: Tensor, threshold: float = 0.5) -> Tensor:
    """Assigns anchors to objects (SSD, section 2.2, "Matching strategy").

    Each anchor takes the object it overlaps most, if by at least `threshold`; then each object takes the
    anchor that overlaps it most, whatever the overlap, a later object before an earlier one.

    Args:
        anchors: `[A, 4]` corner form.
        boxes: `[N, 4]` corner form, same unit; N may be 0.
        threshold: IoU from which an anchor is positive, 0..1.

    Returns:
        `[A]` int64: the index of the object, or BACKGROUND.
    """
    if len(boxes) == 0:
        return torch.full((len(anchors),), BACKGROUND, dtype=torch.int64, device=anchors.device)
    overlap = iou(boxes, anchors)
    best_overlap, matched = overlap.max(dim=0)
    matched = torch.where(best_overlap < threshold, BACKGROUND, matched)
    forced = overlap.argmax(dim=1)
    # amax makes the later object win on every device, where plain indexing leaves it to chance.
    order = torch.arange(len(boxes), device=anchors.device)
    winner = torch.full_like(matched, BACKGROUND).scatter_reduce(0, forced, order, reduce="amax")
    return torch.where(winner >= 0, winner, matched)
