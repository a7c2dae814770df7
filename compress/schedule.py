"""How a budget is approached over the rounds of a run, and what one round cuts."""

from dataclasses import asdict

from compress.budget import Budget, on_the_way, parse_limit
from compress.cost import Cost, subject
from compress.graph import trace
from compress.groups import Graph
from compress.module import make_plan
from compress.plan import Plan, Rules, check_reachable, smallest_cost
from compress.recipe import PruneConfig
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
        rules = Rules(settings.multiple, settings.floor, settings.largest_cut, tuple(settings.skip))
        final = budget_of_round(settings, first_cost, settings.rounds)
        check_reachable(graph, final, rules, settings.rounds)
    rules = Rules(settings.multiple, settings.floor, settings.largest_cut, tuple(settings.skip), first_widths)
    budget = budget_of_round(settings, first_cost, number)
    if number < settings.rounds:
        # A limit on the way is no promise: where it is out of reach, the round goes as far as it can.
        budget = budget.at_least(smallest_cost(graph, rules))
    plan = make_plan(
        network,
        graph,
        budget,
        rules,
        ratio=settings.ratio,
        criterion=settings.criterion,
        choice=settings.choice,
        order=settings.order,
    )
    return graph, plan


def budget_of_round(settings: PruneConfig, first: Cost, number: int) -> Budget:
    """The limits of one round: each round keeps the same share of what the round before was allowed.

    Args:
        settings: the final budget and the number of rounds.
        first: cost of the run's first model, which shares refer to.
        number: of the round, from 1.
    """
    texts = {kind: text for kind, text in asdict(settings.budget).items() if text is not None}
    final = Budget(**{kind: parse_limit(text, getattr(first, kind), kind) for kind, text in texts.items()})
    return on_the_way(final, first, number, settings.rounds)
