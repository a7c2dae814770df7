"""Runs a slim network beside the masked one: the same channels, once removed and once set to zero."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from compress.groups import Group
from compress.inputs import Inputs, call, changed, copied, on_meta, tensors_in
from compress.narrow import Narrow, Side, channels_of, mask, multiplies
from detectors.geometry import CONVOLUTIONS, TRANSPOSED

Keep = Mapping[str, tuple[int, ...]]

# Slim and masked networks add the same numbers in another order: 3e-15 was seen in float64, 1e-6 in float32.
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4}

# Pixels: which channel goes where does not depend on the size of the maps, but the time does.
SMALL = 64


def zeroed(model: nn.Module, groups: Sequence[Group], keep: Keep) -> nn.Module:
    """A copy of a network in which every parameter slice that a cut would remove is zero.

    Zeroing the filters alone would not do: the shift of a batch norm would live on in the removed channels.
    The other parameters are shared with the network.
    """
    result = copied(model, lambda tensor: tensor)
    removed = removals(groups, keep)
    for layer in {layer for layer, _ in removed}:
        module = result.get_submodule(layer)
        for name, parameter in module.named_parameters(recurse=False):
            module._parameters[name] = nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
    for (layer, side), (places, _) in removed.items():
        mask(result.get_submodule(layer), side, places)
    return result


def narrowed(model: nn.Module, groups: Sequence[Group], keep: Keep) -> nn.Module:
    """A copy of a network without these slices; the other parameters are shared with the network."""
    result = copied(model, lambda tensor: tensor)
    for (layer, _), (places, narrow) in removals(groups, keep).items():
        narrow(result.get_submodule(layer), places)
    # torch-pruning makes new parameters, which would thaw frozen ones.
    for name, parameter in model.named_parameters():
        result.get_parameter(name).requires_grad_(parameter.requires_grad)
    return result


def removals(groups: Sequence[Group], keep: Keep) -> dict[tuple[str, Side], tuple[list[int], Narrow]]:
    """(layer, side) -> the places that go, over all groups that touch that side, and how to narrow it."""
    removed: dict[tuple[str, Side], tuple[list[int], Narrow]] = {}
    for group in groups:
        if group.name not in keep:
            continue
        gone = torch.ones(group.channels, dtype=torch.bool)
        gone[list(keep[group.name])] = False
        for member in group.members:
            places, _ = removed.setdefault((member.layer, member.side), ([], member.cut))
            places.extend(member.positions[gone[member.channels]].tolist())
    return {key: (sorted(set(places)), narrow) for key, (places, narrow) in removed.items()}


def difference(hidden: nn.Module, slim: nn.Module, inputs: Inputs) -> str | None:
    """What differs between the outputs of a masked and a slim network, in float64; None where nothing does.

    What the layers make that are as wide in both is compared too: noise may give no output at all, such as no
    detection above a threshold. A network that insists on float32 is compared in that, more loosely.

    Args:
        hidden: the masked network.
        slim: the narrow one.
        inputs: of the size that the networks take; a smaller one serves where the masked network accepts it.
    """
    watched = [
        name
        for name, module in hidden.named_modules()
        if multiplies(module) and channels_of(module, "out") == channels_of(slim.get_submodule(name), "out")
    ]
    for precision, tolerance in TOLERANCES.items():
        first, second = (copied(model, partial(_precise, precision)).eval() for model in (hidden, slim))
        sizes = list(_sizes(first, changed(inputs, partial(_precise, precision))))
        for sized, padded in sizes:
            example = changed(sized, partial(_noise, precision))
            try:
                wanted = _outputs(_with_padding(first) if padded else first, example, watched)
            except Exception:
                if precision is torch.float32 and sized is sizes[-1][0]:
                    raise
                continue
            try:
                got = _outputs(_with_padding(second) if padded else second, example, watched)
            except Exception as error:  # the network's own code may fail in any way once it is narrower
                return f"the slim network fails: {error}"
            return _apart(wanted, got, tolerance)
    raise AssertionError("the last size and precision returns or raises")


def unsound(model: nn.Module, groups: Sequence[Group], inputs: Inputs) -> list[Group]:
    """The groups whose cut does not give the masked network, found by trial.

    All are cut at once, at random; only where that fails are they tried in halves.
    """
    generator = torch.Generator().manual_seed(0)
    shaken = copied(model, lambda tensor: _shaken(tensor, generator))
    keep = {group.name: _some(group, generator) for group in groups}

    def holds(some: Sequence[Group]) -> bool:
        try:
            slim = narrowed(shaken, some, keep)
        except Exception:  # a `resize` of the user's that means something else may fail in any way
            return False
        return difference(zeroed(shaken, some, keep), slim, inputs) is None

    def sound(known: list[Group], more: list[Group]) -> list[Group]:
        if not more or holds(known + more):
            return known + more
        if len(more) == 1:
            return known
        half = len(more) // 2
        return sound(sound(known, more[:half]), more[half:])

    good = {group.name for group in sound([], list(groups))}
    return [group for group in groups if group.name not in good]


def _outputs(model: nn.Module, inputs: Inputs, watched: Sequence[str] = ()) -> list[Tensor]:
    """What a network returns, and behind that what some of its layers make."""
    made: list[Tensor] = []
    layers = [model.get_submodule(name) for name in watched]
    hooks = [
        layer.register_forward_hook(lambda _, __, output: made.append(output.clone())) for layer in layers
    ]
    try:
        with torch.no_grad():
            return [*tensors_in(call(model, inputs)), *made]
    finally:
        for hook in hooks:
            hook.remove()


class _Steps(TorchDispatchMode):
    """While active, notes the operations that run; how they move data in memory depends on sizes alone."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs an operation and notes it."""
        name = func._schema.name.split("::")[1]
        if name not in ("clone", "alias"):
            self.names.append("view" if "view" in name or "reshape" in name else name)
        return func(*args, **(kwargs or {}))


def _apart(wanted: list[Tensor], got: list[Tensor], tolerance: float) -> str | None:
    if len(wanted) != len(got):
        return f"{len(got)} outputs instead of {len(wanted)}"
    for place, (want, have) in enumerate(zip(wanted, got, strict=True)):
        if want.shape != have.shape:
            return f"output {place}: {list(have.shape)} instead of {list(want.shape)}"
        if want.is_floating_point() and want.numel():
            apart = float((have - want).abs().max() / want.abs().max().clamp(min=1e-300))
            if not apart <= tolerance:
                return f"output {place}: slim and masked networks differ by {apart:.1e}"
    return None


def _sizes(model: nn.Module, inputs: Inputs) -> Iterator[tuple[Inputs, bool]]:
    """Inputs to try, and whether convolutions are padded for them; the last are of full size.

    On a small image the maps of some networks vanish: padding changes their size and no channel. One on which
    a network does other things than on the full one shows nothing.
    """
    if isinstance(inputs, Tensor) and inputs.ndim == 4 and min(inputs.shape[2:]) > SMALL:
        shadow, small = copied(model, on_meta), inputs[..., :SMALL, :SMALL]
        for padded in (False, True):
            tried = _with_padding(shadow) if padded else shadow
            try:
                with _Steps() as full_steps:
                    wanted = _outputs(shadow, on_meta(inputs))
                with _Steps() as steps:
                    made = _outputs(tried, on_meta(small))
            except Exception:  # too small for its maps, made for one size, or in need of data
                continue
            alike = steps.names == full_steps.names and [t.ndim for t in made] == [t.ndim for t in wanted]
            if alike and all(tensor.numel() for tensor in made):
                yield small, padded
                break
    yield inputs, False


def _with_padding(model: nn.Module) -> nn.Module:
    """A copy whose convolutions are padded enough to keep the size of their maps, but for strides."""
    result = copied(model, lambda tensor: tensor)
    for module in result.modules():
        if not isinstance(module, CONVOLUTIONS) or isinstance(module, TRANSPOSED):
            continue
        if module.padding_mode == "zeros" and not isinstance(module.padding, str):
            sizes = zip(module.padding, module.kernel_size, module.dilation, strict=True)
            module.padding = tuple(max(pad, (gap * (size - 1) + 1) // 2) for pad, size, gap in sizes)
    return result


def _precise(precision: torch.dtype, tensor: Tensor) -> Tensor:
    return tensor.to(precision) if tensor.is_floating_point() else tensor


def _noise(precision: torch.dtype, tensor: Tensor) -> Tensor:
    """Random numbers of the same shape and device; whole numbers as they are."""
    if not tensor.is_floating_point():
        return tensor
    generator = torch.Generator().manual_seed(0)
    return torch.randn(tensor.shape, generator=generator, dtype=precision).to(tensor.device)


def _shaken(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """In float64; a constant, such as a fresh bias, would hide a wrong cut and becomes random."""
    if not tensor.is_floating_point():
        return tensor
    if tensor.is_meta or (tensor.numel() > 1 and bool((tensor == tensor.flatten()[0]).all())):
        device = "cpu" if tensor.is_meta else tensor.device
        return (torch.rand(tensor.shape, generator=generator, dtype=torch.float64) + 0.5).to(device)
    return tensor.double()


def _some(group: Group, generator: torch.Generator) -> tuple[int, ...]:
    """About half of the channels of a group, at random."""
    order = torch.randperm(group.channels, generator=generator).tolist()
    return tuple(sorted(order[: (group.channels + 1) // 2]))
