"""The COCO score is that of pycocotools, the witness, to 1e-9."""

import contextlib
import io

import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detectors.evaluation import METRICS
from detectors.types import Detections, Target

CLASSES = ("a", "b", "c")


def pycocotools(detections: list[Detections], targets: list[Target]) -> dict[str, float]:
    annotations: list[dict] = []
    results: list[dict] = []
    for image, (one, target) in enumerate(zip(detections, targets, strict=True)):
        for box, label, crowd in zip(target.boxes.tolist(), target.labels, target.crowd, strict=True):
            x, y, w, h = box[0], box[1], box[2] - box[0], box[3] - box[1]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": int(label),
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": int(crowd),
                }
            )
        for box, label, score in zip(one.boxes.tolist(), one.labels, one.scores.tolist(), strict=True):
            x, y, w, h = box[0], box[1], box[2] - box[0], box[3] - box[1]
            results.append(
                {"image_id": image, "category_id": int(label), "bbox": [x, y, w, h], "score": score}
            )
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": image} for image in range(len(targets))],
            "categories": [{"id": label} for label in range(len(CLASSES))],
            "annotations": annotations,
            "info": {},
        }
        truth.createIndex()
        run = COCOeval(truth, truth.loadRes(results), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    names = ("value", "ap50", "ap75", "small", "medium", "large")
    return {**dict(zip(names, run.stats, strict=False)), "ar100": run.stats[8]}


# Each row of options for `draw`; "ties": scores on few levels and boxes on whole pixels.
DRAWS = {
    "plain": {},
    "ties": {"levels": 6},
    "crowds": {"crowd": 0.3, "detections": 30},
    "crowds and ties": {"crowd": 0.4, "detections": 40, "levels": 4, "objects": 9},
    "many objects": {"objects": 25, "detections": 60, "crowd": 0.1},
    "more than 100 detections of a class": {"images": 6, "detections": 420, "objects": 12, "crowd": 0.1},
    "mostly empty images": {"empty": 0.7, "images": 40},
    "difficult boxes count as any other": {"difficult": 0.5},
}


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", DRAWS)
def test_equals_pycocotools(draw, name: str, seed: int) -> None:
    detections, targets = draw(seed, **DRAWS[name])
    expected = pycocotools(detections, targets)
    measured = METRICS["coco"](detections, targets, CLASSES)
    assert {"value": measured.value, **measured.details} == pytest.approx(expected, abs=1e-9)
    assert 0.01 < measured.value < 0.9


def test_of_equal_overlaps_the_last_box_is_taken_as_in_pycocotools() -> None:
    # The first detection overlaps both boxes by 0.8; if it takes `low`, the second has none left above 0.55.
    high, low = [0.0, 0.0, 20.0, 16.0], [0.0, 4.0, 20.0, 20.0]
    boxes = torch.tensor([[0.0, 0.0, 20.0, 20.0], [0.0, 5.0, 20.0, 20.0]])
    detections = [Detections(boxes, torch.tensor([0.9, 0.8]), torch.tensor([0, 0]))]
    values = []
    for order in ([high, low], [low, high]):
        targets = [Target.of(order, [0, 0])]
        values.append(METRICS["coco"](detections, targets, CLASSES).value)
        assert values[-1] == pytest.approx(pycocotools(detections, targets)["value"], abs=1e-9)
    assert values[0] < values[1]
