"""Ctrl-C, a full disk and a second process: each in a process of its own, as it happens to people."""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from scripts import REPOSITORY, files_in, run, same_state, started

from detectors.checkpoint import read

LONG = ("train.epochs=8", "train.save_every=1")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums depend on the number of threads, and the processes started here have one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_ctrl_c_in_training_saves_and_the_same_command_ends_as_unbroken(workplace: Path) -> None:
    process = started(workplace, "train.py", "tiny.yaml", *LONG, "data.workers=1")
    state = workplace / "weights/tiny/last.pth"
    while not state.exists() and process.poll() is None:
        time.sleep(0.01)
    # To the whole group, as a terminal does: the loader's worker gets it too.
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err.startswith("stopped after ")
    assert err.rstrip().endswith("saved weights/tiny/last.pth; run the same command again to go on")
    assert len(err.splitlines()) == 1
    assert 0 < read(state)["training"]["epoch"] < 8
    assert not (workplace / "weights/tiny/model.pth").exists()

    resumed = run(workplace, "train.py", "tiny.yaml", *LONG)
    assert resumed.code == 0, resumed.err
    assert "resuming weights/tiny/last.pth" in resumed.out
    assert run(workplace, "train.py", "tiny.yaml", *LONG, "out=unbroken").code == 0
    assert same_state(workplace / "weights/tiny/model.pth", workplace / "unbroken/model.pth")


def test_ctrl_c_outside_training_says_that_it_stopped(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("compress.session.open_all", stopped)
    done = run(workplace, "eval_voc.py", "tiny.yaml", "model=x.pth")
    assert done.code == 130
    assert done.err == "stopped; run the same command again to go on\n"


@contextmanager
def full_disk() -> Iterator[None]:
    """Lets no file of this process grow beyond 20 kB; with the soft limit alone, so that it can be lifted."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_is_one_line_and_older_files_stay_whole(finished: Path) -> None:
    before = files_in(finished)
    with full_disk():
        line = run(finished, "train.py", "tiny.yaml").error
    assert line.startswith("error: cannot write weights/tiny/model.pth: File too large")
    assert "out=PATH" in line
    assert files_in(finished) == before


def test_a_full_disk_while_a_prune_goes_on_loses_no_finished_phase(finished: Path) -> None:
    arguments = ("prune.py", "tiny.yaml", "model=weights/tiny/model.pth", "out=full", "prune.rounds=1")
    with full_disk():
        done = run(finished, *arguments)
    assert "cannot write full/round_01.cut.pth" in done.error
    assert sorted(files_in(finished / "full")) == ["ledger.jsonl", "recipe.yaml", "round_01.plan.json"]
    ledger = (finished / "full/ledger.jsonl").read_text()
    assert run(finished, *arguments).code == 0
    assert (finished / "full/ledger.jsonl").read_text().startswith(ledger)


@pytest.mark.parametrize(
    ("script", "folder", "model"),
    [
        ("train.py", "weights/tiny", []),
        ("prune.py", "prunes/tiny", ["model=weights/tiny/model.pth"]),
        ("finetune.py", "prunes/tiny/finetuned", ["model=prunes/tiny/slim.pth"]),
    ],
)
def test_a_second_process_in_the_same_folder_is_refused(
    finished: Path, script: str, folder: str, model: list[str]
) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom detectors.files import held\n"
        "with held(Path(sys.argv[1])):\n    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    before = files_in(finished)
    with subprocess.Popen(
        [sys.executable, "-c", program, str(finished / folder)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        done = run(finished, script, "tiny.yaml", *model)
        holder.communicate("")
    assert f"{folder}: another process (pid {holder.pid}) is working in this run folder" in done.error
    assert files_in(finished) == before
    assert run(finished, script, "tiny.yaml", *model).code == 0
