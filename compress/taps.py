"""Looks at what the consumers of a group read, forward and backward, without changing what is computed."""

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from compress.groups import Group, Member
from compress.inputs import read_by

# Called with a consumer's name, what it reads (channels last, batch first) and the gradient by that, or None.
See = Callable[[str, Tensor, Tensor | None], None]


def consumers(group: Group) -> list[Member]:
    """The members of a group that read its channels."""
    return [member for member in group.members if member.side == "in"]


def takes_constant(layer: nn.Module, name: str, normed: Collection[str]) -> bool:
    """Whether a consumer can add a constant: it has a bias, or what it adds is lost in a batch norm."""
    return getattr(layer, "bias", None) is not None or name in normed


def channel_places(member: Member) -> Tensor:
    """`[K, C]`: where a consumer reads each channel of the group, K times if the maps were flattened."""
    order = torch.sort(member.channels, stable=True).indices
    return member.positions[order].view(int(member.channels.max()) + 1, -1).T


@contextmanager
def tapped(model: nn.Module, layers: Iterable[str], see: See, *, backward: bool) -> Iterator[None]:
    """While active, `see` is called for every pass through one of the layers.

    Args:
        model: gets hooks, which are taken off again.
        layers: names of convolutions and linear layers.
        see: told what a layer reads.
        backward: call `see` in the backward pass, with the gradient, instead of in the forward pass. Weights
            need not require gradients for that.
    """

    def hook(name: str) -> Callable[[nn.Module, Any, Any], Any]:
        def on_call(module: nn.Module, args: Any, kwargs: Any) -> Any:
            read = read_by(args, kwargs)
            first = read.ndim - 1 if isinstance(module, nn.Linear) else 1
            if not backward:
                see(name, read.detach().movedim(first, -1), None)
                return None
            begins = not read.requires_grad  # the graph: nothing before needs a gradient
            read = read.detach().requires_grad_() if begins else read
            shown = _Tap.apply(
                read, lambda x, g: see(name, x.movedim(first, -1), g.movedim(first, -1)), begins
            )
            return ((shown, *args[1:]), kwargs) if args else (args, kwargs | {"input": shown})

        return on_call

    hooks = [
        model.get_submodule(name).register_forward_pre_hook(hook(name), with_kwargs=True) for name in layers
    ]
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()


class _Tap(torch.autograd.Function):
    """The identity, which in the backward pass shows the tensor and its gradient to a function.

    It keeps the tensor that the layer behind it would keep to train its weights: with the weights held still,
    a pass takes no more memory than one of training. Where the graph begins the gradient goes no further, or
    the tensor would keep it.
    """

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, see: Callable[[Tensor, Tensor], None], begins: bool) -> Tensor:
        """The tensor itself."""
        ctx.see, ctx.begins = see, begins
        ctx.save_for_backward(tensor)
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, None]:
        """The gradient itself."""
        (tensor,) = ctx.saved_tensors
        ctx.see(tensor, gradients[0])
        return None if ctx.begins else gradients[0], None, None
