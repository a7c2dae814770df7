"""YOLO's own losses: boxes inside their cell, objectness apart from classes (YOLOv2 2016, YOLOv3 2018).

Raw outputs of an anchor are t_x, t_y, t_w, t_h (deltas) and the logits of objectness (column 0) and of the
classes (columns 1 on).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from detectors.boxes import centres, corners, iou
from detectors.matching import BACKGROUND
from detectors.types import Outputs

# Offsets this near to a cell's border are as good as on it: the sigmoid reaches 0 and 1 nowhere.
_BORDER = 1e-6
# exp(10) anchors are wider than any image; an untrained network would reach infinity.
_WIDEST = 10.0


@dataclass(frozen=True)
class Weights:
    """What the terms of YOLOv2 weigh, as in its published configuration (yolov2-voc.cfg).

    Attributes:
        boxes: coord_scale.
        objects: object_scale, for the objectness of anchors with an object.
        background: noobject_scale, for that of the others.
        classes: class_scale.
    """

    boxes: float = 1.0
    objects: float = 5.0
    background: float = 1.0
    classes: float = 1.0


def encode(boxes: Tensor, anchors: Tensor, cells: Tensor) -> Tensor:
    """Raw outputs that stand for boxes: the inverse of `decode` for centres inside the anchor's cell.

    A centre outside is taken to the cell's border.

    Args:
        boxes: `[..., 4]` corner form, 0..1 of the image.
        anchors: `[..., 4]` centre form, 0..1.
        cells: `[..., 2]` width and height of the anchor's cell, 0..1.
    """
    boxes = centres(boxes)
    offset = (boxes[..., :2] - anchors[..., :2]) / cells + 0.5
    # A box without width or height would ask for minus infinity.
    size = boxes[..., 2:].clamp(min=_BORDER)
    return torch.cat([offset.logit(eps=_BORDER), torch.log(size / anchors[..., 2:])], dim=-1)


def decode(deltas: Tensor, anchors: Tensor, cells: Tensor) -> Tensor:
    """Boxes from raw outputs (YOLOv2 section 2, "Direct location prediction"; YOLOv3 section 2.1).

    b_x = c_x + sigmoid(t_x), b_w = p_w exp(t_w), here with all lengths as shares of the image.

    Args:
        deltas: `[..., 4]`, (t_x, t_y, t_w, t_h).
        anchors: `[..., 4]` centre form, 0..1, in the middle of their cells.
        cells: `[..., 2]` width and height of the anchor's cell, 0..1.

    Returns:
        `[..., 4]` corner form, 0..1.
    """
    centre = anchors[..., :2] + (deltas[..., :2].sigmoid() - 0.5) * cells
    size = anchors[..., 2:] * deltas[..., 2:].clamp(max=_WIDEST).exp()
    return corners(torch.cat([centre, size], dim=-1))


def responsible(anchors: Tensor, cells: Tensor, boxes: Tensor) -> Tensor:
    """The one anchor that answers for each object: in a cell with its centre, the most similar in shape.

    Over several maps there is one cell with the centre in each, and one anchor among all of them (YOLOv3
    section 2.1); similar is the IoU of boxes moved onto each other (YOLOv2 section 2, "Dimension clusters").

    Args:
        anchors: `[A, 4]` centre form, 0..1.
        cells: `[A, 2]` width and height of their cells, 0..1.
        boxes: `[N, 4]` corner form, 0..1; N may be 0.

    Returns:
        `[A]` int64: the index of the object, the later one where two meet, or BACKGROUND.
    """
    nobody = torch.full((len(anchors),), BACKGROUND, dtype=torch.int64, device=anchors.device)
    if len(boxes) == 0:
        return nobody
    form = centres(boxes)
    centre = form[:, None, :2].clamp(0, 1)
    # A hair more than half a cell: rounding must not lose a centre on the border of two cells.
    inside = ((centre - anchors[None, :, :2]).abs() <= (0.5 + 1e-4) * cells).all(dim=-1)
    shared = torch.minimum(form[:, None, 2:], anchors[None, :, 2:]).prod(dim=-1)
    union = form[:, None, 2:].prod(dim=-1) + anchors[None, :, 2:].prod(dim=-1) - shared
    alike = shared / union.clamp(min=torch.finfo(union.dtype).tiny)
    chosen = torch.where(inside, alike, -1.0).argmax(dim=1)
    order = torch.arange(len(boxes), device=anchors.device)
    return nobody.scatter_reduce(0, chosen, order, reduce="amax")


def yolo_v2_loss(
    outputs: Outputs,
    anchors: Tensor,
    cells: Tensor,
    boxes: Sequence[Tensor],
    labels: Sequence[Tensor],
    *,
    threshold: float = 0.6,
    weights: Weights | None = None,
) -> dict[str, Tensor]:
    """YOLOv2's objective: squared errors as in YOLO (CVPR 2016, equation 3), softmax over the classes.

    The objectness of a responsible anchor learns the IoU of its predicted box (YOLO, section 2: Pr(object) *
    IoU), that of the others 0, save those whose predicted box overlaps an object by more than `threshold`.

    Args:
        outputs: logits `[B, A, 1 + C]` with objectness at 0, deltas `[B, A, 4]`.
        anchors: `[A, 4]` centre form, 0..1.
        cells: `[A, 2]` width and height of their cells, 0..1.
        boxes: for each image `[N, 4]` corner form, 0..1.
        labels: for each image `[N]` int64, 0-based.
        threshold: IoU from which a prediction is no background, 0..1.
        weights: of the terms.

    Returns:
        "boxes", "objectness" and "classes", float32 scalars; each a sum over the batch divided by its
        objects, or by its images where these are more.
    """
    weights = weights or Weights()
    found = _assigned(outputs, anchors, cells, boxes, labels)
    with torch.no_grad():
        predicted = decode(outputs.deltas.float(), anchors, cells)
        overlaps = [iou(p, b) for p, b in zip(predicted, boxes, strict=True)]
        background = torch.stack([_best(overlap) <= threshold for overlap in overlaps]) & ~found.positive
        # Column by column the overlap with the very object that an anchor answers for.
        rated = torch.cat(
            [overlap[p, m[p]] for overlap, p, m in zip(overlaps, found.positive, found.matched, strict=True)]
        )
    objectness = found.logits[..., 0].sigmoid()
    objects = F.mse_loss(objectness[found.positive], rated, reduction="sum")
    empty = objectness[background].square().sum()
    class_loss = F.cross_entropy(found.logits[found.positive][:, 1:], found.classes, reduction="sum")
    return {
        "boxes": weights.boxes * found.box_loss / found.count,
        "objectness": (weights.objects * objects + weights.background * empty) / found.count,
        "classes": weights.classes * class_loss / found.count,
    }


def yolo_v3_loss(
    outputs: Outputs,
    anchors: Tensor,
    cells: Tensor,
    boxes: Sequence[Tensor],
    labels: Sequence[Tensor],
    *,
    threshold: float = 0.5,
) -> dict[str, Tensor]:
    """YOLOv3's objective (sections 2.1 and 2.2): logistic regression for objectness and for each class.

    Objectness is 1 for the responsible anchor and 0 for the others, save anchors that overlap an object by
    more than `threshold`: these are left out.

    Args:
        outputs: logits `[B, A, 1 + C]` with objectness at 0, deltas `[B, A, 4]`.
        anchors: `[A, 4]` centre form, 0..1.
        cells: `[A, 2]` width and height of their cells, 0..1.
        boxes: for each image `[N, 4]` corner form, 0..1.
        labels: for each image `[N]` int64, 0-based.
        threshold: IoU from which an anchor is no background, 0..1.

    Returns:
        "boxes", "objectness" and "classes", divided as in `yolo_v2_loss`.
    """
    found = _assigned(outputs, anchors, cells, boxes, labels)
    form = corners(anchors)
    background = torch.stack([_best(iou(form, box)) <= threshold for box in boxes])
    judged = background | found.positive
    objectness = F.binary_cross_entropy_with_logits(
        found.logits[..., 0][judged], found.positive[judged].float(), reduction="sum"
    )
    logits = found.logits[found.positive][:, 1:]
    goals = F.one_hot(found.classes, logits.shape[1]).to(logits)
    class_loss = F.binary_cross_entropy_with_logits(logits, goals, reduction="sum")
    return {
        "boxes": found.box_loss / found.count,
        "objectness": objectness / found.count,
        "classes": class_loss / found.count,
    }


@dataclass(frozen=True)
class _Assigned:
    """A batch with its objects at their anchors.

    Attributes:
        logits: `[B, A, 1 + C]` float32.
        positive: `[B, A]` bool, anchors that answer for an object.
        matched: `[B, A]` int64, which object of its image.
        classes: `[P]` int64, labels of the positive anchors.
        box_loss: sum of the squared errors of their boxes.
        count: what the sums are divided by.
    """

    logits: Tensor
    positive: Tensor
    matched: Tensor
    classes: Tensor
    box_loss: Tensor
    count: int


def _assigned(
    outputs: Outputs,
    anchors: Tensor,
    cells: Tensor,
    boxes: Sequence[Tensor],
    labels: Sequence[Tensor],
) -> _Assigned:
    logits, deltas = outputs.logits.float(), outputs.deltas.float()
    matched = torch.stack([responsible(anchors, cells, box) for box in boxes])
    positive = matched >= 0
    rows = [m[p] for m, p in zip(matched, positive, strict=True)]
    wanted = torch.cat([box[row] for box, row in zip(boxes, rows, strict=True)])
    classes = torch.cat([label[row] for label, row in zip(labels, rows, strict=True)])
    place = positive.nonzero()[:, 1]
    goals = encode(wanted, anchors[place], cells[place])
    got = deltas[positive]
    errors = torch.cat([got[:, :2].sigmoid() - goals[:, :2].sigmoid(), got[:, 2:] - goals[:, 2:]], dim=1)
    # Small boxes count up to twice: where YOLO takes square roots of the sizes, Darknet weighs by 2 - w * h.
    share = (wanted[:, 2:] - wanted[:, :2]).clamp(0, 1).prod(dim=1)
    box_loss = ((2 - share) * errors.square().sum(dim=1)).sum()
    return _Assigned(logits, positive, matched, classes, box_loss, max(len(place), len(boxes)))


def _best(overlap: Tensor) -> Tensor:
    """The largest overlap with any of an image's objects, `[A, N]` -> `[A]`; 0 where there are none."""
    return F.pad(overlap, (1, 0)).amax(dim=1)
