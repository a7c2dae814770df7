"""Train a detector: python train.py RECIPE [key=value ...]

1 load and print the recipe - 2 join torchrun's group if there is one, seed - 3 build the detector, print its cost -
4 build the data, print counts for each class - 5 resume if the run has a checkpoint - 6 fit - 7 evaluate, print the
per-class table and the next command. Writes weights/RECIPE/model.pth (or OUT/model.pth); Ctrl-C saves, and the same
command goes on. Several processes: torchrun --nproc-per-node=N train.py RECIPE.
"""

from pathlib import Path

from compress.commandline import main
from compress.recipe import Recipe


def train(recipe: Recipe, name: str) -> None:
    """The steps of the module's docstring."""
    from compress.cost import cost_of
    from compress.session import describe, loader_of, open_all, run_folder, score_of
    from detectors.checkpoint import save
    from detectors.config import dump
    from detectors.engine.distributed import joined
    from detectors.engine.loop import fit

    with joined() as place:
        if place.leads:
            print(dump(recipe))
        detector, (training, test) = open_all(recipe, ["train", "test"], place)
        if place.leads:
            print(f"{detector.spec.name} at {detector.size[0]}x{detector.size[1]}: {cost_of(detector)}")
            print(describe(training, "train"))
            print(describe(test, "test"), flush=True)
        if recipe.dry_run:
            return
        with run_folder(
            recipe, Path("weights") / name, ["detector", "data", "train", "model"], place
        ) as folder:
            loader = loader_of(recipe, recipe.train, training, detector, place)
            fit(detector, loader, recipe.train, place=place, state_file=folder / "last.pth")
            score = score_of(recipe, detector, test, place)
            if place.leads:
                save(detector, folder / "model.pth", score=score.to_dict())
                print(f"\n{score.table()}\n{score.line()}\n")
                print(
                    f"saved {folder / 'model.pth'}; next: python prune.py RECIPE model={folder / 'model.pth'}"
                )


if __name__ == "__main__":
    main(train, __doc__)
