"""What is mended after a cut and before any training."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import TypeVar

import torch
from torch import Tensor, nn

from detectors.geometry import BATCH_NORMS
from detectors.modes import frozen_norms, several_values

Model = TypeVar("Model", bound=nn.Module)


@torch.no_grad()
def batch_norm_statistics(
    model: Model, batches: Iterable[Tensor], run: Callable[[Model, Tensor], object] = nn.Module.__call__
) -> int:
    """Measures the running mean and variance of every batch norm anew, as plain means over the batches.

    A batch norm behind a cut layer sees other inputs than those its statistics were taken on. Frozen ones
    stay as they are: theirs may be of other data than the network was trained on, and then it would change by
    far more than by the cut.

    Args:
        model: left in evaluation mode; only its statistics change.
        batches: what `run` takes.
        run: makes a pass through the model that reaches its batch norms with what they see in use.

    Returns:
        How many batch norms were measured; with 0, no batch is read.

    Raises:
        ValueError: there are batch norms but no batches; their statistics would be lost.
    """
    if not _norms(model):
        return 0
    remaining = iter(batches)
    first = next(remaining, None)
    if first is None:
        raise ValueError("no batch to measure the statistics on")
    model.eval()
    with measuring(model):
        for batch in chain([first], remaining):
            run(model, batch)
    return len(_norms(model))


@contextmanager
def measuring(model: nn.Module) -> Iterator[None]:
    """While active, batch norms normalise by the batch at hand and keep the mean over the batches.

    Raises:
        ConfigError: a single image is all there is, and a map of it a single value.
    """
    norms = _norms(model)
    before = [(norm.momentum, norm.training) for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative mean: every batch counts the same
        norm.training = True
    try:
        with several_values("raise prune.calibration_images to 2 or more"):
            yield
    finally:
        for norm, (momentum, training) in zip(norms, before, strict=True):
            norm.momentum, norm.training = momentum, training


def _norms(model: nn.Module) -> list[BATCH_NORMS]:
    frozen = frozen_norms(model)
    norms = (module for module in model.modules() if isinstance(module, BATCH_NORMS))
    return [norm for norm in norms if norm.track_running_stats and norm not in frozen]
