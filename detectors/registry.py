"""Named things that recipes choose from: detectors, datasets, augmentations, metrics, criteria."""

import difflib
import importlib
import os
import pkgutil
import sys
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from detectors.errors import ConfigError, some

T = TypeVar("T")


class Registry(Generic[T]):
    """Functions and classes by name, filled by the decorator `register`.

    The modules of `package` are imported when a name is first asked for, so that a new file in that package
    is found by itself and a mere `import detectors` stays cheap.

    Args:
        kind: what is registered, in the singular, as error messages say it ("detector").
        package: the package whose modules register themselves, or a module that registers all by itself.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self._package = package
        self._entries: dict[str, T] = {}
        self._searched = False

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that adds a function or class under `name`; raises ValueError on a name already taken."""

        def add(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._entries[name] = entry
            return entry

        return add

    def __getitem__(self, name: str) -> T:
        """The entry of that name; raises ConfigError with the nearest names where there is none."""
        self._search()
        if not isinstance(name, str) or name not in self._entries:
            raise ConfigError(f"unknown {self.kind} {name!r}{did_you_mean(str(name), self._entries)}")
        return self._entries[name]

    def names(self) -> list[str]:
        """All names, sorted."""
        self._search()
        return sorted(self._entries)

    def described(self) -> dict[str, str]:
        """Every name with the first line of its docstring."""
        return {name: (self[name].__doc__ or "").strip().split("\n")[0] for name in self.names()}

    def _search(self) -> None:
        if self._searched:
            return
        self._searched = True
        package = importlib.import_module(self._package)
        for module in pkgutil.iter_modules(getattr(package, "__path__", [])):
            importlib.import_module(f"{self._package}.{module.name}")


def join(module: str) -> None:
    """Imports a user's own module, so that what it registers can be named.

    Args:
        module: dotted name, found beside the scripts, in the current folder or on PYTHONPATH.

    Raises:
        ConfigError: it cannot be found, or imports something that cannot.
    """
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"detector.module={module} cannot be imported ({error}); give a dotted name, such as "
            "my_package.my_file, of a file below the current folder or on PYTHONPATH"
        ) from None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The tail of an error message: the nearest of `known`, or what is known where none is near.

    Of many, such as COCO's 80 classes, only the first are named.
    """
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    if near:
        return f"; did you mean {' or '.join(near)}?"
    return f"; known: {some(known, limit=40 if len(known) <= 40 else 6)}"
