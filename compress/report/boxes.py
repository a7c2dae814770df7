"""Recorded boxes judged: what each model found, missed or made up in the pictures of a report."""

from collections.abc import Sequence
from typing import Any

Box = dict[str, Any]

LEAST_IOU = 0.5


def judged(pictures: dict[str, Any]) -> dict[str, Any]:
    """The pictures with a verdict on every box: found or missed if labelled, right or wrong if detected.

    A detection is right where it overlaps a labelled box of its class that no better one has taken, by an
    IoU of 0.5 or more. Boxes marked difficult, and crowds, are never missed, and what
    overlaps one is not wrong.
    """
    shown = []
    for picture in pictures["pictures"]:
        models = {}
        for model in ("first", "slim"):
            found: list[Box] = []
            taken: set[int] = set()
            for box in sorted(picture[model], key=lambda box: -float(box["score"])):
                place = _match(box, picture["truth"], taken)
                if place is not None and not picture["truth"][place]["optional"]:
                    taken.add(place)
                found.append(box | {"right": place is not None})
            needed = {k for k, box in enumerate(picture["truth"]) if not box["optional"]}
            models[model] = {
                "boxes": found,
                "found": len(taken),
                "missed": [picture["truth"][place] for place in sorted(needed - taken)],
                "wrong": sum(not box["right"] for box in found),
            }
        shown.append({**picture, **models})
    return pictures | {"pictures": shown}


def overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Intersection over union of two boxes, xyxy."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return both / (areas[0] + areas[1] - both)


def _match(box: Box, truth: Sequence[Box], taken: set[int]) -> int | None:
    """The labelled box that a detection is right about; one that must be found before one that need not."""
    fits = [
        (not other["optional"], overlap(box["box"], other["box"]), place)
        for place, other in enumerate(truth)
        if other["label"] == box["label"] and place not in taken
    ]
    best = max((fit for fit in fits if fit[1] >= LEAST_IOU), default=None)
    return best[2] if best else None
