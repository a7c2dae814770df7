"""How long a forward pass takes on this machine: models in turn, so that all see the same noise."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from detectors.modes import evaluating

_WARM_UP = 3


@dataclass(frozen=True)
class Latency:
    """The forward pass of one model.

    Attributes:
        median_ms: half of the runs were faster, milliseconds.
        p90_ms: nine of ten runs were faster.
        runs: timed passes.
        batch: images in a pass.
        threads: CPU threads of torch.
        device: where it ran.
    """

    median_ms: float
    p90_ms: float
    runs: int
    batch: int
    threads: int
    device: str


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
    seconds = torch.zeros(len(models), runs, dtype=torch.float64)
    with torch.inference_mode(), evaluating(*models):
        for turn in range(-_WARM_UP, runs):
            for place, model in enumerate(models):
                _finish(inputs)
                started = clock()
                model(inputs)
                _finish(inputs)
                if turn >= 0:
                    seconds[place, turn] = clock() - started
    median, p90 = (seconds.quantile(share, dim=1) * 1000 for share in (0.5, 0.9))
    device = torch.cuda.get_device_name(inputs.device) if inputs.is_cuda else inputs.device.type
    facts = (runs, len(inputs), torch.get_num_threads(), device)
    return [Latency(float(m), float(p), *facts) for m, p in zip(median, p90, strict=True)]


def _finish(inputs: Tensor) -> None:
    if inputs.is_cuda:
        torch.cuda.synchronize(inputs.device)
