"""What a network costs, in closed form for each layer, so that a plan can be priced before it is built.

A MAC is one multiply and add of a convolution or linear layer; batch norm, activations, pooling, resizing and
the post-processing are not counted, as in torch.utils.flop_counter, whose count is exactly twice ours where a
network multiplies nowhere else: the products of an attention, and layers whose weights are read by other code
than their own forward, are not counted here. Batch 1.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from compress.inputs import Inputs, call, read_by, tensors_in, with_shapes
from compress.narrow import multiplies
from detectors.geometry import CONVOLUTIONS, TRANSPOSED
from detectors.memory_format import in_layout
from detectors.modes import evaluating
from detectors.shapes_only import ShapesOnly


@dataclass(frozen=True)
class Cost:
    """What a network costs at batch 1.

    Attributes:
        macs: multiply-adds of one image.
        params: elements of all parameters.
        bytes: parameters and buffers as a weight file stores them, without the file's own headers.
    """

    macs: int
    params: int
    bytes: int

    def __str__(self) -> str:
        return f"{self.macs / 1e9:.3f} GMACs, {self.params / 1e6:.3f} M parameters, {self.bytes / 1e6:.2f} MB"


@dataclass(frozen=True)
class Layer:
    """One layer with weights, priced as a function of its widths.

    Attributes:
        name: module name.
        inputs: channels read.
        outputs: channels made.
        pair_params: weights for each pair of an input and an output channel (kernel height x width).
        pair_macs: multiply-adds for each such pair and image.
        groups: convolution groups; a pair counts only inside its group.
        output_params: parameters for each output channel, such as a bias, or a norm's scale and shift.
        output_buffers: buffer elements for each output channel, such as running statistics.
        fixed_bytes: bytes that do not depend on widths.
        element: bytes of one parameter or float buffer.
        fixed_params: parameters that do not depend on widths; below zero where another layer stores some of
            those counted above, as with a weight that two layers share.
    """

    name: str
    inputs: int
    outputs: int
    pair_params: int
    pair_macs: int
    groups: int
    output_params: int
    output_buffers: int
    fixed_bytes: int
    element: int
    fixed_params: int = 0

    @property
    def by_group(self) -> bool:
        """Whether whole groups go, as in a norm or a depthwise convolution, or every group gets narrower."""
        return self.groups > self.inputs // self.groups

    def cost(self, inputs: Any, outputs: Any) -> Cost:
        """The cost at other widths, one pair or int64 arrays of them; a layer that loses groups has fewer."""
        groups = inputs * self.groups // self.inputs if self.by_group else self.groups
        groups = groups + (groups == 0)  # at least one, in an array too
        pairs = inputs * outputs // groups
        params = pairs * self.pair_params + outputs * self.output_params + self.fixed_params
        stored = (params + outputs * self.output_buffers) * self.element + self.fixed_bytes
        return Cost(pairs * self.pair_macs, params, stored)


def layers_of(model: nn.Module, inputs: Inputs) -> tuple[Layer, ...]:
    """Every layer with parameters or buffers, in the order of execution, from one forward pass.

    Args:
        model: any network; left in the modes it was in.
        inputs: what `model` takes, of which the first tensor with dimensions says how many images that are;
            may live on the meta device together with the model.
    """
    names = {module: name for name, module in model.named_modules()}
    positions: dict[nn.Module, int] = {}
    images = next((tensor.shape[0] for tensor in tensors_in(inputs) if tensor.ndim), 1)

    def record(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        positions.setdefault(module, 0)
        if multiplies(module):
            # A transposed convolution multiplies at each input position, all others at each output position.
            tensor = read_by(args, kwargs) if isinstance(module, TRANSPOSED) else output
            channels = tensor.shape[-1] if isinstance(module, nn.Linear) else tensor.shape[1]
            positions[module] += tensor.numel() // (images * channels)

    stored = [module for module in names if _stored(module) or multiplies(module)]
    hooks = [module.register_forward_hook(record, with_kwargs=True) for module in stored]
    try:
        with torch.no_grad(), evaluating(model), ShapesOnly():
            call(model, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    unused = [module for module in stored if module not in positions]
    layers, seen = [], set()
    for module in [*positions, *unused]:
        # What two layers share is there once.
        own = [tensor for tensor in _stored(module) if id(tensor) not in seen]
        layers.append(_storing(_layer(names[module], module, positions.get(module, 0)), own))
        seen |= {id(tensor) for tensor in own}
    return tuple(layers)


def total(costs: Any) -> Cost:
    """The sum of some costs."""
    macs = params = stored = 0
    for cost in costs:
        macs, params, stored = macs + cost.macs, params + cost.params, stored + cost.bytes
    return Cost(macs, params, stored)


def cost_of_layers(layers: tuple[Layer, ...], widths: Mapping[str, tuple[int, int]] | None = None) -> Cost:
    """The whole cost, with the (inputs, outputs) of some layers changed."""
    widths = widths or {}
    return total(layer.cost(*widths.get(layer.name, (layer.inputs, layer.outputs))) for layer in layers)


def cost_of(model: nn.Module, inputs: Inputs | None = None) -> Cost:
    """The cost of a network as it is.

    Args:
        model: a network; of a detector, its `network` at its `size` is meant.
        inputs: what a bare network takes, batch 1; not needed for a detector.
    """
    model, inputs = subject(model, inputs)
    return cost_of_layers(with_shapes(layers_of, model, inputs))


def subject(model: nn.Module, inputs: Inputs | None = None) -> tuple[nn.Module, Any]:
    """What is traced, counted and timed: a detector's network and one image, or a network and its inputs.

    The image lies in memory as in `Detector.predict`.
    """
    if inputs is not None:
        return model, inputs
    detector: Any = model
    parameter = next(detector.network.parameters())
    image = torch.zeros(1, 3, *detector.size, dtype=parameter.dtype, device=parameter.device)
    return detector.network, in_layout(image, channels_last=True)


def _layer(name: str, module: Any, positions: int) -> Layer:
    own = list(module.parameters(recurse=False))
    buffers = _stored(module)[len(own) :]
    # The weight of a layer with parametrizations is computed, and may be all that it has.
    element = (own or buffers or [module.weight])[0].element_size()
    match module:
        case _ if isinstance(module, CONVOLUTIONS):
            kernel = math.prod(module.kernel_size)
            inputs, outputs, groups = module.in_channels, module.out_channels, module.groups
            return Layer(
                name,
                inputs,
                outputs,
                kernel,
                kernel * positions,
                groups,
                int(module.bias is not None),
                0,
                0,
                element,
            )
        case nn.Linear():
            bias = int(module.bias is not None)
            return Layer(name, module.in_features, module.out_features, 1, positions, 1, bias, 0, 0, element)
    # Norms and scales: everything is as long as there are channels, but for counters such as
    # num_batches_tracked.
    channels = len((own or buffers)[0])
    if channels and all(p.shape == (channels,) for p in own):
        wide = [b for b in buffers if b.shape == (channels,)]
        fixed = sum(b.numel() * b.element_size() for b in buffers if b.shape != (channels,))
        return Layer(name, channels, channels, 0, 0, channels, len(own), len(wide), fixed, element)
    fixed_params = sum(p.numel() for p in own)
    fixed = sum(t.numel() * t.element_size() for t in _stored(module))
    # An unknown layer: its parameters as one "output" whose width no plan changes.
    return Layer(name, 1, 1, 0, 0, 1, fixed_params, 0, fixed - fixed_params * element, element)


def _storing(layer: Layer, own: list[Tensor]) -> Layer:
    """A layer that stores exactly these, whatever its kind has: some may be shared, computed or its own."""
    priced = layer.cost(layer.inputs, layer.outputs)
    more = sum(tensor.numel() for tensor in own if isinstance(tensor, nn.Parameter)) - priced.params
    stored = sum(tensor.numel() * tensor.element_size() for tensor in own)
    fixed_bytes = layer.fixed_bytes + stored - priced.bytes - more * layer.element
    return replace(layer, fixed_params=more, fixed_bytes=fixed_bytes)


def _stored(module: nn.Module) -> list[Tensor]:
    """A module's own parameters and those of its buffers that a state dict holds."""
    buffers = module.named_buffers(recurse=False)
    kept = [buffer for name, buffer in buffers if name not in module._non_persistent_buffers_set]
    return [*module.parameters(recurse=False), *kept]
