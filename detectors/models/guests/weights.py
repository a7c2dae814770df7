"""torchvision's weight files of detectors, turned into the tensors of our guests."""

import re
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torchvision.models.detection import SSD300_VGG16_Weights

from detectors.errors import CheckpointError
from detectors.registry import did_you_mean

PREFIX = "model."
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
_EPS = 1e-5  # of the frozen batch norms here

# Keys of files from before torchvision put a Sequential around each convolution of pyramid and heads.
_OLD_FPN = re.compile(r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$")
_OLD_RPN = re.compile(r"^(rpn\.head\.conv)\.(weight|bias)$")
_OLD_RETINA = re.compile(r"^(head\.(?:classification|regression)_head\.conv)\.(\d+)\.(weight|bias)$")


def guest_name(keys: Iterable[str]) -> str | None:
    """The registered name of the guest whose file has such keys; None for a file of something else."""
    keys = set(keys)
    if not any(key.startswith("backbone.") for key in keys):
        return None
    # Faster R-CNN of another kind has more convolutions in its heads.
    if any(key.startswith(("rpn.head.conv.1.", "roi_heads.box_head.0.", "roi_heads.mask")) for key in keys):
        return None
    second_stage = "roi_heads.box_head.fc6.weight" in keys
    names = (name for name, sign in _SIGNS if sign in keys and second_stage == ("fasterrcnn" in name))
    return next(names, None)


def classes_in(state: Mapping[str, Tensor]) -> int:
    """How many classes a file of torchvision tells apart, without the background."""
    if "roi_heads.box_predictor.cls_score.weight" in state:
        return len(state["roi_heads.box_predictor.cls_score.weight"]) - 1
    return next(_columns_of(key, state) for key in state if _is_class_head(key)) - 1


def network_state(
    name: str, state: Mapping[str, Tensor], classes: Sequence[str], *, norm_eps: float | None = None
) -> dict[str, Tensor]:
    """A file's tensors under the keys of a guest's `network`.

    Keys get the prefix `model.`; those of torchvision's older layers, which published files have, are brought
    up to date; SSD's `backbone.scale_weight` is `model.backbone.norm.weight`. Of the 91 columns of a COCO
    file those of the given classes are taken, by name. Frozen batch norms of another epsilon are rescaled to
    the same function.

    Args:
        name: registered name of the guest.
        state: of torchvision's model.
        classes: names, without a background; any of `COCO_CLASSES` in any order for a COCO file, else as
            many as the file has, in its order.
        norm_eps: epsilon of the frozen batch norms in the file. None: that of the published file, which is
            0 for RetinaNet (not v2) and Faster R-CNN over ResNet-50, else 1e-5; it is 1e-5 as well for a
            model that was trained on from an ImageNet backbone alone.

    Raises:
        CheckpointError: another number of classes, or names that COCO does not have.
    """
    renamed = {_renamed(name, key): tensor for key, tensor in state.items()}
    if norm_eps is None:
        norm_eps = 0.0 if name in _WITHOUT_EPS else _EPS
    chosen = _chosen(classes_in(renamed), classes)
    ours = {}
    for key, tensor in renamed.items():
        stem = key.removesuffix("weight")
        variance = renamed.get(f"{stem}running_var")
        if chosen is not None:
            tensor = _picked(key, tensor, renamed, chosen)
        # A batch norm that was not frozen counts its batches, and its epsilon was never another.
        if variance is not None and key != stem and f"{stem}num_batches_tracked" not in state:
            tensor = _rescaled(tensor, variance, norm_eps)
        ours[PREFIX + key.replace("backbone.scale_weight", "backbone.norm.weight")] = tensor
    return ours


def _renamed(name: str, key: str) -> str:
    key = _OLD_RPN.sub(r"\1.0.0.\2", _OLD_FPN.sub(r"\1.0.\2", key))
    if name == "torchvision_retinanet_resnet50_fpn":
        # There a convolution and its activation took turns in one Sequential.
        return _OLD_RETINA.sub(lambda m: f"{m[1]}.{int(m[2]) // 2}.0.{m[3]}", key)
    return key


def _rescaled(weight: Tensor, variance: Tensor, eps: float) -> Tensor:
    """The scale with which a batch norm of our epsilon is one of another: both divide by sqrt(var + eps)."""
    if eps == _EPS:
        return weight
    ratio = (variance.double() + _EPS) / (variance.double() + eps)
    return (weight.double() * ratio.sqrt()).to(weight.dtype)


def _chosen(held: int, classes: Sequence[str]) -> list[int] | None:
    """The columns to take, background first; None for all of them."""
    if held == len(classes):
        return None
    if held != len(COCO_COLUMNS) - 1:
        raise CheckpointError(f"the file is of {held} classes, but {len(classes)} names were given")
    for one in classes:
        if one not in COCO_CLASSES:
            hint = did_you_mean(one, COCO_CLASSES)
            raise CheckpointError(f"the file has COCO's 80 classes, and {one!r} is none of them{hint}")
    return [0, *(COCO_COLUMNS.index(one) for one in classes)]


def _is_class_head(key: str) -> bool:
    return bool(
        re.search(r"head\.classification_head\.(cls_logits|module_list\.\d+(\.1)?)\.(weight|bias)$", key)
    )


def _columns_of(key: str, state: Mapping[str, Tensor]) -> int:
    """Columns of each anchor in a class head: its rows, shared among as many anchors as its box head has."""
    boxes = key.replace("classification_head", "regression_head").replace("cls_logits", "bbox_reg")
    return len(state[key]) // (len(state[boxes]) // 4)


def _picked(key: str, tensor: Tensor, state: Mapping[str, Tensor], columns: list[int]) -> Tensor:
    """The rows of a head that belong to some columns; other tensors as they are."""
    if _is_class_head(key):
        shape = (-1, _columns_of(key, state), *tensor.shape[1:])
    elif key.startswith("roi_heads.box_predictor.cls_score"):
        shape = (1, *tensor.shape)
    elif key.startswith("roi_heads.box_predictor.bbox_pred"):
        shape = (1, len(tensor) // 4, 4, *tensor.shape[1:])
    else:
        return tensor
    return tensor.reshape(shape)[:, torch.tensor(columns)].reshape(-1, *tensor.shape[1:])
