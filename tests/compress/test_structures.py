"""What pruning tools stumble over is cut so that slim equals masked, or kept whole by name, and no third."""

import random

import pytest
import torch
from structures import CASES, OUTPUT, Case
from test_surgery import difference
from toys import inputs, shaken

from compress.cost import cost_of
from compress.graph import trace
from compress.plan import plan_of
from compress.surgery import cut, masked
from detectors.geometry import apply_geometry, geometry_of


def built(case: Case, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    model = shaken(case.build()).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model


@pytest.mark.parametrize("name", CASES)
def test_a_structure_has_the_groups_that_it_allows_and_names_the_rest(name: str) -> None:
    case = CASES[name]
    graph = trace(built(case), inputs())
    assert {group.name: (group.channels, group.size) for group in graph.groups} == case.groups
    rest = {layer: reason for layer, reason in graph.whole.items() if reason != OUTPUT}
    assert rest.keys() == case.whole.keys()
    assert all(part in rest[layer] for layer, part in case.whole.items()), rest


@pytest.mark.filterwarnings("ignore:input's size at dim=1")  # of an instance norm that uses none
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.groups])
def test_slim_is_masked_costs_what_was_planned_and_loads_again(name: str) -> None:
    case = CASES[name]
    model = built(case)
    graph = trace(model, inputs())
    for seed in range(3):
        chance, generator = random.Random(seed), torch.Generator().manual_seed(seed)
        widths = {group.name: chance.randint(1, group.channels - 1) for group in graph.groups}
        plan = plan_of(
            graph, widths, lambda group, keep, g=generator: torch.rand(group.channels, generator=g)
        )
        slim = cut(model, graph, plan, inputs())
        assert difference(masked(model, graph, plan.keep), slim, inputs()) < 1e-9
        assert difference(model, slim, inputs()) > 1e-6
        assert cost_of(slim, inputs()) == plan.after
        assert plan.after.params < plan.before.params
        fresh = case.build().eval()
        apply_geometry(fresh, geometry_of(slim))
        fresh.load_state_dict(slim.state_dict(), strict=True)
        assert difference(slim, fresh, inputs()) == 0

    again = trace(slim, inputs())
    plan = plan_of(
        again, {group.name: 1 for group in again.groups}, lambda group, keep: torch.ones(group.channels)
    )
    assert cost_of(cut(slim, again, plan, inputs()), inputs()) == plan.after
