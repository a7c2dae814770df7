"""Define, feed, train and score detectors.

`detectors.load`, `detectors.save` and `detectors.build` are what most programs need; they are imported when
first used, so that reading a recipe loads no torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detectors.checkpoint import save as save
    from detectors.images import read_image as read_image
    from detectors.loading import load as load
    from detectors.models import build as build

__all__ = ["build", "load", "read_image", "save"]
_HOMES = {
    "build": "detectors.models",
    "load": "detectors.loading",
    "read_image": "detectors.images",
    "save": "detectors.checkpoint",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'detectors' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
