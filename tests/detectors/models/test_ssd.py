"""SSD over VGG16: shapes for any size, bad options, one meaning of forward, and prediction."""

import pytest
import torch

from detectors.errors import ConfigError
from detectors.models import DETECTORS, build
from detectors.types import Outputs, Target

NARROW = 0.0625
CLASSES = ("cat", "dog", "owl")


def tiny(size=(64, 64), **options):
    torch.manual_seed(0)
    return build("ssd_vgg16_bn", CLASSES, size=list(size), width=NARROW, **options)


@pytest.mark.parametrize(
    ("size", "maps"),
    [
        ((64, 64), [(8, 8), (4, 4), (2, 2)]),
        ((64, 200), [(8, 25), (4, 12), (2, 6)]),
        ((96, 160), [(12, 20), (6, 10), (3, 5), (2, 3)]),
        ((131, 90), [(16, 11), (8, 5), (4, 3), (2, 2)]),
        ((300, 300), [(38, 38), (19, 19), (10, 10), (5, 5), (3, 3), (2, 2)]),
    ],
)
def test_every_map_of_any_size_has_its_anchors(size, maps):
    detector = tiny(size)
    images = torch.rand(2, 3, *size)
    with torch.no_grad():
        found, outputs = detector.dense(images), detector(images)
    assert [tuple(logits.shape[2:]) for logits, _ in found] == maps
    anchors = 6 * sum(height * width for height, width in maps)
    assert detector.anchors.shape == (anchors, 4)
    assert isinstance(outputs, Outputs)
    assert outputs.logits.shape == (2, anchors, 4)
    assert outputs.deltas.shape == (2, anchors, 4)
    assert all(torch.isfinite(t).all() for t in outputs)


def test_rows_of_the_outputs_follow_the_anchors():
    detector = tiny((64, 96))
    maps = detector.dense(torch.rand(1, 3, 64, 96))
    logits, deltas = detector.outputs(maps)
    # The second anchor of the cell in row 3, column 5 of the first map, which has 12 columns.
    row = (3 * 12 + 5) * 6 + 1
    assert torch.equal(logits[0, row], maps[0][0][0, 4:8, 3, 5])
    assert torch.equal(deltas[0, row], maps[0][1][0, 4:8, 3, 5])
    centre = torch.tensor([5.5 / 12, 3.5 / 8])
    assert torch.allclose(detector.anchors[row, :2], centre, atol=1e-6)


@pytest.mark.parametrize("width", [0.01, 0.0625, 0.125, 0.3])
def test_width_scales_every_layer_in_steps_of_eight(width):
    network = build("ssd_vgg16_bn", CLASSES, size=[64, 64], width=width).network
    heads = {id(conv) for conv in [*network.loc, *network.conf]}
    widths = [
        m.out_channels for m in network.modules() if isinstance(m, torch.nn.Conv2d) and id(m) not in heads
    ]
    full = [64, 64, 128, 128, 256, 256, 256, *[512] * 6, 1024, 1024, 256, 512]
    assert widths == [max(8, round(n * width / 8) * 8) for n in full]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": [63, 64]}, r"size=\[63, 64\] is not \[height, width\] of at least 64 pixels each"),
        ({"size": [64]}, r"size=\[64\] does not fit; it takes tuple\[int, int\]"),
        ({"size": [64.5, 64]}, r"size=\[64.5, 64\] does not fit; it takes tuple\[int, int\]"),
        ({"width": 0}, "width=0 is not between 0 and 4"),
        ({"width": 5}, "width=5 is not between 0 and 4"),
        ({"scales": [0.5]}, r"scales=\[0.5\] does not fit; it takes tuple\[float, float\]"),
        ({"scales": [0.5, 0.2]}, r"scales=\[0.5, 0.2\] is not"),
        ({"scales": [0, 0.2]}, r"scales=\[0, 0.2\] is not"),
        ({"widht": 0.5}, "ssd_vgg16_bn has no option 'widht'; did you mean width"),
        ({"colour": "red"}, "no option .colour.; known: aspect_ratios, dilation, match_iou, neg"),
    ],
)
def test_an_option_that_does_not_fit_is_one_clear_error(options, message):
    with pytest.raises(ConfigError, match=message):
        build("ssd_vgg16_bn", CLASSES, **{"size": [64, 64], "width": NARROW, **options})


# A recipe's detector.options is free YAML, so every kind of value may come.
@pytest.mark.parametrize(
    "options",
    [
        {"size": 300},
        {"width": "wide"},
        {"scales": 0.5},
        {"scales": ["1e-1", 0.8]},
        {"dilation": 0},
        {"dilation": 1.5},
        {"match_iou": 0},
        {"match_iou": 1.5},
        {"negatives": 0},
        {"aspect_ratios": 2.0},
        {"aspect_ratios": [0]},
        {"aspect_ratios": [-2.0]},
        {"aspect_ratios": ["2:1"]},
    ],
)
def test_an_option_of_another_type_is_a_config_error_too(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        build("ssd_vgg16_bn", CLASSES, **{"size": [64, 64], "width": NARROW, **options})


@pytest.mark.parametrize(
    ("name", "classes", "options", "message"),
    [
        (
            "ssd300_vgg16",
            ("a",),
            {"anchors": "kitti"},
            r"anchors='kitti' does not fit; it takes Literal\['voc', 'coco'\]",
        ),
        ("ssd300_vgg16", ("a",), {"size": [300, 300]}, "ssd300_vgg16 has no option 'size'; known: anchors"),
        ("ssd300_vgg", ("a",), {}, "unknown detector 'ssd300_vgg'; did you mean ssd300_vgg16"),
        ("ssd_vgg16_bn", (), {}, r"ssd_vgg16_bn needs class names, each once; got \[\]"),
        ("ssd_vgg16_bn", ("a", "b", "a"), {}, r"each once; got \['a', 'b', 'a'\]"),
    ],
)
def test_names_classes_and_options_are_checked(name, classes, options, message):
    with pytest.raises(ConfigError, match=message):
        build(name, classes, **options)


def test_every_detector_says_in_one_line_what_it_is():
    described = DETECTORS.described()
    assert {"ssd300_vgg16", "ssd512_vgg16", "ssd_vgg16_bn"} <= described.keys()
    assert all(line.startswith("SSD") for name, line in described.items() if name.startswith("ssd"))


def test_forward_means_the_same_in_training_and_evaluation():
    detector = build("ssd300_vgg16", ("cat",))
    images = torch.rand(1, 3, 300, 300)
    with torch.no_grad():
        training, evaluating = detector.train()(images), detector.eval()(images)
    assert torch.equal(training.logits, evaluating.logits)
    assert torch.equal(training.deltas, evaluating.deltas)


def test_loss_takes_boxes_in_pixels_of_the_input():
    detector = tiny((64, 128))
    outputs = detector(torch.rand(1, 3, 64, 128))
    # The very box of one anchor, in pixels, where every delta should be 0.
    centre, side = detector.anchors[300, :2], detector.anchors[300, 2:]
    box = torch.cat([centre - side / 2, centre + side / 2]) * torch.tensor([128.0, 64, 128, 64])
    exact = Outputs(outputs.logits, torch.zeros_like(outputs.deltas).requires_grad_())
    terms = detector.loss(exact, [Target.of(box[None], [1])])
    assert set(terms) == {"classes", "boxes"}
    terms["boxes"].backward()
    assert exact.deltas.grad[0, 300].abs().max() < 1e-5
    again = detector.losses(torch.rand(1, 3, 64, 128), [Target.of(box[None], [1])])
    assert all(term.requires_grad and torch.isfinite(term) for term in again.values())


def test_a_lower_overlap_trains_more_anchors_for_an_object():
    strict, lax = (
        build("ssd_vgg16_bn", CLASSES, size=[64, 64], width=NARROW, match_iou=match_iou).train()
        for match_iou in (0.5, 0.2)
    )
    lax.load_state_dict(strict.state_dict())
    images, targets = torch.rand(1, 3, 64, 64), [Target.of([[10, 12, 30, 34]], [0])]
    with torch.no_grad():
        outputs = strict(images)
    assert strict.loss(outputs, targets)["boxes"] != lax.loss(outputs, targets)["boxes"]
    lax.match_iou, lax.negatives = 0.5, 6.0
    assert strict.loss(outputs, targets)["classes"] < lax.loss(outputs, targets)["classes"]
    lax.negatives = 3.0
    assert strict.loss(outputs, targets)["classes"] == lax.loss(outputs, targets)["classes"]
    assert strict.loss(outputs, targets)["boxes"] == lax.loss(outputs, targets)["boxes"]
