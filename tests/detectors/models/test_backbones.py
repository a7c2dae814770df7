"""The trunks: what each layer gives, torchvision's ResNets as witnesses, widths, the pruning tool's tails."""

import pytest
import torch
import torchvision
from torch import nn

from detectors.errors import ConfigError
from detectors.models.backbones import BACKBONES, Backbone

# Name: number of layers, then (layer, channels, stride) where SSD, FSSD and YOLO tap.
TRUNKS = {
    "vgg16": (35, ((22, 512, 8), (34, 1024, 16))),
    "vgg16_bn": (50, ((32, 512, 8), (49, 1024, 16))),
    "resnet18": (10, ((5, 64, 4), (7, 128, 8), (9, 256, 16))),
    "resnet34": (17, ((6, 64, 4), (10, 128, 8), (16, 256, 16))),
    "resnet50": (17, ((6, 256, 4), (10, 512, 8), (16, 1024, 16))),
    "resnet101": (34, ((6, 256, 4), (10, 512, 8), (33, 1024, 16))),
    "mobilenet_v1": (14, ((5, 256, 8), (11, 512, 16), (13, 1024, 32))),
    "mobilenet_v2": (18, ((6, 32, 8), (13, 96, 16), (17, 320, 32))),
    "darknet19": (17, ((8, 256, 8), (12, 512, 16), (16, 1024, 32))),
    "darknet53": (29, ((14, 256, 8), (23, 512, 16), (28, 1024, 32))),
}


@torch.no_grad()
def maps(trunk, x):
    """(channels, height) behind each layer."""
    found = []
    for layer in trunk.layers:
        x = layer.eval()(x)
        found.append((x.shape[1], x.shape[2]))
    return found


def empty(size):
    return torch.empty(1, 3, size, size, device="meta")


@pytest.mark.parametrize("name", TRUNKS)
def test_layers_give_the_channels_and_strides_that_detectors_count_on(name):
    count, taps = TRUNKS[name]
    with torch.device("meta"):
        trunk = BACKBONES[name]()
    found = maps(trunk, empty(256))
    assert len(trunk.layers) == len(trunk.depths) == count
    assert trunk.depths == tuple(channels for channels, _ in found)
    assert [(tap, *found[tap]) for tap, _, _ in taps] == [(t, depth, 256 // s) for t, depth, s in taps]


def test_every_trunk_stands_in_the_table():
    assert sorted(TRUNKS) == BACKBONES.names()


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_a_resnet_is_torchvisions_with_its_stages_in_a_row(name):
    torch.manual_seed(0)
    original = getattr(torchvision.models, name)().eval()
    for module in original.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    theirs = in_a_row(original)
    ours = nn.ModuleList(BACKBONES[name](tail="stride2").layers).eval()
    ours.load_state_dict(theirs.state_dict())
    x = y = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        for layer, original_layer in zip(ours, theirs, strict=True):
            x, y = layer(x), original_layer(y)
    assert y.shape[2:] == (3, 3)
    assert torch.allclose(x, y, rtol=1e-4, atol=1e-5 * float(y.abs().max()))


def test_resnet101_has_the_keys_and_shapes_of_torchvisions():
    with torch.device("meta"):  # its weights take seconds to draw
        theirs = in_a_row(torchvision.models.resnet101()).state_dict()
        ours = nn.ModuleList(BACKBONES["resnet101"](tail="stride2").layers).state_dict()
    assert {key: value.shape for key, value in ours.items()} == {k: v.shape for k, v in theirs.items()}


def in_a_row(resnet):
    stages = (resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4)
    blocks = (block for stage in stages for block in stage)
    return nn.ModuleList([resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool, *blocks])


@pytest.mark.parametrize("name", TRUNKS)
def test_a_narrow_trunk_has_the_same_layers(name):
    trunk = BACKBONES[name](0.25)
    count, taps = TRUNKS[name]
    assert len(trunk.layers) == count
    assert trunk.depths == tuple(channels for channels, _ in maps(trunk, torch.rand(1, 3, 64, 64)))
    assert [trunk.depths[tap] for tap, _, _ in taps] == [channels // 4 for _, channels, _ in taps]


# ssds.pytorch's _075, _050 and _025, and a width that gives no whole numbers: rounded down, at least 8.
@pytest.mark.parametrize(
    ("name", "width", "depths"),
    [
        ("mobilenet_v1", 0.75, (24, 48, 96, 96, 192)),
        ("mobilenet_v1", 0.25, (8, 16, 32, 32, 64)),
        ("mobilenet_v1", 0.3, (9, 19, 38, 38, 76)),
        ("mobilenet_v2", 0.75, (24, 12, 18, 18, 24)),
        ("mobilenet_v2", 0.5, (16, 8, 12, 12, 16)),
        ("mobilenet_v2", 0.25, (8, 8, 8, 8, 8)),
    ],
)
def test_mobilenets_are_narrowed_as_in_tensorflow(name, width, depths):
    with torch.device("meta"):
        assert BACKBONES[name](width).depths[:5] == depths


def test_the_pruning_tools_resnet_keeps_its_size_in_the_last_stage():
    with torch.device("meta"):
        trunk = BACKBONES["resnet50"](tail="stride1")
    assert len(trunk.layers) == 21
    assert maps(trunk, empty(304))[16:] == [(1024, 19), *[(2048, 19)] * 4]
    # The mean is over what lies inside: a constant map stays what it is up to the border.
    ones = torch.ones(1, 2, 9, 9)
    assert torch.allclose(trunk.layers[20](ones), ones)


def test_the_pruning_tools_mobilenets_leave_the_last_halving_out():
    with torch.device("meta"):
        first, second = (BACKBONES[name](tail="stride1") for name in ("mobilenet_v1", "mobilenet_v2"))
    assert len(first.layers) == 13
    assert maps(first, empty(256))[11:] == [(512, 16), (1024, 16)]
    assert len(second.layers) == 19
    assert maps(second, empty(256))[16:] == [(160, 16), (320, 16), (1280, 16)]


def test_maps_behind_the_taps_come_out_finest_first_and_nothing_is_built_behind_the_last():
    torch.manual_seed(0)
    backbone = Backbone(BACKBONES["mobilenet_v2"](0.25), (6, 13)).eval()
    assert len(backbone.features) == 14
    with torch.no_grad():
        fine, coarse = backbone(torch.rand(2, 3, 64, 96))
    assert (fine.shape, coarse.shape) == ((2, 8, 8, 12), (2, 24, 4, 6))
    assert backbone.depths == (8, 24)


@pytest.mark.parametrize("taps", [(), (-1, 3), (3, 3), (5, 3), (3, 18)])
def test_taps_that_are_no_layers_are_an_error(taps):
    with (
        torch.device("meta"),
        pytest.raises(ConfigError, match="ascending indices of the backbone's 18 layers"),
    ):
        Backbone(BACKBONES["mobilenet_v2"](), taps)


def test_an_unknown_backbone_is_told_what_there_is():
    with pytest.raises(ConfigError, match="unknown backbone 'resnet51'; did you mean resnet50"):
        BACKBONES["resnet51"]
