"""Run folders to report on, and what tests ask of a page."""

import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from tiny_runs import ALONE, tiny_detector, tiny_recipe

from compress.ledger import Ledger
from compress.recipe import Recipe
from compress.report.pictures import take
from compress.report.write import write_report
from compress.rounds import Run
from detectors.config import dump
from detectors.data import build as build_data
from detectors.models.base import Detector

EVIL = '<script>alert(1)</script>&"'
# Elements of HTML that have no end.
VOID = {"meta", "link", "br", "hr", "img", "input", "wbr"}
SECTIONS = ["rounds", "who-pays", "widths", "sensitivity", "pictures", "again"]


def run_folder(folder: Path, recipe: Recipe | None = None, first: Detector | None = None) -> Path:
    """The folder of a finished tiny run, as prune.py leaves it before the report is written."""
    recipe = recipe or tiny_recipe()
    first = first or tiny_detector(recipe)
    folder.mkdir(exist_ok=True)
    (folder / "recipe.yaml").write_text(dump(recipe), encoding="utf-8")
    training, test = (build_data(recipe.data, split) for split in ("train", "test"))
    ledger = Run(recipe, first, training, test, folder, ALONE).finish()
    take(recipe, first, test, folder, ledger)
    return folder


def changed(
    source: Path, target: Path, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]
) -> Path:
    """A copy of a run folder with another ledger."""
    shutil.copytree(source, target)
    entries = change(json.loads(json.dumps(Ledger(source / "ledger.jsonl").entries)))
    (target / "ledger.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return target


class Page(HTMLParser):
    """A page read tag by tag; fails where an element is not closed in its order.

    Attributes:
        ids: of all elements.
        figures: for each SVG its attributes and whether it has a title and a description of its own.
        text: what a reader sees, scripts and styles left out.
        tags: names of all elements, in order.
        addresses: what attributes refer to.
    """

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.ids: list[str] = []
        self.figures: list[dict[str, Any]] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self._open: list[str] = []
        self._said: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == [], f"never closed: {self._open}"
        self.text = " ".join("".join(self._said).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Opens an element."""
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element that is closed at once."""
        known = dict(attrs)
        self.tags.append(tag)
        if tag != "wbr":  # within a word
            self._said.append(" ")
        if known.get("id"):
            self.ids.append(str(known["id"]))
        self.addresses += [
            str(value) for key, value in attrs if key in ("href", "src", "xlink:href", "action")
        ]
        if tag == "svg":
            self.figures.append(known)

    def handle_endtag(self, tag: str) -> None:
        """Closes the element that was opened last."""
        assert self._open, f"</{tag}> closes nothing"
        assert self._open.pop() == tag, f"</{tag}> closes another element"
        self._said.append(" ")

    def handle_data(self, data: str) -> None:
        """Text."""
        if not self._open or self._open[-1] not in ("style", "script"):
            self._said.append(data)


def page_of(folder: Path, **given: Any) -> Page:
    """The page of a run folder; it has nothing from outside, every section, and names for its figures."""
    write_report(folder, **given)
    text = (folder / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert re.findall(r"https?:|//", re.sub(r"base64,[A-Za-z0-9+/=]+", "", text)) == []
    assert all(address.startswith(("#", "data:image/jpeg;base64,")) for address in page.addresses)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "url(" not in text
    assert [name for name in page.ids if name in SECTIONS] == SECTIONS
    assert len(page.ids) == len(set(page.ids))
    for figure in page.figures:
        if figure.get("aria-hidden") == "true":
            continue
        assert figure["role"] == "img"
        title, description = figure["aria-labelledby"].split()
        assert {title, description} <= set(page.ids)
    assert "None" not in page.text
    assert "nan" not in page.text.split()
    return page
