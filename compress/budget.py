"""What a slim network may cost, and how people write it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from typing import Any

from compress.cost import Cost
from detectors.errors import PlanError


@dataclass(frozen=True)
class Milliseconds:
    """A limit on what a whole network takes, by the clock.

    Attributes:
        ms: milliseconds, or
        share: of what the first network takes, 0..1.
        way: the part of the way there that is gone, on a scale of shares, 0..1; 1: all of it.
    """

    ms: float | None = None
    share: float | None = None
    way: float = 1.0

    def of(self, first: float) -> float:
        """In milliseconds, where the first network takes `first`."""
        final = self.ms if self.share is None else self.share * first
        assert final is not None, "either milliseconds or a share is given"
        return final if final >= first else first * (final / first) ** self.way


@dataclass(frozen=True)
class Budget:
    """Upper limits; None: no limit.

    Attributes:
        macs: multiply-adds of one image.
        params: parameters.
        latency: milliseconds of the whole network, measured.
        table_ms: milliseconds of a table, summed over the layers: what plans are made by where `latency` is
            limited.
    """

    macs: int | None = None
    params: int | None = None
    latency: Milliseconds | None = None
    table_ms: float | None = None

    def holds(self, cost: Cost) -> bool:
        """Whether a cost is within every limit that can be counted."""
        return all(limit is None or getattr(cost, kind) <= limit for kind, limit in self._counted().items())

    def at_least(self, cost: Cost) -> "Budget":
        """The same limits, none of those that can be counted below a cost."""
        macs = None if self.macs is None else max(self.macs, cost.macs)
        params = None if self.params is None else max(self.params, cost.params)
        return replace(self, macs=macs, params=params)

    def limits(self) -> dict[str, Any]:
        """The limits on sums over layers, by the name of the cost they limit."""
        return {**self._counted(), "table_ms": self.table_ms}

    @property
    def given(self) -> bool:
        """Whether there is any limit."""
        return self.latency is not None or any(limit is not None for limit in self.limits().values())

    def _counted(self) -> dict[str, int | None]:
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


def parse_milliseconds(text: str | float, key: str) -> Milliseconds:
    """A limit on time as a person writes it: "50%" of the first network's, "12" or 12.5 milliseconds.

    Raises:
        PlanError: anything else, or a limit that is not above zero, or a share above 100%.
    """
    written = str(text).strip()
    share = written.endswith("%")
    try:
        limit = float(written.removesuffix("%"))
    except ValueError:
        limit = math.nan
    if not 0 < limit < math.inf:
        raise PlanError(
            f"{key}={written!r} is not a time; write milliseconds as 12 or 12.5, or a share as 50%"
        )
    if share and limit > 100:
        raise PlanError(f"{key}={written} is more than the whole; write a share from 100% down")
    return Milliseconds(share=limit / 100) if share else Milliseconds(ms=limit)


def parse_budget(texts: Mapping[str, str | float], first: Cost, key: str) -> Budget:
    """Limits on "macs", "params" and "latency_ms" as a person writes them.

    Args:
        texts: kind of cost -> limit.
        first: the cost that shares of MACs and parameters are of.
        key: the setting that holds them, for the error's message.

    Raises:
        PlanError: a limit that is none.
    """
    counted = {
        kind: parse_limit(text, getattr(first, kind), f"{key}.{kind}")
        for kind, text in texts.items()
        if kind != "latency_ms"
    }
    time = texts.get("latency_ms")
    return Budget(
        counted.get("macs"),
        counted.get("params"),
        None if time is None else parse_milliseconds(time, f"{key}.latency_ms"),
    )


def on_the_way(final: Budget, first: Cost, number: int, rounds: int) -> Budget:
    """The limits of one of several rounds: each keeps the same share of what the round before was allowed.

    Args:
        final: what must hold after the last round.
        first: cost of the model that the rounds started from.
        number: of the round, from 1.
        rounds: how many there are.
    """
    limits = {}
    for kind, limit in final._counted().items():
        whole = getattr(first, kind)
        shared = limit is not None and number < rounds
        limits[kind] = math.floor(whole * (limit / whole) ** (number / rounds)) if shared else limit
    latency = final.latency and replace(final.latency, way=number / rounds)
    return replace(final, **limits, latency=latency)
