"""What the published configurations say: which maps a detector looks at, and its default boxes on them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from detectors.anchors import AnchorLevel, AnchorSpec, ssd_shapes
from detectors.errors import ConfigError
from detectors.models.backbones import BACKBONES, Trunk
from detectors.models.layers import Normalise, scaled
from detectors.registry import did_you_mean

# A map: behind a layer of the backbone (its index), or one more made from the last one: "S" halves it, ""
# shrinks it by a valid 3x3 convolution, "RBF" halves it in an RFB block.
Source = int | str

Colours = Literal["caffe", "ssds", "imagenet"]
_COLOURS: dict[str, dict[str, Any]] = {
    # Caffe's VGG means in RGB, no scaling: vgg16_reducedfc.pth and every published SSD-VGG.
    "caffe": {"mean": (123.0, 117.0, 104.0)},
    # ssds.pytorch: the means of TensorFlow's models, channels in OpenCV's order.
    "ssds": {"mean": (123.68, 116.78, 103.94), "bgr": True},
    # torchvision's ImageNet statistics, for networks with batch norm.
    "imagenet": {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)},
}


@dataclass(frozen=True)
class Boxes:
    """Default boxes of a published configuration, pixels of its input.

    Attributes:
        size: shorter side of the input that the numbers are for.
        steps: distance of neighbouring cells on each map.
        sizes: side of the smaller square on each map, and the side that follows the last one.
        aspect_ratios: on each map, each used both ways.
    """

    size: int
    steps: tuple[float, ...]
    sizes: tuple[float, ...]
    aspect_ratios: tuple[tuple[float, ...], ...]


_RATIOS = ((2, 3), (2, 3), (2, 3), (2, 3), (2,), (2,))
# ssds.pytorch's boxes for maps from stride 8, and from stride 16, the same for VOC and COCO.
STRIDE_8 = Boxes(300, (8, 16, 32, 64, 100, 300), (30, 60, 111, 162, 213, 264, 315), _RATIOS)
STRIDE_16 = Boxes(300, (16, 32, 64, 100, 150, 300), (45, 90, 135, 180, 225, 270, 315), _RATIOS)
# ssd.pytorch's and the 2018 pruning tool's: four boxes on the first map.
SSD300 = Boxes(300, STRIDE_8.steps, STRIDE_8.sizes, ((2,), *_RATIOS[1:]))

# Layers behind which SSD, RFB and their lite forms tap, and the boxes that go with their strides.
TAPS: dict[str, tuple[tuple[int, int], Boxes]] = {
    "vgg16": ((22, 34), STRIDE_8),
    "vgg16_bn": ((32, 49), STRIDE_8),
    "resnet18": ((7, 9), STRIDE_8),
    "resnet34": ((10, 16), STRIDE_8),
    "resnet50": ((10, 16), STRIDE_8),
    "resnet101": ((10, 33), STRIDE_8),
    "mobilenet_v1": ((11, 13), STRIDE_16),
    "mobilenet_v2": ((13, 17), STRIDE_16),
    "darknet19": ((12, 16), STRIDE_16),
    "darknet53": ((23, 28), STRIDE_16),
}


def trunk_of(detector: str, backbone: str, width: float, known: Sequence[str], **options: Any) -> Trunk:
    """The layers of a backbone; raises ConfigError for one that the detector cannot stand on."""
    if backbone not in known:
        raise ConfigError(f"{detector} cannot stand on backbone {backbone!r}{did_you_mean(backbone, known)}")
    if not 0 < width <= 4:
        raise ConfigError(f"{detector}: width={width} is not between 0 and 4")
    return BACKBONES[backbone](width, **options)


def normalise_of(colours: Colours) -> Normalise:
    """What a family of weights expects of the image."""
    return Normalise(**_COLOURS[colours])


def anchors_of(
    detector: str,
    boxes: Boxes,
    image_size: tuple[int, int],
    count: int,
    sizes: Sequence[float] | None,
    steps: Sequence[float] | None,
    aspect_ratios: Sequence[Sequence[float]] | None,
    *,
    clip: bool,
    squares: bool = True,
) -> AnchorSpec:
    """The default boxes of a detector: the published ones, as far as nothing else is given.

    At another input size than the published one, sizes grow with the shorter side and steps follow the maps.

    Args:
        detector: its name, for errors.
        boxes: the published ones.
        image_size: (height, width) of the input, pixels.
        count: number of maps.
        sizes: of the smaller squares, one more than maps, pixels.
        steps: between cells, one for each map, pixels; [] for input size / map size.
        aspect_ratios: for each map.
        clip: as in `AnchorSpec`.
        squares: whether a cell has the two squares besides the boxes of the aspect ratios.

    Raises:
        ConfigError: another number of sizes, steps or ratios than there are maps, one that is not above 0;
        a map without boxes; an image without pixels.
    """
    if min(image_size) < 1:
        raise ConfigError(f"{detector}: size={list(image_size)} is not [height, width] in pixels")
    published = tuple(image_size) == (boxes.size, boxes.size)
    if sizes is None:
        sizes = [size * min(image_size) / boxes.size for size in boxes.sizes]
    if steps is None:
        steps = boxes.steps if published else ()
    ratios = boxes.aspect_ratios if aspect_ratios is None else aspect_ratios
    for option, given, wanted in (
        ("sizes", len(sizes), count + 1),
        ("steps", len(steps) or count, count),
        ("aspect_ratios", len(ratios), count),
    ):
        if given != wanted:
            raise ConfigError(f"{detector}: {given} {option} for {count} maps; give {wanted}")
    if not all(0 < n < math.inf for n in (*sizes, *steps, *(ratio for level in ratios for ratio in level))):
        raise ConfigError(
            f"{detector}: sizes={list(sizes)}, steps={list(steps)} and all aspect_ratios must be above 0 and "
            "finite"
        )
    if not squares and not all(ratios):
        raise ConfigError(
            f"{detector}: with squares=false each map needs aspect_ratios; got {[list(r) for r in ratios]}"
        )
    cells: Sequence[float | None] = steps or [None] * count
    return AnchorSpec(
        tuple(
            AnchorLevel(ssd_shapes(sizes[k], sizes[k + 1], tuple(ratios[k]))[0 if squares else 2 :], cells[k])
            for k in range(count)
        ),
        clip,
    )


def further_depths(detector: str, layers: Sequence[Source], depths: Sequence[int], width: float) -> list[int]:
    """Channels of each map times the width; only those of maps behind the backbone's mean anything.

    Raises:
        ConfigError: another number of depths than maps, or a further map with too few channels to halve.
    """
    if len(depths) != len(layers):
        raise ConfigError(f"{detector}: {len(depths)} depths for {len(layers)} maps; give one for each")
    for source, depth in zip(layers, depths, strict=True):
        if isinstance(source, str) and depth < 2:
            raise ConfigError(
                f"{detector}: depths={list(depths)} must be 2 or more for every map that is not a layer of "
                "the backbone"
            )
    return [scaled(depth, width) for depth in depths]


def tapped(detector: str, layers: Sequence[Source], option: str = "layers") -> tuple[int, ...]:
    """The backbone layers among the maps that an option names; raises ConfigError unless they come first."""
    taps = tuple(source for source in layers if isinstance(source, int))
    if not taps or any(isinstance(source, int) for source in layers[len(taps) :]):
        raise ConfigError(f"{detector}: {option}={list(layers)} must begin with indices of backbone layers")
    return taps
