"""SSD and SSD-Lite: the published layouts, ssds.pytorch's default boxes, options that change the maps."""

import itertools
import math

import pytest
import torch

import compress
import detectors
from detectors.errors import ConfigError
from detectors.models import build
from detectors.models.layers import L2Norm

CLASSES = ("cat", "dog")
NARROW = 0.0625


def meta(name="ssd", **options):
    with torch.device("meta"):
        return build(name, CLASSES, **options)


def maps(detector):
    images = torch.empty(1, 3, *detector.size, device="meta")
    return [tuple(deltas.shape[2:]) for _, deltas in detector.eval().dense(images)]


def ssds_boxes(image_size, map_sizes, ratios, scales, steps=None):
    """Section by section what ssds.pytorch's prior_box computes, in Python floats; not cut to the image."""
    rows = []
    for k, (height, width) in enumerate(map_sizes):
        step_y, step_x = (steps[k] / side for side in image_size) if steps else (1 / height, 1 / width)
        for i, j in itertools.product(range(height), range(width)):
            centre = [j * step_x + step_x / 2, i * step_y + step_y / 2]
            for ratio in ratios[k]:
                if ratio == 1:
                    larger = math.sqrt(scales[k] * scales[k + 1])
                    rows += [[*centre, scales[k], scales[k]], [*centre, larger, larger]]
                else:
                    long, short = scales[k] * math.sqrt(ratio), scales[k] / math.sqrt(ratio)
                    rows += [[*centre, long, short], [*centre, short, long]]
    return torch.tensor(rows)


SIX = [[1, 2, 3]] * 4 + [[1, 2]] * 2


@pytest.mark.parametrize(
    ("options", "map_sizes", "sizes", "steps"),
    [
        (
            {"backbone": "resnet18"},
            (38, 19, 10, 5, 3, 1),
            (30, 60, 111, 162, 213, 264, 315),
            (8, 16, 32, 64, 100, 300),
        ),
        (
            {"backbone": "mobilenet_v2"},
            (19, 10, 5, 3, 2, 1),
            (45, 90, 135, 180, 225, 270, 315),
            (16, 32, 64, 100, 150, 300),
        ),
        (
            {"backbone": "darknet19"},
            (18, 9, 5, 3, 2, 1),
            (45, 90, 135, 180, 225, 270, 315),
            (16, 32, 64, 100, 150, 300),
        ),
    ],
)
def test_published_boxes_are_those_of_ssds(options, map_sizes, sizes, steps):
    detector = build("ssd", CLASSES, width=NARROW, clip=False, **options)
    expected = ssds_boxes((300, 300), [(m, m) for m in map_sizes], SIX, [size / 300 for size in sizes], steps)
    assert torch.allclose(detector.anchors, expected, atol=1e-6, rtol=0)


def test_lists_of_ratios_without_a_1_have_no_squares():
    ratios = [[2, 3]] * 4 + [[2]] * 2
    detector = build(
        "ssd", CLASSES, width=NARROW, backbone="resnet18", clip=False, squares=False, aspect_ratios=ratios
    )
    sizes, steps = (30, 60, 111, 162, 213, 264, 315), (8, 16, 32, 64, 100, 300)
    expected = ssds_boxes(
        (300, 300), [(m, m) for m in (38, 19, 10, 5, 3, 1)], ratios, [size / 300 for size in sizes], steps
    )
    assert torch.allclose(detector.anchors, expected, atol=1e-6, rtol=0)
    assert [head.out_channels for head in detector.network.loc] == [16, 16, 16, 16, 8, 8]


def test_without_steps_cells_divide_the_image():
    detector = build("ssd", CLASSES, width=NARROW, backbone="resnet18", clip=False, steps=[])
    scales = [size / 300 for size in (30, 60, 111, 162, 213, 264, 315)]
    expected = ssds_boxes((300, 300), [(m, m) for m in (38, 19, 10, 5, 3, 1)], SIX, scales)
    assert torch.allclose(detector.anchors, expected, atol=1e-6, rtol=0)


def test_boxes_are_square_in_pixels_on_a_rectangular_input():
    detector = build("ssd", CLASSES, width=NARROW, backbone="resnet18", size=[300, 450], clip=False)
    pixels = detector.anchors * torch.tensor([450.0, 300, 450, 300])
    assert pixels[0].tolist() == pytest.approx([450 / 57 / 2, 300 / 38 / 2, 30, 30], abs=1e-4)
    assert detector.anchors.shape[0] == detector.eval()(torch.rand(1, 3, 300, 450)).deltas.shape[1]


@pytest.mark.parametrize("backbone", ["vgg16", "resnet50", "mobilenet_v1", "mobilenet_v2"])
def test_the_pruning_tools_layout_has_the_maps_and_boxes_of_ssd300(backbone):
    detector = meta(backbone=backbone, layout="tencent")
    assert maps(detector) == [(38, 38), (19, 19), (10, 10), (5, 5), (3, 3), (1, 1)]
    assert [head.out_channels // 4 for head in detector.network.loc] == [4, 6, 6, 6, 4, 4]
    with torch.device("cpu"):
        published = build("ssd300_vgg16", CLASSES).anchors
        narrow = build("ssd", CLASSES, backbone=backbone, layout="tencent", width=NARROW)
        assert torch.equal(narrow.anchors, published)


def test_the_finest_map_is_normalised_with_scale_20():
    norm = build("ssd", CLASSES, backbone="resnet18", width=NARROW).network.norm
    assert isinstance(norm, L2Norm)
    assert norm.weight.tolist() == [20.0] * 8


def test_given_depths_are_taken_as_they_are_and_published_ones_times_the_width():
    # ssds.pytorch's mobilenet_v1_075: a narrower backbone under further maps of full width.
    layers, depths = [11, 13, "S", "S", "S", "S"], [384, 768, 512, 256, 256, 128]
    given = meta("ssd_lite", backbone="mobilenet_v1", width=0.75, layers=layers, depths=depths)
    assert [head.in_channels for head in given.network.loc] == depths
    published = meta("ssd_lite", backbone="mobilenet_v1", width=0.75)
    assert [head.in_channels for head in published.network.loc] == [384, 768, 384, 192, 192, 96]


def test_maps_can_be_chosen():
    detector = meta(
        backbone="mobilenet_v2",
        layers=[6, 13, 17, "S", ""],
        depths=[0, 0, 0, 128, 64],
        sizes=[20, 40, 80, 120, 160, 200],
        aspect_ratios=[[], [2], [2, 3], [2], [1.5]],
        size=[320, 256],
    )
    assert maps(detector) == [(40, 32), (20, 16), (10, 8), (5, 4), (3, 2)]
    assert [head.in_channels for head in detector.network.loc] == [32, 96, 320, 128, 64]
    assert [head.out_channels // 4 for head in detector.network.loc] == [2, 4, 6, 4, 4]


@pytest.mark.parametrize(
    ("options", "pixel"),
    [
        # Mid grey after the published means; ssds.pytorch hands on blue, green, red.
        ({}, (128 - 103.94, 128 - 116.78, 128 - 123.68)),
        ({"layout": "tencent"}, (128 - 123, 128 - 117, 128 - 104)),
        (
            {"colours": "imagenet"},
            ((128 - 123.675) / 58.395, (128 - 116.28) / 57.12, (128 - 103.53) / 57.375),
        ),
    ],
)
def test_colours_are_what_the_weights_expect(options, pixel):
    detector = build("ssd", CLASSES, width=NARROW, backbone="mobilenet_v2", **options)
    seen = detector.normalise(torch.full((1, 3, 1, 1), 128 / 255)).flatten().tolist()
    assert seen == pytest.approx(pixel, abs=1e-4)


def test_a_layout_of_ones_own_is_cut_and_comes_back_from_its_file(tmp_path):
    torch.manual_seed(0)
    full = build(
        "ssd_lite",
        CLASSES,
        backbone="mobilenet_v2",
        width=0.25,
        size=[96, 128],
        layers=[13, 17, "S"],
        depths=[0, 0, 32],
        sizes=[20, 40, 60, 80],
        aspect_ratios=[[2, 3], [2], [2]],
        squares=False,
        head="separable",
        colours="imagenet",
    )
    slim = compress.prune(full, ratio=0.3, multiple=1, floor=0.0)  # proven equal to the masked network inside
    detectors.save(slim, tmp_path / "slim.pth")
    again = detectors.load(tmp_path / "slim.pth").eval()
    assert again.spec == slim.spec
    images = torch.rand(1, 3, 96, 128)
    with torch.no_grad():
        ours, theirs = slim.eval()(images), again(images)
    assert torch.equal(ours.logits, theirs.logits)
    assert torch.equal(ours.deltas, theirs.deltas)
    assert torch.equal(slim.anchors, again.anchors)
    count = [sum(p.numel() for p in detector.parameters()) for detector in (slim, full)]
    assert count[0] < 0.8 * count[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": []}, r"layers=\[\] must begin with indices of backbone layers"),
        ({"depths": []}, "0 depths for 6 maps; give one for each"),
        ({"depths": [0, 0, 512, 1, 256, 256]}, r"depths=\[0, 0, 512, 1, 256, 256\] must be 2 or more"),
        ({"size": [0, 300]}, r"size=\[0, 300\] is not \[height, width\] in pixels"),
        ({"size": [-300, 300]}, r"size=\[-300, 300\] is not \[height, width\] in pixels"),
        ({"steps": [0] * 6}, r"steps=\[0, 0, 0, 0, 0, 0\] and all aspect_ratios must be above 0"),
        ({"steps": [8, 16]}, "2 steps for 6 maps; give 6"),
        ({"sizes": [math.nan] * 7}, "must be above 0 and finite"),
        ({"sizes": [math.inf] * 7}, "must be above 0 and finite"),
        ({"aspect_ratios": [[2], [2], [2], [2], [2], [-1]]}, "must be above 0 and finite"),
        ({"aspect_ratios": [[2]]}, "1 aspect_ratios for 6 maps; give 6"),
        (
            {"squares": False, "aspect_ratios": [[2], [2], [2], [2], [2], []]},
            r"with squares=false each map needs aspect_ratios; got \[\[2\], .*\[\]\]",
        ),
        ({"layout": "caffe"}, r"layout='caffe' does not fit; it takes Literal\['ssds', 'tencent'\]"),
        ({"width": math.nan}, "width=nan is not between 0 and 4"),
    ],
)
def test_an_option_that_does_not_fit_is_one_clear_error(options, message):
    with pytest.raises(ConfigError, match=message) as caught:
        meta(**options)
    assert "\n" not in str(caught.value)
