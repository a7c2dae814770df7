"""One cut of a detector, from recipe settings to a proven slim copy."""

import copy
from collections.abc import Mapping
from typing import Literal

from torch import Tensor, nn

from compress.budget import Budget, parse_limit
from compress.cost import cost_of_layers, subject
from compress.criteria import CRITERIA
from compress.graph import Graph, Group, trace
from compress.plan import Plan, Rules, Widths, global_widths, plan_of, ratio_widths, uniform_widths
from compress.surgery import cut, masked
from detectors.checkpoint import fingerprint
from detectors.errors import PlanError
from detectors.models.base import Detector
from detectors.registry import did_you_mean

CHOICES = ("uniform", "global")
ORDERS = ("parallel", "sequential")


def prune(
    detector: Detector,
    *,
    budget: Mapping[str, str | float] | None = None,
    ratio: float | None = None,
    criterion: str = "l1",
    choice: Literal["uniform", "global"] = "uniform",
    order: Literal["parallel", "sequential"] = "parallel",
    skip: tuple[str, ...] = (),
    multiple: int = 8,
    floor: float = 0.05,
    largest_cut: float = 0.9,
) -> Detector:
    """A slim copy of a detector, cut once and proven equal to the masked one; not fine-tuned.

    Args:
        detector: full or slim; left alone.
        budget: limits on "macs" and "params": "50%" of the detector's own, "800M", or a number.
        ratio: instead of a budget, the share of channels that every group loses.
        criterion: a name of `compress.criteria.CRITERIA`.
        choice: "uniform", the same share everywhere, or "global", one ranking.
        order: "sequential" scores each layer on weights already narrowed by the layers before it.
        skip: globs of layers to keep whole.
        multiple: widths are multiples of this.
        floor: smallest share of a group that stays.
        largest_cut: largest share of a group that goes.

    Raises:
        PlanError: a budget that cannot be met, or settings that contradict each other.
    """
    network, inputs = subject(detector)
    graph = trace(network, inputs)
    rules = Rules(multiple, floor, largest_cut, tuple(skip))
    cost = cost_of_layers(graph.layers)
    unknown = set(budget or {}) - {"macs", "params"}
    if unknown:
        raise PlanError(f"budget: unknown cost {sorted(unknown)[0]!r}; there are macs and params")
    limits = {kind: parse_limit(text, getattr(cost, kind), kind) for kind, text in (budget or {}).items()}
    plan = make_plan(
        network, graph, Budget(**limits), rules, ratio=ratio, criterion=criterion, choice=choice, order=order
    )
    return carry_out(detector, graph, plan)


def make_plan(
    network: nn.Module,
    graph: Graph,
    budget: Budget,
    rules: Rules,
    *,
    ratio: float | None = None,
    criterion: str = "l1",
    choice: str = "uniform",
    order: str = "parallel",
) -> Plan:
    """Scores the groups of a network and chooses what stays; arguments as in `prune`."""
    for key, value, known in (("choice", choice, CHOICES), ("order", order, ORDERS)):
        if value not in known:
            raise PlanError(f"prune.{key}={value!r} is unknown{did_you_mean(value, known)}")
    limited = any(limit is not None for limit in budget.limits().values())
    if limited == (ratio is not None):
        raise PlanError(
            "give either a budget (prune.budget.macs=50%, prune.budget.params=8M) or prune.ratio, and not "
            "both"
        )
    if order == "sequential" and choice == "global":
        raise PlanError(
            "prune.order=sequential needs prune.choice=uniform: one ranking cannot wait for the layers before"
        )
    if ratio is not None and choice == "global":
        raise PlanError("prune.ratio cuts the same share everywhere; for prune.choice=global give a budget")
    score = CRITERIA[criterion]
    widths: Widths
    if ratio is not None:
        widths = ratio_widths(graph, ratio, rules)
    elif choice == "uniform":
        widths = uniform_widths(graph, budget, rules)
    else:
        widths = global_widths(
            graph, {group.name: score(network, group) for group in graph.groups}, budget, rules
        )

    def scores(group: Group, keep: dict[str, tuple[int, ...]]) -> Tensor:
        return score(masked(network, graph, keep) if order == "sequential" and keep else network, group)

    return plan_of(graph, widths, scores)


def carry_out(detector: Detector, graph: Graph, plan: Plan) -> Detector:
    """A copy of the detector with the network that the plan leaves, proven; its `meta` names the parent."""
    network, inputs = subject(detector)
    slim = copy.deepcopy(detector)
    slim.meta = {"parent": fingerprint(detector)}
    slim.network = cut(network, graph, plan, inputs)
    return slim
