"""FSSD and FSSD-Lite: what is fused and how wide, the pyramid, cutting, options that do not fit."""

import pytest
import torch

import compress
import detectors
from compress.cost import cost_of, subject
from compress.graph import trace
from detectors.errors import ConfigError
from detectors.models import build

CLASSES = ("cat", "dog")
NARROW = 0.0625


def tiny(name="fssd", size=(288, 288), **options):
    torch.manual_seed(0)
    return build(name, CLASSES, size=list(size), **{"width": NARROW, **options})


@pytest.mark.parametrize(
    ("name", "options", "fused", "pyramid"),
    [
        ("fssd", {}, [256] * 3, [512, 512, 256, 256, 256, 256]),
        ("fssd", {"width": 0.5}, [128] * 3, [256, 256, 128, 128, 128, 128]),
        ("fssd", {"width": 0.5, "source_depths": [512, 1024, 256]}, [64] * 3, [256, 256, 128, 128, 128, 128]),
        ("fssd", {"sources": [22, 34]}, [512] * 2, [512, 512, 256, 256, 256, 256]),
        ("fssd", {"sources": [22]}, [256], [512, 512, 256, 256, 256, 256]),
        ("fssd", {"backbone": "darknet53", "width": 0.25}, [128] * 3, [128, 128, 64, 64, 64, 64]),
        ("fssd_lite", {}, [160] * 3, [256, 256, 256, 256, 128, 128]),
        ("fssd_lite", {"width": 0.5}, [80] * 3, [128, 128, 128, 128, 64, 64]),
        (
            "fssd_lite",
            {"width": 0.75, "backbone": "mobilenet_v1"},
            [384] * 3,
            [384, 384, 192, 192, 192, 192],
        ),
    ],
)
def test_every_source_brings_half_of_the_last_ones_channels_at_any_width(name, options, fused, pyramid):
    with torch.device("meta"):
        network = build(name, CLASSES, **options).network
    assert [transform.conv.out_channels for transform in network.transforms] == fused
    assert network.norm.num_features == network.pyramids[0].conv.in_channels == sum(fused)
    assert [layer.conv.out_channels for layer in network.pyramids] == pyramid


def recorded(detector) -> dict[str, list[torch.Tensor]]:
    """The output of each transform and further layer, and the fused map before its batch norm."""
    found = {"transforms": [], "extras": [], "fused": []}
    network = detector.eval().network
    for key in ("transforms", "extras"):
        for layer in network.get_submodule(key):
            layer.register_forward_hook(lambda _, __, out, key=key: found[key].append(out))
    network.norm.register_forward_pre_hook(lambda _, inputs: found["fused"].append(inputs[0]))
    with torch.no_grad():
        network(torch.randn(1, 3, *detector.size))
    return found


def test_the_finest_map_is_fused_as_it_is_and_coarser_ones_with_aligned_corners():
    found = recorded(tiny(size=(288, 352)))
    fine, *coarse = found["transforms"]
    (fused,) = found["fused"]
    parts = fused.split([t.shape[1] for t in found["transforms"]], dim=1)
    assert torch.equal(parts[0], fine)
    assert fused.shape[2:] == fine.shape[2:] == (36, 44)
    assert [tuple(source.shape[2:]) for source in coarse] == [(18, 22), (9, 11)]
    for part, source in zip(parts[1:], coarse, strict=True):
        for row in (0, -1):
            for column in (0, -1):
                assert torch.allclose(part[..., row, column], source[..., row, column], rtol=0, atol=1e-5)
        # Along an edge the steps between cells are all of one length.
        place = torch.linspace(0, source.shape[3] - 1, fine.shape[3])
        left = place.floor().long().clamp(max=source.shape[3] - 2)
        edge = source[0, :, 0, left] * (1 - (place - left)) + source[0, :, 0, left + 1] * (place - left)
        assert torch.allclose(part[0, :, 0], edge, rtol=0, atol=1e-4)


def test_transforms_cut_at_zero_and_the_further_source_does_not():
    found = recorded(tiny())
    assert all(bool((out >= 0).all()) for out in found["transforms"])
    assert all(bool((out < 0).any()) for out in found["extras"])
    assert len(found["extras"]) == 2


@pytest.mark.parametrize(
    ("size", "maps"),
    [
        ((300, 300), [(38, 38), (19, 19), (10, 10), (5, 5), (3, 3), (1, 1)]),
        ((288, 420), [(36, 53), (18, 27), (9, 14), (5, 7), (3, 5), (1, 3)]),
        ((420, 270), [(53, 34), (27, 17), (14, 9), (7, 5), (5, 3), (3, 1)]),
    ],
)
def test_every_map_of_any_size_has_its_anchors(size, maps):
    detector = tiny("fssd_lite", size, width=0.125)
    with torch.no_grad():
        found = detector.eval().dense(torch.rand(1, 3, *size))
    assert [tuple(logits.shape[2:]) for logits, _ in found] == maps
    cells = [6, 6, 6, 6, 4, 4]
    assert len(detector.anchors) == sum(n * h * w for n, (h, w) in zip(cells, maps, strict=True))


def test_a_shorter_pyramid_takes_a_small_image():
    detector = tiny(
        size=(64, 96),
        layers=["", "S"],
        depths=[64, 32],
        sizes=[8, 24, 48],
        aspect_ratios=[[2], [2, 3]],
    )
    with torch.no_grad():
        found = detector.eval().dense(torch.rand(1, 3, 64, 96))
    assert [tuple(deltas.shape[1:]) for _, deltas in found] == [(16, 8, 12), (24, 4, 6)]


@pytest.mark.parametrize(
    "options",
    [
        {"backbone": "vgg16"},
        {"backbone": "resnet18", "head": "separable"},
        {"backbone": "mobilenet_v1", "width": 0.125},
        {"sources": [22]},
    ],
)
def test_everything_but_the_outputs_is_cut_and_the_slim_file_comes_back(options, tmp_path):
    full = tiny(**options)
    graph = trace(*subject(full))
    assert set(graph.whole.values()) == {"makes an output"}
    fusing = [group for group in graph.groups if any(m.layer == "norm" for m in group.members)]
    assert [group.name for group in fusing] == [f"transforms.{k}.conv" for k in range(len(fusing))]
    assert len(fusing) == len(full.network.transforms)
    slim = compress.prune(full, ratio=0.3, multiple=1, floor=0.0)  # proven equal to the masked network inside
    assert cost_of(slim).macs < 0.7 * cost_of(full).macs
    assert slim.network.norm.num_features < full.network.norm.num_features
    detectors.save(slim, tmp_path / "slim.pth")
    again = detectors.load(tmp_path / "slim.pth")
    image = torch.rand(1, 3, *full.size)
    with torch.no_grad():
        assert torch.equal(again(image).logits, slim.eval()(image).logits)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": [160, 160]}, r"fssd: size=\[160, 160\] does not fit its maps; \[288, 288\] does"),
        ({"size": [300, -1]}, r"fssd: size=\[300, -1\] is not \[height, width\] in pixels"),
        ({"sources": []}, r"fssd: sources=\[\] must begin with indices of backbone layers"),
        ({"sources": ["S"]}, r"fssd: sources=\['S'\] must begin with indices of backbone layers"),
        ({"sources": [22, 34, ""]}, "may end in one 'S' and in nothing else"),
        ({"sources": [22, 40]}, r"taps=\[22, 40\] are not ascending .* 35 layers"),
        ({"source_depths": [512]}, r"source_depths=\[512\] are one for each of sources=\[22, 34, 'S'\]"),
        ({"source_depths": [512, 1024, 1]}, "the last one 2 or more"),
        ({"layers": [], "depths": []}, r"layers=\[\] are '' or 'S', with one of depths=\[\] for each"),
        ({"layers": ["", "S", "S", "RBF", "", ""]}, "are '' or 'S', with one of depths="),
        ({"depths": [512, 512, 256, 256, 256, 0]}, r"256, 0\] for each, above 0"),
        ({"backbone": "resnet152"}, "fssd cannot stand on backbone 'resnet152'; did you mean resnet50"),
    ],
)
def test_an_option_that_does_not_fit_says_what_would(options, message):
    with torch.device("meta"), pytest.raises(ConfigError, match=message) as caught:
        build("fssd", CLASSES, **options)
    assert "\n" not in str(caught.value)
