"""Published weight files: the network that their keys and shapes tell, and the tensors under our keys."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from detectors.errors import CheckpointError, some
from detectors.models import build
from detectors.registry import Registry

State: TypeAlias = Mapping[str, Tensor]
# A key of a published file to the key of our `network`; None for a layer that the original never runs.
Rename: TypeAlias = Callable[[str], str | None]
# Tensors under our keys and class names -> those of these classes; None where the file cannot be taken apart.
Pick: TypeAlias = Callable[[State, Sequence[str]], dict[str, Tensor] | None]


@dataclass(frozen=True)
class Layout:
    """A published network: what builds it here, and how its keys are called there.

    Attributes:
        name: of the detector.
        options: builder options that give the published network.
        rename: the file's key to that of our `network`.
        by_classes: number of classes -> options that only it can tell, such as COCO's default boxes.
        values: tensors under our keys to those that make our layers the file's.
        pick: see `Published`.
    """

    name: str
    options: dict[str, Any]
    rename: Rename
    by_classes: Mapping[int, dict[str, Any]] = field(default_factory=dict)
    values: Callable[[State], dict[str, Tensor]] = dict
    pick: Pick | None = None


# A function that looks at a file's keys and shapes and gives the layouts that it may be of; [] for none.
Dialect: TypeAlias = Callable[[State], Iterable[Layout]]

DIALECTS: Registry[Dialect] = Registry("dialect", "detectors.dialects")
# What a dialect may give besides: every layout worth comparing with a file that lacks the keys by which the
# dialect knows its own. It only serves the error message.
NEIGHBOURS: Registry[Dialect] = Registry("dialect's layouts", "detectors.dialects")
# With more faults than these a file is likely of another layout than the one that it was taken for.
_FEW = 6


@dataclass(frozen=True)
class Published:
    """A recognised file.

    Attributes:
        name: of the detector that its keys and shapes belong to.
        options: builder options.
        classes: number of classes without the background.
        state: tensors under the keys of our `network`.
        unused: the file's keys of layers that the original never runs.
        pick: takes some classes, by name, out of a file whose classes have names of their own.
    """

    name: str
    options: dict[str, Any]
    classes: int
    state: dict[str, Tensor]
    unused: tuple[str, ...]
    pick: Pick | None = None


def tensors(payload: Any, path: str) -> dict[str, Tensor]:
    """The state dict in a file's content, without a wrapper's key and DataParallel's `module.` prefix."""
    for key in ("state_dict", "model", "state"):
        if isinstance(payload, dict) and isinstance(payload.get(key), dict):
            payload = payload[key]
    if (
        not isinstance(payload, dict)
        or not payload
        or not all(isinstance(v, Tensor) for v in payload.values())
    ):
        raise CheckpointError(
            f"{path} holds no state dict of tensors; save one with torch.save(model.state_dict(), PATH)"
        )
    return {str(key).removeprefix("module."): value for key, value in payload.items()}


def recognise(
    state: State, path: str, name: str | None = None, given: Mapping[str, Any] | None = None
) -> Published:
    """Finds which published network a state dict is of, by its keys and shapes alone.

    Args:
        state: what `tensors` gave.
        path: names the file in errors.
        name: only layouts of this detector are tried.
        given: builder options that take the place of a layout's own.

    Raises:
        CheckpointError: keys of no known network, or of one that they do not fit exactly: what is missing
            and what is too much is named; or default boxes that the file cannot tell.
    """
    if all(re.match(r"^(features\.)?\d+\.", key) for key in state):
        raise CheckpointError(
            f"{path} holds a backbone alone; name the detector and give the file as "
            f"detector.backbone_weights={path}"
        )
    plausible = [layout for dialect in DIALECTS.names() for layout in DIALECTS[dialect](state)]
    wanted = [layout for layout in plausible if name in (None, layout.name)]
    if not wanted:
        raise CheckpointError(_unknown(state, path, name, {layout.name for layout in plausible}))
    fitting: list[Published] = []
    nearest: tuple[str, list[str]] | None = None
    for layout in wanted:
        options = {**layout.options, **(given or {})}
        classes, faults = _compare(layout, options, state)
        if not faults:
            fitting.append(_published(layout, options, given or {}, classes, state, path))
        elif nearest is None or len(faults) < len(nearest[1]):
            nearest = (layout.name, faults)
    if not fitting and nearest is not None:
        if len(nearest[1]) > _FEW and (other := _nearest(state)) and len(other[1]) < len(nearest[1]):
            nearest = other
        raise CheckpointError(f"{path} (as {nearest[0]}) does not fit the detector: {some(nearest[1])}")
    names = {found.name for found in fitting}
    if len(names) > 1:
        raise CheckpointError(
            f"{path} is ambiguous: {_or(names)} have the same tensors; say which by name= (in a recipe: "
            "detector.name)"
        )
    return fitting[0]


def _unknown(state: State, path: str, name: str | None, known: set[str]) -> str:
    if name is not None and known:
        return f"{path} is of another network than {name}: its keys are those of {_or(known)}"
    if (nearest := _nearest(state)) is not None:
        return f"{path} is of no network known here; the nearest is {nearest[0]}, but {some(nearest[1])}"
    return (
        f"{path} is of no network known here (keys such as {', '.join(list(state)[:3])}); known files: "
        f"{', '.join(DIALECTS.names())}; a backbone alone goes to detector.backbone_weights={path}"
    )


def _nearest(state: State) -> tuple[str, list[str]] | None:
    """The layout that shares most keys with a file, at least half of either's, and what differs."""
    ranked = []
    for dialect in NEIGHBOURS.names():
        for layout in NEIGHBOURS[dialect](state):
            own = {k: v for k, v in _shapes(layout.name, layout.options, 1).items() if not _counter(k)}
            named = ((layout.rename(key), tuple(value.shape)) for key, value in state.items())
            found = {key: shape for key, shape in named if key is not None and not _counter(key)}
            shared = own.keys() & found.keys()
            faults = [f"{key} is missing" for key in own if key not in found]
            faults += [f"{key} has no place" for key in found if key not in own]
            if faults and 2 * len(shared) >= max(len(own), len(found)):
                name = " ".join([layout.name, *(f"{key}={value}" for key, value in layout.options.items())])
                ranked.append((len(faults), sum(own[key] != found[key] for key in shared), name, faults))
    return min(ranked, key=lambda one: one[:2])[2:] if ranked else None


def _published(
    layout: Layout,
    options: dict[str, Any],
    given: Mapping[str, Any],
    classes: int,
    state: State,
    path: str,
) -> Published:
    if layout.by_classes:
        undecided = {key for told in layout.by_classes.values() for key in told} - set(given)
        if undecided and classes not in layout.by_classes:
            key = sorted(undecided)[0]
            choices = sorted({repr(told[key]) for told in layout.by_classes.values()})
            raise CheckpointError(
                f"{path} is ambiguous: weights of {classes} classes do not tell their default boxes; "
                f"pass {key}={' or '.join(choices)} (in a recipe: detector.options.{key})"
            )
        options = {**options, **layout.by_classes.get(classes, {}), **given}
    renamed = {new: value for key, value in state.items() if (new := layout.rename(key)) is not None}
    unused = tuple(key for key in state if layout.rename(key) is None)
    return Published(layout.name, options, classes, layout.values(renamed), unused, layout.pick)


def _compare(layout: Layout, options: dict[str, Any], state: State) -> tuple[int, list[str]]:
    """The number of classes of a file read as a layout, and what does not fit."""
    one, two = (_shapes(layout.name, options, count) for count in (1, 2))
    found = {new: value for key, value in state.items() if (new := layout.rename(key)) is not None}
    slopes = {key: two[key][0] - shape[0] for key, shape in one.items() if two[key] != shape}
    classes = 1
    for key, slope in slopes.items():
        if key in found and found[key].ndim:
            classes, rest = divmod(found[key].shape[0] - one[key][0], slope)
            classes += 1
            if rest or classes < 1:
                return 1, [
                    f"{key} has {found[key].shape[0]} channels, which are not {slope} anchors times "
                    "(1 + classes): it was trained with other default boxes"
                ]
            break
    faults = [f"{key} is missing" for key in one if key not in found and not _counter(key)]
    faults += [f"{key} has no place" for key in found if key not in one]
    for key in one.keys() & found.keys():
        rows, *rest_of_shape = one[key] or (0,)
        wanted = (rows + slopes[key] * (classes - 1), *rest_of_shape) if key in slopes else one[key]
        if tuple(found[key].shape) != wanted:
            faults.append(f"{key} is {list(found[key].shape)} in the file and {list(wanted)} here")
    return classes, faults


def _shapes(name: str, options: dict[str, Any], classes: int) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        network = build(name, [f"class{k}" for k in range(classes)], **options).network
    return {key: tuple(value.shape) for key, value in network.state_dict().items()}


def _counter(key: str) -> bool:
    """Whether a key is batch norm's step counter, which torch 0.3 did not write."""
    return key.endswith("num_batches_tracked")


def _or(names: Iterable[str]) -> str:
    return " or ".join(sorted(names))
