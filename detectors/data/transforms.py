"""Augmentations: a uint8 image and its target in, both at the size that the detector eats out.

Random numbers come from torch's default generator alone: whoever seeds it for a sample decides the sample.
"""

import functools
import math

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from detectors.data import AUGMENTATIONS, Augmentation, outcomes
from detectors.images import resize
from detectors.types import Target

# The mean colour of ImageNet in RGB, which SSD's VGG-16 subtracts and with which SSD fills larger canvases.
MEAN_COLOUR = (123, 117, 104)
# A box below one pixel of the resized image is nothing that a detector could find.
SMALLEST_SIDE = 1.0

# "light": least share of the image's area in the window, and largest factor between their aspect ratios.
LIGHT_AREA = 0.6
LIGHT_ASPECT = 1.2
# "light": least share of a box in the window that keeps it. Laxer than SSD's rule of the centre:
# less of the objects is trained as ground.
LIGHT_VISIBLE = 0.3
# "light": largest change of brightness, contrast and saturation, as a factor 1 +- this.
LIGHT_COLOUR = 0.25
# Weights of red, green and blue in the brightness of a pixel (ITU-R BT.601).
LUMA = (0.299, 0.587, 0.114)


@AUGMENTATIONS.register("ssd")
def ssd(size: tuple[int, int]) -> Augmentation:
    """The SSD paper's, section 2.2: colours, zooming out, IoU crops, flip; for large sets, long training."""
    # The paper's crops are RandomIoUCrop's defaults: as it is, unconstrained, or a least IoU of .1 to .9.
    steps = (
        v2.RandomPhotometricDistort(),
        v2.RandomZoomOut(fill={tv_tensors.Image: MEAN_COLOUR, "others": 0}, side_range=(1.0, 4.0), p=0.5),
        v2.RandomIoUCrop(trials=50),
        v2.RandomHorizontalFlip(),
    )
    return functools.partial(_ssd, size=size, steps=steps)


@AUGMENTATIONS.register("light")
def light(size: tuple[int, int]) -> Augmentation:
    """Mild colours, window of at least 0.6 of the area, flip; cheap, for small sets trained in minutes."""
    return functools.partial(_light, size=size)


@AUGMENTATIONS.register("overhead")
def overhead(size: tuple[int, int]) -> Augmentation:
    """As light, and turned upside down every second time: for images without an up, such as micrographs."""
    return functools.partial(_overhead, size=size)


@AUGMENTATIONS.register("flip")
@outcomes(2)
def flip(size: tuple[int, int]) -> Augmentation:
    """Resize, and a horizontal flip for every second image."""
    return functools.partial(_flip, size=size)


@AUGMENTATIONS.register("none")
@outcomes(1)
def none(size: tuple[int, int]) -> Augmentation:
    """Resize only."""
    return functools.partial(_fit, size=size)


def _ssd(
    image: Tensor, target: Target, *, size: tuple[int, int], steps: tuple[v2.Transform, ...]
) -> tuple[Tensor, Target]:
    image = tv_tensors.Image(image)
    boxes = tv_tensors.BoundingBoxes(target.boxes, format="XYXY", canvas_size=image.shape[-2:])
    for step in steps:
        # A crop is drawn for a box; where there is none it would be drawn over and over.
        if len(boxes) or not isinstance(step, v2.RandomIoUCrop):
            image, boxes = step(image, boxes)
    # Boxes stay in their order through all steps, and those that a crop lost become empty: the flags fit.
    moved = Target(boxes.as_subclass(Tensor), target.labels, target.difficult, target.crowd)
    return _fit(image.as_subclass(Tensor), moved, size=size)


def _light(image: Tensor, target: Target, *, size: tuple[int, int]) -> tuple[Tensor, Target]:
    window = _draw_window(image.shape[-2], image.shape[-1])
    kept = _visible(target, window)
    if len(target.boxes) and not len(kept.boxes):  # an image without objects teaches little: take it whole
        window, kept = (0, 0, image.shape[-2], image.shape[-1]), target
    top, left, height, width = window
    moved = Target(kept.boxes - torch.tensor([left, top, left, top]), kept.labels, kept.difficult, kept.crowd)
    # A window is a view, so the first pass over pixels is the resize, and the others see the small image.
    image, target = _flip(image[:, top : top + height, left : left + width], moved, size=size)
    return _shift_colours(image), target


def _overhead(image: Tensor, target: Target, *, size: tuple[int, int]) -> tuple[Tensor, Target]:
    image, target = _light(image, target, size=size)
    return _mirror(image, target, across=False) if torch.rand(()) < 0.5 else (image, target)


def _flip(image: Tensor, target: Target, *, size: tuple[int, int]) -> tuple[Tensor, Target]:
    image, target = _fit(image, target, size=size)
    return _mirror(image, target, across=True) if torch.rand(()) < 0.5 else (image, target)


def _mirror(image: Tensor, target: Target, *, across: bool) -> tuple[Tensor, Target]:
    """Left and right exchanged, or (not `across`) top and bottom."""
    height, width = image.shape[-2:]
    x1, y1, x2, y2 = target.boxes.unbind(1)
    corners = (width - x2, y1, width - x1, y2) if across else (x1, height - y2, x2, height - y1)
    mirrored = Target(torch.stack(corners, dim=1), target.labels, target.difficult, target.crowd)
    return image.flip(-1 if across else -2), mirrored


def _fit(image: Tensor, target: Target, *, size: tuple[int, int]) -> tuple[Tensor, Target]:
    """Both at `size`; boxes are clipped to the image, and those that are next to nothing are dropped."""
    height, width = image.shape[-2:]
    scale = torch.tensor([size[1] / width, size[0] / height]).repeat(2)
    limit = torch.tensor([size[1], size[0]], dtype=torch.float32).repeat(2)
    boxes = torch.minimum((target.boxes * scale).clamp(min=0), limit)
    sides = boxes[:, 2:] - boxes[:, :2]
    fitted = Target(boxes, target.labels, target.difficult, target.crowd)
    return resize(image, size), fitted.select((sides >= SMALLEST_SIDE).all(dim=1))


def _draw_window(height: int, width: int) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a random window of the image."""
    area, aspect, across, down = torch.rand(4).tolist()
    side = math.sqrt(LIGHT_AREA + (1 - LIGHT_AREA) * area)
    stretch = math.sqrt(LIGHT_ASPECT) ** (2 * aspect - 1)
    # A side that would stand out of the image is cut back, and the other one grown to keep the area.
    stretch = min(max(stretch, side), 1 / side)
    inner_height, inner_width = max(1, round(height * side / stretch)), max(1, round(width * side * stretch))
    top, left = round((height - inner_height) * down), round((width - inner_width) * across)
    return top, left, inner_height, inner_width


def _visible(target: Target, window: tuple[int, int, int, int]) -> Target:
    """The boxes of which enough lies in the window, not yet clipped to it."""
    top, left, height, width = window
    low = torch.tensor([left, top])
    high = torch.tensor([left + width, top + height])
    inside = (torch.minimum(target.boxes[:, 2:], high) - torch.maximum(target.boxes[:, :2], low)).clamp(min=0)
    whole = target.boxes[:, 2:] - target.boxes[:, :2]
    return target.select(inside.prod(dim=1) >= LIGHT_VISIBLE * whole.prod(dim=1))


def _shift_colours(image: Tensor) -> Tensor:
    """Brightness, contrast and saturation changed a little, all three in one affine map of the colours."""
    brightness, contrast, saturation = (1 + LIGHT_COLOUR * (2 * torch.rand(3) - 1)).tolist()
    pixels = image.flatten(1).float()
    luma = torch.tensor(LUMA)
    matrix = brightness * contrast * (saturation * torch.eye(3) + (1 - saturation) * luma.expand(3, 3))
    # Contrast turns around the mean brightness of the image, as in torchvision's adjust_contrast.
    pivot = brightness * (1 - contrast) * (luma @ pixels.mean(dim=1))
    shifted = torch.addmm(pivot.expand(3, 1), matrix, pixels)
    return shifted.round_().clamp_(0, 255).to(torch.uint8).reshape(image.shape)
