"""RefineDet: shapes over every backbone, bad options, pruning, files."""

import pytest
import torch
from torch import nn

import compress
import detectors
from compress.cost import cost_of
from detectors.errors import ConfigError
from detectors.models import build
from detectors.models.backbones.resnet import Bottleneck
from detectors.models.base import Detector
from detectors.types import Outputs, RefineOutputs, Target

NARROW = 0.0625
CLASSES = ("cat", "dog", "owl")
BACKBONES = ("vgg16", "vgg16_bn", "resnet50", "resnet101")


def tiny(size=(64, 64), classes=CLASSES, seed=0, **options) -> Detector:
    torch.manual_seed(seed)
    return build("refinedet", classes, size=list(size), **{"width": NARROW, **options})


def raw(detector: Detector, images: torch.Tensor):
    with torch.no_grad():
        return detector.eval()(images)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("size", [(64, 64), (64, 128), (192, 128)])
def test_every_map_of_any_size_has_its_anchors(backbone, size):
    detector = tiny(size, backbone=backbone).eval()
    images = torch.rand(2, 3, *size)
    with torch.no_grad():
        maps, outputs = detector.dense(images), detector(images)
    height, width = size
    wanted = [(height // step, width // step) for step in (8, 16, 32, 64)]
    assert [tuple(level[0].shape[2:]) for level in maps] == wanted
    assert [[tensor.shape[1] for tensor in level] for level in maps] == [[12, 12, 6, 12]] * 4
    anchors = 3 * sum(h * w for h, w in wanted)
    assert detector.anchors.shape == (anchors, 4)
    assert isinstance(outputs, RefineOutputs)
    assert [tuple(t.shape) for t in outputs] == [(2, anchors, columns) for columns in (2, 4, 4, 4)]
    assert all(torch.isfinite(t).all() for t in outputs)


def test_rows_of_the_outputs_follow_the_anchors():
    detector = tiny((64, 128))
    maps = detector.dense(torch.rand(1, 3, 64, 128))
    outputs = detector.outputs(maps)
    # The third anchor of the cell in row 3, column 5 of the first map, which has 16 columns.
    row = (3 * 16 + 5) * 3 + 2
    logits, deltas, arm_logits, arm_deltas = (tensor[0, :, 3, 5] for tensor in maps[0])
    assert torch.equal(outputs.logits[0, row], logits[8:12])
    assert torch.equal(outputs.deltas[0, row], deltas[8:12])
    assert torch.equal(outputs.arm_logits[0, row], arm_logits[4:6])
    assert torch.equal(outputs.arm_deltas[0, row], arm_deltas[8:12])
    assert torch.allclose(detector.anchors[row, :2], torch.tensor([5.5 / 16, 3.5 / 8]), atol=1e-6)


def test_anchors_are_four_cells_wide_and_cut_to_the_image_where_asked():
    sides = {clip: tiny((128, 128), clip=clip).anchors[:, 2:] for clip in (True, False)}
    assert sides[False][0].tolist() == pytest.approx([32 / 128] * 2)
    assert sides[False][1].tolist() == pytest.approx([32 / 128 * 2**0.5, 32 / 128 / 2**0.5])
    assert sides[False][-3].tolist() == pytest.approx([2.0, 2.0])
    assert torch.equal(sides[True], sides[False].clamp(max=1))
    own = tiny((128, 128), sizes=[16, 32, 64, 100], aspect_ratios=[2, 3], clip=False)
    assert len(own.anchors) == 5 * (16**2 + 8**2 + 4**2 + 2**2)
    assert own.anchors[0, 2:].tolist() == pytest.approx([16 / 128] * 2)


def test_a_resnet_is_tapped_where_caffe_taps_it():
    with torch.device("meta"):
        network = build("refinedet", CLASSES, backbone="resnet101").network
    assert network.backbone.depths == (512, 1024, 2048)
    assert [conv.in_channels for conv in network.arm_loc] == [512, 1024, 2048, 512]
    # res6: 128, 128 and 512 channels, halving; no L2Norm.
    (res6,) = network.extras
    assert (res6.conv1.out_channels, res6.conv3.out_channels, res6.conv2.stride) == (128, 512, (2, 2))
    assert not any(key.startswith("conv") for key in network.state_dict())


@pytest.mark.parametrize("backbone", ["resnet50", "resnet101"])
def test_each_tap_is_the_last_block_of_its_stage(backbone):
    trunk = tiny(backbone=backbone).network.backbone
    blocks = [(index, layer) for index, layer in enumerate(trunk.features) if isinstance(layer, Bottleneck)]
    halving = [index for index, block in blocks if block.conv2.stride == (2, 2)]
    assert trunk.taps == (halving[1] - 1, halving[2] - 1, len(trunk.features) - 1)
    assert len(halving) == 3
    assert len(trunk.features) - halving[2] == 3


@pytest.mark.parametrize("backbone", ["vgg16_bn", "resnet50"])
def test_with_batch_norm_every_convolution_but_the_heads_has_one(backbone):
    network = tiny(backbone=backbone).network
    heads = {
        id(conv) for name in ("arm_loc", "arm_conf", "odm_loc", "odm_conf") for conv in getattr(network, name)
    }
    convs = [
        m for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d) and id(m) not in heads
    ]
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(conv.bias is None for conv in convs)
    assert [norm.num_features for norm in norms] == [conv.out_channels for conv in convs]


def test_the_top_block_can_do_without_its_last_two_relus():
    with_relu, without = (tiny(top_relu=relu) for relu in (True, False))
    assert with_relu.state_dict().keys() == without.state_dict().keys()
    images = torch.rand(1, 3, 64, 64)
    seen: dict[bool, torch.Tensor] = {}
    for relu, detector in ((True, with_relu), (False, without)):
        detector.network.odm_loc[3].register_forward_pre_hook(
            lambda _, x, relu=relu: seen.update({relu: x[0]})
        )
        raw(detector, images)
    assert seen[True].min() >= 0
    assert seen[False].min() < 0


def test_without_the_first_step_it_is_a_detector_of_one_step():
    detector = tiny(arm=False)
    outputs = detector(torch.rand(2, 3, 64, 64))
    assert type(outputs) is Outputs
    assert not any(key.startswith("network.arm") for key in detector.state_dict())
    assert detector.loss(outputs, [Target.of([[0, 0, 40, 40]], [1])] * 2).keys() == {"classes", "boxes"}
    assert len(detector.detect(outputs, [(64, 64)] * 2)) == 2


def test_without_transfer_connection_blocks_both_steps_read_the_same_maps():
    detector = tiny(tcb=False)
    assert not any("tcb" in key for key in detector.state_dict())
    assert [conv.in_channels for conv in detector.network.odm_loc] == [
        conv.in_channels for conv in detector.network.arm_loc
    ]
    assert isinstance(detector(torch.rand(1, 3, 64, 64)), RefineOutputs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"size": [300, 300]},
            r"size=\[300, 300\] does not fit maps that are halved and doubled again; multiples of 64 do, "
            r"such as \[320, 320\]",
        ),
        ({"size": [64, 0]}, r"such as \[64, 64\]"),
        ({"size": [64]}, r"size=\[64\] does not fit; it takes tuple\[int, int\]"),
        ({"width": 0}, "refinedet: width=0 is not between 0 and 4"),
        ({"backbone": "resnet102"}, "cannot stand on backbone 'resnet102'; did you mean resnet101"),
        ({"backbone": "mobilenet_v1"}, "known: resnet101, resnet50, vgg16, vgg16_bn"),
        ({"dilation": 0}, "dilation=0 is not 1 or more"),
        ({"backbone": "resnet50", "dilation": 6}, "dilation=6 is of VGG's fc6, which resnet50 does not have"),
        ({"sizes": [8, 16, 32]}, r"sizes=\[8, 16, 32\] does not fit"),
        ({"sizes": [0, 16, 32, 64]}, r"sizes=\[0, 16, 32, 64\] and aspect_ratios=\[2.0\] must be above 0"),
        ({"aspect_ratios": [-1]}, r"aspect_ratios=\[-1\] must be above 0"),
        ({"top_relu": 1}, "top_relu=1 does not fit"),
        ({"colours": "grey"}, "colours='grey' does not fit"),
    ],
)
def test_an_option_that_does_not_fit_is_one_clear_error(options, message):
    with pytest.raises(ConfigError, match=message):
        tiny(**options)


def test_the_published_detectors_have_no_options():
    with pytest.raises(ConfigError, match="refinedet320_vgg16 has no option 'size'; it has no options"):
        build("refinedet320_vgg16", CLASSES, size=[64, 64])


def test_forward_means_the_same_in_training_and_evaluation():
    detector = tiny()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        training, evaluating = detector.train()(images), detector.eval()(images)
    assert all(torch.equal(a, b) for a, b in zip(training, evaluating, strict=True))


def shaken(detector: Detector) -> Detector:
    """The same with random statistics and shifts in every batch norm, so that a wrong cut shows."""
    for norm in detector.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor, low in (
                (norm.weight, 0.5),
                (norm.bias, -0.5),
                (norm.running_mean, -0.5),
                (norm.running_var, 0.5),
            ):
                nn.init.uniform_(tensor, low, low + 1)
    return detector.eval()


@pytest.mark.parametrize("backbone", ["vgg16", "vgg16_bn", "resnet50"])
def test_a_pruned_detector_comes_back_from_its_file(backbone, tmp_path):
    detector = shaken(tiny(backbone=backbone, width=0.25 if backbone == "vgg16" else 0.125))
    slim = compress.prune(detector, ratio=0.3)
    assert cost_of(slim).params < 0.75 * cost_of(detector).params
    # Both steps keep reading the same maps, and the coarser maps are still added to the finer ones.
    network = slim.network
    for level in range(3):
        lifted, lateral = network.tcb1[level], network.tcb0[3 * level + 2]
        first = next(m for m in lifted.modules() if isinstance(m, nn.ConvTranspose2d))
        second = next(m for m in lateral.modules() if isinstance(m, nn.Conv2d))
        assert first.out_channels == second.out_channels < detector.network.odm_loc[0].in_channels
    detectors.save(slim, tmp_path / "slim.pth")
    again = detectors.load(tmp_path / "slim.pth")
    images = torch.rand(1, 3, 64, 64)
    assert all(torch.equal(a, b) for a, b in zip(raw(again, images), raw(slim, images), strict=True))


@pytest.mark.parametrize("options", [{"arm": False}, {"tcb": False}, {"top_relu": False}])
def test_every_form_can_be_pruned(options):
    detector = tiny(width=0.25, **options).eval()
    slim = compress.prune(detector, ratio=0.5)
    assert cost_of(slim).macs < 0.5 * cost_of(detector).macs


@pytest.mark.parametrize("name", ["refinedet320_vgg16", "refinedet512_vgg16"])
def test_the_published_detectors_are_built_without_memory(name):
    with torch.device("meta"):
        detector = build(name, CLASSES)
    assert all(p.is_meta for p in detector.parameters())
    assert detector.size == ((320, 320) if "320" in name else (512, 512))
