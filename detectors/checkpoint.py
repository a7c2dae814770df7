"""Weight files: written whole as plain data, read back whether full or slim, ours or published."""

import hashlib
import io
import json
import pickle
import re
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detectors import dialects
from detectors.errors import CheckpointError, ConfigError
from detectors.files import write_whole
from detectors.geometry import Geometry, apply_geometry, geometry_of, resized
from detectors.models import build, defaults
from detectors.models.base import Detector
from detectors.registry import did_you_mean
from detectors.types import DetectorSpec

FORMAT = "slimdet"
VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """A model as plain data: what rebuilds it, how it was resized, what it learnt.

    Attributes:
        spec: rebuilds the full detector.
        geometry: channel counts of the layers that differ from the full detector; empty for a full one.
        state: the state dict.
        meta: anything plain that should travel along; `parent` is the fingerprint of the model that the run
            or the cut started from.
    """

    spec: DetectorSpec
    geometry: Geometry
    state: dict[str, Tensor]
    meta: dict[str, Any] = field(default_factory=dict)


def checkpoint_of(detector: Detector, **meta: Any) -> Checkpoint:
    """The detector as plain data, `meta` added to its own; shares its tensors."""
    with torch.device("meta"):
        full = geometry_of(build(detector.spec.name, detector.spec.classes, **detector.spec.options))
    return Checkpoint(
        detector.spec, resized(full, geometry_of(detector)), detector.state_dict(), {**detector.meta, **meta}
    )


def restore(checkpoint: Checkpoint, source: str = "checkpoint") -> Detector:
    """The detector that a checkpoint describes, slim or full, in evaluation mode.

    Args:
        checkpoint: what `checkpoint_of` or `read` gave.
        source: where it is from, for error messages.

    Raises:
        CheckpointError: a spec, geometry and state that do not fit each other.
    """
    try:
        detector = build(checkpoint.spec.name, checkpoint.spec.classes, **checkpoint.spec.options)
        apply_geometry(detector, checkpoint.geometry)
    except (CheckpointError, ConfigError) as error:
        raise CheckpointError(f"{source}: {error}") from None
    _fill(detector, checkpoint.state, source)
    detector.meta = dict(checkpoint.meta)
    return detector.eval()


def save(detector: Detector, path: str | Path, **meta: Any) -> None:
    """Writes a detector, full or slim; an older file stays whole if that fails (RunError)."""
    write(Path(path), checkpoint_of(detector, **meta))


def write(path: Path, checkpoint: Checkpoint, **extra: Any) -> None:
    """Writes a checkpoint with further plain data beside it, such as an optimizer's state."""
    payload = {
        "format": FORMAT,
        "version": VERSION,
        "spec": _plain(asdict(checkpoint.spec)),
        "geometry": checkpoint.geometry,
        "state": dict(checkpoint.state),
        "meta": checkpoint.meta,
        **extra,
    }
    _check_plain(payload)

    # In memory first: torch.save turns a full disk into a RuntimeError that says nothing of disks.
    buffer = io.BytesIO()
    torch.save(payload, buffer)
    write_whole(path, buffer.getbuffer())


def load(
    path: str | Path, name: str | None = None, classes: Sequence[str] | None = None, **options: Any
) -> Detector:
    """A detector from a file of ours, full or slim, or from a published state dict.

    Args:
        path: the file.
        name: registered name; for a published file it may be left out where keys and shapes tell.
        classes: class names, which a published file never holds; for one of ours they must be the file's own.
        options: of the builder, for a published file.

    Returns:
        The detector on the CPU, in evaluation mode.

    Raises:
        CheckpointError: the file is missing, broken, a pickled module, of another detector, or ambiguous.
    """
    return detector_in(read(path), str(path), name, classes, **options)


def detector_in(
    payload: Any, source: str, name: str | None = None, classes: Sequence[str] | None = None, **options: Any
) -> Detector:
    """`load` for the content of a file that `read` gave already; `source` names the file in errors."""
    if not is_ours(payload):
        return _restore_published(source, payload, name, classes, options)
    checkpoint = parse(payload, source)
    spec = checkpoint.spec
    if name is not None and name != spec.name:
        raise CheckpointError(
            f"{source} holds a {spec.name}, not a {name}; set detector.name to match, or take it out"
        )
    built_with = _plain({**defaults(spec.name), **spec.options}) if options else {}
    for option, value in _plain(options).items():
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


def load_backbone(detector: Detector, path: str | Path) -> None:
    """Fills the backbone from a file that holds a backbone alone, such as `vgg16_reducedfc.pth`.

    Raises:
        CheckpointError: the file cannot be read or its tensors are not those of this backbone.
    """
    state = dialects.backbone(dialects.tensors(read(path), str(path)), str(path))
    _fill(detector.get_submodule("network.backbone"), state, str(path))


def read(path: str | Path) -> Any:
    """The plain content of a weight file, on the CPU, never running code from it; raises CheckpointError."""
    path = Path(path)
    if not path.is_file():
        near = [str(p) for p in path.parent.glob("*.pth")] if path.parent.is_dir() else []
        raise CheckpointError(f"no checkpoint {path}{did_you_mean(str(path), near) if near else ''}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own words on archives that the error below names
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        pickled = re.search(r"GLOBAL ([\w.]+)", str(error))
        if pickled is None:
            raise CheckpointError(_broken(path)) from None
        raise CheckpointError(
            f"{path} is or holds a pickled object ({pickled[1]}), which would run code when loaded; where "
            "that code lives, save the state dict instead: torch.save(model.state_dict(), PATH)"
        ) from None
    except PermissionError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError, ImportError, IndexError):
        raise CheckpointError(_broken(path)) from None


def is_ours(payload: Any) -> bool:
    """Whether the content of a file is in this project's own format."""
    return isinstance(payload, dict) and payload.get("format") == FORMAT


def parse(payload: dict[str, Any], source: str) -> Checkpoint:
    """The checkpoint in the content of a file of ours.

    Raises CheckpointError for a newer or incomplete one.
    """
    version = payload.get("version", 0)
    if isinstance(version, int) and version > VERSION:
        raise CheckpointError(f"{source} has format version {version}, this program reads up to {VERSION}")
    for part, kind in (("spec", dict), ("geometry", dict), ("state", dict), ("meta", dict), ("version", int)):
        if not isinstance(payload.get(part), kind):
            raise CheckpointError(f"{source} is damaged: its {part} is not what it must be; write it again")
    spec = payload["spec"]
    kinds = {"name": str, "classes": list, "options": dict}
    if not all(isinstance(spec.get(part), kind) for part, kind in kinds.items()):
        raise CheckpointError(f"{source} is damaged: its spec lacks name, classes or options; write it again")
    spec = DetectorSpec(spec["name"], tuple(spec["classes"]), spec["options"])
    return Checkpoint(spec, payload["geometry"], payload["state"], payload["meta"])


def fingerprint(detector: Detector) -> str:
    """sha256 of spec, geometry and every tensor: the same for a model and its reloaded file."""
    checkpoint = checkpoint_of(detector)
    about = [_plain(asdict(checkpoint.spec)), checkpoint.geometry]
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, tensor in sorted(checkpoint.state.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def class_difference(wanted: Sequence[str], own: Sequence[str]) -> str:
    """What differs between the classes asked for and those of a checkpoint, for an error message."""
    more, less = [c for c in wanted if c not in own], [c for c in own if c not in wanted]
    if not more and not less:
        return (
            f"the classes stand in another order than in the checkpoint: {list(own)}; give them in that order"
        )
    parts = [f"only in the data: {', '.join(more)}"] * bool(more) + [
        f"only in the checkpoint: {', '.join(less)}"
    ] * bool(less)
    return (
        f"its {len(own)} classes differ from the {len(wanted)} of the data ({'; '.join(parts)}); "
        "set data.classes to the checkpoint's, or train a detector for these classes"
    )


def _restore_published(
    path: str, payload: Any, name: str | None, classes: Sequence[str] | None, options: dict[str, Any]
) -> Detector:
    published = dialects.recognise(dialects.tensors(payload, path), path)
    if name in (None, published.name):
        name, options = published.name, {**published.options(path, options), **options}
    if classes is None:
        raise CheckpointError(f"{path} does not say its {published.classes} class names; pass classes=[...]")
    if len(classes) != published.classes and name == published.name:
        raise CheckpointError(
            f"{path} is of {published.classes} classes, but {len(classes)} names were given"
        )
    detector = build(name, classes, **options)
    _fill(detector.network, published.state, f"{path} (as {name})")
    return detector.eval()


def _fill(module: torch.nn.Module, state: dict[str, Tensor], source: str) -> None:
    """`load_state_dict(strict=True)` whose error is one line."""
    own = module.state_dict()
    faults = [
        f"{key} is missing" for key in own if key not in state and not key.endswith("num_batches_tracked")
    ]
    faults += [f"{key} has no place" for key in state if key not in own]
    faults += [
        f"{key} is {list(state[key].shape)} in the file and {list(own[key].shape)} here"
        for key in own
        if key in state and own[key].shape != state[key].shape
    ]
    if not faults:
        floats = ((key, value) for key, value in state.items() if value.is_floating_point())
        faults = [
            f"{key} holds values that are not finite" for key, v in floats if not torch.isfinite(v).all()
        ]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise CheckpointError(f"{source} does not fit the detector: {', '.join(faults[:3])}{more}")
    # torch 0.3 wrote no num_batches_tracked; strict loading accepts that only for keys that the module fills
    # in.
    module.load_state_dict({key: state.get(key, own[key]) for key in own}, strict=True)


def _broken(path: Path) -> str:
    size = path.stat().st_size
    return f"{path} ({size:,} bytes) is truncated or not a PyTorch file; copy or download it again"


def _plain(value: Any) -> Any:
    """Tuples to lists all the way down, as a reader would give them back."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _check_plain(value: Any, place: str = "checkpoint") -> None:
    """Raises TypeError for anything that `weights_only=True` would refuse to read back."""
    if type(value) in (dict, OrderedDict):
        for key, item in value.items():
            _check_plain(key, f"a key of {place}")
            _check_plain(item, f"{place}.{key}")
    elif type(value) in (list, tuple):
        for index, item in enumerate(value):
            _check_plain(item, f"{place}[{index}]")
    elif not (value is None or type(value) in (bool, int, float, str) or type(value) is Tensor):
        raise TypeError(f"{place} is a {type(value).__name__}, which is not plain data")
