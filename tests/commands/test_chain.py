"""Train, prune, fine-tune and score on a tiny recipe: what is said, written, repeated and refused."""

import json
import re
import shlex
import sys
from pathlib import Path

import pytest
from scripts import Done, files_in, run

import detectors
from compress.cost import cost_of
from compress.ledger import Ledger
from compress.report import markdown
from detectors.checkpoint import fingerprint, read

Chain = tuple[Path, dict[str, Done]]


def test_every_command_ends_well_and_is_silent_on_stderr(chain: Chain) -> None:
    for command, done in chain[1].items():
        assert (command, done.code, done.err) == (command, 0, "")


def test_the_files_of_the_chain(chain: Chain) -> None:
    rounds = {f"round_{number}.{kind}" for number in ("01", "02") for kind in ("plan.json", "pth")}
    report = {f"report.{kind}" for kind in ("csv", "html", "json", "md")}
    prune = {"ledger.jsonl", "pictures.json", "recipe.yaml", "slim.pth", *report, *rounds}
    assert set(files_in(chain[0])) == {
        "tiny.yaml",
        *(f"weights/tiny/{name}" for name in ("last.pth", "model.pth", "recipe.yaml")),
        *(f"prunes/tiny/{name}" for name in prune),
        *(f"prunes/tiny/finetuned/{name}" for name in ("last.pth", "model.pth", "recipe.yaml")),
    }


def test_train_tells_cost_counts_scores_and_the_next_command(chain: Chain) -> None:
    folder, said = chain
    out = said["train"].out
    assert "ssd_vgg16_bn at 64x64: 0.024 GMACs" in out
    assert re.search(r"train: 8 images, \d+ boxes \([a-z ]+ \d+, [a-z ]+ \d+\)", out)
    assert re.search(r"test: 4 images, \d+ boxes", out)
    assert [f"training {k}/2: loss" in out for k in (1, 2)] == [True, True]
    assert re.search(r"mAP \(voc\) 0\.\d{3} \[0\.\d{3}, 0\.\d{3}\] on 4 images", out)
    assert "saved weights/tiny/model.pth" in out
    assert read(folder / "weights/tiny/model.pth")["meta"]["score"]["images"] == 4


def test_the_next_command_works_as_printed(finished: Path, chain: Chain) -> None:
    for command, script in (("train", "prune.py"), ("finetune", "eval_voc.py")):
        printed = re.search(r"next: python (.+)", chain[1][command].out)
        assert printed is not None
        words = printed[1].split()
        assert words[0] == script
        done = run(finished, *words, "dry_run=true")
        assert (done.code, done.err) == (0, ""), printed[0]


def test_the_next_command_keeps_what_was_changed_on_the_command_line(finished: Path) -> None:
    changes = ("detector.width=0.25", "data.train=[train, val]", "train.epochs=1", "out=my runs")
    printed = run(finished, "train.py", "tiny.yaml", *changes).out.rpartition("next: python ")[2]
    words = shlex.split(printed)
    assert words[:3] == ["prune.py", "tiny.yaml", "model=my runs/model.pth"]
    assert words[3:] == ["detector.width=0.25", "data.train=[train, val]"]
    done = run(finished, *words, "dry_run=true")
    assert (done.code, done.err) == (0, "")
    assert "train: 9 images" in done.out


def test_prune_tells_widths_protected_layers_and_the_rounds(chain: Chain) -> None:
    folder, said = chain
    out = said["prune"].out
    assert re.search(r"backbone\.features\.0 +8 -> +\d\n", out)
    assert "kept whole (makes an output): conf.0" in out
    table = markdown(Ledger(folder / "prunes/tiny/ledger.jsonl"))
    assert table in out
    assert table in (folder / "prunes/tiny/report.md").read_text()
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert [row.split("|")[1].strip() for row in rows] == ["round", "---", "0", "1", "2"]
    assert re.search(r"\d\.\d times fewer MACs", out)
    for name in ("slim.pth", "report.md", "report.html"):
        assert f"saved prunes/tiny/{name}" in out
    for number in (1, 2):
        assert re.search(rf"round {number}: after the cut mAP \(voc\) 0\.\d{{3}} \[", out)


def test_the_slim_model_meets_the_budget_and_knows_its_parent(chain: Chain) -> None:
    folder, _ = chain
    first, slim = (
        detectors.load(folder / path) for path in ("weights/tiny/model.pth", "prunes/tiny/slim.pth")
    )
    assert 0.4 < cost_of(slim).macs / cost_of(first).macs <= 0.5
    tuned = read(folder / "prunes/tiny/finetuned/model.pth")["meta"]
    assert read(folder / "prunes/tiny/slim.pth")["meta"]["parent"] == fingerprint(first)
    assert tuned["parent"] == fingerprint(slim)


def test_eval_scores_full_and_slim_alike_and_writes_nothing(finished: Path, chain: Chain) -> None:
    before = files_in(finished)
    full = run(finished, "eval_voc.py", "tiny.yaml", "model=weights/tiny/model.pth")
    slim = run(finished, "eval_voc.py", "tiny.yaml", "model=prunes/tiny/slim.pth", "eval.metric=coco")
    assert (full.code, slim.code) == (0, 0)
    score = read(finished / "weights/tiny/model.pth")["meta"]["score"]
    assert f"mAP (voc) {score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}] on 4 images" in full.out
    assert "ap50" in slim.out.lower()
    assert files_in(finished) == before
    assert chain[1]["eval_voc"].out.count("images") >= 2


@pytest.mark.parametrize("split", ["train", "test"])
def test_eval_takes_either_split(finished: Path, split: str) -> None:
    done = run(finished, "eval_voc.py", "tiny.yaml", "model=weights/tiny/model.pth", f"eval.split={split}")
    assert f"on {8 if split == 'train' else 4} images" in done.out


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("train.py", []),
        ("prune.py", ["model=weights/tiny/model.pth"]),
        ("finetune.py", ["model=weights/tiny/model.pth"]),
        ("eval_voc.py", ["model=weights/tiny/model.pth"]),
    ],
)
def test_a_dry_run_writes_nothing(finished: Path, script: str, arguments: list[str]) -> None:
    before = files_in(finished)
    done = run(finished, script, "tiny.yaml", "dry_run=true", "out=elsewhere", *arguments)
    assert (done.code, done.err) == (0, "")
    assert "test: 4 images" in done.out
    assert files_in(finished) == before
    assert not (finished / "elsewhere").exists()


def test_a_finished_prune_prints_its_table_again_and_adds_no_line(finished: Path) -> None:
    before = files_in(finished / "prunes/tiny")
    done = run(finished, "prune.py", "tiny.yaml", "model=weights/tiny/model.pth")
    assert (done.code, done.err) == (0, "")
    assert markdown(Ledger(finished / "prunes/tiny/ledger.jsonl")) in done.out
    after = files_in(finished / "prunes/tiny")
    changed = {name for name in before | after if before.get(name) != after.get(name)}
    assert changed <= {"slim.pth"}
    assert fingerprint(detectors.load(finished / "prunes/tiny/slim.pth"))


def test_a_run_without_a_round_good_enough_reports_and_ends_with_one_line(finished: Path) -> None:
    arguments = ("tiny.yaml", "model=weights/tiny/model.pth", "prune.stop_below=1.0", "out=rejected")
    for _ in range(2):
        done = run(finished, "prune.py", *arguments)
        assert done.error == (
            "error: rejected holds no slim model: its first round scored below prune.stop_below=1.0; accept "
            "a lower score or cut less a round, with another out=PATH"
        )
        assert "no round was good enough, and no slim model is kept" in done.out
        assert "saved rejected/report.html" in done.out
    assert not (finished / "rejected/slim.pth").exists()


def test_without_jinja2_a_run_ends_well_and_says_how_to_get_the_page(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (finished / "prunes/tiny/report.html").unlink()
    monkeypatch.setitem(sys.modules, "jinja2", None)
    done = run(finished, "prune.py", "tiny.yaml", "model=weights/tiny/model.pth")
    assert (done.code, done.err) == (0, "")
    assert "saved prunes/tiny/slim.pth" in done.out
    assert "saved prunes/tiny/report.html" not in done.out
    assert "report.html needs jinja2" in done.out.splitlines()[-1]
    assert "pip install 'slimdet[report]'" in done.out.splitlines()[-1]


def test_what_the_report_shows_may_change_in_the_same_folder(finished: Path) -> None:
    fewer = ["report.pictures=0", "report.after_cut=false"]
    done = run(finished, "prune.py", "tiny.yaml", "model=weights/tiny/model.pth", *fewer)
    assert (done.code, done.err) == (0, "")
    assert not (finished / "prunes/tiny/pictures.json").exists()
    assert "No picture was recorded" in (finished / "prunes/tiny/report.html").read_text()


def test_a_finished_training_goes_no_step_further(finished: Path) -> None:
    mark = fingerprint(detectors.load(finished / "weights/tiny/model.pth"))
    done = run(finished, "train.py", "tiny.yaml")
    assert done.code == 0
    assert "resuming weights/tiny/last.pth after epoch 2" in done.out
    assert "training 2/2" not in done.out
    assert fingerprint(detectors.load(finished / "weights/tiny/model.pth")) == mark


@pytest.mark.parametrize(
    ("script", "change"),
    [
        ("train.py", "train.lr=0.01"),
        ("train.py", "train.epochs=3"),
        ("train.py", "detector.width=0.25"),
        ("train.py", "data.synthetic.seed=1"),
        ("prune.py", "prune.budget.macs=40%"),
        ("prune.py", "finetune.batch=8"),
        ("prune.py", "eval.metric=voc07"),
        ("prune.py", "prune.rounds=1"),
        ("finetune.py", "finetune.epochs=2"),
        ("finetune.py", "finetune.sparsity=0.5"),
        ("finetune.py", "distill.attention=2.5"),
        ("prune.py", "distill.predictions=0.5"),
    ],
)
def test_a_changed_recipe_in_the_same_folder_is_refused(finished: Path, script: str, change: str) -> None:
    model = {"prune.py": ["model=weights/tiny/model.pth"], "finetune.py": ["model=prunes/tiny/slim.pth"]}
    before = files_in(finished)
    error = run(finished, script, "tiny.yaml", change, *model.get(script, [])).error
    key, value = change.split("=")
    assert key in error
    assert value in error
    assert "out=PATH" in error
    assert files_in(finished) == before


def test_workers_cache_and_batch_of_scoring_may_change(finished: Path) -> None:
    free = ["data.workers=1", "data.cache=ram", "eval.batch=2", "finetune.save_every=5"]
    done = run(finished, "prune.py", "tiny.yaml", "model=weights/tiny/model.pth", *free)
    assert (done.code, done.err) == (0, "")


def test_another_model_in_the_same_prune_folder_is_refused(finished: Path) -> None:
    before = files_in(finished)
    tuned = "model=prunes/tiny/finetuned/model.pth"
    error = run(finished, "prune.py", "tiny.yaml", tuned, "out=prunes/tiny").error
    assert "another model" in error
    assert files_in(finished) == before


def test_every_line_of_the_ledger_is_json_with_its_round_and_phase(chain: Chain) -> None:
    path = chain[0] / "prunes/tiny/ledger.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == Ledger(path).entries
    assert lines[0]["file"] == "weights/tiny/model.pth"
    for line in lines:
        if line["phase"] in ("start", "evaluate"):
            assert line["latency"]["runs"] == 2
            assert line["latency"]["median_ms"] > 0


def test_finetune_learns_from_the_teacher_it_is_given_and_says_where_there_is_none(finished: Path) -> None:
    slim = ["finetune.py", "tiny.yaml", "model=prunes/tiny/slim.pth", "distill.predictions=1"]
    taught = run(finished, *slim, "distill.teacher=weights/tiny/model.pth", "out=taught")
    alone = run(finished, *slim, "out=alone")
    assert (taught.code, taught.err, alone.code, alone.err) == (0, "", 0, "")
    assert "teacher: weights/tiny/model.pth\n" in taught.out
    assert "teacher: none, for distill.teacher=null\n" in alone.out
    last, without = (
        read(finished / folder / "last.pth")["training"]["history"][-1] for folder in ("taught", "alone")
    )
    assert last.keys() - without.keys() == {"teacher_classes", "teacher_boxes"}
    again = run(finished, *slim, "distill.teacher=prunes/tiny/round_01.pth", "out=taught").error
    assert "distill.teacher=weights/tiny/model.pth" in again
