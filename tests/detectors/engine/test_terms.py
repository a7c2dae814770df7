"""Terms join the loss within the detector's own forward pass, and a training with them resumes like any."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
import torch
from training_case import ALONE, STEPS, Quiet, loader, new_detector, settings, train

from detectors.engine.loop import fit
from detectors.engine.terms import Seen, check_weights, losses_of
from detectors.errors import ConfigError, RunError, TrainingError
from detectors.models import build
from detectors.models.base import Detector
from detectors.types import Target

ONE = settings(epochs=1)
TARGETS = [Target.of([[5, 5, 40, 50]], [1]), Target.of([], [])]


class Noted:
    """A term that keeps what it is shown."""

    settings: Mapping[str, float] = {}
    layers: Sequence[str] = ("network.conf.0", "network.conf.1")

    def __init__(self) -> None:
        self.calls: list[tuple] = []

    def __call__(self, detector: Detector, images: torch.Tensor, seen: Seen) -> dict[str, torch.Tensor]:
        self.calls.append((images, seen.outputs, seen.inputs))
        return {"noted": seen.outputs.deltas.float().abs().mean()}


class Broken(Noted):
    def __call__(self, detector: Detector, images: torch.Tensor, seen: Seen) -> dict[str, torch.Tensor]:
        return {"broken": super().__call__(detector, images, seen)["noted"] * torch.nan}


def hooks(detector: Detector) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in detector.modules())


def test_a_term_sees_the_outputs_and_inputs_of_the_one_forward_pass():
    detector, term = new_detector().eval(), Noted()
    passes = []
    detector.network.register_forward_hook(lambda *_: passes.append(1))
    images = torch.rand(2, 3, 64, 64)
    with losses_of(detector, (term,), ALONE) as compute:
        values = compute(images, TARGETS)
    assert len(passes) == 1
    shown, outputs, inputs = term.calls[0]
    assert shown is images
    expected = detector(images)
    assert torch.equal(outputs.logits, expected.logits)
    assert list(inputs) == list(term.layers)
    first = detector.network.conf[0](inputs["network.conf.0"][0])
    assert torch.equal(
        first.permute(0, 2, 3, 1).reshape(2, -1, 3), expected.logits[:, : first[0].numel() // 3]
    )
    assert values.keys() == {"classes", "boxes", "noted"}
    own = detector.losses(images, TARGETS)
    assert all(torch.equal(values[key], own[key]) for key in own)


def test_the_detectors_own_losses_are_weighted_by_name_and_terms_are_not():
    detector, images = new_detector().eval(), torch.rand(2, 3, 64, 64)
    own = detector.losses(images, TARGETS)
    with losses_of(detector, (Noted(),), ALONE) as compute:
        noted = compute(images, TARGETS)["noted"]
    with losses_of(detector, (Noted(),), ALONE, {"boxes": 4.0}) as compute:
        values = compute(images, TARGETS)
    expected = {"classes": own["classes"], "boxes": 4 * own["boxes"], "noted": noted}
    assert {key: value.item() for key, value in values.items()} == {k: v.item() for k, v in expected.items()}


def test_looking_for_the_names_of_losses_changes_nothing():
    detector = new_detector().train()
    before = {key: value.clone() for key, value in detector.state_dict().items()}
    random = torch.random.get_rng_state()
    check_weights(detector, {"boxes": 4.0, "classes": 1.0})
    assert all(torch.equal(value, before[key]) for key, value in detector.state_dict().items())
    assert torch.equal(random, torch.random.get_rng_state())
    assert detector.training


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        (
            "ssd_vgg16_bn",
            {"boxs": 4.0},
            r"loss_weights.boxs: ssd_vgg16_bn has no such loss; did you mean boxes\?",
        ),
        (
            "refinedet",
            {"boxes": 2.0, "iou": 4.0},
            "refinedet has no such loss; known: arm_boxes, arm_classes",
        ),
    ],
)
def test_a_weight_of_no_loss_is_one_line(name: str, weights: dict[str, float], message: str):
    detector = build(name, ("a", "b"), size=(64, 64), width=0.0625)
    with pytest.raises(ConfigError, match=message) as caught, losses_of(detector, (), ALONE, weights):
        pass
    assert "\n" not in str(caught.value)


def test_more_weight_on_boxes_brings_their_loss_further_down():
    how = settings(epochs=6, optimizer="adamw", lr=1e-3, schedule="constant")
    last = {
        weight: fit(
            new_detector(), loader(images=4), replace(how, loss_weights={"boxes": weight}), place=ALONE
        )[-1]["boxes"]
        / weight
        for weight in (0.01, 10.0)
    }
    assert last[10.0] < last[0.01]


def test_a_term_is_trained_for_and_stands_in_the_history():
    plain, quiet = new_detector(), new_detector()
    how = settings(epochs=6, optimizer="adamw", lr=1e-3, schedule="constant")
    fit(plain, loader(images=4), how, place=ALONE)
    history = fit(quiet, loader(images=4), how, place=ALONE, terms=(Quiet(1.0),))
    assert history[-1].keys() == {"epoch", "classes", "boxes", "quiet", "lr", "seconds"}
    assert history[-1]["quiet"] < history[0]["quiet"]
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    loud = [model(images).logits.square().mean() for model in (quiet, plain)]
    assert loud[0] < loud[1]


def test_no_hook_outlives_the_training():
    detector = new_detector()
    before = hooks(detector)
    fit(detector, loader(images=4), ONE, place=ALONE, terms=(Noted(),))
    assert hooks(detector) == before
    with pytest.raises(TrainingError):
        fit(detector, loader(images=4), ONE, place=ALONE, terms=(Broken(),))
    assert hooks(detector) == before


def test_a_term_that_is_not_finite_stops_the_training_and_is_named():
    with pytest.raises(
        TrainingError, match=r"the loss is not finite \(classes .*, boxes .*, broken nan\) at epoch 1"
    ):
        fit(new_detector(), loader(images=4), ONE, place=ALONE, terms=(Broken(),))


def test_under_bf16_terms_are_float32():
    detector, term = new_detector(), Noted()
    history = fit(
        detector, loader(images=4), settings(epochs=1, precision="bf16"), place=ALONE, terms=(term,)
    )
    assert term.calls[0][1].logits.dtype == torch.bfloat16
    assert history[0]["noted"] == term.calls[0][1].deltas.float().abs().mean().item()


@pytest.mark.parametrize("breaks", [(1,), (STEPS + 1,), (1, 2)])
def test_a_resumed_training_with_a_term_ends_as_an_unbroken_one_to_the_bit(breaks, tmp_path):
    how = settings(epochs=2)
    unbroken, history = train(None, how=how, terms=(Quiet(0.1),))
    resumed, again = train(tmp_path / "last.pth", how=how, breaks=breaks, terms=(Quiet(0.1),))
    assert all(torch.equal(resumed[key], value) for key, value in unbroken.items())
    assert [entry["quiet"] for entry in again] == [entry["quiet"] for entry in history]


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ((Quiet(0.1),), (Quiet(0.2),), r"quiet=0\.1 \(now 0\.2\)"),
        ((Quiet(0.1),), (), r"quiet=0\.1 \(now None\)"),
        ((), (Quiet(0.1),), r"quiet=None \(now 0\.1\)"),
    ],
)
def test_a_training_is_not_resumed_with_other_terms(before, after, said, tmp_path):
    path = tmp_path / "last.pth"
    fit(new_detector(), loader(images=4), ONE, place=ALONE, terms=before, state_file=path)
    with pytest.raises(
        RunError, match=rf"last.pth is the state of a training with {said}; give this one its own"
    ):
        fit(new_detector(), loader(images=4), ONE, place=ALONE, terms=after, state_file=path)
