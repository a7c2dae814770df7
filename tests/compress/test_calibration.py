"""Which training images are measured on: as many as asked for, the same for all, and never one by itself."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_runs import ALONE, tiny_detector, tiny_recipe

from compress import calibration
from compress.calibration import calibration_batches, recalibrated
from compress.evidence import moments
from compress.pruning import carry_out
from compress.recipe import BudgetConfig, Recipe
from compress.schedule import plan_round
from compress.session import loader_of
from detectors.data import Dataset
from detectors.data import build as build_data
from detectors.errors import DataError
from detectors.types import Batch, Target


def setting(images: int, wanted: int, batch: int) -> tuple[Recipe, Dataset]:
    recipe = tiny_recipe()
    recipe.data.synthetic.train = images
    recipe.prune.calibration_images, recipe.finetune.batch = wanted, batch
    return recipe, build_data(recipe.data, "train")


class Retold:
    """The same images with other targets."""

    def __init__(self, images: Dataset, target: Callable[[int], Target]) -> None:
        self.classes, self.skipped = images.classes, images.skipped
        self.image, self.name, self.target = images.image, images.name, target
        self._count = len(images)

    def __len__(self) -> int:
        return self._count


@pytest.mark.parametrize(
    ("images", "wanted", "batch", "sizes"),
    [
        (10, 512, 6, [6, 4]),
        (10, 8, 3, [3, 3, 2]),
        (9, 512, 4, [4, 4]),  # the last one would be alone
        (12, 9, 4, [4, 4]),
        (10, 512, 16, [10]),
        (4, 512, 1, [2, 2]),
        (4, 1, 8, [1]),
    ],
)
def test_as_many_images_as_are_asked_for_and_there(
    images: int, wanted: int, batch: int, sizes: list[int]
) -> None:
    recipe, training = setting(images, wanted, batch)
    found = list(calibration_batches(recipe, tiny_detector(recipe), training, ALONE))
    assert [len(one.targets) for one in found] == [len(one.images) for one in found] == sizes
    indices = [index for one in found for index in one.indices]
    assert len(set(indices)) == len(indices)


@pytest.mark.parametrize(
    ("enough", "looked_at"), [((4, 0), 4), ((5, 0), 8), ((4, 10**9), 12), (calibration._ENOUGH, 12)]
)
def test_compensation_stops_once_it_has_seen_enough(
    enough: tuple[int, int], looked_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, training = setting(12, 512, 4)
    recipe.prune.budget, recipe.prune.rounds = BudgetConfig(macs="60%"), 1
    recipe.prune.compensate = "refit"
    detector = tiny_detector(recipe)
    graph, plan = plan_round(recipe, 1, detector, training, ALONE)
    slim = carry_out(detector, graph, plan)
    seen: list[int] = []

    def watched(model: Any, groups: Any, batches: Iterable[Batch], run: Any, **how: Any) -> Any:
        def told() -> Iterator[Batch]:
            for batch in batches:
                seen.append(len(batch.targets))
                yield batch

        return moments(model, groups, told(), run, **how)

    monkeypatch.setattr(calibration, "moments", watched)
    monkeypatch.setattr(calibration, "_ENOUGH", enough)
    assert recalibrated(recipe, detector, slim, plan.keep, training, ALONE)["compensated"]
    assert sum(seen) == looked_at


def test_boxes_are_asked_for_only_by_those_who_need_them() -> None:
    recipe, training = setting(6, 2, 2)
    detector = tiny_detector(recipe)
    (drawn,) = calibration_batches(recipe, detector, training, ALONE)

    def few(index: int) -> Target:
        target = training.target(index)
        return target.select(torch.arange(0)) if index in drawn.indices else target

    told = Retold(training, few)
    assert len(list(calibration_batches(recipe, detector, told, ALONE))) == 1
    with pytest.raises(DataError, match="none of the 2 calibration images has a labelled box; raise prune"):
        list(calibration_batches(recipe, detector, told, ALONE, boxes=True))


@pytest.mark.parametrize("difficult", [True, False])
def test_boxes_marked_difficult_count_where_training_counts_them(difficult: bool) -> None:
    recipe, training = setting(4, 4, 2)
    recipe.data.difficult = difficult
    detector = tiny_detector(recipe)

    def marked(index: int) -> Target:
        target = training.target(index)
        count = len(target.labels)
        return replace(target, difficult=torch.arange(count) == count - 1)

    told = Retold(training, marked)

    def boxes(batches: Iterable[Batch]) -> int:
        return sum(len(target.labels) for batch in batches for target in batch.targets)

    trained_on = boxes(loader_of(recipe, recipe.finetune, told, detector, ALONE).epoch(0))
    assert boxes(calibration_batches(recipe, detector, told, ALONE)) == trained_on
    every = sum(len(training.target(index).labels) for index in range(4))
    assert trained_on == (every if difficult else every - 4)


def test_norms_are_measured_on_what_they_see_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, training = setting(8, 8, 4)
    recipe.prune.budget, recipe.prune.rounds = BudgetConfig(macs="60%"), 1
    detector = tiny_detector(recipe)
    graph, plan = plan_round(recipe, 1, detector, training, ALONE)
    slim = carry_out(detector, graph, plan)
    passed = []
    monkeypatch.setattr(slim, "pass_through", lambda images: passed.append(len(images)))
    recalibrated(recipe, detector, slim, plan.keep, training, ALONE)
    assert passed == [4, 4]
