"""torchvision's detectors as guests: equal to the originals, trained, cut and saved."""

import copy

import pytest
import torch
from torch import nn
from torchvision.ops.misc import FrozenBatchNorm2d
from torchvision_originals import (
    CLASSES,
    FASTER,
    FASTER_MOBILE,
    FCOS,
    FROZEN,
    GUESTS,
    RETINANET,
    RETINANET_V2,
    SSD,
    SSDLITE,
    TARGETS,
    as_torchvision,
    filled,
    guest,
    image,
    original,
    ours,
)

import compress
import detectors
from compress.cost import cost_of
from compress.recalibrate import batch_norm_statistics
from detectors.errors import ConfigError
from detectors.models import DETECTORS, build
from detectors.models.guests.networks import FrozenBatchNorm
from detectors.types import Target


@pytest.fixture(scope="module", params=GUESTS)
def pair(request):
    """(name, torchvision's model, the guest with its weights)."""
    model = original(request.param)
    return request.param, model, filled(request.param, model)


def test_a_guest_finds_what_torchvision_finds(pair):
    name, model, found = pair
    images = image(name)
    options = copy.deepcopy(found.postprocess)
    height, width = found.size
    with torch.no_grad():
        wanted = model(list(images))[0]
    (got,) = found.predict(images, [(2 * height, 3 * width)])
    assert found.postprocess == options
    assert len(got) == len(wanted["scores"]) > 5
    assert torch.equal(got.labels, wanted["labels"] - 1)
    assert torch.allclose(got.scores, wanted["scores"], atol=2e-5)
    scale = torch.tensor([3.0, 2, 3, 2])
    assert torch.allclose(got.boxes, wanted["boxes"] * scale, atol=0.02)


def test_losses_are_those_of_torchvision_in_either_mode(pair):
    name, model, found = pair
    images = image(name, 2)
    stages = [one for one in (model, getattr(model, "rpn", None), getattr(model, "roi_heads", None)) if one]
    for stage in stages:
        stage.training = True  # its switch between losses and detections; the layers stay as they are
    torch.manual_seed(3)
    wanted = model(list(images), as_torchvision(TARGETS))
    for stage in stages:
        stage.training = False
    torch.manual_seed(3)
    got = found.losses(images, TARGETS)
    assert got.keys() == wanted.keys()
    for term, value in wanted.items():
        assert torch.allclose(got[term], value, rtol=1e-4, atol=1e-6), term
    assert not any(module.training for module in found.modules())
    sum(got.values()).backward()
    assert all(parameter.requires_grad for parameter in found.parameters())
    missing = [key for key, parameter in found.named_parameters() if parameter.grad is None]
    assert missing == []
    found.zero_grad(set_to_none=True)


def test_images_without_objects_have_finite_losses(pair):
    name, _, found = pair
    terms = found.losses(image(name, 2), [Target.of([], []), Target.of([], [])])
    assert all(torch.isfinite(term) for term in terms.values())


@pytest.mark.parametrize("name", FROZEN)
def test_a_frozen_batch_norm_is_the_same_function(name):
    model = original(name)
    found = filled(name, model)
    norms = [(key, norm) for key, norm in model.named_modules() if isinstance(norm, FrozenBatchNorm2d)]
    assert len(norms) == sum(isinstance(one, FrozenBatchNorm) for one in found.modules()) > 40
    for key, norm in norms[::9]:
        x = torch.randn(2, len(norm.weight), 5, 5)
        wanted, got = norm(x), found.model.get_submodule(key)(x)
        assert (got - wanted).abs().max() <= 1e-6 * wanted.abs().max()


def test_the_epsilon_of_a_file_matters_and_can_be_named():
    model = original(RETINANET)
    key = "backbone.body.bn1.weight"
    same, published = (ours(RETINANET, model, eps)[f"model.{key}"] for eps in (1e-5, 0.0))
    assert torch.equal(same, model.state_dict()[key])
    assert torch.allclose(published[0], same[0] * (4 / 3) ** 0.5)


def test_training_and_measuring_leave_frozen_statistics_alone():
    found = filled(FASTER_MOBILE, original(FASTER_MOBILE)).train()
    norm = [one for one in found.modules() if isinstance(one, FrozenBatchNorm)][-1]
    before, scale = norm.running_var.clone(), norm.weight.detach().clone()
    sum(found.losses(image(FASTER_MOBILE, 2), TARGETS).values()).backward()
    torch.optim.SGD(found.parameters(), lr=0.1).step()
    assert torch.equal(norm.running_var, before)
    assert not torch.equal(norm.weight, scale)
    assert batch_norm_statistics(found, [image(FASTER_MOBILE, 2)]) == 0
    assert torch.equal(norm.running_var, before)
    assert not norm.training


def test_batch_norm_can_be_trained_instead():
    found = guest(FCOS, norm="batch")
    assert not any(isinstance(one, FrozenBatchNorm) for one in found.modules())
    model = original(FCOS)
    found.network.load_state_dict(ours(FCOS, model))
    x = torch.randn(2, 64, 5, 5)
    wanted, got = model.backbone.body.bn1(x), found.model.backbone.body.bn1(x)
    assert torch.allclose(got, wanted, atol=1e-6)


# With torchvision's weights, and with two stages, the most that a slim file has to tell.
def test_a_guest_is_cut_and_its_slim_file_loads(tmp_path):
    found = filled(FASTER_MOBILE, original(FASTER_MOBILE), size=(64, 100))
    slim = compress.prune(found, ratio=0.3)
    before, after = cost_of(found), cost_of(slim)
    assert after.macs < 0.7 * before.macs
    assert after.params < 0.7 * before.params
    detectors.save(slim, tmp_path / "slim.pth")
    loaded = detectors.load(tmp_path / "slim.pth")
    assert cost_of(loaded) == after
    images = torch.rand(2, 3, 64, 100)
    for one in (loaded, slim):
        one.postprocess = copy.copy(found.postprocess)
    sizes = [(64, 100), (50, 80)]
    for mine, theirs in zip(loaded.predict(images, sizes), slim.predict(images, sizes), strict=True):
        assert torch.equal(mine.boxes, theirs.boxes)
        assert torch.equal(mine.scores, theirs.scores)
    terms = loaded.train().losses(images, TARGETS)
    assert all(torch.isfinite(term) for term in terms.values())
    # No container goes on telling how wide it once was.
    kept = [m.out_channels for m in loaded.modules() if hasattr(m, "out_channels")]
    assert kept == [m.weight.shape[0] for m in loaded.modules() if isinstance(m, nn.Conv2d)]


def test_the_box_head_of_two_stages_is_cut_and_counted_with_every_proposal():
    found = guest(FASTER_MOBILE)
    heads = found.model.roi_heads
    linear = [heads.box_head.fc6, heads.box_head.fc7, *heads.box_predictor.children()]
    each = sum(layer.weight.numel() for layer in linear)
    assert cost_of(guest(FASTER_MOBILE, proposals=30)).macs - cost_of(found).macs == 10 * each
    slim = compress.prune(found, ratio=0.5)
    head = slim.model.roi_heads.box_head
    width = slim.model.backbone.fpn.layer_blocks[0][0].out_channels
    assert (width, head.fc6.out_features, head.fc7.out_features) == (128, 512, 512)
    assert head.fc6.in_features == 128 * 7 * 7


def test_raw_outputs_of_two_stages_have_neither_loss_nor_detections():
    found = guest(FASTER_MOBILE)
    maps = found(image(FASTER_MOBILE))
    assert maps["proposals"][0][0].shape == (1, 15, 2, 4)
    assert sum(len(logits) for logits, _ in maps["boxes"]) == 20
    with pytest.raises(TypeError, match="call losses"):
        found.loss(maps, TARGETS[:1])
    with pytest.raises(TypeError, match="call predict"):
        found.detect(maps, [(64, 100)])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (SSD, {"size": [267, 300]}, r"size=\[267, 300\] does not fit its maps; \[288, 320\] does"),
        (SSDLITE, {"size": [320, 16]}, r"size=\[320, 16\] is not \[height, width\] of at least 32"),
        (FASTER, {"proposals": 0}, "proposals=0 is below 1"),
        (FCOS, {"norm": "group"}, r"norm='group' does not fit; it takes Literal\['frozen', 'batch'\]"),
        (RETINANET_V2, {"norm": "frozen"}, "has no option 'norm'; known: size"),
    ],
)
def test_an_option_that_does_not_fit_is_one_clear_error(name, options, message):
    with pytest.raises(ConfigError, match=message):
        build(name, CLASSES, **options)


def test_every_guest_is_registered_and_smallest_sizes_work():
    assert set(GUESTS) == {name for name in DETECTORS.names() if name.startswith("torchvision_")}
    for name, size in ((SSD, (268, 300)), (SSDLITE, (32, 40)), (RETINANET, (32, 32)), (FASTER, (32, 33))):
        with torch.device("meta"):
            assert build(name, CLASSES, size=size).eval().dense(torch.empty(1, 3, *size))
