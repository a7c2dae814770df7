"""Decide what to cut from a detector, cut it, recover, prove it, report it.

`compress.prune(detector, budget={"macs": "50%"})` is what most programs need; it is imported when first used,
so that reading a recipe loads no torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compress.pruning import prune as prune

__all__ = ["prune"]


def __getattr__(name: str) -> Any:
    if name != "prune":
        raise AttributeError(f"module 'compress' has no attribute {name!r}")
    from compress.pruning import prune

    return prune
