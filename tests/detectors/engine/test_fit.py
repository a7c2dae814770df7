"""Training learns, can be stopped at any step and ends as if it had not been."""

import signal
from pathlib import Path

import pytest
import torch
from training_case import ALONE, STEPS, Disturbed, History, loader, new_detector, send, settings, train

from detectors.checkpoint import read, save
from detectors.engine.loop import fit
from detectors.errors import Interrupted, TrainingError, UserError
from detectors.models.base import Detector
from detectors.types import Batch

SGD = settings()
ADAMW = settings(
    optimizer="adamw",
    lr=2e-3,
    schedule="cosine",
    warmup=0.3,
    decay_norm_and_bias=False,
    clip_norm=5.0,
    channels_last=False,
    save_every=2,
)
MUON = settings(optimizer="muon", lr=2e-3, schedule="linear", decay_norm_and_bias=False)
KINDS = {"sgd": SGD, "adamw": ADAMW, "muon": MUON}


@pytest.fixture(scope="module")
def unbroken() -> dict[str, tuple]:
    return {name: train(None, how=how) for name, how in KINDS.items()}


def losses(history: History) -> list[tuple]:
    return [(entry["epoch"], entry["classes"], entry["boxes"]) for entry in history]


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    different = [key for key in other if not torch.equal(one[key], other[key])]
    assert not different
    assert one.keys() == other.keys()


# With 3 steps in an epoch: inside the first, at its end, at the start of the next, and several times.
@pytest.mark.parametrize(
    ("name", "workers", "breaks"),
    [
        ("sgd", 0, (1,)),
        ("sgd", 0, (STEPS,)),
        ("sgd", 0, (STEPS + 1,)),
        ("sgd", 0, (1, 1, 1, 3, 2)),
        ("sgd", 0, (3 * STEPS,)),
        ("sgd", 1, (2, 2)),
        ("sgd", 2, (5,)),
        ("adamw", 0, (2, 3)),
        ("adamw", 1, (STEPS + 2,)),
        ("muon", 0, (2, 3)),
    ],
)
def test_a_resumed_training_ends_as_an_unbroken_one_to_the_bit(name, workers, breaks, unbroken, tmp_path):
    weights, history = unbroken[name]
    how = KINDS[name]
    resumed, again = train(tmp_path / "last.pth", how=how, workers=workers, breaks=breaks)
    assert_same(resumed, weights)
    assert losses(again) == losses(history)


def test_what_a_detector_draws_by_itself_is_drawn_alike_after_a_break(monkeypatch, tmp_path):
    losses_alone = Detector.losses

    def noisy(self, images, targets):
        return {key: value * torch.rand(()) for key, value in losses_alone(self, images, targets).items()}

    monkeypatch.setattr(Detector, "losses", noisy)
    state = torch.random.get_rng_state()
    weights, history = train(None, how=SGD)
    torch.manual_seed(123)
    resumed, again = train(tmp_path / "last.pth", how=SGD, breaks=(1, STEPS + 1))
    assert_same(resumed, weights)
    assert losses(again) == losses(history)
    other, _ = train(None, how=settings(seed=1))
    assert any(not torch.equal(other[key], weights[key]) for key in weights)
    torch.random.set_rng_state(state)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_changes_nothing(workers, unbroken):
    weights, history = train(None, how=SGD, workers=workers)
    assert_same(weights, unbroken["sgd"][0])
    assert losses(history) == losses(unbroken["sgd"][1])


def test_the_history_of_a_resumed_training_names_the_same_learning_rates(unbroken, tmp_path):
    _, history = train(tmp_path / "last.pth", how=ADAMW, breaks=(STEPS + 2,))
    assert [entry["lr"] for entry in history] == [entry["lr"] for entry in unbroken["adamw"][1]]


def test_history_holds_a_line_for_each_epoch(unbroken):
    _, history = unbroken["sgd"]
    assert [entry["epoch"] for entry in history] == [1, 2, 3]
    # multistep: a tenth after 0.67 of the training, which is after the first step of the last epoch.
    assert [entry["lr"] for entry in history] == pytest.approx([1e-2, 1e-2, 1e-2])
    assert all(entry.keys() == {"epoch", "classes", "boxes", "lr", "seconds"} for entry in history)


def test_a_finished_training_is_not_trained_again(unbroken, tmp_path):
    weights, history = train(tmp_path / "last.pth", how=SGD)
    before = (tmp_path / "last.pth").read_bytes()
    again, same = train(tmp_path / "last.pth", how=SGD)
    assert_same(again, weights)
    assert same == history
    assert (tmp_path / "last.pth").read_bytes() == before


def test_the_loss_falls():
    how = settings(epochs=10, optimizer="adamw", lr=3e-3, schedule="constant")
    detector = new_detector()
    history = fit(detector, loader(images=12), how, place=ALONE)
    first, last = (history[k]["classes"] + history[k]["boxes"] for k in (0, -1))
    assert last < 0.6 * first
    assert not detector.training


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_answered_with_where_it_stopped_and_what_was_saved(number, tmp_path):
    state_file = tmp_path / "run" / "last.pth"
    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as caught:
        fit(new_detector(), Disturbed(loader(), 5, send(number)), SGD, place=ALONE, state_file=state_file)
    assert str(caught.value) == f"stopped after 1 epoch and 2 steps; saved {state_file}"
    training = read(state_file)["training"]
    assert (training["epoch"], training["step"], len(training["history"])) == (1, 2, 1)
    assert signal.getsignal(number) is before
    with pytest.raises(Interrupted) as caught:
        fit(new_detector(), Disturbed(loader(), 1, send(number)), SGD, place=ALONE)
    assert str(caught.value) == "stopped after 0 epochs and 1 step"


def test_resuming_says_so(tmp_path, capsys):
    train(tmp_path / "last.pth", how=SGD, breaks=(STEPS + 2,))
    lines = capsys.readouterr().out.splitlines()
    assert f"resuming {tmp_path / 'last.pth'} after epoch 1, step 2" in lines
    assert [line.split(":")[0] for line in lines if line.startswith("training 3/3")] == ["training 3/3"]


class Poisoned:
    """Batches whose images are not numbers from a step on."""

    def __init__(self, at: int) -> None:
        self.inner, self.at = loader(), at
        self.steps = self.inner.steps

    def epoch(self, epoch: int, first_step: int = 0):
        for step, batch in enumerate(self.inner.epoch(epoch, first_step)):
            bad = epoch * self.steps + step + 1 >= self.at
            images = batch.images * torch.nan if bad else batch.images
            yield Batch(images, batch.targets, batch.sizes, batch.indices)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_epoch(tmp_path, unbroken):
    state_file = tmp_path / "last.pth"
    with pytest.raises(TrainingError) as caught:
        fit(new_detector(), Poisoned(at=STEPS + 2), SGD, place=ALONE, state_file=state_file)
    message = str(caught.value)
    assert message.startswith("the loss is not finite (classes nan, boxes nan) at epoch 2, step 2; ")
    assert f"the last good checkpoint is {state_file}; lower the learning rate" in message
    training = read(state_file)["training"]
    assert (training["epoch"], training["step"]) == (1, 0)
    weights, _ = train(state_file, how=SGD)
    assert_same(weights, unbroken["sgd"][0])


def test_a_loss_that_is_not_finite_at_once_names_no_checkpoint(tmp_path):
    with pytest.raises(TrainingError, match=r"at epoch 1, step 1; lower the learning rate"):
        fit(new_detector(), Poisoned(at=1), SGD, place=ALONE, state_file=tmp_path / "last.pth")
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    # The only step of the only epoch ruins them: no later loss can tell.
    how = settings(epochs=1, lr=1e38, weight_decay=0.0)
    with pytest.raises(TrainingError, match=r"^network\.\S+ is not finite after epoch 1; lower the learning"):
        fit(new_detector(), loader(images=4), how, place=ALONE, state_file=tmp_path / "last.pth")
    assert list(tmp_path.iterdir()) == []


def weights_alone(path: Path) -> None:
    save(new_detector(), path)


def of_other_classes(path: Path) -> None:
    detector = new_detector(classes=("cat", "dog", "owl"))
    fit(detector, loader(images=4), settings(epochs=1), place=ALONE, state_file=path)


def of_nothing(path: Path) -> None:
    path.write_bytes(b"half a checkpoi")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (weights_alone, r"last.pth holds weights but no training state; start from it with model="),
        (
            of_other_classes,
            r"last.pth is the state of a training with other weights; give this one its own folder with out=",
        ),
        (of_nothing, r"last.pth \(15 bytes\) is truncated"),
    ],
)
def test_a_state_file_that_cannot_be_resumed_is_one_line_and_left_alone(make, message, tmp_path):
    path = tmp_path / "last.pth"
    make(path)
    before = path.read_bytes()
    # A state that is complete would not be trained on, so there must be more to do.
    with pytest.raises(UserError, match=message) as caught:
        fit(new_detector(), loader(), settings(epochs=2), place=ALONE, state_file=path)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before


def test_clipping_bounds_the_step():
    detector = new_detector()
    before = [p.detach().clone() for p in detector.parameters()]
    how = settings(epochs=1, lr=1.0, weight_decay=0.0, clip_norm=1e-3)
    fit(detector, loader(images=4), how, place=ALONE)
    moved = [(p.detach() - b).flatten() for p, b in zip(detector.parameters(), before, strict=True)]
    assert torch.cat(moved).norm().item() == pytest.approx(1e-3, rel=1e-3)


def test_bf16_trains_float32_weights():
    detector = new_detector()
    history = fit(detector, loader(images=4), settings(epochs=2, precision="bf16"), place=ALONE)
    assert {p.dtype for p in detector.parameters()} == {torch.float32}
    full = fit(new_detector(), loader(images=4), settings(epochs=2), place=ALONE)
    assert history[0]["classes"] == pytest.approx(full[0]["classes"], rel=0.05)
    assert history[0]["classes"] != full[0]["classes"]


def test_a_loss_that_is_not_finite_elsewhere_is_not_shown_as_one_s_own(monkeypatch):
    monkeypatch.setattr("detectors.engine.loop.any_rank", lambda own, place: True)
    with pytest.raises(
        TrainingError, match=r"the loss is not finite \(in another process\) at epoch 1, step 1"
    ):
        train(None, how=SGD)
