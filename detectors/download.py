"""Published weight files: fetched once, checked by their sha256, never left half written."""

import hashlib
import os
import re
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path

from torchvision.models import get_weight
from tqdm import tqdm

from detectors.errors import CheckpointError

_BLOCK = 1 << 20


def download(address: str, path: str | Path, sha256: str | None = None) -> Path:
    """Fetches a file, unless it is there already, and checks what it is.

    Args:
        address: http, https or file; or the name of a file in torchvision's enumeration, such as
            SSD300_VGG16_Weights.COCO_V1 or VGG16_BN_Weights.IMAGENET1K_V1.
        path: where it is to lie; a folder, or what ends in a slash, takes the name that the address ends in,
            without what follows a `?` or `#`.
        sha256: the whole checksum or its first 8 digits or more; None: those that the name ends in, as in
            torchvision's `resnet50-0676ba61.pth`.

    Returns:
        The path of the file.

    Raises:
        CheckpointError: no checksum is known, the file on disk or the one fetched is another one, the address
            gives none, or the disk takes none; an older file is left as it is.
    """
    folder = str(path).endswith("/") or Path(path).is_dir()
    address = address_of(address)
    name = urllib.parse.urlsplit(address).path.rsplit("/", 1)[-1]
    if folder and not name:
        raise CheckpointError(
            f"{address} ends in no file's name; give the path of a file, not the folder {path}"
        )
    path = Path(path) / name if folder else Path(path)
    wanted = (sha256 or _checksum_in(name)).lower()
    if not re.fullmatch(r"[0-9a-f]{8,64}", wanted):
        raise CheckpointError(f"no checksum is known for {address}; give its sha256 (8 digits or more)")
    if path.exists():
        found = _sha256(path)
        if found.startswith(wanted):
            return path
        raise CheckpointError(
            f"{path} is another file than {address}: its sha256 is {found}, not {wanted}...; move it away"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise CheckpointError(f"cannot download {address} to {path}: {error.strerror}") from None
    try:
        with os.fdopen(handle, "wb") as file:
            found = _fetch(address, file.write, path.name)
        if not found.startswith(wanted):
            raise CheckpointError(
                f"{address} gave a file with sha256 {found}, not {wanted}...; it was not kept: try again, or "
                "ask whoever publishes it"
            )
        os.replace(scratch, path)
    except (urllib.error.URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise CheckpointError(f"cannot download {address} to {path}: {reason}") from None
    finally:
        Path(scratch).unlink(missing_ok=True)
    return path


def address_of(name: str) -> str:
    """The address of a file that torchvision publishes under a name; an address is returned as it is.

    Raises CheckpointError for an unknown name.
    """
    if "://" in name:
        return name
    try:
        return str(get_weight(name).url)
    except (ValueError, AttributeError, KeyError):
        raise CheckpointError(
            f"{name} is neither an address nor a file in torchvision's enumeration, such as "
            "SSD300_VGG16_Weights.COCO_V1"
        ) from None


def _fetch(address: str, write: Callable[[bytes], int], name: str) -> str:
    """Copies what an address gives and returns its sha256."""
    digest = hashlib.sha256()
    with urllib.request.urlopen(address, timeout=60) as answer:
        length = answer.headers.get("Content-Length")
        size = int(length) if length else None
        received = 0
        with tqdm(total=size, unit="B", unit_scale=True, desc=name, disable=None) as bar:
            while block := answer.read(_BLOCK):
                write(block)
                digest.update(block)
                received += len(block)
                bar.update(len(block))
    if size is not None and received != size:
        raise OSError(f"it broke off after {received:,} of {size:,} bytes")
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checksum_in(name: str) -> str:
    match = re.search(r"-([0-9a-f]{8,64})\.[^.]+$", name)
    return match[1] if match else ""
