"""Whether a teacher fits a student, and where the two can be compared."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from compress.cost import subject
from compress.graph import MAKES_OUTPUT, trace
from compress.inputs import with_shapes
from compress.recipe import DistillConfig
from detectors.engine.terms import watched
from detectors.errors import ConfigError, some
from detectors.models.base import Detector
from detectors.modes import evaluating


def shared_layers(student: Detector, teacher: Detector, how: DistillConfig, source: str) -> tuple[str, ...]:
    """The layers that make the outputs and read maps of one shape in both, as modules of a detector.

    Of several that read the very same maps there is the first; one that reads a row for each proposal is left
    out, and all are where attention is off.

    Args:
        student: only its form is looked at.
        teacher: only its form is looked at.
        how: what is to be compared.
        source: what messages call the teacher.

    Raises:
        ConfigError: the two do not fit each other, or cannot be compared as the settings want.
    """
    _check_kind(student, teacher, source)
    layers = _makers(student) if how.attention else []
    missing = set(layers) - dict(teacher.named_modules()).keys()
    if missing:
        raise ConfigError(_misfit(source, student, f"it has no {min(missing)}"))
    ours, theirs = _form(student, layers), _form(teacher, layers)
    if how.predictions:
        if ours.predictions is None:
            raise ConfigError(
                f"distill.predictions={how.predictions:g} compares anchor by anchor, which the outputs of "
                f"{student.spec.name} do not allow; set distill.predictions=0 and use distill.attention"
            )
        if ours.predictions != theirs.predictions or not _same_anchors(student, teacher):
            raise ConfigError(_misfit(source, student, "it has other anchors or outputs"))
    if how.attention and not ours.maps:
        raise ConfigError(
            f"distill.attention={how.attention:g} compares the maps that the output layers of "
            f"{student.spec.name} read, and there are none; set distill.attention=0"
        )
    for layer, sizes in ours.maps.items():
        if theirs.maps.get(layer) != sizes:
            raise ConfigError(_misfit(source, student, f"{layer} reads other maps there"))
    return tuple(ours.maps)


@dataclass(frozen=True)
class _Form:
    """What two detectors that are compared must have in common.

    Attributes:
        predictions: for each head (softmax, background, shape), and the shape of the boxes; None: not to be
            compared.
        maps: for each layer that is compared (height, width) of every map it reads.
    """

    predictions: tuple[Any, ...] | None
    maps: dict[str, tuple[tuple[int, int], ...]]


def _check_kind(student: Detector, teacher: Detector, source: str) -> None:
    theirs, ours = teacher.spec.classes, student.spec.classes
    if theirs != ours:
        raise ConfigError(
            f"{source} does not fit as a teacher: its classes ({len(theirs)}: {some(theirs)}) are not those "
            f"of the student ({len(ours)}: {some(ours)}); take one of the same classes in the same order"
        )
    if teacher.size != student.size:
        raise ConfigError(
            f"{source} does not fit as a teacher: it takes images of {list(teacher.size)}, the student of "
            f"{list(student.size)}; take a teacher of the same input size"
        )


def _misfit(source: str, student: Detector, what: str) -> str:
    return (
        f"{source} does not fit as a teacher of this {student.spec.name}: {what}; set distill.teacher to the "
        "detector that the student was cut from"
    )


def _same_anchors(student: Detector, teacher: Detector) -> bool:
    ours, theirs = (getattr(detector, "anchors", None) for detector in (student, teacher))
    if ours is None or theirs is None:
        return ours is theirs
    return torch.allclose(ours.cpu(), theirs.cpu())


def _makers(student: Detector) -> list[str]:
    """The layers that make the outputs, as modules of the detector."""
    whole = trace(*subject(student)).whole
    return [f"network.{layer}" for layer, reason in whole.items() if reason == MAKES_OUTPUT]


def _form(detector: Detector, layers: Sequence[str]) -> _Form:
    def form(model: Any, images: Any) -> _Form:
        with torch.no_grad(), evaluating(model), watched(model, layers) as seen:
            model(images)
        found = model.comparable(seen.outputs)
        kinds: tuple[Any, ...] | None = None
        if found is not None:
            heads = ((head.softmax, head.background, tuple(head.logits.shape)) for head in found.classes)
            kinds = (*heads, tuple(found.boxes.shape))
        first: dict[tuple[int, ...], str] = {}
        for layer, maps in seen.inputs.items():
            if all(one.ndim == 4 for one in maps):
                first.setdefault(tuple(map(id, maps)), layer)
        sizes = {
            layer: tuple((m.shape[2], m.shape[3]) for m in seen.inputs[layer]) for layer in first.values()
        }
        return _Form(kinds, sizes)

    return with_shapes(form, detector, subject(detector)[1])
