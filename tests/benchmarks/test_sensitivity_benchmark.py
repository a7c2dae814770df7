"""The benchmark of the sensitivity sweep: a small run of all of it."""

import json
from math import isnan

import pytest

from benchmarks import sensitivity as benchmark
from benchmarks.main_job import ROOT

FEW = [
    f"model={ROOT / 'weights' / 'quickstart.pth'}",
    "data.synthetic.train=6",
    "data.workers=0",
    "sensitivity.ratios=[0.3, 0.8]",
    "sensitivity.images=6",
    "sensitivity.bootstrap=5",
    "prune.skip=['backbone.features.[1-4]?', 'extras.*']",
]


def test_on_all_images_the_sweep_says_what_full_evaluations_say(tmp_path):
    benchmark.main(str(ROOT / "recipes" / "quickstart.yaml"), FEW, tmp_path)
    facts = json.loads((tmp_path / "sensitivity_quickstart.json").read_text())
    assert facts["images"] == facts["all_images"] == 6
    assert facts["cuts"] == len(facts["cells"]) == 2 * facts["groups"]
    assert facts["score"] == pytest.approx(facts["full_score"], abs=1e-6)
    for cell in facts["cells"]:
        # The same cut of the same images, built twice: batches and sums are the same.
        assert cell["drop"] == pytest.approx(cell["full_drop"], abs=1e-6)
    assert max(cell["full_drop"] for cell in facts["cells"]) > 0.05
    assert facts["rank_correlation"] == pytest.approx(1.0)
    assert facts["seconds"] > 0 < facts["full_seconds"]
    text = (tmp_path / "sensitivity_quickstart.md").read_text()
    assert text == benchmark.summary(facts)
    assert "times faster; rank correlation of the drops 1.000" in text


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ([1, 2, 3], [1, 4, 90], 1.0),
        ([1, 2, 3], [3, 2, 1], -1.0),
        ([1, 2, 2, 3], [1, 2, 3, 4], 0.9486833),  # by hand: ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4
        ([5, 1, 3, 2], [1, 2, 3, 4], -0.4),
    ],
)
def test_the_rank_correlation_is_spearmans(one, other, expected):
    assert benchmark.rank_correlation(one, other) == pytest.approx(expected)


def test_without_spread_there_is_no_rank_correlation():
    assert isnan(benchmark.rank_correlation([1, 1], [1, 2]))
