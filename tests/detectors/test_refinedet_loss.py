"""RefineDet's loss against numbers worked out by hand."""

import math

import pytest
import torch

from detectors.boxes import centres, decode, encode
from detectors.losses.refinedet import LARGEST, SMALLEST, moved_anchors, offsets, refinedet_loss
from detectors.types import RefineOutputs

# Ten squares of side 0.1 in a row; an object on one of them matches it alone.
CORNERS = torch.tensor([[0.1 * k, 0.0, 0.1 * k + 0.1, 0.1] for k in range(10)])
ANCHORS = centres(CORNERS)
NOTHING = (torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
TERMS = {"arm_classes", "arm_boxes", "classes", "boxes"}


def flat(images: int = 1, classes: int = 2) -> RefineOutputs:
    shape = (images, len(ANCHORS))
    return RefineOutputs(*(torch.zeros(*shape, columns) for columns in (2, 4, 1 + classes, 4)))


def on(*anchors: int, labels: tuple[int, ...] | None = None):
    return CORNERS[list(anchors)], torch.tensor(labels or [0] * len(anchors))


def loss(outputs: RefineOutputs, targets, **options):
    boxes, labels = zip(*targets, strict=True)
    return refinedet_loss(outputs, ANCHORS, boxes, labels, **options)


def grown(outputs: RefineOutputs) -> RefineOutputs:
    return RefineOutputs(*(tensor.clone().requires_grad_() for tensor in outputs))


def test_both_steps_count_one_object_and_three_negatives():
    terms = loss(flat(), [on(4, labels=(1,))])
    assert terms.keys() == TERMS
    assert terms["arm_classes"].item() == pytest.approx(4 * math.log(2))
    assert terms["classes"].item() == pytest.approx(4 * math.log(3))
    assert terms["arm_boxes"].item() == pytest.approx(0, abs=1e-6)
    assert terms["boxes"].item() == pytest.approx(0, abs=1e-6)


def test_the_first_step_takes_every_class_for_an_object():
    outputs = flat()
    outputs.arm_logits[0, :, 0], outputs.arm_logits[0, [2, 7], 0] = 50.0, -50.0
    # Sure background is mined in the first step, where it costs nothing.
    assert loss(outputs, [on(2, 7, labels=(0, 1))])["arm_classes"].item() == pytest.approx(0, abs=1e-5)


def test_the_second_step_matches_the_anchors_where_the_first_one_moves_them():
    outputs = flat()
    # The first step moves anchor 4 onto the place of anchor 9, whose own anchor it moves far away.
    outputs.arm_deltas[0, 4] = encode(CORNERS[9], ANCHORS[4])
    outputs.arm_deltas[0, 9] = encode(CORNERS[9] + 5, ANCHORS[9])
    outputs.logits[0, 4, 2] = 50.0
    outputs.logits[0, :4, 0] = outputs.logits[0, 5:, 0] = 50.0
    terms = loss(outputs, [on(9, labels=(1,))])
    assert terms["classes"].item() == pytest.approx(0, abs=1e-5)
    assert terms["boxes"].item() == pytest.approx(0, abs=1e-5)
    # The first step still matches its own anchor 9, which it puts 50 widths and heights away.
    assert terms["arm_boxes"].item() == pytest.approx(2 * (5 / 0.1 / 0.1 - 0.5), rel=1e-4)


def test_targets_of_the_second_step_are_relative_to_the_moved_anchors():
    outputs = flat()
    shifted = CORNERS[4] + torch.tensor([0.0, 0.0, 0.02, 0.0])
    outputs.arm_deltas[0, 4] = encode(shifted, ANCHORS[4])
    want = encode(CORNERS[4], centres(shifted))
    outputs.deltas[0, 4] = want
    assert want.abs().max() > 0.1
    assert loss(outputs, [on(4)])["boxes"].item() == pytest.approx(0, abs=1e-5)


def test_no_gradient_of_the_second_step_reaches_the_first():
    outputs = grown(flat())
    terms = loss(outputs, [on(4)])
    (terms["classes"] + terms["boxes"]).backward()
    assert outputs.logits.grad.abs().sum() > 0
    assert outputs.arm_logits.grad is None
    assert outputs.arm_deltas.grad is None


def sure(*anchors: int, logit: float = 50.0) -> RefineOutputs:
    """Outputs whose first step is that sure of background at some anchors, and undecided at the others."""
    outputs = flat()
    outputs.arm_logits[0, list(anchors), 0] = logit
    return outputs


def test_easy_background_is_not_mined_in_the_second_step():
    outputs = sure(0, 1)
    outputs.logits[0, [0, 1], 1] = 20.0  # the hardest negatives, were they eligible
    terms = loss(outputs, [on(4)])
    assert terms["classes"].item() == pytest.approx(4 * math.log(3))
    mined = grown(outputs)
    loss(mined, [on(4)])["classes"].backward()
    assert mined.logits.grad[0, [0, 1]].abs().sum() == 0


def test_fewer_negatives_are_mined_where_fewer_are_eligible():
    # Nine negatives, of which the filter leaves two of the three that are wanted.
    terms = loss(sure(0, 1, 2, 3, 5, 6, 7), [on(4)])
    assert terms["classes"].item() == pytest.approx(3 * math.log(3))


def test_the_filter_leaves_positives_in():
    terms = loss(sure(*range(10)), [on(4)])
    assert terms["classes"].item() == pytest.approx(math.log(3))


@pytest.mark.parametrize(("probability", "mined"), [(0.0099, 0), (0.0101, 3)])
def test_an_object_score_of_a_hundredth_makes_an_anchor_eligible(probability, mined):
    outputs = sure(*range(10), logit=math.log((1 - probability) / probability))
    assert loss(outputs, [on(4)])["classes"].item() == pytest.approx((1 + mined) * math.log(3))


def test_the_filter_can_be_turned_off():
    terms = loss(sure(*range(10)), [on(4)], objectness=0.0)
    assert terms["classes"].item() == pytest.approx(4 * math.log(3))


def test_each_step_divides_by_its_own_positives():
    outputs = flat()
    # The first step moves anchor 3 onto the object as well: two positives in the second step.
    outputs.arm_deltas[0, 3] = encode(CORNERS[4], ANCHORS[3])
    outputs.deltas[0, [3, 4], 0] = 2.0
    terms = loss(outputs, [on(4)])
    assert terms["arm_classes"].item() == pytest.approx(4 * math.log(2))
    assert terms["classes"].item() == pytest.approx((2 + 6) * math.log(3) / 2)
    assert terms["boxes"].item() == pytest.approx(2 * 1.5 / 2, abs=1e-5)


def test_one_class_works():
    outputs = grown(flat(classes=1))
    terms = loss(outputs, [on(4, 6)])
    assert terms["classes"].item() == pytest.approx(8 * math.log(2) / 2)
    sum(terms.values()).backward()
    assert all(torch.isfinite(tensor.grad).all() for tensor in outputs)


def test_a_batch_without_objects_costs_a_finite_nothing_that_can_be_differentiated():
    outputs = grown(flat(images=2))
    terms = loss(outputs, [NOTHING, NOTHING])
    assert {name: term.item() for name, term in terms.items()} == dict.fromkeys(TERMS, 0.0)
    sum(terms.values()).backward()
    assert all(tensor.grad.abs().sum() == 0 for tensor in outputs)


def test_an_image_without_objects_adds_nothing():
    terms = loss(flat(images=2), [on(4), NOTHING])
    assert terms["classes"].item() == pytest.approx(4 * math.log(3))
    assert terms["arm_classes"].item() == pytest.approx(4 * math.log(2))


@pytest.mark.parametrize("size", [-1e6, -500.0, 500.0, 1e6])
def test_degenerate_moved_anchors_give_finite_losses_and_gradients(size):
    outputs = flat()
    outputs.arm_deltas[..., 2:] = size
    outputs.arm_deltas[..., :2] = 1e4
    outputs = grown(outputs)
    terms = loss(outputs, [on(4)])
    assert all(torch.isfinite(term) for term in terms.values())
    sum(terms.values()).backward()
    assert all(torch.isfinite(tensor.grad).all() for tensor in outputs)


def test_sides_of_moved_anchors_stay_within_their_limits():
    deltas = torch.tensor([0.0, 500.0, -500.0, 1e6])[None, :, None].repeat(1, 1, 4)
    moved = moved_anchors(deltas, ANCHORS[:4])
    assert moved[0, 0].tolist() == pytest.approx(ANCHORS[0].tolist())
    assert moved[0, :, 2].tolist() == pytest.approx([0.1, LARGEST, SMALLEST, LARGEST])


def test_the_loss_is_float32_for_half_precision_outputs():
    terms = loss(RefineOutputs(*(tensor.bfloat16() for tensor in flat())), [on(4)])
    assert {term.dtype for term in terms.values()} == {torch.float32}
    assert terms["classes"].item() == pytest.approx(4 * math.log(3), rel=1e-6)


def test_offsets_are_those_of_the_final_boxes_from_the_first_anchors():
    generator = torch.Generator().manual_seed(0)
    first, second = (0.5 * torch.randn(2, 6, 4, generator=generator) for _ in range(2))
    anchors = torch.rand(6, 4, generator=generator) * 0.5 + 0.2
    outputs = RefineOutputs(torch.zeros(2, 6, 2), first, torch.zeros(2, 6, 3), second)
    found = decode(second, moved_anchors(first, anchors))
    torch.testing.assert_close(decode(offsets(outputs, anchors), anchors), found)
    # Another way to the same boxes is no difference, and without a first step offsets are the deltas.
    still = torch.zeros_like(first)
    one_step = RefineOutputs(outputs.arm_logits, still, outputs.logits, encode(found, anchors))
    torch.testing.assert_close(offsets(one_step, anchors), offsets(outputs, anchors), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(offsets(outputs._replace(arm_deltas=still), anchors), second)


@pytest.mark.parametrize("delta", [-1e4, 1e4])
def test_offsets_of_boxes_gone_astray_are_finite(delta):
    outputs = RefineOutputs(*(torch.full((1, 1, width), delta) for width in (2, 4, 2, 4)))
    found = offsets(outputs, torch.tensor([[0.5, 0.5, 0.1, 0.1]]))
    assert found[..., 2:].isfinite().all()
