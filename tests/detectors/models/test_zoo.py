"""SSD, RFB, FSSD and their lite forms over every backbone: sizes, cutting, options that do not fit."""

import json

import pytest
import torch

import compress
import detectors
from compress.cost import subject
from compress.graph import trace
from detectors.errors import ConfigError
from detectors.models import build
from detectors.models.layouts import TAPS
from detectors.shapes_only import ShapesOnly
from detectors.types import Target

FAMILIES = ("ssd", "ssd_lite", "rfb", "rfb_lite", "fssd", "fssd_lite")
CLASSES = ("cat", "dog")
NARROW = 0.0625


@pytest.mark.parametrize("backbone", TAPS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_stands_on_every_backbone(family, backbone):
    with torch.device("meta"), ShapesOnly():
        detector = build(family, CLASSES, backbone=backbone)
        whole = detector(torch.empty(2, 3, 300, 300, device="meta"))
    # As published: maps from stride 8, from stride 16; Darknet-19 rounds down.
    assert whole.deltas.shape[1] in (11620, 2990, 11170, 2654)
    assert whole.logits.shape == (2, whole.deltas.shape[1], 3)
    assert detector.anchors.shape == whole.deltas.shape[1:]


# One backbone of each kind; their pairs with the families differ only in what was tested above. MobileNetV2
# and Darknet-53 are cut under YOLO.
@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("ssd", {"backbone": "resnet50"}),
        ("ssd_lite", {"backbone": "mobilenet_v1", "head": "separable"}),
        ("rfb", {"backbone": "darknet19"}),
    ],
)
def test_everything_but_the_outputs_is_cut_and_the_slim_file_comes_back(family, options, tmp_path):
    torch.manual_seed(0)
    full = build(family, CLASSES, size=[300, 340], width=NARROW, **options)
    graph = trace(*subject(full))
    # At this width some of RFB's branches have a single channel.
    assert set(graph.whole.values()) <= {"makes an output", "has one channel"}
    slim = compress.prune(full, ratio=0.4, multiple=1, floor=0.0)  # proven equal to the masked network inside
    widths = {group.name: group.channels for group in trace(*subject(slim)).groups}
    wide = {group.name: group.channels for group in graph.groups}
    assert widths == {name: count - int(0.4 * count) for name, count in wide.items()}
    detectors.save(slim, tmp_path / "slim.pth")
    again = detectors.load(tmp_path / "slim.pth")
    image = torch.rand(1, 3, 300, 340)
    with torch.no_grad():
        assert torch.equal(again(image).logits, slim.eval()(image).logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_of_training_changes_every_weight_that_is_trained(family):
    torch.manual_seed(0)
    detector = build(family, CLASSES, backbone="mobilenet_v1", size=[300, 300], width=NARROW).train()
    losses = detector.losses(
        torch.rand(2, 3, 300, 300), [Target.of([[40, 50, 160, 200]], [1]), Target.of([], [])]
    )
    sum(losses.values()).backward()
    without = [name for name, p in detector.named_parameters() if p.grad is None]
    assert without == []


def test_separable_heads_cost_less():
    dense, separable = (
        build("ssd_lite", CLASSES, width=0.25, head=head, size=[300, 300]) for head in ("dense", "separable")
    )
    costs = [sum(p.numel() for p in detector.network.conf.parameters()) for detector in (dense, separable)]
    assert costs[1] < 0.5 * costs[0]


def test_at_another_size_boxes_grow_with_the_shorter_side():
    published, larger = (build("ssd", CLASSES, width=NARROW, size=size) for size in ([300, 300], [450, 600]))
    assert published.anchors[0, 2:].tolist() == pytest.approx([30 / 300, 30 / 300])
    assert larger.anchors[0, 2:].tolist() == pytest.approx([45 / 600, 45 / 450])
    assert larger.anchors[0, :2].tolist() == pytest.approx([0.5 / 75, 0.5 / 56])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ssd", {"backbone": "resnet5"}, "ssd cannot stand on backbone 'resnet5'; did you mean resnet50"),
        ("rfb", {"backbone": "vgg19"}, "rfb cannot stand on backbone 'vgg19'; did you mean vgg16"),
        (
            "ssd",
            {"backbone": "darknet19", "layout": "tencent"},
            "ssd cannot stand on backbone 'darknet19'.*; known: mobilenet_v1, mobilenet_v2, resnet50, vgg16",
        ),
        ("ssd", {"size": [120, 120]}, r"ssd: size=\[120, 120\] does not fit its maps; \[\d+, \d+\] does"),
        ("fssd_lite", {"width": 0}, "fssd_lite: width=0 is not between 0 and 4"),
        ("ssd", {"layers": [22, 34]}, "6 depths for 2 maps; give one for each"),
        ("ssd", {"layers": [22, 34], "depths": [0, 0]}, "ssd: 7 sizes for 2 maps; give 3"),
        ("ssd", {"layers": ["S", 22, 34, "S", "S", "S"]}, "must begin with indices of backbone layers"),
        (
            "ssd",
            {"layers": [22, 99, "S", "S", "", ""]},
            "taps=.22, 99. are not ascending .* 35 layers",
        ),
        ("ssd", {"layers": [22, 34, "S", "S", "X", ""]}, "'X' in layers is no further map"),
        ("rfb", {"layers": [22, 34, "RBF", "S", "X", ""]}, "'X' in layers is no further map"),
        ("fssd", {"sources": [22, "S", "S"]}, "may end in one 'S' and in nothing else"),
        ("fssd", {"layers": ["", "S"]}, r"layers=\['', 'S'\] are '' or 'S', with one of depths="),
        ("ssd", {"sizes": [0, 1, 2, 3, 4, 5, 6]}, "must be above 0"),
        ("ssd", {"head": "thin"}, r"head='thin' does not fit; it takes Literal\['dense', 'separable'\]"),
    ],
)
def test_an_option_that_does_not_fit_says_what_would(name, options, message):
    with torch.device("meta"), pytest.raises(ConfigError, match=message):
        build(name, CLASSES, **options)


def test_a_size_that_the_message_proposes_fits():
    with torch.device("meta"), pytest.raises(ConfigError, match="does not fit its maps") as caught:
        build("ssd", CLASSES, size=[120, 300])
    proposed = json.loads(str(caught.value).partition("; ")[2].removesuffix(" does"))
    with torch.device("meta"):
        assert build("ssd", CLASSES, size=proposed).size == tuple(proposed)
