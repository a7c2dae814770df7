"""From the cells of a sensitivity sweep to what may be cut: a suggestion for each layer group, in words.

`sensitivity.json` holds, as plain JSON (null where a number is not finite):

    version         1; a reader refuses any other
    model           fingerprint of the detector
    file, detector  its file as it was given, and its registered name
    criterion       which channels go
    metric, label   name of the metric, and how it is called in print ("mAP (coco)")
    split, count, seed, images  where the images were drawn from, how many, by what seed, and their sha256
    bootstrap       resamples behind the intervals
    tolerance       a drop up to this is taken for harmless
    score, loss     of the whole detector: [value, low, high], the latter two a 95 % interval
    cost            of the whole detector: {macs, params, bytes}
    ratios          shares that were cut, rising
    noise           half the width of the interval of a drop, the median over all cells
    groups          in the order of execution, each with
        name, layers      the first layer that makes its channels, and all that do
        channels, size    channels to choose from, and filters of the first layer that each stands for
        suggested         largest share that may go, 0: none; the suggestion for `prune.caps`
        saves             share of the detector's MACs that the suggested cut saves
        words             the suggestion in a sentence
        cells             one for each ratio, rising:
            ratio, channels   the share asked for, and [before, after]
            cost              of the whole detector after this one cut: {macs, params, bytes}
            score, loss       of the cut detector
            drop, rise        [value, low, high]: how much lower its score and how much higher its loss is
                              than the whole detector's on the same images, with the paired 95 % interval; a
                              negative drop is a gain
            worst             the largest drop of this and all smaller cuts
            noise             the interval of the drop holds 0: chance explains it
            harmless          the drop is within `tolerance` or within the noise, and so are all smaller cuts
            seconds           that the cell took
    whole           layers that are never cut -> the reason
    notes           what all of this says, in sentences
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from compress.groups import Graph
from detectors.errors import RunError

VERSION = 1
Record = dict[str, Any]
_FACTS = (
    "model", "file", "detector", "criterion", "metric", "label", "split", "count", "seed", "images",
    "bootstrap", "score", "loss", "cost",
)  # fmt: skip


def record_of(found: Mapping[str, Any], graph: Graph, tolerance: float) -> Record:
    """What `sensitivity.json` holds.

    Args:
        found: what `compress.sensitivity.Sweep.finish` returns.
        graph: of the detector's network.
        tolerance: a drop up to this is harmless.
    """
    start, cells = found["start"], found["cells"]
    groups = []
    for group in graph.groups:
        own = [cell for cell in cells if cell["group"] == group.name]
        if not own:
            continue
        judged = _judged(own, tolerance)
        harmless = [cell for cell in judged if cell["harmless"]]
        last = harmless[-1] if harmless else None
        groups.append(
            {
                "name": group.name,
                "layers": list(group.producers),
                "channels": group.channels,
                "size": group.size,
                "suggested": last["ratio"] if last else 0.0,
                "saves": 1 - last["cost"]["macs"] / start["cost"]["macs"] if last else 0.0,
                "words": _words(judged),
                "cells": judged,
            }
        )
    measured = {group["name"] for group in groups}
    skipped = [layer for group in graph.groups if group.name not in measured for layer in group.producers]
    record: Record = {
        "version": VERSION,
        **{key: start[key] for key in _FACTS},
        "tolerance": tolerance,
        "ratios": sorted({cell["ratio"] for cell in cells}),
        "noise": _half_width(cells),
        "groups": groups,
        "whole": dict(graph.whole) | dict.fromkeys(skipped, "skipped by the recipe"),
    }
    return record | {"notes": notes(record)}


def read_record(path: Path) -> Record:
    """The content of a `sensitivity.json`.

    Raises:
        RunError: there is none, it is broken, or of another version.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(
            f"cannot read {path}: {error.strerror or error}; `python prune.py RECIPE model=PATH "
            "mode=sensitivity` makes such a file"
        ) from None
    except ValueError:
        record = None
    if not (isinstance(record, dict) and {"version", "groups", "model"} <= record.keys()):
        raise RunError(f"{path} is no sensitivity.json, or a broken one; run mode=sensitivity again")
    if record["version"] != VERSION:
        raise RunError(
            f"{path} is of version {record['version']}, this program reads version {VERSION}; run "
            "mode=sensitivity again"
        )
    if not _is_sound(record):
        raise RunError(f"{path} is no sensitivity.json, or a broken one; run mode=sensitivity again")
    return record


def _is_sound(record: Record) -> bool:
    """Whether there is what readers rely on."""
    try:
        named = all(isinstance(record[key], str) for key in ("model", "label"))
        groups = all(
            isinstance(group["name"], str)
            and isinstance(group["suggested"], float)
            and bool(group["layers"])
            and _are_sound(group["cells"])
            for group in record["groups"]
        )
        listed = all(isinstance(note, str) for note in record["notes"]) and _are_numbers(record["ratios"])
        return named and groups and listed and len(record["score"]) == 3 and _are_numbers(record["score"][:1])
    except (LookupError, TypeError, ValueError):
        return False


def _are_sound(cells: Sequence[Mapping[str, Any]]) -> bool:
    return all(
        0 < cell["ratio"] < 1
        and len(cell["drop"]) == 3
        and "noise" in cell
        and (_are_numbers(cell["drop"]) or cell["drop"][1:] == [None, None])
        and _are_numbers(cell["drop"][:1])
        for cell in cells
    )


def _are_numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float) for value in values)


def notes(record: Record) -> list[str]:
    """What a sweep says, in sentences for somebody who has not read a paper."""
    groups, label, tolerance = record["groups"], record["label"], record["tolerance"]
    score = record["score"][0]
    lines = [
        f"Each number is how far {label} falls below the whole detector's {score:.3f} when that share of the "
        "channels of one layer group is cut and all other layers stay as they are. The channels that go are "
        f"the least important ones by {record['criterion']!r}.",
        f"All cuts are scored on the same {record['count']} images of data.{record['split']}, right after "
        "the cut. Nothing is recalibrated or fine-tuned, and fine-tuning wins back a good part of a drop: "
        "take the numbers to compare layers, not to foretell the score of a slim detector.",
    ]
    if record["split"] == "train":
        lines.append(
            "The detector was trained on these images, so its score on them flatters; the drops are what "
            "counts, and the test images stay unseen for the final verdict."
        )
    alone = [group["name"] for group in groups if group["suggested"] == 0]
    free = sorted((g for g in groups if g["suggested"] > 0), key=lambda g: -g["saves"])
    if alone:
        least = record["ratios"][0]
        which = "it" if len(alone) == 1 else "any of them"
        lines.append(
            f"Leave alone: {', '.join(alone)}. Cutting just {least:.0%} of {which} already costs more than "
            f"{tolerance:g} of {label}, and more than chance explains."
        )
    if free:
        best = ", ".join(f"{g['name']} by {g['suggested']:.0%} (saves {g['saves']:.1%})" for g in free[:5])
        lines.append(
            f"Cut first, by the multiply-adds that it saves: {best}. Several cuts at once cost more than the "
            "sum of each by itself, as a rule."
        )
    if not free:
        lines.append("No layer can lose anything for free: cut little at a time and fine-tune in between.")
    noise = record["noise"]
    text = (
        "A number in brackets is within the noise: with other images of the same kind the sign could have "
        f"been the other one. The noise of a drop is about +-{noise:.3f} on {record['count']} images"
    )
    coarse = noise > tolerance
    lines.append(
        f"{text}, more than the tolerance of {tolerance:g}: raise sensitivity.images to tell smaller drops."
        if coarse
        else f"{text}."
    )
    return lines + _about_negative(record)


def _about_negative(record: Record) -> list[str]:
    """What a negative drop means, where one stands."""
    cells = [cell for group in record["groups"] for cell in group["cells"]]
    negative = [cell for cell in cells if round(cell["drop"][0], 3) < 0]
    if not negative:
        return []
    certain = [cell for cell in negative if not cell["noise"]]
    text = (
        f"A minus sign ({len(negative)} of {len(cells)} numbers) means that the detector scored higher with "
        "the channels gone than with them."
    )
    if len(certain) < len(negative):
        text += " In brackets that is chance: read it as no drop, not as a gain."
    if certain:
        text += (
            " Without brackets the channels did harm on these images, or the cut moved the scores over a "
            "threshold in its favour: safe to cut, but no promise for other images."
        )
    return [text]


def _half_width(cells: Sequence[Mapping[str, Any]]) -> float:
    """Half the width of the interval of a drop, the median over cells; 0 where none has an interval."""
    ends = [(low, high) for _, low, high in (cell["drop"] for cell in cells) if None not in (low, high)]
    return median((high - low) / 2 for low, high in ends) if ends else 0.0


def _judged(cells: Sequence[Mapping[str, Any]], tolerance: float) -> list[dict[str, Any]]:
    """The cells of a group with what follows from their drops; a larger cut is no safer than a smaller."""
    judged, worst, harmless = [], float("-inf"), True
    for cell in sorted(cells, key=lambda cell: cell["ratio"]):
        drop, low, high = cell["drop"]
        worst = max(worst, drop)
        noise = None in (low, high) or low <= 0 <= high
        harmless = harmless and (drop <= tolerance or noise)
        kept = {key: cell[key] for key in _CELL}
        judged.append({**kept, "worst": worst, "noise": noise, "harmless": harmless})
    return judged


_CELL = ("ratio", "channels", "cost", "score", "loss", "drop", "rise", "seconds")


def _words(cells: Sequence[Mapping[str, Any]]) -> str:
    """The suggestion for a group."""
    harmful = next((cell for cell in cells if not cell["harmless"]), None)
    harmless = [cell for cell in cells if cell["harmless"]]
    if harmful is None:
        return f"can lose {harmless[-1]['ratio']:.0%} of its channels, the most that was tried"
    drop, low, high = harmful["drop"]
    costs = f"{harmful['ratio']:.0%} would cost {drop:.3f} ({low:.3f} to {high:.3f})"
    if not harmless:
        return f"leave it alone: {costs}"
    return f"can lose {harmless[-1]['ratio']:.0%}; {costs}"
