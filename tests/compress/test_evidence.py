"""Gradients by gates equal those of explicit masks, image by image, and the model is left as it was."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toys import TOYS, ConvNorm, ThreeConvs, inputs, made

from compress.criteria import CRITERIA
from compress.evidence import Evidence, gather, moments
from compress.graph import trace
from compress.groups import Group
from compress.inputs import tensors_in
from compress.taps import channel_places, consumers
from detectors.errors import PlanError

# Both add the same float32 products, in another order.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def images(count: int = 4) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def loss(model: nn.Module, batch: Tensor) -> Tensor:
    """A mean over images of something that no image shares with another."""
    rows = [tensor.flatten(1) for tensor in tensors_in(model(batch))]
    return torch.cat(rows, dim=1).square().sum(dim=1).sqrt().mean()


def masked_gradient(model: nn.Module, group: Group, image: Tensor) -> Tensor:
    """The derivative of an image's loss by a factor on each channel, put in front of every consumer."""
    gate = torch.ones(group.channels, requires_grad=True)

    def put(member: Any) -> Any:
        places = channel_places(member)

        def before(module: nn.Module, args: Any) -> Any:
            width = args[0].shape[-1 if isinstance(module, nn.Linear) else 1]
            factor = torch.ones(width).index_put((places,), gate.expand(places.shape))
            return (args[0] * (factor if isinstance(module, nn.Linear) else factor[:, None, None]),)

        return model.get_submodule(member.layer).register_forward_pre_hook(before)

    hooks = [put(member) for member in consumers(group)]
    loss(model, image[None]).backward()
    for hook in hooks:
        hook.remove()
    assert gate.grad is not None
    return gate.grad.double()


@pytest.mark.parametrize("kind", TOYS)
def test_each_image_has_the_gradient_of_an_explicit_mask(kind: type[nn.Module]) -> None:
    model = made(kind)
    groups = trace(model, inputs()).groups
    found = gather(model, groups, [images()[:3], images()[3:]], loss, needs=["gradients"])
    assert found.batches.tolist() == [0, 0, 0, 1]
    for group in groups:
        expected = torch.stack([masked_gradient(model, group, image) for image in images()])
        assert expected.abs().max() > 0
        torch.testing.assert_close(found.gradients[group.name], expected, **CLOSE)


def test_taylor_is_the_change_along_scale_and_shift_of_the_norm() -> None:
    model = made(ConvNorm)
    group = trace(model, inputs()).groups[0]
    evidence = gather(model, [group], [images()], loss, needs=["gradients"])
    loss(model, images()).backward()
    norm = model.a_norm
    expected = (norm.weight * norm.weight.grad + norm.bias * norm.bias.grad).abs() * len(images())
    torch.testing.assert_close(
        CRITERIA["taylor"](model, group, evidence), expected.detach().double(), **CLOSE
    )


def test_taylor_takes_the_mean_over_batches_and_fisher_that_of_squares_over_images() -> None:
    model = made(ThreeConvs)
    group = trace(model, inputs()).groups[0]
    rows = torch.arange(group.channels * 3).view(3, -1).double() - 5
    evidence = Evidence({group.name: rows}, torch.tensor([0, 0, 1]))
    assert torch.equal(
        CRITERIA["taylor"](model, group, evidence), ((rows[0] + rows[1]).abs() + rows[2].abs()) / 2
    )
    assert torch.equal(CRITERIA["fisher"](model, group, evidence), rows.square().mean(dim=0))


class SecondStage(nn.Module):
    """Reads patches of all images as rows of their own, as a second stage reads proposals."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.hidden, self.head = nn.Conv2d(3, 8, 1), nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.body(x).relu().movedim(1, -1).reshape(-1, 8)
        return self.head(self.hidden(rows).relu()).view(len(x), -1)


def test_of_a_network_that_regroups_rows_a_batch_counts_as_one_image() -> None:
    model = made(SecondStage)
    groups = [g for g in trace(model, inputs()).groups if g.name == "hidden"]
    both = [g for g in trace(model, inputs()).groups]
    assert groups
    together = gather(model, both, [images()], loss, needs=["gradients"])
    alone = gather(model, both, list(images().split(1)), loss, needs=["gradients"])
    for group in both:
        assert together.gradients[group.name].shape == (1, group.channels)
        torch.testing.assert_close(
            together.gradients[group.name][0], alone.gradients[group.name].sum(0), **CLOSE
        )


def test_moments_are_those_of_what_the_consumer_reads() -> None:
    model = made(ThreeConvs)
    groups = trace(model, inputs()).groups
    read = model.a(images()).relu().movedim(1, -1).reshape(-1, 8).double().detach()
    found = moments(model, groups, [images()[:1], images()[1:]], lambda m, x: m(x))["a", "b"]
    torch.testing.assert_close(found.inputs, read.T @ read / len(read), **CLOSE)
    torch.testing.assert_close(found.means, read.mean(dim=0, keepdim=True), **CLOSE)
    assert not found.gradients.any()
    scored = gather(model, groups, [images()], loss, needs=["gradients", "moments"]).moments["a", "b"]
    torch.testing.assert_close(scored.inputs, found.inputs, **CLOSE)
    felt = model.a(images()).relu().detach().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(nn.Sequential(model.b, nn.ReLU(), model.c), felt) * 4, felt)
    slopes = gradient.movedim(1, -1).reshape(-1, 8).double()
    torch.testing.assert_close(scored.gradients, slopes.T @ slopes / len(slopes), **CLOSE)


def test_moments_end_early_once_there_are_enough_images_and_positions_for_each_channel() -> None:
    class Pooled(nn.Module):
        """A consumer of whole maps, and one of a single position."""

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3), nn.Conv2d(5, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(self.b(self.a(x)).relu().amax((2, 3), keepdim=True))

    model, draw = Pooled().eval(), torch.Generator().manual_seed(0)
    batches = torch.randn(40, 2, 3, 8, 8, generator=draw)
    groups = trace(model, batches[0, :1]).groups
    looked_at = []
    for enough in (None, (6, 0), (7, 1), (6, 8), (2, 99)):
        found = moments(model, groups, batches, lambda m, x: m(x), enough=enough)
        looked_at.append(sum(found["b", "c"].maps.values()))
    # 8 positions for each of the 5 channels that c reads, one in an image: 40 images.
    assert looked_at == [80, 6, 8, 40, 80]


@pytest.mark.parametrize("needs", [["gradients"], ["gradients", "moments"]])
def test_gathering_leaves_the_model_and_the_random_state_as_they_were(needs: list[Any]) -> None:
    model = made(ConvNorm)
    model.a.weight.requires_grad_(False)
    model.train()
    model.b_norm.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    state = torch.random.get_rng_state()
    gather(model, trace(model, inputs()).groups, [images()], loss, needs=needs)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["a.weight"]
    assert all(p.grad is None for p in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_frozen_model_is_scored_as_a_free_one() -> None:
    free, frozen = made(ThreeConvs), made(ThreeConvs).requires_grad_(False)
    groups = trace(free, inputs()).groups
    one, other = (gather(m, groups, [images()], loss, needs=["gradients"]) for m in (free, frozen))
    assert all(torch.equal(one.gradients[name], other.gradients[name]) for name in one.gradients)


@pytest.mark.parametrize(
    ("batches", "how", "message"),
    [
        ([], loss, "there are no calibration images"),
        ([images()], lambda m, x: loss(m, x) / 0, "the loss is inf on calibration batch 1: .* such as l1"),
        ([images()], lambda m, x: x.sum(), "the loss depends on no channel"),
    ],
)
def test_what_cannot_be_scored_is_one_line(batches: list[Tensor], how: Any, message: str) -> None:
    model = made(ThreeConvs)
    with pytest.raises(PlanError, match=message):
        gather(model, trace(model, inputs()).groups, batches, how, needs=["gradients"])
