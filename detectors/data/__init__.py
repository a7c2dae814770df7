"""Data sets, augmentations and loaders: what turns a `DataConfig` into batches of images and targets."""

from collections.abc import Callable
from typing import Literal, Protocol, TypeAlias

from torch import Tensor

from detectors.registry import Registry
from detectors.settings import DataConfig
from detectors.types import Target

Split: TypeAlias = Literal["train", "test"]


class Dataset(Protocol):
    """Images with their labelled boxes, by position.

    Attributes:
        classes: class names; `Target.labels` are positions in this tuple.
        skipped: one line for each object or image left out under `data.on_error=skip`.
    """

    classes: tuple[str, ...]
    skipped: list[str]

    def __len__(self) -> int:
        """The number of images."""
        ...

    def image(self, index: int) -> Tensor:
        """The image, uint8 `[3, H, W]` RGB; not to be changed in place. Raises DataError if it is broken."""
        ...

    def target(self, index: int) -> Target:
        """The boxes, in pixels of what `image(index)` returns; found without decoding the image."""
        ...

    def name(self, index: int) -> str:
        """The id of the image, such as 000012."""
        ...


DatasetBuilder: TypeAlias = Callable[[DataConfig, Split, tuple[str, ...] | None], Dataset]
Augmentation: TypeAlias = Callable[[Tensor, Target], tuple[Tensor, Target]]

DATASETS: Registry[DatasetBuilder] = Registry("data set", "detectors.data")
AugmentationBuilder: TypeAlias = Callable[[tuple[int, int]], Augmentation]
AUGMENTATIONS: Registry[AugmentationBuilder] = Registry("augmentation", "detectors.data")


def outcomes(count: int) -> Callable[[AugmentationBuilder], AugmentationBuilder]:
    """Decorator of an augmentation that makes no more than so many different images of one.

    What was computed of them may then be kept; without the decorator there is no end to them.
    """

    def mark(builder: AugmentationBuilder) -> AugmentationBuilder:
        builder.outcomes = count  # type: ignore[attr-defined]
        return builder

    return mark


def outcomes_of(name: str) -> int | None:
    """How many different images an augmentation can make of one; None: no end of them."""
    return getattr(AUGMENTATIONS[name], "outcomes", None)


def build(config: DataConfig, split: Split, classes: tuple[str, ...] | None = None) -> Dataset:
    """The data set that a recipe names.

    Args:
        config: where the data lie.
        split: "train" for the splits of `config.train`, "test" for those of `config.test`.
        classes: class names of a checkpoint; used where `config.classes` is null, instead of a search.

    Raises:
        ConfigError: no such data set, or a setting out of its range.
        DataError: a file or box that is missing or broken.
    """
    return DATASETS[config.name](config, split, classes)
