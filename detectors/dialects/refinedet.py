"""RefineDet over VGG16, as RefineDet.PyTorch (luuuyi) and PytorchSSD (lzx1413) and its offspring name it."""

import re
from collections.abc import Iterable

from detectors.dialects import DIALECTS, NEIGHBOURS, Layout, State

_STEP = re.compile(r"^(?:vgg|base)\.(\d+)\.")


@DIALECTS.register("RefineDet.PyTorch")
def luuuyi(state: State) -> Iterable[Layout]:
    """`RefineDet{320,512}_VOC_*.pth`: both sizes have the same tensors, so that one must be named."""
    if "arm_loc.0.weight" in state and "tcb0.0.weight" in state:
        yield Layout("refinedet320_vgg16", {}, luuuyi_key)
        yield Layout("refinedet512_vgg16", {}, luuuyi_key)


@DIALECTS.register("PytorchSSD RefineDet")
def lzx(state: State) -> Iterable[Layout]:
    """RefineDets of PytorchSSD and of the 2018 pruning tool; for 512 pixels give size=[512, 512]."""
    if "arm_loc.0.weight" in state and "trans_layers.0.0.weight" in state:
        yield Layout("refinedet", {"dilation": 6, "top_relu": False}, lzx_key)


@NEIGHBOURS.register("RefineDet")
def neighbours(state: State) -> Iterable[Layout]:
    """One RefineDet of each dialect, where a key begins as theirs do."""
    if any(key.startswith(("arm_", "odm_")) for key in state):
        yield Layout("refinedet320_vgg16", {}, luuuyi_key)
        yield Layout("refinedet", {"dilation": 6, "top_relu": False}, lzx_key)


def luuuyi_key(key: str) -> str:
    """A key of RefineDet.PyTorch (luuuyi): all are ours but for the backbone's `vgg.N`."""
    return _STEP.sub(r"backbone.features.\1.", key)


def lzx_key(key: str) -> str:
    """A key of PytorchSSD (lzx1413) or of the 2018 pruning tool.

    Theirs counts the upsampling layers from the coarsest level, ours from the finest, and keeps the coarsest
    level's convolutions in a Sequential of their own.
    """
    key = luuuyi_key(key)
    key = re.sub(r"^L2Norm_([45])_3\.", r"conv\1_3_L2Norm.", key)
    key = re.sub(r"^extras\.2\.", "extras.1.", key)
    key = re.sub(r"^last_layer_trans\.([02])\.", lambda m: f"tcb0.{9 + int(m[1])}.", key)
    key = re.sub(r"^last_layer_trans\.3\.", "tcb2.10.", key)
    key = re.sub(r"^trans_layers\.(\d)\.([02])\.", lambda m: f"tcb0.{3 * int(m[1]) + int(m[2])}.", key)
    key = re.sub(r"^up_layers\.(\d)\.", lambda m: f"tcb1.{2 - int(m[1])}.", key)
    return re.sub(r"^latent_layrs\.(\d)\.", lambda m: f"tcb2.{7 - 3 * int(m[1])}.", key)
