"""Default boxes: how many, where, how large."""

import math

import pytest
import torch

from detectors.anchors import AnchorLevel, AnchorSpec, spread, ssd_shapes
from detectors.models import build


@pytest.mark.parametrize(
    ("name", "sides", "per_cell", "total"),
    [
        ("ssd300_vgg16", (38, 19, 10, 5, 3, 1), (4, 6, 6, 6, 4, 4), 8732),
        ("ssd512_vgg16", (64, 32, 16, 8, 4, 2, 1), (4, 6, 6, 6, 6, 4, 4), 24564),
    ],
)
def test_published_detectors_have_the_published_number_of_anchors(name, sides, per_cell, total):
    detector = build(name, ("cat",))
    assert sum(side**2 * count for side, count in zip(sides, per_cell, strict=True)) == total
    assert detector.anchors.shape == (total, 4)
    assert [conv.out_channels for conv in detector.network.loc] == [4 * count for count in per_cell]
    assert [conv.out_channels for conv in detector.network.conf] == [2 * count for count in per_cell]


def test_one_cell_holds_its_boxes_in_the_papers_order():
    spec = AnchorSpec((AnchorLevel(ssd_shapes(30, 60, (2,)), step=100),))
    boxes = spec.boxes((100, 100), [(1, 1)]) * 100
    larger, root = math.sqrt(30 * 60), math.sqrt(2)
    expected = [[30, 30], [larger, larger], [30 * root, 30 / root], [30 / root, 30 * root]]
    assert torch.allclose(boxes[:, :2], torch.full((4, 2), 50.0))
    assert torch.allclose(boxes[:, 2:], torch.tensor(expected), atol=1e-4)


def test_cells_run_row_by_row_and_boxes_within_them():
    spec = AnchorSpec((AnchorLevel(ssd_shapes(10, 20, ())),))
    boxes = spec.boxes((60, 90), [(2, 3)])
    pixels = boxes[:, :2] * torch.tensor([90, 60])
    expected = [[15, 15], [45, 15], [75, 15], [15, 45], [45, 45], [75, 45]]
    assert torch.allclose(pixels[::2], torch.tensor(expected, dtype=torch.float32), atol=1e-4)
    assert torch.equal(pixels[::2], pixels[1::2])


@pytest.mark.parametrize("size", [(64, 64), (64, 128), (200, 320), (333, 250)])
def test_on_any_image_anchors_are_square_in_pixels_and_centred_inside(size):
    height, width = size
    maps = [(-(-height // stride), -(-width // stride)) for stride in (8, 16, 32)]
    spec = spread(3, min(size), (0.1, 0.5), (2.0,))
    boxes = spec.boxes(size, maps)
    assert boxes.dtype == torch.float32
    assert boxes.shape == (4 * sum(h * w for h, w in maps), 4)
    assert ((boxes[:, :2] > 0) & (boxes[:, :2] < 1)).all()
    sides = (boxes[:, 2:] * torch.tensor([width, height])).reshape(-1, 4, 2)
    ratios = sides[..., 0] / sides[..., 1]
    assert torch.allclose(ratios, torch.tensor([1.0, 1.0, 2.0, 0.5]).expand_as(ratios), atol=1e-4)
    assert sides[0, 0, 0].item() == pytest.approx(0.1 * min(size), rel=1e-5)
    assert sides[-1, 0, 0].item() == pytest.approx(0.5 * min(size), rel=1e-5)


def test_clipping_cuts_the_centre_form_and_can_be_left_out():
    level = AnchorLevel(ssd_shapes(90, 110, (3,)))
    cut = AnchorSpec((level,)).boxes((100, 100), [(1, 1)])
    whole = AnchorSpec((level,), clip=False).boxes((100, 100), [(1, 1)])
    assert cut.max() == 1
    assert whole[:, 2].max().item() == pytest.approx(0.9 * math.sqrt(3), rel=1e-6)
    assert torch.equal(cut, whole.clamp(0, 1))


def test_as_many_maps_as_levels_are_needed():
    with pytest.raises(ValueError, match="zip"):
        AnchorSpec((AnchorLevel(ssd_shapes(10, 20, ())),)).boxes((64, 64), [(8, 8), (4, 4)])


def test_spread_sides_grow_by_one_factor():
    levels = spread(4, 100, (0.1, 0.8), (2.0,)).levels
    assert [round(level.shapes[0][0], 6) for level in levels] == [10, 20, 40, 80]
    assert [round(level.shapes[1][0] ** 2 / level.shapes[0][0], 6) for level in levels] == [20, 40, 80, 160]


def test_without_a_next_size_there_is_no_larger_square():
    assert ssd_shapes(10, None, (4,)) == ((10, 10), (20, 5), (5, 20))
