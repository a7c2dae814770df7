"""What a criterion needs to know of a detector, from calibration batches and the detector's own loss."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import torch
from torch import Tensor, nn

from compress.cost import subject
from compress.evidence import Evidence, Loss, Need, gather
from compress.groups import Graph
from detectors.errors import PlanError, some
from detectors.models.base import Detector
from detectors.types import Batch


def detection_loss(detector: Detector) -> Loss:
    """The sum of a detector's losses over a batch, in the form that `gather` asks for."""

    def loss(_: nn.Module, batch: Batch) -> Tensor:
        return torch.stack(list(detector.losses(batch.images, batch.targets).values())).sum()

    return loss


def regroups(detector: Detector, graph: Graph, batch: Batch, *, seed: int) -> bool:
    """Whether a second stage mixes the images of a batch, so that each must be a batch of its own.

    Of a single image nothing can be told: False.
    """
    network, _ = subject(detector)
    tried = gather(network, graph.groups, [batch], detection_loss(detector), needs=["gradients"], seed=seed)
    return len(tried.batches) != len(batch.targets)


def evidence_from(
    detector: Detector, graph: Graph, images: Iterable[Batch], *, needs: Sequence[Need], seed: int
) -> Evidence:
    """What batches of a program's own say of a detector.

    Args:
        detector: left alone.
        graph: of its network.
        images: of the detector's input size, with boxes in their pixels.
        needs: what to measure.
        seed: of the detector's own random draws.

    Raises:
        PlanError: something else than such batches, labels of no class of the detector, no box at all, or a
            loss that is not finite.
    """
    network, _ = subject(detector)
    device = next(network.parameters()).device
    remaining = iter(_checked(images, detector))
    first = next(remaining, None)
    if first is None:
        raise PlanError("images: there are no calibration images to score on")
    first = first.to(device)
    apart = len(first.targets) == 1 or regroups(detector, graph, first, seed=seed)

    def batches() -> Iterator[Batch]:
        for batch in chain([first], remaining):
            yield from (one.to(device) for one in (_apart(batch) if apart else [batch]))

    loss = detection_loss(detector)
    return gather(network, graph.groups, batches(), loss, needs=needs, normed=graph.normed, seed=seed)


def _checked(images: Iterable[Batch], detector: Detector) -> Iterator[Batch]:
    """The batches; raises PlanError for what is none, and at the end where no image had a box."""
    boxes = count = 0
    if isinstance(images, Batch | Tensor) or not isinstance(images, Iterable):
        raise PlanError(
            f"images: give batches one after the other, a list of detectors.types.Batch or a loader of them; "
            f"this is one {type(images).__name__}"
        )
    for batch in images:
        if not isinstance(batch, Batch):
            raise PlanError(
                f"images: a {type(batch).__name__} stands where a detectors.types.Batch must, with the boxes "
                "that the loss is computed from"
            )
        size = tuple(batch.images.shape[-2:])
        if size != detector.size:
            raise PlanError(
                f"images: a batch is of {list(size)}, this {detector.spec.name} takes {list(detector.size)}; "
                "resize the images and their boxes"
            )
        labels = (label for target in batch.targets for label in target.labels.tolist())
        strange = [label for label in labels if not 0 <= label < detector.num_classes]
        if strange:
            raise PlanError(
                f"images: a box is labelled {strange[0]}, the classes of this {detector.spec.name} are 0 to "
                f"{detector.num_classes - 1} ({some(detector.spec.classes)}); count without a background"
            )
        boxes += sum(len(target.labels) for target in batch.targets)
        count += len(batch.targets)
        yield batch
    if count and boxes == 0:
        raise PlanError(f"images: none of the {count} calibration images has a labelled box; give others")


def _apart(batch: Batch) -> list[Batch]:
    """A batch for each image."""
    parts = zip(batch.images.split(1), batch.targets, batch.sizes, batch.indices, strict=True)
    return [Batch(image, [target], [size], [index]) for image, target, size, index in parts]
