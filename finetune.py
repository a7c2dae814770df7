"""Fine-tune a detector, full or slim: python finetune.py RECIPE model=PATH [key=value ...].

1 load the recipe and the checkpoint
2 build the data
3 resume if the run has a checkpoint
4 fit by the settings in `finetune`, and by `distill` where distill.teacher=PATH names a teacher
5 evaluate, print the per-class table

Writes finetuned/model.pth beside the given model (or OUT/model.pth). Ctrl-C saves; the same command goes on.
"""

from pathlib import Path

from compress.commandline import main
from compress.recipe import Recipe


def finetune(recipe: Recipe, path: str) -> None:
    """The steps of the module's docstring."""
    from compress.session import need_model
    from compress.training import going_on, training_run

    folder = Path(need_model(recipe, "finetune.py")).parent / "finetuned"
    following = going_on("eval_voc.py", recipe, path, ["detector", "data", "eval"])
    sections = ["detector", "data", "finetune", "distill", "model"]
    training_run(recipe, recipe.finetune, folder, sections, following, teacher=recipe.distill.teacher)


if __name__ == "__main__":
    main(finetune, __doc__ or "")
