"""YOLOv2 and YOLOv3: maps for any size, both losses, options that do not fit, pruning, files."""

import copy

import pytest
import torch

import compress
import detectors
from compress.cost import cost_of
from detectors.boxes import iou
from detectors.errors import ConfigError
from detectors.losses.yolo import encode
from detectors.models import build
from detectors.models.yolo import YoloDetector
from detectors.types import Outputs, Target

CLASSES = ("cat", "dog")
BACKBONES = ("darknet19", "darknet53", "mobilenet_v1", "mobilenet_v2")
NAMES = ("yolo_v2", "yolo_v3")


def tiny(name, size=(64, 96), classes=CLASSES, **options):
    torch.manual_seed(0)
    return build(name, classes, **{"backbone": "mobilenet_v1", "size": list(size), "width": 0.125, **options})


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("loss", ["ssd", "yolo"])
@pytest.mark.parametrize(
    ("name", "maps", "per_cell"), [("yolo_v2", [(2, 3)], 5), ("yolo_v3", [(2, 3), (4, 6), (8, 12)], 3)]
)
def test_every_map_has_its_anchors_whatever_the_backbone_and_loss(name, maps, per_cell, backbone, loss):
    detector = tiny(name, backbone=backbone, loss=loss).eval()
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        found, outputs = detector.dense(images), detector(images)
    assert [tuple(logits.shape) for logits, _ in found] == [(2, per_cell * 3, h, w) for h, w in maps]
    assert [tuple(deltas.shape) for _, deltas in found] == [(2, per_cell * 4, h, w) for h, w in maps]
    anchors = per_cell * sum(h * w for h, w in maps)
    assert (outputs.logits.shape, outputs.deltas.shape) == ((2, anchors, 3), (2, anchors, 4))
    assert detector.anchors.shape == (anchors, 4)


def test_version_3_takes_any_size_and_version_2_names_one_that_fits():
    assert [tuple(m.shape[2:]) for m, _ in tiny("yolo_v3", (50, 75)).eval().dense(torch.rand(1, 3, 50, 75))]
    with pytest.raises(ConfigError, match=r"yolo_v2: size=\[70, 75\] does not fit its maps; \[96, 96\] does"):
        tiny("yolo_v2", (70, 75))


def test_anchors_are_shares_of_the_image():
    detector = tiny("yolo_v2", anchors=[[[0.5, 0.25], [0.1, 0.9]]])
    pixels = detector.anchors[:2, 2:] * torch.tensor([96.0, 64])
    assert torch.allclose(pixels, torch.tensor([[48.0, 16], [9.6, 57.6]]))
    assert detector.dense(torch.rand(2, 3, 64, 96))[0][1].shape[1] == 2 * 4


def test_layers_and_depths_can_be_chosen():
    two = tiny(
        "yolo_v3", layers=[["B"], [5, "B"]], depths=[[128], [64, 96]], anchors=[[[0.5, 0.5]], [[0.1, 0.2]]]
    )
    assert [m.shape[1:] for m, _ in two.dense(torch.rand(2, 3, 64, 96))] == [(3, 2, 3), (3, 8, 12)]
    plain = tiny("yolo_v2", layers=[["", ""]], depths=[[64, 128]])
    assert [m.in_channels for m in plain.network.loc] == [16]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("yolo_v2", {"backbone": "vgg16"}, "yolo_v2 cannot stand on backbone 'vgg16'"),
        ("yolo_v3", {"width": 0}, "yolo_v3: width=0 is not between 0 and 4"),
        ("yolo_v2", {"loss": "focal"}, r"loss='focal' does not fit; it takes Literal\['ssd', 'yolo'\]"),
        ("yolo_v2", {"layers": [["B"]], "depths": [[64]]}, r"layers=\[\['B'\]\] must be one row of ''"),
        ("yolo_v2", {"layers": [[""], [""]], "depths": [[64], [64]]}, "must be one row of ''"),
        ("yolo_v2", {"layers": [["", 11]]}, r"layers=\[\['', 11\]\] and depths=.* one entry for each block"),
        ("yolo_v2", {"layers": [["", 99]], "depths": [[64, 64]]}, "99.* are not ascending indices"),
        (
            "yolo_v3",
            {"layers": [], "depths": []},
            r"layers=\[\] must be rows of 'B', all but the first one led",
        ),
        ("yolo_v3", {"layers": [["B"], ["B"]], "depths": [[64], [64]]}, "all but the first one led by"),
        ("yolo_v3", {"layers": [["B"], [5, ""]], "depths": [[64], [64, 64]]}, "must be rows of 'B'"),
        ("yolo_v3", {"layers": [["B"], []], "depths": [[64], []]}, "must be rows of 'B'"),
        ("yolo_v3", {"layers": [[5, "B"]], "depths": [[64, 64]]}, "all but the first one led by"),
        ("yolo_v3", {"layers": [["B", 5]], "depths": [[64, 64]]}, "must be rows of 'B'"),
        ("yolo_v2", {"layers": [[]], "depths": [[]]}, "must be one row of ''"),
        ("yolo_v2", {"layers": [], "depths": []}, "must be one row of ''"),
        ("yolo_v3", {"depths": [[1024]]}, "one entry for each block"),
        ("yolo_v2", {"depths": [[64, 64, 1, 64]]}, "must all be at least 2"),
        ("yolo_v3", {"anchors": [[[0.1, 0.1]]]}, "yolo_v3: anchors for 1 maps, but there are 3; give 3"),
        ("yolo_v2", {"anchors": [[[0.1, 0]]]}, r"anchors=\[\[\[0.1, 0\]\]\] must give each map"),
        (
            "yolo_v2",
            {"anchors": [[]]},
            r"anchors=\[\[\]\] must give each map \[width, height\] pairs above 0",
        ),
    ],
)
def test_an_option_that_does_not_fit_is_one_clear_error(name, options, message):
    with pytest.raises(ConfigError, match=message) as caught:
        tiny(name, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "prior"), [("yolo_v2", 0.1), ("yolo_v3", 0.01)])
def test_objectness_starts_at_its_prior(name, prior):
    for conf in tiny(name, loss="yolo").network.conf:
        bias = conf.bias.detach().reshape(-1, 3)
        assert torch.allclose(bias[:, 0].sigmoid(), torch.tensor(prior))
        assert (bias[:, 1:] == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_detections_are_objectness_times_class_in_pixels_of_the_original_image(name):
    detector = tiny(name, loss="yolo")
    assert isinstance(detector, YoloDetector)
    count = len(detector.anchors)
    logits, deltas = torch.full((1, count, 3), -20.0), torch.zeros(1, count, 4)
    row = 7
    box = torch.tensor([20.0, 10, 44, 40])
    shares = box / torch.tensor([96.0, 64, 96, 64])
    middle = detector.anchors[row, :2] - (shares[:2] + shares[2:]) / 2
    shares = shares + torch.cat([middle, middle])
    deltas[0, row] = encode(shares, detector.anchors[row], detector.cells[row])
    logits[0, row] = torch.tensor([2.0, -1.0, 1.0])
    found = detector.detect(Outputs(logits, deltas), [(128, 288)])[0]
    wanted = torch.tensor([-1.0, 1.0])
    wanted = torch.tensor(2.0).sigmoid() * (wanted.softmax(0) if name == "yolo_v2" else wanted.sigmoid())
    assert found.labels[:2].tolist() == [1, 0]
    assert torch.allclose(found.scores[:2], wanted.flip(0))
    pixels = (shares * torch.tensor([288.0, 128, 288, 128])).clamp(min=0)
    assert torch.allclose(found.boxes[0], pixels, atol=1e-3)


def scene():
    """Two images of bright rectangles, one of each class, and one image without any."""
    images = torch.full((3, 3, 64, 96), 0.2)
    boxes = [(8, 8, 40, 56), (50, 20, 90, 48)]
    for k, (x1, y1, x2, y2) in enumerate(boxes):
        images[k, k, y1:y2, x1:x2] = 1.0
    return images, [Target.of([box], [k]) for k, box in enumerate(boxes)] + [Target.of([], [])]


@pytest.mark.parametrize("name", NAMES)
def test_its_own_loss_learns_two_images_in_a_few_steps(name):
    detector = tiny(name, loss="yolo", width=0.25).train()
    images, targets = scene()
    optimiser = torch.optim.Adam(detector.parameters(), lr=2e-3)
    history = []
    for _ in range(50):
        terms = detector.losses(images, targets)
        total = sum(terms.values())
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        history.append(total.item())
    assert all(torch.isfinite(p.grad).all() for p in detector.parameters() if p.grad is not None)
    assert history[-1] < 0.1 * history[0]
    # In training mode: fifty steps do not settle the running statistics of batch norm.
    with torch.no_grad():
        found = detector.detect(detector(images), [(64, 96)] * 3)
    for one, target in zip(found[:2], targets, strict=False):
        assert one.labels[0] == target.labels[0]
        assert one.scores[0] > 0.4
        assert iou(one.boxes[:1], target.boxes)[0, 0] > 0.6
    assert all(score < 0.3 for score in found[2].scores)


@pytest.mark.parametrize("name", NAMES)
def test_one_class_is_enough(name):
    detector = tiny(name, classes=("cat",), loss="yolo")
    images, _ = scene()
    terms = detector.losses(images[:2], [Target.of([[8, 8, 40, 56]], [0]), Target.of([], [])])
    sum(terms.values()).backward()
    assert all(torch.isfinite(term) for term in terms.values())
    assert detector.eval().predict(images, [(64, 96)] * 3)[0].labels.unique().tolist() in ([], [0])


@pytest.mark.parametrize("name", NAMES)
def test_it_is_built_on_the_meta_device_with_the_same_keys_for_both_losses(name):
    with torch.device("meta"):
        ours, ssds = (tiny(name, loss=loss).network.state_dict() for loss in ("yolo", "ssd"))
    assert {key: value.shape for key, value in ours.items()} == {k: v.shape for k, v in ssds.items()}


@pytest.mark.parametrize("name", NAMES)
def test_the_default_loss_is_ssds(name):
    detector = tiny(name)
    assert not isinstance(detector, YoloDetector)
    images, targets = scene()
    assert set(detector.losses(images, targets)) == {"classes", "boxes"}


def shaken(detector):
    """With random batch norm, so that a wrongly cut channel is seen."""
    generator = torch.Generator().manual_seed(1)
    for module in detector.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor, low in (
                (module.weight, 0.5),
                (module.bias, -0.5),
                (module.running_mean, -0.5),
                (module.running_var, 0.5),
            ):
                tensor.data = torch.rand(tensor.shape, generator=generator) + low
    return detector.eval()


@pytest.mark.parametrize(
    ("name", "backbone", "loss"),
    [
        ("yolo_v2", "darknet19", "yolo"),
        ("yolo_v2", "mobilenet_v2", "ssd"),
        ("yolo_v3", "darknet53", "ssd"),
        ("yolo_v3", "mobilenet_v1", "yolo"),
    ],
)
def test_all_but_the_heads_is_pruned_proven_and_kept_in_a_file(name, backbone, loss, tmp_path):
    detector = shaken(tiny(name, backbone=backbone, loss=loss))
    before = copy.deepcopy(detector.state_dict())
    slim = compress.prune(detector, ratio=0.3, multiple=1)
    assert all(torch.equal(value, before[key]) for key, value in detector.state_dict().items())
    assert cost_of(slim).params < 0.6 * cost_of(detector).params
    heads = {id(m) for m in [*slim.network.loc, *slim.network.conf]}
    full = dict(detector.named_modules())
    for key, module in slim.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            narrower = module.out_channels < full[key].out_channels
            assert narrower != (id(module) in heads), key
    detectors.save(slim, tmp_path / "slim.pth")
    loaded = detectors.load(tmp_path / "slim.pth")
    images = torch.rand(1, 3, 64, 96)
    assert type(loaded) is type(detector)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(slim(images), loaded(images), strict=True))
    assert all(
        torch.isfinite(term) for term in slim.losses(images, [Target.of([[8, 8, 40, 56]], [0])]).values()
    )
