"""Small data sets as one: python -m benchmarks.pool TABLES.md TABLES.md [...] [--out POOL.md].

Reads tables of `python -m benchmarks.quality`, each of another data set, and writes those that all of them
have, at the shares that all have. Every data set counts the same: a score is the mean of theirs, and so is
what a method is above ours. Within a set the images were paired; two sets have none in common, so that each
end of the interval lies as far from the mean as the root of the summed squares of theirs says (MOVER; Zou and
Donner 2008, Statistics in Medicine 27, 1693-1702, for independent estimates). That the tables are rounded to
three decimals moves an end by less than 0.002.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from benchmarks.study import TABLES
from benchmarks.tables import NOT_RUN, OUT_OF_REACH, Cell, Difference, rows_of, titled


def mean_difference(differences: Sequence[Difference]) -> Difference:
    """The mean of independent differences and its interval."""
    count = len(differences)
    value = sum(one.value for one in differences) / count
    below = math.hypot(*(one.value - one.low for one in differences)) / count
    above = math.hypot(*(one.high - one.value for one in differences)) / count
    return Difference(value, value - below, value + above)


def pooled(texts: Sequence[str]) -> str:
    """The cell of a method from its cells on each data set."""
    for missing in (OUT_OF_REACH, NOT_RUN):
        if missing in texts:
            return missing
    cells = [Cell.read(text) for text in texts]
    differences = [cell.above for cell in cells if cell.above is not None]
    above = mean_difference(differences) if len(differences) == len(cells) else None
    return str(Cell(sum(cell.score for cell in cells) / len(cells), above))


def pool(tables: Sequence[list[list[str]]]) -> list[list[str]]:
    """The rows and columns that all tables have; the first two are methods and their learning rates."""
    heads = [table[0] for table in tables]
    shares = [share for share in heads[0][2:] if all(share in head for head in heads)]
    by_method = [{row[0]: dict(zip(table[0], row, strict=True)) for row in table[1:]} for table in tables]
    rows = [[*heads[0][:2], *shares]]
    for method in by_method[0]:
        if all(method in table for table in by_method):
            found = [table[method] for table in by_method]
            rates = " and ".join(dict.fromkeys(row[heads[0][1]] for row in found))
            rows.append([method, rates, *(pooled([row[share] for row in found]) for share in shares)])
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the pool of the tables that the files have in common."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="TABLES.md")
    parser.add_argument("--out", type=Path, help="write here as well")
    given = parser.parse_args(arguments)
    if len(set(given.files)) < len(given.files) or len(given.files) < 2:
        parser.error(f"{given.files[0]}: a data set by itself is no pool: name tables of others as well")
    for file in given.files:
        if not file.is_file():
            parser.error(f"{file}: there is no such file: python -m benchmarks.quality writes it")
    texts = [file.read_text(encoding="utf-8") for file in given.files]
    parts = []
    for title in TABLES.values():
        tables = [rows_of(text, title) for text in texts]
        if all(tables):
            try:
                parts.append(titled(title, pool(tables)))
            except ValueError as error:
                parser.error(f"{', '.join(map(str, given.files))}: {error}")
    if not parts:
        names = ", ".join(map(str, given.files))
        parser.error(f"{names}: no table of the same title in all of them: take those of one --recovery")
    words = [file.as_posix() for file in given.files] + (["--out", given.out.as_posix()] if given.out else [])
    text = "\n\n".join([f"`python -m benchmarks.pool {' '.join(words)}`.", *parts]) + "\n"
    if given.out:
        given.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
