"""From a recipe to the objects that a command works on: detector, data, loaders, score."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from compress.cost import cost_of
from compress.criteria import CRITERIA
from compress.distill import distillation
from compress.export import Dense, export
from compress.recipe import Recipe
from compress.regularize import sparsity
from detectors.checkpoint import is_ours, parse, read
from detectors.data import AUGMENTATIONS, DATASETS, Dataset, Split, outcomes_of
from detectors.data import build as build_data
from detectors.data.loader import TrainLoader, class_counts, eval_loader, train_loader
from detectors.engine.distributed import Place
from detectors.engine.terms import Term, check_weights
from detectors.errors import ConfigError, DataError, UnknownClassError, sentence, some
from detectors.evaluation import METRICS
from detectors.evaluation.run import Predictions, Score, predictions, score
from detectors.loading import LEFT_OUT, class_difference, detector_in, load_backbone
from detectors.loading import load as load_detector
from detectors.models import DETECTORS, build
from detectors.models.base import Detector
from detectors.registry import join
from detectors.settings import TrainConfig


def open_all(recipe: Recipe, splits: Sequence[Split], place: Place) -> tuple[Detector, list[Dataset]]:
    """The detector of a recipe on its device, and the data of some splits with the same classes.

    Raises:
        UserError: data, checkpoint and recipe that are broken or do not fit each other.
    """
    _check_names(recipe)
    payload = read(recipe.model) if recipe.model else None
    same = recipe.load.classes == "same"
    known = None
    if payload is not None and is_ours(payload) and same:
        known = parse(payload, str(recipe.model)).spec.classes
    # What a fault of the data's classes is told with where the checkpoint says which they are.
    note = ""
    if known is not None and recipe.data.classes is None:
        note = (
            f" The known classes are those of {recipe.model}: load.classes=ignore trains new heads for others"
        )
    try:
        datasets = [build_data(recipe.data, split, known) for split in splits]
    except UnknownClassError as error:
        raise UnknownClassError(f"{sentence(error)}{note}" if note else str(error)) from None
    classes = known or datasets[0].classes
    for split, dataset in zip(splits, datasets, strict=True):
        if not any(class_counts(dataset).values()):
            fault = f"none of the {len(dataset)} images of data.{split} has a labelled box"
            if dataset.skipped:
                fault = f"{sentence(f'{fault}; left out first: {dataset.skipped[0]}')}{note}"
            raise DataError(fault)
        if dataset.classes != classes:
            if known is None:
                raise ConfigError(
                    f"the splits have different classes: {some(classes)} in data.{splits[0]} and "
                    f"{some(dataset.classes)} in data.{split}; set data.classes to those of both"
                )
            raise ConfigError(f"{recipe.model}: {class_difference(dataset.classes, classes)}")
    torch.manual_seed(recipe.train.seed)
    options = _options(recipe)
    if payload is not None:
        detector = detector_in(
            payload, str(recipe.model), recipe.detector.name, classes, ignore_classes=not same, **options
        )
        left_out = detector.meta.pop(LEFT_OUT, [])
        if left_out and place.leads:
            print(f"{recipe.model}: not taken from the file: {', '.join(left_out)}")
    elif recipe.detector.name is None:
        raise ConfigError(
            "neither detector.name nor model is given: name a detector to build, or a checkpoint to start "
            "from"
        )
    else:
        detector = build(recipe.detector.name, classes, **options)
        if recipe.detector.backbone_weights:
            facts = load_backbone(detector, recipe.detector.backbone_weights)
            for what, keys in facts.items():
                if keys and place.leads:
                    print(f"{recipe.detector.backbone_weights}: {what}: {', '.join(keys)}")
    limits = {name: getattr(recipe.eval, name) for name in ("score_threshold", "nms_iou", "top_k", "keep")}
    given = {name: value for name, value in limits.items() if value is not None}
    detector.postprocess = replace(detector.postprocess, **given)
    return detector.to(place.device), datasets


def need_model(recipe: Recipe, command: str) -> str:
    """The recipe's checkpoint; raises ConfigError where it names none."""
    if recipe.model is None:
        raise ConfigError(f"{command} works on a trained detector: add model=PATH")
    return recipe.model


def loader_of(
    recipe: Recipe, settings: TrainConfig, dataset: Dataset, detector: Detector, place: Place
) -> TrainLoader:
    """Training batches as a recipe wants them."""
    return train_loader(
        dataset,
        size=detector.size,
        batch=settings.batch,
        augment=recipe.data.augment,
        seed=settings.seed,
        workers=recipe.data.workers,
        difficult=recipe.data.difficult,
        rank=place.rank,
        world=place.world,
    )


def terms_of(
    recipe: Recipe, settings: TrainConfig, detector: Detector, *, teacher: Detector | str | None
) -> tuple[Term, ...]:
    """The parts of the loss that a recipe wants beside the detector's own.

    Args:
        recipe: its section `distill`.
        settings: of the training at hand.
        detector: to be trained, on its device.
        teacher: a detector, or the checkpoint of one; None: no distillation.

    Raises:
        UserError: a term that cannot serve this detector, a weight of a loss that it does not have, or a
            teacher that cannot be read or does not fit.
    """
    check_weights(detector, settings.loss_weights)  # here, before anything slow begins
    terms: list[Term] = []
    if settings.sparsity:
        terms.append(sparsity(detector, settings.sparsity))
    how, augment = recipe.distill, recipe.data.augment
    if isinstance(teacher, str) and not how.on:
        raise ConfigError(
            f"distill.teacher={teacher} has nothing to teach: set distill.predictions or distill.attention "
            "above 0, or take the teacher out"
        )
    if teacher is None or not how.on:
        return tuple(terms)
    if how.cache == "ram" and outcomes_of(augment) is None:
        finite = " or ".join(name for name in AUGMENTATIONS.names() if outcomes_of(name) is not None)
        raise ConfigError(
            f"distill.cache=ram keeps what the teacher says of each image, and data.augment={augment} makes "
            f"new images without end; set distill.cache=none, or data.augment to {finite}"
        )
    source = teacher if isinstance(teacher, str) else recipe.model or "the first model"
    if isinstance(teacher, str):
        payload = read(teacher)
        if is_ours(payload):  # told by its classes and outputs where it is of another kind
            teacher = detector_in(payload, source)
        else:
            name, classes = recipe.detector.name, detector.spec.classes
            teacher = detector_in(payload, source, name, classes, **_options(recipe))
    terms.append(distillation(detector, teacher, how, source=source, channels_last=settings.channels_last))
    return tuple(terms)


def predictions_of(recipe: Recipe, detector: Detector, dataset: Dataset, place: Place) -> Predictions:
    """What a detector finds in a data set, gathered over all processes."""
    loader = eval_loader(
        dataset,
        size=detector.size,
        batch=recipe.eval.batch,
        workers=recipe.data.workers,
        rank=place.rank,
        world=place.world,
    )
    return predictions(detector.predict, loader, device=place.device)


def scored(recipe: Recipe, detector: Detector, found: Predictions) -> Score:
    """How good predictions are by the metric of the recipe."""
    return score(
        found.detections,
        found.targets,
        detector.spec.classes,
        metric=recipe.eval.metric,
        bootstrap=recipe.eval.bootstrap,
        seconds=found.seconds,
    )


def exported(recipe: Recipe, folder: Path, saved: Sequence[str]) -> list[str]:
    """Writes the saved detectors of a folder as ONNX where the recipe wants that; the names of the files.

    The graph takes images as `Detector.dense` does: normalisation is part of it.

    Raises:
        ExportError: see `export`; the .pth files stay.
    """
    names = [Path(name).with_suffix(".onnx").name for name in saved if recipe.export.onnx]
    for name in names:
        detector = load_detector(folder / Path(name).with_suffix(".pth"))
        images = torch.rand(1, 3, *detector.size, generator=torch.Generator().manual_seed(0))
        export(Dense(detector), images, folder / name)
    return names


def headline(detector: Detector) -> str:
    """Name, input size and cost of a detector, for the first line of a command."""
    return f"{detector.spec.name} at {detector.size[0]}x{detector.size[1]}: {cost_of(detector)}"


def describe(dataset: Dataset, split: str, limit: int = 5) -> str:
    """Counts of images and of boxes for each class, and what was left out."""
    counts = class_counts(dataset)
    text = f"{split}: {len(dataset)} images, {sum(counts.values())} boxes (" + ", ".join(
        f"{name} {count}" for name, count in counts.items()
    )
    lines = [text + ")"]
    if dataset.skipped:
        lines.append(f"{split}: left out {len(dataset.skipped)} broken samples:")
        lines += [f"  {line}" for line in dataset.skipped[:limit]]
        lines += [f"  and {len(dataset.skipped) - limit} more"] * (len(dataset.skipped) > limit)
    return "\n".join(lines)


def _check_names(recipe: Recipe) -> None:
    """Raises ConfigError for a name that no registry knows, before anything slow begins."""
    if recipe.detector.module is not None:
        DETECTORS.names()  # ours first, so that a name taken twice is reported in the user's module
        join(recipe.detector.module)
    DATASETS[recipe.data.name]
    AUGMENTATIONS[recipe.data.augment]
    METRICS[recipe.eval.metric]
    CRITERIA[recipe.prune.criterion]
    if recipe.detector.name is not None:
        DETECTORS[recipe.detector.name]


def _options(recipe: Recipe) -> dict[str, Any]:
    """The builder's options: those that every detector may have, and the free ones."""
    common = {"size": recipe.detector.size, "width": recipe.detector.width}
    given = {key: value for key, value in common.items() if value is not None}
    for key in ("name", "classes"):
        if key in recipe.detector.options:
            raise ConfigError(f"detector.options.{key} is no option; set detector.name, data.classes")
    return {**given, **recipe.detector.options}
