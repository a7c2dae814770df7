"""Deterministic weights and input for the reference packs in this folder.

A pack says for every key of the original network's state dict its shape and how it was filled; `filled(pack)`
draws the same tensors again, whatever the order of the keys, so that a reimplementation can be given exactly
the weights that the original had.
"""

import json
import zlib
from pathlib import Path

import numpy as np
import torch


def load(path: str | Path) -> tuple[dict, dict[str, np.ndarray]]:
    """A pack's description and its sampled arrays (empty where the pack carries keys and shapes only)."""
    path = Path(path)
    arrays = dict(np.load(path.with_suffix(".npz"))) if path.with_suffix(".npz").exists() else {}
    return json.loads(path.with_suffix(".json").read_text()), arrays


def filled(pack: dict) -> dict[str, torch.Tensor]:
    """The state dict under the original's key names."""
    return {key: _draw(key, tuple(entry["shape"]), entry) for key, entry in pack["keys"].items()}


def _draw(key: str, shape: tuple[int, ...], entry: dict) -> torch.Tensor:
    g = torch.Generator().manual_seed(1234 * 1000003 + zlib.crc32(key.encode()))
    match entry["fill"]:
        case "fan":  # conv and linear weights: normal, std sqrt(2 / fan_in)
            fan_in = int(np.prod(shape[1:]))
            return torch.randn(shape, generator=g) * (2.0 / fan_in) ** 0.5
        case "bias":
            return torch.randn(shape, generator=g) * 0.05
        case "gamma" | "var":
            return torch.rand(shape, generator=g) + 0.5
        case "beta" | "mean":
            return torch.randn(shape, generator=g) * 0.1
        case "scale":  # L2Norm: its initial value, times 0.9 to 1.1
            return torch.full(shape, entry["base"]) * (torch.rand(shape, generator=g) * 0.2 + 0.9)
        case "keep":  # num_batches_tracked
            return torch.zeros(shape, dtype=torch.long)
    raise ValueError(f"{key}: unknown fill {entry['fill']!r}")


def network_input(pack: dict) -> torch.Tensor:
    """[B, 3, H, W] float32, standard normal: goes straight into the network, past any normalisation."""
    g = torch.Generator().manual_seed(pack["input"]["seed"])
    return torch.randn(pack["input"]["shape"], generator=g)


def sampled(tensor: torch.Tensor, count: int = 4096) -> np.ndarray:
    """The elements of a flattened output that a pack's arrays hold."""
    flat = tensor.detach().float().flatten()
    index = torch.linspace(0, flat.numel() - 1, min(count, flat.numel())).round().long()
    return flat[index].numpy()


def difference(output: torch.Tensor, expected: np.ndarray, block: int = 32) -> float:
    """Largest relative difference over blocks of neighbouring samples.

    Each block is measured against its own magnitude, because feature maps of one output can differ by six
    orders of magnitude: against the largest value of the whole output, a wrong first map could pass. Float32
    noise of the originals stays below 1e-4.
    """
    got = sampled(output).astype(np.float64)
    if got.shape != expected.shape:
        raise ValueError(
            f"{got.size} samples of an output of shape {tuple(output.shape)}, but {expected.size} expected"
        )
    if not np.isfinite(got).all():
        return float("inf")
    worst = 0.0
    for start in range(0, expected.size, block):
        want = expected[start : start + block].astype(np.float64)
        worst = max(
            worst, float(np.abs(got[start : start + block] - want).max() / max(np.abs(want).max(), 1e-12))
        )
    return worst
