"""Criteria of what the loss says, and what activations say, on calibration data."""

import torch
from torch import Tensor, nn

from compress.criteria import criterion
from compress.criteria.subset import subset_gains
from compress.evidence import Evidence
from compress.groups import Group
from compress.taps import consumers, takes_constant


@criterion("taylor", needs=["gradients"], comparable=True)
def taylor(model: nn.Module, group: Group, evidence: Evidence) -> Tensor:
    """|change of the loss| to first order if a channel goes (Molchanov et al., 2019, gates), mean over
    batches.

    The derivative by a gate is the sum of weight times gradient over the weights that read the channel, and
    over scale and shift of the batch norm that makes it: coupled layers are summed before the absolute value.
    """
    gradients = evidence.gradients[group.name]
    count = int(evidence.batches.max()) + 1
    sums = torch.zeros(count, group.channels, dtype=torch.float64)
    return sums.index_add_(0, evidence.batches, gradients).abs().mean(dim=0)


@criterion("fisher", needs=["gradients"], comparable=True)
def fisher(model: nn.Module, group: Group, evidence: Evidence) -> Tensor:
    """Squared derivative by a channel's gate of what an image adds to the loss of its batch, mean over images
    (Group Fisher, 2021, eq. 4, and its code for detectors).

    All that reads a channel of the group is summed before squaring.
    """
    return evidence.gradients[group.name].square().mean(dim=0)


@criterion("column_subset", needs=["gradients", "moments"], comparable=True)
def column_subset(model: nn.Module, group: Group, evidence: Evidence) -> Tensor:
    """What a channel adds to those kept before it: greedy column-subset selection on activations.

    The channels that go are regressed on those that stay, as `prune.compensate=refit` will do in every
    consumer, with a constant where it takes one once norms are measured anew; what is left over, weighted by
    the second moments of the loss's gradients, is the loss that the cut costs to second order. The channel
    that lowers it most is kept next (Farahat et al., 2011, Greedy Column Subset Selection, with a weighted
    norm). What a consumer reads of a channel at several places counts one by one, each regressed on what it
    reads of the others there.
    """
    readers = []
    for member in consumers(group):
        found = evidence.moments[group.name, member.layer]
        constant = takes_constant(model.get_submodule(member.layer), member.layer, evidence.normed)
        inputs = found.covariances if constant else found.inputs
        for first in range(0, len(inputs), group.channels):
            place = slice(first, first + group.channels)
            readers.append((inputs[place, place], found.gradients[place, place]))
    return subset_gains(readers)
