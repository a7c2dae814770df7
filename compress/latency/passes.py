"""How long a forward pass takes on this machine: models in turn, so that all see the same noise."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from detectors.modes import evaluating

WARM_UP = 3


@dataclass(frozen=True)
class Latency:
    """The forward pass of one model.

    Attributes:
        median_ms: half of the runs were faster, milliseconds.
        p90_ms: nine of ten runs were faster.
        runs: timed passes.
        batch: images in a pass.
        threads: CPU threads of the engine.
        device: where it ran.
        engine: what ran it.
    """

    median_ms: float
    p90_ms: float
    runs: int
    batch: int
    threads: int
    device: str
    engine: str = "torch"


def measure(
    models: Sequence[nn.Module], inputs: Tensor, *, runs: int, clock: Callable[[], float] = time.perf_counter
) -> list[Latency]:
    """Times models in turn: one pass of each, then the next pass of each, and so on.

    Args:
        models: on the device of `inputs`; timed in evaluation mode and left in the mode they were in.
        inputs: `[B, 3, H, W]`.
        runs: timed passes of each model, after three untimed ones.
        clock: gives seconds; tests give one of their own.
    """
    with torch.inference_mode(), evaluating(*models):
        calls = [lambda model=model: model(inputs) for model in models]
        times = in_turn(calls, runs=runs, clock=clock, finish=lambda: finish(inputs))
    threads, device = torch.get_num_threads(), device_of(inputs)
    return [Latency(*quantiles(row), runs, len(inputs), threads, device) for row in times]


def in_turn(
    calls: Sequence[Callable[[], object]],
    *,
    runs: int,
    clock: Callable[[], float] = time.perf_counter,
    finish: Callable[[], None] = lambda: None,
) -> Tensor:
    """Milliseconds of calls in turn, `[calls, runs]` float64, after three untimed turns.

    Args:
        calls: what is timed.
        runs: timed turns.
        clock: gives seconds.
        finish: waits for a device that works on its own.
    """
    seconds = torch.zeros(len(calls), runs, dtype=torch.float64)
    for turn in range(-WARM_UP, runs):
        for place, call in enumerate(calls):
            finish()
            started = clock()
            call()
            finish()
            if turn >= 0:
                seconds[place, turn] = clock() - started
    return seconds * 1000


def quantiles(times: Tensor) -> tuple[float, float]:
    """Median and ninth tenth of some times, `[runs]`."""
    median, p90 = (float(times.quantile(share)) for share in (0.5, 0.9))
    return median, p90


def finish(tensor: Tensor) -> None:
    """Waits until the device of a tensor has done all that it was told."""
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)


def device_of(tensor: Tensor) -> str:
    """The name of a tensor's device, as `Latency` has it."""
    return torch.cuda.get_device_name(tensor.device) if tensor.is_cuda else tensor.device.type
