"""Budgets in milliseconds: held by the network measured whole, whatever the table of its layers says."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from fake_clock import FakeStopwatch, stairs
from small_detectors import small
from torch import nn
from toys import Depthwise, ThreeConvs, inputs, made

import compress
from compress.allocation import CHOICES, Choice
from compress.budget import Milliseconds, parse_milliseconds
from compress.cost import cost_of, subject
from compress.graph import trace
from compress.latency.plan import _target, quick_widths
from compress.latency.shapes import Shape, shapes_of
from compress.latency.table import LatencyTable
from compress.plan import Rules
from detectors.errors import PlanError
from detectors.geometry import geometry_of
from detectors.models.base import Detector


@pytest.fixture(scope="module")
def dense() -> Detector:
    return small()


def share_of(watch: FakeStopwatch, slim: nn.Module, whole: nn.Module) -> float:
    """What a slim detector takes by the clock, as a share of the whole one."""
    times = [
        watch.networks([network], images)[0].median_ms for network, images in map(subject, (slim, whole))
    ]
    return times[0] / times[1]


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("share", [0.5, 0.25])
def test_the_measured_network_takes_what_was_asked_for(dense: Detector, choice: Choice, share: float) -> None:
    watch = FakeStopwatch()
    slim = compress.prune(dense, budget={"latency_ms": f"{share:.0%}"}, choice=choice, stopwatch=watch)
    assert share_of(watch, slim, dense) == pytest.approx(share, rel=0.05)


def test_milliseconds_are_met_as_shares_are(dense: Detector) -> None:
    watch = FakeStopwatch()
    whole = watch.networks([dense.network], subject(dense)[1])[0].median_ms
    slim = compress.prune(dense, budget={"latency_ms": 0.4 * whole}, stopwatch=watch)
    assert share_of(watch, slim, dense) == pytest.approx(0.4, rel=0.05)


def test_all_limits_hold_and_the_clock_need_not_bind(dense: Detector) -> None:
    watch, whole = FakeStopwatch(), cost_of(dense)
    for budget in ({"latency_ms": "50%", "macs": "10%"}, {"latency_ms": "40%", "params": "60%"}):
        slim = compress.prune(dense, budget=budget, stopwatch=watch)
        assert share_of(watch, slim, dense) <= 1.05 * float(budget["latency_ms"][:-1]) / 100
        assert cost_of(slim).macs <= (0.1 if "macs" in budget else 1) * whole.macs
        assert cost_of(slim).params <= (0.6 if "params" in budget else 1) * whole.params


def test_a_budget_above_what_the_network_takes_cuts_nothing(dense: Detector) -> None:
    slim = compress.prune(dense, budget={"latency_ms": 1000}, stopwatch=FakeStopwatch())
    assert geometry_of(slim) == geometry_of(dense)


def test_a_whole_far_from_the_sum_of_its_layers_needs_corrections_and_gets_them(dense: Detector) -> None:
    # Half of the time is in none of the layers, and the rest does not go with the table in proportion.
    network, images = subject(dense)
    whole = FakeStopwatch().total(network, images)
    watch = FakeStopwatch(whole_ms=lambda total: 0.3 * whole + 0.7 * whole * (total / whole) ** 2)
    slim = compress.prune(dense, budget={"latency_ms": "50%"}, stopwatch=watch)
    assert 2 < len(watch.timed) <= 7  # the ends, a plan, and at most five corrections
    assert share_of(watch, slim, dense) == pytest.approx(0.5, rel=0.05)


def test_a_clock_that_drifts_does_not_move_a_share(dense: Detector) -> None:
    class Warming(FakeStopwatch):
        """Everything takes a tenth longer at each call than at the one before."""

        def networks(self, networks: Any, inputs: Any) -> Any:
            slower = 1.1 ** len(self.timed)
            return [replace(t, median_ms=t.median_ms * slower) for t in super().networks(networks, inputs)]

    slim = compress.prune(dense, budget={"latency_ms": "50%"}, stopwatch=Warming())
    assert share_of(FakeStopwatch(), slim, dense) == pytest.approx(0.5, rel=0.05)


def test_a_budget_below_the_smallest_network_names_what_can_be_reached(dense: Detector) -> None:
    watch = FakeStopwatch()
    with pytest.raises(PlanError) as caught:
        compress.prune(dense, budget={"latency_ms": 0.11}, floor=0.5, stopwatch=watch)
    text = str(caught.value)
    assert "budget latency_ms=0.11 is out of reach: with floor=0.5, largest_cut=0.9 in each of 1" in text
    slim = compress.prune(dense, ratio=0.5, floor=0.5)
    smallest = watch.networks([slim.network], subject(slim)[1])[0].median_ms
    assert f"the smallest network takes {smallest:.4g} ms (" in text
    assert watch.asked  # nothing was planned, but the options were asked for
    with pytest.raises(
        PlanError, match=r"and multiple=8, prune.caps of \*\.0 the smallest .* or prune.caps, lower"
    ):
        compress.prune(dense, budget={"latency_ms": 0.11}, caps={"*.0": 0.1}, stopwatch=watch)


def test_a_plan_that_never_holds_is_an_error_that_says_what_was_reached(dense: Detector) -> None:
    class Fickle(FakeStopwatch):
        """The smallest network is quick once, and after that nothing is."""

        def networks(self, networks: Any, inputs: Any) -> Any:
            found = super().networks(networks, inputs)
            return (
                found if len(self.timed) == 1 else [replace(t, median_ms=found[0].median_ms) for t in found]
            )

    watch = Fickle()
    with pytest.raises(PlanError, match=r"the best of 6 plans takes .* ms when measured whole, 100% more"):
        compress.prune(dense, budget={"latency_ms": "50%"}, stopwatch=watch)
    assert len(watch.timed) == 7


def test_widths_slower_than_a_wider_one_are_no_options() -> None:
    graph = trace(made(ThreeConvs), inputs())

    def odd(shape: Shape) -> float:
        """Five outputs take longer than eight of them, and eleven are as quick as twelve."""
        return stairs(shape) + (9.0 if 5 in (shape.outputs, shape.inputs) else shape.outputs // 4)

    table = LatencyTable(lambda shapes: [odd(shape) for shape in shapes], {})
    price = table.price(shapes_of(made(ThreeConvs), inputs()), {}, 1)
    quick = quick_widths(graph, Rules(multiple=1, floor=0), price)
    assert quick["a"] == (1, 2, 3, 4, 6, 7, 8)
    assert quick["b"] == (2, 3, 4, 6, 7, 8, 10, 12)  # 9 and 11 are not on the grid
    assert Rules(only=quick).options(graph.groups[0])[-1] == graph.groups[0].channels


def test_groups_of_a_depthwise_convolution_are_planned_by_the_clock_too() -> None:
    watch = FakeStopwatch(layer_ms=lambda shape: float(shape.outputs * shape.inputs / shape.groups))
    model = made(Depthwise)
    slim = compress.prune_module(model, inputs(), budget={"latency_ms": "60%"}, multiple=1, stopwatch=watch)
    times = [watch.networks([one], inputs())[0].median_ms for one in (slim, model)]
    assert times[0] <= 1.05 * 0.6 * times[1]
    assert all(shape.inputs % shape.groups == shape.outputs % shape.groups == 0 for shape in watch.asked)


def test_a_target_lies_between_what_was_quick_enough_and_what_was_not() -> None:
    ends = [(1.0, 10.0), (9.0, 90.0)]
    assert _target(ends, 50.0) == pytest.approx(5.0)
    assert _target([*ends, (5.0, 60.0)], 50.0) == pytest.approx(4.2)
    # Noise: a smaller plan was slower than a larger one. It is not made again.
    assert 1.0 < _target([*ends, (5.0, 60.0), (4.0, 70.0)], 50.0) < 4.0
    assert _target([*ends, (5.0, 40.0), (4.0, 70.0)], 50.0) < 4.0
    assert _target(ends, 95.0) == 9.0
    assert _target(ends, 9.9) == pytest.approx(1.0)


def test_rounds_go_their_share_of_the_way_and_the_last_one_holds(dense: Detector) -> None:
    watch = FakeStopwatch()
    network, images = subject(dense)
    slim, rows = compress.shrink(
        network,
        images,
        budget={"latency_ms": "36%"},
        loss=lambda model, batch: sum(level.mean() for pair in model(batch) for level in pair) * 0,
        batches=[torch.zeros(1, 3, *dense.size)],
        score=lambda model: watch.networks([model], images)[0].median_ms,
        rounds=2,
        steps=0,
        stopwatch=watch,
    )
    first, half, last = (row.score for row in rows)
    assert half == pytest.approx(0.6 * first, rel=0.05)
    assert last == pytest.approx(0.36 * first, rel=0.05)
    assert watch.networks([slim], images)[0].median_ms == last
    with pytest.raises(PlanError, match=r"latency_ms=0\.0001 is out of reach: .* in each of 3 rounds"):
        compress.shrink(
            network, images, budget={"latency_ms": 1e-4}, loss=None, batches=[], score=None, rounds=3,
            stopwatch=watch,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "limit"),
    [("12", Milliseconds(ms=12.0)), (0.5, Milliseconds(ms=0.5)), (" 50% ", Milliseconds(share=0.5))],
)
def test_limits_on_time_as_people_write_them(text: Any, limit: Milliseconds) -> None:
    assert parse_milliseconds(text, "key") == limit


@pytest.mark.parametrize("text", ["12 ms", "half", "0", "-3", "nan", "inf", "0%"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(PlanError, match=r"prune\.budget\.latency_ms='.*' is not a time; write milliseconds"):
        parse_milliseconds(text, "prune.budget.latency_ms")
    with pytest.raises(PlanError, match="150% is more than the whole"):
        parse_milliseconds("150%", "key")


def test_a_limit_on_the_way_there() -> None:
    assert Milliseconds(share=0.25, way=0.5).of(8.0) == pytest.approx(4.0)
    assert Milliseconds(ms=2.0, way=0.5).of(8.0) == pytest.approx(4.0)
    assert Milliseconds(ms=12.0, way=0.5).of(8.0) == 12.0
