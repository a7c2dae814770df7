"""The main job by the clock: python -m benchmarks.main_job RECIPE [key=value ...].

Runs `train.py` and then `prune.py` in a fresh folder, as a user would, on an idle machine, and writes
benchmarks/results/main_job_RECIPE.json and .md: seconds of each command from start to exit, the scores, the
table of rounds, machine, library versions and date. With `model=PATH` the training is left out.
"""

import json
import subprocess
import sys
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from compress.environment import cores, processor
from compress.ledger import Ledger
from compress.report import markdown, verdict
from detectors.checkpoint import parse, read
from detectors.errors import counted
from detectors.evaluation.score import Score

ROOT = Path(__file__).parent.parent


def main(recipe: str, *overrides: str) -> None:
    """Runs the job in a fresh folder."""
    with tempfile.TemporaryDirectory() as scratch:
        measure(Path(scratch), recipe, *overrides)


def measure(scratch: Path, recipe: str, *overrides: str) -> None:
    """Runs the job in a folder and writes what it took."""
    given = [text.removeprefix("model=") for text in overrides if text.startswith("model=")]
    overrides = tuple(text for text in overrides if not text.startswith("model="))
    model = Path(given[0]) if given else scratch / "train" / "model.pth"
    facts: dict[str, Any] = {
        "command": " ".join(["python -m benchmarks.main_job", recipe, *sys.argv[2:]]),
        "date": date.today().isoformat(),
        "machine": machine(),
    }
    if not given:
        facts["train_seconds"] = seconds("train.py", recipe, *overrides, f"out={scratch / 'train'}")
        facts["dense"] = parse(read(model), str(model)).meta["score"]
    facts["prune_seconds"] = seconds(
        "prune.py", recipe, *overrides, f"model={model}", f"out={scratch / 'prune'}"
    )
    ledger = Ledger(scratch / "prune" / "ledger.jsonl")
    # Paths of the scratch folder mean nothing to a reader.
    facts["ledger"] = [{key: value for key, value in e.items() if key != "file"} for e in ledger.entries]
    name = ROOT / "benchmarks" / "results" / f"main_job_{Path(recipe).stem}"
    name.parent.mkdir(exist_ok=True)
    name.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    text = summary(facts, ledger)
    name.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


def summary(facts: dict[str, Any], ledger: Ledger) -> str:
    """The facts as Markdown."""
    lines = [f"`{facts['command']}`, {facts['date']}, {facts['machine']}."]
    if "dense" in facts:
        score = Score.from_dict(facts["dense"])
        extra = f", AP50 {score.details['ap50']:.3f}" if "ap50" in score.details else ""
        lines.append(f"train.py: {facts['train_seconds']:.0f} s; {score.line()}{extra}.")
    lines.append(f"prune.py: {facts['prune_seconds']:.0f} s.")
    return "\n".join([*lines, "", markdown(ledger), "", verdict(ledger), ""])


def seconds(script: str, *arguments: str) -> float:
    """Runs a command of the project and says how long it took; its output goes to the terminal."""
    started = time.monotonic()
    done = subprocess.run([sys.executable, str(ROOT / script), *arguments], check=False, cwd=ROOT)
    if done.returncode:
        sys.exit(done.returncode)  # it has said why
    return round(time.monotonic() - started, 1)


def machine(device: torch.device | None = None) -> str:
    """The GPU where the work was done on one, processor, cores and library versions."""
    accelerator = "" if device is None or device.type == "cpu" else f"{torch.cuda.get_device_name(device)}, "
    told = Path("/proc/cpuinfo")
    matrix = " with AMX" if told.exists() and "amx_bf16" in told.read_text(encoding="utf-8") else ""
    return f"{accelerator}{processor()}{matrix}, {counted(cores(), 'core')}, torch {version('torch')}"


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(*sys.argv[1:])
