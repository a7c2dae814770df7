"""Runs with a teacher resume to the bit, and recipes that ask for what cannot be are refused in one line."""

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from teachers import BOTH
from tiny_runs import same_files, tiny_detector, tiny_recipe, tiny_run, without_seconds

from compress.ledger import Ledger
from compress.recipe import DistillConfig, Recipe
from compress.session import terms_of
from detectors.errors import ConfigError, Interrupted
from detectors.models.base import Detector


def taught(cache: str, **prune: Any) -> Recipe:
    recipe = tiny_recipe(rounds=1, **prune)
    how = DistillConfig(predictions=0.5, attention=1.0, temperature=2.0, cache=cache)  # type: ignore[arg-type]
    return replace(
        recipe,
        distill=how,
        data=replace(recipe.data, augment="flip" if cache == "ram" else "light"),
        finetune=replace(recipe.finetune, epochs=2),
    )


@pytest.mark.parametrize("cache", ["none", "ram"])
def test_a_run_with_a_teacher_that_is_stopped_ends_as_an_unbroken_one_to_the_bit(
    cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = tiny_run(tmp_path / "unbroken", taught(cache)).finish()
    losses, steps = Detector.losses, []

    def interrupted(self: Detector, *args: Any) -> Any:
        steps.extend([1] * self.training)  # scoring asks for losses too
        if self.training and len(steps) in (1, 3):
            os.kill(os.getpid(), signal.SIGINT)
        return losses(self, *args)

    monkeypatch.setattr(Detector, "losses", interrupted)
    for _ in range(2):
        with pytest.raises(Interrupted):
            tiny_run(tmp_path / "broken", taught(cache)).finish()
    broken = tiny_run(tmp_path / "broken", taught(cache)).finish()
    assert len(steps) == 4  # two epochs of two steps
    assert same_files(tmp_path / "broken", tmp_path / "unbroken")
    assert without_seconds(broken.entries) == without_seconds(unbroken.entries)
    loss = Ledger(tmp_path / "broken" / "ledger.jsonl").find(1, "finetune")["loss"]
    assert min(loss[name] for name in ("teacher_classes", "teacher_boxes", "teacher_attention")) > 0


@pytest.mark.parametrize("augment", ["light", "ssd", "overhead"])
def test_a_cache_of_endless_images_is_refused(augment: str) -> None:
    recipe = taught("ram")
    recipe = replace(recipe, data=replace(recipe.data, augment=augment))
    detector = tiny_detector(recipe)
    with pytest.raises(
        ConfigError, match=rf"data.augment={augment} makes new .* or data.augment to flip or none"
    ):
        terms_of(recipe, recipe.finetune, detector, teacher=detector)


def test_without_weights_there_is_no_term_and_a_named_teacher_is_refused() -> None:
    recipe = tiny_recipe()
    detector = tiny_detector(recipe)
    assert terms_of(recipe, recipe.finetune, detector, teacher=detector) == ()
    with pytest.raises(
        ConfigError, match=r"distill.teacher=x.pth has nothing to teach: set distill.predictions"
    ):
        terms_of(recipe, recipe.finetune, detector, teacher="x.pth")
    assert terms_of(replace(recipe, distill=BOTH), recipe.finetune, detector, teacher=None) == ()


@pytest.mark.parametrize(
    "settings", [{"predictions": -1.0}, {"attention": float("nan")}, {"temperature": 0.0}]
)
def test_settings_that_cannot_be_are_refused_with_their_key(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"distill.{next(iter(settings))}="):
        DistillConfig(**settings)  # type: ignore[arg-type]
