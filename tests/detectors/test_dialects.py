"""Published weight files: their keys turned into ours, and what is ambiguous refused."""

import re

import pytest
import torch

from detectors import dialects
from detectors.errors import CheckpointError
from detectors.loading import detector_in
from detectors.models import build

CLASSES = ("cat", "dog")


def published(name: str = "ssd300_vgg16", classes: int = 20, prefix: str = "vgg") -> dict[str, torch.Tensor]:
    """The keys and shapes of a published SSD file, without data."""
    with torch.device("meta"):
        whole = build(name, [f"class {k}" for k in range(classes)]).network.state_dict()
    state = {}
    for key, value in whole.items():
        key = key.replace("backbone.features.", f"{prefix}.").replace("norm.weight", "L2Norm.weight")
        parts = key.split(".")
        state[".".join([*parts[:2], parts[3]]) if parts[0] == "extras" else key] = value
    return state


@pytest.mark.parametrize(
    ("name", "classes", "prefix", "given", "options"),
    [
        ("ssd300_vgg16", 20, "vgg", {}, {"anchors": "voc"}),
        ("ssd300_vgg16", 20, "base", {}, {"anchors": "voc"}),
        ("ssd300_vgg16", 80, "vgg", {}, {"anchors": "coco"}),
        ("ssd512_vgg16", 3, "vgg", {"anchors": "coco"}, {"anchors": "coco"}),
        ("ssd300_vgg16", 20, "vgg", {"anchors": "coco"}, {"anchors": "coco"}),
    ],
)
def test_keys_and_shapes_tell_detector_classes_and_anchors(name, classes, prefix, given, options):
    state = published(name, classes, prefix)
    found = dialects.recognise(state, "x.pth", given=given)
    assert (found.name, found.classes, found.options, found.unused) == (name, classes, options, ())
    assert {
        "backbone.features.0.weight",
        "norm.weight",
        "extras.1.0.bias",
        "conf.0.weight",
    } <= found.state.keys()
    assert len(found.state) == len(state)


def test_a_resnet_is_not_taken_for_a_vgg_because_its_stem_is_numbered_alike():
    with torch.device("meta"):
        whole = build("ssd", CLASSES, backbone="resnet50", layout="tencent").network.state_dict()
    state = {key.replace("backbone.features.", "base."): value for key, value in whole.items()}
    state = {re.sub(r"^extras\.(\d)\.0", r"extras.\1", key): value for key, value in state.items()}
    state["L2Norm.weight"] = state.pop("norm.weight")
    found = dialects.recognise(state, "x.pth", given={"size": [384, 512]})  # which no VGG's layout takes
    assert (found.name, found.options["backbone"], found.classes) == ("ssd", "resnet50", 2)


def test_a_file_of_other_classes_is_ambiguous():
    with pytest.raises(
        CheckpointError,
        match=r"x.pth is ambiguous: weights of 3 classes .* pass anchors='coco' or 'voc'",
    ):
        detector_in(published(classes=3), "x.pth", classes=("a", "b", "c"))


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
        (
            {k: v for k, v in published().items() if k != "L2Norm.weight"},
            "nearest is ssd300_vgg16, but norm.weight is missing$",
        ),
        (
            {k: v for k, v in published().items() if k.startswith(("conf", "loc"))},
            r"of no network known here \(keys such as",
        ),
        (
            {**published(), "conf.0.weight": torch.zeros(63, 512, 3, 3)},
            "63 channels, which are not 4 anchors",
        ),
        ({**published(), "conf.0.weight": torch.zeros(4, 512, 3, 3)}, "4 channels, which are not 4 anchors"),
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
        ({"extras.0.bias": None}, "extras.0.0.bias is missing"),
    ],
)
def test_keys_too_many_missing_or_of_another_shape_are_named(change, message):
    state = {**published(classes=2), **change}
    state = {key: value for key, value in state.items() if value is not None}
    with pytest.raises(
        CheckpointError, match=rf"x.pth \(as ssd300_vgg16\) does not fit the detector: .*{message}"
    ):
        detector_in(state, "x.pth", name="ssd300_vgg16", classes=CLASSES, anchors="voc")


def test_a_file_of_another_network_than_the_one_asked_for_says_so():
    with pytest.raises(CheckpointError, match=r"another network than ssd512_vgg16: .* those of ssd300_vgg16"):
        dialects.recognise(published(), "x.pth", "ssd512_vgg16")
