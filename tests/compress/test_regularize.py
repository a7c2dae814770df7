"""Sparsity training draws to zero the batch norm scales of channels that can be cut, and no others."""

import pytest
import torch
from tiny_runs import ALONE, tiny_detector, tiny_recipe
from torch import nn

from compress.cost import subject
from compress.graph import trace
from compress.regularize import sparsity
from compress.session import loader_of, terms_of
from detectors.data import build as build_data
from detectors.engine.loop import fit
from detectors.engine.terms import Seen
from detectors.errors import ConfigError
from detectors.models import build
from detectors.models.base import Detector
from detectors.settings import TrainConfig

NO_IMAGES = torch.empty(0, 3, 64, 64)


def residual() -> Detector:
    torch.manual_seed(0)
    return build("ssd", ["cat", "dog"], backbone="resnet18", width=0.0625, size=(288, 288))


def test_it_is_the_weighted_sum_of_the_scales_of_every_channel_that_can_be_cut() -> None:
    detector = residual()
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, -1, 1)
    wanted = set()
    for group in trace(*subject(detector)).groups:
        for member in group.members:
            if isinstance(detector.network.get_submodule(member.layer), nn.BatchNorm2d):
                wanted |= {(member.layer, place) for place in member.positions.tolist()}
    expected = sum(detector.network.get_submodule(name).weight[place].abs().item() for name, place in wanted)
    found = sparsity(detector, 0.5)(detector, NO_IMAGES, Seen())
    assert found.keys() == {"sparsity"}
    assert found["sparsity"].item() == pytest.approx(0.5 * expected, rel=1e-5)


def test_scales_of_layers_that_stay_whole_are_left_alone() -> None:
    detector = residual()
    sparsity(detector, 1.0)(detector, NO_IMAGES, Seen())["sparsity"].backward()
    groups = {member.layer for group in trace(*subject(detector)).groups for member in group.members}
    for name, module in detector.network.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight.grad is not None) == (name in groups)
            assert module.bias.grad is None


def scales(detector: Detector) -> float:
    norms = [m.weight.abs().mean().item() for m in detector.modules() if isinstance(m, nn.BatchNorm2d)]
    return sum(norms) / len(norms)


def test_training_with_it_ends_with_smaller_scales() -> None:
    found = []
    for weight in (0.0, 0.1):
        recipe = tiny_recipe()
        how = TrainConfig(epochs=5, batch=4, lr=1e-2, optimizer="adamw", schedule="constant", sparsity=weight)
        detector = tiny_detector(recipe)
        terms = terms_of(recipe, how, detector, teacher=None)
        training = build_data(recipe.data, "train")
        history = fit(
            detector, loader_of(recipe, how, training, detector, ALONE), how, place=ALONE, terms=terms
        )
        assert ("sparsity" in history[0]) == (weight > 0)
        found.append(scales(detector))
    assert found[1] < 0.97 * found[0]


def test_a_detector_without_batch_norm_is_refused_in_one_line() -> None:
    detector = build("refinedet", ["cat", "dog"], size=(64, 64), width=0.0625)
    with pytest.raises(
        ConfigError, match=r"sparsity=0.001 draws on batch norm scales.* refinedet .*set sparsity=0"
    ):
        sparsity(detector, 1e-3)


def test_a_negative_weight_is_refused_with_its_key() -> None:
    with pytest.raises(ConfigError, match="sparsity=-1"):
        TrainConfig(sparsity=-1.0)
