"""The cells of a sensitivity sweep on disk: one JSON line for each, written by one or several processes.

`cells.jsonl` begins with a line of what was measured on (`phase: start`), and has a line for each finished
cell (`phase: cell`), a layer group cut to a width. Processes beside the leading one write to files of their
own, which are joined when the sweep ends or is started again; so a sweep that was killed goes on with any
number of processes, and no cell is computed twice.
"""

import json
import re
from pathlib import Path
from typing import Any

from compress.ledger import Entry, lines_of
from detectors.engine.distributed import Place, wait
from detectors.errors import RunError
from detectors.files import append_line, write_text

Key = tuple[str, int]
_PART = re.compile(r"cells\.\d+\.jsonl")


class Cells:
    """The finished cells of a sweep.

    Args:
        folder: of the run, held by the leading process.
        place: this process; all that work together must open the cells at the same point.

    Attributes:
        start: the first line; None where nothing was measured yet.
        done: (group, channels that stay) -> its line.

    Raises:
        RunError: a line that is no cell.
    """

    def __init__(self, folder: Path, place: Place) -> None:
        self._folder, self._place = folder, place
        self.start: Entry | None = None
        self.done: dict[Key, Entry] = {}
        self._own = folder / (f"cells.{place.rank}.jsonl" if place.rank else "cells.jsonl")
        self.join()

    def begin(self, facts: dict[str, Any]) -> None:
        """Records what is measured on, before the first cell."""
        self.start = {"phase": "start", **facts}
        if self._place.leads:
            append_line(self._folder / "cells.jsonl", json.dumps(self.start, allow_nan=False))

    def add(self, entry: Entry) -> None:
        """Records a finished cell of this process."""
        entry = {"phase": "cell", **entry}
        append_line(self._own, json.dumps(entry, allow_nan=False))
        self._take(entry)

    def join(self) -> None:
        """Puts what all processes have written into one file, and reads it; every process must ask."""
        wait(self._place)
        path = self._folder / "cells.jsonl"
        if self._place.leads:
            parts = sorted(part for part in self._folder.glob("cells.*.jsonl") if _PART.fullmatch(part.name))
            lines = [entry for file in (path, *parts) for entry in lines_of(file, {"phase"}, write=True)]
            if parts:
                # A part that outlived its joining repeats lines.
                whole = dict.fromkeys(json.dumps(entry, allow_nan=False) for entry in lines)
                write_text(path, "".join(f"{line}\n" for line in whole))
            for part in parts:
                part.unlink()
        wait(self._place)
        for entry in lines_of(path, {"phase"}, write=False):
            if entry["phase"] == "start":
                self.start = entry
            else:
                self._take(entry)
        wait(self._place)

    def _take(self, entry: Entry) -> None:
        try:
            self.done[entry["group"], entry["channels"][1]] = entry
        except (KeyError, TypeError, IndexError):
            raise RunError(
                f"{self._folder / 'cells.jsonl'} holds a line that is no cell; take the run to another "
                "folder with out=PATH"
            ) from None
