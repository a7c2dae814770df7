"""Everything that a report shows, as plain data: from what a run recorded, without model or images."""

import shlex
from pathlib import Path
from typing import Any

from compress.ledger import Entry, Ledger, kept_round
from compress.plan import Timed
from compress.recipe import Recipe
from compress.report.boxes import judged
from compress.report.words import headline, speed_up, verdict
from detectors.config import changes, dump
from detectors.errors import RunError

Facts = dict[str, Any]

_NEEDED = {"start": ("cost", "score", "widths"), "cut": ("cost", "widths"), "evaluate": ("cost", "score")}


def facts_of(
    ledger: Ledger,
    recipe: Recipe | None = None,
    *,
    pictures: Facts | None = None,
    sensitivity: Facts | None = None,
    note: str = "",
) -> Facts:
    """The facts of a run, finished or not, that can be written as JSON.

    Args:
        ledger: of the run, in its folder.
        recipe: that it ran by; None where the folder holds none.
        pictures: what `pictures.take` recorded.
        sensitivity: what a sweep found, as `sensitivity.read` gives it.
        note: why no sweep is given.

    Raises:
        RunError: a ledger without a first line, or one whose lines lack what every run records.
    """
    start = ledger.find(0, "start")
    if start is None:
        raise RunError(
            f"{ledger.path} has no line of the phase start: the run has not begun; run prune.py on"
        )
    for entry in ledger.entries:
        for key in _NEEDED.get(entry["phase"], ()):
            if key not in entry:
                raise RunError(
                    f"{ledger.path}: round {entry['round']}, phase {entry['phase']} records no {key}; "
                    "no run of prune.py wrote this line"
                )
    stop = next((entry for entry in ledger.entries if entry["phase"] == "stop"), None)
    kept = kept_round(ledger)
    rounds = _rounds(ledger, start, kept)
    done = [row["round"] for row in rounds[1:] if row["score"] is not None]
    wanted = recipe.prune.rounds if recipe else None
    finished = bool(done) and (wanted is None or done[-1] == wanted) and rounds[-1]["score"] is not None
    score = start["score"]
    facts: Facts = {
        "name": ledger.path.resolve().parent.name,
        "state": "stopped" if stop else "finished" if finished else "unfinished",
        "stopped": stop and {key: stop[key] for key in ("round", "score", "below")},
        "masked": bool(recipe and recipe.prune.mode == "mask"),
        "detector": start.get("detector"),
        "model": {"file": start.get("file"), "fingerprint": start["model"]},
        "metric": {
            "name": score["metric"],
            "label": score["label"],
            "short": score["label"].partition(" (")[0],
            "images": score["images"],
        },
        "rounds_wanted": wanted,
        "rounds_done": len(done),
        # The round that is compared with the first model: the one kept, or of a run under way the last one.
        "shown": kept or None,
        "rounds": rounds,
        **_parts(ledger, start, kept or (done[-1] if done else 0)),
        **_widths(ledger, start, kept or len(rounds) - 1),
        "sensitivity": sensitivity,
        "sensitivity_note": note,
        "pictures": judged(pictures) if pictures and kept else None,
        "environment": start.get("environment"),
        "recipe": recipe and {"changes": changes(recipe), "yaml": dump(recipe)},
        "commands": _commands(ledger.path.parent, recipe) if recipe else [],
    }
    return facts | {"headline": headline(facts), "verdict": verdict(ledger)}


def _commands(folder: Path, recipe: Recipe) -> list[dict[str, str]]:
    """What to type to get the same again, and to go on from it."""
    saved = folder / "recipe.yaml"
    slim = folder / ("masked.pth" if recipe.prune.mode == "mask" else "slim.pth")
    lines = [
        ("The same run again, in a folder of its own:", ["prune.py", str(saved), "out=AGAIN"]),
        ("The score of the model that it left:", ["eval_voc.py", str(saved), f"model={slim}"]),
        ("Training it further:", ["finetune.py", str(saved), f"model={slim}", "out=FURTHER"]),
        ("This page again, from what the folder holds:", ["-m", "compress.report", str(folder)]),
    ]
    return [{"does": does, "command": shlex.join(["python", *words])} for does, words in lines]


def _rounds(ledger: Ledger, start: Entry, kept: int) -> list[Facts]:
    """The first model, then every round that was cut: its scores by phase, its costs, its times."""
    first = {
        "round": 0,
        "kept": False,
        "after_cut": None,
        "after_recalibration": None,
        "score": _interval(start["score"]),
        "cost": start["cost"],
        "shares": dict.fromkeys(start["cost"], 1.0),
        "latency": start.get("latency"),
        "first_latency": start.get("first_latency"),
        "speed_up": 1.0 if start.get("latency") else None,
        "difference": None,
        "epochs": None,
        "timed": None,
        "seconds": None,
    }
    rows = [first]
    for cut in (entry for entry in ledger.entries if entry["phase"] == "cut"):
        number = cut["round"]
        after, tuned, end = (ledger.find(number, phase) for phase in ("recalibrate", "finetune", "evaluate"))
        state = end or {}
        whole = start["cost"]
        rows.append(
            {
                "round": number,
                "kept": number == kept,
                "after_cut": _interval(cut.get("score")),
                "after_recalibration": _interval(after and after.get("score")),
                "score": _interval(state.get("score")),
                "cost": cut["cost"],
                "shares": {kind: cut["cost"][kind] / whole[kind] for kind in whole},
                "latency": state.get("latency"),
                "first_latency": state.get("first_latency"),
                "speed_up": speed_up(state) if state.get("latency") else None,
                "difference": state.get("difference"),
                "epochs": tuned and tuned.get("epochs"),
                "timed": cut.get("timed") and str(Timed(**cut["timed"])),
                "seconds": sum(entry.get("seconds", 0) for entry in (cut, after, tuned, end) if entry),
            }
        )
    return rows


def _interval(score: Facts | None) -> Facts | None:
    return score and {key: score.get(key) for key in ("value", "low", "high")}


def _parts(ledger: Ledger, start: Entry, number: int) -> dict[str, list[Facts]]:
    """Each class and size of the first model beside those of a round, the largest losses first."""
    end = ledger.find(number, "evaluate")
    before = {(part["kind"], part["name"]): part for part in _recorded(start)}
    after = {(part["kind"], part["name"]): part for part in _recorded(end)} if end else {}
    rows: dict[str, list[Facts]] = {"class": [], "size": []}
    for key, part in before.items():
        slim = after.get(key, {})
        value, change = slim.get("value"), slim.get("change")
        if change is None and value is not None and part["value"] is not None:
            change = value - part["value"]
        rows[key[0]].append(
            {
                "name": key[1],
                "boxes": part.get("boxes"),
                "first": part["value"],
                "slim": value,
                "change": change,
                "low": slim.get("low"),
                "high": slim.get("high"),
            }
        )
    classes = sorted(rows["class"], key=lambda row: (row["change"] is None, row["change"] or 0))
    return {"classes": classes, "sizes": [row for row in rows["size"] if row["first"] is not None]}


def _recorded(entry: Entry) -> list[Facts]:
    """The parts of a line; of lines from before these were recorded, the classes of its score."""
    classes = entry["score"].get("per_class", {})
    return entry.get("parts") or [{"kind": "class", "name": n, "value": v} for n, v in classes.items()]


def _widths(ledger: Ledger, start: Entry, last: int) -> dict[str, list[Facts]]:
    """The filters of every group after each round, in the order of execution; what stays whole and why."""
    groups, whole = start.get("groups", {}), dict(start.get("whole", {}))
    cuts = [entry for entry in ledger.entries if entry["phase"] == "cut" and entry["round"] <= last]
    rows = []
    for name, channels in start["widths"].items():
        group = groups.get(name, {"producers": [name], "size": 1})
        if cuts and name not in cuts[-1]["widths"]:
            whole |= dict.fromkeys(group["producers"], "skipped by the recipe")
            continue
        size = group["size"]
        after = [entry["widths"].get(name, channels) * size for entry in cuts]
        if cuts and after[-1] == channels * size:
            whole |= dict.fromkeys(
                group["producers"], "free to shrink, and left whole by its caps or its scores"
            )
        rows.append(
            {"layer": name, "tied": group["producers"][1:], "first": channels * size, "rounds": after}
        )
    reasons = [
        {"reason": reason, "layers": [layer for layer, why in whole.items() if why == reason]}
        for reason in dict.fromkeys(whole.values())
    ]
    return {"widths": rows, "whole": reasons}
