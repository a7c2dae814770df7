"""Batch norm statistics after a cut are those of the images that the network sees now."""

import pytest
import torch
from torch import nn
from toys import ConvNorm, FrozenFirst, ThreeConvs, made

from compress.recalibrate import batch_norm_statistics
from detectors.errors import ConfigError


def batches(count: int, size: int = 4) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(size, 3, 16, 16, generator=generator) * (k + 1) for k in range(count)]


def test_the_first_norm_gets_mean_and_variance_over_all_images() -> None:
    model = made(ConvNorm)
    images = batches(5)
    assert batch_norm_statistics(model, images) == 2
    with torch.no_grad():
        maps = [model.a(batch) for batch in images]
    means = torch.stack([one.mean(dim=(0, 2, 3)) for one in maps])
    variances = torch.stack([one.var(dim=(0, 2, 3)) for one in maps])
    torch.testing.assert_close(model.a_norm.running_mean, means.mean(dim=0))
    torch.testing.assert_close(model.a_norm.running_var, variances.mean(dim=0))
    # Batches of equal size: the mean of their means is the mean over all images.
    everything = torch.cat(maps)
    torch.testing.assert_close(model.a_norm.running_mean, everything.mean(dim=(0, 2, 3)))


def test_a_later_norm_is_measured_behind_the_norms_of_its_own_batch() -> None:
    model = made(ConvNorm)
    images = batches(3)
    batch_norm_statistics(model, images)
    means = []
    with torch.no_grad():
        for batch in images:
            x = model.a(batch)
            x = nn.functional.batch_norm(x, None, None, model.a_norm.weight, model.a_norm.bias, True)
            means.append(model.b(x.relu()).mean(dim=(0, 2, 3)))
    torch.testing.assert_close(model.b_norm.running_mean, torch.stack(means).mean(dim=0))


@pytest.mark.parametrize("before", [1, 7])
def test_earlier_statistics_and_their_age_do_not_matter(before: int) -> None:
    fresh, old = made(ConvNorm), made(ConvNorm)
    old.a_norm.running_mean.fill_(100.0)
    old.a_norm.num_batches_tracked.fill_(before)
    batch_norm_statistics(fresh, batches(3))
    batch_norm_statistics(old, batches(3))
    assert all(torch.equal(a, b) for a, b in zip(fresh.buffers(), old.buffers(), strict=True))


def test_momentum_is_put_back_and_only_statistics_change() -> None:
    model = made(ConvNorm).train()
    model.a_norm.momentum, model.b_norm.momentum = 0.03, None
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    batch_norm_statistics(model, batches(2))
    assert (model.a_norm.momentum, model.b_norm.momentum) == (0.03, None)
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(p, weights[name]) for name, p in model.named_parameters())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("training", [True, False])
def test_a_frozen_norm_keeps_its_statistics_and_later_ones_are_measured_behind_it(training: bool) -> None:
    model = made(FrozenFirst).train(training)
    before = {name: buffer.clone() for name, buffer in model.a_norm.named_buffers()}
    images = batches(5)
    assert batch_norm_statistics(model, images) == 1
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.a_norm.named_buffers())
    with torch.no_grad():
        wanted = torch.cat([model.b(model.a_norm(model.a(batch)).relu()) for batch in images])
    torch.testing.assert_close(model.b_norm.running_mean, wanted.mean(dim=(0, 2, 3)))


@pytest.mark.parametrize("kind", [nn.SyncBatchNorm, nn.BatchNorm1d])
def test_batch_norms_of_all_kinds_are_measured(kind: type[nn.BatchNorm1d]) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(2), kind(4)).eval()
    images = batches(3)
    assert batch_norm_statistics(model, images) == 1
    with torch.no_grad():
        expected = model[0](torch.cat(images)).mean(dim=(0, 2, 3))
    torch.testing.assert_close(model[2].running_mean, expected)


def test_a_single_value_of_each_channel_is_one_line() -> None:
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3))
    assert batch_norm_statistics(model, batches(1, size=2)) == 1
    message = "a batch of one image has a map of 1x1 here, .*; raise prune.calibration_images to 2 or more"
    with pytest.raises(ConfigError, match=message):
        batch_norm_statistics(model, batches(2, size=1))


def test_without_batch_norm_no_batch_is_read() -> None:
    def broken():
        raise AssertionError("read a batch")
        yield

    assert batch_norm_statistics(made(ThreeConvs), broken()) == 0


def test_without_batches_the_statistics_stay() -> None:
    model = made(ConvNorm)
    before = [buffer.clone() for buffer in model.buffers()]
    try:
        batch_norm_statistics(model, [])
    except ValueError:
        return  # saying so is fine; statistics of nothing at all are not
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), before, strict=True))


def test_a_pass_is_made_as_the_caller_says() -> None:
    plain, shifted = made(ConvNorm), made(ConvNorm)
    batch_norm_statistics(plain, [batch + 1 for batch in batches(2)])
    batch_norm_statistics(shifted, batches(2), lambda model, batch: model(batch + 1))
    assert all(torch.equal(a, b) for a, b in zip(plain.buffers(), shifted.buffers(), strict=True))
