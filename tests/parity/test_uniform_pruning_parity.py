"""Uniform 20 % filter pruning gives the widths and outputs of the tool that this project starts from."""

from pathlib import Path

import pytest
import torch
from fill import difference, filled, load, network_input

import compress
import detectors
from compress.recipe import Recipe
from detectors.config import load as load_recipe
from detectors.data.voc import VOC_CLASSES
from detectors.dialects.ssd_pytorch import key_of
from detectors.dialects.tencent import resnet_key
from detectors.models.base import Detector
from tests.parity.reference import detector_of

RECIPE = Path(__file__).parents[2] / "recipes" / "prune" / "uniform_l1.yaml"
RESNET_RECIPE = RECIPE.parents[1] / "tencent" / "tencent_ssd_resnet50_voc0712.yaml"
PACK = Path(__file__).parent / "packs" / "tencent" / "vgg"
TOLERANCE = 5e-4  # the packs' README


@pytest.fixture(scope="module")
def pack():
    return load(PACK)


@pytest.fixture(scope="module")
def dense(pack, tmp_path_factory) -> Detector:
    path = tmp_path_factory.mktemp("tencent") / "ssd_vgg.pth"
    torch.save(filled(pack[0]), path)
    detector = detectors.load(path, classes=VOC_CLASSES)
    path.unlink()
    return detector


@pytest.fixture(scope="module")
def pruned(dense) -> Detector:
    settings = load_recipe(Recipe, RECIPE).prune
    return compress.prune(
        dense,
        ratio=settings.ratio,
        criterion=settings.criterion,
        choice=settings.choice,
        order=settings.order,
        skip=tuple(settings.skip),
        multiple=settings.multiple,
        floor=settings.floor,
        largest_cut=settings.largest_cut,
    )


def compare(detector: Detector, pack, boxes: str, classes: str) -> None:
    description, arrays = pack
    with torch.no_grad():
        outputs = detector.outputs(detector.network(network_input(description)))
    assert list(outputs.deltas.shape) == description["outputs"][boxes]["shape"]
    assert difference(outputs.deltas, arrays[boxes]) < TOLERANCE
    assert difference(outputs.logits, arrays[classes]) < TOLERANCE


def test_dense_outputs_equal_the_reference(dense, pack):
    compare(dense, pack, "out0", "out1")


def test_pruned_shapes_equal_the_reference(pruned, pack):
    expected = {key_of(key): shape for key, shape in pack[0]["pruned"]["shapes"].items()}
    assert {key: list(t.shape) for key, t in pruned.network.state_dict().items()} == expected
    assert sum(p.numel() for p in pruned.parameters()) == pack[0]["pruned"]["parameters"] == 19_862_013


def test_pruned_outputs_equal_the_reference(pruned, pack):
    compare(pruned, pack, "pruned_out0", "pruned_out1")


def test_pruning_leaves_the_dense_detector_alone(dense, pruned, pack):
    assert pruned is not dense
    assert sum(p.numel() for p in dense.parameters()) == pack[0]["parameters"]
    compare(dense, pack, "out0", "out1")


def test_scoring_on_the_dense_weights_chooses_other_filters(dense, pruned):
    parallel = compress.prune(dense, ratio=0.2, multiple=1, floor=0.0, skip=("extras.*", "*.21", "*.33"))
    ours, theirs = pruned.network.state_dict(), parallel.network.state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}
    assert torch.equal(ours["backbone.features.0.weight"], theirs["backbone.features.0.weight"])
    assert not torch.equal(ours["backbone.features.28.weight"], theirs["backbone.features.28.weight"])


def test_the_resnet_is_pruned_to_the_same_shapes():
    # Its outputs differ by right: the original lost the batch norm statistics.
    description, _ = load(PACK.with_name("resnet"))
    settings = load_recipe(Recipe, RESNET_RECIPE).prune
    dense = detector_of(description)
    slim = compress.prune(
        dense,
        ratio=settings.ratio,
        criterion=settings.criterion,
        order=settings.order,
        skip=tuple(settings.skip),
        multiple=settings.multiple,
        floor=settings.floor,
    )
    expected = {resnet_key(key): shape for key, shape in description["pruned"]["shapes"].items()}
    assert {key: list(t.shape) for key, t in slim.network.state_dict().items()} == expected
    assert sum(p.numel() for p in slim.parameters()) == description["pruned"]["parameters"] == 26_372_055
