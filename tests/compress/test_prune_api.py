"""`compress.prune`: the Python face of one cut."""

import copy
import re
from pathlib import Path

import pytest
import torch
from small_detectors import equal, outputs_of, small

import compress
import detectors
from compress.cost import cost_of
from detectors.checkpoint import fingerprint
from detectors.errors import ConfigError, PlanError, UserError
from detectors.geometry import geometry_of
from detectors.types import Target


@pytest.mark.parametrize(
    ("settings", "kind", "limit"),
    [
        ({"budget": {"macs": "50%"}}, "macs", lambda before: before // 2),
        ({"budget": {"params": "30%"}, "multiple": 1}, "params", lambda before: before * 3 // 10),
        ({"budget": {"macs": 20_000_000}, "multiple": 4}, "macs", lambda before: 20_000_000),
        ({"budget": {"params": "400k"}, "choice": "global", "multiple": 1}, "params", lambda before: 400_000),
        ({"budget": {"macs": "60%"}, "criterion": "l2"}, "macs", lambda before: before * 6 // 10),
        ({"budget": {"macs": "60%"}, "order": "sequential"}, "macs", lambda before: before * 6 // 10),
    ],
)
def test_the_slim_detector_meets_its_budget(settings: dict, kind: str, limit) -> None:
    detector = small()
    slim = compress.prune(detector, **settings)
    allowed = limit(getattr(cost_of(detector), kind))
    assert 0.7 * allowed < getattr(cost_of(slim), kind) <= allowed


def test_a_slim_file_gives_the_same_outputs_and_is_plain_data(tmp_path: Path) -> None:
    detector = small((64, 96))
    slim = compress.prune(detector, budget={"macs": "40%"}, multiple=4)
    path = tmp_path / "slim.pth"
    detectors.save(slim, path, note="first try")
    loaded = detectors.load(path)
    assert equal(slim, loaded)
    assert fingerprint(slim) == fingerprint(loaded)
    assert geometry_of(slim) == geometry_of(loaded)
    raw = torch.load(path, weights_only=True)
    assert raw["meta"] == {"parent": fingerprint(detector), "note": "first try"} == loaded.meta
    assert (
        raw["geometry"]["network.backbone.features.0"]["out"]
        == slim.network.backbone.features[0].out_channels
    )


def test_a_slim_detector_can_be_pruned_again_and_again(tmp_path: Path) -> None:
    first = small()
    whole = cost_of(first).macs
    second = compress.prune(first, budget={"macs": "60%"}, multiple=1)
    detectors.save(second, tmp_path / "second.pth")
    third = compress.prune(detectors.load(tmp_path / "second.pth"), budget={"macs": "50%"}, multiple=1)
    detectors.save(third, tmp_path / "third.pth")
    fourth = compress.prune(detectors.load(tmp_path / "third.pth"), ratio=0.1, multiple=1)
    detectors.save(fourth, tmp_path / "fourth.pth")
    costs = [cost_of(one).macs for one in (first, second, third, fourth)]
    assert costs[1] <= 0.6 * whole
    assert costs[2] <= 0.5 * costs[1]
    assert costs[3] < costs[2]
    assert equal(fourth, detectors.load(tmp_path / "fourth.pth"))


def test_a_slim_detector_trains(tmp_path: Path) -> None:
    detectors.save(compress.prune(small(), budget={"macs": "40%"}), tmp_path / "slim.pth")
    slim = detectors.load(tmp_path / "slim.pth").train()
    optimizer = torch.optim.SGD(slim.parameters(), lr=1e-3)
    images, targets = torch.rand(2, 3, 64, 64), [Target.of([[5, 5, 40, 40]], [1]), Target.of([], [])]
    before = [p.detach().clone() for p in slim.parameters()]
    loss = torch.stack(list(slim.losses(images, targets).values())).sum()
    loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in slim.parameters())
    optimizer.step()
    assert any(not torch.equal(p, old) for p, old in zip(slim.parameters(), before, strict=True))


@pytest.mark.parametrize("choice", ["uniform", "global"])
def test_the_same_call_gives_the_same_slim_detector(choice: str) -> None:
    one, other = (compress.prune(small(), budget={"macs": "50%"}, choice=choice) for _ in range(2))
    assert equal(one, other)


def test_pruning_leaves_the_given_detector_alone() -> None:
    detector = small().train()
    detector.network.conf[0].requires_grad_(False)
    mark, flags = fingerprint(detector), [p.requires_grad for p in detector.parameters()]
    slim = compress.prune(detector, ratio=0.25)
    assert fingerprint(detector) == mark
    assert [p.requires_grad for p in detector.parameters()] == flags
    assert all(module.training for module in detector.modules())
    assert slim.training
    assert not {id(p) for p in slim.parameters()} & {id(p) for p in detector.parameters()}


def test_anchors_size_and_output_shapes_do_not_change() -> None:
    detector = small((64, 96))
    slim = compress.prune(detector, budget={"params": "30%"})
    assert torch.equal(slim.anchors, detector.anchors)
    assert (slim.size, slim.spec) == (detector.size, detector.spec)
    assert [t.shape for t in outputs_of(slim)] == [t.shape for t in outputs_of(detector)]
    assert slim.postprocess == detector.postprocess


def test_frozen_layers_stay_frozen() -> None:
    detector = small()
    detector.network.backbone.requires_grad_(False)
    slim = compress.prune(detector, ratio=0.5)
    assert cost_of(slim).params < cost_of(detector).params
    assert not any(p.requires_grad for p in slim.network.backbone.parameters())
    assert all(p.requires_grad for p in slim.network.extras.parameters())


def test_skipped_layers_keep_their_width() -> None:
    detector = small()
    slim = compress.prune(detector, budget={"macs": "60%"}, skip=("backbone.features.0", "extras.*"))
    before, after = geometry_of(detector.network), geometry_of(slim.network)
    assert after["backbone.features.0"]["out"] == before["backbone.features.0"]["out"]
    for name in before:
        if name.startswith("extras."):
            last = max(key for key in ("out", "channels") if key in before[name])
            assert after[name][last] == before[name][last]
    assert after["backbone.features.3"]["out"] < before["backbone.features.3"]["out"]


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({}, PlanError, "give either a budget"),
        ({"budget": {"macs": "50%"}, "ratio": 0.5}, PlanError, "and not both"),
        (
            {"budget": {"flops": "50%"}},
            PlanError,
            "unknown cost 'flops'; there are macs, params and latency_ms",
        ),
        ({"budget": {"macs": "lots"}}, PlanError, "prune.budget.macs='lots' is not a budget"),
        ({"budget": {"macs": "0.1%"}}, PlanError, "out of reach"),
        ({"ratio": 0.2, "criterion": "l3"}, ConfigError, "unknown criterion 'l3'"),
        ({"ratio": 0.2, "skip": ("backbone.feature.0",)}, PlanError, "did you mean backbone.features.0"),
        ({"ratio": 0.2, "multiple": 0}, PlanError, "prune.multiple=0"),
        ({"ratio": 1.0}, PlanError, "prune.ratio=1.0"),
        ({"budget": {"macs": "50%"}, "choice": "globl"}, UserError, "globl"),
        ({"budget": {"macs": "50%"}, "order": "squential"}, UserError, "squential"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=re.escape(message)):
        compress.prune(small(width=0.125), **settings)


def test_a_detector_in_double_precision_can_be_pruned() -> None:
    slim = compress.prune(small(width=0.125).double(), ratio=0.25, multiple=1)
    assert {p.dtype for p in slim.parameters()} == {torch.float64}


def test_pruning_inside_no_grad_works() -> None:
    with torch.no_grad():
        slim = compress.prune(small(width=0.125), ratio=0.25, multiple=1)
    assert equal(slim, compress.prune(small(width=0.125), ratio=0.25, multiple=1))


def test_sequential_scores_filters_by_the_weights_that_are_left() -> None:
    detector = small()
    first, second = detector.network.backbone.features[0], detector.network.backbone.features[3]
    with torch.no_grad():
        first.weight[8:] = 0.0  # these filters of the first layer go
        second.weight[:] = 1e-3
        second.weight[:8, :8] = 1.0  # large where it reads what stays
        second.weight[8:, 8:] = 5.0  # large where it reads what goes
    kept = {}
    for order in ("parallel", "sequential"):
        slim = compress.prune(copy.deepcopy(detector), ratio=0.5, multiple=1, order=order)
        kept[order] = slim.network.backbone.features[3].weight[:, 0, 0, 0]
    assert kept["parallel"].tolist() == pytest.approx([1e-3] * 8)
    assert kept["sequential"].tolist() == pytest.approx([1.0] * 8)


def test_ten_lines_of_python_load_prune_save_and_predict(tmp_path: Path) -> None:
    detectors.save(small(), tmp_path / "model.pth")
    image = torch.randint(0, 256, (3, 50, 80), dtype=torch.uint8)

    detector = detectors.load(tmp_path / "model.pth")
    slim = compress.prune(detector, budget={"macs": "50%"})
    detectors.save(slim, tmp_path / "slim.pth")
    slim = detectors.load(tmp_path / "slim.pth")
    found = slim.predict(image)

    assert len(found.boxes) == len(found.scores) == len(found.labels) > 0
    assert (found.boxes >= 0).all()
    assert (found.boxes <= torch.tensor([80.0, 50.0, 80.0, 50.0])).all()
    assert set(found.labels.tolist()) <= {0, 1}
