"""What may be cut, from made-up drops: suggestions, words, caps, tables and the picture."""

import csv
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from tiny_runs import tiny_detector, tiny_recipe
from toys import ThreeConvs, inputs

from compress.cost import subject
from compress.graph import trace
from compress.groups import Graph
from compress.plan import Rules
from compress.recipe import Recipe
from compress.sensitivity.caps import with_caps
from compress.sensitivity.heatmap import described, heatmap
from compress.sensitivity.suggest import Record, read_record, record_of
from compress.sensitivity.tables import markdown, table, write_all
from detectors.checkpoint import fingerprint
from detectors.errors import RunError

RATIOS = (0.1, 0.5, 0.9)
GRAPH = trace(ThreeConvs(), inputs())  # groups a and b


def found(drops: dict[str, list[tuple[float, float, float]]], graph: Graph = GRAPH) -> dict[str, Any]:
    """What a sweep would return that had measured these drops."""
    named = {group.name: group for group in graph.groups}
    cells = [
        {
            "group": name,
            "ratio": ratio,
            "channels": [named[name].channels, round(named[name].channels * (1 - ratio))],
            "cost": {"macs": int(1000 * (1 - ratio / 4)), "params": 90, "bytes": 360},
            "score": 0.8 - drop[0],
            "drop": list(drop),
            "loss": 2.0,
            "rise": [0.5, 0.25, 0.75],
            "seconds": 0.5,
        }
        for name, own in drops.items()
        for ratio, drop in zip(RATIOS, own, strict=True)
    ]
    start = {
        "model": "m", "file": "x.pth", "detector": "toy", "criterion": "l1", "metric": "voc",
        "label": "mAP (voc)", "split": "train", "count": 64, "seed": 0, "images": "i", "bootstrap": 500,
        "score": [0.8, 0.7, 0.9], "loss": [1.5, 1.0, 2.0],
        "cost": {"macs": 1000, "params": 100, "bytes": 400},
    }  # fmt: skip
    return {"start": start, "cells": cells}


def sure(value: float) -> tuple[float, float, float]:
    return value, value - 0.001, value + 0.001


def unsure(value: float) -> tuple[float, float, float]:
    return value, value - 0.05, value + 0.05


@pytest.mark.parametrize(
    ("drops", "suggested", "words"),
    [
        ([sure(0.0), sure(0.01), sure(0.4)], 0.5, "can lose 50%; 90% would cost 0.400 (0.399 to 0.401)"),
        ([sure(0.03), sure(0.3), sure(0.4)], 0.0, "leave it alone: 10% would cost 0.030 (0.029 to 0.031)"),
        ([sure(0.0), sure(0.01), sure(0.02)], 0.9, "can lose 90% of its channels, the most that was tried"),
        # Noise is no harm, whatever its middle.
        ([unsure(0.01), unsure(0.04), sure(0.4)], 0.5, "can lose 50%; 90% would cost 0.400 (0.399 to 0.401)"),
        # A larger cut is no safer than a smaller one, however lucky it was.
        ([sure(0.0), sure(0.2), sure(0.01)], 0.1, "can lose 10%; 50% would cost 0.200 (0.199 to 0.201)"),
        ([sure(-0.03), sure(-0.01), sure(0.2)], 0.5, "can lose 50%; 90% would cost 0.200 (0.199 to 0.201)"),
    ],
)
def test_the_largest_harmless_cut_is_suggested(drops: list[Any], suggested: float, words: str) -> None:
    record = record_of(found({"a": drops, "b": [sure(0.0)] * 3}), GRAPH, tolerance=0.02)
    (group, _) = record["groups"]
    assert (group["suggested"], group["words"]) == (suggested, words)
    assert group["saves"] == pytest.approx(suggested / 4)
    worst = [cell["worst"] for cell in group["cells"]]
    assert worst == sorted(worst)
    assert [cell["harmless"] for cell in group["cells"]] == [ratio <= suggested for ratio in RATIOS]


def made(**drops: Any) -> Record:
    ordinary = {"a": [sure(0.1), sure(0.3), sure(0.7)], "b": [unsure(0.0), sure(0.01), sure(0.5)]}
    return record_of(found(ordinary | drops), GRAPH, tolerance=0.02)


def test_the_notes_say_what_was_measured_what_to_leave_alone_and_how_sure_that_is() -> None:
    text = "\n".join(made()["notes"])
    assert "Leave alone: a. Cutting just 10% of it already costs more than 0.02 of mAP (voc)" in text
    assert "Cut first, by the multiply-adds that it saves: b by 50% (saves 12.5%)" in text
    assert "64 images of data.train, right after the cut" in text
    assert "Nothing is recalibrated or fine-tuned" in text
    assert "The detector was trained on these images" in text
    assert "+-0.001 on 64 images." in text
    assert "minus sign" not in text
    coarse = made(a=[unsure(0.0)] * 3, b=[unsure(0.0)] * 3)["notes"]
    assert any("more than the tolerance of 0.02: raise sensitivity.images" in note for note in coarse)
    assert any(note.startswith("No layer can lose") for note in made(b=[sure(0.3)] * 3)["notes"])


@pytest.mark.parametrize(
    ("drops", "chance", "harm"),
    [
        ([unsure(-0.01)] * 3, True, False),
        ([sure(-0.01)] * 3, False, True),
        ([sure(-0.01), unsure(-0.01), sure(0.1)], True, True),
    ],
)
def test_what_a_negative_drop_means_is_said_where_one_stands(
    drops: list[Any], chance: bool, harm: bool
) -> None:
    (note,) = (note for note in made(b=drops)["notes"] if "minus sign" in note)
    assert "scored higher with the channels gone" in note
    assert ("that is chance: read it as no drop" in note) == chance
    assert ("did harm on these images" in note) == harm


def test_the_record_comes_back_from_its_file_and_the_table_holds_every_cell(tmp_path: Path) -> None:
    record = made()
    paths = write_all(record, tmp_path)
    assert [path.name for path in paths] == [f"sensitivity.{kind}" for kind in ("json", "csv", "svg", "md")]
    assert read_record(tmp_path / "sensitivity.json") == record
    rows = list(csv.DictReader((tmp_path / "sensitivity.csv").read_text().splitlines()))
    assert [(row["group"], float(row["ratio"])) for row in rows] == [(g, r) for g in "ab" for r in RATIOS]
    assert [float(rows[0][key]) for key in ("drop", "drop_low", "drop_high")] == list(sure(0.1))
    assert rows[3]["noise"] == "1"
    assert (tmp_path / "sensitivity.md").read_text() == markdown(record) + "\n"
    assert table(record).count("\n") == 7


def test_the_printed_table_shows_noise_in_brackets_and_what_is_suggested() -> None:
    lines = markdown(made()).splitlines()
    rows = {line.split("|")[1].strip(): line for line in lines if line.startswith("| ")}
    assert [cell.strip() for cell in rows["a"].split("|")[2:-1]][:1] == ["0.50"]  # the loss has a table too
    drops = [line for line in lines if line.startswith(("| a ", "| b "))][:2]
    assert [[cell.strip() for cell in line.split("|")[1:-1]] for line in drops] == [
        ["a", "8", "0.100", "0.300", "0.700", "leave alone", "0.0%"],
        ["b", "12", "(0.000)", "0.010", "0.500", "50%", "12.5%"],
    ]


def test_the_picture_is_sound_xml_with_words_for_those_who_cannot_see_it() -> None:
    record = made()
    record["groups"][0]["name"] = "<b>&'layer'"
    record["label"] = 'mAP "<x>"'
    root = ElementTree.fromstring(heatmap(record, name="run7"))
    space = "{http://www.w3.org/2000/svg}"
    assert root.get("role") == "img"
    title, text = (root.find(f"{space}{tag}") for tag in ("title", "desc"))
    assert root.get("aria-labelledby") == f"{title.get('id')} {text.get('id')}" == "run7-title run7-text"
    assert text.text == described(record)
    assert "<b>&'layer': leave it alone" in text.text
    cells = [group for group in root.iter(f"{space}g") if group.find(f"{space}title") is not None]
    assert len(cells) == 6
    told = cells[3].find(f"{space}title").text
    assert told == 'b, 12 to 11 channels: mAP "<x>" 0.800, drop +0.000 (-0.050 to +0.050), within the noise'
    assert "prefers-color-scheme:dark" in root.find(f"{space}style").text
    assert "http" not in heatmap(record).replace("http://www.w3.org/2000/svg", "")


def test_layers_that_were_skipped_or_cannot_be_cut_are_listed_with_the_reason() -> None:
    record = record_of(found({"a": [sure(0.0)] * 3}), GRAPH, tolerance=0.02)
    assert record["whole"] == {"c": "makes an output", "b": "skipped by the recipe"}


def test_a_loss_without_bounds_is_no_number_and_is_told_as_such() -> None:
    measured = found({"a": [sure(0.1)] * 3, "b": [sure(0.1)] * 3})
    measured["cells"][0] |= {"loss": None, "rise": [None, None, None]}
    record = record_of(measured, GRAPH, tolerance=0.02)
    assert "no bound" in markdown(record)
    assert json.loads(json.dumps(record, allow_nan=False)) == record


DETECTOR = tiny_detector(tiny_recipe())
SUGGESTED = {"backbone.features.0": 0.0, "backbone.features.3": 0.9, "backbone.features.7": 0.5}


def capped(folder: Path, *, change: dict[str, Any] | None = None, **prune: Any) -> Recipe:
    """The tiny recipe with caps from a file that holds three suggestions."""
    groups = [
        {"name": name, "layers": [name], "suggested": value, "cells": []} for name, value in SUGGESTED.items()
    ]
    record = {"version": 1, "model": fingerprint(DETECTOR), "criterion": "l1", "groups": groups}
    record |= {"label": "mAP (voc)", "score": [0.5, None, None], "ratios": [], "notes": []}
    path = folder / "sensitivity.json"
    path.write_text(json.dumps(record | (change or {})))
    return with_caps(tiny_recipe(caps_from=str(path), **prune), DETECTOR)


def test_suggestions_cap_the_shares_of_a_plan_and_explicit_caps_win(tmp_path: Path) -> None:
    assert capped(tmp_path).prune.caps == {
        "backbone.features.0": 0.0,
        "backbone.features.3": 0.9,
        "backbone.features.7": 0.5,
    }
    given = {"backbone.features.[03]": 0.25}
    caps = capped(tmp_path, caps=given).prune.caps
    assert caps == {**given, "backbone.features.7": 0.5}
    settings = capped(tmp_path, floor=0.2, skip=["backbone.features.7"]).prune
    assert settings.caps == {"backbone.features.0": 0.0, "backbone.features.3": 0.8}
    rules = Rules(1, settings.floor, 1.0, caps=settings.caps)
    groups = {group.name: group for group in trace(*subject(DETECTOR)).groups}
    for name, least in (("backbone.features.0", 8), ("backbone.features.3", 2)):
        assert rules.options(groups[name])[0] == least
    plain = tiny_recipe()
    assert with_caps(plain, DETECTOR) is plain


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "0"}, r"sensitivity.json was measured on another model \(or other weights of it\) than"),
        ({"criterion": "fisher"}, "was measured with prune.criterion=fisher, this recipe cuts by l1, which"),
        ({"version": 2}, "is of version 2, this program reads version 1; run mode=sensitivity again"),
        ({"groups": 3}, r"is no sensitivity.json, or a broken one; run mode=sensitivity again"),
        ({"groups": [{"name": "a"}]}, r"is no sensitivity.json, or a broken one"),
    ],
)
def test_a_file_of_another_sweep_or_a_broken_one_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(RunError, match=message):
        capped(tmp_path, change=change)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read .*sensitivity.json: No such file or directory; .*mode=sensitivity. makes such"),
        ("", "is no sensitivity.json"),
        ('{"version": 1', "is no sensitivity.json"),
        ("[1]", "is no sensitivity.json"),
        (b"\xff\xfe\x00", "is no sensitivity.json"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(
    tmp_path: Path, content: str | bytes | None, message: str
) -> None:
    path = tmp_path / "sensitivity.json"
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(RunError, match=message):
        read_record(path)
