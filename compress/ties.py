"""Channels by number, which of them go only together, and which cannot go at all."""

from collections.abc import Iterable

import torch
from torch import Tensor

# The number of all that is no channel of a layer: the network's input, constants, maps of one channel.
FIXED = 0


class Ties:
    """Disjoint sets of channels: those of one set are cut together or not at all."""

    def __init__(self) -> None:
        self._parents = [FIXED]
        self._reasons: dict[int, str] = {}
        self._notes: list[tuple[int, str]] = []

    def fresh(self, count: int) -> Tensor:
        """`[count]` int64, numbers of new channels, each in a set of its own."""
        first = len(self._parents)
        self._parents.extend(range(first, first + count))
        return torch.arange(first, first + count)

    def tie(self, one: Tensor, other: Tensor) -> None:
        """Joins the sets of each pair at the same place; no number may be FIXED."""
        different = one != other
        pairs = zip(one[different].tolist(), other[different].tolist(), strict=True)
        for first, second in pairs:
            first, second = sorted((self._root(first), self._root(second)))
            self._parents[second] = first

    def tie_rows(self, rows: Tensor, reason: str) -> Tensor:
        """Joins each row of `[N, K]` into one set, kept if it holds a FIXED one; returns `[N]`, the sets."""
        blocked = (rows == FIXED).any(dim=1)
        self.keep(rows[blocked], reason)
        free = rows[~blocked]
        self.tie(free[:, :1].expand_as(free).flatten(), free.flatten())
        return torch.where(blocked, FIXED, self.roots(rows[:, 0]))

    def keep(self, channels: Tensor, reason: str) -> None:
        """Says that channels cannot go, and why; the first reason of a set stands."""
        for channel in channels.unique().tolist():
            if channel != FIXED:
                self._reasons.setdefault(channel, reason)

    def note(self, channels: Tensor, text: str) -> None:
        """Remembers what the channels pass that is right only if the program follows their number."""
        self._notes += [(channel, text) for channel in channels.unique().tolist() if channel != FIXED]

    def roots(self, channels: Tensor) -> Tensor:
        """The set of each channel, as the number of one of its members; the same shape."""
        found = [self._root(channel) for channel in channels.flatten().tolist()]
        return torch.tensor(found, dtype=torch.int64).view(channels.shape)

    def kept(self) -> dict[int, str]:
        """Set -> why it cannot go."""
        return self._by_root(sorted(self._reasons.items()))

    def noted(self) -> dict[int, str]:
        """Set -> what its channels pass that is right only if the program follows their number."""
        return self._by_root(self._notes)

    def _by_root(self, said: Iterable[tuple[int, str]]) -> dict[int, str]:
        texts: dict[int, str] = {}
        for channel, text in said:
            texts.setdefault(self._root(channel), text)
        return texts

    def _root(self, channel: int) -> int:
        parents = self._parents
        while parents[channel] != channel:
            parents[channel] = parents[parents[channel]]
            channel = parents[channel]
        return channel
