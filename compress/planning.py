"""From settings as a caller writes them to the plan of one cut, for any network."""

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import cast

import torch
from torch import Tensor, nn

from compress.allocation import allocate, check_choice, check_cuts
from compress.budget import Budget, parse_budget
from compress.cost import Cost, cost_of_layers
from compress.criteria import CRITERIA
from compress.evidence import Evidence
from compress.graph import trace
from compress.groups import Graph, Group
from compress.inputs import Inputs
from compress.latency.engines import Stopwatch
from compress.latency.plan import Course, fitted
from compress.plan import Plan, Rules, plan_of, selectable
from compress.pricing import PRICES, Price
from compress.probe import narrowed, zeroed
from compress.reach import check_reachable
from detectors.errors import PlanError, counted


def planned(
    network: nn.Module,
    inputs: Inputs,
    *,
    budget: Mapping[str, str | float] | None,
    ratio: float | None,
    ratios: Mapping[str, float] | None,
    criterion: str,
    choice: str,
    order: str,
    rules: Rules,
    evidence: Callable[[Graph], Evidence],
    stopwatch: Stopwatch | None,
) -> tuple[Graph, Plan]:
    """The groups of a network and what stays of them; arguments as in `prune_module`.

    `evidence` measures what the criterion needs, once the other settings are found to be in order.
    """
    graph = trace(network, inputs)
    limits = limits_of(budget, cost_of_layers(graph.layers))
    course = Course(network, graph, inputs, network, stopwatch or Stopwatch())
    plan = make_plan(
        network,
        graph,
        limits,
        rules,
        ratio=ratio,
        ratios=ratios,
        criterion=criterion,
        choice=choice,
        order=order,
        evidence=lambda: evidence(graph),
        course=course,
    )
    return graph, plan


def make_plan(
    network: nn.Module,
    graph: Graph,
    budget: Budget,
    rules: Rules,
    *,
    ratio: float | None = None,
    ratios: Mapping[str, float] | None = None,
    criterion: str = "l1",
    choice: str = "uniform",
    order: str = "parallel",
    evidence: Callable[[], Evidence] = Evidence,
    course: Course | None = None,
) -> Plan:
    """Scores the groups of a network and chooses what stays; arguments as in `prune_module`.

    `evidence` is called when scores are first asked for, which is after the budget was found within reach;
    a budget in milliseconds needs a `course`.
    """
    check_choice(budget, choice=choice, order=order, ratio=ratio, ratios=ratios)
    check_order(order, criterion)
    score, found = CRITERIA[criterion], cache(evidence)

    def scored(model: nn.Module, group: Group) -> Tensor:
        values = score(model, group, found())
        if not bool(torch.isfinite(values).all()):
            raise PlanError(
                f"{criterion} gives {group.name} a score that is not finite: no ranking would mean anything; "
                "check checkpoint and data, or take another criterion"
            )
        return values

    groups = {group.name: group for group in graph.groups}
    # Corrected plans ask again and again.
    score_of = cache(lambda name: scored(network, groups[name]))

    def all_scores() -> dict[str, Tensor]:
        return {group.name: score_of(group.name) for group in selectable(graph, rules.skip)}

    def scores(group: Group, keep: dict[str, tuple[int, ...]]) -> Tensor:
        if order == "sequential" and keep:
            return scored(zeroed(network, graph.groups, keep), group)
        return score_of(group.name)

    def made(limits: Budget, allowed: Rules, prices: Mapping[str, Price]) -> Plan:
        widths = allocate(
            graph,
            all_scores,
            limits,
            allowed,
            choice=choice,
            ratio=ratio,
            ratios=ratios,
            comparable=score.comparable,
            prices=prices,
        )
        if not budget.given:
            check_cuts(graph, widths, allowed)
        return plan_of(graph, widths, scores)

    if budget.latency is None:
        return made(budget, rules, PRICES)
    assert course is not None, "a budget in milliseconds is planned by the clock"
    return fitted(course, budget, rules, made)


def rehearse(
    network: nn.Module,
    inputs: Inputs,
    graph: Graph,
    final: Budget,
    rules: Rules,
    rounds: int,
    plan: Callable[[int, nn.Module, Graph], Plan],
) -> None:
    """Plans all rounds on networks that are not fine-tuned in between, where the last one could fail.

    It cannot where a single cut would reach its budget. Else the limits on the way may leave more than
    `rules.largest_cut` takes in what is left.

    Args:
        network: as it is before the first round.
        inputs: what it takes.
        graph: of it.
        final: the budget of the last round.
        rules: what every plan keeps to.
        rounds: how many.
        plan: that of a round, by its number from 1, for a network and its graph.

    Raises:
        PlanError: a round cannot be planned.
    """
    try:
        check_reachable(graph, final, rules)
    except PlanError:
        for number in range(1, rounds + 1):
            try:
                made = plan(number, network, graph)
            except PlanError as error:
                raise PlanError(f"after {counted(number - 1, 'round')}, {error}") from None
            network = narrowed(network, graph.groups, made.keep)
            graph = trace(network, inputs)


def check_order(order: str, criterion: str) -> None:
    """Raises PlanError for an order that a criterion would not follow."""
    if order == "sequential" and CRITERIA[criterion].needs:
        raise PlanError(
            f"prune.order=sequential scores weights anew after each layer, and {criterion} looks at data "
            "measured before; write prune.order=parallel, or take a criterion of weights alone, such as l1"
        )


def limits_of(budget: Mapping[str, str | float] | None, cost: Cost) -> Budget:
    """A budget as a caller writes it, in numbers; shares are of `cost`. Raises PlanError for what is none."""
    if budget is None:
        return Budget()
    if not isinstance(budget, Mapping):
        raise PlanError(
            f"budget={budget!r} does not say of which cost; write budget={{'macs': '50%'}}, "
            "budget={'params': '8M'} or budget={'latency_ms': 12}, or several"
        )
    unknown = set(budget) - {"macs", "params", "latency_ms"}
    if unknown:
        raise PlanError(
            f"budget: unknown cost {min(map(str, unknown))!r}; there are macs, params and latency_ms"
        )
    return parse_budget(budget, cost, "prune.budget")


def rules_of(
    multiple: int,
    floor: float,
    largest_cut: float,
    skip: Iterable[str],
    caps: Mapping[str, float] | None,
    bounds: tuple[float, float] | None,
) -> Rules:
    """What every plan keeps to, from the arguments of `prune_module`."""
    globs = skip if isinstance(skip, str) or not isinstance(skip, Iterable) else tuple(skip)
    given = {} if caps is None else caps
    return Rules(multiple, floor, largest_cut, cast(tuple[str, ...], globs), None, given, bounds)


def lacking(criterion: str, what: str) -> PlanError:
    """The error for a criterion that looks at data where none are given."""
    plain = ", ".join(name for name in CRITERIA.names() if not CRITERIA[name].needs)
    return PlanError(
        f"criterion={criterion!r} looks at calibration data: give {what}; or take one that looks at weights "
        f"alone: {plain}"
    )
