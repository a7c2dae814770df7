"""What the quality benchmark may run: a method, a recovery, ours with one thing changed."""

from dataclasses import dataclass
from typing import Literal

from benchmarks.peers import SELECTIONS

Split = Literal["val", "test"]
Recovery = Literal["plain", "ours"]

# What our planner is told by each method that it serves. Ours takes the widths that the data set's recipe or
# contest says.
OURS = {"prune.criterion": "taylor"}
TAPERED = "ours, tapered widths"
PLANNED: dict[str, dict[str, str]] = {
    "ours": OURS,
    TAPERED: {**OURS, "prune.choice": "tapered"},
    "uniform L1": {"prune.criterion": "l1", "prune.choice": "uniform"},
    "uniform random": {"prune.criterion": "random", "prune.choice": "uniform"},
}
# The dense detector as trained from a trial's seed; that of seed 0, fine-tuned for as long as the slim ones;
# the shape that ours gives, with fresh weights and the epochs of training and fine-tuning together.
DENSE, TUNED, SCRATCH = CONTROLS = ("dense", "dense, fine-tuned", "from scratch")
METHODS = (*PLANNED, *SELECTIONS, *CONTROLS)

ADAMW = {"finetune.optimizer": "adamw", "finetune.schedule": "cosine", "finetune.weight_decay": "0.01"}
RECOVERIES: dict[Recovery, dict[str, str]] = {
    "plain": {
        "prune.compensate": "none",
        "prune.recalibrate": "none",
        "distill.predictions": "0",
        "distill.attention": "0",
        "finetune.loss_weights.boxes": "1",
        "finetune.norm_and_bias_lr": "1",
        **ADAMW,
    },
    # Here the boxes weigh, and norms and biases move, as the data set's recipe or contest says.
    "ours": {
        "prune.compensate": "refit",
        "prune.recalibrate": "norms",
        "distill.predictions": "2.0",
        "finetune.optimizer": "muon",
        "finetune.schedule": "linear",
        "finetune.weight_decay": "0.1",
    },
}
# Ours with one thing changed.
CHANGES: dict[str, dict[str, str]] = {
    "L1 instead of Taylor": {"prune.criterion": "l1"},
    "column subsets instead of Taylor": {"prune.criterion": "column_subset"},
    "widths by the knapsack instead of uniform ones": {"prune.choice": "knapsack"},
    "widths by one ranking instead of uniform ones": {"prune.choice": "global"},
    "no refit of the consumers": {"prune.compensate": "none"},
    "layers solved anew after the refit": {"prune.compensate": "reconstruct"},
    "no norms measured anew": {"prune.recalibrate": "none"},
    "no distilled predictions": {"distill.predictions": "0"},
    "distilled attention as well": {"distill.attention": "30"},
    "boxes count as much as classes in the loss": {"finetune.loss_weights.boxes": "1"},
    # At the best of its rates on val at 5 %, with the boxes' own weight: 0.741, 0.757 and 0.745 with
    # 0.004, 0.008 and 0.016 (2026-11-25).
    "AdamW instead of Muon": {**ADAMW, "finetune.lr": "0.008"},
}


@dataclass(frozen=True)
class Trial:
    """What is run.

    Attributes:
        method: of `METHODS`.
        share: of the dense detector's MACs, 0..1; what is not cut has all of them.
        recovery: between cut and score.
        lr: of the fine-tuning.
        seed: of scores, order and augmentation.
        split: what it is scored on.
        change: a key of `CHANGES`; empty: none.
    """

    method: str
    share: float
    recovery: Recovery
    lr: float
    seed: int
    split: Split
    change: str = ""

    @property
    def keys(self) -> dict[str, str]:
        """The recipe's keys that this trial sets."""
        return {
            **{**PLANNED, SCRATCH: OURS}.get(self.method, {}),
            **RECOVERIES[self.recovery],
            "prune.budget.macs": f"{100 * self.share:g}%",
            "finetune.lr": f"{self.lr}",
            "finetune.seed": f"{self.seed}",
            **CHANGES.get(self.change, {}),
        }

    @property
    def overrides(self) -> list[str]:
        """The same as the command line has them."""
        return [f"{key}={value}" for key, value in self.keys.items()]
