"""Prune a detector to a budget: python prune.py RECIPE model=PATH [prune.budget.macs=50% ...].

1 load the recipe and the checkpoint, full or slim
2 trace, print the groups and the protected layers
3 score
4 plan, print old -> new widths; dry_run=true stops here
5 cut, prove slim == masked
6 recalibrate, evaluate
7 fine-tune, by `distill` with the first model as the teacher, evaluate
8 next round
9 write slim.pth (with export.onnx=true slim.onnx too) and the report, print the rounds

With mode=sensitivity nothing is cut for good: every layer group is cut by each of sensitivity.ratios, what
that costs is measured on a few fixed images, and what each layer bears is said in words, a table, a picture
(prunes/RECIPE_sensitivity/sensitivity.md, .csv, .json and .svg). prune.caps_from=.../sensitivity.json
then caps what a plan takes from each layer. `torchrun --nproc-per-node=N prune.py ...` shares the cuts out.

Writes into prunes/RECIPE (or OUT): ledger.jsonl with a line for each finished phase, round_NN.pth, slim.pth
and report.html, .md, .csv and .json. Ctrl-C or a crash loses nothing that was finished: the same command goes
on.
"""

from pathlib import Path

from compress.commandline import main
from compress.recipe import Recipe


def prune(recipe: Recipe, path: str) -> None:
    """The steps of the module's docstring."""
    if recipe.mode == "sensitivity":
        measure_sensitivity(recipe, path)
        return
    from compress.export import need_packages
    from compress.ledger import kept_round
    from compress.report import markdown, verdict, widths_table
    from compress.report.pictures import take
    from compress.report.write import write_report
    from compress.rounds import Run
    from compress.run_folder import run_folder
    from compress.schedule import check, plan_round
    from compress.sensitivity.caps import with_caps
    from compress.session import describe, exported, headline, need_model, open_all, terms_of
    from detectors.config import changes
    from detectors.engine.distributed import joined, wait
    from detectors.errors import ConfigError, RunError

    need_model(recipe, "prune.py")
    with joined() as place:
        detector, (training, test) = open_all(recipe, ["train", "test"], place)
        recipe = with_caps(recipe, detector)
        check(recipe, detector, place)
        if recipe.export.onnx:
            need_packages()
        if place.leads:
            print(f"{changes(recipe)}\n\n{recipe.model}: {headline(detector)}")
            print(describe(training, "train"))
            print(f"{describe(test, 'test')}\n", flush=True)
        # Asked of the first model, so that what cannot be is said before anything slow begins.
        terms_of(recipe, recipe.finetune, detector, teacher=recipe.distill.teacher or detector)
        if recipe.dry_run:
            graph, plan = plan_round(recipe, 1, detector, training, place)
            if place.leads:
                print(widths_table(graph, plan))
            return
        sections = ["mode", "detector", "data", "prune", "finetune", "distill", "eval"]
        with run_folder(recipe, Path("prunes") / Path(path).stem, sections, place) as folder:
            ledger = Run(recipe, detector, training, test, folder, place).finish()
            if place.leads:
                print(f"\n{markdown(ledger)}\n\n{verdict(ledger)}\n")
                saved = [name for name in ("slim.pth", "masked.pth") if (folder / name).exists()]
                saved += exported(recipe, folder, saved)
                take(recipe, detector, test, folder, ledger)
                lacking = ""
                try:
                    write_report(folder)
                except ConfigError as error:
                    lacking = f"\n{error}"
                saved += [name for name in ("report.md", "report.html") if (folder / name).exists()]
                print("\n".join(f"saved {folder / name}" for name in saved) + lacking, flush=True)
        if not kept_round(ledger):
            wait(place)  # torchrun stops all processes as soon as one fails
            raise RunError(
                f"{folder} holds no slim model: its first round scored below prune.stop_below="
                f"{recipe.prune.stop_below}; accept a lower score or cut less a round, with another out=PATH"
            )


def measure_sensitivity(recipe: Recipe, path: str) -> None:
    """What each layer group bears, measured and said."""
    from compress.run_folder import run_folder
    from compress.sensitivity.suggest import record_of
    from compress.sensitivity.sweep import DECISIVE, Sweep
    from compress.sensitivity.tables import markdown, write_all
    from compress.session import describe, headline, need_model, open_all
    from detectors.config import changes
    from detectors.engine.distributed import joined

    need_model(recipe, "prune.py")
    split = recipe.sensitivity.split
    with joined() as place:
        splits = ["train", "test"] if split == "test" else ["train"]
        detector, datasets = open_all(recipe, splits, place)
        folder = Path("prunes") / f"{Path(path).stem}_sensitivity"
        sweep = Sweep(recipe, detector, datasets[0], datasets[-1], Path(recipe.out or folder), place)
        if place.leads:
            print(f"{changes(recipe)}\n\n{recipe.model}: {headline(detector)}")
            print(f"{describe(datasets[-1], split)}\n\n{sweep.headline()}", flush=True)
        if recipe.dry_run:
            return
        with run_folder(recipe, folder, DECISIVE, place):
            record = record_of(sweep.finish(), sweep.graph, recipe.sensitivity.tolerance)
            if place.leads:
                saved = write_all(record, sweep.folder)
                print(f"\n{markdown(record)}\n")
                print("\n".join(f"saved {file}" for file in saved))


if __name__ == "__main__":
    main(prune, __doc__ or "")
