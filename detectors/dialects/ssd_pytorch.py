"""ssd.pytorch's SSD300 and SSD512 (keys `vgg.N`), and the same in the 2018 pruning tool (`base.N`)."""

import re
from collections.abc import Iterable

from detectors.dialects import DIALECTS, NEIGHBOURS, Layout, State

_STEP = re.compile(r"^(?:vgg|base)\.(\d+)\.(weight|bias)$")
# A ResNet's stem has layers 0 and 1 of such keys too.
_VGG = re.compile(r"^(?:vgg|base)\.(?:[2-9]|[1-3]\d)\.weight$")
_NAMES = {6: "ssd300_vgg16", 7: "ssd512_vgg16"}
_BOXES = {20: {"anchors": "voc"}, 80: {"anchors": "coco"}}


@DIALECTS.register("ssd.pytorch")
def ssd_pytorch(state: State) -> Iterable[Layout]:
    """`ssd300_mAP_77.43_v2.pth` and its like: VGG16 without batch norm, L2Norm, extras, loc, conf."""
    heads = sum(bool(re.match(r"^conf\.\d+\.weight$", key)) for key in state)
    if "L2Norm.weight" in state and heads in _NAMES and any(_VGG.match(key) for key in state):
        yield Layout(_NAMES[heads], {}, key_of, _BOXES)


@NEIGHBOURS.register("ssd.pytorch")
def neighbours(state: State) -> Iterable[Layout]:
    """Both SSDs, where the file has a head."""
    if any(key.startswith(("loc.", "conf.")) for key in state):
        for name in _NAMES.values():
            yield Layout(name, {}, key_of)


def key_of(key: str) -> str:
    """A file's key to our network's."""
    key = _STEP.sub(r"backbone.features.\1.\2", key)
    key = re.sub(r"^extras\.(\d+)\.", r"extras.\1.0.", key)
    return key.replace("L2Norm.weight", "norm.weight")
