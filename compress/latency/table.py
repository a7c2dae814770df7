"""Milliseconds of layers by their shape, measured on this machine when they are first asked for, and kept.

Widths are measured on a grid and interpolated between; what was measured is given as it was measured.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.cost import Layer
from compress.latency.shapes import Shape
from compress.pricing import Price
from detectors.errors import PlanError
from detectors.files import write_text

# Median milliseconds of layers of these shapes.
Timer = Callable[[Sequence[Shape]], Sequence[float]]

# New times after which the file is written anew, so that little is lost where a run is killed.
_UNSAVED = 200


class LatencyTable:
    """What layers take on one machine, in one engine.

    Args:
        timer: measures.
        facts: what the times depend on beside the shape, as `Stopwatch.facts` gives it.
        path: of the JSON file that holds the table between runs; None: it lives in memory.

    Raises:
        PlanError: the file cannot be read, or was measured under other facts.
    """

    def __init__(self, timer: Timer, facts: Mapping[str, str | int], path: Path | None = None) -> None:
        self.timer, self.facts, self.path = timer, dict(facts), path
        self.times = _read(path, self.facts) if path is not None and path.exists() else {}
        self._unsaved = 0

    def price(
        self, shapes: Mapping[str, Sequence[Shape]], behind: Mapping[str, float], multiple: int
    ) -> Price:
        """What layers of a network take, as a price for plans.

        Args:
            shapes: layer -> its calls, as `shapes_of` gives them; layers without any take no time.
            behind: layer -> milliseconds spent behind it, which go with the channels that it makes.
            multiple: of the widths in plans: the grid is made of multiples of it.
        """

        def price(layer: Layer, inputs: Any, outputs: Any) -> Any:
            read, made = np.broadcast_arrays(np.asarray(inputs), np.asarray(outputs))
            total = np.zeros(read.shape)
            for shape in shapes.get(layer.name, ()):
                total += self._interpolated(shape, layer, read, made, multiple)
            return total + behind.get(layer.name, 0.0) * made / layer.outputs

        return price

    def save(self) -> None:
        """Writes the file, if there is one and there are times that it does not hold."""
        if self.path is not None and self._unsaved:
            content = {"facts": self.facts, "milliseconds": self.times}
            write_text(self.path, json.dumps(content, indent=0, allow_nan=False) + "\n")
        self._unsaved = 0

    def measured(self, shapes: Iterable[Shape]) -> list[float]:
        """Milliseconds of each shape; those not in the table yet are measured, a few in turn, and kept."""
        wanted = list(shapes)
        new = [shape for shape in dict.fromkeys(wanted) if str(shape) not in self.times]
        if new:
            times = self.timer(new)
            self.times |= {str(shape): float(ms) for shape, ms in zip(new, times, strict=True)}
            self._unsaved += len(new)
            if self._unsaved >= _UNSAVED:
                self.save()
        return [self.times[str(shape)] for shape in wanted]

    def _interpolated(
        self, shape: Shape, layer: Layer, inputs: NDArray[Any], outputs: NDArray[Any], multiple: int
    ) -> NDArray[np.float64]:
        """Linear in each width between those of the grid; `[...]` like the widths."""
        groups = layer.groups
        each_in, each_out = layer.inputs // groups, layer.outputs // groups
        if layer.by_group:  # whole groups go, so that one width decides the other
            ends = _between(outputs // each_out, grid(groups, multiple))
            corners = [(count * each_in, count * each_out, weight) for count, weight in ends]
        else:  # all groups are equally wide
            step = multiple // math.gcd(multiple, groups)
            rows = _between(inputs // groups, grid(each_in, step))
            columns = _between(outputs // groups, grid(each_out, step))
            corners = [
                (read * groups, made * groups, by_read * by_made)
                for read, by_read in rows
                for made, by_made in columns
            ]
        pairs = [list(zip(read.flat, made.flat, strict=True)) for read, made, _ in corners]
        # A corner without weight may lie where no plan goes: it need not be measured.
        needed = sorted(
            {
                pair
                for own, (_, _, weight) in zip(pairs, corners, strict=True)
                for pair, there in zip(own, weight.flat, strict=True)
                if there
            }
        )
        times = self.measured(shape.sized(layer, int(read), int(made)) for read, made in needed)
        known = dict(zip(needed, times, strict=True))
        total = np.zeros(inputs.shape)
        for own, (_, _, weight) in zip(pairs, corners, strict=True):
            total += weight * np.array([known.get(pair, 0.0) for pair in own]).reshape(inputs.shape)
        return total


def grid(width: int, multiple: int) -> list[int]:
    """The widths of a layer that are measured: its own, and below it multiples with few significant bits.

    1 to 8 times `multiple`, then in steps of a seventh to a quarter: 10, 12, 14, 16, 20, 24, 28, 32, 40, ...
    1 stands at the lower end, for widths below the first multiple.
    """
    widths = [1, *(multiple * n for n in range(1, width // multiple + 1) if _significant_bits(n) <= 3), width]
    return sorted(set(widths))


def _significant_bits(number: int) -> int:
    return len(bin(number).rstrip("0")) - 2


def _between(sizes: NDArray[Any], widths: Sequence[int]) -> list[tuple[NDArray[Any], NDArray[np.float64]]]:
    """The grid's widths below and above each size, each with its weight in what lies between."""
    points = np.array(widths)
    below = np.clip(np.searchsorted(points, sizes, side="right") - 1, 0, len(points) - 1)
    above = np.minimum(below + 1, len(points) - 1)
    low, high = points[below], points[above]
    share = np.where(high > low, (sizes - low) / np.maximum(high - low, 1), 0.0)
    return [(low, 1 - share), (high, share)]


def _read(path: Path, facts: Mapping[str, str | int]) -> dict[str, float]:
    """The times in a file; raises PlanError unless it was measured under these facts."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        theirs, times = content["facts"], content["milliseconds"]
        right = isinstance(theirs, dict) and all(
            isinstance(ms, int | float) and 0 <= ms < math.inf for ms in times.values()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        right = False
    if not right:
        raise PlanError(
            f"{path} is no table of latencies; give a table measured by this version with "
            "prune.latency.table=PATH, or delete the file to measure anew"
        )
    for name in [*facts, *theirs]:
        if theirs.get(name) != facts.get(name):
            raise PlanError(
                f"{path} was measured with {name}={theirs.get(name)}, here it is {facts.get(name)}: "
                "its times do not hold here; measure anew under another prune.latency.table=PATH, or delete "
                "the file"
            )
    return {str(shape): float(ms) for shape, ms in times.items()}
