"""A compression run that takes seconds: eight drawn images of 64 x 64, a narrow detector, two rounds."""

from pathlib import Path
from typing import Any

import torch

from compress.recipe import BudgetConfig, PruneConfig, Recipe
from compress.rounds import Run
from detectors.checkpoint import read
from detectors.data import build as build_data
from detectors.engine.distributed import Place
from detectors.models import build
from detectors.models.base import Detector
from detectors.settings import DataConfig, EvalConfig, SyntheticConfig, TrainConfig

ALONE = Place(0, 1, torch.device("cpu"))
PHASES = [(0, "start")] + [(n, p) for n in (1, 2) for p in ("cut", "recalibrate", "finetune", "evaluate")]


def tiny_recipe(**prune: Any) -> Recipe:
    """Two rounds to 40 % of the MACs by L1, one epoch of two steps each."""
    drawn = SyntheticConfig(
        classes=2, train=8, val=1, test=4, size=[64, 64], objects=[1, 2], object_size=[0.3, 0.6]
    )
    # What needs no pass over images, where a test asks for nothing else.
    quick = {"criterion": "l1", "compensate": "none"}
    settings = {"budget": BudgetConfig(macs="40%"), "rounds": 2, "multiple": 1} | quick | prune
    return Recipe(
        data=DataConfig(
            name="synthetic", train=["train"], test=["test"], augment="light", workers=0, synthetic=drawn
        ),
        eval=EvalConfig(metric="voc", bootstrap=10, keep=10, top_k=20),
        finetune=TrainConfig(epochs=1, batch=4, lr=1e-3),
        prune=PruneConfig(**settings, calibration_images=8, latency_runs=0),
    )


def tiny_detector(recipe: Recipe, seed: int = 0) -> Detector:
    """The detector that the run starts from."""
    torch.manual_seed(seed)
    classes = build_data(recipe.data, "train").classes
    return build("ssd_vgg16_bn", classes, size=(64, 64), width=0.125).eval()


def tiny_run(folder: Path, recipe: Recipe | None = None, first: Detector | None = None) -> Run:
    """A run in a folder, new or begun before."""
    recipe = recipe or tiny_recipe()
    folder.mkdir(exist_ok=True)
    training, test = (build_data(recipe.data, split) for split in ("train", "test"))
    return Run(recipe, first or tiny_detector(recipe), training, test, folder, ALONE)


def without_seconds(value: Any) -> Any:
    """The same without what wall time decides."""
    if isinstance(value, dict):
        return {key: without_seconds(item) for key, item in value.items() if key not in ("seconds", "date")}
    return [without_seconds(item) for item in value] if isinstance(value, list) else value


def same_files(one: Path, other: Path) -> bool:
    """Whether two runs left the same files with the same tensors, to the bit."""
    names = [sorted(file.name for file in folder.iterdir()) for folder in (one, other)]
    if names[0] != names[1]:
        return False
    for name in names[0]:
        if name.endswith(".pth"):
            first, second = read(one / name), read(other / name)
            if [first[k] != second[k] for k in ("spec", "geometry", "meta")] != [False] * 3:
                return False
            if first["state"].keys() != second["state"].keys():
                return False
            if not all(torch.equal(first["state"][k], second["state"][k]) for k in first["state"]):
                return False
    return True
