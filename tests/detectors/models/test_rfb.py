"""RFB and RFB-Lite: how far each branch looks, what reads a block, cutting, options that do not fit."""

import pytest
import torch
from torch import nn

import compress
import detectors
from compress.cost import cost_of, subject
from compress.graph import trace
from detectors.errors import ConfigError
from detectors.models import build
from detectors.models.rfb import RFBBlock, rfb_block, rfb_lite_block, rfb_s

CLASSES = ("cat", "dog")
NARROW = 0.0625


def tiny(name="rfb", size=(300, 300), **options):
    torch.manual_seed(0)
    return build(name, CLASSES, size=list(size), **{"width": NARROW, **options})


def seen(branch: nn.Module, inputs: int) -> tuple[int, int]:
    """Rows and columns of the input that reach the centre cell of a branch."""
    for module in branch.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.ones_(module.weight)
    image = torch.ones(1, inputs, 41, 41, requires_grad=True)
    out = branch.eval()(image)
    out[0, :, out.shape[2] // 2, out.shape[3] // 2].sum().backward()
    touched = image.grad[0].sum(dim=0) != 0
    rows, columns = touched.any(dim=1).nonzero(), touched.any(dim=0).nonzero()
    return int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1


# (kernels - 1) * dilation summed over the branch, plus 1; a stride doubles what follows it.
@pytest.mark.parametrize(
    ("block", "fields"),
    [
        (lambda: rfb_s(16, project=True), [(3, 3), (9, 7), (7, 9), (13, 13)]),
        (lambda: rfb_block(16, 24, 1), [(9, 9), (15, 15)]),
        (lambda: rfb_block(16, 24, 2), [(15, 15), (25, 25)]),
        (lambda: rfb_lite_block(16, 24, 1), [(9, 9), (15, 15)]),
        (lambda: rfb_lite_block(16, 24, 2), [(15, 15), (25, 25)]),
    ],
)
def test_each_branch_sees_its_field(block, fields):
    built = block()
    assert [seen(built.get_submodule(name), 16) for name in built.names] == fields


@pytest.mark.parametrize("make", [rfb_block, rfb_lite_block])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 4), (10, 19)])
def test_branches_and_shortcut_halve_every_size_alike(make, size):
    halved = tuple(-(-side // 2) for side in size)
    assert make(16, 24, 2).eval()(torch.rand(2, 16, *size)).shape == (2, 24, *halved)
    assert make(16, 24, 1).eval()(torch.rand(2, 16, *size)).shape == (2, 24, *size)


def test_a_block_is_its_join_plus_its_shortcut_cut_at_zero():
    torch.manual_seed(0)
    block = rfb_s(16, project=False).eval()
    x = torch.randn(1, 16, 6, 6)
    joined = block.ConvLinear(torch.cat([block.get_submodule(name)(x) for name in block.names], dim=1))
    assert torch.equal(block(x), (joined + x).relu())
    assert bool((joined < 0).any())


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("rfb", ["norm.0", "norm.1", "extras.0", "extras.1"]),
        ("rfb_lite", ["norm", "extras.0"]),
    ],
)
def test_blocks_stand_where_the_published_files_have_them(name, blocks):
    network = tiny(name).network
    assert [key for key, module in network.named_modules() if isinstance(module, RFBBlock)] == blocks
    assert isinstance(network.get_submodule(blocks[0]).shortcut, nn.Identity) == (name == "rfb_lite")


def maps_of(detector) -> list[torch.Tensor]:
    images = torch.rand(1, 3, *detector.size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return [logits for logits, _ in detector.eval().dense(images)]


@pytest.mark.parametrize(
    ("name", "block", "changed"),
    [
        ("rfb", "norm.0", [0]),
        ("rfb", "norm.1", [1, 2, 3, 4, 5]),
        ("rfb", "extras.0", [2, 3, 4, 5]),
        ("rfb_lite", "norm", [0]),
        ("rfb_lite", "extras.0", [2, 3, 4, 5]),
    ],
)
def test_the_finest_block_stands_aside_and_the_others_feed_what_follows(name, block, changed):
    detector = tiny(name)
    before = maps_of(detector)
    nn.init.zeros_(detector.network.get_submodule(block).ConvLinear.bn.weight)
    after = maps_of(detector)
    assert [k for k, pair in enumerate(zip(before, after, strict=True)) if not torch.equal(*pair)] == changed


@pytest.mark.parametrize(
    ("name", "size", "maps"),
    [
        ("rfb", (300, 300), [(38, 38), (19, 19), (10, 10), (5, 5), (3, 3), (1, 1)]),
        ("rfb", (300, 420), [(38, 53), (19, 26), (10, 13), (5, 7), (3, 5), (1, 3)]),
        ("rfb_lite", (300, 300), [(19, 19), (10, 10), (5, 5), (3, 3), (2, 2), (1, 1)]),
        ("rfb_lite", (64, 130), [(4, 9), (2, 5), (1, 3), (1, 2), (1, 1), (1, 1)]),
    ],
)
def test_every_map_of_any_size_has_its_anchors(name, size, maps):
    detector = tiny(name, size)
    assert [tuple(level.shape[2:]) for level in maps_of(detector)] == maps
    cells = [6, 6, 6, 6, 4, 4]
    assert len(detector.anchors) == sum(n * h * w for n, (h, w) in zip(cells, maps, strict=True))


def test_a_third_layer_of_the_backbone_gets_a_block_of_its_own():
    detector = tiny(layers=[15, 22, 34, "RBF", "S", "S"])
    assert [block.shortcut.conv.in_channels for block in detector.network.norm] == [16, 32, 64]
    assert [tuple(level.shape[2:]) for level in maps_of(detector)][:3] == [(75, 75), (38, 38), (19, 19)]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("rfb", {"backbone": "vgg16"}),
        ("rfb_lite", {"backbone": "mobilenet_v1", "head": "separable", "size": [64, 96], "width": 0.25}),
    ],
)
def test_everything_but_the_outputs_is_cut_and_the_slim_file_comes_back(name, options, tmp_path):
    full = tiny(name, **options)
    graph = trace(*subject(full))
    assert set(graph.whole.values()) == {"makes an output"}
    cut = {producer for group in graph.groups for producer in group.producers}
    assert {layer.rpartition(".")[0] for layer in cut} >= {"extras.0.ConvLinear", "extras.0.shortcut"}
    slim = compress.prune(full, ratio=0.3, multiple=1, floor=0.0)  # proven equal to the masked network inside
    assert cost_of(slim).macs < 0.7 * cost_of(full).macs
    detectors.save(slim, tmp_path / "slim.pth")
    again = detectors.load(tmp_path / "slim.pth")
    image = torch.rand(1, 3, *full.size)
    with torch.no_grad():
        assert torch.equal(again(image).logits, slim.eval()(image).logits)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("rfb", {"size": [160, 160]}, r"rfb: size=\[160, 160\] does not fit its maps; \[288, 288\] does"),
        ("rfb_lite", {"size": [0, 300]}, r"rfb_lite: size=\[0, 300\] is not \[height, width\] in pixels"),
        ("rfb", {"width": 0}, "rfb: width=0 is not between 0 and 4"),
        ("rfb", {"layers": []}, r"rfb: layers=\[\] must begin with indices of backbone layers"),
        ("rfb", {"layers": ["RBF"] * 6}, "must begin with indices of backbone layers"),
        ("rfb", {"layers": [22, 34, "RFB", "RBF", "", ""]}, "'RFB' in layers .* there are 'RBF', 'S' and ''"),
        ("rfb", {"layers": [22, 35, "RBF", "RBF", "", ""]}, r"taps=\[22, 35\] .* 35 layers"),
        ("rfb", {"depths": []}, "rfb: 0 depths for 6 maps; give one for each"),
        (
            "rfb",
            {"depths": [0, 0, 512, 256, 256, 1]},
            r"256, 1\] must be 2 or more for every map that is not",
        ),
        ("rfb_lite", {"backbone": "vgg"}, "rfb_lite cannot stand on backbone 'vgg'; did you mean vgg16"),
    ],
)
def test_an_option_that_does_not_fit_says_what_would(name, options, message):
    with torch.device("meta"), pytest.raises(ConfigError, match=message) as caught:
        build(name, CLASSES, **options)
    assert "\n" not in str(caught.value)
