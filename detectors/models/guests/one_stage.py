"""torchvision's SSD, RetinaNet and FCOS behind the verbs of a detector."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

from detectors.boxes import clip
from detectors.models.base import Detector
from detectors.models.guests.networks import GuestNetwork
from detectors.models.layers import Normalise
from detectors.postprocess import PostprocessOptions
from detectors.types import ClassLogits, Comparable, Detections, DetectorSpec, Target


class Guest(Detector):
    """A detector of torchvision; matching, losses, anchors and post-processing are its own.

    Raw outputs are the head maps themselves: `forward` gives what `dense` gives. Labels are ours, 0-based
    without background; inside, they are torchvision's, where 0 is the background. Loss terms keep
    torchvision's names.

    Args:
        spec: what rebuilds the full detector.
        network: the model.
        size: (height, width) of the input, to which images come resized; torchvision's own resizing is left
            out, its normalisation and its zeros up to a multiple of 32 stay.
        postprocess: torchvision's thresholds for this model.
    """

    network: GuestNetwork

    def __init__(
        self,
        spec: DetectorSpec,
        network: GuestNetwork,
        size: tuple[int, int],
        postprocess: PostprocessOptions,
    ) -> None:
        mean, std = (
            tuple(255 * float(value) for value in channels)
            for channels in (network.model.transform.image_mean, network.model.transform.image_std)
        )
        super().__init__(spec, network, None, size, Normalise(mean, std))  # type: ignore[arg-type]
        self.postprocess = postprocess

    @property
    def model(self) -> Any:
        """torchvision's model, in whatever width the network has now."""
        return self.network.model

    def outputs(self, maps: Any) -> Any:
        """The head maps as they are."""
        return maps

    def targets(self, targets: Sequence[Target]) -> list[dict[str, Tensor]]:
        """Ours as torchvision's, with labels from 1."""
        return [{"boxes": t.boxes, "labels": t.labels + 1} for t in targets]

    def placed(
        self, found: Sequence[dict[str, Tensor]], sizes: Sequence[tuple[int, int]], first: int
    ) -> list[Detections]:
        """torchvision's detections in pixels of the input as ours in pixels of the original images.

        Args:
            found: for each image boxes, scores and labels.
            sizes: (height, width) of the original images.
            first: torchvision's label of our class 0.
        """
        height, width = self.size
        placed = []
        for one, size in zip(found, sizes, strict=True):
            scale = one["boxes"].new_tensor([size[1] / width, size[0] / height]).repeat(2)
            placed.append(Detections(clip(one["boxes"] * scale, size), one["scores"], one["labels"] - first))
        return placed


class OneStage(Guest):
    """What SSD, RetinaNet and FCOS have in common: every cell of every map has anchors.

    Attributes:
        softmax: classes exclude each other and the background, which is column 0.
    """

    softmax: bool

    def rows(self, maps: Sequence[Tensor], columns: int) -> list[Tensor]:
        """Each map `[B, per_cell * columns, h, w]` as `[B, h * w * per_cell, columns]`, at least float32."""
        wide = [level if level.dtype == torch.float64 else level.float() for level in maps]
        return [level.permute(0, 2, 3, 1).reshape(len(level), -1, columns) for level in wide]

    def heads(self, maps: Sequence[Sequence[Tensor]]) -> dict[str, list[Tensor]]:
        """The rows of every kind of head map under torchvision's names, level by level."""
        kinds = list(zip(*maps, strict=True))
        heads = {
            "cls_logits": self.rows(kinds[0], 1 + self.num_classes),
            "bbox_regression": self.rows(kinds[1], 4),
        }
        if len(kinds) == 3:
            heads["bbox_regression"] = [level.relu() for level in heads["bbox_regression"]]
            heads["bbox_ctrness"] = self.rows(kinds[2], 1)
        return heads

    def anchors_of(self, maps: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """torchvision's anchors for each image, `[A, 4]` xyxy in pixels of the input."""
        levels = [self.rows([logits], 1)[0].new_empty(0, *logits.shape[2:]) for logits, *_ in maps]
        # Only shapes are asked of the images.
        image = self.network.padded(torch.empty(1, 3, *self.size, device="meta"))
        sizes = [self.size] * len(maps[0][0])
        anchors: list[Tensor] = self.model.anchor_generator(ImageList(image, sizes), levels)
        return anchors

    def comparable(self, outputs: Any) -> Comparable:
        """As in `Detector`; the background column of sigmoid heads is left out, centre-ness is a head."""
        heads = {name: torch.cat(levels, dim=1) for name, levels in self.heads(outputs).items()}
        logits = heads["cls_logits"]
        classes = [ClassLogits(logits, True, True) if self.softmax else ClassLogits(logits[..., 1:], False)]
        if "bbox_ctrness" in heads:
            classes.append(ClassLogits(heads["bbox_ctrness"], False))
        return Comparable(tuple(classes), heads["bbox_regression"])

    def set_thresholds(self) -> None:
        """Hands our post-processing options to the model; its candidates are those of a map or a class."""
        options, model = self.postprocess, self.model
        model.score_thresh, model.nms_thresh = options.score_threshold, options.nms_iou
        model.topk_candidates, model.detections_per_img = options.top_k, options.keep


class SSDGuest(OneStage):
    """torchvision's SSD and SSDlite; `top_k` holds for each class."""

    softmax = True

    def loss(self, outputs: Any, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Named loss terms, scalars whose sum is minimised; target boxes in pixels of the input."""
        heads = {name: torch.cat(levels, dim=1) for name, levels in self.heads(outputs).items()}
        anchors, wanted = self.anchors_of(outputs), self.targets(targets)
        matched = [
            self.model.proposal_matcher(box_iou(one["boxes"], boxes))
            if len(one["boxes"])
            else torch.full((len(boxes),), -1, dtype=torch.int64, device=boxes.device)
            for one, boxes in zip(wanted, anchors, strict=True)
        ]
        terms: dict[str, Tensor] = self.model.compute_loss(wanted, heads, anchors, matched)
        return terms

    def detect(self, outputs: Any, sizes: Sequence[tuple[int, int]]) -> list[Detections]:
        """Raw outputs to detections in pixels of the original images, whose (height, width) are `sizes`."""
        self.set_thresholds()
        heads = {name: torch.cat(levels, dim=1) for name, levels in self.heads(outputs).items()}
        found = self.model.postprocess_detections(heads, self.anchors_of(outputs), [self.size] * len(sizes))
        return self.placed(found, sizes, first=1)


class PyramidGuest(OneStage):
    """torchvision's RetinaNet and FCOS; `top_k` holds for each map.

    Their sigmoid heads have a column for the background all the same, which published files fill; it is
    trained to be silent and never detected.
    """

    softmax = False

    def loss(self, outputs: Any, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Named loss terms, scalars whose sum is minimised; target boxes in pixels of the input."""
        levels = self.heads(outputs)
        heads = {name: torch.cat(rows, dim=1) for name, rows in levels.items()}
        anchors, wanted = self.anchors_of(outputs), self.targets(targets)
        arguments: list[Any] = [wanted, heads, anchors]
        if "bbox_ctrness" in heads:
            arguments.append([rows.shape[1] for rows in levels["cls_logits"]])
        terms: dict[str, Tensor] = self.model.compute_loss(*arguments)
        return terms

    def detect(self, outputs: Any, sizes: Sequence[tuple[int, int]]) -> list[Detections]:
        """Raw outputs to detections in pixels of the original images, whose (height, width) are `sizes`."""
        self.set_thresholds()
        heads = self.heads(outputs)
        heads["cls_logits"] = [rows[..., 1:] for rows in heads["cls_logits"]]
        counts = [rows.shape[1] for rows in heads["cls_logits"]]
        anchors = [list(boxes.split(counts)) for boxes in self.anchors_of(outputs)]
        found = self.model.postprocess_detections(heads, anchors, [self.size] * len(sizes))
        return self.placed(found, sizes, first=0)
