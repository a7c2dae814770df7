"""What a run came to, in sentences."""

from typing import Any

from compress.ledger import Ledger, kept_round
from detectors.evaluation.bootstrap import Difference
from detectors.evaluation.score import Score


def verdict(ledger: Ledger) -> str:
    """What the run came to, in a line with all numbers."""
    first = ledger.find(0, "start")
    end = ledger.entries[-1] if ledger.entries else None
    if first is None or end is None or end["phase"] not in ("evaluate", "stop"):
        return "the run is not finished"
    kept = kept_round(ledger)
    stopped = ""
    if end["phase"] == "stop":
        stopped = f"stopped: round {end['round']} scored {end['score']:.3f}, below {end['below']:.3f}; "
    last = ledger.find(kept, "evaluate")
    if last is None:
        return f"{stopped}no round was good enough, and no slim model is kept"
    stopped += f"round {kept} is kept: " if stopped else ""
    before, after = Score.from_dict(first["score"]), Score.from_dict(last["score"])
    cost, whole = last["cost"], first["cost"]
    text = (
        f"{stopped}{whole['macs'] / cost['macs']:.1f} times fewer MACs, {whole['bytes'] / cost['bytes']:.1f} "
        "times smaller"
        + (f", {speed_up(last):.1f} times faster" if last["latency"] else "")
        + f"; {after.label} {before.value:.3f} -> {after.value:.3f} ({after.value - before.value:+.3f})"
    )
    difference = last["difference"]
    if difference is None:
        return text
    interval = f"paired 95 % interval [{difference['low']:+.3f}, {difference['high']:+.3f}]"
    side = "inside" if Difference(**difference).is_noise else "outside"
    return f"{text}, {interval}: {side} the noise of {after.images} images"


def headline(facts: dict[str, Any]) -> str:
    """The verdict in one sentence, in the words of a person: facts as `facts.facts_of` gives them."""
    if facts["state"] == "unfinished":
        done = facts["rounds_done"]
        return f"Not finished: {done} of {facts['rounds_wanted'] or 'the'} rounds are done"
    shown = facts["shown"]
    end = facts["stopped"]
    why = ""
    if end is not None:
        why = (
            f"round {end['round']} scored {points(end['score'])}, below the {points(end['below'])} asked for"
        )
    if shown is None:
        return f"No slim model is kept: {why}"
    first, last = facts["rounds"][0], facts["rounds"][shown]
    parts = []
    if last["speed_up"] is not None:
        parts.append(times(last["speed_up"], "faster", "slower", "as fast as before"))
    else:
        parts.append(
            times(
                first["cost"]["macs"] / last["cost"]["macs"],
                "fewer multiply-adds",
                "more multiply-adds",
                "as many multiply-adds as before",
            )
        )
    parts.append(
        times(first["cost"]["bytes"] / last["cost"]["bytes"], "smaller", "larger", "as large as before")
    )
    parts.append(
        f"{facts['metric']['short']} {points(last['score']['value'] - first['score']['value'], sign=True)}"
    )
    if last["difference"] is not None:
        noise = reach(last["difference"])
        side = "inside" if Difference(**last["difference"]).is_noise else "outside"
        parts.append(f"{side} the noise of ±{points(noise)}")
    sentence = ", ".join(parts)
    return f"{sentence}; round {shown} is kept, for {why}" if why else sentence


def times(ratio: float, more: str, less: str, same: str) -> str:
    """A ratio in words: "1.9 times faster", "1.2 times slower", or "as fast as before" within 5 %."""
    if abs(ratio - 1) < 0.05:
        return same
    return f"{ratio:.1f} times {more}" if ratio > 1 else f"{1 / ratio:.1f} times {less}"


def reach(difference: dict[str, Any]) -> float:
    """How far the interval of a difference reaches towards 0: a difference that is not larger is noise."""
    towards = difference["high"] if difference["value"] < 0 else difference["low"]
    return abs(float(towards) - float(difference["value"]))


def points(value: float, *, sign: bool = False) -> str:
    """A score of 0 to 1 in points of 100 with one decimal; with a sign where it is a difference."""
    rounded = round(100 * value, 1) + 0.0  # no minus before a zero
    text = f"{rounded:+.1f}" if sign and rounded else f"{rounded:.1f}"
    return text.replace("-", "−")


def speed_up(entry: dict[str, Any]) -> float:
    """How many times faster a round's network is than the first one, timed in turn with it."""
    return float(entry["first_latency"]["median_ms"] / entry["latency"]["median_ms"])
