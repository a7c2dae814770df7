"""Ours and its peers in turn, in one process: python -m benchmarks.detectors [--quick] [--out FOLDER].

SSD300 here and in torchvision (a forward pass and a training step at batch 8), our post-processing and the
loop over classes that ssd.pytorch has, and what a proven cut takes. Writes detectors.json and detectors.md to
benchmarks/results: medians, spread, ratios, machine and date. To be run on an idle machine, as a module: as
a script it would hide the package of its name. About five minutes on two cores; `--quick` runs the same code
on small detectors, to see that it runs.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import detection

from benchmarks.main_job import machine
from compress.budget import Budget
from compress.cost import cost_of, subject
from compress.graph import trace
from compress.plan import Rules
from compress.planning import make_plan
from compress.pruning import carry_out
from detectors.boxes import area
from detectors.models import build
from detectors.postprocess import PostprocessOptions, select
from detectors.types import Detections, Target

RESULTS = Path(__file__).parent / "results"
CLASSES = [f"class {k}" for k in range(20)]
_CUTS = (
    "ssd300_vgg16",
    "yolo_v3",
    "torchvision_retinanet_resnet50_fpn",
    "torchvision_fasterrcnn_resnet50_fpn",
)


def in_turn(calls: Mapping[str, Callable[[], Any]], runs: int, warm: int = 2) -> dict[str, Any]:
    """Times calls in turn, `runs` times after `warm` untimed ones.

    Returns:
        For each name the median, least and most milliseconds, and `ratio`: in each turn the first call's time
        over the last one's.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(-warm, runs):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            if turn >= 0:
                seconds[name].append(time.perf_counter() - started)
    first, *_, last = seconds.values()
    found = {name: _spread([1000 * s for s in times]) for name, times in seconds.items()}
    return {**found, "ratio": _spread([a / b for a, b in zip(first, last, strict=True)]), "runs": runs}


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": median(values), "least": min(values), "most": max(values)}


def networks(quick: bool) -> tuple[nn.Module, Any]:
    """torchvision's detector and ours, both for 20 classes with initial weights."""
    torch.manual_seed(0)
    # Images come in the size of the input: the peer's transform then only normalises, as ours does.
    settings = {"weights": None, "weights_backbone": None, "num_classes": 21, "_skip_resize": True}
    if quick:
        peer = detection.ssdlite320_mobilenet_v3_large(**settings)
        return peer, build("ssd_lite", CLASSES, size=[320, 320], width=0.25)
    return detection.ssd300_vgg16(**settings), build("ssd300_vgg16", CLASSES)


def forward(peer: Any, ours: Any, batch: int, runs: int) -> dict[str, Any]:
    """Normalised images to the logits and offsets of all anchors, in evaluation mode."""
    peer.eval()
    ours.eval()
    images = torch.rand(batch, 3, *ours.size) - 0.5

    @torch.inference_mode()
    def theirs() -> Any:
        return peer.head(list(peer.backbone(images).values()))

    @torch.inference_mode()
    def here() -> Any:
        return ours.outputs(ours.network(images))

    with FlopCounterMode(display=False) as flops:
        theirs()
    macs = {"torchvision": flops.get_total_flops() // 2 // batch, "slimdet": cost_of(ours).macs}
    return {**in_turn({"torchvision": theirs, "slimdet": here}, runs), "batch": batch, "macs": macs}


def training_step(peer: Any, ours: Any, batch: int, runs: int) -> dict[str, Any]:
    """Normalising, forward, matching, loss, backward and a step of SGD, on the same images and boxes."""
    peer.train()
    ours.train()
    draw = torch.Generator().manual_seed(0)
    height, width = ours.size
    images = torch.rand(batch, 3, height, width, generator=draw)
    targets = []
    for _ in range(batch):
        low = torch.rand(4, 2, generator=draw) * 0.6
        boxes = torch.cat([low, low + 0.1 + 0.3 * torch.rand(4, 2, generator=draw)], dim=1)
        labels = torch.randint(0, 20, (4,), generator=draw)
        targets.append(Target.of(boxes * torch.tensor([width, height, width, height]), labels))
    wanted = [{"boxes": t.boxes, "labels": t.labels + 1} for t in targets]

    def step(model: nn.Module, optimiser: torch.optim.Optimizer, losses: Callable[[], Any]) -> None:
        optimiser.zero_grad()
        sum(losses().values()).backward()
        optimiser.step()

    calls = {}
    for name, model, losses in (
        ("torchvision", peer, lambda: peer(list(images), wanted)),
        ("slimdet", ours, lambda: ours.losses(images, targets)),
    ):
        weights = [p for p in model.parameters() if p.requires_grad]
        optimiser = torch.optim.SGD(weights, lr=1e-6, momentum=0.9, weight_decay=5e-4)
        calls[name] = partial(step, model, optimiser, losses)
    return {**in_turn(calls, runs, warm=1), "batch": batch, "boxes_per_image": 4}


def candidates(anchors: int, count: int) -> tuple[Tensor, Tensor]:
    """Scores `[anchors, 20]`, exactly `count` of them above 0.01, and crowded boxes `[anchors, 4]`, 0..1."""
    draw = torch.Generator().manual_seed(0)
    scores = 0.009 * torch.rand(anchors * 20, generator=draw)
    above = torch.randperm(anchors * 20, generator=draw)[:count]
    scores[above] = 0.011 + 0.98 * torch.rand(count, generator=draw)
    low = 0.8 * torch.rand(anchors, 2, generator=draw)
    return scores.reshape(anchors, 20), torch.cat(
        [low, low + 0.05 + 0.15 * torch.rand(anchors, 2, generator=draw)], dim=1
    )


def postprocess(anchors: int, count: int, runs: int) -> dict[str, Any]:
    """The same candidates to the same detections, checked: ssd.pytorch's way and ours."""
    scores, boxes = candidates(anchors, count)
    # ssd.pytorch does not limit the detections of an image, so neither do we here.
    options = PostprocessOptions(score_threshold=0.01, nms_iou=0.45, top_k=200, keep=None)
    calls = {
        "loop over classes": lambda: loop_over_classes(scores, boxes, options),
        "slimdet": lambda: select(scores, boxes, (1, 1), options),
    }
    detections = same(loop_over_classes(scores, boxes, options), select(scores, boxes, (1, 1), options))
    found = in_turn(calls, runs)
    return {**found, "anchors": anchors, "candidates": count, "detections": detections}


def loop_over_classes(scores: Tensor, boxes: Tensor, options: PostprocessOptions) -> Tensor:
    """Detection as ssd.pytorch does it: class by class, a greedy loop over the 200 best boxes.

    Args:
        scores: `[A, C]`.
        boxes: `[A, 4]` corner form.
        options: thresholds.

    Returns:
        `[C, top_k, 5]`: score and box, best first, filled up with zeros.
    """
    output = torch.zeros(scores.shape[1], options.top_k, 5)
    for label in range(scores.shape[1]):
        above = scores[:, label] > options.score_threshold
        if not above.any():
            continue
        mine, places = scores[above, label], boxes[above]
        order = mine.sort().indices[-options.top_k :]
        areas, kept = area(places), []
        while len(order):
            best, order = order[-1], order[:-1]
            kept.append(int(best))
            low = torch.maximum(places[order, :2], places[best, :2])
            high = torch.minimum(places[order, 2:], places[best, 2:])
            inter = (high - low).clamp(min=0).prod(dim=1)
            order = order[inter / (areas[order] + areas[best] - inter) <= options.nms_iou]
        output[label, : len(kept)] = torch.cat([mine[kept, None], places[kept]], dim=1)
    return output


def same(loop: Tensor, ours: Detections) -> int:
    """How many detections there are; raises AssertionError if the two ways found different ones."""
    for label, rows in enumerate(loop):
        wanted, mine = rows[rows[:, 0] > 0], ours.labels == label
        torch.testing.assert_close(ours.scores[mine], wanted[:, 0], rtol=0, atol=0)
        torch.testing.assert_close(ours.boxes[mine], wanted[:, 1:], rtol=0, atol=1e-6)
    return len(ours)


def cutting(name: str, **options: Any) -> dict[str, Any]:
    """Seconds of tracing, of choosing, and of cutting with the proof in float64, at 30 % of every group."""
    torch.manual_seed(0)
    detector = build(name, CLASSES, **options)
    network, inputs = subject(detector)
    times = [time.perf_counter()]
    graph = trace(network, inputs)
    times.append(time.perf_counter())
    plan = make_plan(network, graph, Budget(), Rules(8, 0.05, 0.9, ()), ratio=0.3)
    times.append(time.perf_counter())
    slim = carry_out(detector, graph, plan)
    times.append(time.perf_counter())
    seconds = [after - before for before, after in pairwise(times)]
    parts = dict(zip(("trace", "plan", "cut and proof"), seconds, strict=True))
    return {**parts, "all": times[-1] - times[0], "macs": cost_of(detector).macs, "left": cost_of(slim).macs}


def measure(quick: bool) -> dict[str, Any]:
    """All comparisons, one after the other."""
    batch, runs = (2, 1) if quick else (8, 5)
    peer, ours = networks(quick)
    facts: dict[str, Any] = {
        "command": "python -m benchmarks.detectors" + (" --quick" if quick else ""),
        "date": date.today().isoformat(),
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "forward": forward(peer, ours, batch, runs),
        "training_step": training_step(peer, ours, batch, 1 if quick else 3),
    }
    del peer, ours
    facts["postprocess"] = postprocess(*((400, 900, 2) if quick else (8732, 20_000, 20)))
    small = {"size": [64, 64], "width": 0.0625}
    facts["cut"] = (
        {"ssd_vgg16_bn": cutting("ssd_vgg16_bn", **small)}
        if quick
        else {name: cutting(name) for name in _CUTS}
    )
    return facts


def summary(facts: Mapping[str, Any]) -> str:
    """The facts as Markdown."""
    lines = [
        f"`{facts['command']}`, {facts['date']}, {facts['machine']}, {facts['threads']} threads.",
        "",
        "| | peer | ms | slimdet, ms | ratio |",
        "|---|---|---:|---:|---:|",
    ]
    for key, what in (
        ("forward", "forward, batch {batch}: normalised images to the logits and offsets of all anchors"),
        (
            "training_step",
            "training step, batch {batch}, {boxes_per_image} boxes in each image: normalising, forward, "
            "matching, loss, backward, SGD",
        ),
        (
            "postprocess",
            "post-processing of an image with {candidates} candidates above 0.01 in 20 classes; the same "
            "{detections} detections",
        ),
    ):
        found = facts[key]
        peer = next(iter(found))
        cells = [what.format(**found), peer, _range(found[peer], 1), _range(found["slimdet"], 1)]
        lines.append(f"| {' | '.join([*cells, _range(found['ratio'], 2)])} |")
    macs = {name: f"{count / 1e9:.3f}" for name, count in facts["forward"]["macs"].items()}
    lines += [
        "",
        "Medians, and least to most in brackets, of calls in turn; ratio: peer / slimdet in each turn. Both "
        f"SSDs have initial weights and 20 classes; {macs['torchvision']} GMACs in torchvision, "
        f"{macs['slimdet']} here. The loop follows ssd.pytorch: class by class, the 200 best, greedy.",
        "",
        "| cut by 30 % | GMACs | left | trace, s | plan, s | cut and proof, s | all, s |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, found in facts["cut"].items():
        sizes = [f"{found[key] / 1e9:.3f}" for key in ("macs", "left")]
        times = [f"{found[key]:.1f}" for key in ("trace", "plan", "cut and proof", "all")]
        lines.append(f"| {' | '.join([f'`{name}`', *sizes, *times])} |")
    return "\n".join([*lines, ""])


def _range(spread: Mapping[str, float], digits: int) -> str:
    middle, low, high = (f"{spread[key]:.{digits}f}" for key in ("median", "least", "most"))
    return f"{middle} ({low} to {high})"


def main(quick: bool, out: Path) -> None:
    """Measures and writes."""
    facts = measure(quick)
    text = summary(facts)
    out.mkdir(parents=True, exist_ok=True)
    (out / "detectors.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    (out / "detectors.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--quick", action="store_true", help="small detectors, few runs")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of detectors.json and detectors.md")
    main(**vars(parser.parse_args()))
