"""A detector from elsewhere joins with one file: the one that CONTRIBUTING.md shows."""

import importlib
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_runs import ALONE, tiny_recipe

import compress
import detectors
from compress.cost import cost_of, subject
from compress.graph import trace
from compress.recipe import Recipe
from compress.rounds import Run
from compress.session import open_all
from detectors.errors import CheckpointError, ConfigError
from detectors.models import DETECTORS
from detectors.settings import DetectorConfig
from detectors.types import Target

MANUAL = Path(__file__).parents[2] / "CONTRIBUTING.md"


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module in a folder of its own, and a registry that forgets it afterwards."""
    section = MANUAL.read_text().split("## Your own detector")[1]
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "__init__.py").touch()
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert code is not None
    (tmp_path / "elsewhere" / "points.py").write_text(code[1])
    monkeypatch.syspath_prepend(tmp_path)
    DETECTORS.names()
    monkeypatch.setattr(DETECTORS, "_entries", dict(DETECTORS._entries))
    yield "elsewhere.points"
    for name in ("elsewhere.points", "elsewhere"):
        sys.modules.pop(name, None)


def recipe_of(module: str | None) -> Recipe:
    detector = DetectorConfig(name="points", module=module, size=[64, 64], options={"width": 32})
    return replace(tiny_recipe(), detector=detector)


def test_a_foreign_detector_is_built_trained_and_pruned_in_rounds_and_its_file_loads_again(
    foreign: str, tmp_path: Path
) -> None:
    recipe = recipe_of(foreign)
    detector, (training, test) = open_all(recipe, ["train", "test"], ALONE)
    assert type(detector).__name__ == "PointDetector"
    (tmp_path / "run").mkdir()
    ledger = Run(recipe, detector, training, test, tmp_path / "run", ALONE).finish()
    slim = detectors.load(tmp_path / "run" / "slim.pth")
    assert cost_of(slim).macs <= 0.4 * cost_of(detector).macs
    assert slim.network.body[1].num_groups < 4
    assert ledger.entries[-1]["cost"]["macs"] == cost_of(slim).macs
    found = slim.predict(torch.randint(0, 256, (3, 50, 80), dtype=torch.uint8))
    assert len(found) > 0
    assert (found.boxes <= torch.tensor([80.0, 50.0, 80.0, 50.0])).all()


def test_it_learns_and_a_slim_file_gives_the_same_outputs(foreign: str, tmp_path: Path) -> None:
    importlib.import_module(foreign)
    torch.manual_seed(0)
    detector = detectors.build("points", ["cat", "dog"]).train()
    images, targets = torch.rand(2, 3, 64, 64), [Target.of([[5, 5, 40, 40]], [1]), Target.of([], [])]
    optimizer = torch.optim.Adam(detector.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = sum(detector.losses(images, targets).values())
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.3 * losses[0]
    best = detector.predict(images[:1], [(64, 64)])[0]
    assert best.labels[0] == 1
    assert (best.boxes[0] - torch.tensor([5.0, 5.0, 40.0, 40.0])).abs().max() < 4

    slim = compress.prune(detector, ratio=0.5)
    detectors.save(slim, tmp_path / "slim.pth")
    loaded = detectors.load(tmp_path / "slim.pth", "points", ["cat", "dog"])
    assert type(loaded) is type(slim)
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in slim.state_dict().items())
    assert torch.equal(slim.eval()(images), loaded(images))
    assert trace(*subject(loaded)).whole == {"head": "makes an output"}


def test_its_file_without_its_module_says_what_is_missing(foreign: str, tmp_path: Path) -> None:
    importlib.import_module(foreign)
    detectors.save(detectors.build("points", ["cat"]), tmp_path / "points.pth")
    del DETECTORS._entries["points"]
    for options in ({}, {"size": (64, 64)}):
        with pytest.raises(CheckpointError) as caught:
            detectors.load(tmp_path / "points.pth", **options)
        message = f"{tmp_path / 'points.pth'}: unknown detector 'points'; known: fssd"
        assert str(caught.value).startswith(message)
        assert "detector.module=MODULE" in str(caught.value)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (None, "unknown detector 'points'"),
        ("elsewhere.pints", "detector.module=elsewhere.pints cannot be imported (No module named"),
        ("my_package.my_file", "of a file below the current folder or on PYTHONPATH"),
    ],
)
def test_a_module_that_is_not_there_is_named(foreign: str, module: str | None, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        open_all(recipe_of(module), ["train"], ALONE)
