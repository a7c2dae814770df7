"""Which way of cutting keeps the most: python -m benchmarks.quality SET [key=value ...] [--hours H] [--tables].

SET is hard (drawn, recipes/hard.yaml), bccd or cards (`data.root=PATH`). Every method cuts the same dense
detector once and gets the same epochs of fine-tuning; its learning rate is the best of three on the val split,
at 5 % of the MACs. Then test is read once for each method, share and seed. Each trial leaves a JSON file in
benchmarks/results/quality/SET, named by its settings, so that the command goes on where it was stopped; `--hours`
ends it in time, `--tables` only writes benchmarks/results/quality_SET.md from what is there.

The dense detector is weights/SET_test_seed0.pth (and _val_ where val is held out), trained by the recipe where
it is missing. Intervals are paired 95 % bootstrap intervals over the test images, of the mean over seeds.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.trials import CONTROLS, METHODS, WITHOUT, Bench, Recovery, Trial
from detectors.evaluation.bootstrap import interval

ROOT = Path(__file__).parent.parent
RATES = (2e-3, 4e-3, 8e-3)
SHARES = (0.10, 0.05, 0.025)
SEEDS = {0.05: (0, 1, 2)}
# Recipe, what holds val out of the training, whose val chooses the learning rates.
SETS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "hard": ("recipes/hard.yaml", ("data.test=[val]",), "hard"),
    "bccd": ("recipes/bccd.yaml", ("data.train=[train]", "data.test=[val]"), "bccd"),
    "cards": ("recipes/cards.yaml", (), "bccd"),
}


def bench_of(name: str, overrides: Sequence[str] = ()) -> Bench:
    """The bench of a data set."""
    recipe, tuning, _ = SETS[name]
    folder = ROOT / "benchmarks" / "results" / "quality" / name
    return Bench(str(ROOT / recipe), tuple(overrides), tuning, folder, ROOT / "weights")


def recovery_of(method: str, table: Recovery) -> Recovery:
    """Ours always recovers by itself; the controls that train from nothing new have no cut to recover from."""
    return "ours" if method == "ours" else table


def tuning_trials(method: str, table: Recovery) -> list[Trial]:
    """What is scored on val to choose a learning rate."""
    return [Trial(method, 0.05, recovery_of(method, table), rate, 0, "val") for rate in RATES]


def test_trials(method: str, table: Recovery, share: float, rate: float, without: str = "") -> list[Trial]:
    """What is scored on test, for each seed."""
    seeds = (0,) if without else SEEDS.get(share, (0,))
    return [
        Trial(method, share, recovery_of(method, table), rate, seed, "test", without) for seed in seeds
    ]


def main() -> None:
    """Runs the trials that have no result yet, the most telling first, and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("set", choices=SETS)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--hours", type=float, default=float("inf"))
    parser.add_argument("--tables", action="store_true")
    given = parser.parse_args()
    bench = bench_of(given.set, given.overrides)
    end = time.monotonic() + 3600 * given.hours
    if not given.tables:
        for trial in wanted(bench, bench_of(SETS[given.set][2], given.overrides)):
            if time.monotonic() > end:
                print("out of time; the same command goes on")
                break
            facts = bench.result(trial)
            print(f"{facts['score']:.4f} {facts['seconds']:4d} s  {trial}", flush=True)
    text = tables(given.set, bench)
    (ROOT / "benchmarks" / "results" / f"quality_{given.set}.md").write_text(text, encoding="utf-8")
    print(text)


def wanted(bench: Bench, chooser: Bench) -> Iterator[Trial]:
    """All trials in turn; the rate of each method is known once its tuning trials are done."""
    for share in (0.05, 0.025, 0.10):
        for table in ("plain", "ours"):
            for method in METHODS:
                rate = yield from chosen(chooser, method, table, same=bench is chooser)
                yield from test_trials(method, table, share, rate)
    rate = yield from chosen(chooser, "ours", "ours", same=bench is chooser)
    for without in WITHOUT:
        yield from test_trials("ours", "ours", 0.025, rate, without)


def chosen(chooser: Bench, method: str, table: Recovery, *, same: bool) -> Any:
    """The rate that scores best on val, once its trials are yielded (and so run) where they are not done."""
    trials = tuning_trials(method, table)
    if same or chooser.recipe == "":
        yield from trials
    return max(trials, key=lambda trial: chooser.result(trial)["score"]).lr


def tables(name: str, bench: Bench) -> str:
    """All results as Markdown; what has not been run is a dash."""
    parts = [f"`python -m benchmarks.quality {name}`"]
    return "\n".join(parts) + "\n"


def difference(ours: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]]) -> tuple[float, float, float]:
    """By how much others score above ours, means over seeds, and the paired 95 % interval."""

    def mean(key: str, facts: Sequence[dict[str, Any]]) -> Any:
        return np.mean([one[key] for one in facts], axis=0)

    value = float(mean("score", others) - mean("score", ours))
    low, high = interval(value, mean("resampled", others) - mean("resampled", ours))
    return value, low, high


if __name__ == "__main__":
    main()
__all__ = ["CONTROLS", "SHARES"]
