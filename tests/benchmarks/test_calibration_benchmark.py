"""The benchmark of scoring and mending: a small run of all of it."""

import json

import torch

from benchmarks import calibration as benchmark

CPU = torch.device("cpu")


def test_the_quick_run_times_every_criterion_and_writes_it(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "peak", lambda action, quick, device: 100.0 + len(action))
    benchmark.main(quick=True, out=tmp_path, only=None, device=CPU)
    facts = json.loads((tmp_path / "calibration.json").read_text())
    assert facts["scores"].keys() == set(benchmark.CRITERIA)
    assert all(value > 0 for found in facts["scores"].values() for value in found["seconds"])
    assert facts["mending"][0] > 0
    text = (tmp_path / "calibration.md").read_text()
    assert text == benchmark.summary(facts)
    assert text.startswith(f"`python -m benchmarks.calibration --quick`, {facts['date']}, ")


def test_the_memory_of_an_action_is_measured_in_a_process_of_its_own():
    assert benchmark.peak("training", quick=True, device=CPU) > 1
