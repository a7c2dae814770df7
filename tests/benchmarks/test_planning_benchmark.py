"""The benchmark of planning: a small run of all of it."""

import json

from benchmarks import planning as benchmark
from compress.allocation import CHOICES


def test_the_quick_run_plans_by_every_choice_within_every_budget_and_writes_it(tmp_path):
    benchmark.main(quick=True, out=tmp_path)
    facts = json.loads((tmp_path / "planning.json").read_text())
    (found,) = facts["detectors"].values()
    plans = found["plans"]
    assert {plan["choice"] for plan in plans} == set(CHOICES)
    assert len(plans) == 3 * 2 * len(CHOICES)
    for plan in plans:
        assert all(plan[kind] <= share for kind, share in plan["budget"].items())
        assert plan["seconds"]["least"] > 0
    lost = {choice: [plan["lost"] for plan in plans if plan["choice"] == choice] for choice in CHOICES}
    assert all(
        knapsack <= uniform for uniform, knapsack in zip(lost["uniform"], lost["knapsack"], strict=True)
    )
    text = (tmp_path / "planning.md").read_text()
    assert text == benchmark.summary(facts)
    assert text.startswith(f"`python -m benchmarks.planning --quick`, {facts['date']}, ")
