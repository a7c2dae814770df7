"""A score taken apart adds up to the score, for classes and for sizes."""

from dataclasses import replace
from math import isnan

import pytest
import torch

from detectors.evaluation import METRICS
from detectors.evaluation.bootstrap import paired_difference
from detectors.evaluation.parts import compared, parts_of
from detectors.types import Detections, Target

CLASSES = ("cat", "dog", "owl")


def drawn(images: int, seed: int = 0) -> tuple[list[Detections], list[Detections], list[Target]]:
    """What a good and a worse model find of cats and dogs of all sizes; no owl is labelled."""
    generator = torch.Generator().manual_seed(seed)
    first, second, targets = [], [], []
    for _ in range(images):
        corners = torch.rand(4, 2, generator=generator) * 200
        boxes = torch.cat([corners, corners + torch.rand(4, 2, generator=generator) * 150 + 4], dim=1)
        labels = torch.randint(2, (4,), generator=generator)
        targets.append(Target.of(boxes, labels, crowd=[False, False, False, True]))
        for found, spread in ((first, 2.0), (second, 9.0)):
            moved = boxes + torch.randn(4, 4, generator=generator) * spread
            found.append(Detections(moved, torch.rand(4, generator=generator), labels))
    return first, second, targets


@pytest.mark.parametrize("metric", ["voc07", "voc", "coco"])
def test_parts_are_those_of_the_metric_and_the_whole_is_the_paired_difference(metric: str) -> None:
    first, second, targets = drawn(30)
    how = {"metric": metric, "bootstrap": 40, "seed": 3}
    whole, parts = compared(first, second, targets, CLASSES, **how)
    assert whole == paired_difference(first, second, targets, CLASSES, **how)
    measured = [METRICS[metric](found, targets, CLASSES).per_class for found in (first, second)]
    names = [("class", name) for name in CLASSES] + [("size", name) for name in ("small", "medium", "large")]
    assert [(part.kind, part.name) for part in parts] == names
    for part in parts[:2]:
        assert part.value == measured[1][part.name]
        assert part.change == measured[1][part.name] - measured[0][part.name]
        assert part.low <= part.change <= part.high
    owl = parts[2]
    assert owl.boxes == 0
    assert all(isnan(value) for value in (owl.value, owl.change, owl.low, owl.high))
    assert owl.to_dict()["value"] is None


def test_sizes_are_those_of_coco_whatever_the_metric() -> None:
    first, second, targets = drawn(30)
    details = [METRICS["coco"](found, targets, CLASSES).details for found in (first, second)]
    _, parts = compared(first, second, targets, CLASSES, metric="voc", bootstrap=10)
    sizes = {part.name: part for part in parts if part.kind == "size"}
    for name, part in sizes.items():
        # Detections that no threshold counts are left out, which adds the very same numbers.
        assert part.value == details[1][name]
        assert part.change == details[1][name] - details[0][name]
    assert sum(part.boxes for part in sizes.values()) == sum(int((~t.crowd).sum()) for t in targets)


def test_alone_a_model_has_values_and_boxes_and_no_change() -> None:
    first, second, targets = drawn(12)
    alone = parts_of(second, targets, CLASSES, metric="voc")
    beside = compared(first, second, targets, CLASSES, metric="voc", bootstrap=5)[1]
    told = [(part.kind, part.name, part.boxes, part.to_dict()["value"]) for part in alone]
    assert told == [(part.kind, part.name, part.boxes, part.to_dict()["value"]) for part in beside]
    assert all(isnan(part.change) and isnan(part.low) for part in alone)


def test_a_loss_of_one_class_falls_on_that_class_alone() -> None:
    boxes = torch.tensor([[0.0, 0.0, 50.0, 50.0], [60.0, 0.0, 110.0, 50.0]])
    targets = [Target.of(boxes, [0, 1])] * 6
    sees_all = [Detections(boxes, torch.tensor([0.9, 0.8]), torch.tensor([0, 1]))] * 6
    no_dogs = [Detections(boxes[:1], torch.tensor([0.9]), torch.tensor([0]))] * 6
    whole, parts = compared(sees_all, no_dogs, targets, CLASSES, metric="voc", bootstrap=20)
    assert whole.value == -0.5
    assert [(part.change, part.low, part.high) for part in parts[:2]] == [(0.0, 0.0, 0.0), (-1.0, -1.0, -1.0)]
    medium = next(part for part in parts if part.name == "medium")
    assert (medium.boxes, medium.change) == (12, -0.5)
    assert isnan(next(part for part in parts if part.name == "small").change)


def test_a_metric_that_is_no_mean_over_classes_has_changes_without_intervals() -> None:
    first, second, targets = drawn(10)
    plain = METRICS["voc"]

    def own(*given):
        return replace(plain(*given), class_values=None)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METRICS._entries, "own", own)
        whole, parts = compared(first, second, targets, CLASSES, metric="own", bootstrap=10)
    assert (whole.value, whole.low, whole.high) == tuple(
        getattr(paired_difference(first, second, targets, CLASSES, metric="voc", bootstrap=10), key)
        for key in ("value", "low", "high")
    )
    assert not isnan(parts[0].change)
    assert isnan(parts[0].low)


def test_a_paired_interval_needs_a_resample() -> None:
    first, second, targets = drawn(2)
    with pytest.raises(ValueError, match="bootstrap=0, but a paired interval needs at least 1 resample"):
        compared(first, second, targets, CLASSES, metric="voc", bootstrap=0)
