"""What RefineDet's two steps detect, cost and learn."""

import pytest
import torch

from detectors.boxes import corners
from detectors.models import build
from detectors.models.base import Detector
from detectors.postprocess import PostprocessOptions
from detectors.types import RefineOutputs, Target

CLASSES = ("cat", "dog", "owl")


def tiny(size=(64, 64), classes=CLASSES, **options) -> Detector:
    torch.manual_seed(0)
    return build("refinedet", classes, size=list(size), width=0.0625, **options)


def blank(detector: Detector) -> RefineOutputs:
    """Outputs of one image that see background everywhere, but leave every anchor to the second step."""
    count = len(detector.anchors)
    outputs = RefineOutputs(*(torch.zeros(1, count, columns) for columns in (2, 4, 1 + len(CLASSES), 4)))
    outputs.logits[..., 0] = 50.0
    return outputs


def test_boxes_are_offsets_from_the_anchors_that_the_first_step_moves():
    detector = tiny((64, 128))
    outputs = blank(detector)
    anchor = 150
    outputs.logits[0, anchor] = torch.tensor([0.0, 0.0, 50.0, 0.0])
    outputs.arm_deltas[0, anchor] = torch.tensor([1.0, 0.0, -5.0, -5.0])
    outputs.deltas[0, anchor] = torch.tensor([0.0, 2.0, 0.0, 0.0])
    cx, cy, w, h = detector.anchors[anchor].tolist()
    w_moved, h_moved = w / 2.718281828, h / 2.718281828
    box = corners(torch.tensor([cx + 0.1 * w, cy + 0.2 * h_moved, w_moved, h_moved]))
    found = detector.detect(outputs, [(50, 200)])[0]
    assert found.labels.tolist() == [1]
    assert found.boxes[0].tolist() == pytest.approx(
        (box * torch.tensor([200.0, 50, 200, 50])).tolist(), rel=1e-4
    )


@pytest.mark.parametrize(("logit", "count"), [(4.7, 0), (4.5, 1)])
def test_what_the_first_step_takes_for_background_is_not_detected(logit, count):
    detector = tiny()
    outputs = blank(detector)
    outputs.logits[0, 40, 1] = 100.0
    outputs.arm_logits[0, 40, 0] = logit  # an object score of 0.9 % and 1.1 %
    assert len(detector.detect(outputs, [(64, 64)])[0]) == count


def test_thresholds_are_the_originals():
    assert tiny().postprocess == PostprocessOptions(0.01, 0.45, 1000, 500)


def test_loss_takes_boxes_in_pixels_of_the_input():
    detector = tiny((64, 128))
    outputs = detector(torch.rand(1, 3, 64, 128))
    box = corners(detector.anchors[300]) * torch.tensor([128.0, 64, 128, 64])
    still = outputs._replace(
        arm_deltas=torch.zeros_like(outputs.arm_deltas).requires_grad_(),
        deltas=torch.zeros_like(outputs.deltas).requires_grad_(),
    )
    terms = detector.loss(still, [Target.of(box[None], [1])])
    assert terms.keys() == {"arm_classes", "arm_boxes", "classes", "boxes"}
    (terms["arm_boxes"] + terms["boxes"]).backward()
    assert still.arm_deltas.grad[0, 300].abs().max() < 1e-5
    assert still.deltas.grad[0, 300].abs().max() < 1e-5


def two_images() -> tuple[torch.Tensor, list[Target]]:
    """A bright square on grey in each of two images, at different places."""
    images = torch.full((2, 3, 64, 64), 0.4)
    boxes = torch.tensor([[8.0, 8, 40, 40], [24.0, 20, 56, 52]])
    for image, (x1, y1, x2, y2) in zip(images, boxes.int().tolist(), strict=True):
        image[0, y1:y2, x1:x2] = 1.0
    return images, [Target.of(box[None], [0]) for box in boxes]


def test_one_class_is_learnt_from_two_images():
    detector = tiny(classes=("square",), backbone="vgg16_bn", dilation=1).train()
    images, targets = two_images()
    optimizer = torch.optim.AdamW(detector.parameters(), lr=3e-3)
    totals = []
    for _ in range(40):
        terms = detector.losses(images, targets)
        total = sum(terms.values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < 0.2 * totals[0]
    # As in training: 40 steps are too few for the running statistics.
    with torch.no_grad():
        found = detector.detect(detector(images), [(64, 64)] * 2)
    for one, target in zip(found, targets, strict=True):
        assert one.labels[0] == 0
        assert (one.boxes[0] - target.boxes[0]).abs().max() < 6


def test_predict_finds_nothing_bad_in_one_image_of_any_size():
    found = tiny().predict(torch.randint(0, 256, (3, 50, 90), dtype=torch.uint8))
    assert len(found) <= 500
    assert found.boxes.min() >= 0
    assert (found.boxes.amax(dim=0) <= torch.tensor([90.0, 50, 90, 50])).all()
