"""Train a detector: python train.py RECIPE [key=value ...].

1 load and print the recipe
2 join torchrun's group if there is one, seed
3 build the detector, print its cost
4 build the data, print counts for each class
5 resume if the run has a checkpoint
6 fit
7 evaluate, print the per-class table and the next command

Writes weights/RECIPE/model.pth (or OUT/model.pth). Ctrl-C saves; the same command goes on. Several processes:
torchrun --nproc-per-node=N train.py RECIPE.
"""

from pathlib import Path

from compress.commandline import main
from compress.recipe import Recipe


def train(recipe: Recipe, path: str) -> None:
    """The steps of the module's docstring."""
    from compress.training import going_on, training_run

    following = going_on("prune.py", recipe, path, ["detector", "data", "eval", "prune", "finetune"])
    training_run(
        recipe,
        recipe.train,
        Path("weights") / Path(path).stem,
        ["detector", "data", "train", "model"],
        following,
    )


if __name__ == "__main__":
    main(train, __doc__ or "")
