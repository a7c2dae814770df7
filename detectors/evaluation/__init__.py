"""Scores of a detector on labelled images, each with a bootstrap interval over the images.

A metric is one function registered in `METRICS`: it takes detections, targets and class names and returns
a `score.Measurement`, which gives the value for any weight per image. `run.evaluate` does the rest.
"""

from typing import TYPE_CHECKING

from detectors.registry import Registry

if TYPE_CHECKING:
    from detectors.evaluation.score import Metric

METRICS: "Registry[Metric]" = Registry("metric", "detectors.evaluation")
