"""Score a detector, full or slim: python eval_voc.py RECIPE model=PATH [eval.metric=voc07|voc|coco].

1 load the recipe and the checkpoint
2 build the data (eval.split)
3 find the objects in every image
4 print AP for each class and the mean with its interval over images

Writes nothing.
"""

from compress.commandline import main
from compress.recipe import Recipe


def evaluate(recipe: Recipe, path: str) -> None:
    """The steps of the module's docstring."""
    from compress.session import describe, headline, need_model, open_all, predictions_of, scored
    from detectors.engine.distributed import joined

    need_model(recipe, "eval_voc.py")
    with joined() as place:
        detector, (dataset,) = open_all(recipe, [recipe.eval.split], place)
        if place.leads:
            print(f"{recipe.model}: {headline(detector)}")
            print(describe(dataset, recipe.eval.split), flush=True)
        if recipe.dry_run:
            return
        score = scored(recipe, detector, predictions_of(recipe, detector, dataset, place))
        if place.leads:
            print(f"\n{score.table()}\n{score.line()}")


if __name__ == "__main__":
    main(evaluate, __doc__ or "")
