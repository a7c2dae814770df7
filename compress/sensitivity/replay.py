"""Runs a network that was changed from some layer on without repeating what comes before that layer.

A forward pass is a list of operations. Up to the first one that a changed layer begins, it is the same for
the whole network and the changed one on the same images, number by number: so these operations are answered
from what the whole network made. Only tensors that are read later are kept; the others are answered by
unwritten memory of the same shape, which nobody reads.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.weak import WeakTensorKeyDictionary

from compress.inputs import tensors_in

T = TypeVar("T")

_SMALL = 1 << 16  # bytes


@dataclass(frozen=True)
class _Made:
    """A tensor that an operation made, by its number in the pass."""

    number: int
    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


@dataclass(frozen=True)
class _Given:
    """A tensor that an operation was given and gives back, by its place among what it was given."""

    place: int


@dataclass(frozen=True)
class _Step:
    """One operation of a pass.

    Attributes:
        operation: what ran.
        result: what it gave, with `_Made` and `_Given` in the place of tensors.
        reads: numbers of earlier tensors that it was given.
        writes: those of them that it changed in place.
    """

    operation: Any
    result: Any
    reads: tuple[int, ...]
    writes: tuple[int, ...]


@dataclass(frozen=True)
class Frontier:
    """What the whole network had made when the first changed layer began, as far as it is read later.

    Attributes:
        step: the operation that comes next; those before it are not repeated.
        tensors: number in the pass -> tensor.
        private: numbers of those that are changed in place later: each run is given its own copy.
    """

    step: int = 0
    tensors: Mapping[int, Tensor] = field(default_factory=dict)
    private: frozenset[int] = frozenset()

    @property
    def bytes(self) -> int:
        """Memory that it holds."""
        storages = (tensor.untyped_storage() for tensor in self.tensors.values())
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


START = Frontier()


@dataclass(frozen=True)
class Trail:
    """What a forward pass did, operation by operation; made by `recorded`.

    Attributes:
        begins: layer -> the operation at which it first ran, or one of its parameters was first read.
        steps: the operations.
        results: numbers of the tensors that the pass returned.
        storages: number of a tensor -> where its memory lay.
        sizes: number of a tensor -> bytes of that memory.
    """

    begins: dict[str, int]
    steps: list[_Step]
    results: frozenset[int]
    storages: dict[int, int]
    sizes: dict[int, int]

    def first_step(self, layers: Iterable[str]) -> int:
        """The operation up to which nothing depends on some layers; 0 where nothing can be reused."""
        step = min((self.begins[layer] for layer in layers if layer in self.begins), default=0)
        kept, written = self._kept(step), self._written(step)
        held = [self.storages[number] for number in kept]
        # A copy of one view would not see what is written through another.
        shared = any(held.count(self.storages[number]) > 1 for number in kept & written)
        return 0 if shared else step

    def bytes_at(self, step: int) -> int:
        """Memory that a frontier at a step will hold."""
        return sum({self.storages[number]: self.sizes[number] for number in self._kept(step)}.values())

    def advanced(self, frontier: Frontier, step: int, run: Callable[[], Any]) -> Frontier:
        """The frontier at a later step.

        Args:
            frontier: an earlier one of the same pass, or `START`.
            step: from `first_step`, not before that of the frontier.
            run: the pass of the whole network on the same images; it is broken off at that step.
        """
        if step <= frontier.step:
            return frontier
        # The small ones too: a network may look at numbers behind torch's back, by `tolist()`.
        kept = self._kept(step) | {one for one in self._made(step) if self.sizes[one] <= _SMALL}
        walk = _Walk(self, frontier, stop=step, keep=kept)
        try:
            with walk:
                run()
        except _Stop:
            return Frontier(step, walk.found, frozenset(kept & self._written(step)))
        except _Strayed:
            return START
        raise AssertionError("a recorded pass is longer than the steps before any of its layers")

    def resumed(self, frontier: Frontier, run: Callable[[], T]) -> T:
        """What a pass of the changed network gives, with the steps before the frontier left out.

        A network that does other things than when it was recorded, by its own whim, is run in full.
        """
        if frontier.step == 0:
            return run()
        try:
            with _Walk(self, frontier):
                return run()
        except _Strayed:
            return run()

    def _kept(self, step: int) -> set[int]:
        """Tensors made before a step that are read at or after it, or returned."""
        return self._made(step) & (
            self.results | {number for one in self.steps[step:] for number in one.reads}
        )

    def _made(self, step: int) -> set[int]:
        return {leaf.number for one in self.steps[:step] for leaf in _leaves(one.result, _Made)}

    def _written(self, step: int) -> set[int]:
        return {number for one in self.steps[step:] for number in one.writes}


def recorded(network: nn.Module, run: Callable[[], T]) -> tuple[Trail, T]:
    """A forward pass with its trail.

    Args:
        network: whose layers, by their names in it, may be changed later.
        run: the pass; without gradients, and not in inference mode.
    """
    recorder = _Recorder(network)
    hooks = [
        module.register_forward_pre_hook(lambda _, __, name=name: recorder.begin(name))
        for name, module in network.named_modules(remove_duplicate=False)
    ]
    try:
        with recorder:
            result = run()
    finally:
        for hook in hooks:
            hook.remove()
    results = frozenset(recorder.numbers[t] for t in tensors_in(result) if t in recorder.numbers)
    return Trail(recorder.begins, recorder.steps, results, recorder.storages, recorder.sizes), result


class _Recorder(TorchDispatchMode):
    """Notes the operations that run."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.steps: list[_Step] = []
        self.begins: dict[str, int] = {}
        self.numbers: Any = WeakTensorKeyDictionary()
        self.storages: dict[int, int] = {}
        self.sizes: dict[int, int] = {}
        self._owners: dict[int, list[str]] = {}
        for name, module in network.named_modules(remove_duplicate=False):
            for tensor in [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
                self._owners.setdefault(tensor.untyped_storage().data_ptr(), []).append(name)

    def begin(self, layer: str) -> None:
        """Notes that a layer is called."""
        self.begins.setdefault(layer, len(self.steps))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs an operation and notes it."""
        kwargs = kwargs or {}
        given = list(tensors_in((args, kwargs)))
        for tensor in given:
            for layer in self._owners.get(tensor.untyped_storage().data_ptr(), ()):
                self.begin(layer)
        changed = [args[k] for k, one in enumerate(func._schema.arguments[: len(args)]) if _is_written(one)]
        changed += [
            kwargs[one.name] for one in func._schema.arguments if one.name in kwargs and _is_written(one)
        ]
        result = func(*args, **kwargs)
        reads, writes = (
            tuple(self.numbers[t] for t in tensors if t in self.numbers)
            for tensors in (given, tensors_in(changed))
        )
        self.steps.append(
            _Step(func, tree_map_only(Tensor, lambda t: self._noted(t, given), result), reads, writes)
        )
        return result

    def _noted(self, tensor: Tensor, given: list[Tensor]) -> _Made | _Given:
        place = next((k for k, one in enumerate(given) if one is tensor), None)
        if place is not None:
            return _Given(place)
        number = self.numbers.setdefault(tensor, len(self.storages))
        storage = tensor.untyped_storage()
        self.storages[number], self.sizes[number] = storage.data_ptr(), storage.nbytes()
        return _Made(number, tensor.shape, tensor.stride(), tensor.dtype, tensor.device)


class _Stop(Exception):
    """The step was reached at which a pass is broken off."""


class _Strayed(Exception):
    """A pass does other things than the recorded one."""


class _Walk(TorchDispatchMode):
    """Answers the steps before a frontier, and runs the others."""

    def __init__(
        self, trail: Trail, frontier: Frontier, *, stop: int | None = None, keep: Iterable[int] = ()
    ) -> None:
        super().__init__()
        self.found: dict[int, Tensor] = {}
        self._trail, self._frontier = trail, frontier
        self._stop, self._keep = stop, set(keep)
        self._at = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Answers an operation, or runs it."""
        kwargs, at, self._at = kwargs or {}, self._at, self._at + 1
        if at == self._stop:
            raise _Stop
        if at >= self._frontier.step and self._stop is None:
            return func(*args, **kwargs)
        step = self._trail.steps[at]
        if func is not step.operation:
            raise _Strayed
        if at >= self._frontier.step:
            result = func(*args, **kwargs)
            for tensor, made in zip(tensors_in(result), _leaves(step.result), strict=True):
                if isinstance(made, _Made):
                    self._find(made.number, tensor)
            return result
        given = list(tensors_in((args, kwargs)))
        if torch.Tag.nondeterministic_seeded in func.tags and not given:
            func(*args, **kwargs)  # what is drawn later is then what it would have been
        return tree_map_only((_Made, _Given), lambda leaf: self._answer(leaf, given), step.result)

    def _answer(self, leaf: Any, given: list[Tensor]) -> Tensor:
        if isinstance(leaf, _Given):
            return given[leaf.place]
        tensor = self._frontier.tensors.get(leaf.number)
        if tensor is None:
            return torch.empty_strided(leaf.shape, leaf.stride, dtype=leaf.dtype, device=leaf.device)
        # An operation that makes a view wants a tensor object that has never been given out.
        tensor = tensor.clone() if leaf.number in self._frontier.private else tensor.detach()
        self._find(leaf.number, tensor)
        return tensor

    def _find(self, number: int, tensor: Tensor) -> None:
        if number in self._keep:
            # Not the object itself: torch does other things with a tensor that somebody else holds too.
            self.found[number] = tensor.detach()


def _is_written(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


def _leaves(value: Any, kinds: Any = (_Made, _Given)) -> list[Any]:
    """The leaves of some kinds in order."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, kinds)]
