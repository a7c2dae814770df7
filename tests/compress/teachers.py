"""A teacher for a student, and what their term of the loss says of some images."""

import torch

from compress.distill import Distillation, distillation
from compress.recipe import DistillConfig
from detectors.engine.terms import watched
from detectors.models.base import Detector

BOTH = DistillConfig(predictions=1.0, attention=1.0)


def term_of(student: Detector, teacher: Detector, how: DistillConfig = BOTH) -> Distillation:
    return distillation(student, teacher, how, source="teacher.pth", channels_last=False)


def answer(term: Distillation, student: Detector, images: torch.Tensor) -> dict[str, torch.Tensor]:
    with watched(student, term.layers) as seen:
        student(images)
        return term(student, images, seen)
