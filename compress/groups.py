"""What can be cut in a network, as plain data: groups of channels, and the layers that stay whole."""

from dataclasses import dataclass

import torch
from torch import Tensor

from compress.cost import Layer
from compress.narrow import Narrow, Side


@dataclass(frozen=True)
class Member:
    """One side of a layer that a group cuts.

    Attributes:
        layer: module name.
        side: "out" for rows (filters, norm scales), "in" for the columns that a consumer reads. A convolution
            that loses whole groups, such as a depthwise one, has only its "out" here.
        positions: `[K]` int64, places on that side.
        channels: `[K]` int64, the channel of the group that each place belongs to.
        cut: takes (module, places to remove) and narrows the module in place.
    """

    layer: str
    side: Side
    positions: Tensor
    channels: Tensor
    cut: Narrow

    def places(self, channels: Tensor) -> Tensor:
        """The places of some channels of the group."""
        return self.positions[torch.isin(self.channels, channels)]


@dataclass(frozen=True)
class Group:
    """Channels that only go together: a layer's filters, the norms behind them, the inputs of their readers.

    Attributes:
        name: the first layer, in the order of execution, that produces the channels; a second group of the
            same layer is called `layer#2`.
        channels: how many there are to choose from, one by one.
        members: what a cut touches.
        producers: names of the convolutions and linear layers whose outputs they are.
        size: filters of the first layer that each of them stands for: more than one where a group norm, a
            channel shuffle or the like ties several.
    """

    name: str
    channels: int
    members: tuple[Member, ...]
    producers: tuple[str, ...]
    size: int = 1


@dataclass(frozen=True)
class Graph:
    """What can be cut in a network, and what it costs.

    Attributes:
        groups: in the order of execution.
        whole: producers that stay as they are -> the reason.
        layers: every layer with weights, for the cost of a plan.
        normed: the producers of which batch norms that are not frozen read what they make, and nothing else
            does: what is constant there is lost, once their statistics are measured anew.
    """

    groups: tuple[Group, ...]
    whole: dict[str, str]
    layers: tuple[Layer, ...]
    normed: frozenset[str] = frozenset()
