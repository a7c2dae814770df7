"""Which channels hang together, and which the outputs fix."""

import pytest
import torch
from torch import Tensor, nn
from toys import (
    Concat,
    ConvNorm,
    Depthwise,
    Flattened,
    Normed,
    Residual,
    SharedHead,
    ThreeConvs,
    Transposed,
    inputs,
    made,
)

from compress.graph import Graph, trace
from detectors.models import build

OUTPUT = "makes an output"


def members_of(graph: Graph) -> dict[str, set[str]]:
    """Each group's members as `layer.side`."""
    return {group.name: {f"{m.layer}.{m.side}" for m in group.members} for group in graph.groups}


@pytest.mark.parametrize(
    ("kind", "groups", "whole"),
    [
        (ThreeConvs, {"a": {"a.out", "b.in"}, "b": {"b.out", "c.in"}}, {"c": OUTPUT}),
        (Residual, {"stem": {"stem.out", "branch.in", "branch.out", "head.in"}}, {"head": OUTPUT}),
        (
            Concat,
            {"left": {"left.out", "head.in"}, "right": {"right.out", "head.in"}},
            {"head": OUTPUT},
        ),
        (
            Depthwise,
            {"stem": {"stem.out", "deep.out", "point.in"}, "point": {"point.out", "head.in"}},
            {"head": OUTPUT},
        ),
        (
            ConvNorm,
            {"a": {"a.out", "a_norm.out", "b.in"}, "b": {"b.out", "b_norm.out", "head.in"}},
            {"head": OUTPUT},
        ),
        (
            Normed,
            {"body": {"body.out", "norm.out", "fine.in", "deeper.in"}, "deeper": {"deeper.out", "coarse.in"}},
            {"fine": OUTPUT, "coarse": OUTPUT},
        ),
        (
            Flattened,
            {"body": {"body.out", "hidden.in"}, "hidden": {"hidden.out", "head.in"}},
            {"head": OUTPUT},
        ),
        (
            SharedHead,
            {
                "stem": {"stem.out", "fine.in"},
                "fine": {"fine.out", "coarse.in", "coarse.out", "head.in"},
            },
            {"head": OUTPUT},
        ),
        (
            Transposed,
            {"down": {"down.out", "up.in"}, "up": {"up.out", "side.out", "head.in"}},
            {"head": OUTPUT},
        ),
    ],
)
def test_coupled_layers_share_a_group_and_output_layers_stay_whole(
    kind: type[nn.Module], groups: dict[str, set[str]], whole: dict[str, str]
) -> None:
    graph = trace(made(kind), inputs())
    assert members_of(graph) == groups
    assert list(members_of(graph)) == list(groups)  # in the order of execution
    assert graph.whole == whole


@pytest.mark.parametrize(
    ("kind", "producers"),
    [
        (Residual, {"stem": ("stem", "branch")}),
        (Depthwise, {"stem": ("stem", "deep"), "point": ("point",)}),
        (SharedHead, {"stem": ("stem",), "fine": ("fine", "coarse")}),
        (Transposed, {"down": ("down",), "up": ("up", "side")}),
        (ConvNorm, {"a": ("a",), "b": ("b",)}),
    ],
)
def test_producers_are_the_layers_that_multiply_in_the_order_of_execution(
    kind: type[nn.Module], producers: dict[str, tuple[str, ...]]
) -> None:
    assert {g.name: g.producers for g in trace(made(kind), inputs()).groups} == producers


@pytest.mark.parametrize(
    ("kind", "group", "layer", "channel", "places"),
    [
        (ThreeConvs, "a", "b", 5, [5]),
        (Concat, "left", "head", 5, [5]),
        (Concat, "right", "head", 0, [6]),
        (Concat, "right", "head", 9, [15]),
        (Flattened, "body", "hidden", 2, list(range(32, 48))),
    ],
)
def test_a_channel_knows_its_places_in_what_reads_it(
    kind: type[nn.Module], group: str, layer: str, channel: int, places: list[int]
) -> None:
    found = next(g for g in trace(made(kind), inputs()).groups if g.name == group)
    member = next(m for m in found.members if m.layer == layer and m.side == "in")
    assert sorted(member.places(torch.tensor([channel])).tolist()) == places


class TiedToOutput(nn.Module):
    """The stem is added to the output of the head: its channels are as fixed as the head's."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x) + x


class NormedOutput(nn.Module):
    """The last layer with weights is a batch norm, behind which nothing may change either."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.norm = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.head(self.body(x).relu())).relu().flatten(2)


class BareParameter(nn.Module):
    """Channels meet a parameter that is no layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)
        self.gain = nn.Parameter(torch.ones(1, 8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x) * self.gain)


class LinearWithoutBias(nn.Module):
    """The head is a plain matrix product, whose node holds no parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(16, 10), nn.Linear(10, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(x).relu())


def test_what_is_added_to_an_output_stays_whole_too() -> None:
    graph = trace(TiedToOutput(), inputs())
    assert graph.groups == ()
    assert set(graph.whole) == {"stem", "head"}


def test_a_layer_whose_norm_makes_the_output_stays_whole_and_says_why() -> None:
    graph = trace(NormedOutput(), inputs())
    assert graph.whole == {"head": "tied to norm, which makes an output"}
    assert [g.name for g in graph.groups] == ["body"]


def test_channels_that_meet_a_bare_parameter_stay_whole() -> None:
    graph = trace(BareParameter(), inputs())
    assert graph.groups == ()
    assert graph.whole["body"].startswith("meets the bare parameter")
    assert graph.whole["head"] == OUTPUT


def test_a_linear_output_without_bias_fixes_nothing_but_itself() -> None:
    graph = trace(LinearWithoutBias(), inputs())
    assert [g.name for g in graph.groups] == ["hidden"]
    assert graph.whole == {"head": OUTPUT}


@pytest.mark.parametrize("kind", [Residual, ConvNorm, Normed])
@pytest.mark.parametrize("training", [True, False])
def test_frozen_networks_are_traced_and_left_alone(kind: type[nn.Module], training: bool) -> None:
    model, free = made(kind).train(training), members_of(trace(made(kind), inputs()))
    model.requires_grad_(False)
    next(model.parameters()).requires_grad_(True)
    flags = [p.requires_grad for p in model.parameters()]
    modes = [m.training for m in model.modules()]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert members_of(trace(model, inputs())) == free
    assert [p.requires_grad for p in model.parameters()] == flags
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_tracing_works_inside_no_grad() -> None:
    with torch.no_grad():
        graph = trace(made(ThreeConvs), inputs())
        assert not torch.is_grad_enabled()
    assert [g.name for g in graph.groups] == ["a", "b"]


def test_ssd_cuts_all_but_its_heads_and_the_scale_goes_with_conv4_3() -> None:
    network = build("ssd300_vgg16", ["a", "b"]).network
    graph = trace(network, torch.zeros(1, 3, 300, 300))
    assert graph.whole == {f"{head}.{k}": OUTPUT for k in range(6) for head in ("conf", "loc")}
    assert len(graph.groups) == 15 + 8
    members = members_of(graph)["backbone.features.21"]
    assert members == {
        "backbone.features.21.out",
        "backbone.features.24.in",
        "norm.out",
        "conf.0.in",
        "loc.0.in",
    }
