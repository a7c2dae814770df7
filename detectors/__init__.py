"""Define, feed, train and score detectors.

`detectors.load`, `detectors.save` and `detectors.build` are what most programs need; they are imported when first
used, so that reading a recipe loads no torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detectors.checkpoint import load as load
    from detectors.checkpoint import save as save
    from detectors.models import build as build

__all__ = ["build", "load", "save"]
_HOMES = {"load": "detectors.checkpoint", "save": "detectors.checkpoint", "build": "detectors.models"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'detectors' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
