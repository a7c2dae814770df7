"""Criteria that look at data, in the Python faces: what a program gives, and what it forgets."""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch
from small_detectors import equal, small
from torch import Tensor, nn
from toys import ConvNorm, ThreeConvs, inputs, made

import compress
from compress.allocation import CHOICES
from compress.cost import subject
from compress.criteria import CRITERIA
from compress.evidence import gather
from compress.graph import trace
from compress.plan import Rules
from compress.scoring import evidence_from
from detectors.errors import PlanError, UserError
from detectors.models.base import Detector
from detectors.types import Batch, Target

DATA_DRIVEN = [name for name in CRITERIA.names() if CRITERIA[name].needs]


def images(count: int = 4, seed: int = 1) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def loss(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch).square().mean()


def batches(
    *, boxes: int = 1, size: tuple[int, int] = (64, 64), count: int = 2, label: int = 0
) -> list[Batch]:
    """Batches of two random images with so many boxes in each, all of one class."""
    generator = torch.Generator().manual_seed(3)
    target = Target.of([[8, 8, 40, 40]] * boxes, [label] * boxes)
    return [
        Batch(torch.rand(2, 3, *size, generator=generator), [target] * 2, [size] * 2, [2 * k, 2 * k + 1])
        for k in range(count)
    ]


@pytest.mark.parametrize("criterion", DATA_DRIVEN)
def test_a_module_is_cut_by_what_its_loss_says(criterion: str) -> None:
    model = made(ThreeConvs)
    groups = trace(model, inputs()).groups
    evidence = gather(model, groups, [images()], loss, needs=CRITERIA[criterion].needs)
    slim = compress.prune_module(
        model, inputs(), ratio=0.5, multiple=1, criterion=criterion, loss=loss, batches=[images()]
    )
    best = CRITERIA[criterion](model, groups[0], evidence).argsort(descending=True, stable=True)[:4]
    assert torch.equal(slim.a.weight, model.a.weight[best.sort().values])


@pytest.mark.parametrize("criterion", DATA_DRIVEN)
@pytest.mark.parametrize("choice", ["global", "knapsack"])
def test_every_choice_takes_every_criterion_of_data(criterion: str, choice: Any) -> None:
    one, other = (
        compress.prune(
            small(width=0.125),
            budget={"macs": "50%"},
            multiple=1,
            criterion=criterion,
            choice=choice,
            images=batches(),
        )
        for _ in range(2)
    )
    assert equal(one, other)
    plain = compress.prune(small(width=0.125), budget={"macs": "50%"}, multiple=1, choice=choice)
    assert any(
        a.shape != b.shape or not torch.equal(a, b)
        for a, b in zip(one.parameters(), plain.parameters(), strict=True)
    )


def test_shrinking_scores_by_its_own_loss_on_its_own_first_batches() -> None:
    model, seen = made(ThreeConvs), []

    def watched(network: nn.Module, batch: Tensor) -> Tensor:
        seen.append((network.training, float(batch[0, 0, 0, 0])))
        return loss(network, batch)

    given = [images(2, seed) for seed in range(4)]
    marks = [float(batch[0, 0, 0, 0]) for batch in given]
    settings = {"multiple": 1, "criterion": "fisher", "loss": loss, "batches": given[:3], "ratio": 0.5}
    once = compress.prune_module(model, inputs(), **settings)
    slim, rows = compress.shrink(
        model,
        inputs(),
        ratios={"*": 0.5},
        loss=watched,
        batches=given,
        score=lambda network: float(network.a.out_channels),
        rounds=2,
        steps=2,
        scoring=3,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.0),
        criterion="fisher",
        rules=Rules(multiple=1),
    )
    assert [row.score for row in rows] == [8, 4, 2]
    scored = [(False, mark) for mark in marks[:3]]
    assert seen == [*scored, (True, marks[0]), (True, marks[1]), *scored, (True, marks[2]), (True, marks[3])]
    rest = {tuple(row.flatten().tolist()) for row in once.a.weight}
    assert {tuple(row.flatten().tolist()) for row in slim.a.weight} < rest


def test_batches_may_come_from_a_generator() -> None:
    def endless() -> Iterator[Tensor]:
        while True:
            yield images(2)

    def stream(form: Callable[[list[Batch]], Iterable[Batch]]) -> Detector:
        return compress.prune(small(width=0.125), ratio=0.5, criterion="taylor", images=form(batches()))

    slim, _ = compress.shrink(
        made(ThreeConvs),
        inputs(),
        budget={"macs": "50%"},
        loss=loss,
        batches=endless(),
        score=lambda network: 0.0,
        steps=1,
        scoring=2,
        criterion="taylor",
        rules=Rules(multiple=1),
    )
    assert slim.a.out_channels < 8
    assert equal(stream(list), stream(iter))


def test_what_an_image_adds_to_the_loss_counts_by_its_share_of_the_objects() -> None:
    """SSD's loss divides by the anchors that were matched in the whole batch, not in each image."""
    detector, generator = small(), torch.Generator().manual_seed(3)
    pictures = torch.rand(2, 3, *detector.size, generator=generator)
    corners = [[8, 8, 40, 40], [2, 2, 30, 30], [20, 20, 60, 60], [4, 30, 34, 60]]
    targets, sizes = [Target.of(corners, [0, 1, 0, 1]), Target.of(corners[:1], [0])], [detector.size] * 2
    alone = [Batch(pictures[k : k + 1], targets[k : k + 1], sizes[:1], [k]) for k in range(2)]
    graph = trace(*subject(detector))
    apart, together = (
        evidence_from(detector, graph, given, needs=["gradients"], seed=0).gradients
        for given in (alone, [Batch(pictures, targets, sizes, [0, 1])])
    )
    (first, second), *others = [
        (together[name] * rows).sum(1) / rows.square().sum(1)
        for name, rows in apart.items()
        if bool(rows.any(1).all())  # the last layers may be dead in both
    ]
    assert first > 1.1
    assert second < 0.9
    assert len(others) > 10
    for found in others:  # one factor for an image, whatever the layer, but for sums in float32
        torch.testing.assert_close(found, torch.stack([first, second]), rtol=1e-3, atol=1e-3)


def test_scoring_leaves_the_given_detector_alone() -> None:
    detector = small(width=0.125).train()
    detector.network.conf[0].requires_grad_(False)
    before = {key: value.clone() for key, value in detector.state_dict().items()}
    slim = compress.prune(detector, ratio=0.5, criterion="fisher", images=batches())
    assert all(torch.equal(value, before[key]) for key, value in detector.state_dict().items())
    for one in (detector, slim):
        assert all(module.training for module in one.modules())
        frozen = [name for name, p in one.named_parameters() if not p.requires_grad]
        assert frozen == ["network.conf.0.weight", "network.conf.0.bias"]
        assert all(p.grad is None for p in one.parameters())


def test_the_seed_decides_what_random_scores_keep() -> None:
    def kept(seed: int) -> Tensor:
        model = made(ConvNorm)
        slim = compress.prune_module(model, inputs(), ratio=0.5, multiple=1, criterion="random", seed=seed)
        return slim.a.weight

    assert torch.equal(kept(1), kept(1))
    assert not torch.equal(kept(1), kept(2))


@pytest.mark.parametrize("criterion", DATA_DRIVEN)
@pytest.mark.parametrize("settings", [{"ratio": 0.5}, {"budget": {"macs": "50%"}, "choice": "knapsack"}])
def test_a_criterion_of_data_without_data_says_what_to_give(criterion: str, settings: Any) -> None:
    with pytest.raises(PlanError, match=r"looks at calibration data: give loss=.* and batches=.*; or .* l1"):
        compress.prune_module(made(ThreeConvs), inputs(), multiple=1, criterion=criterion, **settings)
    with pytest.raises(PlanError, match=r"looks at calibration data: give images=.*Batch.*; or .* l1"):
        compress.prune(small(width=0.125), multiple=1, criterion=criterion, **settings)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "images: there are no calibration images"),
        (batches(boxes=0), "images: none of the 4 calibration images has a labelled box"),
        (batches(size=(96, 64)), "images: a batch is of [96, 64], this ssd_vgg16_bn takes [64, 64]"),
        (batches()[0], "images: give batches one after the other"),
        (torch.rand(2, 3, 64, 64), "images: give batches one after the other"),
        (5, "images: give batches one after the other"),
        ([torch.rand(2, 3, 64, 64)], "images: a Tensor stands where a detectors.types.Batch must"),
        *(
            (
                batches(label=label),
                f"images: a box is labelled {label}, the classes of this ssd_vgg16_bn are 0 to ",
            )
            for label in (-1, 2, 9)
        ),
    ],
)
def test_images_that_cannot_be_scored_on_are_one_line(given: Any, message: str) -> None:
    with pytest.raises(PlanError, match=re.escape(message)):
        compress.prune(small(width=0.125), ratio=0.5, criterion="fisher", images=given)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (lambda model, batch: {"a": model(batch).mean()}, "the loss gives dict where"),
        (lambda model, batch: model(batch), "the loss gives [4, 5, 14, 14] where a tensor of one number"),
        (lambda model, batch: loss(model, batch) / 0, "the loss is inf on calibration batch 1"),
    ],
)
def test_a_loss_that_cannot_be_scored_on_is_one_line(how: Any, message: str) -> None:
    with pytest.raises(PlanError, match=re.escape(message)):
        compress.prune_module(
            made(ThreeConvs), inputs(), ratio=0.5, criterion="fisher", loss=how, batches=[images()]
        )


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("criterion", DATA_DRIVEN)
def test_scores_that_are_not_finite_are_one_line(criterion: str, choice: Any) -> None:
    def zero(model: nn.Module, batch: Tensor) -> Tensor:
        return (model(batch).sum() * 0).sqrt()  # finite, but its gradient is none

    with pytest.raises(
        PlanError, match=f"{criterion} gives a a score that is not finite: .*; check checkpoint"
    ):
        compress.prune_module(
            made(ThreeConvs),
            inputs(),
            budget={"macs": "50%"},
            multiple=1,
            criterion=criterion,
            choice=choice,
            loss=zero,
            batches=[images()],
        )


def test_settings_are_checked_before_anything_is_scored() -> None:
    def never(model: nn.Module, batch: Tensor) -> Tensor:
        raise AssertionError("scored")

    for settings in ({"budget": {"macs": "0.1%"}}, {"ratio": 0.5, "choice": "global"}, {}):
        with pytest.raises(PlanError, match=r"out of reach|give"):
            compress.prune_module(
                made(ThreeConvs), inputs(), criterion="fisher", loss=never, batches=[images()], **settings
            )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ratio": "50%"}, "prune.ratio='50%' is not a share from 0 to below 1, such as 0.3"),
        ({"ratios": 0.5}, "prune.ratios=0.5 names no layers; write {'*': 0.5}"),
        ({"ratios": {"*": "50%"}}, "prune.ratios: '*': '50%' is not a share"),
        ({"budget": 0.5}, "budget=0.5 does not say of which cost; write budget={'macs': '50%'}"),
        ({"budget": "50%"}, "budget='50%' does not say of which cost"),
        ({"budget": {"macs": 0.5}}, "prune.budget.macs='0.5' is not a budget; write a share as 50%"),
        (
            {"budget": {"macs": "50%", 3: 4}},
            "budget: unknown cost '3'; there are macs, params and latency_ms",
        ),
        ({"ratio": 0.5, "skip": "extras.*"}, "prune.skip='extras.*' is no list of globs, such as ['body.*']"),
        ({"ratio": 0.5, "skip": [nn.ReLU()]}, "prune.skip: ReLU() is no glob; give layers by their names"),
        ({"ratio": 0.5, "skip": None}, "prune.skip=None is no list of globs"),
        ({"ratio": 0.5, "multiple": 2.5}, "prune.multiple=2.5 is not a whole number"),
        ({"ratio": 0.5, "multiple": "8"}, "prune.multiple='8' is not a whole number"),
        ({"ratio": 0.5, "floor": "5%"}, "prune.floor='5%' is not between 0 and 1"),
        ({"ratio": 0.5, "largest_cut": float("nan")}, "prune.largest_cut=nan is not between 0 and 1"),
        ({"ratio": 0.5, "caps": 0.5}, "prune.caps=0.5 names no layers; write {'*': 0.5}"),
        ({"ratio": 0.5, "caps": {"*": "50%"}}, "prune.caps: '*': '50%' is not a share"),
        ({"budget": {"macs": "50%"}, "bounds": 0.5}, "prune.bounds=0.5 does not hold the uniform width"),
        ({"budget": {"macs": "50%"}, "bounds": "no"}, "prune.bounds=['n', 'o'] does not hold"),
        ({"ratio": 0.5, "criterion": None}, "unknown criterion None; known: "),
        ({"ratio": 0.5, "choice": None}, "prune.choice=None is unknown; known: "),
    ],
)
def test_settings_of_another_type_are_one_line(settings: Any, message: str) -> None:
    for call in (
        lambda: compress.prune(small(width=0.125), **settings),
        lambda: compress.prune_module(small(width=0.125).network, torch.zeros(1, 3, 64, 64), **settings),
    ):
        with pytest.raises(UserError, match=re.escape(message)) as caught:
            call()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "value"), [("rounds", 0), ("rounds", 2.5), ("steps", -1), ("scoring", 0)])
def test_counts_of_shrinking_are_whole_numbers(name: str, value: Any) -> None:
    with pytest.raises(PlanError, match=re.escape(f"{name}={value} is not a whole number")):
        compress.shrink(
            made(ThreeConvs),
            inputs(),
            budget={"macs": "50%"},
            loss=loss,
            batches=[images()],
            score=lambda network: 0.0,
            rules=Rules(multiple=1),
            **{name: value},
        )


def test_numbers_of_numpy_and_generators_of_names_are_taken() -> None:
    import numpy as np

    slim = compress.prune_module(
        made(ThreeConvs),
        inputs(),
        ratio=np.float32(0.5),
        multiple=np.int64(1),
        skip=(name for name in ["a"]),
    )
    assert (slim.a.out_channels, slim.b.out_channels) == (8, 6)
