"""Batches for training and for scoring: the same ones, to the bit, for any number of workers."""

import math
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.data import DataLoader

from detectors.data import Dataset
from detectors.data.samples import EvalSamples, TrainSamples, collate, stable_seed, unpack
from detectors.errors import ConfigError, DataError
from detectors.types import Batch


class TrainLoader:
    """Training batches, epoch by epoch; made by `train_loader`.

    Attributes:
        steps: batches in an epoch, the same on every rank.
    """

    def __init__(self, samples: TrainSamples, *, batch: int, workers: int, rank: int, world: int) -> None:
        """See `train_loader`."""
        self.steps = math.ceil(len(samples.dataset) / batch)
        self._samples = samples
        self._batch = batch
        self._rank, self._world = rank, world
        self._plan = _Plan()
        self._loader = _loader(samples, self._plan, workers)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """The batches of one epoch from step `first_step` on, just as the whole epoch would give them.

        Images are float32 in 0..1 at the size of the loader; boxes are in pixels of these images. Of
        several ranks each gets its part of every batch; the last one is filled up from the start of the
        epoch's order until it can be shared out evenly, and until no rank has a single image where it has
        more of other batches: of one image a batch norm may not be able to tell a variance. One epoch at a
        time: asking for the next ends it.

        Raises:
            DataError: an image is broken.
        """
        if not 0 <= first_step <= self.steps:
            raise ValueError(f"first_step={first_step}, but an epoch has {self.steps} steps")
        count = len(self._samples.dataset)
        generator = torch.Generator().manual_seed(stable_seed(self._samples.seed, epoch))
        order = torch.randperm(count, generator=generator).tolist()
        order += [order[i % count] for i in range(self._short(count))]
        whole = [order[start : start + self._batch] for start in range(0, len(order), self._batch)]
        own = [[(epoch, index) for index in part[self._rank :: self._world]] for part in whole]
        self._plan.batches = own[first_step:]
        # iter() now, so that the workers begin, and with this plan, before the first batch is asked for.
        return map(unpack, iter(self._loader))

    def _short(self, count: int) -> int:
        """How many samples the last batch of an epoch lacks."""
        last = (count - 1) % self._batch + 1
        each = max(math.ceil(last / self._world), min(2, self._batch // self._world))
        return each * self._world - last


def train_loader(
    dataset: Dataset,
    *,
    size: tuple[int, int],
    batch: int,
    augment: str,
    seed: int,
    workers: int = 0,
    difficult: bool = False,
    rank: int = 0,
    world: int = 1,
) -> TrainLoader:
    """Shuffled, augmented batches.

    A sample is a function of (seed, epoch, index), the order of an epoch one of (seed, epoch): neither the
    number of workers nor a start inside an epoch changes a bit. The global random state is left as it is.

    Args:
        dataset: what to draw from.
        size: (height, width) of the images in pixels.
        batch: images in one step over all ranks.
        augment: a registered augmentation.
        seed: of order and augmentation.
        workers: processes that prepare images; 0: this one.
        difficult: train on boxes marked difficult too. Crowd boxes are never trained on.
        rank: of this process.
        world: number of processes.

    Raises:
        ConfigError: unknown augmentation, or a batch that cannot be shared out.
        DataError: no image has a box to train on.
    """
    if batch < 1 or batch % world:
        raise ConfigError(f"train.batch={batch} must be a positive multiple of the {world} processes")
    samples = TrainSamples(dataset, size, augment, seed, difficult)
    if not any(len(samples.target(index).labels) for index in range(len(dataset))):
        raise DataError(f"none of the {len(dataset)} training images has a box to train on. Check data.train")
    return TrainLoader(samples, batch=batch, workers=workers, rank=rank, world=world)


@dataclass(frozen=True)
class EvalLoader:
    """Batches for scoring, in order; made by `eval_loader`. May be run through any number of times."""

    samples: EvalSamples
    indices: Sequence[int]
    batch: int
    workers: int

    def __len__(self) -> int:
        """The number of batches on this rank."""
        return math.ceil(len(self.indices) / self.batch)

    def __iter__(self) -> Iterator[Batch]:
        """The batches. Raises DataError when an image is broken."""
        batches = [list(self.indices[i : i + self.batch]) for i in range(0, len(self.indices), self.batch)]
        return map(unpack, _loader(self.samples, _Plan(batches), self.workers))


def eval_loader(
    dataset: Dataset, *, size: tuple[int, int], batch: int, workers: int = 0, rank: int = 0, world: int = 1
) -> EvalLoader:
    """Resized images in order, with their targets in the pixels of the images that the data set gives.

    Rank r of w gets images r, r + w, r + 2w ...: every image goes to one rank.

    Args:
        dataset: what to score on.
        size: (height, width) of the images in pixels.
        batch: images in one batch of this rank.
        workers: processes that prepare images; 0: this one.
        rank: of this process.
        world: number of processes.
    """
    if batch < 1:
        raise ConfigError(f"eval.batch={batch} must be at least 1")
    return EvalLoader(EvalSamples(dataset, size), range(rank, len(dataset), world), batch, workers)


def class_counts(dataset: Dataset) -> dict[str, int]:
    """The number of boxes of each class, difficult ones included, in the order of the classes."""
    counts = torch.zeros(len(dataset.classes), dtype=torch.int64)
    for index in range(len(dataset)):
        counts += torch.bincount(dataset.target(index).labels, minlength=len(dataset.classes))
    return dict(zip(dataset.classes, counts.tolist(), strict=True))


@dataclass
class _Plan:
    """The keys of the coming batches; a loader with living workers asks for them anew in every epoch."""

    batches: list[list[Any]] = field(default_factory=list)

    def __iter__(self) -> Iterator[list[Any]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def _loader(samples: Any, plan: _Plan, workers: int) -> DataLoader:
    if workers < 0:
        raise ConfigError(f"data.workers={workers} must not be negative")
    with warnings.catch_warnings():
        # More workers than cores are the recipe's choice; the warning would come for every loader.
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        return _torch_loader(samples, plan, workers)


def _torch_loader(samples: Any, plan: _Plan, workers: int) -> DataLoader:
    return DataLoader(
        samples,
        batch_sampler=plan,
        num_workers=workers,
        collate_fn=collate,
        persistent_workers=workers > 0,
        worker_init_fn=_leave_group,
        # Given one of its own, or it would draw from the global generator.
        generator=torch.Generator(),
    )


def _leave_group(worker: int) -> None:
    """Ctrl-C and a `kill` of the group then reach the training process alone, which saves first."""
    os.setpgid(0, 0)
