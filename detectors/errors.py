"""Errors that a user can cause.

One family, shown as one line (what, where, why, what to do) and exit status 2.
"""

from collections.abc import Sequence


class UserError(Exception):
    """Something the user can mend; scripts print its message as one line and exit with 2."""


class ConfigError(UserError):
    """A recipe, an override or an option that cannot be read or does not fit."""


class DataError(UserError):
    """A data folder, image or annotation that is missing or broken."""


class UnknownClassError(DataError):
    """An object or category whose class is none of the known ones."""


class CheckpointError(UserError):
    """A weight file that cannot be read, or does not fit the model it is meant for."""


class TrainingError(UserError):
    """Training that cannot go on, such as a loss that is not finite."""


class RunError(UserError):
    """A run folder that cannot be used: locked by another process, read-only, full, or of another run."""


class PlanError(UserError):
    """A budget, ratio or layer glob that no plan can meet."""


class ExportError(UserError):
    """A network that cannot be exported, or an engine that is not installed."""


def sentence(text: object) -> str:
    """A message with a full stop, so that another sentence can follow; a question stays one."""
    return str(text) if str(text).endswith((".", "?")) else f"{text}."


class Interrupted(Exception):
    """A command was stopped by a signal after it saved its state; the message says where it stands."""


def counted(number: int, thing: str) -> str:
    """A number of things: "1 thread", "2 threads"."""
    return f"{number} {thing}{'s' * (number != 1)}"


def some(names: Sequence[str], limit: int = 6) -> str:
    """The first of many names, and how many more there are, so that a message stays one line."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
