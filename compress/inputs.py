"""What a network is called with and what it returns, and copies that share or replace its tensors."""

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from detectors.errors import PlanError

T = TypeVar("T")

# One tensor, or several by place or by keyword.
Inputs: TypeAlias = Tensor | tuple[Tensor, ...] | dict[str, Tensor]


def call(model: nn.Module, inputs: Inputs) -> Any:
    """`model(x)`, `model(x, y)` or `model(x=x, y=y)`, by the kind of the inputs."""
    if isinstance(inputs, tuple):
        return model(*inputs)
    return model(**inputs) if isinstance(inputs, dict) else model(inputs)


def read_by(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """What a convolution or linear layer is given, by place or by keyword."""
    found: Tensor = args[0] if args else kwargs["input"]
    return found


def check_inputs(inputs: Any) -> None:
    """Raises PlanError for example inputs that are not of that form."""
    parts = inputs if isinstance(inputs, tuple) else inputs.values() if isinstance(inputs, dict) else [inputs]
    wrong = [type(part).__name__ for part in parts if not isinstance(part, Tensor)]
    if wrong or not parts:
        raise PlanError(
            f"inputs: {wrong[0] if wrong else 'nothing'} stands where a tensor must; give what the network "
            "takes: a tensor, such as torch.zeros(1, 3, 224, 224), or a tuple or dict of tensors"
        )


def changed(inputs: Inputs, change: Callable[[Tensor], Tensor]) -> Inputs:
    """Inputs of the same form with every tensor replaced."""
    if isinstance(inputs, tuple):
        return tuple(change(tensor) for tensor in inputs)
    if isinstance(inputs, dict):
        return {name: change(tensor) for name, tensor in inputs.items()}
    return change(inputs)


def on_meta(tensor: Tensor) -> Tensor:
    """A tensor of that shape and type without data."""
    return torch.empty_like(tensor, device="meta")


def with_shapes(run: Callable[[nn.Module, Inputs], T], model: nn.Module, inputs: Inputs) -> T:
    """What `run` gives for a copy of a network without data, where only shapes count.

    A network that cannot run so, because it looks at values or holds tensors that are neither parameters nor
    buffers, is run with its data.
    """
    try:
        return run(copied(model, on_meta), changed(inputs, on_meta))
    except Exception:  # if the network itself is at fault, the next line says so
        return run(copied(model, torch.clone), inputs)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors in a nesting of lists, tuples, dicts and dataclasses, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)
    elif is_dataclass(value):
        for item in fields(value):
            yield from tensors_in(getattr(value, item.name))


def copied(model: nn.Module, change: Callable[[Tensor], Tensor]) -> nn.Module:
    """A copy of a network whose parameters and buffers are what `change` makes of them.

    No tensor is copied on the way, and parameters that two layers share stay shared: `deepcopy(model).to()`
    copies them all first, and parts them. Tensors that a forward pass has left in attributes, such as the
    weight that `torch.nn.utils.weight_norm` computes, are no parameters of the copy either.
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = change(value.detach())
            elif type(value) in (dict, OrderedDict) and not value:
                memo[id(value)] = type(value)()  # a dozen for each module; `deepcopy` takes long over each
    for parameter in model.parameters():
        fresh = change(parameter.detach())
        memo[id(parameter)] = nn.Parameter(fresh, requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = change(buffer)
    return copy.deepcopy(model, memo)
