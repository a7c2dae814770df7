"""Calibration on training images: what scores need to know, and what is mended between cut and training."""

import copy
import math
from collections.abc import Iterator
from itertools import islice
from typing import Any

from torch import nn

from compress.compensate import Lengths, compensated, mendable
from compress.cost import subject
from compress.criteria import CRITERIA
from compress.evidence import Evidence, gather, moments
from compress.graph import trace
from compress.groups import Graph
from compress.inputs import copied
from compress.probe import Keep, narrowed
from compress.recalibrate import batch_norm_statistics
from compress.recipe import Recipe
from compress.reconstruct import reconstruct
from compress.scoring import detection_loss, regroups
from detectors.data import Dataset
from detectors.data.loader import train_loader
from detectors.engine.console import steps
from detectors.engine.distributed import Place
from detectors.errors import DataError
from detectors.memory_format import to_channels_last
from detectors.models.base import Detector
from detectors.types import Batch

# Pixels of all images that a reconstruction looks at: their maps of one layer are in memory together, 16 MB
# for each channel at full size.
_AT_ONCE = 2**22
# Images that moments are taken on, at least, and positions for each channel: where maps are large both are
# reached long before all images were seen, and more change nothing. On maps of one position fewer would be
# worse than no regression.
_ENOUGH = (64, 8)


def calibration_batches(
    recipe: Recipe,
    detector: Detector,
    training: Dataset,
    place: Place,
    batch: int | None = None,
    *,
    boxes: bool = False,
) -> Iterator[Batch]:
    """Plain training images, the same in every process: so all measure the same.

    Args:
        recipe: how many, and which.
        detector: that they are resized for.
        training: images to choose from.
        place: this process.
        batch: images in each; None: as in fine-tuning, and two at least, for batch norms.
        boxes: whether they are worth nothing without.

    Raises:
        DataError: none of them has a box.
    """
    wanted, size = _calibration_images(recipe, training, batch)
    loader = train_loader(
        training,
        size=detector.size,
        batch=size,
        augment="none",
        seed=recipe.finetune.seed,
        workers=recipe.data.workers,
        difficult=recipe.data.difficult,
    )
    seen = labelled = 0
    for found in islice(loader.epoch(0), math.ceil(wanted / size)):
        part = found.first(wanted - seen)
        seen += len(part.targets)
        labelled += sum(len(target.labels) for target in part.targets)
        yield part.to(place.device)
    if boxes and labelled == 0:
        raise DataError(
            f"none of the {wanted} calibration images has a labelled box; raise prune.calibration_images, or "
            "draw others with finetune.seed"
        )


def _calibration_images(recipe: Recipe, training: Dataset, batch: int | None = None) -> tuple[int, int]:
    """How many images are measured on, and how many at a time."""
    wanted = min(recipe.prune.calibration_images, len(training))
    size = min(wanted, batch or max(2, recipe.finetune.batch))
    # A last one would be alone in its batch, in which a batch norm cannot tell the variance of a map of 1x1.
    alone = size > 1 and wanted % size == 1
    return wanted - alone, size


def evidence_of(
    recipe: Recipe, detector: Detector, graph: Graph, training: Dataset, place: Place
) -> Evidence:
    """What the criterion of a recipe needs to know of a detector; of a criterion of weights, the seed alone.

    Raises:
        PlanError: a loss that is not finite.
        DataError: calibration images without boxes.
    """
    seed, needs = recipe.finetune.seed, CRITERIA[recipe.prune.criterion].needs
    if not needs:
        return Evidence(seed=seed)
    detector = _laid_out(recipe, detector)
    first = next(calibration_batches(recipe, detector, training, place))
    size = 1 if regroups(detector, graph, first, seed=seed) else None

    def shown() -> Iterator[Batch]:
        count, batch = _calibration_images(recipe, training, size)
        with steps(
            f"scoring by {recipe.prune.criterion}", math.ceil(count / batch), show=place.leads
        ) as report:
            for found in calibration_batches(recipe, detector, training, place, size, boxes=True):
                yield found
                report(f"{count} images", images=len(found.targets))

    network, _ = subject(detector)
    loss = detection_loss(detector)
    return gather(network, graph.groups, shown(), loss, needs=needs, normed=graph.normed, seed=seed)


def recalibrated(
    recipe: Recipe, before: Detector, slim: Detector, keep: Keep, training: Dataset, place: Place
) -> dict[str, Any]:
    """Mends a slim detector in place: its consumers, length scales and batch norm statistics, as the recipe
    says.

    Args:
        recipe: its `prune` part says what is mended.
        before: the detector that the cut was made of, on the device of `slim`.
        slim: as cut.
        keep: the channels of each cut group that stayed.
        training: images to measure on.
        place: this process.

    Returns:
        What was done, for the ledger.
    """
    settings = recipe.prune
    facts: dict[str, Any] = {}

    def batches() -> Iterator[Batch]:
        return calibration_batches(recipe, before, training, place)

    watched = _laid_out(recipe, before)

    def run(_: nn.Module, batch: Batch) -> None:
        watched.pass_through(batch.images)

    network, inputs = subject(before)
    graph = trace(network, inputs)
    cut = [group for group in graph.groups if group.name in keep]
    renewed = settings.recalibrate != "none"
    lengths = Lengths(watched.network, graph, keep if renewed else {})
    read = cut if settings.compensate != "none" else []
    if read or lengths:
        with lengths.watched():  # in the same pass
            found = moments(watched.network, read, batches(), run, enough=_ENOUGH)
    if settings.compensate != "none" and cut:
        way = "refit" if settings.compensate == "reconstruct" else settings.compensate
        mended = {member.layer for _, member, _ in mendable(network, graph, keep, way, renewed=renewed)}
        network = compensated(network, graph, keep, found, way, renewed=renewed)
        facts["compensated"] = sorted(mended)
    if renewed and cut:
        network = copied(network, lambda tensor: tensor)
        facts["scales"] = lengths.restore(network)
    if facts:
        slim.network = copied(narrowed(network, graph.groups, keep), lambda tensor: tensor.clone())
    if settings.compensate == "reconstruct" and cut:
        count = max(1, _AT_ONCE // (recipe.finetune.batch * math.prod(before.size)))
        shown = [before.normalise(batch.images) for batch in islice(batches(), count)]
        facts["reconstructed"] = reconstruct(
            watched.network, slim.network, graph, keep, shown, renewed=renewed
        )
    if renewed:
        if recipe.finetune.channels_last:
            to_channels_last(slim)
        images = (batch.images for batch in batches())
        facts["batch_norms"] = batch_norm_statistics(
            slim, images, lambda model, shown: model.pass_through(shown)
        )
    return facts


def _laid_out(recipe: Recipe, detector: Detector) -> Detector:
    """A copy in the memory layout that fine-tuning uses, in which convolutions are up to twice as fast."""
    if not recipe.finetune.channels_last:
        return detector
    result = copy.deepcopy(detector)
    to_channels_last(result)
    return result
