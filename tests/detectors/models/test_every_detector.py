"""What every registered detector promises: the verbs, cutting with proof, slim files, counted costs."""

import copy
import math
from functools import cache

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import compress
import detectors
from compress.cost import cost_of, subject
from compress.distill import distillation
from compress.export import LARGEST, Dense, export
from compress.recalibrate import batch_norm_statistics
from compress.recipe import DistillConfig
from detectors.engine.terms import watched
from detectors.models import DETECTORS, build
from detectors.types import Target

CLASSES = ("cat", "dog")
# Options that make a detector small; those of a published network, which has none, are its own.
SMALL = {
    "ssd300_vgg16": {},
    "ssd512_vgg16": {},
    "ssd_vgg16_bn": {"size": [64, 96], "width": 0.0625},
    "ssd": {"backbone": "resnet18", "width": 0.0625},
    "ssd_lite": {"width": 0.25},
    "rfb": {"width": 0.125},
    "rfb_lite": {"width": 0.25},
    "fssd": {"width": 0.125},
    "fssd_lite": {"width": 0.25},
    "yolo_v2": {"width": 0.0625, "size": [96, 128]},
    "yolo_v3": {"width": 0.0625, "size": [96, 128], "loss": "yolo"},
    "refinedet": {"width": 0.0625, "size": [64, 128]},
    "refinedet320_vgg16": {},
    "refinedet512_vgg16": {},
    "torchvision_ssd300_vgg16": {"size": [300, 300]},
    "torchvision_ssdlite320_mobilenet_v3_large": {"size": [64, 96]},
    "torchvision_retinanet_resnet50_fpn": {"size": [64, 96]},
    "torchvision_retinanet_resnet50_fpn_v2": {"size": [64, 96]},
    "torchvision_fcos_resnet50_fpn": {"size": [64, 96]},
    "torchvision_fasterrcnn_resnet50_fpn": {"size": [64, 96], "proposals": 4},
    "torchvision_fasterrcnn_mobilenet_v3_large_320_fpn": {"size": [64, 96], "proposals": 4},
}


# Of networks that cannot be made small, the larger of two sizes is built and counted, but not run; and those
# that another one stands for, by the same code, find objects here, but are neither trained nor cut.
LARGE = {"ssd512_vgg16", "refinedet512_vgg16"}
HAVE_A_STAND_IN = {
    "ssd300_vgg16",
    "refinedet320_vgg16",
    "torchvision_ssd300_vgg16",
    "torchvision_retinanet_resnet50_fpn",
    "torchvision_fasterrcnn_resnet50_fpn",
}

each_small_one = pytest.mark.parametrize("kind", sorted({*DETECTORS.names()} - LARGE - HAVE_A_STAND_IN))


@pytest.fixture(params=DETECTORS.names())
def name(request) -> str:
    return request.param


@pytest.fixture(params=[name for name in DETECTORS.names() if name not in LARGE])
def runnable(request) -> str:
    return request.param


@cache
def _built(name: str):
    torch.manual_seed(0)
    return build(name, CLASSES, **SMALL[name])


def small(name: str):
    """A copy, which takes less time than initial weights."""
    made = copy.deepcopy(_built(name))
    torch.manual_seed(0)
    return made


def test_every_name_has_a_small_form_here():
    assert sorted(SMALL) == DETECTORS.names()


def test_it_is_listed_with_a_line(name):
    line = DETECTORS.described()[name]
    assert 20 < len(line) < 110


@each_small_one
def test_it_learns_from_labelled_and_from_empty_images(kind):
    detector = small(kind).train()
    height, width = detector.size
    box = [0.1 * width, 0.2 * height, 0.8 * width, 0.9 * height]
    for targets in ([Target.of([box], [1]), Target.of([], [])], [Target.of([], [])] * 2):
        losses = detector.losses(torch.rand(2, 3, height, width), targets)
        total = sum(losses.values())
        assert all(math.isfinite(value.item()) for value in losses.values())
        if total.requires_grad:
            detector.zero_grad()
            total.backward()
            gradients = [p.grad for p in detector.parameters() if p.grad is not None]
            assert all(bool(torch.isfinite(g).all()) for g in gradients)


def test_it_finds_objects_inside_of_the_image(runnable):
    found = small(runnable).predict(torch.rand(3, 50, 70))
    assert found.boxes.shape == (len(found), 4)
    assert ((found.boxes >= 0) & (found.boxes <= torch.tensor([70, 50, 70, 50]))).all()
    assert set(found.labels.tolist()) <= {0, 1}
    assert ((found.scores >= 0) & (found.scores <= 1)).all()


def test_its_cost_is_what_torch_counts(name):
    with torch.device("meta"):
        detector = build(name, CLASSES, **SMALL[name])
        network, inputs = subject(detector)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network.eval()(inputs)
    cost = cost_of(detector)
    assert counter.get_total_flops() == 2 * cost.macs
    assert cost.params == sum(p.numel() for p in network.parameters())


@each_small_one
def test_it_is_cut_with_proof_and_its_slim_file_comes_back(kind, tmp_path):
    full = small(kind)
    slim = compress.prune(full, ratio=0.3, multiple=1, floor=0.0)
    assert cost_of(slim).macs < 0.8 * cost_of(full).macs
    detectors.save(slim, tmp_path / "slim.pth")
    again = detectors.load(tmp_path / "slim.pth")
    assert cost_of(again) == cost_of(slim)
    assert [p.shape for p in again.state_dict().values()] == [p.shape for p in slim.state_dict().values()]
    image = torch.rand(3, 40, 40)
    ours, theirs = slim.predict(image), again.predict(image)
    assert torch.equal(ours.boxes, theirs.boxes)
    assert torch.equal(ours.scores, theirs.scores)


# One for each kind of head; the exporter takes a dozen seconds for the largest guests.
EXPORTED = ("ssd_vgg16_bn", "fssd", "yolo_v2", "refinedet", "torchvision_ssd300_vgg16")


@pytest.mark.parametrize("kind", EXPORTED)
def test_its_cut_form_gives_the_same_maps_in_onnxruntime(kind, tmp_path):
    slim = compress.prune(small(kind), ratio=0.3, multiple=1, floor=0.0)
    images = torch.rand(1, 3, *slim.size)
    assert export(Dense(slim), images, tmp_path / "slim.onnx") < LARGEST
    assert (tmp_path / "slim.onnx").stat().st_size > cost_of(slim).params * 4


# One for each way of saying what is comparable.
TEACHERS = (
    "ssd_vgg16_bn",
    "yolo_v2",
    "refinedet",
    "torchvision_ssdlite320_mobilenet_v3_large",
    "torchvision_fcos_resnet50_fpn",
    "torchvision_fasterrcnn_mobilenet_v3_large_320_fpn",
)


@pytest.mark.parametrize("kind", TEACHERS)
def test_it_teaches_itself_nothing_and_its_cut_form_something(kind):
    full = small(kind)
    images = torch.rand(2, 3, *full.size)
    batch_norm_statistics(full, [images])
    slim = compress.prune(full.eval(), ratio=0.3, multiple=1, floor=0.0)
    two_stage = "fasterrcnn" in kind
    how = DistillConfig(predictions=0.0 if two_stage else 1.0, attention=1.0)
    term = distillation(slim, full, how, source="the full one", channels_last=False)
    found = []
    for student in (full, slim.train()):
        with watched(student, term.layers) as seen:
            student.losses(images, [Target.of([[5, 5, 40, 40]], [1]), Target.of([], [])])
            found.append(term(student, images, seen))
    names = {"teacher_attention"} | (set() if two_stage else {"teacher_classes", "teacher_boxes"})
    assert [one.keys() for one in found] == [names, names]
    assert all(value.item() == 0 for value in found[0].values())
    assert all(value.dtype == torch.float32 and 0 < value.item() < math.inf for value in found[1].values())
    sum(found[1].values()).backward()
    gradients = [p.grad for p in slim.parameters() if p.grad is not None]
    assert gradients
    assert all(bool(g.isfinite().all()) for g in gradients)
