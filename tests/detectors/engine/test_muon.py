"""Muon: what orthogonal means, which parameters are matrices, and that the rest is AdamW."""

import copy
import math

import pytest
import torch
from torch import nn

from detectors.engine.muon import orthogonal
from detectors.engine.optim import optimizer_of
from detectors.settings import TrainConfig
from tests.detectors.engine.training_case import new_detector


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.ConvTranspose2d(8, 6, 2),
        nn.Flatten(),
        nn.Linear(6 * 5 * 5, 4),
    )


def settings(**changes: object) -> TrainConfig:
    return TrainConfig(**{"optimizer": "muon", "lr": 0.1, "weight_decay": 0.0, **changes})  # type: ignore[arg-type]


def stepped(model: nn.Module, how: TrainConfig, steps: int = 1) -> nn.Module:
    model = copy.deepcopy(model)
    optimizer = optimizer_of(model, how)
    for k in range(steps):
        torch.manual_seed(k)
        optimizer.zero_grad()
        model(torch.randn(4, 3, 8, 8)).square().sum().backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("shape", [(6, 6), (4, 30), (30, 4), (3, 5, 20)])
def test_singular_values_end_near_one_in_the_same_directions(shape):
    torch.manual_seed(0)
    matrices = torch.randn(shape, dtype=torch.float64)
    found = orthogonal(matrices)
    assert found.shape == matrices.shape
    # The quintic leaves them between 0.68 and 1.13, unless they start below a hundredth of the norm.
    values = torch.linalg.svdvals(found)
    assert float(values.min()) > 0.6
    assert float(values.max()) < 1.2
    u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
    turned = u.mT @ found @ vh.mT
    off_diagonal = turned - torch.diag_embed(torch.diagonal(turned, dim1=-2, dim2=-1))
    assert float(off_diagonal.abs().max()) < 1e-9  # odd polynomials keep the singular vectors; float64


def test_a_matrix_without_gradient_stays_finite():
    assert torch.equal(orthogonal(torch.zeros(3, 4)), torch.zeros(3, 4))


def test_a_first_step_is_as_large_as_adamws():
    model = network()
    weight = model[0].weight
    moved = (stepped(model, settings())[0].weight - weight).flatten(1)
    # 0.2 sqrt(27) times an orthogonal 8 x 27 matrix: entries of 0.2 in the root mean square, where AdamW's
    # first step has 1 and its later ones about 0.2.
    assert moved.square().mean().sqrt().item() == pytest.approx(0.1 * 0.2, rel=0.2)
    assert torch.linalg.svdvals(moved).min().item() > 0.6 * 0.1 * 0.2 * math.sqrt(27)


def test_grouped_layers_norms_and_biases_take_the_steps_of_adamw():
    model = network()
    mixed = dict(stepped(model, settings()).named_parameters())
    other = dict(stepped(model, settings(optimizer="adamw")).named_parameters())
    same = {name for name in mixed if torch.allclose(mixed[name], other[name], atol=1e-6)}
    # One step: from the second on, the gradients are those of different networks.
    assert same == {"0.bias", "1.weight", "1.bias", "2.weight", "2.bias", "3.bias", "5.bias"}


def test_layers_of_one_shape_step_as_they_would_alone():
    model = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.Conv2d(3, 3, 1, bias=False))
    both = stepped(model, settings(), steps=2)
    for place in (0, 1):
        alone = copy.deepcopy(model)
        optimizer = optimizer_of(alone[place], settings())
        other = optimizer_of(alone[1 - place], settings())
        for k in range(2):
            torch.manual_seed(k)
            alone.zero_grad()
            alone(torch.randn(4, 3, 8, 8)).square().sum().backward()
            optimizer.step()
            other.step()
        torch.testing.assert_close(alone[place].weight, both[place].weight)  # float32, sums in another order


def test_weights_decay_apart_from_the_gradient():
    model = network()
    kept = stepped(model, settings())[0].weight
    decayed = stepped(model, settings(weight_decay=0.5))[0].weight
    torch.testing.assert_close(decayed, kept - 0.1 * 0.5 * model[0].weight)


def test_every_parameter_of_a_detector_moves():
    detector = new_detector()
    groups = optimizer_of(detector, settings(decay_norm_and_bias=False)).param_groups
    assert sum(len(group["params"]) for group in groups) == len(list(detector.parameters()))
    assert [(group["matrices"], group["weight_decay"]) for group in groups] == [(True, 0.0), (False, 0.0)]


def test_memory_layout_does_not_matter():
    model = network()
    one = stepped(model, settings(), steps=2)[0].weight
    other = stepped(model.to(memory_format=torch.channels_last), settings(), steps=2)[0].weight
    torch.testing.assert_close(one, other)
