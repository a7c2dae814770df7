"""What happens to broken samples: stop at the first, or leave them out and keep a line for each."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from detectors.errors import DataError, sentence


class Faults:
    """Takes in the faults of a data set under the policy `data.on_error`.

    Attributes:
        skip: whether faults are passed over.
        lines: one line for each fault that was.
    """

    def __init__(self, policy: Literal["stop", "skip"]) -> None:
        """Starts without any."""
        self.skip = policy == "skip"
        self.lines: list[str] = []

    @contextmanager
    def tolerated(self) -> Iterator[None]:
        """Runs the block; under "skip" a DataError ends the block only and becomes a line."""
        try:
            yield
        except DataError as fault:
            if not self.skip:
                raise
            self.lines.append(str(fault))


@contextmanager
def advised() -> Iterator[None]:
    """Runs the block; a DataError that leaves it says what can be done about a broken sample."""
    try:
        yield
    except DataError as fault:
        advice = "Mend it, or set data.on_error=skip to leave it out."
        raise type(fault)(f"{sentence(fault)} {advice}") from None
