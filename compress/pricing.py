"""The cost of a network as a function of its groups' widths, and what each width of one would change."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.cost import Cost, Layer, cost_of_layers
from compress.groups import Graph, Group

# The cost of a layer at other widths: (layer, inputs, outputs), two int64 arrays [K], to K numbers. Whatever
# can be said of single layers is a price, a table of latencies too.
Price = Callable[[Layer, Any, Any], Any]

PRICES: Mapping[str, Price] = {
    "macs": lambda layer, inputs, outputs: layer.cost(inputs, outputs).macs,
    "params": lambda layer, inputs, outputs: layer.cost(inputs, outputs).params,
}

# Rows of prices that are remembered: a search comes back to the same widths again and again.
_REMEMBERED = 8192


@dataclass(frozen=True)
class Touch:
    """How a layer follows the width of a group.

    Attributes:
        layer: its place in the graph's layers.
        inputs: channels that it reads for each channel of the group.
        outputs: channels that it makes for each.
    """

    layer: int
    inputs: int
    outputs: int


def touches(graph: Graph, group: Group) -> tuple[Touch, ...]:
    """The layers that a group makes narrower, in the order of execution."""
    places = {layer.name: place for place, layer in enumerate(graph.layers)}
    each: dict[int, list[int]] = defaultdict(lambda: [0, 0])
    for member in group.members:
        each[places[member.layer]][member.side == "out"] += len(member.positions) // group.channels
    found = []
    for place, (inputs, outputs) in sorted(each.items()):
        layer = graph.layers[place]
        if layer.by_group:  # groups go with all that they read, and only what they make is listed
            inputs = outputs * layer.inputs // layer.outputs
        found.append(Touch(place, inputs, outputs))
    return tuple(found)


def priced(graph: Graph, widths: Mapping[str, int]) -> Cost:
    """What the network will cost once the groups have these widths; groups left out stay as they are."""
    sizes = [[layer.inputs, layer.outputs] for layer in graph.layers]
    for group in graph.groups:
        removed = group.channels - widths.get(group.name, group.channels)
        for touch in touches(graph, group) if removed else ():
            sizes[touch.layer][0] -= removed * touch.inputs
            sizes[touch.layer][1] -= removed * touch.outputs
    pairs = zip(graph.layers, sizes, strict=True)
    return cost_of_layers(graph.layers, {layer.name: (inputs, outputs) for layer, (inputs, outputs) in pairs})


class Pricing:
    """A network at some widths of its groups: what it costs, and what other widths of one group would change.

    Only the layers that a group touches are priced, all its options at once. Costs are float64, in which
    whole numbers are exact up to 2^53 (9e15): the sums are those of `cost_of_layers`.

    Args:
        graph: of the network.
        options: widths that each group may have, ascending; it begins at the last. Groups left out stay as
            they are.
        prices: kind of cost -> price of a layer.

    Attributes:
        kinds: of cost, in the order of every array here.
        options: group -> its widths, `[K]` int64.
        places: group -> which of its options it has.
    """

    def __init__(
        self, graph: Graph, options: Mapping[str, Sequence[int]], prices: Mapping[str, Price] = PRICES
    ) -> None:
        self.kinds = tuple(prices)
        self.options = {name: np.array(widths, dtype=np.int64) for name, widths in options.items()}
        self.places = {name: len(widths) - 1 for name, widths in options.items()}
        self._layers, self._prices = graph.layers, tuple(prices.values())
        self._sizes = [[layer.inputs, layer.outputs] for layer in graph.layers]
        groups = [group for group in graph.groups if group.name in options]
        self._touches = {group.name: touches(graph, group) for group in groups}
        for group in groups:
            self._widen(group.name, options[group.name][-1] - group.channels)
        sized = list(zip(graph.layers, self._sizes, strict=True))
        costs = [[float(price(layer, *sizes)) for price in self._prices] for layer, sizes in sized]
        self._costs = np.array(costs)  # [layers, kinds], as they stand
        self._total: NDArray[np.float64] | None = None  # summed when asked for: most moves are not the last
        sharing: dict[int, list[str]] = defaultdict(list)
        for name, touched in self._touches.items():
            for touch in touched:
                sharing[touch.layer].append(name)
        # What may change when a group does: its own prices, and those of every group on the same layers.
        self._around = {
            name: dict.fromkeys([name, *(other for touch in touched for other in sharing[touch.layer])])
            for name, touched in self._touches.items()
        }
        self._row = lru_cache(_REMEMBERED)(self._priced)
        self._changes: dict[str, NDArray[np.float64]] = {}

    @property
    def total(self) -> NDArray[np.float64]:
        """`[kinds]`: the cost of the whole network as it stands."""
        if self._total is None:
            self._total = self._costs.sum(axis=0)
        return self._total

    def widths(self) -> dict[str, int]:
        """The width of each group as it stands."""
        return {name: int(self.options[name][place]) for name, place in self.places.items()}

    def around(self, name: str) -> Iterable[str]:
        """The groups whose changes depend on the width of this one, itself among them."""
        return self._around[name]

    def changes(self, name: str) -> NDArray[np.float64]:
        """`[kinds, K]`: what each option of a group would add to the cost, the others staying as they are."""
        if name not in self._changes:
            costs = reduce(np.add, self._rows(name))
            self._changes[name] = costs - costs[:, self.places[name], None]
        return self._changes[name]

    def move(self, name: str, place: int) -> None:
        """Gives a group another of its options."""
        if place == self.places[name]:
            return
        for touch, row in zip(self._touches[name], self._rows(name), strict=True):
            self._costs[touch.layer] = row[:, place]
        self._total = None
        self._widen(name, int(self.options[name][place] - self.options[name][self.places[name]]))
        self.places[name] = place
        for other in self._around[name]:
            self._changes.pop(other, None)

    def move_all(self, places: Mapping[str, int]) -> None:
        """Gives some groups other options."""
        for name, place in places.items():
            self.move(name, place)

    def _widen(self, name: str, more: int) -> None:
        for touch in self._touches[name]:
            self._sizes[touch.layer][0] += more * touch.inputs
            self._sizes[touch.layer][1] += more * touch.outputs

    def _rows(self, name: str) -> Iterator[NDArray[np.float64]]:
        """`[kinds, K]` for each layer that a group touches: its cost at each option, beside the rest."""
        width = int(self.options[name][self.places[name]])
        for number, touch in enumerate(self._touches[name]):
            inputs, outputs = self._sizes[touch.layer]
            yield self._row(name, number, inputs - touch.inputs * width, outputs - touch.outputs * width)

    def _priced(self, name: str, number: int, inputs: int, outputs: int) -> NDArray[np.float64]:
        """`[kinds, K]`: a layer at each option of a group, beside the channels that it has from others."""
        touch, options = self._touches[name][number], self.options[name]
        layer = self._layers[touch.layer]
        sizes = inputs + touch.inputs * options, outputs + touch.outputs * options
        costs = np.empty((len(self.kinds), len(options)))
        for kind, price in enumerate(self._prices):
            costs[kind] = price(layer, *sizes)
        return costs
