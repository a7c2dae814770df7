"""Further terms of a training's loss, computed in the detector's own forward pass."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from detectors.engine.distributed import Place
from detectors.models.base import Detector
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
    """

    def __init__(self, detector: Detector, terms: Sequence[Term], seen: Seen) -> None:
        super().__init__()
        self.detector = detector
        self._terms, self._seen = tuple(terms), seen

    def forward(self, images: Tensor, targets: list[Target]) -> dict[str, Tensor]:
        """The detector's own named losses, and behind them those of the terms."""
        self._seen.forget()
        values = self.detector.losses(images, targets)
        for term in self._terms:
            more = term(self.detector, images, self._seen)
            assert not values.keys() & more.keys(), f"two loss terms are called {values.keys() & more.keys()}"
            values = {**values, **more}
        self._seen.forget()
        return values


@contextmanager
def losses_of(detector: Detector, terms: Sequence[Term], place: Place) -> Iterator[nn.Module]:
    """What gives the loss terms of (images, targets), in one process or several, for a block."""
    layers = dict.fromkeys(name for term in terms for name in term.layers)
    with watched(detector, list(layers)) as seen:
        compute = Losses(detector, terms, seen)
        if place.world == 1:
            yield compute
            return
        devices = [place.device] if place.device.type == "cuda" else None
        yield DistributedDataParallel(compute, device_ids=devices)


def settings_of(terms: Sequence[Term]) -> dict[str, Any]:
    """The settings of all terms, for telling one training from another."""
    return {key: value for term in terms for key, value in term.settings.items()}
