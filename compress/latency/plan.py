"""Plans held against a stopwatch: corrected until the whole slim network takes what was asked for."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import torch
from torch import nn

from compress.budget import Budget, Milliseconds
from compress.groups import Graph
from compress.inputs import Inputs, copied
from compress.latency.engines import Conditions, Stopwatch
from compress.latency.shapes import shapes_of
from compress.latency.table import LatencyTable, grid
from compress.plan import LATENCY_TOLERANCE, Plan, Rules, Timed, plan_of, selectable
from compress.pricing import PRICES, Price, Pricing
from compress.probe import narrowed
from detectors.errors import PlanError, counted, some

# How often a plan is corrected.
CORRECTIONS = 5

# From a budget, what widths must keep to, and prices, to a plan.
Make: TypeAlias = Callable[[Budget, Rules, Mapping[str, Price]], Plan]

KIND = "table_ms"


@dataclass(frozen=True)
class Course:
    """What a plan by the clock works on.

    Attributes:
        network: to be cut.
        graph: of it.
        inputs: what it takes, batch 1.
        first: the network that shares are of; the same or an earlier one of the run.
        stopwatch: takes the times.
        final: whether the budget must hold, or is one on the way, which gives way to what can be reached.
    """

    network: nn.Module
    graph: Graph
    inputs: Inputs
    first: nn.Module
    stopwatch: Stopwatch
    final: bool = True

    def measured(self, *networks: nn.Module) -> tuple[float, list[float]]:
        """Milliseconds of the first network and of some others, all in turn."""
        distinct = list({id(network): network for network in (self.first, *networks)}.values())
        times = self.stopwatch.networks(distinct, self.inputs)
        found = {id(network): time.median_ms for network, time in zip(distinct, times, strict=True)}
        return found[id(self.first)], [found[id(network)] for network in networks]

    def slim(self, keep: Mapping[str, tuple[int, ...]]) -> nn.Module:
        """The network that a plan leaves, for timing: as `surgery.cut` gives it, not proven."""
        narrow = narrowed(self.network, self.graph.groups, keep)
        return copied(narrow, lambda tensor: tensor.clone())


def check_latency(course: Course, limit: Milliseconds, rules: Rules, rounds: int = 1) -> None:
    """Measures the network at its smallest; raises PlanError where that takes longer than the budget.

    A table of the stopwatch that does not hold here is refused before.

    Args:
        course: network and stopwatch.
        limit: the budget.
        rules: what every plan keeps to.
        rounds: in which so much may go as `rules.largest_cut` says.
    """
    _opened(course)
    whole, (smallest,) = course.measured(course.slim(_smallest(course.graph, rules.over(rounds)).keep))
    _check_reachable(course, limit.of(whole), whole, smallest, rules, rounds)


def fitted(course: Course, budget: Budget, rules: Rules, make: Make) -> Plan:
    """A plan whose slim network, measured whole, takes what the budget says.

    Layers are priced by a table of single layers, which knows nothing of what a network does besides. So the
    limit on the table's sum is where a line through measured networks meets the budget: at first those of
    the network as it is and at its smallest, then also of each plan that was tried. What is compared is
    measured in turn with the first network, and a share is of what that one took in the same turns.

    Args:
        course: network and stopwatch.
        budget: with a limit on latency, and perhaps on other costs.
        rules: what every plan keeps to; widths slower than a wider one are taken from the options.
        make: makes a plan by prices, of which one is of `table_ms`.

    Returns:
        The plan, with its times in `timed`: within `LATENCY_TOLERANCE` of the budget; or below it, where a
        further limit binds or no width lies between.

    Raises:
        PlanError: the smallest network takes longer, or no plan held the budget after `CORRECTIONS`.
    """
    assert budget.latency is not None, "a plan by the clock needs a limit on it"
    table, price = _table(course, rules.multiple)
    try:
        return _fitted(course, budget, budget.latency, rules, make, price)
    finally:
        table.save()


def _fitted(
    course: Course, budget: Budget, limit: Milliseconds, rules: Rules, make: Make, price: Price
) -> Plan:
    graph, prices = course.graph, {**PRICES, KIND: price}
    rules = replace(rules, only=quick_widths(graph, rules, price))
    smallest = _smallest(graph, rules)
    first, (now, least) = course.measured(course.network, course.slim(smallest.keep))
    wanted = limit.of(first)
    if not course.final:
        wanted = max(wanted, least)
    _check_reachable(course, wanted, first, least, rules)
    floor, dense = (_sum(graph, widths, price) for widths in (_widths(smallest), {}))
    points = [(floor, least), (dense, now)]
    tried: list[Plan] = []
    for corrections in range(CORRECTIONS + 1):
        target = _target(points, wanted)
        plan = make(replace(budget, latency=None, table_ms=target), rules, prices)
        if any(plan.keep == earlier.keep for earlier in tried):
            break  # no width lies between, or another limit binds: it would be measured again and again
        whole, (took,) = course.measured(course.slim(plan.keep))
        if limit.ms is None:  # a share is of what the first network takes in the same minute
            took *= first / whole
        timed = Timed(wanted, took, first, corrections, course.stopwatch.engine)
        tried.append(replace(plan, timed=timed))
        if abs(took / wanted - 1) <= LATENCY_TOLERANCE:
            return tried[-1]
        points.append((_sum(graph, _widths(plan), price), took))
    times = [(plan.timed.slim_ms, plan) for plan in tried if plan.timed is not None]
    holding = [(took, plan) for took, plan in times if took <= (1 + LATENCY_TOLERANCE) * wanted]
    if holding:
        return max(holding, key=lambda pair: pair[0])[1]
    took = min(took for took, _ in times)
    raise PlanError(
        f"budget latency_ms={wanted:.4g}: the best of {len(tried)} plans takes {took:.4g} ms when measured "
        f"whole, {took / wanted - 1:.0%} more, and so the budget does not hold within "
        f"{LATENCY_TOLERANCE:.0%}; see that nothing else runs on this machine, raise prune.latency.runs, or "
        "raise the budget"
    )


def quick_widths(graph: Graph, rules: Rules, price: Price) -> dict[str, tuple[int, ...]]:
    """Group -> the widths that a plan by the clock chooses from: measured ones, none slower than a wider one.

    Whether one is slower is asked with all other groups at their present widths. The present width stays.
    """
    groups = selectable(graph, rules.skip)
    options = {}
    for group in groups:
        known = set(grid(group.channels, max(1, rules.multiple)))
        allowed = rules.options(group)
        options[group.name] = [w for w in allowed if w in known or w in (allowed[0], allowed[-1])]
    pricing = Pricing(graph, options, {KIND: price})
    quick = {}
    for name, widths in options.items():
        times = pricing.changes(name)[0]
        wider = np.minimum.accumulate(times[::-1])[::-1]  # the quickest of this width and all above
        quick[name] = tuple(w for w, time, best in zip(widths, times, wider, strict=True) if time <= best)
        quick[name] = tuple(sorted({*quick[name], widths[-1]}))
    return quick


def _opened(course: Course) -> LatencyTable:
    watch = course.stopwatch
    under = Conditions.of(course.network, course.inputs)
    return LatencyTable(lambda shapes: watch.layers(shapes, under), watch.facts(under), watch.table)


def _table(course: Course, multiple: int) -> tuple[LatencyTable, Price]:
    watch, table = course.stopwatch, _opened(course)
    behind = watch.between(course.network, course.inputs)
    return table, table.price(shapes_of(course.network, course.inputs), behind, multiple)


def _smallest(graph: Graph, rules: Rules) -> Plan:
    """Every group at the least width that the rules allow; which channels stay makes no difference."""
    widths = {group.name: rules.options(group)[0] for group in selectable(graph, rules.skip)}
    return plan_of(graph, widths, lambda group, keep: torch.zeros(group.channels))


def _widths(plan: Plan) -> dict[str, int]:
    return {name: after for name, (_, after) in plan.widths.items()}


def _sum(graph: Graph, widths: Mapping[str, int], price: Price) -> float:
    """The table's sum over the network at some widths of its groups."""
    return float(Pricing(graph, {name: [width] for name, width in widths.items()}, {KIND: price}).total[0])


def _target(points: Sequence[tuple[float, float]], wanted: float) -> float:
    """The table's sum at which the whole network takes so long: on a line through two of what was measured.

    Args:
        points: (table's sum, measured milliseconds), the smallest network first.
        wanted: milliseconds.

    Returns:
        A sum between the largest network that was quick enough and the smallest that was not, and below the
        latter: so no plan that was too slow is made again, however noisy the clock.
    """
    slow = [point for point in points if point[1] > wanted]
    if not slow:
        return max(total for total, _ in points)
    high, above = min(slow)
    low, below = max((point for point in points if point[1] <= wanted and point[0] < high), default=points[0])
    share = (wanted - below) / (above - below) if above > below else 0.0
    return low + (high - low) * min(max(share, 0.05), 0.95)


def _check_reachable(
    course: Course, wanted: float, whole: float, smallest: float, rules: Rules, rounds: int = 1
) -> None:
    if smallest <= (1 + LATENCY_TOLERANCE) * wanted:
        return
    caps = f", prune.caps of {some(list(rules.caps))}" if rules.caps else ""
    raise PlanError(
        f"budget latency_ms={wanted:.4g} is out of reach: with floor={rules.floor}, largest_cut="
        f"{rules.largest_cut} in each of {counted(rounds, 'round')} and multiple={rules.multiple}{caps} the "
        f"smallest network takes {smallest:.4g} ms ({smallest / whole:.1%} of {whole:.4g} ms) in "
        f"{course.stopwatch.engine}. Raise the budget{' or prune.caps' if rules.caps else ''}, lower "
        "prune.floor or prune.multiple, cut in more rounds, or skip fewer layers"
    )
