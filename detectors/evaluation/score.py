"""What a metric returns, and a score: the number, how sure it is, and how it reads."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from math import isnan, nan
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from detectors.types import Detections, Target


@dataclass(frozen=True)
class Measurement:
    """What a metric makes of detections and targets.

    Attributes:
        label: how the headline is called in print ("mAP (voc07)").
        value: the headline, 0 to 1; nan where nothing can be scored.
        per_class: by class name; nan where a class has nothing to score.
        details: further numbers by name.
        values: the headline for each of R weightings of the I images: integer weights `[R, I]`, 0 or more, to
            float64 `[R]`. All ones give `value`; counts give what images repeated that often would.
        class_values: the same for each class, `[R, I]` to `[R, C]`, nan where a class has nothing to score;
            None for a metric that is no mean over classes.
    """

    label: str
    value: float
    per_class: dict[str, float]
    details: dict[str, float]
    values: Callable[[NDArray[np.integer]], NDArray[np.float64]]
    class_values: Callable[[NDArray[np.integer]], NDArray[np.float64]] | None = None


class Metric(Protocol):
    """A definition of the score: a function of detections and targets, one each for every image."""

    def __call__(
        self, detections: Sequence[Detections], targets: Sequence[Target], classes: tuple[str, ...], /
    ) -> Measurement:
        """Match once; the measurement answers for any weight per image."""


@dataclass(frozen=True)
class Score:
    """A metric on a set of images.

    Attributes:
        metric: registered name of the metric ("voc07").
        label: how the headline is called in print ("mAP (voc07)").
        value: the headline, 0 to 1.
        low: lower end of the 95 % bootstrap interval over images; nan without a bootstrap.
        high: its upper end.
        per_class: by class name; nan where a class has no labelled box that counts.
        details: further numbers by name, such as `ap50`.
        images: how many images were scored.
        seconds: wall time in `predict` for all of them, of the slowest rank; nan where nothing was timed.
    """

    metric: str
    label: str
    value: float
    low: float
    high: float
    per_class: dict[str, float]
    details: dict[str, float] = field(default_factory=dict)
    images: int = 0
    seconds: float = nan

    def line(self) -> str:
        """One line: `mAP (voc07) 0.774 [0.761, 0.786] on 4952 images`."""
        interval = "" if isnan(self.low) else f" [{self.low:.3f}, {self.high:.3f}]"
        return f"{self.label} {self.value:.3f}{interval} on {self.images} images"

    def table(self) -> str:
        """A Markdown table: each class (`-` for one without a labelled box), the headline, the details."""
        rows = [("class", self.metric), *((name, _cell(value)) for name, value in self.per_class.items())]
        rows += [(f"**{self.label}**", f"**{_cell(self.value)}**")]
        rows += [(name, _cell(value)) for name, value in self.details.items()]
        left, right = (max(3, *(len(row[column]) for row in rows)) for column in (0, 1))
        lines = [f"| {name:<{left}} | {value:>{right}} |" for name, value in rows]
        rule = f"| {'-' * left} | {'-' * (right - 1)}: |"
        return "\n".join([lines[0], rule, *lines[1:]])

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: nan becomes None."""
        return _map_numbers(asdict(self), lambda x: None if x is None or isnan(x) else x)

    @staticmethod
    def from_dict(data: dict[str, Any]) -> "Score":
        """The score that `to_dict` wrote; raises TypeError where a field is missing or unknown."""
        return Score(**_map_numbers(data, lambda x: nan if x is None else x))


def _cell(value: float) -> str:
    return "-" if isnan(value) else f"{value:.3f}"


def _map_numbers(data: dict[str, Any], change: Callable[[float | None], float | None]) -> dict[str, Any]:
    """The same dict, dicts inside it included, with every float or None changed."""
    return {
        key: _map_numbers(value, change)
        if isinstance(value, dict)
        else change(value)
        if value is None or isinstance(value, float)
        else value
        for key, value in data.items()
    }
