"""Carries a plan out, and proves that the slim network is the masked one and costs what was planned."""

from torch import nn

from compress.cost import cost_of_layers, layers_of
from compress.graph import Graph
from compress.inputs import Inputs, copied, with_shapes
from compress.plan import Plan
from compress.probe import difference, narrowed, zeroed


class ProofError(AssertionError):
    """A cut that changed what it must not: a bug of ours or of torch-pruning, never a user's fault."""


def cut(model: nn.Module, graph: Graph, plan: Plan, inputs: Inputs) -> nn.Module:
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
    slim = copied(narrowed(model, graph.groups, plan.keep), lambda tensor: tensor.clone())
    prove(model, slim, graph, plan, inputs)
    return slim


def prove(model: nn.Module, slim: nn.Module, graph: Graph, plan: Plan, inputs: Inputs) -> None:
    """Compares the slim network with the masked one in float64, map by map, and its cost with the plan's.

    Both see a small image where they accept one: which channel goes where is the same at every size.

    Raises:
        ProofError: they differ.
    """
    built = cost_of_layers(with_shapes(layers_of, slim, inputs))
    if built != plan.after:
        raise ProofError(f"planned {plan.after!r}, built {built!r}")
    fault = difference(zeroed(model, graph.groups, plan.keep), slim, inputs)
    if fault is not None:
        raise ProofError(fault)
