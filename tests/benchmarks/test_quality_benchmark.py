"""The quality benchmark: every method runs within its budget, results are kept by settings, and they pair."""

import json
import math
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from benchmarks.answers import Remembered
from benchmarks.bench import Bench, NotOnRecord, OutOfTime, Record
from benchmarks.contests import RATES, SETS
from benchmarks.peers import SELECTIONS
from benchmarks.quality import main
from benchmarks.study import TABLES, Study, difference
from benchmarks.trials import CHANGES, CONTROLS, PLANNED, Trial
from compress.distill import Answers, Distillation
from compress.session import open_all, terms_of
from detectors.files import held

RECIPE = {
    "detector": {"name": "ssd_vgg16_bn", "size": [64, 64], "width": 0.125},
    "data": {
        "name": "synthetic",
        "train": ["train"],
        "test": ["test"],
        "augment": "none",
        "workers": 0,
        "cache": "ram",
        "synthetic": {
            "classes": 2,
            "train": 8,
            "val": 4,
            "test": 6,
            "size": [64, 64],
            "objects": [1, 2],
            "object_size": [0.3, 0.6],
        },
    },
    "train": {"epochs": 1, "batch": 4},
    "finetune": {"epochs": 1, "batch": 4},
    "eval": {"metric": "coco"},
    "prune": {"multiple": 1, "calibration_images": 8, "rounds": 2, "epochs": [1, 1]},
    "distill": {"predictions": 1.0, "attention": 1.0},
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("quality")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    # What is scored on val starts from a detector that has not seen it, as with a set that has few images.
    both, tuning = ("data.train=[train,val]",), ("data.train=[train]", "data.test=[val]")
    return Bench(str(folder / "tiny.yaml"), both, tuning, folder / "results", folder / "models")


# Of torch-pruning's, each way of scoring once.
RUN = [*PLANNED, *[name for name in SELECTIONS if name.endswith("global")], *CONTROLS]


@pytest.mark.parametrize(
    ("method", "recovery"), [(method, "ours") for method in RUN] + [("uniform L1", "plain")]
)
def test_every_method_is_cut_within_the_budget_and_scored(method: str, recovery: str, bench: Bench) -> None:
    facts = bench.result(Trial(method, 0.3, recovery, 1e-3, 0, "test"))
    assert len(facts["resampled"]) == 500
    assert 0 <= facts["score"] <= 1
    if method in ("dense", "dense, fine-tuned"):
        assert facts["macs"] == 1
    else:
        assert 0.15 < facts["macs"] <= 0.3


def test_a_method_that_cannot_cut_that_far_is_out_of_reach(bench: Bench) -> None:
    facts = bench.result(Trial("torch-pruning magnitude, global", 1e-5, "plain", 1e-3, 0, "test"))
    assert (facts["macs"], facts["score"], set(facts["resampled"])) == (None, 0, {0})


def test_a_result_is_read_from_its_file_and_another_setting_has_another(bench: Bench) -> None:
    trial = Trial("uniform L1", 0.3, "plain", 1e-3, 0, "test")
    first = bench.result(trial)
    count = len(list(bench.folder.iterdir()))
    ended = Bench(bench.recipe, bench.overrides, bench.tuning, bench.folder, bench.models, -math.inf)
    assert ended.result(trial) == first
    with pytest.raises(OutOfTime):
        ended.result(Trial("uniform L1", 0.3, "plain", 2e-3, 0, "test"))
    assert len(list(bench.folder.iterdir())) == count


def test_val_is_scored_by_a_detector_of_its_own(bench: Bench) -> None:
    facts = bench.result(Trial("ours", 0.3, "ours", 1e-3, 0, "val"))
    assert facts["settings"]["data.test"] == ["val"]
    assert bench.dense("test").name == "results_train+val_seed0.pth"
    assert bench.dense("val").name == "results_train_seed0.pth"
    assert {bench.dense("test"), bench.dense("val")} == set(bench.models.glob("*.pth"))


def test_what_a_teacher_said_is_kept_for_the_next_trial_to_the_last_bit(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = bench.load("test", f"model={bench.dense('test')}", "distill.attention=1")
    detector, _ = open_all(recipe, ["train"], bench.place)
    (term,) = terms_of(recipe, recipe.finetune, detector, teacher=detector)
    assert isinstance(term, Distillation)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    first = Remembered(term, recipe.distill, "fp32", tmp_path).lesson(images)
    assert_equal(first, term.lesson(images))
    asked = []
    monkeypatch.setattr(Distillation, "lesson", lambda _, images: asked.append(images) or first)
    later = Remembered(term, recipe.distill, "fp32", tmp_path)
    assert_equal(later.lesson(images), first)
    heavier = replace(recipe.distill, predictions=3.0)
    assert_equal(Remembered(term, heavier, "fp32", tmp_path).lesson(images), first)
    assert asked == []
    later.lesson(images + 0.1)
    other = replace(recipe.distill, attention=0.0)
    predictions_alone = Distillation(term.teacher, other, ())
    Remembered(predictions_alone, other, "fp32", tmp_path).lesson(images)
    Remembered(term, recipe.distill, "bf16", tmp_path).lesson(images)
    assert len(asked) == 3


def assert_equal(got: Answers, wanted: Answers) -> None:
    assert got.predictions is not None
    assert wanted.predictions is not None
    assert torch.equal(got.predictions.boxes, wanted.predictions.boxes)
    assert got.predictions.classes[0].softmax == wanted.predictions.classes[0].softmax
    assert torch.equal(got.predictions.classes[0].logits, wanted.predictions.classes[0].logits)
    assert len(got.maps) == len(wanted.maps) > 0
    assert all(torch.equal(one, other) for one, other in zip(got.maps, wanted.maps, strict=True))


def test_each_ingredient_can_be_left_out() -> None:
    whole = Trial("ours", 0.3, "ours", 1e-3, 0, "test").overrides
    for change in CHANGES:
        less = Trial("ours", 0.3, "ours", 1e-3, 0, "test", change).overrides
        assert set(less) - set(whole) == {f"{key}={value}" for key, value in CHANGES[change].items()}


def test_our_recovery_alone_trains_as_the_data_set_says(bench: Bench) -> None:
    said = ("finetune.loss_weights.boxes=4", "finetune.norm_and_bias_lr=2")
    other = replace(bench, overrides=(*bench.overrides, *said))
    for recovery, boxes, rate in (("ours", 4, 2), ("plain", 1, 1)):
        trial = Trial("uniform L1", 0.3, recovery, 1e-3, 0, "test")
        settings = other.load("test", *trial.overrides).finetune
        assert settings.loss_weights == {"boxes": boxes}
        assert settings.norm_and_bias_lr == rate


def test_ours_takes_the_widths_that_the_data_set_says_and_others_their_own(bench: Bench) -> None:
    other = replace(bench, overrides=(*bench.overrides, "prune.choice=knapsack"))
    own = {"ours, tapered widths": "tapered", "uniform L1": "uniform"}
    for method, choice in ({"ours": "knapsack", "from scratch": "knapsack"} | own).items():
        trial = Trial(method, 0.3, "ours", 1e-3, 0, "test")
        assert other.load("test", *trial.overrides).prune.choice == choice


def test_a_setting_that_each_trial_sets_itself_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for texts in (["--val", "ours", "finetune.optimizer=adamw"], ["prune.criterion=l1"]):
        with pytest.raises(SystemExit) as stopped:
            main(["hard", *texts])
        assert stopped.value.code == 2
        told = capsys.readouterr().err.splitlines()[-1]
        key = texts[-1].partition("=")[0]
        assert told.endswith(f"error: {key} is set by each trial itself: change it in benchmarks/trials.py")


def test_a_seed_without_val_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["hard", "--seed", "1", "--tables"])
    assert stopped.value.code == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.endswith(
        "error: --seed goes with --val: the seeds of test are those of benchmarks/contests.py"
    )


def test_differences_pair_the_resamples_and_average_the_seeds() -> None:
    ours = [{"score": 0.5, "resampled": [0.4, 0.5, 0.6]}, {"score": 0.7, "resampled": [0.6, 0.7, 0.8]}]
    others = [{"score": 0.3, "resampled": [0.2, 0.3, 0.4]}]
    found = difference(ours, others)
    assert (found.value, found.low, found.high) == pytest.approx((-0.3, -0.3, -0.3))


class Recorded(Bench):
    """A bench of results that are there."""

    def result(self, trial: Trial) -> dict[str, Any]:
        scores = {"ours": 0.5, "uniform L1": 0.4}
        date = f"2026-01-0{1 + trial.seed}"
        told = {"date": date, "machine": "a machine, 2 cores", "macs": 0.05, "seconds": 1}
        if trial.method == "uniform random":
            return {"score": 0.0, "resampled": [0.0] * 3, **told, "macs": None}
        if trial.method == "dense":
            return {"score": 0.8 + trial.seed / 100, "resampled": [], **told}
        if trial.method not in scores or trial.share != 0.05:
            raise OutOfTime
        score = scores[trial.method] + (0.01 if trial.lr == 4e-3 else 0) + (trial.recovery == "ours") / 20
        return {"score": score, "resampled": [score - 0.01, score, score + 0.01], **told}


def test_the_tables_show_what_is_there_at_the_rate_that_val_prefers(tmp_path: Path) -> None:
    bench = Recorded("x.yaml", (), (), tmp_path, tmp_path)
    study = Study("hard", bench, bench)
    text = study.tables()
    origin = "`python -m benchmarks.quality hard`, 2026-01-01 to 2026-01-03, a machine, 2 cores.\n"
    assert text.startswith(origin)
    rows = [line for line in text.splitlines() if line.startswith(("| uniform", "| ours", "| dense"))]
    assert rows == [
        "| ours | 0.004 | - | 0.560 | - |",
        "| uniform L1 | 0.004 | - | 0.410 (-0.150 [-0.150, -0.150]) | - |",
        "| uniform random | 0.004 | out of reach | out of reach | out of reach |",
        "| dense |  | 0.800 and 0.810 | 0.800 and 0.810 | 0.800 and 0.810 |",
        "| ours | 0.004 | - | 0.560 | - |",
        "| uniform L1 | 0.004 | - | 0.460 (-0.100 [-0.100, -0.100]) | - |",
        "| uniform random | 0.004 | out of reach | out of reach | out of reach |",
        "| dense |  | 0.800 and 0.810 | 0.800 and 0.810 | 0.800 and 0.810 |",
    ]
    record = json.loads(study.record())
    assert {(one["method"], one["split"], one["seed"]) for one in record if one["method"] == "dense"} == {
        ("dense", "test", 0),
        ("dense", "test", 1),
    }
    assert max(one["score"] for one in record if one["method"] == "ours") == pytest.approx(0.56)


def test_a_table_alone_stands_with_the_command_that_makes_it(tmp_path: Path) -> None:
    bench = Recorded("x.yaml", (), (), tmp_path, tmp_path)
    study = Study("hard", bench, bench)
    text = study.tables("ours")
    assert text.startswith("`python -m benchmarks.quality hard --recovery ours`, 2026-01-01 to 2026-01-03")
    assert [line for line in text.splitlines() if line.endswith(":")] == [f"{TABLES['ours']}:"]
    rows = [line for line in text.splitlines() if line.startswith(("| ours", "| uniform L1", "| dense"))]
    assert rows == [
        "| ours | 0.004 | - | 0.560 | - |",
        "| uniform L1 | 0.004 | - | 0.460 (-0.100 [-0.100, -0.100]) | - |",
        "| dense |  | 0.800 and 0.810 | 0.800 and 0.810 | 0.800 and 0.810 |",
    ]
    recoveries = {one["method"]: one["recovery"] for one in json.loads(study.record())}
    assert (recoveries["ours"], recoveries["uniform L1"], recoveries["dense"]) == ("ours", "ours", "plain")


def test_val_alone_scores_each_rate_and_share_with_the_seed_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def result(_: Bench, trial: Trial) -> dict[str, Any]:
        asked.append(trial)
        return {"score": trial.lr + trial.share}

    monkeypatch.setattr(Bench, "result", result)
    main(["bccd", "--val", "ours", "--seed", "3"])
    assert {(trial.seed, trial.split, trial.method) for trial in asked} == {(3, "val", "ours")}
    assert len(asked) == 6
    assert capsys.readouterr().out.splitlines()[1] == "0.0165 on val, lr 0.004, share 0.0125"


def test_val_takes_one_rate_and_the_other_recovery(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def result(_: Bench, trial: Trial) -> dict[str, Any]:
        asked.append((trial.lr, trial.recovery, trial.share))
        return {"score": 0.0}

    monkeypatch.setattr(Bench, "result", result)
    main(["hard", "--val", "uniform L1", "--lr", "8e-3", "--recovery", "plain"])
    assert asked == [(8e-3, "plain", 0.05)]


def test_val_that_is_out_of_time_says_so_and_leaves_the_tables_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def result(_: Bench, trial: Trial) -> dict[str, Any]:
        raise OutOfTime

    monkeypatch.setattr(Bench, "result", result)
    monkeypatch.setattr(Study, "tables", lambda *_: pytest.fail("tables were made"))
    main(["hard", "--val", "ours", "--hours", "0"])
    assert capsys.readouterr().out == "not all trials are done; the same command goes on\n"


def test_two_processes_do_not_train_the_same_dense_detector(bench: Bench, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from benchmarks.bench import Bench; "
        "recipe, folder = map(Path, sys.argv[1:]); "
        "Bench(str(recipe), (), (), folder / 'results', folder).dense('test')"
    )
    with held(tmp_path / "results" / "results_train_seed0") as folder:
        done = subprocess.run(
            [sys.executable, "-c", program, bench.recipe, str(tmp_path)], capture_output=True, text=True
        )
    assert f"{folder}: another process (pid {os.getpid()}) is working" in done.stderr
    assert not list(tmp_path.glob("*.pth"))


def test_a_dense_detector_alone_says_what_it_scores(tmp_path: Path) -> None:
    class One(Recorded):
        def result(self, trial: Trial) -> dict[str, Any]:
            if trial.seed:
                raise OutOfTime
            return super().result(trial)

    bench = One("x.yaml", (), (), tmp_path, tmp_path)
    text = Study("hard", bench, bench).tables()
    assert "| dense |  | 0.800 | 0.800 | 0.800 |" in text
    assert "| uniform L1 | 0.004 | - | 0.4" not in text  # of three seeds one is not the mean


def test_the_rate_is_the_best_mean_over_the_shares_that_have_a_say(tmp_path: Path) -> None:
    class Val(Bench):
        def result(self, trial: Trial) -> dict[str, Any]:
            scores = {(0.05, 4e-3): 0.5, (0.05, 8e-3): 0.49, (0.05, 16e-3): 0.4}
            scores |= {(0.0125, 4e-3): 0.2, (0.0125, 8e-3): 0.25, (0.0125, 16e-3): 0.3}
            return {"score": scores[trial.share, trial.lr]}

    val = Val("x.yaml", (), (), tmp_path, tmp_path)
    assert Study("bccd", (val,), val).rate("uniform L1", "plain") == 8e-3
    assert Study("hard", (val,), val).rate("uniform L1", "plain") == 4e-3


def test_a_given_rate_serves_every_method_and_val_is_not_asked(tmp_path: Path) -> None:
    bench = Recorded("x.yaml", (), (), tmp_path, tmp_path)
    study = Study("hard", bench, bench, lr=8e-3)
    assert "| uniform L1 | 0.008 | - | 0.400 (-0.150 [-0.150, -0.150]) | - |" in study.tables()
    assert {trial.split for trial in study.wanted(["ours", "uniform L1"])} == {"test"}


def test_the_record_of_another_run_chooses_the_rates(tmp_path: Path) -> None:
    scores = {4e-3: 0.41, 8e-3: 0.43, 16e-3: 0.42}
    told = [Trial("uniform L1", 0.05, "plain", lr, 0, "val") for lr in scores]
    record = tmp_path / "quality_x.json"
    record.write_text(json.dumps([asdict(one) | {"score": scores[one.lr], "macs": 0.05} for one in told]))
    earlier = Record(record)
    assert earlier.result(told[1])["score"] == 0.43
    with pytest.raises(NotOnRecord):
        earlier.result(replace(told[1], split="test"))
    bench = Recorded("x.yaml", (), (), tmp_path, tmp_path)
    text = Study("hard", bench, bench, earlier=earlier).tables("plain")
    assert text.startswith(
        f"`python -m benchmarks.quality hard --rates {record} --recovery plain`, 2026-01-01"
    )
    assert "| uniform L1 | 0.008 | - | 0.400 | - |" in text
    assert "| ours |" not in text  # its val is not on record


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (
            ["--methods", "from scratch"],
            "no from scratch, plain recovery, on val: name others as --methods, or give --lr",
        ),
        ([], "no scores on val: give another record, or --lr"),
    ],
)
def test_a_rate_that_is_not_on_record_is_missed_before_anything_is_begun(
    more: list[str],
    why: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Bench, "result", lambda *_: pytest.fail("a trial was begun"))
    record = tmp_path / "quality_x.json"
    record.write_text("[]")
    with pytest.raises(SystemExit) as stopped:
        main(["hard", "--rates", str(record), *more])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith(f"--rates {record} has {why}")


def test_methods_that_are_not_on_record_are_left_out_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: set[str] = set()

    def result(_: Bench, trial: Trial) -> dict[str, Any]:
        asked.add(trial.method)
        raise OutOfTime

    monkeypatch.setattr(Bench, "result", result)
    record = tmp_path / "quality_x.json"
    ours, l1 = (Trial(one, 0.05, "ours", 4e-3, 0, "val") for one in ("ours", "uniform L1"))
    told = [replace(one, lr=lr) for one in (ours, replace(l1, recovery="plain")) for lr in RATES]
    record.write_text(json.dumps([asdict(one) | {"score": 0.4, "macs": 0.05} for one in told]))
    main(["hard", "--rates", str(record), "--recovery", "plain"])
    said, *_ = capsys.readouterr().out.splitlines()
    assert said.startswith(f"left out, for {record} has no learning rate of theirs: ours, tapered widths; ")
    assert said.endswith("; dense, fine-tuned; from scratch")
    assert asked == {"ours", "uniform L1", "dense"}


@pytest.mark.parametrize(
    ("more", "why"),
    [([], "there is no such file"), (["--val", "ours"], "--val tries rates: give --lr or none")],
)
def test_rates_come_from_a_record_that_is_there(
    more: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["hard", "--rates", "missing.json", *more])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith(f"error: --rates missing.json: {why}")


def test_the_tables_name_the_settings_that_decide_what_comes(tmp_path: Path) -> None:
    overrides = [*SETS["bccd"].overrides, "data.root=x", "data.workers=0", "train.precision=fp32"]
    bench = Recorded("x.yaml", tuple(overrides), (), tmp_path, tmp_path)
    text = Study("bccd", bench, bench, lr=8e-3).tables()
    assert text.startswith("`python -m benchmarks.quality bccd train.precision=fp32 --lr 0.008`, ")
    assert "| dense |  | 0.800 | 0.800 | 0.800 | 0.800 |" in text


def test_processes_share_the_trials_and_do_each_of_them_once(tmp_path: Path) -> None:
    bench = Recorded("x.yaml", (), (), tmp_path, tmp_path)
    study = Study("hard", bench, bench, lr=8e-3)
    whole = list(study.wanted())
    shares = [list(study.wanted(part=part, parts=2)) for part in range(2)]
    assert len(set(whole)) == len(whole) == len(shares[0]) + len(shares[1])
    assert {*shares[0], *shares[1]} == set(whole)


def test_one_table_alone_leaves_out_what_the_others_need(tmp_path: Path) -> None:
    bench = Recorded("x.yaml", (), (), tmp_path, tmp_path)
    study = Study("hard", bench, bench, lr=8e-3)
    ours, peers = ["ours", "ours, tapered widths"], ["uniform L1", "torch-pruning Taylor, local"]
    found = {table: set(study.wanted([*ours, *peers], tables=[table])) for table in TABLES}
    for table, trials in found.items():
        assert {trial.recovery for trial in trials if trial.method in peers} == {table}
        assert {trial.recovery for trial in trials if trial.method in ours} == {"ours"}
    assert set.union(*found.values()) == set(study.wanted([*ours, *peers]))
    assert {trial.change for trial in found["ours"]} == {"", *CHANGES}
    assert {trial.change for trial in found["plain"]} == {""}


def test_a_machine_that_has_measured_nothing_is_told_apart(tmp_path: Path) -> None:
    class Nothing(Bench):
        def result(self, trial: Trial) -> dict[str, Any]:
            raise OutOfTime

    for kind, empty in ((Nothing, True), (Recorded, False)):
        bench = kind("x.yaml", (), (), tmp_path, tmp_path)
        study = Study("hard", bench, bench, lr=8e-3)
        study.tables()
        assert study.empty is empty
