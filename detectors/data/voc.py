"""Folders laid out like PASCAL VOC: ImageSets/Main/SPLIT.txt, Annotations/ID.xml, JPEGImages/ID.jpg."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from detectors.data import DATASETS, Split
from detectors.data.faults import ADVICE, Faults
from detectors.data.image_files import SUFFIXES, header_size, read_all, read_image, resize, shrunk_size
from detectors.data.voc_xml import VocAnnotation, check_object, read_annotation
from detectors.errors import ConfigError, DataError
from detectors.settings import DataConfig
from detectors.types import Target

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
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
    file_size: tuple[int, int]
    size: tuple[int, int]
    target: Target


class VocDataset:
    """A VOC-like data set, its annotations all read and checked."""

    def __init__(self, samples: list[Sample], classes: tuple[str, ...], cache: bool, faults: Faults) -> None:
        self.classes = classes
        self.skipped = faults.lines
        self._samples = samples
        self._cached: list[Tensor] = []
        if faults.skip:
            self._samples = []
            for image, sample in zip(read_all(_Tolerant(samples, faults), len(samples)), samples, strict=True):
                if image.numel():
                    self._samples.append(sample)
                    self._cached.extend([image] if cache else [])
        elif cache:
            self._cached = read_all(self._read, len(samples))

    def __len__(self) -> int:
        """The number of images."""
        return len(self._samples)

    def image(self, index: int) -> Tensor:
        """The image, uint8 `[3, H, W]` RGB. Raises DataError if it is broken or not of the annotated size."""
        return self._cached[index] if self._cached else self._read(index)

    def target(self, index: int) -> Target:
        """The boxes, in pixels of what `image(index)` returns."""
        return self._samples[index].target

    def name(self, index: int) -> str:
        """The id of the image: its file name without the suffix."""
        return self._samples[index].name

    def _read(self, index: int) -> Tensor:
        try:
            return _read(self._samples[index])
        except DataError as fault:
            raise DataError(f"{fault}. {ADVICE}") from None
