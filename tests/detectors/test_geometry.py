"""Channel counts as plain data, and a network resized to them."""

import copy
import json

import pytest
import torch
from torch import nn

from detectors.errors import CheckpointError
from detectors.geometry import apply_geometry, geometry_of, resized
from detectors.models import build
from detectors.models.layers import L2Norm


def layers(widths=(8, 16, 4), groups=2) -> nn.Module:
    a, b, c = widths
    return nn.ModuleDict(
        {
            "conv": nn.Conv2d(3, a, 3),
            "bn": nn.BatchNorm2d(a),
            "grouped": nn.Conv2d(a, b, 1, groups=groups, bias=False),
            "norm": L2Norm(b, 20),
            "up": nn.ConvTranspose2d(b, c, 2, stride=2),
            "gn": nn.GroupNorm(2, c),
            "act": nn.ReLU(),
            "linear": nn.Linear(c, 5),
        }
    )


def test_geometry_is_the_channel_counts_of_layers_that_have_some():
    geometry = geometry_of(layers())
    assert geometry == {
        "conv": {"in": 3, "out": 8, "groups": 1},
        "bn": {"channels": 8},
        "grouped": {"in": 8, "out": 16, "groups": 2},
        "norm": {"channels": 16},
        "up": {"in": 16, "out": 4, "groups": 1},
        "gn": {"channels": 4, "groups": 2},
        "linear": {"in": 4, "out": 5},
    }
    assert json.loads(json.dumps(geometry)) == geometry


def test_a_resized_network_takes_the_weights_of_one_built_so():
    full, slim = layers(), layers((6, 10, 2), groups=2)
    apply_geometry(full, geometry_of(slim))
    full.load_state_dict(slim.state_dict(), strict=True)
    assert geometry_of(full) == geometry_of(slim)
    image = torch.rand(2, 3, 5, 5)

    def run(net):
        x = net["gn"](net["up"](net["norm"](net["grouped"](net["bn"](net["conv"](image))))))
        return net["linear"](x.mean(dim=(2, 3)))

    assert torch.equal(run(full.eval()), run(slim.eval()))


def test_resizing_keeps_type_and_what_is_frozen():
    net = layers().double()
    net["conv"].weight.requires_grad_(False)
    apply_geometry(net, {"conv": {"in": 3, "out": 6, "groups": 1}, "bn": {"channels": 6}})
    assert net["conv"].weight.dtype == net["bn"].running_var.dtype == torch.float64
    assert (net["conv"].weight.requires_grad, net["conv"].bias.requires_grad) == (False, True)
    assert net["grouped"].bias is None
    assert isinstance(net["bn"].running_mean, torch.Tensor)
    assert not isinstance(net["bn"].running_mean, nn.Parameter)


def test_only_what_differs_is_remembered():
    full, slim = geometry_of(layers()), geometry_of(layers((6, 16, 4)))
    assert resized(full, full) == {}
    assert resized(full, slim).keys() == {"conv", "bn", "grouped"}
    net = layers()
    apply_geometry(net, resized(full, slim))
    assert geometry_of(net) == slim


def test_a_detectors_own_geometry_changes_nothing():
    detector = build("ssd_vgg16_bn", ("cat",), size=[64, 64], width=0.0625)
    before = copy.deepcopy(detector.state_dict())
    apply_geometry(detector, geometry_of(detector))
    assert {k: v.shape for k, v in detector.state_dict().items()} == {k: v.shape for k, v in before.items()}


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("cnov", {"channels": 4}, "resizes the layer 'cnov', which this detector does not have"),
        ("conv.deeper", {"channels": 4}, "resizes the layer 'conv.deeper'"),
        ("conv", {"channels": 4}, "resizes 'conv' by {'channels': 4}, but here that is a Conv2d"),
        ("bn", {"in": 3, "out": 4, "groups": 1}, "here that is a BatchNorm2d"),
        ("act", {"channels": 4}, "here that is a ReLU"),
        ("conv", {"in": -3, "out": 8, "groups": 1}, "conv"),
        ("bn", {"channels": -1}, "bn"),
        ("grouped", {"in": 9, "out": 16, "groups": 2}, "grouped"),
        ("grouped", {"in": 8, "out": 16, "groups": 0}, "grouped"),
        ("conv", {"in": "3", "out": 8, "groups": 1}, "conv"),
    ],
)
def test_what_a_layer_cannot_take_is_refused(name, shape, message):
    with pytest.raises(CheckpointError, match=message):
        apply_geometry(layers(), {name: shape})
