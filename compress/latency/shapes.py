"""Layers by their shape alone: what decides how long a convolution or linear layer takes."""

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from compress.cost import Layer
from compress.inputs import Inputs, call, read_by, with_shapes
from compress.narrow import multiplies
from detectors.geometry import CONVOLUTIONS, TRANSPOSED
from detectors.modes import evaluating

_PLAIN: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED: dict[int, Any] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


@dataclass(frozen=True)
class Shape:
    """One call of a layer that multiplies.

    Attributes:
        kind: "conv", "transposed" or "linear".
        inputs: channels read.
        outputs: channels made.
        size: height and width of the map that it reads, or as many numbers as the convolution has
            dimensions; of a linear layer, the rows of one image.
        groups: convolution groups.
        kernel: as many numbers as there are dimensions, like the four below; none for a linear layer.
        stride: steps.
        dilation: distances between taps.
        padding: zeros on each side before and behind, a pair for each dimension.
        more: rows that a transposed convolution adds, its `output_padding`.
        bias: whether it adds one.
    """

    kind: str
    inputs: int
    outputs: int
    size: tuple[int, ...]
    groups: int = 1
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()
    more: tuple[int, ...] = ()
    bias: bool = True

    def __str__(self) -> str:
        """One name for each shape, as a table of latencies has it."""
        head = f"{self.kind} {self.inputs}->{self.outputs} at {_by(self.size)}"
        if self.kind == "linear":
            return head + " bias" * self.bias
        padding = ",".join(f"{before}+{behind}" for before, behind in self.padding)
        text = f"{head} kernel {_by(self.kernel)} stride {_by(self.stride)} padding {padding}"
        more = f" more {_by(self.more)}" if any(self.more) else ""
        return f"{text} dilation {_by(self.dilation)} groups {self.groups}{more}" + " bias" * self.bias

    def sized(self, layer: Layer, inputs: int, outputs: int) -> "Shape":
        """The same at other widths of the layer; one that loses whole groups has fewer."""
        groups = max(1, inputs * layer.groups // layer.inputs) if layer.by_group else layer.groups
        return replace(self, inputs=inputs, outputs=outputs, groups=groups)


def shapes_of(model: nn.Module, inputs: Inputs) -> dict[str, tuple[Shape, ...]]:
    """Layer -> the shape of each call of it in one forward pass, for every layer that multiplies.

    Args:
        model: any network; run without its data where it can be.
        inputs: what it takes, batch 1.
    """
    return with_shapes(_recorded, model, inputs)


def module_of(shape: Shape) -> nn.Module:
    """A layer of that shape with random weights, of torch's default dtype and device, in evaluation mode."""
    if shape.kind == "linear":
        return nn.Linear(shape.inputs, shape.outputs, shape.bias).eval()
    options = {
        "stride": shape.stride,
        "dilation": shape.dilation,
        "groups": shape.groups,
        "bias": shape.bias,
    }
    dimensions = len(shape.kernel)
    if shape.kind == "transposed":
        options |= {"padding": tuple(before for before, _ in shape.padding), "output_padding": shape.more}
        kinds = _TRANSPOSED
    else:
        even = all(before == behind for before, behind in shape.padding)
        # A convolution pads unevenly only by the name "same".
        options["padding"] = tuple(before for before, _ in shape.padding) if even else "same"
        kinds = _PLAIN
    made: nn.Module = kinds[dimensions](shape.inputs, shape.outputs, shape.kernel, **options)
    return made.eval()


def example_of(shape: Shape, batch: int) -> Tensor:
    """A random input of a layer of that shape."""
    if shape.kind == "linear":
        return torch.rand(batch * shape.size[0], shape.inputs)
    return torch.rand(batch, shape.inputs, *shape.size)


def _recorded(model: nn.Module, inputs: Inputs) -> dict[str, tuple[Shape, ...]]:
    names = {module: name for name, module in model.named_modules() if multiplies(module)}
    found: dict[str, list[Shape]] = defaultdict(list)

    def record(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        found[names[module]].append(_shape(module, read_by(args, kwargs)))

    hooks = [module.register_forward_hook(record, with_kwargs=True) for module in names]
    try:
        with torch.no_grad(), evaluating(model):
            call(model, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: tuple(shapes) for name, shapes in found.items()}


def _shape(module: Any, tensor: Tensor) -> Shape:
    bias = module.bias is not None
    if not isinstance(module, CONVOLUTIONS):
        rows = tensor.numel() // tensor.shape[-1] // (tensor.shape[0] if tensor.ndim > 1 else 1)
        return Shape("linear", module.in_features, module.out_features, (rows,), bias=bias)
    transposed = isinstance(module, TRANSPOSED)
    kernel, dilation = tuple(module.kernel_size), tuple(module.dilation)
    padding: tuple[tuple[int, int], ...]
    if module.padding == "valid":
        padding = tuple((0, 0) for _ in kernel)
    elif module.padding == "same":
        whole = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        padding = tuple((total // 2, total - total // 2) for total in whole)
    else:
        padding = tuple((int(one), int(one)) for one in module.padding)
    return Shape(
        "transposed" if transposed else "conv",
        module.in_channels,
        module.out_channels,
        tuple(tensor.shape[-len(kernel) :]),
        module.groups,
        kernel,
        tuple(module.stride),
        dilation,
        padding,
        tuple(module.output_padding) if transposed else (),
        bias,
    )


def _by(numbers: tuple[int, ...]) -> str:
    return "x".join(map(str, numbers))
