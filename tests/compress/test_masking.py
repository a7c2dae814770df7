"""A slim network in the shapes of the first one computes the same, with zeros where something was cut."""

from pathlib import Path

import pytest
import torch
from tiny_runs import tiny_detector, tiny_recipe, tiny_run
from torch import nn
from toys import TOYS, inputs, made

import detectors
from compress.graph import trace
from compress.inputs import copied, tensors_in
from compress.masking import unfolded
from compress.probe import narrowed


def halved(model: nn.Module, first: int) -> dict[str, tuple[int, ...]]:
    """Every second channel of each group, from the first or the second on."""
    return {g.name: tuple(range(first, g.channels, 2)) for g in trace(model, inputs()).groups}


@pytest.mark.parametrize("kind", TOYS)
def test_two_cuts_and_training_written_back_compute_the_same(kind: type[nn.Module]) -> None:
    model = made(kind)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    one = halved(model, 0)
    between = narrowed(model, trace(model, inputs()).groups, one)
    two = halved(between, 1)
    slim = copied(narrowed(between, trace(between, inputs()).groups, two), torch.clone)
    with torch.no_grad():
        for parameter in slim.parameters():
            parameter.mul_(0.9).add_(0.1)  # as training would move them
    whole = unfolded(model, slim, [one, two], inputs())
    assert [p.shape for p in whole.parameters()] == [p.shape for p in model.parameters()]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        pairs = zip(tensors_in(whole(images)), tensors_in(slim(images)), strict=True)
        for got, wanted in pairs:
            # Sums of the same float32 products and of zeros, in another order.
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    kept, alive = (sum(int((p != 0).sum()) for p in m.parameters()) for m in (slim, whole))
    assert alive == kept


def test_a_run_in_mask_mode_leaves_the_first_shapes_and_the_slim_outputs(tmp_path: Path) -> None:
    recipe = tiny_recipe(mode="mask")
    tiny_run(tmp_path, recipe).finish()
    assert not (tmp_path / "slim.pth").exists()
    whole, slim = (detectors.load(tmp_path / name) for name in ("masked.pth", "round_02.pth"))
    first = tiny_detector(recipe)
    assert {k: v.shape for k, v in whole.state_dict().items()} == {
        k: v.shape for k, v in first.state_dict().items()
    }
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        for got, wanted in zip(whole(images), slim(images), strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
