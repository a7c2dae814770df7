"""Which detection overlaps which labelled box: the rows of one class, ranked, and their overlapping pairs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from detectors.errors import DataError, UserError
from detectors.types import Detections, Target

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class ClassBoxes:
    """All detections and labelled boxes of one class.

    Detections are ranked: best score first, equal scores in the order of the images and, within an image, in
    the order in which they were given. Labelled boxes keep the order of the images and their own.

    Attributes:
        boxes: `[D, 4]` detections, xyxy, pixels of the original image.
        image: `[D]` position of the detection's image, 0 to images - 1.
        truth_boxes: `[G, 4]` labelled boxes, xyxy, pixels of the original image.
        truth_image: `[G]` position of the labelled box's image, ascending.
        difficult: `[G]` marked difficult.
        crowd: `[G]` a region of many objects.
        images: number of images, those without any box included.
    """

    boxes: Floats
    image: Ints
    truth_boxes: Floats
    truth_image: Ints
    difficult: Bools
    crowd: Bools
    images: int

    def first(self, count: int) -> "ClassBoxes":
        """Only the `count` best detections of each image."""
        kept = rank_in_group(self.image) < count
        return replace(self, boxes=self.boxes[kept], image=self.image[kept])


@dataclass(frozen=True)
class Pairs:
    """Detections and labelled boxes of one image that overlap enough, ordered by detection, then box.

    Attributes:
        detection: `[P]` row of `ClassBoxes.boxes`, ascending.
        truth: `[P]` row of `ClassBoxes.truth_boxes`.
        iou: `[P]` intersection over union; over the detection's own area where the labelled box is a crowd.
    """

    detection: Ints
    truth: Ints
    iou: Floats


def by_class(
    detections: Sequence[Detections], targets: Sequence[Target], classes: tuple[str, ...]
) -> list[ClassBoxes]:
    """The boxes of each class, detections ranked over all images.

    Args:
        detections: one for each image, in host memory.
        targets: one for each image, in the same order and the same pixels.
        classes: class names; labels index them.

    Returns:
        One `ClassBoxes` for each class.

    Raises:
        ValueError: where the lists differ in length.
        DataError: where a label has no class.
        UserError: where a detection is not finite.
    """
    if len(detections) != len(targets):
        raise ValueError(f"{len(detections)} detections for {len(targets)} targets")
    boxes = _joined([d.boxes.numpy() for d in detections], np.float64).reshape(-1, 4)
    scores = _joined([d.scores.numpy() for d in detections], np.float64)
    labels = _joined([d.labels.numpy() for d in detections], np.int64)
    image = np.repeat(np.arange(len(detections)), [len(d) for d in detections])
    truth_boxes = _joined([t.boxes.numpy() for t in targets], np.float64).reshape(-1, 4)
    truth_labels = _joined([t.labels.numpy() for t in targets], np.int64)
    truth_image = np.repeat(np.arange(len(targets)), [len(t.labels) for t in targets])
    difficult = _joined([t.difficult.numpy() for t in targets], np.bool_)
    crowd = _joined([t.crowd.numpy() for t in targets], np.bool_)

    broken = ~(np.isfinite(boxes).all(axis=1) & np.isfinite(scores))
    if broken.any():
        raise UserError(
            f"the detections of image {image[broken.argmax()]} hold a box or score that is not finite; "
            "the model's weights are broken (training that diverged?)"
        )
    for what, images, given in (("detection", image, labels), ("labelled box", truth_image, truth_labels)):
        wrong = (given < 0) | (given >= len(classes))
        if wrong.any():
            at = wrong.argmax()
            raise DataError(
                f"a {what} of image {images[at]} has label {given[at]}, but there are {len(classes)} "
                "classes; check data.classes against the annotations and the checkpoint"
            )

    order = np.lexsort((-scores, labels))  # stable, so equal scores keep the order of the images
    cuts = np.searchsorted(labels[order], np.arange(len(classes) + 1))
    result = []
    for label in range(len(classes)):
        rows = order[cuts[label] : cuts[label + 1]]
        truth = np.flatnonzero(truth_labels == label)
        result.append(
            ClassBoxes(
                boxes[rows],
                image[rows],
                truth_boxes[truth],
                truth_image[truth],
                difficult[truth],
                crowd[truth],
                len(targets),
            )
        )
    return result


def overlapping(rows: ClassBoxes, least: float) -> Pairs:
    """Pairs of a detection and a labelled box of its image that overlap by `least` or more (0 < least <= 1).

    Boxes are half-open: widths are plain differences, without the devkit's `+ 1` for integer pixels.
    """
    start = np.searchsorted(rows.truth_image, rows.image, side="left")
    count = np.searchsorted(rows.truth_image, rows.image, side="right") - start
    detection = np.repeat(np.arange(len(rows.image)), count)
    # position of the pair among those of its detection: a running number minus where that detection began
    offset = np.arange(len(detection)) - np.repeat(np.cumsum(count) - count, count)
    truth = start[detection] + offset

    a, b = rows.boxes[detection], rows.truth_boxes[truth]
    sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    inter = np.where((sides > 0).all(axis=1), sides[:, 0] * sides[:, 1], 0.0)
    union = np.where(rows.crowd[truth], areas(a), areas(a) + areas(b) - inter)
    iou = np.divide(inter, union, out=np.zeros_like(inter), where=inter > 0)
    near = iou >= least
    return Pairs(detection[near], truth[near], iou[near])


def areas(boxes: Floats) -> Floats:
    """Areas in square pixels of boxes `[N, 4]` xyxy, half-open."""
    return np.asarray((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))


def rank_in_group(group: Ints) -> Ints:
    """For each row, how many earlier rows are of the same group; `[0, 3, 0, 0]` -> `[0, 0, 1, 2]`."""
    order = np.argsort(group, kind="stable")
    ordered = group[order]
    rank = np.empty(len(group), dtype=np.int64)
    rank[order] = np.arange(len(group)) - np.searchsorted(ordered, ordered, side="left")
    return rank


def _joined(arrays: list[NDArray], dtype: type) -> NDArray:
    return np.concatenate(arrays).astype(dtype) if arrays else np.zeros(0, dtype)
