"""Image files with checked boxes, whatever the annotations look like: read on demand, or kept in memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from detectors.data.faults import Faults, advised
from detectors.errors import DataError
from detectors.images import read_image, resize, shrunk_size
from detectors.settings import DataConfig
from detectors.types import Target

Item = TypeVar("Item")


@dataclass(frozen=True)
class Photo:
    """An image with its checked boxes; sizes are (height, width) of the file and of what `image` returns."""

    name: str
    path: Path
    annotation: Path
    file_size: tuple[int, int]
    size: tuple[int, int]
    target: Target


@dataclass
class PhotoDataset:
    """Photos whose annotations were all read and checked."""

    classes: tuple[str, ...]
    photos: list[Photo]
    kept: list[Tensor] | None
    skipped: list[str]

    def __len__(self) -> int:
        """The number of images."""
        return len(self.photos)

    def image(self, index: int) -> Tensor:
        """The image, uint8 `[3, H, W]` RGB. Raises DataError if it is broken or not of the annotated size."""
        if self.kept is not None:
            return self.kept[index]
        with advised():
            return _decode(self.photos[index])

    def target(self, index: int) -> Target:
        """The boxes, in pixels of what `image(index)` returns."""
        return self.photos[index].target

    def name(self, index: int) -> str:
        """The id of the image."""
        return self.photos[index].name


def photo(
    name: str, path: Path, annotation: Path, file_size: tuple[int, int], target: Target, max_side: int | None
) -> Photo:
    """A photo shrunk to `max_side`, its boxes with it; `target` is in pixels of the file."""
    size = shrunk_size(file_size, max_side)
    scale = torch.tensor([size[1] / file_size[1], size[0] / file_size[0]]).repeat(2)
    target = Target(target.boxes * scale, target.labels, target.difficult, target.crowd)
    return Photo(name, path, annotation, file_size, size, target)


def load_photos(
    items: Sequence[Item],
    check: Callable[[Item], Photo],
    classes: tuple[str, ...],
    config: DataConfig,
    faults: Faults,
) -> PhotoDataset:
    """The data set of all sound photos; images are kept if the recipe says so.

    Images are kept before any loader worker is forked, so that the workers share the pages.

    Args:
        items: what the splits list.
        check: reads and checks one of them, without decoding its image.
        classes: class names.
        config: the recipe's data section.
        faults: takes in what is broken.

    Raises:
        DataError: a broken item under on_error=stop, or no sound one.
    """
    keep = config.cache == "ram"
    # Under "skip" every image is decoded once: whether one is readable must be known before training starts.
    decode = keep or faults.skip
    photos: list[Photo] = []
    kept: list[Tensor] = []
    with advised():
        for item in tqdm(items, "reading images", disable=None if decode else True):
            with faults.tolerated():
                found = check(item)
                pixels = _decode(found) if decode else None
                photos.append(found)
                if keep and pixels is not None:
                    kept.append(pixels)
    if not photos:
        raise DataError(
            f"{config.root}: none of the {len(items)} images is sound, the first: {faults.lines[0]}"
        )
    return PhotoDataset(classes, photos, kept if keep else None, faults.lines)


def _decode(found: Photo) -> Tensor:
    image = read_image(found.path)
    height, width = image.shape[1:]
    if (height, width) != found.file_size:
        annotated = f"{found.file_size[1]} x {found.file_size[0]}"
        raise DataError(
            f"{found.path}: image has {width} x {height} pixels, but {found.annotation} says {annotated}"
        )
    return image if found.size == found.file_size else resize(image, found.size)
