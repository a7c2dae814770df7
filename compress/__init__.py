"""Decide what to cut from a detector or any other network, cut it, recover, prove it, report it.

`compress.prune(detector, budget={"macs": "50%"})` is what most programs need; `compress.prune_module` and
`compress.shrink` take any `nn.Module`. They are imported when first used: reading a recipe loads no torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compress.latency.engines import Stopwatch as Stopwatch
    from compress.module import prune_module as prune_module
    from compress.module import shrink as shrink
    from compress.pruning import prune as prune

__all__ = ["Stopwatch", "prune", "prune_module", "shrink"]
_HOMES = {
    "Stopwatch": "compress.latency.engines",
    "prune": "compress.pruning",
    "prune_module": "compress.module",
    "shrink": "compress.module",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'compress' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
