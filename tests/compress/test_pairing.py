"""A teacher that does not fit its student is refused in one line, and one that was cut or is wider fits."""

from typing import Any

import pytest
import torch
from teachers import BOTH, answer, term_of

import compress
from compress.recipe import DistillConfig
from detectors.errors import ConfigError
from detectors.models import build
from detectors.models.base import Detector


def ssd(**options: Any) -> Detector:
    torch.manual_seed(0)
    return build(
        "ssd_vgg16_bn", options.pop("classes", ["cat", "dog"]), **{"size": (64, 64), "width": 0.125} | options
    )


def two_stages() -> Detector:
    torch.manual_seed(0)
    return build(
        "torchvision_fasterrcnn_mobilenet_v3_large_320_fpn", ["cat", "dog"], size=(64, 64), proposals=4
    )


def refinedet() -> Detector:
    torch.manual_seed(0)
    return build("refinedet", ["cat", "dog"], size=(64, 64), width=0.0625)


@pytest.mark.parametrize(
    ("student", "teacher", "how", "said"),
    [
        (
            ssd,
            lambda: ssd(classes=["cat", "owl"]),
            BOTH,
            r"^teacher.pth does not fit as a teacher: its classes \(2: cat, owl\) .*\(2: cat, dog\); take",
        ),
        (
            ssd,
            lambda: ssd(size=(64, 96)),
            BOTH,
            r"it takes images of \[64, 96\], the student of \[64, 64\]; take",
        ),
        (
            ssd,
            refinedet,
            DistillConfig(predictions=1.0),
            r"^teacher.pth does not fit as a teacher of this ssd_vgg16_bn: it has other anchors or",
        ),
        (
            ssd,
            refinedet,
            DistillConfig(attention=1.0),
            r"it has no network\.conf\.0; set distill.teacher to the",
        ),
        (
            two_stages,
            two_stages,
            BOTH,
            r"^distill.predictions=1 compares anchor by .*predictions=0 and use distill.attention$",
        ),
    ],
)
def test_a_teacher_that_does_not_fit_is_one_line(
    student: Any, teacher: Any, how: DistillConfig, said: str
) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        term_of(student(), teacher(), how)
    assert "\n" not in str(caught.value)


def test_a_teacher_with_as_many_anchors_elsewhere_is_refused() -> None:
    teacher = ssd()
    teacher.anchors += 0.01
    with pytest.raises(ConfigError, match="it has other anchors or outputs"):
        term_of(ssd(), teacher)


def test_a_slim_teacher_fits_and_so_does_one_of_another_width() -> None:
    student, images = ssd(), torch.rand(1, 3, 64, 64)
    for teacher in (compress.prune(ssd(), ratio=0.5, multiple=1), ssd(width=0.25)):
        terms = answer(term_of(student.eval(), teacher), student, images)
        assert all(value.isfinite() and value > 0 for value in terms.values())
