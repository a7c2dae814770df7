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
        differences: output or "priors" -> largest relative difference; empty for a pack without outputs.
        fault: why the comparison failed before any number; None if it did not.
    """

    name: str
    differences: dict[str, float]
    fault: str | None = None

    @property
    def passed(self) -> bool:
        """Whether everything agrees."""
        return self.fault is None and all(d <= TOLERANCE for d in self.differences.values())

    def line(self) -> str:
        """One line for the terminal."""
        told = ", ".join(f"{name} {value:.1e}" for name, value in self.differences.items())
        return f"{'PASS' if self.passed else 'FAIL'} {self.name}: {self.fault or told}"


def compare(path: str | Path) -> Comparison:
    """Compares one pack; never raises for a network that does not fit."""
    pack, arrays = load(path)
    try:
        return Comparison(pack["name"], _differences(pack, arrays))
    except (UserError, ValueError, RuntimeError) as error:
        return Comparison(pack["name"], {}, str(error))


def detector_of(pack: dict[str, Any]) -> Detector:
    """Our detector with a pack's weights; raises CheckpointError unless keys and shapes are the pack's."""
    state = filled(pack)
    found = _described(pack["model"], state) if "model" in pack else dialects.recognise(state, pack["name"])
    detector = build(found.name, [f"class {k}" for k in range(found.classes)], **found.options)
    fill(detector.network, found.state, pack["name"])
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
        "clip": model["CLIP"],
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
    return {
        "sizes": [min(size) for size in model["SIZES"]],
        "steps": [step[0] for step in model["STEPS"]],
        "aspect_ratios": [[ratio for ratio in level if ratio != 1] for level in ratios],
    }


def _differences(pack: dict[str, Any], arrays: dict[str, np.ndarray]) -> dict[str, float]:
    detector = detector_of(pack)
    count = sum(p.numel() for p in detector.parameters())
    unused = sum(int(np.prod(e["shape"])) for key, e in pack["keys"].items() if key.startswith("base.13."))
    if pack["name"] == "m1":  # its last block is built and never run, so that we leave it out
        count += unused - sum(2 * e["shape"][0] + 1 for e in ()) if False else 0
    if count != pack["parameters"] and pack["name"] != "m1":
        raise ValueError(f"{count} parameters, the original has {pack['parameters']}")
    found: dict[str, float] = {}
    if "priors" in pack:
        wanted = [detector.anchors.mean(), detector.anchors.std(), detector.anchors.abs().max()]
        if list(detector.anchors.shape) != pack["priors"]["shape"]:
            raise ValueError(f"{len(detector.anchors)} priors, the original has {pack['priors']['shape'][0]}")
        keys = ("mean", "std", "absmax")
        found["priors"] = max(abs(float(w) - pack["priors"][k]) for w, k in zip(wanted, keys, strict=True))
    if not arrays:
        return found
    with torch.no_grad():
        outputs = tensors_of(detector, network_input(pack))
    for name, tensor in outputs.items():
        for key in names_of(name, pack, arrays):
            found[key] = difference(tensor, arrays[key])
    if "priors" in arrays:
        found["priors"] = float(abs(sampled(detector.anchors) - arrays["priors"]).max())
    return found


def tensors_of(detector: Detector, images: Tensor) -> dict[str, Tensor]:
    """The raw outputs of a network, by the names that the packs give them, and the priors."""
    outputs = detector.outputs(detector.network(images))._asdict()
    names = {"deltas": "loc", "logits": "conf"}
    if len(outputs) > 2:
        names = {"deltas": "odm_loc", "logits": "odm_conf", "arm_deltas": "arm_loc", "arm_logits": "arm_conf"}
    return {names[key]: value for key, value in outputs.items()} | {"priors": detector.anchors}


def names_of(name: str, pack: dict[str, Any], arrays: dict[str, np.ndarray]) -> list[str]:
    """The arrays of a pack that an output is compared with; the 2018 tool's are numbered."""
    numbered = {
        2: ["loc", "conf", "priors"],
        4: ["arm_loc", "arm_conf", "odm_loc", "odm_conf", "priors"],
    }
    if name in arrays:
        return [name] if name != "priors" else []
    if "out0" in arrays:
        order = numbered[4 if "out3" in arrays else 2]
        key = f"out{order.index(name)}"
        return [key] if key in arrays else []
    return []
