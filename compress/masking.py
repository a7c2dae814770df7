"""A slim network written back into the shapes that it was cut from, with zeros for what is gone."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from compress.graph import trace
from compress.inputs import Inputs, copied
from compress.probe import Keep, difference, narrowed


def unfolded(model: nn.Module, slim: nn.Module, keeps: Sequence[Keep], inputs: Inputs) -> nn.Module:
    """A network in the shapes of `model` that computes what `slim` computes.

    Where each element of a slim tensor came from is found by cutting a copy of the model whose elements are
    their own places.

    Args:
        model: what the first cut was made of.
        slim: the result of all cuts, trained or not.
        keeps: for each cut the channels that stayed in each group.
        inputs: what both take.

    Raises:
        AssertionError: the result differs from the slim network: a bug.
    """
    places = copied(model, _places)
    shapes = model
    for keep in keeps:
        groups = trace(shapes, inputs).groups
        places, shapes = narrowed(places, groups, keep), narrowed(shapes, groups, keep)
    whole = copied(model, torch.clone)
    sources, values = places.state_dict(), slim.state_dict()
    weights = {name for name, _ in whole.named_parameters()}
    with torch.no_grad():
        for name, tensor in whole.state_dict().items():
            # What was cut off running statistics stays: a variance of zero would be divided by.
            flat = torch.zeros_like(tensor).flatten() if name in weights else tensor.flatten()
            flat[sources[name].flatten().long()] = values[name].flatten()
            tensor.copy_(flat.view(tensor.shape))
    fault = difference(whole, slim, inputs)
    assert fault is None, fault
    return whole


def _places(tensor: Tensor) -> Tensor:
    """The place of each element, exact up to 2^53."""
    return torch.arange(tensor.numel(), dtype=torch.float64).view(tensor.shape).to(tensor.device)
