"""A sensitivity sweep as the report shows it: the drop of every cell, shaded, and what it suggests."""

from pathlib import Path
from typing import Any

from compress.report.words import points
from compress.sensitivity.suggest import Record, read_record
from detectors.errors import RunError

FILE = "sensitivity.json"


def read(path: Path, model: str) -> Record:
    """What `prune.py ... mode=sensitivity` wrote of the model that a run started from.

    Args:
        path: of the `sensitivity.json`.
        model: fingerprint of the run's first model.

    Raises:
        RunError: there is none, it is broken, or of another model.
    """
    record = read_record(path)
    if record["model"] != model:
        raise RunError(
            f"{path} was measured on another model than this run started from (or on other weights of it); "
            "give the file of this model"
        )
    return record


def heat(record: Record) -> list[dict[str, Any]]:
    """Rows of the heat map: for each ratio the drop in points, its shade of 0 to 60 %, and if it is noise.

    The shade is the drop as a share of the whole detector's score.
    """
    rows = []
    score = record["score"][0]
    for group in record["groups"]:
        by_ratio = {cell["ratio"]: cell for cell in group["cells"]}
        cells: list[dict[str, Any] | None] = []
        for ratio in record["ratios"]:
            cell = by_ratio.get(ratio)
            if cell is None:
                cells.append(None)
                continue
            drop, low, high = cell["drop"]
            share = min(max(drop / score, 0), 1) if score > 0 else 0
            ends = "" if low is None else f", 95 % interval {points(low)} to {points(high)}"
            cells.append(
                {
                    "drop": points(drop),
                    "shade": round(60 * share),
                    "noise": cell["noise"],
                    "told": f"{group['name']} cut by {ratio:.0%}: {points(drop)} points lost{ends}",
                }
            )
        rows.append({"name": group["name"], "suggested": group["suggested"], "cells": cells})
    return rows
