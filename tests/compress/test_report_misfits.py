"""Sweeps that fit a run, and files, folders and machines that do not: one line each, and nothing is lost."""

import json
import re
import shutil
import sys
import tomllib
from pathlib import Path

import pytest
from reports import EVIL, changed, page_of, run_folder
from tiny_runs import tiny_recipe

from compress.ledger import Ledger
from compress.report.__main__ import main
from compress.report.write import write_report
from detectors.errors import ConfigError, RunError


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of one round, with its report."""
    folder = run_folder(tmp_path_factory.mktemp("finished"), tiny_recipe(rounds=1, epochs=[0]))
    write_report(folder)
    return folder


SWEEP = {
    "version": 1,
    "label": "mAP (voc)",
    "score": [0.8, 0.7, 0.9],
    "ratios": [0.25, 0.5],
    "notes": ["A negative drop is a gain; `prune.caps` takes these."],
    "groups": [
        {
            "name": f"{EVIL}stem",
            "layers": [f"{EVIL}stem"],
            "suggested": 0.25,
            "cells": [
                {"ratio": 0.25, "drop": [-0.01, -0.02, 0.01], "noise": True},
                {"ratio": 0.5, "drop": [0.4, 0.3, 0.5], "noise": False},
            ],
        },
        {
            "name": "head",
            "layers": ["head"],
            "suggested": 0.0,
            "cells": [{"ratio": 0.25, "drop": [0.1, None, None], "noise": False}],
        },
    ],
}


def test_a_sweep_of_the_same_model_is_a_heat_map(finished: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished, tmp_path / "swept")
    model = Ledger(folder / "ledger.jsonl").find(0, "start")["model"]
    (folder / "sensitivity.json").write_text(json.dumps(SWEEP | {"model": model}))
    text = page_of(folder).text
    assert f"{EVIL}stem (−1.0) 40.0 25 %" in text
    assert "head 10.0 – leave alone" in text
    assert "A negative drop is a gain; prune.caps takes these." in text
    shades = re.findall(r"var\(--tuned\) (\d+)%", (folder / "report.html").read_text())
    assert shades == ["0", "30", "8"]  # 60 % of the drop as a share of the score
    markdown, rows = (folder / "report.md").read_text(), (folder / "report.csv").read_text().splitlines()
    assert "stem | (-0.010) | 0.400 | 25% |" in markdown
    assert "| head | 0.100 | - | leave alone |" in markdown
    assert "sensitivity,0,head,drop at 0.25,0.1,," in rows
    assert "sensitivity,0,head,suggested,0.0,," in rows


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            json.dumps(SWEEP | {"model": "another"}),
            "was measured on another model than this run started from",
        ),
        ('{"groups": 3}', "is no sensitivity.json, or a broken one; run mode=sensitivity again"),
        ("[", "is no sensitivity.json, or a broken one; run mode=sensitivity again"),
        (
            json.dumps(SWEEP | {"model": "another", "groups": [{**SWEEP["groups"][1], "name": None}]}),
            "is no sensitivity.json, or a broken one; run mode=sensitivity again",
        ),
        (
            json.dumps(SWEEP | {"model": "another", "ratios": ["x"]}),
            "is no sensitivity.json, or a broken one; run mode=sensitivity again",
        ),
        (None, "cannot read .*: No such file or directory; .* mode=sensitivity` makes such a file"),
    ],
)
def test_a_sweep_that_does_not_fit_is_refused_where_given_and_left_out_where_found(
    content: str | None, said: str, finished: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    path = folder / "sensitivity.json"
    if content is not None:
        path.write_text(content)
        assert re.search(f"Left out: .*{said.replace('`', '')}", page_of(folder).text)
    with pytest.raises(RunError, match=said):
        write_report(folder, path)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ([], ConfigError, "a run folder and at most one sensitivity.json are wanted, 0 arguments given"),
        (["a", "b", "c"], ConfigError, "3 arguments given: python -m compress.report prunes/quickstart"),
        (["nowhere"], RunError, "nowhere holds no ledger.jsonl, so no run of prune.py to report on; give"),
        (["empty"], RunError, "empty.ledger.jsonl has no line of the phase start: the run has not begun"),
        (["odd"], RunError, "odd.ledger.jsonl: round 0, phase start records no cost; no run of prune.py"),
        (["torn"], RunError, "pictures.json is broken; delete it, and the same prune.py command takes"),
    ],
)
def test_a_folder_that_holds_no_run_is_one_line(
    arguments: list[str],
    error: type[Exception],
    said: str,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in (("empty", ""), ("odd", '{"round": 0, "phase": "start", "model": "m"}\n')):
        Path(name).mkdir()
        Path(name, "ledger.jsonl").write_text(text)
    shutil.copytree(finished, "torn")
    Path("torn/pictures.json").write_text('{"pic')
    before = sorted(path for path in tmp_path.rglob("*"))
    with pytest.raises(error, match=said):
        main(arguments)
    assert sorted(path for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("line", "change"),
    [
        (0, {"cost": {"macs": "x"}}),
        (0, {"groups": []}),
        (-1, {"difference": {"value": 0.1}}),
        (-1, {"parts": [{"kind": "class"}]}),
        (-1, {"score": 3}),
    ],
)
def test_a_value_that_no_run_wrote_is_one_line_and_the_old_report_stays(
    line: int, change: dict, finished: Path, tmp_path: Path
) -> None:
    def spoilt(entries: list[dict]) -> list[dict]:
        entries[line] |= change
        return entries

    folder = changed(finished, tmp_path / "run", spoilt)
    with pytest.raises(RunError, match=r"ledger.jsonl.* holds a value that no run wrote \(.*; put the file"):
        write_report(folder)
    for kind in ("html", "md", "csv", "json"):
        assert (folder / f"report.{kind}").read_bytes() == (finished / f"report.{kind}").read_bytes()


def test_without_jinja2_all_but_the_page_is_written_and_the_extra_named(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    for name in ("html", "md", "csv", "json"):
        (folder / f"report.{name}").unlink()
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(
        ConfigError, match=r"needs jinja2, which is not installed: pip install 'slimdet\[report\]'"
    ):
        write_report(folder)
    assert sorted(path.suffix for path in folder.glob("report.*")) == [".csv", ".json", ".md"]


def test_an_installed_package_has_all_that_the_page_is_made_of() -> None:
    root = Path(__file__).parents[2]
    settings = tomllib.loads((root / "pyproject.toml").read_text())
    globs = settings["tool"]["setuptools"]["package-data"]["compress.report"]
    others = [
        path for path in (root / "compress/report").iterdir() if path.is_file() and path.suffix != ".py"
    ]
    assert others
    assert all(any(path.match(glob) for glob in globs) for path in others)
