"""YOLO's losses: decoding and encoding, who answers for an object, and what each term asks for."""

import math

import pytest
import torch

from detectors.anchors import AnchorLevel, AnchorSpec
from detectors.boxes import centres
from detectors.losses.yolo import Weights, decode, encode, responsible, yolo_v2_loss, yolo_v3_loss
from detectors.types import Outputs

MAPS = [(2, 3), (4, 6)]  # of an image of 64 x 96 pixels
SHAPES = (((60.0, 40.0), (30.0, 50.0)), ((20.0, 10.0), (8.0, 16.0), (12.0, 12.0)))
CLASSES = 3
LOSSES = [yolo_v2_loss, yolo_v3_loss]
COARSE = 2 * 2 * 3


def grid():
    anchors = AnchorSpec(tuple(AnchorLevel(shapes) for shapes in SHAPES)).boxes((64, 96), MAPS)
    cells = [
        torch.tensor([1 / w, 1 / h]).expand(h * w * len(shapes), 2)
        for (h, w), shapes in zip(MAPS, SHAPES, strict=True)
    ]
    return anchors, torch.cat(cells)


def place(level, row, column, shape):
    """The row of the outputs that an anchor has."""
    return level * COARSE + (row * MAPS[level][1] + column) * len(SHAPES[level]) + shape


def boxes_of(*pixels):
    return torch.tensor(pixels, dtype=torch.float32).reshape(-1, 4) / torch.tensor([96.0, 64, 96, 64])


def blank(images=1, classes=CLASSES):
    """Outputs of a network that sees nothing and is sure of it."""
    count = len(grid()[0])
    logits = torch.full((images, count, 1 + classes), -20.0)
    return Outputs(logits.requires_grad_(), torch.zeros(images, count, 4).requires_grad_())


# An object of 20 x 10 around (40, 24), which is in row 1, column 2 of the fine map; one of 60 x 44 around
# (50, 30), in row 0, column 1 of the coarse one.
SMALL, LARGE = (30, 19, 50, 29), (20, 8, 80, 52)
SMALL_PLACE, LARGE_PLACE = place(1, 1, 2, 0), place(0, 0, 1, 0)


def perfect(classes=CLASSES):
    """What the losses ask for when SMALL is of the last class and LARGE of the first."""
    anchors, cells = grid()
    boxes, labels = boxes_of(SMALL, LARGE), torch.tensor([classes - 1, 0])
    outputs = blank(classes=classes)
    with torch.no_grad():
        for box, label, row in zip(boxes, labels, (SMALL_PLACE, LARGE_PLACE), strict=True):
            outputs.deltas[0, row] = encode(box, anchors[row], cells[row])
            outputs.logits[0, row, [0, 1 + int(label)]] = 20.0
    return outputs, anchors, cells, [boxes], [labels]


def test_decoding_undoes_encoding_everywhere_in_the_cell():
    anchors, cells = grid()
    generator = torch.Generator().manual_seed(0)
    centre = anchors[:, :2] + (torch.rand(len(anchors), 2, generator=generator) - 0.5) * cells
    size = torch.rand(len(anchors), 2, generator=generator) + 0.01
    boxes = torch.cat([centre - size / 2, centre + size / 2], dim=1)
    assert torch.allclose(decode(encode(boxes, anchors, cells), anchors, cells), boxes, atol=1e-5)


def test_raw_zeros_are_the_anchors_themselves():
    anchors, cells = grid()
    assert torch.allclose(centres(decode(torch.zeros_like(anchors), anchors, cells)), anchors, atol=1e-6)


def test_decoding_follows_the_equations_of_the_paper():
    anchors, cells = grid()
    row = place(1, 2, 4, 1)  # 8 x 16 pixels, cell of 16 x 16 whose corner is at (64, 32)
    box = decode(torch.tensor([math.log(3), -math.log(3), math.log(2), 0.0]), anchors[row], cells[row])
    pixels = centres(box) * torch.tensor([96.0, 64, 96, 64])
    assert pixels.tolist() == pytest.approx([64 + 0.75 * 16, 32 + 0.25 * 16, 16, 16], abs=1e-4)


def test_a_centre_never_leaves_its_cell_and_a_size_stays_finite():
    anchors, cells = grid()
    wild = decode(torch.full((len(anchors), 4), 1e4), anchors, cells)
    assert torch.isfinite(wild).all()
    moved = centres(wild)[:, :2] - anchors[:, :2]
    # Boxes of thousands of images: their middle is known to a thousandth of the image.
    assert (moved <= cells / 2 + 2e-3).all()


@pytest.mark.parametrize(
    ("box", "wanted"),
    [
        (SMALL, SMALL_PLACE),
        (LARGE, LARGE_PLACE),
        ((36, 16, 44, 32), place(1, 1, 2, 1)),
        ((10, 5, 40, 55), place(0, 0, 0, 1)),
        # Centre on the border of two cells, in the corner of the image, and outside of it.
        ((42, 18, 54, 30), place(1, 1, 2, 2)),
        ((90, 58, 102, 70), place(1, 3, 5, 2)),
        ((-20, -20, -8, -8), place(1, 0, 0, 2)),
    ],
)
def test_the_cell_with_the_centre_and_the_most_similar_shape_answer(box, wanted):
    matched = responsible(*grid(), boxes_of(box))
    assert (matched >= 0).nonzero().flatten().tolist() == [wanted]
    assert matched[wanted] == 0


def test_the_later_of_two_objects_takes_an_anchor_that_both_want():
    matched = responsible(*grid(), boxes_of(SMALL, LARGE, SMALL))
    assert (matched[SMALL_PLACE], matched[LARGE_PLACE]) == (2, 1)
    assert int((matched >= 0).sum()) == 2


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("classes", [1, CLASSES])
def test_perfect_predictions_cost_nothing(loss, classes):
    terms = loss(*perfect(classes))
    assert set(terms) == {"boxes", "objectness", "classes"}
    assert all(term.item() < 1e-4 for term in terms.values())


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    ("change", "term"),
    [
        (lambda o: o.deltas[0, SMALL_PLACE].add_(torch.tensor([1.0, 0, 0, 0])), "boxes"),
        (lambda o: o.deltas[0, LARGE_PLACE].add_(torch.tensor([0.0, 0, 0, -0.3])), "boxes"),
        (lambda o: o.logits[0, SMALL_PLACE, 0].fill_(-3.0), "objectness"),
        (lambda o: o.logits[0, place(1, 3, 0, 1), 0].fill_(3.0), "objectness"),
        (lambda o: o.logits[0, LARGE_PLACE, 1:].copy_(torch.tensor([-3.0, 0.0, 3.0])), "classes"),
    ],
)
def test_each_fault_costs_in_its_own_term(loss, change, term):
    outputs, *others = perfect()
    with torch.no_grad():
        change(outputs)
    terms = {name: value.item() for name, value in loss(outputs, *others).items()}
    assert terms.pop(term) > 0.01
    # YOLOv2's objectness learns the IoU of the predicted box, and so follows a worse box.
    if term == "boxes" and loss is yolo_v2_loss:
        assert terms.pop("objectness") > 0
    assert all(value < 1e-4 for value in terms.values())


def test_terms_have_the_values_of_the_papers():
    outputs, anchors, cells, boxes, labels = perfect()
    far = place(1, 3, 0, 1)
    with torch.no_grad():
        outputs.deltas[0, SMALL_PLACE, 3] += 0.2
        outputs.logits[0, SMALL_PLACE] = 0.0
        outputs.logits[0, far, 0] = 0.0
    share = (20 * 10) / (96 * 64)
    # The box is e^0.2 too high, so that its IoU is e^-0.2.
    for loss, objectness, classes in (
        (yolo_v2_loss, 5 * (0.5 - math.exp(-0.2)) ** 2 + 0.25, math.log(3)),
        (yolo_v3_loss, 2 * math.log(2), 3 * math.log(2)),
    ):
        terms = loss(outputs, anchors, cells, boxes, labels)
        assert terms["boxes"].item() == pytest.approx((2 - share) * 0.04 / 2, rel=1e-4)
        assert terms["objectness"].item() == pytest.approx(objectness / 2, rel=1e-4)
        assert terms["classes"].item() == pytest.approx(classes / 2, rel=1e-4)


def test_weights_scale_the_terms_of_version_2():
    outputs, *others = perfect()
    with torch.no_grad():
        outputs.logits[0, SMALL_PLACE] = 0.0
        outputs.deltas[0, SMALL_PLACE] = 0.0
    plain = yolo_v2_loss(outputs, *others, weights=Weights(1, 1, 1, 1))
    heavy = yolo_v2_loss(outputs, *others, weights=Weights(2, 3, 1, 5))
    for name, factor in (("boxes", 2), ("objectness", 3), ("classes", 5)):
        assert heavy[name].item() == pytest.approx(factor * plain[name].item(), rel=1e-4)


def test_version_2_leaves_out_predictions_that_overlap_an_object():
    outputs, anchors, cells, boxes, labels = perfect()
    neighbour = place(1, 1, 2, 2)
    with torch.no_grad():
        outputs.deltas[0, neighbour] = encode(boxes[0][0], anchors[neighbour], cells[neighbour])
        outputs.logits[0, neighbour, 0] = 3.0
    assert yolo_v2_loss(outputs, anchors, cells, boxes, labels)["objectness"] < 1e-4
    assert yolo_v2_loss(outputs, anchors, cells, boxes, labels, threshold=1.1)["objectness"] > 0.1
    with torch.no_grad():
        outputs.deltas[0, neighbour] = 0.0
        outputs.deltas[0, neighbour, 2] = 2.0
    assert yolo_v2_loss(outputs, anchors, cells, boxes, labels)["objectness"] > 0.1


def test_version_3_leaves_out_anchors_that_overlap_an_object():
    outputs, anchors, cells, _, labels = perfect()
    # 12 x 12 around the middle of a cell: that anchor answers; 20 x 10 there overlaps it by 120 / 224, 8 x 16
    # by 96 / 176.
    boxes = [boxes_of((34, 18, 46, 30))]
    with torch.no_grad():
        outputs.logits.fill_(-20.0)
        outputs.logits[0, place(1, 1, 2, 2), [0, 1]] = 20.0
        outputs.logits[0, [place(1, 1, 2, 0), place(1, 1, 2, 1)], 0] = 3.0
    labels = [torch.tensor([0])]
    assert yolo_v3_loss(outputs, anchors, cells, boxes, labels)["objectness"] < 1e-4
    assert yolo_v3_loss(outputs, anchors, cells, boxes, labels, threshold=0.6)["objectness"] > 1


@pytest.mark.parametrize("loss", LOSSES)
def test_an_image_without_objects_has_only_background(loss):
    anchors, cells = grid()
    outputs = blank(images=2)
    with torch.no_grad():
        outputs.logits[0, 5, 0] = 0.0
    empty, labels = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    terms = loss(outputs, anchors, cells, [empty, empty], [labels, labels])
    assert terms["boxes"] == terms["classes"] == 0
    assert terms["objectness"].item() == pytest.approx((0.25 if loss is yolo_v2_loss else math.log(2)) / 2)
    sum(terms.values()).backward()
    assert outputs.logits.grad[0, 5, 0] > 0.1
    assert torch.isfinite(outputs.deltas.grad).all()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    "box", [(40, 20, 40, 30), (40, 20, 40, 20), (-50, -50, 200, 200), (96, 64, 96, 64), (150, 90, 160, 99)]
)
def test_odd_boxes_and_wild_outputs_give_finite_gradients(loss, box):
    anchors, cells = grid()
    outputs = blank()
    with torch.no_grad():
        outputs.deltas[0] = torch.randn(outputs.deltas.shape[1:], generator=torch.Generator().manual_seed(0))
        outputs.deltas[0, 3:7] = 500.0
        outputs.logits[0, 8:20] = 300.0
    terms = loss(outputs, anchors, cells, [boxes_of(box)], [torch.tensor([1])])
    sum(terms.values()).backward()
    assert all(torch.isfinite(term) for term in terms.values())
    assert torch.isfinite(outputs.logits.grad).all()
    assert torch.isfinite(outputs.deltas.grad).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_half_precision_outputs_are_judged_in_float32(loss):
    outputs, *others = perfect()
    half = Outputs(outputs.logits.bfloat16(), outputs.deltas.bfloat16())
    assert {term.dtype for term in loss(half, *others).values()} == {torch.float32}
