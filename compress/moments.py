"""Second moments of what the consumers of a group read, and the sums that they are made of."""

from collections import Counter
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """Second moments of what one consumer reads of a group, over all images and positions.

    A consumer may read a channel several times: filters that a group norm ties are one channel, and maps may
    be pooled in two ways and then concatenated. All that is one vector a, of `M = K * C` numbers. A linear
    layer that reads a flattened map sees each image but once: there the positions of the map, of which each
    channel has one for each time that it is read, are samples of a vector of `M = C`, each with its own mean.

    Attributes:
        inputs: `[M, M]` float64, mean of `a a^T`, where a is what is read at one position.
        means: `[B, M]` float64, mean of a; B is 1, or K for a flattened map, a mean for each position.
        gradients: `[M, M]` float64, mean of `g g^T`, with g the gradient by a of what an image adds to the
            loss; zero where only a forward pass was made.
        maps: (height, width) of the maps read -> how many; empty for a linear layer.
    """

    inputs: Tensor
    means: Tensor
    gradients: Tensor
    maps: dict[tuple[int, ...], int]

    @property
    def covariances(self) -> Tensor:
        """`[M, M]` float64, of `a`, each position of a flattened map around its own mean."""
        return self.inputs - self.means.T @ self.means / len(self.means)


@dataclass
class Sums:
    """Sums over the positions seen so far of what is read at `places`, `[B, M]`."""

    places: Tensor
    inputs: Tensor
    means: Tensor
    gradients: Tensor
    count: int = 0
    maps: Counter[tuple[int, ...]] = field(default_factory=Counter)

    @classmethod
    def of(cls, places: Tensor, *, flattened: bool) -> "Sums":
        """Nothing seen so far.

        Args:
            places: `[K, C]`, where each channel is read.
            flattened: whether these are the positions of a flattened map.
        """
        places = places if flattened else places.reshape(1, -1)
        square = torch.zeros(places.shape[1], places.shape[1], dtype=torch.float64)
        return cls(places, square, torch.zeros(places.shape, dtype=torch.float64), square.clone())

    def add(self, read: Tensor, gradient: Tensor | None) -> None:
        """`[images, ..., inputs]` of one pass, and the gradient by it."""
        self.maps[tuple(read.shape[1:-1])] += len(read)
        for number, where in enumerate(self.places.to(read.device)):
            inputs = _positions(read, where)
            self.inputs += _squares(inputs)
            self.means[number] += inputs.sum((0, 1)).double().cpu()
            self.count += inputs.shape[0] * inputs.shape[1]
            if gradient is not None:
                self.gradients += _squares(_positions(gradient, where))

    @property
    def moments(self) -> Moments:
        """Means over everything seen."""
        count = max(self.count, 1)
        means = self.means * len(self.means) / count
        return Moments(self.inputs / count, means, self.gradients / count, dict(self.maps))


def _positions(values: Tensor, where: Tensor) -> Tensor:
    """`[B, ..., C]` -> `[B, P, channels]` float32 of some channels; no copy where these are all in order."""
    if len(where) != values.shape[-1] or not torch.equal(where, torch.arange(len(where)).to(where)):
        values = values[..., where]
    return (values.flatten(1, -2) if values.ndim > 2 else values[:, None]).float()


def _squares(values: Tensor) -> Tensor:
    """`[B, P, C]` -> `[C, C]`, the sum of v v^T.

    A product for each image: as one matrix, maps that lie channel by channel would have to be copied.
    """
    return torch.stack([image.T @ image for image in values]).sum(0).double().cpu()
