"""What the removed channels gave their consumers is given back, exactly where it can be."""

import pytest
import torch
from torch import Tensor, nn
from toys import ConvNorm, Flattened, FrozenFirst, Normed, Scale, ThreeConvs, Transposed, inputs, made

import detectors
from compress.compensate import Lengths, Way, compensated
from compress.cost import subject
from compress.evidence import moments
from compress.graph import trace
from compress.groups import Graph
from compress.inputs import copied, tensors_in
from compress.probe import Keep, narrowed
from compress.recalibrate import batch_norm_statistics
from compress.recipe import Recipe
from compress.taps import consumers
from detectors.config import load
from detectors.data import build as build_data

WAYS: tuple[Way, ...] = ("mean", "refit")

# The ridge, a thousandth of the mean variance, takes that much off an exact regression.
RIDGE = 5e-3


def images(count: int = 8) -> Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def run(model: nn.Module, batch: Tensor) -> None:
    model(batch)


def slim(model: nn.Module, graph: Graph, keep: dict[str, tuple[int, ...]], way: Way | None) -> nn.Module:
    if way is not None:
        cut = [group for group in graph.groups if group.name in keep]
        found = moments(model, cut, [images()], run)
        model = compensated(model, graph, keep, found, way, renewed=False)
    return narrowed(model, graph.groups, keep).eval()


def apart(model: nn.Module, graph: Graph, keep: dict[str, tuple[int, ...]], way: Way | None) -> float:
    """How far the outputs of the slim network are from those of the whole one, relative to these."""
    with torch.no_grad():
        whole = torch.cat([t.flatten() for t in tensors_in(model(images()))])
        made = torch.cat([t.flatten() for t in tensors_in(slim(model, graph, keep, way)(images()))])
    return float((made - whole).norm() / whole.norm())


def group_named(graph: Graph, name: str) -> tuple[int, ...]:
    return tuple(range(next(group.channels for group in graph.groups if group.name == name)))


@pytest.mark.parametrize(
    ("kind", "layer"), [(ThreeConvs, "a"), (Flattened, "body"), (Flattened, "hidden"), (Transposed, "down")]
)
def test_channels_that_repeat_others_are_lost_without_a_trace(kind: type[nn.Module], layer: str) -> None:
    model = made(kind)
    maker = model.get_submodule(layer)
    with torch.no_grad():  # the second half repeats the first, twice as large
        half = len(maker.weight) // 2
        maker.weight[half:] = 2 * maker.weight[:half]
        maker.bias[half:] = 2 * maker.bias[:half]
    graph = trace(model, inputs())
    keep = {layer: tuple(range(half))}
    assert apart(model, graph, keep, None) > 0.03
    assert apart(model, graph, keep, "refit") < RIDGE


@pytest.mark.parametrize("way", ["mean", "refit"])
@pytest.mark.parametrize(("kind", "layer"), [(ThreeConvs, "a"), (Flattened, "hidden")])
def test_constant_channels_go_into_the_bias(kind: type[nn.Module], layer: str, way: Way) -> None:
    model = made(kind)
    maker = model.get_submodule(layer)
    with torch.no_grad():
        maker.weight[:3] = 0
        maker.bias[:3] = 3.0
    graph = trace(model, inputs())
    keep = {layer: group_named(graph, layer)[3:]}
    assert apart(model, graph, keep, None) > 0.03
    assert apart(model, graph, keep, way) < 1e-5


class Tied(nn.Module):
    """A group norm ties four filters to a channel; the consumer reads each of them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(3, 32, 3), nn.GroupNorm(8, 32), nn.Conv2d(32, 6, 1)

    def read(self, x: Tensor) -> Tensor:
        return self.norm(self.a(x)).relu()

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.b(self.read(x))
        return found


class TwoPools(Tied):
    """The consumer reads each channel as it is and pooled."""

    def __init__(self) -> None:
        super().__init__()
        self.b = nn.Conv2d(64, 6, 1)

    def read(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        return torch.cat([x, torch.nn.functional.max_pool2d(x, 5, 1, 2)], 1)


class Positions(Tied):
    """The consumer reads each position of each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.b = nn.Linear(32 * 49, 6)

    def read(self, x: Tensor) -> Tensor:
        return torch.nn.functional.max_pool2d(self.a(x).relu(), 2).flatten(1)


def by_channel(values: Tensor) -> Tensor:
    """`[samples, channels]`."""
    return values.movedim(1, -1).flatten(0, -2).double()


@pytest.mark.parametrize("way", ["mean", "refit"])
@pytest.mark.parametrize("kind", [Tied, TwoPools, Positions])
def test_of_each_place_where_a_channel_is_read_its_own_mean_is_made_up_for(
    kind: type[Tied], way: Way
) -> None:
    model = made(kind)
    graph = trace(model, inputs())
    keep = {"a": tuple(range(0, graph.groups[0].channels, 2))}
    with torch.no_grad():
        whole, cut, mended = (
            by_channel(net(images()))
            for net in (model, *(slim(model, graph, keep, how) for how in (None, way)))
        )
    assert (cut - whole).mean(0).abs().max() > 0.02
    # The mean over the images that it was measured on, with kernels of one tap: exact but for float32.
    assert (mended - whole).mean(0).abs().max() < 1e-6
    assert (mended - whole).norm() < (cut - whole).norm()


@pytest.mark.parametrize("kind", [Tied, TwoPools])
def test_what_is_read_at_several_places_is_regressed_on_all_that_is_kept(kind: type[Tied]) -> None:
    model = made(kind)
    graph = trace(model, inputs())
    group = graph.groups[0]
    keep = {"a": tuple(range(0, group.channels, 2))}
    member = next(member for member in consumers(group) if member.layer == "b")
    kept = torch.isin(member.channels, torch.tensor(keep["a"]))
    stays, goes = member.positions[kept], member.positions[~kept]
    with torch.no_grad():
        read = by_channel(model.read(images()))
        known = torch.cat([read[:, stays], torch.ones(len(read), 1, dtype=torch.float64)], 1)
        missed = known @ torch.linalg.lstsq(known, read[:, goes]).solution - read[:, goes]
        least = (missed @ model.b.weight.flatten(1)[:, goes].T.double()).norm()
        whole = by_channel(model(images()))
        left = {way: (by_channel(slim(model, graph, keep, way)(images())) - whole).norm() for way in WAYS}
    assert 0.999 * least < left["refit"] < 1.01 * least  # the ridge
    assert left["refit"] < 0.97 * left["mean"]


def test_without_a_bias_the_regression_has_no_constant() -> None:
    model = made(ConvNorm)
    with torch.no_grad():  # zero at the origin, so that no constant is needed
        model.a.weight[4:] = model.a.weight[:4]
        for tensor in (
            model.a_norm.weight,
            model.a_norm.bias,
            model.a_norm.running_mean,
            model.a_norm.running_var,
        ):
            tensor[4:] = tensor[:4]
    graph = trace(model, inputs())
    keep = {"a": (0, 1, 2, 3)}
    assert apart(model, graph, keep, None) > 0.03
    assert apart(model, graph, keep, "refit") < RIDGE


def test_the_statistics_behind_a_consumer_take_the_constant_up() -> None:
    model = made(ConvNorm)
    with torch.no_grad():
        model.a_norm.weight[:3] = 0
        model.a_norm.bias[:3] = 3.0
    for norm in (model.a_norm, model.b_norm):
        norm.reset_running_stats()
    batch_norm_statistics(model, [images()])
    graph = trace(model, inputs())
    keep = {"a": (3, 4, 5, 6, 7)}
    found = moments(model, graph.groups, [images()], run)
    mended = narrowed(compensated(model, graph, keep, found, "refit", renewed=True), graph.groups, keep)
    mended = copied(mended, torch.clone)
    batch_norm_statistics(mended, [images()])
    with torch.no_grad():
        torch.testing.assert_close(mended(images()), model(images()), rtol=1e-3, atol=1e-3)


class Shortcut(nn.Module):
    """A shortcut without norm or bias joins a path with a norm: `b` loses its constant, `short` does not."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.short = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 1, bias=False)
        self.b, self.norm = nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.head = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        joined: Tensor = self.head((self.short(x) + self.norm(self.b(x))).relu())
        return joined


class NormBehindReLU(nn.Module):
    """A constant in what `b` makes is not lost in the norm: it moves what the ReLU lets through."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 1, bias=False)
        self.norm, self.head = nn.BatchNorm2d(16), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.head(self.norm(self.b(self.a(x).relu()).relu()))
        return made


@pytest.mark.parametrize(
    ("kind", "normed"),
    [(Shortcut, {"b"}), (NormBehindReLU, set()), (ConvNorm, {"a", "b"}), (FrozenFirst, {"b"})],
)
def test_only_what_a_norm_alone_reads_loses_its_constant(kind: type[nn.Module], normed: set[str]) -> None:
    assert trace(made(kind), inputs()).normed == normed


def test_a_consumer_that_keeps_its_constant_is_regressed_without_one() -> None:
    model = made(Shortcut)
    with torch.no_grad():
        model.a.bias += 1
    model.norm.reset_running_stats()
    batch_norm_statistics(model, [images()])
    graph = trace(model, inputs())
    keep = {"a": tuple(range(10))}
    found = moments(model, [group for group in graph.groups if group.name in keep], [images()], run)
    mended = compensated(model, graph, keep, found, "refit", renewed=True)
    errors = []
    for change in (mended, model):
        cut = copied(narrowed(change, graph.groups, keep), torch.clone)
        batch_norm_statistics(cut, [images()])
        with torch.no_grad():
            errors.append(float((cut(images()) - model(images())).square().mean()))
    assert errors[0] < 0.8 * errors[1]


def test_each_consumer_of_a_trained_detector_is_nearer_with_means_and_nearer_still_with_a_refit() -> None:
    detector = detectors.load("weights/quickstart.pth")
    network, example = subject(detector)
    drawn = build_data(load(Recipe, "recipes/quickstart.yaml").data, "test")
    batch = detector.normalise(torch.stack([drawn.image(k) for k in range(8)]) / 255)
    graph = trace(network, example)
    found = moments(network, graph.groups, [batch], run)

    def made(model: nn.Module) -> Tensor:
        with torch.no_grad():
            return torch.cat([tensor.flatten() for tensor in tensors_in(model(batch))])

    for group in graph.groups[::2]:
        keep = {group.name: tuple(range(0, group.channels, 2))}
        mended = [compensated(network, graph, keep, found, way, renewed=False) for way in ("mean", "refit")]
        nothing, mean, refit = (
            float((made(narrowed(full, graph.groups, keep).eval()) - made(network)).norm())
            for full in (network, *mended)
        )
        biased = any(network.get_submodule(member.layer).bias is not None for member in consumers(group))
        assert mean < nothing if biased else mean == pytest.approx(nothing)
        assert refit < 0.97 * mean, group.name


def test_padding_is_counted_into_the_constant() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 3, padding=1)).eval()
    with torch.no_grad():
        model[0].weight[:3] = 0
        model[0].bias[:3] = 3.0
    graph = trace(model, inputs())
    # On maps of one cell only the middle of the kernel sees anything.
    keep, one = {"0": (3, 4, 5, 6, 7)}, images()[..., :1, :1]
    found = moments(model, graph.groups, [one], run)
    mended = narrowed(compensated(model, graph, keep, found, "mean", renewed=False), graph.groups, keep)
    torch.testing.assert_close(mended(one), model(one))


def test_compensation_leaves_the_model_alone_and_the_kept_shapes() -> None:
    model = made(ThreeConvs)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    graph = trace(model, inputs())
    mended = slim(model, graph, {"a": (0, 2)}, "refit")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert mended.a.weight.shape[0] == mended.b.weight.shape[1] == 2
    assert all(parameter.requires_grad for parameter in mended.parameters())


def restored(model: nn.Module, graph: Graph, keep: Keep, change: nn.Module) -> dict[str, float]:
    lengths = Lengths(model, graph, keep)
    with torch.no_grad(), lengths.watched():
        model(images())
    return lengths.restore(change)


def test_a_length_over_fewer_channels_is_scaled_back() -> None:
    model = made(Normed)
    graph = trace(model, inputs())
    keep = {"body": (0, 1, 2, 3)}
    change = narrowed(model, [], {})
    factors = restored(model, graph, keep, change)
    with torch.no_grad():
        read = model.body(images()).relu()
        wanted = model.norm(read)[:, :4]
        plain, mended = (narrowed(one, graph.groups, keep).norm(read[:, :4]) for one in (model, change))
    assert factors.keys() == {"norm"}
    assert factors["norm"] < 1
    # The least-squares factor: what is left stands at right angles to what was made.
    assert float(((wanted - mended) * mended).sum()) == pytest.approx(
        0, abs=1e-3 * float(wanted.square().sum())
    )
    assert (wanted - mended).norm() < (wanted - plain).norm()


class Gain(Scale):
    """A weight for each channel, and no look at the others."""

    def forward(self, x: Tensor) -> Tensor:
        return self.weight[None, :, None, None] * x


def test_a_layer_that_looks_at_each_channel_alone_stays_as_it_is() -> None:
    model = made(Normed)
    model.norm = Gain(8)
    graph = trace(model, inputs())
    factors = restored(model, graph, {"body": (0, 1, 2, 3)}, narrowed(model, [], {}))
    assert factors == {"norm": pytest.approx(1.0, abs=1e-6)}
