"""What each operation does to the channels that it reads: one rule for each kind.

A rule is given the operation's arguments by name and the tensors among them, and returns the numbers of the
channels in each result.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from compress.channels import Channels, Given
from compress.movement import aligned, along, compact, fixed, tied_along
from compress.moves import (
    concatenated,
    expanded,
    flipped,
    padded_with_constant,
    permuted,
    pixels,
    shuffled,
    sliced,
    split,
    view,
)
from compress.narrow import by_group
from compress.ties import FIXED
from detectors.geometry import CONVOLUTIONS

Rule = Callable[[Channels, Given, list[Tensor], list[Tensor]], list[Tensor]]


def rule_of(name: str, operation: Any) -> Rule:
    """The rule of an operation of torch, by its name; one that is not known keeps all that it reads."""
    rule = RULES.get(name) or next((r for start, r in PREFIXES.items() if name.startswith(start)), None)
    return rule or (pointwise if torch.Tag.pointwise in operation.tags else unknown)


def unknown(channels: Channels, given: Given, read: list[Tensor], made: list[Tensor]) -> list[Tensor]:
    """Channels cannot be followed through this: they stay."""
    for tensor in read:
        reason = f"meets {given['op']}{channels.where()} through which channels cannot be followed"
        channels.ties.keep(channels.numbers(tensor), reason)
    return [fixed(tensor.ndim) for tensor in made]


def pointwise(channels: Channels, given: Given, read: list[Tensor], made: list[Tensor]) -> list[Tensor]:
    """Each place by itself: channels that meet are tied, and stay where they meet what is of fixed width."""
    dims = made[0].ndim
    first, *others = read
    numbers, shape = aligned(channels.numbers(first), dims), _aligned_shape(first, dims)
    for tensor in others:
        more, wide = aligned(channels.numbers(tensor), dims), _aligned_shape(tensor, dims)
        one, other = torch.broadcast_tensors(numbers, more)
        # A map of one channel, or a number, adapts to whatever width it meets.
        if any(numbers.shape[d] > 1 and wide[d] > 1 for d in range(dims)):
            channels.ties.keep(one[other == FIXED], channels.meeting(tensor))
        if any(more.shape[d] > 1 and shape[d] > 1 for d in range(dims)):
            channels.ties.keep(other[one == FIXED], channels.meeting(first))
        both = (one != FIXED) & (other != FIXED)
        channels.ties.tie(one[both], other[both])
        numbers = compact(torch.where(one == FIXED, other, one))
        shape = [max(sizes) for sizes in zip(shape, wide, strict=True)]
    return [numbers] * len(made)


def convolution(channels: Channels, given: Given, read: list[Tensor], made: list[Tensor]) -> list[Tensor]:
    """The layer reads one channel at each place of dim 1, and makes new ones."""
    x, weight, bias = given["input"], given["weight"], given.get("bias")
    layer = channels.owner(weight, "weight")
    own_bias = bias is None or channels.owner(bias, "bias") == layer
    if layer is None or not own_bias or not isinstance(channels.modules[layer], CONVOLUTIONS):
        return _odd_product(channels, given, read, made)
    return [_product(channels, layer, channels.row(x, 1), made[0], 1)]


def linear(channels: Channels, given: Given, read: list[Tensor], made: list[Tensor]) -> list[Tensor]:
    """A matrix product with the transposed weight of a linear layer."""
    bias = given["self"] if given["op"] == "addmm" else None
    x, weight = (given["mat1"], given["mat2"]) if given["op"] == "addmm" else (given["self"], given["mat2"])
    layer = channels.transposes.get(weight)
    if layer is None or (bias is not None and channels.owner(bias, "bias") != layer):
        return _odd_product(channels, given, read, made)
    return [_product(channels, layer, channels.row(x, 1), made[0], 1)]


def _product(channels: Channels, layer: str, row: Tensor, made: Tensor, dim: int) -> Tensor:
    channels.product(made, layer)
    reads, makes = channels.side(layer, "in"), channels.side(layer, "out")
    groups = getattr(channels.modules[layer], "groups", 1)
    fixed_reads = f"meets {layer}, whose groups read what is fixed"
    channels.join(row, reads, fixed_reads if groups > 1 else "reads what is fixed")
    if by_group(channels.modules[layer]):
        channels.ties.tie_rows(torch.cat([reads.view(groups, -1), makes.view(groups, -1)], 1), fixed_reads)
    elif groups > 1:
        for side in (reads, makes):
            channels.ties.tie_rows(side.view(groups, -1).t(), fixed_reads)
    if len(makes) == 1:
        channels.ties.keep(makes, "has one channel")
        return fixed(made.ndim)
    return makes.view([-1 if d == dim else 1 for d in range(made.ndim)])


def _odd_product(channels: Channels, given: Given, read: list[Tensor], made: list[Tensor]) -> list[Tensor]:
    """A product whose weight is no layer's own: shared, computed, or of a kind that cannot be narrowed."""
    for owners in (channels.owned(tensor) for tensor in read):
        layers = [name.partition(".parametrizations.")[0] for name, _ in owners]
        for layer in layers:
            reader = layer or "the network itself"
            others = ", ".join(other for other in layers if other != layer)
            fault = f"shares its weight with {others}" if others else "has a weight that is computed"
            channels.keep_layer(layer, fault)
            for tensor in read:
                channels.ties.keep(channels.numbers(tensor), f"is read by {reader}, which {fault}")
    return unknown(channels, given, read, made)


def batch_norm(channels: Channels, given: Given, read: list[Tensor], made: list[Tensor]) -> list[Tensor]:
    """Each channel by itself, with a row of weights or statistics."""
    row = channels.row(given["input"], 1)
    for tensor in read[1:]:
        channels.join(row, channels.numbers(tensor).expand(len(row)), channels.meeting(tensor))
    return [along(row, made[0].ndim, 1), *(fixed(tensor.ndim) for tensor in made[1:])]


def group_norm(channels: Channels, given: Given, read: list[Tensor], made: list[Tensor]) -> list[Tensor]:
    """Groups of channels are measured together: they go together."""
    row, layer = channels.row(given["input"], 1), channels.owner(given.get("weight"), "weight")
    if layer is None or not isinstance(channels.modules[layer], nn.GroupNorm):
        channels.ties.keep(row, f"meets a group norm without weights of its own{channels.where()}")
        return [fixed(tensor.ndim) for tensor in made]
    channels.ties.tie_rows(row.reshape(given["group"], -1), f"meets {layer}, whose groups hold what is fixed")
    return batch_norm(channels, given, read, made)


def layer_norm(channels: Channels, given: Given, read: list[Tensor], made: list[Tensor]) -> list[Tensor]:
    """The last dimensions are measured together, so that none of their channels can go."""
    numbers = channels.numbers(given["input"])
    if all(size == 1 for size in numbers.shape[-len(given["normalized_shape"]) :]):
        return [numbers, *(fixed(tensor.ndim) for tensor in made[1:])]
    what = f"meets layer norm{channels.where()} which measures all channels together"
    channels.ties.keep(numbers, what)
    return [fixed(tensor.ndim) for tensor in made]


def within_channels(channels: Channels, given: Given, read: list[Tensor], made: list[Tensor]) -> list[Tensor]:
    """Pooling, resizing and the like: dim 1 stays as it is, the dimensions behind it change."""
    numbers = channels.numbers(read[0])
    if any(size > 1 for d, size in enumerate(numbers.shape) if d != 1) or made[0].ndim != read[0].ndim:
        return unknown(channels, given, read, made)
    return [numbers] * len(made)


def reduction(channels: Channels, given: Given, read: list[Tensor], made: list[Tensor]) -> list[Tensor]:
    """Sums and means; over all channels only a sum, to which channels that are zero add nothing."""
    if "other" in given:  # the larger of two tensors
        return pointwise(channels, given, read, made)
    numbers, dims = channels.numbers(read[0]), _dims(given.get("dim"), read[0].ndim)
    varying = [d for d in dims if numbers.shape[d] > 1]
    if varying and any(size > 1 for d, size in enumerate(numbers.shape) if d not in dims):
        numbers = tied_along(numbers, varying, channels.ties)
    elif varying:
        what = f"is reduced over its channels by {given['op']}{channels.where()}"
        tell = channels.ties.note if given["op"] in ("sum", "linalg_vector_norm") else channels.ties.keep
        tell(numbers, what)
        numbers = fixed(read[0].ndim)
    if made[0].ndim < read[0].ndim:
        numbers = numbers.reshape([size for d, size in enumerate(numbers.shape) if d not in dims])
    return [numbers] * len(made)


def softmax(channels: Channels, given: Given, read: list[Tensor], made: list[Tensor]) -> list[Tensor]:
    """What weighs the entries of one dimension against each other."""
    numbers, dim = channels.numbers(read[0]), given.get("dim", -1)
    return unknown(channels, given, read, made) if numbers.shape[dim] > 1 else [numbers] * len(made)


def same(channels: Channels, given: Given, read: list[Tensor], made: list[Tensor]) -> list[Tensor]:
    """A copy, or a new tensor of the same form."""
    return [channels.numbers(read[0])] * len(made)


def new(channels: Channels, given: Given, read: list[Tensor], made: list[Tensor]) -> list[Tensor]:
    """A tensor that takes no more than its type from another."""
    return [fixed(tensor.ndim) for tensor in made]


def _aligned_shape(tensor: Tensor, dims: int) -> list[int]:
    return [1] * (dims - tensor.ndim) + list(tensor.shape)


def _dims(given: int | Sequence[int] | None, count: int) -> list[int]:
    if given is None or given == []:
        return list(range(count))
    return [d % count for d in ([given] if isinstance(given, int) else given)]


def _all(rule: Rule, names: str) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), rule)


RULES: dict[str, Rule] = {
    **_all(convolution, "convolution"),
    **_all(linear, "mm addmm"),
    **_all(group_norm, "native_group_norm"),
    **_all(layer_norm, "native_layer_norm"),
    **_all(pointwise, "hardswish _prelu_kernel gelu mish softplus celu selu"),
    **_all(same, "clone alias detach _to_copy lift_fresh contiguous native_dropout bernoulli"),
    **_all(same, "zeros_like ones_like full_like empty_like rand_like randn_like"),
    **_all(new, "new_zeros new_ones new_full new_empty new_empty_strided"),
    **_all(
        reduction,
        "sum mean amax amin max min var std prod argmax argmin",
    ),
    **_all(reduction, "linalg_vector_norm logsumexp any all"),
    **_all(softmax, "_softmax _log_softmax cumsum cumprod sort topk"),
    **_all(view, "view _unsafe_view reshape _reshape_alias squeeze unsqueeze"),
    **_all(permuted, "permute transpose t"),
    **_all(expanded, "expand repeat"),
    **_all(sliced, "slice select unbind"),
    **_all(split, "split split_with_sizes chunk"),
    **_all(concatenated, "cat stack"),
    **_all(padded_with_constant, "constant_pad_nd"),
    **_all(flipped, "flip"),
    **_all(shuffled, "channel_shuffle native_channel_shuffle"),
    **_all(pixels, "pixel_shuffle pixel_unshuffle"),
}

PREFIXES: dict[str, Rule] = {
    **_all(batch_norm, "native_batch_norm _native_batch_norm cudnn_batch_norm"),
    **_all(within_channels, "max_pool avg_pool adaptive_ _adaptive_ upsample_ _upsample_"),
    **_all(within_channels, "reflection_pad replication_pad grid_sampler roi_align roi_pool"),
}
