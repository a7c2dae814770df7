"""A made-up ledger as the table and the sentence that people read."""

from pathlib import Path
from typing import Any

import pytest
from toys import Concat, Normed, Residual, inputs, made

from compress.graph import trace
from compress.ledger import Ledger
from compress.plan import plan_of
from compress.report import markdown, verdict, widths_table


def score(value: float, low: float | None = None, high: float | None = None) -> dict[str, Any]:
    return {
        "metric": "voc",
        "label": "mAP (voc)",
        "value": value,
        "low": low,
        "high": high,
        "per_class": {"cat": value, "dog": None},
        "details": {},
        "images": 40,
        "seconds": 1.5,
    }


def state(macs: int, value: dict, difference: dict | None = None, ms: float | None = None) -> dict[str, Any]:
    latency = {"p90_ms": 2 * (ms or 0), "runs": 5, "batch": 1, "threads": 1, "device": "cpu"}
    return {
        "cost": {"macs": macs, "params": macs // 100, "bytes": macs // 25},
        "score": value,
        "difference": difference,
        "latency": {"median_ms": ms, **latency} if ms else None,
        "first_latency": {"median_ms": 12.0, **latency} if ms else None,
    }


def ledger_of(path: Path, *entries: dict[str, Any]) -> Ledger:
    ledger = Ledger(path / "ledger.jsonl")
    for entry in entries:
        ledger.add(entry)
    return ledger


START = {"round": 0, "phase": "start", **state(200_000_000, score(0.8, 0.75, 0.85), ms=10.0)}
CUT = {"round": 1, "phase": "recalibrate", "score": score(0.4321)}


def last(difference: dict | None, ms: float | None = 4.0) -> dict[str, Any]:
    value = score(0.78, 0.7, 0.84)
    return {"round": 1, "phase": "evaluate", **state(50_000_000, value, difference, ms)}


def test_each_finished_round_is_a_row_with_every_cost(tmp_path: Path) -> None:
    table, _, note = markdown(ledger_of(tmp_path, START, CUT, last(None))).partition("\n\n")
    assert note.startswith("ms: median of ")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    header = [
        "round",
        "mAP (voc)",
        "before fine-tuning",
        "MACs",
        "params",
        "MB",
        "ms",
        "ms of round 0",
        "speed-up",
    ]
    timed = ["10.0 (p90 20.0)", "12.0", "1.20"], ["4.0 (p90 8.0)", "12.0", "3.00"]
    assert rows == [
        header,
        ["---"] + ["---:"] * 8,
        ["0", "0.800 [0.750, 0.850]", "", "200.0 M (100.0%)", "2.000 M (100.0%)", "8.00", *timed[0]],
        ["1", "0.780 [0.700, 0.840]", "0.432", "50.0 M (25.0%)", "0.500 M (25.0%)", "2.00", *timed[1]],
    ]


def test_without_interval_or_latency_the_cells_say_so(tmp_path: Path) -> None:
    start = {"round": 0, "phase": "start", **state(1_000_000, score(0.5))}
    row = markdown(ledger_of(tmp_path, start)).splitlines()[-1]
    assert row == "| 0 | 0.500 |  | 1.0 M (100.0%) | 0.010 M (100.0%) | 0.04 | - | - | - |"


def test_an_empty_or_unfinished_ledger_says_so(tmp_path: Path) -> None:
    assert markdown(Ledger(tmp_path / "ledger.jsonl")) == "no finished phase"
    assert verdict(ledger_of(tmp_path, START, CUT)) == "the run is not finished"
    assert verdict(Ledger(tmp_path / "none.jsonl")) == "the run is not finished"


@pytest.mark.parametrize(
    ("low", "high", "where"),
    [
        (-0.05, 0.01, "inside"),
        (-0.04, -0.001, "outside"),
        (0.001, 0.03, "outside"),
        (0.0, 0.02, "inside"),
        (-0.02, 0.0, "inside"),
    ],
)
def test_a_difference_inside_the_noise_is_called_that(
    tmp_path: Path, low: float, high: float, where: str
) -> None:
    text = verdict(
        ledger_of(
            tmp_path,
            START,
            CUT,
            last({"metric": "voc", "value": -0.02, "low": low, "high": high, "images": 40}),
        )
    )
    assert text == (
        "4.0 times fewer MACs, 4.0 times smaller, 3.0 times faster; mAP (voc) 0.800 -> 0.780 (-0.020), "
        f"paired 95 % interval [{low:+.3f}, {high:+.3f}]: {where} the noise of 40 images"
    )


def test_without_bootstrap_and_latency_the_verdict_claims_neither(tmp_path: Path) -> None:
    text = verdict(ledger_of(tmp_path, START, CUT, last(None, ms=None)))
    assert text == "4.0 times fewer MACs, 4.0 times smaller; mAP (voc) 0.800 -> 0.780 (-0.020)"


def test_the_widths_table_names_every_group_and_every_layer_kept_whole() -> None:
    graph = trace(made(Residual), inputs())
    plan = plan_of(graph, {"stem": 5}, lambda group, keep: group_scores(group.channels))
    lines = widths_table(graph, plan).splitlines()
    assert lines[1].split() == ["stem", "with", "branch", "8", "->", "5"]
    assert lines[2] == "  kept whole (makes an output): head"
    assert lines[3] == f"  {plan.before} -> {plan.after}"

    graph = trace(made(Concat), inputs())
    text = widths_table(graph, plan_of(graph, {"left": 6}, lambda group, keep: group_scores(group.channels)))
    assert "kept whole (skipped by the recipe): right" in text

    graph = trace(made(Normed), inputs())
    text = widths_table(graph, plan_of(graph, {"body": 8, "deeper": 6}, lambda group, keep: group_scores(8)))
    assert "kept whole (makes an output): fine, coarse" in text


def group_scores(channels: int) -> Any:
    import torch

    return torch.arange(channels, dtype=torch.float64)
