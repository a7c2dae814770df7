"""Makes up for removed channels in the layers that stay, before any training."""

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from compress.groups import Graph, Group, Member
from compress.inputs import copied
from compress.moments import Moments
from compress.probe import Keep, removals
from compress.taps import channel_places, consumers, takes_constant
from detectors.geometry import CONVOLUTIONS, TRANSPOSED, Resizable

Way = Literal["mean", "refit"]

# Of the mean variance of the kept channels: ridge of the regression, so that channels that hardly differ do
# not get large weights of opposite sign.
RIDGE = 1e-3


def compensated(
    model: nn.Module,
    graph: Graph,
    keep: Keep,
    moments: Mapping[tuple[str, str], Moments],
    way: Way,
    *,
    renewed: bool,
) -> nn.Module:
    """A copy of a network, not yet cut, whose consumers no longer need the channels that will go.

    refit: each removed channel is regressed on the kept ones of its group as the consumer reads them, by
    least squares (He et al., Channel Pruning, 2017, section 3.1, with the same regression at every tap of the
    kernel and every position of a flattened map), and its weights are added to theirs. Where the consumer has
    a bias, or batch statistics are measured anew behind it, the regression has a constant term, which goes
    into the bias. mean: the constant alone, the mean of the removed channel. Both are exact where the
    relation is, but for the ridge (RIDGE), and for the constant where output positions see different taps of
    the kernel, as at a border that is padded with zeros or behind a transposed convolution with a stride: it
    is the mean over the output map.

    Args:
        model: the network that `graph` was traced from; left alone, and shares the parameters that stay.
        graph: its groups.
        keep: the channels that stay in each group that loses some.
        moments: of what each consumer reads, from `compress.evidence.moments`.
        way: "refit" or "mean".
        renewed: whether batch norm statistics will be measured anew.
    """
    result = copied(model, lambda tensor: tensor)
    for group, member, constant in mendable(model, graph, keep, way, renewed=renewed):
        layer = result.get_submodule(member.layer)
        found = moments[group.name, member.layer]
        places = channel_places(member)
        kept = torch.zeros(places.shape, dtype=torch.bool)
        kept[:, list(keep[group.name])] = True
        places, kept = places.reshape(found.means.shape), kept.reshape(found.means.shape)[0]
        weights, offsets = _regression(found, kept, way, constant=constant)
        _fold(layer, places, weights, offsets, _coverage(layer, found.maps))
    return result


def mendable(
    model: nn.Module, graph: Graph, keep: Keep, way: Way, *, renewed: bool
) -> Iterator[tuple[Group, Member, bool]]:
    """The consumers that `compensated` can help, each with its group and whether it takes a constant.

    Left out are grouped convolutions, of which every part reads other channels under the same number, and for
    the mean alone layers that have nowhere to put it.
    """
    normed = graph.normed if renewed else frozenset()
    for group in graph.groups:
        for member in consumers(group) if group.name in keep else []:
            layer = model.get_submodule(member.layer)
            constant = takes_constant(layer, member.layer, normed)
            if getattr(layer, "groups", 1) == 1 and (constant or way == "refit"):
                yield group, member, constant


class Lengths:
    """Layers that measure a length over the channels, such as L2Norm, and what a cut does to it.

    With fewer channels the length falls and what is divided by it grows. The factor that makes up for it is
    the least-squares one between what the layer makes now and what it makes of the kept channels alone; 1 for
    a layer that looks at each channel by itself.

    Args:
        model: not yet cut; left alone.
        graph: its groups.
        keep: the channels that stay in each group that loses some.
    """

    def __init__(self, model: nn.Module, graph: Graph, keep: Keep) -> None:
        outputs = {
            layer: places
            for (layer, side), (places, _) in removals(graph.groups, keep).items()
            if side == "out"
        }
        layers = {name: model.get_submodule(name) for name in outputs}
        self._gone = {name: places for name, places in outputs.items() if isinstance(layers[name], Resizable)}
        self._layers = {name: layers[name] for name in self._gone}
        self._products = {name: torch.zeros(2, dtype=torch.float64) for name in self._gone}

    def __bool__(self) -> bool:
        return bool(self._layers)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """While active, passes through the model are measured."""
        hooks = [layer.register_forward_hook(self._hook(name)) for name, layer in self._layers.items()]
        try:
            yield
        finally:
            for handle in hooks:
                handle.remove()

    def restore(self, change: nn.Module) -> dict[str, float]:
        """Scales the layers' parameters in a copy of the model, not yet cut either; the factor of each."""
        factors = {
            name: float(both / alone) if alone > 0 else 1.0 for name, (both, alone) in self._products.items()
        }
        for name, factor in factors.items():
            layer = change.get_submodule(name)
            for key, parameter in layer.named_parameters(recurse=False):
                _renew(layer, key, parameter.detach().double() * factor)
        return factors

    def _hook(self, name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def on_call(module: nn.Module, args: Any, made: Tensor) -> None:
            stays = torch.ones(made.shape[1], dtype=made.dtype, device=made.device)
            stays[self._gone[name]] = 0
            stays = stays.view(-1, *[1] * (made.ndim - 2))
            alone = module.forward(args[0] * stays) * stays
            self._products[name] += torch.stack([(made * alone).sum(), alone.square().sum()]).double().cpu()

        return on_call


def _regression(moments: Moments, kept: Tensor, way: Way, *, constant: bool) -> tuple[Tensor, Tensor]:
    """`[M, M]` weights W and `[B, M]` offsets b: what is removed is about W a + b; 0 for what is kept.

    Args:
        moments: of what the consumer reads.
        kept: `[M]` bool, what stays of that.
        way: "refit" or "mean".
        constant: whether the regression has a constant term.
    """
    weights, offsets = torch.zeros_like(moments.inputs), torch.zeros_like(moments.means)
    if way == "refit":
        inputs = moments.covariances if constant else moments.inputs
        square = inputs[kept][:, kept]
        ridge = (
            RIDGE * square.diagonal().mean().clamp(min=1e-30) * torch.eye(len(square), dtype=torch.float64)
        )
        solution = torch.linalg.solve(square + ridge, inputs[kept][:, ~kept])
        weights[~kept.view(-1, 1) & kept] = solution.T.flatten()
    if constant:
        offsets[:, ~kept] = (moments.means - moments.means @ weights.T)[:, ~kept]
    return weights, offsets


def _coverage(layer: nn.Module, maps: Mapping[tuple[int, ...], int]) -> Tensor:
    """`[taps]`: how often an output position sees a real input under each tap of the kernel, 0..1.

    Under the others lies padding; of a transposed convolution with a stride, nothing.
    """
    if not isinstance(layer, CONVOLUTIONS):
        return torch.ones(1, dtype=torch.float64)
    seen, positions = torch.zeros(math.prod(layer.kernel_size), dtype=torch.float64), 0
    # One filter for each tap, which is one there and zero elsewhere.
    single = copy.deepcopy(layer).double().cpu()
    taps = torch.eye(len(seen), dtype=torch.float64).view(-1, 1, *layer.kernel_size)
    taps = taps.transpose(0, 1) if isinstance(layer, TRANSPOSED) else taps
    single.weight, single.bias = nn.Parameter(taps.contiguous()), None
    single.in_channels, single.out_channels = 1, len(seen)
    with torch.no_grad():
        for size, count in maps.items():
            made = single(torch.ones(1, 1, *size, dtype=torch.float64)).flatten(2)
            seen += count * made.sum(dim=2)[0]
            positions += count * made.shape[2]
    return seen / max(positions, 1)


def _fold(layer: nn.Module, places: Tensor, weights: Tensor, offsets: Tensor, coverage: Tensor) -> None:
    """Adds the weights of removed channels to those of kept ones, in place, on fresh parameters.

    Args:
        layer: a consumer of one convolution group.
        places: `[B, M]`, where it reads what belongs together.
        weights: `[M, M]`, from kept to removed.
        offsets: `[B, M]`, the constant part of what is removed.
        coverage: `[taps]`, the share of output positions that see an input under a tap.
    """
    parameter = layer.get_parameter("weight")
    transposed = isinstance(layer, TRANSPOSED)
    # [outputs, inputs, taps], whatever the layout.
    by_input = parameter.detach().double().transpose(0, 1) if transposed else parameter.detach().double()
    filters = by_input.flatten(2) if by_input.ndim > 2 else by_input[..., None]
    filters = filters.clone()
    weights, offsets = weights.to(filters.device), offsets.to(filters.device)
    constant = torch.zeros(len(filters), dtype=torch.float64, device=filters.device)
    for where, offset in zip(places, offsets, strict=True):
        read = filters[:, where]
        constant += torch.einsum("oct,c,t->o", read, offset, coverage.to(filters.device))
        filters[:, where] = read + torch.einsum("ort,rk->okt", read, weights)
    shaped = filters.view(by_input.shape)
    shaped = shaped.transpose(0, 1) if transposed else shaped
    _renew(layer, "weight", shaped.contiguous())
    if getattr(layer, "bias", None) is not None:
        _renew(layer, "bias", layer.get_parameter("bias").detach().double() + constant)


def _renew(layer: nn.Module, name: str, value: Tensor) -> None:
    before = layer.get_parameter(name)
    fresh = nn.Parameter(value.to(before.dtype), requires_grad=before.requires_grad)
    setattr(layer, name, fresh)
