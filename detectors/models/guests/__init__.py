"""torchvision's detectors as guests: its modules, losses and weight files behind our verbs.

Nothing is downloaded: a guest starts with initial weights, and a file of torchvision is loaded as any other.
All layers train. Where torchvision trains on a published backbone with frozen batch norm, so does a guest by
default (norm=frozen); from scratch, norm=batch is what learns.
"""

from collections.abc import Callable
from typing import Any, Literal

from torch import nn
from torchvision.models import detection

from detectors.errors import ConfigError
from detectors.models import DETECTORS
from detectors.models.base import checked_map_sizes
from detectors.models.guests.networks import (
    DefaultBoxNetwork,
    PyramidNetwork,
    TwoStageNetwork,
    VGGFeatures,
    freeze_batch_norm,
)
from detectors.models.guests.one_stage import PyramidGuest, SSDGuest
from detectors.models.guests.two_stage import TwoStage
from detectors.postprocess import PostprocessOptions
from detectors.types import DetectorSpec

Size = tuple[int, int]
Norm = Literal["frozen", "batch"]


@DETECTORS.register("torchvision_ssd300_vgg16")
def ssd300_vgg16(spec: DetectorSpec, *, size: Size = (300, 300)) -> SSDGuest:
    """torchvision's SSD300 over VGG16.

    Args:
        spec: name and classes.
        size: (height, width) of the input; of another than 300 x 300 the default boxes are spread evenly.
    """
    model = _initial(detection.ssd300_vgg16, spec)
    model.backbone = VGGFeatures(model.backbone)
    if tuple(size) != (300, 300):
        model.anchor_generator.steps = None  # the published ones are pixels between cells at 300 x 300
    return _default_boxes(spec, model, size)


@DETECTORS.register("torchvision_ssdlite320_mobilenet_v3_large")
def ssdlite320_mobilenet_v3_large(spec: DetectorSpec, *, size: Size = (320, 320)) -> SSDGuest:
    """torchvision's SSDlite over MobileNetV3-Large.

    Args:
        spec: name and classes.
        size: (height, width) of the input.
    """
    return _default_boxes(spec, _initial(detection.ssdlite320_mobilenet_v3_large, spec), size)


@DETECTORS.register("torchvision_retinanet_resnet50_fpn")
def retinanet_resnet50_fpn(
    spec: DetectorSpec, *, size: Size = (800, 1088), norm: Norm = "frozen"
) -> PyramidGuest:
    """torchvision's RetinaNet over ResNet-50 with a feature pyramid.

    Args:
        spec: name and classes.
        size: (height, width) of the input.
        norm: frozen keeps the statistics of the backbone's batch norms; batch trains them.
    """
    return _pyramid(spec, _initial(detection.retinanet_resnet50_fpn, spec), size, norm)


@DETECTORS.register("torchvision_retinanet_resnet50_fpn_v2")
def retinanet_resnet50_fpn_v2(spec: DetectorSpec, *, size: Size = (800, 1088)) -> PyramidGuest:
    """torchvision's improved RetinaNet over ResNet-50, with group norm in its heads.

    Args:
        spec: name and classes.
        size: (height, width) of the input.
    """
    return _pyramid(spec, _initial(detection.retinanet_resnet50_fpn_v2, spec), size, "batch")


@DETECTORS.register("torchvision_fcos_resnet50_fpn")
def fcos_resnet50_fpn(spec: DetectorSpec, *, size: Size = (800, 1088), norm: Norm = "frozen") -> PyramidGuest:
    """torchvision's FCOS over ResNet-50 with a feature pyramid, with group norm in its heads.

    Args:
        spec: name and classes.
        size: (height, width) of the input.
        norm: frozen keeps the statistics of the backbone's batch norms; batch trains them.
    """
    return _pyramid(spec, _initial(detection.fcos_resnet50_fpn, spec), size, norm)


@DETECTORS.register("torchvision_fasterrcnn_resnet50_fpn")
def fasterrcnn_resnet50_fpn(
    spec: DetectorSpec, *, size: Size = (800, 1088), norm: Norm = "frozen", proposals: int = 1000
) -> TwoStage:
    """torchvision's Faster R-CNN over ResNet-50 with a feature pyramid.

    Args:
        spec: name and classes.
        size: (height, width) of the input.
        norm: frozen keeps the statistics of the backbone's batch norms; batch trains them.
        proposals: boxes of an image that reach the second stage at inference, 1 or more; as many are counted
            in the cost.
    """
    return _two_stage(spec, detection.fasterrcnn_resnet50_fpn, size, norm, proposals)


@DETECTORS.register("torchvision_fasterrcnn_mobilenet_v3_large_320_fpn")
def fasterrcnn_mobilenet_v3_large_320_fpn(
    spec: DetectorSpec, *, size: Size = (320, 448), norm: Norm = "frozen", proposals: int = 150
) -> TwoStage:
    """torchvision's Faster R-CNN over MobileNetV3-Large with a feature pyramid, for small images.

    Args as `fasterrcnn_resnet50_fpn`.
    """
    return _two_stage(spec, detection.fasterrcnn_mobilenet_v3_large_320_fpn, size, norm, proposals)


def _initial(builder: Callable[..., nn.Module], spec: DetectorSpec, **settings: int) -> Any:
    """torchvision's model without weights from anywhere, with a column for the background."""
    return builder(
        weights=None, weights_backbone=None, num_classes=1 + len(spec.classes), **settings
    ).requires_grad_()


def _default_boxes(spec: DetectorSpec, model: Any, size: Size) -> SSDGuest:
    network = DefaultBoxNetwork(model)
    # SSD's last convolutions are not padded, and run out of cells.
    checked_map_sizes(spec.name, network, _checked(spec, size))
    return SSDGuest(spec, network, size, _thresholds(model))


def _pyramid(spec: DetectorSpec, model: Any, size: Size, norm: Norm) -> PyramidGuest:
    if norm == "frozen":
        freeze_batch_norm(model.backbone)
    return PyramidGuest(spec, PyramidNetwork(model), _checked(spec, size), _thresholds(model))


def _two_stage(
    spec: DetectorSpec, builder: Callable[..., nn.Module], size: Size, norm: Norm, proposals: int
) -> TwoStage:
    if proposals < 1:
        raise ConfigError(f"{spec.name}: proposals={proposals} is below 1")
    model = _initial(builder, spec, rpn_post_nms_top_n_test=proposals)
    if norm == "frozen":
        freeze_batch_norm(model.backbone)
    heads = model.roi_heads
    options = PostprocessOptions(heads.score_thresh, heads.nms_thresh, proposals, heads.detections_per_img)
    return TwoStage(spec, TwoStageNetwork(model, proposals), _checked(spec, size), options)


def _thresholds(model: Any) -> PostprocessOptions:
    return PostprocessOptions(
        model.score_thresh, model.nms_thresh, model.topk_candidates, model.detections_per_img
    )


def _checked(spec: DetectorSpec, size: Size) -> Size:
    height, width = size
    if min(size) < 32:
        raise ConfigError(f"{spec.name}: size={list(size)} is not [height, width] of at least 32 pixels each")
    return height, width
