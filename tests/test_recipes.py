"""The recipes: each loads, its names exist, its detector builds, and what its header says can be typed."""

import fnmatch
import re
import shlex
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from compress.criteria import CRITERIA
from compress.recipe import Recipe
from detectors.config import load
from detectors.data import AUGMENTATIONS, DATASETS
from detectors.dialects.torchvision import COCO_CLASSES
from detectors.evaluation import METRICS
from detectors.models import build, defaults
from detectors.models.base import Detector

REPOSITORY = Path(__file__).parents[1]
FOLDER = REPOSITORY / "recipes"
BASES = sorted((FOLDER / "base").glob("*.yaml"))
RECIPES = sorted(set(FOLDER.rglob("*.yaml")) - set(BASES))

each_recipe = pytest.mark.parametrize("path", RECIPES, ids=[str(p.relative_to(FOLDER)) for p in RECIPES])
each_base = pytest.mark.parametrize("path", BASES, ids=[p.name for p in BASES])


@cache
def recipe_of(path: Path) -> Recipe:
    return load(Recipe, path)


def header(path: Path) -> str:
    """The comment that a file begins with, one line each, without the signs."""
    lines = []
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").removeprefix(" "))
    return "\n".join(lines)


def commands(path: Path) -> list[list[str]]:
    """The words of every command line in a header, from the script on."""
    found = re.findall(r"^ +(?:make \w+ +# = )?python (.+)$", header(path), re.MULTILINE)
    lines = [shlex.split(line, comments=True) for line in found]
    return [
        [f"{words[1].replace('.', '/')}.py", *words[2:]] if words[0] == "-m" else words for words in lines
    ]


def detector_of(recipe: Recipe) -> Detector:
    common = {"size": recipe.detector.size, "width": recipe.detector.width}
    options = {key: value for key, value in common.items() if value is not None} | recipe.detector.options
    assert recipe.detector.name is not None
    with torch.device("meta"):
        return build(recipe.detector.name, recipe.data.classes or ["a", "b"], **options)


@each_recipe
def test_names_in_a_recipe_exist_and_its_detector_builds(path: Path) -> None:
    recipe = recipe_of(path)
    DATASETS[recipe.data.name]
    AUGMENTATIONS[recipe.data.augment]
    METRICS[recipe.eval.metric]
    CRITERIA[recipe.prune.criterion]
    detector = detector_of(recipe)
    assert sum(p.numel() for p in detector.parameters()) > 10_000
    layers = [name for name, layer in detector.network.named_modules() if isinstance(layer, nn.Conv2d)]
    layers += [
        name for name, layer in detector.network.named_modules() if "Transpose" in type(layer).__name__
    ]
    for pattern in recipe.prune.skip:
        assert fnmatch.filter(layers, pattern), f"{pattern} keeps nothing whole"


@each_recipe
def test_a_header_tells_what_to_type(path: Path) -> None:
    here = str(path.relative_to(REPOSITORY))
    lines = commands(path)
    assert any(words[1] == here for words in lines)
    for script, recipe, *overrides in lines:
        assert (REPOSITORY / script).is_file()
        assert (REPOSITORY / recipe).is_file()
        typed = load(Recipe, REPOSITORY / recipe, overrides)
        assert typed.detector.name is not None
        assert typed.detector.options.keys() <= defaults(typed.detector.name).keys()
        if script in ("prune.py", "eval_voc.py", "finetune.py"):
            assert typed.model is not None, f"{script} works on a trained detector"


@each_recipe
def test_a_recipe_of_a_published_network_says_where_its_numbers_come_from(path: Path) -> None:
    if path.parent.name != "prune" and recipe_of(path).data.root in ("VOCdevkit", "coco"):
        text = " ".join(header(path).split())
        assert "This project has not trained it." in text
        assert re.search(r"mAP \d|AP \d|No accuracy is published|neither a figure", text)


@each_base
def test_a_fragment_loads_and_names_no_detector(path: Path) -> None:
    recipe = recipe_of(path)
    assert recipe.detector.name is None
    assert recipe.model is None
    assert "Not a recipe of its own" in " ".join(header(path).split())
    assert any(
        f"base/{path.name}" in p.read_text() or f"base: {path.name}" in p.read_text()
        for p in [*RECIPES, *BASES]
    )


def test_recipes_have_names_of_their_own_since_runs_are_called_after_them() -> None:
    stems = [path.stem for path in RECIPES]
    assert len(stems) == len(set(stems))


def test_voc_and_coco_have_their_classes_in_published_order() -> None:
    voc = recipe_of(FOLDER / "base" / "voc0712.yaml").data.classes
    coco = recipe_of(FOLDER / "base" / "coco.yaml").data.classes
    assert voc is not None
    assert voc == sorted(voc)
    assert len(voc) == 20
    assert coco == list(COCO_CLASSES)


@pytest.mark.parametrize(
    ("name", "images", "steps", "drops"),
    [
        ("ssd300_voc0712", 16_551, 120_000, [80_000, 100_000]),
        ("ssd512_voc0712", 16_551, 120_000, [80_000, 100_000]),
        ("ssd300_coco", 118_287, 400_000, [280_000, 360_000]),
        ("ssd512_coco", 118_287, 400_000, [280_000, 360_000]),
        ("refinedet/refinedet320_vgg16_voc0712", 16_551, 120_000, [80_000, 100_000]),
        ("refinedet/refinedet512_vgg16_coco", 118_287, 400_000, [280_000, 360_000]),
    ],
)
def test_a_schedule_is_the_published_one_in_steps(
    name: str, images: int, steps: int, drops: list[int]
) -> None:
    train = recipe_of(FOLDER / f"{name}.yaml").train
    taken = train.epochs * -(-images // train.batch)
    assert taken == pytest.approx(steps, rel=0.004)
    assert [share * taken for share in train.milestones] == pytest.approx(drops, rel=0.004)
