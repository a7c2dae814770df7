"""From class scores and boxes to the detections of one image."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from detectors.boxes import clip
from detectors.types import Detections


@dataclass(frozen=True)
class PostprocessOptions:
    """What becomes a detection.

    Attributes:
        score_threshold: lower scores are dropped, 0..1.
        nms_iou: of two boxes of one class that overlap more, the lower score is dropped.
        top_k: best candidates for each class that enter the suppression.
        keep: best detections for each image that leave it; None: all.
    """

    score_threshold: float = 0.01
    nms_iou: float = 0.45
    top_k: int = 200
    keep: int | None = 200


def select(scores: Tensor, boxes: Tensor, size: tuple[int, int], options: PostprocessOptions) -> Detections:
    """Threshold, per-class top-k, per-class suppression, best of the image (SSD, section 2.2, "Inference").

    Args:
        scores: `[A, C]` float, 0..1, without background.
        boxes: `[A, 4]` corner form, in units of the image (0..1).
        size: (height, width) of the original image in pixels.
        options: thresholds and limits.

    Returns:
        Detections in pixels of the original image, clipped to it, best first.
    """
    # Column by column: the best top_k of each class, so that the suppression never sees more than C * top_k
    # boxes.
    best, anchor = scores.t().topk(min(options.top_k, len(scores)), dim=1)
    label = torch.arange(scores.shape[1], device=scores.device)[:, None].expand_as(best)
    above = best > options.score_threshold
    best, anchor, label = best[above], anchor[above], label[above]
    height, width = size
    found = boxes[anchor] * boxes.new_tensor([width, height, width, height])
    # batched_nms moves each class to a place of its own by adding the largest coordinate: that needs
    # coordinates from 0 up, and float64 where an untrained network gives boxes of millions of pixels.
    apart = (found - found.amin()).double() if len(found) else found
    kept = batched_nms(apart, best.double(), label, options.nms_iou)[: options.keep]
    return Detections(clip(found[kept], size), best[kept], label[kept])
