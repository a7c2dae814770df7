"""The samples of a loader: made from their key alone, packed for the way between processes, and unpacked."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from detectors.data import AUGMENTATIONS, Augmentation, Dataset
from detectors.errors import DataError
from detectors.images import resize
from detectors.types import Batch, Target

# Epoch and position in the data set: all that decides a training sample, next to the seed.
Key: TypeAlias = tuple[int, int]


def stable_seed(*parts: int) -> int:
    """A seed of 63 bits, the same on every machine, and unlike for unlike numbers."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@dataclass
class Sample:
    """An image at its final size, `[3, H, W]` uint8, and what goes with it into a `Batch`."""

    image: Tensor
    target: Target
    size: tuple[int, int]
    index: int


class TrainSamples:
    """Augmented samples by (epoch, index)."""

    def __init__(
        self, dataset: Dataset, size: tuple[int, int], augment: str, seed: int, difficult: bool
    ) -> None:
        """See `train_loader`."""
        self.dataset = dataset
        self.seed = seed
        self._difficult = difficult
        self._augment: Augmentation = AUGMENTATIONS[augment](size)

    def target(self, index: int) -> Target:
        """The boxes that are trained on."""
        target = self.dataset.target(index)
        return target.select(~target.crowd if self._difficult else ~(target.crowd | target.difficult))

    def __getitem__(self, key: Key) -> Sample | DataError:
        """The sample of (epoch, index), or what is wrong with its image."""
        epoch, index = key
        try:
            image = self.dataset.image(index)
        except DataError as error:
            return error
        with own_random_numbers(stable_seed(self.seed, epoch, index)):
            changed, target = self._augment(image, self.target(index))
        return Sample(changed, target, (image.shape[1], image.shape[2]), index)


@dataclass(frozen=True)
class EvalSamples:
    """Resized samples by index."""

    dataset: Dataset
    size: tuple[int, int]

    def __getitem__(self, index: int) -> Sample | DataError:
        """The sample, or what is wrong with its image."""
        try:
            image = self.dataset.image(index)
        except DataError as error:
            return error
        small = resize(image, self.size)
        return Sample(small, self.dataset.target(index), (image.shape[1], image.shape[2]), index)


@contextmanager
def own_random_numbers(seed: int) -> Iterator[None]:
    """Runs the block on a freshly seeded CPU generator and one thread, and puts back what was before."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would seed the accelerators of the training process as well.
        torch.default_generator.manual_seed(seed)
        # A worker has one thread, and the sums inside an augmentation depend on how many share the work.
        if threads != 1:
            torch.set_num_threads(1)
        try:
            yield
        finally:
            if threads != 1:
                torch.set_num_threads(threads)


@dataclass
class Packed:
    """A batch on its way between processes: few large tensors, for each one costs an open file."""

    images: Tensor
    boxes: Tensor
    labels: Tensor
    difficult: Tensor
    crowd: Tensor
    counts: list[int]
    sizes: list[tuple[int, int]]
    indices: list[int]


def collate(samples: list[Sample | DataError]) -> Packed | str:
    """The batch, with images still in uint8, a quarter of float32; or the first error, as its message.

    An error that is raised in a worker would arrive with the worker's traceback as its message.
    """
    sound: list[Sample] = []
    for sample in samples:
        if isinstance(sample, DataError):
            return str(sample)
        sound.append(sample)
    targets = [sample.target for sample in sound]
    return Packed(
        torch.stack([sample.image.contiguous() for sample in sound]),
        torch.cat([target.boxes for target in targets]),
        torch.cat([target.labels for target in targets]),
        torch.cat([target.difficult for target in targets]),
        torch.cat([target.crowd for target in targets]),
        [len(target.labels) for target in targets],
        [sample.size for sample in sound],
        [sample.index for sample in sound],
    )


def unpack(packed: Packed | str) -> Batch:
    """The batch as models take it, images float32 in 0..1. Raises the DataError that came in its place."""
    if isinstance(packed, str):
        raise DataError(packed)
    parts = (t.split(packed.counts) for t in (packed.boxes, packed.labels, packed.difficult, packed.crowd))
    targets = [Target(*fields) for fields in zip(*parts, strict=True)]
    return Batch(packed.images.float().div_(255), targets, packed.sizes, packed.indices)
