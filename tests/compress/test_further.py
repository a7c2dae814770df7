"""A slim detector is pruned further, by another criterion, with its consumers and length scales mended."""

from pathlib import Path
from typing import Any

import torch
from tiny_runs import ALONE, tiny_recipe

import detectors
from compress.calibration import recalibrated
from compress.cost import cost_of
from compress.pruning import carry_out
from compress.recipe import BudgetConfig
from compress.schedule import plan_round
from detectors.checkpoint import fingerprint
from detectors.data import build as build_data
from detectors.models import build
from detectors.models.base import Detector


def cut_and_mended(detector: Detector, path: Path, **prune: Any) -> tuple[Detector, dict[str, Any]]:
    """What one cut and its recalibration leave, read back from a file, and what was mended."""
    recipe = tiny_recipe(budget=BudgetConfig(macs="60%"), rounds=1, **prune)
    recipe.prune.calibration_images = 4
    training = build_data(recipe.data, "train")
    graph, plan = plan_round(recipe, 1, detector, training, ALONE)
    slim = carry_out(detector, graph, plan)
    facts = recalibrated(recipe, detector, slim, plan.keep, training, ALONE)
    detectors.save(slim, path)
    loaded = detectors.load(path)
    assert cost_of(loaded) == plan.after
    assert fingerprint(loaded) == fingerprint(slim)
    return loaded, facts


def test_a_slim_detector_is_pruned_further_by_another_criterion(tmp_path: Path) -> None:
    torch.manual_seed(0)
    classes = build_data(tiny_recipe().data, "train").classes
    first = build("refinedet", classes, size=(64, 64), width=0.0625).eval()
    second, once = cut_and_mended(first, tmp_path / "slim.pth", criterion="fisher", compensate="refit")
    third, twice = cut_and_mended(
        second, tmp_path / "slimmer.pth", criterion="column_subset", compensate="reconstruct"
    )
    for facts in (once, twice):
        assert facts["scales"].keys() == {"conv4_3_L2Norm", "conv5_3_L2Norm"}
        assert "arm_conf.0" in facts["compensated"]
    assert "reconstructed" not in once
    assert {"backbone.features.0", "tcb0.0", "odm_loc.3"} <= twice["reconstructed"].keys()
    # The transposed convolutions, which bring a level up to the next.
    assert "tcb1.0" not in twice["reconstructed"]
    assert cost_of(third).macs <= 0.36 * cost_of(first).macs
    assert all(torch.isfinite(tensor).all() for tensor in third.state_dict().values())
    found = third.predict(torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0)))
    assert torch.isfinite(found.boxes).all()
