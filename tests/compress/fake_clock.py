"""A stopwatch that knows how long everything takes, so that tests of plans by the clock measure no time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from compress.inputs import Inputs
from compress.latency.engines import Conditions, Stopwatch
from compress.latency.passes import Latency
from compress.latency.shapes import Shape, shapes_of


def stairs(shape: Shape) -> float:
    """Milliseconds in steps of 4 channels, as kernels have them, plus what every call takes."""
    pairs = -(-shape.inputs // 4) * -(-shape.outputs // 4) / shape.groups
    positions = 1
    for side in shape.size:
        positions *= side
    return 0.001 + pairs * positions / 1e4


@dataclass(frozen=True)
class FakeStopwatch(Stopwatch):
    """Layers take what `layer_ms` says; networks `whole_ms` of the sum over their layers.

    Attributes:
        layer_ms: of a shape.
        whole_ms: of a network's sum: by default a third more and a tenth of a millisecond.
        asked: the shapes that were measured, in order.
        timed: how many networks were measured in each call.
    """

    layer_ms: Callable[[Shape], float] = stairs
    whole_ms: Callable[[float], float] = lambda total: 1.3 * total + 0.1
    asked: list[Shape] = field(default_factory=list)
    timed: list[int] = field(default_factory=list)

    def networks(self, networks: Sequence[nn.Module], inputs: Inputs) -> list[Latency]:
        self.timed.append(len(networks))
        found = [self.whole_ms(self.total(network, inputs)) for network in networks]
        return [Latency(ms, ms, self.runs, self.batch, 1, "fake", self.engine) for ms in found]

    def layers(self, shapes: Sequence[Shape], under: Conditions) -> list[float]:
        self.asked.extend(shapes)
        return [self.layer_ms(shape) for shape in shapes]

    def between(self, network: nn.Module, inputs: Inputs) -> dict[str, float]:
        return {}

    def facts(self, under: Conditions) -> dict[str, Any]:
        return {"device": "fake", "engine": self.engine}

    def total(self, network: nn.Module, inputs: Inputs) -> float:
        """The sum over the layers of a network."""
        return sum(self.layer_ms(shape) for shapes in shapes_of(network, inputs).values() for shape in shapes)
