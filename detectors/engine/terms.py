"""Further terms of a training's loss, computed in the detector's own forward pass."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from detectors.engine.distributed import Place
from detectors.errors import ConfigError
from detectors.models.base import Detector
from detectors.registry import did_you_mean
from detectors.types import Target


@dataclass
class Seen:
    """What a detector computed on the way through one forward pass, with its gradients.

    Attributes:
        outputs: what `forward` returned; None where it was not called, as in the losses of a two-stage guest.
        inputs: for each watched layer its inputs, one for each time it was called, in that order.
    """

    outputs: Any = None
    inputs: dict[str, list[Tensor]] = field(default_factory=dict)

    def forget(self) -> None:
        """Lets go of everything, so that no activation outlives its step."""
        self.outputs, self.inputs = None, {}


class Term(Protocol):
    """Named parts of the loss beside the detector's own.

    A term is a function of its settings, the detector's weights and the images of the step alone, in every
    process that is: a resumed training brings nothing else back.

    Attributes:
        settings: plain data that decides what the term gives; a training is resumed only with the same.
        layers: modules of the detector, by name, whose inputs the term reads.
    """

    @property
    def settings(self) -> Mapping[str, Any]:
        """See the class."""
        ...

    @property
    def layers(self) -> Sequence[str]:
        """See the class."""
        ...

    def __call__(self, detector: Detector, images: Tensor, seen: Seen) -> dict[str, Tensor]:
        """Scalars that are added to the loss, float32 also under autocast, by names that no other has.

        Args:
            detector: the one that is trained, in the middle of its step.
            images: `[B, 3, H, W]`, 0..1, of the step.
            seen: what the detector computed of these images for its own losses.
        """
        ...


@contextmanager
def watched(detector: Detector, layers: Sequence[str]) -> Iterator[Seen]:
    """Notes the raw outputs of a detector, and what some of its layers are given, for the length of a block.

    Args:
        detector: left as it was.
        layers: names of its modules.
    """
    seen = Seen()

    def note_outputs(module: nn.Module, args: Any, outputs: Any) -> None:
        seen.outputs = outputs

    def noting(name: str) -> Any:
        def note(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            seen.inputs.setdefault(name, []).append(args[0])

        return note

    hooks = [detector.register_forward_hook(note_outputs)]
    hooks += [detector.get_submodule(name).register_forward_pre_hook(noting(name)) for name in layers]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


class Losses(nn.Module):
    """`detector.losses` and the terms as a forward pass, which is what DistributedDataParallel wraps.

    Args:
        detector: trained.
        terms: added to its own losses.
        seen: what `watched` notes of the detector.
        weights: multipliers of its own losses by name; 1 for those not named.
    """

    def __init__(
        self, detector: Detector, terms: Sequence[Term], seen: Seen, weights: Mapping[str, float]
    ) -> None:
        super().__init__()
        self.detector = detector
        self._terms, self._seen, self._weights = tuple(terms), seen, weights

    def forward(self, images: Tensor, targets: list[Target]) -> dict[str, Tensor]:
        """The detector's own named losses, weighted, and behind them those of the terms."""
        self._seen.forget()
        own = self.detector.losses(images, targets)
        values = {name: self._weights.get(name, 1.0) * value for name, value in own.items()}
        for term in self._terms:
            more = term(self.detector, images, self._seen)
            assert not values.keys() & more.keys(), f"two loss terms are called {values.keys() & more.keys()}"
            values = {**values, **more}
        self._seen.forget()
        return values


def check_weights(detector: Detector, weights: Mapping[str, float]) -> None:
    """Raises ConfigError for a weight of a loss that the detector does not have.

    What it has is seen in what a copy of it answers about two images of noise with a box each.
    """
    if not weights:
        return
    height, width = detector.size
    device = next(detector.parameters()).device
    box = torch.tensor([[width / 4, height / 4, width / 2, height / 2]], device=device)
    target = Target.of(box, torch.zeros(1, dtype=torch.int64, device=device))
    with torch.no_grad(), torch.random.fork_rng():
        images = torch.rand(2, 3, height, width, device=device)
        known = list(copy.deepcopy(detector).train().losses(images, [target, target]))
    for name in weights:
        if name not in known:
            lacking = f"{detector.spec.name} has no such loss{did_you_mean(name, known)}"
            raise ConfigError(f"train or finetune: loss_weights.{name}: {lacking}")


@contextmanager
def losses_of(
    detector: Detector, terms: Sequence[Term], place: Place, weights: Mapping[str, float] | None = None
) -> Iterator[nn.Module]:
    """What gives the weighted loss terms of (images, targets), in one process or several, for a block.

    Raises:
        ConfigError: see `check_weights`.
    """
    check_weights(detector, weights or {})
    layers = dict.fromkeys(name for term in terms for name in term.layers)
    with watched(detector, list(layers)) as seen:
        compute = Losses(detector, terms, seen, weights or {})
        if place.world == 1:
            yield compute
            return
        devices = [place.device] if place.device.type == "cuda" else None
        yield DistributedDataParallel(compute, device_ids=devices)


def settings_of(terms: Sequence[Term]) -> dict[str, Any]:
    """The settings of all terms, for telling one training from another."""
    return {key: value for term in terms for key, value in term.settings.items()}
