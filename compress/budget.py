"""What a slim network may cost, and how people write it."""

import math
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from compress.cost import Cost
from detectors.errors import PlanError


@dataclass(frozen=True)
class Budget:
    """Upper limits; None: no limit.

    Attributes:
        macs: multiply-adds of one image.
        params: parameters.
    """

    macs: int | None = None
    params: int | None = None

    def holds(self, cost: Cost) -> bool:
        """Whether a cost is within every limit."""
        return all(limit is None or getattr(cost, kind) <= limit for kind, limit in self.limits().items())

    def at_least(self, cost: Cost) -> "Budget":
        """The same limits, none of them below a cost."""
        limits = self.limits().items()
        return Budget(**{kind: None if v is None else max(v, getattr(cost, kind)) for kind, v in limits})

    def limits(self) -> dict[str, int | None]:
        """The limits by the name of the cost they limit."""
        return {"macs": self.macs, "params": self.params}


def parse_limit(text: str | float, first: int, key: str) -> int:
    """A limit as a person writes it: "50%" of `first`, "800M", "1.2G", "300k" or a number.

    Args:
        text: the limit.
        first: the cost that a share is of.
        key: the setting that holds it, for the error's message.

    Raises:
        PlanError: anything else, a limit that is not above zero, or a share above 100%.
    """
    written = str(text).strip()
    units = {"%": Decimal(first) / 100, "k": Decimal(10**3), "M": Decimal(10**6), "G": Decimal(10**9)}
    units["K"] = units["k"]
    number, unit = (written[:-1], units[written[-1]]) if written[-1:] in units else (written, Decimal(1))
    try:
        limit = Decimal(number) * unit
    except InvalidOperation:
        limit = Decimal("nan")
    if not limit.is_finite() or limit < 1:
        raise PlanError(
            f"{key}={written!r} is not a budget; write a share as 50%, or 800M, 1.2G or a number from 1 up"
        )
    if written.endswith("%") and limit > first:
        raise PlanError(f"{key}={written} is more than the whole; write a share from 100% down")
    return math.floor(limit)


def on_the_way(final: Budget, first: Cost, number: int, rounds: int) -> Budget:
    """The limits of one of several rounds: each keeps the same share of what the round before was allowed.

    Args:
        final: what must hold after the last round.
        first: cost of the model that the rounds started from.
        number: of the round, from 1.
        rounds: how many there are.
    """
    limits = {}
    for kind, limit in final.limits().items():
        whole = getattr(first, kind)
        shared = limit is not None and number < rounds
        limits[kind] = math.floor(whole * (limit / whole) ** (number / rounds)) if shared else limit
    return Budget(**limits)
