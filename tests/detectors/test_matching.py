"""Which anchor answers for which object."""

import pytest
import torch

from detectors.matching import BACKGROUND, match

# Four squares of side 10 in a row.
ROW = torch.tensor([[10.0 * k, 0, 10.0 * k + 10, 10] for k in range(4)])


@pytest.mark.parametrize(
    ("case", "boxes", "expected"),
    [
        ("no object", [], [-1, -1, -1, -1]),
        ("exactly on an anchor", [[10, 0, 20, 10]], [-1, 0, -1, -1]),
        ("two objects", [[30, 0, 40, 10], [0, 0, 10, 10]], [1, -1, -1, 0]),
        ("IoU of just 0.5 counts", [[0, 0, 20, 10]], [0, 0, -1, -1]),
        ("below the threshold, forced on its best anchor", [[22, 2, 26, 6]], [-1, -1, 0, -1]),
        (
            "forced takes an anchor that another overlaps more",
            [[0, 0, 10, 10], [1, 1, 4, 4]],
            [1, -1, -1, -1],
        ),
        ("of two on one anchor the later wins", [[0, 0, 10, 10], [0, 0, 10, 9]], [1, -1, -1, -1]),
        ("the order turned", [[0, 0, 10, 9], [0, 0, 10, 10]], [1, -1, -1, -1]),
        ("far from every anchor, forced on the first", [[90, 90, 95, 95]], [0, -1, -1, -1]),
    ],
)
def test_matches(case, boxes, expected):
    found = match(ROW, torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    assert found.tolist() == expected, case
    assert found.dtype == torch.int64


@pytest.mark.parametrize(
    ("threshold", "expected"), [(0.25, [0, 0, -1, -1]), (0.35, [0, -1, -1, -1]), (0.9, [0, -1, -1, -1])]
)
def test_threshold_decides_on_all_but_the_best_anchor(threshold, expected):
    # Overlaps of 7/15 and 5/17 with the first two anchors.
    box = torch.tensor([[3.0, 0, 15, 10]])
    assert match(ROW, box, threshold).tolist() == expected


def test_an_anchor_takes_the_object_it_overlaps_most():
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 11], [50, 50, 60, 60]])
    boxes = torch.tensor([[0.0, 0, 10, 12], [0, 0, 10, 8], [50, 50, 60, 60]])
    # Object 0 is forced on anchor 1 and object 1 on anchor 0.
    assert match(anchors, boxes).tolist() == [1, 0, 2]


def test_every_object_has_an_anchor_where_their_best_ones_differ():
    random = torch.Generator().manual_seed(3)
    low = torch.rand(60, 2, generator=random) * 90
    anchors = torch.cat([low, low + 5 + torch.rand(60, 2, generator=random) * 20], dim=1)
    boxes = anchors[::6] + 0.3
    found = match(anchors, boxes, 0.99)
    assert sorted(set(found.tolist())) == [BACKGROUND, *range(10)]
