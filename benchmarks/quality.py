"""Which way of cutting keeps the most: python -m benchmarks.quality SET [key=value ...] [--hours H].

SET is hard (drawn, recipes/hard.yaml), bccd or cards (`data.root=PATH`). Every method cuts the same dense
detector once and gets the same epochs of fine-tuning; its learning rate is the best of three on the val
split, at 5 % of the MACs. Then test is read once for each method, share and seed. Each trial leaves a JSON
file in benchmarks/results/quality/SET, named by its settings, so that the command goes on where it was
stopped. `--part 1/2` and `--part 2/2` share the work, `--hours` ends it in time, `--tables` only writes
benchmarks/results/quality_SET.md from what is there. `--val ours` with other settings, such as
`distill.attention=300`, is how ours is tuned.

The dense detector is weights/SET_SPLITS_seed0.pth, named by what it was trained on (where val is part of
that, another one chooses the learning rates) and trained by the recipe where it is missing. Intervals are
paired 95 % bootstrap intervals over the test images, of the mean over seeds.
"""

import argparse
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.trials import CHANGES, CONTROLS, DENSE, METHODS, Bench, OutOfTime, Recovery, Trial
from detectors.evaluation.bootstrap import interval

ROOT = Path(__file__).parent.parent
RATES = (4e-3, 8e-3, 16e-3)
SHARES = (0.10, 0.05, 0.025)
SEEDS = {0.05: (0, 1, 2)}
TABLES: dict[Recovery, str] = {
    "plain": "Each method with plain fine-tuning, ours with its own recovery",
    "ours": "Every method with our recovery",
}
# Recipe, what holds val out of the training, and the set whose val chooses the learning rates.
SETS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "hard": ("recipes/hard.yaml", ("data.test=[val]",), "hard"),
    "bccd": ("recipes/bccd.yaml", ("data.train=[train]", "data.test=[val]"), "bccd"),
    "cards": ("recipes/cards.yaml", (), "bccd"),
}


def bench_of(name: str, overrides: Sequence[str] = (), deadline: float = math.inf) -> Bench:
    """The bench of a data set; `deadline` as of `time.monotonic`."""
    recipe, tuning, _ = SETS[name]
    folder = ROOT / "benchmarks" / "results" / "quality" / name
    return Bench(str(ROOT / recipe), tuple(overrides), tuning, folder, ROOT / "weights", deadline)


def methods_of(table: Recovery) -> tuple[str, ...]:
    """The rows of a table; the controls stand in the first one alone."""
    return tuple(method for method in METHODS if table == "plain" or method not in CONTROLS)


def share_of(method: str, share: float) -> float:
    """What a method leaves of the MACs: a control that is not cut serves every share."""
    return 1.0 if method == DENSE else share


def recovery_of(method: str, table: Recovery) -> Recovery:
    """Ours recovers in its own way in both tables."""
    return "ours" if method == "ours" else table


def tuning_of(method: str, table: Recovery) -> list[Trial]:
    """What is scored on val, at 5 % of the MACs: a trial for each learning rate."""
    share, recovery = share_of(method, 0.05), recovery_of(method, table)
    return [Trial(method, share, recovery, rate, 0, "val") for rate in RATES]


def rate_of(chooser: Bench, method: str, table: Recovery) -> float:
    """The learning rate that scores best on val."""
    return max(tuning_of(method, table), key=lambda trial: chooser.result(trial)["score"]).lr


def trials_of(method: str, table: Recovery, share: float, rate: float) -> list[Trial]:
    """What is scored on test: a trial for each seed."""
    left, recovery = share_of(method, share), recovery_of(method, table)
    return [Trial(method, left, recovery, rate, seed, "test") for seed in SEEDS.get(share, (0,))]


def wanted(chooser: Bench, part: int = 0, parts: int = 1) -> Iterator[Trial]:
    """All trials on test, the most telling first; of several processes, those of one."""
    pairs = [(method, table) for table in TABLES for method in methods_of(table)]
    pairs.remove(("ours", "ours"))  # the same as in the first table
    for share in (0.05, 0.025, 0.10):
        for method, table in pairs[part::parts]:
            yield from trials_of(method, table, share, rate_of(chooser, method, table))
    rate = rate_of(chooser, "ours", "ours")
    for change in tuple(CHANGES)[part::parts]:
        yield Trial("ours", 0.025, "ours", rate, 0, "test", change)


def tables(name: str, bench: Bench, chooser: Bench) -> str:
    """All results as Markdown; what has not been run is a dash."""
    chooser.deadline = bench.deadline = -math.inf  # only what is there
    parts = [f"`python -m benchmarks.quality {name}`"]
    for table, title in TABLES.items():
        rows = [["method", "lr", *(f"{share:.1%} of the MACs" for share in SHARES)]]
        for method in methods_of(table):
            try:
                rate = rate_of(chooser, method, table)
            except OutOfTime:
                continue
            cells = [
                _cell(bench, method, table, share, rate, _ours(bench, chooser, share)) for share in SHARES
            ]
            rows.append([method, f"{rate:g}", *cells])
        parts.append(f"{title}:\n\n{_markdown(rows)}")
    parts.append(f"Ours with one thing changed:\n\n{_markdown(_ablation(bench, chooser))}")
    return "\n\n".join(parts) + "\n"


def difference(
    ours: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]]
) -> tuple[float, float, float]:
    """By how much others score above ours, means over seeds, and the paired 95 % interval."""

    def mean(key: str, facts: Sequence[dict[str, Any]]) -> Any:
        return np.mean([one[key] for one in facts], axis=0)

    value = float(mean("score", others) - mean("score", ours))
    low, high = interval(value, mean("resampled", others) - mean("resampled", ours))
    return value, low, high


def _found(bench: Bench, trials: Sequence[Trial]) -> list[dict[str, Any]] | None:
    """The results of trials; None unless all are there."""
    try:
        return [bench.result(trial) for trial in trials]
    except OutOfTime:
        return None


def _ours(bench: Bench, chooser: Bench, share: float) -> list[dict[str, Any]] | None:
    try:
        return _found(bench, trials_of("ours", "ours", share, rate_of(chooser, "ours", "ours")))
    except OutOfTime:
        return None


def _cell(
    bench: Bench, method: str, table: Recovery, share: float, rate: float, ours: list[dict[str, Any]] | None
) -> str:
    facts = _found(bench, trials_of(method, table, share, rate))
    if facts is None:
        return "-"
    mean = f"{np.mean([one['score'] for one in facts]):.3f}"
    return mean if method == "ours" or ours is None else f"{mean} ({_against(ours, facts)})"


def _ablation(bench: Bench, chooser: Bench) -> list[list[str]]:
    rows = [["changed", "AP at 2.5%", "difference"]]
    ours = _ours(bench, chooser, 0.025)
    if ours is None:
        return rows
    rate = rate_of(chooser, "ours", "ours")
    rows.append(["nothing", f"{ours[0]['score']:.3f}", ""])
    for change in CHANGES:
        facts = _found(bench, [Trial("ours", 0.025, "ours", rate, 0, "test", change)])
        if facts is not None:
            rows.append([change, f"{facts[0]['score']:.3f}", _against(ours, facts)])
    return rows


def _against(ours: Sequence[dict[str, Any]], facts: Sequence[dict[str, Any]]) -> str:
    value, low, high = difference(ours, facts)
    return f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"


def _markdown(rows: list[list[str]]) -> str:
    lines = [rows[0], ["---"] + ["---:"] * (len(rows[0]) - 1), *rows[1:]]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines)


def main() -> None:
    """Runs the trials that have no result yet and writes the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("set", choices=SETS)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--hours", type=float, default=math.inf, help="when no further trial is begun")
    parser.add_argument("--part", default="1/1", help="1/2 and 2/2 share the trials of two processes")
    parser.add_argument("--tables", action="store_true", help="run nothing")
    parser.add_argument("--val", choices=METHODS, help="only score this method with our recovery on val")
    given = parser.parse_args()
    deadline = -math.inf if given.tables else time.monotonic() + 3600 * given.hours
    bench = bench_of(given.set, given.overrides, deadline)
    chosen_by = SETS[given.set][2]
    chooser = bench if chosen_by == given.set else bench_of(chosen_by, (), deadline)
    if given.val:
        for trial in tuning_of(given.val, "ours"):
            print(f"{chooser.result(trial)['score']:.4f} on val with lr {trial.lr:g}", flush=True)
        return
    try:
        part, parts = map(int, given.part.split("/"))
        for trial in wanted(chooser, part - 1, parts):
            bench.result(trial)
    except OutOfTime:
        print("not all trials are done; the same command goes on")
    text = tables(given.set, bench, chooser)
    (ROOT / "benchmarks" / "results" / f"quality_{given.set}.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
