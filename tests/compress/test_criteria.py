"""Scores by hand: filters, layers that make a channel together, and the layout of transposed filters."""

import math
from typing import Any

import pytest
import torch
from torch import nn
from toys import Concat, ConvNorm, Depthwise, Flattened, Residual, ThreeConvs, Transposed, inputs, made

import compress
from compress.allocation import CHOICES
from compress.criteria import CRITERIA
from compress.criteria.subset import subset_gains
from compress.evidence import Evidence, gather
from compress.graph import Group, trace
from detectors.errors import ConfigError, PlanError


def group_of(model: nn.Module, name: str) -> Group:
    return next(group for group in trace(model, inputs()).groups if group.name == name)


def filled(layer: nn.Module, dim: int = 0) -> None:
    """Filter k gets the weights k + 1 and -(k + 1) in turn, so that a plain mean would be near 0."""
    weight = layer.weight
    with torch.no_grad():
        signs = torch.ones(weight[0].numel() if dim == 0 else weight[:, 0].numel())
        signs[::2] = -1
        for k in range(weight.shape[dim]):
            part = weight.select(dim, k)
            part.copy_((k + 1) * signs[: part.numel()].reshape(part.shape))


@pytest.mark.parametrize("criterion", ["l1", "l2"])
@pytest.mark.parametrize(
    ("kind", "layer", "dim"),
    [(ThreeConvs, "a", 0), (Concat, "right", 0), (Flattened, "hidden", 0), (Transposed, "down", 0)],
)
def test_a_filter_of_one_magnitude_scores_that_magnitude(
    criterion: str, kind: type[nn.Module], layer: str, dim: int
) -> None:
    model = made(kind)
    filled(model.get_submodule(layer), dim)
    group = group_of(model, layer)
    scores = CRITERIA[criterion](model, group)
    assert scores.dtype == torch.float64
    assert scores.tolist() == [float(k + 1) for k in range(group.channels)]


@pytest.mark.parametrize(
    ("criterion", "of_filter"),
    [("l1", (1 + 2 + 3 + 6) / 12), ("l2", math.sqrt((1 + 4 + 9 + 36) / 12))],
)
def test_a_filter_scores_the_mean_over_its_weights(criterion: str, of_filter: float) -> None:
    model = made(Concat)
    with torch.no_grad():
        model.left.weight.zero_()
        model.left.weight[2].view(-1)[:4] = torch.tensor([1.0, -2.0, 3.0, -6.0])
    scores = CRITERIA[criterion](model, group_of(model, "left"))
    # 27 weights each: the four that are not zero, spread over them.
    scale = 12 / 27 if criterion == "l1" else math.sqrt(12 / 27)
    assert scores[2].item() == pytest.approx(of_filter * scale, rel=1e-6)
    assert scores[[0, 1, 3, 4, 5]].tolist() == [0.0] * 5


@pytest.mark.parametrize(("criterion", "score"), [("l1", (2 + 4) / 2), ("l2", math.sqrt((4 + 16) / 2))])
def test_layers_that_make_a_channel_together_are_averaged(criterion: str, score: float) -> None:
    model = made(Residual)
    nn.init.constant_(model.stem.weight, -2.0)
    nn.init.constant_(model.branch.weight, 4.0)
    nn.init.constant_(model.head.weight, 99.0)  # reads the channels, does not make them
    nn.init.constant_(model.stem.bias, 99.0)
    assert CRITERIA[criterion](model, group_of(model, "stem")).tolist() == pytest.approx([score] * 8)


def test_a_depthwise_filter_counts_with_the_filters_before_it() -> None:
    model = made(Depthwise)
    nn.init.constant_(model.stem.weight, 1.0)
    filled(model.deep)
    scores = CRITERIA["l1"](model, group_of(model, "stem"))
    assert scores.tolist() == [(1 + k + 1) / 2 for k in range(8)]


def test_filters_of_a_transposed_convolution_lie_in_the_second_dimension() -> None:
    model = made(Transposed)
    nn.init.constant_(model.side.weight, 0.0)
    filled(model.up, dim=1)
    assert CRITERIA["l1"](model, group_of(model, "up")).tolist() == [(k + 1) / 2 for k in range(6)]


def test_scoring_leaves_the_network_alone() -> None:
    model = made(Residual)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for name in CRITERIA.names():
        if not CRITERIA[name].needs and name != "bn_scale":
            CRITERIA[name](model, group_of(model, "stem"))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_an_unknown_criterion_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown criterion 'l3'.*l1"):
        CRITERIA["l3"]


def test_the_filter_next_to_the_others_has_the_least_distance_to_them() -> None:
    model = made(ThreeConvs)
    values = [0.0, 1.0, 2.0, 3.0, 10.0, -9.0, 1.5, 0.5]
    with torch.no_grad():
        for k, value in enumerate(values):
            model.a.weight[k] = value
    scores = CRITERIA["geometric_median"](model, group_of(model, "a"))
    # Filters of one value: a root mean square over weights is the difference of the values.
    expected = [sum(abs(one - other) for other in values) / 8 for one in values]
    assert scores.tolist() == pytest.approx(expected)
    assert scores.argmin() in (1, 6)


def test_the_scale_of_the_norm_behind_a_channel_is_its_score() -> None:
    model = made(ConvNorm)
    scores = CRITERIA["bn_scale"](model, group_of(model, "b"))
    assert torch.equal(scores, model.b_norm.weight.detach().abs().double())


def test_a_network_without_batch_norm_is_told_so() -> None:
    with pytest.raises(PlanError, match=r"bn_scale: the network has no batch norm with .*, such as l1"):
        CRITERIA["bn_scale"](made(Residual), group_of(made(Residual), "stem"))


def test_a_layer_without_batch_norm_is_named_where_others_have_one() -> None:
    model = made(Residual)
    model.norm = nn.BatchNorm2d(4)
    with pytest.raises(PlanError, match=r"bn_scale: no batch norm .* behind stem; .* such as l1"):
        CRITERIA["bn_scale"](model, group_of(made(Residual), "stem"))


@pytest.mark.parametrize("choice", CHOICES)
def test_a_layer_that_a_criterion_cannot_serve_may_be_skipped(choice: Any) -> None:
    class HalfNormed(ConvNorm):
        def __init__(self) -> None:
            super().__init__()
            self.b_norm = nn.Identity()

    model, budget = made(HalfNormed), {"macs": "80%"}
    with pytest.raises(PlanError, match=r"behind b; skip that layer \(prune\.skip\)"):
        compress.prune_module(model, inputs(), budget=budget, multiple=1, criterion="bn_scale", choice=choice)
    slim = compress.prune_module(
        model, inputs(), budget=budget, multiple=1, criterion="bn_scale", choice=choice, skip=("b",)
    )
    assert slim.a.out_channels < model.a.out_channels


def test_random_scores_hang_on_seed_and_group_alone() -> None:
    model = made(ThreeConvs)
    a, b = group_of(model, "a"), group_of(model, "b")
    first = CRITERIA["random"](model, a, Evidence(seed=1))
    assert torch.equal(first, CRITERIA["random"](made(ThreeConvs, seed=5), a, Evidence(seed=1)))
    assert not torch.equal(first, CRITERIA["random"](model, a, Evidence(seed=2)))
    assert not torch.equal(first, CRITERIA["random"](model, b, Evidence(seed=1))[:8])


def moments_of(inputs: torch.Tensor, slopes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return inputs.T @ inputs / len(inputs), slopes.T @ slopes / len(slopes)


def residual(reader: tuple[torch.Tensor, torch.Tensor], kept: list[int]) -> float:
    """tr(S R) by the definition."""
    inputs, slopes = reader
    explained = inputs[:, kept] @ torch.linalg.pinv(inputs[kept][:, kept]) @ inputs[kept]
    return float((slopes * (inputs - explained)).sum())


def test_subset_selection_takes_the_channel_that_lowers_the_residual_most() -> None:
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(500, 6, generator=generator, dtype=torch.float64) @ torch.randn(
        6, 6, generator=generator, dtype=torch.float64
    )
    readers = [moments_of(mixed, torch.randn(300, 6, generator=generator).double()) for _ in range(2)]
    gains = subset_gains(readers)
    order, kept = gains.argsort(descending=True).tolist(), []
    for choice in order:
        left = {c: sum(residual(r, [*kept, c]) for r in readers) for c in range(6) if c not in kept}
        assert left[choice] == pytest.approx(min(left.values()), rel=1e-3, abs=1e-6)
        kept.append(choice)
    assert float(gains.max()) == pytest.approx(
        sum(residual(r, []) - residual(r, order[:1]) for r in readers), rel=1e-3
    )


def test_a_constant_channel_that_a_bias_makes_up_for_is_worth_nothing() -> None:
    model = made(ThreeConvs)
    with torch.no_grad():
        model.a.weight[5] = 0
        model.a.bias[5] = 4

    def loss(network: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        return network(batch).square().mean()

    batches = [torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(k)) for k in range(3)]
    evidence = gather(model, trace(model, inputs()).groups, batches, loss, needs=["gradients", "moments"])
    scores = CRITERIA["column_subset"](model, group_of(model, "a"), evidence)
    assert scores.argmin() == 5
    assert scores[5] < 1e-6 * scores.max()


def test_of_two_channels_that_say_the_same_one_is_worth_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(500, 4, generator=generator, dtype=torch.float64)
    inputs[:, 3] = 2 * inputs[:, 0]
    inputs[:, 1] = 0
    gains = subset_gains([moments_of(inputs, torch.ones(1, 4, dtype=torch.float64))])
    assert gains[1] == 0
    assert min(gains[0], gains[3]) < 1e-3 * max(gains[0], gains[3])
    assert bool((gains >= 0).all())
