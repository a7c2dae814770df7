"""Plans by the clock beside plans by MACs: what is planned, what is timed, and the table."""

from argparse import Namespace
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import latency_goal as benchmark
from detectors.errors import PlanError


class Slim:
    """Stands for a cut detector: how quick it is, and what is left of it."""

    def __init__(self, budget: dict[str, str]) -> None:
        self.budget = budget


def test_each_share_is_planned_by_macs_and_by_the_clock_of_each_engine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Any] = []

    def prune(dense: Any, *, budget: dict[str, str], stopwatch: Any, **options: Any) -> Slim:
        asked.append((budget, stopwatch))
        if budget == {"latency_ms": "25%"}:
            raise PlanError("out of reach")
        return Slim(budget)

    monkeypatch.setattr(benchmark.compress, "prune", prune, raising=False)
    rows = benchmark.plans(SimpleNamespace(), ["50%", "25%"], {"torch": "watch"})
    assert asked == [
        ({"macs": "50%"}, None),
        ({"latency_ms": "50%"}, "watch"),
        ({"macs": "25%"}, None),
        ({"latency_ms": "25%"}, "watch"),
    ]
    assert [row["error"] for row in rows] == [None, None, None, "out of reach"]


def test_the_table_says_how_much_of_the_reduction_is_speed() -> None:
    found = {
        "dense_ms": 100.0,
        "dense_p90_ms": 110.0,
        "slim_ms": 50.0,
        "slim_p90_ms": 55.0,
        "speed_up": 2.0,
        "ratio": 1.0,
    }
    row = {"plan": "MACs", "share": "50%", "error": None, "macs_reduction": 2.0, "seconds": 3.0}
    lost = {"plan": "latency in torch", "share": "25%", "error": "out of reach", "seconds": 1.0}
    facts = {
        "command": "python -m benchmarks.latency_goal",
        "date": "2026-01-02",
        "machine": "a machine",
        "threads": 2,
        "detector": "ssd300_vgg16",
        "gmacs": 31.4,
        "choice": "uniform",
        "multiple": 8,
        "runs": 20,
        "goal": 0.95,
        "plans": [{**row, "engines": {"torch": found}}, lost],
    }
    text = benchmark.summary(facts)
    assert (
        "| MACs | 50% | 50.0% | 2.00 | torch | 100.0 (p90 110.0) | 50.0 (p90 55.0) | 2.00 | 1.00 | 3 |"
        in text
    )
    assert "| latency in torch | 25% | out of reach |" in text


def test_the_command_is_told_with_what_decides_the_numbers() -> None:
    given = Namespace(quick=False, choice="uniform", multiple=16, threads=None, tables="x", out="y")
    assert benchmark.command(given) == "python -m benchmarks.latency_goal --choice uniform --multiple 16"
