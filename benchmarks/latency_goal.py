"""Is a plan by the clock quicker than one by MACs? python -m benchmarks.latency_goal [--quick] [...].

For each share, SSD300-VGG16 is cut to that share of its latency, measured in torch and in onnxruntime, and
to that share of its MACs; then every slim network is timed in both engines, in turn with the dense one. The
goal: the measured speed-up is at least 0.95 of the reduction of MACs. Initial weights: what a layer takes
does not hang on them. Writes latency_goal.json and latency_goal.md to benchmarks/results. To be run on an
idle machine, where each plan takes minutes. `--quick` runs the same code on a small detector, to see that
it runs.
"""

import argparse
import json
import time
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import nn

import compress
from benchmarks.main_job import machine
from compress.cost import cost_of, subject
from compress.latency.engines import ENGINES, Stopwatch
from detectors.errors import PlanError
from detectors.models import build
from detectors.models.base import Detector

RESULTS = Path(__file__).parent / "results"
GOAL = 0.95
CLASSES = [f"class {k}" for k in range(20)]


def plans(
    dense: Detector, shares: list[str], watches: dict[str, Stopwatch], **options: Any
) -> list[dict[str, Any]]:
    """A slim detector for each share of each cost, with the seconds of planning and cutting."""
    rows: list[dict[str, Any]] = []
    for share in shares:
        wanted = [("MACs", {"macs": share}, None)]
        wanted += [(f"latency in {name}", {"latency_ms": share}, watch) for name, watch in watches.items()]
        for name, budget, watch in wanted:
            started = time.perf_counter()
            row: dict[str, Any] = {"plan": name, "share": share, "slim": None, "error": None}
            try:
                row["slim"] = compress.prune(dense, budget=budget, stopwatch=watch, **options)
            except PlanError as error:  # the others are still worth their time
                row["error"] = str(error)
            rows.append({**row, "seconds": time.perf_counter() - started})
            print(f"{name} {share}: {rows[-1]['seconds']:.0f} s {row['error'] or ''}", flush=True)
    return rows


def timed(dense: Detector, slim: Detector, watch: Stopwatch) -> dict[str, float]:
    """Milliseconds of both networks in turn, and how much quicker the slim one is."""
    network, inputs = subject(dense)
    networks: list[nn.Module] = [network, slim.network]
    before, after = watch.networks(networks, inputs)
    return {
        "dense_ms": before.median_ms,
        "dense_p90_ms": before.p90_ms,
        "slim_ms": after.median_ms,
        "slim_p90_ms": after.p90_ms,
        "speed_up": before.median_ms / after.median_ms,
    }


def command(arguments: argparse.Namespace) -> str:
    """What to type for the same numbers; where files lie is left out."""
    words = ["python -m benchmarks.latency_goal"]
    words += ["--quick"] if arguments.quick else []
    words += [f"--{name} {getattr(arguments, name)}" for name in ("choice", "multiple", "threads")]
    return " ".join(word for word in words if not word.endswith("None"))


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """All plans, each timed in both engines."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    small: dict[str, Any] = {"size": [64, 64], "width": 0.25} if arguments.quick else {}
    dense = build("ssd_vgg16_bn" if arguments.quick else "ssd300_vgg16", CLASSES, **small).eval()
    runs = 3 if arguments.quick else arguments.runs
    watches = {name: Stopwatch(engine=name, runs=runs) for name in ENGINES}
    if arguments.tables:
        arguments.tables.mkdir(parents=True, exist_ok=True)
        watches = {
            name: replace(watch, table=arguments.tables / f"{name}.json") for name, watch in watches.items()
        }
    rows = plans(dense, arguments.share, watches, choice=arguments.choice, multiple=arguments.multiple)
    whole = cost_of(dense)
    for row in rows:
        slim = row.pop("slim")
        if slim is None:
            continue
        row["macs_reduction"] = whole.macs / cost_of(slim).macs
        row["engines"] = {}
        for name, watch in watches.items():
            found = timed(dense, slim, watch)
            row["engines"][name] = {**found, "ratio": found["speed_up"] / row["macs_reduction"]}
    return {
        "command": command(arguments),
        "date": date.today().isoformat(),
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "detector": dense.spec.name,
        "gmacs": whole.macs / 1e9,
        "choice": arguments.choice,
        "multiple": arguments.multiple,
        "runs": runs,
        "goal": GOAL,
        "plans": rows,
    }


def summary(facts: dict[str, Any]) -> str:
    """The facts as Markdown."""
    lines = [
        f"`{facts['command']}`, {facts['date']}, {facts['machine']}, {facts['threads']} threads, float32, "
        "batch 1.",
        "",
        "| plan by | share | MACs left | times fewer MACs | timed in | dense, ms | slim, ms | times faster "
        "| faster / fewer | planned in, s |",
        "|---|---:|---:|---:|---|---:|---:|---:|---:|---:|",
    ]
    for row in facts["plans"]:
        if row["error"]:
            lines.append(f"| {row['plan']} | {row['share']} | {row['error']} |" + " |" * 7)
            continue
        for engine, found in row["engines"].items():
            cells = [
                row["plan"],
                row["share"],
                f"{1 / row['macs_reduction']:.1%}",
                f"{row['macs_reduction']:.2f}",
                engine,
                f"{found['dense_ms']:.1f} (p90 {found['dense_p90_ms']:.1f})",
                f"{found['slim_ms']:.1f} (p90 {found['slim_p90_ms']:.1f})",
                f"{found['speed_up']:.2f}",
                f"{found['ratio']:.2f}",
                f"{row['seconds']:.0f}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(
        [
            *lines,
            "",
            f"`{facts['detector']}`, {facts['gmacs']:.3f} GMACs, prune.choice={facts['choice']}, "
            f"prune.multiple={facts['multiple']}, l1; medians of {facts['runs']} passes of the network, "
            f"dense and slim in turn. Faster / fewer: the goal is {facts['goal']}.",
            "",
        ]
    )


def main() -> None:
    """Measures and writes."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--quick", action="store_true", help="a small detector, few runs")
    parser.add_argument("--share", nargs="+", default=["50%", "25%"], help="of the latency, and of the MACs")
    parser.add_argument("--choice", default="uniform", help="prune.choice")
    parser.add_argument("--multiple", type=int, default=8, help="prune.multiple")
    parser.add_argument("--threads", type=int, help="CPU threads; else as many as torch has")
    parser.add_argument("--runs", type=int, default=20, help="timed passes behind each median")
    parser.add_argument("--tables", type=Path, help="folder that keeps the tables of layers")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the two files")
    arguments = parser.parse_args()
    facts = measure(arguments)
    text = summary(facts)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "latency_goal.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    (arguments.out / "latency_goal.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
