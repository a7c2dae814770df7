"""The memory layout that convolutions prefer, kept off the one layer that it would crash."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

# Channels of a block in oneDNN's kernels (AVX-512; AVX2 takes 8).
_BLOCK = 16


def to_channels_last(model: nn.Module) -> None:
    """Lays a model's weights out as `[B, H, W, C]`, in place.

    oneDNN's gradient of a strided 1x1 convolution's weights writes past its workspace in this layout when the
    input has fewer channels than a block (its issue 6035, open in torch 2.15): a ResNet's shortcuts, once
    they are narrow, end the process. Such a layer computes in the default layout while it is on a CPU. It is
    looked at in each pass, since pruning narrows layers later.
    """
    model.to(memory_format=torch.channels_last)
    for layer in model.modules():
        if (
            isinstance(layer, nn.Conv2d)
            and layer.kernel_size == (1, 1)
            and max(layer.stride) > 1
            and _in_default_layout not in layer._forward_pre_hooks.values()
        ):
            layer.register_forward_pre_hook(_in_default_layout)


def in_channels_last(tensor: Tensor) -> bool:
    """Whether a batch of maps lies in memory as `[B, H, W, C]`, and not in the default layout as well."""
    return (
        tensor.ndim == 4
        and tensor.is_contiguous(memory_format=torch.channels_last)
        and not tensor.is_contiguous()
    )


def in_layout(tensor: Tensor, channels_last: bool) -> Tensor:
    """A batch of maps in that layout; tensors of other dimensions have only one."""
    if tensor.ndim != 4:
        return tensor.contiguous()
    layout = torch.channels_last if channels_last else torch.contiguous_format
    made = tensor.contiguous(memory_format=layout)
    # Of a single image any stride of the batch is contiguous; by another one torch does not know the layout.
    return made if made.stride(0) == made[0].numel() else made.clone(memory_format=layout)


@contextmanager
def weights_in_default_layout(*models: nn.Module) -> Iterator[None]:
    """Has the weights of models in the default layout for the length of a block, as files give them."""
    kept = [(p, p.data) for model in models for p in model.parameters() if not p.is_contiguous()]
    for parameter, data in kept:
        parameter.data = data.contiguous()
    try:
        yield
    finally:
        for parameter, data in kept:
            parameter.data = data


def _in_default_layout(layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
    weight = layer.weight
    assert isinstance(weight, nn.Parameter)
    if weight.shape[1] >= _BLOCK or weight.device.type != "cpu":
        return None
    # Not `contiguous()`: a 1x1 weight has both layouts at once, and its strides say which is used.
    weight.data = weight.data.clone(memory_format=torch.contiguous_format)
    return (inputs[0].clone(memory_format=torch.contiguous_format), *inputs[1:])
