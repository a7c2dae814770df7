"""A detector from any weight file: ours or published, full or slim, of the same or of other classes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detectors import dialects
from detectors.checkpoint import check_known, fill, is_ours, parse, plain, read, restore
from detectors.dialects import backbone_files
from detectors.errors import CheckpointError, some
from detectors.geometry import apply_geometry, geometry_of
from detectors.models import build, defaults
from detectors.models.base import Detector

# Under this key of `meta` stands what of a file was not used, by name.
LEFT_OUT = "left_out"


def load(
    path: str | Path,
    name: str | None = None,
    classes: Sequence[str] | None = None,
    *,
    ignore_classes: bool = False,
    **options: Any,
) -> Detector:
    """A detector from a file of ours, full or slim, or from a published state dict.

    Args:
        path: the file.
        name: registered name; for a published file it may be left out where keys and shapes tell.
        classes: class names, which a published file never holds; for one of ours they must be the file's own.
        ignore_classes: take everything but the layers whose width is the number of classes, and give these
            initial weights for `classes`; `meta["left_out"]` then names them.
        options: of the builder, for a published file.

    Returns:
        The detector on the CPU, in evaluation mode.

    Raises:
        CheckpointError: the file is missing, broken, a pickled module, of another detector, or ambiguous.
    """
    return detector_in(read(path), str(path), name, classes, ignore_classes=ignore_classes, **options)


def detector_in(
    payload: Any,
    source: str,
    name: str | None = None,
    classes: Sequence[str] | None = None,
    *,
    ignore_classes: bool = False,
    **options: Any,
) -> Detector:
    """`load` for the content of a file that `read` gave already; `source` names the file in errors."""
    wanted = None if ignore_classes else classes
    if is_ours(payload):
        detector = _ours(payload, source, name, wanted, options)
    else:
        detector = _published(payload, source, name, wanted, options, any_classes=ignore_classes)
    if not ignore_classes:
        return detector
    if classes is None:
        raise CheckpointError(f"{source}: give the new class names; ignore_classes leaves the file's own out")
    return with_classes(detector, classes)


def with_classes(detector: Detector, classes: Sequence[str]) -> Detector:
    """The same network for other classes: layers as wide as the number of classes get initial weights.

    Widths of a slim detector stay as they are. `meta["left_out"]` names the tensors that were not taken over.
    """
    spec = detector.spec
    fresh = build(spec.name, classes, **spec.options)
    class_layers = _class_layers(detector)
    initial = {
        f"{name}.{key}": value.clone()
        for name in class_layers
        for key, value in fresh.get_submodule(name).state_dict().items()
    }
    geometry = geometry_of(detector)
    for name in class_layers:
        if name in geometry:
            geometry[name] = {**geometry[name], "out": geometry_of(fresh)[name]["out"]}
    apply_geometry(fresh, geometry)
    state, wanted = detector.state_dict(), fresh.state_dict()
    for key, value in initial.items():
        # A slim layer has fewer inputs, whose weights are drawn as those of the full one.
        state[key] = value[:, : wanted[key].shape[1]] if value.ndim > 1 else value
    fresh.load_state_dict(state)
    fresh.meta = {**detector.meta, LEFT_OUT: [*detector.meta.get(LEFT_OUT, []), *initial]}
    return fresh.eval()


def load_backbone(detector: Detector, path: str | Path) -> dict[str, list[str]]:
    """Fills the backbone from a file that holds a backbone alone, such as `vgg16_reducedfc.pth`.

    Returns:
        "missing": the backbone's tensors that the file lacks, which keep their initial weights; "left out":
        the file's tensors that the backbone has no place for, such as a classifier's.

    Raises:
        CheckpointError: the file cannot be read or its tensors are not those of this backbone.
    """
    state = dialects.tensors(read(path), str(path))
    backbone = getattr(detector.network, "backbone", None)
    if not isinstance(backbone, nn.Module):
        raise CheckpointError(
            f"{path}: {detector.spec.name} takes no backbone's file; give a whole detector as model=PATH"
        )
    return backbone_files.fill_backbone(backbone, state, str(path))


def class_difference(wanted: Sequence[str], own: Sequence[str]) -> str:
    """What differs between the classes asked for and those of a checkpoint, for an error message."""
    more, less = [c for c in wanted if c not in own], [c for c in own if c not in wanted]
    if not more and not less:
        place = next(k for k, (one, other) in enumerate(zip(wanted, own, strict=True)) if one != other)
        return (
            f"the classes stand in another order than in the checkpoint: {some(own)}; the first that differs "
            f"is number {place + 1}, {wanted[place]} in the data and {own[place]} in the checkpoint; set "
            "data.classes in its order"
        )
    parts = [f"only in the data: {some(more)}"] * bool(more) + [
        f"only in the checkpoint: {some(less)}"
    ] * bool(less)
    return (
        f"its {len(own)} classes differ from the {len(wanted)} of the data ({'; '.join(parts)}); "
        "set data.classes to the checkpoint's, or load.classes=ignore to train new heads for these classes"
    )


def _ours(
    payload: Any, source: str, name: str | None, classes: Sequence[str] | None, options: dict[str, Any]
) -> Detector:
    checkpoint = parse(payload, source)
    spec = checkpoint.spec
    check_known(spec, source)
    if name is not None and name != spec.name:
        raise CheckpointError(
            f"{source} holds a {spec.name}, not a {name}; set detector.name to match, or take it out"
        )
    built_with = plain({**defaults(spec.name), **spec.options}) if options else {}
    for option, value in plain(options).items():
        if value != built_with.get(option):
            built = (
                f"with {option}={spec.options[option]}"
                if option in spec.options
                else f"without the option {option}"
            )
            raise CheckpointError(
                f"{source} was built {built}, not with {option}={value}; make the recipe say the same"
            )
    if classes is not None and tuple(classes) != spec.classes:
        raise CheckpointError(f"{source}: {class_difference(classes, spec.classes)}")
    return restore(checkpoint, source)


def _published(
    payload: Any,
    source: str,
    name: str | None,
    classes: Sequence[str] | None,
    options: dict[str, Any],
    *,
    any_classes: bool,
) -> Detector:
    found = dialects.recognise(dialects.tensors(payload, source), source, name, options)
    if any_classes:
        classes = [f"class {k}" for k in range(found.classes)]
    if classes is None:
        raise CheckpointError(f"{source} does not say its {found.classes} class names; pass classes=[...]")
    state: dict[str, Tensor] | None = found.state
    if len(classes) != found.classes:
        state = _picked(found, classes, source)
    if state is None:
        raise CheckpointError(
            f"{source} is of {found.classes} classes, but {len(classes)} names were given; for other classes "
            "say load.classes=ignore (in Python: ignore_classes=True), which gives the heads initial weights"
        )
    detector = build(found.name, classes, **found.options)
    fill(detector.network, state, f"{source} (as {found.name})")
    if found.unused:
        detector.meta = {LEFT_OUT: list(found.unused)}
    return detector.eval()


def _picked(found: dialects.Published, classes: Sequence[str], source: str) -> dict[str, Tensor] | None:
    """The tensors of some classes of a file; None where it does not tell which are theirs."""
    try:
        return found.pick(found.state, classes) if found.pick is not None else None
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from None


def _class_layers(detector: Detector) -> list[str]:
    """Names of the layers that are as wide as the number of classes says."""
    spec = detector.spec
    names = [f"class {k}" for k in range(len(spec.classes) + 1)]
    with torch.device("meta"):
        own, wider = (build(spec.name, some, **spec.options).state_dict() for some in (names[:-1], names))
    keys = [key for key in own if own[key].shape != wider[key].shape]
    return list(dict.fromkeys(key.rpartition(".")[0] for key in keys))
