"""Fixtures of the data tests."""

from pathlib import Path

import pytest
from voc_folder import VocFolder


@pytest.fixture
def voc_folder(tmp_path: Path) -> VocFolder:
    """Two images to train on, one of them without objects, and one to test on."""
    folder = VocFolder(tmp_path)
    folder.add("a", [("cat", 1, 1, 60, 40), ("dog", 11, 6, 20, 15, 1)])
    folder.add("b")
    folder.add("c", [("ant", 5, 5, 25, 25)])
    folder.split("trainval", ["a", "b"])
    folder.split("test", ["c"])
    return folder
