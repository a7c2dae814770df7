"""Trainings in processes of their own: killed, stopped from the terminal, and several at once."""

import multiprocessing
import signal
import socket
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from training_case import (
    in_process,
    killed,
    settings,
    stopped_from_the_terminal,
    together,
    together_with_a_term,
    train,
)

from detectors.checkpoint import read

# One process imports torch and the detectors, and every process of these tests is forked from it.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["torch", "detectors.engine.loop", "detectors.data.loader"])


def start(work: Callable[[Path], None], folder: Path, **variables: str) -> BaseProcess:
    process = CONTEXT.Process(target=in_process, args=(work, folder, torch.get_num_threads(), variables))
    process.start()
    return process


def exit_code(process: BaseProcess) -> int | None:
    """How it ended; a process that hangs is killed."""
    process.join(timeout=120)
    process.kill()
    process.join()
    return process.exitcode


@pytest.fixture(scope="module")
def unbroken() -> dict[str, torch.Tensor]:
    return train(None, how=settings())[0]


@pytest.mark.parametrize(
    ("work", "code", "saved"),
    [(killed, -signal.SIGKILL, (1, 0)), (stopped_from_the_terminal, 0, (1, 2))],
)
def test_a_process_stopped_in_an_epoch_is_resumed_to_the_bit(work, code, saved, unbroken, tmp_path):
    assert exit_code(start(work, tmp_path)) == code
    if work is stopped_from_the_terminal:
        said = (tmp_path / "stop.txt").read_text()
        assert said == f"stopped after 1 epoch and 2 steps; saved {tmp_path / 'last.pth'}"
    training = read(tmp_path / "last.pth")["training"]
    assert (training["epoch"], training["step"]) == saved
    weights, history = train(tmp_path / "last.pth", how=settings())
    assert all(torch.equal(weights[key], value) for key, value in unbroken.items())
    assert [entry["epoch"] for entry in history] == [1, 2, 3]


def both(work: Callable[[Path], None], folder: Path) -> Path:
    """What two processes that work together leave in a folder."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [start(work, folder, RANK=str(rank), LOCAL_RANK=str(rank), **group) for rank in (0, 1)]
    assert [exit_code(process) for process in processes] == [0, 0]
    return folder


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Path:
    """See `training_case.together`."""
    return both(together, tmp_path_factory.mktemp("pair"))


def states(folder: Path, name: str) -> list[dict[str, torch.Tensor]]:
    return [torch.load(folder / f"{name}.{rank}.pth", weights_only=True) for rank in (0, 1)]


def running(key: str) -> bool:
    return "running_" in key or "num_batches" in key


def test_two_processes_end_with_the_same_weights(pair):
    first, second = states(pair, "whole")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first if not running(key))


def test_two_processes_end_with_the_same_running_statistics(pair):
    # Each scores a share of the test images: with statistics of its own it would score another detector.
    first, second = states(pair, "whole")
    assert all(torch.equal(first[key], second[key]) for key in first if running(key))


def test_the_saved_state_is_that_of_the_first_process(pair):
    first, _ = states(pair, "whole")
    saved = read(pair / "whole.pth")
    assert (saved["training"]["epoch"], saved["training"]["step"]) == (2, 0)
    assert all(torch.equal(saved["state"][key], value) for key, value in first.items())


def test_a_signal_to_one_process_stops_both_at_one_step(pair):
    said = [(pair / f"stop.{rank}.txt").read_text() for rank in (0, 1)]
    assert said == [f"stopped after 1 epoch and 1 step; saved {pair / 'broken.pth'}"] * 2


def test_two_processes_resume_to_the_bit(pair):
    # Rank 1 started from other weights in the unbroken run, and rank 0's are the ones that count.
    for one, other in zip(states(pair, "resumed"), states(pair, "whole"), strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one if not running(key))


def test_two_processes_with_a_term_end_with_the_same_weights_and_report_it(tmp_path):
    folder = both(together_with_a_term, tmp_path)
    (first, history), (second, _) = (
        torch.load(folder / f"term.{rank}.pth", weights_only=True) for rank in (0, 1)
    )
    assert all(torch.equal(first[key], second[key]) for key in first if not running(key))
    assert all(entry["quiet"] > 0 for entry in history)
