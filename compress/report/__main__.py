"""The report of a run made again: python -m compress.report RUN_FOLDER [SENSITIVITY_JSON].

Reads what prune.py recorded in the folder, finished or not, and writes report.html, .md, .csv and .json into
it. Needs neither the model nor the data. Exits with 0, or with 2 and one line for a mistake.
"""

import sys
from pathlib import Path

from compress.report.write import write_report
from detectors.errors import ConfigError, UserError


def main(arguments: list[str]) -> None:
    """Makes the report and says where it is."""
    if {"--help", "-h"} & set(arguments):
        print(__doc__)
        return
    if not 1 <= len(arguments) <= 2:
        raise ConfigError(
            f"a run folder and at most one sensitivity.json are wanted, {len(arguments)} arguments given: "
            "python -m compress.report prunes/quickstart"
        )
    folder = Path(arguments[0])
    facts = write_report(folder, Path(arguments[1]) if len(arguments) == 2 else None)
    print(f"{facts['headline']}\nsaved {folder / 'report.html'}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
