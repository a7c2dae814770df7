"""`fit`: the one training loop, which can be stopped and resumed at any step."""

import math
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from detectors.checkpoint import checkpoint_of, fingerprint, read, write
from detectors.checkpoint import parse as parse_checkpoint
from detectors.data.samples import stable_seed
from detectors.engine.console import steps
from detectors.engine.distributed import Place, any_rank, share_buffers, wait
from detectors.engine.optim import lr_factor, optimizer_of, schedule_of
from detectors.engine.terms import Term, losses_of, settings_of
from detectors.errors import CheckpointError, Interrupted, RunError, TrainingError, counted
from detectors.memory_format import to_channels_last
from detectors.models.base import Detector
from detectors.modes import several_values
from detectors.settings import TrainConfig
from detectors.types import Batch


class Loader(Protocol):
    """Batches in an order, and with random numbers, that depend on the epoch alone."""

    steps: int

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from a step on."""
        ...


@dataclass
class Progress:
    """How far a training is.

    Attributes:
        epoch: epochs completed.
        step: steps done in the epoch under way.
        sums: loss terms summed over those steps.
        history: for each completed epoch its number and mean loss terms.
    """

    epoch: int = 0
    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)


def fit(
    detector: Detector,
    loader: Loader,
    settings: TrainConfig,
    *,
    place: Place,
    terms: Sequence[Term] = (),
    state_file: Path | None = None,
    title: str = "training",
) -> list[dict[str, float]]:
    """Trains a detector in place and leaves it in evaluation mode.

    A run that was stopped goes on from `state_file` and ends, on a CPU with the same thread count, with the
    weights of an unbroken run to the bit: what is random hangs on seed, epoch and step alone.

    Args:
        detector: already on `place.device`.
        loader: the training data.
        settings: epochs, optimizer and schedule.
        place: this process among those that train together.
        terms: parts of the loss beside the detector's own.
        state_file: where to keep the resumable state; None: nowhere.
        title: in front of the progress bar.

    Returns:
        For each epoch its number, mean loss terms, learning rate and seconds.

    Raises:
        ConfigError: batches of one image that a batch norm cannot train on, or a weight of no loss.
        TrainingError: a loss or weight that is not finite; the state file then holds the last good epoch.
        Interrupted: SIGINT or SIGTERM came; the state file holds the step it came at.
    """
    if settings.channels_last:
        to_channels_last(detector)
    identity = _identity(detector, loader, settings, terms)
    optimizer = optimizer_of(detector, settings)
    schedule = schedule_of(optimizer, settings, settings.epochs * loader.steps)
    progress = Progress()
    if state_file is not None and state_file.exists():
        progress = _resume(state_file, detector, optimizer, schedule, identity)
        if place.leads:
            print(f"resuming {state_file} after epoch {progress.epoch}, step {progress.step}", flush=True)

    def keep() -> None:
        share_buffers(detector, place)
        _check_weights(detector, state_file, progress)
        if state_file is not None and place.leads:
            _save(state_file, detector, optimizer, schedule, progress, identity)
        wait(place)

    detector.train()
    weighted = losses_of(detector, terms, place, settings.loss_weights)
    with _stop_signals() as stop, weighted as compute, torch.random.fork_rng():
        while progress.epoch < settings.epochs:
            started = time.monotonic()
            # Of the epoch's first step, also where this process starts inside the epoch.
            rate = settings.lr * lr_factor(settings, progress.epoch / settings.epochs)
            name = f"{title} {progress.epoch + 1}/{settings.epochs}"
            with steps(name, loader.steps, done=progress.step, show=place.leads) as report:
                for batch in loader.epoch(progress.epoch, progress.step):
                    # What a detector draws by itself, such as dropout or the proposals that a second stage
                    # trains on.
                    torch.manual_seed(stable_seed(settings.seed, progress.epoch, progress.step, place.rank))
                    try:
                        with several_values("raise `batch` to 2 or more for each process"):
                            values = _step(compute, batch.to(place.device), optimizer, settings, place)
                    except FloatingPointError as error:
                        where = f"epoch {progress.epoch + 1}, step {progress.step + 1}"
                        raise TrainingError(f"{error} at {where}; {_last_good(state_file)}") from None
                    schedule.step()
                    progress.step += 1
                    for key, value in values.items():
                        progress.sums[key] = progress.sums.get(key, 0.0) + value
                    mean = sum(progress.sums.values()) / progress.step
                    report(f"loss {mean:.3f}, lr {rate:.2g}", images=len(batch.targets))
                    if any_rank(stop.is_set(), place):
                        keep()
                        raise Interrupted(_stopped(progress, state_file))
            means = {key: total / max(progress.step, 1) for key, total in progress.sums.items()}
            seconds = time.monotonic() - started
            progress.history.append({"epoch": progress.epoch + 1, **means, "lr": rate, "seconds": seconds})
            progress = Progress(progress.epoch + 1, 0, {}, progress.history)
            if progress.epoch % settings.save_every == 0 or progress.epoch == settings.epochs:
                keep()
                if any_rank(stop.is_set(), place):
                    raise Interrupted(_stopped(progress, state_file))
    detector.eval()
    return progress.history


def _step(
    compute: nn.Module,
    batch: Batch,
    optimizer: torch.optim.Optimizer,
    settings: TrainConfig,
    place: Place,
) -> dict[str, float]:
    """One optimizer step; the values of the loss terms.

    Raises:
        FloatingPointError: a loss of any process is not finite; the weights are as they were.
    """
    images = batch.images
    if settings.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
        parts: dict[str, Tensor] = compute(images, batch.targets)
    loss = torch.stack(list(parts.values())).sum()
    values = {key: float(value.detach()) for key, value in parts.items()}
    # Asked before the backward pass, in which all processes meet: one that left would keep them waiting.
    if any_rank(not all(map(math.isfinite, values.values())), place):
        text = ", ".join(f"{key} {value:g}" for key, value in values.items())
        own = not all(map(math.isfinite, values.values()))
        raise FloatingPointError(f"the loss is not finite ({text if own else 'in another process'})")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if settings.clip_norm is not None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(parameters, settings.clip_norm)
    optimizer.step()
    return values


def _check_weights(detector: Detector, state_file: Path | None, progress: Progress) -> None:
    for name, tensor in detector.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise TrainingError(
                f"{name} is not finite after epoch {progress.epoch}; {_last_good(state_file)}"
            )


def _stopped(progress: Progress, state_file: Path | None) -> str:
    saved = f"; saved {state_file}" if state_file is not None else ""
    return f"stopped after {counted(progress.epoch, 'epoch')} and {counted(progress.step, 'step')}{saved}"


def _last_good(state_file: Path | None) -> str:
    kept = (
        f"the last good checkpoint is {state_file}; "
        if state_file is not None and state_file.exists()
        else ""
    )
    return (
        f"{kept}lower the learning rate, add warm-up or set clip_norm, and start again with another out=PATH"
    )


def _save(
    path: Path,
    detector: Detector,
    optimizer: torch.optim.Optimizer,
    schedule: Any,
    progress: Progress,
    identity: dict[str, Any],
) -> None:
    training = {
        "identity": identity,
        "optimizer": optimizer.state_dict(),
        "schedule": {"last_epoch": schedule.last_epoch, "last_lr": schedule.get_last_lr()},
        "epoch": progress.epoch,
        "step": progress.step,
        "sums": progress.sums,
        "history": progress.history,
    }
    write(path, checkpoint_of(detector), training=training)


def _identity(
    detector: Detector, loader: Loader, settings: TrainConfig, terms: Sequence[Term]
) -> dict[str, Any]:
    """What a resumed training must have in common with the one that was stopped."""
    free = ("save_every", "sparsity")  # `sparsity` is told by its term
    kept = {key: value for key, value in asdict(settings).items() if key not in free}
    return {"start": fingerprint(detector), "steps": loader.steps, **kept, **settings_of(terms)}


def _resume(
    path: Path,
    detector: Detector,
    optimizer: torch.optim.Optimizer,
    schedule: Any,
    identity: dict[str, Any],
) -> Progress:
    payload = read(path)
    checkpoint = parse_checkpoint(payload, str(path))
    if "training" not in payload:
        raise CheckpointError(
            f"{path} holds weights but no training state; start from it with model={path} out=PATH"
        )
    before = payload["training"]["identity"]
    for key in [*identity, *before]:
        if before.get(key) != identity.get(key):
            what = "other weights" if key == "start" else f"{key}={before.get(key)} (now {identity.get(key)})"
            raise RunError(
                f"{path} is the state of a training with {what}; "
                "give this one its own folder with out=PATH, or delete that file to start over"
            )
    detector.load_state_dict(checkpoint.state)
    training = payload["training"]
    optimizer.load_state_dict(training["optimizer"])
    schedule.load_state_dict(
        {**schedule.state_dict(), **training["schedule"], "_last_lr": training["schedule"]["last_lr"]}
    )
    return Progress(training["epoch"], training["step"], dict(training["sums"]), list(training["history"]))


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """Turns SIGINT and SIGTERM into a flag, so that the step under way is finished.

    A second one stops at once.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_signal(number: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    for number in before:
        signal.signal(number, on_signal)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
