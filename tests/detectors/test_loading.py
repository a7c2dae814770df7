"""Files for other classes, and backbones from classifiers' files."""

import pytest
import torch
import torchvision
from torch import nn

import compress
import detectors
from detectors.dialects.backbone_files import fill_backbone
from detectors.errors import CheckpointError
from detectors.loading import LEFT_OUT, load_backbone
from detectors.models import build

OPTIONS = {"size": [64, 80], "width": 0.0625}


def test_heads_for_other_classes_start_anew_and_the_rest_stays(tmp_path):
    full = build("ssd_vgg16_bn", ("cat", "dog"), **OPTIONS)
    slim = compress.prune(full, ratio=0.3, multiple=1, floor=0.0)
    detectors.save(slim, tmp_path / "slim.pth")
    with pytest.raises(CheckpointError, match=r"classes differ .* or load.classes=ignore"):
        detectors.load(tmp_path / "slim.pth", classes=("a", "b", "c"))
    other = detectors.load(tmp_path / "slim.pth", classes=("a", "b", "c"), ignore_classes=True)
    assert other.spec.classes == ("a", "b", "c")
    before, after = slim.state_dict(), other.state_dict()
    changed = [key for key in after if after[key].shape != before[key].shape]
    assert changed == other.meta[LEFT_OUT]
    assert all(key.startswith("network.conf.") for key in changed)
    assert all(torch.equal(after[key], before[key]) for key in after if key not in changed)
    assert all(torch.isfinite(after[key]).all() for key in changed)
    image = torch.rand(1, 3, 64, 80)
    assert other(image).logits.shape[-1] == 4
    detectors.save(other, tmp_path / "other.pth")
    again = detectors.load(tmp_path / "other.pth")
    assert torch.equal(again(image).logits, other(image).logits)


def test_ignoring_classes_needs_the_new_ones(tmp_path):
    detectors.save(build("ssd_vgg16_bn", ("cat",), **OPTIONS), tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="give the new class names"):
        detectors.load(tmp_path / "a.pth", ignore_classes=True)


def same(ours: nn.Module, key: str, theirs: nn.Module, their_key: str) -> bool:
    return torch.equal(ours.state_dict()[key], theirs.state_dict()[their_key])


def test_torchvisions_resnet_fills_the_backbone(tmp_path):
    classifier = torchvision.models.resnet18(weights=None)
    torch.save(classifier.state_dict(), tmp_path / "resnet18.pth")
    detector = build("ssd", ("cat",), backbone="resnet18")
    facts = load_backbone(detector, tmp_path / "resnet18.pth")
    assert facts["missing"] == []
    assert set(facts["left out"]) >= {"fc.weight", "fc.bias", "layer4.0.conv1.weight"}
    backbone = detector.network.backbone
    assert same(backbone, "features.0.weight", classifier, "conv1.weight")
    assert same(backbone, "features.1.running_var", classifier, "bn1.running_var")
    assert same(backbone, "features.5.bn2.weight", classifier, "layer1.1.bn2.weight")
    assert same(backbone, "features.8.downsample.0.weight", classifier, "layer3.0.downsample.0.weight")
    detector.eval()
    classifier.eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        stem = classifier.maxpool(classifier.relu(classifier.bn1(classifier.conv1(image))))
        wanted = classifier.layer3(classifier.layer2(classifier.layer1(stem)))
        assert torch.allclose(backbone(image)[-1], wanted, atol=1e-5)


def test_torchvisions_mobilenet_fills_all_but_the_expansion_that_it_lacks(tmp_path):
    classifier = torchvision.models.mobilenet_v2(weights=None)
    torch.save({"state_dict": classifier.state_dict()}, tmp_path / "m.pth")
    detector = build("ssd_lite", ("cat",), backbone="mobilenet_v2")
    facts = load_backbone(detector, tmp_path / "m.pth")
    assert {key.rsplit(".", 1)[0] for key in facts["missing"]} == {"features.1.conv.0", "features.1.conv.1"}
    assert {key.split(".")[0] for key in facts["left out"]} == {"features", "classifier"}
    assert all(key.startswith(("features.18.", "classifier.")) for key in facts["left out"])
    backbone = detector.network.backbone
    assert same(backbone, "features.1.conv.3.weight", classifier, "features.1.conv.0.0.weight")
    assert same(backbone, "features.1.conv.6.weight", classifier, "features.1.conv.1.weight")
    assert same(backbone, "features.9.conv.7.running_mean", classifier, "features.9.conv.3.running_mean")


def test_torchvisions_vgg_fills_the_convolutions_and_the_rest_is_named(tmp_path):
    features = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"], batch_norm=True)
    for conv in (layer for layer in features if isinstance(layer, nn.Conv2d)):
        nn.init.normal_(conv.bias)  # ours have none: it goes into the mean of the batch norm
    state = {f"features.{key}": value for key, value in features.state_dict().items()}
    torch.save({**state, "classifier.0.bias": torch.zeros(4)}, tmp_path / "vgg.pth")
    detector = build("ssd_vgg16_bn", ("cat",), size=[64, 64])
    facts = load_backbone(detector, tmp_path / "vgg.pth")
    assert facts["left out"] == ["classifier.0.bias"]
    assert {key.split(".")[1] for key in facts["missing"]} == {"44", "45", "47", "48"}
    assert torch.equal(detector.network.backbone.features[40].weight, state["features.40.weight"])
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        wanted = features.eval()[:33](image)
        assert torch.allclose(detector.eval().network.backbone(image)[0], wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("build_classifier", "message"),
    [
        (
            torchvision.models.resnet34,
            r"another depth .*: layer1 has 3 blocks in the file and 2 here; name the",
        ),
        (torchvision.models.resnet50, "layer1 has 3 blocks in the file and 2 here"),
        (
            torchvision.models.vgg16,
            r"\[64, 3, 3, 3\] in the file and \[64, 3, 7, 7\] .* another depth or width",
        ),
        (torchvision.models.squeezenet1_1, "another depth or width|not a file of this backbone"),
    ],
)
def test_a_file_of_another_backbone_is_refused(build_classifier, message, tmp_path):
    torch.save(build_classifier(weights=None).state_dict(), tmp_path / "other.pth")
    detector = build("ssd", ("cat",), backbone="resnet18")
    with pytest.raises(CheckpointError, match=message):
        load_backbone(detector, tmp_path / "other.pth")


@pytest.mark.parametrize(
    ("given", "wanted", "message"),
    [
        ("resnet18", "resnet34", "layer1 has 2 blocks in the file and 3 here"),
        ("resnet50", "resnet101", "layer3 has 6 blocks in the file and 23 here; name the file's ResNet"),
        ("resnet101", "resnet50", "layer3 has 23 blocks in the file and 6 here"),
    ],
)
def test_a_resnet_of_another_depth_is_refused(given, wanted, message, tmp_path):
    with torch.device("meta"):
        state = getattr(torchvision.models, given)(weights=None).state_dict()
        detector = build("ssd", ("cat",), backbone=wanted)
    with pytest.raises(CheckpointError, match=message):
        fill_backbone(detector.network.backbone, state, "other.pth")


def test_the_last_layer_of_torchvisions_mobilenet_finds_its_place(tmp_path):
    classifier = torchvision.models.mobilenet_v2(weights=None)
    torch.save(classifier.state_dict(), tmp_path / "m.pth")
    detector = build("ssd", ("cat",), backbone="mobilenet_v2", layout="tencent")
    facts = load_backbone(detector, tmp_path / "m.pth")
    assert {key.rsplit(".", 1)[0] for key in facts["missing"]} == {"features.1.conv.0", "features.1.conv.1"}
    assert {key.split(".")[0] for key in facts["left out"]} == {"classifier"}
    backbone = detector.network.backbone
    assert same(backbone, "features.18.conv.0.weight", classifier, "features.18.0.weight")
    assert same(backbone, "features.18.conv.1.running_var", classifier, "features.18.1.running_var")


def test_a_guest_takes_whole_files_only(tmp_path):
    torch.save({"0.weight": torch.zeros(1)}, tmp_path / "a.pth")
    with torch.device("meta"):
        guest = build("torchvision_ssdlite320_mobilenet_v3_large", ("cat",))
    with pytest.raises(
        CheckpointError, match="takes no backbone's file; give a whole detector as model=PATH"
    ):
        load_backbone(guest, tmp_path / "a.pth")
