"""A small training that the engine's tests break off, resume and compare, in this process and in others."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch

from detectors.data import build as build_data
from detectors.data.loader import TrainLoader, train_loader
from detectors.engine.distributed import Place, joined
from detectors.engine.loop import Loader, fit
from detectors.engine.terms import Seen, Term
from detectors.errors import Interrupted
from detectors.models import build
from detectors.models.base import Detector
from detectors.settings import DataConfig, SyntheticConfig, TrainConfig
from detectors.types import Batch

ALONE = Place(0, 1, torch.device("cpu"))
STEPS = 3  # in an epoch: 11 images in batches of 4
SIZE = (64, 64)
CLASSES = ("cat", "dog")

History = list[dict[str, float]]


def new_detector(seed: int = 0, classes: tuple[str, ...] = CLASSES) -> Detector:
    torch.manual_seed(seed)
    return build("ssd_vgg16_bn", classes, size=list(SIZE), width=0.0625)


def loader(*, workers: int = 0, images: int = 11, place: Place = ALONE) -> TrainLoader:
    knobs = SyntheticConfig(train=images, size=[72, 72], classes=2, objects=[1, 2], clutter=0.2)
    config = DataConfig(name="synthetic", train=["train"], test=["test"], synthetic=knobs)
    return train_loader(
        build_data(config, "train"),
        size=SIZE,
        batch=4,
        augment="light",
        seed=3,
        workers=workers,
        rank=place.rank,
        world=place.world,
    )


def settings(**changes: object) -> TrainConfig:
    return TrainConfig(**{"epochs": 3, "batch": 4, "lr": 1e-2, **changes})  # type: ignore[arg-type]


class Quiet:
    """A term: how loud raw outputs, and what the first head reads, are in the mean of squares."""

    layers: Sequence[str] = ("network.conf.0",)

    def __init__(self, weight: float) -> None:
        self.settings: Mapping[str, float] = {"quiet": weight}
        self.weight = weight

    def __call__(self, detector: Detector, images: torch.Tensor, seen: Seen) -> dict[str, torch.Tensor]:
        (read,) = seen.inputs["network.conf.0"]
        loud = seen.outputs.logits.float().square().mean() + read.float().square().mean()
        return {"quiet": self.weight * loud}


class Disturbed:
    """A loader that does something just before it gives the n-th batch of the run, counted from 1."""

    def __init__(self, inner: Loader, at: int, act: Callable[[], object]) -> None:
        self.inner, self.at, self.act = inner, at, act
        self.steps = inner.steps
        self.given = 0

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        for batch in self.inner.epoch(epoch, first_step):
            self.given += 1
            if self.given == self.at:
                self.act()
            yield batch


def send(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def train(
    state_file: Path | None,
    *,
    how: TrainConfig,
    workers: int = 0,
    breaks: tuple[int, ...] = (),
    terms: Sequence[Term] = (),
) -> tuple[dict[str, torch.Tensor], History]:
    """The weights and history of a training that Ctrl-C stops after the named steps, each counted anew."""
    for at in breaks:
        try:
            fit(
                new_detector(),
                Disturbed(loader(workers=workers), at, send(signal.SIGINT)),
                how,
                place=ALONE,
                terms=terms,
                state_file=state_file,
            )
        except Interrupted:
            continue
        raise AssertionError(f"the training was not interrupted at step {at}")
    detector = new_detector()
    history = fit(detector, loader(workers=workers), how, place=ALONE, terms=terms, state_file=state_file)
    return detector.state_dict(), history


def together(folder: Path) -> None:
    """One of several processes: trains unbroken, then stopped by a signal to rank 1 alone, then resumed."""
    how = settings(epochs=2)
    with joined() as place:
        whole = new_detector(seed=place.rank)  # rank 0's weights must win
        fit(whole, loader(place=place), how, place=place, state_file=folder / "whole.pth")
        torch.save(whole.state_dict(), folder / f"whole.{place.rank}.pth")
        batches: Loader = loader(place=place)
        if place.rank == 1:
            batches = Disturbed(batches, STEPS + 1, send(signal.SIGINT))
        try:
            fit(new_detector(), batches, how, place=place, state_file=folder / "broken.pth")
        except Interrupted as stop:
            (folder / f"stop.{place.rank}.txt").write_text(str(stop))
        resumed = new_detector()
        fit(resumed, loader(place=place), how, place=place, state_file=folder / "broken.pth")
        torch.save(resumed.state_dict(), folder / f"resumed.{place.rank}.pth")


def together_with_a_term(folder: Path) -> None:
    """One of several processes that train with a term."""
    with joined() as place:
        detector = new_detector()
        history = fit(detector, loader(place=place), settings(epochs=2), place=place, terms=(Quiet(1e-3),))
        torch.save((detector.state_dict(), history), folder / f"term.{place.rank}.pth")


def killed(folder: Path) -> None:
    """Trains with two workers until, in its second epoch, this process is killed."""
    # The workers outlive it for some seconds, and would complain on the terminal.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    _disturbed(folder, send(signal.SIGKILL))


def stopped_from_the_terminal(folder: Path) -> None:
    """Trains with two workers until Ctrl-C, which a terminal sends to the workers as well."""
    os.setsid()
    try:
        _disturbed(folder, lambda: os.killpg(os.getpgid(0), signal.SIGINT))
    except Interrupted as stop:
        (folder / "stop.txt").write_text(str(stop))


def _disturbed(folder: Path, act: Callable[[], object]) -> None:
    batches = Disturbed(loader(workers=2), STEPS + 2, act)
    fit(new_detector(), batches, settings(), place=ALONE, state_file=folder / "last.pth")


def in_process(work: Callable[[Path], None], folder: Path, threads: int, variables: dict[str, str]) -> None:
    """What a process of a test runs: on the CPU, with the test's own number of threads."""
    # As in any program; otherwise loader workers would come from the test's fork server as well.
    multiprocessing.set_start_method("fork", force=True)
    os.environ.update(variables, CUDA_VISIBLE_DEVICES="")
    torch.set_num_threads(threads)
    work(folder)
