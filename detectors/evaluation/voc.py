"""The PASCAL VOC scores: average precision at IoU 0.5, by 11 points (2007) or by area (2010 and later)."""

from collections.abc import Sequence

import numpy as np

from detectors.evaluation import METRICS
from detectors.evaluation.matching import Bools, ClassBoxes, by_class, overlapping, rank_in_group
from detectors.evaluation.ranking import Ranking, area, interpolated, measure
from detectors.evaluation.score import Measurement
from detectors.types import Detections, Target

# Each the double nearest to k/10, as a recall of exactly 3/10 is: `0.1 * 3` is larger and would miss it.
ELEVEN_POINTS = np.arange(11) / 10


@METRICS.register("voc07")
def voc07(
    detections: Sequence[Detections], targets: Sequence[Target], classes: tuple[str, ...]
) -> Measurement:
    """VOC 2007: mean over classes of 11-point average precision at IoU 0.5.

    The mean of the best precision at recall >= 0, 0.1, ..., 1 (Everingham et al., IJCV 2010, section 4.2).
    Matching as in `match`. Arguments and errors as in `matching.by_class`.
    """
    rankings = [match(rows) for rows in by_class(detections, targets, classes)]
    return measure("mAP (voc07)", classes, rankings, interpolated(ELEVEN_POINTS))


@METRICS.register("voc")
def voc(detections: Sequence[Detections], targets: Sequence[Target], classes: tuple[str, ...]) -> Measurement:
    """VOC since 2010: mean over classes of the area under the precision envelope at IoU 0.5.

    Matching as in `match`. Arguments and errors as in `matching.by_class`.
    """
    rankings = [match(rows) for rows in by_class(detections, targets, classes)]
    return measure("mAP (voc)", classes, rankings, area)


def match(rows: ClassBoxes, least: float = 0.5) -> Ranking:
    """The devkit's matching (VOCevaldet.m) of one class.

    Each detection is compared with the labelled box it overlaps most, the first of equals. IoU >= `least` is
    a match, as in the devkit (ssd.pytorch wants IoU > 0.5). A match with a difficult box is ignored; a
    second match with the same box is a false positive, even where another box is free. Difficult boxes are
    not counted. Crowd regions, which VOC does not have, only excuse: what would be a false positive is
    ignored where a share of `least` of it lies in one.

    Returns:
        A ranking with one threshold.
    """
    pairs = overlapping(rows, least)
    crowd = rows.crowd[pairs.truth]
    detection, truth, iou = pairs.detection[~crowd], pairs.truth[~crowd], pairs.iou[~crowd]
    best = np.lexsort((-iou, detection))  # stable: of equals the first labelled box
    best = best[rank_in_group(detection[best]) == 0]
    detection, truth = detection[best], truth[best]

    hit: Bools = np.zeros(len(rows.image), dtype=np.bool_)
    ignored = np.zeros_like(hit)
    ignored[detection] = rows.difficult[truth]
    hit[detection] = ~rows.difficult[truth] & (rank_in_group(truth) == 0)
    excused = np.zeros_like(hit)
    excused[pairs.detection[crowd]] = True
    ignored |= excused & ~hit

    counted = rows.truth_image[~(rows.difficult | rows.crowd)]
    positives = np.bincount(counted, minlength=rows.images)
    return Ranking(rows.image, hit[None], ignored[None], positives)
