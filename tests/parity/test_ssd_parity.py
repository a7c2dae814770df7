"""SSD300 equals ssd.pytorch's, tensor by tensor, and published files lead to it."""

import copy
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from fill import difference, filled, load, network_input, sampled
from torch import Tensor

import detectors
from detectors import dialects
from detectors.boxes import clip
from detectors.data.voc import VOC_CLASSES
from detectors.errors import CheckpointError
from detectors.loading import load_backbone
from detectors.losses.multibox import multibox_loss
from detectors.models.base import Detector
from detectors.postprocess import PostprocessOptions
from detectors.types import Outputs

PACKS = Path(__file__).parent / "packs"
TOLERANCE = 5e-4  # the packs' README: float32 noise of the originals stays below 1e-4
COCO_CLASSES = tuple(f"class{k}" for k in range(80))


@pytest.fixture(scope="module")
def pack():
    return load(PACKS / "ssd.pytorch" / "ssd300_vgg16_voc")


@pytest.fixture(scope="module")
def weights(pack) -> dict[str, Tensor]:
    return filled(pack[0])


@pytest.fixture(scope="module")
def published(weights, tmp_path_factory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("published") / "ssd300_mAP_77.43_v2.pth"
    torch.save(weights, path)
    yield path
    path.unlink()


@pytest.fixture
def file(tmp_path) -> Iterator[Path]:
    """A place for a weight file of 100 MB, which pytest would keep for three sessions."""
    yield tmp_path / "file.pth"
    (tmp_path / "file.pth").unlink(missing_ok=True)


@pytest.fixture(scope="module")
def detector(published) -> Detector:
    return detectors.load(published, classes=VOC_CLASSES)


@pytest.fixture(scope="module")
def outputs(detector, pack) -> Outputs:
    with torch.no_grad():
        return detector.outputs(detector.network(network_input(pack[0])))


def test_published_keys_tell_name_and_anchors(detector):
    assert (detector.spec.name, detector.spec.options) == ("ssd300_vgg16", {"anchors": "voc"})
    assert detector.spec.classes == tuple(VOC_CLASSES)
    assert not detector.training


def test_outputs_equal_the_reference(outputs, pack):
    description, arrays = pack
    assert list(outputs.deltas.shape) == description["outputs"]["loc"]["shape"]
    assert list(outputs.logits.shape) == description["outputs"]["conf"]["shape"]
    assert difference(outputs.deltas, arrays["loc"]) < TOLERANCE
    assert difference(outputs.logits, arrays["conf"]) < TOLERANCE


def test_outputs_differ_where_the_last_bias_does(detector, pack):
    description, arrays = pack
    bias = detector.network.loc[5].bias
    before = bias.detach().clone()
    with torch.no_grad():
        bias += 0.1
        changed = detector.outputs(detector.network(network_input(description)))
        bias.copy_(before)
    assert difference(changed.deltas, arrays["loc"]) > TOLERANCE


def test_parameter_count_equals_the_reference(detector, pack):
    assert sum(p.numel() for p in detector.parameters()) == pack[0]["parameters"] == 26_285_486


def test_voc_anchors_equal_the_reference(detector, pack):
    assert list(detector.anchors.shape) == pack[0]["priors"]["shape"]
    assert abs(sampled(detector.anchors) - pack[1]["priors"]).max() <= 1e-6


def coco_anchors() -> Tensor:
    return torch.from_numpy(np.load(PACKS / "ssd.pytorch" / "ssd300_coco_priors.npz")["priors"])


def test_coco_anchors_equal_the_reference():
    detector = detectors.build("ssd300_vgg16", ("cat",), anchors="coco")
    assert torch.allclose(detector.anchors, coco_anchors(), rtol=0, atol=1e-6)


def test_loss_and_gradients_equal_the_reference(detector, outputs, pack):
    expected = pack[0]["loss"]
    deltas, logits = (
        (tensor.repeat(2, 1, 1) * 0.5).requires_grad_() for tensor in (outputs.deltas, outputs.logits)
    )
    rows = [torch.tensor(image) for image in expected["targets"]]
    terms = multibox_loss(
        Outputs(logits, deltas),
        detector.anchors,
        [row[:, :4] for row in rows],
        [row[:, 4].long() for row in rows],
    )
    (terms["boxes"] + terms["classes"]).backward()
    assert terms["boxes"].item() == pytest.approx(expected["loss_loc"], rel=1e-4)
    assert terms["classes"].item() == pytest.approx(expected["loss_conf"], rel=1e-4)
    assert deltas.grad.abs().sum().item() == pytest.approx(expected["grad_loc_abs_sum"], rel=1e-4)
    assert logits.grad.abs().sum().item() == pytest.approx(expected["grad_conf_abs_sum"], rel=1e-4)


def test_detections_equal_the_reference(detector, pack):
    # In float64, so that only the reference's own rounding counts (3e-6 here): float32 sums differ between
    # processors, and with logits of up to 19 scores by more than 1e-5.
    with torch.no_grad():
        network = copy.deepcopy(detector.network).double()
        outputs = detector.outputs(network(network_input(pack[0]).double()))
    expected = pack[0]["detections"]
    detector.postprocess = PostprocessOptions(0.01, 0.45, 200, keep=None)
    # An image of one pixel: pixels are then the reference's 0..1, but for the clipping to the image.
    found = detector.detect(outputs, [(1, 1)])[0]
    assert len(found) == expected["count"]
    rows = torch.tensor(expected["rows"])
    order = found.labels.argsort(stable=True)[: len(rows)]
    assert (found.labels[order] + 1).tolist() == rows[:, 0].long().tolist()
    assert torch.allclose(found.scores[order].float(), rows[:, 1], rtol=0, atol=1e-5)
    assert torch.allclose(found.boxes[order].float(), clip(rows[:, 2:], (1, 1)), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("prefix", "wrapper", "name"),
    [("module.", None, None), ("", "state_dict", None), ("", None, "ssd300_vgg16")],
)
def test_every_form_of_a_published_file_gives_the_same_detector(
    prefix, wrapper, name, weights, detector, file
):
    state = {prefix + key: value for key, value in weights.items()}
    torch.save({wrapper: state} if wrapper else state, file)
    again = detectors.load(file, name=name, classes=VOC_CLASSES)
    assert again.state_dict().keys() == detector.state_dict().keys()
    assert all(torch.equal(value, detector.state_dict()[key]) for key, value in again.state_dict().items())
    assert torch.equal(again.anchors, detector.anchors)


def test_reduced_vgg_weights_fill_the_backbone_alone(weights, file):
    reduced = {key.removeprefix("vgg."): value for key, value in weights.items() if key.startswith("vgg.")}
    assert len(reduced) == 30
    torch.save(reduced, file)
    detector = detectors.build("ssd300_vgg16", ("cat",))
    before = detector.network.loc[0].weight.clone()
    load_backbone(detector, file)
    assert torch.equal(detector.network.backbone.features[0].weight, weights["vgg.0.weight"])
    assert torch.equal(detector.network.backbone.features[33].bias, weights["vgg.33.bias"])
    assert torch.equal(detector.network.loc[0].weight, before)
    with pytest.raises(CheckpointError, match=r"holds a backbone alone; name the detector"):
        detectors.load(file, classes=VOC_CLASSES)


def test_a_backbone_of_another_width_is_refused(weights, file):
    torch.save({"0.weight": weights["vgg.0.weight"]}, file)
    detector = detectors.build("ssd_vgg16_bn", ("cat",), size=[64, 64], width=0.0625)
    with pytest.raises(CheckpointError, match=r"0.weight is \[64, 3, 3, 3\] .* of another depth or width\?"):
        load_backbone(detector, file)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (None, "does not say its 20 class names; pass classes"),
        (("cat", "dog"), "is of 20 classes, but 2 names were given"),
    ],
)
def test_a_published_file_needs_its_classes(classes, message, published):
    with pytest.raises(CheckpointError, match=message):
        detectors.load(published, classes=classes)


@pytest.mark.parametrize("name", [None, "ssd300_vgg16"])
def test_the_anchors_of_a_file_of_80_classes_are_cocos_with_and_without_its_name(name, weights, file):
    state = dict(weights)
    for level, cells in enumerate((4, 6, 6, 6, 4, 4)):
        channels = weights[f"conf.{level}.weight"].shape[1]
        state[f"conf.{level}.weight"] = torch.zeros(cells * 81, channels, 3, 3)
        state[f"conf.{level}.bias"] = torch.zeros(cells * 81)
    torch.save(state, file)
    detector = detectors.load(file, name=name, classes=COCO_CLASSES)
    assert torch.allclose(detector.anchors, coco_anchors(), rtol=0, atol=1e-6)


def test_keys_of_both_dialects_turn_into_the_same_names(weights):
    ours = dialects.recognise(weights, "a").state
    older = {key.replace("vgg.", "base."): value for key, value in weights.items()}
    assert dialects.recognise(older, "b").state.keys() == ours.keys()
    assert {"backbone.features.0.weight", "norm.weight", "extras.7.0.bias", "conf.5.bias"} <= ours.keys()
