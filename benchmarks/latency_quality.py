"""Which plan keeps more at the same speed? python -m benchmarks.latency_quality RECIPE model=PATH [...].

The detector is cut once by the clock, to `--share` of its latency, and once by MACs, with the share of MACs
bisected until the slim network is measured as quick as the other one, within 3 %. Both are recalibrated,
fine-tuned by the recipe with the same seed, and scored on the test images; the difference has a paired 95 %
bootstrap interval. At the end both are timed once more, in turn with the dense network. Writes
latency_quality_RECIPE.json and .md to benchmarks/results. To be run on an idle machine.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch

from benchmarks.main_job import ROOT, machine
from compress.calibration import recalibrated
from compress.cost import cost_of, subject
from compress.latency.engines import Stopwatch
from compress.plan import Plan
from compress.pruning import carry_out
from compress.recipe import Recipe
from compress.schedule import plan_round, stopwatch_of
from compress.session import loader_of, open_all, predictions_of, scored, terms_of
from detectors.config import load
from detectors.data import Dataset
from detectors.engine.distributed import Place
from detectors.engine.loop import fit
from detectors.evaluation.run import Predictions, paired_difference
from detectors.models.base import Detector

RESULTS = ROOT / "benchmarks" / "results"
# Of the measured time: how near the two slim networks must come, and how often a share of MACs is tried.
CLOSE, TRIES = 0.03, 8


@dataclass
class Contest:
    """One dense detector and what it is trained and scored on.

    Attributes:
        path: file of the recipe.
        overrides: its keys, with the model.
        stopwatch: takes all times; None: as the recipe says.
    """

    path: str
    overrides: list[str]
    stopwatch: Stopwatch | None = None

    def __post_init__(self) -> None:
        self.place = Place(0, 1, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        recipe = self.recipe()
        self.watch = self.stopwatch or stopwatch_of(recipe)
        self.dense, (training, test) = open_all(recipe, ["train", "test"], self.place)
        self.training: Dataset = training
        self.test: Dataset = test

    def recipe(self, *texts: str) -> Recipe:
        """The recipe for a single cut."""
        single = ("prune.rounds=1", "prune.epochs=null", "prune.budgets=[]", "prune.budget.macs=null")
        return load(Recipe, self.path, [*single, *self.overrides, *texts])

    def cut(self, *texts: str) -> tuple[Detector, Plan]:
        """A slim detector, as cut, and its plan."""
        clocked = subject(self.dense)[0], self.watch
        recipe = self.recipe(*texts)
        graph, plan = plan_round(recipe, 1, self.dense, self.training, self.place, clocked=clocked)
        return carry_out(self.dense, graph, plan), plan

    def times(self, *slim: Detector) -> list[float]:
        """Milliseconds of the dense network and of slim ones, in turn."""
        network, inputs = subject(self.dense)
        found = self.watch.networks([network, *(one.network for one in slim)], inputs)
        return [one.median_ms for one in found]

    def as_quick(self, other: Detector) -> tuple[Detector, Plan]:
        """A detector cut by MACs that takes as long as another one, as nearly as a share of MACs gives it."""
        low, high, best = 0.02, 1.0, None
        share = cost_of(other).macs / cost_of(self.dense).macs
        for _ in range(TRIES):
            slim, plan = self.cut(f"prune.budget.macs={100 * share:.3f}%")
            _, wanted, found = self.times(other, slim)
            off = found / wanted - 1
            print(f"{share:.1%} of the MACs: {found:.2f} ms for {wanted:.2f} ms", flush=True)
            if best is None or abs(off) < best[0]:
                best = (abs(off), slim, plan)
            if abs(off) <= CLOSE:
                break
            low, high = (low, share) if off > 0 else (share, high)
            share = (low + high) / 2
        assert best is not None, "at least one share is tried"
        return best[1], best[2]

    def recovered(self, slim: Detector, plan: Plan) -> Predictions:
        """What a slim detector finds once it is recalibrated and fine-tuned."""
        recipe = self.recipe()
        torch.manual_seed(recipe.finetune.seed)
        recalibrated(recipe, self.dense, slim, plan.keep, self.training, self.place)
        loader = loader_of(recipe, recipe.finetune, self.training, slim, self.place)
        terms = terms_of(recipe, recipe.finetune, slim, teacher=self.dense)
        fit(slim, loader, recipe.finetune, place=self.place, terms=terms)
        return predictions_of(recipe, slim, self.test, self.place)


def measure(
    path: str, overrides: list[str], share: str, stopwatch: Stopwatch | None = None
) -> dict[str, Any]:
    """Both plans, recovered, scored and timed."""
    contest = Contest(path, overrides, stopwatch)
    quick, plan = contest.cut(f"prune.budget.latency_ms={share}")
    slims = {"latency": (quick, plan), "MACs": contest.as_quick(quick)}
    found = {name: contest.recovered(*slim) for name, slim in slims.items()}
    recipe, dense_ms = contest.recipe(), contest.times(*(slim for slim, _ in slims.values()))
    whole = cost_of(contest.dense).macs
    rows = {
        name: {
            "macs": cost_of(slim).macs / whole,
            "ms": ms,
            "score": scored(recipe, slim, found[name]).to_dict(),
        }
        for (name, (slim, _)), ms in zip(slims.items(), dense_ms[1:], strict=True)
    }
    difference = paired_difference(
        found["MACs"].detections,
        found["latency"].detections,
        found["latency"].targets,
        contest.dense.spec.classes,
        metric=recipe.eval.metric,
        bootstrap=recipe.eval.bootstrap or 1000,
    )
    return {
        "command": f"python -m benchmarks.latency_quality {' '.join([path, *overrides])} --share {share}",
        "date": date.today().isoformat(),
        "machine": machine(),
        "watch": asdict(recipe.prune.latency),
        "dense_ms": dense_ms[0],
        "plans": rows,
        "difference": asdict(difference),
    }


def summary(facts: Mapping[str, Any]) -> str:
    """The facts as Markdown."""
    watch, change = facts["watch"], facts["difference"]
    lines = [
        f"`{facts['command']}`, {facts['date']}, {facts['machine']}, {watch['engine']}, "
        f"{watch['threads'] or torch.get_num_threads()} threads, batch {watch['batch']}.",
        "",
        "| plan by | ms | of the dense network's | MACs left | after fine-tuning |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, row in facts["plans"].items():
        score = row["score"]
        lines.append(
            f"| {name} | {row['ms']:.2f} | {row['ms'] / facts['dense_ms']:.1%} | {row['macs']:.1%} "
            f"| {score['label']} {score['value']:.3f} |"
        )
    interval = f"[{change['low']:+.3f}, {change['high']:+.3f}]"
    lines += ["", f"By latency less by MACs: {change['value']:+.3f}, paired 95 % interval {interval}."]
    return "\n".join([*lines, ""])


def main() -> None:
    """Measures and writes."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--share", default="50%", help="of the dense network's latency")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the two files")
    given = parser.parse_args()
    facts = measure(given.recipe, given.overrides, given.share)
    text, name = summary(facts), f"latency_quality_{Path(given.recipe).stem}"
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    (given.out / f"{name}.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
