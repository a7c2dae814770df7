"""SSD's loss against numbers worked out by hand."""

import math

import pytest
import torch

from detectors.boxes import centres
from detectors.losses.multibox import hard_negatives, multibox_loss
from detectors.types import Outputs

# Ten squares of side 0.1 in a row; an object on one of them matches it alone.
CORNERS = torch.tensor([[0.1 * k, 0.0, 0.1 * k + 0.1, 0.1] for k in range(10)])
ANCHORS = centres(CORNERS)
NOTHING = (torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))


def loss(logits, deltas, targets, **options):
    boxes, labels = zip(*targets, strict=True)
    return multibox_loss(Outputs(logits, deltas), ANCHORS, boxes, labels, **options)


def flat(images: int = 1, classes: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    shape = (images, len(ANCHORS))
    return torch.zeros(*shape, 1 + classes, requires_grad=True), torch.zeros(*shape, 4, requires_grad=True)


def on(*anchors: int, labels: tuple[int, ...] | None = None):
    return CORNERS[list(anchors)], torch.tensor(labels or [0] * len(anchors))


def test_one_object_costs_itself_and_three_negatives():
    logits, deltas = flat()
    terms = loss(logits, deltas, [on(4)])
    assert terms["classes"].item() == pytest.approx(4 * math.log(3))
    assert terms["boxes"].item() == pytest.approx(0, abs=1e-6)


def test_smooth_l1_of_known_offsets():
    logits, _ = flat()
    deltas = torch.zeros(1, 10, 4)
    # 0.5 is on the parabola (0.125), 3 on the line (2.5); what is wrong at other anchors costs nothing.
    deltas[0, 4] = torch.tensor([0.5, -3.0, 0.0, 0.0])
    deltas[0, 5] = 100.0
    assert loss(logits, deltas, [on(4)])["boxes"].item() == pytest.approx(2.625, abs=1e-5)


def test_labels_shift_by_one_for_the_background():
    logits = torch.zeros(1, 10, 3)
    logits[..., 0] = 50
    logits[0, 4] = torch.tensor([0.0, 0.0, 50.0])
    _, deltas = flat()
    assert loss(logits, deltas, [on(4, labels=(1,))])["classes"].item() == pytest.approx(0, abs=1e-5)
    assert loss(logits, deltas, [on(4, labels=(0,))])["classes"].item() == pytest.approx(50, abs=1e-3)


def test_both_terms_are_divided_by_the_positives_of_the_batch():
    logits, deltas = flat(images=3)
    shifted = deltas.detach().clone()
    shifted[..., 0] = 2.0
    terms = loss(logits, shifted, [on(0), on(2, 9), NOTHING])
    # 3 positives and 3 + 6 negatives.
    assert terms["classes"].item() == pytest.approx(12 * math.log(3) / 3)
    assert terms["boxes"].item() == pytest.approx(3 * 1.5 / 3)


def test_negatives_are_mined_in_each_image_and_never_more_than_there_are():
    logits, deltas = flat(images=2)
    # 5 positives would want 15 negatives; there are 5 other anchors.
    terms = loss(logits, deltas, [on(0, 1, 2, 3, 4), on(7)])
    assert terms["classes"].item() == pytest.approx((5 + 5 + 1 + 3) * math.log(3) / 6)


@pytest.mark.parametrize(("ratio", "mined"), [(1.0, [3]), (2.0, [3, 8]), (3.0, [3, 8, 0])])
def test_the_hardest_negatives_are_mined(ratio, mined):
    logits = torch.zeros(1, 10, 3)
    logits[..., 0] = 9.0
    logits[0, 3, 1], logits[0, 8, 2], logits[0, 0, 1] = 20.0, 15.0, 5.0
    logits[0, 6, 1] = 90.0  # the hardest of all, but positive
    positive = torch.zeros(1, 10, dtype=torch.bool)
    positive[0, 6] = True
    found = hard_negatives(logits, positive, ratio)
    assert found.nonzero()[:, 1].tolist() == sorted(mined)


def test_an_image_without_objects_adds_nothing():
    logits, deltas = flat(images=2)
    terms = loss(logits, deltas, [on(4), NOTHING])
    assert terms["classes"].item() == pytest.approx(4 * math.log(3))
    terms["classes"].backward()
    assert logits.grad[0].abs().sum() > 0
    assert logits.grad[1].abs().sum() == 0


def test_a_batch_without_objects_costs_a_finite_nothing_that_can_be_differentiated():
    logits, deltas = flat(images=2)
    terms = loss(logits, deltas, [NOTHING, NOTHING])
    assert [terms["classes"].item(), terms["boxes"].item()] == [0.0, 0.0]
    (terms["classes"] + terms["boxes"]).backward()
    assert logits.grad.abs().sum() == 0
    assert deltas.grad.abs().sum() == 0


def test_logits_far_apart_stay_finite_and_are_ranked():
    # ssd.pytorch subtracts the largest logit of the whole batch, so that rows far below it become log(0).
    logits = torch.zeros(2, 10, 3)
    logits[0, 0, 1] = 1e4
    logits[1, 3, 1] = 5.0
    _, deltas = flat(images=2)
    terms = loss(logits, deltas, [on(0), on(0)])
    assert torch.isfinite(terms["classes"])
    positive = torch.zeros(2, 10, dtype=torch.bool)
    positive[:, 0] = True
    assert hard_negatives(logits, positive, 1.0)[1].nonzero().flatten().tolist() == [3]


def test_the_loss_is_float32_for_half_precision_outputs():
    logits, deltas = (t.bfloat16() for t in flat())
    terms = loss(logits, deltas, [on(4)])
    assert {term.dtype for term in terms.values()} == {torch.float32}
    assert terms["classes"].item() == pytest.approx(4 * math.log(3), rel=1e-6)
