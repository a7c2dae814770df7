"""What an allocation chooses from, what it can reach at all, and the steps that it gives back at the end."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compress.budget import Budget
from compress.cost import Cost
from compress.groups import Graph, Group
from compress.plan import Rules, check_globs, selectable
from compress.pricing import PRICES, Price, Pricing, priced
from detectors.errors import PlanError, counted, some


@dataclass(frozen=True)
class Task:
    """What an allocation chooses from, and what it keeps to.

    Attributes:
        graph: of the network.
        groups: those that may shrink, in the order of execution.
        options: group -> widths that the rules allow, ascending, up to the present one.
        limits: `[kinds]` float64, of each cost that is limited.
        prices: kind of cost -> price, for these kinds.
    """

    graph: Graph
    groups: tuple[Group, ...]
    options: Mapping[str, tuple[int, ...]]
    limits: NDArray[np.float64]
    prices: Mapping[str, Price]

    def pricing(self) -> Pricing:
        """The network with every group at its present width."""
        return Pricing(self.graph, self.options, self.prices)

    def holds(self, cost: NDArray[np.float64]) -> bool:
        """Whether a cost `[kinds]` is within every limit."""
        return bool((cost <= self.limits).all())


def task_of(graph: Graph, budget: Budget, rules: Rules, prices: Mapping[str, Price] = PRICES) -> Task:
    """What there is to allocate; raises PlanError for a glob without layers or a budget out of reach."""
    task = _task(graph, budget, rules, prices)
    check_reachable(graph, budget, rules, prices=prices)
    return task


def smallest_cost(graph: Graph, rules: Rules) -> Cost:
    """What the network costs with every group at the least width that the rules allow."""
    return priced(graph, {group.name: rules.options(group)[0] for group in selectable(graph, rules.skip)})


def check_reachable(
    graph: Graph, budget: Budget, rules: Rules, rounds: int = 1, prices: Mapping[str, Price] = PRICES
) -> None:
    """Raises PlanError, naming the smallest cost that so many rounds can reach, if that is too high."""
    task = _task(graph, budget, rules.over(rounds), prices)
    pricing = task.pricing()
    now = pricing.total
    pricing.move_all(dict.fromkeys(task.options, 0))
    if task.holds(pricing.total):
        return
    place = int(np.argmax(pricing.total > task.limits))
    kind = pricing.kinds[place]
    limit, smallest, whole = (float(costs[place]) for costs in (task.limits, pricing.total, now))
    caps = f", prune.caps of {some(list(rules.caps))}" if rules.caps else ""
    raise PlanError(
        f"budget {kind}={_number(limit)} is out of reach: with floor={rules.floor}, largest_cut="
        f"{rules.largest_cut} in each of {counted(rounds, 'round')}, multiple={rules.multiple}{caps} and "
        f"{len(task.groups)} of {len(graph.groups)} groups free to shrink, the smallest plan keeps "
        f"{_number(smallest)} ({smallest / whole:.1%} of the present {_number(whole)}). Raise the budget"
        f"{' or prune.caps' if rules.caps else ''}, lower prune.floor or prune.multiple, cut in more rounds, "
        "or skip fewer layers"
    )


def filled(pricing: Pricing, task: Task, priority: Callable[[str, int], float]) -> None:
    """Gives single steps back until none fits.

    Args:
        pricing: the widths to begin with, within the budget; moved.
        task: limits.
        priority: (group, place among its options) -> the lower, the sooner its next step is given back;
            among equals the group that runs first.
    """

    def fits(name: str) -> bool:
        place = pricing.places[name] + 1
        wider = place < len(pricing.options[name])
        return wider and task.holds(pricing.total + pricing.changes(name)[:, place])

    # A step that does not fit hardly will later, since costs mostly grow: once all is done it is asked again.
    while fitting := {name: priority(name, place) for name, place in pricing.places.items() if fits(name)}:
        while fitting:
            name = min(fitting, key=fitting.__getitem__)
            if not fits(name):
                del fitting[name]
                continue
            pricing.move(name, pricing.places[name] + 1)
            for other in pricing.around(name):
                place = pricing.places[other]
                if other in fitting and place + 1 < len(pricing.options[other]):
                    fitting[other] = priority(other, place)


def _task(graph: Graph, budget: Budget, rules: Rules, prices: Mapping[str, Price]) -> Task:
    groups = selectable(graph, rules.skip)
    check_globs(graph, "prune.caps", rules.caps, rules)
    limits = {kind: float(limit) for kind, limit in budget.limits().items() if limit is not None}
    return Task(
        graph,
        tuple(groups),
        {group.name: tuple(rules.options(group)) for group in groups},
        np.array(list(limits.values())),
        {kind: prices[kind] for kind in limits},
    )


def _number(cost: float) -> str:
    """Whole numbers as such, others to three places."""
    return f"{int(cost):,}" if cost == int(cost) else f"{cost:,.3f}"
