"""A score taken apart: what each class and each size of objects gains or loses between two models."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isnan, nan
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from detectors.evaluation import METRICS
from detectors.evaluation.bootstrap import Difference, interval, measured_pair, resamples
from detectors.evaluation.coco import AREA_RANGES, by_size
from detectors.evaluation.matching import areas
from detectors.evaluation.ranking import mean_of_defined
from detectors.evaluation.score import Measurement
from detectors.types import Detections, Target

# Sizes ask for ten thresholds of every class, three times: more resamples would cost more than they tell.
SIZE_RESAMPLES = 200


@dataclass(frozen=True)
class Part:
    """The average precision of one class, or of the objects of one size.

    Attributes:
        kind: "class", by the metric at hand; or "size", COCO's average precision of all classes' objects in a
            range of areas: small up to 32 x 32 pixels, large from 96 x 96.
        name: of the class or the size.
        boxes: labelled boxes, without crowds.
        value: 0 to 1; nan where nothing can be scored.
        change: this minus that of the first model, on the same images; nan without one.
        low: lower end of the paired 95 % bootstrap interval of the change; nan without a bootstrap.
        high: its upper end.
    """

    kind: Literal["class", "size"]
    name: str
    boxes: int
    value: float
    change: float = nan
    low: float = nan
    high: float = nan

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: nan becomes None."""
        return {
            key: None if isinstance(value, float) and isnan(value) else value
            for key, value in asdict(self).items()
        }


def parts_of(
    detections: Sequence[Detections],
    targets: Sequence[Target],
    classes: tuple[str, ...],
    *,
    metric: str,
) -> list[Part]:
    """The score of each class and of each size; arguments and errors as in `bootstrap.score`."""
    measured = METRICS[metric](detections, targets, classes)
    boxes = _boxes(targets, classes)
    parts = [Part("class", name, boxes["class", name], measured.per_class[name]) for name in classes]
    sizes = by_size(detections, targets, classes)
    return parts + [Part("size", name, boxes["size", name], sizes[name].value) for name in sizes]


def compared(
    first: Sequence[Detections],
    second: Sequence[Detections],
    targets: Sequence[Target],
    classes: tuple[str, ...],
    *,
    metric: str,
    bootstrap: int = 1000,
    seed: int = 0,
) -> tuple[Difference, list[Part]]:
    """As `paired_difference`, of which it gives the very value, and the same for every class and size.

    The resamples of the classes are those of the whole, so that taking it apart costs next to nothing; sizes
    have at most `SIZE_RESAMPLES`. Arguments and errors as in `paired_difference`.
    """
    one, two = measured_pair(first, second, targets, classes, metric=metric, bootstrap=bootstrap)
    change = two.value - one.value
    weights, boxes = resamples(len(targets), bootstrap, seed), _boxes(targets, classes)
    parts = []
    if one.class_values is None or two.class_values is None:
        low, high = interval(change, two.values(weights) - one.values(weights))
        for name in classes:
            value = two.per_class[name]
            parts.append(Part("class", name, boxes["class", name], value, value - one.per_class[name]))
    else:
        before, after = one.class_values(weights), two.class_values(weights)
        low, high = interval(change, mean_of_defined(after) - mean_of_defined(before))
        for place, name in enumerate(classes):
            columns = before[:, place], after[:, place]
            values = one.per_class[name], two.per_class[name]
            parts.append(_part("class", name, boxes["class", name], values, columns))
    few = resamples(len(targets), min(bootstrap, SIZE_RESAMPLES), seed)
    sizes = [by_size(detections, targets, classes) for detections in (first, second)]
    for name in sizes[0]:
        pair = sizes[0][name], sizes[1][name]
        columns = _values(pair[0], few), _values(pair[1], few)
        parts.append(_part("size", name, boxes["size", name], (pair[0].value, pair[1].value), columns))
    return Difference(metric, change, low, high, len(targets)), parts


def _values(measured: Measurement, weights: NDArray[np.int32]) -> NDArray[np.float64]:
    """The bootstrapped values; none where there is nothing to score, which would take as long."""
    return np.empty(0) if isnan(measured.value) else measured.values(weights)


def _part(
    kind: Literal["class", "size"],
    name: str,
    boxes: int,
    values: tuple[float, float],
    resampled: tuple[NDArray[np.float64], NDArray[np.float64]],
) -> Part:
    change = values[1] - values[0]
    low, high = (nan, nan) if isnan(change) else interval(change, resampled[1] - resampled[0])
    return Part(kind, name, boxes, values[1], change, low, high)


def _boxes(targets: Sequence[Target], classes: tuple[str, ...]) -> dict[tuple[str, str], int]:
    """Labelled boxes of each class and size."""
    kept = [target.select(~target.crowd) for target in targets]
    labels = np.concatenate([target.labels.numpy() for target in kept])
    boxes = np.concatenate([target.boxes.numpy().astype(np.float64) for target in kept])
    counts = np.bincount(labels, minlength=len(classes))
    covered = areas(boxes)
    by_name = {("class", name): int(counts[place]) for place, name in enumerate(classes)}
    for name, (least, most) in AREA_RANGES.items():
        if name != "all":
            by_name["size", name] = int(((covered >= least) & (covered <= most)).sum())
    return by_name
