"""The report of a run folder: read what the run recorded, write it as Markdown, CSV, JSON and a page."""

import json
from pathlib import Path
from typing import Any

from compress.ledger import Ledger
from compress.recipe import Recipe
from compress.report import pictures, sensitivity
from compress.report.facts import Facts, facts_of
from compress.report.page import page
from compress.report.tables import comma_separated, summary
from detectors.config import load
from detectors.errors import ConfigError, RunError
from detectors.files import write_text

# What a value of another kind than was written, or none, makes of whatever reads it.
_ODD = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)


def write_report(folder: Path, sweep: Path | None = None) -> Facts:
    """Writes `report.md`, `.csv`, `.json` and `.html` into the folder of a run, finished or not.

    Args:
        folder: of the run; only read but for these files.
        sweep: a `sensitivity.json` of the same first model; None: the one in the folder, if there is one.

    Returns:
        The facts.

    Raises:
        RunError: the folder holds no run, or a file in it is broken; or `sweep` is not of its model.
        ConfigError: jinja2 is not installed; all but `report.html` is written.
    """
    path = folder / "ledger.jsonl"
    if not path.is_file():
        raise RunError(
            f"{folder} holds no ledger.jsonl, so no run of prune.py to report on; give the folder of a run, "
            "such as prunes/quickstart"
        )
    ledger = Ledger(path, write=False)
    saved = folder / "recipe.yaml"
    recipe = load(Recipe, saved) if saved.exists() else None
    found, note = _sweep(ledger, folder, sweep)
    taken = _pictures(folder)
    lacking = None
    try:
        facts = facts_of(ledger, recipe, pictures=taken, sensitivity=found, note=note)
        plain = facts | {"pictures": _without_photos(facts["pictures"])}
        texts = {
            "md": summary(ledger, facts),
            "csv": comma_separated(facts),
            "json": json.dumps(plain, indent=1, allow_nan=False) + "\n",
        }
        try:
            texts["html"] = page(facts)
        except ConfigError as error:
            lacking = error
    except _ODD as error:
        files = [path, *([folder / pictures.FILE] if taken else [])]
        files += [sweep or folder / sensitivity.FILE] if found else []
        raise RunError(
            f"{' or '.join(map(str, files))} holds a value that no run wrote ({type(error).__name__}: "
            f"{error}); put the file back as it was, or give the run another folder with out=PATH"
        ) from error
    for kind, text in texts.items():
        write_text(folder / f"report.{kind}", text)
    if lacking:
        raise lacking
    return facts


def _sweep(ledger: Ledger, folder: Path, given: Path | None) -> tuple[Facts | None, str]:
    """A sweep and why there is none; one that only lies in the folder and does not fit is left out."""
    model = (ledger.find(0, "start") or {}).get("model", "")
    own = folder / sensitivity.FILE
    if given is not None:
        return sensitivity.read(given, model), ""
    if not own.exists():
        return None, (
            "No sweep was given. `python prune.py RECIPE model=PATH mode=sensitivity` measures one, and "
            "`python -m compress.report RUN_FOLDER SENSITIVITY_JSON` shows it here."
        )
    try:
        return sensitivity.read(own, model), ""
    except RunError as error:
        return None, f"Left out: {error}."


def _pictures(folder: Path) -> Facts | None:
    path = folder / pictures.FILE
    if not path.exists():
        return None
    try:
        recorded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        recorded["pictures"]
    except (OSError, ValueError, KeyError, TypeError):
        raise RunError(
            f"{path} is broken; delete it, and the same prune.py command takes the pictures anew"
        ) from None
    return recorded


def _without_photos(shown: Facts | None) -> Facts | None:
    """The boxes of the pictures without the images, which the page and `pictures.json` hold."""
    if shown is None:
        return None
    rows = [{k: v for k, v in picture.items() if k != "jpeg"} for picture in shown["pictures"]]
    return shown | {"pictures": rows}
