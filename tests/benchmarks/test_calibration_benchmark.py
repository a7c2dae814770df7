"""The benchmark of scoring and mending: a small run of all of it."""

import json
from itertools import accumulate

import pytest
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


def test_a_gpu_that_is_not_there_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stopped:
        benchmark.main(quick=True, out=tmp_path, only=None, device=torch.device("cuda"))
    told = "--device cuda: torch sees no GPU here; leave it out to measure on the CPU"
    assert stopped.value.code == told
    assert not list(tmp_path.iterdir())


def allocated(run):
    """The most bytes that tensors made by a call hold at a time."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as seen:
        run()
    changes = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    sizes = [event.nbytes() for event in sorted(changes, key=lambda event: event.start_ns())]
    return max(accumulate(sizes))


@pytest.mark.parametrize("criterion", ["taylor", "fisher"])
def test_scores_take_no_more_memory_than_training(criterion):
    # Two batches: what the first leaves behind counts beside the second.
    training, scoring = (benchmark.Job(16, quick=False, device=CPU) for _ in range(2))
    assert allocated(lambda: scoring.score(criterion)) <= allocated(training.train)
