"""Which way of cutting keeps the most: python -m benchmarks.quality SET [key=value ...] [--hours H].

SET is hard (drawn, recipes/hard.yaml), bccd or cards (`data.root=PATH`). Every method cuts the same dense
detector once and gets the same epochs of fine-tuning; its learning rate is the best of three on the val
split, at 5 % of the MACs, or that of `--lr`. Then test is read once for each method, share and seed. Each
trial leaves a JSON file in benchmarks/results/quality/SET, named by its settings, so that the command goes on
where it was stopped. `--methods` runs some alone, `--part 1/2` and `--part 2/2` share the work, `--hours`
ends it in time, `--tables` only writes benchmarks/results/quality_SET.md and .json from what is there.
`--val ours` with other settings, such as `distill.attention=300`, is how ours is tuned.

The dense detector is weights/SET_SPLITS_seed0.pth, named by what it was trained on (where val is part of
that, another one chooses the learning rates) and trained by the recipe where it is missing; on the hard set
that of seed 1 says how far two of them are apart. Intervals are paired 95 % bootstrap intervals over the test
images, of the mean over seeds.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.trials import (
    CHANGES,
    CONTROLS,
    DENSE,
    METHODS,
    NO_MATTER,
    TUNED,
    Bench,
    OutOfTime,
    Recovery,
    Trial,
)
from detectors.evaluation.bootstrap import interval

ROOT = Path(__file__).parent.parent
RATES = (4e-3, 8e-3, 16e-3)
SHARES = {
    "hard": (0.05, 0.025, 0.10),
    "bccd": (0.10, 0.05, 0.025, 0.0125),
    "cards": (0.10, 0.05, 0.025),
}
SEEDS = {0.05: (0, 1, 2)}
TABLES: dict[Recovery, str] = {
    "plain": "Each method with plain fine-tuning, ours with its own recovery",
    "ours": "Every method with our recovery",
}
Facts = list[dict[str, Any]]


@dataclass(frozen=True)
class Contest:
    """A data set to compare methods on.

    Attributes:
        recipe: its file.
        chooser: the contest whose val chooses the learning rates.
        tuning: what holds val out of the training.
        overrides: what every trial sets.
        dense: dense detectors, trained from as many seeds; the trials start from the first.
    """

    recipe: str
    chooser: str
    tuning: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    dense: int = 1


# At 1.25 % of the MACs layers of 16 channels keep 2.
FINE = ("prune.multiple=2", "prune.largest_cut=1")
SETS = {
    "hard": Contest("recipes/hard.yaml", "hard", ("data.test=[val]",), dense=2),
    "bccd": Contest("recipes/bccd.yaml", "bccd", ("data.train=[train]", "data.test=[val]"), FINE),
    "cards": Contest("recipes/cards.yaml", "bccd", (), FINE),
}


def bench_of(name: str, overrides: Sequence[str] = (), deadline: float = math.inf) -> Bench:
    """The bench of a data set; `deadline` as of `time.monotonic`."""
    contest, folder = SETS[name], ROOT / "benchmarks" / "results" / "quality" / name
    both = (*contest.overrides, *overrides)
    return Bench(str(ROOT / contest.recipe), both, contest.tuning, folder, ROOT / "weights", deadline)


def methods_of(table: Recovery) -> tuple[str, ...]:
    """The rows of a table; the controls stand in the first one alone."""
    return tuple(method for method in METHODS if table == "plain" or method not in CONTROLS)


@dataclass
class Study:
    """What is compared on a data set.

    Attributes:
        name: of `SETS`.
        bench: that scores on test.
        chooser: that scores on val.
        lr: of every method; None: what its val prefers.
    """

    name: str
    bench: Bench
    chooser: Bench
    lr: float | None = None
    _results: dict[Trial, dict[str, Any]] = field(default_factory=dict)

    def tuning(self, method: str, table: Recovery) -> list[Trial]:
        """What is scored on val, at 5 % of the MACs: a trial for each learning rate."""
        share, recovery = _share(method, 0.05), _recovery(method, table)
        return [Trial(method, share, recovery, rate, 0, "val") for rate in RATES]

    def rate(self, method: str, table: Recovery) -> float:
        """The learning rate of a method."""
        if method == DENSE:
            return RATES[0]  # not fine-tuned: any will do
        if self.lr is not None:
            return self.lr
        scores = {trial.lr: self._result(trial)["score"] for trial in self.tuning(method, table)}
        return max(scores, key=lambda rate: scores[rate])

    def trials(self, method: str, table: Recovery, share: float) -> list[Trial]:
        """What is scored on test: a trial for each seed."""
        left, recovery, rate = _share(method, share), _recovery(method, table), self.rate(method, table)
        seeds = range(SETS[self.name].dense) if method == DENSE else SEEDS.get(share, (0,))
        return [Trial(method, left, recovery, rate, seed, "test") for seed in seeds]

    def changed(self, change: str) -> Trial:
        """Ours with one thing changed, at 2.5 %."""
        return Trial("ours", 0.025, "ours", self.rate("ours", "ours"), 0, "test", change)

    def wanted(self, methods: Sequence[str] = METHODS, part: int = 0, parts: int = 1) -> Iterator[Trial]:
        """All trials on test, the most telling first; of several processes, those of one."""
        pairs = [(method, table) for table in TABLES for method in methods_of(table) if method in methods]
        if ("ours", "ours") in pairs:
            pairs.remove(("ours", "ours"))  # the same as in the first table
        for share in SHARES[self.name]:
            for method, table in pairs[part::parts]:
                if share == SHARES[self.name][0] or _share(method, share) == share:  # not the uncut again
                    yield from self.trials(method, table, share)
        if "ours" in methods:
            yield from map(self.changed, tuple(CHANGES)[part::parts])

    def tables(self) -> str:
        """All results as Markdown; what has not been run is a dash, or a table that is not there."""
        self.bench.deadline = self.chooser.deadline = -math.inf  # only what is there
        shares = sorted(SHARES[self.name], reverse=True)
        parts = []
        for table, title in TABLES.items():
            rows = [["method", "lr", *(f"{100 * share:g} % of the MACs" for share in shares)]]
            for method in methods_of(table):
                cells = [self._cell(method, table, share) for share in shares]
                if set(cells) != {"-"}:
                    rate = "" if method == DENSE else f"{self.rate(method, table):g}"
                    rows.append([method, rate, *cells])
            parts.append((title, rows))
        parts.append(("Ours with one thing changed", self._ablation()))
        # Heading and ours alone compare nothing.
        shown = [f"{title}:\n\n{_markdown(rows)}" for title, rows in parts if len(rows) > 2]
        return "\n\n".join([self._origin(), *shown]) + "\n"

    def record(self) -> str:
        """Each trial that `tables` looked at, as JSON, a line for each."""
        kept = ("macs", "score", "seconds", "date", "machine")
        lines = [
            json.dumps(asdict(trial) | {key: facts[key] for key in kept})
            for trial, facts in self._results.items()
        ]
        return "[\n" + ",\n".join(lines) + "\n]\n"

    def _origin(self) -> str:
        """Command, days and machines of what the tables show."""
        days = sorted({one["date"] for one in self._results.values()})
        when = " to ".join(dict.fromkeys((days[0], days[-1]))) if days else "nothing measured yet"
        machines = ["; ".join(sorted({one["machine"] for one in self._results.values()}))] if days else []
        told = (text for text in self.bench.overrides if text not in SETS[self.name].overrides)
        settings = [text for text in told if text.partition("=")[0] not in NO_MATTER]
        rate = [] if self.lr is None else [f"--lr {self.lr:g}"]
        command = " ".join(["python -m benchmarks.quality", self.name, *settings, *rate])
        return ", ".join([f"`{command}`", when, *machines]) + "."

    def _found(self, method: str, table: Recovery, share: float) -> Facts | None:
        """The results of a method; None unless all are there."""
        try:
            return [self._result(trial) for trial in self.trials(method, table, share)]
        except OutOfTime:
            return None

    def _result(self, trial: Trial) -> dict[str, Any]:
        bench = self.bench if trial.split == "test" else self.chooser
        self._results[trial] = bench.result(trial)
        return self._results[trial]

    def _cell(self, method: str, table: Recovery, share: float) -> str:
        facts = self._found(method, table, share)
        if facts is None:
            return "-"
        scores = [one["score"] for one in facts]
        if method == DENSE:
            return " and ".join(f"{score:.3f}" for score in scores)
        ours = self._found("ours", "ours", share)
        against = "" if method == "ours" or ours is None else f" ({_against(ours, facts)})"
        return f"{np.mean(scores):.3f}{against}"

    def _ablation(self) -> list[list[str]]:
        rows = [["changed", "score at 2.5 %", "difference"]]
        ours = self._found("ours", "ours", 0.025)
        if ours is None:
            return rows
        rows.append(["nothing", f"{ours[0]['score']:.3f}", ""])
        for change in CHANGES:
            try:
                facts = self._result(self.changed(change))
            except OutOfTime:
                continue
            rows.append([change, f"{facts['score']:.3f}", _against(ours, [facts])])
        return rows


def difference(ours: Facts, others: Facts) -> tuple[float, float, float]:
    """By how much others score above ours, means over seeds, and the paired 95 % interval."""

    def mean(key: str, facts: Facts) -> Any:
        return np.mean([one[key] for one in facts], axis=0)

    value = float(mean("score", others) - mean("score", ours))
    low, high = interval(value, mean("resampled", others) - mean("resampled", ours))
    return value, low, high


def _share(method: str, share: float) -> float:
    """What a method leaves of the MACs: a control that is not cut serves every share."""
    return 1.0 if method in (DENSE, TUNED) else share


def _recovery(method: str, table: Recovery) -> Recovery:
    """Ours recovers in its own way in both tables."""
    return "ours" if method == "ours" else table


def _against(ours: Facts, facts: Facts) -> str:
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
    parser.add_argument("--lr", type=float, help="of every method, instead of what its val prefers")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS, help="run these alone")
    parser.add_argument("--hours", type=float, default=math.inf, help="when no further trial is begun")
    parser.add_argument("--part", default="1/1", help="1/2 and 2/2 share the trials of two processes")
    parser.add_argument("--tables", action="store_true", help="run nothing")
    parser.add_argument("--val", choices=METHODS, help="only score this method with our recovery on val")
    given = parser.parse_args()
    deadline = -math.inf if given.tables else time.monotonic() + 3600 * given.hours
    bench = bench_of(given.set, given.overrides, deadline)
    chosen_by = SETS[given.set].chooser
    elsewhere = [text for text in given.overrides if not text.startswith("data.root=")]
    chooser = bench if chosen_by == given.set else bench_of(chosen_by, elsewhere, deadline)
    study = Study(given.set, bench, chooser, given.lr)
    if given.val:
        for trial in study.tuning(given.val, "ours"):
            print(f"{chooser.result(trial)['score']:.4f} on val with lr {trial.lr:g}", flush=True)
        return
    try:
        part, parts = map(int, given.part.split("/"))
        for trial in study.wanted(given.methods, part - 1, parts):
            bench.result(trial)
    except OutOfTime:
        print("not all trials are done; the same command goes on")
    text = study.tables()
    name = ROOT / "benchmarks" / "results" / f"quality_{given.set}"
    name.with_suffix(".md").write_text(text, encoding="utf-8")
    name.with_suffix(".json").write_text(study.record(), encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
