"""Seconds of planning after scoring: python -m benchmarks.planning [--quick] [--out FOLDER].

Every choice of widths for large detectors, traced once, with random scores: for one budget and for two at
once, in steps of 8 and of 1. Writes planning.json and planning.md to benchmarks/results: medians, spread,
what is lost (the sum of -log of each group's kept share), machine and date. To be run on an idle machine;
about two minutes on two cores. `--quick` runs the same code on a small detector, to see that it runs.
"""

import argparse
import json
import math
import time
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.main_job import machine
from compress.allocation import CHOICES, Scores, allocate
from compress.budget import Budget
from compress.cost import cost_of_layers, subject
from compress.graph import trace
from compress.groups import Graph
from compress.plan import Rules, Widths
from compress.pricing import priced
from detectors.models import build

RESULTS = Path(__file__).parent / "results"
CLASSES = [f"class {k}" for k in range(20)]
_DETECTORS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("ssd300_vgg16", {}),
    ("yolo_v3", {"backbone": "darknet53"}),
    ("torchvision_retinanet_resnet50_fpn", {}),
    ("torchvision_fasterrcnn_resnet50_fpn", {}),
)
_BUDGETS: tuple[dict[str, float], ...] = ({"macs": 0.5}, {"macs": 0.1}, {"macs": 0.2, "params": 0.2})


def planning(name: str, options: Mapping[str, Any], runs: int) -> dict[str, Any]:
    """Seconds, cost and loss of every choice for every budget; the same random scores for all."""
    torch.manual_seed(0)
    graph = trace(*subject(build(name, CLASSES, **options)))
    scores = {group.name: torch.rand(group.channels).double() ** 3 for group in graph.groups}
    whole, rows = cost_of_layers(graph.layers), []
    for shares in _BUDGETS:
        budget = Budget(**{kind: int(share * getattr(whole, kind)) for kind, share in shares.items()})
        for rules in (Rules(8), Rules(1)):
            for choice in CHOICES:
                seconds = []
                for _ in range(runs):
                    started = time.perf_counter()
                    widths = allocate(graph, lambda: scores, budget, rules, choice=choice)
                    seconds.append(time.perf_counter() - started)
                cost = priced(graph, widths)
                rows.append(
                    {
                        "budget": shares,
                        "multiple": rules.multiple,
                        "choice": choice,
                        "seconds": {"median": median(seconds), "least": min(seconds), "most": max(seconds)},
                        "macs": cost.macs / whole.macs,
                        "params": cost.params / whole.params,
                        "lost": lost(graph, scores, widths),
                    }
                )
    return {"groups": len(graph.groups), "layers": len(graph.layers), "plans": rows}


def lost(graph: Graph, scores: Scores, widths: Widths) -> float:
    """The sum over the groups of -log(share of the scores that stays)."""
    total = 0.0
    for group in graph.groups:
        ranked = scores[group.name].sort(descending=True).values
        total -= math.log(ranked[: widths[group.name]].sum() / ranked.sum())
    return total


def measure(quick: bool) -> dict[str, Any]:
    """All detectors, one after the other."""
    small = (("ssd_vgg16_bn", {"size": [64, 64], "width": 0.25}),)
    return {
        "command": "python -m benchmarks.planning" + (" --quick" if quick else ""),
        "date": date.today().isoformat(),
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "runs": 1 if quick else 3,
        "detectors": {
            name: planning(name, options, 1 if quick else 3)
            for name, options in (small if quick else _DETECTORS)
        },
    }


def summary(facts: Mapping[str, Any]) -> str:
    """The facts as Markdown."""
    lines = [
        f"`{facts['command']}`, {facts['date']}, {facts['machine']}, {facts['threads']} threads.",
        "",
        "| detector | groups | choice | slowest plan, s | its budget | its multiple | lost |",
        "|---|---:|---|---:|---|---:|---:|",
    ]
    for name, found in facts["detectors"].items():
        for choice in dict.fromkeys(plan["choice"] for plan in found["plans"]):
            plans = [plan for plan in found["plans"] if plan["choice"] == choice]
            slowest = max(plans, key=lambda plan: plan["seconds"]["median"])
            seconds = slowest["seconds"]
            cells = [
                f"`{name}`",
                str(found["groups"]),
                choice,
                f"{seconds['median']:.2f} ({seconds['least']:.2f} to {seconds['most']:.2f})",
                ", ".join(f"{kind} {share:.0%}" for kind, share in slowest["budget"].items()),
                str(slowest["multiple"]),
                f"{sum(plan['lost'] for plan in plans) / len(plans):.2f}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "The slowest of the plans of each choice (all: planning.json), after tracing and scoring, by the "
        f"median of {facts['runs']}, least and most in brackets. Lost: the sum over the groups of -log(share "
        "of the scores that stays), the mean over the plans.",
    ]
    return "\n".join([*lines, ""])


def main(quick: bool, out: Path) -> None:
    """Measures and writes."""
    facts = measure(quick)
    text = summary(facts)
    out.mkdir(parents=True, exist_ok=True)
    (out / "planning.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    (out / "planning.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--quick", action="store_true", help="a small detector, one run")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of planning.json and planning.md")
    main(**vars(parser.parse_args()))
