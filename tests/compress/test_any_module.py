"""A bare network, given what it takes, a loss and a score, is pruned, fine-tuned, saved and restored."""

import itertools
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
import torch_pruning as tp
from test_surgery import difference
from torch import Tensor, nn
from toys import TOYS, Normed, inputs, made

import compress
from compress.cost import Cost, cost_of
from compress.graph import trace
from compress.inputs import copied
from compress.module import Row
from compress.plan import Rules
from detectors.errors import PlanError
from detectors.geometry import apply_geometry, geometry_of


class TwoInputs(nn.Module):
    """An image and a row of numbers, by keyword if one likes, to a class and a box."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.PReLU(16))
        self.read, self.mix = nn.Linear(5, 16), nn.Linear(32, 24)
        self.kind, self.box = nn.Linear(24, 4), nn.Linear(24, 4)

    def forward(self, image: Tensor, numbers: Tensor) -> dict[str, Tensor]:
        seen = torch.cat([self.look(image).mean((2, 3)), self.read(numbers).relu()], 1)
        mixed = self.mix(seen).relu()
        return {"kind": self.kind(mixed), "box": self.box(mixed)}


class Pair(NamedTuple):
    large: Tensor
    small: Tensor


class LooksAtValues(nn.Module):
    """Takes another way where values are large, and holds a tensor that no state dict knows."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.hidden = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1), torch.tensor(0.5)

    def forward(self, x: Tensor) -> Pair:
        x = self.body(x).relu() * self.hidden
        if x.sum() > 1e9:
            x = x / 2
        return Pair(self.head(x), F.max_pool2d(self.head(x), 2))


class StripesNet(nn.Module):
    """Tells rising from falling stripes; a small classifier of a kind that nobody registered."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.deep, self.head = nn.Conv2d(16, 16, 3, stride=2), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.deep(self.norm(self.stem(x)).relu()).relu().amax((2, 3)))


def stripes(count: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Batches of 16 images `[16, 1, 12, 12]` with their labels."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(count):
        labels = torch.randint(0, 2, (16,), generator=generator)
        images = torch.randn(16, 1, 12, 12, generator=generator) * 0.3
        for image, label in zip(images, labels, strict=True):
            line = torch.eye(12)
            image[0] += line if label else line.flip(0)
        batches.append((images, labels))
    return batches


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def accuracy(model: nn.Module) -> float:
    right = [(model(images).argmax(1) == labels).float().mean() for images, labels in stripes(4, seed=9)]
    return float(torch.stack(right).mean())


@pytest.mark.parametrize("form", [tuple, dict])
def test_a_network_of_several_inputs_is_pruned(form: type) -> None:
    torch.manual_seed(0)
    model, image, numbers = TwoInputs().eval(), torch.zeros(1, 3, 10, 10), torch.zeros(1, 5)
    given = (image, numbers) if form is tuple else {"numbers": numbers, "image": image}
    slim = compress.prune_module(model, given, ratio=0.5, multiple=4)
    widths = (slim.look[0].out_channels, slim.read.out_features, slim.mix.in_features, slim.mix.out_features)
    assert widths == (8, 8, 16, 12)
    assert slim.look[2].weight.shape == (8,)
    assert {k: v.shape for k, v in slim(image, numbers).items()} == {"kind": (1, 4), "box": (1, 4)}
    assert cost_of(slim, given).macs < 0.6 * cost_of(model, given).macs
    assert model.look[0].out_channels == 16


def test_a_network_that_looks_at_values_is_run_with_its_data() -> None:
    model = LooksAtValues().eval()
    slim = compress.prune_module(model, inputs(), ratio=0.5, multiple=1)
    assert slim.body.out_channels == 4
    assert isinstance(slim(inputs()), Pair)


def test_a_budget_holds_and_what_stays_whole_is_left() -> None:
    torch.manual_seed(0)
    model = StripesNet()
    image = torch.zeros(1, 1, 12, 12)
    slim = compress.prune_module(model, image, budget={"macs": "60%"}, multiple=2, skip=("deep",))
    assert 0.45 < cost_of(slim, image).macs / cost_of(model, image).macs <= 0.6
    assert slim.deep.out_channels == 16
    assert slim.training


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "give either a budget"),
        ({"budget": {"flops": "50%"}}, "unknown cost 'flops'; there are macs, params and latency_ms"),
        ({"budget": {"macs": "0.1%"}}, "out of reach"),
        ({"ratio": 0.5, "skip": ("stm",)}, "did you mean stem"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(PlanError, match=re.escape(message)):
        compress.prune_module(StripesNet(), torch.zeros(1, 1, 12, 12), **settings)


def test_a_network_that_returns_no_tensor_is_refused() -> None:
    class Silent(StripesNet):
        def forward(self, x: Tensor) -> str:
            return str(super().forward(x).shape)

    with pytest.raises(PlanError, match="returns no tensor in lists, tuples, dicts or dataclasses"):
        compress.prune_module(Silent(), torch.zeros(1, 1, 12, 12), ratio=0.5)


def test_rounds_of_cutting_and_fine_tuning_meet_the_budget_and_keep_the_skill() -> None:
    torch.manual_seed(0)
    model, image, batches = StripesNet(), torch.zeros(1, 1, 12, 12), stripes(8, seed=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for batch in batches * 4:
        optimizer.zero_grad()
        loss(model, batch).backward()
        optimizer.step()
    model.norm.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    slim, rows = compress.shrink(
        model,
        image,
        budget={"macs": "20%"},
        loss=loss,
        batches=batches,
        score=accuracy,
        rounds=2,
        steps=24,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=5e-3),
        rules=Rules(multiple=1),
    )
    whole = cost_of(model, image)
    assert [row.round for row in rows] == [0, 1, 2]
    assert rows[0] == Row(0, whole, None, rows[0].score)
    assert [
        row.cost.macs / whole.macs <= share for row, share in zip(rows, (1, 0.448, 0.2), strict=True)
    ] == [True] * 3
    assert rows[2].cost == cost_of(slim, image)
    assert rows[0].score > 0.95
    assert rows[2].score > 0.9
    assert rows[2].score >= (rows[2].score_after_cut or 0)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert (slim.training, slim.stem.training, slim.norm.training) == (True, True, False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batches": []}, "no batches, or no more"),
        ({"batches": iter(stripes(1, 0)), "steps": 3}, "no batches, or no more"),
        ({"loss": lambda model, batch: model(batch[0]).sum() * float("nan")}, "the loss is nan in step 1"),
    ],
)
def test_fine_tuning_that_cannot_be_says_why(changes: dict, message: str) -> None:
    settings = {"budget": {"macs": "50%"}, "loss": loss, "batches": stripes(1, 0), "score": accuracy}
    with pytest.raises(ValueError, match=message):
        compress.shrink(
            StripesNet(), torch.zeros(1, 1, 12, 12), rules=Rules(multiple=1), **{**settings, **changes}
        )


def test_rounds_that_would_leave_the_last_too_much_are_refused_before_any_fine_tuning() -> None:
    widths = (3, 64, 64, 64, 10)
    layers = [nn.Conv2d(reads, makes, 3, padding=1) for reads, makes in itertools.pairwise(widths)]
    settings: dict[str, Any] = {
        "loss": lambda model, batch: pytest.fail("fine-tuning began"),
        "batches": [torch.zeros(2, 3, 8, 8)],
        "score": lambda model: 0.0,
        "rounds": 2,
        "budget": {"macs": "66%"},
    }
    with pytest.raises(PlanError, match="after 1 round, budget macs="):
        compress.shrink(
            nn.Sequential(*layers),
            torch.zeros(1, 3, 8, 8),
            rules=Rules(largest_cut=0.5, floor=0.0, skip=("0", "1")),
            **settings,
        )


def test_three_lines_save_and_three_restore_a_slim_network(tmp_path: Path) -> None:
    slim = compress.prune_module(TwoInputs(), (inputs(), torch.zeros(1, 5)), ratio=0.4, multiple=1)

    torch.save({"geometry": geometry_of(slim), "state": slim.state_dict()}, tmp_path / "slim.pth")

    saved = torch.load(tmp_path / "slim.pth", weights_only=True)
    apply_geometry(fresh := TwoInputs(), saved["geometry"])
    fresh.load_state_dict(saved["state"])

    given = torch.rand(2, 3, 9, 9), torch.rand(2, 5)
    slim.eval(), fresh.eval()
    assert all(torch.equal(slim(*given)[key], fresh(*given)[key]) for key in ("kind", "box"))


def test_a_module_is_shrunk_without_loading_any_detector_data_or_engine() -> None:
    program = (
        "import sys, torch, compress; sys.path.insert(0, sys.argv[1])\n"
        "from toys import Residual, inputs, made\n"
        "slim, rows = compress.shrink(made(Residual), inputs(), budget={'macs': '50%'}, batches=[inputs()],\n"
        "    loss=lambda model, x: model(x).square().mean(), score=lambda model: 1.0, steps=1,\n"
        "    rules=__import__('compress.plan').plan.Rules(multiple=1))\n"
        "parts = tuple('detectors.' + part for part in ('models', 'data', 'engine', 'evaluation', 'losses',\n"
        "    'checkpoint', 'loading', 'dialects', 'settings', 'config'))\n"
        "print(slim.stem.out_channels < 8, [name for name in sys.modules if name.startswith(parts)])\n"
    )
    command = [sys.executable, "-c", program, str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "True []", done.stderr


def places_of(groups: list[list[tuple[str, str, int, int]]]) -> set[frozenset[tuple[str, str, int]]]:
    """Each channel as the set of its places (layer, side, place)."""
    found = set()
    for group in groups:
        for channel in {channel for *_, channel in group}:
            found.add(frozenset((layer, side, place) for layer, side, place, c in group if c == channel))
    return found


@pytest.mark.parametrize("kind", [kind for kind in TOYS if kind is not Normed])
def test_torch_pruning_finds_the_same_channels_where_it_knows_the_structure(kind: type[nn.Module]) -> None:
    model = copied(made(kind), torch.clone)
    names = {module: name for name, module in model.named_modules()}
    graph = trace(model, inputs())
    witness = tp.DependencyGraph().build_dependency(model, (inputs(),), forward_fn=lambda m, x: m(*x))
    theirs = []
    kinds = [nn.Conv2d, nn.ConvTranspose2d, nn.Linear]
    ignored = [model.get_submodule(layer) for layer in graph.whole]
    for group in witness.get_all_groups(root_module_types=kinds, ignored_layers=ignored):
        theirs.append(
            [
                (
                    names[item.dep.target.module],
                    "out" if witness.is_out_channel_pruning_fn(item.dep.handler) else "in",
                    place,
                    channel,
                )
                for item in group
                if item.dep.target.module in names
                for place, channel in zip(item.idxs, item.root_idxs, strict=True)
            ]
        )
    ours = [
        [
            (m.layer, m.side, place, channel)
            for m in group.members
            for place, channel in zip(m.positions.tolist(), m.channels.tolist(), strict=True)
        ]
        for group in graph.groups
    ]
    assert places_of(ours) == places_of(theirs)


def test_a_weight_that_two_layers_share_is_counted_once() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU(), nn.Linear(4, 4, bias=False))
    model[2].weight = model[0].weight
    assert cost_of(model, torch.zeros(1, 4)) == Cost(32, 16, 64)


def test_copies_share_replace_and_keep_ties() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    shared, doubled = copied(model, lambda tensor: tensor), copied(model, lambda tensor: tensor.double())
    assert shared[0].weight.data_ptr() == model[0].weight.data_ptr()
    assert shared[0] is not model[0]
    assert doubled[2].weight is doubled[0].weight
    assert doubled[1].running_mean.dtype == torch.float64
    assert model[1].running_mean.dtype == torch.float32
    assert difference(model, doubled, torch.zeros(3, 4)) == 0


def test_the_line_of_the_readme_shows_which_layers_stay_whole() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    show, load = re.findall(r"`(compress\.graph\.trace[^`]*)` after `(import [^`]*)`", readme)[0]
    names = {"network": (model := made(Normed)), "inputs": inputs()}
    exec(load, names)
    whole = eval(show, names)
    assert whole == {"fine": "makes an output", "coarse": "makes an output"}
    slim = compress.prune_module(model, inputs(), ratio=0.5, multiple=1)
    assert (slim.fine.out_channels, slim.coarse.out_channels) == (4, 4)
    assert (slim.body.out_channels, slim.deeper.out_channels) == (4, 3)
