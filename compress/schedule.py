"""How a budget is approached over the rounds of a run, and what one round cuts."""

from dataclasses import asdict

from compress.budget import Budget, on_the_way, parse_limit
from compress.cost import Cost, subject
from compress.graph import trace
from compress.groups import Graph
from compress.module import make_plan
from compress.plan import Plan, Rules
from compress.reach import check_reachable, smallest_cost
from compress.recipe import BudgetConfig, PruneConfig
from detectors.errors import PlanError
from detectors.models.base import Detector


def plan_round(
    settings: PruneConfig,
    number: int,
    detector: Detector,
    first_cost: Cost,
    first_widths: dict[str, int] | None = None,
) -> tuple[Graph, Plan]:
    """The graph of a detector, and what a round cuts from it.

    Args:
        settings: of the run.
        number: of the round, from 1.
        detector: as the round before left it.
        first_cost: of the run's first model; shares refer to it.
        first_widths: channels of each group of that model; None: the detector is that model.

    Raises:
        PlanError: the budget cannot be met.
    """
    network, inputs = subject(detector)
    graph = trace(network, inputs)
    if number == 1:
        # Asked where it can be told, not after the fine-tuning of all rounds but the last.
        _check_rounds(settings, first_cost, graph)
    rules = _rules(settings, first_widths)
    budget = budget_of_round(settings, first_cost, number)
    if number < settings.rounds and not settings.budgets:
        # A limit on the way is no promise: where it is out of reach, the round goes as far as it can.
        budget = budget.at_least(smallest_cost(graph, rules))
    plan = make_plan(
        network,
        graph,
        budget,
        rules,
        ratio=settings.ratio,
        ratios=settings.ratios,
        criterion=settings.criterion,
        choice=settings.choice,
        order=settings.order,
    )
    return graph, plan


def budget_of_round(settings: PruneConfig, first: Cost, number: int) -> Budget:
    """The limits of one round: given, or each round keeps the same share of what the one before was allowed.

    Args:
        settings: the budget of each round, or the final budget and the number of rounds.
        first: cost of the run's first model, which shares refer to.
        number: of the round, from 1.
    """
    if settings.budgets:
        return _limits(settings.budgets[number - 1], first, f"prune.budgets[{number - 1}]")
    return on_the_way(_limits(settings.budget, first, "prune.budget"), first, number, settings.rounds)


def _rules(settings: PruneConfig, first_widths: dict[str, int] | None = None) -> Rules:
    return Rules(
        settings.multiple,
        settings.floor,
        settings.largest_cut,
        tuple(settings.skip),
        first_widths,
        settings.caps,
        None if settings.bounds is None else (settings.bounds[0], settings.bounds[1]),
    )


def _check_rounds(settings: PruneConfig, first: Cost, graph: Graph) -> None:
    """Raises PlanError for a budget that its rounds cannot reach, or that is above an earlier one."""
    last: dict[str, int] = {}
    for number in range(1, settings.rounds + 1):
        if number < settings.rounds and not settings.budgets:
            continue
        budget = budget_of_round(settings, first, number)
        for kind, limit in budget.limits().items():
            if limit is not None and limit > last.get(kind, limit):
                raise PlanError(
                    f"prune.budgets[{number - 1}].{kind}={limit:,} is above the {last[kind]:,} of an "
                    "earlier round: what is cut does not come back; let the budgets fall"
                )
            last |= {kind: limit} if limit is not None else {}
        check_reachable(graph, budget, _rules(settings), number)


def _limits(settings: BudgetConfig, first: Cost, key: str) -> Budget:
    texts = {kind: text for kind, text in asdict(settings).items() if text is not None}
    return Budget(**{k: parse_limit(text, getattr(first, k), f"{key}.{k}") for k, text in texts.items()})
