"""Sparsity training: a loss term that draws the scales of batch norms to zero, so that a cut costs less."""

from collections.abc import Sequence

import torch
from torch import Tensor

from compress.cost import subject
from compress.graph import trace
from detectors.engine.terms import Seen
from detectors.errors import ConfigError
from detectors.geometry import BATCH_NORMS
from detectors.models.base import Detector


class Sparsity:
    """A term of `fit`: "sparsity", the sum of |scale| over channels that can be cut, times a weight.

    Liu et al. 2017 ("Network Slimming"), equation 1 with g(s) = |s|.

    Args:
        weight: lambda in the paper, 1e-4 or 1e-5 there.
        scales: for each batch norm its name and the places, `[K]` int64, of the channels that can be cut.
    """

    layers: Sequence[str] = ()

    def __init__(self, weight: float, scales: dict[str, Tensor]) -> None:
        self.settings = {"sparsity": weight}
        self._weight, self._scales = weight, scales

    def __call__(self, detector: Detector, images: Tensor, seen: Seen) -> dict[str, Tensor]:
        """The weighted sum; see `detectors.engine.terms.Term`."""
        sums = [
            detector.get_submodule(layer).get_parameter("weight")[places].float().abs().sum()
            for layer, places in self._scales.items()
        ]
        return {"sparsity": self._weight * torch.stack(sums).sum()}


def sparsity(detector: Detector, weight: float) -> Sparsity:
    """The term for a detector, which must be on its device.

    Raises:
        ConfigError: no channel that can be cut runs through a batch norm.
    """
    network, inputs = subject(detector)
    found: dict[str, list[Tensor]] = {}
    for group in trace(network, inputs).groups:
        for member in group.members:
            module = network.get_submodule(member.layer)
            if isinstance(module, BATCH_NORMS) and module.affine:
                found.setdefault(f"network.{member.layer}", []).append(member.positions)
    if not found:
        raise ConfigError(
            f"train or finetune: sparsity={weight:g} draws on batch norm scales, and no layer of "
            f"{detector.spec.name} that can be cut has a batch norm behind it; set sparsity=0, or take a "
            "detector with batch norm"
        )
    scales = {layer: torch.cat(places).unique().to(inputs.device) for layer, places in found.items()}
    return Sparsity(weight, scales)
