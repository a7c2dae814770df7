"""How much a detector loses when one layer group is cut by a share, for every group and share.

A cell is one such cut: only that group loses its least important channels, by the recipe's criterion; nothing
is recalibrated, compensated or trained, so that all cells are alike and show the cut alone. The cut network
is built (which is the masked one, only faster) and scored on a few fixed images by the metric and by the mean
of each image's loss, both against the whole detector on the same images.
"""

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.calibration import evidence_of
from compress.cost import cost_of_layers, subject
from compress.criteria import CRITERIA
from compress.graph import trace
from compress.groups import Graph, Group
from compress.ledger import Entry
from compress.plan import selectable
from compress.pricing import priced
from compress.probe import narrowed
from compress.recipe import Recipe
from compress.sensitivity.cells import Cells, Key
from compress.sensitivity.examine import Examiner, Findings, chosen
from detectors.checkpoint import fingerprint
from detectors.data import Dataset
from detectors.engine.console import steps
from detectors.engine.distributed import Place
from detectors.errors import DataError, PlanError, RunError, UserError
from detectors.evaluation import METRICS
from detectors.evaluation.bootstrap import interval, resamples
from detectors.evaluation.score import Measurement
from detectors.models.base import Detector

# The parts and keys of a recipe that decide what a cell is.
DECISIVE = (
    "mode",
    "detector",
    "data",
    "sensitivity",
    "eval",
    "prune.criterion",
    "prune.calibration_images",
    "finetune.batch",
    "finetune.seed",
)


@dataclass
class Sweep:
    """A sweep of all groups and ratios in its folder; it may be killed at any time and goes on from there.

    Attributes:
        recipe: its part `sensitivity` says what is measured, `prune.criterion` which channels go,
            `prune.skip` which layers are left out.
        detector: on its device; never changed.
        training: images that the criterion may look at.
        dataset: where the images of the sweep are drawn from.
        folder: of the run, held by the caller.
        place: this process among those that work together.
    """

    recipe: Recipe
    detector: Detector
    training: Dataset
    dataset: Dataset
    folder: Path
    place: Place

    @cached_property
    def graph(self) -> Graph:
        """The groups of the detector's network."""
        return trace(*subject(self.detector))

    @cached_property
    def groups(self) -> list[Group]:
        """Those that are cut. Raises PlanError where there are none."""
        groups = selectable(self.graph, self.recipe.prune.skip)
        if not groups:
            raise PlanError(
                f"{self.detector.spec.name} has no layer group to cut: there is no sensitivity to measure; "
                "look at prune.skip"
            )
        return groups

    def widths(self) -> Iterator[tuple[Group, float, int]]:
        """(group, ratio, channels that stay) of every cell, in the order of execution."""
        for group in self.groups:
            for ratio in self.recipe.sensitivity.ratios:
                gone = min(max(1, round(ratio * group.channels)), group.channels - 1)
                yield group, ratio, group.channels - gone

    def headline(self) -> str:
        """What will be measured, in a line."""
        settings = self.recipe.sensitivity
        count = len({(group.name, kept) for group, _, kept in self.widths()})
        return (
            f"{len(self.groups)} layer groups, each cut by {', '.join(f'{r:.0%}' for r in settings.ratios)}: "
            f"{count} cuts, each scored on {min(settings.images, len(self.dataset))} images of "
            f"data.{settings.split}"
        )

    def finish(self) -> dict[str, Any]:
        """Measures whatever cells are not done yet.

        Returns:
            `start`, the line of what was measured on, and `cells`, one for each group and ratio with its
            `ratio`; see `compress.sensitivity.suggest` for what is made of it.

        Raises:
            RunError: the folder holds a sweep of another model or of other images.
            UserError: a cut whose detections cannot be scored, with its place.
        """
        settings = self.recipe.sensitivity
        cells = Cells(self.folder, self.place)
        indices = chosen(self.dataset, settings.images, settings.seed)
        marks = {"model": fingerprint(self.detector), "images": _digest(self.dataset, indices)}
        if cells.start is not None:
            self._check_same(cells.start, marks)
        pending = dict.fromkeys(
            (group.name, kept) for group, _, kept in self.widths() if (group.name, kept) not in cells.done
        )
        if pending or cells.start is None:
            self._measure(cells, marks, indices, list(pending))
            cells.join()
        assert cells.start is not None, "it is written before the first cell"
        found = [{**cells.done[group.name, kept], "ratio": ratio} for group, ratio, kept in self.widths()]
        return {"start": cells.start, "cells": found}

    def _measure(self, cells: Cells, marks: dict[str, str], indices: list[int], pending: list[Key]) -> None:
        network = subject(self.detector)[0]
        evidence = evidence_of(self.recipe, self.detector, self.graph, self.training, self.place)
        examiner = Examiner(
            self.detector,
            self.dataset,
            indices,
            batch=self.recipe.eval.batch,
            difficult=self.recipe.data.difficult,
        )
        judge = _Judge(self.recipe, self.detector, examiner)
        if cells.start is None:
            cells.begin({**marks, **self._facts(judge, len(indices))})
        share = pending[self.place.rank :: self.place.world]
        title, shown = "sensitivity", self.place.leads
        with steps(title, len(share), show=shown) as report:
            for group in self.groups:
                widths = [kept for name, kept in share if name == group.name]
                if not widths:
                    continue
                examiner.enter(member.layer for member in group.members)
                ranking = CRITERIA[self.recipe.prune.criterion](network, group, evidence)
                order = ranking.argsort(descending=True, stable=True).tolist()
                for kept in widths:
                    started = time.monotonic()
                    keep = {group.name: tuple(sorted(order[:kept]))}
                    findings = examiner.changed(narrowed(network, self.graph.groups, keep))
                    try:
                        verdict = judge.compared(findings)
                    except UserError as error:
                        raise type(error)(f"{group.name} cut to {kept} channels: {error}") from None
                    entry = {
                        "group": group.name,
                        "channels": [group.channels, kept],
                        "cost": asdict(priced(self.graph, {group.name: kept})),
                        **verdict,
                        "seconds": round(time.monotonic() - started, 3),
                    }
                    cells.add(entry)
                    report(_note(entry, judge.label), images=len(indices))

    def _facts(self, judge: "_Judge", images: int) -> dict[str, Any]:
        """What was measured on, for the first line."""
        settings = self.recipe.sensitivity
        return {
            "file": self.recipe.model,
            "detector": self.detector.spec.name,
            "criterion": self.recipe.prune.criterion,
            "metric": self.recipe.eval.metric,
            "label": judge.label,
            "split": settings.split,
            "count": images,
            "seed": settings.seed,
            "bootstrap": settings.bootstrap,
            "cost": asdict(cost_of_layers(self.graph.layers)),
            **judge.whole(),
        }

    def _check_same(self, start: Entry, marks: dict[str, str]) -> None:
        for key, what in (
            ("model", "another model (or other weights of it)"),
            ("images", "other images than the data set has now"),
        ):
            if start.get(key) != marks[key]:
                raise RunError(
                    f"{self.folder} holds a sensitivity sweep of {what}; give this one its own folder with "
                    "out=PATH, or delete the folder to start over"
                )


class _Judge:
    """Sets what changed detectors make of the images beside what the whole one does."""

    def __init__(self, recipe: Recipe, detector: Detector, examiner: Examiner) -> None:
        self._metric, self._classes = METRICS[recipe.eval.metric], detector.spec.classes
        self._examiner, self._findings = examiner, examiner.whole()
        self._measured = self._measure(self._findings)
        if not isfinite(self._measured.value):
            raise DataError(
                f"none of the {len(examiner.targets)} images of the sweep has a box that counts for "
                f"{recipe.eval.metric}; raise sensitivity.images, or draw others with sensitivity.seed"
            )
        settings = recipe.sensitivity
        self._weights = resamples(len(examiner.targets), settings.bootstrap, settings.seed)
        self._values = self._measured.values(self._weights)

    @property
    def label(self) -> str:
        """How the metric is called in print."""
        return self._measured.label

    def whole(self) -> dict[str, Any]:
        """Score and loss of the whole detector with their 95 % intervals."""
        return {
            "score": _with_interval(self._measured.value, self._values),
            "loss": _with_interval(self._findings.losses.mean(), self._resampled(self._findings.losses)),
        }

    def compared(self, findings: Findings) -> dict[str, Any]:
        """Score and loss of a changed detector, and by how much they are worse, on the same resamples."""
        measured = self._measure(findings)
        rises = findings.losses - self._findings.losses
        return {
            "score": measured.value,
            "drop": _with_interval(
                self._measured.value - measured.value, self._values - measured.values(self._weights)
            ),
            "loss": _finite(findings.losses.mean()),
            "rise": _with_interval(rises.mean(), self._resampled(rises)),
        }

    def _measure(self, findings: Findings) -> Measurement:
        return self._metric(findings.detections, self._examiner.targets, self._classes)

    def _resampled(self, losses: NDArray[np.float64]) -> NDArray[np.float64]:
        with np.errstate(invalid="ignore"):  # a loss without bounds makes nan, which is told as no number
            return np.asarray(self._weights @ losses / len(losses))


def _with_interval(value: float, values: NDArray[np.float64]) -> list[float | None]:
    """A number with the ends of its 95 % interval; None for what is not finite."""
    return [_finite(number) for number in (value, *interval(float(value), values))]


def _finite(value: float) -> float | None:
    return float(value) if isfinite(value) else None


def _note(entry: Entry, label: str) -> str:
    first, kept = entry["channels"]
    return f"{entry['group']} {first} -> {kept}: {label} {entry['score']:.3f}"


def _digest(dataset: Dataset, indices: list[int]) -> str:
    """sha256 of the names of some images and of their boxes."""
    digest = hashlib.sha256()
    for index in indices:
        target = dataset.target(index)
        about = [dataset.name(index), target.boxes.tolist(), target.labels.tolist()]
        digest.update(json.dumps(about).encode())
    return digest.hexdigest()
