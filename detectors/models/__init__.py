"""The networks: one paper, one file; each builder is registered by name."""

import inspect
from collections.abc import Callable, Sequence
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

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
    known = defaults(name)
    for option in options:
        if option not in known:
            hint = did_you_mean(option, known) if known else "; it has no options"
            raise ConfigError(f"{name} has no option {option!r}{hint}")
    hints = get_type_hints(builder)
    for option, value in options.items():
        if not _fits(value, hints[option]):
            wanted = str(hints[option]).replace("typing.", "").replace("<class '", "").replace("'>", "")
            raise ConfigError(f"{name}: {option}={value!r} does not fit; it takes {wanted}")
    return builder(DetectorSpec(name, tuple(classes), dict(options)), **options)


def defaults(name: str) -> dict[str, Any]:
    """The options of a builder with their defaults; raises ConfigError for an unknown name."""
    parameters = inspect.signature(DETECTORS[name]).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def _fits(value: Any, hint: Any) -> bool:
    """Whether a plain value is of an option's type; a list serves as a tuple, a whole number as a float."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return value in arguments
    if origin in (UnionType, Union):
        return any(_fits(value, argument) for argument in arguments)
    if hint is None or hint is NoneType:
        return value is None
    if origin is tuple:
        if not isinstance(value, list | tuple):
            return False
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return all(_fits(item, arguments[0]) for item in value)
        return len(value) == len(arguments) and all(map(_fits, value, arguments))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is hint
