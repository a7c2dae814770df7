"""Budgets, ratios and rules as people write them: what each means, and what is refused."""

import re

import pytest

from compress.allocation import ratio_widths
from compress.budget import parse_limit
from compress.groups import Graph, Group
from compress.plan import Rules
from detectors.errors import PlanError


def one_group(channels: int) -> Graph:
    """A graph of a single group, which is all that ratios and rules look at."""
    return Graph((Group("a", channels, (), ("a",)),), {}, ())


@pytest.mark.parametrize(
    ("text", "first", "limit"),
    [
        ("50%", 1000, 500),
        ("50%", 1001, 500),
        ("12.5%", 800, 100),
        (" 25 % ", 400, 100),
        ("100%", 57, 57),
        ("29%", 100, 29),
        ("58%", 50, 29),
        ("800M", 1, 800_000_000),
        ("1.2G", 1, 1_200_000_000),
        ("8.2M", 1, 8_200_000),
        ("300k", 1, 300_000),
        ("300K", 1, 300_000),
        ("1e6", 1, 1_000_000),
        (12345, 1, 12345),
        (12345.9, 1, 12345),
    ],
)
def test_limits_are_read_as_people_write_them(text: str | float, first: int, limit: int) -> None:
    assert parse_limit(text, first, "prune.budget.macs") == limit


@pytest.mark.parametrize(
    "text", ["", "%", "half", "0", "0%", "-5M", "5X", "5 0%", "nan", "inf", "infG", "5%%"]
)
def test_bad_limits_are_refused_with_the_key_and_the_ways_to_write_one(text: str) -> None:
    with pytest.raises(PlanError) as caught:
        parse_limit(text, 1000, "prune.budget.params")
    assert f"prune.budget.params={text!r} is not a budget" in str(caught.value)
    assert "50%" in str(caught.value)


def test_a_share_of_more_than_all_is_refused() -> None:
    assert parse_limit("100%", 1000, "prune.budget.macs") == 1000
    with pytest.raises(
        PlanError, match=r"^prune.budget.macs=150% is more than the whole; write a share from"
    ):
        parse_limit("150%", 1000, "prune.budget.macs")


@pytest.mark.parametrize(
    ("channels", "ratio", "kept"),
    [(64, 0.2, 52), (50, 0.58, 21), (100, 0.29, 71), (10, 0.7, 3), (5, 0.2, 4), (4, 0.2, 4)],
)
def test_a_ratio_is_taken_as_it_is_written(channels: int, ratio: float, kept: int) -> None:
    assert ratio_widths(one_group(channels), ratio, Rules(multiple=1, floor=0.0, largest_cut=1.0)) == {
        "a": kept
    }


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 1.5])
def test_a_ratio_outside_0_to_1_is_refused(ratio: float) -> None:
    with pytest.raises(PlanError, match=re.escape(f"prune.ratio={ratio}")):
        ratio_widths(one_group(8), ratio, Rules())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"multiple": 0}, "prune.multiple=0 is below 1"),
        ({"floor": 1.5}, "prune.floor=1.5 is not between 0 and 1"),
        ({"largest_cut": -0.1}, "prune.largest_cut=-0.1 is not between 0 and 1"),
    ],
)
def test_rules_out_of_range_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(PlanError, match=re.escape(message)):
        Rules(**settings)


@pytest.mark.parametrize(
    ("channels", "rules", "options"),
    [
        (8, Rules(multiple=16), [8]),
        (8, Rules(multiple=8), [8]),
        (20, Rules(multiple=8), [8, 16, 20]),
        (20, Rules(multiple=8, floor=0.5), [16, 20]),
        (20, Rules(multiple=8, largest_cut=0.0), [20]),
        (10, Rules(multiple=1, floor=0.0, largest_cut=0.7), [3, 4, 5, 6, 7, 8, 9, 10]),
        (5, Rules(multiple=1, floor=0.0, largest_cut=1.0), [1, 2, 3, 4, 5]),
        (12, Rules(multiple=4, floor=0.25, largest_cut=1.0, first_widths={"a": 32}), [8, 12]),
        (8, Rules(multiple=1, floor=0.5, first_widths={"a": 32}), [8]),
        (12, Rules(multiple=4, floor=0.25, largest_cut=1.0, first_widths={"other": 32}), [4, 8, 12]),
    ],
)
def test_the_widths_that_rules_allow(channels: int, rules: Rules, options: list[int]) -> None:
    assert rules.options(one_group(channels).groups[0]) == options
