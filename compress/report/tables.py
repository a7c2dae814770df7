"""A run as tables: Markdown of the rounds and of all facts, and CSV with a row for each number."""

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any

from compress.groups import Graph
from compress.ledger import Ledger
from compress.plan import Plan
from compress.report.words import speed_up
from compress.sensitivity.heatmap import shown
from detectors.errors import counted
from detectors.evaluation.score import Score


def markdown(ledger: Ledger) -> str:
    """One row for each finished round: the metric with its interval, and every cost.

    Shares are of the first model, whose milliseconds in the same minute stand beside a round's own: the
    speed-up is the quotient of these two, which is steadier than that of two rows.
    """
    first = ledger.find(0, "start")
    if first is None:
        return "no finished phase"
    cuts_scored = any(entry["phase"] == "cut" and entry.get("score") for entry in ledger.entries)
    header = [
        "round",
        Score.from_dict(first["score"]).label,
        *(["after the cut"] if cuts_scored else []),
        "before fine-tuning",
        "MACs",
        "params",
        "MB",
        "ms",
        "ms of round 0",
        "speed-up",
    ]
    rows = [header, ["---"] + ["---:"] * (len(header) - 1)]
    rows.append(["0", _metric(first), *[""] * (1 + cuts_scored), *_costs(first, first)])
    for entry in ledger.entries:
        if entry["phase"] != "evaluate":
            continue
        phases = [*(["cut"] if cuts_scored else []), "recalibrate"]
        before = [_plain(ledger.find(entry["round"], phase)) for phase in phases]
        rows.append([str(entry["round"]), _metric(entry), *before, *_costs(entry, first)])
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    latency = first["latency"]
    if not latency:
        return table
    return (
        f"{table}\n\nms: median of {latency['runs']} passes of the network at batch {latency['batch']} on "
        f"{latency['device']}, {counted(latency['threads'], 'thread')}{_engine(latency)}; each "
        "model in turn with that of round 0, minutes apart from the other rows."
    )


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
    lines.append(f"  {plan.before} -> {plan.after}")
    if not plan.keep:
        lines.append("  nothing to cut: the budget is met already")
    return "\n".join([f"channels before and after round {number}:", *lines])


def summary(ledger: Ledger, facts: dict[str, Any]) -> str:
    """The whole report as Markdown: facts as `facts.facts_of` gives them of the ledger."""
    label = _cell(facts["metric"]["label"])
    blocks = [
        f"# {_cell(facts['name'])}: {facts['headline']}",
        markdown(ledger),
        facts["verdict"],
        "## Who pays",
        *_parts_table("class", label, facts["classes"]),
        *_parts_table("size", "AP (coco)", facts["sizes"]),
        "## Widths",
        _grid(
            ["layer", "filters before", "after"],
            [
                [
                    _cell(", ".join([row["layer"], *row["tied"]])),
                    str(row["first"]),
                    " -> ".join(map(str, row["rounds"])),
                ]
                for row in facts["widths"]
            ],
        ),
        "\n".join(
            _cell(f"- kept whole ({row['reason']}): {', '.join(row['layers'])}") for row in facts["whole"]
        ),
    ]
    blocks += ["## What each layer bears", *_sweep_table(facts["sensitivity"], facts["sensitivity_note"])]
    blocks += _pictures_table(facts["pictures"])
    if facts["recipe"]:
        blocks += ["## Recipe", f"```\n{facts['recipe']['changes']}\n```"]
    if facts["commands"]:
        blocks += ["## To do it again"]
        blocks += [f"{row['does']}\n\n```\n{row['command']}\n```" for row in facts["commands"]]
    if facts["environment"]:
        blocks += ["## Environment", ", ".join(f"{k} {v}" for k, v in facts["environment"].items())]
    return "\n\n".join(block for block in blocks if block) + "\n"


COLUMNS = ("section", "round", "name", "quantity", "value", "low", "high")


def comma_separated(facts: dict[str, Any]) -> str:
    """Every number of a report in a row of its own, for a spreadsheet or a data frame; scores 0 to 1."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(_numbers(facts))
    return text.getvalue()


def _numbers(facts: dict[str, Any]) -> Iterator[Sequence[Any]]:
    """(section, round, name, quantity, value, low, high), empty where there is none."""
    last = facts["shown"]
    for row in facts["rounds"]:
        for phase in ("after_cut", "after_recalibration", "score"):
            if row[phase]:
                yield (
                    "rounds",
                    row["round"],
                    "",
                    phase,
                    *(row[phase][key] for key in ("value", "low", "high")),
                )
        if row["difference"]:
            ends = (row["difference"][key] for key in ("value", "low", "high"))
            yield "rounds", row["round"], "", "change", *ends
        for kind, value in row["cost"].items():
            yield "rounds", row["round"], "", kind, value, None, None
        for of, latency in (("", row["latency"]), ("first_", row["first_latency"])):
            for quantity in ("median_ms", "p90_ms") if latency else ():
                yield "rounds", row["round"], "", of + quantity, latency[quantity], None, None
        for quantity in ("speed_up", "seconds"):
            if row[quantity] is not None:
                yield "rounds", row["round"], "", quantity, row[quantity], None, None
    for section in ("classes", "sizes"):
        for row in facts[section]:
            for quantity in ("first", "slim"):
                if row[quantity] is not None:
                    number = 0 if quantity == "first" else last
                    yield section, number, row["name"], "score", row[quantity], None, None
            if row["change"] is not None:
                yield section, last, row["name"], "change", row["change"], row["low"], row["high"]
            if row["boxes"] is not None:
                yield section, None, row["name"], "boxes", row["boxes"], None, None
    for row in facts["widths"]:
        for number, width in enumerate([row["first"], *row["rounds"]]):
            yield "widths", number, row["layer"], "filters", width, None, None
    for row in facts["whole"]:
        for layer in row["layers"]:
            yield "whole", None, layer, row["reason"], None, None, None
    for group in facts["sensitivity"]["groups"] if facts["sensitivity"] else ():
        for cell in group["cells"]:
            yield "sensitivity", 0, group["name"], f"drop at {cell['ratio']:g}", *cell["drop"]
        yield "sensitivity", 0, group["name"], "suggested", group["suggested"], None, None
    for picture in facts["pictures"]["pictures"] if facts["pictures"] else ():
        for model, number in (("first", 0), ("slim", last)):
            for quantity in ("found", "wrong"):
                yield "pictures", number, picture["name"], quantity, picture[model][quantity], None, None


def _sweep_table(record: dict[str, Any] | None, note: str) -> list[str]:
    """The drop of every cut and what the sweep says, or why there is none."""
    if record is None:
        return [note]
    header = ["layer group", *(f"-{ratio:.0%}" for ratio in record["ratios"]), "may go"]
    rows = []
    for group in record["groups"]:
        cells = {cell["ratio"]: shown(cell) for cell in group["cells"]}
        drops = [cells.get(ratio, "-") for ratio in record["ratios"]]
        most = f"{group['suggested']:.0%}" if group["suggested"] else "leave alone"
        rows.append([_cell(group["name"]), *drops, most])
    notes = "\n".join(f"- {_cell(note)}" for note in record["notes"])
    return [f"Drop of {_cell(record['label'])}, in brackets within the noise:", _grid(header, rows), notes]


def _pictures_table(pictures: dict[str, Any] | None) -> list[str]:
    """What both models find in the pictures, as counts; nothing where there are none."""
    if not pictures or not pictures["pictures"]:
        return []
    rows = []
    for picture in pictures["pictures"]:
        needed = sum(not box["optional"] for box in picture["truth"])
        counts = [picture[model][what] for what in ("found", "wrong") for model in ("first", "slim")]
        rows.append([_cell(picture["name"]), str(needed), *map(str, counts)])
    header = ["image", "objects", "found by the first", "by the slim", "wrong of the first", "of the slim"]
    said = f"Detections of score {pictures['least_score']} or more; boxes: report.html and report.json."
    return ["## What both models see", _grid(header, rows), said]


def _parts_table(kind: str, label: str, rows: Sequence[dict[str, Any]]) -> list[str]:
    """A table of classes or sizes, or nothing where there is none."""
    if not rows:
        return []
    header = [kind, "boxes", f"{label} of the first", "of the slim", "change", "95 % interval"]
    cells = []
    for row in rows:
        ends = "" if row["low"] is None else f"[{row['low']:+.3f}, {row['high']:+.3f}]"
        numbers = [_number(row["first"]), _number(row["slim"]), _number(row["change"], "+.3f")]
        cells.append([_cell(row["name"]), str(row["boxes"] or ""), *numbers, ends])
    return [_grid(header, cells)]


def _grid(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _number(value: float | None, form: str = ".3f") -> str:
    return "-" if value is None else format(value, form)


def _cell(text: str) -> str:
    """A name that is neither HTML nor the end of a cell in Markdown."""
    for sign, written in (
        ("\\", "\\\\"),
        ("&", "&amp;"),
        ("<", "&lt;"),
        (">", "&gt;"),
        ("|", "\\|"),
        ("`", "\\`"),
    ):
        text = text.replace(sign, written)
    return " ".join(text.split())


def _plain(entry: dict[str, Any] | None) -> str:
    return f"{entry['score']['value']:.3f}" if entry and entry.get("score") else ""


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
        f"{speed_up(entry):.2f}" if latency else "-",
    ]


def _engine(latency: dict[str, Any]) -> str:
    """What ran the passes, where it was not torch."""
    engine = latency.get("engine", "torch")
    return "" if engine == "torch" else f", in {engine}"
