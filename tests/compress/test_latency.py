"""Latencies with a clock of our own: what is timed, in which order, and what is made of it."""

import pytest
import torch
from torch import Tensor, nn

from compress.latency.engines import Stopwatch


class Clock:
    """Stands still, but for what models add to it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Timed(nn.Module):
    """Takes the given milliseconds, one after the other, and notes when it ran and in which mode."""

    def __init__(self, name: str, clock: Clock, milliseconds: list[float], order: list[str]) -> None:
        super().__init__()
        self.name, self.clock, self.milliseconds, self.order = name, clock, milliseconds, order
        self.modes: set[bool] = set()

    def forward(self, images: Tensor) -> Tensor:
        self.clock.now += self.milliseconds[self.order.count(self.name)] / 1000
        self.order.append(self.name)
        self.modes.add(self.training)
        return images


WARM_UP = [500.0] * 3
IMAGE = torch.zeros(1, 3, 8, 8)


@pytest.mark.parametrize(
    ("milliseconds", "median", "p90"),
    [
        ([7.0], 7.0, 7.0),
        ([1.0, 2.0, 3.0, 4.0, 100.0], 3.0, 61.6),
        ([float(k) for k in range(1, 12)], 6.0, 10.0),
        ([11.0 - k for k in range(11)], 6.0, 10.0),
        ([1.0, 3.0], 2.0, 2.8),
    ],
)
def test_median_and_ninth_tenth_of_the_timed_runs(
    milliseconds: list[float], median: float, p90: float
) -> None:
    clock = Clock()
    model = Timed("a", clock, WARM_UP + milliseconds, [])
    (latency,) = Stopwatch(runs=len(milliseconds), clock=clock).networks([model], IMAGE)
    assert latency.median_ms == pytest.approx(median)
    assert latency.p90_ms == pytest.approx(p90)
    assert (latency.runs, latency.batch, latency.device) == (len(milliseconds), 1, "cpu")
    assert latency.threads == torch.get_num_threads()


def test_models_take_turns_and_each_gets_its_own_time() -> None:
    clock, order = Clock(), []
    slow, fast = (Timed(n, clock, WARM_UP + [ms] * 4, order) for n, ms in (("slow", 8.0), ("fast", 2.0)))
    latencies = Stopwatch(batch=2, runs=4, clock=clock).networks([slow, fast], IMAGE)
    assert order == ["slow", "fast"] * 7  # three rounds to warm up, four timed ones
    assert [latency.median_ms for latency in latencies] == pytest.approx([8.0, 2.0])
    assert [latency.batch for latency in latencies] == [2, 2]


def test_models_are_timed_in_evaluation_mode_and_left_in_theirs() -> None:
    clock = Clock()
    models = [Timed(n, clock, [1.0] * 4, []).train(mode) for n, mode in (("a", True), ("b", False))]
    Stopwatch(runs=1, clock=clock).networks(models, IMAGE)
    assert [model.modes for model in models] == [{False}, {False}]
    assert [model.training for model in models] == [True, False]
