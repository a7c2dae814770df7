"""Meta tensors keep their shapes through what is skipped, and tensors with data are computed as ever."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detectors.shapes_only import ShapesOnly

KEEPING: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "norm": lambda norm, x: norm(x),
    "hardswish": lambda _, x: F.hardswish(x, inplace=True),
    "hardsigmoid": lambda _, x: F.hardsigmoid(x),
    "hardtanh": lambda _, x: F.hardtanh(x, 0.0, 1.0),
    "relu6": lambda _, x: F.relu6(x),
}


@pytest.mark.parametrize("name", KEEPING)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_meta_tensor_comes_out_as_torch_says_and_one_with_data_as_ever(
    name: str, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    norm, keeping = nn.BatchNorm2d(4).eval(), KEEPING[name]
    meta = torch.rand(2, 4, 3, 5, device="meta", dtype=dtype)
    torchs = keeping(norm.to("meta", dtype), meta)
    norm = nn.BatchNorm2d(4).eval()
    x = 8 * torch.rand(2, 4, 3, 5) - 4
    expected = keeping(norm, x.clone())
    with ShapesOnly():
        ours = keeping(norm.to("meta", dtype), meta)
        computed = keeping(nn.BatchNorm2d(4).eval(), x.clone())
    assert (ours.shape, ours.dtype, ours.is_meta) == (torchs.shape, torchs.dtype, True)
    assert torch.equal(computed, expected)
    assert not torch.equal(computed, x)


def test_what_cannot_be_computed_is_still_an_error() -> None:
    with ShapesOnly(), pytest.raises(RuntimeError):
        nn.Conv2d(3, 4, 3, device="meta")(torch.empty(1, 3, 2, 2, device="meta"))
