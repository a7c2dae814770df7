"""How one layer gets narrower, and which of its parameters stand for a channel."""

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch_pruning as tp
from torch import Tensor, nn

from detectors.geometry import CONVOLUTIONS, NORMS, TRANSPOSED, Resizable

Side = Literal["out", "in"]
Narrow = Callable[[Any, list[int]], Any]


def multiplies(module: nn.Module) -> bool:
    """Whether a layer makes new channels: a convolution, plain or transposed, or a linear layer."""
    return isinstance(module, CONVOLUTIONS | nn.Linear)


def channels_of(module: nn.Module, side: Side) -> int | None:
    """The channels that a layer makes or reads; None for one that cannot be narrowed on that side."""
    match module:
        case nn.Linear():
            return module.out_features if side == "out" else module.in_features
        case module if isinstance(module, CONVOLUTIONS):
            return module.out_channels if side == "out" else module.in_channels
        case _ if side == "in":
            return None
        case nn.GroupNorm():
            return module.num_channels
        case nn.PReLU():
            return module.num_parameters
        case module if isinstance(module, NORMS):
            return module.num_features
        case Resizable() if isinstance(module.channels, int):
            return module.channels
    return None


def by_group(module: nn.Module) -> bool:
    """Whether a convolution loses whole groups, with all that they read and make, as a depthwise one does.

    Where groups are few and wide, each of them loses the same channels instead.
    """
    return isinstance(module, CONVOLUTIONS) and module.groups > module.in_channels // module.groups


def narrowing(module: nn.Module, side: Side) -> Narrow:
    """The function that takes (layer, places to remove) and narrows a layer of that kind in place."""
    if by_group(module):
        return _narrow_groups
    if isinstance(module, CONVOLUTIONS) and module.groups > 1:
        return _narrow_in_each_group if side == "in" else _narrow_filters_of_each_group
    if isinstance(module, CONVOLUTIONS):
        return tp.prune_conv_out_channels if side == "out" else tp.prune_conv_in_channels
    if isinstance(module, nn.Linear):
        return tp.prune_linear_out_channels if side == "out" else tp.prune_linear_in_channels
    return _narrow_channels


def mask(module: nn.Module, side: Side, places: list[int]) -> None:
    """Sets to zero, in place, every slice of parameters that narrowing at these places removes."""
    with torch.no_grad():
        if side == "out":
            for parameter in module.parameters(recurse=False):
                if parameter.ndim == 1:
                    parameter[places] = 0
        if multiplies(module):
            weight = module.get_parameter("weight")
            columns = weight.shape[1]
            # Rows are outputs and columns the inputs of each group; in a transposed one it is the reverse.
            if (side == "out") != isinstance(module, TRANSPOSED):
                weight[places] = 0
            elif by_group(module):
                weight[_rows_of_groups(module, places)] = 0
            else:
                weight[:, [place % columns for place in places]] = 0


def filters(module: nn.Module) -> Tensor:
    """The weights of a convolution or linear layer, `[outputs, ...]` whatever the layout."""
    weight = module.get_parameter("weight").detach()
    if not isinstance(module, TRANSPOSED):
        return weight
    return torch.cat([part.transpose(0, 1) for part in weight.chunk(module.groups)])


def _narrow_groups(layer: Any, places: list[int]) -> None:
    """Whole groups go: `places` are all outputs of these."""
    gone = len(places) * layer.groups // layer.out_channels
    rows = _rows_of_groups(layer, places) if isinstance(layer, TRANSPOSED) else places
    _replace(layer, "weight", 0, rows)
    _replace(layer, "bias", 0, places)
    layer.in_channels -= len(places) * layer.in_channels // layer.out_channels
    layer.out_channels -= len(places)
    layer.groups -= gone


def _rows_of_groups(layer: Any, places: list[int]) -> list[int]:
    """The inputs of the groups whose outputs are `places`."""
    made, read = layer.out_channels // layer.groups, layer.in_channels // layer.groups
    groups = sorted({place // made for place in places})
    return [group * read + k for group in groups for k in range(read)]


def _narrow_in_each_group(layer: Any, places: list[int]) -> None:
    """Every group reads fewer channels, the same of each."""
    if isinstance(layer, TRANSPOSED):
        _replace(layer, "weight", 0, places)
    else:
        _replace(layer, "weight", 1, sorted({place % layer.weight.shape[1] for place in places}))
    layer.in_channels -= len(places)


def _narrow_filters_of_each_group(layer: Any, places: list[int]) -> None:
    """Every group makes fewer channels, the same of each."""
    if isinstance(layer, TRANSPOSED):
        _replace(layer, "weight", 1, sorted({place % layer.weight.shape[1] for place in places}))
    else:
        _replace(layer, "weight", 0, places)
    _replace(layer, "bias", 0, places)
    layer.out_channels -= len(places)


def _narrow_channels(layer: Any, places: list[int]) -> None:
    """A layer with one weight for each channel: norms, PReLU and scales of our own."""
    channels = channels_of(layer, "out")
    assert channels is not None
    left = channels - len(places)
    own = [*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)]
    cut = {name: _without(tensor, 0, places) for name, tensor in own if tensor.shape == (channels,)}
    match layer:
        case nn.GroupNorm():
            layer.num_groups -= len(places) * layer.num_groups // channels
            layer.num_channels = left
        case nn.PReLU():
            layer.num_parameters = left
        case Resizable():
            layer.resize(left)
        case _:
            layer.num_features = left
    for name, tensor in cut.items():
        setattr(layer, name, tensor)


def _replace(layer: nn.Module, name: str, dim: int, places: list[int]) -> None:
    tensor = getattr(layer, name)
    if tensor is not None:
        setattr(layer, name, _without(tensor, dim, places))


def _without(tensor: Tensor, dim: int, places: list[int]) -> Tensor:
    kept = torch.ones(tensor.shape[dim], dtype=torch.bool)
    kept[places] = False
    left = tensor.detach().index_select(dim, kept.nonzero().flatten().to(tensor.device))
    return (
        nn.Parameter(left, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else left
    )
