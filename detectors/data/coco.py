"""COCO's annotation files: one JSON for each split, boxes as [x, y, width, height]."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectors.data import DATASETS, Split
from detectors.data.faults import Faults
from detectors.data.photos import Photo, PhotoDataset, load_photos, photo
from detectors.errors import ConfigError, DataError, UnknownClassError
from detectors.registry import did_you_mean
from detectors.settings import DataConfig
from detectors.types import Target

# A box may reach this far out of its image, pixels: COCO's own are rounded to hundredths.
_SLACK = 1.0


@dataclass(frozen=True)
class _Listed:
    """An image of a split: its entry in the JSON, and the annotations that name it."""

    file: Path
    folder: Path
    entry: dict[str, Any]
    annotations: list[dict[str, Any]]


@DATASETS.register("coco")
def coco(config: DataConfig, split: Split, classes: tuple[str, ...] | None = None) -> PhotoDataset:
    """COCO's layout below data.root: annotations/instances_SPLIT.json and SPLIT/; data.train=[train2017].

    A split that ends in .json is that file below the root, with its images in images/ or the root itself.
    Class names are the categories in the order of their ids; crowd regions are neither trained on nor scored.
    """
    entries = config.train if split == "train" else config.test
    if not (config.root and Path(config.root).is_dir()):
        raise DataError(
            f"data.root={config.root!r} is not a folder. Set it to the folder that holds annotations"
        )
    if not entries:
        raise DataError("no split is named. Set data.train and data.test, such as data.train=[train2017]")
    listed: list[_Listed] = []
    names: dict[int, str] = {}
    for entry in entries:
        found, categories = _read(Path(config.root), entry)
        if names and categories != names:
            raise DataError(f"{config.root}: the splits {', '.join(entries)} have different categories")
        names = categories
        listed += found
    known = tuple(config.classes or classes or (names[key] for key in sorted(names)))
    for name in known:
        if name not in names.values():
            fault = f"{name!r} is no category of {entries[0]}{did_you_mean(name, names.values())}"
            raise ConfigError(f"data.classes: {fault}") if config.classes else UnknownClassError(fault)
    labels = {key: known.index(name) for key, name in names.items() if name in known}
    faults = Faults(config.on_error)
    return load_photos(
        listed, lambda one: _check(one, labels, names, config.max_side, faults), known, config, faults
    )


def _read(root: Path, entry: str) -> tuple[list[_Listed], dict[int, str]]:
    """The images that a split lists, and its categories by id."""
    if entry.endswith(".json"):
        file, folders = root / entry, [root / "images", root]
    else:
        file = root / "annotations" / f"instances_{entry}.json"
        folders = [root / entry, root / "images" / entry]
    if not file.is_file():
        there = sorted(path.stem.removeprefix("instances_") for path in file.parent.glob("instances_*.json"))
        hint = f"splits there: {', '.join(there)}" if there else "no splits there"
        raise DataError(f"{file}: split {entry!r} is missing; {hint}. Set data.train and data.test")
    folder = next((path for path in folders if path.is_dir()), None)
    if folder is None:
        raise DataError(f"{folders[0]}: the images of split {entry!r} are missing")
    try:
        content = json.loads(file.read_bytes())
        names = {int(category["id"]): str(category["name"]) for category in content["categories"]}
        by_image: dict[int, list[dict[str, Any]]] = {int(image["id"]): [] for image in content["images"]}
        for annotation in content["annotations"]:
            if annotation["image_id"] not in by_image:
                raise DataError(
                    f"{file}: annotation {annotation.get('id')} names image {annotation['image_id']}, "
                    "which the file does not list"
                )
            by_image[annotation["image_id"]].append(annotation)
        listed = [_Listed(file, folder, image, by_image[int(image["id"])]) for image in content["images"]]
    except (ValueError, KeyError, TypeError) as error:
        lacks = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else error
        raise DataError(f"{file}: no COCO annotations: {lacks}") from None
    if not listed:
        raise DataError(f"{file}: split {entry!r} lists no image")
    return listed, names


def _check(
    listed: _Listed, labels: dict[int, int], names: dict[int, str], max_side: int | None, faults: Faults
) -> Photo:
    """One image with its checked boxes, not decoded."""
    entry = listed.entry
    try:
        path, size = listed.folder / entry["file_name"], (int(entry["height"]), int(entry["width"]))
    except (KeyError, TypeError, ValueError):
        raise DataError(f"{listed.file}: image {entry['id']} lacks file_name, height or width") from None
    if not path.is_file():
        raise DataError(f"{path}: image is missing")
    boxes, chosen, crowd = [], [], []
    for annotation in listed.annotations:
        with faults.tolerated():
            box, category = _box(listed.file, annotation, size, names)
            if category in labels:  # data.classes may name fewer than there are
                boxes.append(box)
                chosen.append(labels[category])
                crowd.append(bool(annotation.get("iscrowd", 0)))
    target = Target.of(boxes, chosen, crowd=crowd)
    return photo(path.stem, path, listed.file, size, target, max_side)


def _box(
    file: Path, annotation: dict[str, Any], size: tuple[int, int], names: dict[int, str]
) -> tuple[list[float], int]:
    """[x1, y1, x2, y2] in pixels, and the category; raises DataError for what is out of place."""
    category = annotation.get("category_id")
    here = f"{file}: annotation {annotation.get('id')} ({names.get(category or 0, 'no category')})"
    if category not in names:
        raise DataError(f"{here}: unknown category {category!r}")
    box = annotation.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(side) for side in box):
        raise DataError(f"{here}: bbox {box!r} is not [x, y, width, height]")
    x, y, width, height = map(float, box)
    written = f"box [{x:g}, {y:g}, {width:g}, {height:g}]"
    if width <= 0 or height <= 0:
        raise DataError(f"{here}: {written} is degenerate")
    rows, columns = size
    if min(x, y) < -_SLACK or x + width > columns + _SLACK or y + height > rows + _SLACK:
        raise DataError(f"{here}: {written} lies outside of the image of {columns} x {rows} pixels")
    return [max(x, 0.0), max(y, 0.0), min(x + width, columns), min(y + height, rows)], int(category)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
