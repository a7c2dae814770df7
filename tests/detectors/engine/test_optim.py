"""The optimizer's groups and the course of the learning rate."""

import itertools
import math

import pytest
import torch
from torch import nn

from detectors.engine.optim import lr_factor, optimizer_of, schedule_of
from detectors.models.layers import L2Norm
from detectors.settings import TrainConfig

COSINE = {"schedule": "cosine"}
CONSTANT = {"schedule": "constant"}


@pytest.mark.parametrize(
    ("settings", "values"),
    [
        (CONSTANT, {0.0: 1, 0.5: 1, 1.0: 1}),
        ({**CONSTANT, "warmup": 0.1}, {0.0: 0.01, 0.05: 0.505, 0.1: 1, 0.9: 1}),
        ({}, {0.0: 1, 0.66: 1, 0.67: 0.1, 0.82: 0.1, 0.83: 0.01, 1.0: 0.01}),
        ({"milestones": [0.5], "warmup": 0.25}, {0.0: 0.01, 0.25: 1, 0.49: 1, 0.5: 0.1, 0.99: 0.1}),
        ({"milestones": []}, {0.0: 1, 1.0: 1}),
        (COSINE, {0.0: 1, 0.25: 0.5 + math.sqrt(0.125), 0.5: 0.5, 1.0: 0}),
        ({**COSINE, "warmup": 0.2}, {0.0: 0.01, 0.1: 0.505, 0.2: 1, 0.6: 0.5, 1.0: 0}),
        ({"schedule": "linear"}, {0.0: 1, 0.25: 0.75, 1.0: 0}),
        ({"schedule": "linear", "warmup": 0.2}, {0.0: 0.01, 0.1: 0.505, 0.2: 1, 0.6: 0.5, 1.0: 0}),
    ],
)
def test_share_of_the_peak_rate(settings, values):
    config = TrainConfig(**settings)
    assert {p: lr_factor(config, p) for p in values} == pytest.approx(values, abs=1e-9)


def test_the_schedule_runs_over_the_steps_of_the_training():
    settings = TrainConfig(lr=0.5, schedule="cosine", warmup=0.2)
    optimizer = optimizer_of(nn.Linear(2, 2), settings)
    schedule = schedule_of(optimizer, settings, 10)
    rates = []
    for _ in range(10):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    cosine = [0.25 * (1 + math.cos(math.pi * k / 8)) for k in range(8)]
    assert rates == pytest.approx([0.005, 0.5 * 0.505, *cosine])


def network() -> nn.Module:
    net = nn.ModuleDict({"conv": nn.Conv2d(3, 4, 3), "bn": nn.BatchNorm2d(4), "norm": L2Norm(4, 20)})
    net["head"] = nn.Conv2d(4, 2, 1)
    return net


def named(net: nn.Module, parameters: list[torch.Tensor]) -> list[str]:
    ids = {id(p) for p in parameters}
    return [name for name, p in net.named_parameters() if id(p) in ids]


WEIGHTS = ["conv.weight", "head.weight"]
NORMS_AND_BIASES = ["conv.bias", "bn.weight", "bn.bias", "norm.weight", "head.bias"]


def test_norms_and_biases_decay_only_if_asked():
    net = network()
    for asked, decays in ((True, [0.1, 0.1]), (False, [0.1, 0.0])):
        settings = TrainConfig(weight_decay=0.1, decay_norm_and_bias=asked)
        groups = optimizer_of(net, settings).param_groups
        assert [group["weight_decay"] for group in groups] == decays
        assert [named(net, group["params"]) for group in groups] == [WEIGHTS, NORMS_AND_BIASES]


@pytest.mark.parametrize("name", ["sgd", "adamw", "muon"])
def test_norms_and_biases_have_a_rate_of_their_own_all_the_way(name):
    net = network()
    settings = TrainConfig(optimizer=name, lr=0.1, norm_and_bias_lr=4.0, schedule="linear")
    optimizer = optimizer_of(net, settings)
    schedule = schedule_of(optimizer, settings, steps=2)
    seen = []
    for _ in range(2):
        rates = {n: group["lr"] for group in optimizer.param_groups for n in named(net, group["params"])}
        assert rates == {n: rates["conv.weight"] * (1 if n in WEIGHTS else 4) for n in rates}
        assert sorted(rates) == sorted(WEIGHTS + NORMS_AND_BIASES)
        seen.append(rates["conv.weight"])
        net["conv"].weight.sum().backward()
        optimizer.step()
        schedule.step()
    assert seen == pytest.approx([0.1, 0.05])


def test_frozen_parameters_are_left_out():
    net = network()
    net["conv"].requires_grad_(False)
    for decay in (True, False):
        groups = optimizer_of(net, TrainConfig(decay_norm_and_bias=decay)).param_groups
        found = [name for group in groups for name in named(net, group["params"])]
        assert sorted(found) == ["bn.bias", "bn.weight", "head.bias", "head.weight", "norm.weight"]


@pytest.mark.parametrize(
    ("name", "kind", "first_step"),
    [("sgd", torch.optim.SGD, 0.1 * 2.0), ("adamw", torch.optim.AdamW, 0.1)],
)
def test_both_optimizers_by_their_first_step(name, kind, first_step):
    model = nn.Linear(1, 1, bias=False)
    optimizer = optimizer_of(model, TrainConfig(optimizer=name, lr=0.1, weight_decay=0.0))
    assert type(optimizer) is kind
    before = model.weight.item()
    (2 * model.weight).sum().backward()
    optimizer.step()
    assert before - model.weight.item() == pytest.approx(first_step, rel=1e-4)


def test_sgd_has_a_momentum_of_nine_tenths():
    model = nn.Linear(1, 1, bias=False)
    optimizer = optimizer_of(model, TrainConfig(lr=1.0, weight_decay=0.0))
    positions = [model.weight.item()]
    for _ in range(3):
        optimizer.zero_grad()
        model.weight.sum().backward()
        optimizer.step()
        positions.append(model.weight.item())
    moves = [a - b for a, b in itertools.pairwise(positions)]
    assert moves == pytest.approx([1, 1.9, 2.71], rel=1e-5)
