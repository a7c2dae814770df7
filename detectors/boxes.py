"""Arithmetic on boxes: overlap, encoding against anchors, corner and centre form, clipping."""

import torch
from torch import Tensor

VARIANCES = (0.1, 0.2)  # SSD (caffe): offsets of centres are in tenths, log-sizes in fifths, of the anchor


def corners(boxes: Tensor) -> Tensor:
    """Centre form (cx, cy, w, h) to corner form (x1, y1, x2, y2); `[..., 4]`, any unit."""
    half = boxes[..., 2:] / 2
    return torch.cat([boxes[..., :2] - half, boxes[..., :2] + half], dim=-1)


def centres(boxes: Tensor) -> Tensor:
    """Corner form to centre form: `centres(corners(b)) == b`; `[..., 4]`, any unit."""
    return torch.cat([(boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]], dim=-1)


def area(boxes: Tensor) -> Tensor:
    """Areas of corner-form boxes `[..., 4]`."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of every pair of corner-form boxes: `[N, 4]`, `[M, 4]` -> `[N, M]`, 0..1."""
    low = torch.maximum(a[:, None, :2], b[None, :, :2])
    high = torch.minimum(a[:, None, 2:], b[None, :, 2:])
    inter = (high - low).clamp(min=0).prod(dim=-1)
    union = area(a)[:, None] + area(b)[None, :] - inter
    return inter / union.clamp(min=torch.finfo(union.dtype).tiny)


def encode(boxes: Tensor, anchors: Tensor, variances: tuple[float, float] = VARIANCES) -> Tensor:
    """Offsets of boxes from anchors (SSD, equation 2, divided by the variances).

    `decode(encode(b, a), a) == b` for boxes of positive size.

    Args:
        boxes: `[..., 4]` corner form, in the unit of the anchors.
        anchors: `[..., 4]` centre form.
        variances: divisors of the centre offsets and of the log-sizes.
    """
    boxes = centres(boxes)
    shift = (boxes[..., :2] - anchors[..., :2]) / (variances[0] * anchors[..., 2:])
    scale = torch.log(boxes[..., 2:] / anchors[..., 2:]) / variances[1]
    return torch.cat([shift, scale], dim=-1)


def decode(deltas: Tensor, anchors: Tensor, variances: tuple[float, float] = VARIANCES) -> Tensor:
    """Corner-form boxes from offsets `[..., 4]` and centre-form anchors `[..., 4]`.

    The inverse of `encode`.
    """
    return corners(moved(deltas, anchors, variances))


def moved(deltas: Tensor, anchors: Tensor, variances: tuple[float, float] = VARIANCES) -> Tensor:
    """`decode` that stays in centre form: anchors `[..., 4]` moved and resized by offsets `[..., 4]`."""
    centre = anchors[..., :2] + deltas[..., :2] * variances[0] * anchors[..., 2:]
    size = anchors[..., 2:] * torch.exp(deltas[..., 2:] * variances[1])
    return torch.cat([centre, size], dim=-1)


def clip(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Corner-form boxes `[..., 4]` in pixels, cut to an image of (height, width)."""
    height, width = size
    limit = boxes.new_tensor([width, height, width, height])
    return torch.minimum(boxes.clamp(min=0), limit)
