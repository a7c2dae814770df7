"""The closed-form cost is what independent counters measure."""

import copy
import random
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from toys import TOYS, ConvNorm, Depthwise, Flattened, Transposed, inputs, made

from compress.cost import Cost, cost_of, layers_of
from compress.graph import trace
from compress.plan import plan_of
from compress.surgery import cut
from detectors.models import build


def measured(model: nn.Module, images: Tensor) -> int:
    """Multiply-adds as torch counts them at dispatch."""
    shadow = copy.deepcopy(model).to("meta").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        shadow(torch.empty(images.shape, device="meta"))
    assert counter.get_total_flops() % 2 == 0
    return counter.get_total_flops() // 2


def stored(model: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())


def expected(model: nn.Module, images: Tensor) -> Cost:
    return Cost(measured(model, images), sum(p.numel() for p in model.parameters()), stored(model))


def randomly_cut(model: nn.Module, images: Tensor, seed: int) -> nn.Module:
    graph, chance = trace(model, images), random.Random(seed)
    widths = {group.name: chance.randint(1, group.channels) for group in graph.groups}
    plan = plan_of(graph, widths, lambda group, keep: torch.rand(group.channels))
    return cut(model, graph, plan, images)


class BareNorm(nn.Module):
    """A batch norm without parameters still has statistics in the file."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, affine=False)
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.body(x)).relu())


@pytest.mark.parametrize("kind", TOYS)
def test_a_toy_costs_what_torch_counts_before_and_after_cuts(kind: type[nn.Module]) -> None:
    model = made(kind)
    assert cost_of(model, inputs()) == expected(model, inputs())
    for seed in range(3):
        slim = randomly_cut(model, inputs(), seed)
        assert cost_of(slim, inputs()) == expected(slim, inputs())


def test_a_norm_without_parameters_counts_its_statistics_and_can_be_cut() -> None:
    model = BareNorm().eval()
    assert cost_of(model, inputs()) == expected(model, inputs())
    slim = randomly_cut(model, inputs(), 0)
    assert cost_of(slim, inputs()) == expected(slim, inputs())


@pytest.mark.parametrize(
    ("name", "options", "mmacs"),
    [
        # 31.374 G multiply-adds of SSD300 for VOC: what the literature counts for the convolutions.
        ("ssd300_vgg16", {}, 31_374),
        ("ssd_vgg16_bn", {"size": (96, 128), "width": 0.25}, 310),
    ],
)
def test_a_detector_costs_what_torch_counts(name: str, options: dict, mmacs: int) -> None:
    detector = build(name, [f"c{k}" for k in range(20)], **options)
    images = torch.zeros(1, 3, *detector.size)
    cost = cost_of(copy.deepcopy(detector).to("meta"))
    assert cost == expected(detector.network, images)
    assert round(cost.macs / 1e6) == mmacs


def test_a_cut_detector_costs_what_torch_counts() -> None:
    detector = build("ssd_vgg16_bn", ["a", "b"], size=(64, 96), width=0.125)
    images = torch.zeros(1, 3, 64, 96)
    slim = randomly_cut(detector.network, images, 1)
    assert cost_of(slim, images) == expected(slim, images)
    assert cost_of(slim, images).macs < cost_of(detector).macs


@pytest.mark.parametrize(
    "model",
    [
        nn.Conv2d(3, 8, 3, padding=1),
        nn.Conv2d(3, 8, (3, 5), stride=2, dilation=2, bias=False),
        nn.Conv2d(3, 6, 3, groups=3),
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8)),
        nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.Flatten(), nn.Linear(64, 10), nn.Linear(10, 2, bias=False)),
    ],
    ids=["conv", "strided-dilated", "grouped", "depthwise", "linear"],
)
def test_thop_counts_the_same_for_convolutions_and_linear_layers(model: nn.Module) -> None:
    assert cost_of(model, inputs()).macs == counted_by_thop(model, inputs())


def test_thop_counts_the_same_for_ssd300() -> None:
    detector = build("ssd300_vgg16", [f"c{k}" for k in range(20)]).to("meta")
    counted = counted_by_thop(detector.network, torch.empty(1, 3, 300, 300, device="meta"))
    assert cost_of(detector).macs == counted


def counted_by_thop(model: nn.Module, images: Tensor) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import thop
    witness = copy.deepcopy(model).eval()
    convolutions = (nn.Conv2d, nn.Linear)
    # Pooling and activations are nobody's MACs here.
    leaves = [m for m in witness.modules() if not any(True for _ in m.children())]
    silent = {type(m): lambda *_: None for m in leaves if not isinstance(m, convolutions)}
    counted = thop.profile(witness, (images,), custom_ops=silent, verbose=False)[0]
    assert counted == int(counted)
    return int(counted)


@pytest.mark.parametrize(
    ("kind", "layer", "widths", "macs", "params"),
    [
        (ConvNorm, "a", (3, 5), 3 * 5 * 9 * 14 * 14, 3 * 5 * 9),
        (ConvNorm, "a_norm", (5, 5), 0, 10),
        (Depthwise, "deep", (5, 5), 5 * 9 * 14 * 14, 5 * 9 + 5),
        (Depthwise, "point", (5, 7), 5 * 7 * 14 * 14, 5 * 7 + 7),
        (Transposed, "up", (4, 3), 4 * 3 * 4 * 8 * 8, 4 * 3 * 4 + 3),
        (Flattened, "hidden", (32, 7), 32 * 7, 32 * 7 + 7),
    ],
)
def test_a_layer_is_priced_at_widths_it_does_not_have(
    kind: type[nn.Module], layer: str, widths: tuple[int, int], macs: int, params: int
) -> None:
    found = next(one for one in layers_of(made(kind), inputs()) if one.name == layer)
    cost = found.cost(*widths)
    assert (cost.macs, cost.params) == (macs, params)


def test_counting_leaves_mode_hooks_and_statistics_alone() -> None:
    model = made(ConvNorm).train()
    model.a_norm.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    cost_of(model, inputs())
    assert [m.training for m in (model, model.a, model.a_norm)] == [True, True, False]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(m._forward_hooks for m in model.modules())


class Gained(nn.Conv2d):
    """A convolution with a gain of its own for each channel."""

    def __init__(self) -> None:
        super().__init__(8, 8, 3)
        self.gain = nn.Parameter(torch.rand(8))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.gain[:, None, None]


def sharing() -> nn.Module:
    """Two convolutions with one bias and two norms with one scale."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8))
    model[2].bias, model[3].weight = model[0].bias, model[1].weight
    return model


def reparametrised(bias: bool) -> nn.Module:
    weight_norm = nn.utils.parametrizations.weight_norm
    return nn.Sequential(nn.Conv2d(3, 8, 3), weight_norm(nn.Conv2d(8, 8, 3, bias=bias)), nn.Conv2d(8, 4, 1))


@pytest.mark.parametrize(
    "build_model",
    [sharing, lambda: reparametrised(True), lambda: reparametrised(False), lambda: nn.Sequential(Gained())],
)
def test_what_layers_share_compute_or_add_is_counted_as_it_is_stored(
    build_model: Callable[[], nn.Module],
) -> None:
    model = build_model().eval()
    images = torch.zeros(1, model[0].in_channels, 16, 16)
    params = sum(p.numel() for p in model.parameters())
    own = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}.values()
    stored_once = sum(tensor.numel() * tensor.element_size() for tensor in own)
    assert cost_of(model, images) == Cost(measured(model, images), params, stored_once)


def test_images_are_counted_by_the_first_input_that_has_dimensions() -> None:
    class Scaled(nn.Conv2d):
        def forward(self, factor: Tensor, x: Tensor) -> Tensor:
            return super().forward(x) * factor

    assert cost_of(Scaled(3, 4, 1), (torch.tensor(2.0), torch.zeros(2, 3, 5, 5))).macs == 3 * 4 * 25
