"""The page of a run: whole, self-contained, escaped, with every section, whatever the run was."""

import csv
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from reports import EVIL, changed, page_of, run_folder
from tiny_runs import ALONE, tiny_detector, tiny_recipe

from compress.latency.engines import Stopwatch
from compress.ledger import Ledger
from compress.plan import Timed
from compress.report import markdown
from compress.report.__main__ import main
from compress.report.pictures import take
from compress.report.write import write_report
from compress.states import States
from detectors.checkpoint import save
from detectors.data import build as build_data
from detectors.models import build

LATENCY = {"p90_ms": 6.0, "runs": 5, "batch": 1, "threads": 1, "device": "cpu"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two rounds, never timed, with its report."""
    folder = run_folder(tmp_path_factory.mktemp("finished"))
    write_report(folder)
    return folder


def timed(entries: list[dict[str, Any]], *ms: float) -> list[dict[str, Any]]:
    """The same with a latency for every scored model; the first one takes 4 ms."""
    states = [entry for entry in entries if entry["phase"] in ("start", "evaluate")]
    for entry, median in zip(states, ms, strict=True):
        entry["latency"] = {"median_ms": median, **LATENCY}
        entry["first_latency"] = {"median_ms": 4.0, **LATENCY}
    return entries


def test_the_page_of_a_finished_run_has_it_all(finished: Path) -> None:
    page = page_of(finished)
    facts = json.loads((finished / "report.json").read_text())
    assert facts["state"] == "finished"
    assert facts["headline"] in page.text
    assert "scored on 4 test images" in page.text
    recipe, detector = tiny_recipe(), tiny_detector(tiny_recipe())
    for name in build_data(recipe.data, "test").classes:
        assert name in page.text
    for row in facts["widths"]:
        assert row["layer"] in page.text
    assert "conf.0" in page.text
    assert "makes an output" in page.text
    assert f"torch {torch.__version__.partition('+')[0]}" in page.text
    assert "prune.budget.macs=40%" in page.text
    assert f"python prune.py {finished}/recipe.yaml out=AGAIN" in page.text
    assert detector.spec.name in page.text
    assert "Nothing was timed" in page.text
    assert (finished / "report.html").stat().st_size < 2_000_000


def test_the_page_is_the_same_however_often_it_is_made(finished: Path) -> None:
    names = ("report.html", "report.md", "report.csv", "report.json")
    before = [(finished / name).read_bytes() for name in names]
    write_report(finished)
    assert [(finished / name).read_bytes() for name in names] == before


def test_every_phase_of_every_round_is_told_with_its_interval(finished: Path) -> None:
    facts = json.loads((finished / "report.json").read_text())
    ledger = Ledger(finished / "ledger.jsonl")
    for row in facts["rounds"][1:]:
        for key, phase in (
            ("after_cut", "cut"),
            ("after_recalibration", "recalibrate"),
            ("score", "evaluate"),
        ):
            score = ledger.find(row["round"], phase)["score"]
            assert row[key] == {end: score[end] for end in ("value", "low", "high")}
        assert row["cost"] == ledger.find(row["round"], "evaluate")["cost"]
    assert [row["kept"] for row in facts["rounds"]] == [False, False, True]
    cuts = [ledger.find(number, "cut")["widths"] for number in (1, 2)]
    for row in facts["widths"]:
        assert row["rounds"] == [cut[row["layer"]] for cut in cuts]
    classes = ledger.find(2, "evaluate")["score"]["per_class"]
    assert {row["name"]: row["slim"] for row in facts["classes"]} == classes
    changes = [row["change"] for row in facts["classes"]]
    assert changes == sorted(changes)


def test_the_tables_say_the_same(finished: Path) -> None:
    facts = json.loads((finished / "report.json").read_text())
    text = (finished / "report.md").read_text()
    assert markdown(Ledger(finished / "ledger.jsonl")) in text
    assert facts["headline"] in text
    with (finished / "report.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = {(row["section"], row["round"], row["name"], row["quantity"]): row for row in rows}
    assert len(found) == len(rows)
    for row in facts["rounds"]:
        assert int(found["rounds", str(row["round"]), "", "macs"]["value"]) == row["cost"]["macs"]
        score = found["rounds", str(row["round"]), "", "score"]
        assert [float(score[key]) for key in ("value", "low", "high")] == list(row["score"].values())
    for row in facts["classes"]:
        assert float(found["classes", "2", row["name"], "change"]["value"]) == row["change"]


def test_names_are_text_and_never_html(finished: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished, tmp_path / "<b>&run")
    classes = build_data(tiny_recipe().data, "test").classes
    written = json.dumps(EVIL)[1:-1]
    for name in ("ledger.jsonl", "pictures.json"):
        text = (folder / name).read_text()
        for word in (classes[0], "backbone.features.0", "conf.0", "makes an output"):
            text = text.replace(f'"{word}"', f'"{written}{word}"')
        (folder / name).write_text(text.replace('"name": "test/', f'"name": "{written}'))
    page = page_of(folder)
    assert EVIL + classes[0] in page.text
    for said in ("backbone.features.0", "conf.0", "makes an output"):
        assert EVIL + said in page.text
    assert "<script" not in (folder / "report.html").read_text()
    # Markdown is often shown as HTML.
    assert "<script" not in (folder / "report.md").read_text().partition("## Recipe")[0]


def test_a_timed_run_says_how_much_faster(finished: Path, tmp_path: Path) -> None:
    folder = changed(finished, tmp_path / "timed", lambda entries: timed(entries, 4.0, 3.0, 2.0))
    page = page_of(folder)
    facts = json.loads((folder / "report.json").read_text())
    assert facts["headline"].startswith("2.0 times faster, ")
    assert [row["speed_up"] for row in facts["rounds"]] == [1.0, pytest.approx(4 / 3), 2.0]
    assert "4.0 ms → 2.0 ms" in page.text
    assert "cost-time-title" in page.ids
    slower = changed(finished, tmp_path / "slower", lambda entries: timed(entries, 4.0, 4.0, 5.0))
    assert "1.2 times slower, " in page_of(slower).text


def test_a_cut_by_the_clock_tells_its_budget_and_a_group_left_whole_its_reason(
    finished: Path, tmp_path: Path
) -> None:
    named: list[str] = []

    def clocked(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        first = next(entry for entry in entries if entry["phase"] == "start")
        cuts = [entry for entry in entries if entry["phase"] == "cut"]
        named.append(next(iter(first["widths"])))
        for entry, took in zip(cuts, (2.9, 1.5), strict=True):
            entry["timed"] = asdict(Timed(3.0, took, 4.0, 2, "onnxruntime"))
            entry["widths"][named[0]] = first["widths"][named[0]]
        return entries

    text = page_of(changed(finished, tmp_path / "clocked", clocked)).text
    within = "2.9 ms of 3 allowed, 4 at first, measured whole in onnxruntime; corrections of the plan: 2"
    assert f"The cut of round 1 by the clock: {within}." in text
    below = "corrections of the plan: 2; 50% below the budget: no width lies nearer, or another limit binds."
    assert below in text
    assert f"free to shrink, and left whole by its caps or its scores {named[0]}" in " ".join(text.split())


def test_a_run_without_bootstrap_claims_no_noise(tmp_path: Path) -> None:
    recipe = tiny_recipe(rounds=1, epochs=[0])
    recipe.eval.bootstrap = 0
    page = page_of(run_folder(tmp_path / "run", recipe))
    assert "noise" not in page.text.partition("What each round")[0]
    facts = json.loads((tmp_path / "run" / "report.json").read_text())
    assert [row["low"] for row in facts["classes"] + facts["sizes"]] == [None] * (2 + len(facts["sizes"]))
    assert all(row["change"] == row["slim"] - row["first"] for row in facts["classes"] + facts["sizes"])


def test_a_masked_run_says_what_its_costs_are_of(finished: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished, tmp_path / "masked")
    recipe = (folder / "recipe.yaml").read_text()
    (folder / "recipe.yaml").write_text(recipe.replace("mode: slim", "mode: mask"))
    page = page_of(folder)
    assert "masked.pth , which has the shapes" in page.text
    assert f"model={folder}/masked.pth" in page.text


@pytest.mark.parametrize(
    ("kept", "said"), [(1, "; round 1 is kept, for round 2 scored "), (0, "No slim model")]
)
def test_a_run_that_stopped_early_says_why(kept: int, said: str, finished: Path, tmp_path: Path) -> None:
    stop = {"round": kept + 1, "phase": "stop", "score": 0.1, "below": 0.5}

    def stopped(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [entry for entry in entries if entry["round"] <= kept + 1] + [stop]

    folder = changed(finished, tmp_path / "stopped", stopped)
    page = page_of(folder)
    assert said in page.text
    assert "scored 10.0, below the 50.0 asked for" in page.text
    assert ("There is no slim model yet" in page.text) == (kept == 0)


@pytest.mark.parametrize("lines", [1, 2, 3, 4, 5, 6, 8])
def test_an_unfinished_run_shows_how_far_it_came(lines: int, finished: Path, tmp_path: Path) -> None:
    folder = changed(finished, tmp_path / "unfinished", lambda entries: entries[:lines])
    done = lines // 5
    with (folder / "ledger.jsonl").open("a") as file:
        file.write('{"round": 2, "ph')  # a line that is being written
    page = page_of(folder)
    assert f"Not finished: {done} of 2 rounds are done" in page.text
    assert ("No round is finished yet" in page.text) == (done == 0)
    assert (folder / "ledger.jsonl").read_text().endswith('"ph')  # another process writes there


def test_a_ledger_of_an_older_run_lacks_what_was_not_recorded(finished: Path, tmp_path: Path) -> None:
    new = ("detector", "environment", "groups", "whole", "parts")

    def older(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        kept = [{key: value for key, value in entry.items() if key not in new} for entry in entries]
        return [{k: v for k, v in entry.items() if (entry["phase"], k) != ("cut", "score")} for entry in kept]

    folder = changed(finished, tmp_path / "older", older)
    for name in ("pictures.json", "recipe.yaml"):
        (folder / name).unlink()
    page = page_of(folder)
    assert "No picture was recorded" in page.text
    assert "The folder holds no recipe.yaml" in page.text
    assert all(name in page.text for name in build_data(tiny_recipe().data, "test").classes)
    assert "after the cut |" not in (folder / "report.md").read_text()


def test_many_rounds_and_classes_stay_readable(finished: Path, tmp_path: Path) -> None:
    def grown(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        start, last = entries[0], [entry for entry in entries if entry["round"] == 2]
        rounds = [entry | {"round": number} for number in range(1, 41) for entry in last]
        for entry in (start, *rounds):
            if "parts" in entry:
                one = entry["parts"][0]
                entry["parts"] = [one | {"name": f"class {k}"} for k in range(80)]
        return [start, *rounds]

    folder = changed(finished, tmp_path / "grown", grown)
    (folder / "recipe.yaml").unlink()
    page = page_of(folder)
    assert "The other 68 classes" in page.text
    assert (folder / "report.html").stat().st_size < 2_000_000


def test_a_guest_is_reported_as_any_other_detector(tmp_path: Path) -> None:
    recipe = tiny_recipe(rounds=1)
    test = build_data(recipe.data, "test")
    torch.manual_seed(0)
    guest = build("torchvision_ssdlite320_mobilenet_v3_large", test.classes, size=(64, 64)).eval()
    states, ledger = States(recipe, guest, test, ALONE, Stopwatch()), Ledger(tmp_path / "ledger.jsonl")
    ledger.add({"round": 0, "phase": "start", "model": "m", "file": None, **states.of_first()})
    # Cutting a guest is tested elsewhere and takes longer: here a round left it as it was.
    same = states.of(guest)
    ledger.add({"round": 1, "phase": "cut", "cost": same["cost"], "widths": {}})
    ledger.add({"round": 1, "phase": "evaluate", **same})
    save(guest, tmp_path / "round_01.pth")
    take(recipe, guest, test, tmp_path, ledger)
    page = page_of(tmp_path)
    assert "torchvision_ssdlite320_mobilenet_v3_large" in page.text
    assert "as many multiply-adds as before, as large as before" in page.text
    assert "skipped by the recipe" in page.text
    facts = json.loads((tmp_path / "report.json").read_text())
    assert [picture["first"] == picture["slim"] for picture in facts["pictures"]["pictures"]] == [True] * 4


def test_the_command_makes_the_page_and_says_where_it_is(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(finished)])
    headline = json.loads((finished / "report.json").read_text())["headline"]
    assert capsys.readouterr().out == f"{headline}\nsaved {finished / 'report.html'}\n"
