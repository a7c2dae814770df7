"""The tables of the quality benchmark in Markdown: written, and read again."""

import re
from dataclasses import dataclass

OUT_OF_REACH, NOT_RUN = "out of reach", "-"  # in place of a cell

_NUMBER = r"([+-]?\d\.\d{3})"
_CELL = re.compile(rf"{_NUMBER}(?: \({_NUMBER} \[{_NUMBER}, {_NUMBER}\]\))?")


@dataclass(frozen=True)
class Difference:
    """By how much a method scores above ours.

    Attributes:
        value: -1..1.
        low: end of the paired 95 % interval.
        high: the other end.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


@dataclass(frozen=True)
class Cell:
    """What a method scores, 0..1, and how that compares with ours where it is another."""

    score: float
    above: Difference | None = None

    def __str__(self) -> str:
        return f"{self.score:.3f}" + (f" ({self.above})" if self.above else "")

    @classmethod
    def read(cls, text: str) -> "Cell":
        """A cell from its text, to three decimals; ValueError where that is not one score."""
        found = _CELL.fullmatch(text)
        if found is None:
            raise ValueError(f"{text!r} is not one score")
        score, *above = (float(number) for number in found.groups() if number)
        return cls(score, Difference(*above) if above else None)


def markdown(rows: list[list[str]]) -> str:
    """A table whose first row is its heading."""
    lines = [rows[0], ["---"] + ["---:"] * (len(rows[0]) - 1), *rows[1:]]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines)


def titled(title: str, rows: list[list[str]]) -> str:
    """A table under its title."""
    return f"{title}:\n\n{markdown(rows)}"


def rows_of(text: str, title: str) -> list[list[str]]:
    """The rows of the table under a title, as `markdown` was given them; none where there is none."""
    _, _, behind = text.partition(f"{title}:\n\n")
    lines = behind.partition("\n\n")[0].splitlines()
    rows = [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in lines]
    return rows[:1] + rows[2:]
