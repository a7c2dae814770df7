"""The record of a compression run: one JSON line for each finished phase."""

import json
from pathlib import Path
from typing import Any

from detectors.errors import RunError
from detectors.files import append_line, write_text

Entry = dict[str, Any]


def kept_round(ledger: "Ledger") -> int:
    """The last round that is finished and was not rejected by `prune.stop_below`; 0: none."""
    finished = [entry["round"] for entry in ledger.entries if entry["phase"] == "evaluate"]
    rejected = [entry["round"] for entry in ledger.entries if entry["phase"] == "stop"]
    return max((number for number in finished if number not in rejected), default=0)


def lines_of(path: Path, keys: set[str], *, write: bool) -> list[Entry]:
    """The JSON lines of a file, of which each holds some keys; a last line that is not whole is left out.

    Args:
        path: the file; need not exist.
        keys: what every line must hold.
        write: take a last line that is not whole out of the file too, so that lines can be added.

    Raises:
        RunError: another line that is none of these.
    """
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    lines = text.split("\n")
    torn = lines.pop()
    entries: list[Entry] = []
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            entry = None
        if not (isinstance(entry, dict) and keys <= entry.keys()):
            raise RunError(f"{path}:{number} records no phase; take the run to another folder with out=PATH")
        entries.append(entry)
    if torn and write:
        write_text(path, text[: -len(torn)])
    return entries


class Ledger:
    """The lines of `ledger.jsonl`, oldest first; each has a `round` and a `phase`.

    A line that was being written when the machine stopped is dropped: its phase is done again.

    Args:
        path: the file; need not exist.
        write: False on processes that only follow the leading one: they change no file.

    Raises:
        RunError: a line other than the last one that records no phase.
    """

    def __init__(self, path: Path, *, write: bool = True) -> None:
        self.path = path
        self._write = write
        self.entries = lines_of(path, {"round", "phase"}, write=write)

    def find(self, round_: int, phase: str) -> Entry | None:
        """The line of a finished phase, or None."""
        return next((e for e in self.entries if e["round"] == round_ and e["phase"] == phase), None)

    def add(self, entry: Entry) -> None:
        """Records a finished phase."""
        if self._write:
            append_line(self.path, json.dumps(entry, allow_nan=False))
        self.entries.append(entry)
