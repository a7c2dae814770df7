"""The README's table of detectors: python -m benchmarks.zoo [--latency] [--write].

Builds every configuration of benchmarks/zoo.yaml without memory, counts it, writes
benchmarks/results/zoo.json and prints the table. `--latency` times the dense networks anew, one after the
other on an idle machine, about two minutes; without it the times in zoo.json stay, but for those of a network
that has changed since. `--write` puts the table between the markers in README.md.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
import yaml
from torchvision.models import get_weight

from benchmarks.main_job import machine
from compress.cost import Cost, cost_of, subject
from compress.latency.engines import Stopwatch
from detectors.models import build
from detectors.models.base import Detector

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "results" / "zoo.json"
BEGIN, END = "<!-- zoo -->", "<!-- /zoo -->"
_SETS = {20: "VOC07", 80: "COCO"}


@dataclass(frozen=True)
class Entry:
    """One published configuration.

    Attributes:
        detector: registered name.
        classes: 20 of VOC or 80 of COCO.
        options: of the builder.
        map: published mAP, percent; None: none is published for these layers.
        source: who published it.
        address: of the weight file, its checksum in its name; None: no address with a checksum is known.
    """

    detector: str
    classes: int
    options: dict[str, Any]
    map: float | None = None
    source: str | None = None
    address: str | None = None

    @property
    def label(self) -> str:
        """Name and options, as a reader would write them."""
        return " ".join([f"`{self.detector}`", *(f"`{key}={value}`" for key, value in self.options.items())])

    def build(self, device: str) -> Detector:
        """The dense detector with initial weights, on meta without memory."""
        with torch.device(device):
            return build(self.detector, [f"class {k}" for k in range(self.classes)], **self.options)


def entries(path: Path = ROOT / "benchmarks" / "zoo.yaml") -> list[Entry]:
    """The configurations of a file; what torchvision says of its own files is asked of torchvision."""
    return [_entry(**row) for row in yaml.safe_load(path.read_text(encoding="utf-8"))]


def _entry(
    detector: str,
    classes: int,
    options: dict[str, Any] | None = None,
    map: float | None = None,
    source: str | None = None,
    weights: str | None = None,
) -> Entry:
    if weights is None:
        return Entry(detector, classes, options or {}, map, source)
    published = get_weight(weights)
    score = published.meta["_metrics"]["COCO-val2017"]["box_map"]
    return Entry(detector, classes, options or {}, score, f"`{weights}`", published.url)


def count(entry: Entry) -> tuple[tuple[int, int], Cost]:
    """Input size and cost."""
    detector = entry.build("meta")
    return detector.size, cost_of(detector)


def clocked(entry: Entry, macs: int, clock: Callable[[], float] = time.perf_counter) -> dict[str, Any]:
    """Times one dense network at batch 1 on the CPU; the larger it is, the fewer passes."""
    torch.manual_seed(0)
    detector = entry.build("cpu").eval()
    with torch.inference_mode():
        image = detector.normalise(torch.rand_like(subject(detector)[1]))
    runs = 20 if macs < 10e9 else 5 if macs < 60e9 else 3
    (latency,) = Stopwatch(runs=runs, clock=clock).networks([detector.network], image)
    return {**asdict(latency), "macs": macs}


def table(
    zoo: Sequence[Entry],
    counts: Mapping[str, tuple[tuple[int, int], Cost]],
    measured: Mapping[str, Any],
) -> str:
    """The Markdown table.

    Args:
        zoo: the rows.
        counts: input size and cost for each label.
        measured: zoo.json: `latency` for each label, date and machine; a time that was measured at other MACs
            than now is another network's and is left out.
    """
    lines = [
        "| detector | input | classes | params | GMACs | published mAP | by | ms |",
        "|---|---|---:|---:|---:|---:|---|---:|",
    ]
    shown = []
    for entry in zoo:
        size, cost = counts[entry.label]
        found = measured.get("latency", {}).get(entry.label)
        found = found if found and found["macs"] == cost.macs else None
        cells = [
            entry.label,
            f"{size[0]} x {size[1]}",
            str(entry.classes),
            f"{cost.params / 1e6:.3f} M",
            f"{cost.macs / 1e9:.3f}",
            f"{entry.map} {_SETS[entry.classes]}" if entry.map is not None else "-",
            entry.source or "-",
            f"{found['median_ms']:.1f}" if found else "-",
        ]
        lines.append("| " + " | ".join(cells) + " |")
        shown += [found] if found else []
    if shown:
        runs = ", ".join(map(str, sorted({found["runs"] for found in shown})))
        lines += [
            "",
            f"ms: median of {runs} passes of the dense network at batch 1 on "
            f"{shown[0]['device']}, {shown[0]['threads']} threads, one network after the other; "
            f"{measured['measured']}, {measured['machine']}.",
        ]
    return "\n".join(lines)


def placed(readme: str, text: str) -> str:
    """A README with the table between its markers; raises ValueError where they are not."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"README.md has no {BEGIN} ... {END} to put the table between")
    return f"{before}{BEGIN}\n{text}\n{END}{after}"


def main(latency: bool, write: bool) -> None:
    """Counts, times if asked to, and writes what came of it."""
    zoo = entries()
    counts = {entry.label: count(entry) for entry in zoo}
    facts: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    if latency:
        facts["measured"], facts["machine"] = date.today().isoformat(), machine()
        facts["latency"] = {}
        for entry in zoo:
            found = clocked(entry, counts[entry.label][1].macs)
            print(f"{entry.label} {found['median_ms']:.1f} ms", flush=True)
            facts["latency"][entry.label] = found
    facts["counted"], facts["torch"] = date.today().isoformat(), torch.__version__
    facts["detectors"] = [
        {**asdict(entry), "size": counts[entry.label][0], **asdict(counts[entry.label][1])} for entry in zoo
    ]
    RESULTS.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    text = table(zoo, counts, facts)
    print(text)
    if write:
        README.write_text(placed(README.read_text(encoding="utf-8"), text), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--latency", action="store_true", help="time the networks")
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    main(**vars(parser.parse_args()))
