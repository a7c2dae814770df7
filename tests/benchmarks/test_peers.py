"""What torch-pruning selects, as the benchmark asks it to."""

import pytest
import torch
from torch import nn

from benchmarks.peers import OutOfReach, plan_for, selected
from compress.graph import trace
from compress.groups import Graph
from compress.probe import Keep

GLOBAL = "torch-pruning magnitude, global"


def even_and_odd() -> tuple[nn.Sequential, Graph, torch.Tensor]:
    """Magnitudes over their layer's mean: 4 of about 1, then 11 of 1.09 beside one of 0."""
    torch.manual_seed(0)
    even, odd, head = (nn.Conv2d(*widths, 3, padding=1) for widths in ((3, 4), (4, 12), (12, 2)))
    with torch.no_grad():
        even.weight.fill_(1).mul_(torch.tensor([0.97, 0.99, 1.01, 1.03]).view(4, 1, 1, 1))
        odd.weight.fill_(1).mul_(torch.linspace(1, 1.01, 12).view(12, 1, 1, 1))[5] = 0
    network, image = nn.Sequential(even, odd, head), torch.zeros(1, 3, 8, 8)
    return network, trace(network, image), image


def macs(even: int, odd: int) -> int:
    return 64 * 9 * (3 * even + even * odd + odd * 2)


def chosen(limit: int, name: str = GLOBAL) -> Keep:
    network, graph, image = even_and_odd()
    return selected(name, network, graph, image, limit, lambda model: model(image + 1).sum())


def macs_of(keep: Keep) -> int:
    return plan_for(even_and_odd()[1], keep).after.macs


def test_the_smallest_ratio_that_fits_is_taken_where_larger_ones_leave_more() -> None:
    # One more would leave the first layer none, so that it would stay whole.
    assert macs(4, 11) > macs(1, 11)
    keep = chosen(macs(1, 11))
    assert keep == {"0": (3,), "1": tuple(sorted(set(range(12)) - {5}))}


@pytest.mark.parametrize("name", [GLOBAL, "torch-pruning Taylor, local"])
@pytest.mark.parametrize("share", [0.6, 0.4])
def test_the_selection_fits_and_is_found_again_by_what_it_leaves(name: str, share: float) -> None:
    limit = int(share * macs(4, 12))
    left = macs_of(chosen(limit, name))
    assert 0.5 * limit < left <= limit
    assert macs_of(chosen(left, name)) == left


def test_a_limit_below_what_any_ratio_leaves_is_out_of_reach() -> None:
    with pytest.raises(OutOfReach, match=r"torch-pruning magnitude, global cannot reach 64 MACs"):
        chosen(64)
