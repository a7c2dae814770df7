"""RefineDet equals RefineDet.PyTorch's and the 2018 pruning tool's, also after the latter's cut."""

from pathlib import Path

import pytest
import torch
from fill import difference, filled, load, network_input, sampled

import compress
from compress.recipe import Recipe
from detectors.boxes import clip
from detectors.checkpoint import fill
from detectors.config import load as load_recipe
from detectors.data.voc import VOC_CLASSES
from detectors.dialects.refinedet import luuuyi_key, lzx_key
from detectors.losses.refinedet import refinedet_loss
from detectors.models import build
from detectors.models.base import Detector
from detectors.postprocess import PostprocessOptions
from detectors.types import RefineOutputs

PACKS = Path(__file__).parent / "packs"
RECIPE = Path(__file__).parents[2] / "recipes" / "prune" / "uniform_l1.yaml"
TOLERANCE = 5e-4  # the packs' README: float32 noise of the originals stays below 1e-4
# The 2018 tool cuts the backbone alone, and there no layer that a head reads.
SKIP = ("extras.*", "tcb*", "backbone.features.21", "backbone.features.28", "backbone.features.33")


def detector_of(pack, rename, name: str, **options) -> Detector:
    detector = build(name, VOC_CLASSES, **options).eval()
    fill(detector.network, {rename(key): value for key, value in filled(pack).items()}, pack["name"])
    return detector


def outputs_of(detector: Detector, pack) -> RefineOutputs:
    with torch.no_grad():
        return detector.outputs(detector.network(network_input(pack)))


@pytest.fixture(scope="module")
def pack():
    return load(PACKS / "refinedet.pytorch" / "refinedet320_vgg16_voc")


@pytest.fixture(scope="module")
def detector(pack) -> Detector:
    return detector_of(pack[0], luuuyi_key, "refinedet320_vgg16")


@pytest.fixture(scope="module")
def outputs(detector, pack) -> RefineOutputs:
    return outputs_of(detector, pack[0])


@pytest.fixture(scope="module")
def tencent():
    return load(PACKS / "tencent" / "refinedet")


@pytest.fixture(scope="module")
def dense(tencent) -> Detector:
    return detector_of(tencent[0], lzx_key, "refinedet", dilation=6, top_relu=False)


@pytest.fixture(scope="module")
def pruned(dense) -> Detector:
    settings = load_recipe(Recipe, RECIPE).prune
    return compress.prune(
        dense,
        ratio=settings.ratio,
        criterion=settings.criterion,
        choice=settings.choice,
        order=settings.order,
        skip=SKIP,
        multiple=settings.multiple,
        floor=settings.floor,
        largest_cut=settings.largest_cut,
    )


def differences(outputs: RefineOutputs, pack, names: tuple[str, ...]) -> list[float]:
    """Of ARM deltas, ARM logits, ODM deltas and ODM logits, in the order of the originals' outputs."""
    description, arrays = pack
    ours = (outputs.arm_deltas, outputs.arm_logits, outputs.deltas, outputs.logits)
    for tensor, name in zip(ours, names, strict=True):
        assert list(tensor.shape) == description["outputs"][name]["shape"]
    return [difference(tensor, arrays[name]) for tensor, name in zip(ours, names, strict=True)]


def test_outputs_equal_the_reference(outputs, pack):
    assert max(differences(outputs, pack, ("arm_loc", "arm_conf", "odm_loc", "odm_conf"))) < TOLERANCE


@pytest.mark.parametrize("options", [{"dilation": 6}, {"top_relu": False}])
def test_the_other_repositories_options_make_another_function(options, pack):
    other = detector_of(pack[0], luuuyi_key, "refinedet", **options)
    found = differences(outputs_of(other, pack[0]), pack, ("arm_loc", "arm_conf", "odm_loc", "odm_conf"))
    assert max(found) > TOLERANCE


def test_parameter_count_equals_the_reference(detector, pack):
    assert sum(p.numel() for p in detector.parameters()) == pack[0]["parameters"] == 34_440_884


def test_anchors_equal_the_reference(detector, pack):
    assert list(detector.anchors.shape) == pack[0]["priors"]["shape"] == [6375, 4]
    assert abs(sampled(detector.anchors) - pack[1]["priors"]).max() <= 1e-6


def test_512_has_the_keys_shapes_and_anchors_of_the_reference():
    description, _ = load(PACKS / "refinedet.pytorch" / "refinedet512_vgg16_voc")
    with torch.device("meta"):
        state = build("refinedet512_vgg16", VOC_CLASSES).network.state_dict()
    wanted = {luuuyi_key(key): entry["shape"] for key, entry in description["keys"].items()}
    assert {key: list(tensor.shape) for key, tensor in state.items()} == wanted
    detector = build("refinedet512_vgg16", VOC_CLASSES)
    assert sum(p.numel() for p in detector.parameters()) == description["parameters"]
    anchors, expected = detector.anchors, description["priors"]
    assert list(anchors.shape) == expected["shape"] == [16320, 4]
    assert anchors.mean().item() == pytest.approx(expected["mean"], abs=1e-6)
    assert anchors.std().item() == pytest.approx(expected["std"], abs=1e-6)
    assert anchors.abs().max().item() == pytest.approx(expected["absmax"], abs=1e-6)


def test_detections_equal_the_reference(detector, outputs, pack):
    expected = pack[0]["detections"]
    detector.postprocess = PostprocessOptions(0.01, 0.45, 1000, keep=None)
    # The rule of the pack: offsets times 0.3, so that boxes stay near the image.
    calmer = outputs._replace(arm_deltas=outputs.arm_deltas * 0.3, deltas=outputs.deltas * 0.3)
    # An image of one pixel: pixels are then the reference's 0..1, but for the clipping to the image.
    found = detector.detect(calmer, [(1, 1)])[0]
    assert len(found) == expected["count"]
    rows = torch.tensor(expected["rows"])
    order = found.labels.argsort(stable=True)[: len(rows)]
    assert (found.labels[order] + 1).tolist() == rows[:, 0].long().tolist()
    assert torch.allclose(found.scores[order], rows[:, 1], rtol=0, atol=1e-5)
    assert torch.allclose(found.boxes[order], clip(rows[:, 2:], (1, 1)), rtol=0, atol=1e-4)


def test_the_first_steps_loss_equals_the_reference(detector, outputs, pack):
    # The pack's two numbers: boxes and classes, for the objects of ssd.pytorch's pack, offsets times 0.3.
    objects = load(PACKS / "ssd.pytorch" / "ssd300_vgg16_voc")[0]["loss"]["targets"]
    rows = [torch.tensor(image) for image in objects]
    twice = RefineOutputs(*(tensor.repeat(2, 1, 1) for tensor in outputs))
    terms = refinedet_loss(
        twice._replace(arm_deltas=twice.arm_deltas * 0.3),
        detector.anchors,
        [row[:, :4] for row in rows],
        [row[:, 4].long() for row in rows],
    )
    boxes, classes = pack[0]["arm_loss"]
    # The original adds 1e-5 inside of the logarithm of the sizes.
    assert terms["arm_boxes"].item() == pytest.approx(boxes, rel=1e-4)
    assert terms["arm_classes"].item() == pytest.approx(classes, rel=1e-5)


def test_the_pruning_tools_outputs_equal_the_reference(dense, tencent):
    found = differences(outputs_of(dense, tencent[0]), tencent, ("out0", "out1", "out2", "out3"))
    assert max(found) < TOLERANCE


def test_pruned_shapes_equal_the_reference(pruned, tencent):
    expected = {lzx_key(key): shape for key, shape in tencent[0]["pruned"]["shapes"].items()}
    assert {key: list(t.shape) for key, t in pruned.network.state_dict().items()} == expected
    assert sum(p.numel() for p in pruned.parameters()) == tencent[0]["pruned"]["parameters"] == 29_146_653


def test_pruned_outputs_equal_the_reference(pruned, tencent):
    names = ("pruned_out0", "pruned_out1", "pruned_out2", "pruned_out3")
    assert max(differences(outputs_of(pruned, tencent[0]), tencent, names)) < TOLERANCE


def test_keys_of_both_dialects_lead_to_the_same_names(pack, tencent):
    ours = {luuuyi_key(key) for key in pack[0]["keys"]}
    assert {lzx_key(key) for key in tencent[0]["keys"]} == ours
    assert len(ours) == len(pack[0]["keys"]) == len(tencent[0]["keys"]) == 98


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("base.31.bias", "backbone.features.31.bias"),
        ("L2Norm_5_3.weight", "conv5_3_L2Norm.weight"),
        ("extras.0.weight", "extras.0.weight"),
        ("extras.2.weight", "extras.1.weight"),
        ("trans_layers.0.2.weight", "tcb0.2.weight"),
        ("trans_layers.2.0.bias", "tcb0.6.bias"),
        ("last_layer_trans.0.weight", "tcb0.9.weight"),
        ("last_layer_trans.2.weight", "tcb0.11.weight"),
        ("last_layer_trans.3.bias", "tcb2.10.bias"),
        ("up_layers.0.weight", "tcb1.2.weight"),
        ("up_layers.2.bias", "tcb1.0.bias"),
        ("latent_layrs.0.weight", "tcb2.7.weight"),
        ("latent_layrs.2.weight", "tcb2.1.weight"),
        ("odm_conf.3.bias", "odm_conf.3.bias"),
    ],
)
def test_keys_of_the_pruning_tool_become_ours(theirs, ours):
    assert lzx_key(theirs) == ours
