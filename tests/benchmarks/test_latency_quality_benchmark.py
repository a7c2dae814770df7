"""The contest of plans at the same speed, on a clock that knows how long everything takes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from test_quality_benchmark import RECIPE

import detectors
from benchmarks import latency_quality as benchmark
from compress.cost import cost_of
from compress.latency.engines import Stopwatch
from compress.latency.passes import Latency
from compress.recipe import Recipe
from detectors.config import load
from detectors.data import build as build_data
from detectors.models import build


class ByParameters(Stopwatch):
    """A network takes a microsecond for each of its parameters, and so does a layer."""

    def networks(self, networks: Any, inputs: Any) -> list[Latency]:
        times = [sum(p.numel() for p in network.parameters()) / 1e3 for network in networks]
        return [Latency(ms, ms, self.runs, self.batch, 1, "fake", self.engine) for ms in times]

    def layers(self, shapes: Any, like: Any) -> list[float]:
        return [one.inputs * one.outputs / one.groups / 1e3 for one in shapes]

    def between(self, network: Any, inputs: Any) -> dict[str, float]:
        return {}

    def facts(self, like: Any) -> dict[str, Any]:
        return {"device": "fake"}


def test_both_plans_are_as_quick_and_scored_on_the_same_images(tmp_path: Path) -> None:
    torch.manual_seed(0)
    recipe = RECIPE | {"distill": {}, "eval": {"metric": "voc", "bootstrap": 50}}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    classes = build_data(load(Recipe, tmp_path / "tiny.yaml").data, "train").classes
    first = build("ssd_vgg16_bn", classes, size=(64, 64), width=0.125)
    detectors.save(first, tmp_path / "first.pth")
    overrides = [f"model={tmp_path / 'first.pth'}"]
    facts = benchmark.measure(str(tmp_path / "tiny.yaml"), overrides, "50%", ByParameters())
    by_clock, by_macs = facts["plans"]["latency"], facts["plans"]["MACs"]
    assert by_clock["ms"] <= 0.5 * facts["dense_ms"]
    assert by_macs["ms"] == pytest.approx(by_clock["ms"], rel=0.15)  # widths are whole numbers
    assert facts["dense_ms"] == pytest.approx(cost_of(first).params / 1e3, rel=0.01)
    assert json.loads(json.dumps(facts))["difference"]["images"] == 6
    text = benchmark.summary(facts)
    assert "| latency |" in text
    assert "paired 95 % interval" in text
