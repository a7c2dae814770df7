"""A slim network is the masked one in fewer channels, and a cut that is not is caught."""

import copy
import random
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from toys import TOYS, Concat, ConvNorm, Residual, ThreeConvs, inputs, made, shaken

from compress.cost import cost_of
from compress.graph import trace
from compress.groups import Graph, Group, Member
from compress.inputs import tensors_in
from compress.plan import Plan, plan_of
from compress.probe import zeroed
from compress.surgery import ProofError, cut, prove
from detectors.models import build


def random_plan(graph: Graph, seed: int) -> Plan:
    chance, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    widths = {group.name: chance.randint(1, group.channels) for group in graph.groups}
    return plan_of(graph, widths, lambda group, keep: torch.rand(group.channels, generator=generator))


def difference(one: nn.Module, other: nn.Module, images: Tensor) -> float:
    """Largest difference of two networks in float64, as a share of the largest output."""
    probe = torch.rand(images.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        first, second = (tensors_in(copy.deepcopy(m).double().eval()(probe)) for m in (one, other))
        return max(
            float((a - b).abs().max() / a.abs().max().clamp(min=1e-300))
            for a, b in zip(first, second, strict=True)
        )


@pytest.mark.parametrize("kind", TOYS)
def test_slim_toys_equal_masked_ones_and_cost_what_was_planned(kind: type[nn.Module]) -> None:
    model = made(kind)
    graph, whole = trace(model, inputs()), copy.deepcopy(model.state_dict())
    for seed in range(6):
        plan = random_plan(graph, seed)
        slim = cut(model, graph, plan, inputs())
        assert difference(zeroed(model, graph.groups, plan.keep), slim, inputs()) < 1e-9
        assert cost_of(slim, inputs()) == plan.after
        assert plan.before == cost_of(model, inputs())
        assert all(torch.equal(value, whole[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_slim_detector_with_any_batch_norm_equals_the_masked_one(seed: int) -> None:
    torch.manual_seed(seed)
    network = shaken(build("ssd_vgg16_bn", ["a", "b"], size=(64, 96), width=0.125).network).eval()
    images = torch.zeros(1, 3, 64, 96)
    graph = trace(network, images)
    plan = random_plan(graph, seed)
    slim = cut(network, graph, plan, images)
    assert difference(zeroed(network, graph.groups, plan.keep), slim, images) < 1e-9
    assert cost_of(slim, images) == plan.after
    assert difference(network, slim, images) > 1e-3  # the plan did cut something


def test_a_slim_network_keeps_its_mode_and_can_be_cut_again() -> None:
    model = made(Residual).train()
    graph = trace(model, inputs())
    slim = cut(model, graph, plan_of(graph, {"stem": 6}, lambda g, k: torch.arange(8.0)), inputs())
    assert slim.training
    graph = trace(slim, inputs())
    slimmer = cut(slim, graph, plan_of(graph, {"stem": 2}, lambda g, k: torch.arange(6.0)), inputs())
    assert torch.equal(slimmer.stem.weight, model.stem.weight[6:])
    assert torch.equal(slimmer.branch.weight, model.branch.weight[6:, 6:])
    assert torch.equal(slimmer.head.weight, model.head.weight[:, 6:])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_network_of_another_precision_keeps_it(dtype: torch.dtype) -> None:
    model, images = made(ConvNorm).to(dtype), inputs().to(dtype)
    graph = trace(model, images)
    plan = random_plan(graph, 0)
    slim = cut(model, graph, plan, images)
    assert {p.dtype for p in slim.parameters()} == {dtype}
    assert plan.before.bytes == sum(t.numel() * t.element_size() for t in model.state_dict().values())


def test_a_cut_takes_exactly_the_channels_of_the_plan() -> None:
    model = made(Concat)
    graph = trace(model, inputs())
    plan = plan_of(graph, {"left": 2, "right": 3}, lambda group, keep: -torch.arange(group.channels).float())
    assert plan.keep == {"left": (0, 1), "right": (0, 1, 2)}
    slim = cut(model, graph, plan, inputs())
    assert torch.equal(slim.left.weight, model.left.weight[:2])
    assert torch.equal(slim.right.bias, model.right.bias[:3])
    assert torch.equal(slim.head.weight, model.head.weight[:, [0, 1, 6, 7, 8]])


def test_a_plan_that_keeps_all_changes_no_weight() -> None:
    model = made(ConvNorm)
    graph = trace(model, inputs())
    slim = cut(model, graph, plan_of(graph, {}, lambda g, k: torch.ones(g.channels)), inputs())
    assert all(torch.equal(slim.state_dict()[key], value) for key, value in model.state_dict().items())


def test_masking_zeroes_the_shift_of_a_batch_norm_too() -> None:
    model = made(ConvNorm)
    graph = trace(model, inputs())
    copied = zeroed(model, graph.groups, {"a": (1, 3)})
    gone = [0, 2, 4, 5, 6, 7]
    for tensor in (copied.a.weight, copied.a_norm.weight, copied.a_norm.bias):
        assert not tensor[gone].any()
        assert tensor[[1, 3]].all()
    assert not copied.b.weight[:, gone].any()
    assert torch.equal(copied.b.weight[:, [1, 3]], model.b.weight[:, [1, 3]])
    assert torch.equal(copied.b_norm.weight, model.b_norm.weight)
    with torch.no_grad():
        after = copied.a_norm(copied.a(torch.rand(1, 3, 16, 16)))
    assert not after[:, gone].any()


def replaced(graph: Graph, layer: str, side: str, change: Member) -> Graph:
    """The graph with one member of its groups replaced."""

    def of(group: Group) -> Group:
        members = tuple(change if (m.layer, m.side) == (layer, side) else m for m in group.members)
        return replace(group, members=members)

    return replace(graph, groups=tuple(of(group) for group in graph.groups))


@pytest.mark.parametrize(
    ("kind", "layer", "side"),
    [(ThreeConvs, "b", "in"), (ConvNorm, "a_norm", "out"), (Residual, "head", "in")],
)
def test_a_cut_of_the_wrong_channels_fails_the_proof(kind: type[nn.Module], layer: str, side: str) -> None:
    model = made(kind)
    graph = trace(model, inputs())
    right = next(m for group in graph.groups for m in group.members if (m.layer, m.side) == (layer, side))

    def neighbours(module: nn.Module, places: list[int]) -> None:
        right.cut(module, [(place + 1) % 8 for place in places])

    broken = replaced(graph, layer, side, replace(right, cut=neighbours))
    plan = plan_of(graph, {graph.groups[0].name: 5}, lambda group, keep: torch.arange(8.0))
    cut(model, graph, plan, inputs())
    with pytest.raises(ProofError, match="slim and masked networks differ by"):
        cut(model, broken, plan, inputs())


def test_a_network_that_costs_other_than_planned_fails_the_proof() -> None:
    model = made(ThreeConvs)
    graph = trace(model, inputs())
    plan = random_plan(graph, 2)
    for field in ("macs", "params", "bytes"):
        wrong = replace(plan, after=replace(plan.after, **{field: getattr(plan.after, field) + 1}))
        with pytest.raises(ProofError, match=r"planned .* built"):
            cut(model, graph, wrong, inputs())


def test_weights_that_changed_on_the_way_fail_the_proof() -> None:
    model = made(ThreeConvs)
    graph = trace(model, inputs())
    plan = random_plan(graph, 2)
    slim = cut(model, graph, plan, inputs())
    with torch.no_grad():
        slim.a.weight[0, 0, 0, 0] += 1e-4
    with pytest.raises(ProofError, match="output 0: slim and masked networks differ"):
        prove(model, slim, graph, plan, inputs())
    with torch.no_grad():
        slim.a.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(ProofError, match="differ by nan"):
        prove(model, slim, graph, plan, inputs())


class Between(nn.Module):
    """Something unusual between two convolutions."""

    def __init__(self, middle: nn.Module) -> None:
        super().__init__()
        self.body, self.middle, self.head = nn.Conv2d(3, 8, 3), middle, nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(self.body(x)))


@pytest.mark.parametrize(
    "middle",
    [
        nn.GroupNorm(4, 8),
        nn.Conv2d(8, 8, 3, groups=4),
        nn.PReLU(),
        nn.PReLU(8),
        nn.ConvTranspose2d(8, 8, 2, 2, groups=8),
        nn.InstanceNorm2d(8, affine=True),
    ],
    ids=["group-norm", "grouped", "prelu", "prelu-wide", "transposed-depthwise", "instance-norm"],
)
def test_what_cannot_be_cut_safely_is_kept_whole(middle: nn.Module) -> None:
    torch.manual_seed(0)
    model = Between(middle).eval()
    graph = trace(model, inputs())
    for seed in range(4):
        plan = random_plan(graph, seed)
        slim = cut(model, graph, plan, inputs())
        assert difference(zeroed(model, graph.groups, plan.keep), slim, inputs()) < 1e-9
