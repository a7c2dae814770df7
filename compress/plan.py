"""From scores and a budget to a plan: which channels of each group stay."""

import fnmatch
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import pairwise

import torch
from torch import Tensor

from compress.budget import Budget
from compress.cost import Cost, cost_of_layers
from compress.groups import Graph, Group
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
    """

    multiple: int = 8
    floor: float = 0.05
    largest_cut: float = 0.9
    skip: tuple[str, ...] = ()
    first_widths: Mapping[str, int] | None = None

    def __post_init__(self) -> None:
        if self.multiple < 1:
            raise PlanError(f"prune.multiple={self.multiple} is below 1")
        for name in ("floor", "largest_cut"):
            if not 0 <= getattr(self, name) <= 1:
                raise PlanError(f"prune.{name}={getattr(self, name)} is not between 0 and 1")

    def options(self, group: Group) -> list[int]:
        """The widths that a group may have, ascending; the last is its present width."""
        first = (self.first_widths or {}).get(group.name, group.channels)
        # Shares as people write them: in binary, 1 - 0.7 is a little above 0.3 and would keep one too many.
        floor, cut = (Decimal(str(share)) for share in (self.floor, self.largest_cut))
        step = self.multiple // math.gcd(self.multiple, group.size)
        least = max(step, math.ceil(floor * first), math.ceil((1 - cut) * group.channels))
        return [w for w in range(step, group.channels, step) if w >= least] + [group.channels]


@dataclass(frozen=True)
class Plan:
    """What a cut does.

    Attributes:
        keep: group -> the channels that stay, ascending; only groups that lose some.
        widths: group -> channels before and after, for every group that may be cut.
        before: cost of the network as it is.
        after: cost of the network that the cut will leave.
    """

    keep: dict[str, tuple[int, ...]]
    widths: dict[str, tuple[int, int]]
    before: Cost
    after: Cost


def selectable(graph: Graph, skip: Sequence[str]) -> list[Group]:
    """The groups that narrow no layer matching a glob; raises PlanError for a glob that matches no layer."""
    names = [layer.name for layer in graph.layers]
    for pattern in skip:
        if not fnmatch.filter(names, pattern):
            raise PlanError(f"prune.skip: no layer matches {pattern!r}{did_you_mean(pattern, names)}")
    return [
        group
        for group in graph.groups
        if not any(fnmatch.fnmatchcase(m.layer, s) for m in group.members if m.side == "out" for s in skip)
    ]


def priced(graph: Graph, widths: Mapping[str, int]) -> Cost:
    """What the network will cost once the groups have these widths; groups left out stay as they are."""
    changed: dict[str, list[int]] = {}
    for group in graph.groups:
        removed = group.channels - widths.get(group.name, group.channels)
        if not removed:
            continue
        for member in group.members:
            sides = changed.setdefault(member.layer, [0, 0])
            sides[member.side == "out"] += removed * len(member.positions) // group.channels
    layers = {layer.name: layer for layer in graph.layers}
    sizes = {}
    for name, (fewer_inputs, fewer_outputs) in changed.items():
        layer = layers[name]
        if layer.by_group:  # groups go with all that they read, and only what they make is listed
            fewer_inputs = fewer_outputs * layer.inputs // layer.outputs
        sizes[name] = (layer.inputs - fewer_inputs, layer.outputs - fewer_outputs)
    return cost_of_layers(graph.layers, sizes)


def uniform_widths(graph: Graph, budget: Budget, rules: Rules) -> Widths:
    """The same share of every group, as large as the budget allows.

    The share is bisected; then groups get single steps back, those furthest below the share first, until none
    fits.

    Raises:
        PlanError: no width within the rules meets the budget.
    """
    groups = selectable(graph, rules.skip)
    options = {group.name: rules.options(group) for group in groups}
    check_reachable(graph, budget, rules)

    def at(share: float) -> Widths:
        return {g.name: min(options[g.name], key=lambda w: (abs(w - share * g.channels), -w)) for g in groups}

    low, high = 0.0, 1.0
    if budget.holds(priced(graph, at(1.0))):
        low = 1.0
    else:
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if budget.holds(priced(graph, at(middle))) else (low, middle)
    # at(0) is the least width of every group, which check_reachable has found within the budget.
    widths = at(low)
    order = {group.name: place for place, group in enumerate(groups)}
    sizes = {group.name: group.channels for group in groups}
    return _filled(graph, widths, options, budget, lambda name, width: (width / sizes[name], order[name]))


def global_widths(graph: Graph, scores: Mapping[str, Tensor], budget: Budget, rules: Rules) -> Widths:
    """One ranking of all groups: the steps with the lowest mean score go first, until the budget holds.

    Scores are divided by their group's mean, so that layers of different scale compare. Then steps are given
    back, the most valuable first, until none fits.

    Raises:
        PlanError: no width within the rules meets the budget.
    """
    groups = selectable(graph, rules.skip)
    options = {group.name: rules.options(group) for group in groups}
    check_reachable(graph, budget, rules)
    worth: dict[tuple[str, int], float] = {}
    steps = []
    for place, group in enumerate(groups):
        ranked = scores[group.name].sort(descending=True).values
        ranked = ranked / ranked.mean().clamp(min=torch.finfo(ranked.dtype).tiny)
        widths = options[group.name]
        for below, width in pairwise(widths):
            worth[group.name, below] = float(ranked[below:width].mean())
            # Widest step first among equals: within a group a step can only go after the one above it.
            steps.append((worth[group.name, below], place, -below, group.name))
    steps.sort()

    def after(count: int) -> Widths:
        widths = {group.name: group.channels for group in groups}
        for _, _, below, name in steps[:count]:
            widths[name] = min(widths[name], -below)
        return widths

    low, high = 0, len(steps)
    while low < high:
        middle = (low + high) // 2
        if budget.holds(priced(graph, after(middle))):
            high = middle
        else:
            low = middle + 1
    order = {group.name: place for place, group in enumerate(groups)}
    return _filled(graph, after(low), options, budget, lambda name, width: (-worth[name, width], order[name]))


def ratio_widths(graph: Graph, ratio: float, rules: Rules) -> Widths:
    """Every group loses floor(ratio * n) channels, as in 2018, rounded up to the next width allowed."""
    if not 0 <= ratio < 1:
        raise PlanError(f"prune.ratio={ratio} is not a share from 0 to below 1")
    widths = {}
    for group in selectable(graph, rules.skip):
        kept = group.channels - int(Decimal(str(ratio)) * group.channels)
        widths[group.name] = min(option for option in rules.options(group) if option >= kept)
    return widths


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


def smallest_cost(graph: Graph, rules: Rules) -> Cost:
    """What the network costs with every group at the least width that the rules allow."""
    return priced(graph, {group.name: rules.options(group)[0] for group in selectable(graph, rules.skip)})


def check_reachable(graph: Graph, budget: Budget, rules: Rules, rounds: int = 1) -> None:
    """Raises PlanError, naming the smallest cost that so many rounds can reach, if that is too high."""
    cut = 1 - (1 - rules.largest_cut) ** rounds
    overall = replace(rules, largest_cut=cut)
    least = smallest_cost(graph, overall)
    if budget.holds(least):
        return
    now = cost_of_layers(graph.layers)
    kind = next(k for k, limit in budget.limits().items() if limit is not None and getattr(least, k) > limit)
    limit, smallest, whole = budget.limits()[kind], getattr(least, kind), getattr(now, kind)
    free = len(selectable(graph, rules.skip))
    raise PlanError(
        f"budget {kind}={limit:,} is out of reach: with floor={rules.floor}, largest_cut={rules.largest_cut} "
        f"in each of {rounds} rounds, multiple={rules.multiple} and {free} of {len(graph.groups)} "
        f"groups free to shrink, the smallest plan keeps {smallest:,} ({smallest / whole:.1%} of the present "
        f"{whole:,}). Raise the budget, lower prune.floor or prune.multiple, cut in more rounds, or skip "
        "fewer layers"
    )


def _filled(
    graph: Graph,
    widths: Widths,
    options: Mapping[str, Sequence[int]],
    budget: Budget,
    priority: Callable[[str, int], tuple[float, int]],
) -> Widths:
    """Gives single steps back, lowest priority value first, until none fits the budget."""
    widths = dict(widths)
    open_names = {name for name in widths if widths[name] < options[name][-1]}
    while open_names:
        name = min(open_names, key=lambda n: priority(n, widths[n]))
        place = options[name].index(widths[name])
        wider = {**widths, name: options[name][place + 1]}
        if budget.holds(priced(graph, wider)):
            widths = wider
            if widths[name] == options[name][-1]:
                open_names.discard(name)
        else:
            # Costs only grow from here on, so what does not fit now never will.
            open_names.discard(name)
    return widths
