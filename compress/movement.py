"""Where channels go when an operation moves data: the same movement, done to their numbers.

Numbers lie in a tensor of as many dimensions as the data, of size 1 along every dimension along which they do
not vary: `[1, C, 1, 1]` for a map `[B, C, H, W]`. FIXED is the number of all that is no channel.
"""

from collections.abc import Iterator, Sequence
from math import prod

import torch
from torch import Tensor

from compress.ties import FIXED, Ties

Shape = Sequence[int]


def fixed(dims: int) -> Tensor:
    """The numbers of a tensor that holds no channels."""
    return torch.full((1,) * dims, FIXED)


def compact(numbers: Tensor) -> Tensor:
    """The same numbers, of size 1 where they do not vary."""
    for dim in range(numbers.ndim):
        first = numbers.narrow(dim, 0, 1)
        if numbers.shape[dim] > 1 and bool((numbers == first).all()):
            numbers = first
    return numbers


def along(row: Tensor, dims: int, dim: int) -> Tensor:
    """The numbers of a tensor of so many dimensions with a row of channels along one of them."""
    return compact(row.reshape([-1 if d == dim else 1 for d in range(dims)]))


def aligned(numbers: Tensor, dims: int) -> Tensor:
    """With leading dimensions of size 1, as broadcasting adds them."""
    return numbers.reshape((1,) * (dims - numbers.ndim) + tuple(numbers.shape))


def widened(numbers: Tensor, shape: Shape, dims: Sequence[int]) -> Tensor:
    """Expanded to the size of the data along some dimensions."""
    return numbers.expand([shape[d] if d in dims else numbers.shape[d] for d in range(numbers.ndim)])


def reshaped(numbers: Tensor, old: Shape, new: Shape, ties: Ties, where: str) -> Tensor:
    """The numbers after a view.

    A dimension of channels that becomes several, as in a channel shuffle, keeps its form only if whole slices
    of it go: all but the largest of the new dimensions are tied.
    """
    dims, sizes, split = [], [], []
    for before, after in _runs(old, new):
        varies = any(numbers.shape[d] > 1 for d in before)
        wide = [d for d in after if new[d] > 1]
        if varies and len(wide) > 1:
            if sum(old[d] > 1 for d in before) > 1:
                ties.keep(numbers, f"is reshaped{where} across several dimensions")
                return fixed(len(new))
            split.append(wide)
        dims += before if varies else []
        sizes += [new[d] if varies else 1 for d in after]
    moved = compact(widened(numbers, old, dims).reshape(sizes))
    for wide in split:
        varying = [d for d in wide if moved.shape[d] > 1]
        if len(varying) > 1:
            ties.note(moved, f"is reshaped{where} to a form that does not follow the number of its channels")
            largest = max(varying, key=lambda d: (moved.shape[d], d))
            moved = tied_along(moved, [d for d in varying if d != largest], ties)
    return moved


def tied_along(numbers: Tensor, dims: Sequence[int], ties: Ties) -> Tensor:
    """Ties all channels that differ only in their place along some dimensions."""
    rest = [d for d in range(numbers.ndim) if d not in dims]
    rows = numbers.permute(*rest, *dims).reshape(prod(numbers.shape[d] for d in rest), -1)
    sets = ties.tie_rows(rows, "is tied to fixed channels")
    return sets.view([1 if d in dims else numbers.shape[d] for d in range(numbers.ndim)])


def joined(parts: Sequence[Tensor], shapes: Sequence[Shape], dim: int) -> Tensor:
    """The numbers of a concatenation."""
    wide = [widened(part, shape, [dim]) for part, shape in zip(parts, shapes, strict=True)]
    sizes = [max(part.shape[d] for part in wide) for d in range(wide[0].ndim)]
    spread = [
        part.expand([part.shape[d] if d == dim else sizes[d] for d in range(part.ndim)]) for part in wide
    ]
    return compact(torch.cat(spread, dim))


def parted(numbers: Tensor, sizes: Sequence[int], dim: int, ties: Ties, where: str) -> list[Tensor]:
    """The numbers of each piece of a split; equal pieces of channels are tied, so that they stay equal."""
    if numbers.shape[dim] == 1:
        return [numbers] * len(sizes)
    if len(set(sizes)) > 1:
        ties.keep(numbers, f"is split{where} into unequal parts")
        return [fixed(numbers.ndim)] * len(sizes)
    if len(sizes) == 1:
        return [numbers]
    ties.note(numbers, f"is split{where} into parts that do not follow the number of its channels")
    pieces = torch.stack(numbers.split(sizes[0], dim))
    return [compact(tied_along(pieces, [0], ties)[0])] * len(sizes)


def padded(numbers: Tensor, pads: Sequence[int], ties: Ties, where: str) -> Tensor:
    """The numbers after padding with a constant; `pads` counts from the last dimension, as torch has it."""
    for place in range(len(pads) // 2):
        dim, (before, after) = numbers.ndim - 1 - place, pads[2 * place : 2 * place + 2]
        if numbers.shape[dim] == 1 or not (before or after):
            continue
        if min(before, after) < 0:
            ties.keep(numbers, f"is sliced{where} at fixed channels")
            return fixed(numbers.ndim)
        sizes = [[n if d == dim else s for d, s in enumerate(numbers.shape)] for n in (before, after)]
        numbers = torch.cat([torch.full(sizes[0], FIXED), numbers, torch.full(sizes[1], FIXED)], dim)
    return numbers


def _runs(old: Shape, new: Shape) -> Iterator[tuple[list[int], list[int]]]:
    """The shortest runs of dimensions of both shapes that hold as many elements."""
    i = j = 0
    while i < len(old) or j < len(new):
        before, after = [i][: len(old) - i], [j][: len(new) - j]
        i, j = i + len(before), j + len(after)
        while (m := prod(old[d] for d in before)) != (n := prod(new[d] for d in after)):
            if m < n:
                before.append(i)
                i += 1
            else:
                after.append(j)
                j += 1
        yield before, after
