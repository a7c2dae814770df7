"""What happens to broken samples: stop at the first, or leave them out and keep a line for each."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from detectors.errors import DataError

ADVICE = "Mend it, or set data.on_error=skip to leave it out."


class Faults:
    """Collects the faults of a data set under the policy `data.on_error`.

    Attributes:
        lines: one line for each fault that was passed over.
    """

    def __init__(self, policy: Literal["stop", "skip"]) -> None:
        self.skip = policy == "skip"
        self.lines: list[str] = []

    @contextmanager
    def tolerated(self) -> Iterator[None]:
        """Runs the block; a DataError in it becomes a line, or is raised with the advice what to do."""
        try:
            yield
        except DataError as fault:
            if not self.skip:
                raise DataError(f"{fault}. {ADVICE}") from None
            self.lines.append(str(fault))
