"""What a teacher said once is not asked again: trials of the same seed show it the same batches."""

import hashlib
import os
from pathlib import Path

import torch
from torch import Tensor

from compress.distill import Answers, Distillation, moved
from compress.recipe import DistillConfig


class Remembered(Distillation):
    """Distillation whose answers lie in a folder, by what the batch holds: the same numbers again.

    A batch of BCCD takes a megabyte: 40 epochs of one seed 2 GB.

    Args:
        term: what is remembered.
        how: its settings.
        precision: in which the teacher is asked.
        folder: for all trials; made when there is something to keep.
    """

    def __init__(self, term: Distillation, how: DistillConfig, precision: str, folder: Path) -> None:
        super().__init__(term.teacher, how, term.layers)
        teacher = self.settings["distill.teacher"]
        # Not what the answers weigh: trials that differ in that share them.
        asked = f"{teacher} {bool(how.predictions)} {how.cache} {self.layers} {precision}".encode()
        self._folder = folder / hashlib.blake2b(asked, digest_size=8).hexdigest()

    def lesson(self, images: Tensor) -> Answers:
        """What the teacher says of images `[B, 3, H, W]`, from its file where there is one."""
        content = images.cpu().contiguous().numpy().tobytes()
        path = self._folder / f"{hashlib.blake2b(content, digest_size=16).hexdigest()}.pt"
        if path.exists():
            answers: Answers = torch.load(path, weights_only=False)  # our own file
            return moved(answers, images.device)
        found = super().lesson(images)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}")  # of two processes, each writes its own
        torch.save(moved(found, torch.device("cpu")), unfinished)
        unfinished.replace(path)
        return found
