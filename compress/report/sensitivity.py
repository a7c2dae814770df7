"""A sensitivity sweep as the report shows it: the drop of every cell, shaded, and what it suggests."""

import json
from pathlib import Path
from typing import Any

from compress.report.words import points
from detectors.errors import RunError

FILE = "sensitivity.json"


def read(path: Path, model: str) -> dict[str, Any]:
    """What `prune.py ... mode=sensitivity` wrote of the model that a run started from.

    Args:
        path: of the `sensitivity.json`.
        model: fingerprint of the run's first model.

    Raises:
        RunError: there is none, it is broken, or of another model.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        groups = [
            {
                "name": group["name"],
                "suggested": float(group["suggested"]),
                "cells": [
                    {"ratio": cell["ratio"], "drop": [*cell["drop"]], "noise": bool(cell["noise"])}
                    for cell in group["cells"]
                ],
            }
            for group in record["groups"]
        ]
        found = {
            "model": record["model"],
            "label": record["label"],
            "score": record["score"][0],
            "ratios": list(record["ratios"]),
            "groups": groups,
            "notes": list(record["notes"]),
        }
    except OSError as error:
        raise RunError(
            f"cannot read {path}: {error.strerror or error}; `python prune.py RECIPE model=PATH "
            "mode=sensitivity` makes such a file"
        ) from None
    except (ValueError, KeyError, TypeError, IndexError):
        raise RunError(
            f"{path} is no sensitivity.json, or a broken one; run mode=sensitivity again"
        ) from None
    if found["model"] != model:
        raise RunError(
            f"{path} was measured on another model than this run started from (or on other weights of it); "
            "give the file of this model"
        )
    return found


def heat(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of the heat map: for each ratio the drop in points, its shade of 0 to 60 %, and if it is noise.

    The shade is the drop as a share of the whole detector's score.
    """
    rows = []
    for group in found["groups"]:
        by_ratio = {cell["ratio"]: cell for cell in group["cells"]}
        cells: list[dict[str, Any] | None] = []
        for ratio in found["ratios"]:
            cell = by_ratio.get(ratio)
            if cell is None:
                cells.append(None)
                continue
            drop, low, high = cell["drop"]
            share = min(max(drop / found["score"], 0), 1) if found["score"] > 0 else 0
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
