"""What operations that move data do to the channels: the same movement, done to their numbers."""

from torch import Tensor, nn

from compress.channels import Channels, Given
from compress.movement import aligned, along, fixed, joined, padded, parted, reshaped


def view(channels: Channels, given: Given, read: list[Tensor], made: list[Tensor]) -> list[Tensor]:
    """Another shape for the same data; also `squeeze` and `unsqueeze`."""
    numbers = channels.numbers(read[0])
    return [reshaped(numbers, read[0].shape, made[0].shape, channels.ties, channels.where())]


def permuted(channels: Channels, given: Given, read: list[Tensor], made: list[Tensor]) -> list[Tensor]:
    """Dimensions in another order."""
    layer = channels.owner(read[0], "weight")
    if given["op"] == "t" and layer is not None and isinstance(channels.modules[layer], nn.Linear):
        channels.transposes[made[0]] = layer
    numbers = channels.numbers(read[0])
    if given["op"] == "permute":
        return [numbers.permute(given["dims"])]
    return [numbers.t() if given["op"] == "t" else numbers.transpose(given["dim0"], given["dim1"])]


def expanded(channels: Channels, given: Given, read: list[Tensor], made: list[Tensor]) -> list[Tensor]:
    """Repeated without a copy along dimensions of size 1, or with one along any."""
    numbers = aligned(channels.numbers(read[0]), made[0].ndim)
    if given["op"] == "repeat":
        numbers = numbers.repeat(
            [n if s > 1 else 1 for n, s in zip(given["repeats"], numbers.shape, strict=True)]
        )
    return [numbers]


def sliced(channels: Channels, given: Given, read: list[Tensor], made: list[Tensor]) -> list[Tensor]:
    """Some places of one dimension; which of the channels these are after a cut, nobody can say."""
    numbers, dim = channels.numbers(read[0]), given.get("dim", 0) % read[0].ndim
    if numbers.shape[dim] > 1 and (len(made) > 1 or made[0].shape != read[0].shape):
        channels.ties.keep(numbers, f"is sliced{channels.where()} at fixed channels")
        return [fixed(tensor.ndim) for tensor in made]
    return [numbers if made[0].ndim == read[0].ndim else numbers.squeeze(dim)] * len(made)


def split(channels: Channels, given: Given, read: list[Tensor], made: list[Tensor]) -> list[Tensor]:
    """Pieces of one dimension."""
    dim = given.get("dim", 0) % read[0].ndim
    sizes = [tensor.shape[dim] for tensor in made]
    where = channels.where()
    return parted(channels.numbers(read[0]), sizes, dim, channels.ties, where)


def concatenated(channels: Channels, given: Given, read: list[Tensor], made: list[Tensor]) -> list[Tensor]:
    """Tensors behind each other along one dimension, which `stack` adds."""
    dim, parts, shapes = given.get("dim", 0) % made[0].ndim, [], []
    for tensor in read:
        # Of an empty list of maps, torch takes a row of no elements, whatever the shape of the others.
        if tensor.numel():
            numbers, shape = channels.numbers(tensor), list(tensor.shape)
            if given["op"] == "stack":
                numbers, shape = numbers.unsqueeze(dim), [*shape[:dim], 1, *shape[dim:]]
            parts.append(numbers)
            shapes.append(shape)
    return [joined(parts, shapes, dim)]


def padded_with_constant(
    channels: Channels, given: Given, read: list[Tensor], made: list[Tensor]
) -> list[Tensor]:
    """More places at both ends of some dimensions."""
    where = channels.where()
    return [padded(channels.numbers(read[0]), given["pad"], channels.ties, where)]


def flipped(channels: Channels, given: Given, read: list[Tensor], made: list[Tensor]) -> list[Tensor]:
    """Some dimensions backwards."""
    return [channels.numbers(read[0]).flip(given["dims"])]


def shuffled(channels: Channels, given: Given, read: list[Tensor], made: list[Tensor]) -> list[Tensor]:
    """Channel shuffle: the channels as `[groups, C / groups]`, transposed."""
    row, groups = channels.row(read[0], 1), given["groups"]
    channels.ties.note(row, f"is shuffled{channels.where()}")
    sets = channels.ties.tie_rows(row.reshape(groups, -1).t(), "is shuffled with what is fixed")
    return [along(sets.repeat_interleave(groups), made[0].ndim, 1)]


def pixels(channels: Channels, given: Given, read: list[Tensor], made: list[Tensor]) -> list[Tensor]:
    """Pixel shuffle makes one channel of r x r consecutive ones; unshuffle makes as many of one."""
    row = channels.row(read[0], 1)
    if given["op"] == "pixel_unshuffle":
        return [along(row.repeat_interleave(given["downscale_factor"] ** 2), made[0].ndim, 1)]
    blocks = row.reshape(-1, given["upscale_factor"] ** 2)
    return [along(channels.ties.tie_rows(blocks, "is shuffled with what is fixed"), made[0].ndim, 1)]
