"""Greedy column-subset selection on second moments."""

from collections.abc import Sequence

import torch
from torch import Tensor

# Of the mean variance of a channel: what the kept ones explain but for this much counts as explained.
RIDGE = 1e-4
# Once the kept channels explain all but this share, the order of the rest decides nothing.
ENOUGH = 1e-6


def subset_gains(readers: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """What each channel takes off the residual when it is chosen, greedily, the best first.

    Readers are given by the second moments of what they read, G, and of the gradients by it, S. For each the
    residual of a set K of kept channels is tr(S R), R = G - G[:, K] inv(G[K, K]) G[K, :]. Channel i takes off
    R[:, i]' S R[:, i] / R[i, i], summed over the readers.

    Returns:
        `[C]` float64, never negative, falling in the order of choice.
    """
    channels = len(readers[0][0])
    states = [_Residual(*reader) for reader in readers]
    gains = torch.zeros(channels, dtype=torch.float64)
    free = torch.ones(channels, dtype=torch.bool)
    whole = sum(state.total for state in states)
    last, explained = float("inf"), 0.0
    for step in range(channels):
        worth = torch.stack([state.worth() for state in states]).sum(0)
        if whole - explained <= ENOUGH * whole:
            # By what each would take off alone: none takes off more than the last one chosen.
            gains[free] = worth[free].clamp(max=last)
            break
        choice = int(worth.masked_fill(~free, -1.0).argmax())
        explained += float(worth[choice])
        # Greedy gains may rise when one channel makes another useful; the order of choice is what counts.
        last = min(last * (1 - 1e-9), float(worth[choice]))
        gains[choice] = last
        free[choice] = False
        if step < channels - 1:
            for state in states:
                state.keep(choice)
    return gains


class _Residual:
    """What the kept channels leave of one reader's moments, kept as G - F F' to need no copy of it."""

    def __init__(self, inputs: Tensor, slopes: Tensor) -> None:
        ridge = RIDGE * inputs.diagonal().mean().clamp(min=1e-300)
        self._inputs = inputs
        self._slopes = slopes
        self._buffer = torch.zeros_like(inputs)
        self._kept = 0
        self._variances = inputs.diagonal() + ridge
        self._ridge = ridge
        # The numerators R[:, i]' S R[:, i] for every i.
        self._squares = ((self._slopes @ self._inputs) * self._inputs).sum(0).clamp(min=0)
        self.total = float((self._slopes * self._inputs).sum())

    def worth(self) -> Tensor:
        """What each channel would take off."""
        return self._squares / self._variances.clamp(min=float(self._ridge))

    def keep(self, choice: int) -> None:
        """Takes a channel into the set."""
        factors = self._buffer[:, : self._kept]
        column = self._inputs[:, choice] - factors @ factors[choice]
        pressed = self._slopes @ column
        moved = self._inputs @ pressed - factors @ (factors.T @ pressed)
        pivot = self._variances[choice].clamp(min=float(self._ridge))
        share = column / pivot
        self._squares = self._squares - 2 * share * moved + share.square() * self._squares[choice]
        self._squares = self._squares.clamp(min=0)
        self._variances = self._variances - column * share
        self._buffer[:, self._kept] = column / pivot.sqrt()
        self._kept += 1
