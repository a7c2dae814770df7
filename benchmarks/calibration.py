"""What scoring and mending cost beside training: python -m benchmarks.calibration [--device cuda] [--quick].

On drawn images of the size of recipes/bccd.yaml and its detector: seconds of the scores of each criterion of
data over 256 images, as multiples of a plain training pass over them in float32, in turn; the memory that
one of these adds at most to a process that does nothing else; seconds of mending a cut to 10 % of the MACs
on 364 images, as many as BCCD has to train on. Writes calibration.json and calibration.md to
benchmarks/results; on a GPU, calibration_cuda.json and .md, where the memory is the GPU's. To be run on an
idle machine; some minutes on two cores. `--quick` runs the same code on few small images.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.main_job import ROOT, machine
from compress.calibration import evidence_of, recalibrated
from compress.cost import subject
from compress.graph import trace
from compress.pruning import carry_out
from compress.recipe import Recipe
from compress.schedule import plan_round
from compress.session import loader_of, open_all
from detectors.config import load
from detectors.engine.distributed import Place
from detectors.engine.loop import fit
from detectors.errors import counted

RESULTS = ROOT / "benchmarks" / "results"
CRITERIA = ("taylor", "fisher", "column_subset")
RUNS = 3
_DRAWN = (
    "data.name=synthetic",
    "data.train=[train]",
    "data.classes=null",
    "data.augment=none",
    "data.workers=0",
    "data.synthetic.classes=3",
    "finetune.precision=fp32",
    "finetune.epochs=1",
    "prune.rounds=1",
    "prune.epochs=null",
    "prune.floor=0.02",
    "prune.largest_cut=0.98",
    "prune.compensate=refit",
)
_SIZES = {
    False: ("data.synthetic.size=[208, 272]",),
    True: ("data.synthetic.size=[64, 64]", "detector.size=[64, 64]", "detector.width=0.125"),
}


class Job:
    """The recipe's detector on a device, and so many drawn images, which are drawn once and kept."""

    def __init__(self, images: int, quick: bool, device: torch.device) -> None:
        counts = (f"data.synthetic.train={images}", f"prune.calibration_images={images}")
        texts = [*_DRAWN, *_SIZES[quick], *counts]
        self.recipe = load(Recipe, ROOT / "recipes" / "bccd.yaml", texts)
        self.place = Place(0, 1, device)
        self.detector, (self.training,) = open_all(self.recipe, ["train"], self.place)
        for index in range(images):
            self.training.image(index)

    def train(self) -> None:
        """One epoch."""
        settings = self.recipe.finetune
        loader = loader_of(self.recipe, settings, self.training, self.detector, self.place)
        fit(self.detector, loader, settings, place=self.place)

    def score(self, criterion: str) -> None:
        """What a criterion wants to know, over all images."""
        recipe = replace(self.recipe, prune=replace(self.recipe.prune, criterion=criterion))
        graph = trace(*subject(self.detector))
        evidence_of(recipe, self.detector, graph, self.training, self.place)

    def mend(self) -> float:
        """Seconds of what lies between a cut to a tenth and its fine-tuning."""
        graph, plan = plan_round(self.recipe, 1, self.detector, self.training, self.place)
        slim = carry_out(self.detector, graph, plan)
        return self.seconds(
            lambda: recalibrated(self.recipe, self.detector, slim, plan.keep, self.training, self.place)
        )

    def seconds(self, run: Callable[[], Any]) -> float:
        """How long a call takes, until the device is done."""
        started = time.perf_counter()
        run()
        if self.place.device.type == "cuda":
            torch.cuda.synchronize(self.place.device)
        return time.perf_counter() - started


def peak(action: str, quick: bool, device: torch.device) -> float:
    """MB that an action adds at most to what a process holds that does nothing else."""
    command = [sys.executable, "-m", "benchmarks.calibration", "--only", action, "--device", str(device)]
    command += ["--quick"] * quick
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def perform(action: str, quick: bool, device: torch.device) -> None:
    """Prints the MB that one action on few batches adds at most."""
    job = Job(32, quick, device)
    print(added(job.train if action == "training" else lambda: job.score(action), device))


def added(run: Callable[[], Any], device: torch.device) -> float:
    """MB that a call adds at most to this process, or to its tensors on a GPU."""
    if device.type == "cuda":
        held = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return (torch.cuda.max_memory_allocated(device) - held) / 1e6
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the high-water mark begins anew
    run()
    return _resident("VmHWM") - before


def _resident(what: str) -> float:
    """MB of this process; not `ru_maxrss`, which a process takes over from the one that started it."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (line,) = (line for line in status.splitlines() if line.startswith(f"{what}:"))
    return int(line.split()[1]) / 1e3


def measure(quick: bool, device: torch.device) -> dict[str, Any]:
    """Everything, one after the other."""
    job, runs = Job(16 if quick else 256, quick, device), 1 if quick else RUNS
    seconds = job.seconds
    job.train()
    passes: list[float] = []
    scores: dict[str, list[float]] = {criterion: [] for criterion in CRITERIA}
    for _ in range(runs):
        passes.append(seconds(job.train))
        for criterion, found in scores.items():
            found.append(seconds(lambda name=criterion: job.score(name)))  # type: ignore[misc]
    whole = Job(16 if quick else 364, quick, device)
    cuda = device.type == "cuda"
    words = ["python -m benchmarks.calibration", *["--device cuda"] * cuda, *["--quick"] * quick]
    return {
        "command": " ".join(words),
        "date": date.today().isoformat(),
        "machine": machine(device),
        "threads": torch.get_num_threads(),
        "images": len(job.training),
        "training": {"seconds": passes, "mb": peak("training", quick, device)},
        "scores": {
            name: {"seconds": found, "mb": peak(name, quick, device)} for name, found in scores.items()
        },
        "mending": [whole.mend() for _ in range(runs)],
    }


def summary(facts: Mapping[str, Any]) -> str:
    """The facts as Markdown."""
    training = facts["training"]
    lines = [
        f"`{facts['command']}`, {facts['date']}, {facts['machine']}, {counted(facts['threads'], 'thread')}.",
        "",
        f"| {facts['images']} images, batch 8 | seconds | of a training pass | added MB |",
        "|---|---:|---:|---:|",
        f"| a training pass | {median(training['seconds']):.1f} | 1 | {training['mb']:.0f} |",
    ]
    for name, found in facts["scores"].items():
        ratios = [own / plain for own, plain in zip(found["seconds"], training["seconds"], strict=True)]
        spread = f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        lines.append(
            f"| scores by `{name}` | {median(found['seconds']):.1f} | {spread} | {found['mb']:.0f} |"
        )
    mending = f"{median(facts['mending']):.1f} s ({min(facts['mending']):.1f} to {max(facts['mending']):.1f})"
    lines += [
        "",
        f"Refit of the consumers and new statistics on all training images after the cut: {mending}.",
    ]
    return "\n".join([*lines, ""])


def main(quick: bool, out: Path, only: str | None, device: torch.device) -> None:
    """Measures and writes."""
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit(f"--device {device}: torch sees no GPU here; leave it out to measure on the CPU")
    if only is not None:
        perform(only, quick, device)
        return
    facts = measure(quick, device)
    text = summary(facts)
    out.mkdir(parents=True, exist_ok=True)
    name = "calibration_cuda" if device.type == "cuda" else "calibration"
    (out / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    (out / f"{name}.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="cpu or cuda")
    parser.add_argument("--quick", action="store_true", help="few small images, one run")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the two files")
    parser.add_argument("--only", choices=("training", *CRITERIA), help="one action; prints its peak MB")
    main(**vars(parser.parse_args()))
