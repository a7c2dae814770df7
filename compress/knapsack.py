"""A width for each group so that the least is lost within a budget: a multiple-choice knapsack.

Minimised is the sum over the groups of -log(kept share), where the kept share of a group is the sum of the
scores of its best p channels over the sum of all of them. Sums of raw scores would collapse groups: a layer
costs the product of its two widths, so that giving up one of them makes the other one cheap.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from compress.groups import Group
from compress.plan import Widths
from compress.pricing import Pricing
from compress.reach import Task, filled
from detectors.errors import PlanError

# Sweeps over the groups for one multiplier: each lowers the objective, so they end; 3 to 6 were seen.
_SWEEPS = 50
# Multipliers tried for one bisection: a few powers of 4 to find a bracket, then halvings down to 0.1 %. From
# one balance to the next they move little, so that the bracket is sought by steps of a quarter.
_TRIES, _CLOSE, _NEAR = 24, 2.0**-9, 0.25
# Where several costs are limited, how often their multipliers are balanced.
_BALANCES = 8
# Rounds of exchanges over all groups.
_EXCHANGES = 3
# An improvement below this is rounding.
_LEAST = 1e-12

Losses = Mapping[str, NDArray[np.float64]]
Places = dict[str, int]


def knapsack_widths(
    task: Task, scores: Mapping[str, Tensor], uniform: Widths, bounds: tuple[float, float] | None
) -> Widths:
    """The widths that lose least, as far as the search finds them; never more than the uniform ones lose.

    For a multiplier on each limited cost the groups are gone round, each taking its best option for its
    neighbours' present widths, until nothing changes. The multipliers are bisected over the real cost, then
    single steps are given back until none fits, and steps are exchanged while that loses less.

    Args:
        task: groups, options, limits.
        scores: group -> `[channels]`, 0 or more.
        uniform: widths within the limits, to start from.
        bounds: every width is between these multiples of the uniform one; None: any that the task allows.

    Raises:
        PlanError: a score that is negative or not finite.
    """
    task = _bounded(task, uniform, bounds)
    losses = {
        group.name: _losses(group, scores[group.name], task.options[group.name]) for group in task.groups
    }
    start = {name: task.options[name].index(width) for name, width in uniform.items()}
    pricing = task.pricing()
    found = [start, *_settlements(pricing, task, losses, start)]
    finished = []
    for places in found:
        pricing.move_all(places)
        if _repaired(pricing, task, losses):
            _fill(pricing, task, losses)
            finished.append((_lost(pricing, losses), dict(pricing.places)))
    pricing.move_all(min(finished, key=lambda pair: pair[0])[1])
    _exchange(pricing, task, losses)
    return pricing.widths()


def _bounded(task: Task, uniform: Widths, bounds: tuple[float, float] | None) -> Task:
    if bounds is None:
        return task
    low, high = bounds
    options = {
        name: tuple(
            w for w in widths if low * uniform[name] <= w <= high * uniform[name] or w == uniform[name]
        )
        for name, widths in task.options.items()
    }
    return replace(task, options=options)


def _losses(group: Group, scores: Tensor, options: Sequence[int]) -> NDArray[np.float64]:
    """-log(kept share) at each option, `[K]`; channels without any score share equally."""
    values = scores.double().cpu().numpy()
    bad = values[~(np.isfinite(values) & (values >= 0))]
    if len(bad):
        raise PlanError(
            f"prune.choice=knapsack needs scores of 0 or more, {group.name} has one of {bad[0]}: take "
            "another prune.criterion or prune.choice"
        )
    kept = np.sort(values)[::-1].cumsum()
    if kept[-1] == 0:
        kept = np.arange(1.0, len(values) + 1)
    return -np.log(kept[np.array(options) - 1] / kept[-1])


def _settlements(pricing: Pricing, task: Task, losses: Losses, start: Places) -> Iterator[Places]:
    """What the groups settle on at multipliers that just meet the budget, and at those that just miss it.

    With several limits the multipliers keep their proportions while they are bisected together. Then each is
    lowered by how far its cost stays below its limit, until all bind or what does not bind has no weight.
    """
    weights, before, near = np.ones(len(task.limits)), None, None
    for _ in range(_BALANCES if len(weights) > 1 else 1):
        weights = weights / weights.sum()
        met, missed, near = _bisected(pricing, task, losses, start, weights, near)
        yield from (places for places in (met, missed) if places is not None)
        if met is None or met == before:
            return
        before = met
        pricing.move_all(met)
        weights = weights * np.clip(pricing.total / task.limits, 0.5, 1.0) ** 4


def _bisected(
    pricing: Pricing,
    task: Task,
    losses: Losses,
    start: Places,
    weights: NDArray[np.float64],
    near: float | None,
) -> tuple[Places | None, Places | None, float]:
    """Where groups settle at the least factor of some multipliers that meets the budget, and just below.

    Args:
        pricing: moved.
        task: limits.
        losses: of each group's options.
        start: where the groups settle from.
        weights: `[kinds]`, the multipliers' proportions.
        near: exponent of 2 of a factor that the sought one is near; None: it may be any.

    Returns:
        The two, None where there is none, and the factor's exponent.
    """
    met = missed = low = high = None
    exponent, step = (2.0, 2.0) if near is None else (near, _NEAR)
    for _ in range(_TRIES):
        pricing.move_all(start)
        _settle(pricing, losses, 2.0**exponent * weights / task.limits)
        if task.holds(pricing.total):
            met, high = dict(pricing.places), exponent
        else:
            missed, low = dict(pricing.places), exponent
        if low is None:
            exponent -= step
        elif high is None:
            exponent += step
        elif high - low < _CLOSE:
            break
        else:
            exponent = (low + high) / 2
    return met, missed, exponent


def _settle(pricing: Pricing, losses: Losses, multipliers: NDArray[np.float64]) -> None:
    """Gives each group in turn its best option for its neighbours' present widths, until nothing changes."""
    asked = set(losses)  # whose neighbours moved since it chose
    for _ in range(_SWEEPS):
        for name, lost in losses.items():
            if name not in asked:
                continue
            values = lost + multipliers @ pricing.changes(name)
            best = int(values.argmin())
            if values[best] < values[pricing.places[name]] - _LEAST:
                pricing.move(name, best)
                asked.update(pricing.around(name))
            asked.remove(name)
        if not asked:
            return


def _repaired(pricing: Pricing, task: Task, losses: Losses, but: str | None = None) -> bool:
    """Takes the steps that lose least for what they save of broken limits, until all hold; whether they do.

    Args:
        pricing: moved.
        task: limits.
        losses: of each group's options.
        but: a group that stays as it is.
    """
    while not task.holds(pricing.total):
        broken = (pricing.total > task.limits) / task.limits
        best, rate = "", np.inf
        for name, place in pricing.places.items():
            if place == 0 or name == but:
                continue
            saved = -float(broken @ pricing.changes(name)[:, place - 1])
            lost = losses[name][place - 1] - losses[name][place]
            if saved > 0 and lost / saved < rate:
                best, rate = name, lost / saved
        if not best:
            return False
        pricing.move(best, pricing.places[best] - 1)
    return True


def _fill(pricing: Pricing, task: Task, losses: Losses) -> None:
    """Gives the steps back that regain most for what they cost, until none fits."""

    def priority(name: str, place: int) -> float:
        cost = float((pricing.changes(name)[:, place + 1] / task.limits).sum())
        return (losses[name][place + 1] - losses[name][place]) / max(cost, _LEAST)

    filled(pricing, task, priority)


def _exchange(pricing: Pricing, task: Task, losses: Losses) -> None:
    """Moves each group by a step, pays or spends the difference elsewhere, and keeps what loses less."""
    lost = _lost(pricing, losses)
    for _ in range(_EXCHANGES):
        before = lost
        for name in losses:
            for step in (1, -1):
                kept = dict(pricing.places)
                place = kept[name] + step
                if not 0 <= place < len(losses[name]):
                    continue
                pricing.move(name, place)
                if _repaired(pricing, task, losses, but=name):
                    _fill(pricing, task, losses)
                    now = _lost(pricing, losses)
                    if now < lost - _LEAST:
                        lost = now
                        continue
                pricing.move_all(kept)
        if lost == before:
            return


def _lost(pricing: Pricing, losses: Losses) -> float:
    return float(sum(losses[name][place] for name, place in pricing.places.items()))
