"""Which training images are measured on: as many as asked for, the same for all, and never one by itself."""

import pytest
import torch
from tiny_runs import ALONE, tiny_detector, tiny_recipe

from compress.calibration import calibration_batches
from compress.recipe import Recipe
from detectors.data import Dataset
from detectors.data import build as build_data
from detectors.errors import DataError
from detectors.types import Target


def setting(images: int, wanted: int, batch: int) -> tuple[Recipe, Dataset]:
    recipe = tiny_recipe()
    recipe.data.synthetic.train = images
    recipe.prune.calibration_images, recipe.finetune.batch = wanted, batch
    return recipe, build_data(recipe.data, "train")


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


def test_boxes_are_asked_for_only_by_those_who_need_them() -> None:
    recipe, training = setting(6, 2, 2)
    detector = tiny_detector(recipe)
    (drawn,) = calibration_batches(recipe, detector, training, ALONE)

    class Few:
        """The same images, and no box in those that are drawn."""

        classes, skipped = training.classes, training.skipped
        image, name = training.image, training.name

        def __len__(self) -> int:
            return len(training)

        def target(self, index: int) -> Target:
            target = training.target(index)
            return target.select(torch.arange(0)) if index in drawn.indices else target

    assert len(list(calibration_batches(recipe, detector, Few(), ALONE))) == 1
    with pytest.raises(DataError, match="none of the 2 calibration images has a labelled box; raise prune"):
        list(calibration_batches(recipe, detector, Few(), ALONE, boxes=True))
