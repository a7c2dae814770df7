"""COCO's files: classes, boxes, crowds, and every fault by file and annotation."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.io import write_png

from detectors.data import build
from detectors.errors import ConfigError, DataError
from detectors.settings import DataConfig

CATEGORIES = [{"id": 3, "name": "car"}, {"id": 1, "name": "person"}]


def annotation(**changes: Any) -> dict[str, Any]:
    return {"id": 7, "image_id": 42, "category_id": 3, "bbox": [2, 4, 10, 6.5], "iscrowd": 0, **changes}


def folder(root: Path, *annotations: dict[str, Any], **changes: Any) -> DataConfig:
    """A COCO folder with one image of 40 x 30 pixels, and the settings that read it."""
    images = root / "val"
    images.mkdir(exist_ok=True)
    write_png(torch.full((3, 30, 40), 90, dtype=torch.uint8), str(images / "a.png"))
    content = {
        "images": [{"id": 42, "file_name": "a.png", "height": 30, "width": 40}],
        "annotations": list(annotations),
        "categories": CATEGORIES,
        **changes,
    }
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / "instances_val.json").write_text(json.dumps(content))
    return DataConfig(name="coco", root=str(root), train=["val"], test=["val"])


def test_boxes_labels_and_crowds_are_read(tmp_path):
    config = folder(tmp_path, annotation(), annotation(id=8, category_id=1, iscrowd=1, bbox=[0, 0, 40.4, 30]))
    data = build(config, "test")
    assert data.classes == ("person", "car")
    assert (len(data), data.name(0), data.image(0).shape) == (1, "a", (3, 30, 40))
    target = data.target(0)
    assert target.boxes.tolist() == [[2, 4, 12, 10.5], [0, 0, 40, 30]]
    assert target.labels.tolist() == [1, 0]
    assert target.crowd.tolist() == [False, True]
    assert not target.difficult.any()


def test_fewer_classes_may_be_asked_for_and_an_image_without_any_stays(tmp_path):
    config = folder(tmp_path, annotation())
    config.classes = ["person"]
    assert len(build(config, "test").target(0).boxes) == 0
    config.classes = ["persn"]
    with pytest.raises(ConfigError, match=r"'persn' is no category of val; did you mean person"):
        build(config, "test")


def test_a_single_file_with_its_images_beside_it_is_a_split(tmp_path):
    config = folder(tmp_path, annotation())
    (tmp_path / "annotations" / "instances_val.json").rename(tmp_path / "few.json")
    (tmp_path / "val").rename(tmp_path / "images")
    config.test = ["few.json"]
    assert len(build(config, "test").target(0).boxes) == 1


def test_shrinking_moves_the_boxes_along(tmp_path):
    config = folder(tmp_path, annotation())
    config.max_side = 20
    data = build(config, "test")
    assert data.image(0).shape == (3, 15, 20)
    assert data.target(0).boxes.tolist() == [[1, 2, 6, 5.25]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bbox": [2, 4, 0, 5]}, r"annotation 7 \(car\): box \[2, 4, 0, 5\] is degenerate"),
        ({"bbox": [35, 4, 10, 5]}, r"box \[35, 4, 10, 5\] lies outside of the image of 40 x 30 pixels"),
        ({"bbox": [1, 2, 3]}, r"bbox \[1, 2, 3\] is not \[x, y, width, height\]"),
        ({"bbox": [1, 2, 3, float("nan")]}, "is not"),
        ({"category_id": 9}, r"annotation 7 \(no category\): unknown category 9"),
    ],
)
def test_a_broken_box_is_named_and_can_be_skipped(changes, message, tmp_path):
    config = folder(tmp_path, annotation(**changes), annotation(id=9))
    with pytest.raises(DataError, match=rf"instances_val.json: .*{message}"):
        build(config, "test")
    config.on_error = "skip"
    data = build(config, "test")
    assert (len(data.target(0).boxes), len(data.skipped)) == (1, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": []}, "names image 42, which the file does not list"),
        ({"categories": None}, "no COCO annotations"),
        ({"images": [{"id": 42, "file_name": "a.png"}]}, "image 42 lacks file_name, height or width"),
        (
            {"images": [{"id": 42, "file_name": "b.png", "height": 30, "width": 40}]},
            "b.png: image is missing",
        ),
    ],
)
def test_a_broken_file_is_one_line(changes, message, tmp_path):
    with pytest.raises(DataError, match=message):
        build(folder(tmp_path, annotation(), **changes), "test")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"root": "nowhere"}, "data.root='nowhere' is not a folder"),
        ({"test": []}, "no split is named"),
        ({"test": ["trian"]}, "split 'trian' is missing; splits there: val"),
    ],
)
def test_a_missing_folder_or_split_is_one_line(setting, message, tmp_path):
    config = folder(tmp_path, annotation())
    for key, value in setting.items():
        setattr(config, key, value)
    with pytest.raises(DataError, match=message):
        build(config, "test")


def test_json_that_is_none_is_one_line(tmp_path):
    config = folder(tmp_path)
    (tmp_path / "annotations" / "instances_val.json").write_text("{")
    with pytest.raises(DataError, match="no COCO annotations"):
        build(config, "test")
