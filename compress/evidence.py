"""What calibration data say about channels: gradients of their gates, moments of what consumers read."""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from compress.groups import Group
from compress.inputs import tensors_in
from compress.moments import Moments, Sums
from compress.taps import channel_places, consumers, tapped
from detectors.errors import PlanError
from detectors.modes import evaluating

Need = Literal["gradients", "moments"]
# A network and a batch to a scalar: a mean over the images of the batch, or nearly.
Loss = Callable[[nn.Module, Any], Tensor]


@dataclass(frozen=True)
class Evidence:
    """What was measured; empty for criteria that look at weights alone.

    Attributes:
        gradients: group -> `[N, C]` float64, the derivative of what each image adds to the loss of its batch,
            times the images of that, by a gate on each channel: a factor, 1 so far, on what every consumer
            reads of it. Where the loss is a mean over images, that is each image's own; SSD's divides by the
            objects of the batch, so that an image with more of them counts for more, as in training.
        batches: `[N]` int64, the batch that each row belongs to.
        moments: (group, consumer) -> what it reads.
        normed: the layers whose constant part batch norms take out again; see `compress.groups.Graph`.
        seed: of criteria that draw.
    """

    gradients: dict[str, Tensor] = field(default_factory=dict)
    batches: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    moments: dict[tuple[str, str], Moments] = field(default_factory=dict)
    normed: Collection[str] = frozenset()
    seed: int = 0


def gather(
    model: nn.Module,
    groups: Sequence[Group],
    batches: Iterable[Any],
    loss: Loss,
    *,
    needs: Iterable[Need],
    normed: Collection[str] = frozenset(),
    seed: int = 0,
) -> Evidence:
    """Runs a network forward and backward over calibration data.

    Weights are held still and all modules are in evaluation mode, so that an image is judged by itself (Liu
    et al., Group Fisher Pruning, 2021). An image's gradients come from its row of a batch. Of a network that
    regroups rows, such as a second stage that reads proposals, a batch counts as one image: give it batches
    of one.

    Args:
        model: left as it was.
        groups: of that model.
        batches: whatever `loss` takes; the first tensor in one has a row for each image.
        loss: of the model and a batch.
        needs: what to measure.
        normed: of the graph that the groups are from; kept for criteria that regress.
        seed: of the model's own random draws, and kept for criteria that draw.

    Raises:
        PlanError: no batch, a loss that is not finite, or one in which no channel has a part.
    """
    tally = _Tally(model, groups, with_moments="moments" in set(needs))
    rows: dict[str, list[Tensor]] = {group.name: [] for group in groups}
    numbers: list[Tensor] = []
    with _still(model, seed), tapped(model, tally.readers, tally.see, backward=True):
        for number, batch in enumerate(batches):
            value = loss(model, batch)
            if not isinstance(value, Tensor) or value.numel() != 1:
                given = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise PlanError(
                    f"the loss gives {given} where a tensor of one number must be; add its parts up"
                )
            value = value * _images(batch)  # so that a batch of any size says as much of an image
            if not bool(torch.isfinite(value)):
                raise PlanError(
                    f"the loss is {value.item():g} on calibration batch {number + 1}: scores would mean "
                    "nothing; check checkpoint and data, or take a criterion of weights alone, such as l1"
                )
            if not value.requires_grad:
                raise PlanError("the loss depends on no channel that can be cut: there is nothing to score")
            value.backward()
            del value  # and what it was made of, before the next pass
            found = tally.gates(_images(batch))
            for name, gradients in found.items():
                rows[name].append(gradients)
            numbers.append(torch.full((max(map(len, found.values()), default=0),), number))
    if not numbers:
        raise PlanError("there are no calibration images to score on")
    return Evidence(
        {name: torch.cat(parts) for name, parts in rows.items()},
        torch.cat(numbers),
        tally.moments(),
        normed,
        seed,
    )


def moments(
    model: nn.Module,
    groups: Sequence[Group],
    batches: Iterable[Any],
    run: Callable[[nn.Module, Any], Any],
    *,
    enough: tuple[int, int] | None = None,
) -> dict[tuple[str, str], Moments]:
    """Moments of what the consumers of some groups read, from forward passes alone.

    Args:
        model: left as it was.
        groups: of that model.
        batches: whatever `run` takes.
        run: `run(model, batch)` makes a forward pass.
        enough: images, and positions for each channel that a consumer reads: once there are as many of both,
            no further batch is looked at. None: all are.
    """
    tally, images = _Tally(model, groups, with_moments=True), 0
    with torch.no_grad(), evaluating(model), tapped(model, tally.readers, tally.see, backward=False):
        for batch in batches:
            run(model, batch)
            images += _images(batch)
            if enough is not None and images >= enough[0] and tally.fullness >= enough[1]:
                break
    return tally.moments()


class _Tally:
    """Adds up what the taps show."""

    def __init__(self, model: nn.Module, groups: Sequence[Group], *, with_moments: bool) -> None:
        self._groups = {group.name: group for group in groups}
        self._readers: dict[str, list[tuple[str, Tensor]]] = {}
        self._sums: dict[tuple[str, str], Sums] = {}
        self._gates: dict[str, list[Tensor]] = {name: [] for name in self._groups}
        for group in groups:
            for member in consumers(group):
                places = channel_places(member)
                self._readers.setdefault(member.layer, []).append((group.name, places))
                if with_moments:
                    linear = isinstance(model.get_submodule(member.layer), nn.Linear)
                    flattened = linear and len(places) > group.size
                    self._sums[group.name, member.layer] = Sums.of(places, flattened=flattened)

    @property
    def readers(self) -> list[str]:
        """The layers to tap."""
        return list(self._readers)

    @property
    def fullness(self) -> float:
        """Positions seen for each number that is read there, by the consumer that saw the fewest."""
        return min((sums.count / len(sums.inputs) for sums in self._sums.values()), default=math.inf)

    def see(self, layer: str, read: Tensor, gradient: Tensor | None) -> None:
        """Adds one pass through a layer: `[B, ..., C]` what it reads and the gradient by it."""
        if gradient is not None:
            felt = _felt(read, gradient)
        for name, places in self._readers[layer]:
            if gradient is not None:
                self._gates[name].append(felt[:, places.to(felt.device)].sum(1).double().cpu())
            if (name, layer) in self._sums:
                self._sums[name, layer].add(read, gradient)

    def gates(self, images: int) -> dict[str, Tensor]:
        """The gradients of a batch by the gates of each group, summed over all that read it; starts anew.

        A row for each image, or one for the batch where the network regrouped them.
        """
        alone = all(len(part) == images for parts in self._gates.values() for part in parts)
        found = {}
        for name, parts in self._gates.items():
            total = torch.zeros(images if alone else 1, self._groups[name].channels, dtype=torch.float64)
            for part in parts:
                total += part if alone else part.sum(0)
            found[name] = total
        self._gates = {name: [] for name in self._groups}
        return found

    def moments(self) -> dict[tuple[str, str], Moments]:
        """Means over everything seen."""
        return {key: sums.moments for key, sums in self._sums.items()}


def _felt(read: Tensor, gradient: Tensor) -> Tensor:
    """`[B, ..., C]` -> `[B, C]`, the gradient by a gate; an image at a time, to save memory."""
    if read.ndim == 2:
        return read * gradient
    return torch.stack([(a * g).flatten(0, -2).sum(0) for a, g in zip(read, gradient, strict=True)])


def _images(batch: Any) -> int:
    """The rows of the first tensor in a batch."""
    first = next(tensors_in(batch), None)
    return 1 if first is None or first.ndim == 0 else len(first)


@contextmanager
def _still(model: nn.Module, seed: int) -> Iterator[None]:
    """Evaluation mode, weights that ask for no gradient, random draws that repeat; all undone afterwards."""
    free = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with evaluating(model), torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(seed)
        for parameter in free:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in free:
                parameter.requires_grad_(True)
