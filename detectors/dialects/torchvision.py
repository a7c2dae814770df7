"""torchvision's detectors: their keys behind a prefix, COCO's columns by name, frozen batch norm rescaled."""

import re
from collections.abc import Iterable, Sequence
from functools import partial

import torch
from torch import Tensor
from torchvision.models.detection import SSD300_VGG16_Weights

from detectors.dialects import DIALECTS, NEIGHBOURS, Layout, State
from detectors.errors import CheckpointError
from detectors.registry import did_you_mean

# COCO's names in the places of their ids, with gaps; place 0 is the background.
COCO_COLUMNS: tuple[str, ...] = tuple(SSD300_VGG16_Weights.COCO_V1.meta["categories"])
COCO_CLASSES: tuple[str, ...] = tuple(name for name in COCO_COLUMNS[1:] if name != "N/A")

# What tells a file's model, in the order asked.
_SIGNS = (
    ("torchvision_ssd300_vgg16", "backbone.scale_weight"),
    ("torchvision_ssdlite320_mobilenet_v3_large", "head.classification_head.module_list.0.0.0.weight"),
    ("torchvision_fcos_resnet50_fpn", "head.regression_head.bbox_ctrness.weight"),
    ("torchvision_retinanet_resnet50_fpn_v2", "head.classification_head.conv.0.1.weight"),
    ("torchvision_retinanet_resnet50_fpn", "head.classification_head.cls_logits.weight"),
    ("torchvision_fasterrcnn_resnet50_fpn", "backbone.body.layer4.2.conv3.weight"),
    ("torchvision_fasterrcnn_mobilenet_v3_large_320_fpn", "backbone.body.16.0.weight"),
)
# Their published files were trained while torchvision's frozen batch norm added nothing to the variance, and
# torchvision sets its epsilon to 0 when it loads them.
_WITHOUT_EPS = ("torchvision_retinanet_resnet50_fpn", "torchvision_fasterrcnn_resnet50_fpn")
EPS = 1e-5  # of the batch norms here

# Keys of files from before torchvision put a Sequential around each convolution of pyramid and heads.
_OLD_FPN = re.compile(r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$")
_OLD_RPN = re.compile(r"^(rpn\.head\.conv)\.(weight|bias)$")
_OLD_RETINA = re.compile(r"^(head\.(?:classification|regression)_head\.conv)\.(\d+)\.(weight|bias)$")

_CLASS_HEAD = re.compile(r"head\.classification_head\.(cls_logits|module_list\.\d+(\.1)?)\.(weight|bias)$")


@DIALECTS.register("torchvision")
def torchvision(state: State) -> Iterable[Layout]:
    """State dicts of `torchvision.models.detection`, published for COCO; older layers' keys included."""
    name = name_of(state)
    if name is not None:
        eps = 0.0 if name in _WITHOUT_EPS else EPS
        yield Layout(name, {}, partial(key_of, name), values=partial(rescaled, eps=eps), pick=picked)


@NEIGHBOURS.register("torchvision")
def neighbours(state: State) -> Iterable[Layout]:
    """All guests, where a key begins as those of their heads do."""
    if any(key.startswith(("head.", "rpn.", "roi_heads.")) for key in state):
        for name, _ in _SIGNS:
            yield Layout(name, {}, partial(key_of, name))


def name_of(keys: Iterable[str]) -> str | None:
    """The registered name of the guest whose file has such keys; None for a file of something else."""
    keys = set(keys)
    # Faster R-CNN of another kind has more convolutions in its heads.
    if any(key.startswith(("rpn.head.conv.1.", "roi_heads.box_head.0.", "roi_heads.mask")) for key in keys):
        return None
    second_stage = "roi_heads.box_head.fc6.weight" in keys
    names = (name for name, sign in _SIGNS if sign in keys and second_stage == ("fasterrcnn" in name))
    return next(names, None)


def key_of(name: str, key: str) -> str:
    """A file's key to that of a guest's `network`: the prefix `model.`, and older layers brought up to date.

    SSD's vector of scales, `backbone.scale_weight`, is a layer's weight here.
    """
    key = _OLD_RPN.sub(r"\1.0.0.\2", _OLD_FPN.sub(r"\1.0.\2", key))
    if name == "torchvision_retinanet_resnet50_fpn":
        # There a convolution and its activation took turns in one Sequential.
        key = _OLD_RETINA.sub(lambda m: f"{m[1]}.{int(m[2]) // 2}.0.{m[3]}", key)
    return "model." + key.replace("backbone.scale_weight", "backbone.norm.weight")


def rescaled(state: State, *, eps: float) -> dict[str, Tensor]:
    """Tensors with which our batch norms, of epsilon 1e-5, are the frozen ones of a file's own epsilon.

    Both divide by sqrt(variance + epsilon), so the scale makes up for the difference.

    Args:
        state: under our keys. Batch norms that were not frozen count their batches, and are left as they are.
        eps: epsilon of the file's frozen batch norms: 0 for the published RetinaNet (not v2) and Faster R-CNN
            over ResNet-50 and what was trained on from them, 1e-5 for what was trained on from an ImageNet
            backbone.
    """
    changed = dict(state)
    for key, variance in state.items():
        layer = key.removesuffix("running_var")
        if layer != key and f"{layer}num_batches_tracked" not in state and eps != EPS:
            ratio = (variance.double() + EPS) / (variance.double() + eps)
            scale = state[f"{layer}weight"]
            changed[f"{layer}weight"] = (scale.double() * ratio.sqrt()).to(scale.dtype)
    return changed


def picked(state: State, classes: Sequence[str]) -> dict[str, Tensor] | None:
    """The tensors of a COCO file, under our keys, with the columns of some classes, found by name.

    Such files have 91 columns, one for each of COCO's ids and 0 for the background; the names are those of
    `COCO_CLASSES`, any of them in any order.

    Returns:
        None for a file that is not of COCO.

    Raises:
        CheckpointError: a name that COCO does not have.
    """
    if _columns_in(state) != len(COCO_COLUMNS):
        return None
    for one in classes:
        if one not in COCO_CLASSES:
            hint = did_you_mean(one, COCO_CLASSES)
            raise CheckpointError(
                f"the file has COCO's 80 classes, and {one!r} is none of them{hint}; for other classes say "
                "load.classes=ignore (in Python: ignore_classes=True)"
            )
    columns = torch.tensor([0, *(COCO_COLUMNS.index(one) for one in classes)])
    return {key: _rows(key, tensor, state, columns) for key, tensor in state.items()}


def _columns_in(state: State) -> int:
    """Columns of a file's class heads, the background's included."""
    if (predictor := state.get("model.roi_heads.box_predictor.cls_score.weight")) is not None:
        return len(predictor)
    return next(_columns_of(key, state) for key in state if _CLASS_HEAD.search(key))


def _columns_of(key: str, state: State) -> int:
    """Columns of each anchor in a class head: its rows, shared among as many anchors as its box head has."""
    boxes = key.replace("classification_head", "regression_head").replace("cls_logits", "bbox_reg")
    return len(state[key]) // (len(state[boxes]) // 4)


def _rows(key: str, tensor: Tensor, state: State, columns: Tensor) -> Tensor:
    """The rows of a head that belong to some columns; other tensors as they are."""
    if _CLASS_HEAD.search(key):
        shape = (-1, _columns_of(key, state), *tensor.shape[1:])
    elif ".box_predictor.cls_score" in key:
        shape = (1, *tensor.shape)
    elif ".box_predictor.bbox_pred" in key:
        shape = (1, len(tensor) // 4, 4, *tensor.shape[1:])
    else:
        return tensor
    return tensor.reshape(shape)[:, columns].reshape(-1, *tensor.shape[1:])
