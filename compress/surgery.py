"""Carries a plan out, and proves that the slim network is the masked one and costs what was planned."""

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from compress.cost import cost_of_layers, layers_of
from compress.graph import Graph, Group, tensors_in
from compress.plan import Plan

# Slim and masked networks add the same numbers in another order: 3e-15 was seen in float64.
TOLERANCE = 1e-9


Narrow = Callable[[nn.Module, list[int]], Any]


class ProofError(AssertionError):
    """A cut that changed what it must not: a bug of ours or of torch-pruning, never a user's fault."""


def cut(model: nn.Module, graph: Graph, plan: Plan, inputs: Tensor) -> nn.Module:
    """A slim copy of a network, proven; the network itself is left alone.

    Args:
        model: the network that `graph` was traced from.
        graph: its groups.
        plan: which channels stay.
        inputs: what the network takes; its shape serves for the proof.

    Returns:
        The slim network, in the mode of the given one.

    Raises:
        ProofError: slim and masked network differ, or the built cost is not the planned one.
    """
    slim = copy.deepcopy(model)
    for (layer, _), (places, narrow) in _removed(graph, plan.keep).items():
        narrow(slim.get_submodule(layer), places)
    # torch-pruning makes new parameters, which would thaw frozen ones.
    for name, parameter in model.named_parameters():
        slim.get_parameter(name).requires_grad_(parameter.requires_grad)
    prove(model, slim, graph, plan, inputs)
    return slim


def masked(model: nn.Module, graph: Graph, keep: Mapping[str, tuple[int, ...]]) -> nn.Module:
    """A copy of a network in which every parameter slice that a cut would remove is zero.

    Zeroing the filters alone would not do: the shift of a batch norm would live on in the removed channels.
    """
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for (layer, side), (places, _) in _removed(graph, keep).items():
            module = copied.get_submodule(layer)
            # Rows of a filter bank are outputs, except in a transposed convolution that is not depthwise.
            swapped = isinstance(module, nn.ConvTranspose2d) and module.groups == 1
            rows = (side == "out") != swapped
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.ndim == 1:
                    if side == "out":
                        parameter[places] = 0
                elif name == "weight":
                    (parameter if rows else parameter.transpose(0, 1))[places] = 0
    return copied


def prove(model: nn.Module, slim: nn.Module, graph: Graph, plan: Plan, inputs: Tensor) -> None:
    """Compares the slim network with the masked one in float64, map by map, and its cost with the plan's.

    Raises:
        ProofError: they differ.
    """
    shapes = torch.empty(inputs.shape, dtype=inputs.dtype, device="meta")
    built = cost_of_layers(layers_of(copy.deepcopy(slim).to("meta"), shapes))
    if built != plan.after:
        raise ProofError(f"planned {plan.after!r}, built {built!r}")
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(inputs.shape, generator=generator, dtype=torch.float64).to(inputs.device)
    with torch.no_grad():
        wanted = list(tensors_in(masked(model, graph, plan.keep).double().eval()(probe)))
        got = list(tensors_in(copy.deepcopy(slim).double().eval()(probe)))
    for place, (want, have) in enumerate(zip(wanted, got, strict=True)):
        if want.shape != have.shape:
            raise ProofError(f"output {place}: {list(have.shape)} instead of {list(want.shape)}")
        difference = float((have - want).abs().max() / want.abs().max().clamp(min=1e-300))
        if not difference <= TOLERANCE:
            raise ProofError(f"output {place}: slim and masked networks differ by {difference:.1e}")


def _removed(
    graph: Graph, keep: Mapping[str, tuple[int, ...]]
) -> dict[tuple[str, str], tuple[list[int], Narrow]]:
    """(layer, side) -> the places that go, over all groups that touch that side, and how to narrow it."""
    removed: dict[tuple[str, str], tuple[list[int], Narrow]] = {}
    for group, gone in _gone(graph, keep):
        for member in group.members:
            places, _ = removed.setdefault((member.layer, member.side), ([], member.cut))
            places.extend(member.places(gone).tolist())
    return {key: (sorted(set(places)), narrow) for key, (places, narrow) in removed.items()}


def _gone(graph: Graph, keep: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[Group, Tensor]]:
    for group in graph.groups:
        if group.name in keep:
            kept = torch.zeros(group.channels, dtype=torch.bool)
            kept[list(keep[group.name])] = True
            yield group, (~kept).nonzero().flatten()
