"""Published weight files: their keys turned into ours, and what is ambiguous refused."""

import pytest
import torch

from detectors import dialects
from detectors.checkpoint import detector_in
from detectors.errors import CheckpointError
from detectors.models import build

CLASSES = ("cat", "dog")


def ssd(heads: int = 6, classes: int = 20, prefix: str = "vgg") -> dict[str, torch.Tensor]:
    """Keys enough for a file to be recognised; shapes alone."""
    with torch.device("meta"):
        state = {f"{prefix}.0.weight": torch.empty(64, 3, 3, 3), "L2Norm.weight": torch.empty(512)}
        for k in range(heads):
            state[f"loc.{k}.weight"] = torch.empty(16, 8, 3, 3)
            state[f"conf.{k}.weight"] = torch.empty((4 if k == 0 else 6) * (classes + 1), 8, 3, 3)
        state["extras.1.bias"] = torch.empty(512)
    return state


@pytest.mark.parametrize(
    ("state", "name", "classes"),
    [
        (ssd(), "ssd300_vgg16", 20),
        (ssd(prefix="base"), "ssd300_vgg16", 20),
        (ssd(classes=80), "ssd300_vgg16", 80),
        (ssd(heads=7, classes=3), "ssd512_vgg16", 3),
    ],
)
def test_keys_and_shapes_tell_detector_and_classes(state, name, classes):
    found = dialects.recognise(state, "x.pth")
    assert (found.name, found.classes) == (name, classes)
    assert {
        "backbone.features.0.weight",
        "norm.weight",
        "extras.1.0.bias",
        "conf.0.weight",
    } <= found.state.keys()
    assert len(found.state) == len(state)


@pytest.mark.parametrize(
    ("classes", "given", "options"),
    [(20, {}, {"anchors": "voc"}), (80, {}, {"anchors": "coco"}), (3, {"anchors": "coco"}, {})],
)
def test_the_number_of_classes_tells_the_anchors(classes, given, options):
    assert dialects.recognise(ssd(classes=classes), "x.pth").options("x.pth", given) == options


def test_a_file_of_other_classes_is_ambiguous():
    published = dialects.recognise(ssd(classes=3), "x.pth")
    with pytest.raises(
        CheckpointError,
        match=r"x.pth is ambiguous: weights of 3 classes .* pass anchors='voc' or",
    ):
        published.options("x.pth", {})
    with pytest.raises(CheckpointError, match="ambiguous"):
        detector_in(ssd(classes=3), "x.pth", classes=("a", "b", "c"))


def conv(*names: str) -> dict[str, torch.Tensor]:
    return {name: torch.zeros(8, 8, 1, 1) for name in names}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (conv("0.weight", "0.bias"), r"x.pth holds a backbone alone; .* detector.backbone_weights=x.pth"),
        (conv("features.0.weight", "features.2.bias"), "holds a backbone alone"),
        (
            conv("layer1.0.weight", "fc.bias"),
            r"of no network known here \(keys such as layer1.0.weight, fc.bias",
        ),
        (ssd(heads=5), "of no network known here"),
        ({k: v for k, v in ssd().items() if k != "L2Norm.weight"}, "of no network known here"),
        ({**ssd(), "conf.0.weight": torch.zeros(63, 8, 3, 3)}, "63 channels, which are not 4 anchors"),
        ({**ssd(), "conf.0.weight": torch.zeros(4, 8, 3, 3)}, "4 channels, which are not 4 anchors"),
    ],
)
def test_a_file_of_no_known_network_is_refused(state, message):
    with pytest.raises(CheckpointError, match=message):
        dialects.recognise(state, "x.pth")


@pytest.mark.parametrize(
    "payload",
    [
        {"a.weight": torch.zeros(2)},
        {"module.a.weight": torch.zeros(2)},
        {"state_dict": {"module.a.weight": torch.zeros(2)}, "epoch": 3},
        {"model": {"a.weight": torch.zeros(2)}},
        {"model": {"state": {"a.weight": torch.zeros(2)}}, "optimizer": {}},
    ],
)
def test_wrappers_and_prefixes_come_off(payload):
    assert dialects.tensors(payload, "x.pth").keys() == {"a.weight"}


@pytest.mark.parametrize("payload", [{}, [], None, torch.zeros(3), {"a": 1}, {"state_dict": {}}, {"a": [1]}])
def test_a_file_without_a_state_dict_is_refused(payload):
    with pytest.raises(
        CheckpointError, match=r"x.pth holds no state dict of tensors; save one with torch.save"
    ):
        dialects.tensors(payload, "x.pth")


@pytest.mark.parametrize("prefix", ["", "features.", "vgg.", "base."])
def test_backbones_of_every_prefix(prefix):
    found = dialects.backbone(conv(f"{prefix}0.weight", f"{prefix}31.bias"), "x.pth")
    assert found.keys() == {"features.0.weight", "features.31.bias"}


def test_a_whole_detector_is_not_a_backbone():
    with pytest.raises(CheckpointError, match=r"x.pth is not a backbone alone \(key L2Norm.weight\)"):
        dialects.backbone(conv("0.weight", "L2Norm.weight"), "x.pth")


def test_files_of_old_torch_without_num_batches_tracked_are_accepted():
    detector = build("ssd_vgg16_bn", CLASSES, size=[64, 64], width=0.0625)
    state = {k: v for k, v in detector.state_dict().items() if not k.endswith("num_batches_tracked")}
    assert len(state) < len(detector.state_dict())
    payload = {
        "format": "slimdet",
        "version": 1,
        "spec": {"name": "ssd_vgg16_bn", "classes": list(CLASSES), "options": detector.spec.options},
        "geometry": {},
        "state": state,
        "meta": {},
    }
    again = detector_in(payload, "x.pth").state_dict()
    assert again.keys() == detector.state_dict().keys()
    assert all(torch.equal(again[key], value) for key, value in state.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vgg.99.weight": torch.zeros(1)}, "backbone.features.99.weight has no place"),
        (
            {"vgg.0.weight": torch.zeros(64, 1, 3, 3)},
            r"0.weight is \[64, 1, 3, 3\] in the file and \[64, 3, 3, 3\]",
        ),
        ({"vgg.0.weight": None}, "backbone.features.0.weight is missing"),
        ({"ema.decay": torch.zeros(1)}, "ema.decay has no place"),
    ],
)
def test_keys_too_many_missing_or_of_another_shape_are_named(change, message):
    with torch.device("meta"):
        whole = build("ssd300_vgg16", CLASSES).network.state_dict()
    state = {}
    for key, value in whole.items():
        key = key.replace("backbone.features.", "vgg.").replace("norm.weight", "L2Norm.weight")
        parts = key.split(".")
        state[".".join([*parts[:2], parts[3]]) if parts[0] == "extras" else key] = value
    state = {key: value for key, value in {**state, **change}.items() if value is not None}
    with pytest.raises(
        CheckpointError, match=rf"x.pth \(as ssd300_vgg16\) does not fit the detector: .*{message}"
    ):
        detector_in(state, "x.pth", name="ssd300_vgg16", classes=CLASSES, anchors="voc")
