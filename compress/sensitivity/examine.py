"""What a detector makes of a few fixed images: a loss for each of them, and what it finds in them.

For a detector of which some layers were changed, the operations before these are not repeated; see
`compress.sensitivity.replay`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compress.inputs import copied
from compress.sensitivity.replay import START, Frontier, Trail, recorded
from detectors.data import Dataset
from detectors.data.samples import EvalSamples, collate, stable_seed, unpack
from detectors.errors import DataError
from detectors.memory_format import in_layout
from detectors.models.base import Detector
from detectors.modes import evaluating
from detectors.types import Batch, Detections, Target

# Bytes of what is kept of the whole detector at a time; layers that would need more are run from the start.
MOST_KEPT = 1 << 30
# Batch against single image, where only the order of additions differs: 1e-6 was seen.
_ALIKE = 1e-3


@dataclass(frozen=True)
class Findings:
    """What a detector made of the images.

    Attributes:
        losses: `[N]` float64, the sum of the loss terms of each image taken by itself.
        detections: one for each image, in host memory, pixels of the original image.
    """

    losses: NDArray[np.float64]
    detections: list[Detections]


def chosen(dataset: Dataset, count: int, seed: int) -> list[int]:
    """The positions of some images, drawn without replacement, ascending: the same for the same seed.

    Raises:
        DataError: none of them has a labelled box that counts.
    """
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(stable_seed(seed)))
    indices = sorted(order[:count].tolist())
    if not any((~(t.crowd | t.difficult)).any() for t in map(dataset.target, indices)):
        raise DataError(
            f"none of the {len(indices)} images of the sweep has a labelled box; raise sensitivity.images, "
            "or draw others with sensitivity.seed"
        )
    return indices


class Examiner:
    """Examines a detector, whole and changed, on images that it holds in memory (a byte for each value).

    Args:
        detector: the whole one, left alone; on its device.
        dataset: where the images are.
        indices: their positions.
        batch: images in one forward pass. Of a second stage, whose proposals hang on the targets, and of any
            detector whose loss of a batch does not part into images, each image is a pass of its own.
        difficult: whether boxes marked difficult have a part in the loss.

    Attributes:
        targets: one for each image, in host memory, pixels of the original image.
    """

    def __init__(
        self, detector: Detector, dataset: Dataset, indices: Sequence[int], *, batch: int, difficult: bool
    ) -> None:
        self._detector = detector
        self._device = next(detector.parameters()).device
        self._difficult = difficult
        # Shares all tensors; its network is exchanged.
        self._shell = copied(detector, lambda tensor: tensor)
        samples = EvalSamples(dataset, detector.size)
        held = [_held(samples, list(indices[at : at + batch])) for at in range(0, len(indices), batch)]
        self._apart = self._needs_single_images(held[0])
        self._batches = [one for found in held for one in _single(found)] if self._apart else held
        self.targets: list[Target] = [target for found in held for target in found.targets]
        self._trails: list[Trail] = []
        self._frontiers: list[Frontier] = []
        self._first = Findings(np.zeros(0), [])

    def whole(self) -> Findings:
        """What the detector as it is makes of the images; what it does is recorded on the way."""
        detector = self._detector
        # What modules make once and keep, such as anchors, is then made.
        self._run(detector, self._batches[0], lambda run: run())
        self._trails, parts = [], []

        def noted(run: Callable[[], Any]) -> Any:
            trail, raw = recorded(detector.network, run)
            self._trails.append(trail)
            return raw

        for held in self._batches:
            parts.append(self._run(detector, held, noted))
        self._first = parts[0]
        self._frontiers = [START for _ in self._trails]
        return _joined(parts)

    def enter(self, layers: Iterable[str]) -> None:
        """Makes ready for changes of some layers: what comes before the first of them is computed once.

        Asked for layer after layer in the order of execution, all of this together is one forward pass.
        """
        changed = list(layers)
        steps = [trail.first_step(changed) for trail in self._trails]
        needed = sum(trail.bytes_at(step) for trail, step in zip(self._trails, steps, strict=True))
        if needed > MOST_KEPT:
            self._frontiers = [START for _ in self._trails]
            return
        for at, (trail, held, step) in enumerate(zip(self._trails, self._batches, steps, strict=True)):
            frontier = self._frontiers[at] if self._frontiers[at].step <= step else START
            batch = _shown(held, self._device)
            with self._still(self._detector, held.indices[0]):
                self._frontiers[at] = trail.advanced(
                    frontier, step, partial(self._raw, self._detector, batch)
                )
        # A network that looks at numbers behind torch's back, by `tolist()`, would see memory that was never
        # written: so the whole one is held against itself.
        found = self._run(
            self._detector, self._batches[0], partial(self._trails[0].resumed, self._frontiers[0])
        )
        if not np.allclose(found.losses, self._first.losses, rtol=_ALIKE, atol=0, equal_nan=True):
            self._frontiers = [START for _ in self._trails]

    def changed(self, network: nn.Module) -> Findings:
        """What the detector makes of the images with another network, which differs from the layers on that
        `enter` was told, and not before.
        """
        self._shell.network = network
        passes = zip(self._trails, self._frontiers, self._batches, strict=True)
        return _joined(
            [self._run(self._shell, held, partial(trail.resumed, at)) for trail, at, held in passes]
        )

    def _run(self, detector: Any, held: Batch, how: Callable[[Callable[[], Any]], Any]) -> Findings:
        """What a detector makes of a batch; `how` makes the pass."""
        batch = _shown(held, self._device)
        with self._still(detector, held.indices[0]):
            return self._read(detector, how(partial(self._raw, detector, batch)), batch)

    def _raw(self, detector: Any, batch: Batch) -> Any:
        """The part of an examination that is replayed: the network and whatever stands around it."""
        if self._apart:
            wanted = self._wanted(batch)
            return detector.losses(batch.images, wanted), detector.found(batch.images, batch.sizes)
        return detector(batch.images)

    def _read(self, detector: Any, raw: Any, batch: Batch) -> Findings:
        """Losses and detections from that."""
        if self._apart:
            losses, found = [raw[0]], raw[1]
        else:
            rows = (_row(raw, k, len(batch.targets)) for k in range(len(batch.targets)))
            losses = [detector.loss(row, [one]) for row, one in zip(rows, self._wanted(batch), strict=True)]
            found = detector.detect(raw, batch.sizes)
        sums = [float(sum(float(term) for term in terms.values())) for terms in losses]
        return Findings(np.array(sums, dtype=np.float64), [one.cpu() for one in found])

    def _needs_single_images(self, held: Batch) -> bool:
        detector = self._detector
        if type(detector).losses is not Detector.losses or type(detector).found is not Detector.found:
            return True
        if len(held.targets) == 1:
            return False
        batch = _shown(held, self._device)
        first = _single(batch)[0]
        with self._still(detector, 0):
            alone = sum(float(term) for term in detector.losses(first.images, self._wanted(first)).values())
            row = _row(detector(batch.images), 0, len(batch.targets))
            try:
                parted = sum(float(term) for term in detector.loss(row, self._wanted(first)).values())
            except Exception:  # a detector of the user's whose outputs are no rows may fail in any way
                return True
        return not abs(parted - alone) <= _ALIKE * max(abs(alone), 1e-6)

    def _wanted(self, batch: Batch) -> list[Target]:
        """The boxes of the loss, in pixels of the network's input."""
        height, width = self._detector.size
        wanted = []
        for target, size in zip(batch.targets, batch.sizes, strict=True):
            kept = target.select(~(target.crowd if self._difficult else target.crowd | target.difficult))
            scale = kept.boxes.new_tensor([width / size[1], height / size[0]]).repeat(2)
            wanted.append(replace(kept, boxes=kept.boxes * scale))
        return wanted

    @contextmanager
    def _still(self, detector: nn.Module, seed: int) -> Iterator[None]:
        """Evaluation mode without gradients, and random draws that repeat."""
        # Not inference mode: its tensors do not show what is changed in place.
        with evaluating(detector), torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(stable_seed(seed))
            yield


def _held(samples: EvalSamples, indices: list[int]) -> Batch:
    """Some images with their targets, in uint8, a quarter of float32."""
    batch = unpack(collate([samples[index] for index in indices]))
    return replace(batch, images=batch.images.mul(255).round().to(torch.uint8))


def _shown(held: Batch, device: torch.device) -> Batch:
    """A batch as the loader gives it, float32, 0..1, in the layout of `Detector.predict`."""
    images = in_layout(held.images.to(device).float().div_(255), channels_last=True)
    return replace(held, images=images).to(device)


def _single(batch: Batch) -> list[Batch]:
    """A batch for each image."""
    parts = zip(batch.images.split(1), batch.targets, batch.sizes, batch.indices, strict=True)
    return [Batch(image, [target], [size], [index]) for image, target, size, index in parts]


def _row(value: Any, place: int, count: int) -> Any:
    """Raw outputs of one image, as a batch of one, from those of `count` images."""
    if isinstance(value, Tensor):
        return value[place : place + 1] if value.ndim and len(value) == count else value
    if isinstance(value, dict):
        return {key: _row(item, place, count) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_row(item, place, count) for item in value))
    if isinstance(value, list | tuple):
        return type(value)(_row(item, place, count) for item in value)
    return value


def _joined(parts: Sequence[Findings]) -> Findings:
    detections = [one for part in parts for one in part.detections]
    return Findings(np.concatenate([part.losses for part in parts]), detections)
