"""A ledger as a table for people."""

from typing import Any

from compress.groups import Graph
from compress.ledger import Ledger, kept_round
from compress.plan import Plan
from detectors.evaluation.bootstrap import Difference
from detectors.evaluation.score import Score


def markdown(ledger: Ledger) -> str:
    """One row for each finished round: the metric with its interval, and every cost.

    Shares are of the first model, whose milliseconds in the same minute stand beside a round's own: the
    speed-up is the quotient of these two, which is steadier than that of two rows.
    """
    first = ledger.find(0, "start")
    if first is None:
        return "no finished phase"
    header = [
        "round",
        Score.from_dict(first["score"]).label,
        "before fine-tuning",
        "MACs",
        "params",
        "MB",
        "ms",
        "ms of round 0",
        "speed-up",
    ]
    rows = [header, ["---"] + ["---:"] * (len(header) - 1)]
    rows.append(["0", _metric(first), "", *_costs(first, first)])
    for entry in ledger.entries:
        if entry["phase"] != "evaluate":
            continue
        after_cut = ledger.find(entry["round"], "recalibrate")
        cut_score = "" if after_cut is None else f"{after_cut['score']['value']:.3f}"
        rows.append([str(entry["round"]), _metric(entry), cut_score, *_costs(entry, first)])
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    latency = first["latency"]
    if not latency:
        return table
    return (
        f"{table}\n\nms: median of {latency['runs']} passes of the network at batch {latency['batch']} on "
        f"{latency['device']}, {latency['threads']} threads{_engine(latency)}; each "
        "model in turn with that of round 0, minutes apart from the other rows."
    )


def verdict(ledger: Ledger) -> str:
    """What the run came to, in a sentence."""
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
        + (f", {_speed_up(last):.1f} times faster" if last["latency"] else "")
        + f"; {after.label} {before.value:.3f} -> {after.value:.3f} ({after.value - before.value:+.3f})"
    )
    difference = last["difference"]
    if difference is None:
        return text
    interval = f"paired 95 % interval [{difference['low']:+.3f}, {difference['high']:+.3f}]"
    side = "inside" if Difference(**difference).is_noise else "outside"
    return f"{text}, {interval}: {side} the noise of {after.images} images"


def widths_table(graph: Graph, plan: Plan, number: int = 1) -> str:
    """The widths of every group before and after a round, and the layers that stay whole with the reason."""
    lines = []
    for group in graph.groups:
        if group.name in plan.widths:
            before, after = (width * group.size for width in plan.widths[group.name])
            tied = f" with {', '.join(group.producers[1:])}" if len(group.producers) > 1 else ""
            lines.append(f"  {group.name + tied:34s} {before:5d} -> {after:5d}")
    skipped = [group.name for group in graph.groups if group.name not in plan.widths]
    whole = dict(graph.whole) | {name: "skipped by the recipe" for name in skipped}
    for reason in dict.fromkeys(whole.values()):
        layers = [layer for layer, why in whole.items() if why == reason]
        lines.append(f"  kept whole ({reason}): {', '.join(layers)}")
    return "\n".join(
        [f"channels before and after round {number}:", *lines, f"  {plan.before} -> {plan.after}"]
    )


def _metric(entry: dict[str, Any]) -> str:
    score = Score.from_dict(entry["score"])
    interval = "" if entry["score"]["low"] is None else f" [{score.low:.3f}, {score.high:.3f}]"
    return f"{score.value:.3f}{interval}"


def _costs(entry: dict[str, Any], first: dict[str, Any]) -> list[str]:
    cost, whole, latency = entry["cost"], first["cost"], entry["latency"]
    return [
        f"{cost['macs'] / 1e6:.1f} M ({cost['macs'] / whole['macs']:.1%})",
        f"{cost['params'] / 1e6:.3f} M ({cost['params'] / whole['params']:.1%})",
        f"{cost['bytes'] / 1e6:.2f}",
        f"{latency['median_ms']:.1f} (p90 {latency['p90_ms']:.1f})" if latency else "-",
        f"{entry['first_latency']['median_ms']:.1f}" if latency else "-",
        f"{_speed_up(entry):.2f}" if latency else "-",
    ]


def _engine(latency: dict[str, Any]) -> str:
    """What ran the passes, where it was not torch."""
    engine = latency.get("engine", "torch")
    return "" if engine == "torch" else f", in {engine}"


def _speed_up(entry: dict[str, Any]) -> float:
    return float(entry["first_latency"]["median_ms"] / entry["latency"]["median_ms"])
