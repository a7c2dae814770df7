"""The networks: one paper, one file; each builder is registered by name."""

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from detectors.errors import ConfigError
from detectors.registry import Registry, did_you_mean
from detectors.types import DetectorSpec

if TYPE_CHECKING:
    from detectors.models.base import Detector


# A function of the spec and of keyword options, each with a default, that gives a detector with initial
# weights.
Builder: TypeAlias = Callable[..., "Detector"]

DETECTORS: Registry[Builder] = Registry("detector", "detectors.models")


def build(name: str, classes: Sequence[str], **options: Any) -> "Detector":
    """A new, full detector of the registry with initial weights.

    Args:
        name: as `--list` shows it.
        classes: class names, without a background.
        options: keyword options of that builder; plain data only.

    Raises:
        ConfigError: an unknown name or option, an option's value that does not fit, no classes or a class
        twice.
    """
    builder = DETECTORS[name]
    if not classes or len(set(classes)) != len(classes):
        raise ConfigError(f"{name} needs class names, each once; got {list(classes)}")
    known = [p.name for p in inspect.signature(builder).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for option in options:
        if option not in known:
            hint = did_you_mean(option, known) if known else "; it has no options"
            raise ConfigError(f"{name} has no option {option!r}{hint}")
    return builder(DetectorSpec(name, tuple(classes), dict(options)), **options)
