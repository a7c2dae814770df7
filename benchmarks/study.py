"""What the quality benchmark runs on a data set, and the tables of what came of it."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from benchmarks.bench import NO_MATTER, Bench, NotOnRecord, OutOfTime, Record
from benchmarks.contests import RATES, SEEDS, SETS, Contest
from benchmarks.tables import NOT_RUN, OUT_OF_REACH, Cell, Difference, titled
from benchmarks.trials import CHANGES, DENSE, METHODS, SCRATCH, TAPERED, TUNED, Recovery, Trial
from detectors.evaluation.bootstrap import interval

TABLES: dict[Recovery, str] = {
    "plain": "Each method with plain fine-tuning, ours with its own recovery",
    "ours": "Every method with our recovery",
}
Facts = list[dict[str, Any]]


def methods_of(table: Recovery) -> tuple[str, ...]:
    """The rows of a table; the controls that are trained stand in the first one alone."""
    return tuple(method for method in METHODS if table == "plain" or method not in (TUNED, SCRATCH))


@dataclass
class Study:
    """What is compared on a data set.

    Attributes:
        name: of `SETS`.
        bench: that scores on test.
        chooser: that scores on val.
        lr: of every method; None: what its val prefers.
        earlier: a run that has scored on val already, in place of the chooser.
    """

    name: str
    bench: Bench
    chooser: Bench
    lr: float | None = None
    earlier: Record | None = None
    _results: dict[Trial, dict[str, Any]] = field(default_factory=dict)

    @property
    def contest(self) -> Contest:
        """How this data set compares."""
        return SETS[self.name]

    def tuning(self, method: str, table: Recovery, rate: float) -> list[Trial]:
        """What is scored on val for a learning rate: a trial at each share that has a say."""
        shares = dict.fromkeys(_share(method, share) for share in SETS[self.contest.chooser].rated)
        return [Trial(method, share, _recovery(method, table), rate, 0, "val") for share in shares]

    def rate(self, method: str, table: Recovery) -> float:
        """The learning rate of a method."""
        if method == DENSE:
            return RATES[0]  # not fine-tuned: any will do
        if self.lr is not None:
            return self.lr
        scores = {
            rate: [self._result(trial)["score"] for trial in self.tuning(method, table, rate)]
            for rate in RATES
        }
        return max(scores, key=lambda rate: sum(scores[rate]))

    def unrated(self, tables: Sequence[Recovery]) -> list[str]:
        """The methods for which the earlier run does not say a learning rate that one of the tables needs."""

        def lacks(method: str, table: Recovery) -> bool:
            try:
                self.rate(method, table)
            except NotOnRecord:
                return True
            return False

        rows = [(method, table) for table in tables for method in methods_of(table)]
        lacking = {method for method, table in rows if self.earlier and lacks(method, table)}
        return [method for method in METHODS if method in lacking]

    def trials(self, method: str, table: Recovery, share: float) -> list[Trial]:
        """What is scored on test: a trial for each seed."""
        left, recovery, rate = _share(method, share), _recovery(method, table), self.rate(method, table)
        seeds = range(self.contest.dense) if method == DENSE else SEEDS.get(share, (0,))
        return [Trial(method, left, recovery, rate, seed, "test") for seed in seeds]

    def changed(self, change: str) -> Trial:
        """Ours with one thing changed, at 2.5 %."""
        return Trial("ours", 0.025, "ours", self.rate("ours", "ours"), 0, "test", change)

    def wanted(
        self,
        methods: Sequence[str] = METHODS,
        part: int = 0,
        parts: int = 1,
        tables: Sequence[Recovery] = tuple(TABLES),
    ) -> Iterator[Trial]:
        """All trials on test, the most telling first; of several processes, those of one."""
        rows = ((method, table) for table in tables for method in methods_of(table) if method in methods)
        pairs = list(dict.fromkeys((method, _recovery(method, table)) for method, table in rows))
        for share in self.contest.shares:
            for method, table in pairs[part::parts]:
                if share == self.contest.shares[0] or _share(method, share) == share:  # not the uncut again
                    yield from self.trials(method, table, share)
        if "ours" in methods and "ours" in tables:
            yield from map(self.changed, tuple(CHANGES)[part::parts])

    def tables(self, alone: Recovery | None = None) -> str:
        """All results as Markdown; what has not been run is a dash, or a table that is not there.

        Args:
            alone: this table and no other; to that of our recovery belongs ours with one thing changed.
        """
        for bench in (self.bench, self.chooser):
            bench.deadline = -math.inf  # only what is there
        shares = sorted(self.contest.shares, reverse=True)
        parts = []
        for table, title in TABLES.items() if alone is None else [(alone, TABLES[alone])]:
            rows = [["method", "lr", *(f"{100 * share:g} % of the MACs" for share in shares)]]
            for method in methods_of(table):
                cells = [self._cell(method, table, share) for share in shares]
                if set(cells) != {NOT_RUN}:
                    rate = "" if method == DENSE else f"{self.rate(method, table):g}"
                    rows.append([method, rate, *cells])
            parts.append((title, rows))
        if alone != "plain":
            parts.append(("Ours with one thing changed", self._ablation()))
        # Heading and ours alone compare nothing.
        shown = [titled(title, rows) for title, rows in parts if len(rows) > 2]
        return "\n\n".join([self._origin(alone), *shown]) + "\n"

    @property
    def empty(self) -> bool:
        """Whether nothing was found that `tables` could show."""
        return not self._results

    def record(self) -> str:
        """Each trial that `tables` looked at, as JSON, a line for each."""
        kept = ("macs", "score", "seconds", "date", "machine")
        lines = [
            json.dumps(asdict(trial) | {key: facts[key] for key in kept})
            for trial, facts in self._results.items()
        ]
        return "[\n" + ",\n".join(lines) + "\n]\n"

    def _origin(self, alone: Recovery | None) -> str:
        """Command, days and machines of what the tables show."""
        days = sorted({one["date"] for one in self._results.values()})
        when = " to ".join(dict.fromkeys((days[0], days[-1]))) if days else "nothing measured yet"
        machines = ["; ".join(sorted({one["machine"] for one in self._results.values()}))] if days else []
        told = (text for text in self.bench.overrides if text not in self.contest.overrides)
        settings = [text for text in told if text.partition("=")[0] not in NO_MATTER]
        rate = [] if self.lr is None else [f"--lr {self.lr:g}"]
        if self.earlier:
            rate = [f"--rates {self.earlier.path.as_posix()}"]
        table = [] if alone is None else [f"--recovery {alone}"]
        command = " ".join(["python -m benchmarks.quality", self.name, *settings, *rate, *table])
        return ", ".join([f"`{command}`", when, *machines]) + "."

    def _found(self, method: str, table: Recovery, share: float) -> Facts | None:
        """The results of a method; None unless all are there. One dense detector says what it scores."""
        facts: Facts = []
        try:
            for trial in self.trials(method, table, share):
                facts.append(self._result(trial))
        except OutOfTime:
            return facts if facts and method == DENSE else None
        return facts

    def _result(self, trial: Trial) -> dict[str, Any]:
        if self.earlier and trial.split == "val":
            return self.earlier.result(trial)  # no part of what this run did
        bench = self.bench if trial.split == "test" else self.chooser
        if trial not in self._results:  # a table asks for ours and for val once for each of its cells
            self._results[trial] = bench.result(trial)
        return self._results[trial]

    def _cell(self, method: str, table: Recovery, share: float) -> str:
        facts = self._found(method, table, share)
        if facts is None:
            return NOT_RUN
        if any(one["macs"] is None for one in facts):
            return OUT_OF_REACH
        scores = [one["score"] for one in facts]
        if method == DENSE:
            return " and ".join(f"{score:.3f}" for score in scores)
        ours = self._found("ours", "ours", share)
        above = None if method == "ours" or ours is None else difference(ours, facts)
        return str(Cell(float(np.mean(scores)), above))

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
            rows.append([change, f"{facts['score']:.3f}", str(difference(ours, [facts]))])
        return rows


def difference(ours: Facts, others: Facts) -> Difference:
    """By how much others score above ours, means over seeds, and the paired 95 % interval."""

    def mean(key: str, facts: Facts) -> Any:
        return np.mean([one[key] for one in facts], axis=0)

    value = float(mean("score", others) - mean("score", ours))
    low, high = interval(value, mean("resampled", others) - mean("resampled", ours))
    return Difference(value, low, high)


def _share(method: str, share: float) -> float:
    """What a method leaves of the MACs: a control that is not cut serves every share."""
    return 1.0 if method in (DENSE, TUNED) else share


def _recovery(method: str, table: Recovery) -> Recovery:
    """Ours recovers in its own way in every table, and there is nothing to recover in the dense detector."""
    return {"ours": "ours", TAPERED: "ours", DENSE: "plain"}.get(method, table)
