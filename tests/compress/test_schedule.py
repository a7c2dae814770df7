"""Budgets of rounds: given ones are met in turn, and what cannot be is answered before the first cut."""

import re
from dataclasses import replace
from typing import Any

import pytest
from small_detectors import small
from tiny_runs import ALONE, tiny_recipe

from compress.cost import cost_of
from compress.groups import Graph
from compress.plan import Plan
from compress.pruning import carry_out
from compress.recipe import BudgetConfig, PruneConfig, Recipe
from compress.schedule import budget_of_round, check, plan_round
from detectors.data import build as build_data
from detectors.errors import ConfigError, PlanError
from detectors.models.base import Detector


def settings_of(*budgets: dict[str, str], **others: Any) -> PruneConfig:
    return PruneConfig(budgets=[BudgetConfig(**budget) for budget in budgets], multiple=1, **others)


def planned(settings: PruneConfig, number: int, detector: Detector, first: Any = None) -> tuple[Graph, Plan]:
    training = build_data(tiny_recipe().data, "train")
    return plan_round(Recipe(prune=settings), number, detector, training, ALONE, first)


def test_there_are_as_many_rounds_as_budgets() -> None:
    assert settings_of({"macs": "50%"}, {"macs": "20%"}).rounds == 2
    assert settings_of({"macs": "50%"}, {"macs": "20%"}, rounds=2, epochs=[1, 9]).rounds == 2
    assert PruneConfig(rounds=3).rounds == 3


def test_each_round_meets_the_budget_given_for_it_in_shares_of_the_first_model() -> None:
    settings = settings_of({"macs": "50%"}, {"macs": "30%", "params": "40%"}, {"params": "20%"})
    first = detector = small(width=0.125)
    widths, whole = None, cost_of(first)
    for number in (1, 2, 3):
        graph, plan = planned(settings, number, detector, widths and (whole, widths))
        widths = widths or {group.name: group.channels for group in graph.groups}
        budget = budget_of_round(settings, whole, number)
        assert budget.holds(plan.after)
        detector = carry_out(detector, graph, plan)
        assert cost_of(detector) == plan.after
        if number == 1:
            assert 0.45 * whole.macs < plan.after.macs <= 0.5 * whole.macs
    assert plan.after.params <= 0.2 * whole.params


@pytest.mark.parametrize(
    ("budgets", "message"),
    [
        (({"macs": "20%"}, {"macs": "50%"}), r"prune\.budgets\[1\]\.macs=\S+ is above the \S+ of an earlier"),
        (
            ({"params": "20%"}, {"macs": "50%"}, {"params": "30%"}),
            r"prune\.budgets\[2\]\.params=\S+ is above",
        ),
        (({"macs": "0.1%"}, {"macs": "0.1%"}), r"out of reach: .* in each of 1 round,"),
        (({"macs": "50%"}, {"macs": "0.01%"}), r"out of reach: .* in each of 2 rounds"),
        (({"macs": "50%"}, {"macs": "half"}), r"prune\.budgets\[1\]\.macs='half' is not a budget"),
    ],
)
def test_budgets_that_cannot_be_are_refused_before_the_first_round(
    budgets: tuple[dict[str, str], ...], message: str
) -> None:
    detector = small(width=0.125)
    with pytest.raises(PlanError, match=message):
        check(Recipe(prune=settings_of(*budgets)), detector)


@pytest.mark.parametrize(
    "settings",
    [
        # Two halvings would do, but the first round is told to take next to nothing.
        settings_of({"macs": "90%"}, {"macs": "15%"}, largest_cut=0.5),
        # Equal relative cuts take little of what is free at first, and leave the last round too much.
        PruneConfig(
            budget=BudgetConfig(macs="30%"),
            rounds=3,
            multiple=1,
            largest_cut=0.4,
            skip=["backbone.features.?"],
        ),
    ],
)
def test_rounds_that_leave_the_last_one_too_much_are_refused_before_the_first(settings: PruneConfig) -> None:
    detector = small(width=0.125)
    with pytest.raises(PlanError, match=r"^after [12] rounds?, budget macs=\S+ is out of reach: "):
        check(Recipe(prune=settings), detector)
    check(Recipe(prune=replace(settings, largest_cut=0.9)), detector)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rounds": 3}, "prune.rounds=3 does not work: it must be 2, as prune.budgets has"),
        ({"budget": BudgetConfig(macs="9%")}, "prune.budgets and prune.budget contradict each other"),
        ({"ratio": 0.2}, "prune.budgets and prune.ratio contradict each other: give one and not both"),
        ({"ratios": {"*": 0.2}}, "prune.budgets and prune.ratios contradict each other"),
        ({"epochs": [3]}, "a number of epochs for each of the 2 rounds"),
        ({"bounds": [2.0, 3.0]}, "prune.bounds=[2.0, 3.0] does not work: it must be two numbers around 1"),
    ],
)
def test_settings_that_contradict_the_budgets_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        settings_of({"macs": "50%"}, {"macs": "20%"}, **settings)


def test_a_budget_without_a_limit_is_refused_by_its_place() -> None:
    with pytest.raises(ConfigError, match=re.escape("prune.budgets[1]={} does not work")):
        settings_of({"macs": "50%"}, {})


def test_recipe_settings_of_the_knapsack_reach_the_plan() -> None:
    detector = small(width=0.25)
    settings = PruneConfig(
        budget=BudgetConfig(macs="40%"), multiple=1, choice="knapsack", caps={"extras.*": 0.1}, bounds=None
    )
    _, plan = planned(settings, 1, detector)
    extras = [pair for name, pair in plan.widths.items() if name.startswith("extras")]
    assert extras
    assert all(after >= 0.9 * before for before, after in extras)
    settings.bounds, settings.caps = [1.0, 1.0], {}
    _, tied = planned(settings, 1, detector)
    settings.choice = "uniform"
    assert planned(settings, 1, detector)[1] == tied
