"""Everything a recipe may hold. Imports no torch: a typo is answered at once."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from detectors.errors import ConfigError
from detectors.settings import DataConfig, DetectorConfig, EvalConfig, TrainConfig, require, setting


@dataclass
class BudgetConfig:
    """What the slim model may cost; all that are given must hold."""

    macs: str | None = setting(
        None, "multiply-adds of one image: 50%, 800M or 1.2G; a share is of the first model"
    )
    params: str | None = setting(None, "parameters: 25%, 8M or 300k")
    latency_ms: str | None = setting(
        None, "milliseconds of a pass, measured as prune.latency says: 12 or 50%; see prune.latency"
    )

    @property
    def empty(self) -> bool:
        """Whether there is no limit."""
        return self.macs is None and self.params is None and self.latency_ms is None


@dataclass
class LatencyConfig:
    """How times are measured, in the run's table and for budgets in milliseconds."""

    engine: Literal["torch", "onnxruntime"] = setting(
        "torch", "what runs the network; onnxruntime: on the CPU"
    )
    batch: int = setting(1, "images in a pass")
    threads: int | None = setting(None, "CPU threads of the engine; null: as many as torch has")
    runs: int = setting(20, "timed passes behind the time of each layer and plan of a budget in milliseconds")
    table: str | None = setting(
        None, "JSON file with the times of layers, to be shared by runs; null: latency.json in the run folder"
    )

    def __post_init__(self) -> None:
        for name in ("batch", "threads", "runs"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"prune.latency.{name}", value, "1 or more")


@dataclass
class ExportConfig:
    """What is written beside a .pth."""

    onnx: bool = setting(False, "the network's raw head maps as .onnx, checked against torch")


@dataclass
class PruneConfig:
    """Which channels go, how many, in how many rounds."""

    budget: BudgetConfig = setting(BudgetConfig, "what the slim model may cost")
    budgets: list[BudgetConfig] = setting(
        [],
        "instead of a budget: one for each round, [{macs: 50%}, {macs: 20%}], none above the one before; "
        "their number is that of the rounds",
    )
    ratio: float | None = setting(None, "instead of a budget: this share of every layer goes, rounded down")
    ratios: dict[str, float] = setting(
        {},
        'instead of a budget: shares of layers, {"backbone.*": 0.3}; the first glob that matches counts, '
        "layers without one stay",
    )
    criterion: str = setting("taylor", "a criterion of `--list`: what makes a channel worth keeping")
    choice: Literal["uniform", "tapered", "global", "knapsack"] = setting(
        "uniform",
        "uniform: the same share everywhere; tapered: narrow layers lose a smaller share, widths follow the "
        "power 2/3 of the first ones; global: one ranking, by score for what it costs; knapsack: the widths "
        "that keep most of each layer's scores",
    )
    bounds: list[float] | None = setting(
        [0.6, 2.0], "with knapsack: least and most width, as multiples of the uniform plan's; null: any"
    )
    order: Literal["parallel", "sequential"] = setting(
        "parallel",
        "sequential: score each layer on weights already narrowed by the layers before it (uniform or "
        "tapered, and criteria of weights alone)",
    )
    skip: list[str] = setting([], "globs of layers to keep whole, such as backbone.features.0 or extras.*")
    multiple: int = setting(8, "widths are multiples of this")
    floor: float = setting(
        0.05, "no layer keeps less than this share of its first width (nor less than `multiple`)"
    )
    largest_cut: float = setting(0.9, "no layer loses more than this share of its channels in one round")
    caps: dict[str, float] = setting(
        {}, 'layers that lose at most this share of their first width over all rounds: {"extras.*": 0.5}'
    )
    caps_from: str | None = setting(
        None, "a sensitivity.json of this model, whose suggestions cap all layers that caps does not name"
    )
    rounds: int = setting(
        1, "rounds of cutting and fine-tuning; the budget is approached by equal relative cuts"
    )
    epochs: list[int] | None = setting(
        None, "fine-tuning epochs of each round; null: finetune.epochs in every round"
    )
    compensate: Literal["none", "mean", "refit", "reconstruct"] = setting(
        "refit",
        "what makes up for removed channels in the layers that read them: their mean, in the bias; refit: "
        "least squares on the channels that stay; reconstruct: that, and then each layer solved anew in the "
        "slim network, which is worth most where there is little or no fine-tuning",
    )
    recalibrate: Literal["none", "norms"] = setting(
        "norms", "norms: after a cut, measure L2Norm scales and statistics of batch norms not frozen anew"
    )
    calibration_images: int = setting(
        512,
        "training images, at most, that scores, compensation and statistics are measured on; compensation "
        "and L2Norm scales stop at 64 or more, once each layer was read at 8 positions for each channel",
    )
    stop_below: str | None = setting(
        None,
        "stop after a round that scores below this, 0.5 or 95% of the first model's, and keep the one before",
    )
    mode: Literal["slim", "mask"] = setting(
        "slim", "mask: keep the shapes of the first model and leave masked.pth, with zeros for what was cut"
    )
    latency: LatencyConfig = setting(LatencyConfig, "how times are measured")
    latency_runs: int = setting(30, "timed forward passes behind each latency; 0: none")

    def __post_init__(self) -> None:
        self._check_budgets()
        require(self.rounds >= 1, "prune.rounds", self.rounds, "1 or more")
        epochs = self.epochs
        one_each = epochs is None or (len(epochs) == self.rounds and all(count >= 0 for count in epochs))
        require(one_each, "prune.epochs", epochs, f"a number of epochs for each of the {self.rounds} rounds")
        require(self.multiple >= 1, "prune.multiple", self.multiple, "1 or more")
        for name in ("floor", "largest_cut"):
            require(0 <= getattr(self, name) <= 1, f"prune.{name}", getattr(self, name), "between 0 and 1")
        bounds = self.bounds
        around_one = bounds is None or (len(bounds) == 2 and 0 <= bounds[0] <= 1 <= bounds[1])
        require(around_one, "prune.bounds", bounds, "two numbers around 1, such as [0.6, 2.0], or null")
        images = self.calibration_images
        require(images >= 1, "prune.calibration_images", images, "1 or more")
        require(self.latency_runs >= 0, "prune.latency_runs", self.latency_runs, "0 or more")

    def _check_budgets(self) -> None:
        """There are as many rounds as budgets; raises ConfigError where another setting says otherwise."""
        if not self.budgets:
            return
        others = {
            "prune.budget": not self.budget.empty,
            "prune.ratio": self.ratio is not None,
            "prune.ratios": bool(self.ratios),
        }
        for key, given in others.items():
            if given:
                raise ConfigError(f"prune.budgets and {key} contradict each other: give one and not both")
        count = len(self.budgets)
        require(self.rounds in (1, count), "prune.rounds", self.rounds, f"{count}, as prune.budgets has")
        self.rounds = count
        for place, budget in enumerate(self.budgets):
            require(not budget.empty, f"prune.budgets[{place}]", "{}", "a limit, such as {macs: 50%}")


@dataclass
class SensitivityConfig:
    """What `mode=sensitivity` measures."""

    ratios: list[float] = setting(
        [0.1, 0.3, 0.5, 0.7, 0.9], "shares of its channels that each layer group loses, one after the other"
    )
    split: Literal["train", "test"] = setting(
        "train",
        "which of data.train and data.test to draw the images from; a test split must not choose widths, so "
        "test is for data.test=[val]",
    )
    images: int = setting(96, "images, at most, that every cut is scored on; the same for all")
    seed: int = setting(0, "which images are drawn")
    bootstrap: int = setting(500, "resamples of the images behind the noise of every drop")
    tolerance: float = setting(
        0.02, "a drop of the metric up to this, or one that chance explains, is taken for harmless"
    )

    def __post_init__(self) -> None:
        ratios = self.ratios
        rising = all(a < b for a, b in pairwise(ratios))
        between = bool(ratios) and all(0 < ratio < 1 for ratio in ratios)
        wanted = "rising shares between 0 and 1, such as [0.1, 0.5]"
        require(between and rising, "sensitivity.ratios", ratios, wanted)
        for name in ("images", "bootstrap"):
            require(getattr(self, name) >= 1, f"sensitivity.{name}", getattr(self, name), "1 or more")
        tolerance = self.tolerance
        require(0 <= tolerance <= 1, "sensitivity.tolerance", tolerance, "between 0 and 1")


@dataclass
class DistillConfig:
    """How fine-tuning learns from the detector before it was cut, its teacher."""

    teacher: str | None = setting(
        None, "checkpoint of the teacher; null: in prune.py the run's first model, in finetune.py none"
    )
    predictions: float = setting(
        0.0, "weight of the teacher's classes and boxes, anchor by anchor where it sees objects; 0: off"
    )
    attention: float = setting(
        0.0, "weight of where the teacher looks: sums of squares of the maps that the heads read; 0: off"
    )
    temperature: float = setting(1.0, "divides class logits before they are compared; above 1: softer")
    cache: Literal["none", "ram"] = setting(
        "none", "ram: ask the teacher once for each image; with data.augment=none or flip"
    )

    def __post_init__(self) -> None:
        for name in ("predictions", "attention"):
            weight = getattr(self, name)
            require(0 <= weight < float("inf"), f"distill.{name}", weight, "0 or more")
        warm = 0 < self.temperature < float("inf")
        require(warm, "distill.temperature", self.temperature, "above 0")

    @property
    def on(self) -> bool:
        """Whether there is anything to learn from a teacher."""
        return self.predictions > 0 or self.attention > 0


@dataclass
class ReportConfig:
    """What the report shows beside the rounds; may differ when a run is resumed."""

    after_cut: bool = setting(
        True,
        "score each round right after its cut too, before anything is mended: one more pass over data.test",
    )
    pictures: int = setting(4, "test images shown with what both models find in them; 0: none")
    picture_score: float = setting(0.4, "least score of the detections that are shown, 0 to 1")

    def __post_init__(self) -> None:
        require(self.pictures >= 0, "report.pictures", self.pictures, "0 or more")
        least = self.picture_score
        require(0 <= least <= 1, "report.picture_score", least, "between 0 and 1")


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
    mode: Literal["prune", "sensitivity"] = setting(
        "prune", "prune.py: sensitivity cuts nothing for good, and measures what each layer group bears"
    )
    sensitivity: SensitivityConfig = setting(SensitivityConfig, "prune.py with mode=sensitivity")
    finetune: TrainConfig = setting(TrainConfig, "finetune.py, and the fine-tuning in each round of prune.py")
    distill: DistillConfig = setting(DistillConfig, "a teacher in fine-tuning")
    report: ReportConfig = setting(ReportConfig, "the report of prune.py")
    export: ExportConfig = setting(
        ExportConfig, "what train.py, prune.py and finetune.py write beside a .pth"
    )
    model: str | None = setting(None, "a checkpoint to start from, full or slim, ours or published")
    load: LoadConfig = setting(LoadConfig, "reading the checkpoint")
    out: str | None = setting(
        None, "run folder; null: weights/RECIPE, prunes/RECIPE, or finetuned/ beside the model"
    )
    dry_run: bool = setting(False, "say what would be done, and stop before doing it")
