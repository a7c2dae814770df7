"""Image files and images in memory: decoding, size from the header, shrinking, filling the cache."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms.v2 import functional as F
from tqdm import tqdm

from detectors.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")

# Start of frame, ITU T.81 table B.1: C0 to CF without DHT (C4), JPG (C8) and DAC (CC).
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Markers that stand alone, without a length: TEM, RST0 to RST7, SOI.
_BARE = frozenset({0x01, *range(0xD0, 0xD9)})


def read_image(path: str | Path) -> Tensor:
    """The decoded image, uint8 `[3, H, W]` RGB. Raises DataError if it is missing, truncated or no image."""
    try:
        image = decode_image(str(path), mode=ImageReadMode.RGB)
    except (RuntimeError, OSError, ValueError) as error:
        # torchvision puts its own source file first and, for some errors, a C++ stack trace behind.
        reason = (
            str(error).split("\n")[0].rpartition(".cpp:")[2].partition(", ")[2] or str(error).split("\n")[0]
        )
        raise DataError(f"{path}: image cannot be decoded: {reason.rstrip('.')}") from None
    if image.dtype != torch.uint8:  # PNG with 16 bits a channel
        image = F.to_dtype(image, torch.uint8, scale=True)
    return image


def header_size(path: Path) -> tuple[int, int]:
    """(height, width) in pixels from the header of a JPEG or PNG file. Raises DataError if it has none."""
    try:
        with path.open("rb") as file:
            start = file.read(24)
            if start.startswith(b"\x89PNG\r\n\x1a\n") and len(start) == 24:
                return int.from_bytes(start[20:24], "big"), int.from_bytes(start[16:20], "big")
            if not start.startswith(b"\xff\xd8"):
                raise DataError(f"{path}: neither a JPEG nor a PNG image")
            file.seek(2)
            while (prefix := file.read(1)) == b"\xff":
                while (marker := file.read(1)) == b"\xff":
                    pass  # any number of fill bytes may precede a marker
                if not marker or marker[0] in _BARE:
                    continue
                length = int.from_bytes(file.read(2), "big")
                if marker[0] in _FRAMES and len(frame := file.read(5)) == 5:
                    return int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big")
                file.seek(length - 2, 1)
            raise DataError(f"{path}: image without a size{'; it is cut off' if not prefix else ''}")
    except OSError as error:
        raise DataError(f"{path}: image cannot be read: {error.strerror}") from None


def shrunk_size(size: tuple[int, int], max_side: int | None) -> tuple[int, int]:
    """(height, width) after the longest side is brought down to `max_side` pixels; never enlarges."""
    longest = max(size)
    if max_side is None or longest <= max_side:
        return size
    return max(1, round(size[0] * max_side / longest)), max(1, round(size[1] * max_side / longest))


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """The image at another size, bilinear with antialiasing: what scoring and every augmentation use.

    Args:
        image: `[3, H, W]` uint8, or float 0..1.
        size: (height, width) wanted; the aspect ratio is not kept.

    Returns:
        `[3, *size]` of the same type.
    """
    return F.resize(image, list(size), antialias=True)


def read_all(read: Callable[[int], Tensor], count: int) -> list[Tensor]:
    """All images, with a progress bar where standard error is a terminal.

    Kept images are in memory before any loader worker is forked, so that the workers share the pages.
    """
    return [read(index) for index in tqdm(range(count), "reading images", disable=None)]
