"""torchvision's Faster R-CNN behind the verbs of a detector."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from detectors.models.guests.one_stage import Guest
from detectors.types import Detections, Target


class TwoStage(Guest):
    """torchvision's Faster R-CNN: a second stage classifies the boxes that the first one proposes.

    Which boxes those are hangs on the image, and in training on the targets, so that there is no single map
    from raw outputs to losses: `losses` and `predict` run the stages as torchvision does, and `forward` and
    `dense` give the maps with boxes in fixed places, for tracing, counting and timing. Every proposal enters
    the suppression: `top_k` has no meaning here.
    """

    def losses(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Named loss terms of both stages; the second one's proposals are drawn at random around targets."""
        wanted = self.targets(targets)
        batch, features = self._features(images)
        rpn, heads = self.model.rpn, self.model.roi_heads
        with _training(rpn, heads):
            proposals, first = rpn(batch, features, wanted)
            _, second = heads(features, proposals, batch.image_sizes, wanted)
        return {**second, **first}

    def loss(self, outputs: Any, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Raises TypeError: see the class."""
        raise TypeError("a two-stage detector has no loss of raw outputs: call losses(images, targets)")

    def detect(self, outputs: Any, sizes: Sequence[tuple[int, int]]) -> list[Detections]:
        """Raises TypeError: see the class."""
        raise TypeError("a two-stage detector finds nothing in raw outputs: call predict(images, sizes)")

    def found(self, images: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Detections]:
        """Both stages on images of the input size, and what they find in pixels of the original ones."""
        heads, options = self.model.roi_heads, self.postprocess
        heads.score_thresh, heads.nms_thresh = options.score_threshold, options.nms_iou
        heads.detections_per_img = options.keep
        batch, features = self._features(images)
        proposals, _ = self.model.rpn(batch, features)
        found, _ = heads(features, proposals, batch.image_sizes)
        return self.placed(found, sizes, first=1)

    def pass_through(self, images: Tensor) -> None:
        """Both stages: the second one reads other boxes in `forward`."""
        self.found(images, [self.size] * len(images))

    def _features(self, images: Tensor) -> tuple[ImageList, dict[str, Tensor]]:
        padded = self.network.padded(self.normalise(images))
        features = self.network.features(padded)
        # In bfloat16 torchvision would make its anchors bfloat16 as well, of 4 pixels' precision, and keep
        # them.
        wide = {
            name: level if level.dtype == torch.float64 else level.float() for name, level in features.items()
        }
        return ImageList(padded, [self.size] * len(images)), wide


@contextmanager
def _training(*stages: nn.Module) -> Iterator[None]:
    """Makes stages give losses, whatever mode the detector is in; the layers inside keep their mode."""
    modes = [stage.training for stage in stages]
    for stage in stages:
        stage.training = True
    try:
        yield
    finally:
        for stage, mode in zip(stages, modes, strict=True):
            stage.training = mode
