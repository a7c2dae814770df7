"""Everything a recipe may hold. Imports no torch: a typo is answered at once."""

from dataclasses import dataclass
from typing import Literal

from detectors.settings import DataConfig, DetectorConfig, EvalConfig, TrainConfig, require, setting


@dataclass
class BudgetConfig:
    """What the slim model may cost; all that are given must hold."""

    macs: str | None = setting(
        None, "multiply-adds of one image: 50%, 800M or 1.2G; a share is of the first model"
    )
    params: str | None = setting(None, "parameters: 25%, 8M or 300k")


@dataclass
class PruneConfig:
    """Which channels go, how many, in how many rounds."""

    budget: BudgetConfig = setting(BudgetConfig, "what the slim model may cost")
    ratio: float | None = setting(None, "instead of a budget: this share of every layer goes, rounded down")
    criterion: str = setting("l1", "a criterion of `--list`: what makes a channel worth keeping")
    choice: Literal["uniform", "global"] = setting(
        "uniform", "uniform: the same share everywhere; global: one ranking"
    )
    order: Literal["parallel", "sequential"] = setting(
        "parallel",
        "sequential: score each layer on weights already narrowed by the layers before it (uniform only)",
    )
    skip: list[str] = setting([], "globs of layers to keep whole, such as backbone.features.0 or extras.*")
    multiple: int = setting(8, "widths are multiples of this")
    floor: float = setting(
        0.05, "no layer keeps less than this share of its first width (nor less than `multiple`)"
    )
    largest_cut: float = setting(0.9, "no layer loses more than this share of its channels in one round")
    rounds: int = setting(
        1, "rounds of cutting and fine-tuning; the budget is approached by equal relative cuts"
    )
    epochs: list[int] | None = setting(
        None, "fine-tuning epochs of each round; null: finetune.epochs in every round"
    )
    compensate: Literal["none", "mean", "refit"] = setting(
        "none",
        "what makes up for removed channels in the layers that read them: their mean, in the bias; or refit: "
        "least squares on the channels that stay",
    )
    recalibrate: Literal["none", "norms"] = setting(
        "norms", "norms: after a cut, measure batch norm statistics and L2Norm scales anew"
    )
    calibration_images: int = setting(
        512, "training images, at most, that scores, compensation and statistics are measured on"
    )
    stop_below: str | None = setting(
        None,
        "stop after a round that scores below this, 0.5 or 95% of the first model's, and keep the one before",
    )
    mode: Literal["slim", "mask"] = setting(
        "slim", "mask: keep the shapes of the first model and leave masked.pth, with zeros for what was cut"
    )
    latency_runs: int = setting(30, "timed forward passes behind each latency; 0: none")

    def __post_init__(self) -> None:
        require(self.rounds >= 1, "prune.rounds", self.rounds, "1 or more")
        epochs = self.epochs
        one_each = epochs is None or (len(epochs) == self.rounds and all(count >= 0 for count in epochs))
        require(one_each, "prune.epochs", epochs, f"a number of epochs for each of the {self.rounds} rounds")
        require(self.multiple >= 1, "prune.multiple", self.multiple, "1 or more")
        for name in ("floor", "largest_cut"):
            require(0 <= getattr(self, name) <= 1, f"prune.{name}", getattr(self, name), "between 0 and 1")
        images = self.calibration_images
        require(images >= 1, "prune.calibration_images", images, "1 or more")
        require(self.latency_runs >= 0, "prune.latency_runs", self.latency_runs, "0 or more")


@dataclass
class LoadConfig:
    """How the checkpoint `model` is read."""

    classes: Literal["same", "ignore"] = setting(
        "same", "ignore: the data may have other classes; the layers as wide as their number start anew"
    )


@dataclass
class Recipe:
    """What to train and how to compress it."""

    detector: DetectorConfig = setting(DetectorConfig, "which detector")
    data: DataConfig = setting(DataConfig, "which data")
    train: TrainConfig = setting(TrainConfig, "train.py")
    eval: EvalConfig = setting(EvalConfig, "scoring, in every command")
    prune: PruneConfig = setting(PruneConfig, "prune.py")
    finetune: TrainConfig = setting(TrainConfig, "finetune.py, and the fine-tuning in each round of prune.py")
    model: str | None = setting(None, "a checkpoint to start from, full or slim, ours or published")
    load: LoadConfig = setting(LoadConfig, "reading the checkpoint")
    out: str | None = setting(
        None, "run folder; null: weights/RECIPE, prunes/RECIPE, or finetuned/ beside the model"
    )
    dry_run: bool = setting(False, "say what would be done, and stop before doing it")
