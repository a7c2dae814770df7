"""Which tensor holds which channels while a network runs, and whose weights these meet."""

from typing import Any

from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from compress.movement import fixed, tied_along
from compress.narrow import Side, channels_of, multiplies
from compress.ties import FIXED, Ties
from detectors.geometry import BATCH_NORMS
from detectors.modes import frozen_norms

# The arguments of an operation by name, and under "op" its own name.
Given = dict[str, Any]


class Channels:
    """The numbers of the channels in every tensor that a network computes.

    Args:
        network: whose layers make the channels; it gets hooks, and must be of use to nobody else.

    Attributes:
        modules: the layers by name.
        ties: which channels go together, and which cannot go.
        sides: (layer, side) -> `[channels]`, the numbers of what a layer makes or reads.
        transposes: the transposed weight of a linear layer -> the layer.
    """

    def __init__(self, network: nn.Module) -> None:
        self.modules = dict(network.named_modules())
        self._frozen = frozen_norms(network)
        self.ties = Ties()
        self.sides: dict[tuple[str, Side], Tensor] = {}
        self.transposes = WeakTensorKeyDictionary()
        self._numbers = WeakTensorKeyDictionary()
        self._makers = WeakTensorKeyDictionary()
        # Views and functions of parameters alone.
        self._derived = WeakTensorKeyDictionary()
        # What a layer that multiplies has made, before anything reads it.
        self._products = WeakTensorKeyDictionary()
        self._readers: dict[str, set[bool]] = {}
        self._owners: dict[int, list[tuple[str, str]]] = {}
        for name, module in self.modules.items():
            for key, tensor in [*module._parameters.items(), *module._buffers.items()]:
                if tensor is not None:
                    self._owners.setdefault(id(tensor), []).append((name, key))
        self._running: list[str] = []
        for name, module in self.modules.items():
            module.register_forward_pre_hook(lambda *_, name=name: self._running.append(name))
            module.register_forward_hook(lambda *_: self._leave())

    def numbers(self, tensor: Tensor) -> Tensor:
        """The channels that a tensor holds, as `compress.movement` writes them."""
        found: Tensor | None = self._numbers.get(tensor)
        return self._of_parameter(tensor) if found is None else found

    def makers(self, tensor: Tensor) -> frozenset[str]:
        """The layers with weights that a tensor comes from, with none between."""
        makers: frozenset[str] = self._makers.get(tensor, frozenset())
        return makers

    def assign(self, tensor: Tensor, numbers: Tensor, read: list[Tensor]) -> None:
        """Says what an operation that read some tensors has made."""
        self._numbers[tensor] = numbers
        owned = [self.owned(other) for other in read]
        layers = {layer for owners in owned for layer, _ in owners}
        inherited = {maker for other in read for maker in self.makers(other)}
        self._makers[tensor] = frozenset(layers or inherited)
        if all(owned):
            self._derived[tensor] = [owner for owners in owned for owner in owners]

    def product(self, tensor: Tensor, layer: str) -> None:
        """Says that a layer that multiplies has made a tensor."""
        self._products[tensor] = layer
        if layer not in self._running:
            # Neither its cost nor what it reads would be seen.
            self.keep_layer(layer, f"is not called as a module, only its weights are{self.where()}")

    def reads(self, tensor: Tensor, *, normalises: bool) -> None:
        """Says that something reads a tensor, and whether it normalises its channels."""
        layer = self._products.get(tensor)
        if layer is not None:
            module = self.modules[self._running[-1]] if self._running else None
            renewed = isinstance(module, BATCH_NORMS) and module not in self._frozen
            self._readers.setdefault(layer, set()).add(normalises and renewed)

    def normed(self) -> frozenset[str]:
        """The layers of which batch norms that are not frozen read what they make, and nothing else does."""
        return frozenset(layer for layer, kinds in self._readers.items() if kinds == {True})

    def side(self, layer: str, side: Side) -> Tensor:
        """The numbers of what a layer makes or reads."""
        if (layer, side) not in self.sides:
            count = channels_of(self.modules[layer], side)
            assert count is not None, f"{layer} has no side {side!r}"
            self.sides[layer, side] = self.ties.fresh(count)
        return self.sides[layer, side]

    def row(self, tensor: Tensor, dim: int) -> Tensor:
        """`[size]`, the channels along one dimension, each tied with all else that stands at its place."""
        numbers = self.numbers(tensor)
        dim %= numbers.ndim
        others = [d for d in range(numbers.ndim) if d != dim and numbers.shape[d] > 1]
        if others:
            numbers = tied_along(numbers, others, self.ties)
        return numbers.flatten().expand(tensor.shape[dim])

    def join(self, one: Tensor, other: Tensor, reason: str) -> None:
        """Ties two rows of channels, place by place; a channel that meets something fixed stays."""
        self.ties.keep(one[other == FIXED], reason)
        self.ties.keep(other[one == FIXED], reason)
        both = (one != FIXED) & (other != FIXED)
        self.ties.tie(one[both], other[both])

    def keep_layer(self, layer: str, reason: str) -> None:
        """Keeps all that a layer makes and reads."""
        sides: tuple[Side, ...] = ("out", "in")
        for side in sides:
            if channels_of(self.modules[layer], side) is not None:
                self.ties.keep(self.side(layer, side), reason)

    def unreached(self) -> list[str]:
        """The layers that multiply and have not made any channel."""
        return [
            layer
            for layer, module in self.modules.items()
            if multiplies(module) and (layer, "out") not in self.sides
        ]

    def where(self) -> str:
        """The layer that runs, for the end of a reason."""
        running = next((name for name in reversed(self._running) if name), "")
        return f" in {running} ({type(self.modules[running]).__name__})" if running else ""

    def owned(self, tensor: Tensor) -> list[tuple[str, str]]:
        """(layer, parameter or buffer) of all that a tensor is a function of, if it is one of these alone."""
        owners: list[tuple[str, str]] = self._owners.get(id(tensor)) or self._derived.get(tensor, [])
        return owners

    def owner(self, tensor: Tensor | None, key: str) -> str | None:
        """The one layer that has a tensor under that name; None where there is none, or several share it."""
        owners = self._owners.get(id(tensor), [])
        return owners[0][0] if len(owners) == 1 and owners[0][1] == key else None

    def meeting(self, tensor: Tensor) -> str:
        """What channels meet in a tensor that holds none, as a reason."""
        for layer, key in self.owned(tensor):
            module = self.modules[layer]
            if layer and not list(module.children()):
                return f"meets {layer}, a {type(module).__name__} that cannot be narrowed safely"
            kind = "bare parameter" if key in module._parameters else "buffer"
            return f"meets the {kind} {f'{layer}.{key}' if layer else key}"
        return f"meets a tensor of fixed width{self.where()}"

    def _of_parameter(self, tensor: Tensor) -> Tensor:
        """The channels of a layer's own row of weights; of all other tensors, none."""
        owners = self._owners.get(id(tensor), [])
        if len(owners) == 1 and tensor.ndim == 1 and len(tensor) > 1:
            layer = owners[0][0]
            if channels_of(self.modules[layer], "out") == len(tensor):
                return self.side(layer, "out")
        return fixed(tensor.ndim)

    def _leave(self) -> None:
        self._running.pop()
