"""Modes of modules for the length of a block, and what torch refuses in one of them."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from detectors.errors import ConfigError
from detectors.geometry import BATCH_NORMS


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Puts models into evaluation mode, and afterwards every module of theirs back into the mode it was in.

    `model.train(was_training)` would not do: a frozen batch norm of a model in training would thaw.
    """
    modes = {module: module.training for model in models for module in model.modules()}
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def frozen_norms(model: nn.Module) -> set[nn.Module]:
    """The batch norms that stay in evaluation mode while their model trains: their statistics are given."""
    with evaluating(model):
        model.train()
        return {one for one in model.modules() if isinstance(one, BATCH_NORMS) and not one.training}


@contextmanager
def several_values(advice: str) -> Iterator[None]:
    """Says in a line what torch says in a traceback: that a batch norm sees one value of each channel.

    Raises:
        ConfigError: a batch of one image, of which a batch norm sees a map of a single value.
    """
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ConfigError(
            "a batch of one image has a map of 1x1 here, of which a batch norm cannot tell the variance; "
            f"{advice}"
        ) from None
