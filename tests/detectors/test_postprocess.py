"""From scores and boxes to detections."""

import pytest
import torch

from detectors.boxes import iou
from detectors.postprocess import PostprocessOptions, select

UNIT = (1, 1)
APART = [[0.0, 0.0, 0.1, 0.1], [0.2, 0.2, 0.3, 0.3], [0.4, 0.4, 0.5, 0.5], [0.6, 0.6, 0.7, 0.7]]


def chosen(scores, boxes, size=UNIT, **options):
    return select(torch.tensor(scores), torch.tensor(boxes), size, PostprocessOptions(**options))


@pytest.mark.parametrize(
    ("options", "scores", "labels"),
    [
        ({}, [0.9, 0.8, 0.7, 0.6, 0.2, 0.02], [0, 1, 0, 1, 0, 0]),
        ({"score_threshold": 0.2}, [0.9, 0.8, 0.7, 0.6], [0, 1, 0, 1]),
        ({"score_threshold": 0.65}, [0.9, 0.8, 0.7], [0, 1, 0]),
        ({"score_threshold": 0.95}, [], []),
        ({"top_k": 1}, [0.9, 0.8], [0, 1]),
        ({"top_k": 2}, [0.9, 0.8, 0.7, 0.6], [0, 1, 0, 1]),
        ({"keep": 3}, [0.9, 0.8, 0.7], [0, 1, 0]),
        ({"keep": None}, [0.9, 0.8, 0.7, 0.6, 0.2, 0.02], [0, 1, 0, 1, 0, 0]),
    ],
)
def test_threshold_top_k_and_keep(options, scores, labels):
    # Column 0: .9 .7 .2 .02; column 1: .8 and .6, the rest at or below the threshold.
    found = chosen([[0.9, 0.8], [0.02, 0.6], [0.7, 0.01], [0.2, 0.0]], APART, **options)
    assert found.scores.tolist() == pytest.approx(scores)
    assert found.labels.tolist() == labels
    assert found.labels.dtype == torch.int64
    assert found.boxes.shape == (len(scores), 4)


def test_suppression_is_within_a_class():
    same = [[0.1, 0.1, 0.5, 0.5], [0.1, 0.1, 0.5, 0.52]]
    one = chosen([[0.9], [0.8]], same)
    two = chosen([[0.9, 0.0], [0.0, 0.8]], same)
    assert one.scores.tolist() == pytest.approx([0.9])
    assert two.labels.tolist() == [0, 1]


def test_suppression_is_within_a_class_for_boxes_that_stand_out_of_the_image_too():
    # Moved by the largest coordinate plus one, torchvision's way to keep classes apart, the second box would
    # lie on the first, though what the image shows of the two is 15 pixels apart.
    boxes = [[0.51, 0.51, 1.5, 1.5], [-1.0, -1.0, 0.4, 0.4]]
    found = chosen([[0.9, 0.0], [0.0, 0.8]], boxes, size=(100, 100))
    assert found.labels.tolist() == [0, 1]


@pytest.mark.parametrize(("nms_iou", "count"), [(0.3, 1), (0.34, 2), (0.9, 2)])
def test_suppression_needs_more_overlap_than_nms_iou(nms_iou, count):
    # Two boxes with an IoU of a third.
    found = chosen([[0.9], [0.8]], [[0.0, 0.0, 0.2, 0.2], [0.1, 0.0, 0.3, 0.2]], nms_iou=nms_iou)
    assert len(found) == count


def test_a_suppressed_box_suppresses_none():
    chain = [[0.0, 0.0, 0.4, 0.4], [0.1, 0.0, 0.5, 0.4], [0.2, 0.0, 0.6, 0.4]]
    assert chosen([[0.9], [0.8], [0.7]], chain).scores.tolist() == pytest.approx([0.9, 0.7])


def test_boxes_are_in_pixels_of_the_original_image_and_clipped_to_it():
    found = chosen([[0.9], [0.8]], [[0.5, 0.25, 0.75, 0.5], [-0.2, 0.9, 0.3, 1.4]], size=(100, 200))
    assert torch.allclose(found.boxes, torch.tensor([[100.0, 25, 150, 50], [0, 90, 60, 100]]), atol=1e-4)


# 40 boxes take torchvision's path of moved boxes, 3,000 its path class by class.
@pytest.mark.parametrize("anchors", [40, 3000])
def test_what_is_left_is_sorted_apart_and_inside(anchors):
    random = torch.Generator().manual_seed(anchors)
    low = torch.rand(anchors, 2, generator=random)
    boxes = torch.cat([low, low + 0.05 + torch.rand(anchors, 2, generator=random) * 0.5], dim=1)
    scores = torch.rand(anchors, 3, generator=random)
    found = select(scores, boxes, (60, 80), PostprocessOptions(keep=None, top_k=500))
    assert len(found) > 10
    assert (found.scores.diff() <= 0).all()
    assert (found.boxes >= 0).all()
    assert (found.boxes <= torch.tensor([80.0, 60, 80, 60])).all()
    whole = boxes * torch.tensor([80.0, 60, 80, 60])
    for label in range(3):
        mine = found.scores[found.labels == label]
        kept = whole[[int((scores[:, label] == score).nonzero()[0]) for score in mine]]
        assert iou(kept, kept).fill_diagonal_(0).max() <= 0.45


def test_nothing_above_the_threshold_gives_no_detections():
    found = chosen([[0.0], [0.005]], APART[:2])
    assert (len(found), found.boxes.shape, found.labels.dtype) == (0, (0, 4), torch.int64)
