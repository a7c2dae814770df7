"""How wide each group stays: by a share, tapered, by shares of layers, by one ranking, or by a knapsack."""

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Literal, TypeAlias, get_args

import numpy as np
from torch import Tensor

from compress.budget import Budget
from compress.groups import Graph, Group
from compress.knapsack import knapsack_widths
from compress.plan import Rules, Widths, check_globs, is_share, names, selectable
from compress.pricing import PRICES, Price
from compress.reach import Task, filled, task_of
from detectors.errors import PlanError
from detectors.registry import did_you_mean

Choice: TypeAlias = Literal["uniform", "tapered", "global", "knapsack"]
CHOICES: tuple[str, ...] = get_args(Choice)
# Those that look at no scores.
_BLIND = ("uniform", "tapered")
ORDERS = ("parallel", "sequential")

# The power of its first width that a tapered group's width follows.
TAPER = 2 / 3

Scores = Mapping[str, Tensor]


def allocate(
    graph: Graph,
    scores: Callable[[], Scores],
    budget: Budget,
    rules: Rules,
    *,
    choice: str = "uniform",
    ratio: float | None = None,
    ratios: Mapping[str, float] | None = None,
    comparable: bool = False,
    prices: Mapping[str, Price] = PRICES,
) -> Widths:
    """The width of every group that may be cut.

    Args:
        graph: of the network.
        scores: called only where the choice rests on scores; group -> `[channels]` float64, 0 or more, the
            higher the better.
        budget: limits; none with a ratio or ratios.
        rules: what every plan keeps to.
        choice: a name of `CHOICES`.
        ratio: see `ratio_widths`.
        ratios: see `layer_ratio_widths`.
        comparable: see `global_widths`.
        prices: kind of cost -> price of a layer, for every kind that the budget limits.

    Raises:
        PlanError: a budget out of reach, or settings that `check_choice` refuses.
    """
    check_choice(budget, choice=choice, ratio=ratio, ratios=ratios)
    if ratio is not None:
        return ratio_widths(graph, ratio, rules)
    if ratios:
        return layer_ratio_widths(graph, ratios, rules)
    if choice == "uniform":
        return uniform_widths(graph, budget, rules, prices)
    if choice == "tapered":
        return tapered_widths(graph, budget, rules, prices)
    if choice == "global":
        return global_widths(graph, scores(), budget, rules, comparable=comparable, prices=prices)
    task = task_of(graph, budget, rules, prices)
    return knapsack_widths(task, scores(), _proportional(task), rules.bounds)


def check_choice(
    budget: Budget,
    *,
    choice: str,
    order: str = "parallel",
    ratio: float | None = None,
    ratios: Mapping[str, float] | None = None,
) -> None:
    """Raises PlanError for settings that are unknown or contradict each other."""
    for key, value, known in (("choice", choice, CHOICES), ("order", order, ORDERS)):
        if value not in known:
            raise PlanError(f"prune.{key}={value!r} is unknown{did_you_mean(str(value), known)}")
    if ratios is not None and not isinstance(ratios, Mapping):
        raise PlanError(f"prune.ratios={ratios!r} names no layers; write {{'*': {ratios!r}}} or prune.ratio")
    limited = budget.given
    told = {"a budget": limited, "prune.ratio": ratio is not None, "prune.ratios": bool(ratios)}
    given = [key for key, there in told.items() if there]
    if len(given) != 1:
        raise PlanError(
            "give either a budget (prune.budget.macs=50%, prune.budget.params=8M), prune.ratio or "
            "prune.ratios" + (f", and not both {' and '.join(given)}" if given else "")
        )
    if choice not in _BLIND and order == "sequential":
        raise PlanError(
            f"prune.order=sequential needs prune.choice={' or '.join(_BLIND)}: {choice} cannot wait for the "
            "layers before"
        )
    if choice != "uniform" and not limited:
        raise PlanError(
            f"{given[0]} says by itself what goes where; for prune.choice={choice} give a budget instead"
        )


def check_cuts(graph: Graph, widths: Widths, rules: Rules) -> None:
    """Raises PlanError for shares by which no group of the first model becomes narrower."""
    first = rules.first_widths or {}
    whole = all(group.channels == first.get(group.name, group.channels) for group in graph.groups)
    if whole and all(widths.get(group.name, group.channels) == group.channels for group in graph.groups):
        raise PlanError(
            f"these shares cut nothing: with multiple={rules.multiple}, floor={rules.floor}, largest_cut="
            f"{rules.largest_cut} and {len(widths)} of {len(graph.groups)} groups free to shrink, none has a "
            "narrower width to go to; raise the shares, lower prune.multiple, or skip fewer layers"
        )


def ratio_widths(graph: Graph, ratio: float, rules: Rules) -> Widths:
    """Every group loses floor(ratio * n) channels, as in 2018, rounded up to the next width allowed."""
    check_globs(graph, "prune.caps", rules.caps, rules)
    _check_ratio("prune.ratio=", ratio)
    return {group.name: _left(group, ratio, rules) for group in selectable(graph, rules.skip)}


def layer_ratio_widths(graph: Graph, ratios: Mapping[str, float], rules: Rules) -> Widths:
    """Every group loses the share of the first glob, as written, that matches a layer of it; others stay.

    Args:
        graph: of the network.
        ratios: glob of layers -> share of their channels, 0 to below 1, as in `ratio_widths`.
        rules: what every plan keeps to.

    Raises:
        PlanError: a glob that matches no layer, or only such as are never cut or as globs before it take.
    """
    for key, globs in (("prune.ratios", ratios), ("prune.caps", rules.caps)):
        check_globs(graph, key, globs, rules)
    for pattern, ratio in ratios.items():
        _check_ratio(f"prune.ratios: {pattern!r}: ", ratio)
    free = selectable(graph, rules.skip)
    matching = {group.name: [glob for glob in ratios if names(glob, group)] for group in free}
    deciding = {globs[0] for globs in matching.values() if globs}
    for first, *others in filter(None, matching.values()):
        for pattern in others:
            if pattern not in deciding:
                raise PlanError(
                    f"prune.ratios: {pattern!r} decides nothing: {first!r}, which stands before it, names "
                    "its layers too, and the first glob that matches counts; write the narrower one first"
                )
    return {
        group.name: _left(group, ratios[matching[group.name][0]] if matching[group.name] else 0.0, rules)
        for group in free
    }


def uniform_widths(
    graph: Graph, budget: Budget, rules: Rules, prices: Mapping[str, Price] = PRICES
) -> Widths:
    """The same share of every group, as large as the budget allows.

    The share is bisected; then groups get single steps back, those furthest below the share first, until none
    fits.

    Raises:
        PlanError: no width within the rules meets the budget.
    """
    return _proportional(task_of(graph, budget, rules, prices))


def tapered_widths(
    graph: Graph, budget: Budget, rules: Rules, prices: Mapping[str, Price] = PRICES
) -> Widths:
    """Widths in proportion to the power 2/3 of the first ones, as large as the budget allows.

    A narrow layer loses a smaller share than a wide one. If the error of a layer of width w falls as 1 / w
    and its cost grows as a w^2, the sum of the errors within a budget is least where w^3 goes as 1 / a. In
    networks whose layers cost about the same, such as VGG, a goes as one over the square of the first width.

    Raises:
        PlanError: no width within the rules meets the budget.
    """
    task = task_of(graph, budget, rules, prices)
    # A slim network is tapered no further: its widths are.
    first = rules.first_widths or {}
    # Filters, of which a channel of the group may stand for several.
    filters = {group.name: group.size * first.get(group.name, group.channels) for group in task.groups}
    widest = max(filters.values(), default=1)
    wholes = {
        group.name: filters[group.name] ** TAPER * widest ** (1 - TAPER) / group.size for group in task.groups
    }
    return _proportional(task, wholes)


def global_widths(
    graph: Graph,
    scores: Scores,
    budget: Budget,
    rules: Rules,
    *,
    comparable: bool = False,
    prices: Mapping[str, Price] = PRICES,
) -> Widths:
    """One ranking of the steps of all groups: the least worth for what they cost go first.

    What a step is worth is the sum of its channels' scores divided by the cost that it saves: the share of
    each limit, summed over the limits, with all other groups as they are. So of two layers with equal scores
    the dearer one is cut first. Within a group no step goes before the one above it. Once the budget holds,
    steps are given back, the most valuable first, until none fits.

    Args:
        graph: of the network.
        scores: group -> `[channels]`, 0 or more.
        budget: limits.
        rules: what every plan keeps to.
        comparable: whether scores of different groups have one unit, as those of Taylor and Fisher, which
            estimate what the loss would gain. Magnitudes have not: they are divided by their group's mean.
        prices: as in `allocate`.

    Raises:
        PlanError: no width within the rules meets the budget.
    """
    task = task_of(graph, budget, rules, prices)
    pricing = task.pricing()
    worth: dict[str, np.ndarray] = {}
    steps = []
    for order, group in enumerate(task.groups):
        kept = np.sort(scores[group.name].double().cpu().numpy())[::-1]
        if not comparable:
            kept = kept / max(kept.mean(), np.finfo(np.float64).tiny)
        widths = pricing.options[group.name]
        gains = np.diff(np.concatenate([[0.0], kept.cumsum()])[widths])
        saved = np.diff((pricing.changes(group.name) / task.limits[:, None]).sum(axis=0))
        each = np.divide(gains, saved, out=np.full(len(gains), np.inf), where=saved > 0)
        # A step can only go after the one above it, so it is worth at least as much.
        worth[group.name] = np.maximum.accumulate(each[::-1])[::-1]
        steps += [
            (value, order, -below, group.name) for below, value in enumerate(worth[group.name].tolist())
        ]
    steps.sort()

    def go(count: int) -> None:
        left = {name: len(widths) - 1 for name, widths in pricing.options.items()}
        for _, _, below, name in steps[:count]:
            left[name] = -below
        pricing.move_all(left)

    low, high = 0, len(steps)
    while low < high:
        middle = (low + high) // 2
        go(middle)
        low, high = (low, middle) if task.holds(pricing.total) else (middle + 1, high)
    go(low)
    filled(pricing, task, lambda name, place: -worth[name][place])
    return pricing.widths()


def _proportional(task: Task, wholes: Mapping[str, float] | None = None) -> Widths:
    """The same share of `wholes` for every group.

    The share is bisected; then single steps are given back, those furthest below the share first.

    Args:
        task: groups, options, limits.
        wholes: group -> channels of its own, no fewer than it has; None: those that it has.
    """
    wholes = wholes or {group.name: float(group.channels) for group in task.groups}
    pricing = task.pricing()

    def go(share: float) -> None:
        for name, widths in pricing.options.items():
            far = np.abs(widths - share * wholes[name])[::-1]
            pricing.move(name, len(widths) - 1 - int(far.argmin()))  # the wider of two as near

    low, high = 0.0, 1.0
    go(high)
    if task.holds(pricing.total):
        low = high
    for _ in range(40 if low < high else 0):
        middle = (low + high) / 2
        go(middle)
        low, high = (middle, high) if task.holds(pricing.total) else (low, middle)
    go(low)  # go(0) is the least width of every group, which task_of has found within the budget
    filled(pricing, task, lambda name, place: float(pricing.options[name][place]) / wholes[name])
    return pricing.widths()


def _left(group: Group, ratio: float, rules: Rules) -> int:
    kept = group.channels - int(Decimal(str(ratio)) * group.channels)
    return min(option for option in rules.options(group) if option >= kept)


def _check_ratio(key: str, ratio: float) -> None:
    if not is_share(ratio) or ratio == 1:
        raise PlanError(f"{key}{ratio!r} is not a share from 0 to below 1, such as 0.3")
