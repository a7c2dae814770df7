"""What a recipe may say about detectors, data, training and evaluation. Imports no torch.

A typo is answered at once.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from detectors.errors import ConfigError


def setting(default: Any, help: str) -> Any:
    """A dataclass field with the line that `--help` prints for it.

    Lists and dicts are copied for each instance.
    """
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata={"help": help})
    if isinstance(default, type):
        return field(default_factory=default, metadata={"help": help})
    return field(default=default, metadata={"help": help})


def require(holds: bool, key: str, value: Any, wanted: str) -> None:
    """Raises ConfigError, naming the key, unless a value is what it must be."""
    if not holds:
        raise ConfigError(f"{key}={value} does not work: it must be {wanted}")


@dataclass
class DetectorConfig:
    """Which detector to build."""

    name: str | None = setting(None, "a name of `--list`; null: what the checkpoint `model` says")
    module: str | None = setting(None, "your own module, imported first: my_package.my_file registers in it")
    size: list[int] | None = setting(None, "input [height, width] in pixels; null: the detector's own")
    width: float | None = setting(None, "multiplier on every channel count; null: the detector's own")
    backbone_weights: str | None = setting(None, "weights of a backbone alone; read where no model is given")
    options: dict[str, Any] = setting({}, "further options of the named detector, by keyword")


@dataclass
class SyntheticConfig:
    """The drawn data set: textured shapes on a cluttered ground, told apart by shape and texture."""

    classes: int = setting(6, "number of classes, 1 to 40: shape x texture")
    train: int = setting(400, "images in the training split")
    val: int = setting(100, "images in the validation split")
    test: int = setting(200, "images in the test split")
    size: list[int] = setting([160, 160], "[height, width] of an image in pixels")
    objects: list[int] = setting([1, 5], "[fewest, most] objects in an image")
    object_size: list[float] = setting(
        [0.2, 0.5], "[smallest, largest] side, as a share of the shorter image side"
    )
    clutter: float = setting(0.5, "0 to 1: how much of unlabelled lines, blobs and noise lies on the ground")
    crowding: float = setting(0.0, "0 to 1: share of objects placed to overlap one of their own class")
    seed: int = setting(0, "a different seed draws different images")


@dataclass
class DataConfig:
    """Where images and boxes come from, and what is done to them."""

    name: str = setting("voc", "a data set of `--list`")
    root: str = setting("", "folder of the data")
    train: list[str] = setting(["trainval"], "splits to train on: trainval, or VOC2007/trainval below root")
    test: list[str] = setting(["test"], "splits to evaluate on")
    classes: list[str] | None = setting(None, "class names; null: found in the annotations, sorted")
    augment: str = setting("ssd", "an augmentation of `--list`")
    difficult: bool = setting(False, "train on boxes marked difficult as well")
    cache: Literal["none", "ram"] = setting("none", "ram: keep decoded images in memory")
    max_side: int | None = setting(
        None, "shrink images to this longest side when they are read; null: as they are"
    )
    on_error: Literal["stop", "skip"] = setting(
        "stop", "skip: count broken samples, leave them out and go on"
    )
    workers: int = setting(1, "processes that prepare training images; 0: the training process itself")
    synthetic: SyntheticConfig = setting(SyntheticConfig, "the drawn data set (data.name=synthetic)")

    def __post_init__(self) -> None:
        require(self.workers >= 0, "data.workers", self.workers, "0 or more")
        require(
            self.max_side is None or self.max_side >= 1, "data.max_side", self.max_side, "1 or more, or null"
        )


@dataclass
class TrainConfig:
    """How a detector is trained."""

    epochs: int = setting(40, "passes over the training split")
    batch: int = setting(16, "images in one step, over all processes")
    optimizer: Literal["sgd", "adamw", "muon"] = setting(
        "sgd",
        "sgd (momentum 0.9), adamw, or muon: at the lr of adamw, with momentum made orthogonal for weights",
    )
    lr: float = setting(1e-3, "peak learning rate")
    weight_decay: float = setting(5e-4, "decay of weights")
    decay_norm_and_bias: bool = setting(True, "decay biases and norm scales too, as the original SSD did")
    norm_and_bias_lr: float = setting(
        1.0, "peak learning rate of biases and norm scales, as a multiple of lr"
    )
    schedule: Literal["multistep", "cosine", "linear", "constant"] = setting(
        "multistep", "course of the learning rate"
    )
    milestones: list[float] = setting(
        [0.67, 0.83], "multistep: shares of training after which lr falls to a tenth"
    )
    warmup: float = setting(0.0, "share of training in which lr rises linearly from near 0")
    clip_norm: float | None = setting(None, "largest gradient norm; null: no clipping")
    sparsity: float = setting(
        0.0, "weight of the sum of |scale| over the batch norms of layers that can be cut; 0: off"
    )
    loss_weights: dict[str, float] = setting(
        {}, "multipliers of the detector's own loss terms by name, such as {boxes: 4}; 1 for those not named"
    )
    precision: Literal["fp32", "bf16"] = setting("fp32", "bf16: autocast the forward pass")
    channels_last: bool = setting(True, "memory layout that convolutions prefer")
    seed: int = setting(0, "seed of weights, order and augmentation")
    save_every: int = setting(1, "epochs between resumable checkpoints")

    def __post_init__(self) -> None:
        # One class serves `train` and `finetune`, so the messages name both by what they share.
        for name, least in (("epochs", 0), ("batch", 1), ("save_every", 1)):
            value = getattr(self, name)
            require(value >= least, f"train or finetune: {name}", value, f"{least} or more")
        for name in ("lr", "norm_and_bias_lr"):
            require(getattr(self, name) > 0, f"train or finetune: {name}", getattr(self, name), "above 0")
        require(self.weight_decay >= 0, "train or finetune: weight_decay", self.weight_decay, "0 or more")
        require(self.sparsity >= 0, "train or finetune: sparsity", self.sparsity, "0 or more")
        require(0 <= self.warmup < 1, "train or finetune: warmup", self.warmup, "a share from 0 to below 1")
        for name, weight in self.loss_weights.items():
            require(weight >= 0, f"train or finetune: loss_weights.{name}", weight, "0 or more")
        clip = self.clip_norm
        require(clip is None or clip > 0, "train or finetune: clip_norm", clip, "above 0, or null")


@dataclass
class EvalConfig:
    """How a detector is scored."""

    metric: str = setting("voc07", "a metric of `--list`: voc07 (11-point), voc (area) or coco")
    split: Literal["train", "test"] = setting("test", "which of data.train and data.test")
    batch: int = setting(8, "images in one forward pass")
    score_threshold: float | None = setting(
        None, "detections below this score are dropped; null: the detector's own, 0.01 for SSD"
    )
    nms_iou: float | None = setting(
        None,
        "overlap above which the lower score of one class is dropped; null: the detector's own, 0.45",
    )
    top_k: int | None = setting(
        None, "candidates for each class of an image that enter NMS; null: the detector's own, 200 for SSD"
    )
    keep: int | None = setting(
        None, "detections of an image that leave NMS; null: the detector's own, 200 for SSD"
    )
    bootstrap: int = setting(1000, "resamples of the images behind the interval; 0: no interval")

    def __post_init__(self) -> None:
        for name in ("score_threshold", "nms_iou"):
            share = getattr(self, name)
            require(share is None or 0 <= share <= 1, f"eval.{name}", share, "between 0 and 1")
        for name, least in (("batch", 1), ("top_k", 1), ("keep", 1), ("bootstrap", 0)):
            count = getattr(self, name)
            require(count is None or count >= least, f"eval.{name}", count, f"{least} or more")
