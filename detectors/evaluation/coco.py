"""The COCO scores: average precision over ten IoU thresholds, areas and crowds as in pycocotools."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from detectors.evaluation import METRICS
from detectors.evaluation.matching import ClassBoxes, areas, by_class, overlapping, rank_in_group
from detectors.evaluation.ranking import (
    Average,
    Ranking,
    average_precisions,
    interpolated,
    mean_of_defined,
    measure,
    recalls,
)
from detectors.evaluation.score import Measurement
from detectors.types import Detections, Target

# The very doubles of pycocotools' Params, so that a recall of exactly 0.29 falls on the same side.
THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_LEVELS = np.linspace(0.0, 1.0, 101)
MOST_DETECTIONS = 100  # of one class in one image
AREA_RANGES = {
    "all": (0.0, 1e10),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e10),
}


@METRICS.register("coco")
def coco(
    detections: Sequence[Detections], targets: Sequence[Target], classes: tuple[str, ...]
) -> Measurement:
    """COCO: mean over classes and IoU 0.50:0.05:0.95 of 101-point average precision.

    Equal to pycocotools' bbox evaluation, with its details `ap50 ap75 small medium large ar100`. Two things
    to know: COCO has no difficult boxes, so boxes marked difficult count as any other; and the area that
    sorts a labelled box into small, medium or large is that of the box, where COCO's own annotations carry
    the area of the segment. Arguments and errors as in `matching.by_class`.
    """
    matched = [match(rows) for rows in by_class(detections, targets, classes)]
    average = interpolated(RECALL_LEVELS)
    measurement = measure("mAP (coco)", classes, [ranges["all"] for ranges in matched], average)
    return replace(measurement, details=_details(matched, average))


def by_size(
    detections: Sequence[Detections], targets: Sequence[Target], classes: tuple[str, ...]
) -> dict[str, Measurement]:
    """The average precision of small, medium and large objects, as in the details of `coco`.

    Detections that are ignored at every threshold are left out of a ranking, which changes no value and makes
    a bootstrap several times faster. Arguments and errors as in `matching.by_class`.
    """
    matched = [match(rows) for rows in by_class(detections, targets, classes)]
    average = interpolated(RECALL_LEVELS)
    return {
        name: measure(
            f"AP of {name} objects", classes, [_counted(ranges[name]) for ranges in matched], average
        )
        for name in AREA_RANGES
        if name != "all"
    }


def match(rows: ClassBoxes) -> dict[str, Ranking]:
    """The matching of pycocotools (`COCOeval.evaluateImg`) of one class, for each area range.

    Detections choose in the order of their scores: the free labelled box of highest IoU, the last of equals;
    boxes that are ignored (crowds, and those outside of the area range) only where no other fits. A crowd
    can be chosen again and again. A detection that chose an ignored box is ignored, and so is one outside of
    the area range that chose none.

    Returns:
        By the name of the area range, a ranking with the ten thresholds.
    """
    rows = rows.first(MOST_DETECTIONS)
    low, high = np.array(list(AREA_RANGES.values())).T
    truth_area, area = areas(rows.truth_boxes)[:, None], areas(rows.boxes)[:, None]
    truth_ignored = rows.crowd[:, None] | (truth_area < low) | (truth_area > high)  # [G, A]
    outside = (area < low) | (area > high)  # [D, A]

    chosen = _choose(rows, truth_ignored)  # [D, T, A]
    matched = chosen >= 0
    on_ignored = np.zeros_like(matched)
    at = np.nonzero(matched)
    on_ignored[at] = truth_ignored[chosen[at], at[2]]
    ignored = on_ignored | (~matched & outside[:, None, :])
    hit = matched & ~on_ignored
    return {
        name: Ranking(
            rows.image,
            hit[:, :, a].T,
            ignored[:, :, a].T,
            np.bincount(rows.truth_image[~truth_ignored[:, a]], minlength=rows.images),
        )
        for a, name in enumerate(AREA_RANGES)
    }


def _counted(ranking: Ranking) -> Ranking:
    """A ranking without the detections that no threshold counts."""
    some = ~ranking.ignored.all(axis=0)
    return Ranking(ranking.image[some], ranking.hit[:, some], ranking.ignored[:, some], ranking.positives)


def _choose(rows: ClassBoxes, truth_ignored: np.ndarray) -> np.ndarray:
    """The labelled box that each detection takes, `[D, T, A]`, -1 for none.

    Images are independent, so the first detections of all images choose at once, then all second ones.
    """
    pairs = overlapping(rows, THRESHOLDS[0])
    order = np.lexsort((-pairs.truth, -pairs.iou, pairs.detection))  # what a detection likes best comes first
    detection, truth, iou = pairs.detection[order], pairs.truth[order], pairs.iou[order]
    liking = rank_in_group(detection)
    fits = iou[:, None] >= np.minimum(THRESHOLDS, 1 - 1e-10)  # [P, T]
    last = len(detection)  # more than any liking
    dislike = liking[:, None] + last * truth_ignored[truth]  # [P, A]

    choosing = np.unique(detection)
    turn_of = np.zeros(len(rows.image), dtype=np.int64)
    turn_of[choosing] = rank_in_group(rows.image[choosing])
    turns = turn_of[detection]
    by_turn = np.argsort(turns, kind="stable")
    cuts = np.searchsorted(turns[by_turn], np.arange(turns.max(initial=-1) + 2))

    shape = (len(THRESHOLDS), len(AREA_RANGES))
    chosen = np.full((len(rows.image), *shape), -1)
    taken = np.zeros((len(rows.truth_image), *shape), dtype=np.bool_)
    for start, end in pairwise(cuts):
        now = by_turn[start:end]
        free = fits[now, :, None] & (~taken[truth[now]] | rows.crowd[truth[now], None, None])
        cost = np.where(free, dislike[now, None, :], 2 * last)
        first = np.flatnonzero(liking[now] == 0)
        least = np.minimum.reduceat(cost, first, axis=0)  # [detections of this turn, T, A]
        who, threshold, range_ = np.nonzero(least < 2 * last)
        box = truth[now[first[who] + least[who, threshold, range_] % last]]
        chosen[detection[now[first[who]]], threshold, range_] = box
        taken[box, threshold, range_] = True
    return chosen


def _details(matched: list[dict[str, Ranking]], average: Average) -> dict[str, float]:
    """The plain values beside the headline, each a mean over the classes that have one."""
    once = np.ones((1, len(matched[0]["all"].positives)), dtype=np.int64)
    by_threshold = np.stack(
        [average_precisions(ranges["all"], once, average)[0] for ranges in matched], axis=1
    )
    details = {"ap50": mean_of_defined(by_threshold)[0], "ap75": mean_of_defined(by_threshold)[5]}
    for name in ("small", "medium", "large"):
        values = [average_precisions(ranges[name], once, average).mean() for ranges in matched]
        details[name] = mean_of_defined(np.array(values))
    details["ar100"] = mean_of_defined(np.array([recalls(ranges["all"]).mean() for ranges in matched]))
    return {name: float(value) for name, value in details.items()}
