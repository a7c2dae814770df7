"""Prunes any network, given what it takes: one cut, or rounds of cutting and fine-tuning by a loss."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from numbers import Integral
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from compress.allocation import Choice
from compress.budget import Budget, on_the_way
from compress.cost import Cost, cost_of_layers
from compress.criteria import CRITERIA
from compress.evidence import Evidence, Loss, gather
from compress.graph import trace
from compress.groups import Graph
from compress.inputs import Inputs
from compress.latency.engines import Stopwatch
from compress.latency.plan import Course, check_latency
from compress.plan import Plan, Rules
from compress.planning import lacking, limits_of, make_plan, planned, rehearse, rules_of
from compress.reach import check_reachable, smallest_cost
from compress.surgery import cut
from detectors.errors import PlanError
from detectors.modes import evaluating

# Makes an optimizer for some parameters.
Optimiser: TypeAlias = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
SGD: Optimiser = partial(torch.optim.SGD, lr=1e-3, momentum=0.9)


def prune_module(
    model: nn.Module,
    inputs: Inputs,
    *,
    budget: Mapping[str, str | float] | None = None,
    ratio: float | None = None,
    ratios: Mapping[str, float] | None = None,
    criterion: str = "l1",
    choice: Choice = "uniform",
    order: Literal["parallel", "sequential"] = "parallel",
    skip: tuple[str, ...] = (),
    multiple: int = 8,
    floor: float = 0.05,
    largest_cut: float = 0.9,
    caps: Mapping[str, float] | None = None,
    bounds: tuple[float, float] | None = (0.6, 2.0),
    loss: Loss | None = None,
    batches: Iterable[Any] | None = None,
    seed: int = 0,
    stopwatch: Stopwatch | None = None,
) -> nn.Module:
    """A slim copy of any network, cut once and proven equal to the masked one; not fine-tuned.

    Args:
        model: full or slim; left alone. What it returns keeps its shapes.
        inputs: what it takes, batch 1: a tensor, or a tuple or dict of tensors; only shapes count.
        budget: limits on "macs", "params" and "latency_ms": "50%" of the network's own, "800M", or a number.
        ratio: instead of a budget, the share of channels that every group loses.
        ratios: instead of a budget, glob of layers -> share; the first that matches counts, others stay.
        criterion: a name of `compress.criteria.CRITERIA`.
        choice: "uniform", the same share everywhere; "tapered", widths by the power 2/3 of the present ones;
            "global", one ranking by score for cost; "knapsack", the widths that keep most of the scores'
            shares within the budget.
        order: "sequential" scores each layer on weights already narrowed by the layers before it.
        skip: globs of layers to keep whole.
        multiple: widths are multiples of this.
        floor: smallest share of a group that stays.
        largest_cut: largest share of a group that goes.
        caps: glob of layers -> largest share of them that goes.
        bounds: with the knapsack, least and most of the uniform plan's widths; None: any.
        loss: `loss(network, batch)` gives a scalar, a mean over the images of the batch, in evaluation mode;
            with `batches` for the criteria that look at data, such as fisher, and read by no other.
        batches: calibration data in any form that `loss` takes; the first tensor in a batch has a row for
            each image.
        seed: of criteria that draw, and of the network's own draws in `loss`.
        stopwatch: engine, batch, threads and more by which "latency_ms" is measured; None: torch at batch 1.

    Raises:
        PlanError: a budget that cannot be met, settings that contradict each other, or a criterion that lacks
            its data.
    """

    def evidence(graph: Graph) -> Evidence:
        needs = CRITERIA[criterion].needs
        if not needs:
            return Evidence(seed=seed)
        if loss is None or batches is None:
            raise lacking(criterion, "loss=... and batches=..., calibration data that the loss takes")
        return gather(model, graph.groups, batches, loss, needs=needs, normed=graph.normed, seed=seed)

    graph, plan = planned(
        model,
        inputs,
        budget=budget,
        ratio=ratio,
        ratios=ratios,
        criterion=criterion,
        choice=choice,
        order=order,
        rules=rules_of(multiple, floor, largest_cut, skip, caps, bounds),
        evidence=evidence,
        stopwatch=stopwatch,
    )
    return cut(model, graph, plan, inputs)


@dataclass(frozen=True)
class Row:
    """What one round of `shrink` came to.

    Attributes:
        round: from 1; 0 is the network as it was given.
        cost: after the cut.
        score_after_cut: before fine-tuning; None for round 0.
        score: after fine-tuning.
    """

    round: int
    cost: Cost
    score_after_cut: float | None
    score: float


def shrink(
    model: nn.Module,
    inputs: Inputs,
    *,
    budget: Mapping[str, str | float] | None = None,
    ratios: Mapping[str, float] | None = None,
    loss: Callable[[nn.Module, Any], Tensor],
    batches: Iterable[Any],
    score: Callable[[nn.Module], float],
    rounds: int = 1,
    steps: int = 100,
    optimizer: Optimiser = SGD,
    criterion: str = "l1",
    choice: Choice = "uniform",
    rules: Rules | None = None,
    scoring: int = 32,
    seed: int = 0,
    stopwatch: Stopwatch | None = None,
) -> tuple[nn.Module, list[Row]]:
    """Approaches a budget in rounds of cutting and fine-tuning, by equal relative cuts, or cuts by ratios.

    Args:
        model: left alone.
        inputs: as in `prune_module`.
        budget: as in `prune_module`; holds after the last round.
        ratios: as in `prune_module`, in every round, of the widths that it begins with.
        loss: `loss(network, batch)` gives a scalar to minimise; the network is in training mode, and in
            evaluation mode where a criterion asks for gradients.
        batches: of training data, in any form that `loss` takes; read again from the start when they end.
        score: `score(network)` gives a number, higher or lower is better as you like; in evaluation mode.
        rounds: cuts.
        steps: of fine-tuning after each cut.
        optimizer: given the parameters that train, makes an optimizer, anew in every round.
        criterion: as in `prune_module`.
        choice: as in `prune_module`.
        rules: what every cut keeps to, with caps and bounds; None: the defaults of `prune_module`.
        scoring: batches, at most and from the start, that criteria which look at data score on in each round.
        seed: as in `prune_module`.
        stopwatch: as in `prune_module`.

    Returns:
        The slim network, in the modes that the given one is in, and a row for each round from 0.

    Raises:
        PlanError: the budget is out of reach, or nothing can be scored on the batches.
        ValueError: no batches, or a loss that is not finite.
    """
    for name, count, least in (("rounds", rounds, 1), ("steps", steps, 0), ("scoring", scoring, 1)):
        if not isinstance(count, Integral) or count < least:
            raise PlanError(f"{name}={count!r} is not a whole number of {least} or more")
    allowed, slim, watch = rules or Rules(), model, stopwatch or Stopwatch()
    needs = CRITERIA[criterion].needs
    endless = _again_and_again(batches)
    rows: list[Row] = []

    def limits(number: int, graph: Graph) -> Budget:
        found = on_the_way(final, first, number, rounds)
        return found if number == rounds else found.at_least(smallest_cost(graph, allowed))

    def blind(number: int, network: nn.Module, graph: Graph) -> Plan:
        return make_plan(network, graph, limits(number, graph), allowed, ratios=ratios, choice=choice)

    for number in range(1, rounds + 1):
        graph = trace(slim, inputs)
        now = cost_of_layers(graph.layers)
        if not rows:
            first, final = now, limits_of(budget, now)
            allowed = replace(allowed, first_widths={group.name: group.channels for group in graph.groups})
            check_reachable(graph, final, allowed, rounds)
            if final.latency is not None:
                check_latency(Course(model, graph, inputs, model, watch), final.latency, allowed, rounds)
            else:
                rehearse(slim, inputs, graph, final, allowed, rounds, blind)
            rows.append(Row(0, now, None, _scored(score, slim)))
        evidence = partial(Evidence, seed=seed)
        if needs:
            few = itertools.islice(batches, scoring)
            evidence = partial(
                gather, slim, graph.groups, few, loss, needs=needs, normed=graph.normed, seed=seed
            )
        plan = make_plan(
            slim,
            graph,
            limits(number, graph),
            allowed,
            ratios=ratios,
            criterion=criterion,
            choice=choice,
            evidence=evidence,
            course=Course(slim, graph, inputs, model, watch, number == rounds),
        )
        slim = cut(slim, graph, plan, inputs)
        after_cut = _scored(score, slim)
        _fine_tune(slim, loss, itertools.islice(endless, steps), optimizer)
        rows.append(Row(number, plan.after, after_cut, _scored(score, slim)))
    return slim, rows


def _scored(score: Callable[[nn.Module], float], model: nn.Module) -> float:
    with torch.no_grad(), evaluating(model):
        return float(score(model))


def _fine_tune(
    model: nn.Module,
    loss: Callable[[nn.Module, Any], Tensor],
    batches: Iterable[Any],
    optimizer: Optimiser,
) -> None:
    """One step for each batch, in training mode; every module is put back into the mode that it was in."""
    modes = {module: module.training for module in model.modules()}
    steps = optimizer([parameter for parameter in model.parameters() if parameter.requires_grad])
    model.train()
    try:
        for number, batch in enumerate(batches, start=1):
            value = loss(model, batch)
            if not torch.isfinite(value):
                raise ValueError(f"the loss is {value.item()} in step {number}: lower the learning rate")
            steps.zero_grad()
            value.backward()
            steps.step()
    finally:
        for module, mode in modes.items():
            module.training = mode


def _again_and_again(batches: Iterable[Any]) -> Iterator[Any]:
    while True:
        count = 0
        for batch in batches:
            count += 1
            yield batch
        if count == 0:
            raise ValueError(
                "there are no batches, or no more: give a list or a loader, which can be read again"
            )
