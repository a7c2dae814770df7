"""`prune.py` with mode=sensitivity, from the command line to the caps of a plan."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from scripts import files_in, run

MODEL = "model=weights/tiny/model.pth"
SWEEP = ("prune.py", "tiny.yaml", MODEL, "mode=sensitivity")
# Three groups and two ratios are enough.
FEW = (
    "sensitivity.ratios=[0.25, 0.5]",
    "sensitivity.images=4",
    "sensitivity.bootstrap=10",
    "prune.skip=['extras.*', 'backbone.features.[1-4]?']",
)


@pytest.fixture(scope="module")
def once(chain: tuple[Path, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished chain with a sweep in it."""
    folder = shutil.copytree(chain[0], tmp_path_factory.mktemp("once") / "finished")
    done = run(folder, *SWEEP, *FEW)
    assert (done.code, done.err) == (0, ""), done
    return folder


@pytest.fixture
def swept(once: Path, tmp_path: Path) -> Path:
    """A copy of it, free to change."""
    return shutil.copytree(once, tmp_path / "swept")


def test_a_sweep_leaves_its_files_resumes_and_caps_a_plan(swept: Path) -> None:
    folder = swept / "prunes/tiny_sensitivity"
    names = sorted(path.name for path in folder.iterdir() if path.name != ".lock")
    kinds = [f"sensitivity.{kind}" for kind in ("csv", "json", "md", "svg")]
    assert names == ["cells.jsonl", "recipe.yaml", *kinds]
    before = files_in(folder)
    again = run(swept, *SWEEP, *FEW)
    assert files_in(folder) == before
    record = json.loads((folder / "sensitivity.json").read_text())
    for group in record["groups"]:
        assert re.search(rf"^\| {re.escape(group['name'])} .*\|$", again.out, flags=re.MULTILINE)
    assert all(note in again.out for note in record["notes"])
    assert "saved prunes/tiny_sensitivity/sensitivity.svg" in again.out

    record["groups"][0]["suggested"], record["groups"][1]["suggested"] = 0.0, 0.5
    (swept / "caps.json").write_text(json.dumps(record))
    names = [group["name"] for group in record["groups"]]
    plan = ("prune.budget.macs=null", "prune.ratio=0.7", "prune.rounds=1", "dry_run=true")
    free = run(swept, "prune.py", "tiny.yaml", MODEL, *plan)
    caps = run(swept, "prune.py", "tiny.yaml", MODEL, *plan, "prune.caps_from=caps.json")
    assert (free.code, caps.code) == (0, 0), caps
    widths = [
        [
            re.search(rf"^  {re.escape(name)} +(\d+) -> +(\d+)$", done.out, flags=re.MULTILINE)
            for name in names
        ]
        for done in (free, caps)
    ]
    first, second = ([tuple(map(int, match.groups())) for match in found[:2]] for found in widths)
    assert all(after <= 0.5 * before for before, after in first)
    assert [after / before for before, after in second] == [1.0, 0.5]


def test_a_dry_run_says_what_would_be_measured_and_writes_nothing(finished: Path) -> None:
    before = files_in(finished)
    done = run(finished, *SWEEP, *FEW, "dry_run=true")
    assert (done.code, done.err) == (0, "")
    assert re.search(
        r"\d+ layer groups, each cut by 25%, 50%: \d+ cuts, each scored on 4 images of", done.out
    )
    assert files_in(finished) == before


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (
            ["prune.criterion=l2"],
            "holds a run with prune.criterion=taylor, this recipe says l2; give this run",
        ),
        (["sensitivity.images=3"], "holds a run with sensitivity.images=4, this recipe says 3"),
        (["data.synthetic.seed=1"], "holds a run with data.synthetic.seed=0, this recipe says 1"),
        (["model=prunes/tiny/slim.pth"], "holds a sensitivity sweep of another model (or other weights of"),
        (["out=prunes/tiny"], "holds a run with mode=prune, this recipe says sensitivity"),
        (
            ["sensitivity.ratios=[0.5, 0.25]"],
            "sensitivity.ratios=[0.5, 0.25] does not work: it must be rising",
        ),
        (["sensitivity.ratios=0.5"], "sensitivity.ratios"),
        (["mode=sensitvity"], "mode"),
        (["mode=prune", "prune.caps_from=nowhere.json"], "cannot read nowhere.json: No such file"),
        (["mode=prune", "prune.caps_from=tiny.yaml"], "tiny.yaml is no sensitivity.json, or a broken one"),
        (
            ["mode=prune", "prune.caps_from=prunes/tiny_sensitivity/sensitivity.json", "prune.criterion=l2"],
            "was measured with prune.criterion=taylor, this recipe cuts by l2",
        ),
        (
            [
                "mode=prune",
                "prune.caps_from=prunes/tiny_sensitivity/sensitivity.json",
                "model=prunes/tiny/slim.pth",
            ],
            "was measured on another model (or other weights of it) than prunes/tiny/slim.pth",
        ),
    ],
)
def test_bad_input_gets_one_line_and_loses_nothing(swept: Path, arguments: list[str], part: str) -> None:
    before = files_in(swept)
    assert part in run(swept, *SWEEP, *FEW, *arguments).error
    assert files_in(swept) == before
