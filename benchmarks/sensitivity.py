"""Sensitivity by sweep and by full evaluations: python -m benchmarks.sensitivity RECIPE model=PATH.

Times `mode=sensitivity` from the loaded detector to its record, then cuts the same groups by the same ratios
again and scores each cut detector as eval_voc.py does, on all images of the split and without a bootstrap.
Says how many times faster the sweep was, and whether it ranks the cuts as the full evaluations do: Spearman's
rank correlation of the drops of the metric, over all cells. Writes sensitivity_RECIPE.json and .md to
benchmarks/results, or where `--out FOLDER` says. To be run on an idle machine.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.main_job import ROOT, machine
from compress.calibration import evidence_of
from compress.cost import subject
from compress.criteria import CRITERIA
from compress.inputs import copied
from compress.probe import narrowed
from compress.recipe import Recipe
from compress.sensitivity.suggest import record_of
from compress.sensitivity.sweep import Sweep
from compress.session import open_all, predictions_of
from detectors.config import load
from detectors.engine.distributed import Place
from detectors.evaluation import METRICS
from detectors.models.base import Detector

RESULTS = ROOT / "benchmarks" / "results"
ALONE = Place(0, 1, torch.device("cpu"))


def rank_correlation(one: Iterable[float], other: Iterable[float]) -> float:
    """Spearman's, of which equal numbers share the mean of their ranks; nan where one side has no spread."""
    first, second = (_ranks(np.asarray(list(values), dtype=np.float64)) for values in (one, other))
    if not (first.std() and second.std()):
        return float("nan")
    return float(np.corrcoef(first, second)[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(count)
    return (ends - (count - 1) / 2)[place]


def full_evaluations(sweep: Sweep) -> tuple[dict[tuple[str, int], float], float]:
    """(group, channels that stay) -> score on all images, and the seconds that all of this took."""
    recipe, detector = sweep.recipe, sweep.detector
    network, metric = subject(detector)[0], METRICS[recipe.eval.metric]
    found: dict[tuple[str, int], float] = {}
    started = time.perf_counter()
    evidence = evidence_of(recipe, detector, sweep.graph, sweep.training, ALONE)
    for group, _, kept in sweep.widths():
        if (group.name, kept) in found:
            continue
        scores = CRITERIA[recipe.prune.criterion](network, group, evidence)
        keep = {group.name: tuple(sorted(scores.argsort(descending=True, stable=True)[:kept].tolist()))}
        slim: Detector = copied(detector, lambda tensor: tensor)  # type: ignore[assignment]
        slim.network = narrowed(network, sweep.graph.groups, keep)
        seen = predictions_of(recipe, slim, sweep.dataset, ALONE)
        found[group.name, kept] = metric(seen.detections, seen.targets, detector.spec.classes).value
    return found, time.perf_counter() - started


def measure(path: str, *overrides: str) -> dict[str, Any]:
    """The sweep and the full evaluations, one after the other, in this process."""
    recipe = load(Recipe, path, list(overrides))
    splits = ["train", "test"] if recipe.sensitivity.split == "test" else ["train"]
    detector, datasets = open_all(recipe, splits, ALONE)  # type: ignore[arg-type]
    training, dataset = datasets[0], datasets[-1]
    for index in range(len(dataset)):
        dataset.image(index)  # where data.cache=ram, neither side pays for decoding
    with tempfile.TemporaryDirectory() as scratch:
        sweep = Sweep(recipe, detector, training, dataset, Path(scratch), ALONE)
        started = time.perf_counter()
        record = record_of(sweep.finish(), sweep.graph, recipe.sensitivity.tolerance)
        seconds = time.perf_counter() - started
    whole = predictions_of(recipe, detector, dataset, ALONE)
    score = METRICS[recipe.eval.metric](whole.detections, whole.targets, detector.spec.classes).value
    full, full_seconds = full_evaluations(sweep)
    cells = [
        {
            "group": group["name"],
            "ratio": cell["ratio"],
            "drop": cell["drop"][0],
            "rise": cell["rise"][0],
            "full_drop": score - full[group["name"], cell["channels"][1]],
        }
        for group in record["groups"]
        for cell in group["cells"]
    ]
    return {
        "command": " ".join(["python -m benchmarks.sensitivity", path, *overrides]),
        "date": date.today().isoformat(),
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "detector": record["detector"],
        "label": record["label"],
        "split": record["split"],
        "groups": len(record["groups"]),
        "cuts": len(full),
        "images": record["count"],
        "all_images": len(dataset),
        "score": record["score"][0],
        "full_score": score,
        "noise": record["noise"],
        "seconds": seconds,
        "full_seconds": full_seconds,
        "rank_correlation": rank_correlation((c["drop"] for c in cells), (c["full_drop"] for c in cells)),
        "apart": float(np.mean([abs(cell["drop"] - cell["full_drop"]) for cell in cells])),
        "cells": cells,
    }


def summary(facts: Mapping[str, Any]) -> str:
    """The facts as Markdown."""
    ratio, split = facts["full_seconds"] / facts["seconds"], facts["split"]
    lines = [
        f"`{facts['command']}`, {facts['date']}, {facts['machine']}, {facts['threads']} threads.",
        "",
        f"| {facts['detector']}: {facts['cuts']} cuts of {facts['groups']} groups | images | seconds "
        f"| {facts['label']} uncut |",
        "|---|---:|---:|---:|",
        f"| mode=sensitivity | {facts['images']} | {facts['seconds']:.0f} | {facts['score']:.3f} |",
        f"| a full evaluation for each cut | {facts['all_images']} | {facts['full_seconds']:.0f} "
        f"| {facts['full_score']:.3f} |",
        "",
        f"{ratio:.1f} times faster; rank correlation of the drops {facts['rank_correlation']:.3f}, on "
        f"average {facts['apart']:.3f} apart, with a noise of +-{facts['noise']:.3f}. Both on data.{split}; "
        "the full evaluations without a bootstrap, the sweep with intervals of drop and loss for each cut.",
    ]
    return "\n".join([*lines, ""])


def main(recipe: str, overrides: list[str], out: Path) -> None:
    """Measures and writes."""
    facts = measure(recipe, *overrides)
    text = summary(facts)
    out.mkdir(parents=True, exist_ok=True)
    name = out / f"sensitivity_{Path(recipe).stem}"
    name.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    name.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("recipe", help="recipe with the data and how to score")
    parser.add_argument("overrides", nargs="*", help="model=PATH and other key=value")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the two files")
    main(**vars(parser.parse_args()))
