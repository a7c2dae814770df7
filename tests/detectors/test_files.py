"""Files written whole or not at all, and run folders that one process holds."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from detectors.errors import RunError
from detectors.files import append_line, held, write_text, write_whole


def python(code: str, *arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_a_file_and_the_folders_above_it_are_made(tmp_path):
    path = tmp_path / "a" / "b" / "c.txt"
    write_text(path, "für\n")
    assert path.read_bytes() == "für\n".encode()
    write_text(path, "again")
    assert path.read_text() == "again"
    assert names(path.parent) == ["c.txt"]


def test_files_get_the_rights_of_any_new_file(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "file", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("fault", "raised"),
    [
        (OSError(28, "No space left on device"), RunError),
        (KeyError("a fault of our own"), KeyError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_the_older_file_stays_whole_when_writing_fails(fault, raised, tmp_path, monkeypatch):
    path = tmp_path / "model.pth"
    path.write_text("older")

    def fail(handle: int) -> None:
        raise fault

    monkeypatch.setattr("detectors.files.os.fsync", fail)
    with pytest.raises(raised):
        write_whole(path, b"half")
    assert path.read_text() == "older"
    assert names(tmp_path) == ["model.pth"]


def test_the_message_says_file_reason_and_way_out(tmp_path, monkeypatch):
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("detectors.files.os.fsync", full)
    with pytest.raises(
        RunError, match=r"cannot write .*/a.pth: No space left on device; files written before are whole"
    ) as caught:
        write_whole(tmp_path / "a.pth", b"x")
    assert "out=PATH" in str(caught.value)


@pytest.fixture
def small_files():
    """A limit on the size of files refuses a write in the kernel, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("attempt", "left"),
    [
        (lambda path: write_text(path, "x" * 100_000), "older\n"),
        (lambda path: write_whole(path, b"x" * 100_000), "older\n"),
        (lambda path: append_line(path, "x" * 100_000), "older\nx"),
    ],
)
def test_a_refusal_of_the_kernel_leaves_the_older_file_and_no_other(attempt, left, small_files, tmp_path):
    path = tmp_path / "file"
    append_line(path, "older")
    with pytest.raises(RunError) as caught:
        attempt(path)
    assert str(caught.value).startswith(
        f"cannot write {path}: File too large; files written before are whole"
    )
    assert path.read_text()[: len(left)] == left
    assert names(tmp_path) == ["file"]


def test_a_line_cannot_be_added_to_a_folder(tmp_path):
    with pytest.raises(RunError, match=r"cannot write .*: Is a directory"):
        append_line(tmp_path, "line")


def hold_and_let_go(folder: Path) -> None:
    with held(folder):
        pass


# A folder below a regular file can be written by nobody, not even by root.
@pytest.mark.parametrize("attempt", [lambda run: write_text(run / "model.pth", "x"), hold_and_let_go])
def test_a_folder_that_cannot_be_made_is_a_run_error(attempt, tmp_path):
    (tmp_path / "file").write_text("older")
    below = tmp_path / "file" / "run"
    with pytest.raises(RunError, match=r"cannot write .*/file/run.*: (Not a directory|File exists)"):
        attempt(below)
    assert (tmp_path / "file").read_text() == "older"


def test_proc_cannot_be_written():
    with pytest.raises(RunError, match="cannot write /proc/"):
        write_text(Path("/proc/run/model.pth"), "x")


HOLD = """
import sys
from pathlib import Path
from detectors.errors import RunError
from detectors.files import held
try:
    with held(Path(sys.argv[1])):
        print("held")
except RunError as error:
    print(error)
"""


def test_a_second_process_is_kept_out_until_the_first_is_done(tmp_path):
    folder = tmp_path / "runs" / "one"
    with held(folder) as same:
        assert same == folder
        refused = python(HOLD, folder).stdout
        assert refused.startswith(
            f"{folder}: another process (pid {os.getpid()}) is working in this run folder"
        )
        assert "out=PATH" in refused
        assert python(HOLD, tmp_path / "runs" / "two").stdout == "held\n"
    assert python(HOLD, folder).stdout == "held\n"


def test_a_folder_is_free_after_an_error_and_after_a_kill(tmp_path):
    with pytest.raises(KeyError), held(tmp_path):
        raise KeyError("in the run")
    killed = python(HOLD.replace('print("held")', "import os; os.kill(os.getpid(), 9)"), tmp_path)
    assert killed.returncode == -9
    with held(tmp_path):
        assert names(tmp_path) == [".lock"]


# A loader's worker is a fork of its run and lives on for some seconds when the run is killed.
FORK_AND_DIE = """
import os, sys, time
from pathlib import Path
from detectors.files import held
with held(Path(sys.argv[1])):
    worker = os.fork()
    if worker == 0:
        os.close(1), os.close(2)
        time.sleep(60)
        os._exit(0)
    print(worker, flush=True)
    os.kill(os.getpid(), 9)
"""


def test_a_folder_is_free_after_a_kill_though_a_fork_of_the_process_lives_on(tmp_path):
    worker = int(python(FORK_AND_DIE, tmp_path).stdout)
    try:
        assert python(HOLD, tmp_path).stdout == "held\n"
    finally:
        os.kill(worker, signal.SIGKILL)
