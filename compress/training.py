"""One training or fine-tuning run in its folder: what train.py and finetune.py share."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from compress.export import need_packages
from compress.recipe import Recipe
from compress.run_folder import run_folder
from compress.session import (
    describe,
    exported,
    headline,
    loader_of,
    open_all,
    predictions_of,
    scored,
    terms_of,
)
from detectors.checkpoint import fingerprint, save
from detectors.config import changes, load, overrides
from detectors.engine.distributed import joined
from detectors.engine.loop import fit
from detectors.settings import TrainConfig


def training_run(
    recipe: Recipe,
    settings: TrainConfig,
    folder: Path,
    sections: Sequence[str],
    following: Sequence[str],
    *,
    teacher: str | None = None,
) -> None:
    """Builds or loads, trains, scores and saves `model.pth`, printing what a person wants to know on the way.

    Args:
        recipe: detector, data, evaluation; `out` overrides `folder`.
        settings: how to train.
        folder: of the run.
        sections: parts of the recipe that decide what the run gives.
        following: script, recipe and overrides of the command to go on with, which gets the saved file.
        teacher: checkpoint of a detector to learn from, by the recipe's `distill`; None: there is none.
    """
    if recipe.export.onnx:
        need_packages()
    with joined() as place:
        if place.leads:
            print(f"{changes(recipe)}\n")
        detector, (training, test) = open_all(recipe, ["train", "test"], place)
        meta = {"parent": fingerprint(detector)} if recipe.model else {}
        if place.leads:
            print(headline(detector))
            print(describe(training, "train"))
            print(describe(test, "test"), flush=True)
            if "distill" in sections and recipe.distill.on:
                print(f"teacher: {teacher or 'none, for distill.teacher=null'}", flush=True)
        terms = terms_of(recipe, settings, detector, teacher=teacher)
        if recipe.dry_run:
            return
        with run_folder(recipe, folder, sections, place) as held:
            loader = loader_of(recipe, settings, training, detector, place)
            fit(detector, loader, settings, place=place, terms=terms, state_file=held / "last.pth")
            path = held / "model.pth"
            if place.leads:
                save(detector, path, **meta)  # now, so that no fault of the test images can cost the training
            score = scored(recipe, detector, predictions_of(recipe, detector, test, place))
            if place.leads:
                save(detector, path, **meta, score=score.to_dict())
                more = "".join(f"saved {held / name}\n" for name in exported(recipe, held, [path.name]))
                script, file, *words = following
                command = shlex.join(["python", script, file, f"model={path}", *words])
                print(f"\n{score.table()}\n{score.line()}\n\n{more}saved {path}; next: {command}")


def going_on(script: str, recipe: Recipe, path: str, sections: Sequence[str]) -> list[str]:
    """The words of the next command: script, recipe, and what this one's overrides changed in some parts."""
    changed = overrides(recipe, load(Recipe, path))
    kept = [word for word in changed if word.split(".")[0] in sections]
    # The weights that a detector began with are in its file by now.
    return [script, path, *(word for word in kept if not word.startswith("detector.backbone_weights="))]
