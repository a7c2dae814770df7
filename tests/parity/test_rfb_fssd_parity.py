"""What RFB and FSSD owe to their originals is seen by the packs: each change below makes one fail."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from detectors.models import fssd
from detectors.models.base import Detector
from tests.parity.fill import difference, load, network_input
from tests.parity.reference import TOLERANCE, detector_of, shapes, tensors_of

PACKS = Path(__file__).parent / "packs" / "ssds"
RFB, FSSD = "rfb_lite_mobilenetv1_train_voc", "fssd_lite_mobilenetv2_train_voc"


@pytest.fixture(scope="module", params=[RFB, FSSD])
def original(request):
    pack, arrays = load(PACKS / request.param)
    return pack, arrays, detector_of(pack)


def largest(pack: dict, arrays: dict, detector: Detector) -> float:
    """Largest difference of the two outputs; both must be numbers, as `difference` takes for granted."""
    with torch.no_grad():
        outputs = tensors_of(detector, network_input(pack))
    assert all(bool(torch.isfinite(outputs[key]).all()) for key in ("loc", "conf"))
    return max(difference(outputs[key], arrays[key]) for key in ("loc", "conf"))


def undilate(detector: Detector) -> None:
    conv = detector.network.extras[0].branch2[3].conv
    assert conv.dilation == (5, 5)
    conv.dilation = conv.padding = (3, 3)


def shorten(detector: Detector) -> None:
    detector.network.norm.shortcut = Scaled(0.1)


def straighten(detector: Detector) -> None:
    detector.network.norm.branch3[3].relu = nn.ReLU()


def unbend(detector: Detector) -> None:
    detector.network.transforms[0].relu = nn.Identity()


class Scaled(nn.Module):
    """Its input times a number."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return x * self.factor


def test_outputs_are_numbers_and_equal_the_originals(original):
    assert largest(*original) < TOLERANCE


@pytest.mark.parametrize(
    ("name", "change"),
    [(RFB, undilate), (RFB, shorten), (RFB, straighten), (FSSD, unbend)],
)
def test_a_changed_structure_of_the_same_shapes_is_seen(name: str, change: Callable[[Detector], None]):
    pack, arrays = load(PACKS / name)
    detector = detector_of(pack)
    change(detector)
    assert largest(pack, arrays, detector) > 10 * TOLERANCE


def test_corners_that_are_not_aligned_are_seen(monkeypatch):
    pack, arrays = load(PACKS / FSSD)
    interpolate = fssd.F.interpolate
    monkeypatch.setattr(
        fssd.F, "interpolate", lambda x, **options: interpolate(x, **{**options, "align_corners": False})
    )
    assert largest(pack, arrays, detector_of(pack)) > 10 * TOLERANCE


@pytest.mark.parametrize(
    "path", sorted([*PACKS.glob("rfb*.json"), *PACKS.glob("fssd*.json")]), ids=lambda p: p.stem
)
def test_keys_are_the_published_ones_but_for_the_backbones_prefix(path):
    pack, _ = load(path)
    pack.pop("outputs", None)  # shapes alone
    with torch.device("meta"):
        own = detector_of(pack).network.state_dict()
    theirs = {
        f"backbone.features.{key.removeprefix('base.')}" if key.startswith("base.") else key: value.shape
        for key, value in shapes(pack).items()
    }
    assert {key: value.shape for key, value in own.items()} == theirs
