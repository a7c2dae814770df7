"""What the ledger says of a detector: its score, whole and taken apart, its cost and its latency."""

from dataclasses import asdict, replace
from typing import Any

from compress.cost import cost_of, subject
from compress.environment import environment
from compress.graph import trace
from compress.latency.engines import Stopwatch
from compress.latency.passes import Latency
from compress.ledger import Entry
from compress.recipe import Recipe
from compress.session import predictions_of, scored
from detectors.data import Dataset
from detectors.engine.distributed import Place
from detectors.evaluation.parts import Part, compared, parts_of
from detectors.evaluation.run import Predictions, Score
from detectors.models.base import Detector


class States:
    """Scores the detectors of a run on the same images; what the first one found is kept.

    Args:
        recipe: how to score and time.
        first: the detector that the run starts from.
        test: images to score on.
        place: this process.
        stopwatch: how to time.
    """

    def __init__(
        self, recipe: Recipe, first: Detector, test: Dataset, place: Place, stopwatch: Stopwatch
    ) -> None:
        self._recipe, self._first, self._test, self._place = recipe, first, test, place
        self._stopwatch = stopwatch
        self._first_found: Predictions | None = None

    def score(self, detector: Detector) -> Score:
        """The score alone."""
        return scored(self._recipe, detector, self._found(detector))

    def of_first(self) -> Entry:
        """The first model: what it is, what can be cut of it and why the rest cannot, and its state."""
        graph = trace(*subject(self._first))
        return {
            "detector": {"name": self._first.spec.name, "size": list(self._first.size)},
            "environment": environment(self._place.device),
            "widths": {group.name: group.channels for group in graph.groups},
            "groups": {
                group.name: {"producers": list(group.producers), "size": group.size} for group in graph.groups
            },
            "whole": graph.whole,
            **self.of(self._first),
        }

    def of(self, detector: Detector) -> Entry:
        """Score, costs and latency of a detector, beside the first model's."""
        found = self._found(detector)
        difference, parts = self._compared(detector, found)
        latency, first_latency = self._latencies(detector)
        return {
            "cost": asdict(cost_of(detector)),
            "score": scored(self._recipe, detector, found).to_dict(),
            "difference": difference,
            "parts": [part.to_dict() for part in parts],
            "latency": asdict(latency) if latency else None,
            "first_latency": asdict(first_latency) if first_latency else None,
        }

    def _found(self, detector: Detector) -> Predictions:
        if detector is not self._first:
            return predictions_of(self._recipe, detector, self._test, self._place)
        if self._first_found is None:
            self._first_found = predictions_of(self._recipe, self._first, self._test, self._place)
        return self._first_found

    def _compared(self, detector: Detector, found: Predictions) -> tuple[dict[str, Any] | None, list[Part]]:
        classes, how = detector.spec.classes, self._recipe.eval
        if detector is self._first or not how.bootstrap:
            return None, parts_of(found.detections, found.targets, classes, metric=how.metric)
        first = self._found(self._first).detections
        difference, parts = compared(
            first, found.detections, found.targets, classes, metric=how.metric, bootstrap=how.bootstrap
        )
        return asdict(difference), parts

    def _latencies(self, detector: Detector) -> tuple[Latency | None, Latency | None]:
        runs = self._recipe.prune.latency_runs
        if runs == 0 or not self._place.leads:
            return None, None  # the others wait: timed at once, the processes would slow each other
        first = self._first.network
        networks = [first] if detector is self._first else [detector.network, first]
        measured = replace(self._stopwatch, runs=runs).networks(networks, subject(detector)[1])
        return measured[0], measured[-1]
