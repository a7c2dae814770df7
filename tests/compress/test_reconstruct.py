"""Layers solved anew in the slim network make what they made in the whole one, as far as they can."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toys import ConvNorm, Depthwise, Flattened, SharedHead, ThreeConvs, Transposed, inputs, made

from compress.graph import trace
from compress.groups import Graph
from compress.inputs import tensors_in
from compress.probe import Keep, narrowed
from compress.recalibrate import batch_norm_statistics
from compress.reconstruct import _by_position, _read, _rows, reconstruct

# Ridge: a thousandth of the mean square of what a layer reads, which that much less is made of.
RIDGE = 5e-3


def images(count: int = 16) -> Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def outputs(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return torch.cat([part.flatten() for part in tensors_in(model.eval()(images()))])


def slim_of(model: nn.Module, graph: Graph, keep: Keep) -> nn.Module:
    return copy.deepcopy(narrowed(model, graph.groups, keep)).eval()


def halves(graph: Graph) -> dict[str, tuple[int, ...]]:
    return {group.name: tuple(range(0, group.channels, 2)) for group in graph.groups}


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": (3, 2), "stride": (2, 1), "padding": (0, 1)},
        {"kernel_size": 3, "dilation": 2, "padding": 2},
        {"kernel_size": 1, "stride": 2},
    ],
)
def test_what_a_filter_lies_on_gives_what_the_layer_makes(options: dict[str, Any]) -> None:
    layer = nn.Conv2d(3, 5, **options)
    x = torch.rand(2, 3, 9, 8)
    made_there = _by_position(layer, layer(x))
    where = torch.stack([torch.randperm(made_there.shape[1])[:7] for _ in x])
    read = _read(layer, x, where)
    # The same sums of at most 27 products in another order.
    torch.testing.assert_close(
        read @ layer.weight.flatten(1).T + layer.bias, _rows(made_there, where), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("kind", [ThreeConvs, ConvNorm, Flattened, SharedHead, Depthwise, Transposed])
def test_less_is_lacking_of_what_the_network_made(kind: type[nn.Module]) -> None:
    model = made(kind)
    graph = trace(model, inputs())
    keep = halves(graph)
    slim = slim_of(model, graph, keep)
    before = float((outputs(slim) - outputs(model)).norm())
    shapes = {key: value.shape for key, value in slim.state_dict().items()}
    lacking = reconstruct(model, slim, graph, keep, images().split(4), renewed=False)
    assert float((outputs(slim) - outputs(model)).norm()) < 0.8 * before
    assert {key: value.shape for key, value in slim.state_dict().items()} == shapes
    assert all(value >= 0 for value in lacking.values())


def test_a_layer_makes_up_for_what_the_layers_before_it_lack() -> None:
    model = made(ThreeConvs)
    graph = trace(model, inputs())
    keep = {"a": (0, 1, 2, 3)}
    slim = slim_of(model, graph, keep)
    lacking = reconstruct(model, slim, graph, keep, images().split(4), renewed=False)
    assert list(lacking) == ["a", "b", "c"]  # in the order they run
    assert lacking["a"] == pytest.approx(0, abs=1e-6)  # it reads the images, which are the same
    assert not torch.equal(slim.c.weight, model.c.weight)  # though nothing that it reads was removed


def test_channels_that_others_determine_are_not_missed() -> None:
    model = made(ThreeConvs)
    with torch.no_grad():  # the second half is twice the first
        model.a.weight[4:], model.a.bias[4:] = 2 * model.a.weight[:4], 2 * model.a.bias[:4]
    graph = trace(model, inputs())
    keep = {"a": (0, 1, 2, 3)}
    slim = slim_of(model, graph, keep)
    reconstruct(model, slim, graph, keep, images().split(4), renewed=False)
    wanted = outputs(model)
    assert float((outputs(slim) - wanted).norm()) < RIDGE * float(wanted.norm())


def test_nothing_cut_leaves_the_outputs_as_they_are() -> None:
    model = made(ThreeConvs)
    graph = trace(model, inputs())
    slim = slim_of(model, graph, {})
    lacking = reconstruct(model, slim, graph, {}, images().split(4), renewed=False)
    # Normal equations in float32 leave about the square root of its precision.
    torch.testing.assert_close(outputs(slim), outputs(model), atol=1e-3, rtol=1e-3)
    assert max(lacking.values()) < 1e-5


def test_the_whole_network_and_its_statistics_are_left_alone() -> None:
    model = made(ConvNorm).train()
    before = copy.deepcopy(model.state_dict())
    graph = trace(model, inputs())
    keep = halves(graph)
    slim = slim_of(model, graph, keep)
    statistics = slim.a_norm.running_mean.clone()
    reconstruct(model, slim, graph, keep, images().split(4), renewed=True)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model.training
    assert not slim.a_norm.training
    assert not torch.equal(slim.a_norm.running_mean, statistics)  # those of the images, until measured anew


def test_a_layer_that_runs_twice_is_solved_for_both() -> None:
    model = made(SharedHead)
    graph = trace(model, inputs())
    keep = halves(graph)
    slim = slim_of(model, graph, keep)
    lacking = reconstruct(model, slim, graph, keep, images().split(4), renewed=False)
    shared = [name for name in lacking if "head" in name]
    assert shared
    assert list(lacking)[-len(shared) :] == shared  # after all that run once


def test_grouped_and_transposed_convolutions_stay_as_they_are() -> None:
    for kind, layer in ((Depthwise, "deep"), (Transposed, "up")):
        model = made(kind)
        graph = trace(model, inputs())
        keep = halves(graph)
        slim = slim_of(model, graph, keep)
        before = slim.get_submodule(layer).weight.clone()
        lacking = reconstruct(model, slim, graph, keep, images().split(4), renewed=False)
        assert layer not in lacking
        assert torch.equal(slim.get_submodule(layer).weight, before)


class Pooled(nn.Module):
    """A linear layer whose constant a batch norm takes out."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.hidden = nn.Conv2d(3, 16, 3), nn.Linear(16, 12, bias=False)
        self.norm, self.head = nn.BatchNorm1d(12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.hidden(self.a(x).relu().mean((2, 3))))
        made: Tensor = self.head(x.relu())
        return made


def test_a_linear_layer_without_bias_before_a_norm_is_solved_too() -> None:
    model = made(Pooled)
    batch_norm_statistics(model, [images()])
    graph = trace(model, inputs())
    assert "hidden" in graph.normed
    keep = {"a": tuple(range(8))}
    cut, mended = (slim_of(model, graph, keep) for _ in range(2))
    lacking = reconstruct(model, mended, graph, keep, images().split(4), renewed=True)
    assert lacking["hidden"] < 0.9
    for slim in (cut, mended):
        batch_norm_statistics(slim, [images()])
    whole = outputs(model)
    assert (outputs(mended) - whole).norm() < 0.7 * (outputs(cut) - whole).norm()
