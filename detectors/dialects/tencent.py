"""The 2018 pruning tool's SSD over ResNet-50, MobileNetV1 and MobileNetV2 (keys `base.N`, `L2Norm`)."""

import re
from collections.abc import Iterable

from detectors.dialects import DIALECTS, NEIGHBOURS, Layout, State


@DIALECTS.register("ssd.pruning.pytorch")
def tencent(state: State) -> Iterable[Layout]:
    """State dicts of ssd.pruning.pytorch; its SSD over VGG16 has ssd.pytorch's keys but for `base.`."""
    if "L2Norm.weight" not in state:
        return
    for backbone, sign in (
        ("resnet50", "base.4.conv3.weight"),
        ("mobilenet_v1", "base.1.4.weight"),
        ("mobilenet_v2", "base.1.conv.6.weight"),
    ):
        if sign in state:
            yield Layout("ssd", {"backbone": backbone, "layout": "tencent"}, _RENAMES[backbone])


@NEIGHBOURS.register("ssd.pruning.pytorch")
def neighbours(state: State) -> Iterable[Layout]:
    """Its three SSDs, where the file has a head."""
    if any(key.startswith(("loc.", "conf.")) for key in state):
        for backbone, rename in _RENAMES.items():
            yield Layout("ssd", {"backbone": backbone, "layout": "tencent"}, rename)


def resnet_key(key: str) -> str:
    """A key of SSD over ResNet-50."""
    key = re.sub(r"^base\.", "backbone.features.", key)
    key = re.sub(r"^extras\.(\d+)\.", r"extras.\1.0.", key)
    return key.replace("L2Norm.weight", "norm.weight")


def mobilenet_v1_key(key: str) -> str | None:
    """A key of SSD over MobileNetV1; None for the block that is built there and never run."""
    if key.startswith("base.13."):
        return None
    return resnet_key(re.sub(r"^base\.(\d+)\.(\d+)\.", r"base.\1.conv.\2.", key))


def mobilenet_v2_key(key: str) -> str:
    """A key of SSD over MobileNetV2."""
    return resnet_key(re.sub(r"^base\.(0|18)\.(\d+)\.", r"base.\1.conv.\2.", key))


_RENAMES = {"resnet50": resnet_key, "mobilenet_v1": mobilenet_v1_key, "mobilenet_v2": mobilenet_v2_key}
