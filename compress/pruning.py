"""One cut of a detector, from recipe settings to a proven slim copy."""

import copy
from collections.abc import Iterable, Mapping
from typing import Literal

from compress.allocation import Choice
from compress.cost import subject
from compress.criteria import CRITERIA
from compress.evidence import Evidence
from compress.groups import Graph
from compress.latency.engines import Stopwatch
from compress.plan import Plan
from compress.planning import lacking, planned, rules_of
from compress.scoring import evidence_from
from compress.surgery import cut
from detectors.checkpoint import fingerprint
from detectors.models.base import Detector
from detectors.types import Batch


def prune(
    detector: Detector,
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
    images: Iterable[Batch] | None = None,
    seed: int = 0,
    stopwatch: Stopwatch | None = None,
) -> Detector:
    """A slim copy of a detector, cut once and proven equal to the masked one; not fine-tuned.

    Args:
        detector: full or slim; left alone.
        budget: limits on "macs", "params" and "latency_ms": "50%" of the detector's own, "800M", or a number.
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
        images: calibration batches with their boxes, of the detector's input size, for the criteria that look
            at data, such as fisher; read by no other.
        seed: of criteria that draw, and of the detector's own draws.
        stopwatch: engine, batch, threads and more by which "latency_ms" is measured; None: torch at batch 1.

    Raises:
        PlanError: a budget that cannot be met, settings that contradict each other, or a criterion that lacks
            its data.
    """

    def evidence(graph: Graph) -> Evidence:
        needs = CRITERIA[criterion].needs
        if not needs:
            return Evidence(seed=seed)
        if images is None:
            raise lacking(criterion, "images=..., batches (detectors.types.Batch) of training images")
        return evidence_from(detector, graph, images, needs=needs, seed=seed)

    network, inputs = subject(detector)
    graph, plan = planned(
        network,
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
    return carry_out(detector, graph, plan)


def carry_out(detector: Detector, graph: Graph, plan: Plan) -> Detector:
    """A copy of the detector with the network that the plan leaves, proven; its `meta` names the parent."""
    network, inputs = subject(detector)
    slim = copy.deepcopy(detector)
    slim.meta = {"parent": fingerprint(detector)}
    slim.network = cut(network, graph, plan, inputs)
    return slim
