"""Criteria that need no data: they look at filters and batch norm scales."""

import zlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from compress.criteria import criterion
from compress.evidence import Evidence
from compress.groups import Group, Member
from compress.narrow import filters, multiplies
from detectors.errors import PlanError
from detectors.geometry import BATCH_NORMS


@criterion("l1")
def l1(model: nn.Module, group: Group, evidence: Evidence) -> Tensor:
    """Mean |w| of a filter (Li et al., 2017), averaged over the layers that make the channel."""
    return _mean_over_filters(model, group, lambda rows: rows.abs().mean(dim=1))


@criterion("l2")
def l2(model: nn.Module, group: Group, evidence: Evidence) -> Tensor:
    """Root mean square of a filter's weights, over all layers that make the channel together."""
    return _mean_over_filters(model, group, lambda rows: rows.square().mean(dim=1)).sqrt()


@criterion("geometric_median")
def geometric_median(model: nn.Module, group: Group, evidence: Evidence) -> Tensor:
    """Distance of a filter to all others of its layer: the nearest to their median goes (He et al., 2019, eq.
    5).

    Per weight, as a root mean square, so that layers of different size compare; averaged over the layers that
    make the channel.
    """
    return _mean_over_filters(
        model, group, lambda rows: torch.cdist(rows, rows).mean(dim=1) / rows.shape[1] ** 0.5
    )


@criterion("bn_scale")
def bn_scale(model: nn.Module, group: Group, evidence: Evidence) -> Tensor:
    """|gamma| of the batch norm behind a channel (Liu et al., Network Slimming, 2017), mean over several."""
    norms = [m for m in _made(group) if isinstance(model.get_submodule(m.layer), BATCH_NORMS)]
    scales = [(m, model.get_submodule(m.layer).weight) for m in norms]
    found = [(member, scale.detach()) for member, scale in scales if isinstance(scale, Tensor)]
    if not found:
        if not any(isinstance(m, BATCH_NORMS) and m.affine for m in model.modules()):
            raise PlanError(
                "prune.criterion=bn_scale: the network has no batch norm with a scale; take another "
                "criterion, such as l1"
            )
        raise PlanError(
            f"prune.criterion=bn_scale: no batch norm with a scale stands behind {group.name}; skip that "
            "layer (prune.skip) or take another criterion, such as l1"
        )
    return _averaged(group, ((member, scale.abs()) for member, scale in found))


@criterion("random")
def random(model: nn.Module, group: Group, evidence: Evidence) -> Tensor:
    """Uniform random numbers, by seed and name of the group: what any criterion must beat."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{evidence.seed}/{group.name}".encode()))
    return torch.rand(group.channels, generator=generator, dtype=torch.float64)


def _mean_over_filters(model: nn.Module, group: Group, value: Callable[[Tensor], Tensor]) -> Tensor:
    """The mean of some value of each channel's filters, in float64, so that ties are real ties."""
    makers = [m for m in _made(group) if multiplies(model.get_submodule(m.layer))]
    rows = ((m, filters(model.get_submodule(m.layer)).cpu().double().flatten(1)) for m in makers)
    return _averaged(group, ((member, value(weights)) for member, weights in rows))


def _made(group: Group) -> list[Member]:
    """The members that make the channels or act on them one by one."""
    return [member for member in group.members if member.side == "out"]


def _averaged(group: Group, found: "Iterator[tuple[Member, Tensor]]") -> Tensor:
    """The mean for each channel of values that stand at the places of some members."""
    scores = torch.zeros(group.channels, dtype=torch.float64)
    counts = torch.zeros(group.channels, dtype=torch.float64)
    for member, values in found:
        scores.index_add_(0, member.channels, values.cpu().double()[member.positions])
        counts.index_add_(0, member.channels, torch.ones(len(member.channels), dtype=torch.float64))
    return scores / counts
