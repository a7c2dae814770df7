"""Runs with a budget in milliseconds: recorded, resumed, and refused before anything slow begins."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_clock import FakeStopwatch
from tiny_runs import ALONE, tiny_detector, tiny_recipe, tiny_run

from compress.budget import Budget, Milliseconds
from compress.cost import Cost, cost_of, subject
from compress.ledger import Ledger
from compress.recipe import BudgetConfig, PruneConfig, Recipe
from compress.report import markdown
from compress.rounds import Run
from compress.schedule import budget_of_round, check, plan_round, stopwatch_of
from detectors.engine.distributed import Place, led
from detectors.errors import ConfigError, PlanError
from detectors.loading import load


def timed_recipe(**prune: Any) -> Recipe:
    recipe = tiny_recipe(budget=BudgetConfig(latency_ms="36%"), **prune)
    return replace(recipe, prune=replace(recipe.prune, latency_runs=3))


def timed_run(folder: Path, watch: FakeStopwatch, **prune: Any) -> Run:
    return replace(tiny_run(folder, timed_recipe(**prune)), stopwatch=watch)


def test_each_round_is_timed_and_its_record_says_so(tmp_path: Path) -> None:
    watch = FakeStopwatch(engine="onnxruntime", table=tmp_path / "run" / "latency.json")
    ledger = timed_run(tmp_path / "run", watch).finish()
    first = ledger.find(0, "start")["latency"]["median_ms"]
    for number, share in ((1, 0.6), (2, 0.36)):
        timed = ledger.find(number, "cut")["timed"]
        assert timed["limit_ms"] == pytest.approx(share * first)
        assert timed["slim_ms"] == pytest.approx(share * first, rel=0.05)
        assert (timed["first_ms"], timed["engine"]) == (pytest.approx(first), "onnxruntime")
        assert ledger.find(number, "evaluate")["latency"]["median_ms"] == pytest.approx(timed["slim_ms"])
    assert "1 thread, in onnxruntime; each model in turn" in markdown(ledger)
    slim = load(tmp_path / "run" / "slim.pth")
    assert watch.networks([slim.network], subject(slim)[1])[0].median_ms == pytest.approx(timed["slim_ms"])
    # The same plan by the table that is left measures no layer.
    again = FakeStopwatch(engine="onnxruntime", table=watch.table)
    run = tiny_run(tmp_path / "again", timed_recipe())
    plan_round(run.recipe, 1, run.first, run.training, ALONE, clocked=(run.first.network, again))
    assert (len(again.timed) > 1, again.asked) == (True, [])


def test_a_run_that_is_stopped_after_its_cut_keeps_the_plan(tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    def stop(*_: Any) -> Any:
        raise Stopped

    run = timed_run(tmp_path / "run", FakeStopwatch())
    run._recalibrate = stop  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        run.finish()
    # By another clock the plan would be another one; the cut that is done is not done again.
    slow = FakeStopwatch(layer_ms=lambda shape: 1.0, whole_ms=lambda total: total)
    kept = Ledger(tmp_path / "run" / "ledger.jsonl").find(1, "cut")
    with pytest.raises(PlanError, match="out of reach"):
        timed_run(tmp_path / "run", slow).finish()
    ledger = timed_run(tmp_path / "run", FakeStopwatch()).finish()
    assert ledger.find(1, "cut") == kept
    assert ledger.find(2, "evaluate") is not None


def test_what_cannot_be_reached_is_said_before_the_first_model_is_scored() -> None:
    recipe = timed_recipe(floor=0.8, rounds=2)
    detector, watch = tiny_detector(recipe), FakeStopwatch()
    with pytest.raises(PlanError, match=r"latency_ms=\S+ is out of reach: with floor=0\.8, .* of 2 rounds"):
        check(recipe, detector, ALONE, watch)
    assert (watch.timed, watch.asked) == ([2], [])  # dense and smallest in turn, and no table
    check(recipe, detector, Place(1, 2, torch.device("cpu")), watch)  # the leading process has said it
    assert watch.timed == [2]
    check(timed_recipe(), detector, ALONE, watch)
    with pytest.raises(PlanError, match=r"not both a budget and prune\.ratio"):
        check(timed_recipe(ratio=0.3), detector, ALONE, watch)
    with pytest.raises(PlanError, match=r"prune\.skip: no layer matches 'bone'"):
        check(timed_recipe(skip=["bone"]), detector, ALONE, watch)


def test_budgets_of_rounds_in_milliseconds_fall_too() -> None:
    detector = tiny_detector(tiny_recipe())
    for rising in (
        ({"latency_ms": "30%"}, {"latency_ms": "50%"}),
        ({"latency_ms": "1"}, {"latency_ms": "2"}),
    ):
        settings = PruneConfig(budgets=[BudgetConfig(**budget) for budget in rising], multiple=1)
        with pytest.raises(PlanError, match=r"prune\.budgets\[1\]\.latency_ms.* is above the "):
            check(Recipe(prune=settings), detector, ALONE, FakeStopwatch())
    with pytest.raises(PlanError, match=r"prune\.budgets\[0\]\.latency_ms='fast' is not a time"):
        check(Recipe(prune=PruneConfig(budgets=[BudgetConfig(latency_ms="fast")])), detector)
    with pytest.raises(ConfigError, match=r"prune\.budgets and prune\.budget contradict"):
        PruneConfig(budget=BudgetConfig(latency_ms="1"), budgets=[BudgetConfig(macs="1")])


def test_the_limits_of_rounds() -> None:
    cost = cost_of(tiny_detector(tiny_recipe()))
    settings = PruneConfig(budget=BudgetConfig(latency_ms="25%", params="50%"), rounds=2)
    assert budget_of_round(settings, cost, 1).latency == Milliseconds(share=0.25, way=0.5)
    assert budget_of_round(settings, cost, 2).latency == Milliseconds(share=0.25)
    assert budget_of_round(settings, cost, 2).params == cost.params // 2
    budget = Budget(params=10, latency=Milliseconds(ms=3.0))
    assert budget.at_least(Cost(5, 20, 0)) == replace(budget, params=20)
    assert budget.given
    assert not Budget().given


def test_a_recipe_says_how_times_are_taken(tmp_path: Path) -> None:
    recipe = Recipe()
    watch = stopwatch_of(recipe, tmp_path / "latency.json")
    assert (watch.engine, watch.batch, watch.threads, watch.runs) == ("torch", 1, None, 20)
    assert watch.table == tmp_path / "latency.json"
    recipe.prune.latency.table = "shared.json"
    assert stopwatch_of(recipe, tmp_path / "latency.json").table == Path("shared.json")


def test_one_process_asks_itself() -> None:
    assert led(lambda: {"a": 1}, ALONE) == {"a": 1}
