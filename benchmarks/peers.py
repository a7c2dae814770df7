"""What torch-pruning selects by itself, as the channels that stay in our groups."""

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from compress.cost import cost_of_layers, layers_of
from compress.groups import Graph
from compress.plan import Plan, plan_of
from compress.probe import Keep

# name -> (importance, whether layers compete)
SELECTIONS: dict[str, tuple[Callable[[], Any], bool]] = {
    f"torch-pruning {name}, {'global' if competing else 'local'}": (importance, competing)
    for name, importance in (
        ("magnitude", lambda: tp.importance.GroupMagnitudeImportance(p=1, group_reduction="first")),
        ("group norm", lambda: tp.importance.GroupMagnitudeImportance(p=2)),
        ("Taylor", lambda: tp.importance.GroupTaylorImportance()),
    )
    for competing in (False, True)
}


class OutOfReach(Exception):
    """torch-pruning leaves more MACs than were asked for, whatever the ratio."""


def selected(
    name: str,
    network: nn.Module,
    graph: Graph,
    image: Tensor,
    limit: int,
    loss: Callable[[nn.Module], Tensor],
) -> Keep:
    """The channels of each group that torch-pruning keeps within a limit of MACs.

    Its ratio is the smallest hundredth with which the MACs fit, then bisected within it: not every larger one
    fits as well, because a layer that would lose all of its channels stays whole instead. It rounds to no
    multiple, which is its default.

    Args:
        name: of `SELECTIONS`.
        network: traced as `graph`; left alone.
        graph: whose layers that stay whole are ignored, as its users do by hand.
        image: what the network takes, batch 1.
        limit: MACs.
        loss: on calibration images, whose gradients Taylor looks at.

    Raises:
        OutOfReach: no ratio fits.
    """
    importance, competing = SELECTIONS[name]
    source = copy.deepcopy(network).eval()
    if "Taylor" in name:
        loss(source).backward()

    def attempt(ratio: float) -> Keep | None:
        model = copy.deepcopy(source)
        for own, given in zip(model.parameters(), source.parameters(), strict=True):
            # A copied parameter loses its gradient, and torch-pruning fails where one has none.
            own.grad = torch.zeros_like(given) if given.grad is None else given.grad.clone()
        removed = _removed(model, graph, image, importance(), competing, ratio)
        if cost_of_layers(layers_of(model, image)).macs > limit:
            return None
        return _as_keep(graph, removed, model, image)

    tried = ((hundredths / 100, attempt(hundredths / 100)) for hundredths in range(1, 101))
    high, best = next(((ratio, keep) for ratio, keep in tried if keep is not None), (1.0, None))
    if best is None:
        raise OutOfReach(f"{name} cannot reach {limit:,} MACs")
    low = high - 0.01
    for _ in range(6):
        middle = (low + high) / 2
        keep = attempt(middle)
        low, high, best = (middle, high, best) if keep is None else (low, middle, keep)
    return best


def _removed(
    model: nn.Module, graph: Graph, image: Tensor, importance: Any, competing: bool, ratio: float
) -> dict[str, set[int]]:
    """Prunes a model in place; layer -> the outputs that went."""
    names = {module: name for name, module in model.named_modules()}
    pruner = tp.pruner.BasePruner(
        model,
        (image,),
        importance=importance,
        global_pruning=competing,
        pruning_ratio=ratio,
        ignored_layers=[model.get_submodule(layer) for layer in graph.whole],
        in_channel_groups={},
        out_channel_groups={},
    )
    removed: dict[str, set[int]] = {}
    for group in pruner.step(interactive=True):
        for dependency, places in group:
            if dependency.handler in (tp.prune_conv_out_channels, tp.prune_linear_out_channels):
                removed.setdefault(names[dependency.target.module], set()).update(places)
        group.prune()
    return removed


def _as_keep(graph: Graph, removed: dict[str, set[int]], model: nn.Module, image: Tensor) -> Keep:
    """The same choice in our groups, checked by what the network costs then."""
    keep: dict[str, tuple[int, ...]] = {}
    for group in graph.groups:
        first = next(m for m in group.members if m.layer == group.producers[0] and m.side == "out")
        gone = torch.isin(
            first.positions, torch.tensor(sorted(removed.get(first.layer, ())), dtype=torch.int64)
        )
        if bool(gone.any()):
            keep[group.name] = tuple(sorted(first.channels[~gone].tolist()))
    built = cost_of_layers(layers_of(model, image))
    planned = plan_for(graph, keep).after
    assert (built.macs, built.params) == (planned.macs, planned.params), (built, planned)
    return keep


def plan_for(graph: Graph, keep: Keep) -> Plan:
    """The plan that keeps certain channels."""
    widths = {group.name: len(keep.get(group.name, range(group.channels))) for group in graph.groups}

    def scores(group: Any, _: Any) -> Tensor:
        kept = torch.zeros(group.channels, dtype=torch.float64)
        kept[list(keep[group.name])] = 1
        return kept

    return plan_of(graph, widths, scores)
