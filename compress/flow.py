"""Follows the channels of a network through one forward pass, operation by operation."""

from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from compress.channels import Channels
from compress.inputs import Inputs, call, tensors_in
from compress.movement import fixed
from compress.narrow import multiplies
from compress.rules import rule_of
from detectors.geometry import NORMS

# What may read the weight of a layer that multiplies: itself, and for a linear layer its transpose.
_READERS = ("convolution", "t", "mm", "addmm")


def follow(network: nn.Module, inputs: Inputs) -> tuple[Channels, Any]:
    """Runs a network once and says where its channels went, and what it returned.

    Every layer that multiplies makes new channels. What moves data moves their numbers likewise, what adds or
    multiplies maps ties the channels that meet, and what cannot be followed keeps all that enters it.

    Layers that evaluation does not reach, such as auxiliary heads, are looked for in training mode: the slim
    network must still train, so they get narrower with what they read.

    Args:
        network: put into evaluation mode; it gets hooks, and must be of use to nobody else.
        inputs: on the device of the network, which may be meta.
    """
    channels = Channels(network)
    with torch.no_grad(), _Follower(channels):
        outputs = call(network.eval(), inputs)
        for tensor in tensors_in(outputs):
            channels.reads(tensor, normalises=False)
        unreached = channels.unreached()
        if unreached:
            _follow_training(network, inputs, channels, unreached)
    return channels, outputs


def _follow_training(network: nn.Module, inputs: Inputs, channels: Channels, unreached: list[str]) -> None:
    """Keeps layers that evaluation does not reach whole, and follows what they read in training mode."""
    reason = "is not reached by the forward pass"
    for layer in unreached:
        channels.ties.keep(channels.side(layer, "out"), reason)
    for module in network.modules():
        # A norm in training refuses the single value of a pooled image, and follows channels alike.
        module.training = not isinstance(module, NORMS)
    try:
        returned = call(network, inputs)
    except Exception:  # training may take more than the example, and how far it came nobody knows
        for layer in unreached:
            channels.keep_layer(layer, reason)
    else:
        for tensor in tensors_in(returned):
            channels.ties.keep(channels.numbers(tensor), "makes an output in training")


class _Follower(TorchDispatchMode):
    """While active, says of every tensor that is computed which channels it holds."""

    def __init__(self, channels: Channels) -> None:
        super().__init__()
        self.channels = channels

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs an operation and applies its rule."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        places = zip(func._schema.arguments, args, strict=False)
        given = {**{argument.name: value for argument, value in places}, **kwargs}
        read, made = list(tensors_in(list(given.values()))), list(tensors_in(result))
        if read and made:
            self._apply(func, given, read, made)
        return result

    def _apply(self, func: Any, given: dict[str, Any], read: Any, made: Any) -> None:
        channels, name = self.channels, func._schema.name.split("::")[1]
        in_place = func._schema.is_mutable
        name = name.removesuffix("_") if in_place else name
        for layer, key in [owner for tensor in read for owner in channels.owned(tensor)]:
            if key == "weight" and multiplies(channels.modules[layer]) and name not in _READERS:
                channels.keep_layer(layer, "has a weight that is also used outside the layer")
        for tensor in read:
            channels.reads(tensor, normalises="batch_norm" in name and tensor is given.get("input"))
        before = channels.numbers(read[0])
        found = rule_of(name, func)(channels, {**given, "op": name}, read, made)
        if in_place and not torch.equal(found[0], before):
            channels.ties.keep(found[0], f"is written into a part of a tensor{channels.where()}")
            channels.ties.keep(before, f"is overwritten{channels.where()}")
            found = [fixed(tensor.ndim) for tensor in made]
        for tensor, numbers in zip(made, found, strict=True):
            channels.assign(tensor, numbers, read)
