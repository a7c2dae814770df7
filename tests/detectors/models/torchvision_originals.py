"""torchvision's own models with random weights, and the guests that hold the same."""

import torch
from torch import nn
from torchvision.models import detection
from torchvision.ops.misc import FrozenBatchNorm2d

from detectors.dialects.torchvision import key_of, rescaled
from detectors.models import build
from detectors.types import Target

CLASSES = ("cat", "dog", "owl")
SSD = "torchvision_ssd300_vgg16"
SSDLITE = "torchvision_ssdlite320_mobilenet_v3_large"
RETINANET = "torchvision_retinanet_resnet50_fpn"
RETINANET_V2 = "torchvision_retinanet_resnet50_fpn_v2"
FCOS = "torchvision_fcos_resnet50_fpn"
FASTER = "torchvision_fasterrcnn_resnet50_fpn"
FASTER_MOBILE = "torchvision_fasterrcnn_mobilenet_v3_large_320_fpn"
GUESTS = (SSD, SSDLITE, RETINANET, RETINANET_V2, FCOS, FASTER, FASTER_MOBILE)
FROZEN = (RETINANET, FCOS, FASTER, FASTER_MOBILE)
# (height, width); the SSDs of torchvision have one size, and 100 is no multiple of 32.
SIZES = {SSD: (300, 300), SSDLITE: (320, 320)}
# What torchvision sets when it loads the published file.
NO_EPS = (RETINANET, FASTER)


def guest(name, classes=CLASSES, size=None, **options):
    torch.manual_seed(0)
    if "faster" in name:
        options = {"proposals": 20, **options}
    return build(name, classes, size=size or SIZES.get(name, (64, 100)), **options).eval()


def original(name, classes=4, size=(64, 100)):
    """torchvision's model with random weights and statistics; one that is published frozen is frozen."""
    torch.manual_seed(1)
    settings = {"min_size": min(size), "max_size": max(size)} if name not in SIZES else {}
    if "faster" in name:
        settings["rpn_post_nms_top_n_test"] = 20
    model = getattr(detection, name.removeprefix("torchvision_"))(
        weights=None, weights_backbone=None, num_classes=classes, **settings
    )
    if name in FROZEN:
        for parent in list(model.modules()):
            for child, norm in parent.named_children():
                if isinstance(norm, nn.BatchNorm2d):
                    eps = 0.0 if name in NO_EPS else 1e-5
                    setattr(parent, child, FrozenBatchNorm2d(norm.num_features, eps))
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d | FrozenBatchNorm2d):
            norm.running_mean.normal_(0, 0.1)
            # Some as small as those of a dead channel, where an epsilon tells.
            norm.running_var.uniform_(0.2, 2)[::7] = 3e-5
            norm.weight.data.uniform_(0.1, 0.5)[::7] = 1e-3
            norm.bias.data.normal_(0, 0.1)
    for key, parameter in model.named_parameters():
        if "cls_logits" in key or "classification_head.module_list" in key or "cls_score" in key:
            parameter.data.normal_(0, 0.05)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            # The background column of sigmoid heads: silent, as it is when trained.
            if key.endswith("classification_head.cls_logits.bias"):
                parameter.view(-1, classes)[:, 0] = -50
    return model.eval()


def ours(name, model, eps=None):
    """The model's tensors under our keys."""
    state = {key_of(name, key): value for key, value in model.state_dict().items()}
    return rescaled(state, eps=(0.0 if name in NO_EPS else 1e-5) if eps is None else eps)


def filled(name, model, **options):
    found = guest(name, **options)
    found.network.load_state_dict(ours(name, model))
    return found


def image(name, count=1):
    height, width = SIZES.get(name, (64, 100))
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(2))


TARGETS = [Target.of([[5, 4, 60, 50], [20, 10, 44, 40.0]], [0, 2]), Target.of([], [])]


def as_torchvision(targets):
    return [{"boxes": target.boxes, "labels": target.labels + 1} for target in targets]
