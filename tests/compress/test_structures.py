"""What pruning tools stumble over is cut so that slim equals masked, or kept whole by name, and no third."""

import gc
import random
import weakref
from collections.abc import Callable

import pytest
import torch
from cases import CASES, OUTPUT, Case, conv
from small_detectors import small
from structures import Between
from test_surgery import difference
from toys import inputs, shaken

from compress import rules
from compress.allocation import ratio_widths
from compress.cost import cost_of
from compress.graph import trace
from compress.plan import Rules, plan_of
from compress.probe import zeroed
from compress.surgery import cut
from detectors.geometry import apply_geometry, geometry_of
from detectors.models import build


def built(case: Case, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    model = shaken(case.build()).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model


UNUSED = "ignore:input's size at dim=1"  # torch's word on an instance norm without weights


@pytest.mark.filterwarnings(UNUSED)
@pytest.mark.parametrize("name", CASES)
def test_a_structure_has_the_groups_that_it_allows_and_names_the_rest(name: str) -> None:
    case = CASES[name]
    graph = trace(built(case), inputs())
    assert {group.name: (group.channels, group.size) for group in graph.groups} == case.groups
    rest = {layer: reason for layer, reason in graph.whole.items() if reason != OUTPUT}
    assert rest.keys() == case.whole.keys()
    assert all(part in rest[layer] for layer, part in case.whole.items()), rest


@pytest.mark.filterwarnings(UNUSED)
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
        assert difference(zeroed(model, graph.groups, plan.keep), slim, inputs()) < 1e-9
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


def test_a_rule_that_follows_channels_wrongly_is_found_out_by_the_trial_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(rules.RULES, "channel_shuffle", rules.same)
    model = built(CASES["channel shuffle"])
    graph = trace(model, inputs())
    assert graph.groups == ()
    assert graph.whole["body"] == "a trial cut of it did not give the masked network"


def test_only_the_groups_at_fault_stay_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    middle = torch.nn.Sequential(conv(16, 12), torch.nn.ChannelShuffle(4), conv(12, 16), torch.nn.ReLU())
    model = shaken(Between(middle)).eval()
    right = [group.name for group in trace(model, inputs()).groups]
    monkeypatch.setitem(rules.RULES, "channel_shuffle", rules.same)
    graph = trace(model, inputs())
    assert right == ["body", "middle.0", "middle.2"]
    assert [group.name for group in graph.groups] == ["body", "middle.2"]
    assert set(graph.whole) == {"middle.0", "head"}


def test_flattened_heads_are_followed_as_well_as_maps() -> None:
    detector = small()
    images = torch.zeros(1, 3, *detector.size)
    maps, flat = trace(detector.network, images), trace(detector, images)
    assert [f"network.{group.name}" for group in maps.groups] == [group.name for group in flat.groups]
    assert {f"network.{layer}": reason for layer, reason in maps.whole.items()} == flat.whole


def test_a_batch_of_one_reaches_the_network_whole() -> None:
    shapes = []

    class Watched(torch.nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            shapes.append(x.shape)
            return super().forward(x)

    trace(Watched(3, 4, 3), inputs())
    assert set(shapes) == {inputs().shape}


def test_a_graph_keeps_no_network_alive() -> None:
    model = built(CASES["squeeze and excitation"])
    graph, gone = trace(model, inputs()), weakref.ref(model)
    del model
    gc.collect()
    assert graph.groups
    assert gone() is None


def ssd() -> torch.nn.Module:
    return build("ssd_vgg16_bn", ["a"], size=(300, 300), width=0.125).network


def of_one_size() -> torch.nn.Module:
    body = torch.nn.Conv2d(3, 8, 30, stride=30)
    return torch.nn.Sequential(body, torch.nn.Flatten(), torch.nn.Linear(8 * 10 * 10, 3))


@pytest.mark.parametrize(("network", "seen"), [(ssd, (64, 64)), (of_one_size, (300, 300))])
def test_the_trial_and_the_proof_run_on_a_small_image_where_one_serves(
    network: Callable[[], torch.nn.Module], seen: tuple[int, int]
) -> None:
    model, images, sizes = network(), torch.zeros(1, 3, 300, 300), set()

    def record(_: torch.nn.Module, given: tuple[torch.Tensor]) -> None:
        if not given[0].is_meta:
            sizes.add(tuple(given[0].shape[2:]))

    model.register_forward_pre_hook(record)
    graph = trace(model, images)
    plan = plan_of(graph, ratio_widths(graph, 0.5, Rules(multiple=1)), lambda g, keep: torch.ones(g.channels))
    cut(model, graph, plan, images)
    assert sizes == {seen}
