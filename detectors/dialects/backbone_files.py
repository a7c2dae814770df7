"""Files that hold a backbone alone: `vgg16_reducedfc.pth`, torchvision's classifiers and their like."""

import re
from collections.abc import Callable

import torch
from torch import Tensor, nn

from detectors.dialects import State
from detectors.errors import CheckpointError

# Layers of ResNet before `layer1`, and where each of its four stages begins in our list.
_STEM = {"conv1": "0", "bn1": "1"}


def fill_backbone(backbone: nn.Module, state: State, path: str) -> dict[str, list[str]]:
    """Fills a backbone from the content of a file; see `detectors.loading.load_backbone`."""
    own = backbone.state_dict()
    translations = [_numbered, _resnet(own), _mobilenet]
    # The translation under which most tensors find their place.
    candidates = [_translate(state, rule) for rule in translations]
    found = max(candidates, key=lambda new: len(new.keys() & own.keys()))
    fitting = found.keys() & own.keys()
    if not fitting:
        odd = next(iter(state))
        raise CheckpointError(
            f"{path} is not a file of this backbone (key {odd}); give a whole detector as model={path}"
        )
    _check_depth(own, state, path)
    for key in sorted(fitting):
        theirs, value = found[key], state[found[key]]
        if value.shape != own[key].shape:
            raise CheckpointError(
                f"{path} does not fit the detector's backbone: {theirs} is {list(value.shape)} in the file "
                f"and {list(own[key].shape)} here; is it of another depth or width?"
            )
        if not bool(torch.isfinite(value).all()):
            raise CheckpointError(f"{path}: {theirs} holds values that are not finite")
    values = {key: state[found[key]] for key in fitting}
    folded = _fold_biases(values, {key: state[theirs] for key, theirs in found.items() if key not in own})
    backbone.load_state_dict(values, strict=False)
    used = {found[key] for key in fitting | folded}
    return {
        "missing": [key for key in own if key not in fitting and not key.endswith("num_batches_tracked")],
        "left out": [key for key in state if key not in used],
    }


def _fold_biases(values: dict[str, Tensor], homeless: State) -> set[str]:
    """Takes biases for which we have no place into the batch norm behind them; the keys that this served.

    torchvision's VGGs with batch norm have them: BN(x + b) is a BN whose mean is smaller by b.
    """
    folded = set()
    for key, bias in homeless.items():
        match = re.match(r"^features\.(\d+)\.bias$", key)
        mean = f"features.{int(match[1]) + 1}.running_mean" if match else ""
        if mean in values and values[mean].shape == bias.shape:
            values[mean] = values[mean] - bias
            folded.add(key)
    return folded


def _translate(state: State, rule: Callable[[str], str | None]) -> dict[str, str]:
    """Our key -> the file's."""
    return {ours: key for key in state if (ours := rule(key)) is not None}


def _numbered(key: str) -> str | None:
    """`0.weight`, `features.0.weight`, `vgg.0.weight`, `base.0.weight`."""
    match = re.match(r"^(?:features\.|vgg\.|base\.)?(\d+\..+)$", key)
    return f"features.{match[1]}" if match else None


def _resnet(own: State) -> Callable[[str], str | None]:
    """torchvision's `conv1`, `bn1`, `layer1.0...`: our list begins with stem, ReLU and pooling."""
    stages = [blocks[0] for blocks in _stages(own)]

    def rule(key: str) -> str | None:
        first, _, rest = key.partition(".")
        if first in _STEM:
            return f"features.{_STEM[first]}.{rest}"
        match = re.match(r"^layer(\d)\.(\d+)\.(.+)$", key)
        if match and int(match[1]) <= len(stages):
            return f"features.{stages[int(match[1]) - 1] + int(match[2])}.{match[3]}"
        return None

    return rule


def _stages(own: State) -> list[list[int]]:
    """The indices of a ResNet's blocks in our list, stage by stage; [] for another backbone."""
    stages: list[list[int]] = []
    for index in sorted({int(key.split(".")[1]) for key in own if re.match(r"^features\.\d+\.conv1\.", key)}):
        # A stage begins where the first block changes the width of its input.
        if f"features.{index}.downsample.0.weight" in own or not stages:
            stages.append([])
        stages[-1].append(index)
    return stages


def _check_depth(own: State, state: State, path: str) -> None:
    """Raises CheckpointError for a ResNet with another number of blocks; further stages of a file may be."""
    for number, blocks in enumerate(_stages(own), start=1):
        theirs = {match[1] for key in state if (match := re.match(rf"^layer{number}\.(\d+)\.", key))}
        if theirs and len(theirs) != len(blocks):
            raise CheckpointError(
                f"{path} is of another depth than the detector's backbone: layer{number} has {len(theirs)} "
                f"blocks in the file and {len(blocks)} here; name the file's ResNet in "
                "detector.options.backbone"
            )


def _mobilenet(key: str) -> str | None:
    """torchvision's MobileNetV2: `features.0.0`, `features.1.conv.0.0` (depthwise first in block 1).

    Its first and its last block are a convolution and batch norm, without a `conv` around them.
    """
    match = re.match(r"^features\.(\d+)\.(.+)$", key)
    if not match:
        return None
    block, rest = int(match[1]), match[2]
    if re.match(r"\d\.", rest):
        return f"features.{block}.conv.{rest}"
    inner = re.match(r"^conv\.(\d)\.(?:(\d)\.)?(\w+)$", rest)
    if not inner:
        return None
    first, second, name = int(inner[1]), inner[2], inner[3]
    # In its first block torchvision leaves out the 1x1 expansion by 1, which the older systems have.
    layers = 1 if block == 1 else 0
    # With a second index the first one counts blocks of convolution, batch norm and activation.
    place = 6 + first - (2 - layers) if second is None else 3 * (first + layers) + int(second)
    return f"features.{block}.conv.{place}.{name}"
