"""The comparison with peers: a small run of all of it, how turns are timed, and the loop it compares with."""

import json
from dataclasses import replace

import pytest
import torch

from benchmarks import detectors as benchmark
from detectors.postprocess import PostprocessOptions, select


def test_the_quick_run_measures_everything_and_writes_it(tmp_path):
    benchmark.main(quick=True, out=tmp_path)
    facts = json.loads((tmp_path / "detectors.json").read_text())
    for comparison in ("forward", "training_step", "postprocess"):
        assert facts[comparison]["ratio"]["least"] > 0
    assert facts["postprocess"]["detections"] > 100
    (cut,) = facts["cut"].values()
    assert cut["left"] < cut["macs"]
    assert cut["all"] == pytest.approx(cut["trace"] + cut["plan"] + cut["cut and proof"])
    text = (tmp_path / "detectors.md").read_text()
    assert text == benchmark.summary(facts)
    assert text.startswith(f"`python -m benchmarks.detectors --quick`, {facts['date']}, ")


def test_turns_alternate_and_the_ratio_is_of_each_turn(monkeypatch):
    now, order = [0.0], []
    lengths = {"peer": iter([9.0, 4.0, 6.0, 20.0]), "ours": iter([9.0, 1.0, 3.0, 4.0])}

    def call(name):
        order.append(name)
        now[0] += next(lengths[name])

    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: now[0])
    found = benchmark.in_turn({"peer": lambda: call("peer"), "ours": lambda: call("ours")}, runs=3, warm=1)
    assert order == ["peer", "ours"] * 4
    assert found["peer"] == {"median": 6000.0, "least": 4000.0, "most": 20000.0}
    assert found["ours"] == {"median": 3000.0, "least": 1000.0, "most": 4000.0}
    assert found["ratio"] == {"median": 4.0, "least": 2.0, "most": 5.0}


def test_exactly_so_many_candidates_are_above_the_threshold():
    scores, boxes = benchmark.candidates(300, 1234)
    assert (scores > 0.01).sum() == 1234
    assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_the_loop_keeps_the_best_of_each_class_that_do_not_overlap():
    boxes = torch.tensor([[0.0, 0.0, 0.4, 0.4], [0.1, 0.0, 0.5, 0.4], [0.2, 0.0, 0.6, 0.4]])
    scores = torch.tensor([[0.9, 0.0], [0.8, 0.02], [0.7, 0.005]])
    found = benchmark.loop_over_classes(scores, boxes, PostprocessOptions(top_k=3))
    assert found[..., 0].tolist() == [pytest.approx([0.9, 0.7, 0.0]), pytest.approx([0.02, 0.0, 0.0])]
    assert torch.equal(found[0, 1, 1:], boxes[2])


def test_detections_that_differ_are_not_called_the_same():
    scores, boxes = benchmark.candidates(200, 900)
    options = PostprocessOptions(keep=None)
    loop, ours = benchmark.loop_over_classes(scores, boxes, options), select(scores, boxes, (1, 1), options)
    assert benchmark.same(loop, ours) == len(ours)
    with pytest.raises(AssertionError):
        benchmark.same(loop, replace(ours, boxes=ours.boxes + 0.01))
    with pytest.raises(AssertionError):
        benchmark.same(loop, select(scores, boxes, (1, 1), PostprocessOptions(keep=len(ours) - 1)))
