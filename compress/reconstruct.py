"""Solves the weights of a slim network anew, so that its layers make what they made before the cut."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.groups import Graph
from compress.inputs import read_by
from compress.probe import Keep, removals
from compress.recalibrate import measuring
from detectors.modes import evaluating

# Of the mean square of what a layer reads: how strongly its weights are held where the data say little.
RIDGE = 1e-3
# Positions that a layer is solved on, and for each weight of a filter.
_SAMPLES, _FOR_EACH = 8192, 3
# Weights of a filter up to which a layer is solved: those of a 3x3 convolution over 512 channels.
_WIDEST = 4608


@dataclass
class _Wanted:
    """What a layer made before the cut, at some positions.

    Attributes:
        stays: its channels that stayed.
        where: for each call of a pass, batch by batch: `[B, P]`, the positions.
        made: the same: `[B, P, outputs]`, what it made there.
    """

    stays: Tensor
    where: list[list[Tensor]] = field(default_factory=list)
    made: list[list[Tensor]] = field(default_factory=list)


def reconstruct(
    model: nn.Module, slim: nn.Module, graph: Graph, keep: Keep, batches: Sequence[Tensor], *, renewed: bool
) -> dict[str, float]:
    """Solves the convolutions and linear layers of a slim network by least squares, in the order they run.

    Each is given the weights with which it makes, of what it reads in the slim network as solved so far, what
    it made in the whole one (He et al., Channel Pruning, 2017, section 3.2): so a layer makes up for what the
    layers before it still lack. A ridge draws the weights to those that it has. Grouped and transposed
    convolutions stay as they are, and so do filters of more than 4,608 weights.

    Args:
        model: not cut; left alone.
        slim: cut out of it; its weights change in place.
        graph: of `model`.
        keep: the channels that stayed in each group that lost some.
        batches: what both networks take; all of them together pass through `slim` at once.
        renewed: whether batch norm statistics will be measured anew: then those of these images count
            already here, and the constant part of a layer before a batch norm does not.

    Returns:
        layer -> what it still fails to make: the squared error by the variance of what it should make, 0 up.
    """
    wanted = _recorded(model, graph, keep, batches)
    normed = graph.normed if renewed else frozenset()
    once = [name for name, found in wanted.items() if len(found.made) == 1]
    # A layer that runs at several places, such as a head on each level of a pyramid, gets a pass of its own:
    # what it reads at the last of them is not there when it runs at the first.
    passes = [once, *([name] for name in wanted if name not in once)]
    lacking: dict[str, float] = {}
    whole = torch.cat(list(batches))
    with torch.no_grad(), evaluating(slim), measuring(slim) if renewed else nullcontext():
        for names in passes:
            with _solving(slim, {name: wanted[name] for name in names}, normed, lacking):
                slim(whole)
    return lacking


def _recorded(model: nn.Module, graph: Graph, keep: Keep, batches: Sequence[Tensor]) -> dict[str, _Wanted]:
    """Layer -> what it makes of the batches, in the order in which the layers first run."""
    gone, images = removals(graph.groups, keep), sum(map(len, batches))
    draws = torch.Generator().manual_seed(0)
    found: dict[str, _Wanted] = {}
    calls: Counter[str] = Counter()

    def hook(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def on_call(layer: nn.Module, args: Any, made: Tensor) -> None:
            values = _by_position(layer, made)
            if name not in found:
                lost = set(gone[name, "out"][0]) if (name, "out") in gone else set()
                stays = [channel for channel in range(values.shape[2]) if channel not in lost]
                found[name] = _Wanted(torch.tensor(stays, device=made.device))
            wanted, call = found[name], calls[name]
            calls[name] += 1
            if call == len(wanted.made):
                wanted.where.append([])
                wanted.made.append([])
            samples = max(_SAMPLES, _FOR_EACH * _weights(layer))
            count = min(values.shape[1], math.ceil(samples / images))
            where = torch.rand(values.shape[:2], generator=draws).argsort(dim=1)[:, :count].to(made.device)
            wanted.where[call].append(where)
            wanted.made[call].append(_rows(values, where)[..., wanted.stays])

        return on_call

    hooks = [
        model.get_submodule(layer.name).register_forward_hook(hook(layer.name))
        for layer in graph.layers
        if _is_served(model.get_submodule(layer.name))
    ]
    try:
        with torch.no_grad(), evaluating(model):
            for batch in batches:
                calls.clear()
                model(batch)
    finally:
        for handle in hooks:
            handle.remove()
    return found


@contextmanager
def _solving(
    slim: nn.Module, wanted: dict[str, _Wanted], normed: frozenset[str], lacking: dict[str, float]
) -> Iterator[None]:
    """While active, layers are solved as the last of their calls in a pass begins."""
    read: dict[str, list[Tensor]] = {name: [] for name in wanted}

    def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def on_call(layer: nn.Module, args: Any, kwargs: Any) -> None:
            found, parts = wanted[name], read[name]
            where = torch.cat(found.where[len(parts)])
            parts.append(_read(layer, read_by(args, kwargs), where).flatten(0, 1))
            if len(parts) == len(found.made):
                made = torch.cat([torch.cat(call).flatten(0, 1) for call in found.made])
                lacking[name] = _solve(layer, torch.cat(parts), made, constant=name in normed)
                parts.clear()

        return on_call

    hooks = [
        slim.get_submodule(name).register_forward_pre_hook(hook(name), with_kwargs=True) for name in wanted
    ]
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()


def _solve(layer: Any, read: Tensor, made: Tensor, *, constant: bool) -> float:
    """Gives a layer the weights that make `made` `[N, outputs]` of `read` `[N, weights]`; what is lacking.

    Args:
        layer: changed in place.
        read: what its filters lie on.
        made: what they should give.
        constant: whether a constant may differ, although the layer has no bias.
    """
    shape = layer.weight.shape
    weights = layer.weight.flatten(1).T.double()
    if layer.bias is not None or constant:
        first = layer.bias if layer.bias is not None else layer.weight.new_zeros(shape[0])
        weights = torch.cat([weights, first.double()[None]])
        read = torch.cat([read, torch.ones_like(read[:, :1])], dim=1)
    squares, products = (read.T @ read).double(), (read.T @ made).double()
    ridge = torch.full_like(squares[0], RIDGE * float(squares.diagonal()[: shape[1:].numel()].mean()))
    ridge[shape[1:].numel() :] = 0  # the constant is free
    change = torch.linalg.solve(squares + ridge.clamp(min=1e-30).diag(), products - squares @ weights)
    weights = weights + change
    layer.weight.copy_(weights[: shape[1:].numel()].T.reshape(shape))
    if layer.bias is not None:
        layer.bias.copy_(weights[-1])
    error = (made - read @ weights.to(read.dtype)).square().mean()
    return float(error / made.var(dim=0, correction=0).mean().clamp(min=1e-30))


def _is_served(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv2d):
        plain = layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
        return plain and _weights(layer) <= _WIDEST
    return isinstance(layer, nn.Linear) and _weights(layer) <= _WIDEST


def _weights(layer: Any) -> int:
    """Of one filter, without its bias."""
    return int(layer.weight[0].numel())


def _by_position(layer: nn.Module, values: Tensor) -> Tensor:
    """`[B, C, h, w]` of a convolution, `[B, ..., C]` of a linear layer -> `[B, P, C]`."""
    if isinstance(layer, nn.Conv2d):
        return values.flatten(2).mT
    return values.flatten(1, -2) if values.ndim > 2 else values[:, None]


def _rows(values: Tensor, where: Tensor) -> Tensor:
    """`[B, P, C]` at positions `[B, K]` -> `[B, K, C]`."""
    return values[torch.arange(len(values), device=values.device)[:, None], where]


def _read(layer: Any, values: Tensor, where: Tensor) -> Tensor:
    """What the filters of a layer lie on for outputs at `[B, K]` -> `[B, K, weights of a filter]`."""
    if isinstance(layer, nn.Linear):
        return _rows(_by_position(layer, values), where)
    (down, right), (rows, columns) = layer.padding, layer.kernel_size
    padded = F.pad(values, (right, right, down, down))
    width = (padded.shape[3] - layer.dilation[1] * (columns - 1) - 1) // layer.stride[1] + 1
    top, left = where // width * layer.stride[0], where % width * layer.stride[1]
    image = torch.arange(len(values), device=values.device)[:, None]
    taps = [
        padded[image, :, top + row * layer.dilation[0], left + column * layer.dilation[1]]
        for row in range(rows)
        for column in range(columns)
    ]
    return torch.stack(taps, dim=-1).flatten(2)
