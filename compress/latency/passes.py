"""How long a forward pass takes on this machine: models in turn, so that all see the same noise."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

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


def finish(device: torch.device) -> None:
    """Waits until a device has done all that it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def device_of(tensor: Tensor) -> str:
    """The name of a tensor's device, as `Latency` has it."""
    return torch.cuda.get_device_name(tensor.device) if tensor.is_cuda else tensor.device.type
