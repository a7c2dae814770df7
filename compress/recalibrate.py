"""What is mended after a cut and before any training."""

from collections.abc import Iterable
from itertools import chain

import torch
from torch import Tensor, nn


@torch.no_grad()
def batch_norm_statistics(model: nn.Module, batches: Iterable[Tensor]) -> int:
    """Measures the running mean and variance of every batch norm anew, as plain means over the batches.

    A batch norm behind a cut layer sees other inputs than those its statistics were taken on.

    Args:
        model: left in evaluation mode; only its statistics change.
        batches: what the model takes.

    Returns:
        How many batch norms were measured; with 0, no batch is read.

    Raises:
        ValueError: there are batch norms but no batches; their statistics would be lost.
    """
    norms = [
        module
        for module in model.modules()
        if isinstance(module, nn.BatchNorm2d) and module.track_running_stats
    ]
    if not norms:
        return 0
    remaining = iter(batches)
    first = next(remaining, None)
    if first is None:
        raise ValueError("no batch to measure the statistics on")
    model.eval()
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative mean: every batch counts the same
        norm.training = True  # not train(), which a frozen batch norm ignores
    for batch in chain([first], remaining):
        model(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()
    return len(norms)
