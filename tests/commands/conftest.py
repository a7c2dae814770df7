"""A workplace with a tiny recipe, and one in which the four commands have run."""

import shutil
from pathlib import Path

import pytest
from scripts import TINY, Done, run


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    (tmp_path / "tiny.yaml").write_text(TINY)
    return tmp_path


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Done]]:
    """The folder in which train, prune, finetune and eval ran one after the other, and what they said."""
    folder = tmp_path_factory.mktemp("chain")
    (folder / "tiny.yaml").write_text(TINY)
    said = {
        "train": run(folder, "train.py", "tiny.yaml"),
        "prune": run(folder, "prune.py", "tiny.yaml", "model=weights/tiny/model.pth"),
        "finetune": run(folder, "finetune.py", "tiny.yaml", "model=prunes/tiny/slim.pth"),
        "eval_voc": run(folder, "eval_voc.py", "tiny.yaml", "model=prunes/tiny/finetuned/model.pth"),
    }
    return folder, said


@pytest.fixture
def finished(chain: tuple[Path, dict[str, Done]], tmp_path: Path) -> Path:
    """A copy of that folder, free to change."""
    return shutil.copytree(chain[0], tmp_path / "finished")
