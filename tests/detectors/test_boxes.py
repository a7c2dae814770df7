"""Arithmetic on boxes against numbers worked out by hand."""

import pytest
import torch

from detectors.boxes import area, centres, clip, corners, decode, encode, iou


def drawn(count: int, seed: int = 0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    low = torch.rand(count, 2, generator=random)
    return torch.cat([low, low + 0.01 + torch.rand(count, 2, generator=random)], dim=1)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([0, 0, 2, 2], [0, 0, 2, 2], 1.0),
        ([0, 0, 2, 2], [1, 1, 3, 3], 1 / 7),
        ([0, 0, 2, 2], [2, 0, 4, 2], 0.0),
        ([0, 0, 2, 2], [5, 5, 6, 6], 0.0),
        ([0, 0, 4, 4], [1, 1, 3, 3], 0.25),
        ([-2, -2, 0, 0], [-1, -2, 1, 0], 1 / 3),
        ([1, 1, 1, 1], [1, 1, 1, 1], 0.0),
    ],
)
def test_iou_of_known_pairs(a, b, expected):
    one, other = torch.tensor([a], dtype=torch.float32), torch.tensor([b], dtype=torch.float32)
    assert iou(one, other).item() == pytest.approx(expected, abs=1e-6)
    assert iou(other, one).item() == pytest.approx(expected, abs=1e-6)


def test_iou_is_of_every_pair_and_does_not_depend_on_the_unit():
    a, b = drawn(5), drawn(7, seed=1)
    assert iou(a, b).shape == (5, 7)
    assert iou(a, b)[3, 4] == iou(a[3:4], b[4:5]).item()
    assert torch.allclose(iou(a * 300, b * 300), iou(a, b), atol=1e-5)


@pytest.mark.parametrize(("boxes", "others"), [(0, 3), (3, 0), (0, 0)])
def test_iou_with_no_boxes_is_empty(boxes, others):
    assert iou(drawn(3)[:boxes], drawn(3)[:others]).shape == (boxes, others)


def test_centre_and_corner_form_are_inverse():
    assert corners(torch.tensor([3.0, 5.0, 2.0, 4.0])).tolist() == [2.0, 3.0, 4.0, 7.0]
    assert centres(torch.tensor([2.0, 3.0, 4.0, 7.0])).tolist() == [3.0, 5.0, 2.0, 4.0]
    boxes = drawn(100)
    assert torch.allclose(corners(centres(boxes)), boxes, atol=1e-6)


def test_area_is_width_times_height():
    assert area(torch.tensor([[0.0, 0.0, 2.0, 3.0], [1.0, 1.0, 1.0, 4.0]])).tolist() == [6.0, 0.0]


def test_encoding_of_a_known_box():
    # Moved by a tenth of the anchor to the right, half of its height up, and e times as wide.
    anchor = torch.tensor([[10.0, 10.0, 4.0, 8.0]])
    wide = 4 * torch.e
    box = torch.tensor([[10.4 - wide / 2, 6 - 4, 10.4 + wide / 2, 6 + 4]])
    assert torch.allclose(encode(box, anchor), torch.tensor([[1.0, -5.0, 5.0, 0.0]]), atol=1e-5)
    plain = encode(box, anchor, (1.0, 1.0))
    assert torch.allclose(plain, torch.tensor([[0.1, -0.5, 1.0, 0.0]]), atol=1e-6)


@pytest.mark.parametrize("variances", [(0.1, 0.2), (1.0, 1.0), (0.05, 0.3)])
def test_decoding_undoes_encoding(variances):
    boxes, anchors = drawn(200), centres(drawn(200, seed=1))
    again = decode(encode(boxes, anchors, variances), anchors, variances)
    assert torch.allclose(again, boxes, atol=1e-5)


def test_no_offset_decodes_to_the_anchor():
    anchors = centres(drawn(10))
    assert torch.allclose(decode(torch.zeros(2, 10, 4), anchors), corners(anchors).expand(2, -1, -1))


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ([1, 2, 3, 4], [1, 2, 3, 4]),
        ([-5, -6, 30, 40], [0, 0, 20, 10]),
        ([15, 8, 25, 9], [15, 8, 20, 9]),
        ([30, 30, 40, 40], [20, 10, 20, 10]),
    ],
)
def test_clipping_to_an_image_of_height_10_and_width_20(box, expected):
    assert clip(torch.tensor([box], dtype=torch.float32), (10, 20)).tolist() == [expected]
