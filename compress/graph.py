"""The groups of channels that must go together, as plain data, from torch-pruning's dependency graph."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch_pruning as tp
from torch import Tensor, nn

from compress.cost import Layer, layers_of
from detectors.geometry import Resizable

Side = Literal["out", "in"]


@dataclass(frozen=True)
class Member:
    """One side of a layer that a group cuts.

    Attributes:
        layer: module name.
        side: "out" for rows (filters, norm scales), "in" for the columns that a consumer reads.
        positions: `[K]` int64, places on that side.
        channels: `[K]` int64, the channel of the group that each place belongs to.
        cut: torch-pruning's function that takes (module, places to remove) and narrows the module in place.
    """

    layer: str
    side: Side
    positions: Tensor
    channels: Tensor
    cut: Callable[[nn.Module, list[int]], Any]

    def places(self, channels: Tensor) -> Tensor:
        """The places of some channels of the group."""
        return self.positions[torch.isin(self.channels, channels)]


@dataclass(frozen=True)
class Group:
    """Channels that only go together: a layer's filters, the norms behind them, the inputs of their readers.

    Attributes:
        name: the first layer, in the order of execution, that produces the channels.
        channels: how many there are.
        members: what a cut touches.
        producers: names of the convolutions and linear layers whose outputs they are.
    """

    name: str
    channels: int
    members: tuple[Member, ...]
    producers: tuple[str, ...]


@dataclass(frozen=True)
class Graph:
    """What can be cut in a network, and what it costs.

    Attributes:
        groups: in the order of execution.
        whole: producers that stay as they are -> the reason.
        layers: every layer with weights, for the cost of a plan.
    """

    groups: tuple[Group, ...]
    whole: dict[str, str]
    layers: tuple[Layer, ...]


def trace(model: nn.Module, inputs: Tensor) -> Graph:
    """Finds the groups of a network; the network itself is left alone.

    The tracing runs on a copy without data (the meta device), so it takes no longer for a large image.

    Args:
        model: `model(inputs)` returns tensors, in any nesting of lists, tuples and dicts; maps before
            flattening, because torch-pruning's index mappings explode on flattened heads.
        inputs: `[B, ...]`, its shape is all that counts.
    """
    with torch.inference_mode(False), torch.enable_grad():
        return _trace(model, inputs)


def _trace(model: nn.Module, inputs: Tensor) -> Graph:
    shadow = copy.deepcopy(model).to("meta").eval().requires_grad_()
    names = {module: name for name, module in shadow.named_modules()}
    example = torch.empty(inputs.shape, dtype=inputs.dtype, device="meta")
    layers = layers_of(shadow, example)
    order = {layer.name: place for place, layer in enumerate(layers)}
    kinds = {type(module) for module in names if isinstance(module, Resizable)}
    dependencies = tp.DependencyGraph().build_dependency(
        shadow,
        example_inputs=(example,),
        # Given so that torch-pruning calls the model as we do: its own attempt unpacks a batch of one.
        forward_fn=lambda network, images: network(*images),
        customized_pruners={kind: _ScalePruner() for kind in kinds},
        verbose=False,
    )
    # With a gradient of its own, the input is told apart from the weights in the graph behind the outputs.
    outputs = set(_output_layers(shadow, shadow(example.requires_grad_())))
    groups, whole = [], {}
    for found in dependencies.get_all_groups(root_module_types=[nn.Conv2d, nn.ConvTranspose2d, nn.Linear]):
        group, foreign = _group(dependencies, found, names, order)
        reason = _reason_to_keep(shadow, group, foreign, outputs)
        if reason is None:
            groups.append(group)
        else:
            whole.update({layer: reason for layer in group.producers})
    groups.sort(key=lambda group: order[group.name])
    return Graph(tuple(groups), dict(sorted(whole.items(), key=lambda item: order[item[0]])), layers)


def _group(
    dependencies: Any, found: Any, names: dict[nn.Module, str], order: dict[str, int]
) -> tuple[Group, list[str]]:
    """A group of torch-pruning as ours, and the names of bare parameters that it would cut as well."""
    parameters = {id(p): name for name, p in next(iter(names)).named_parameters()}
    members, foreign = [], []
    for item in found:
        module = item.dep.target.module
        if module in names:
            side: Side = "out" if dependencies.is_out_channel_pruning_fn(item.dep.handler) else "in"
            places, channels = torch.tensor(list(item.idxs)), torch.tensor(list(item.root_idxs))
            members.append(Member(names[module], side, places, channels, item.dep.handler))
        elif isinstance(module, nn.Parameter):
            foreign.append(parameters[id(module)])
    root = found[0]
    producers = sorted(
        {m.layer for m in members if m.side == "out" and m.layer in order and _produces(names, m.layer)},
        key=lambda layer: order[layer],
    )
    return Group(producers[0], len(root.idxs), tuple(members), tuple(producers)), foreign


def _produces(names: dict[nn.Module, str], layer: str) -> bool:
    module = next(module for module, name in names.items() if name == layer)
    return isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)


def _reason_to_keep(model: nn.Module, group: Group, foreign: list[str], outputs: set[str]) -> str | None:
    fixed = [m.layer for m in group.members if m.side == "out" and m.layer in outputs]
    if fixed:
        makes = "makes an output"
        return makes if fixed[0] in group.producers else f"tied to {fixed[0]}, which {makes}"
    if foreign:
        return f"meets the bare parameter {foreign[0]}"
    for member in group.members:
        module = model.get_submodule(member.layer)
        if not _cuts_cleanly(module):
            return f"meets {member.layer}, a {type(module).__name__} that cannot be narrowed safely"
    return None


def _cuts_cleanly(module: nn.Module) -> bool:
    """Whether torch-pruning narrows a layer so that the slim network is the masked one."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        return module.groups == 1 or module.groups == module.in_channels == module.out_channels
    return isinstance(module, nn.Linear | nn.BatchNorm2d | Resizable)


def _output_layers(model: nn.Module, outputs: Any) -> Iterator[str]:
    """The first layers with weights behind the outputs, whose channels these fix."""
    owners = {id(p): name for name, module in model.named_modules() for p in module.parameters(recurse=False)}
    pending = [tensor.grad_fn for tensor in tensors_in(outputs)]
    seen = set()
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        behind = [edge for edge, _ in node.next_functions if edge is not None]
        weights = [owners[id(leaf)] for edge in behind if id(leaf := _leaf(edge)) in owners]
        if weights:
            yield from weights
        else:
            pending.extend(behind)


def _leaf(node: Any) -> Tensor | None:
    """The tensor that a node of the autograd graph is a function of alone, such as of a weight; or None."""
    while not hasattr(node, "variable"):
        behind = [edge for edge, _ in node.next_functions if edge is not None]
        if len(behind) != 1:
            return None
        node = behind[0]
    leaf: Tensor = node.variable
    return leaf


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors in a nesting of lists, tuples and dicts, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)


class _ScalePruner(tp.BasePruningFunc):
    """Tells torch-pruning how to narrow a layer with one weight for each channel, such as L2Norm."""

    def prune_out_channels(self, layer: Any, idxs: list[int]) -> nn.Module:
        """Removes some channels in place."""
        gone = set(idxs)
        kept = [c for c in range(layer.channels) if c not in gone]
        old = layer.weight
        layer.resize(len(kept))
        layer.weight = nn.Parameter(old.data[kept].clone(), requires_grad=old.requires_grad)
        return layer

    prune_in_channels = prune_out_channels

    def get_out_channels(self, layer: Any) -> int:
        """How many channels there are."""
        return int(layer.channels)

    get_in_channels = get_out_channels
