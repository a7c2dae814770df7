"""The predictors on the maps: for each map one for classes and one for boxes."""

from collections.abc import Sequence

from torch import Tensor, nn

from detectors.anchors import AnchorSpec
from detectors.models.base import HeadMaps


def heads(
    depths: Sequence[int], anchors: AnchorSpec, outputs: int, *, separable: bool = False
) -> tuple[nn.ModuleList, nn.ModuleList]:
    """The predictors of boxes (`loc`) and of classes (`conf`), one of each for each map.

    Args:
        depths: channels of the maps.
        anchors: says how many boxes each map has in a cell.
        outputs: channels of a class predictor for one anchor, 1 + number of classes.
        separable: a depthwise 3x3, batch norm, ReLU6 and a 1x1 convolution, instead of one 3x3.
    """
    cells = [level.per_cell for level in anchors.levels]
    pairs = list(zip(depths, cells, strict=True))
    loc = nn.ModuleList(_head(depth, count * 4, separable) for depth, count in pairs)
    conf = nn.ModuleList(_head(depth, count * outputs, separable) for depth, count in pairs)
    return loc, conf


def predict(maps: Sequence[Tensor], loc: nn.ModuleList, conf: nn.ModuleList) -> HeadMaps:
    """(logits, deltas) on each map."""
    return [(classes(x), boxes(x)) for x, classes, boxes in zip(maps, conf, loc, strict=True)]


def _head(inputs: int, outputs: int, separable: bool) -> nn.Module:
    if not separable:
        return nn.Conv2d(inputs, outputs, 3, padding=1)
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False),
        nn.BatchNorm2d(inputs),
        nn.ReLU6(inplace=True),
        nn.Conv2d(inputs, outputs, 1),
    )
