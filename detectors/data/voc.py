"""Folders laid out like PASCAL VOC: ImageSets/Main/SPLIT.txt, Annotations/ID.xml, JPEGImages/ID.jpg."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from detectors.data import DATASETS, Split
from detectors.data.faults import Faults, advised
from detectors.data.voc_xml import check_object, read_annotation
from detectors.errors import ConfigError, DataError
from detectors.images import SUFFIXES, header_size, read_image, resize, shrunk_size
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


@dataclass(frozen=True)
class Sample:
    """An image with its checked boxes; sizes are (height, width) of the file and of what `image` returns."""

    name: str
    path: Path
    annotation: Path
    file_size: tuple[int, int]
    size: tuple[int, int]
    target: Target


@dataclass
class VocDataset:
    """A VOC-like data set whose annotations were all read and checked; images are read on demand, or kept."""

    classes: tuple[str, ...]
    samples: list[Sample]
    kept: list[Tensor] | None
    skipped: list[str]

    def __len__(self) -> int:
        """The number of images."""
        return len(self.samples)

    def image(self, index: int) -> Tensor:
        """The image, uint8 `[3, H, W]` RGB. Raises DataError if it is broken or not of the annotated size."""
        if self.kept is not None:
            return self.kept[index]
        with advised():
            return _decode(self.samples[index])

    def target(self, index: int) -> Target:
        """The boxes, in pixels of what `image(index)` returns."""
        return self.samples[index].target

    def name(self, index: int) -> str:
        """The id of the image: its file name without the suffix."""
        return self.samples[index].name


@DATASETS.register("voc")
def voc(config: DataConfig, split: Split, classes: tuple[str, ...] | None = None) -> VocDataset:
    """Folders laid out like PASCAL VOC, below data.root; years as in data.train=[VOC2007/trainval]."""
    listed = list_images(config.root, config.train if split == "train" else config.test)
    known = tuple(config.classes or classes or ())
    # Both splits are searched, so that training and scoring arrive at the same list.
    searched = [] if known else list_images(config.root, config.train) + list_images(config.root, config.test)
    if config.max_side is not None and config.max_side < 1:
        raise ConfigError(f"data.max_side={config.max_side} must be at least 1 pixel, or null")
    faults = Faults(config.on_error)
    with advised():
        known = known or find_classes(dict.fromkeys(searched), config.on_error)
        samples, cached = _load(listed, known, config, faults)
    if not samples:
        raise DataError(
            f"{config.root}: none of the {len(listed)} images is sound, the first: {faults.lines[0]}"
        )
    return VocDataset(known, samples, cached, faults.lines)


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


def _load(
    listed: Sequence[Listed], classes: tuple[str, ...], config: DataConfig, faults: Faults
) -> tuple[list[Sample], list[Tensor] | None]:
    """The sound samples, and their images if they are to be kept.

    Images are kept before any loader worker is forked, so that the workers share the pages.
    """
    keep = config.cache == "ram"
    # Under "skip" every image is decoded once: whether one is readable must be known before training starts.
    decode = keep or faults.skip
    samples: list[Sample] = []
    cached: list[Tensor] = []
    for image in tqdm(listed, "reading images", disable=None if decode else True):
        with faults.tolerated():
            sample = _check(image, classes, config.max_side, faults)
            pixels = _decode(sample) if decode else None
            samples.append(sample)
            if keep and pixels is not None:
                cached.append(pixels)
    return samples, cached if keep else None


def _check(image: Listed, classes: tuple[str, ...], max_side: int | None, faults: Faults) -> Sample:
    """One image with its checked boxes, not decoded."""
    annotation = read_annotation(image.annotation)
    stem = image.folder / "JPEGImages" / image.name
    path = next((path for suffix in SUFFIXES if (path := Path(f"{stem}{suffix}")).is_file()), None)
    if path is None:
        raise DataError(f"{stem}.jpg: image is missing, and so is .jpeg or .png")
    file_size = annotation.size or header_size(path)
    size = shrunk_size(file_size, max_side)
    found: list[tuple[list[float], int, bool]] = []
    for item in annotation.objects:
        with faults.tolerated():
            found.append(check_object(annotation, item, file_size, classes))
    target = Target.of(
        [box for box, _, _ in found], [label for _, label, _ in found], [hard for _, _, hard in found]
    )
    scale = torch.tensor([size[1] / file_size[1], size[0] / file_size[0]]).repeat(2)
    target = Target(target.boxes * scale, target.labels, target.difficult, target.crowd)
    return Sample(image.name, path, annotation.path, file_size, size, target)


def _decode(sample: Sample) -> Tensor:
    image = read_image(sample.path)
    height, width = image.shape[1:]
    if (height, width) != sample.file_size:
        annotated = f"{sample.file_size[1]} x {sample.file_size[0]}"
        raise DataError(
            f"{sample.path}: image has {width} x {height} pixels, but {sample.annotation} says {annotated}"
        )
    return image if sample.size == sample.file_size else resize(image, sample.size)
