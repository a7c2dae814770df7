"""Networks that do what few do: other layers in training, tensors kept, methods of another meaning."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from structures import Between
from test_surgery import difference
from torch import Tensor, nn
from toys import inputs, made

import compress
from compress.cost import cost_of_layers, layers_of
from compress.graph import trace
from compress.probe import zeroed
from detectors.errors import PlanError
from detectors.geometry import apply_geometry, geometry_of


class Supervised(nn.Module):
    """In training an auxiliary head reads the body, behind a norm of single values; it may need targets."""

    def __init__(self, targets: bool = False) -> None:
        super().__init__()
        self.body, self.deep = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.norm, self.auxiliary = nn.BatchNorm2d(16), nn.Conv2d(16, 4, 1)
        self.head, self.targets = nn.Conv2d(16, 4, 1), targets

    def forward(self, x: Tensor, target: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        x = self.body(x).relu()
        made = self.head(self.deep(x).relu())
        if not self.training:
            return made
        early = self.auxiliary(self.norm(F.adaptive_avg_pool2d(x, 1)))
        if self.targets:
            assert target is not None
            early = early - target
        return made, early


def test_what_only_training_reaches_stays_whole_and_fits_what_it_reads() -> None:
    torch.manual_seed(0)
    model = Supervised().train()
    slim = compress.prune_module(model, inputs(), ratio=0.5, multiple=1)
    assert (slim.body.out_channels, slim.deep.out_channels) == (8, 8)
    assert (slim.norm.num_features, slim.auxiliary.in_channels, slim.auxiliary.out_channels) == (8, 8, 4)
    assert trace(model, inputs()).whole["auxiliary"] == "is not reached by the forward pass"
    assert [tuple(made.shape) for made in slim(torch.rand(2, 3, 16, 16))] == [(2, 4, 16, 16), (2, 4, 1, 1)]


def test_masked_is_slim_in_training_too() -> None:
    torch.manual_seed(0)
    model = Supervised().eval()
    graph = trace(model, inputs())
    slim = compress.prune_module(model, inputs(), ratio=0.5, multiple=1)
    kept = model.body.weight.flatten(1).abs().sum(1).sort(descending=True, stable=True).indices[:8]
    hidden = zeroed(model, graph.groups[:1], {"body": tuple(sorted(kept.tolist()))})
    body = torch.rand(2, 3, 16, 16)
    early = [m.train()(body)[1] for m in (hidden, slim)]
    torch.testing.assert_close(*early)


def test_where_training_needs_more_than_the_example_its_layers_stay_as_they_are() -> None:
    slim = compress.prune_module(Supervised(targets=True), inputs(), ratio=0.5, multiple=1)
    assert (slim.body.out_channels, slim.deep.out_channels) == (16, 8)
    assert slim.train()(torch.rand(2, 3, 16, 16), torch.zeros(()))[1].shape == (2, 4, 1, 1)


class ByWeight(nn.Module):
    """Runs a layer by its weights, or gives it its input by keyword."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3)
        self.c, self.head, self.way = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 2, 1), way

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        if self.way == "weights":
            x = F.conv2d(x, self.b.weight, self.b.bias)
        else:
            x = self.b(input=x) if self.way == "keyword" else self.b(x)
        made: Tensor = self.head(self.c(x.relu()).relu())
        return made


def test_a_layer_of_which_only_the_weights_are_used_stays_whole_because_nothing_sees_it_run() -> None:
    graph = trace(made(lambda: ByWeight("weights")), inputs())
    assert [group.name for group in graph.groups] == ["c"]
    assert graph.whole["b"] == "is not called as a module, only its weights are"


@pytest.mark.parametrize("criterion", ["taylor", "column_subset"])
def test_what_a_layer_is_given_by_keyword_is_seen(criterion: str) -> None:
    networks = [made(lambda way=way: ByWeight(way)) for way in ("keyword", "place")]

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        return model(batch).square().mean()

    batches = [torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))]
    one, other = (
        compress.prune_module(
            network, inputs(), ratio=0.5, multiple=1, criterion=criterion, loss=loss, batches=batches
        )
        for network in networks
    )
    assert one.b.in_channels == 8
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    taken = cost_of_layers(layers_of(networks[0], inputs()))
    assert taken == cost_of_layers(layers_of(networks[1], inputs()))


class Resizing(nn.Module):
    """A scale for each channel; its `resize` is of images, and `channels` may be those of levels."""

    def __init__(self, channels: int | list[int]) -> None:
        super().__init__()
        self.channels, self.scale = channels, nn.Parameter(torch.rand(16))

    def resize(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        return F.interpolate(x, size)

    def forward(self, x: Tensor) -> Tensor:
        return self.resize(x, (8, 8)) * self.scale[:, None, None]


@pytest.mark.parametrize("channels", [16, [8, 16]])
def test_a_resize_of_another_meaning_keeps_the_layer_whole(channels: int | list[int]) -> None:
    def build() -> nn.Module:
        return Between(nn.Sequential(Resizing(channels), nn.Conv2d(16, 16, 1), nn.ReLU())).eval()

    torch.manual_seed(0)
    model = build()
    assert "body" in trace(model, inputs()).whole
    slim = compress.prune_module(model, inputs(), ratio=0.5, multiple=1)
    assert (slim.body.out_channels, slim.middle[1].out_channels) == (16, 8)
    apply_geometry(fresh := build(), geometry_of(slim))
    fresh.load_state_dict(slim.state_dict())
    assert difference(slim, fresh, inputs()) == 0


@pytest.mark.filterwarnings("ignore:.*weight_norm")
def test_a_tensor_that_training_left_in_an_attribute_does_not_hinder_the_copies() -> None:
    class Remembers(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            self.seen = super().forward(x)
            return self.seen

    model = Between(nn.Sequential(Remembers(16, 16, 1), nn.utils.weight_norm(nn.Conv2d(16, 16, 1))))
    model(torch.rand(1, 3, 16, 16))
    graph = trace(model, inputs())
    assert [group.name for group in graph.groups] == ["body"]
    assert graph.whole["middle.1"] == "has a weight that is computed"
    assert compress.prune_module(model, inputs(), ratio=0.5, multiple=1).body.out_channels == 8


@pytest.mark.parametrize(
    ("given", "kind"),
    [((1, 3, 16, 16), "int"), ([inputs()], "list"), ((inputs(), None), "NoneType"), ((), "nothing")],
)
def test_example_inputs_of_no_such_form_are_refused_by_what_they_hold(given: Any, kind: str) -> None:
    with pytest.raises(PlanError, match=f"inputs: {kind} stands where a tensor must; give what the network"):
        compress.prune_module(Supervised(), given, ratio=0.5)


@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_torchscript_is_refused() -> None:
    model = torch.jit.trace(Supervised().eval(), inputs())
    with pytest.raises(
        PlanError, match="TorchScript, through which channels cannot be followed; give the nn"
    ):
        compress.prune_module(model, inputs(), ratio=0.5)


class Scaled(nn.Module):
    """Divides by the number of channels, which no cut can follow, if `when` says so; `after` ends it."""

    def __init__(self, when: Callable[[Tensor], bool], after: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.body, self.head, self.when, self.after = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 4, 1), when, after

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x).relu()
        return self.after(self.head(x / x.shape[1] ** 0.5 if self.when(x) else x))


@pytest.mark.parametrize(
    ("model", "size"),
    [
        (Scaled(lambda x: True, lambda x: x[x > 1e6]), 16),
        (Scaled(lambda x: True, lambda x: (x - 1e6).relu()), 16),
        (Scaled(lambda x: x.shape[-1] > 100, lambda x: x), 128),
    ],
    ids=["no output for noise", "an output of zeros", "only on a large image"],
)
def test_a_trial_is_not_fooled_by_what_noise_or_a_small_image_does_not_show(
    model: nn.Module, size: int
) -> None:
    graph = trace(model.eval(), torch.zeros(1, 3, size, size))
    assert graph.groups == ()
    assert graph.whole["body"] == "a trial cut of it did not give the masked network"
