"""What the commands say before any work: help, lists, recipes, and the one line for what they cannot read."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
from scripts import REPOSITORY, SCRIPTS, run

from compress.recipe import Recipe
from detectors.config import key_lines, load


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_tells_what_the_script_does_and_every_key(script: str, tmp_path: Path) -> None:
    for arguments in (["--help"], ["-h"], [], ["recipe.yaml", "--help"]):
        done = run(tmp_path, script, *arguments)
        assert (done.code, done.err) == (0, "")
    assert f"python {script} RECIPE" in done.out
    for key, default, text in key_lines(Recipe):
        assert f"\n  {key}={default}" in done.out
        assert text
        assert text in done.out
    assert len(key_lines(Recipe)) > 60


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_and_typos_import_no_torch(script: str, tmp_path: Path) -> None:
    (tmp_path / "typo.yaml").write_text("trian: {}\n")
    program = (
        "import runpy, sys\n"
        "sys.argv = sys.argv[1:]\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit: pass\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    for arguments in (["--help"], [str(tmp_path / "typo.yaml")]):
        command = [sys.executable, "-c", program, str(REPOSITORY / script), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY)
        assert done.returncode == 0, done.stderr
        assert (done.stdout + done.stderr).strip()


def test_list_names_every_choice_with_a_line_about_it(tmp_path: Path) -> None:
    done = run(tmp_path, "train.py", "--list")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    heads = [line for line in lines if not line.startswith(" ")]
    assert heads == ["detector:", "data set:", "augmentation:", "metric:", "criterion:"]
    names = [line.split()[0] for line in lines if line.startswith("  ")]
    for name in ("ssd300_vgg16", "ssd512_vgg16", "ssd_vgg16_bn", "synthetic", "voc", "coco", "voc07", "l1"):
        assert name in names
    assert all(len(line.split()) > 2 for line in lines if line.startswith("  "))


def test_show_prints_the_whole_recipe_so_that_it_reads_back_the_same(workplace: Path) -> None:
    done = run(workplace, "prune.py", "tiny.yaml", "--show", "prune.budget.macs=30%", "train.lr=1e-2")
    assert (done.code, done.err) == (0, "")
    (workplace / "shown.yaml").write_text(done.out)
    shown = load(Recipe, workplace / "shown.yaml")
    assert shown == load(Recipe, workplace / "tiny.yaml", ["prune.budget.macs=30%", "train.lr=1e-2"])
    assert (shown.prune.budget.macs, shown.train.lr) == ("30%", 0.01)
    assert sorted(path.name for path in workplace.iterdir()) == ["shown.yaml", "tiny.yaml"]


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["tiny.yaml", "--verbose"], ["unknown option --verbose", "--help"]),
        (["train.epochs=3"], ["the first argument is a recipe", "got train.epochs=3"]),
        (["--show"], ["the first argument is a recipe", "got none"]),
        (["tniy.yaml"], ["no recipe tniy.yaml", "did you mean tiny.yaml"]),
        (["tiny.yaml", "train.epoch=3"], ["train.epoch", "did you mean epochs"]),
        (["tiny.yaml", "trian.epochs=3"], ["unknown key trian", "did you mean train"]),
        (["tiny.yaml", "train.epochs=many"], ["train.epochs"]),
        (["tiny.yaml", "train.epochs=-1"], ["epochs=-1"]),
        (["tiny.yaml", "epochs"], ["'epochs' is not key=value"]),
        (["tiny.yaml", "prune.choice=best"], ["prune.choice"]),
        (["tiny.yaml", "detector.name=ssd300_vgg61"], ["unknown detector 'ssd300_vgg61'", "ssd300_vgg16"]),
        (["tiny.yaml", "data.name=syntetic"], ["unknown data set 'syntetic'", "did you mean synthetic"]),
        (["tiny.yaml", "data.augment=lihgt"], ["unknown augmentation 'lihgt'", "did you mean light"]),
        (["tiny.yaml", "eval.metric=voc08"], ["unknown metric 'voc08'", "voc07"]),
        (["tiny.yaml", "detector.options={anchor: voc}"], ["ssd_vgg16_bn has no option 'anchor'"]),
        (["tiny.yaml", "detector.size=[32, 32]"], ["size=[32, 32]", "at least 64 pixels"]),
        (["tiny.yaml", "detector.name=null"], ["neither detector.name nor model"]),
        (["broken.yaml"], ["broken.yaml: not valid YAML"]),
        (["list.yaml"], ["list.yaml: a recipe is a mapping"]),
        (["circle.yaml"], ["circle"]),
    ],
)
def test_what_cannot_be_read_is_one_line_with_the_nearest_name(
    workplace: Path, arguments: list[str], parts: list[str]
) -> None:
    (workplace / "broken.yaml").write_text("train: {epochs: 3\n")
    (workplace / "list.yaml").write_text("- train\n")
    (workplace / "circle.yaml").write_text("base: circle.yaml\n")
    before = sorted(workplace.iterdir())
    error = run(workplace, "train.py", *arguments).error
    assert all(part in error for part in parts), error
    assert sorted(workplace.iterdir()) == before


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_holds_the_steps_and_nothing_else(script: str) -> None:
    assert len((REPOSITORY / script).read_text().splitlines()) <= 120


def test_every_setting_has_a_help_text() -> None:
    def texts(schema: type) -> list[str]:
        return [field.metadata.get("help", "") for field in dataclasses.fields(schema)]

    assert all(texts(Recipe))
