"""Average precision of ranked detections for any weight per image.

A weight of 1 for each image gives the plain value. The counts of a bootstrap resample give exactly what a
data set with those images repeated would give (as long as no two detections of a class share a score),
because copies of a detection follow each other in the ranking: within a run of equal hits precision is
highest at its end, and a run of misses moves no recall. So one matching serves 1000 resamples.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detectors.evaluation.matching import Bools, Floats, Ints
from detectors.evaluation.score import Measurement

Weights = NDArray[np.integer]
# (precision envelope at each hit, weight of each hit, number of labelled boxes) -> [R] average precisions
Average = Callable[[Floats, Ints, Ints], Floats]

_CHUNK = 1 << 21  # weights in flight; about 16 MB, so that the running sums of a chunk stay near the cache


@dataclass(frozen=True)
class Ranking:
    """The detections of one class, best first, and what the matching made of each at T overlap thresholds.

    Attributes:
        image: `[D]` position of each detection's image.
        hit: `[T, D]` whether it found a labelled box that counts.
        ignored: `[T, D]` whether it is neither rewarded nor punished.
        positives: `[I]` labelled boxes that count in each image.
    """

    image: Ints
    hit: Bools
    ignored: Bools
    positives: Ints


def average_precisions(ranking: Ranking, weights: Weights, average: Average) -> Floats:
    """Average precision for each weighting of the images and each threshold.

    Args:
        ranking: the detections of one class.
        weights: `[R, I]` how often each image counts.
        average: `area` or `interpolated(levels)`.

    Returns:
        `[R, T]`, 0 to 1; nan where no labelled box counts.
    """
    result = np.full((len(weights), len(ranking.hit)), np.nan)
    step = max(1, _CHUNK // max(1, len(ranking.image)))
    for start in range(0, len(weights), step):
        chunk = weights[start : start + step]
        positives = chunk @ ranking.positives
        some = np.flatnonzero(positives)
        for t, (precision, gained) in enumerate(_curves(ranking, chunk[some])):
            result[start + some, t] = average(precision, gained, positives[some])
    return result


def recalls(ranking: Ranking) -> Floats:
    """Share of the labelled boxes that were found at all, `[T]`; nan where none counts."""
    positives = ranking.positives.sum()
    return ranking.hit.sum(axis=1) / positives if positives else np.full(len(ranking.hit), np.nan)


def area(precision: Floats, gained: Ints, positives: Ints) -> Floats:
    """Area under the falling envelope of precision over recall: VOC since 2010."""
    return np.asarray((precision * gained).sum(axis=1) / positives)


def interpolated(levels: Floats) -> Average:
    """Mean over recall `levels` of the best precision at that recall or more (0 where it is not reached)."""

    def average(precision: Floats, gained: Ints, positives: Ints) -> Floats:
        recall = np.cumsum(gained, axis=1) / positives[:, None]
        ended = np.pad(precision, ((0, 0), (0, 1)))  # a column of 0: where a level is not reached
        values = [row[np.searchsorted(at, levels)].mean() for row, at in zip(ended, recall, strict=True)]
        return np.asarray(values, dtype=np.float64)

    return average


def measure(
    label: str, classes: tuple[str, ...], rankings: Sequence[Ranking], average: Average
) -> Measurement:
    """The mean over classes of average precision, itself a mean over thresholds.

    A class without a labelled box that counts has nan and is left out of the mean; in a resample likewise.
    """

    def by_class(weights: Weights) -> Floats:
        columns = [average_precisions(ranking, weights, average).mean(axis=1) for ranking in rankings]
        return np.stack(columns, axis=1)

    plain = by_class(np.ones((1, len(rankings[0].positives)), dtype=np.int64))
    return Measurement(
        label=label,
        value=float(mean_of_defined(plain)[0]),
        per_class=dict(zip(classes, plain[0].tolist(), strict=True)),
        details={},
        values=lambda weights: mean_of_defined(by_class(weights)),
        class_values=by_class,
    )


def mean_of_defined(values: Floats) -> Floats:
    """Mean over the last axis of what is not nan; nan where all of it is."""
    defined = ~np.isnan(values)
    count = defined.sum(axis=-1)
    total = np.where(defined, values, 0.0).sum(axis=-1)
    return np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)


def _curves(ranking: Ranking, weights: Weights) -> Iterator[tuple[Floats, Ints]]:
    """For each threshold: `[R, H]` falling envelope of precision, and weight gained, at each of its H hits.

    Precision is read at hits only: between two hits it falls while recall stands still.
    """
    seen = np.cumsum(weights[:, ranking.image], axis=1, dtype=np.int32)
    for hit, ignored in zip(ranking.hit, ranking.ignored, strict=True):
        hits, skipped = np.flatnonzero(hit), np.flatnonzero(ignored)
        gained = weights[:, ranking.image[hits]].astype(np.int64)
        found = np.cumsum(gained, axis=1)
        counted = seen[:, hits]
        if len(skipped):
            left_out = np.cumsum(weights[:, ranking.image[skipped]], axis=1, dtype=np.int32)
            counted = counted - np.pad(left_out, ((0, 0), (1, 0)))[:, np.searchsorted(skipped, hits)]
        precision = np.divide(found, counted, out=np.zeros(found.shape), where=counted > 0)
        yield np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1], gained
