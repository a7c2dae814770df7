"""Distillation: the detector before it was cut teaches the slim one while that is fine-tuned."""

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from compress.pairing import shared_layers
from compress.recipe import DistillConfig
from detectors.checkpoint import fingerprint
from detectors.engine.terms import Seen, watched
from detectors.memory_format import to_channels_last
from detectors.models.base import Detector
from detectors.types import ClassLogits, Comparable

# An image in which the teacher sees next to nothing teaches next to nothing: where all weights of a batch
# together are below this, the weighted means fall towards 0.
_SEES_NOTHING = 1e-6
# Below this an anchor teaches nothing at all. What it taught would be lost in rounding, but its gradients are
# so small (below 1e-38) that a CPU takes thirty times as long over them in the backward pass of the heads.
_SURE_OF_NOTHING = 1e-6


@dataclass(frozen=True)
class Answers:
    """What a detector says of some images, as far as it is compared.

    Attributes:
        predictions: of all anchors; None where they are not compared.
        maps: attention maps, each `[B, h * w]` of unit length.
    """

    predictions: Comparable | None
    maps: tuple[Tensor, ...]


def class_divergence(teacher: ClassLogits, student: ClassLogits, temperature: float) -> Tensor:
    """KL(teacher || student) of each anchor, `[B, A]`, at a temperature T, times T^2 (Hinton 2015, 2).

    Logistic regressions are as many distributions over yes and no, whose divergences are added.
    """
    t, s = teacher.logits / temperature, student.logits / temperature
    if teacher.softmax:
        wanted = t.log_softmax(dim=-1)
        parts = wanted.exp() * (wanted - s.log_softmax(dim=-1))
    else:
        yes = t.sigmoid() * (F.logsigmoid(t) - F.logsigmoid(s))
        parts = yes + (-t).sigmoid() * (F.logsigmoid(-t) - F.logsigmoid(-s))
    return parts.sum(dim=-1) * temperature**2


def foreground(heads: Sequence[ClassLogits]) -> Tensor:
    """How sure each anchor is of an object, `[B, A]`, 0..1.

    The probability of its best class that is not the background; where several heads judge (objectness and
    class, both steps of RefineDet), the product of what each gives.
    """
    best = []
    for head in heads:
        chances = head.logits.softmax(dim=-1) if head.softmax else head.logits.sigmoid()
        best.append(chances[..., 1:].amax(dim=-1) if head.background else chances.amax(dim=-1))
    return reduce(torch.mul, best)


def prediction_terms(teacher: Comparable, student: Comparable, temperature: float) -> tuple[Tensor, Tensor]:
    """The mean divergence of classes and the mean smooth L1 distance of boxes over the anchors of a batch.

    Both are weighted by how sure the teacher's anchor is of an object: sum_a w_a d_a / sum_a w_a, with 0 for
    a w_a below one in a million.
    """
    sure = foreground(teacher.classes)
    weights = torch.where(sure < _SURE_OF_NOTHING, 0.0, sure)
    weights = weights / weights.sum().clamp(min=_SEES_NOTHING)
    pairs = zip(teacher.classes, student.classes, strict=True)
    classes = torch.stack([class_divergence(t, s, temperature) for t, s in pairs]).sum(dim=0)
    boxes = F.smooth_l1_loss(student.boxes, teacher.boxes, reduction="none").sum(dim=-1)
    return (weights * classes).sum(), (weights * boxes).sum()


def attention_map(features: Tensor) -> Tensor:
    """Where a layer looks: `[B, C, h, w]` -> `[B, h * w]` float32 of unit length for each image.

    The sum over the channels of their squares (Zagoruyko and Komodakis 2017, section 3.1, F_sum^2), which two
    networks of other widths have in the same shape.
    """
    return F.normalize(features.float().square().sum(dim=1).flatten(1), dim=1)


def attention_term(teacher: Sequence[Tensor], student: Sequence[Tensor]) -> Tensor:
    """Squared distance of attention maps, 0..2, as a mean over images and layers.

    Zagoruyko and Komodakis 2017, equation 2, with the squared norm of their code. Each map is of unit length
    as a whole, so that large and small ones count the same.
    """
    pairs = zip(teacher, student, strict=True)
    return torch.stack([(t - s).square().sum(dim=1).mean() for t, s in pairs]).mean()


class Distillation:
    """A term of `fit`: "teacher_classes", "teacher_boxes" and "teacher_attention", as far as they are on.

    With a cache, the teacher is asked image by image and once for each: what it says of an image then hangs
    on no other image, so that a resumed training hears what an unbroken one does.

    Args:
        teacher: in evaluation mode, without gradients, where the student is; `distillation` makes it so.
        how: weights, temperature and cache.
        layers: of the detector, by name, whose inputs are compared.
    """

    def __init__(self, teacher: Detector, how: DistillConfig, layers: tuple[str, ...]) -> None:
        self.teacher = teacher
        self.layers = layers
        self.settings = {
            "distill.teacher": fingerprint(teacher)[:12],
            "distill.predictions": how.predictions,
            "distill.attention": how.attention,
            "distill.temperature": how.temperature,
            "distill.cache": how.cache,
        }
        self._how = how
        self._cache: dict[bytes, Answers] = {}

    def __call__(self, detector: Detector, images: Tensor, seen: Seen) -> dict[str, Tensor]:
        """The weighted terms; see `detectors.engine.terms.Term`."""
        wanted, got = self.lesson(images), self._answers(detector, seen)
        terms = {}
        if wanted.predictions is not None and got.predictions is not None:
            classes, boxes = prediction_terms(wanted.predictions, got.predictions, self._how.temperature)
            terms["teacher_classes"] = self._how.predictions * classes
            terms["teacher_boxes"] = self._how.predictions * boxes
        if self.layers:
            terms["teacher_attention"] = self._how.attention * attention_term(wanted.maps, got.maps)
        return terms

    def lesson(self, images: Tensor) -> Answers:
        """What the teacher says of images `[B, 3, H, W]`, from the cache where there is one."""
        if self._how.cache == "none":
            return self._ask(images)
        kept = []
        for image in images.split(1):
            key = hashlib.blake2b(image.cpu().contiguous().numpy().tobytes(), digest_size=16).digest()
            if key not in self._cache:
                self._cache[key] = moved(self._ask(image), torch.device("cpu"))
            kept.append(self._cache[key])
        return moved(_side_by_side(kept), images.device)

    @torch.no_grad()
    def _ask(self, images: Tensor) -> Answers:
        with watched(self.teacher, self.layers) as seen:
            self.teacher(images)
            return self._answers(self.teacher, seen)

    def _answers(self, detector: Detector, seen: Seen) -> Answers:
        predictions = detector.comparable(seen.outputs) if self._how.predictions else None
        maps = tuple(attention_map(features) for layer in self.layers for features in seen.inputs[layer])
        return Answers(predictions, maps)


def distillation(
    student: Detector, teacher: Detector, how: DistillConfig, *, source: str, channels_last: bool
) -> Distillation:
    """The term by which a student learns from a teacher, who is left alone: a copy of it teaches.

    Args:
        student: on its device; only its form is looked at.
        teacher: the full detector.
        how: with at least one weight above 0.
        source: what messages call the teacher.
        channels_last: memory layout, as the student trains in.

    Raises:
        ConfigError: the two do not fit each other, or cannot be compared as the settings want.
    """
    layers = shared_layers(student, teacher, how, source)
    model = copy.deepcopy(teacher).to(next(student.parameters()).device).eval().requires_grad_(False)
    if channels_last:
        to_channels_last(model)
    return Distillation(model, how, layers)


def _side_by_side(answers: Sequence[Answers]) -> Answers:
    """Answers about single images as one about the batch."""
    maps = tuple(torch.cat(parts) for parts in zip(*(one.maps for one in answers), strict=True))
    each = [one.predictions for one in answers if one.predictions is not None]
    if not each:
        return Answers(None, maps)
    heads = zip(*(one.classes for one in each), strict=True)
    classes = tuple(
        ClassLogits(torch.cat([part.logits for part in head]), head[0].softmax, head[0].background)
        for head in heads
    )
    return Answers(Comparable(classes, torch.cat([one.boxes for one in each])), maps)


def moved(answers: Answers, device: torch.device) -> Answers:
    """The same on a device."""
    maps = tuple(part.to(device) for part in answers.maps)
    found = answers.predictions
    if found is None:
        return Answers(None, maps)
    classes = tuple(ClassLogits(h.logits.to(device), h.softmax, h.background) for h in found.classes)
    return Answers(Comparable(classes, found.boxes.to(device)), maps)
