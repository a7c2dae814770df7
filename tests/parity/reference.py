"""A reference pack against our network: the same weights, the same input, output by output."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detectors import dialects
from detectors.checkpoint import fill
from detectors.dialects import Published
from detectors.dialects.ssds import key_of
from detectors.errors import UserError
from detectors.models import build
from detectors.models.base import Detector
from tests.parity.fill import difference, filled, load, network_input, sampled

TOLERANCE = 5e-4  # the packs' README: float32 noise of the originals stays below 1e-4
_BACKBONES = {"darknet_19": "darknet19", "darknet_53": "darknet53"}


@dataclass(frozen=True)
class Comparison:
    """What a pack and our network have in common.

    Attributes:
        name: of the pack.
        differences: output or "priors" -> largest relative difference; empty for a pack of keys and shapes.
        fault: why the comparison failed before any number; None if it did not.
        left_out: outputs of the pack that are not the dense network's.
    """

    name: str
    differences: dict[str, float]
    fault: str | None = None
    left_out: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether everything agrees."""
        return self.fault is None and all(d <= TOLERANCE for d in self.differences.values())

    def line(self) -> str:
        """One line for the terminal."""
        told = ", ".join(f"{name} {value:.1e}" for name, value in self.differences.items())
        told = self.fault or told or "keys and shapes"
        left_out = f"; not compared here: {', '.join(self.left_out)}" if self.left_out else ""
        return f"{'PASS' if self.passed else 'FAIL'} {self.name}: {told}{left_out}"


def compare(path: str | Path) -> Comparison:
    """Compares one pack; a network that does not fit, or a pack that cannot be read, is a fault."""
    name = Path(path).stem
    try:
        pack, arrays = load(path)
        name = pack.get("name", name)
        left_out = tuple(key for key in pack.get("outputs", ()) if key.startswith("pruned_"))
        return Comparison(name, _differences(pack, arrays), left_out=left_out)
    except (UserError, ValueError, RuntimeError, OSError) as error:
        return Comparison(name, {}, str(error))
    except (LookupError, TypeError, AttributeError) as error:
        return Comparison(name, {}, f"it is not in the packs' format: {type(error).__name__} {error}")


def published_in(pack: dict[str, Any]) -> Published:
    """What a pack's description, or else its keys and shapes, say it is, with its weights under our keys.

    Raises CheckpointError for keys of no known network.
    """
    # Without outputs to compare, shapes are enough.
    state = filled(pack) if "outputs" in pack else shapes(pack)
    if "model" in pack:
        return _described(pack["model"], state)
    # RefineDet320 and 512 have the same tensors: the input tells them apart.
    size = pack["input"]["shape"][-1]
    name = f"refinedet{size}_vgg16" if "tcb0.0.weight" in state else None
    return dialects.recognise(state, pack["name"], name)


def shapes(pack: dict[str, Any]) -> dict[str, Tensor]:
    """A pack's state dict without data."""
    return {key: torch.empty(entry["shape"], device="meta") for key, entry in pack["keys"].items()}


def detector_of(pack: dict[str, Any]) -> Detector:
    """Our detector with a pack's weights; raises CheckpointError unless keys and shapes are the pack's."""
    found = published_in(pack)
    detector = build(found.name, [f"class {k}" for k in range(found.classes)], **found.options)
    if "outputs" in pack:
        fill(detector.network, found.state, pack["name"])
    else:
        own = {key: value.shape for key, value in detector.network.state_dict().items()}
        theirs = {key: value.shape for key, value in found.state.items()}
        if own != theirs:
            odd = sorted(key for key in own.keys() | theirs.keys() if own.get(key) != theirs.get(key))
            raise ValueError(f"{odd[0]} is {theirs.get(odd[0])} there and {own.get(odd[0])} here")
    count = sum(p.numel() for p in detector.parameters())
    if not found.unused and count != pack.get("parameters", count):
        raise ValueError(f"{count} parameters, the original has {pack['parameters']}")
    return detector.eval()


def _described(model: dict[str, Any], state: dict[str, Tensor]) -> Published:
    """ssds.pytorch's configuration as our options, so that any of its configurations is built as it says."""
    family = model["SSDS"]
    backbone, _, width = model["NETS"].replace("mobilenet_v", "mobilenet-v").partition("_0")
    backbone = backbone.replace("mobilenet-v", "mobilenet_v")
    backbone = _BACKBONES.get(backbone, backbone.replace("resnet_", "resnet"))
    options: dict[str, Any] = {
        "backbone": backbone,
        "size": model["IMAGE_SIZE"],
        **({"width": float(f"0.{width}")} if width else {}),
        **_levels(family, model["FEATURE_LAYER"]),
        **_boxes(model),
        "clip": model.get("CLIP", True),
    }
    rename = key_of(family)
    renamed = {new: value for key, value in state.items() if (new := rename(key)) is not None}
    return Published(family, options, model["NUM_CLASSES"] - 1, renamed, ())


def _levels(family: str, layers: list[Any]) -> dict[str, Any]:
    """FEATURE_LAYER: sources and depths; for FSSD, and by YOLO's branches, nested."""
    if family.startswith("fssd"):
        (sources, source_depths), (pyramid, depths) = layers
        return {
            "sources": sources,
            "source_depths": source_depths,
            "layers": pyramid,
            "depths": depths,
        }
    return {"layers": layers[0], "depths": layers[1]}


def _boxes(model: dict[str, Any]) -> dict[str, Any]:
    ratios = model["ASPECT_RATIOS"]
    if isinstance(ratios[0][0], list):  # YOLO: width and height of each box as shares of the image
        return {"anchors": ratios}
    squares = {1 in level for level in ratios}
    if len(squares) > 1 or any(1 in level[1:] for level in ratios):
        raise ValueError(f"ASPECT_RATIOS {ratios} have a 1 on some maps only, or not in front; ours cannot")
    height, width = model["IMAGE_SIZE"]
    side = min(height, width)
    sizes = model.get("SIZES", [0.2, 0.95])
    if isinstance(sizes[0], list):
        sides = [min(size[0] * side / height, size[1] * side / width) for size in sizes]
    else:  # shares of the smallest and the largest box, evenly spaced over the maps; 1 behind the last
        low, high = sizes
        last = len(ratios) - 1
        sides = [side * (low + (high - low) * k / last) for k in range(len(ratios))] + [side]
    return {
        "sizes": sides,
        "steps": [step[0] for step in model.get("STEPS", [])],
        "aspect_ratios": [[ratio for ratio in level if ratio != 1] for level in ratios],
        **({} if True in squares else {"squares": False}),
    }


def _differences(pack: dict[str, Any], arrays: dict[str, np.ndarray]) -> dict[str, float]:
    detector = detector_of(pack)
    found: dict[str, float] = {}
    if "priors" in pack:
        found["priors"] = _priors(detector.anchors, pack["priors"])
    if "outputs" not in pack:
        return found
    with torch.no_grad():
        outputs = tensors_of(detector, network_input(pack))
    for key, shape in ((key, entry["shape"]) for key, entry in pack["outputs"].items()):
        if key.startswith("pruned_"):
            continue
        name = key if key in outputs else list(outputs)[int(key.removeprefix("out"))]
        if list(outputs[name].shape) != shape:
            raise ValueError(f"{key} is {list(outputs[name].shape)}, the original's is {shape}")
        # Not left to `difference`: its maximum passes over what is not a number.
        if not np.isfinite(arrays[key]).all():
            raise ValueError(f"the pack's own {key} has values that are not finite")
        if not torch.isfinite(outputs[name]).all():
            raise ValueError(f"{key} has values that are not finite")
        found[key] = difference(outputs[name], arrays[key])
    if "priors" in arrays:
        differs = float(abs(sampled(detector.anchors) - arrays["priors"]).max())
        found["priors"] = max(differs, found.get("priors", 0.0))
    return found


def _priors(anchors: Tensor, expected: dict[str, Any]) -> float:
    """The largest difference of mean, standard deviation and largest magnitude."""
    if list(anchors.shape) != expected["shape"]:
        raise ValueError(f"{len(anchors)} priors, the original has {expected['shape'][0]}")
    if not torch.isfinite(anchors).all():
        raise ValueError("priors have values that are not finite")
    pairs = (
        (anchors.mean(), expected["mean"]), (anchors.std(), expected["std"]),
        (anchors.abs().max(), expected["absmax"]),
    )  # fmt: skip
    return max(abs(float(got) - want) for got, want in pairs)


def tensors_of(detector: Detector, images: Tensor) -> dict[str, Tensor]:
    """The raw outputs of a network and its priors, in the order and by the names of the packs."""
    outputs = detector.outputs(detector.network(images))._asdict()
    names = {"arm_deltas": "arm_loc", "arm_logits": "arm_conf", "deltas": "loc", "logits": "conf"}
    if "arm_deltas" in outputs:
        names |= {"deltas": "odm_loc", "logits": "odm_conf"}
    named = {theirs: outputs[ours] for ours, theirs in names.items() if ours in outputs}
    return named | {"priors": detector.anchors}
