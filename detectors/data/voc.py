"""Folders laid out like PASCAL VOC: ImageSets/Main/SPLIT.txt, Annotations/ID.xml, JPEGImages/ID.jpg."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from detectors.data import DATASETS, Split
from detectors.data.faults import Faults, advised
from detectors.data.photos import Photo, PhotoDataset, load_photos, photo
from detectors.data.voc_xml import check_object, read_annotation
from detectors.errors import DataError
from detectors.images import SUFFIXES, header_size
from detectors.settings import DataConfig
from detectors.types import Target

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


class Listed(NamedTuple):
    """An image that a split file names: its id, and the folder that holds Annotations and JPEGImages."""

    name: str
    folder: Path

    @property
    def annotation(self) -> Path:
        """Its XML file, there or not."""
        return self.folder / "Annotations" / f"{self.name}.xml"


@DATASETS.register("voc")
def voc(config: DataConfig, split: Split, classes: tuple[str, ...] | None = None) -> PhotoDataset:
    """Folders laid out like PASCAL VOC, below data.root; years as in data.train=[VOC2007/trainval]."""
    listed = list_images(config.root, config.train if split == "train" else config.test)
    known = tuple(config.classes or classes or ())
    # Both splits are searched, so that training and scoring arrive at the same list.
    searched = [] if known else list_images(config.root, config.train) + list_images(config.root, config.test)
    faults = Faults(config.on_error)
    with advised():
        known = known or find_classes(dict.fromkeys(searched), config.on_error)
    return load_photos(listed, lambda one: _check(one, known, config.max_side, faults), known, config, faults)


def list_images(root: str, entries: Sequence[str]) -> list[Listed]:
    """The images of several splits, one after the other.

    Args:
        root: `data.root`.
        entries: such as "trainval" for root/ImageSets/Main/trainval.txt, or "VOC2007/trainval" for the same
            below root/VOC2007.

    Raises:
        DataError: no such folder or split, an empty one, or an image that is listed twice.
    """
    if not (root and Path(root).is_dir()):
        raise DataError(f"data.root={root!r} is not a folder. Set it to the folder that holds ImageSets")
    listed: list[Listed] = []
    for entry in entries:
        folder, _, split = entry.rpartition("/")
        path = Path(root) / folder / "ImageSets" / "Main" / f"{split}.txt"
        if not path.is_file():
            there = sorted(file.stem for file in path.parent.glob("*.txt"))
            hint = f"splits there: {', '.join(there)}" if there else "no splits there"
            raise DataError(f"{path}: split {entry!r} is missing; {hint}. Set data.train and data.test")
        # utf-8-sig: editors on Windows put a mark in front, which is no part of the first id.
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: split {entry!r} cannot be read as UTF-8 text: {error}") from None
        names = [line.strip() for line in text.splitlines() if line.strip()]
        if not names:
            raise DataError(f"{path}: split {entry!r} is empty. List an image id in each line")
        listed.extend(Listed(name, Path(root) / folder) for name in names)
    if not listed:
        raise DataError("no split is named. Set data.train and data.test, such as data.train=[trainval]")
    twice = [image.name for image, count in Counter(listed).items() if count > 1]
    if twice:
        raise DataError(
            f"{root}: image {twice[0]} is listed twice in {', '.join(entries)}. Remove it from one"
        )
    return listed


def find_classes(listed: Iterable[Listed], policy: Literal["stop", "skip"]) -> tuple[str, ...]:
    """Every object name in the annotations of these images, sorted.

    Under "skip" a file that cannot be read is left to the split that it belongs to, which counts it.
    """
    faults = Faults(policy)
    names: set[str] = set()
    for image in listed:
        with faults.tolerated():
            names.update(item.texts.get("name", "") for item in read_annotation(image.annotation).objects)
    return tuple(sorted(names - {""}))


def _check(image: Listed, classes: tuple[str, ...], max_side: int | None, faults: Faults) -> Photo:
    """One image with its checked boxes, not decoded."""
    annotation = read_annotation(image.annotation)
    stem = image.folder / "JPEGImages" / image.name
    path = next((path for suffix in SUFFIXES if (path := Path(f"{stem}{suffix}")).is_file()), None)
    if path is None:
        raise DataError(f"{stem}.jpg: image is missing, and so is .jpeg or .png")
    file_size = annotation.size or header_size(path)
    found: list[tuple[list[float], int, bool]] = []
    for item in annotation.objects:
        with faults.tolerated():
            found.append(check_object(annotation, item, file_size, classes))
    target = Target.of(
        [box for box, _, _ in found], [label for _, label, _ in found], [hard for _, _, hard in found]
    )
    return photo(image.name, path, annotation.path, file_size, target, max_side)
