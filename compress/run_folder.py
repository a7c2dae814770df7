"""The folder of a run: held against other processes, and of one recipe from the first result on."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from compress.ledger import Ledger
from compress.recipe import Recipe
from detectors.config import dump, load, values_of
from detectors.engine.distributed import Place, wait
from detectors.errors import RunError
from detectors.files import held, write_text

# These change how fast a run goes, never what it gives, so a run may be resumed with others.
_FREE = {
    "data": ("workers", "cache"),
    "eval": ("batch",),
    "train": ("save_every",),
    "finetune": ("save_every",),
    # Finished cells stay what they are.
    "sensitivity": ("ratios", "tolerance"),
}
# What scoring the first model does not look at: it stands while no cut is recorded.
_AFTER_START = ("prune", "finetune", "distill")
_AT_START = "prune.latency"  # and latency_runs


@contextmanager
def run_folder(recipe: Recipe, default: Path, sections: Sequence[str], place: Place) -> Iterator[Path]:
    """The folder of a run, held against other processes, with its recipe in it.

    Args:
        recipe: `out` names the folder.
        default: the folder where `out` is null.
        sections: the parts of the recipe that decide what this run gives, or single keys of them.
        place: only the leading process locks and writes.

    Raises:
        RunError: the folder is held, cannot be written, or holds results of other settings.
    """
    folder = Path(recipe.out) if recipe.out else default
    if not place.leads:
        wait(place)
        yield folder
        return
    with held(folder):
        saved = folder / "recipe.yaml"
        if not saved.exists() or _changed(load(Recipe, saved), recipe, sections, folder):
            write_text(saved, dump(recipe))
        wait(place)
        yield folder


def _changed(saved: Recipe, recipe: Recipe, sections: Sequence[str], folder: Path) -> bool:
    """Whether anything that decides is another; raises RunError where results rest on it."""
    before, now = values_of(saved), values_of(recipe)
    cuts_recorded, changed = _cuts_recorded(folder), False
    for key in sorted(before.keys() | now.keys()):
        section, _, name = key.partition(".")
        decides = section in sections or key in sections
        if not decides or name in _FREE.get(section, ()) or before.get(key) == now.get(key):
            continue
        timed = key.startswith(_AT_START)
        if section in _AFTER_START and not timed and not cuts_recorded:
            changed = True
            continue
        raise RunError(
            f"{folder} holds a run with {key}={before.get(key)}, this recipe says {now.get(key)}; "
            "give this run its own folder with out=PATH, or delete the folder to start over"
        )
    return changed


def _cuts_recorded(folder: Path) -> bool:
    """Whether a run has got further than its first model's score; one that keeps no ledger always has."""
    path = folder / "ledger.jsonl"
    return not path.exists() or any(entry["round"] > 0 for entry in Ledger(path, write=False).entries)
