"""The incremental cost of a network is that of its layers, exactly, at any widths and of any kind."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from cases import CASES
from test_structures import UNUSED, built
from toys import TOYS, ConvNorm, ThreeConvs, inputs, made

from compress.cost import cost_of, cost_of_layers
from compress.graph import trace
from compress.groups import Graph
from compress.plan import plan_of
from compress.pricing import PRICES, Pricing, priced
from compress.surgery import cut
from detectors.models import build

NETWORKS = {
    **{kind.__name__: lambda kind=kind: made(kind) for kind in TOYS},
    **{name: lambda case=case: built(case) for name, case in CASES.items() if case.groups},
}


def options_of(graph: Graph) -> dict[str, list[int]]:
    return {group.name: list(range(1, group.channels + 1)) for group in graph.groups}


def assert_every_change_is_exact(graph: Graph, pricing: Pricing) -> None:
    """Each option of each group costs what the layers cost at its width."""
    widths = pricing.widths()
    for name, options in pricing.options.items():
        costs = pricing.total[:, None] + pricing.changes(name)
        for place, width in enumerate(options.tolist()):
            whole = priced(graph, {**widths, name: width})
            assert costs[:, place].tolist() == [whole.macs, whole.params], (name, width)


@pytest.mark.filterwarnings(UNUSED)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_option_of_every_group_costs_what_the_layers_cost(name: str) -> None:
    graph = trace(NETWORKS[name](), inputs())
    pricing, chance = Pricing(graph, options_of(graph)), random.Random(0)
    whole = cost_of_layers(graph.layers)
    assert pricing.total.tolist() == [whole.macs, whole.params]
    for _ in range(4):
        assert_every_change_is_exact(graph, pricing)
        pricing.move_all({group: chance.randrange(len(o)) for group, o in pricing.options.items()})


@pytest.mark.filterwarnings(UNUSED)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_cost_of_random_widths_is_that_of_the_network_cut_to_them(name: str) -> None:
    model, chance = NETWORKS[name](), random.Random(1)
    graph = trace(model, inputs())
    pricing = Pricing(graph, options_of(graph))
    for _ in range(20):  # a long way round, so that an error of one move would be carried on
        group = chance.choice(graph.groups)
        pricing.move(group.name, chance.randrange(group.channels))
    plan = plan_of(graph, pricing.widths(), lambda group, keep: torch.ones(group.channels))
    slim = cost_of(cut(model, graph, plan, inputs()), inputs())
    assert pricing.total.tolist() == [slim.macs, slim.params]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("yolo_v3", {"width": 0.125, "size": [64, 64]}),
        ("ssd_lite", {"backbone": "mobilenet_v2", "width": 0.25}),
        ("torchvision_ssdlite320_mobilenet_v3_large", {}),
    ],
)
def test_costs_of_whole_detectors_are_exact(name: str, options: dict[str, Any]) -> None:
    detector = build(name, ["a"], **options)
    graph = trace(detector.network, torch.zeros(1, 3, *detector.size))
    widths = {group.name: sorted({1, group.channels // 2, group.channels}) for group in graph.groups}
    pricing, chance = Pricing(graph, widths), random.Random(2)
    pricing.move_all({group: chance.randrange(len(o)) for group, o in pricing.options.items()})
    assert_every_change_is_exact(graph, pricing)


def test_any_function_of_a_layer_and_its_widths_is_a_price() -> None:
    def stairs(layer: Any, inputs: Any, outputs: Any) -> Any:
        """A table of milliseconds in steps of 4 channels."""
        table = np.arange(100).reshape(10, 10) / 8
        return table[-(-inputs // 4), -(-outputs // 4)]

    graph = trace(made(ThreeConvs), inputs())
    pricing = Pricing(graph, options_of(graph), {"ms": stairs, **PRICES})
    assert pricing.kinds == ("ms", "macs", "params")
    # a reads 3 and makes 8, b reads 8 and makes 12, c reads 12 and makes 5: (1, 2), (2, 3) and (3, 2) steps.
    assert pricing.total[0] == (12 + 23 + 32) / 8
    assert pricing.changes("a")[0].tolist() == [-11 / 8] * 4 + [0.0] * 4
    pricing.move("b", 3)
    assert pricing.total[0] == (12 + 21 + 12) / 8
    assert pricing.total[1] == priced(graph, {"b": 4}).macs


def test_groups_left_out_stay_and_the_widest_option_may_be_below_the_present_width() -> None:
    graph = trace(made(ThreeConvs), inputs())
    pricing = Pricing(graph, {"b": [2, 5]})
    assert pricing.widths() == {"b": 5}
    assert pricing.total[0] == priced(graph, {"b": 5}).macs
    assert pricing.changes("b")[0].tolist() == [priced(graph, {"b": 2}).macs - pricing.total[0], 0]


def test_a_change_depends_on_the_groups_around_and_no_others() -> None:
    graph = trace(made(ConvNorm), inputs())
    pricing = Pricing(graph, options_of(graph))
    assert set(pricing.around("a")) == {"a", "b"}
    body = trace(built(CASES["squeeze and excitation"]), inputs())
    assert set(Pricing(body, options_of(body)).around("squeeze")) == {"squeeze", "body"}
