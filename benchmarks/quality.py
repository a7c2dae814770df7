"""Which way of cutting keeps the most: python -m benchmarks.quality SET [key=value ...] [--hours H].

SET is hard (drawn, recipes/hard.yaml), bccd or cards (`data.root=PATH`); python -m benchmarks.pool makes one
of the tables of two. Every method cuts the same dense detector once and gets the same epochs of fine-tuning;
its learning rate is the best of three on the val split, at one or two shares of the MACs
(benchmarks/contests.py), that of `--lr`, or what val preferred in an earlier run, whose record `--rates`
names (benchmarks/results/quality_SET.json; methods that are not in it are left out, or refused where
`--methods` names them). Then test is read once for each method, share and seed. Each trial leaves a JSON file
in benchmarks/results/quality/SET, named by its settings, so that the command goes on where it was stopped;
what the teacher said of the batches lies beside them for the trials to come (some GB, which can be deleted).
`--methods` runs some alone, `--recovery` one table, which it writes to files of its own, `--part 1/2` and
`--part 2/2` share the work, `--hours` ends it in time, `--tables` only writes
benchmarks/results/quality_SET.md and .json from what is there. `--val ours` with other settings, such as
`distill.attention=300`, is how ours is tuned: it scores a method on val, by our recovery unless `--recovery`
says plain, at all three rates or that of `--lr`. What the method and its recovery set themselves (`PLANNED`
and `RECOVERIES` in benchmarks/trials.py) is changed there, and refused here.

The dense detector is weights/SET_SPLITS_seed0.pth, named by what it was trained on (where val is part of
that, another one chooses the learning rates) and trained by the recipe where it is missing; on the hard set
that of seed 1 says how far two of them are apart. Intervals are paired 95 % bootstrap intervals over the test
images, of the mean over seeds.
"""

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.bench import Bench, NotOnRecord, OutOfTime, Record
from benchmarks.contests import RATES, SETS
from benchmarks.study import TABLES, Study
from benchmarks.trials import DENSE, METHODS, Recovery, Trial
from detectors.errors import UserError

ROOT = Path(__file__).parent.parent


def bench_of(name: str, overrides: Sequence[str] = (), deadline: float = math.inf) -> Bench:
    """The bench of a data set; `deadline` as of `time.monotonic`."""
    contest, folder = SETS[name], ROOT / "benchmarks" / "results" / "quality" / name
    both = (*contest.overrides, *overrides)
    return Bench(str(ROOT / contest.recipe), both, contest.tuning, folder, ROOT / "weights", deadline)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the trials that have no result yet and writes the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("set", choices=SETS)
    parser.add_argument("overrides", nargs="*")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--lr", type=float, help="of every method, instead of what its val prefers")
    chosen.add_argument("--rates", type=Path, help="the record of another run, whose val chooses the rates")
    parser.add_argument("--methods", nargs="+", choices=METHODS, help="run these alone")
    parser.add_argument("--recovery", choices=TABLES, help="run and write this table alone")
    parser.add_argument("--hours", type=float, default=math.inf, help="when no further trial is begun")
    parser.add_argument("--part", default="1/1", help="1/2 and 2/2 share the trials of two processes")
    parser.add_argument("--tables", action="store_true", help="run nothing")
    parser.add_argument("--val", choices=METHODS, help="only score this method on val")
    parser.add_argument("--seed", type=int, help="of --val, instead of 0")
    given = parser.parse_intermixed_args(arguments)
    deadline = -math.inf if given.tables else time.monotonic() + 3600 * given.hours
    if given.seed is not None and not given.val:
        parser.error("--seed goes with --val: the seeds of test are those of benchmarks/contests.py")
    recovery: Recovery = given.recovery if given.val and given.recovery else "ours"
    own = Trial(given.val or "ours", 1.0, recovery, RATES[0], 0, "test").keys
    for key in (text.partition("=")[0] for text in given.overrides):
        if key in own:
            parser.error(f"{key} is set by each trial itself: change it in benchmarks/trials.py")
    bench = bench_of(given.set, given.overrides, deadline)
    if given.rates and (given.val or not given.rates.is_file()):
        why = "--val tries rates: give --lr or none" if given.val else "there is no such file"
        parser.error(f"--rates {given.rates}: {why}")
    chooser = SETS[given.set].chooser
    anywhere = [text for text in given.overrides if not text.startswith("data.root=")]
    val = bench if chooser == given.set else bench_of(chooser, anywhere, deadline)
    earlier = Record(given.rates) if given.rates else None
    study = Study(given.set, bench, val, given.lr, earlier)
    try:
        if given.val:
            for rate in RATES if given.lr is None else (given.lr,):
                for trial in study.tuning(given.val, recovery, rate):
                    score = val.result(replace(trial, seed=given.seed or 0))["score"]
                    print(f"{score:.4f} on val, lr {rate:g}, share {trial.share:g}", flush=True)
        else:
            part, parts = map(int, given.part.split("/"))
            tables = [given.recovery] if given.recovery else list(TABLES)
            unrated = [] if given.methods else study.unrated(tables)
            if unrated:
                print(f"left out, for {given.rates} has no learning rate of theirs: {'; '.join(unrated)}")
            methods = given.methods or [method for method in METHODS if method not in unrated]
            wanted = study.wanted(methods, part - 1, parts, tables)
            if earlier and not given.tables:
                listed = list(wanted)  # nothing is begun where a rate is missing
                if unrated and all(trial.method == DENSE for trial in listed):
                    parser.error(f"--rates {given.rates} has no scores on val: give another record, or --lr")
                wanted = iter(listed)
            for trial in wanted:
                bench.result(trial)
    except NotOnRecord as missing:
        parser.error(f"--rates {given.rates} has no {missing}: name others as --methods, or give --lr")
    except UserError as error:
        parser.exit(2, f"{error}\n")
    except OutOfTime:
        print("not all trials are done; the same command goes on")
    if not given.val:
        _write(study, given.recovery)


def _write(study: Study, table: Recovery | None) -> None:
    """The tables of what is there, or one of them alone, into benchmarks/results."""
    text = study.tables(table)
    if study.empty:  # on a new machine: the tables of another one stay
        print("nothing is measured here yet; the tables are left as they are")
        return
    words = filter(None, ["quality", study.name, table])
    name = ROOT / "benchmarks" / "results" / "_".join(words)
    name.with_suffix(".md").write_text(text, encoding="utf-8")
    name.with_suffix(".json").write_text(study.record(), encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
