"""A sensitivity sweep as files for people and programs: JSON, CSV, a picture, and a table to print."""

import csv
import io
import json
from pathlib import Path

from compress.sensitivity.heatmap import heatmap, shown
from compress.sensitivity.suggest import Record
from detectors.files import write_text

_COLUMNS = (
    "group", "ratio", "channels", "channels_left", "macs", "params", "score", "drop", "drop_low", "drop_high",
    "loss", "rise", "rise_low", "rise_high", "noise", "harmless", "seconds",
)  # fmt: skip


def write_all(record: Record, folder: Path) -> list[Path]:
    """Writes `sensitivity.json`, `.csv`, `.svg` and `.md` into a run folder; see `suggest`."""
    texts = {
        "json": json.dumps(record, indent=1, allow_nan=False) + "\n",
        "csv": table(record),
        "svg": heatmap(record),
        "md": markdown(record) + "\n",
    }
    paths = [folder / f"sensitivity.{kind}" for kind in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        write_text(path, text)
    return paths


def table(record: Record) -> str:
    """CSV with a line for each cell; channels in filters, costs of the whole detector after the cut."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for group in record["groups"]:
        for cell in group["cells"]:
            channels = [count * group["size"] for count in cell["channels"]]
            costs = (cell["cost"]["macs"], cell["cost"]["params"])
            judged = (int(cell["noise"]), int(cell["harmless"]))
            row = [group["name"], cell["ratio"], *channels, *costs, cell["score"], *cell["drop"]]
            writer.writerow([*row, cell["loss"], *cell["rise"], *judged, cell["seconds"]])
    return out.getvalue()


def markdown(record: Record) -> str:
    """The table of drops of the metric, that of the loss, and what they say."""
    ratios = [f"-{ratio:.0%}" for ratio in record["ratios"]]
    score, low, high = record["score"]
    loss = record["loss"][0]
    rows = [["layer group", "channels", *ratios, "suggested", "saves MACs"]]
    rows.append(["---", *["---:"] * (len(ratios) + 3)])
    rises = [["layer group", *ratios], ["---", *["---:"] * len(ratios)]]
    for group in record["groups"]:
        suggested = f"{group['suggested']:.0%}" if group["suggested"] else "leave alone"
        drops = [shown(cell) for cell in group["cells"]]
        channels = str(group["channels"] * group["size"])
        rows.append([group["name"], channels, *drops, suggested, f"{group['saves']:.1%}"])
        rises.append([group["name"], *(_rise(cell["rise"]) for cell in group["cells"])])
    notes = "\n".join(f"- {note}" for note in record["notes"])
    return "\n\n".join(
        [
            f"Drop of {record['label']}; the whole detector has {score:.3f} [{low:.3f}, {high:.3f}]:",
            aligned(rows),
            notes,
            f"Rise of the loss, which is {loss:.3f} for the whole detector, in brackets within the noise:",
            aligned(rises),
        ]
    )


def aligned(rows: list[list[str]]) -> str:
    """A Markdown table whose columns line up in a terminal too; the second row holds the rules."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = []
    for place, row in enumerate(rows):
        cells = []
        for k, (cell, width) in enumerate(zip(row, widths, strict=True)):
            if place == 1:
                cells.append("-" * (width - 1) + ":" if cell.endswith(":") else "-" * width)
            else:
                cells.append(cell.ljust(width) if k == 0 else cell.rjust(width))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _rise(rise: list[float | None]) -> str:
    value, low, high = rise
    if value is None:
        return "no bound"
    text = f"{value:.2f}" if abs(value) < 1000 else f"{value:.1e}"
    text = "0.00" if text == "-0.00" else text
    return f"({text})" if low is None or high is None or low <= 0 <= high else text
