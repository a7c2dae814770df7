"""torchvision's detectors as guests: equal to the originals, trained, cut, saved, filled from its files."""

import copy

import pytest
import torch
from torch import nn
from torchvision.models import detection
from torchvision.ops.misc import FrozenBatchNorm2d

import compress
import detectors
from compress.cost import cost_of
from compress.recalibrate import batch_norm_statistics
from detectors.dialects.torchvision import COCO_CLASSES, COCO_COLUMNS, key_of, name_of, picked, rescaled
from detectors.errors import CheckpointError, ConfigError
from detectors.models import DETECTORS, build
from detectors.models.guests.networks import FrozenBatchNorm
from detectors.types import Target

CLASSES = ("cat", "dog", "owl")
SSD = "torchvision_ssd300_vgg16"
SSDLITE = "torchvision_ssdlite320_mobilenet_v3_large"
RETINANET = "torchvision_retinanet_resnet50_fpn"
RETINANET_V2 = "torchvision_retinanet_resnet50_fpn_v2"
FCOS = "torchvision_fcos_resnet50_fpn"
FASTER = "torchvision_fasterrcnn_resnet50_fpn"
FASTER_MOBILE = "torchvision_fasterrcnn_mobilenet_v3_large_320_fpn"
GUESTS = (SSD, SSDLITE, RETINANET, RETINANET_V2, FCOS, FASTER, FASTER_MOBILE)
FROZEN = (RETINANET, FCOS, FASTER, FASTER_MOBILE)
# (height, width); the SSDs of torchvision have one size, and 100 is no multiple of 32.
SIZES = {SSD: (300, 300), SSDLITE: (320, 320)}
# What torchvision sets when it loads the published file.
NO_EPS = (RETINANET, FASTER)


def guest(name, classes=CLASSES, size=None, **options):
    torch.manual_seed(0)
    if "faster" in name:
        options = {"proposals": 20, **options}
    return build(name, classes, size=size or SIZES.get(name, (64, 100)), **options).eval()


def original(name, classes=4, size=(64, 100)):
    """torchvision's model with random weights and statistics; one that is published frozen is frozen."""
    torch.manual_seed(1)
    settings = {"min_size": min(size), "max_size": max(size)} if name not in SIZES else {}
    if "faster" in name:
        settings["rpn_post_nms_top_n_test"] = 20
    model = getattr(detection, name.removeprefix("torchvision_"))(
        weights=None, weights_backbone=None, num_classes=classes, **settings
    )
    if name in FROZEN:
        for parent in list(model.modules()):
            for child, norm in parent.named_children():
                if isinstance(norm, nn.BatchNorm2d):
                    eps = 0.0 if name in NO_EPS else 1e-5
                    setattr(parent, child, FrozenBatchNorm2d(norm.num_features, eps))
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d | FrozenBatchNorm2d):
            norm.running_mean.normal_(0, 0.1)
            # Some as small as those of a dead channel, where an epsilon tells.
            norm.running_var.uniform_(0.2, 2)[::7] = 3e-5
            norm.weight.data.uniform_(0.1, 0.5)[::7] = 1e-3
            norm.bias.data.normal_(0, 0.1)
    for key, parameter in model.named_parameters():
        if "cls_logits" in key or "classification_head.module_list" in key or "cls_score" in key:
            parameter.data.normal_(0, 0.05)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            # The background column of sigmoid heads: silent, as it is when trained.
            if key.endswith("classification_head.cls_logits.bias"):
                parameter.view(-1, classes)[:, 0] = -50
    return model.eval()


def ours(name, model, eps=None):
    """The model's tensors under our keys."""
    state = {key_of(name, key): value for key, value in model.state_dict().items()}
    return rescaled(state, eps=(0.0 if name in NO_EPS else 1e-5) if eps is None else eps)


def filled(name, model, **options):
    found = guest(name, **options)
    found.network.load_state_dict(ours(name, model))
    return found


def image(name, count=1):
    height, width = SIZES.get(name, (64, 100))
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(2))


TARGETS = [Target.of([[5, 4, 60, 50], [20, 10, 44, 40.0]], [0, 2]), Target.of([], [])]


def as_torchvision(targets):
    return [{"boxes": target.boxes, "labels": target.labels + 1} for target in targets]


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


def test_training_leaves_frozen_statistics_alone_and_measuring_does_not():
    found = filled(FASTER_MOBILE, original(FASTER_MOBILE)).train()
    norm = [one for one in found.modules() if isinstance(one, FrozenBatchNorm)][-1]
    before, scale = norm.running_var.clone(), norm.weight.detach().clone()
    sum(found.losses(image(FASTER_MOBILE, 2), TARGETS).values()).backward()
    torch.optim.SGD(found.parameters(), lr=0.1).step()
    assert torch.equal(norm.running_var, before)
    assert not torch.equal(norm.weight, scale)
    batch_norm_statistics(found, [image(FASTER_MOBILE, 2)])
    assert not torch.equal(norm.running_var, before)
    assert not norm.training


def test_batch_norm_can_be_trained_instead():
    found = guest(FCOS, norm="batch")
    assert not any(isinstance(one, FrozenBatchNorm) for one in found.modules())
    model = original(FCOS)
    found.network.load_state_dict(ours(FCOS, model))
    x = torch.randn(2, 64, 5, 5)
    wanted, got = model.backbone.body.bn1(x), found.model.backbone.body.bn1(x)
    assert torch.allclose(got, wanted, atol=1e-6)


def older(name, state):
    """The state dict as torchvision wrote it when the published files were made."""

    def key_then(key):
        for part in ("inner_blocks", "layer_blocks"):
            for level in range(4):
                key = key.replace(f"backbone.fpn.{part}.{level}.0.", f"backbone.fpn.{part}.{level}.")
        if name == RETINANET:
            for layer in range(4):
                key = key.replace(f"_head.conv.{layer}.0.", f"_head.conv.{2 * layer}.")
        return key.replace("rpn.head.conv.0.0.", "rpn.head.conv.")

    return {key_then(key): value for key, value in state.items()}


@pytest.mark.parametrize("name", GUESTS)
def test_files_old_and_new_tell_their_name(name):
    with torch.device("meta"):
        state = original(name).state_dict()
    before = older(name, state)
    assert (before.keys() == state.keys()) == (name in (SSD, SSDLITE))
    assert name_of(state) == name_of(before) == name
    assert [key_of(name, key) for key in before] == [key_of(name, key) for key in state]


@pytest.mark.parametrize("name", [SSDLITE, RETINANET, FCOS, FASTER_MOBILE])
def test_the_file_of_a_model_loads_by_its_keys_alone(name, tmp_path):
    model = original(name)
    torch.save(older(name, model.state_dict()), tmp_path / "model.pth")
    options = {} if name == SSDLITE else {"size": [64, 100]}
    loaded = detectors.load(tmp_path / "model.pth", classes=CLASSES, **options)
    assert (loaded.spec.name, loaded.spec.classes) == (name, CLASSES)
    wanted = filled(name, model).state_dict()
    state = loaded.state_dict()
    assert state.keys() == wanted.keys()
    assert all(torch.equal(state[key], wanted[key]) for key in wanted)


@pytest.mark.parametrize("name", [SSDLITE, RETINANET, FCOS, FASTER_MOBILE])
def test_the_columns_of_a_coco_file_are_found_by_name(name, tmp_path):
    model = original(name, classes=91)
    chosen = ("zebra", "person", "hair drier")
    torch.save(model.state_dict(), tmp_path / "coco.pth")
    found = detectors.load(tmp_path / "coco.pth", name, chosen, size=guest(name).size)
    columns = [0, *(COCO_COLUMNS.index(one) for one in chosen)]
    assert columns == [0, 24, 1, 89]
    with torch.no_grad():
        if name == FASTER_MOBILE:
            crops = torch.rand(2, 1024)
            logits, deltas = model.roi_heads.box_predictor(crops)
            mine, boxes = found.model.roi_heads.box_predictor(crops)
            assert torch.allclose(boxes.view(2, 4, 4), deltas.view(2, 91, 4)[:, columns], atol=1e-6)
        else:
            images = found.network.padded(found.normalise(image(name)))
            logits = model.head(list(model.backbone(images).values()))["cls_logits"]
            mine = torch.cat(found.heads(found(image(name)))["cls_logits"], dim=1)
        assert torch.allclose(mine, logits[..., columns], rtol=1e-4, atol=1e-4)


def test_all_eighty_classes_of_coco_and_the_places_of_their_ids_fit(tmp_path):
    model = original(SSDLITE, classes=91)
    torch.save(model.state_dict(), tmp_path / "coco.pth")
    assert len(COCO_CLASSES) == len(set(COCO_CLASSES)) == 80
    key = "head.classification_head.module_list.0.1.weight"
    eighty = detectors.load(tmp_path / "coco.pth", classes=COCO_CLASSES)
    assert len(eighty.network.state_dict()[f"model.{key}"]) == 6 * 81
    ninety = detectors.load(tmp_path / "coco.pth", classes=[f"place {number}" for number in range(1, 91)])
    assert torch.equal(ninety.network.state_dict()[f"model.{key}"], model.state_dict()[key])
    fresh = detectors.load(tmp_path / "coco.pth", classes=CLASSES, ignore_classes=True)
    assert len(fresh.network.state_dict()[f"model.{key}"]) == 6 * 4
    assert len(fresh.meta["left_out"]) == 2 * 6


@pytest.mark.parametrize(
    ("classes", "names", "message"),
    [
        (4, ("cat", "dog"), "model.pth is of 3 classes, but 2 names were given"),
        (
            91,
            ("cat", "dgo"),
            "model.pth: the file has COCO's 80 classes, and 'dgo' is none of them; did you mean",
        ),
        (91, ("N/A",), "'N/A' is none of them"),
    ],
)
def test_classes_that_a_file_does_not_have_are_one_clear_error(classes, names, message, tmp_path):
    torch.save(original(SSDLITE, classes).state_dict(), tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=message):
        detectors.load(tmp_path / "model.pth", classes=names)


def test_only_a_file_of_coco_is_taken_apart():
    assert picked(ours(FCOS, original(FCOS, classes=12)), CLASSES) is None


@pytest.mark.parametrize("builder", ["fasterrcnn_resnet50_fpn_v2", "maskrcnn_resnet50_fpn"])
def test_a_model_that_is_no_guest_is_not_taken_for_one(builder):
    with torch.device("meta"):
        model = getattr(detection, builder)(weights=None, weights_backbone=None)
    assert name_of(model.state_dict()) is None
    assert name_of(build("ssd300_vgg16", CLASSES).network.state_dict()) is None


# The others take the same paths; each cut is proven by `compress.prune` itself.
@pytest.mark.parametrize("name", [SSDLITE, RETINANET, FASTER_MOBILE])
def test_a_guest_is_cut_and_its_slim_file_loads(name, tmp_path):
    found = filled(name, original(name), size=(64, 100))
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
