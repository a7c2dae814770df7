"""A few test images with what the first and the slim model find in them, recorded for the report."""

import base64
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torchvision.io import encode_jpeg

from compress.ledger import Ledger, kept_round
from compress.recipe import Recipe
from detectors.checkpoint import fingerprint
from detectors.data import Dataset
from detectors.files import write_text
from detectors.images import resize, shrunk_size
from detectors.loading import load
from detectors.models.base import Detector
from detectors.types import Detections, Target

FILE = "pictures.json"
_LONGEST = 360  # pixels of a picture's longer side: three beside each other fill a page
_QUALITY = 80
_MOST = 40  # boxes of one model in one picture; more hide the image


def take(recipe: Recipe, first: Detector, test: Dataset, folder: Path, ledger: Ledger) -> None:
    """Writes `pictures.json` into a run folder; nothing where no round is kept or no picture is wanted.

    The images are drawn by `finetune.seed` from those with a labelled box.

    Args:
        recipe: `report` says how many pictures, and from which score on detections are shown.
        first: the model that the run started from, on the device that it is to run on.
        test: the images.
        folder: of the run.
        ledger: of the run.
    """
    kept = kept_round(ledger)
    path = folder / FILE
    if not kept or not recipe.report.pictures:
        path.unlink(missing_ok=True)
        return
    device = next(first.parameters()).device
    slim = load(folder / f"round_{kept:02d}.pth").to(device)
    slim.postprocess = first.postprocess
    names, least = first.spec.classes, recipe.report.picture_score
    pictures = []
    for index in chosen(test, recipe.report.pictures, recipe.finetune.seed):
        image = test.image(index)
        height, width = shrunk_size((image.shape[1], image.shape[2]), _LONGEST)
        scale = width / image.shape[2], height / image.shape[1]
        jpeg = encode_jpeg(resize(image, (height, width)), quality=_QUALITY)
        pictures.append(
            {
                "index": index,
                "name": test.name(index),
                "width": width,
                "height": height,
                "jpeg": base64.b64encode(bytes(jpeg.tolist())).decode("ascii"),
                "truth": _labelled(test.target(index), names, scale),
                "first": _detected(first.predict(image).cpu(), names, scale, least),
                "slim": _detected(slim.predict(image).cpu(), names, scale, least),
            }
        )
    recorded = {"slim": fingerprint(slim), "least_score": least, "pictures": pictures}
    write_text(path, json.dumps(recorded, allow_nan=False))


def chosen(test: Dataset, count: int, seed: int) -> list[int]:
    """Positions of so many images with a labelled box, ascending; the same for the same seed."""
    order = list(range(len(test)))
    random.Random(seed).shuffle(order)
    found: list[int] = []
    for index in order:
        if len(found) == count:
            break
        if bool((~test.target(index).crowd).any()):
            found.append(index)
    return sorted(found)


def _labelled(target: Target, names: Sequence[str], scale: tuple[float, float]) -> list[dict[str, Any]]:
    optional = target.difficult | target.crowd
    rows = zip(_scaled(target.boxes, scale), target.labels.tolist(), optional.tolist(), strict=True)
    return [{"box": box, "label": names[label], "optional": more} for box, label, more in rows]


def _detected(
    found: Detections, names: Sequence[str], scale: tuple[float, float], least: float
) -> list[dict[str, Any]]:
    rows = list(zip(_scaled(found.boxes, scale), found.labels.tolist(), found.scores.tolist(), strict=True))
    return [
        {"box": box, "label": names[label], "score": round(score, 3)}
        for box, label, score in rows[:_MOST]
        if score >= least
    ]


def _scaled(boxes: torch.Tensor, scale: tuple[float, float]) -> list[list[float]]:
    """Boxes in pixels of the picture."""
    moved = boxes * boxes.new_tensor([*scale, *scale])
    return [[round(value, 1) for value in box] for box in moved.tolist()]
