"""Run a detector over labelled images and score what it finds: `evaluate`, and its two halves for reuse."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, distributed
from tqdm import tqdm

from detectors.errors import DataError
from detectors.evaluation import METRICS
from detectors.evaluation.bootstrap import Difference, paired_difference, score
from detectors.evaluation.score import Score
from detectors.types import Batch, Detections, Target

__all__ = [
    "Difference",
    "Predict",
    "Predictions",
    "Score",
    "evaluate",
    "paired_difference",
    "predictions",
    "score",
]

# images [B, 3, H, W], (height, width) of each original image -> detections in pixels of the original image
Predict = Callable[[Tensor, list[tuple[int, int]]], list[Detections]]

CPU = torch.device("cpu")
_SECONDS_BETWEEN_LINES = 30.0


@dataclass(frozen=True)
class Predictions:
    """What was found in every image of a data set, in host memory, ordered by index.

    Attributes:
        indices: position of each image in its data set, ascending, each once.
        detections: one for each image, pixels of the original image.
        targets: one for each image, in the same pixels.
        seconds: wall time in `predict`, of the slowest rank.
    """

    indices: list[int]
    detections: list[Detections]
    targets: list[Target]
    seconds: float


def evaluate(
    predict: Predict,
    loader: Iterable[Batch],
    classes: tuple[str, ...],
    *,
    metric: str,
    bootstrap: int = 1000,
    seed: int = 0,
    device: torch.device = CPU,
    progress: bool = True,
) -> Score:
    """Score a detector on the images of a loader; in a distributed run every rank gets the same score.

    Args:
        predict: finds objects in images `[B, 3, H, W]`, given their original (height, width); called in
            inference mode, with its model in eval mode already.
        loader: batches whose targets are in pixels of the original images. In a distributed run each rank has
            a share, and images that the sampler repeated to fill up are counted once.
        classes: class names; labels index them.
        metric: a name of `METRICS`.
        bootstrap: resamples of the images behind the interval; 0: no interval.
        seed: seed of the resamples.
        device: where `predict` wants its images.
        progress: show progress on rank 0: a bar on a terminal, else a line now and then, on stderr.

    Raises:
        ConfigError: on an unknown metric, before any image is read.
        DataError: where the loader is empty, no image has a box that counts, or a label has no class.
        UserError: where a detection is not finite.
        ValueError: where `predict` or the loader break the contract above.
    """
    METRICS[metric]  # a misspelt metric must not wait for the last image
    found = predictions(predict, loader, device=device, progress=progress)
    return score(
        found.detections,
        found.targets,
        tuple(classes),
        metric=metric,
        bootstrap=bootstrap,
        seed=seed,
        seconds=found.seconds,
    )


def predictions(
    predict: Predict, loader: Iterable[Batch], *, device: torch.device = CPU, progress: bool = True
) -> Predictions:
    """What `predict` finds in every image, gathered over the ranks. Arguments and errors as in `evaluate`."""
    found: dict[int, tuple[Detections, Target]] = {}
    seconds = 0.0
    with torch.inference_mode():
        for batch in _reported(loader, shown=progress and _rank() == 0):
            images = batch.images.to(device)
            _wait(device)
            start = time.perf_counter()
            detections = [one.cpu() for one in predict(images, batch.sizes)]
            _wait(device)
            seconds += time.perf_counter() - start
            if not len(detections) == len(batch.indices) == len(batch.targets):
                raise ValueError(
                    f"predict gave {len(detections)} detections and the loader {len(batch.targets)} targets "
                    f"for {len(batch.indices)} images"
                )
            for index, one, target in zip(batch.indices, detections, batch.targets, strict=True):
                if index in found:
                    raise ValueError(
                        f"the loader gave image {index} twice; a data set's indices must be its own"
                    )
                found[index] = (one, target.to(CPU))
    if distributed.is_available() and distributed.is_initialized():
        found, seconds = _gathered(found, seconds)
    if not found:
        raise DataError("nothing to score: the loader gave no image; check data.test")
    indices = sorted(found)
    return Predictions(indices, [found[i][0] for i in indices], [found[i][1] for i in indices], seconds)


def _gathered(
    found: dict[int, tuple[Detections, Target]], seconds: float
) -> tuple[dict[int, tuple[Detections, Target]], float]:
    """The same over all ranks; an image that several ranks hold is taken once, from the lowest of them."""
    # As arrays: pickling a tensor is some twenty times slower, and there are seven of them for each image.
    mine = {
        index: (
            [t.numpy() for t in (one.boxes, one.scores, one.labels)],
            [t.numpy() for t in (target.boxes, target.labels, target.difficult, target.crowd)],
        )
        for index, (one, target) in found.items()
    }
    shares: list = [None] * distributed.get_world_size()
    distributed.all_gather_object(shares, (mine, seconds))
    joined = {}
    for share, _ in reversed(shares):
        for index, (one, target) in share.items():
            joined[index] = (Detections(*map(torch.from_numpy, one)), Target(*map(torch.from_numpy, target)))
    return joined, max(seconds for _, seconds in shares)


def _rank() -> int:
    return distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0


def _wait(device: torch.device) -> None:
    """Kernels run on after the call that started them; the clock must not."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _reported(loader: Iterable[Batch], *, shown: bool) -> Iterator[Batch]:
    """The batches of the loader, with images/s on stderr where `shown`."""
    if not shown:
        yield from loader
        return
    images, start = 0, time.perf_counter()
    terminal = sys.stderr.isatty()
    bar = tqdm(loader, desc="evaluate", unit="batch", disable=not terminal, leave=False)
    told = start
    for batch in bar:
        yield batch
        images += len(batch.indices)
        now = time.perf_counter()
        bar.set_postfix_str(f"{images / (now - start):.1f} images/s")
        if not terminal and now - told > _SECONDS_BETWEEN_LINES:
            told = now
            print(
                f"evaluate: {images} images, {images / (now - start):.1f} images/s",
                file=sys.stderr,
                flush=True,
            )
