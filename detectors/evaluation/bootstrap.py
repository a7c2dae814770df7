"""How sure a score is: a bootstrap over images, which are drawn again with replacement many times.

The 95 % interval is the middle 95 % of the resampled scores, moved so that their median lies on the score
itself. Unmoved it sits a little too high and can miss the score: repeated images smooth the envelope of
precision. On drawn detections (4 settings, 70 and 400 images) it held the score of the whole population in
89 to 96 % of draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan, nan

import numpy as np
from numpy.typing import NDArray

from detectors.errors import DataError
from detectors.evaluation import METRICS
from detectors.evaluation.score import Measurement, Score
from detectors.types import Detections, Target

PERCENTILES = (2.5, 50, 97.5)  # ends and middle of a 95 % interval


@dataclass(frozen=True)
class Difference:
    """By how much the second model scores above the first, on the same images.

    Attributes:
        metric: registered name of the metric.
        value: second minus first.
        low: lower end of the paired 95 % bootstrap interval.
        high: its upper end.
        images: how many images were scored.
    """

    metric: str
    value: float
    low: float
    high: float
    images: int

    @property
    def is_noise(self) -> bool:
        """Whether the interval holds 0: another draw of the images could have turned the sign."""
        return self.low <= 0 <= self.high

    def line(self) -> str:
        """One line: `-0.012 [-0.020, -0.004]`, with `within noise` where the interval holds 0."""
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]" + (
            " within noise" if self.is_noise else ""
        )


def score(
    detections: Sequence[Detections],
    targets: Sequence[Target],
    classes: tuple[str, ...],
    *,
    metric: str,
    bootstrap: int = 1000,
    seed: int = 0,
    seconds: float = nan,
) -> Score:
    """The score of detections that are already at hand.

    A resample in which a class has no labelled box leaves it out of its mean, as the score itself does.

    Args:
        detections: one for each image, in host memory, pixels of the original image.
        targets: one for each image, in the same order and the same pixels.
        classes: class names; labels index them.
        metric: a name of `METRICS`.
        bootstrap: resamples of the images; 0 gives no interval (nan).
        seed: the same seed and number of images draw the same resamples.
        seconds: wall time that the detections took, handed on to the score.

    Raises:
        ConfigError: on an unknown metric.
        DataError: where there is nothing to score against, or a label has no class.
        UserError: where a detection is not finite.
    """
    measured = METRICS[metric](detections, targets, classes)
    if isnan(measured.value):
        raise DataError(
            f"none of the {len(targets)} images has a labelled box that counts for {metric}: nothing to "
            "score against; check data.test and the annotations"
        )
    low = high = nan
    if bootstrap:
        low, high = interval(measured.value, measured.values(resamples(len(targets), bootstrap, seed)))
        low, high = max(low, 0.0), min(high, 1.0)
    return Score(
        metric=metric,
        label=measured.label,
        value=measured.value,
        low=low,
        high=high,
        per_class=measured.per_class,
        details=measured.details,
        images=len(targets),
        seconds=seconds,
    )


def paired_difference(
    first: Sequence[Detections],
    second: Sequence[Detections],
    targets: Sequence[Target],
    classes: tuple[str, ...],
    *,
    metric: str,
    bootstrap: int = 1000,
    seed: int = 0,
) -> Difference:
    """By how much `second` scores above `first`, with a paired 95 % interval.

    Both are scored on the same resamples, so what makes an image hard for both cancels out, and the interval
    is far narrower than those of the two scores suggest.

    Args:
        first: detections of the first model, one for each image, in host memory.
        second: those of the second model, in the same order.
        targets: one for each image.
        classes: class names; labels index them.
        metric: a name of `METRICS`.
        bootstrap: resamples of the images, 1 or more.
        seed: as in `score`.

    Raises:
        ValueError: where bootstrap is below 1.
        ConfigError, DataError, UserError: as in `score`.
    """
    one, two = measured_pair(first, second, targets, classes, metric=metric, bootstrap=bootstrap)
    weights, value = resamples(len(targets), bootstrap, seed), two.value - one.value
    low, high = interval(value, two.values(weights) - one.values(weights))
    return Difference(metric, value, low, high, len(targets))


def measured_pair(
    first: Sequence[Detections],
    second: Sequence[Detections],
    targets: Sequence[Target],
    classes: tuple[str, ...],
    *,
    metric: str,
    bootstrap: int,
) -> tuple[Measurement, Measurement]:
    """The two measurements that a paired difference is made of; arguments and errors as there."""
    if bootstrap < 1:
        raise ValueError(f"bootstrap={bootstrap}, but a paired interval needs at least 1 resample")
    one, two = (METRICS[metric](detections, targets, classes) for detections in (first, second))
    if isnan(two.value - one.value):
        raise DataError(
            f"none of the {len(targets)} images has a labelled box that counts for {metric}: no ground to "
            "compare two models on; check data.test and the annotations"
        )
    return one, two


def resamples(images: int, count: int, seed: int) -> NDArray[np.int32]:
    """How often each image is drawn: `[count, images]`, each row summing to `images`."""
    generator = np.random.default_rng(seed)
    weights = np.empty((count, images), dtype=np.int32)
    for row in weights:
        row[:] = np.bincount(generator.integers(0, images, size=images), minlength=images)
    return weights


def interval(value: float, values: NDArray[np.float64]) -> tuple[float, float]:
    """The middle 95 % of the resampled `values`, moved so that their median is `value`.

    Values that are nan (resamples in which nothing could be scored) are left out; nan where none is left.
    """
    values = values[~np.isnan(values)]
    if not len(values):
        return nan, nan
    low, median, high = np.percentile(values, PERCENTILES)
    return float(value + (low - median)), float(value + (high - median))
