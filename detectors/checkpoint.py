"""Weight files: written whole as plain data, read back whether full or slim, ours or published."""

import hashlib
import io
import json
import pickle
import re
import warnings
from collections import OrderedDict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detectors.errors import CheckpointError, ConfigError
from detectors.files import write_whole
from detectors.geometry import Geometry, apply_geometry, geometry_of, resized
from detectors.models import DETECTORS, build
from detectors.models.base import Detector
from detectors.registry import did_you_mean
from detectors.types import DetectorSpec

FORMAT = "slimdet"
VERSION = 1

_FULL: dict[tuple[Any, tuple[str, ...], str], Geometry] = {}


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
    geometry = resized(_full_geometry(detector.spec), geometry_of(detector))
    return Checkpoint(detector.spec, geometry, detector.state_dict(), {**detector.meta, **meta})


def _full_geometry(spec: DetectorSpec) -> Geometry:
    """That of the detector as it is built; the same one is asked for whenever a training is saved."""
    key = (DETECTORS[spec.name], spec.classes, repr(spec.options))
    if key not in _FULL:
        with torch.device("meta"):
            _FULL[key] = geometry_of(build(spec.name, spec.classes, **spec.options))
    return _FULL[key]


def restore(checkpoint: Checkpoint, source: str = "checkpoint") -> Detector:
    """The detector that a checkpoint describes, slim or full, in evaluation mode.

    Args:
        checkpoint: what `checkpoint_of` or `read` gave.
        source: where it is from, for error messages.

    Raises:
        CheckpointError: a spec, geometry and state that do not fit each other.
    """
    check_known(checkpoint.spec, source)
    try:
        detector = build(checkpoint.spec.name, checkpoint.spec.classes, **checkpoint.spec.options)
        apply_geometry(detector, checkpoint.geometry)
    except (CheckpointError, ConfigError) as error:
        raise CheckpointError(f"{source}: {error}") from None
    fill(detector, checkpoint.state, source)
    detector.meta = dict(checkpoint.meta)
    return detector.eval()


def check_known(spec: DetectorSpec, source: str) -> None:
    """Raises CheckpointError where no module that was imported registers the detector of a file."""
    if spec.name not in DETECTORS.names():
        hint = did_you_mean(spec.name, DETECTORS.names())
        raise CheckpointError(
            f"{source}: unknown detector {spec.name!r}{hint} (one of your own needs its module imported "
            "first; in a recipe, detector.module=MODULE)"
        )


def save(detector: Detector, path: str | Path, **meta: Any) -> None:
    """Writes a detector, full or slim; an older file stays whole if that fails (RunError)."""
    write(Path(path), checkpoint_of(detector, **meta))


def write(path: Path, checkpoint: Checkpoint, **extra: Any) -> None:
    """Writes a checkpoint with further plain data beside it, such as an optimizer's state."""
    payload = {
        "format": FORMAT,
        "version": VERSION,
        "spec": plain(asdict(checkpoint.spec)),
        "geometry": checkpoint.geometry,
        "state": dict(checkpoint.state),
        "meta": checkpoint.meta,
        **extra,
    }
    _checkplain(payload)

    # In memory first: torch.save turns a full disk into a RuntimeError that says nothing of disks.
    buffer = io.BytesIO()
    torch.save(payload, buffer)
    write_whole(path, buffer.getbuffer())


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
        ours = pickled[1].startswith("detectors.")
        way = "detectors.save(model, PATH)" if ours else "torch.save(model.state_dict(), PATH)"
        raise CheckpointError(
            f"{path} is or holds a pickled object ({pickled[1]}), which would run code when loaded; where "
            f"that code lives, save {'it so' if ours else 'the state dict'} instead: {way}"
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


def fill(module: torch.nn.Module, state: dict[str, Tensor], source: str) -> None:
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


def fingerprint(detector: Detector) -> str:
    """sha256 of spec, geometry and every tensor: the same for a model and its reloaded file."""
    checkpoint = checkpoint_of(detector)
    about = [plain(asdict(checkpoint.spec)), checkpoint.geometry]
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, tensor in sorted(checkpoint.state.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _broken(path: Path) -> str:
    size = path.stat().st_size
    return f"{path} ({size:,} bytes) is truncated or not a PyTorch file; copy or download it again"


def plain(value: Any) -> Any:
    """Tuples to lists all the way down, as a reader would give them back."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def _checkplain(value: Any, place: str = "checkpoint") -> None:
    """Raises TypeError for anything that `weights_only=True` would refuse to read back."""
    if type(value) in (dict, OrderedDict):
        for key, item in value.items():
            _checkplain(key, f"a key of {place}")
            _checkplain(item, f"{place}.{key}")
    elif type(value) in (list, tuple):
        for index, item in enumerate(value):
            _checkplain(item, f"{place}[{index}]")
    elif not (value is None or type(value) in (bool, int, float, str) or type(value) is Tensor):
        raise TypeError(f"{place} is a {type(value).__name__}, which is not plain data")
