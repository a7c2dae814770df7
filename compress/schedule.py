"""How a budget is approached over the rounds of a run, and what one round cuts."""

from dataclasses import asdict, replace
from pathlib import Path

from torch import nn

from compress.allocation import check_choice
from compress.budget import Budget, on_the_way, parse_budget
from compress.calibration import evidence_of
from compress.cost import Cost, cost_of_layers, subject
from compress.criteria import CRITERIA
from compress.evidence import Evidence
from compress.graph import trace
from compress.groups import Graph
from compress.latency.engines import Stopwatch
from compress.latency.plan import Course, check_latency
from compress.plan import Plan, Rules
from compress.planning import check_order, make_plan, rehearse
from compress.reach import check_reachable, smallest_cost
from compress.recipe import BudgetConfig, PruneConfig, Recipe
from detectors.data import Dataset
from detectors.engine.distributed import Place, led
from detectors.errors import PlanError
from detectors.models.base import Detector


def check(
    recipe: Recipe, detector: Detector, place: Place | None = None, stopwatch: Stopwatch | None = None
) -> None:
    """Raises PlanError for what can be known of a run to be impossible before anything slow begins.

    A criterion that needs data is stood in for by one that does not. Of budgets in milliseconds it is seen
    whether the smallest network is quick enough; the plan itself would need the table.
    """
    settings = recipe.prune
    graph = trace(*subject(detector))
    if settings.stop_below is not None:
        least_score(settings.stop_below, 1.0)
    first = cost_of_layers(graph.layers)
    _check_rounds(settings, first, graph)
    watch = stopwatch or stopwatch_of(recipe)
    watch.check()
    budgets = [budget_of_round(settings, first, number) for number in range(1, settings.rounds + 1)]
    if budgets[0].latency is None:
        criterion = "l1" if CRITERIA[settings.criterion].needs else settings.criterion
        widths = {group.name: group.channels for group in graph.groups}

        def plan(number: int, network: nn.Module, graph: Graph) -> Plan:
            blind = replace(settings, criterion=criterion)
            return _planned(blind, number, network, graph, (first, widths), Evidence())

        plan(1, subject(detector)[0], graph)
        rehearse(*subject(detector), graph, budgets[-1], _rules(settings), settings.rounds, plan)
    else:
        check_choice(
            budgets[0],
            choice=settings.choice,
            order=settings.order,
            ratio=settings.ratio,
            ratios=settings.ratios,
        )
    check_order(settings.order, settings.criterion)
    if place is not None and not place.leads:
        return  # timed at once, the processes would slow each other
    network, inputs = subject(detector)
    course = Course(network, graph, inputs, network, watch)
    for number, budget in enumerate(budgets, start=1):
        if budget.latency is not None and (number == settings.rounds or settings.budgets):
            check_latency(course, budget.latency, _rules(settings), number)


def stopwatch_of(recipe: Recipe, table: Path | None = None) -> Stopwatch:
    """How a recipe wants times to be taken; the layers' are kept in `table` where it names no file."""
    how = recipe.prune.latency
    return Stopwatch(how.engine, how.batch, how.threads, how.runs, Path(how.table) if how.table else table)


def plan_round(
    recipe: Recipe,
    number: int,
    detector: Detector,
    training: Dataset,
    place: Place,
    first: tuple[Cost, dict[str, int]] | None = None,
    clocked: tuple[nn.Module, Stopwatch] | None = None,
) -> tuple[Graph, Plan]:
    """The graph of a detector, and what a round cuts from it.

    Args:
        recipe: of the run.
        number: of the round, from 1.
        detector: as the round before left it.
        training: images that the criterion may look at.
        place: this process.
        first: cost, which shares refer to, and channels of each group of the run's first model; None: the
            detector is that model.
        clocked: for budgets in milliseconds, the network of the run's first model and what takes the times;
            None: the detector's, as the recipe says.

    Raises:
        PlanError: the budget cannot be met, or the criterion cannot serve this detector.
    """
    graph = trace(*subject(detector))
    evidence = evidence_of(recipe, detector, graph, training, place)
    network, inputs = subject(detector)
    whole, watch = clocked or (network, stopwatch_of(recipe))
    final = number == recipe.prune.rounds or bool(recipe.prune.budgets)
    course = Course(network, graph, inputs, whole, watch, final)

    def plan() -> Plan:
        return _planned(recipe.prune, number, network, graph, first, evidence, course)

    # Two processes would not measure the same, and so plan differently.
    return graph, led(plan, place)


def _planned(
    settings: PruneConfig,
    number: int,
    network: nn.Module,
    graph: Graph,
    first: tuple[Cost, dict[str, int]] | None,
    evidence: Evidence,
    course: Course | None = None,
) -> Plan:
    first_cost, first_widths = first or (cost_of_layers(graph.layers), None)
    rules = _rules(settings, first_widths)
    budget = budget_of_round(settings, first_cost, number)
    if number < settings.rounds and not settings.budgets:
        # A limit on the way is no promise: where it is out of reach, the round goes as far as it can.
        budget = budget.at_least(smallest_cost(graph, rules))
    return make_plan(
        network,
        graph,
        budget,
        rules,
        ratio=settings.ratio,
        ratios=settings.ratios,
        criterion=settings.criterion,
        choice=settings.choice,
        order=settings.order,
        evidence=lambda: evidence,
        course=course,
    )


def least_score(text: str, first: float) -> float:
    """What a round must score: "0.5", or "95%" of the first model's score.

    Raises:
        PlanError: anything else.
    """
    share = text.strip().endswith("%")
    try:
        value = float(text.strip().removesuffix("%")) / (100 if share else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise PlanError(f"prune.stop_below={text!r} is no score; write 0.5, or 95% of the first model's")
    return value * first if share else value


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
    last: dict[str, float] = {}
    for number in range(1, settings.rounds + 1):
        if number < settings.rounds and not settings.budgets:
            continue
        budget = budget_of_round(settings, first, number)
        for kind, limit in _comparable(budget).items():
            if limit > last.get(kind, limit):
                raise PlanError(
                    f"prune.budgets[{number - 1}].{kind}={limit:,} is above the {last[kind]:,} of an "
                    "earlier round: what is cut does not come back; let the budgets fall"
                )
            last |= {kind: limit}
        check_reachable(graph, budget, _rules(settings), number)


def _comparable(budget: Budget) -> dict[str, float]:
    """The limits by kind, of which those of two rounds can be compared: milliseconds with milliseconds."""
    counted = {kind: limit for kind, limit in budget.limits().items() if limit is not None}
    time = budget.latency
    if time is None:
        return counted
    return counted | ({"latency_ms": time.ms} if time.ms else {"latency_ms (share)": time.share or 0})


def _limits(settings: BudgetConfig, first: Cost, key: str) -> Budget:
    texts = {kind: text for kind, text in asdict(settings).items() if text is not None}
    return parse_budget(texts, first, key)
