"""Latencies by stage: what is timed, what the table shows, and which runs are not compared."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import latency

FACTS: dict[str, Any] = {
    "command": "python -m benchmarks.latency a.pth",
    "date": "2026-01-02",
    "machine": "a machine",
    "device": "cpu",
    "threads": 2,
    "dtype": "float32",
    "image": "random",
    "image_size": [375, 500],
    "runs": 30,
    "rows": [],
}


def row(model: str, network: float) -> dict[str, Any]:
    times = {"resize": 1.0, "network": network, "decode and NMS": 3.0, "all": 4.0 + network}
    found = {stage: {"median": ms, "p90": 2 * ms} for stage, ms in times.items()}
    return {"model": model, "engine": "torch", "batch": 4, "macs": 5 * 10**8, "milliseconds": found}


def written(path: Path, **changes: Any) -> Path:
    path.write_text(json.dumps({**FACTS, "rows": [row("a.pth", 16.0)], **changes}))
    return path


def test_stages_of_all_models_are_timed_in_one_run(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = ["weights/quickstart.pth", "--batch", "1", "2", "--runs", "1", "--out", str(tmp_path)]
    latency.main(words)
    facts = json.loads((tmp_path / "latency.json").read_text())
    assert [(row["model"], row["engine"], row["batch"]) for row in facts["rows"]] == [
        ("weights/quickstart.pth", "torch", 1),
        ("weights/quickstart.pth", "torch", 2),
    ]
    for found in facts["rows"]:
        times = {stage: time["median"] for stage, time in found["milliseconds"].items()}
        assert list(times) == [*latency.STAGES, "all"]
        assert sum(times[stage] for stage in latency.STAGES) == pytest.approx(times["all"])
    assert (facts["dtype"], facts["runs"], facts["image"]) == ("float32", 1, "random")
    assert (tmp_path / "latency.md").read_text() in capsys.readouterr().out


def test_the_table_states_all_that_times_hang_on() -> None:
    text = latency.summary({**FACTS, "rows": [row("a.pth", 16.0)]})
    assert "2026-01-02, a machine, cpu, 2 threads, float32." in text
    assert (
        "| `a.pth` | 0.500 | torch | 4 | 1.0 (2.0) | 16.0 (32.0) | 3.0 (6.0) | 20.0 (40.0) | 200.0 |" in text
    )
    assert "median (p90) of 30 turns, all models in turn, from a random image of 375 x 500" in text


def test_two_runs_side_by_side(tmp_path: Path) -> None:
    before = written(tmp_path / "before.json")
    after = written(tmp_path / "after.json", rows=[row("a.pth", 8.0), row("b.pth", 1.0)])
    text = latency.compared(before, after)
    assert "| `a.pth` | torch | 4 | network | 16.0 | 8.0 | 2.00 |" in text
    assert "| `a.pth` | torch | 4 | all | 20.0 | 12.0 | 1.67 |" in text
    assert "b.pth" not in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"machine": "another"}, "cannot be compared: machine is a machine in one and another in the other"),
        ({"threads": 1}, "cannot be compared: threads is 2 in one and 1 in the other"),
        ({"dtype": "bfloat16"}, "cannot be compared: dtype is float32 in one and bfloat16 in the other"),
        ({"device": "NVIDIA"}, "cannot be compared: device is cpu in one and NVIDIA in the other"),
        ({"rows": [row("b.pth", 1.0)]}, "have no model, engine and batch in common"),
    ],
)
def test_runs_that_are_not_alike_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture, changes: dict[str, Any], message: str
) -> None:
    files = written(tmp_path / "a.json"), written(tmp_path / "b.json", **changes)
    with pytest.raises(SystemExit) as stop:
        latency.main(["--compare", *map(str, files)])
    said = capsys.readouterr()
    assert (stop.value.code, said.out) == (2, "")
    assert said.err.startswith(f"error: {files[0]} and {files[1]} ")
    assert message in said.err
    assert said.err.count("\n") == 1


def test_what_cannot_be_timed_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "x.json").write_text("[]")
    written(tmp_path / "y.json", rows=[{"model": "a.pth"}])
    for words, message in (
        (["--compare", str(tmp_path / "y.json"), "x.json"], "y.json is no latency.json of this benchmark"),
        *(
            (["ssd_lite", f"--{name}", number], f"--{name}: {number} is not a whole number of 1 or more")
            for name in ("batch", "threads", "runs")
            for number in ("0", "-1")
        ),
        (["--compare", str(tmp_path / "x.json"), "y.json"], "x.json is no latency.json of this benchmark"),
        (["nowhere.pth"], "no checkpoint nowhere.pth"),
        (["ssd_light", "--out", str(tmp_path)], "did you mean ssd_lite"),
        (["weights/quickstart.pth", "--engine", "onnxruntime", "--dtype", "bfloat16"], "is for torch"),
    ):
        with pytest.raises(SystemExit) as stop:
            latency.main(words)
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.json", "y.json"]
