"""ONNX files and budgets in milliseconds at the command line, and their bad input."""

import json
from pathlib import Path

import pytest
import torch
from scripts import files_in, run

import detectors
from compress.export import onnx_pass, relative_difference
from compress.inputs import tensors_in

MODEL = "model=weights/tiny/model.pth"


def test_a_finished_run_and_a_finished_fine_tuning_are_exported_when_asked(finished: Path) -> None:
    for script, model, file in (
        ("prune.py", MODEL, "prunes/tiny/slim"),
        ("finetune.py", "model=prunes/tiny/slim.pth", "prunes/tiny/finetuned/model"),
    ):
        done = run(finished, script, "tiny.yaml", model, "export.onnx=true")
        assert (done.code, done.err) == (0, ""), done
        assert f"saved {file}.onnx" in done.out
        detector = detectors.load(finished / f"{file}.pth")
        images = torch.rand(1, 3, *detector.size)
        with torch.no_grad():
            wanted = list(tensors_in(detector.eval().dense(images)))
        found = onnx_pass((finished / f"{file}.onnx").read_bytes(), images, threads=1)()
        shares = [relative_difference(a, torch.from_numpy(b)) for a, b in zip(wanted, found, strict=True)]
        assert max(shares) < 1e-4


def test_a_missing_package_is_told_before_anything_is_done(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compress.export.find_spec", lambda name: None)
    before = files_in(finished)
    for script, arguments in (
        ("prune.py", [MODEL, "out=new", "export.onnx=true"]),
        ("finetune.py", [MODEL, "out=new", "export.onnx=true"]),
        ("prune.py", [MODEL, "out=new", "prune.latency.engine=onnxruntime"]),
    ):
        error = run(finished, script, "tiny.yaml", *arguments).error
        assert "need packages that are not installed (onnx, onnxscript, onnxruntime)" in error
        assert "pip install 'slimdet[export]'" in error
    assert files_in(finished) == before


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["prune.budget.latency_ms=fast"], ["prune.budget.latency_ms='fast' is not a time", "12 or 12.5"]),
        (["prune.budget.latency_ms=150%"], ["is more than the whole"]),
        (
            ["prune.budget.latency_ms=0.000001"],
            ["budget latency_ms=1e-06 is out of reach", "the smallest network takes ", " ms (", "in torch."],
        ),
        (["prune.latency.engine=tensorrt"], ["prune.latency.engine", "onnxruntime"]),
        (["prune.latency.batch=0"], ["prune.latency.batch=0", "1 or more"]),
        (["prune.latency.runs=0"], ["prune.latency.runs=0", "1 or more"]),
    ],
)
def test_limits_and_settings_that_do_not_work_get_one_line(
    finished: Path, arguments: list[str], parts: list[str]
) -> None:
    before = files_in(finished)
    extra = ["prune.latency.runs=1"] if "prune.latency.runs=0" not in arguments else []
    error = run(finished, "prune.py", "tiny.yaml", MODEL, "out=new", *extra, *arguments).error
    assert [part for part in parts if part not in error] == []
    assert files_in(finished) == before


def test_a_table_of_another_machine_is_refused_and_the_run_goes_on_with_its_own(finished: Path) -> None:
    table = finished / "latency.json"
    table.write_text(json.dumps({"facts": {"device": "a phone"}, "milliseconds": {}}))
    before = table.read_bytes()
    given = [
        "tiny.yaml",
        MODEL,
        "out=new",
        "prune.rounds=1",
        "prune.budget.macs=null",
        "prune.latency.runs=1",
    ]
    # Above what the network takes: the table is asked for, whatever the noise of the clock.
    given += ["prune.budget.latency_ms=10000", "finetune.epochs=0"]
    error = run(finished, "prune.py", *given, "prune.latency.table=latency.json").error
    assert "latency.json was measured with device=a phone, here it is " in error
    assert table.read_bytes() == before
    assert not (finished / "new").exists()  # told before anything slow begins
    other = run(finished, "prune.py", *given, "out=other")
    assert (other.code, other.err) == (0, "")
    assert "corrections of the plan: 0" in other.out
    assert json.loads((finished / "other" / "latency.json").read_text())["facts"]["engine"] == "torch"
