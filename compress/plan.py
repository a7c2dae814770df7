"""What every plan keeps to, and from widths and scores to a plan: which channels of each group stay."""

import fnmatch
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from numbers import Integral, Real
from typing import Any

from torch import Tensor

from compress.cost import Cost, cost_of_layers
from compress.groups import Graph, Group
from compress.pricing import priced
from detectors.errors import PlanError
from detectors.registry import did_you_mean

Widths = dict[str, int]


@dataclass(frozen=True)
class Rules:
    """What every plan keeps to.

    Attributes:
        multiple: widths are multiples of this, counted in filters, or the full width of the group.
        floor: smallest share of a group's first width, 0..1; at least `multiple` channels stay in any case.
        largest_cut: largest share of a group's channels that one plan removes, 0..1.
        skip: globs of producers that stay whole.
        first_widths: channels of each group in the first model of a run; empty: as they are now.
        caps: glob of layers -> largest share of their first width that goes, over all rounds, 0..1; where
            several match, all hold.
        bounds: with the knapsack, every width is between these multiples of the uniform plan's; None: any.
        only: group -> the widths to choose from beside its present one; None: all.
    """

    multiple: int = 8
    floor: float = 0.05
    largest_cut: float = 0.9
    skip: tuple[str, ...] = ()
    first_widths: Mapping[str, int] | None = None
    caps: Mapping[str, float] = field(default_factory=dict)
    bounds: tuple[float, float] | None = (0.6, 2.0)
    only: Mapping[str, Sequence[int]] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.multiple, Integral):
            raise PlanError(f"prune.multiple={self.multiple!r} is not a whole number, such as 8")
        if self.multiple < 1:
            raise PlanError(f"prune.multiple={self.multiple} is below 1")
        if not isinstance(self.skip, Sequence) or isinstance(self.skip, str):
            raise PlanError(f"prune.skip={self.skip!r} is no list of globs, such as ['body.*']")
        for glob in self.skip:
            if not isinstance(glob, str):
                raise PlanError(
                    f"prune.skip: {glob!r} is no glob; give layers by their names, such as 'body.*'"
                )
        for name in ("floor", "largest_cut"):
            if not is_share(getattr(self, name)):
                raise PlanError(f"prune.{name}={getattr(self, name)!r} is not between 0 and 1")
        if not isinstance(self.caps, Mapping):
            raise PlanError(f"prune.caps={self.caps!r} names no layers; write {{'*': {self.caps!r}}}")
        for pattern, cap in self.caps.items():
            if not is_share(cap):
                raise PlanError(f"prune.caps: {pattern!r}: {cap!r} is not a share between 0 and 1")
            most = 1 - Decimal(str(self.floor))
            if Decimal(str(cap)) > most:
                raise PlanError(
                    f"prune.caps: {pattern!r}: {cap} lets more go than prune.floor={self.floor}, which keeps "
                    f"that share of every layer; write at most {most} or lower prune.floor"
                )
        bounds: Any = self.bounds
        pair = isinstance(bounds, Sequence) and len(bounds) == 2 and all(isinstance(b, Real) for b in bounds)
        if bounds is not None and not (pair and 0 <= bounds[0] <= 1 <= bounds[1]):
            written = list(bounds) if isinstance(bounds, Sequence) else bounds
            raise PlanError(
                f"prune.bounds={written} does not hold the uniform width: write two multiples of it "
                "around 1, such as [0.6, 2.0], or null"
            )

    def over(self, rounds: int) -> "Rules":
        """What so many plans, each of what the one before left, keep to together."""
        if rounds == 1:
            return self
        # As a decimal for what `options` makes of it.
        left = (1 - Decimal(str(self.largest_cut))) ** rounds
        return replace(self, largest_cut=float(1 - left))

    def options(self, group: Group) -> list[int]:
        """The widths that a group may have, ascending; the last is its present width."""
        first = (self.first_widths or {}).get(group.name, group.channels)
        # Shares as people write them: in binary, 1 - 0.7 is a little above 0.3 and would keep one too many.
        floor, cut = (Decimal(str(share)) for share in (self.floor, self.largest_cut))
        caps = [Decimal(str(cap)) for pattern, cap in self.caps.items() if names(pattern, group)]
        step = self.multiple // math.gcd(self.multiple, group.size)
        kept = max([floor, *(1 - cap for cap in caps)]) * first
        least = max(step, math.ceil(kept), math.ceil((1 - cut) * group.channels))
        widths = range(step, group.channels, step) if self.only is None else self.only.get(group.name, ())
        return [w for w in widths if least <= w < group.channels] + [group.channels]


# How far the measured time may be from a budget in milliseconds.
LATENCY_TOLERANCE = 0.05


@dataclass(frozen=True)
class Timed:
    """What the networks behind a plan took, by the clock, each in turn with the first one.

    Attributes:
        limit_ms: the budget.
        slim_ms: of the network that the cut will leave.
        first_ms: of the network that shares are of.
        corrections: how often the plan was corrected.
        engine: what ran them.
    """

    limit_ms: float
    slim_ms: float
    first_ms: float
    corrections: int
    engine: str

    def __str__(self) -> str:
        text = (
            f"{self.slim_ms:.4g} ms of {self.limit_ms:.4g} allowed, {self.first_ms:.4g} at first, measured "
            f"whole in {self.engine}; corrections of the plan: {self.corrections}"
        )
        below = 1 - self.slim_ms / self.limit_ms
        if below <= LATENCY_TOLERANCE:
            return text
        return f"{text}; {below:.0%} below the budget: no width lies nearer, or another limit binds"


@dataclass(frozen=True)
class Plan:
    """What a cut does.

    Attributes:
        keep: group -> the channels that stay, ascending; only groups that lose some.
        widths: group -> channels before and after, for every group that may be cut.
        before: cost of the network as it is.
        after: cost of the network that the cut will leave.
        timed: with a budget in milliseconds, what was measured.
    """

    keep: dict[str, tuple[int, ...]]
    widths: dict[str, tuple[int, int]]
    before: Cost
    after: Cost
    timed: Timed | None = None


def is_share(value: Any) -> bool:
    """Whether a value is a number from 0 to 1, also where a caller goes against the types."""
    return isinstance(value, Real) and 0 <= float(value) <= 1


def names(pattern: str, group: Group) -> bool:
    """Whether a glob matches a layer that the group makes narrower on its outputs."""
    return any(fnmatch.fnmatchcase(m.layer, pattern) for m in group.members if m.side == "out")


def selectable(graph: Graph, skip: Sequence[str]) -> list[Group]:
    """The groups that narrow no layer matching a glob; raises PlanError for a glob that matches no layer."""
    layers = [layer.name for layer in graph.layers]
    for pattern in skip:
        _check_layers(graph, "prune.skip", pattern, layers)
    return [group for group in graph.groups if not any(names(pattern, group) for pattern in skip)]


def check_globs(graph: Graph, key: str, patterns: Iterable[str], rules: Rules) -> None:
    """Raises PlanError, with the nearest names, for a glob of which no layer is ever cut.

    Args:
        graph: of the network.
        key: the setting that the globs stand in.
        patterns: the globs.
        rules: those skipped are never cut; those cut down in earlier rounds were.
    """
    free = selectable(graph, rules.skip)
    known = [m.layer for group in free for m in group.members if m.side == "out"]
    for pattern in patterns:
        _check_layers(graph, key, pattern, known)
        if any(names(pattern, group) for group in free) or fnmatch.filter(rules.first_widths or (), pattern):
            continue
        raise PlanError(f"{key}: {pattern!r} names only layers that are never cut{_nearest(pattern, known)}")


def _check_layers(graph: Graph, key: str, pattern: str, known: Sequence[str]) -> None:
    """Raises PlanError, with the nearest of the names that are known to serve, if it matches no layer."""
    if not fnmatch.filter((layer.name for layer in graph.layers), pattern):
        raise PlanError(f"{key}: no layer matches {pattern!r}{_nearest(pattern, known)}")


def _nearest(pattern: str, known: Sequence[str]) -> str:
    """The nearest names, or for a glob the nearest parts of the network, each as a glob."""
    if not known:
        return "; no layer may be cut: leave some out of prune.skip"
    if not any(sign in pattern for sign in "*?["):
        return did_you_mean(pattern, known)
    parts = [name.split(".") for name in known]
    return did_you_mean(
        pattern, {".".join([*part[:k], "*"]) for part in parts for k in range(1, len(part))} or known
    )


def plan_of(
    graph: Graph, widths: Mapping[str, int], scores: Callable[[Group, dict[str, tuple[int, ...]]], Tensor]
) -> Plan:
    """Keeps the best channels of each group.

    Args:
        graph: of the network as it is.
        widths: channels that stay in each group.
        scores: gives the scores of a group, told what earlier groups (in the order of execution) keep.

    Returns:
        The plan; of channels with equal scores the first ones stay.
    """
    keep: dict[str, tuple[int, ...]] = {}
    for group in graph.groups:
        width = widths.get(group.name, group.channels)
        if width < group.channels:
            ranking = scores(group, dict(keep)).argsort(descending=True, stable=True)
            keep[group.name] = tuple(sorted(ranking[:width].tolist()))
    before = {group.name: group.channels for group in graph.groups}
    return Plan(
        keep,
        {name: (channels, widths[name]) for name, channels in before.items() if name in widths},
        cost_of_layers(graph.layers),
        priced(graph, widths),
    )
