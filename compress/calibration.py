"""Calibration on training images: what scores need to know, and what is mended between cut and training."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from torch import nn

from compress.compensate import compensated, rescaled
from compress.cost import subject
from compress.criteria import CRITERIA
from compress.evidence import Evidence, gather, moments
from compress.graph import trace
from compress.groups import Graph
from compress.inputs import copied
from compress.probe import Keep, narrowed
from compress.recalibrate import batch_norm_statistics
from compress.recipe import Recipe
from compress.scoring import detection_loss, regroups
from detectors.data import Dataset
from detectors.data.loader import train_loader
from detectors.engine.console import steps
from detectors.engine.distributed import Place
from detectors.errors import DataError
from detectors.models.base import Detector
from detectors.types import Batch


def calibration_batches(
    recipe: Recipe, detector: Detector, training: Dataset, place: Place, batch: int | None = None
) -> Iterator[Batch]:
    """Plain training images, the same in every process: so all measure the same.

    Raises:
        DataError: none of them has a box.
    """
    wanted = min(recipe.prune.calibration_images, len(training))
    size = min(wanted, batch or recipe.finetune.batch)
    loader = train_loader(
        training,
        size=detector.size,
        batch=size,
        augment="none",
        seed=recipe.finetune.seed,
        workers=recipe.data.workers,
    )
    boxes = 0
    for found in islice(loader.epoch(0), max(1, wanted // size)):
        boxes += sum(len(target.labels) for target in found.targets)
        yield found.to(place.device)
    if boxes == 0:
        raise DataError(
            f"none of the {wanted} calibration images has a labelled box; raise prune.calibration_images, or "
            "draw others with finetune.seed"
        )


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
    first = next(calibration_batches(recipe, detector, training, place))
    size = 1 if regroups(detector, graph, first, seed=seed) else None

    def shown() -> Iterator[Batch]:
        count = min(recipe.prune.calibration_images, len(training))
        batch = size or min(count, recipe.finetune.batch)
        with steps(
            f"scoring by {recipe.prune.criterion}", max(1, count // batch), show=place.leads
        ) as report:
            for found in calibration_batches(recipe, detector, training, place, size):
                yield found
                report(f"{count} images", images=len(found.targets))

    network, _ = subject(detector)
    return gather(network, graph.groups, shown(), detection_loss(detector), needs=needs, seed=seed)


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

    def run(_: nn.Module, batch: Batch) -> None:
        before.found(batch.images, [before.size] * len(batch.targets))  # with the proposals of a second stage

    network, inputs = subject(before)
    graph = trace(network, inputs)
    cut = [group for group in graph.groups if group.name in keep]
    if settings.compensate != "none" and cut:
        found = moments(network, cut, batches(), run)
        renewed = settings.recalibrate != "none"
        network = compensated(network, graph, keep, found, settings.compensate, renewed=renewed)
        facts["compensated"] = sorted({layer for _, layer in found})
    if settings.recalibrate != "none" and cut:
        network = copied(network, lambda tensor: tensor)
        facts["scales"] = rescaled(subject(before)[0], graph, keep, batches(), run, change=network)
    if facts:
        slim.network = copied(narrowed(network, graph.groups, keep), lambda tensor: tensor.clone())
    if settings.recalibrate != "none":
        images = (batch.images for batch in batches())
        facts["batch_norms"] = batch_norm_statistics(slim, images)
    return facts
