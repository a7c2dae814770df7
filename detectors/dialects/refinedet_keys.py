"""How the RefineDets of other repositories name the tensors of our `network`."""

import re

_STEP = re.compile(r"^(?:vgg|base)\.(\d+)\.")


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
