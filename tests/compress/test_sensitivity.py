"""Every cell of a sweep is one cut of one group, measured once, whatever stops the sweep on its way."""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import ALONE, tiny_recipe

import detectors
from compress.cost import Cost, cost_of, subject
from compress.criteria import CRITERIA
from compress.graph import trace
from compress.plan import plan_of
from compress.pruning import carry_out
from compress.recipe import Recipe, SensitivityConfig
from compress.sensitivity.cells import Cells
from compress.sensitivity.examine import chosen
from compress.sensitivity.sweep import Sweep
from compress.session import predictions_of
from detectors.data import build as build_data
from detectors.engine.distributed import Place
from detectors.errors import ConfigError, PlanError, RunError
from detectors.evaluation.run import paired_difference
from detectors.models.base import Detector
from detectors.settings import SyntheticConfig

RATIOS = [0.3, 0.8]
# Five groups are enough: features.0, 3, 7, 44 and 47.
SKIP = ["backbone.features.[12]?", "backbone.features.3?", "backbone.features.40", "extras.*"]
DRAWN = SyntheticConfig(classes=6, train=8, size=[128, 128], objects=[1, 5], object_size=[0.2, 0.5])
DETECTOR = detectors.load(Path(__file__).parents[2] / "weights" / "quickstart.pth").eval()


def recipe_of(**sensitivity: Any) -> Recipe:
    settings = {"ratios": RATIOS, "images": 4, "bootstrap": 20} | sensitivity
    recipe = tiny_recipe(skip=SKIP)
    recipe.data.synthetic = DRAWN
    return replace(recipe, sensitivity=SensitivityConfig(**settings), mode="sensitivity")


def sweep(folder: Path, recipe: Recipe | None = None, detector: Detector = DETECTOR) -> Sweep:
    recipe = recipe or recipe_of()
    data = build_data(recipe.data, "train")
    folder.mkdir(exist_ok=True)
    return Sweep(recipe, detector, data, data, folder, ALONE)


def without_seconds(found: dict[str, Any]) -> dict[str, Any]:
    cells = [{key: value for key, value in cell.items() if key != "seconds"} for cell in found["cells"]]
    return {"start": found["start"], "cells": cells}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return sweep(tmp_path_factory.mktemp("sweep")).finish()


def test_a_cell_is_the_proven_cut_of_one_group_scored_on_the_same_images(unbroken: dict[str, Any]) -> None:
    recipe, graph = recipe_of(images=8), trace(*subject(DETECTOR))
    network = subject(DETECTOR)[0]
    data = build_data(recipe.data, "train")
    whole = predictions_of(recipe, DETECTOR, data, ALONE)
    start, cells = unbroken["start"], unbroken["cells"]
    named = {group.name: group for group in graph.groups}
    assert len(cells) == 2 * len({cell["group"] for cell in cells}) == 10
    images = chosen(data, 4, 0)
    for cell in (cells[0], cells[5]):
        group, ratio = named[cell["group"]], cell["ratio"]
        before, after = cell["channels"]
        assert (before, after) == (group.channels, group.channels - round(ratio * group.channels))
        plan = plan_of(graph, {group.name: after}, lambda one, _: CRITERIA["l1"](network, one))
        slim = carry_out(DETECTOR, graph, plan)
        assert Cost(**cell["cost"]) == cost_of(slim)
        cut = predictions_of(recipe, slim, data, ALONE)
        first, second = ([found.detections[k] for k in images] for found in (whole, cut))
        difference = paired_difference(
            first, second, [whole.targets[k] for k in images], data.classes, metric="voc", bootstrap=20
        )
        # Batches of other sizes add in another order, which moves scores by 1e-6 and no box over a threshold.
        assert cell["drop"] == pytest.approx([-difference.value, -difference.high, -difference.low], abs=1e-4)
    assert start["count"] == 4
    assert start["score"][1] <= start["score"][0] <= start["score"][2]
    assert Cost(**start["cost"]) == cost_of(DETECTOR)


def test_scores_and_losses_tell_cuts_apart(unbroken: dict[str, Any]) -> None:
    cells = unbroken["cells"]
    assert unbroken["start"]["score"][0] > 0.9
    assert len({cell["rise"][0] for cell in cells}) == len(cells)
    assert max(cell["drop"][0] for cell in cells) > 0.2
    for cell in cells:
        for value, low, high in (cell["drop"], cell["rise"]):
            assert low <= value <= high
        assert cell["loss"] == pytest.approx(unbroken["start"]["loss"][0] + cell["rise"][0])
        assert cell["score"] == pytest.approx(unbroken["start"]["score"][0] - cell["drop"][0])


class Killed(BaseException):
    """What stands for a process that ends at once."""


def test_a_killed_sweep_goes_on_and_measures_no_cell_twice(
    tmp_path: Path, unbroken: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    add, added = Cells.add, []

    def dying(self: Cells, entry: dict[str, Any]) -> None:
        if len(added) % 3 == 2:
            added.append(None)
            raise Killed
        add(self, entry)
        added.append(entry["group"])

    monkeypatch.setattr(Cells, "add", dying)
    deaths = 0
    while True:
        try:
            found = sweep(tmp_path).finish()
            break
        except Killed:
            deaths += 1
            with (tmp_path / "cells.jsonl").open("a") as file:
                file.write('{"phase": "cell", "gro')  # half a line
    assert deaths == 4
    assert without_seconds(found) == without_seconds(unbroken)
    lines = [json.loads(line) for line in (tmp_path / "cells.jsonl").read_text().splitlines()]
    assert [line["phase"] for line in lines] == ["start"] + ["cell"] * 10
    monkeypatch.setattr("compress.sensitivity.sweep.Examiner", None)
    assert without_seconds(sweep(tmp_path).finish()) == without_seconds(unbroken)


def test_a_further_ratio_adds_its_cells_alone_and_equal_widths_are_one_cell(
    tmp_path: Path, unbroken: dict[str, Any]
) -> None:
    sweep(tmp_path).finish()
    before = (tmp_path / "cells.jsonl").read_text()
    found = sweep(tmp_path, recipe_of(ratios=[0.3, 0.3001, 0.5])).finish()
    text = (tmp_path / "cells.jsonl").read_text()
    assert text.startswith(before)
    assert len(text.splitlines()) == len(before.splitlines()) + 5
    assert [cell["ratio"] for cell in found["cells"][:3]] == [0.3, 0.3001, 0.5]
    assert found["cells"][0]["channels"] == found["cells"][1]["channels"]
    assert without_seconds(found)["cells"][0] == without_seconds(unbroken)["cells"][0]


def other_weights() -> Detector:
    other = copy.deepcopy(DETECTOR)
    with torch.no_grad():
        next(other.network.parameters()).mul_(1.01)
    return other


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda: {"detector": other_weights()}, "holds a sensitivity sweep of another model"),
        (lambda: {"recipe": recipe_of(seed=5)}, "of other images than the data set has now"),
        (lambda: {"recipe": recipe_of(images=3)}, "of other images than the data set has now"),
    ],
)
def test_a_sweep_of_another_model_or_of_other_images_is_left_alone(
    tmp_path: Path, change: Callable[[], dict[str, Any]], part: str
) -> None:
    sweep(tmp_path).finish()
    before = (tmp_path / "cells.jsonl").read_bytes()
    with pytest.raises(RunError, match=f"{part}.*; give this one its own folder with out=PATH, or delete"):
        sweep(tmp_path, **change()).finish()
    assert (tmp_path / "cells.jsonl").read_bytes() == before


def test_where_nothing_can_be_cut_it_says_so(tmp_path: Path) -> None:
    recipe = recipe_of()
    bare = replace(recipe, prune=replace(recipe.prune, skip=["*"]))
    with pytest.raises(PlanError, match=r"ssd_vgg16_bn has no layer group to cut: .*prune.skip"):
        sweep(tmp_path, bare).finish()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"ratios": []}, "sensitivity.ratios=.. does not work: it must be rising shares between 0 and 1"),
        ({"ratios": [0.5, 0.5]}, "sensitivity.ratios"),
        ({"ratios": [0.5, 1.0]}, "sensitivity.ratios"),
        ({"images": 0}, "sensitivity.images=0 does not work: it must be 1 or more"),
        ({"bootstrap": 0}, "sensitivity.bootstrap=0"),
        ({"tolerance": -0.1}, "sensitivity.tolerance=-0.1"),
    ],
)
def test_settings_out_of_range_are_named(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SensitivityConfig(**setting)


def cell(group: str, kept: int) -> dict[str, Any]:
    return {"group": group, "channels": [8, kept], "score": kept / 8}


def test_what_several_processes_measured_is_joined_and_no_line_is_lost_or_doubled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compress.sensitivity.cells.wait", lambda place: None)
    leader, second = (Cells(tmp_path, Place(rank, 2, torch.device("cpu"))) for rank in (0, 1))
    for cells in (leader, second):
        cells.begin({"model": "m"})
    leader.add(cell("a", 4))
    second.add(cell("b", 4))
    second.add(cell("b", 2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cells.1.jsonl", "cells.jsonl"]
    part = (tmp_path / "cells.1.jsonl").read_text()
    leader.join()
    assert set(leader.done) == {("a", 4), ("b", 4), ("b", 2)}
    (tmp_path / "cells.1.jsonl").write_text(part)  # killed between the joining and the deletion
    fresh = Cells(tmp_path, ALONE)
    assert fresh.done == leader.done
    assert fresh.start == {"phase": "start", "model": "m"}
    assert [path.name for path in tmp_path.iterdir()] == ["cells.jsonl"]
    assert len((tmp_path / "cells.jsonl").read_text().splitlines()) == 4


@pytest.mark.parametrize("line", ["no json", "[]", "{}", '{"phase": "cell", "group": "a"}'])
def test_a_line_that_is_no_cell_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "cells.jsonl").write_text(f"{line}\n")
    with pytest.raises(RunError, match=r"cells.jsonl.*; take the run to another folder with out=PATH"):
        Cells(tmp_path, ALONE)
