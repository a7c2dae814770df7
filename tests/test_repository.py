"""What the repository promises about itself: the README's code runs, files stay short, and so on."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torchvision.io import write_jpeg

from benchmarks import zoo
from detectors.models import DETECTORS

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*ROOT.glob("*.py"), *ROOT.glob("compress/**/*.py"), *ROOT.glob("detectors/**/*.py")])


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)
    assert len(block.strip().splitlines()) <= 12
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "quickstart.pth").symlink_to(ROOT / "weights" / "quickstart.pth")
    image = torch.randint(0, 255, (3, 90, 160), dtype=torch.uint8)
    write_jpeg(image, str(tmp_path / "photo.jpg"))
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(block, "README.md", "exec"), names)
    assert (tmp_path / "slim.pth").stat().st_size < (ROOT / "weights" / "quickstart.pth").stat().st_size


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_source_file_is_short_and_says_what_it_is_for(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    limit = 120 if path.parent == ROOT else 300
    assert len(lines) <= limit
    assert lines[0].startswith('"""')


def test_what_ships_is_small_and_names_no_download_address() -> None:
    assert (ROOT / "weights" / "quickstart.pth").stat().st_size <= 5_000_000
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert "--hash=sha256:" in lock
    assert "://" not in lock
    assert not (ROOT / "uv.lock").exists()


@pytest.mark.parametrize(
    "path", sorted(re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / "README.md").read_text()))
)
def test_the_links_of_the_readme_lead_somewhere(path: str) -> None:
    assert (ROOT / path).exists()


def test_reading_a_recipe_and_asking_for_help_load_no_torch() -> None:
    code = "import sys, compress.recipe, compress.commandline, detectors; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "False\n"


def test_the_table_of_detectors_in_the_readme_is_what_they_cost_and_took() -> None:
    entries = zoo.entries()
    assert {entry.detector for entry in entries} == set(DETECTORS.names())
    counts = {entry.label: zoo.count(entry) for entry in entries}
    measured = json.loads(zoo.RESULTS.read_text(encoding="utf-8"))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme == zoo.placed(readme, zoo.table(entries, counts, measured))


@pytest.mark.parametrize("path", sorted(ROOT.glob("benchmarks/results/*.md")), ids=lambda path: path.name)
def test_the_tables_in_the_readme_are_those_that_were_measured(path: Path) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert path.read_text(encoding="utf-8").strip() in readme
