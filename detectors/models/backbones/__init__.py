"""The trunks that detectors stand on: flat lists of layers, of which a detector taps some."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor, nn

from detectors.errors import ConfigError
from detectors.registry import Registry


@dataclass(frozen=True)
class Trunk:
    """The layers of a backbone in the order of execution.

    Attributes:
        layers: each feeds the next one; their places are the indices of the older systems' `base` lists, so
            that published weights keep their numbers.
        depths: channels behind each layer.
    """

    layers: tuple[nn.Module, ...]
    depths: tuple[int, ...]


# A function of the width multiplier and of keyword options that gives the layers.
TrunkBuilder: TypeAlias = Callable[..., Trunk]

BACKBONES: Registry[TrunkBuilder] = Registry("backbone", "detectors.models.backbones")


class Backbone(nn.Module):
    """A trunk whose maps at some layers are handed on.

    Args:
        trunk: its layers; those behind the last tap are left out.
        taps: indices of layers, ascending; the map behind each is an output.

    Attributes:
        depths: channels of each output.
    """

    def __init__(self, trunk: Trunk, taps: tuple[int, ...]) -> None:
        super().__init__()
        if not taps or list(taps) != sorted(set(taps)) or taps[0] < 0 or taps[-1] >= len(trunk.layers):
            raise ConfigError(
                f"taps={list(taps)} are not ascending indices of the backbone's {len(trunk.layers)} layers"
            )
        self.features = nn.ModuleList(trunk.layers[: taps[-1] + 1])
        self.taps = tuple(taps)
        self.depths = tuple(trunk.depths[tap] for tap in taps)

    def forward(self, x: Tensor) -> list[Tensor]:
        """`[B, 3, H, W]` -> the maps behind the taps, finest first."""
        found = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.taps:
                found.append(x)
        return found
