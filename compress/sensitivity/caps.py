"""The suggestions of a sensitivity sweep as caps of the planner."""

from dataclasses import replace
from decimal import Decimal
from pathlib import Path

from compress.cost import subject
from compress.graph import trace
from compress.plan import names, selectable
from compress.recipe import Recipe
from compress.sensitivity.suggest import read_record
from detectors.checkpoint import fingerprint
from detectors.errors import RunError
from detectors.models.base import Detector


def with_caps(recipe: Recipe, detector: Detector) -> Recipe:
    """The recipe with what `prune.caps_from` suggests among `prune.caps`; the latter win where they speak.

    Args:
        recipe: of a run.
        detector: the run's first model, which the sweep must have been made of.

    Raises:
        RunError: the file is broken, of another model, or of another criterion.
    """
    settings = recipe.prune
    if settings.caps_from is None:
        return recipe
    path = Path(settings.caps_from)
    record = read_record(path)
    if record["model"] != fingerprint(detector):
        raise RunError(
            f"prune.caps_from={path} was measured on another model (or other weights of it) than "
            f"{recipe.model}; run mode=sensitivity on this one"
        )
    if record.get("criterion") != settings.criterion:
        raise RunError(
            f"prune.caps_from={path} was measured with prune.criterion={record.get('criterion')}, this "
            f"recipe cuts by {settings.criterion}, which lets other channels go; run mode=sensitivity with it"
        )
    suggested = {group["name"]: group["suggested"] for group in record["groups"]}
    most = float(1 - Decimal(str(settings.floor)))
    caps = {
        group.producers[0]: min(suggested[group.name], most)
        for group in selectable(trace(*subject(detector)), settings.skip)
        if group.name in suggested and not any(names(pattern, group) for pattern in settings.caps)
    }
    return replace(recipe, prune=replace(settings, caps={**settings.caps, **caps}))
