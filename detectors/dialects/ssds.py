"""ssds.pytorch v0.3.1: eight detectors over its backbones (`base`), with `norm`, `extras`, `loc`, `conf`."""

import re
from collections.abc import Iterable

from detectors.dialects import DIALECTS, NEIGHBOURS, Layout, Rename, State

_RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101")
_MOBILENETS = ("mobilenet_v1", "mobilenet_v2")
_DARKNETS = ("darknet19", "darknet53")
_BACKBONES = ("vgg16", *_RESNETS, *_MOBILENETS, *_DARKNETS)
# The published pairs, and what else has their keys.
_FAMILIES = {
    "ssd": _BACKBONES,
    "ssd_lite": _MOBILENETS,
    "rfb": _BACKBONES,
    "rfb_lite": _MOBILENETS,
    "fssd": ("vgg16", *_RESNETS, *_DARKNETS),
    "fssd_lite": _MOBILENETS,
    "yolo_v2": (*_DARKNETS, *_MOBILENETS),
    "yolo_v3": (*_DARKNETS, *_MOBILENETS),
}


@DIALECTS.register("ssds.pytorch")
def ssds(state: State) -> Iterable[Layout]:
    """Files of `ssds.pytorch/experiments`, published for VOC and COCO with the same default boxes."""
    if "loc.0.weight" not in state or "L2Norm.weight" in state:
        return
    for backbone, width in backbones(state):
        for family in families(state, backbone):
            options = {"backbone": backbone} | ({"width": width} if width != 1 else {})
            yield Layout(family, options, key_of(family))


@NEIGHBOURS.register("ssds.pytorch")
def neighbours(state: State) -> Iterable[Layout]:
    """Every family over every backbone of its, where the file has a head and a backbone."""
    if all(any(key.startswith(prefixes) for key in state) for prefixes in ("base.", ("loc.", "conf."))):
        for family, over in _FAMILIES.items():
            for backbone in over:
                yield Layout(family, {"backbone": backbone}, key_of(family))


def families(state: State, backbone: str) -> list[str]:
    """The detectors that the keys outside of the backbone may belong to."""
    if any(key.startswith("transforms.") for key in state):
        # One network under two names; the lite one was published over the MobileNets.
        return ["fssd_lite" if backbone.startswith("mobilenet") else "fssd"]
    if any(key.startswith("norm.branch") for key in state):
        return ["rfb_lite"]
    if any(key.startswith("norm.0.branch") for key in state):
        return ["rfb"]
    if state["loc.0.weight"].shape[-1] == 1:
        return ["yolo_v3" if "loc.1.weight" in state else "yolo_v2"]
    return ["ssd", "ssd_lite"] if "norm.weight" in state else []


def backbones(state: State) -> list[tuple[str, float]]:
    """The backbones, with their width, that the keys under `base.` may belong to."""
    if (first := state.get("base.0.weight")) is not None:
        if first.shape[-1] == 7:
            return [(name, 1.0) for name in _RESNETS]
        return [("vgg16_bn" if first.ndim == 4 and "base.1.weight" in state else "vgg16", 1.0)]
    if (first := state.get("base.0.conv.0.weight")) is None:
        return []
    if "base.1.conv.6.weight" in state:
        return [("mobilenet_v2", first.shape[0] / 32)]
    if "base.1.conv.3.weight" in state:
        return [("mobilenet_v1", first.shape[0] / 32)]
    return [("darknet53" if "base.1.conv.0.weight" in state else "darknet19", 1.0)]


def key_of(family: str) -> Rename:
    """How the keys of a detector's files become ours."""

    def rename(key: str) -> str:
        key = re.sub(r"^base\.", "backbone.features.", key)
        # Our SSD has the ReLU behind a further map's convolution in one Sequential with it.
        return re.sub(r"^extras\.(\d+)\.(weight|bias)$", r"extras.\1.0.\2", key) if family == "ssd" else key

    return rename
