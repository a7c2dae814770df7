"""Runs the four commands inside this process, which saves seconds of importing torch, or in their own."""

import io
import os
import runpy
import subprocess
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import torch

from detectors.checkpoint import read

REPOSITORY = Path(__file__).parents[2]
SCRIPTS = ("train.py", "prune.py", "finetune.py", "eval_voc.py")

TINY = """\
detector: {name: ssd_vgg16_bn, size: [64, 64], width: 0.125}
data:
  name: synthetic
  train: [train]
  test: [test]
  augment: light
  workers: 0
  synthetic:
    {classes: 2, train: 8, val: 1, test: 4, size: [64, 64], objects: [1, 2], object_size: [0.3, 0.6]}
train: {epochs: 2, batch: 4}
eval: {metric: voc, bootstrap: 10, keep: 10, top_k: 20}
finetune: {epochs: 1, batch: 4}
prune: {budget: {macs: 50%}, rounds: 2, multiple: 1, calibration_images: 8, latency_runs: 2}
"""


@dataclass(frozen=True)
class Done:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line of a user's error; fails where the command ended otherwise."""
        assert self.code == 2, self
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("error: "), self.err
        return lines[0]


def run(folder: Path, script: str, *arguments: str) -> Done:
    """One of the scripts, as if started in `folder`."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        chdir(folder),
        patch.object(sys, "argv", [script, *arguments]),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            runpy.run_path(str(REPOSITORY / script), run_name="__main__")
        except SystemExit as stop:
            code = int(stop.code or 0)
    return Done(code, out.getvalue(), err.getvalue())


def started(folder: Path, script: str, *arguments: str) -> "subprocess.Popen[str]":
    """One of the scripts in a process and a process group of its own."""
    return subprocess.Popen(
        [sys.executable, str(REPOSITORY / script), *arguments],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def files_in(folder: Path) -> dict[str, bytes]:
    """Everything in a folder by its path, but for the lock."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def same_state(one: Path, other: Path) -> bool:
    """Whether two checkpoints hold the same tensors, to the bit."""
    first, second = read(one)["state"], read(other)["state"]
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
