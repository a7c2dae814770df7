"""How long detectors take, stage by stage: python -m benchmarks.latency MODEL... [--batch 1 8] [...].

MODEL is a checkpoint, full or slim, or a name of `--list` with initial weights. All models are timed in turn
in one run: a stage of each, then the next turn. The stages are resizing (decoded uint8 images to the input),
the network (normalisation to head maps) and the rest (decoding, thresholds, NMS; how long that takes hangs on
what is found: give a photo with --image). Writes latency.json and latency.md to a folder: median and ninth
tenth for each model, engine, batch and stage, with machine, threads, dtype and date.

python -m benchmarks.latency --compare A.json B.json sets two such files side by side, and refuses those of
different machines, threads or dtypes.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import detectors
from benchmarks.main_job import machine
from compress.cost import cost_of
from compress.export import Dense, onnx_bytes, onnx_pass
from compress.latency.engines import ENGINES, Stopwatch
from compress.latency.passes import device_of, finish, in_turn, quantiles
from detectors.errors import ConfigError, RunError, UserError, counted
from detectors.files import write_text
from detectors.images import resize
from detectors.memory_format import in_layout
from detectors.models import build
from detectors.models.base import Detector
from detectors.models.guests.two_stage import TwoStage
from detectors.modes import evaluating

STAGES = ("resize", "network", "decode and NMS")
# What two runs must have in common to be compared.
ALIKE = ("machine", "device", "threads", "dtype")
_TIMES = ("median", "p90")
# Height and width of the random image: a photo of Pascal VOC.
_PHOTO = (375, 500)


def opened(model: str, device: torch.device, dtype: torch.dtype) -> Detector:
    """A checkpoint's detector, or a registered one with initial weights for 20 classes.

    Raises:
        UserError: neither such a file nor such a name.
    """
    if Path(model).exists() or "." in Path(model).name or "/" in model:
        detector = detectors.load(model)
    else:
        torch.manual_seed(0)
        detector = build(model, [f"class {k}" for k in range(20)])
    return detector.to(device, dtype).eval()


def stages(
    detector: Detector, engine: str, image: Tensor, batch: int, threads: int
) -> dict[str, Callable[[], object]]:
    """The stages of one detector, each from the finished output of the one before it.

    A two-stage detector's second stage rests on what its first one proposes: it has no stage of its own.

    Args:
        detector: on its device.
        engine: what runs the network; the other stages are torch's.
        image: `[3, h, w]` uint8, on the CPU.
        batch: how often it is taken.
        threads: of onnxruntime.
    """
    weight = next(detector.parameters())
    sizes = [(image.shape[1], image.shape[2])] * batch

    def resized() -> Tensor:
        inputs = torch.stack([resize(image, detector.size) for _ in sizes])
        return in_layout(inputs.to(weight.device, weight.dtype) / 255, channels_last=True)

    images = resized()
    if isinstance(detector, TwoStage):
        if engine != "torch":
            raise ConfigError(f"{detector.spec.name} has two stages, which torch alone runs: --engine torch")
        return {"resize": resized, "network": lambda: detector.found(images, sizes)}
    maps = detector.dense(images)
    run: Callable[[], object] = lambda: detector.dense(images)  # noqa: E731
    if engine == "onnxruntime":
        with torch.inference_mode(False):
            run = onnx_pass(onnx_bytes(Dense(detector), images), images, threads)
    return {
        "resize": resized,
        "network": run,
        "decode and NMS": lambda: detector.detect(detector.outputs(maps), sizes),
    }


def measure(
    models: Mapping[str, Detector], engine: str, image: Tensor, batch: int, threads: int, runs: int
) -> list[dict[str, Any]]:
    """A row for each model: milliseconds of a pass of its stages at a batch, all models in turn."""
    like = next(next(iter(models.values())).parameters())
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        stack.enter_context(evaluating(*models.values()))
        parts = {name: stages(one, engine, image, batch, threads) for name, one in models.items()}
        keys = [(name, stage) for name, own in parts.items() for stage in own]
        times = in_turn(
            [parts[name][stage] for name, stage in keys], runs=runs, finish=lambda: finish(like.device)
        )
    rows = []
    for name, detector in models.items():
        own = {stage: row for (whose, stage), row in zip(keys, times, strict=True) if whose == name}
        own["all"] = torch.stack(list(own.values())).sum(dim=0)
        found = {stage: dict(zip(_TIMES, quantiles(row), strict=True)) for stage, row in own.items()}
        facts = {"model": name, "engine": engine, "batch": batch, "macs": cost_of(detector).macs}
        rows.append({**facts, "milliseconds": found})
    return rows


def report(arguments: argparse.Namespace) -> dict[str, Any]:
    """All rows of a run and what they were measured under."""
    cuda = torch.cuda.is_available() and "onnxruntime" not in arguments.engine
    device = torch.device("cuda" if cuda else "cpu")
    for engine in arguments.engine:
        Stopwatch(engine).check()
    if arguments.dtype != "float32" and "onnxruntime" in arguments.engine:
        raise ConfigError(f"--dtype {arguments.dtype} is for torch: onnxruntime runs float32 here")
    torch.set_num_threads(arguments.threads or torch.get_num_threads())
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[arguments.dtype]
    names = list(dict.fromkeys(arguments.models))
    models = {name: opened(name, device, dtype) for name in names}
    draw = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, *_PHOTO), dtype=torch.uint8, generator=draw)
    if arguments.image:
        image = detectors.read_image(arguments.image)
    rows = []
    for engine in arguments.engine:
        for batch in arguments.batch:
            rows += measure(models, engine, image, batch, torch.get_num_threads(), arguments.runs)
    return {
        "command": f"python -m benchmarks.latency {' '.join(sys.argv[1:])}".strip(),
        "date": date.today().isoformat(),
        "machine": machine(),
        "device": device_of(next(next(iter(models.values())).parameters())),
        "threads": torch.get_num_threads(),
        "dtype": arguments.dtype,
        "image": Path(arguments.image).name if arguments.image else "random",
        "image_size": list(image.shape[1:]),
        "runs": arguments.runs,
        "rows": rows,
    }


def summary(facts: Mapping[str, Any]) -> str:
    """The facts as Markdown."""
    height, width = facts["image_size"]
    lines = [
        f"`{facts['command']}`, {facts['date']}, {facts['machine']}, {facts['device']}, "
        f"{counted(facts['threads'], 'thread')}, {facts['dtype']}.",
        "",
        "| model | GMACs | engine | batch | resize | network | decode and NMS | all | images/s |",
        "|---|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in facts["rows"]:
        times = row["milliseconds"]
        cells = [f"`{row['model']}`", f"{row['macs'] / 1e9:.3f}", row["engine"], str(row["batch"])]
        cells += [_cell(times.get(stage)) for stage in (*STAGES, "all")]
        rate = 1000 * row["batch"] / times["all"]["median"]
        lines.append(f"| {' | '.join([*cells, f'{rate:.1f}'])} |")
    return "\n".join(
        [
            *lines,
            "",
            f"Milliseconds of a batch: median (p90) of {facts['runs']} turns, all models in turn, from a "
            f"{facts['image']} image of {height} x {width}; a two-stage detector's network holds its "
            "second stage.",
            "",
        ]
    )


def compared(before: Path, after: Path) -> str:
    """Two runs side by side, row by row, as Markdown.

    Raises:
        RunError: a file that is none of ours, runs under different conditions, or runs with no row in common.
    """
    one, other = (_read(path) for path in (before, after))
    for name in ALIKE:
        if one[name] != other[name]:
            raise RunError(
                f"{before} and {after} cannot be compared: {name} is {one[name]} in one and {other[name]} in "
                "the other; measure both models in one run"
            )
    found = {_key(row): row for row in other["rows"]}
    lines = [
        f"{before.name} and {after.name}: {one['machine']}, {counted(one['threads'], 'thread')}, "
        f"{one['dtype']}.",
        "",
        "| model | engine | batch | stage | ms before | ms after | before / after |",
        "|---|---|---:|---|---:|---:|---:|",
    ]
    shared = [(row, found[_key(row)]) for row in one["rows"] if _key(row) in found]
    if not shared:
        raise RunError(f"{before} and {after} have no model, engine and batch in common")
    for row, twin in shared:
        for stage in (stage for stage in row["milliseconds"] if stage in twin["milliseconds"]):
            first, second = (run["milliseconds"][stage]["median"] for run in (row, twin))
            cells = [f"`{row['model']}`", row["engine"], str(row["batch"]), stage, f"{first:.1f}"]
            lines.append(f"| {' | '.join([*cells, f'{second:.1f}', f'{first / second:.2f}'])} |")
    return "\n".join([*lines, ""])


def _key(row: Mapping[str, Any]) -> tuple[str, str, int]:
    return row["model"], row["engine"], row["batch"]


def _cell(time: Mapping[str, float] | None) -> str:
    return "-" if time is None else f"{time['median']:.1f} ({time['p90']:.1f})"


def _read(path: Path) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        times = [
            time["median"] for row in facts["rows"] if _key(row) for time in row["milliseconds"].values()
        ]
        if facts.keys() >= set(ALIKE) and all(time > 0 for time in times):
            return facts
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        pass
    raise RunError(f"{path} is no latency.json of this benchmark; give a file that it has written")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of 1 or more")
    return int(text)


def main(words: Sequence[str]) -> None:
    """Measures and writes, or compares."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="benchmarks.latency", description=__doc__, formatter_class=form)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="a checkpoint or a name of `--list`")
    parser.add_argument(
        "--batch", type=_positive, nargs="+", default=[1], help="images in a pass; several in turn"
    )
    parser.add_argument(
        "--threads", type=_positive, help="CPU threads of both engines; else as many as torch has"
    )
    parser.add_argument("--engine", nargs="+", default=["torch"], choices=ENGINES, help="what runs networks")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="of the network")
    parser.add_argument("--runs", type=_positive, default=30, help="timed turns")
    parser.add_argument("--image", help="a photo; else a random image")
    parser.add_argument("--out", type=Path, default=Path(), help="folder of latency.json and latency.md")
    parser.add_argument("--compare", type=Path, nargs=2, metavar="JSON", help="two files of this benchmark")
    arguments = parser.parse_args(words)
    try:
        if arguments.compare:
            print(compared(*arguments.compare))
            return
        if not arguments.models:
            parser.error("give at least one MODEL")
        facts = report(arguments)
        write_text(arguments.out / "latency.json", json.dumps(facts, indent=1) + "\n")
        write_text(arguments.out / "latency.md", summary(facts))
        print(summary(facts))
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main(sys.argv[1:])
