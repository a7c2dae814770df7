"""VOC scores: tables worked by hand, the devkit's loops as a slow witness, and what counts as what."""

import math

import numpy as np
import pytest
import torch

from detectors.errors import ConfigError, DataError, UserError
from detectors.evaluation import METRICS
from detectors.evaluation.bootstrap import score
from detectors.types import Detections, Target

BOX = [10.0, 10.0, 30.0, 30.0]
FAR = [100.0, 100.0, 120.0, 120.0]
HALF = [10.0, 10.0, 20.0, 30.0]  # IoU with BOX is exactly 0.5
OTHER_HALF = [20.0, 10.0, 30.0, 30.0]


def found(*rows: tuple[list[float], float, int]) -> Detections:
    boxes, scores, labels = zip(*rows, strict=True) if rows else ([], [], [])
    return Detections(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(scores, dtype=torch.float32),
        torch.tensor(labels, dtype=torch.int64),
    )


def value(metric: str, detections: list[Detections], targets: list[Target], classes=("a",)) -> float:
    return METRICS[metric](detections, targets, classes).value


# Each row: hits (1) and misses (0) by falling score, number of labelled boxes, 11-point, area.
HAND = [
    ([1], 1, 1.0, 1.0),
    ([0], 1, 0.0, 0.0),
    ([1], 2, 6 / 11, 0.5),  # recall 0.5: levels 0 to 0.5
    ([0, 1], 1, 0.5, 0.5),
    ([1, 0, 1], 2, (6 * 1 + 5 * 2 / 3) / 11, 0.5 * 1 + 0.5 * 2 / 3),
    ([1, 0, 0, 1, 1], 3, (4 * 1 + 7 * 3 / 5) / 11, (1 + 3 / 5 + 3 / 5) / 3),  # 2/4 < 3/5: envelope
    ([1, 1, 1, 0, 0, 0], 10, 4 / 11, 0.3),  # recall of exactly 0.3 reaches the level 0.3
]


@pytest.mark.parametrize(("ranked", "boxes", "eleven", "area"), HAND)
def test_tables_worked_by_hand(ranked: list[int], boxes: int, eleven: float, area: float) -> None:
    # One image for each detection, then images for the boxes that nobody finds.
    detections = [found((BOX if hit else FAR, 1 - 0.01 * i, 0)) for i, hit in enumerate(ranked)]
    targets = [Target.of([BOX] if hit else [], [0] if hit else []) for hit in ranked]
    missed = boxes - sum(ranked)
    detections += [found()] * missed
    targets += [Target.of([BOX], [0])] * missed
    assert value("voc07", detections, targets) == pytest.approx(eleven, abs=1e-12)
    assert value("voc", detections, targets) == pytest.approx(area, abs=1e-12)


# Each row: detections of one image, boxes, difficult flags, crowd flags, expected area AP.
MEANINGS = {
    "iou of exactly one half is a match": ([(HALF, 0.9)], [BOX], [0], [0], 1.0),
    "a double is a false positive": ([(BOX, 0.9), (BOX, 0.8), (FAR, 0.7)], [BOX, FAR], [0, 0], [0, 0], 5 / 6),
    "a match with a difficult box is ignored": ([(FAR, 0.9), (BOX, 0.8)], [BOX, FAR], [0, 1], [0, 0], 1.0),
    "difficult boxes need not be found": ([(BOX, 0.8)], [BOX, FAR], [0, 1], [0, 0], 1.0),
    "twice on a difficult box is ignored": (
        [(FAR, 0.9), (FAR, 0.85), (BOX, 0.8)],
        [BOX, FAR],
        [0, 1],
        [0, 0],
        1.0,
    ),
    "a crowd excuses what lies in it": ([(HALF, 0.9), (FAR, 0.8)], [BOX, FAR], [0, 0], [1, 0], 1.0),
    "a crowd takes no hit away": ([(BOX, 0.9)], [BOX, BOX], [0, 0], [0, 1], 1.0),
    "of equal overlaps the first is compared": ([(BOX, 0.9)], [HALF, OTHER_HALF], [0, 1], [0, 0], 1.0),
    "even if that one is difficult": ([(BOX, 0.9)], [HALF, OTHER_HALF], [1, 0], [0, 0], 0.0),
    "a free box does not save a double": ([(BOX, 0.9), (BOX, 0.8)], [BOX, HALF], [0, 0], [0, 0], 0.5),
}


@pytest.mark.parametrize("case", MEANINGS)
def test_what_counts_as_what(case: str) -> None:
    rows, boxes, difficult, crowd, expected = MEANINGS[case]
    targets = [Target.of(boxes, [0] * len(boxes), difficult, crowd)]
    assert value("voc", [found(*((*row, 0) for row in rows))], targets) == pytest.approx(expected, abs=1e-12)


def devkit(detections: list[Detections], targets: list[Target], label: int) -> tuple[float, float]:
    """VOCevaldet.m of one class, loop by loop (without its `+ 1`): 11-point and area AP."""
    rows = [
        (-float(s), i, j)
        for i, one in enumerate(detections)
        for j, s in enumerate(one.scores)
        if one.labels[j] == label
    ]
    truth = [
        [
            (b.tolist(), bool(d))
            for b, d, k in zip(t.boxes.double(), t.difficult, t.labels, strict=True)
            if k == label
        ]
        for t in targets
    ]
    taken = [[False] * len(boxes) for boxes in truth]
    positives = sum(not difficult for boxes in truth for _, difficult in boxes)
    tp, fp, recall, precision = 0, 0, [], []
    for _, i, j in sorted(rows):
        a, best, at = detections[i].boxes[j].double().tolist(), -1.0, -1
        for k, (b, _) in enumerate(truth[i]):
            width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
            if width > 0 and height > 0:
                both = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
                if width * height / both > best:
                    best, at = width * height / both, k
        if best >= 0.5 and truth[i][at][1]:
            continue
        if best >= 0.5 and not taken[i][at]:
            taken[i][at] = True
            tp += 1
        else:
            fp += 1
        recall.append(tp / positives)
        precision.append(tp / (tp + fp))
    eleven = (
        sum(
            max((p for p, r in zip(precision, recall, strict=True) if r >= k / 10), default=0)
            for k in range(11)
        )
        / 11
    )
    ends, levels = [0.0, *recall, 1.0], [0.0, *precision, 0.0]
    for k in range(len(levels) - 2, -1, -1):
        levels[k] = max(levels[k], levels[k + 1])
    area = sum((ends[k] - ends[k - 1]) * levels[k] for k in range(1, len(ends)))
    return eleven, area


@pytest.mark.parametrize("levels", [None, 5])
@pytest.mark.parametrize("seed", range(4))
def test_equals_the_loops_of_the_devkit(draw, seed: int, levels: int | None) -> None:
    detections, targets = draw(seed, images=25, detections=20, difficult=0.2, levels=levels)
    classes = ("a", "b", "c")
    witness = np.array([devkit(detections, targets, label) for label in range(3)])
    for column, metric in enumerate(("voc07", "voc")):
        measured = METRICS[metric](detections, targets, classes)
        assert list(measured.per_class.values()) == pytest.approx(witness[:, column], abs=1e-12)
        assert measured.value == pytest.approx(witness[:, column].mean(), abs=1e-12)
        assert 0.05 < measured.value < 0.95


@pytest.mark.parametrize("metric", ["voc07", "voc", "coco"])
def test_a_class_without_boxes_is_nan_and_left_out_of_the_mean(metric: str) -> None:
    detections = [found((BOX, 0.9, 0), (FAR, 0.8, 1))]
    measured = METRICS[metric](detections, [Target.of([BOX], [0])], ("a", "b", "c"))
    assert measured.per_class["a"] == measured.value == pytest.approx(1)
    assert math.isnan(measured.per_class["b"])
    assert math.isnan(measured.per_class["c"])


def test_a_class_with_only_difficult_boxes_is_nan() -> None:
    targets = [Target.of([BOX, FAR], [0, 1], difficult=[False, True])]
    assert math.isnan(METRICS["voc"]([found((BOX, 0.9, 0))], targets, ("a", "b")).per_class["b"])


@pytest.mark.parametrize("metric", ["voc07", "voc", "coco"])
def test_no_detections_score_zero(metric: str) -> None:
    assert value(metric, [found(), found()], [Target.of([BOX], [0]), Target.of([], [])]) == 0


@pytest.mark.parametrize("metric", ["voc07", "voc", "coco"])
def test_a_nan_in_the_model_is_said(metric: str) -> None:
    with pytest.raises(UserError, match="image 1 hold a box or score that is not finite"):
        value(metric, [found(), found((BOX, float("nan"), 0))], [Target.of([BOX], [0])] * 2)


def test_a_label_without_class_is_said() -> None:
    with pytest.raises(DataError, match="labelled box of image 0 has label 4, but there are 1 classes"):
        value("voc", [found()], [Target.of([BOX], [4])])
    with pytest.raises(DataError, match="detection of image 0 has label 2"):
        value("voc", [found((BOX, 0.5, 2))], [Target.of([BOX], [0])])


def test_nothing_to_score_against_is_said() -> None:
    with pytest.raises(DataError, match="none of the 1 images has a labelled box that counts for voc07"):
        score([found()], [Target.of([BOX], [0], difficult=[True])], ("a",), metric="voc07")


def test_the_metrics_list_themselves() -> None:
    assert METRICS.names() == ["coco", "voc", "voc07"]
    assert all(METRICS.described().values())
    with pytest.raises(ConfigError, match="did you mean voc07"):
        METRICS["voc7"]


@pytest.mark.parametrize("metric", ["voc07", "voc", "coco"])
def test_the_order_of_images_does_not_matter(draw, metric: str) -> None:
    detections, targets = draw(3, difficult=0.1, crowd=0.1)
    order = np.random.default_rng(0).permutation(len(targets))
    shuffled = value(metric, [detections[i] for i in order], [targets[i] for i in order], ("a", "b", "c"))
    assert shuffled == pytest.approx(value(metric, detections, targets, ("a", "b", "c")), abs=1e-12)
