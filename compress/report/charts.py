"""The figures of a report: how the metric fell and came back, what it cost, who pays, how wide layers are."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any
from xml.etree.ElementTree import Element

from compress.report.svg import Scale, bar, dot, figure, line, ornament, text, ticks, written
from compress.report.words import points

Row = dict[str, Any]

# Rounds up to which each point has its number: more would overlap on a phone.
_LABELLED_ROUNDS = 3
_PHASES = (("after_cut", "cut"), ("after_recalibration", "mended"), ("score", "tuned"))


def recovery(rounds: Sequence[Row], metric: str) -> str:
    """The metric of the first model and after every phase of every round, with its intervals."""
    places = [(0, "score", rounds[0]["score"], "first")]
    for row in rounds[1:]:
        places += [(row["round"], phase, row[phase], style) for phase, style in _PHASES]
    told = [place for place in places if place[2]]
    low, high = _range([place[2] for place in told])
    marks = ticks(100 * low, 100 * high)
    title = f"{metric} after every phase of every round"
    svg = figure("recovery", title, _recovery_told(rounds, metric), 290)
    y = Scale(marks[0], marks[-1], 250, 24)
    x = Scale(0, len(places), 0, 100)
    _frame(svg, marks, y)
    line(svg, "reference", 0, y(100 * rounds[0]["score"]["value"]), 100, y(100 * rounds[0]["score"]["value"]))
    before = None
    for k, (number, phase, score, _) in enumerate(places):
        at = x(k + 0.5)
        if phase == "score":
            middle, name = x(0.5 if number == 0 else k - 0.5), _round_name(number, rounds)
            text(svg, name, middle, 274)
            line(svg, "divider", x(k + 1), 24, x(k + 1), 258)
        if not score:
            continue
        here = at, y(100 * score["value"])
        if before:
            line(svg, "path", *before, *here)
        before = here
    for k, (_, phase, score, style) in enumerate(places):
        if score:
            _point(svg, x(k + 0.5), y, score, style, labelled=_is_labelled(phase, rounds))
    return written(svg)


def _recovery_told(rounds: Sequence[Row], metric: str) -> str:
    parts = [f"{metric} of the first model: {points(rounds[0]['score']['value'])}"]
    words = ("after the cut", "after recalibration", "after fine-tuning")
    for row in rounds[1:]:
        scores = [
            f"{points(row[phase]['value'])} {said}"
            for (phase, _), said in zip(_PHASES, words, strict=True)
            if row[phase]
        ]
        parts.append(f"round {row['round']}: {', '.join(scores) or 'not scored'}")
    return "; ".join(parts) + "."


def _round_name(number: int, rounds: Sequence[Row]) -> str:
    """What stands below a round: of many, only every so many a number."""
    if number == 0:
        return "first" if len(rounds) <= 10 else "0"
    if len(rounds) <= 5:
        return f"round {number}"
    return str(number) if (number - 1) % (1 + len(rounds) // 16) == 0 else ""


def _is_labelled(phase: str, rounds: Sequence[Row]) -> bool:
    return len(rounds) <= _LABELLED_ROUNDS + 1 or (phase == "score" and len(rounds) <= 9)


def _point(svg: Element, x: float, y: Scale, score: Row, style: str, *, labelled: bool) -> None:
    value = 100 * score["value"]
    ends = [value, value]
    if score["low"] is not None:
        ends = [100 * score["low"], 100 * score["high"]]
        line(svg, f"interval {style}", x, y(ends[0]), x, y(ends[1]))
    dot(svg, style, x, y(value), 5 if style in ("first", "tuned") else 3.5)
    if labelled:
        above = style in ("first", "tuned")
        place = min(y(ends[1]), y(value) - 4) - 5 if above else max(y(ends[0]), y(value) + 4) + 13
        text(svg, points(score["value"]), x, place, style="label value")


def against_cost(rounds: Sequence[Row], kind: str, metric: str, share: Sequence[float | None]) -> str:
    """The metric of each round against what it costs, as a share of the first model's cost.

    Args:
        rounds: the first model, then the rounds.
        kind: what the cost is called: also the name of the figure.
        metric: what the score is called.
        share: for each of `rounds`, its cost divided by the first model's; None where it was not measured.
    """
    told = [(row, at) for row, at in zip(rounds, share, strict=True) if at is not None and row["score"]]
    scores = [row[phase] for row, _ in told for phase, _ in _PHASES if row[phase]]
    low, high = _range(scores)
    marks = ticks(100 * low, 100 * high, 3)
    said = [
        f"{'first model' if row['round'] == 0 else 'round ' + str(row['round'])} "
        f"{points(row['score']['value'])} at {at:.0%}"
        for row, at in told
    ]
    svg = figure(f"cost-{kind}", f"{metric} against {kind}", "; ".join(said) + ".", 190)
    y, x = Scale(marks[0], marks[-1], 158, 18), Scale(0, max(1.0, *(at for _, at in told)), 0, 96)
    _frame(svg, marks, y)
    for place in (0, 0.5, 1):
        text(svg, f"{place:.0%}".replace("%", " %"), x(place), 180)
        line(svg, "divider", x(place), 18, x(place), 162)
    for (row, at), (other, there) in pairwise(told):
        ends = (x(at), y(100 * row["score"]["value"]), x(there), y(100 * other["score"]["value"]))
        line(svg, "path", *ends)
    taken: list[float] = []
    for row, at in told:
        for phase, style in _PHASES[:2]:
            if row[phase]:
                value = y(100 * row["score"]["value"])
                line(svg, "drop", x(at), y(100 * row[phase]["value"]), x(at), value)
                dot(svg, style, x(at), y(100 * row[phase]["value"]), 3)
        style = "tuned" if row["round"] else "first"
        score = row["score"]
        if score["low"] is not None:
            line(svg, f"interval {style}", x(at), y(100 * score["low"]), x(at), y(100 * score["high"]))
        dot(svg, style, x(at), y(100 * score["value"]))
        if row["round"] and all(abs(x(at) - one) > 9 for one in taken):
            top = score["value"] if score["high"] is None else score["high"]
            text(svg, str(row["round"]), x(at), min(y(100 * top), y(100 * score["value"]) - 4) - 4)
            taken.append(x(at))
    return written(svg)


def dumbbell(row: Row, least: float, most: float) -> str:
    """The score of a class with both models, and how sure the change is: for a table's row."""
    svg = ornament(20)
    x = Scale(least, most, 3, 97)
    line(svg, "ground", 0, 10, 100, 10)
    first, slim = row["first"], row["slim"]
    if first is not None and slim is not None:
        if row["low"] is not None:
            ends = [min(max(first + row[end], least), most) for end in ("low", "high")]
            bar(svg, "spread", x(ends[0]), 6, max(x(ends[1]) - x(ends[0]), 0.4), 8)
        line(svg, "path", x(first), 10, x(slim), 10)
    for value, style in ((first, "first"), (slim, "tuned")):
        if value is not None:
            dot(svg, style, x(value), 10)
    return written(svg)


def width_bar(first: int, last: int, widest: int) -> str:
    """The filters of a layer before and after, beside those of the widest layer: for a table's row."""
    svg = ornament(14)
    bar(svg, "first", 0, 2, 100 * first / widest, 10)
    bar(svg, "tuned", 0, 2, 100 * last / widest, 10)
    return written(svg)


def _range(scores: Sequence[Row]) -> tuple[float, float]:
    """From the least to the greatest end of an interval; down to 0 where that is not far."""
    lows = [score["value"] if score["low"] is None else score["low"] for score in scores]
    highs = [score["value"] if score["high"] is None else score["high"] for score in scores]
    low, high = min(lows), max(highs)
    return (0.0, max(high, 0.01)) if low < high / 2 else (low - 0.15 * (high - low) - 0.005, high)


def _frame(svg: Element, marks: Sequence[float], y: Scale) -> None:
    """Horizontal lines with their numbers, which stand left of the figure."""
    for mark in marks:
        line(svg, "rule", 0, y(mark), 100, y(mark))
        text(svg, f"{mark:g}", 0, y(mark) + 4, anchor="end", shift=-8)
