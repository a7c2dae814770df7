"""The channel counts of a network as plain data, and a network resized to such counts."""

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from detectors.errors import CheckpointError

Geometry = dict[str, dict[str, int]]

TRANSPOSED = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
CONVOLUTIONS = nn.Conv1d | nn.Conv2d | nn.Conv3d | TRANSPOSED
# Those with a row of parameters or statistics for each channel, and no other state that depends on them.
BATCH_NORMS = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm
NORMS = BATCH_NORMS | nn.InstanceNorm1d | nn.InstanceNorm2d | nn.InstanceNorm3d


@runtime_checkable
class Resizable(Protocol):
    """A layer of our own with one weight for each channel, such as L2Norm."""

    channels: int

    def resize(self, channels: int) -> None:
        """Gives it fresh, unset parameters for that many channels."""
        ...


def geometry_of(model: nn.Module) -> Geometry:
    """Name -> channel counts of every layer that has some; what `apply_geometry` takes."""
    shapes = ((name, _shape(module)) for name, module in model.named_modules())
    return {name: shape for name, shape in shapes if shape is not None}


def resized(full: Geometry, slim: Geometry) -> Geometry:
    """The entries of `slim` that differ from `full`: all that a slim file has to remember."""
    return {name: shape for name, shape in slim.items() if full.get(name) != shape}


def apply_geometry(model: nn.Module, geometry: Geometry) -> None:
    """Resizes the named layers in place; their parameters are new and unset until a state dict is loaded.

    Raises:
        CheckpointError: a name that the model lacks, or counts that its kind of layer cannot take.
    """
    for name, shape in geometry.items():
        try:
            module = model.get_submodule(name)
        except AttributeError:
            raise CheckpointError(
                f"the file resizes the layer {name!r}, which this detector does not have"
            ) from None
        own = _shape(module)
        if own == shape:
            continue
        if own is None or set(own) != set(shape):
            raise CheckpointError(
                f"the file resizes {name!r} by {shape}, but here that is a {type(module).__name__}"
            )
        counts = all(type(count) is int and count >= 1 for count in shape.values())
        groups = shape.get("groups", 1)
        if not counts or any(count % groups for count in shape.values()):
            raise CheckpointError(f"the file resizes {name!r} to {shape}, which no layer can have")
        _resize(module, shape)


def _shape(module: Any) -> dict[str, int] | None:
    match module:
        case _ if isinstance(module, CONVOLUTIONS):
            return {"in": module.in_channels, "out": module.out_channels, "groups": module.groups}
        case nn.Linear():
            return {"in": module.in_features, "out": module.out_features}
        case _ if isinstance(module, NORMS):
            return {"channels": module.num_features}
        case nn.PReLU():
            return {"channels": module.num_parameters}
        case nn.GroupNorm():
            return {"channels": module.num_channels, "groups": module.num_groups}
        case Resizable() if isinstance(module.channels, int):
            return {"channels": module.channels}
    return None


def _resize(module: Any, shape: dict[str, int]) -> None:
    match module:
        case _ if isinstance(module, CONVOLUTIONS):
            module.in_channels, module.out_channels, module.groups = (
                shape["in"],
                shape["out"],
                shape["groups"],
            )
            first, second = shape["out"], shape["in"]
            if isinstance(module, TRANSPOSED):
                first, second = second, first
            module.weight = _unset(module.weight, (first, second // shape["groups"], *module.kernel_size))
            module.bias = _unset(module.bias, (shape["out"],))
        case nn.Linear():
            module.in_features, module.out_features = shape["in"], shape["out"]
            module.weight = _unset(module.weight, (shape["out"], shape["in"]))
            module.bias = _unset(module.bias, (shape["out"],))
        case _ if isinstance(module, NORMS):
            module.num_features = shape["channels"]
            for name in ("weight", "bias", "running_mean", "running_var"):
                setattr(module, name, _unset(getattr(module, name), (shape["channels"],)))
        case nn.PReLU():
            module.num_parameters = shape["channels"]
            module.weight = _unset(module.weight, (shape["channels"],))
        case nn.GroupNorm():
            module.num_channels, module.num_groups = shape["channels"], shape["groups"]
            module.weight = _unset(module.weight, (shape["channels"],))
            module.bias = _unset(module.bias, (shape["channels"],))
        case Resizable():
            module.resize(shape["channels"])


def _unset(old: Tensor | None, shape: tuple[int, ...]) -> Any:
    """A parameter or buffer like the old one, of another shape."""
    if old is None:
        return None
    fresh = torch.empty(shape, dtype=old.dtype, device=old.device)
    return nn.Parameter(fresh, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else fresh
