"""Shares of layers, caps, and what the one ranking compares."""

import math
import re
import statistics
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import nn
from toys import Concat, ThreeConvs, inputs, made

import compress
from compress.allocation import (
    CHOICES,
    TAPER,
    allocate,
    global_widths,
    layer_ratio_widths,
    ratio_widths,
    tapered_widths,
    uniform_widths,
)
from compress.budget import Budget
from compress.cost import cost_of, cost_of_layers
from compress.graph import trace
from compress.groups import Graph
from compress.plan import Rules
from compress.pricing import priced
from compress.reach import check_reachable
from detectors.errors import PlanError
from detectors.models import build

FREE = Rules(multiple=1, floor=0.0, largest_cut=1.0)


IMAGE = torch.zeros(1, 3, 64, 64)


def network() -> nn.Module:
    torch.manual_seed(3)
    return build("ssd_vgg16_bn", ["a", "b"], size=(64, 64), width=0.25).network


@cache
def graph() -> Graph:
    return trace(network(), IMAGE)


def test_of_the_globs_that_match_the_first_one_written_counts_and_the_rest_stays() -> None:
    ratios = {"backbone.features.0": 0.5, "backbone.*": 0.25}
    widths = layer_ratio_widths(graph(), ratios, FREE)
    for group in graph().groups:
        removed = group.channels - widths[group.name]
        if group.name == "backbone.features.0":
            assert removed == group.channels // 2
        elif group.name.startswith("backbone"):
            assert removed == group.channels // 4
        else:
            assert removed == 0


def test_a_glob_that_decides_nothing_behind_others_is_named() -> None:
    message = (
        r"prune\.ratios: 'backbone\.features\.0' decides nothing: 'backbone\.\*', which stands before it, "
        "names its layers too, and the first glob that matches counts; write the narrower one first"
    )
    with pytest.raises(PlanError, match=message):
        layer_ratio_widths(graph(), {"backbone.*": 0.25, "backbone.features.0": 0.5}, FREE)


def test_a_glob_may_name_a_norm_or_any_of_the_layers_that_are_tied() -> None:
    assert layer_ratio_widths(graph(), {"backbone.features.1": 0.5}, FREE)["backbone.features.0"] == 8


def test_one_glob_for_all_is_a_ratio() -> None:
    for rules in (FREE, Rules(multiple=8), Rules(multiple=4, floor=0.8)):
        assert layer_ratio_widths(graph(), {"*": 0.3}, rules) == ratio_widths(graph(), 0.3, rules)


HEAD = next(name for name, reason in graph().whole.items() if reason == "makes an output")


@pytest.mark.parametrize("key", ["prune.ratios", "prune.caps"])
@pytest.mark.parametrize(
    ("glob", "message"),
    [
        ("backbone.feature.0", "no layer matches 'backbone.feature.0'; did you mean backbone.features.0"),
        ("backbon.*", "no layer matches 'backbon.*'; did you mean backbone.*"),
        ("bakcbone.features.*", "no layer matches 'bakcbone.features.*'; did you mean backbone.features.*"),
        (f"{HEAD}0", f"no layer matches '{HEAD}0'; known: "),  # near a layer that is never cut
        (HEAD, f"{HEAD!r} names only layers that are never cut; "),
        ("extras.*", "'extras.*' names only layers that are never cut; known: backbone.*"),
    ],
)
def test_a_glob_without_layers_that_can_be_cut_names_the_nearest(key: str, glob: str, message: str) -> None:
    rules = Rules(skip=("extras.*",), caps={glob: 0.5} if key == "prune.caps" else {})
    ratios = {"backbone.*": 0.1, **({glob: 0.5} if key == "prune.ratios" else {})}
    with pytest.raises(PlanError) as caught:
        layer_ratio_widths(graph(), ratios, rules)
    assert str(caught.value).startswith(f"{key}: {message}")
    if key == "prune.caps":
        for choice in CHOICES:
            with pytest.raises(PlanError, match=re.escape(message)):
                allocate(graph(), dict, Budget(macs=10**9), rules, choice=choice)


def test_where_every_layer_is_skipped_no_glob_is_asked_for_another_name() -> None:
    with pytest.raises(PlanError, match=r"no layer matches 'bone'; no layer may be cut: .* prune\.skip"):
        layer_ratio_widths(graph(), {"bone": 0.5}, Rules(skip=("*",)))


def test_a_layer_that_earlier_rounds_cut_down_to_one_channel_may_still_be_named() -> None:
    rules = Rules(multiple=1, first_widths={HEAD: 8, **{g.name: g.channels for g in graph().groups}})
    assert layer_ratio_widths(graph(), {HEAD: 0.5, "extras.*": 0.1}, rules)


@pytest.mark.parametrize("ratio", [-0.1, 1.0])
def test_ratios_outside_0_to_1_are_refused_by_their_glob(ratio: float) -> None:
    with pytest.raises(PlanError, match=re.escape(f"prune.ratios: 'extras.*': {ratio} is not a share")):
        layer_ratio_widths(graph(), {"backbone.*": 0.1, "extras.*": ratio}, FREE)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"caps": {"a": 1.5}}, "prune.caps: 'a': 1.5 is not a share between 0 and 1"),
        ({"caps": {"a": 0.6}, "floor": 0.5}, "prune.caps: 'a': 0.6 lets more go than prune.floor=0.5"),
        ({"bounds": (1.2, 2.0)}, "prune.bounds=[1.2, 2.0] does not hold the uniform width"),
        ({"bounds": (0.5, 0.9)}, "prune.bounds=[0.5, 0.9] does not hold the uniform width"),
    ],
)
def test_caps_and_bounds_that_cannot_be_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(PlanError, match=re.escape(message)):
        Rules(**settings)


def test_caps_are_of_the_first_width_over_all_rounds_and_all_that_match_hold() -> None:
    caps = {"backbone.*": 0.5, "backbone.features.0": 0.25}
    channels = {group.name: group.channels for group in graph().groups}
    rules = Rules(multiple=1, floor=0.0, largest_cut=1.0, caps=caps)
    least = {group.name: rules.options(group)[0] for group in graph().groups}
    assert least["backbone.features.0"] == 12
    assert least["backbone.features.3"] == channels["backbone.features.3"] // 2
    assert least["extras.0.0" if "extras.0.0" in least else list(least)[-1]] == 1
    twice = Rules(1, 0.0, 1.0, (), {name: 2 * width for name, width in channels.items()}, caps)
    assert all(
        twice.options(group) == [group.channels] for group in graph().groups if group.name.startswith("back")
    )


def test_tapered_widths_follow_the_power_of_the_first_ones_and_lose_less_by_one_over_width() -> None:
    budget = Budget(macs=cost_of_layers(graph().layers).macs // 10)
    widths = tapered_widths(graph(), budget, FREE)
    assert budget.holds(priced(graph(), widths))
    first = {group.name: group.channels for group in graph().groups}
    factors = {name: width / first[name] ** TAPER for name, width in widths.items()}
    factor = statistics.median(factors.values())
    for name, width in widths.items():  # a step of rounding and one that was given back
        assert width == pytest.approx(factor * first[name] ** TAPER, abs=2), name
    equal = uniform_widths(graph(), budget, FREE)
    assert min(first, key=lambda name: widths[name] / first[name]) == max(first, key=first.__getitem__)
    assert sum(1 / width for width in widths.values()) < 0.95 * sum(1 / width for width in equal.values())


def test_filters_that_are_tied_are_tapered_as_those_that_are_not() -> None:
    def blocks(norm: nn.Module) -> nn.Module:
        first = (nn.Conv2d(3, 64, 3), norm, nn.ReLU())
        return nn.Sequential(
            *first, nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.Conv2d(64, 4, 1)
        )

    filters = []
    for norm in (nn.GroupNorm(16, 64), nn.BatchNorm2d(64)):
        slim = compress.prune_module(
            blocks(norm).eval(), IMAGE, budget={"macs": "10%"}, choice="tapered", multiple=1, floor=0.0
        )
        filters.append([slim[place].out_channels for place in (0, 3, 5)])
    tied, free = filters
    assert all(abs(one - other) <= 4 for one, other in zip(tied, free, strict=True)), filters


def test_a_second_cut_tapers_by_the_widths_of_the_first_model() -> None:
    first = {group.name: group.channels for group in graph().groups}
    slim = compress.prune_module(
        network(), IMAGE, budget={"macs": "40%"}, choice="tapered", multiple=1, floor=0.0, largest_cut=1.0
    )
    again = trace(slim, IMAGE)
    limit = Budget(macs=cost_of_layers(graph().layers).macs // 10)
    at_once = tapered_widths(graph(), limit, FREE)
    in_two = tapered_widths(again, limit, replace(FREE, first_widths=first))
    assert all(abs(in_two[name] - width) <= 1 for name, width in at_once.items())
    narrow, wide = (pick(first, key=first.__getitem__) for pick in (min, max))
    alone = tapered_widths(again, limit, FREE)  # of a model whose past is not known, once more
    assert alone[narrow] / alone[wide] > 1.2 * in_two[narrow] / in_two[wide]


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_keeps_to_caps(choice: str) -> None:
    draw = torch.Generator().manual_seed(0)
    scores = {g.name: torch.rand(g.channels, generator=draw).double() for g in graph().groups}
    rules = Rules(multiple=1, caps={"backbone.features.[0-9]": 0.2}, bounds=None)
    budget = Budget(macs=cost_of_layers(graph().layers).macs * 6 // 10)
    widths = allocate(graph(), lambda: scores, budget, rules, choice=choice)
    assert budget.holds(priced(graph(), widths))
    for name in ("backbone.features.0", "backbone.features.3", "backbone.features.7"):
        channels = next(group.channels for group in graph().groups if group.name == name)
        assert widths[name] >= math.ceil(0.8 * channels)


def test_a_budget_that_caps_put_out_of_reach_says_so_and_names_the_smallest() -> None:
    whole = cost_of_layers(graph().layers).macs
    rules = Rules(multiple=1, floor=0.0, largest_cut=1.0, caps={"*": 0.3})
    with pytest.raises(PlanError) as caught:
        uniform_widths(graph(), Budget(macs=whole // 5), rules)
    text = str(caught.value)
    assert "prune.caps of *" in text
    assert "Raise the budget or prune.caps" in text
    smallest = int(re.search(r"keeps ([\d,]+) ", text)[1].replace(",", ""))
    check_reachable(graph(), Budget(macs=smallest), rules, rounds=4)
    with pytest.raises(PlanError):
        check_reachable(graph(), Budget(macs=smallest - 1), rules, rounds=4)


def twins(left: float, right: float) -> tuple[Graph, dict[str, torch.Tensor]]:
    """Two layers of one size, the left one dear; every channel of each has the score given."""
    model = made(Concat)
    model.left, model.right = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Conv2d(3, 8, 1)
    found = trace(model, inputs())
    scores = {name: torch.full((8,), value).double() for name, value in (("left", left), ("right", right))}
    return found, scores


@pytest.mark.parametrize(
    ("left", "right", "comparable", "first"),
    [
        (1.0, 1.0, True, "left"),  # as good, but dearer: 27 + 4 weights for a channel to 3 + 4
        (10.0, 1.0, True, "right"),  # worth more than it costs more
        (10.0, 1.0, False, "left"),  # magnitudes of different layers say nothing
        (4.0, 1.0, True, "left"),  # 4 / 31 is below 1 / 7
        (5.0, 1.0, True, "right"),  # 5 / 31 is above
    ],
)
def test_the_ranking_is_by_score_for_cost_and_magnitudes_are_first_made_comparable(
    left: float, right: float, comparable: bool, first: str
) -> None:
    found, scores = twins(left, right)
    budget = Budget(macs=priced(found, {first: 6}).macs)
    widths = global_widths(found, scores, budget, FREE, comparable=comparable)
    assert widths[first] < 8
    assert widths["right" if first == "left" else "left"] == 8


def test_equal_worth_is_cut_from_the_layer_that_runs_first_each_time() -> None:
    found = trace(made(ThreeConvs), inputs())
    scores = {group.name: torch.zeros(group.channels).double() for group in found.groups}
    budget = Budget(macs=priced(found, {"a": 5}).macs)
    plans = [global_widths(found, scores, budget, FREE) for _ in range(2)]
    assert plans == [{"a": 5, "b": 12}] * 2


def test_scores_are_asked_for_only_where_they_count() -> None:
    def never() -> dict[str, torch.Tensor]:
        raise AssertionError("scored")

    budget = Budget(macs=cost_of_layers(graph().layers).macs // 2)
    assert allocate(graph(), never, budget, Rules())
    assert allocate(graph(), never, Budget(), Rules(), ratio=0.2)
    assert allocate(graph(), never, Budget(), Rules(), ratios={"extras.*": 0.2})
    with pytest.raises(AssertionError, match="scored"):
        allocate(graph(), never, budget, Rules(), choice="knapsack")


def test_the_python_face_takes_ratios_caps_bounds_and_the_knapsack() -> None:
    model = made(ThreeConvs)
    slim = compress.prune_module(model, inputs(), ratios={"a": 0.5}, multiple=1)
    assert (slim.a.out_channels, slim.b.out_channels) == (4, 12)
    slim = compress.prune_module(
        model, inputs(), budget={"macs": "40%"}, choice="knapsack", caps={"a": 0.125}, bounds=None, multiple=1
    )
    assert slim.a.out_channels >= 7
    assert cost_of(slim, inputs()).macs <= 0.4 * cost_of(model, inputs()).macs
    tight = compress.prune_module(
        model, inputs(), budget={"macs": "40%"}, choice="knapsack", bounds=(1, 1), multiple=1
    )
    uniform = compress.prune_module(model, inputs(), budget={"macs": "40%"}, multiple=1)
    assert [layer.out_channels for layer in tight.children()] == [
        layer.out_channels for layer in uniform.children()
    ]


def test_shrinking_by_ratios_cuts_in_every_round_down_to_the_caps() -> None:
    slim, rows = compress.shrink(
        made(ThreeConvs),
        inputs(),
        ratios={"b": 0.5},
        rules=Rules(multiple=1, caps={"b": 0.6}),
        batches=[inputs()],
        loss=lambda model, batch: model(batch).square().mean(),
        score=lambda model: 0.0,
        rounds=3,
        steps=1,
    )
    assert (slim.a.out_channels, slim.b.out_channels) == (8, 5)
    assert [row.cost.params for row in rows] == sorted((row.cost.params for row in rows), reverse=True)
    assert rows[2].cost == rows[3].cost
