"""What makes a channel worth keeping: a group to one score for each channel, the higher the better."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from compress.groups import Group
from compress.narrow import filters
from detectors.registry import Registry

Criterion = Callable[[nn.Module, Group], Tensor]

CRITERIA: Registry[Criterion] = Registry("criterion", "compress.criteria")


@CRITERIA.register("l1")
def l1(model: nn.Module, group: Group) -> Tensor:
    """Mean |w| of a filter (Li et al., 2017), averaged over the layers that make the channel.

    Args:
        model: the network that the group was found in.
        group: what to score.

    Returns:
        `[group.channels]` float64.
    """
    return _filter_mean(model, group, lambda weight: weight.abs())


@CRITERIA.register("l2")
def l2(model: nn.Module, group: Group) -> Tensor:
    """Root mean square of a filter's weights, over all layers that make the channel together.

    Args and result as `l1`.
    """
    return _filter_mean(model, group, lambda weight: weight.square()).sqrt()


def _filter_mean(model: nn.Module, group: Group, value: Callable[[Tensor], Tensor]) -> Tensor:
    """The mean of some value of each channel's filters, in float64, so that ties are real ties."""
    scores = torch.zeros(group.channels, dtype=torch.float64)
    counts = torch.zeros(group.channels, dtype=torch.float64)
    for member in group.members:
        if member.side != "out" or member.layer not in group.producers:
            continue
        module = model.get_submodule(member.layer)
        means = value(filters(module).cpu().double()).flatten(1).mean(dim=1)
        scores.index_add_(0, member.channels, means[member.positions])
        counts.index_add_(0, member.channels, torch.ones(len(member.channels), dtype=torch.float64))
    return scores / counts
